"""What the callbacks of a `fit` remember from step to step, taken out of them and put back.

A callback of one's own says it with two methods: `get_state()` gives numbers, text, arrays and
collections of these, `set_state(state)` takes them back, after all `on_train_begin`.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_stateful.evaluation.validation import ValidateDocuments
from keras_stateful.foundation import keras_internals
from keras_stateful.generation.sample_text import SampleText
from keras_stateful.resuming import checkpoint
from keras_stateful.training.resets import ResetStatesCallback

# What each class remembers. Those with nothing remember nothing, or make it anew when training
# begins.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    ResetStatesCallback: ("_position", "_pass"),
    SampleText: ("samples", "_seed"),
    ValidateDocuments: (),
}
_INSTEAD = {
    "BackupAndRestore": "Leave it out: `ResumeTraining` does what it does, and both would restore",
    "OrbaxCheckpoint": "Use `ModelCheckpoint`: Orbax knows variables by their paths, and states of one layer share theirs",
}
_OF_EVERY_CALLBACK = {*vars(keras.callbacks.Callback()), "_network"}


def check(callbacks: list[keras.callbacks.Callback]) -> None:
    """Raises a ValueError for a callback whose memory cannot be saved."""
    for callback in callbacks:
        if _is_known(callback) or _saves_itself(callback):
            continue
        own = sorted(set(vars(callback)) - _OF_EVERY_CALLBACK)
        if not own and not keras_internals.is_of_keras(callback):
            continue
        name = type(callback).__name__
        remedy = _INSTEAD.get(
            name,
            "Give it two methods: `get_state(self)`, which returns what must be remembered "
            "(numbers, text, arrays, and lists or dicts of these; {} for nothing), and "
            "`set_state(self, state)`",
        )
        raise ValueError(
            f"`ResumeTraining` cannot save what `{name}` remembers. Received: a callback with "
            f"{', '.join(own) or 'a state'}. {remedy}."
        )


def check_goes_on(callbacks: list[keras.callbacks.Callback], ended: int, epochs: int) -> None:
    """Raises a ValueError for a callback whose work at the end of a training cannot be undone, to
    go on from there.
    """
    if any(
        getattr(c, "swap_on_epoch", False)
        for c in callbacks
        if isinstance(c, keras.callbacks.SwapEMAWeights)
    ):
        raise ValueError(
            "`SwapEMAWeights(swap_on_epoch=True)` put the averages in the place of the weights "
            f"when the training ended. Received: epochs={epochs} for a training that ended after "
            f"{ended}. Train anew with that many, in another `backup_dir`, or use "
            "`SwapEMAWeights()`, which leaves the weights to the last."
        )


def get(callbacks: list[keras.callbacks.Callback]) -> dict[str, Any]:
    """What all callbacks remember, by name."""
    return {name: _get(callback) for name, callback in _named(callbacks)}


def put(callbacks: list[keras.callbacks.Callback], states: dict[str, Any]) -> list[str]:
    """Gives callbacks back what they remembered.

    Returns:
        The names of callbacks that are new, or missing.
    """
    here = dict(_named(callbacks))
    for name in here.keys() & states.keys():
        _put(here[name], states[name])
    return sorted(
        name for name in here.keys() ^ states.keys() if not name.startswith("ProgbarLogger")
    )


def _named(
    callbacks: list[keras.callbacks.Callback],
) -> Iterator[tuple[str, keras.callbacks.Callback]]:
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} {seen[name]}", callback


def _is_known(callback: keras.callbacks.Callback) -> bool:
    """True if what a callback of this class remembers is known here."""
    return type(callback) in _REMEMBERED or type(callback) in keras_internals.CALLBACK_MEMORY


def _saves_itself(callback: keras.callbacks.Callback) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(
        getattr(callback, "set_state", None)
    )


def _get(callback: Any) -> Any:
    if _saves_itself(callback):
        own = callback.get_state()
        try:
            checkpoint.check(own)
        except TypeError as error:
            raise TypeError(
                f"`{type(callback).__name__}.get_state` gives what cannot be saved. {error} Return "
                "those, such as `np.asarray(value)` or `float(value)`."
            ) from None
        return own
    if type(callback) in keras_internals.CALLBACK_MEMORY:
        return keras_internals.get_memory(callback)
    names = _REMEMBERED.get(type(callback), ())
    return {name: getattr(callback, name) for name in names if hasattr(callback, name)}


def _put(callback: Any, state: Any) -> None:
    if _saves_itself(callback):
        callback.set_state(state)
        return
    if type(callback) in keras_internals.CALLBACK_MEMORY:
        keras_internals.set_memory(callback, state)
        return
    for name in _REMEMBERED.get(type(callback), ()):
        if name in state:
            setattr(callback, name, state[name])
