"""Rows at single time steps: reset to the initial state, or masked.

A window `(batch, time, ...)` is computed as a whole. Two things happen to single rows at single
steps of it, and each has a `(batch, time)` array of flags:

    resets    True: before this step the row's state is set to the initial state
    mask      False: at this step the row's state stays, and the output of the step before is
              repeated (or zeros are put out, where the layer says `zero_output_for_mask`)
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_stateful.foundation.types import Structure, Tensor


class StepResets(NamedTuple):
    """Rows that are set to the initial state inside a window.

    Attributes:
        flags: bool `(batch, time)`; True: before this step the row is set.
        initial: what its states are set to, tensors `(batch, ...)`.
    """

    flags: Tensor
    initial: list[Tensor]


def rows_like(flags: Tensor, state: Tensor) -> Tensor:
    """`(batch,)` flags shaped to be broadcast against a state `(batch, ...)`."""
    return ops.reshape(flags, (-1,) + (1,) * (len(state.shape) - 1))


def choose(flags: Tensor, yes: list[Tensor], no: list[Tensor]) -> list[Tensor]:
    """For each state the rows of one tensor where `(batch,)` flags are True, else another's."""
    return [ops.where(rows_like(flags, a), a, b) for a, b in zip(yes, no, strict=True)]


# Masked steps

# Cells whose first state is their output
_OUTPUT_IS_STATE = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)


def puts_out_its_first_state(layer: keras.layers.RNN) -> bool:
    """True if the (last) cell's first state is its output, which masked steps repeat."""
    if layer.zero_output_for_mask:
        return False
    if isinstance(layer, _CONV_LSTM):
        return True
    cell = getattr(layer.cell, "cells", [layer.cell])[-1]
    # A subclass with a `call` of its own may put out something else.
    return any(
        isinstance(cell, known) and type(cell).call is known.call for known in _OUTPUT_IS_STATE
    )


def first_of_last(states: Structure) -> Tensor:
    """The first state of a layer's cell, of several cells the last one's."""
    last = states[-1] if isinstance(states[0], (list, tuple)) else states[0]
    return last[0] if isinstance(last, (list, tuple)) else last


def repeat_before(output: Tensor, before: Tensor, mask: Tensor, *, along_time: bool) -> Tensor:
    """Has the masked steps that open a window repeat the output of the step before it.

    Keras's loop has them put out zeros, except for its scan on JAX: what reads those outputs
    without the mask (a residual connection drops it) would depend on where the stream was cut.

    Args:
        output: `(batch, time, ...)` or, without `along_time`, that of the last step.
        before: the output of the step before the window, `(batch, ...)`.
        mask: bool `(batch, time)`.
        along_time: whether `output` has a time axis.
    """
    # A step belongs to the opening as long as no real step was seen, up to it and in its row.
    seen = ops.cast(mask, "int32")
    seen = ops.cumsum(seen, axis=1) if along_time else ops.sum(seen, axis=1)
    opens = ops.equal(seen, 0)
    while len(opens.shape) < len(output.shape):
        opens = ops.expand_dims(opens, -1)
    before = ops.cast(ops.expand_dims(before, 1) if along_time else before, output.dtype)
    return ops.where(opens, before, output)


@keras.saving.register_keras_serializable(package="keras_stateful")
class OpenedWindow(keras.layers.Layer):
    """`repeat_before` as a layer, for graphs in which the state is an input."""

    def call(self, inputs: list[Tensor]) -> Tensor:
        output, before, mask = inputs
        along_time = len(output.shape) > len(before.shape)
        return repeat_before(output, before, mask, along_time=along_time)

    def compute_output_shape(self, input_shape: list[tuple]) -> tuple:
        return input_shape[0]

    def compute_mask(self, inputs: list[Tensor], previous_mask: list[Tensor]) -> Tensor:
        return previous_mask[0]
