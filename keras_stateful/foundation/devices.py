"""Many devices: which of them holds which rows, and what a combination cannot do.

Rows are alone (a row's state never meets another row's), so devices that split a batch by rows need
to exchange gradients only. Who splits the batch, and where the states lie:

| engine | who splits | rows of the model's graph | a state variable is |
|---|---|---|---|
| `keras.distribution` on JAX | Keras, after the batch is read | those of all devices, all processes | one array, sharded |
| `tf.distribute.MirroredStrategy` | TensorFlow, likewise | those of one replica | one array for each replica |
| processes of one's own, any backend | `shard=` of the sequence | those of the process | one array |

In all three, `batch_size` as a user gives it counts all rows, and states are read and written for
all rows.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable, is_converted

# Rows, when a model is built


def graph_rows(batch_size: int, function: str) -> int:
    """The rows that a model's graph must have, for batches of `batch_size` rows.

    Args:
        batch_size: rows of all devices.
        function: what builds the model, for the error.

    Raises:
        ValueError: rows that cannot be split evenly over the devices; a strategy that cannot be
            right.
    """
    strategy = _strategy()
    if strategy is None:
        if function == "to_stateful" and batch_size % _shards():
            raise ValueError(
                "`batch_size` counts the rows of all devices and must divide among them. Received: "
                f"batch_size={batch_size} under {type(_distribution()).__name__} over {_shards()} "
                f"devices. Take a multiple of {_shards()}."
            )
        return batch_size
    _check_strategy(strategy)
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        remedy = (
            f"Take a multiple of {replicas}."
            if function == "to_stateful"
            else f"Call it outside of `strategy.scope()`, or take a multiple of {replicas}."
        )
        raise ValueError(
            "`batch_size` counts the rows of all replicas and must divide among them. Received: "
            f"batch_size={batch_size} in the scope of a {type(strategy).__name__} of {replicas} "
            f"replicas. {remedy}"
        )
    return batch_size // replicas


def rows_given(sequence: Readable) -> int:
    """Rows of the batches that a model gets from a sequence: those of all processes where Keras
    joins them.
    """
    if _processes() > 1 and _distribution() is not None:
        return sequence.global_batch_size
    return sequence.batch_size


def replicas(model: keras.Model) -> int:
    """How many replicas `fit` splits a batch over; 1 but for a model made in a TensorFlow
    strategy's scope.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    return keras_internals.strategy(model).num_replicas_in_sync


# State variables


def lay_out_by_rows(variable: keras.Variable) -> None:
    """Puts each row of a new state variable on the device that reads that row (JAX).

    Keras would keep a copy of all rows on each device. A layout that the user's `LayoutMap` gave
    stays.
    """
    distribution = _distribution()
    if distribution is None or keras.backend.backend() != "jax" or variable.shape[0] % _shards():
        return
    if variable.value.sharding.is_fully_replicated:
        axes = (distribution.batch_dim_name, *(None,) * (len(variable.shape) - 1))
        layout = keras.distribution.TensorLayout(axes, distribution.device_mesh)
        keras_internals.lay_out(variable, layout.backend_layout)


def rows(variable: keras.Variable) -> int:
    """Rows of a state variable, on all replicas."""
    return variable.shape[0] * len(_parts(variable))


def read(variable: keras.Variable) -> Any:
    """The rows of a state variable, on all replicas, as a tensor."""
    parts = _parts(variable)
    return ops.convert_to_tensor(variable) if len(parts) == 1 else ops.concatenate(parts, axis=0)


def write(variable: keras.Variable, value: Any) -> None:
    """Writes the rows of a state variable, on all replicas."""
    parts = _parts(variable)
    if len(parts) == 1:
        variable.assign(value)
        return
    for part, own in zip(parts, ops.split(value, len(parts), axis=0), strict=True):
        part.assign(own)


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """All rows as an array; with several JAX processes, each of them must call this."""
    value = read(variable)
    if _processes() > 1 and not value.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.array(multihost_utils.process_allgather(value, tiled=True))
    return np.array(ops.convert_to_numpy(value))


def _parts(variable: keras.Variable) -> tuple:
    """The variables of the replicas, in the order of their rows."""
    if keras.backend.backend() != "tensorflow":
        return (variable,)
    import tensorflow as tf

    value = variable.value
    return value.values if isinstance(value, tf.distribute.DistributedValues) else (variable,)


# What cannot be, refused before the first step


def check_data(
    model: keras.Model, states: list[keras.Variable], name: str, sequence: Readable | None
) -> None:
    """Checks that what is distributed reads the rows that the user means.

    Args:
        model: the model.
        states: its state variables.
        name: of the argument that the data were given as.
        sequence: the data where they are a `StatefulSequence` or `StatefulStream`; None for other
            data.

    Raises:
        ValueError: anything that would be wrong without a word, with the remedy.
    """
    backend = keras.backend.backend()
    if _distribution() is not None and backend != "jax":
        raise ValueError(
            "`keras.distribution` works on the JAX backend only. Received: a "
            f"{type(_distribution()).__name__} on {backend}, which would be "
            "ignored. " + ("Make the model in the scope of a `tf.distribute.MirroredStrategy`."
            if backend == "tensorflow" else "Run one process for each device, as examples/torch_ddp.py does.")
        )  # fmt: skip
    if backend == "jax":
        _check_jax(model, states, name, sequence)
    elif replicas(model) > 1:
        _check_replicas(model, states)


