"""What each layer of Keras makes of time, by its class and settings.

A subclass counts as its Keras class as long as it has none of that class's methods of its own, but
for the constructor, `build` and what belongs to files and shapes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_stateful.carry.each_step import ForEachStep
from keras_stateful.carry.graph import Call, Masked
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.past import Pad
from keras_stateful.carry.time_axis.along import END, Along, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.convolutions import Window, read
from keras_stateful.carry.time_axis.derivation import Derivation, LinedUp, Rule, merges
from keras_stateful.carry.time_axis.operations import RULES as OPERATIONS
from keras_stateful.carry.time_axis.operations import (
    broadcast,
    check_apart,
    check_not_appended,
    einsum_parts,
    padded,
    positive,
    reduced,
    reshaped,
    stay,
)
from keras_stateful.carry.time_axis.tracing import activated, parts_below
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# The rule of each class.
RULES: dict[type, Rule] = {}


def _layers(*classes: type) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


# Methods that say nothing of what a layer computes
_BESIDE_THE_CALL = {
    "__init__", "build", "get_config", "from_config", "compute_output_shape", "get_build_config",
    "build_from_config", "save_own_variables", "load_own_variables", "count_params", "summary",
}  # fmt: skip


def rule_of_layer(layer: Any) -> Rule | None:
    """The rule of a layer of Keras or of a subclass that computes the same; None for any other."""
    if isinstance(layer, layers.RNN):  # whatever a subclass's call is, it carries the state
        return _recurrent
    for cls in plain_class(type(layer)).__mro__:
        if cls in RULES:
            return RULES[cls]
        if _computes_on_its_own(cls):
            return None
    return None


def _computes_on_its_own(cls: type) -> bool:
    """True if a class is a user's and has methods of its own in the place of Keras's."""
    if cls.__module__.startswith(("keras.", "keras_stateful.")):
        return False
    above = cls.__mro__[1:]
    return any(
        callable(value) and any(name in vars(base) for base in above[:-1])
        for name, value in vars(cls).items()
        if name not in _BESIDE_THE_CALL
    )


def _input(call: Call) -> Tensor:
    """The first argument of a layer, which is a single tensor for most."""
    return tree.flatten(call.args[0] if call.args else next(iter(call.kwargs.values())))[0]


def _activated(call: Call, time: Derivation, hold: Hold) -> Hold:
    """What is left of time behind a layer's activation."""
    activation = getattr(call.operation, "activation", None)
    if activation is None or not isinstance(hold, Along):
        return hold
    return activated(activation, hold, call.outputs[0], time)


# Each value, or each vector of features, alone


@_layers(
    layers.ActivityRegularization, layers.AlphaDropout, layers.Dropout, layers.ELU,
    layers.GaussianDropout, layers.GaussianNoise, layers.Identity, layers.LeakyReLU, layers.ReLU,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.Embedding,
    layers.Discretization, layers.Hashing,
)  # fmt: skip
def _each_value(call: Call, time: Derivation) -> Hold:
    return time.join([(_input(call), stay)])


@_layers(layers.IntegerLookup, layers.StringLookup, layers.CategoryEncoding)
def _looked_up(call: Call, time: Derivation) -> Hold:
    """Ids, or vectors: of each value alone, or of all values of the last axis."""
    tensor, mode = _input(call), call.operation.output_mode
    rank = len(tensor.shape)
    of_each = mode == "int" or (mode == "one_hot" and len(call.outputs[0].shape) > rank)
    return time.join([(tensor, stay if of_each else reduced([rank - 1], keepdims=True))])


@_layers(layers.Activation)
def _activation(call: Call, time: Derivation) -> Hold:
    return _activated(call, time, time.join([(_input(call), stay)]))


@_layers(layers.Rescaling)
def _rescaling(call: Call, time: Derivation) -> Hold:
    tensor, layer = _input(call), call.operation
    rank = len(tensor.shape)
    numbers = [np.asarray(layer.scale), np.asarray(layer.offset)]
    return time.join([(t, broadcast(t, rank)) for t in (tensor, *numbers)])


