"""What one training step computes, told by what it makes of made-up values.

A configuration says neither how layers are wired nor what a function does. So one step of the model
is run, on a batch and with variables that are the same whenever they have the same shapes, and the
numbers that come out are compared. Whatever the step computes otherwise shows: the wiring of a
graph, a constant in a function, a loss or an optimizer of one's own.

    variables ◀── made-up values, by shape ──▶ batch
                        │
                 train_on_batch ──▶ loss, metrics, how far each weight has moved

Everything is put back afterwards. Where the model's own code cannot take such a batch, the step
tells nothing, and that is noted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.states import find_states
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable
from keras_stateful.resuming import training_state
from keras_stateful.training.model_facts import facts_of

DEVICE = "step.device"
TOLERANCE = "step.tolerance"
# Devices of one kind may add up in another order, from run to run; in few bits that shows more.
_FINE, _COARSE = 1e-3, 5e-2
_SCHEDULE = (0, 1, 10, 100, 1_000, 10_000, 100_000)  # steps at which a learning rate is asked for


def probe(model: keras.Model, sequence: Readable) -> dict[str, Any]:
    """What a step computes, by what it is: `{"loss": 2.1, "move of weight 3": 0.01, ...}`.

    Args:
        model: compiled and built.
        sequence: what `fit` reads; nothing is read of it.
    """
    told: dict[str, Any] = {"device": _device(), "tolerance": _tolerance(model)}
    batch = _batch(model, sequence)
    # What a first step would make, to be made up and put back as well.
    keras_internals.build_for_training(model, batch)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    with _put_back(model):
        _make_up_variables(model)
        model.reset_metrics()  # before Keras 3.15 a step gives the means so far
        before = [_values(v) for v in model.trainable_variables]
        try:
            logs = model.train_on_batch(*batch, return_dict=True)
        except Exception as error:
            return {**told, "computes": f"nothing on made-up values: {type(error).__name__}"}
        after = [_values(v) for v in model.trainable_variables]
        told |= {name: float(value) for name, value in logs.items()}
        for i, (old, new) in enumerate(zip(before, after, strict=True), 1):
            told[f"move of weight {i}"] = float(np.abs(new - old).mean()) if old.size else 0.0
        told |= dict(_learning_rates(model.optimizer))
    return told


def is_close(saved: Any, present: Any, tolerance: float) -> bool:
    """True if two values of `probe` are one, as far as devices are that exact."""
    numbers = isinstance(saved, float) and isinstance(present, float)
    if not numbers:
        return saved == present
    return bool(np.isclose(saved, present, rtol=tolerance, atol=1e-12, equal_nan=True))


def _device() -> str:
    """Where steps run: random numbers, and the last digits, may be others elsewhere."""
    if keras.backend.backend() == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return keras.distribution.list_devices()[0].split(":")[0]


def _tolerance(model: keras.Model) -> float:
    dtypes = {str(layer.compute_dtype) for layer in (model, *model.layers)}
    return _COARSE if any("float16" in d or "float8" in d for d in dtypes) else _FINE


@contextmanager
def _put_back(model: keras.Model) -> Iterator[None]:
    """Puts all variables and random generators back as they were."""
    variables = _variables(model)
    values = [np.array(ops.convert_to_numpy(v)) for v in variables]
    generators = training_state.get_generators()
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        training_state.set_generators(generators)


def _variables(model: keras.Model) -> list[keras.Variable]:
    held = (*model.weights, *training_state.variables(model), *model.optimizer.variables)
    return list({id(v): v for v in held}.values())


def _values(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float64")


def _wave(shape: tuple[int, ...], phase: int) -> np.ndarray:
    """Numbers from 0.2 to 1 in no simple order; positive, as variances and scales are."""
    return 0.6 + 0.4 * np.sin(np.arange(np.prod(shape, dtype=int)) + phase).reshape(shape)


def _make_up_variables(model: keras.Model) -> None:
    if keras.backend.backend() == "torch":  # whose dropout draws from torch's own generator
        import torch

        torch.manual_seed(0)
    of_optimizer = {id(v) for v in model.optimizer.variables}
    states = [v for layer_state in find_states(model) for v in layer_state.variables]
    # Each group in an order of its own, whatever else the model has: metrics, for example.
    weights, rest = model.weights, training_state.variables(model)
    seeds = [v for v in rest if not keras.backend.is_float_dtype(v.dtype)]
    groups = (weights, states, seeds, model.optimizer.variables)
    for i, variable in [pair for group in groups for pair in enumerate(group)]:
        floats = keras.backend.is_float_dtype(variable.dtype)
        if id(variable) in of_optimizer:
            if variable.name == "learning_rate":
                value = np.array(0.1)
            else:  # of moments so little that a gradient counts beside them
                value = 1e-6 * _wave(variable.shape, i) if floats else np.ones(variable.shape)
        elif floats:  # of kernels so little that nothing saturates
            value = _wave(variable.shape, i) / max(1, int(np.prod(variable.shape[:-1])))
        elif variable.name == "seed_generator_state":
            value = np.ones(variable.shape)
        else:
            continue
        variable.assign(ops.cast(value, variable.dtype))


def _batch(model: keras.Model, sequence: Readable) -> tuple:
    """Inputs, targets and weights with the shapes and dtypes of the sequence's."""
    facts = facts_of(model)
    classes = [c.size for a in facts.targets_agreed.values() for c in a.classes.values()]
    ids = min((*facts.ids_known.values(), *classes), default=2)

    def made_up(scale: float, phase: int) -> Any:
        def of(spec: Any) -> np.ndarray:
            wave = _wave(spec.shape, phase)
            if spec.dtype == bool:
                return wave > 0.9
            if spec.dtype.kind in "iu":
                return (np.arange(wave.size).reshape(spec.shape) % ids).astype(spec.dtype)
            return (scale * (wave - 0.6) + (scale == 1) * 0.6).astype(spec.dtype)

        return of

    # Inputs of both signs; targets and weights from 0.2 to 1.
    parts = zip(sequence.signature(), (5.0, 1.0, 1.0), range(3), strict=False)
    return tuple(keras.tree.map_structure(made_up(scale, i), part) for part, scale, i in parts)


def _learning_rates(optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, float]]:
    """What a schedule says; a learning rate that is a number is the same throughout, made up."""
    for step in _SCHEDULE:
        optimizer.iterations.assign(step)
        yield f"learning rate at step {step}", float(ops.convert_to_numpy(optimizer.learning_rate))
