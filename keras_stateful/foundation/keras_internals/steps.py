"""Where the values of a model are while a step runs, so that none is lost when it fails.

On JAX a step is a function from values to values. Keras takes them out of the variables before the
first step of an epoch, which leaves the variables empty, hands them on from step to step, and puts
them back after the last:

    Keras       variables ──▶ step ──▶ step ──▶ step ──▶ variables
    here        variables ──▶ step ──▶ variables ──▶ step ──▶ variables

So what fails in between (a batch that cannot be read, a shape, a Ctrl-C) leaves a model without
values. Here variables hold the newest values at all times but while a step computes. That costs a
step some microseconds: values are not copied, variables only name them.

On torch the optimizer writes into one variable after the other, so no Ctrl-C may come in between.
On TensorFlow a compiled step is one call, and writes its variables itself.

Private: `JAXTrainer._get_jax_state`, `_make_function`, `_jax_state_synced`, `jax_state_sync` and
`Variable._value`; on torch what `make_train_function` makes.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_stateful.foundation import interrupts
from keras_stateful.foundation.keras_internals.releases import has_keras
from keras_stateful.foundation.types import Structure

_KEPT = "_keras_stateful_values_kept"
# What a state of Keras's JAX trainer consists of, in this order; steps differ in what they need.
_PARTS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def keep_values(model: keras.Model) -> None:
    """Has a model keep its values when one of its steps fails; compiled steps are made anew."""
    if getattr(model, _KEPT, False):
        return
    setattr(model, _KEPT, True)
    backend = keras.backend.backend()
    if backend == "jax":
        _keep_on_jax(model)
        model.train_function = model.test_function = model.predict_function = None
    elif backend == "torch":
        _interrupt_between_torch_steps(model)
        model.train_function = None


def values_are_lost(model: keras.Model) -> bool:
    """True if the memory of the values was handed to a step that failed while it computed (JAX)."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    try:
        jax.block_until_ready([variable.value for variable in model.variables])
    except (RuntimeError, TypeError):  # memory given away, or a failed computation; or no value
        return True
    return False


def _keep_on_jax(model: keras.Model) -> None:
    make = model._make_function
    variables: list[keras.Variable] = []  # whose values the present state holds, in its order

    def take_state(*, purge_model_variables: bool = False, **parts: bool) -> tuple:
        # As Keras does it, but for the purge, which leaves the variables empty from here on.
        of_parts = [_variables(model, part) for part in _PARTS if parts.get(part)]
        variables[:] = [variable for part in of_parts for variable in part]
        return tuple([variable.value for variable in part] for part in of_parts)

    def keeping(step_function: Callable) -> Callable:
        def step(state: tuple, data: Structure) -> tuple[Any, tuple]:
            # The step is given the memory of the values: before the variables have the new ones,
            # no Ctrl-C may strike. Data are read outside, which may take long.
            with interrupts.held_back():
                # As in Keras, code inside the step that reads a variable past the state fails.
                _hand_out(variables, None)
                try:
                    outputs, state = step_function(state, data)
                finally:
                    _hand_out(variables, state)
            return outputs, state

        return step

    def make_function(step_function: Callable, **options: Any) -> Callable:
        if not has_keras("3.16"):
            return make(keeping(step_function), **options)
        # It compiles what it is given, and reads the batches of several steps as one.
        compiled = make(step_function, **options)
        step = keeping(lambda state, data: compiled(state, iter([data])))
        return lambda state, iterator: step(state, next(iterator))

    def sync() -> None:
        # The variables have their values; Keras is to take them anew, as they may be written now.
        model._jax_state_synced = True

    model._get_jax_state, model._make_function = take_state, make_function
    model.jax_state_sync = sync


def _variables(model: keras.Model, part: str) -> list[keras.Variable]:
    return model.optimizer.variables if part == "optimizer_variables" else getattr(model, part)


def _hand_out(variables: list[keras.Variable], state: tuple[list, ...] | None) -> None:
    """Gives variables the values of a state, or none."""
    values = [None] * len(variables) if state is None else [v for part in state for v in part]
    for variable, value in zip(variables, values, strict=True):
        variable._value = value


def _interrupt_between_torch_steps(model: keras.Model) -> None:
    make = model.make_train_function

    def make_train_function(force: bool = False) -> None:
        if model.train_function is not None and not force:
            return
        make(force)
        step = model.train_function

        def whole_step(data: Structure) -> Any:
            with interrupts.held_back():
                return step(data)

        model.train_function = whole_step

    model.make_train_function = make_train_function
