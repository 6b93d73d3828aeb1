"""What a training remembers beside weights and optimizer: variables, and random generators."""

import random
import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.states import find_states
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.training.step_loss import LossOfEpoch


def check_alone(model: keras.Model) -> None:
    """Checks that one process trains, on one replica.

    Raises:
        ValueError: several processes or replicas, each with states of its own.
    """
    several = _several(model)
    if several:
        raise ValueError(
            "`ResumeTraining` saves the states of one process that sees all rows. Received: "
            f"{several}. Train in one process (on JAX with `keras.distribution.DataParallel` over "
            "its devices), or save weights with `ModelCheckpoint`."
        )


def _several(model: keras.Model) -> str:
    """Which processes or replicas train, in words; empty if there is but one."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        if jax.process_count() > 1:
            return f"{jax.process_count()} processes of jax.distributed"
    elif backend == "torch":
        import torch.distributed as group

        if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            return f"{group.get_world_size()} processes of torch.distributed"
    elif devices.replicas(model) > 1:
        strategy = type(keras_internals.strategy(model)).__name__
        return f"{devices.replicas(model)} replicas of {strategy}"
    return ""


# Variables that no weight file holds


def variables(model: keras.Model) -> list[keras.Variable]:
    """Recurrent states, seed generators and metrics of a compiled model.

    They are always in the same order, which is how a checkpoint knows them.
    """
    weights = {id(v) for v in model.weights}
    states = [v for layer_state in find_states(model) for v in layer_state.variables]
    by_id = {id(v): v for v in (*model.variables, *model.metrics_variables, *states)}
    return [variable for key, variable in by_id.items() if key not in weights]


def size(model: keras.Model) -> int:
    """Bytes that the variables of a model and its optimizer take."""
    of_optimizer = model.optimizer.variables if model.optimizer else []
    held = (*model.weights, *of_optimizer, *variables(model))
    return sum(int(np.prod(v.shape)) * np.dtype(_stored(v)).itemsize for v in held)


def get_variables(model: keras.Model) -> list[np.ndarray]:
    """The values of `variables`; they must have been synced on JAX."""
    return [_array(v) for v in variables(model)]


def set_variables(model: keras.Model, values: list[np.ndarray]) -> None:
    """Writes what `get_variables` gave.

    Raises:
        ValueError: values of another number or shape.
    """
    targets, tracker = variables(model), keras_internals.loss_tracker(model)
    sums = tracker.sums if isinstance(tracker, LossOfEpoch) else []
    earlier = bool(sums) and len(values) == len(targets) - len(sums)
    if isinstance(tracker, LossOfEpoch) and earlier:  # of a version that added up no weights
        added = {id(v) for v in sums}
        targets = [v for v in targets if id(v) not in added]
        tracker.keep_keras_mean()
    expected, received = [tuple(v.shape) for v in targets], [np.shape(value) for value in values]
    if expected != received:
        raise ValueError(
            f"The checkpoint's states have shapes other than the model's. Received: {received}; "
            f"the model has {expected}."
        )
    for variable, value in zip(targets, values, strict=True):
        variable.assign(ops.cast(ops.convert_to_tensor(value), variable.dtype))


def _stored(variable: keras.Variable) -> str:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype == "bfloat16" or dtype.startswith("float8") else dtype


def _array(variable: keras.Variable) -> np.ndarray:
    """A variable's value in a dtype that NumPy's files know; they know no bfloat16."""
    value = np.array(ops.convert_to_numpy(variable))
    return value if value.dtype.kind in "biuf" else value.astype("float32")


# Random generators of the process


def get_generators() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy, Keras and torch."""
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
    """Gives the generators back what `get_generators` gave."""
    # Python's and NumPy's last: making Keras's generator draws a seed from Python's.
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
