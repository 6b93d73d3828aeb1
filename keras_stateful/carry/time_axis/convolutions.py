"""What a convolution or a pooling reads along time: its taps, how far apart, and what it pads."""

from typing import NamedTuple

import keras

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Hold, Refused
from keras_stateful.carry.time_axis.derivation import Derivation, merges
from keras_stateful.foundation.types import Tensor


class Window(NamedTuple):
    """What is read at once.

    A single number counts for all axes between batch and channels, or there is one for each.

    Attributes:
        sizes: taps.
        strides: steps from one output to the next.
        dilations: steps from one tap to the next.
        padding: "valid", "same" or "causal".
        data_format: "channels_last", "channels_first" or None.
        mixes_channels: whether all channels go into each output.
    """

    sizes: int | tuple[int, ...]
    strides: int | tuple[int, ...]
    dilations: int | tuple[int, ...]
    padding: str
    data_format: str | None
    mixes_channels: bool


def read(call: Call, time: Derivation, tensor: Tensor, window: Window) -> Hold:
    """What the output of a convolution or a pooling holds."""
    hold = time.along(tensor)
    if hold.axis == 0:
        return hold  # each row is read alone
    rank = len(tensor.shape)
    first = (window.data_format or keras.config.image_data_format()) == "channels_first"
    if hold.axis == (1 if first else rank - 1):
        if window.mixes_channels:
            raise merges("the time steps of a window, which it takes for channels,")
        return hold
    index = hold.axis - (2 if first else 1)
    size, stride, dilation = (
        value if isinstance(value, int) else value[index] if len(value) > 1 else value[0]
        for value in (window.sizes, window.strides, window.dilations)
    )
    reach = (size - 1) * dilation
    if stride > 1:
        raise Refused(
            f"it puts out one time step for {stride}, so that its outputs depend on where windows "
            "are cut",
            f"Make {stride} steps one: frames of {stride} steps in `encode=` of the sequence "
            f"(`x.reshape(-1, {stride}, features)`), and the layer as `TimeDistributed(...)` "
            "around them, so that the model runs at the frame rate; or `strides=1`.",
        )
    if not reach or window.padding == "valid":
        return hold.read_back(reach)
    if window.padding == "causal":
        return time.hold(call, tensor, reach).padded(reach, 0).read_back(reach)
    raise Refused(
        f'it reads {reach - reach // 2} steps ahead (`padding="{window.padding}"`), which a stream '
        "does not know yet",
        _without_looking_ahead(call, rank, reach),
    )


def _without_looking_ahead(call: Call, rank: int, reach: int) -> str:
    """The remedy for a layer that pads on both sides."""
    if type(call.operation) is keras.layers.Conv1D:
        return 'Give it `padding="causal"`: it then reads the past alone, and carries it.'
    if rank == 3:
        return (
            f'Give it `padding="valid"` and put `ZeroPadding1D(({reach}, 0))` in front: it then '
            "reads the past alone, which the padding holds."
        )
    if rank == 4:
        return (
            f'Give it `padding="valid"` and put `ZeroPadding2D((({reach}, 0), (before, after)))` '
            "in front, where before and after pad the other axis: it then reads the past alone, "
            "which the padding holds."
        )
    return f'Give it `padding="valid"` and pad {reach} steps in front of time alone (`ops.pad`).'
