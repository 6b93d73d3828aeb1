"""torch's own LSTM, GRU and SimpleRNN kernels for training on the CPU, where Keras has none.

Keras 3.14 to 3.15 call them on a GPU only; on the CPU they loop over the time steps in Python, with
a dozen small operations for each. A kernel computes the same, and its backward pass too, in one
call. Rows that are reset inside a window ("pack") are set between two calls, so that a window takes
one more for each step at which any row is reset.
"""

from typing import Any

import keras

_KERNELS = {
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    keras.layers.SimpleRNNCell: "rnn_tanh",
}


def serves(layer: Any, sequences: Any) -> bool:
    """Whether the kernels are there for a layer that they compute: on the CPU, where nothing is
    traced.
    """
    if keras.backend.backend() != "torch":
        return False
    import torch

    return sequences.device.type == "cpu" and not (
        torch.jit.is_tracing() or torch.compiler.is_compiling()
    )


def run(layer: Any, sequences: Any, initial_state: list, resets: tuple[Any, list] | None) -> tuple:
    """What `inner_loop` of a layer returns: the last output, all outputs (or the last alone), and
    the new states.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN` that is being trained.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: arrays `(batch, units)`.
        resets: None, or which rows are set to which states before which steps: bool `(batch, time)`
            and arrays `(batch, units)`.
    """
    import torch

    cell, dtype = layer.cell, layer.cell.compute_dtype
    kernel, weights = getattr(torch, _KERNELS[type(cell)]), _weights(cell, dtype)
    states = [keras.ops.cast(s, dtype) for s in initial_state]
    edges, marks, initial = [0], None, []
    if resets is not None:
        marks, initial = resets[0], [keras.ops.cast(i, dtype) for i in resets[1]]
        edges = sorted({0, *marks.any(0).nonzero()[:, 0].tolist()})

    outputs = []
    for begin, end in zip(edges, [*edges[1:], sequences.shape[1]], strict=True):
        if marks is not None:
            here = marks[:, begin, None]
            states = [torch.where(here, i, s) for i, s in zip(initial, states, strict=True)]
        start = tuple(s[None].contiguous() for s in states)
        found, *ends = kernel(
            sequences[:, begin:end].contiguous(), start if len(start) > 1 else start[0], weights,
            # biases, layers, dropout, train, bidirectional, batch first
            True, 1, 0.0, True, False, True,
        )  # fmt: skip
        outputs.append(found)
        states = [s[0] for s in ends]
    whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    last = whole[:, -1]
    return last, whole if layer.return_sequences else last[:, None], states


def _weights(cell: Any, dtype: str) -> list:
    """Kernel, recurrent kernel and two biases, as torch lays them out."""
    import torch

    given = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    kernel, recurrent, *biases = (
        keras.ops.cast(keras.ops.convert_to_tensor(v), dtype) for v in given
    )
    bias = biases[0] if biases else torch.zeros(kernel.shape[1], dtype=kernel.dtype)
    bias_x, bias_h = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    found = [kernel.T, recurrent.T, bias_x, bias_h]
    if type(cell) is keras.layers.GRUCell:  # Keras: update, reset, new; torch: reset, update, new
        parts = [w.chunk(3) for w in found]
        found = [torch.cat([reset, update, new]) for update, reset, new in parts]
    return [w.contiguous() for w in found]
