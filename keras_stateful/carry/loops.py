"""Which loop over time steps a recurrent layer runs: Keras's own, or in training on the CPU a
faster one, same results.

    layer in training ──▶ `scan_kernels` on JAX and TensorFlow, `torch_kernels` on torch ──▶ else None: `keras_loop`

Keras 3.14 to 3.15 call `inner_loop` of a recurrent layer for this;
`tests/carry/test_training_kernels.py` fails when they do not.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_stateful.carry import scan_kernels, torch_kernels
from keras_stateful.foundation import keras_internals

PLAIN_CELLS: dict[type, type] = {
    keras.layers.LSTM: keras.layers.LSTMCell,
    keras.layers.GRU: keras.layers.GRUCell,
    keras.layers.SimpleRNN: keras.layers.SimpleRNNCell,
}


def run(
    layer: Any,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    training: bool,
    resets: tuple[Any, list] | None = None,
) -> tuple | None:
    """What `inner_loop` of a layer returns, or None where Keras's loop is to compute it.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN`.
        sequences: `(batch, time, features)`.
        initial_state: arrays `(batch, units)`.
        mask: of Keras, or None.
        training: whether gradients are wanted; outside of it the loop is Keras's, which exporters
            and `generate` can record.
        resets: None, or which rows are set to which states before which steps: bool `(batch, time)`
            and arrays `(batch, units)`.
    """
    if not training or mask is not None or len(sequences.shape) != 3 or not _eligible(layer):
        return None
    kernels = next((k for k in (scan_kernels, torch_kernels) if k.serves(layer, sequences)), None)
    if kernels is None:
        return None
    sequences = keras.ops.cast(sequences, layer.cell.compute_dtype)
    if layer.dropout:
        mask = keras_internals.dropout_mask(layer.cell, sequences[:, 0, :])
        sequences = sequences * mask[:, None]
    return kernels.run(layer, sequences, initial_state, resets)


def _eligible(layer: Any) -> bool:
    """Whether a layer is one that the kernels compute: what cuDNN asks for, too."""
    cell = layer.cell
    return (
        type(cell) in PLAIN_CELLS.values()
        and cell.compute_dtype in ("float32", "float64")
        and not (layer.recurrent_dropout or layer.go_backwards or layer.unroll)
        and getattr(layer, "use_cudnn", "auto") in ("auto", True)
        and cell.activation is keras.activations.tanh
        and getattr(cell, "recurrent_activation", keras.activations.sigmoid)
        is keras.activations.sigmoid
        and getattr(cell, "reset_after", True)
        # With `implementation=1` each gate has a dropout mask of its own.
        and not (layer.dropout and getattr(cell, "implementation", 2) == 1)
    )


def keras_loop(
    layer: Any, inner_loop: Callable, sequences: Any, initial_state: Any, mask: Any, training: bool
) -> tuple:
    """Keras's own `inner_loop` of a layer, without cuDNN where Keras would take it and it cannot
    serve.

    On TensorFlow it stops where a row is all padding: one whose document ended in an earlier
    window. On JAX it computes in float32 alone (`jax.experimental.rnn`): a compiled step in reduced
    precision fails, and float64 is read as float32.
    """
    wrong = {"tensorflow": mask is not None, "jax": layer.compute_dtype != "float32"}
    if getattr(layer, "use_cudnn", False) != "auto" or not wrong.get(keras.backend.backend()):
        return inner_loop(sequences, initial_state, mask=mask, training=training)
    layer.use_cudnn = False
    try:
        return inner_loop(sequences, initial_state, mask=mask, training=training)
    finally:
        layer.use_cudnn = "auto"


def install(layer: Any) -> None:
    """Lets a plain Keras layer choose its loop so, where a step is compiled from now on."""
    if type(layer) not in PLAIN_CELLS or hasattr(layer, "_keras_stateful_loop"):
        return
    own = layer.inner_loop

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple:
        found = run(layer, sequences, initial_state, mask, training)
        return (
            keras_loop(layer, own, sequences, initial_state, mask, training)
            if found is None
            else found
        )

    layer.inner_loop = inner_loop
    layer._keras_stateful_loop = True
