"""What each layer of Keras makes of time, by its class and settings.

A subclass counts as its Keras class as long as it has none of that class's methods of its own, but
for the constructor, `build` and what belongs to files and shapes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, tree

from keras_stateful.carry.graph import Call, Masked
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.time_axis.along import END, Along, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.derivation import Derivation, Rule
from keras_stateful.carry.time_axis.rules import (
    LAYERS,
    broadcast,
    input_of,
    misplaced,
    of_layers,
    positive,
    reduced,
    stay,
    with_activation,
)
from keras_stateful.carry.time_axis.shape_operations import (
    check_not_appended,
    reshaped,
)
from keras_stateful.carry.time_axis.tracing import (
    parts_below,
)
from keras_stateful.carry.time_axis.value_operations import (
    check_apart,
    einsum_parts,
)
from keras_stateful.foundation.types import Tensor

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
        if cls in LAYERS:
            return LAYERS[cls]
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


# Each value, or each vector of features, alone


@of_layers(
    layers.ActivityRegularization, layers.AlphaDropout, layers.Dropout, layers.ELU,
    layers.GaussianDropout, layers.GaussianNoise, layers.Identity, layers.LeakyReLU, layers.ReLU,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.Embedding,
    layers.Discretization, layers.Hashing,
)  # fmt: skip
def _each_value(call: Call, time: Derivation) -> Hold:
    return time.join([(input_of(call), stay)])


@of_layers(layers.IntegerLookup, layers.StringLookup, layers.CategoryEncoding)
def _looked_up(call: Call, time: Derivation) -> Hold:
    """Ids, or vectors: of each value alone, or of all values of the last axis."""
    tensor, mode = input_of(call), call.operation.output_mode
    rank = len(tensor.shape)
    of_each = mode == "int" or (mode == "one_hot" and len(call.outputs[0].shape) > rank)
    return time.join([(tensor, stay if of_each else reduced([rank - 1], keepdims=True))])


@of_layers(layers.Activation)
def _activation(call: Call, time: Derivation) -> Hold:
    return with_activation(call, time, time.join([(input_of(call), stay)]))


@of_layers(layers.Rescaling)
def _rescaling(call: Call, time: Derivation) -> Hold:
    tensor, layer = input_of(call), call.operation
    rank = len(tensor.shape)
    numbers = [np.asarray(layer.scale), np.asarray(layer.offset)]
    return time.join([(t, broadcast(t, rank)) for t in (tensor, *numbers)])


@of_layers(layers.PReLU)
def _prelu(call: Call, time: Derivation) -> Hold:
    tensor, slopes = input_of(call), call.operation.alpha
    return time.join([(tensor, stay), (slopes, broadcast(slopes, len(tensor.shape)))])


@of_layers(
    layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract
)
def _several(call: Call, time: Derivation) -> Hold:
    rank = len(call.outputs[0].shape)
    return time.join([(t, broadcast(t, rank)) for t in call.tensors])


@of_layers(layers.Concatenate)
def _concatenate(call: Call, time: Derivation) -> Hold:
    hold = time.join([(t, stay) for t in call.tensors])
    check_not_appended(hold, call.operation.axis, len(call.outputs[0].shape))
    return hold


# Features computed from each other


@of_layers(layers.Dense)
def _dense(call: Call, time: Derivation) -> Hold:
    tensor = input_of(call)
    last = len(tensor.shape) - 1
    hold = time.join([(tensor, reduced([last], keepdims=True))])
    return with_activation(call, time, hold)


@of_layers(layers.EinsumDense)
def _einsum_dense(call: Call, time: Derivation) -> Hold:
    layer, tensor = call.operation, input_of(call)
    parts = list(einsum_parts(layer.equation, [tensor, layer.kernel]))
    if layer.bias is not None:
        parts.append((layer.bias, broadcast(layer.bias, len(call.outputs[0].shape))))
    return with_activation(call, time, time.join(parts))


@of_layers(layers.Masking)
def _masking(call: Call, time: Derivation) -> Hold:
    return _apart_from(call, time, -1)


@of_layers(Masked)
def _masked(call: Call, time: Derivation) -> Hold:
    return _masked_by(call.args[0], call.kwargs["mask"], time)


def _masked_by(tensor: Tensor, mask: Tensor, time: Derivation) -> Along | Repeated:
    """What is left of a tensor with a mask `(batch, time)`, whose steps are laid upon its own."""
    return time.join([(part, stay) for part in (tensor, *tree.flatten(mask))])


@of_layers(
    layers.Softmax, layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization
)
def _along_axes(call: Call, time: Derivation) -> Hold:
    return _apart_from(call, time, call.operation.axis)


def _apart_from(call: Call, time: Derivation, axes: int | Sequence[int]) -> Hold:
    """Values of some axes are computed from each other."""
    tensor = input_of(call)
    hold = time.join([(tensor, stay)])
    check_apart(hold, axes, len(tensor.shape))
    return hold


@of_layers(layers.BatchNormalization, layers.Normalization)
def _statistics(call: Call, time: Derivation) -> Hold:
    """Some axes have statistics of their own, which were gathered before."""
    tensor, axes = input_of(call), call.operation.axis
    hold = time.join([(tensor, stay)])
    if axes is not None and hold.axis in positive(axes, len(tensor.shape)):
        raise Refused(
            "it has a mean and a variance of its own for each time step of a window, and a stream "
            "has no such number of steps",
            "Give it `axis=-1`, the features.",
        )
    return hold


@of_layers(layers.GroupNormalization)
def _group_normalization(call: Call, time: Derivation) -> Hold:
    raise Refused(
        "it normalises over the time steps of a window",
        "Use `LayerNormalization`, which normalises each step alone.",
    )


@of_layers(layers.SpectralNormalization)
def _wrapped(call: Call, time: Derivation) -> Hold | list[Hold]:
    inner = call._replace(operation=call.operation.layer)
    return time.rule_of(inner)(inner, time)


@of_layers(layers.Dot)
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


@of_layers(layers.Permute)
def _permute(call: Call, time: Derivation) -> Hold:
    order = [0, *call.operation.dims]
    return time.join([(input_of(call), order.index)])


@of_layers(layers.Reshape, layers.Flatten)
def _reshape(call: Call, time: Derivation) -> Hold:
    tensor = input_of(call)
    # These leave the batch alone. The outputs in a sub-model do not say how large it is.
    rows, *sizes = tensor.shape
    return reshaped(time.of(tensor), (rows, *sizes), (rows, *call.outputs[0].shape[1:]))


@of_layers(layers.RepeatVector)
def _repeat_vector(call: Call, time: Derivation) -> Hold:
    raise Refused(
        "it takes the time steps of a window for the features of one step", keeps_axis=False
    )


# Whole layers at each step


@of_layers(layers.TimeDistributed)
def _time_distributed(call: Call, time: Derivation) -> Hold:
    tensor = input_of(call)
    if any(getattr(part, "stateful", False) for part in parts_below(call.operation)):
        raise Refused(
            "the stateful layer inside it would carry state from slice to slice of one call",
            "Give that layer `stateful=False`.",
        )
    hold = time.join([(t, stay) for t in call.tensors if t is tensor])
    if hold.axis != 1:
        raise Refused(f"it runs along axis 1, and time is axis {hold.axis}")
    return hold


# What runs along time


@of_layers(layers.Bidirectional)
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
