"""Resets inside a window on a fused kernel, which knows of none: each is a time step of its own.

A fused kernel (cuDNN, torch's own on the CPU) computes a window in one call, and nobody can touch
the state in between. So a reset becomes something that the kernel reads. In front of the step that
a row is reset before, the window gets one more step, `C`, at which the gates clear the state:

    resets   . . . C .          row 0   x0 x1 x2 C  x3 x4 H         one call of the kernel, which
             . C . . C    ──▶   row 1   x0 C  x1 x2 x3 C  x4  ──▶   puts out `room` steps more;
             . . . . .          row 2   x0 x1 x2 x3 x4 H  H         those of `x` are picked

All rows get `room` for as many resets, and what a row does not need stands at its end as steps `H`,
at which the gates hold an LSTM's `c`: kernels give it out at their end alone. (The `h` behind the
window is an output.) A reset before the first step needs no room: it sets what the kernel starts
from.

What kind a step is comes as three more features, `real`, `C` and `H`: one is 1, the others are 0.
(Zeros fill up to a multiple of 8: the GPU's tensor cores take no other matrices at full speed.)
Their weights shut or open the gates for good, as the sigmoid of -10,000 is 0 and of 10,000 is 1:

    LSTM    c' = f c + i g,  h' = o tanh(c')          C: i = f = o = 0      H: i = 0, f = 1
    GRU     h' = z h + (1 - z) tanh(x_g + r h_g)      C: z = r = 0          H: whatever

A GRU is clear only if `x_g` is 0 as well: there the bias is a weight of `real`. Shut gates let no
gradient through, so that none crosses a reset, and nothing else need be said backwards.

Rows stay where they are in a batch of the same size, whoever else is reset: they are alone, bit for
bit, as without resets. Only a mask with more resets than there is room for is computed otherwise,
as a whole: step by step (`loops`), to the same numbers but for rounding. (So are one on torch's CPU
that a second call of the kernel serves sooner, see `torch_kernels`, and the windows of the next two
paragraphs.)

What else pulls at a gate of an inserted step must not outweigh those 10,000: it is `h @ U + b`, as
the features are 0 there. No |h| is above the larger of 1 and the start's, for an `h` is made of
tanh and sigmoids; so the pull on a gate is at most that times the sum of |U| over its column, and
|b|. Where any gate's reaches half of 10,000, which leaves the other half, the window is computed
step by step: a training that diverges gets there.

Nor does a shut gate clear what is no number, as 0 times NaN is NaN. None arises inside a window if
its start, its steps and the weights are finite and `x @ W` does not overflow. Otherwise the window
is computed step by step, too.

Initial states other than zeros cannot be had so, nor can a SimpleRNN be cleared: it has no gates.
Laying out each document's part of the window as a row of its own does it in fewer, wider steps, but
there every row's place, and with it its rounding, depends on the resets of all others.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import keras
from keras import ops

from keras_stateful.carry import torch_kernels
from keras_stateful.carry.steps import StepResets, choose
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# kernel(sequences, states, weights) gives all outputs and the last states; weights are those of the
# cell, biases included, as Keras lays them out.
Kernel: TypeAlias = Callable[[Tensor, list[Tensor], list[Tensor]], tuple[Tensor, list[Tensor]]]

_OPEN = 10_000.0  # in float16 too; the sigmoid is 1 from 17 on in float32, 0 from -104 down
_CLEAR, _HOLD = range(2)
# What the two kinds of inserted steps add to each gate, in the order of Keras's weights
_GATES = {
    keras.layers.LSTMCell: ((-1, -1, 0, -1), (-1, 1, 0, 0)),  # i, f, g, o
    keras.layers.GRUCell: ((-1, -1, 0), (0, 0, 0)),  # z, r, g
}
# Without a word of the data the room is for a reset every so many steps.
_USUAL_STEPS = 8


def room(most_resets: int | None, steps: int) -> int:
    """For how many resets of a row a window gets room, a power of two or all that there can be.

    Args:
        most_resets: behind the first step of a window, in the row that has most; None: unknown.
        steps: of a window.
    """
    if most_resets is None:
        most_resets = -(-steps // _USUAL_STEPS)
    doubled = 1 << max(most_resets - 1, 0).bit_length()
    return min(doubled, steps - 1)


def _width(features: int) -> int:
    """How many features the kernel reads: the input's, those of the kinds, and what fills up."""
    return -(-(features + 3) // 8) * 8


def fused_kernel(layer: keras.layers.RNN, sequences: Tensor) -> Kernel | None:
    """The fused kernel for a layer that reads resets inside its windows; None: none, or not so.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN` of which a kernel computes all that was set.
        sequences: `(batch, time, features)`.
    """
    if (
        type(layer.cell) not in _GATES
        or getattr(layer, "initial_state_given", True)  # other states than zeros
        or sequences.shape[1] is None  # room is made where the step is compiled
        or keras.distribution.distribution() is not None  # steps are picked over all rows at once
    ):
        return None
    if keras.backend.backend() == "torch":
        if not torch_kernels.serves_resets(layer, sequences):
            return None
        torch_kernels.check_sizes(layer, sequences, layer.batch_size)
        return partial(torch_kernels.fused, type(layer.cell))
    return partial(keras_internals.fused_call, layer) if _cudnn_serves(layer) else None


def _cudnn_serves(layer: keras.layers.RNN) -> bool:
    """True if cuDNN computes a layer on the GPU of JAX or TensorFlow."""
    if keras.backend.backend() == "jax" and layer.cell.compute_dtype != "float32":
        return False
    return keras_internals.has_fused_call(layer)


def run(
    layer: keras.layers.RNN,
    kernel: Kernel,
    sequences: Tensor,
    initial_state: list[Tensor],
    resets: StepResets,
    by_step: Callable[[], tuple],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What `inner_loop` of a layer returns.

    Args:
        layer: an `LSTM` or `GRU`.
        kernel: from `fused_kernel`.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: tensors `(batch, units)`.
        resets: rows that are set to zeros inside the window.
        by_step: computes the same whatever the resets.

    Returns:
        The last output, all outputs (or the last alone), and the new states.
    """
    most = room(layer.most_resets, sequences.shape[1])
    start = choose(resets.flags[:, 0], resets.initial, initial_state)

    def fused() -> list[Tensor]:
        return _fused(layer, kernel, sequences, start, resets.flags, most)

    def otherwise() -> list[Tensor]:
        last, outputs, states = by_step()
        if not layer.return_sequences:  # on JAX all of them come back
            outputs = last[:, None]
        return [ops.cast(t, layer.cell.compute_dtype) for t in (outputs, *states)]

    by_one_call = _by_one_call(layer.cell, sequences, start, resets.flags, most)
    try:
        outputs, *states = ops.cond(by_one_call, fused, otherwise)
    except NotImplementedError:  # from Keras's call of cuDNN, which only then finds that it cannot
        outputs, *states = otherwise()
    return outputs[:, -1], outputs, states


def _by_one_call(
    cell: keras.layers.Layer, sequences: Tensor, start: list[Tensor], flags: Tensor, most: int
) -> Tensor | bool:
    """True if there is room for so many resets, one call clears them and is the faster way.

    Args:
        cell: of the layer.
        sequences: `(batch, time, features)`.
        start: the states at the start, `(batch, units)` each.
        flags: bool `(batch, time)`, the resets.
        most: resets of a row behind the first step that there is room for.
    """
    behind = flags[:, 1:]
    if keras.backend.backend() == "torch" and not torch_kernels.many_calls(behind):
        return False
    enough = ops.max(ops.sum(ops.cast(behind, "int32"), axis=1)) <= most
    return ops.logical_and(enough, _obeyed(cell, sequences, start))


def _obeyed(cell: keras.layers.Layer, sequences: Tensor, start: list[Tensor]) -> Tensor:
    """True if inserted steps clear and hold whatever the window computes, as the module says.

    Args:
        cell: of the layer.
        sequences: `(batch, time, features)`.
        start: the states at the start, `(batch, units)` each, the output first.
    """

    def sizes(values: Tensor) -> Tensor:
        read = ops.cast(ops.convert_to_tensor(values), cell.compute_dtype)  # as by the kernel
        return ops.abs(ops.cast(read, "float32"))  # where sums do not overflow

    # A number that is finite only if all of them are, and whatever comes of `x @ W`
    numbers = ops.sum(sizes(sequences)) * ops.sum(sizes(cell.kernel))
    numbers = numbers + sum(ops.sum(sizes(state)) for state in start)
    pull = ops.maximum(1.0, ops.max(sizes(start[0]))) * ops.sum(sizes(cell.recurrent_kernel), 0)
    if cell.use_bias:
        pull = pull + ops.sum(ops.reshape(sizes(cell.bias), (-1, pull.shape[0])), 0)
    return ops.logical_and(ops.isfinite(numbers), ops.all(pull < _OPEN / 2))


def _fused(
    layer: keras.layers.RNN,
    kernel: Kernel,
    sequences: Tensor,
    start: list[Tensor],
    flags: Tensor,
    most: int,
) -> list[Tensor]:
    """All outputs (or the last alone), and the new states, by one call."""
    cell, dtype = layer.cell, layer.cell.compute_dtype
    rows, steps, _ = sequences.shape
    inserted = ops.concatenate([ops.zeros_like(flags[:, :1]), flags[:, 1:]], axis=1)
    places = _places(ops.cast(inserted, "int32"), steps + most)

    outputs, states = kernel(
        _with_steps(ops.cast(sequences, dtype), places, inserted, steps + most),
        [ops.cast(s, dtype) for s in start],
        _with_gates(cell, dtype),
    )
    if not layer.return_sequences:
        places = places[:, -1:]
    outputs = ops.reshape(outputs, (rows * (steps + most), cell.units))
    outputs = ops.reshape(ops.take(outputs, places, axis=0), (rows, -1, cell.units))
    return [outputs, outputs[:, -1], *states[1:]]


def _places(inserted: Tensor, length: int) -> Tensor:
    """Where each step of `x` stands in the longer window, `(rows, steps)`, rows behind each other.

    Args:
        inserted: int32 `(rows, steps)`: 1 where a step is inserted in front of this one.
        length: of the longer window.
    """
    rows, steps = inserted.shape
    unmoved = length * ops.arange(rows, dtype="int32")[:, None] + ops.arange(steps, dtype="int32")
    return unmoved + ops.cast(ops.cumsum(inserted, axis=1), "int32")


def _with_steps(sequences: Tensor, places: Tensor, inserted: Tensor, length: int) -> Tensor:
    """The longer window, with the features that tell of which kind a step is.

    Args:
        sequences: `(rows, steps, features)`.
        places: of the steps, from `_places`.
        inserted: bool `(rows, steps)`.
        length: of the longer window.

    Returns:
        `(rows, length, width)`, see `_width`.
    """
    rows, steps, features = sequences.shape
    count, width, dtype = rows * steps, _width(features), sequences.dtype
    # All steps of `x`, and behind them one of each kind that is inserted.
    real = ops.pad(ops.ones((count, 1), dtype), ((0, 0), (0, width - features - 1)))
    kinds = ops.pad(ops.eye(2, dtype=dtype), ((0, 0), (features + 1, width - features - 3)))
    real = ops.concatenate([ops.reshape(sequences, (count, features)), real], axis=1)
    table = ops.concatenate([real, kinds])
    # Which of them stands at each place: `H`, but where a step is inserted `C`, and the steps.
    at = ops.reshape(places, (-1, 1))
    before = at - ops.reshape(ops.cast(inserted, "int32"), (-1, 1))  # or `at` itself
    which = ops.full((rows * length,), count + _HOLD, "int32")
    which = ops.scatter_update(which, before, ops.full((count,), count + _CLEAR, "int32"))
    which = ops.scatter_update(which, at, ops.arange(count, dtype="int32"))
    return ops.reshape(ops.take(table, which, axis=0), (rows, length, width))


def _with_gates(cell: keras.layers.Layer, dtype: str) -> list[Tensor]:
    """A cell's kernel, recurrent kernel and bias, for sequences that `_with_steps` made."""
    variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    kernel, recurrent, *biases = (ops.cast(ops.convert_to_tensor(v), dtype) for v in variables)
    inserted = [
        ops.concatenate([ops.full((1, cell.units), sign * _OPEN, dtype) for sign in gates], axis=1)
        for gates in _GATES[type(cell)]
    ]
    real = ops.zeros_like(kernel[:1])
    features, gates = kernel.shape
    rest = ops.zeros((_width(features) - features - 3, gates), dtype)
    if biases and type(cell) is keras.layers.GRUCell:  # whose bias is `(2, 3 * units)`
        (bias,), g = biases, 2 * cell.units
        moved = ops.pad(bias[:1, g:], ((0, 0), (g, 0)))
        kept = ops.pad(bias[:1, :g], ((0, 0), (0, cell.units)))
        real, biases = real + moved, [ops.concatenate([kept, bias[1:]])]
    return [ops.concatenate([kernel, real, *inserted, rest]), recurrent, *biases]