def check_one_step(model: keras.Model, method: str) -> None:
    """`train_on_batch` and its like hand the whole batch to each replica."""
    if replicas(model) > 1:
        raise ValueError(
            f"Keras gives each replica the whole batch in `{method}`. Received: a model of "
            f"{replicas(model)} replicas. Use `fit`, `evaluate` or `predict`; for documents or "
            "single steps, make the model outside of `strategy.scope()`: `to_inference(model)`."
        )


def check_predict(model: keras.Model, state: keras.Variable) -> None:
    """`predict` splits the rows, and gathers them again, which one of several processes cannot."""
    _check_split(state, "x")
    if _processes() > 1:
        raise ValueError(
            f"The outputs of `predict` lie in {_processes()} processes. Received: {model.name!r}. "
            "Use `evaluate`, or load the saved model where a single process runs."
        )


def _check_split(state: keras.Variable, name: str) -> None:
    if state.shape[0] % _shards():
        raise ValueError(
            f"Keras splits `{name}` by rows over {_shards()} devices. Received: a model of "
            f"{state.shape[0]} rows. Convert it to a multiple of {_shards()} rows, or call "
            "`predict_on_batch`, which does not split."
        )


def whole_rows(batch_size: int) -> int:
    """The next number of rows that divides among the devices of `keras.distribution`."""
    return -(-batch_size // _shards()) * _shards()


def _check_jax(
    model: keras.Model, states: list[keras.Variable], name: str, sequence: Readable | None
) -> None:
    import jax

    distribution, processes = _distribution(), _processes()
    several = distribution is not None and distribution.device_mesh.devices.size > 1
    if several and any(
        isinstance(v.value.sharding, jax.sharding.SingleDeviceSharding) for v in states
    ):
        raise ValueError(
            "The model was made before the distribution was set and lies on one device. Received: "
            f"{model.name!r} under {type(distribution).__name__}. Call "
            "`keras.distribution.set_distribution(...)` before the model is made."
        )
    if states:
        _check_split(states[0], name)
    if processes == 1:
        return
    if distribution is None:
        raise ValueError(
            f"Each of the {processes} processes would train a model of its own. Received: no "
            "distribution. Call "
            "`keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))` "
            "before the model is made."
        )
    if sequence is None:
        return
    count = min(processes, _shards())
    shard = tuple(getattr(sequence, "shard", (0, 1)))
    if shard[1] != count:
        index = "jax.process_index()" + (
            f" * {count} // jax.process_count()" if count < processes else ""
        )
        raise ValueError(
            f"Each of the {processes} processes would read other rows of `{name}` than its devices "
            f"hold: `auto_shard_dataset` does not reach a sequence. Received: shard={shard}. "
            + (
                f"Pass `shard=({index}, {count})` to the sequence."
                if hasattr(sequence, "shard")
                else "Read a `StatefulSequence` with `shard=`: streams in different processes end at different steps."
            )
        )
    if not sequence.resets and sequence.boundary != "ignore":
        raise ValueError(
            f"A callback in one process cannot reset rows of another. Received: `{name}` with "
            f"resets=False, boundary={sequence.boundary!r}, in {processes} processes. Make it with "
            "`resets=True` and convert the model with `to_stateful(model, sequence)`."
        )


def _check_replicas(model: keras.Model, states: list[keras.Variable]) -> None:
    _check_strategy(keras_internals.strategy(model))
    if any(len(_parts(state)) != replicas(model) for state in states):
        raise ValueError(
            "The model was made outside of the strategy's scope and has one set of states. "
            f"Received: {model.name!r} under a strategy of {replicas(model)} replicas. Call "
            "`to_stateful` and `compile` inside `with strategy.scope():`."
        )
    if model.steps_per_execution > 1:
        raise ValueError(
            "Keras's loop over several steps fails under a strategy (\"placeholder ... must be "
            'fed"). Received: '
            f"steps_per_execution={model.steps_per_execution} on {replicas(model)} replicas. "
            "Compile with steps_per_execution=1."
        )
    if not is_converted(model):
        raise ValueError(
            "The states of plain `stateful=True` layers cannot be reset on each replica. Received: "
            f"{model.name!r} of {replicas(model)} replicas. Convert it, in the same scope: "
            "`to_stateful(model, sequence)`."
        )
    losses = (
        keras.tree.flatten(keras_internals.compile_arguments(model).get("loss"))
        if model.compiled
        else []
    )
    if any(getattr(loss, "reduction", None) == "mean_with_sample_weight" for loss in losses):
        raise ValueError(
            "A mean over the weights of each replica is not the mean over the batch. Received: a "
            "loss with "
            f'reduction="mean_with_sample_weight" on {replicas(model)} replicas. Use '
            'reduction="sum_over_batch_size", '
            "the default: a sequence's weights are scaled for it."
        )


def _check_strategy(strategy: Any) -> None:
    import tensorflow as tf

    known = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    if not isinstance(strategy, known):
        raise ValueError(
            f"States stay with their rows under `tf.distribute.MirroredStrategy`. Received: "
            f"{type(strategy).__name__}. On one host take MirroredStrategy; on several, JAX with "
            "`keras.distribution.DataParallel`."
        )


# What is set


def _distribution() -> Any:
    return keras.distribution.distribution()


def _shards() -> int:
    """Over how many devices `keras.distribution` splits the rows of a batch; 1 without one."""
    distribution = _distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[list(mesh.axis_names).index(distribution.batch_dim_name)]


def _processes() -> int:
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def _strategy() -> Any:
    """The TensorFlow strategy in whose scope a model is being made, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
