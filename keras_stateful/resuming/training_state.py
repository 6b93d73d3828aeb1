"""What a training remembers beside weights and optimizer: variables that no weight file holds, and
random generators.
"""

import random
import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.states import find_states
from keras_stateful.foundation import devices, keras_internals


def check_alone(model: keras.Model) -> None:
    """Raises a ValueError where several processes or replicas train, each with states of its own."""
    several = None
    if keras.backend.backend() == "jax":
        import jax

        several = (
            f"{jax.process_count()} processes of jax.distributed"
            if jax.process_count() > 1
            else None
        )
    elif keras.backend.backend() == "torch":
        import torch.distributed as group

        if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            several = f"{group.get_world_size()} processes of torch.distributed"
    elif devices.replicas(model) > 1:
        strategy = keras_internals.strategy(model)
        several = f"{devices.replicas(model)} replicas of {type(strategy).__name__}"
    if several:
        raise ValueError(
            "`ResumeTraining` saves the states of one process that sees all rows. Received: "
            f"{several}. Train in one process (on JAX with `keras.distribution.DataParallel` over "
            "its devices), or save weights with `ModelCheckpoint`."
        )


def variables(model: keras.Model) -> list[Any]:
    """Recurrent states, seed generators and metrics of a compiled model, always in the same order."""
    weights = {id(v) for v in model.weights}
    states = [v for layer_state in find_states(model) for v in layer_state.variables]
    found = {id(v): v for v in (*model.variables, *model.metrics_variables, *states)}
    return [v for key, v in found.items() if key not in weights]


def get_variables(model: keras.Model) -> list[np.ndarray]:
    """Their values; they must have been synced on JAX."""
    return [_array(v) for v in variables(model)]


def set_variables(model: keras.Model, values: list[np.ndarray]) -> None:
    """Writes what `get_variables` gave.

    Raises:
        ValueError: values of another number or shape.
    """
    found = variables(model)
    shapes, given = [tuple(v.shape) for v in found], [np.shape(value) for value in values]
    if shapes != given:
        raise ValueError(
            f"The checkpoint's states have shapes other than the model's. Received: {given}; the "
            f"model has {shapes}."
        )
    for variable, value in zip(found, values, strict=True):
        variable.assign(ops.cast(ops.convert_to_tensor(value), variable.dtype))


def _array(variable: Any) -> np.ndarray:
    value = np.array(ops.convert_to_numpy(variable))
    return (
        value if value.dtype.kind in "biuf" else value.astype("float32")
    )  # NumPy's files know no bfloat16


def get_generators() -> dict[str, Any]:
    """The state of the process's random generators: Python's, NumPy's, Keras's and torch's global
    ones.
    """
    state: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}  # noqa: NPY002
    if keras_internals.has_global_seed():
        state["keras"] = _array(keras_internals.global_seed_state())
    if "torch" in sys.modules:
        import torch

        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available():
            state["cuda"] = [s.numpy() for s in torch.cuda.get_rng_state_all()]
    return state


def set_generators(state: dict[str, Any]) -> None:
    """Puts back what `get_generators` gave."""
    if "keras" in state:
        seed = keras_internals.global_seed_state()
        seed.assign(ops.cast(ops.convert_to_tensor(state["keras"]), seed.dtype))
    if "torch" in state:
        import torch

        torch.set_rng_state(torch.from_numpy(state["torch"]))
        if "cuda" in state:
            torch.cuda.set_rng_state_all([torch.from_numpy(s) for s in state["cuda"]])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