@_layers(layers.PReLU)
def _prelu(call: Call, time: Derivation) -> Hold:
    tensor, slopes = _input(call), call.operation.alpha
    return time.join([(tensor, stay), (slopes, broadcast(slopes, len(tensor.shape)))])


@_layers(
    layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract
)
def _several(call: Call, time: Derivation) -> Hold:
    rank = len(call.outputs[0].shape)
    return time.join([(t, broadcast(t, rank)) for t in call.tensors])


@_layers(layers.Concatenate)
def _concatenate(call: Call, time: Derivation) -> Hold:
    hold = time.join([(t, stay) for t in call.tensors])
    check_not_appended(hold, call.operation.axis, len(call.outputs[0].shape))
    return hold


# Features computed from each other


@_layers(layers.Dense)
def _dense(call: Call, time: Derivation) -> Hold:
    tensor = _input(call)
    last = len(tensor.shape) - 1
    hold = time.join([(tensor, reduced([last], keepdims=True))])
    return _activated(call, time, hold)


@_layers(layers.EinsumDense)
def _einsum_dense(call: Call, time: Derivation) -> Hold:
    layer, tensor = call.operation, _input(call)
    parts = list(einsum_parts(layer.equation, [tensor, layer.kernel]))
    if layer.bias is not None:
        parts.append((layer.bias, broadcast(layer.bias, len(call.outputs[0].shape))))
    return _activated(call, time, time.join(parts))


@_layers(layers.Masking)
def _masking(call: Call, time: Derivation) -> Hold:
    return _apart_from(call, time, -1)


@_layers(Masked)
def _masked(call: Call, time: Derivation) -> Hold:
    return _masked_by(call.args[0], call.kwargs["mask"], time)


def _masked_by(tensor: Tensor, mask: Tensor, time: Derivation) -> Along | Repeated:
    """What is left of a tensor with a mask `(batch, time)`, whose steps are laid upon its own."""
    return time.join([(part, stay) for part in (tensor, *tree.flatten(mask))])


@_layers(
    layers.Softmax, layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization
)
def _along_axes(call: Call, time: Derivation) -> Hold:
    return _apart_from(call, time, call.operation.axis)


def _apart_from(call: Call, time: Derivation, axes: int | Sequence[int]) -> Hold:
    """Values of some axes are computed from each other."""
    tensor = _input(call)
    hold = time.join([(tensor, stay)])
    check_apart(hold, axes, len(tensor.shape))
    return hold


@_layers(layers.BatchNormalization, layers.Normalization)
def _statistics(call: Call, time: Derivation) -> Hold:
    """Some axes have statistics of their own, which were gathered before."""
    tensor, axes = _input(call), call.operation.axis
    hold = time.join([(tensor, stay)])
    if axes is not None and hold.axis in positive(axes, len(tensor.shape)):
        raise Refused(
            "it has a mean and a variance of its own for each time step of a window, and a stream "
            "has no such number of steps",
            "Give it `axis=-1`, the features.",
        )
    return hold


@_layers(layers.GroupNormalization)
def _group_normalization(call: Call, time: Derivation) -> Hold:
    raise Refused(
        "it normalises over the time steps of a window",
        "Use `LayerNormalization`, which normalises each step alone.",
    )


@_layers(layers.SpectralNormalization)
def _wrapped(call: Call, time: Derivation) -> Hold | list[Hold]:
    inner = call._replace(operation=call.operation.layer)
    return time.rule_of(inner)(inner, time)


@_layers(layers.Dot)
def _dot(call: Call, time: Derivation) -> Hold:
    a, b = call.tensors
    rank_a, rank_b = len(a.shape), len(b.shape)
    axes = call.operation.axes
    axis_a, axis_b = (axes, axes) if isinstance(axes, int) else axes
    to_a = reduced([axis_a % rank_a], keepdims=False)
    to_b = reduced([axis_b % rank_b], keepdims=False)

    def behind(axis: int) -> int | None:  # the batch, then the rest of a, then the rest of b
        to = to_b(axis)
        return to if not to else to + rank_a - 2

    return time.join([(a, to_a), (b, behind)])


