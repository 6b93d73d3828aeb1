"""torch's own LSTM, GRU and SimpleRNN kernels for training on the CPU, where Keras has none.

Keras 3.14 to 3.15 call them on a GPU only; on the CPU they loop over the time steps in Python, with
a dozen small operations for each. A kernel computes the same, and its backward pass too, in one
call. Rows that are reset inside a window ("pack") are set between two calls, so that a window takes
one more for each step at which any row is reset:

    resets  row 0   . . . R . . .        kernel(x[0:3]) ──▶ set row 0 ──▶ kernel(x[3:5])
            row 1   . . . . . R .                       ──▶ set row 1 ──▶ kernel(x[5:7])
"""

import keras
from keras import ops

from keras_stateful.carry.steps import StepResets
from keras_stateful.foundation.types import Tensor

_KERNELS = {
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    keras.layers.SimpleRNNCell: "rnn_tanh",
}


def serves(layer: keras.layers.RNN, sequences: Tensor) -> bool:
    """True if the kernels are there for a layer that they compute: on the CPU, nothing traced."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return sequences.device.type == "cpu" and not traced


def run(
    layer: keras.layers.RNN,
    sequences: Tensor,
    initial_state: list[Tensor],
    resets: StepResets | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What `inner_loop` of a layer returns.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN` that is being trained.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: tensors `(batch, units)`.
        resets: rows that are set to the initial state inside the window, or None.

    Returns:
        The last output, all outputs (or the last alone), and the new states.

    Raises:
        ValueError: sequences of other features or rows than the weights and states.
    """
    import torch

    _check_sizes(layer, sequences, initial_state[0])
    cell, dtype = layer.cell, layer.cell.compute_dtype
    kernel, weights = getattr(torch, _KERNELS[type(cell)]), _weights(cell, dtype)
    states = [ops.cast(s, dtype) for s in initial_state]
    edges, initial = [0], []  # the steps at which a call of the kernel begins
    if resets is not None:
        initial = [ops.cast(i, dtype) for i in resets.initial]
        edges = sorted({0, *resets.flags.any(0).nonzero()[:, 0].tolist()})

    outputs = []
    for begin, end in zip(edges, [*edges[1:], sequences.shape[1]], strict=True):
        if resets is not None:
            rows = resets.flags[:, begin, None]
            states = [torch.where(rows, i, s) for i, s in zip(initial, states, strict=True)]
        start = tuple(s[None].contiguous() for s in states)  # torch has an axis for layers in front
        output, *last = kernel(
            sequences[:, begin:end].contiguous(),
            start if len(start) > 1 else start[0],
            weights,
            True,  # has biases
            1,  # layers
            0.0,  # dropout, between layers
            True,  # training
            False,  # bidirectional
            True,  # the batch comes first
        )
        outputs.append(output)
        states = [s[0] for s in last]
    whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    last_output = whole[:, -1]
    return last_output, whole if layer.return_sequences else last_output[:, None], states


def _check_sizes(layer: keras.layers.RNN, sequences: Tensor, state: Tensor) -> None:
    """Refuses what the kernels, which believe their caller, would read past its end."""
    expected = (state.shape[0], layer.cell.kernel.shape[0])
    rows, _, features = sequences.shape
    if (rows, features) != expected:
        raise ValueError(
            f"{layer.name!r} reads (rows, time, features) = ({expected[0]}, time, {expected[1]}). "
            f"Received: inputs of shape {tuple(sequences.shape)}. Give batches of the shape that "
            "the model was built with."
        )


def _weights(cell: keras.layers.Layer, dtype: str) -> list[Tensor]:
    """Kernel, recurrent kernel and two biases, as torch lays them out."""
    import torch

    variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    kernel, recurrent, *biases = (ops.cast(ops.convert_to_tensor(v), dtype) for v in variables)
    bias = biases[0] if biases else torch.zeros(kernel.shape[1], dtype=kernel.dtype)
    bias_x, bias_h = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    weights = [kernel.T, recurrent.T, bias_x, bias_h]
    if type(cell) is keras.layers.GRUCell:  # Keras: update, reset, new; torch: reset, update, new
        blocks = [w.chunk(3) for w in weights]
        weights = [torch.cat([reset, update, new]) for update, reset, new in blocks]
    return [w.contiguous() for w in weights]
