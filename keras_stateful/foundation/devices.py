"""Many devices: which of them holds which rows.

Rows are alone (a row's state never meets another row's), so devices that split a batch by rows need
to exchange gradients only. Who splits the batch, and where the states lie:

    keras.distribution on JAX
        Keras splits the batch, after it is read. The model's graph has the rows of all devices and
        all processes; a state variable is one array, sharded.
    tf.distribute.MirroredStrategy
        TensorFlow splits it likewise. The graph has the rows of one replica; a state variable is
        one array for each replica.
    processes of one's own, any backend
        `shard=` of the sequence splits it. The graph has the rows of the process; a state variable
        is one array.

In all three, `batch_size` as a user gives it counts all rows, and states are read and written for
all rows. What a combination cannot do is refused in `device_checks`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable
from keras_stateful.foundation.types import Tensor

# What is set


def distribution() -> keras.distribution.DataParallel | keras.distribution.ModelParallel | None:
    """What was given to `keras.distribution.set_distribution`; JAX alone heeds it."""
    return keras.distribution.distribution()


def shards() -> int:
    """Over how many devices `keras.distribution` splits the rows of a batch; 1 without one."""
    current = distribution()
    if current is None:
        return 1
    mesh = current.device_mesh
    return mesh.shape[list(mesh.axis_names).index(current.batch_dim_name)]


def processes() -> int:
    """How many processes JAX knows of; 1 on other backends, whose processes Keras does not join."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def replicas(model: keras.Model) -> int:
    """How many replicas `fit` splits a batch over; 1 without a TensorFlow strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return keras_internals.strategy(model).num_replicas_in_sync


# Rows of a batch


def graph_rows(batch_size: int, function: str) -> int:
    """The rows that a model's graph must have, for batches of `batch_size` rows.

    Args:
        batch_size: rows of all devices.
        function: what builds the model, named in the error.

    Raises:
        ValueError: rows that cannot be split evenly over the devices; a strategy that cannot be
            right.
    """
    strategy = _strategy()
    if strategy is not None:
        check_strategy(strategy)
        return _replica_rows(batch_size, function, strategy)
    if function == "to_stateful" and batch_size % shards():
        raise ValueError(
            "`batch_size` counts the rows of all devices and must divide among them. Received: "
            f"batch_size={batch_size} under {type(distribution()).__name__} over {shards()} "
            f"devices. Take a multiple of {shards()}."
        )
    return batch_size


def _replica_rows(batch_size: int, function: str, strategy: Any) -> int:
    """The rows of one replica, of a model that is made in a strategy's scope."""
    count = strategy.num_replicas_in_sync
    if batch_size % count:
        remedy = f"Take a multiple of {count}."
        if function != "to_stateful":  # whose model need not run on replicas
            remedy = f"Call it outside of `strategy.scope()`, or take a multiple of {count}."
        raise ValueError(
            "`batch_size` counts the rows of all replicas and must divide among them. Received: "
            f"batch_size={batch_size} in the scope of a {type(strategy).__name__} of {count} "
            f"replicas. {remedy}"
        )
    return batch_size // count


def check_strategy(strategy: Any) -> None:
    """Checks that a strategy is one that splits batches by rows in one process.

    Raises:
        ValueError: any other `tf.distribute.Strategy`.
    """
    import tensorflow as tf

    known = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    if not isinstance(strategy, known):
        raise ValueError(
            f"States stay with their rows under `tf.distribute.MirroredStrategy`. Received: "
            f"{type(strategy).__name__}. On one host take MirroredStrategy; on several, JAX with "
            "`keras.distribution.DataParallel`."
        )


def _strategy() -> Any:
    """The TensorFlow strategy in whose scope a model is being made, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None


def rows_given(sequence: Readable) -> int:
    """Rows of a sequence's batches as the model gets them: of all processes if Keras joins them."""
    if processes() > 1 and distribution() is not None:
        return sequence.global_batch_size
    return sequence.batch_size


def whole_rows(batch_size: int) -> int:
    """The next number of rows that divides among the devices of `keras.distribution`."""
    return -(-batch_size // shards()) * shards()  # rounded up


# State variables


def lay_out_by_rows(variable: keras.Variable) -> None:
    """Puts each row of a new state variable on the device that reads that row (JAX).

    Keras would keep a copy of all rows on each device. A layout that the user's `LayoutMap` gave
    stays.
    """
    current = distribution()
    if current is None or keras.backend.backend() != "jax" or variable.shape[0] % shards():
        return
    if variable.value.sharding.is_fully_replicated:
        axes = (current.batch_dim_name, *(None,) * (len(variable.shape) - 1))
        layout = keras.distribution.TensorLayout(axes, current.device_mesh)
        keras_internals.lay_out(variable, layout.backend_layout)


def rows(variable: keras.Variable) -> int:
    """Rows of a state variable, on all replicas."""
    return variable.shape[0] * len(parts(variable))


def read(variable: keras.Variable) -> Tensor:
    """The rows of a state variable, on all replicas, as a tensor."""
    of_replicas = parts(variable)
    if len(of_replicas) == 1:
        return ops.convert_to_tensor(variable)
    return ops.concatenate(of_replicas, axis=0)


def write(variable: keras.Variable, value: Tensor) -> None:
    """Writes the rows of a state variable, on all replicas."""
    of_replicas = parts(variable)
    if len(of_replicas) == 1:
        variable.assign(value)
        return
    shares = ops.split(value, len(of_replicas), axis=0)
    for part, share in zip(of_replicas, shares, strict=True):
        part.assign(share)


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """All rows as an array; with several JAX processes, each of them must call this."""
    value = read(variable)
    if processes() > 1 and not value.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.array(multihost_utils.process_allgather(value, tiled=True))
    return np.array(ops.convert_to_numpy(value))


def can_lend_values() -> bool:
    """True if a new variable may be made of another one's tensor, until it is given its own.

    A variable of JAX has another array after each assignment, and one of TensorFlow copies its
    tensor before it writes into one that others hold. One of torch would write into the lender's.
    Where devices split the work, each variable is laid out as it is made.
    """
    backend = keras.backend.backend()
    return backend != "torch" and distribution() is None and _strategy() is None


def copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Writes one variable's value into another one of its shape, as a tensor of its own.

    It stays on its device, unless the two variables lie on different ones.
    """
    value = ops.convert_to_tensor(source)
    if keras.backend.backend() == "jax":
        # A compiled step is donated the arrays of its variables: two that share one would lose it.
        same = value.sharding == target.value.sharding
        value = ops.copy(value) if same else np.array(ops.convert_to_numpy(value))
    target.assign(value)


def parts(variable: keras.Variable) -> tuple:
    """The variables of the replicas, in the order of their rows."""
    if keras.backend.backend() != "tensorflow":
        return (variable,)
    import tensorflow as tf

    value = variable.value
    return value.values if isinstance(value, tf.distribute.DistributedValues) else (variable,)
