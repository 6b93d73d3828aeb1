"""What the callbacks of a `fit` remember from step to step, taken out of them and given back.

A callback says it with two methods: `get_state()` gives numbers, text, arrays and collections of
these, `set_state(state)` takes them back, after every callback's `on_train_begin`. Those of this
package do. Keras's own do not; `keras_internals` knows what they remember.

A callback remembers in its attributes. So one without attributes of its own may be resumed as it
is, and every other one whose attributes nobody vouches for is refused.
"""

import inspect
from collections.abc import Iterator

import keras
from keras.callbacks import Callback

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import CallbackState
from keras_stateful.resuming import packing

# What to do about callbacks that no method could help.
_INSTEAD = {
    "BackupAndRestore": "Leave it out: `ResumeTraining` does what it does, and both would restore",
    "OrbaxCheckpoint": (
        "Use `ModelCheckpoint`: Orbax knows variables by their paths, and states of one layer "
        "share theirs"
    ),
}
_METHODS = (
    "Give it two methods: `get_state(self)`, which returns what must be remembered (numbers, text, "
    "arrays, and lists or dicts of these; {} for nothing), and `set_state(self, state)`"
)
# Attributes that Keras or `ModelCallback` give to each callback. A callback with no other
# attributes has nowhere to remember anything.
_OF_EVERY_CALLBACK = {*vars(Callback()), "_network"}
_PACKAGE = "keras_stateful."


def check(callbacks: list[Callback]) -> None:
    """Checks that what each callback remembers can be saved.

    Raises:
        ValueError: a callback that remembers something and does not say what.
    """
    for callback in callbacks:
        if type(callback) in keras_internals.CALLBACK_MEMORY:
            continue
        saves_itself, unsaved = _saves_itself(callback), _unsaved(callback)
        # A callback of Keras's that is not in the table may keep its memory elsewhere.
        if not unsaved and (saves_itself or not keras_internals.is_of_keras(callback)):
            continue
        name = type(callback).__name__
        remedy = f"{_METHODS}, each calling `super()`'s" if saves_itself else _METHODS
        raise ValueError(
            f"`ResumeTraining` cannot save what `{name}` remembers. Received: a callback with "
            f"{', '.join(unsaved) or 'a state'}. {_INSTEAD.get(name, remedy)}."
        )


def check_goes_on(callbacks: list[Callback], ended: int, epochs: int) -> None:
    """Checks that a training which ended can go on, with more epochs.

    Args:
        callbacks: of the training that goes on.
        ended: epochs after which it ended.
        epochs: that it is to have now.

    Raises:
        ValueError: a callback whose work at the end of a training cannot be undone.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights) and callback.swap_on_epoch:
            raise ValueError(
                "`SwapEMAWeights(swap_on_epoch=True)` put the averages in the place of the weights "
                f"when the training ended. Received: epochs={epochs} for a training that ended "
                f"after {ended}. Train anew with that many, in another `backup_dir`, or use "
                "`SwapEMAWeights()`, which leaves the weights to the last."
            )


def get_states(callbacks: list[Callback]) -> dict[str, CallbackState]:
    """What all callbacks remember, by name.

    Raises:
        TypeError: a `get_state` that gives what cannot be saved.
    """
    return {name: _get_state(callback) for name, callback in _named(callbacks)}


def set_states(callbacks: list[Callback], states: dict[str, CallbackState]) -> list[str]:
    """Gives callbacks back what they remembered.

    Args:
        callbacks: those of the present `fit`.
        states: from `get_states`, of the `fit` that was stopped.

    Returns:
        The names of callbacks that only one of the two has.
    """
    named = dict(_named(callbacks))
    for name in named.keys() & states.keys():
        _set_state(named[name], states[name])
    # A progress bar comes and goes with `verbose=`, and what it remembers changes no number.
    return sorted(
        name for name in named.keys() ^ states.keys() if not name.startswith("ProgbarLogger")
    )


def _named(callbacks: list[Callback]) -> Iterator[tuple[str, Callback]]:
    """Each callback by the name of its class; the second of a class is "Name 2", and so on."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        yield name if counts[name] == 1 else f"{name} {counts[name]}", callback


def _saves_itself(callback: Callback) -> bool:
    """True if a callback has both methods, of its own or inherited."""
    return all(callable(getattr(callback, name, None)) for name in ("get_state", "set_state"))


def _unsaved(callback: Callback) -> list[str]:
    """What may hold what a callback remembers, and no `get_state` knows of: its attributes.

    Of a subclass of one of this package's, whose `get_state` knows nothing of what it adds, the
    methods that may do so.
    """
    if not _saves_itself(callback):
        return sorted(set(vars(callback)) - _OF_EVERY_CALLBACK)
    classes = type(callback).__mro__
    owner = next((c for c in classes if "get_state" in vars(c)), None)
    if owner is None or not owner.__module__.startswith(_PACKAGE):
        return []  # a user's `get_state` is believed
    added = [vars(cls) for cls in classes[: classes.index(owner)]]
    return sorted({f"{k}()" for names in added for k, v in names.items() if inspect.isroutine(v)})


def _get_state(callback: Callback) -> CallbackState:
    if not _saves_itself(callback):
        known = type(callback) in keras_internals.CALLBACK_MEMORY
        return keras_internals.get_memory(callback) if known else {}
    state = callback.get_state()
    try:
        packing.check_packable(state)
    except TypeError as error:
        raise TypeError(
            f"`{type(callback).__name__}.get_state` gives what cannot be saved. {error} Return "
            "those, such as `np.asarray(value)` or `float(value)`."
        ) from None
    return state


def _set_state(callback: Callback, state: CallbackState) -> None:
    if _saves_itself(callback):
        callback.set_state(state)
    elif type(callback) in keras_internals.CALLBACK_MEMORY:
        keras_internals.set_memory(callback, state)
