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

# Cells whose first state is their output, and which start from zeros
_OUTPUT_IS_STATE = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)


def puts_out_its_first_state(layer: keras.layers.RNN) -> bool:
    """True if masked steps put out the (last) cell's first state."""
    if layer.zero_output_for_mask:
        return False
    if isinstance(layer, _CONV_LSTM):
        return True
    if keras.backend.backend() == "jax":  # whose loop does so whatever the cell, if it can
        return first_of_last(layer.get_initial_state(1)).shape[1:] == (output_size(layer),)
    return _known(layer, "call")


def masked_output(layer: keras.layers.RNN, *, initial_state_given: bool) -> str | None:
    """Where what masked steps put out comes from: "state", "held" or None; see `CarryRNN`.

    On TensorFlow and torch Keras's loop repeats the output of the last real step, and puts out
    zeros until there is one. The state says the same of a known cell that starts from zeros; any
    other output has to be held. On JAX the loop puts out the state, if that has the shape of an
    output; else it fails.

    Args:
        layer: one that gets a mask.
        initial_state_given: whether the model's graph gives it an `initial_state`.
    """
    if layer.zero_output_for_mask:
        return None
    from_zeros = _known(layer, "get_initial_state") and not initial_state_given
    if isinstance(layer, _CONV_LSTM) or keras.backend.backend() == "jax":
        from_zeros = True
    return "state" if from_zeros and puts_out_its_first_state(layer) else "held"


def _known(layer: keras.layers.RNN, method: str) -> bool:
    """True if the (last) cell is a known one, whose method is not a subclass's own."""
    cell = getattr(layer.cell, "cells", [layer.cell])[-1]
    return any(
        isinstance(cell, known) and getattr(type(cell), method) is getattr(known, method)
        for known in _OUTPUT_IS_STATE
    )


def output_size(layer: keras.layers.RNN) -> int:
    """The units that a layer puts out at a step."""
    size = getattr(layer.cell, "output_size", None)
    return layer.state_size[0] if size is None else size


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
