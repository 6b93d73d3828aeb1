"""A call that fails loses nothing.

After an exception in `fit`, `evaluate` or `predict`, a Ctrl-C included, a model has the weights of
the last step that was finished, and the recurrent states from before the call: a step that fails
may have written the states of some layers and not of others.

    StatefulModel      each of its methods runs inside of `unharmed`
    a plain model      `protect`, called by `ResetStatesCallback`, does so with its methods; its
                       `evaluate` then leaves no trace in a `fit` whose callback calls it, either
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import keras

from keras_stateful.carry.states import (
    find_states,
    preserve_states,
    reset_states,
    restore,
    snapshot,
)
from keras_stateful.foundation import interrupts, keras_internals
from keras_stateful.foundation.protocols import sequence_or_none
from keras_stateful.foundation.types import Structure
from keras_stateful.training.step_scores import metrics_kept

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
        evaluates = method.__name__ == "evaluate" and not keras_internals.is_validation(kwargs)
        apart = _apart_from_fit(model) if evaluates else nullcontext()
        with unharmed(model, args[0] if args else kwargs.get("x")), apart:
            return method(*args, **kwargs)

    return call


@contextmanager
def _apart_from_fit(model: keras.Model) -> Iterator[None]:
    """Has an `evaluate` that a callback calls leave no trace in the `fit` around it.

    It starts from the initial state, as a validation does.
    """
    if not keras_internals.fit_arguments(model):
        yield
        return
    with preserve_states(model), metrics_kept(model):
        reset_states(model)
        yield
