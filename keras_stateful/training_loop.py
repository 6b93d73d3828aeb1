"""Which loop over time steps trains a recurrent layer on the CPU: Keras's own, or a faster one with the same results.

layer in training ──▶ `scan_kernels` on JAX and TensorFlow, `torch_kernels` on torch ──▶ else None: Keras's loop
"""

from typing import Any

import keras

from keras_stateful import scan_kernels, torch_kernels

CELLS: dict[type, type] = {
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
        training: whether gradients are wanted; outside of it the loop is Keras's, which exporters and `generate` can record.
        resets: None, or which rows are set to which states before which steps: bool `(batch, time)` and arrays
            `(batch, units)`.
    """
    if not training or mask is not None or not _eligible(layer):
        return None
    if scan_kernels.serves(layer, sequences):
        return scan_kernels.run(layer, sequences, initial_state, resets)
    if torch_kernels.serves(layer, sequences):
        return torch_kernels.run(layer, sequences, initial_state, resets)
    return None


def _eligible(layer: Any) -> bool:
    """What cuDNN asks for, too."""
    return (
        type(layer.cell) in CELLS.values()
        and layer.cell.compute_dtype in ("float32", "float64")
        and not (layer.recurrent_dropout or layer.go_backwards or layer.unroll)
        and getattr(layer, "use_cudnn", "auto") in ("auto", True)
    )


def install(layer: Any) -> None:
    """Lets a plain Keras layer take such a loop, where a step is compiled from now on."""
    if type(layer) not in CELLS or hasattr(layer, "_keras_stateful_loop"):
        return
    keras_loop = layer.inner_loop

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple:
        found = run(layer, sequences, initial_state, mask, training)
        return keras_loop(sequences, initial_state, mask=mask, training=training) if found is None else found

    layer.inner_loop = inner_loop
    layer._keras_stateful_loop = True
