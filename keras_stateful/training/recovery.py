"""A call that fails loses nothing.

After an exception in `fit`, `evaluate` or `predict`, a Ctrl-C included, a model has the weights of
the last step that was finished, and the recurrent states from before the call: a step that fails
may have written the states of some layers and not of others.

    StatefulModel      each of its methods runs inside of `unharmed`
    a plain model      `protect`, called by `ResetStatesCallback`, does so with its methods
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import keras

from keras_stateful.carry.states import find_states, restore, snapshot
from keras_stateful.foundation import interrupts, keras_internals
from keras_stateful.foundation.protocols import sequence_or_none
from keras_stateful.foundation.types import Structure

_PROTECTED = "_keras_stateful_protected"


@contextmanager
def unharmed(model: keras.Model, data: Structure = None) -> Iterator[None]:
    """Gives a model its weights and states back where the call inside fails.

    Args:
        model: whose method is called.
        data: what it reads; a stream is read again from where the call began, as the states say.
    """
    keras_internals.keep_values(model)
    before, sequence = snapshot(model), sequence_or_none(data)
    bookmark = None if sequence is None else sequence.bookmark()
    try:
        with interrupts.watched():
            yield
    except BaseException as error:
        if keras_internals.values_are_lost(model):
            error.add_note(
                f"The weights of {model.name!r} are lost: their memory had been given to the step "
                "that failed while it computed. Build the model again and load its weights from a "
                "file."
            )
        # A model that the call itself has built was in no state before.
        if len(before) == sum(len(states.variables) for states in find_states(model)):
            restore(model, before)
            if sequence is not None:
                sequence.go_back(bookmark)
        raise


def protect(model: keras.Model) -> None:
    """Has the methods of a plain model, whose class is not ours, run inside of `unharmed`.

    A call that is running when this is first called keeps the weights, but not the states.
    """
    keras_internals.keep_values(model)
    if hasattr(model, _PROTECTED):
        return
    setattr(model, _PROTECTED, True)
    for name in ("fit", "evaluate", "predict"):
        setattr(model, name, _protected(model, getattr(model, name)))


def _protected(model: keras.Model, method: Callable) -> Callable:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with unharmed(model, args[0] if args else kwargs.get("x")):
            return method(*args, **kwargs)

    return call
