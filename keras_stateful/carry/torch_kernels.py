"""torch's own LSTM, GRU and SimpleRNN kernels on the CPU, where Keras calls none.

Keras 3.14 to 3.15 call them on a GPU only; on the CPU they loop over the time steps in Python, with
a dozen small operations for each. A kernel computes the same, and its backward pass too, in one
call. Rows that are reset inside a window ("pack") are set between two calls, so that a window takes
one more for each step at which any row is reset. Where that is more than one step, `fused_resets`
does it in one call, unless a layer starts from other states than zeros, or is a SimpleRNN.

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
    return sequences.device.type == "cpu" and not _traced()


def serves_resets(layer: keras.layers.RNN, sequences: Tensor) -> bool:
    """The same for a window with resets in it, which Keras hands to no kernel: on a GPU, too."""
    import torch

    if sequences.device.type == "cuda" and torch.backends.cudnn.is_available():
        return not _traced()
    exact = layer.cell.compute_dtype in ("float32", "float64")
    return exact and serves(layer, sequences)


def many_calls(flags: Tensor) -> bool:
    """True if one call with inserted steps is faster than one from each reset to the next.

    On a CPU the first costs about a tenth more than a window without resets, and so does each
    further call of the second (`benchmarks/pack.py`). On a GPU the second would be a loop.

    Args:
        flags: bool `(batch, time - 1)`, the resets behind the first step.
    """
    return flags.device.type != "cpu" or int(flags.any(0).sum()) > 1


def _traced() -> bool:
    """True while something records the calls, which a kernel cannot be told from."""
    import torch

    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def run(
    layer: keras.layers.RNN,
    sequences: Tensor,
    initial_state: list[Tensor],
    resets: StepResets | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What `inner_loop` of a layer returns.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN`.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: tensors `(batch, units)`.
        resets: rows that are set to the initial state inside the window, or None.

    Returns:
        The last output, all outputs (or the last alone), and the new states.

    Raises:
        ValueError: sequences of other features or rows than the weights and states.
    """
    import torch

    check_sizes(layer, sequences, initial_state[0].shape[0])
    cell, dtype = layer.cell, layer.cell.compute_dtype
    variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    weights = [ops.cast(ops.convert_to_tensor(v), dtype) for v in variables]
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
        output, states = fused(type(cell), sequences[:, begin:end], states, weights)
        outputs.append(output)
    whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    last_output = whole[:, -1]
    return last_output, whole if layer.return_sequences else last_output[:, None], states


def check_sizes(layer: keras.layers.RNN, sequences: Tensor, rows: int) -> None:
    """Refuses what the kernels, which believe their caller, would read past its end.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN`.
        sequences: what it is called with.
        rows: of its states.

    Raises:
        ValueError: sequences of other features or rows than the weights and states.
    """
    expected = (rows, layer.cell.kernel.shape[0])
    if (sequences.shape[0], sequences.shape[2]) != expected:
        raise ValueError(
            f"{layer.name!r} reads (rows, time, features) = ({expected[0]}, time, {expected[1]}). "
            f"Received: inputs of shape {tuple(sequences.shape)}. Give batches of the shape that "
            "the model was built with."
        )


def fused(
    cell: type, sequences: Tensor, states: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One call of a kernel.

    Args:
        cell: class of the cell, which says what is computed.
        sequences: `(batch, time, features)`.
        states: at the start, `(batch, units)` each.
        weights: kernel, recurrent kernel and, if any, the bias, as Keras lays them out.

    Returns:
        All outputs, and the last states.
    """
    import torch

    start = tuple(s[None].contiguous() for s in states)  # torch has an axis for layers in front
    outputs, *last = getattr(torch, _KERNELS[cell])(
        sequences.contiguous(),
        start if len(start) > 1 else start[0],
        _as_torch(cell, *weights),
        True,  # has biases
        1,  # layers
        0.0,  # dropout, between layers
        True,  # training
        False,  # bidirectional
        True,  # the batch comes first
    )
    return outputs, [s[0] for s in last]


def _as_torch(
    cell: type, kernel: Tensor, recurrent: Tensor, bias: Tensor | None = None
) -> list[Tensor]:
    """Kernel, recurrent kernel and two biases, as torch lays them out."""
    import torch

    bias = torch.zeros_like(kernel[0]) if bias is None else bias
    bias_x, bias_h = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    weights = [kernel.T, recurrent.T, bias_x, bias_h]
    if cell is keras.layers.GRUCell:  # Keras: update, reset, new; torch: reset, update, new
        blocks = [w.chunk(3) for w in weights]
        weights = [torch.cat([reset, update, new]) for update, reset, new in blocks]
    if kernel.device.type == "cpu":
        return [w.contiguous() for w in weights]
    # cuDNN wants all of them in one piece of memory, where a call would copy them at each step.
    whole = torch.cat([w.reshape(-1) for w in weights])
    parts = whole.split([w.numel() for w in weights])
    return [part.view(w.shape) for part, w in zip(parts, weights, strict=True)]
