"""What several devices or processes cannot do with states, refused before the first step.

Each of these would be wrong without a word, or fail with an error that does not name its cause.
"""

import keras

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.devices import (
    check_strategy,
    distribution,
    parts,
    processes,
    replicas,
    shards,
)
from keras_stateful.foundation.protocols import Readable, is_converted


def check_data(
    model: keras.Model, states: list[keras.Variable], name: str, sequence: Readable | None
) -> None:
    """Checks that what is distributed reads the rows that the user means.

    Args:
        model: the model.
        states: its state variables.
        name: of the argument that the data were given as.
        sequence: the data if they are a `StatefulSequence` or `StatefulStream`; None for other
            data.

    Raises:
        ValueError: anything that would be wrong without a word, with the remedy.
    """
    backend = keras.backend.backend()
    if distribution() is not None and backend != "jax":
        remedy = "Run one process for each device, as examples/torch_ddp.py does."
        if backend == "tensorflow":
            remedy = "Make the model in the scope of a `tf.distribute.MirroredStrategy`."
        raise ValueError(
            "`keras.distribution` works on the JAX backend only. Received: a "
            f"{type(distribution()).__name__} on {backend}, which would be ignored. {remedy}"
        )
    if backend == "jax":
        _check_layout(model, states, name)
        if processes() > 1:
            _check_processes(name, sequence)
    elif replicas(model) > 1:
        _check_replicas(model, states)


def check_one_step(model: keras.Model, method: str) -> None:
    """Refuses `train_on_batch` and its like on replicas: each would get the whole batch."""
    if replicas(model) > 1:
        raise ValueError(
            f"Keras gives each replica the whole batch in `{method}`. Received: a model of "
            f"{replicas(model)} replicas. Use `fit`, `evaluate` or `predict`; for documents or "
            "single steps, make the model outside of `strategy.scope()`: `to_inference(model)`."
        )


def check_predict(model: keras.Model, state: keras.Variable) -> None:
    """Refuses `predict` where its rows cannot be split, or its outputs not be gathered again."""
    _check_split(state, "x")
    if processes() > 1:
        raise ValueError(
            f"The outputs of `predict` lie in {processes()} processes. Received: {model.name!r}. "
            "Use `evaluate`, or load the saved model where a single process runs."
        )


# JAX


def _check_layout(model: keras.Model, states: list[keras.Variable], name: str) -> None:
    """Checks that the states lie on the devices that get their rows."""
    import jax

    current = distribution()
    several = current is not None and current.device_mesh.devices.size > 1
    if several and any(
        isinstance(v.value.sharding, jax.sharding.SingleDeviceSharding) for v in states
    ):
        raise ValueError(
            "The model was made before the distribution was set and lies on one device. Received: "
            f"{model.name!r} under {type(current).__name__}. Call "
            "`keras.distribution.set_distribution(...)` before the model is made."
        )
    if states:
        _check_split(states[0], name)


def _check_split(state: keras.Variable, name: str) -> None:
    """Checks that the rows of a model divide among the devices."""
    if state.shape[0] % shards():
        raise ValueError(
            f"Keras splits `{name}` by rows over {shards()} devices. Received: a model of "
            f"{state.shape[0]} rows. Convert it to a multiple of {shards()} rows, or call "
            "`predict_on_batch`, which does not split."
        )


def _check_processes(name: str, sequence: Readable | None) -> None:
    """Checks that each of several processes reads the rows that its own devices hold."""
    count = processes()
    if distribution() is None:
        raise ValueError(
            f"Each of the {count} processes would train a model of its own. Received: no "
            "distribution. Call `keras.distribution.set_distribution(keras.distribution."
            "DataParallel(auto_shard_dataset=False))` before the model is made."
        )
    if sequence is None:
        return
    # Several processes may hold the devices of one shard of the rows.
    expected = min(count, shards())
    if sequence.shard[1] != expected:
        raise ValueError(
            f"Each of the {count} processes would read other rows of `{name}` than its devices "
            "hold: `auto_shard_dataset` does not reach a sequence. Received: "
            f"shard={tuple(sequence.shard)}. {_shard_remedy(count, expected)}"
        )
    if not sequence.resets and sequence.boundary != "ignore":
        raise ValueError(
            f"A callback in one process cannot reset rows of another. Received: `{name}` with "
            f"resets=False, boundary={sequence.boundary!r}, in {count} processes. Make it with "
            "`resets=True` and convert the model with `to_stateful(model, sequence)`."
        )


def _shard_remedy(count: int, expected: int) -> str:
    """The argument `shard` that each of `count` processes has to give."""
    index = "jax.process_index()"
    if expected < count:
        index += f" * {expected} // jax.process_count()"
    return (
        f"Pass `shard=({index}, {expected})` to a `StatefulSequence`; streams in different "
        "processes end at different steps."
    )


# TensorFlow


def _check_replicas(model: keras.Model, states: list[keras.Variable]) -> None:
    """Checks that each replica has states of its own, and that its loss adds up."""
    check_strategy(keras_internals.strategy(model))
    count = replicas(model)
    if any(len(parts(state)) != count for state in states):
        raise ValueError(
            "The model was made outside of the strategy's scope and has one set of states. "
            f"Received: {model.name!r} under a strategy of {count} replicas. Call "
            "`to_stateful` and `compile` inside `with strategy.scope():`."
        )
    if model.steps_per_execution > 1:
        raise ValueError(
            "Keras's loop over several steps fails under a strategy (\"placeholder ... must be "
            f'fed"). Received: steps_per_execution={model.steps_per_execution} on {count} '
            "replicas. Compile with steps_per_execution=1."
        )
    if not is_converted(model):
        raise ValueError(
            "The states of plain `stateful=True` layers cannot be reset on each replica. Received: "
            f"{model.name!r} of {count} replicas. Convert it, in the same scope: "
            "`to_stateful(model, sequence)`."
        )
    compiled = keras_internals.compile_arguments(model) if model.compiled else {}
    losses = keras.tree.flatten(compiled.get("loss"))
    if any(getattr(loss, "reduction", None) == "mean_with_sample_weight" for loss in losses):
        raise ValueError(
            "A mean over the weights of each replica is not the mean over the batch. Received: a "
            f'loss with reduction="mean_with_sample_weight" on {count} replicas. Use '
            'reduction="sum_over_batch_size", the default: a sequence\'s weights are scaled for it.'
        )