# Axes in another order


@_layers(layers.Permute)
def _permute(call: Call, time: Derivation) -> Hold:
    order = [0, *call.operation.dims]
    return time.join([(_input(call), order.index)])


@_layers(layers.Reshape, layers.Flatten)
def _reshape(call: Call, time: Derivation) -> Hold:
    tensor = _input(call)
    # These leave the batch alone. The outputs in a sub-model do not say how large it is.
    rows, *sizes = tensor.shape
    return reshaped(time.of(tensor), (rows, *sizes), (rows, *call.outputs[0].shape[1:]))


@_layers(layers.RepeatVector)
def _repeat_vector(call: Call, time: Derivation) -> Hold:
    raise Refused(
        "it takes the time steps of a window for the features of one step", keeps_axis=False
    )


# Steps put in front, behind, cut off, read together


@_layers(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def _padding(call: Call, time: Derivation) -> Hold:
    tensor = _input(call)
    pads = _ends(call, time, tensor, call.operation.padding)
    return padded(call, time, tensor, *pads) if any(pads) else time.along(tensor)


@_layers(*ForEachStep.__subclasses__())
def _for_each_step(call: Call, time: Derivation) -> Hold:
    return time.of(_input(call))  # put in by a conversion, which the next one leaves out


@_layers(Pad)
def _pad(call: Call, time: Derivation) -> Hold | list[Hold]:
    return OPERATIONS["Pad"](call, time)


@_layers(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
def _cropping(call: Call, time: Derivation) -> Hold:
    tensor = _input(call)
    return time.along(tensor).cut(*_ends(call, time, tensor, call.operation.cropping))


def _ends(call: Call, time: Derivation, tensor: Tensor, sizes: tuple) -> tuple[int, int]:
    """What is put in front of time and behind it, or cut off, of the sizes for all axes."""
    pairs = [sizes] if isinstance(sizes[0], int) else list(sizes)
    first = getattr(call.operation, "data_format", None) == "channels_first"
    index = time.along(tensor).axis - (2 if first else 1)
    return tuple(pairs[index]) if 0 <= index < len(pairs) else (0, 0)


@_layers(
    layers.Conv1D, layers.Conv2D, layers.Conv3D,
    layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip
def _convolution(call: Call, time: Derivation) -> Hold:
    layer = call.operation
    window = Window(
        sizes=layer.kernel_size,
        strides=layer.strides,
        dilations=layer.dilation_rate,
        padding=layer.padding,
        data_format=layer.data_format,
        mixes_channels=not isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)),
    )
    return _activated(call, time, read(call, time, _input(call), window))


@_layers(
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
)  # fmt: skip
def _pooling(call: Call, time: Derivation) -> Hold:
    layer = call.operation
    window = Window(
        sizes=layer.pool_size,
        strides=layer.strides,
        dilations=1,
        padding=layer.padding,
        data_format=layer.data_format,
        mixes_channels=False,
    )
    return read(call, time, _input(call), window)


@_layers(
    layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling3D, layers.GlobalMaxPooling3D,
)  # fmt: skip
def _global_pooling(call: Call, time: Derivation) -> Hold:
    layer, tensor = call.operation, _input(call)
    rank = len(tensor.shape)
    axes = range(2, rank) if layer.data_format == "channels_first" else range(1, rank - 1)
    return time.join([(tensor, reduced(list(axes), layer.keepdims))])


@_layers(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _up_sampling(call: Call, time: Derivation) -> Hold:
    layer, hold = call.operation, time.along(_input(call))
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


# Whole layers at each step


@_layers(layers.TimeDistributed)
def _time_distributed(call: Call, time: Derivation) -> Hold:
    tensor = _input(call)
    if any(getattr(part, "stateful", False) for part in parts_below(call.operation)):
        raise Refused(
            "the stateful layer inside it would carry state from slice to slice of one call",
            "Give that layer `stateful=False`.",
        )
    hold = time.join([(t, stay) for t in call.tensors if t is tensor])
    if hold.axis != 1:
        raise Refused(f"it runs along axis 1, and time is axis {hold.axis}")
    return hold


# What attends


@_layers(layers.MultiHeadAttention, layers.GroupQueryAttention)
def _multi_head(call: Call, time: Derivation) -> list[Hold]:
    query = call.argument(0, "query")
    value = call.argument(1, "value")
    key = call.argument(2, "key")
    hold = _attention(call, time, query, [value, value if key is None else key])
    return [hold, *[hold.at(2)] * (len(call.outputs) - 1)]  # behind it come the scores


def _attention(
    call: Call, time: Derivation, query: Tensor, values: list[Tensor]
) -> Along | Repeated:
    """What attention puts out for each query."""
    causal = bool(call.argument(9, "use_causal_mask"))
    window = keras_internals.sliding_window(call.operation)
    if not any(isinstance(time.of(t), Along) for t in values):  # the same memory for each query
        if causal or window:
            raise _NotOfEachStep(values[0])
        return time.along(query)
    if not isinstance(time.of(query), Along):
        raise _NotOfEachStep(query) if causal or window else merges()
    hold = time.join([(t, stay) for t in (query, *values)])
    if not (causal and window):
        raise Refused(
            "it attends within the window alone" if causal else "it attends to later steps as well",
            _BOUNDED if keras_internals.has_sliding_window(call.operation) else _NO_SLIDING_WINDOW,
        )
    _check_attends_step_by_step(call, hold)
    if window == 1 or isinstance(hold, Repeated):
        return hold
    if hold.lead and not time.searching:
        raise misplaced(time, query)
    return time.hold(call, values[0], window - 1).padded(window - 1, 0).read_back(window - 1)


class _NotOfEachStep(LinedUp):
    """One of query and value has no time, and the mask lays them upon each other step by step."""

    def __init__(self, tensor: Tensor):
        super().__init__(tensor, 1)
        self.why = "it masks what a query may read by the query's place in the window"
        self.remedy = (
            "Leave `use_causal_mask` and `sliding_window` out: what it attends to has no time."
        )


_BOUNDED = (
    "Bound its memory: `sliding_window=` of the layer and `use_causal_mask=True` of its call; it "
    "then reads that many steps back, and carries them."
)
_NO_SLIDING_WINDOW = (
    "Its memory must be bounded, with `sliding_window=` of the layer, which Keras has since 3.15. "
    f"Received: Keras {keras.__version__}."
)


def _check_attends_step_by_step(call: Call, hold: Along | Repeated) -> None:
    """Checks that attention with a bounded memory can hold what it attends to.

    Raises:
        Refused: an argument that says something for each pair of steps of a window; other axes.
    """
    pairs = "one value for each pair of steps of a window, and a step reads others as well"
    query, axes = call.argument(0, "query"), call.operation.get_config().get("attention_axes")
    if call.argument(6, "attention_mask") is not None:
        raise Refused(
            f"its `attention_mask` has {pairs}",
            "Leave it out: the masks of its inputs (`Masking`, `mask_zero=True`) say which steps "
            "are not to be read.",
        )
    if call.argument(7, "return_attention_scores"):
        raise Refused(
            f"its scores have {pairs}", "Leave `return_attention_scores` out of this model."
        )
    if hold.axis != 1 or len(query.shape) != 3 or tuple(axes or (1,)) not in ((1,), (-2,)):
        raise Refused(
            f"it reads {tuple(query.shape)}, and attends along more than time, or along another "
            "axis than 1",
            "Give it `(batch, time, features)`, without `attention_axes`.",
        )


@_layers(layers.Attention, layers.AdditiveAttention)
def _attention_layer(call: Call, time: Derivation) -> list[Hold]:
    query, *values = tree.flatten(call.args[0] if call.args else call.kwargs["inputs"])
    if not any(isinstance(time.of(t), Along) for t in values):
        hold = time.along(query)
        if call.kwargs.get("use_causal_mask"):
            raise Refused("it masks what a query may read by the query's place in the window")
        return [hold, *[hold] * (len(call.outputs) - 1)]
    if not isinstance(time.of(query), Along):
        raise merges()
    raise Refused(
        "it attends within the window alone",
        "Use `MultiHeadAttention(..., sliding_window=n)` with `use_causal_mask=True`, which reads "
        "n steps back and carries them.",
    )


# What runs along time


@_layers(layers.Bidirectional)
def _bidirectional(call: Call, time: Derivation) -> Hold:
    raise Refused(
        "its backward half reads the window from the end, where the next window is not known yet",
        "Use its forward layer alone; or feed what it is to know of later steps as an input of "
        "its own.",
        keeps_axis=call.operation.return_sequences,
    )


def _recurrent(call: Call, time: Derivation) -> list[Hold]:
    layer, sequences = call.operation, call.sequences
    if not isinstance(time.of(sequences), Along):
        raise Refused("time reaches its initial state alone, as features", keeps_axis=False)
    hold = _runs_along(call, time, sequences)
    if call.initial_state is not None:
        time.initial_state_given.add(call.path)
    if layer.go_backwards and time.carries(call.path):
        raise Refused(
            "it reads each window from the end, where the next window is not known yet",
            "Give it `go_backwards=False`.",
        )
    if (mask := call.argument(2, "mask")) is not None:
        masked = _masked_by(sequences, mask, time)
        hold = masked if isinstance(masked, Along) else hold
    output: Hold = hold._replace(past=None) if layer.return_sequences else END
    return [output, *[END] * (len(call.outputs) - 1)]  # its states come behind


def carried_by_adapter(call: Call, time: Derivation) -> list[Hold]:
    """A layer that is told how to carry; see `adapters`."""
    along = [t for t in call.tensors if isinstance(time.of(t), Along)]
    for tensor in along:
        hold = _runs_along(call, time, tensor, count=tensor is along[0])
    steps = {t.shape[1] for t in along}
    behind = hold._replace(past=None)
    return [behind if len(t.shape) > 1 and t.shape[1] in steps else END for t in call.outputs]


def _runs_along(call: Call, time: Derivation, tensor: Tensor, count: bool = True) -> Along:
    """What a layer reads that has a state of its own: the steps of the window, no others."""
    hold = time.along(tensor)
    if hold.axis != 1:
        raise Refused(
            f"it runs along axis 1, and time is axis {hold.axis} of what it reads",
            "Put time back to axis 1 in front of it (`Permute`).",
        )
    if hold.lead and not time.searching:
        raise misplaced(time, tensor)
    time.check_not_ahead(hold)
    if count:
        time.count(call)
        if call.path not in time.recurrent:
            time.recurrent.append(call.path)
    return hold


def misplaced(time: Derivation, tensor: Tensor) -> Refused:
    """The refusal of a tensor that has more or fewer steps than the window."""
    lead = time.along(tensor).lead
    if lead > 0:
        return Refused(
            f"it is given {lead} steps from before the window, which are no part of the stream "
            "again",
            f"Let what reads the padding use it up: pad {lead} steps fewer in front, or cut them "
            f"off (`[:, {lead}:]`).",
        )
    path = time.shortened[id(tensor)].path
    return Refused(
        f"`{path}` reads {-lead} steps in front of each window that are not there, and leaves them "
        "out",
        f"Put them there: `ZeroPadding1D(({-lead}, 0))` in front of `{path}`"
        ' (the padding holds the past), or `padding="causal"` for a `Conv1D`.',
    )
