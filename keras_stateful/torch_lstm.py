"""torch's own LSTM kernel for training on the CPU, where Keras has none.

Keras 3.14 to 3.15 call `torch.lstm` on a GPU only; on the CPU they loop over the time steps in Python, with a dozen small
operations for each. The kernel computes the same, and its backward pass too, in one call.
"""

from typing import Any

import keras


def serves(layer: Any, sequences: Any) -> bool:
    """Whether the kernel computes what a recurrent layer computes in a training call without a mask.

    Outside of training Keras's loop stays: it is what exporters and `generate` can record.
    """
    if keras.backend.backend() != "torch" or type(layer.cell) is not keras.layers.LSTMCell:
        return False
    import torch

    cell = layer.cell
    return (
        sequences.device.type == "cpu"
        and not (torch.jit.is_tracing() or torch.compiler.is_compiling())
        and cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        and cell.use_bias
        and not (layer.dropout and cell.implementation == 1)  # then each gate has a mask of its own
    )


def run(layer: Any, sequences: Any, initial_state: Any) -> tuple:
    """What `LSTM.inner_loop` returns: the last output, all outputs (or the last alone), and the new state.

    Args:
        layer: an `LSTM` that is being trained.
        sequences: `(batch, time, features)`.
        initial_state: `[h, c]`, each `(batch, units)`.
    """
    import torch

    cell = layer.cell
    dtype = cell.compute_dtype
    sequences = keras.ops.cast(sequences, dtype)
    if layer.dropout:
        sequences = sequences * cell.get_dropout_mask(sequences[:, 0, :])[:, None]
    kernel, recurrent, bias = (
        keras.ops.cast(keras.ops.convert_to_tensor(v), dtype)
        for v in (cell.kernel, cell.recurrent_kernel, cell.bias)
    )
    weights = [kernel.T.contiguous(), recurrent.T.contiguous(), bias, torch.zeros_like(bias)]
    start = tuple(keras.ops.cast(s, dtype)[None].contiguous() for s in initial_state)
    outputs, h, c = torch.lstm(
        sequences.contiguous(), start, weights, True, 1, 0.0, True, False, True
    )  # biases, layers, dropout, train, bidirectional, batch first
    last = outputs[:, -1]
    return last, outputs if layer.return_sequences else last[:, None], [h[0], c[0]]
