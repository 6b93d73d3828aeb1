"""Layers that put steps in front, cut them off, or read several together."""

from keras import layers

from keras_stateful.carry.each_step import ForEachStep
from keras_stateful.carry.graph import Call
from keras_stateful.carry.past import Pad
from keras_stateful.carry.time_axis.along import Hold, Refused
from keras_stateful.carry.time_axis.convolutions import Window, read
from keras_stateful.carry.time_axis.derivation import Derivation
from keras_stateful.carry.time_axis.rules import (
    OPERATIONS,
    input_of,
    of_layers,
    reduced,
    with_activation,
)
from keras_stateful.carry.time_axis.step_operations import (
    padded,
)
from keras_stateful.foundation.types import Tensor

# Steps put in front, behind, cut off, read together


@of_layers(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def _padding(call: Call, time: Derivation) -> Hold:
    tensor = input_of(call)
    pads = _ends(call, time, tensor, call.operation.padding)
    return padded(call, time, tensor, *pads) if any(pads) else time.along(tensor)


@of_layers(*ForEachStep.__subclasses__())
def _for_each_step(call: Call, time: Derivation) -> Hold:
    return time.of(input_of(call))  # put in by a conversion, which the next one leaves out


@of_layers(Pad)
def _pad(call: Call, time: Derivation) -> Hold | list[Hold]:
    return OPERATIONS["Pad"](call, time)


@of_layers(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
def _cropping(call: Call, time: Derivation) -> Hold:
    tensor = input_of(call)
    return time.along(tensor).cut(*_ends(call, time, tensor, call.operation.cropping))


def _ends(call: Call, time: Derivation, tensor: Tensor, sizes: tuple) -> tuple[int, int]:
    """What is put in front of time and behind it, or cut off, of the sizes for all axes."""
    pairs = [sizes] if isinstance(sizes[0], int) else list(sizes)
    first = getattr(call.operation, "data_format", None) == "channels_first"
    index = time.along(tensor).axis - (2 if first else 1)
    return tuple(pairs[index]) if 0 <= index < len(pairs) else (0, 0)


@of_layers(
    layers.Conv1D, layers.Conv2D, layers.Conv3D,
    layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip
def _convolution(call: Call, time: Derivation) -> Hold:
    layer = call.operation
    mixes = not isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    return with_activation(
        call, time, _read(call, time, layer.kernel_size, layer.dilation_rate, mixes_channels=mixes)
    )


@of_layers(
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
)  # fmt: skip
def _pooling(call: Call, time: Derivation) -> Hold:
    return _read(call, time, call.operation.pool_size, 1, mixes_channels=False)


def _read(
    call: Call,
    time: Derivation,
    sizes: int | tuple[int, ...],
    dilations: int | tuple[int, ...],
    *,
    mixes_channels: bool,
) -> Hold:
    """What a layer makes of time that reads several steps at once."""
    layer = call.operation
    window = Window(
        sizes, layer.strides, dilations, layer.padding, layer.data_format, mixes_channels
    )
    return read(call, time, input_of(call), window)


@of_layers(
    layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling3D, layers.GlobalMaxPooling3D,
)  # fmt: skip
def _global_pooling(call: Call, time: Derivation) -> Hold:
    layer, tensor = call.operation, input_of(call)
    rank = len(tensor.shape)
    axes = range(2, rank) if layer.data_format == "channels_first" else range(1, rank - 1)
    return time.join([(tensor, reduced(list(axes), layer.keepdims))])


@of_layers(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _up_sampling(call: Call, time: Derivation) -> Hold:
    layer, hold = call.operation, time.along(input_of(call))
    sizes = [layer.size] if isinstance(layer.size, int) else list(layer.size)
    first = getattr(layer, "data_format", None) == "channels_first"
    index = hold.axis - (2 if first else 1)
    if 0 <= index < len(sizes) and sizes[index] != 1:
        raise Refused(
            f"it makes {sizes[index]} time steps of each, so that the outputs have another rate "
            "than the stream",
            f"Let each step put out {sizes[index]} values as features (`Dense({sizes[index]} * "
            "units)`), and take them apart behind the model.",
        )
    return hold
