"""What each operation of `keras.ops` makes of time: a rule for each family of them.

An operation that is in no family is not known, and whoever uses it on time steps is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from keras import tree

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.convolutions import Window, read
from keras_stateful.carry.time_axis.derivation import Axes, Derivation, Rule, merges
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# The rule of each operation, by its name.
RULES: dict[str, Rule] = {}


def _operations(names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def _settings(call: Call) -> dict[str, Any]:
    return keras_internals.settings_of(call.operation)


def _first(call: Call) -> Tensor:
    """The first argument, which is the tensor that most operations are about."""
    return tree.flatten((call.args, call.kwargs))[0]


def positive(axis: int | Iterable[int], rank: int) -> list[int]:
    """Axes as numbers from 0 on."""
    axes = [axis] if isinstance(axis, (int, np.integer)) else axis
    return [int(a) % rank for a in axes]


def stay(axis: int) -> int:
    """Axes of an output that has those of its input."""
    return axis


def broadcast(tensor: Tensor, rank: int) -> Callable[[int], int]:
    """Axes of a tensor where shapes are laid upon each other from the last axis on."""
    offset = rank - len(tensor.shape)
    return lambda axis: axis + offset


def reduced(axes: Sequence[int], keepdims: bool) -> Axes:
    """Axes where some are merged into one value."""

    def to(axis: int) -> int | None:
        if axis in axes:
            return None
        return axis if keepdims else axis - sum(a < axis for a in axes)

    return to


# Values alone


@_operations(
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
    "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink "
    "Threshold ReLU Mish BinaryCrossentropy Polar "
    "Absolute Fabs Add Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Heaviside "
    "BitwiseAnd BitwiseInvert BitwiseNot BitwiseOr BitwiseXor BitwiseLeftShift LeftShift "
    "BitwiseRightShift RightShift Cbrt Ceil Clip Conjugate Copy Cos Cosh Deg2rad Rad2deg "
    "EmptyLike Equal Exp Exp2 Expm1 Floor FullLike Gcd Greater GreaterEqual Hypot Imag I0 Isclose "
    "Isfinite Isinf Isnan Isneginf Isposinf Isreal Lcm Ldexp Less LessEqual Log Log10 Log1p Log2 "
    "Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Fmax Minimum Fmin Mod "
    "Fmod NanToNum NotEqual OnesLike ZerosLike Real Reciprocal Round Sign Signbit Sin Sinc Sinh "
    "Tan Tanh Trunc Where Subtract Multiply Divide DivideNoNan TrueDivide Power Negative Nextafter "
    "Square Sqrt FloorDivide Select "
    "Rsqrt Erf Erfc Erfinv StopGradient Cast SaturateCast ConvertToTensor"
)
def _each_value(call: Call, time: Derivation) -> Hold:
    rank = len(call.outputs[0].shape)
    if _is(call, "Where") and call.argument(1, "x1") is None:
        raise unknown(call)  # it counts where the condition holds
    parts = [tensor for a in (*call.args, *call.kwargs.values()) for tensor in _tensors_in(a)]
    return time.join([(tensor, broadcast(tensor, rank)) for tensor in parts])


def _tensors_in(argument: Any) -> list[Tensor]:
    """The tensors and arrays in an argument; numbers in lists are an array, too."""
    if hasattr(argument, "shape"):
        return [argument]
    if not isinstance(argument, (list, tuple)):
        return []
    if any(hasattr(part, "shape") for part in tree.flatten(argument)):
        return [part for part in tree.flatten(argument) if hasattr(part, "shape")]
    return [np.asarray(argument)]


@_operations("Digitize SearchSorted IsIn")
def _looked_up(call: Call, time: Derivation) -> Hold:
    """Each value is looked up among others, which are the same for all."""
    values = call.args[1] if _is(call, "SearchSorted") else call.args[0]
    for other in tree.flatten((call.args, call.kwargs)):
        if other is not values and isinstance(time.of(other), Along):
            raise merges()
    return time.join([(values, stay)])


def _is(call: Call, name: str) -> bool:
    return keras_internals.operation_name(call.operation) == name


# Several values to one, and values beside each other


@_operations(
    "All Any Amax Amin Argmax Argmin CountNonzero Max Mean Median Min Prod Std Sum Var Ptp "
    "Nanargmax Nanargmin Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum Nanvar "
    "Logsumexp Norm Moments"
)
def _merge(call: Call, time: Derivation) -> Hold:
    settings = _settings(call)
    tensor = _first(call)
    axes = settings.get("axis", settings.get("axes"))
    rank = len(tensor.shape)
    axes = range(rank) if axes is None else positive(axes, rank)
    return time.join([(tensor, reduced(axes, settings.get("keepdims", False)))])


@_operations("Average")
def _average(call: Call, time: Derivation) -> Hold:
    tensor, weights = call.args[0], call.argument(1, "weights")
    rank, axis = len(tensor.shape), _settings(call)["axis"]
    axes = range(rank) if axis is None else positive(axis, rank)
    parts = [(tensor, reduced(axes, False))]
    if weights is not None and len(weights.shape) == rank:
        parts.append((weights, reduced(axes, False)))
    elif isinstance(time.of(weights), Along):
        raise merges()
    return time.join(parts)


@_operations(
    "Softmax LogSoftmax Sparsemax Cumsum Cumprod Nancumsum Nancumprod Sort Argsort Argpartition "
    "Flip Normalize RMSNorm LayerNorm BatchNorm TopK Glu"
)
def _along_axis(call: Call, time: Derivation) -> Hold:
    """Values of one axis are computed from each other."""
    axis = _settings(call).get("axis", -1)
    tensor = _first(call)
    hold = time.join([(tensor, stay)])
    check_apart(hold, axis, len(tensor.shape))
    return hold


def check_apart(hold: Hold, axes: int | Iterable[int] | None, rank: int) -> None:
    """Refuses what computes values of some axes from each other, if time is among them."""
    if isinstance(hold, Along) and (axes is None or hold.axis in positive(axes, rank)):
        raise Refused(
            "it computes each time step from all others of the window (axis "
            f"{hold.axis}), across which windows are cut",
            "Let it run along the features alone (`axis=-1` of `(batch, time, features)`).",
        )


@_operations("Roll")
def _roll(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), _first(call)
    hold = time.join([(tensor, stay)])
    axis = settings["axis"]
    if axis is None or hold.axis in positive(axis, len(tensor.shape)):
        raise Refused(
            "it takes the steps that it rolls out of the window in again at its other end",
            "For the value n steps before, write "
            "`ops.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :-n]`: the padding holds the past.",
        )
    return hold


@_operations("Diff")
def _differences(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), _first(call)
    hold = time.along(tensor)
    if hold.axis in positive(settings["axis"], len(tensor.shape)):
        return hold.read_back(settings["n"])
    return hold


# Products


@_operations("Matmul Dot")
def _matmul(call: Call, time: Derivation) -> Hold:
    a, b = call.args
    rank_a, rank_b = len(a.shape), len(b.shape)
    if min(rank_a, rank_b) < 1 or (_is(call, "Dot") and rank_b > 2):
        raise unknown(call)
    rank = len(call.outputs[0].shape)
    summed = max(rank_b - 2, 0)  # of b; of a it is the last
    more = int(rank_b > 1)  # axes of b behind those of a

    def of_a(axis: int) -> int | None:
        return None if axis == rank_a - 1 else axis + rank - more - (rank_a - 1)

    def of_b(axis: int) -> int | None:
        if axis == summed:
            return None
        return rank - 1 if axis == rank_b - 1 else axis + rank - rank_b

    return time.join([(a, of_a), (b, of_b)])


@_operations("Tensordot")
def _tensordot(call: Call, time: Derivation) -> Hold:
    a, b = call.args
    rank_a, rank_b = len(a.shape), len(b.shape)
    axes = _settings(call)["axes"]
    if isinstance(axes, int):
        axes = (range(rank_a - axes, rank_a), range(axes))
    summed_a, summed_b = positive(axes[0], rank_a), positive(axes[1], rank_b)
    of_b = reduced(summed_b, False)

    def behind(axis: int) -> int | None:
        to = of_b(axis)
        return None if to is None else to + rank_a - len(summed_a)

    return time.join([(a, reduced(summed_a, False)), (b, behind)])


@_operations("Einsum")
def _einsum(call: Call, time: Derivation) -> Hold:
    return time.join(list(einsum_parts(_settings(call)["subscripts"], call.args)))


def einsum_parts(equation: str, operands: Sequence[Tensor]) -> Iterable[tuple[Tensor, Axes]]:
    """The operands of an einsum, each with where its axes go."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left) - set(",."))
        right = ("..." if "..." in left else "") + "".join(c for c in letters if left.count(c) == 1)
    # Axes under the dots are numbered from the last, so that they are laid upon each other.
    ranks = [len(t.shape) for t in operands]
    dots = max(r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True))
    to = _labels(right, len(right.replace("...", "")) + dots)
    for tensor, term, rank in zip(operands, terms, ranks, strict=True):
        yield tensor, _by_labels(_labels(term, rank), to)


def _labels(term: str, rank: int) -> list[str | int]:
    """What the axes of an operand are called; under the dots -1 is the last, -2 that before."""
    before, _, after = term.partition("...")
    if "..." not in term:
        return list(term)
    under = rank - len(before) - len(after)
    return [*before, *range(-under, 0), *after]


def _by_labels(labels: list[str | int], of_output: list[str | int]) -> Axes:
    """Axes that go where an output has the same label."""

    def to(axis: int) -> int | None:
        return of_output.index(labels[axis]) if labels[axis] in of_output else None

    return to


# Axes in another order, or others


@_operations("Concatenate")
def _concatenate(call: Call, time: Derivation) -> Hold:
    tensors = tree.flatten(call.args[0])
    hold = time.join([(t, stay) for t in tensors])
    check_not_appended(hold, _settings(call)["axis"], len(tensors[0].shape))
    return hold


def check_not_appended(hold: Hold, axis: int, rank: int) -> None:
    """Refuses what puts steps in front of a window or behind it."""
    if isinstance(hold, Along) and hold.axis == axis % rank:
        raise Refused(
            "it joins its inputs one behind the other along time, where the next window follows",
            "Zeros in front of a stream come from a padding, which holds the past "
            "(`ZeroPadding1D((n, 0))`, `ops.pad`); inputs beside each other are joined with "
            "`axis=-1`.",
        )


@_operations("Stack")
def _stack(call: Call, time: Derivation) -> Hold:
    tensors = tree.flatten(call.args[0])
    new = _settings(call)["axis"] % (len(tensors[0].shape) + 1)
    return time.join([(t, lambda axis: axis + (axis >= new)) for t in tensors])


@_operations("Split ArraySplit")
def _split(call: Call, time: Derivation) -> Hold:
    return _apart(call, time, stay)


@_operations("Unstack")
def _unstack(call: Call, time: Derivation) -> Hold:
    axis = _settings(call)["axis"] % len(_first(call).shape)
    return _apart(call, time, lambda a: a - (a > axis))


def _apart(call: Call, time: Derivation, axes: Axes) -> Hold:
    """One tensor is taken apart along an axis."""
    tensor = _first(call)
    hold = time.join([(tensor, stay)])
    if hold.axis == _settings(call)["axis"] % len(tensor.shape):
        raise Refused("it takes the time steps of a window apart", keeps_axis=False)
    return time.join([(tensor, axes)])


@_operations("ExpandDims")
def _expand(call: Call, time: Derivation) -> Hold:
    rank = len(_first(call).shape)
    new = positive(_settings(call)["axis"], rank + 1)

    def to(axis: int) -> int:
        return [a for a in range(rank + len(new)) if a not in new][axis]

    return time.join([(_first(call), to)])


@_operations("Squeeze")
def _squeeze(call: Call, time: Derivation) -> Hold:
    tensor = _first(call)
    axis = _settings(call)["axis"]
    gone = [a for a, size in enumerate(tensor.shape) if size == 1] if axis is None else axis
    return time.join([(tensor, reduced(positive(gone, len(tensor.shape)), False))])


@_operations("Transpose")
def _transpose(call: Call, time: Derivation) -> Hold:
    tensor, axes = _first(call), _settings(call)["axes"]
    rank = len(tensor.shape)
    order = list(range(rank))[::-1] if axes is None else positive(axes, rank)
    return time.join([(tensor, order.index)])


@_operations("Swapaxes")
def _swap(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), _first(call)
    a, b = positive((settings["axis1"], settings["axis2"]), len(tensor.shape))
    return time.join([(tensor, lambda axis: {a: b, b: a}.get(axis, axis))])


@_operations("Moveaxis")
def _move(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), _first(call)
    rank = len(tensor.shape)
    sources = positive(settings["source"], rank)
    targets = positive(settings["destination"], rank)
    order = [a for a in range(rank) if a not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return time.join([(tensor, order.index)])


@_operations("Reshape Ravel")
def _reshape(call: Call, time: Derivation) -> Hold:
    tensor = _first(call)
    return reshaped(time.of(tensor), tensor.shape, call.outputs[0].shape)


def reshaped(hold: Hold, old: tuple, new: tuple) -> Hold:
    """What a tensor holds that was given another shape, of which time must be one axis again."""
    if not isinstance(hold, (Along, Repeated)):
        return None
    # The batch stays alone if it has the same size, or if all sizes behind it make up the same.
    batch_is_alone = old[0] == new[0] or old[hold.axis] is not None
    before, after = old[1 : hold.axis], old[hold.axis + 1 :]
    for axis in range(1, len(new)):
        same_size = batch_is_alone and new[axis] == old[hold.axis]
        if same_size and _same(before, new[1:axis]) and _same(after, new[axis + 1 :]):
            return hold.at(axis)
    raise Refused(
        f"it makes other axes {_words(new)} of {_words(old)}, of which axis {hold.axis} is time, "
        "and mixes the time steps with them",
        "Leave time an axis of its own: `Reshape((-1, ...))` with the sizes behind time, or "
        "`TimeDistributed(Reshape(...))`.",
        keeps_axis=len(new) == len(old),
    )


def _same(old: tuple, new: tuple) -> bool:
    """True if two groups of axes hold as many values."""
    if None in old or None in new:
        return old == new
    return int(np.prod(old)) == int(np.prod(new))


def _words(shape: tuple) -> str:
    return "(" + ", ".join("None" if size is None else str(size) for size in shape) + ")"


@_operations("BroadcastTo")
def _broadcast_to(call: Call, time: Derivation) -> Hold:
    tensor = _first(call)
    hold = time.along(tensor)
    axes = broadcast(tensor, len(call.outputs[0].shape))
    if call.outputs[0].shape[axes(hold.axis)] != tensor.shape[hold.axis]:
        raise Refused("it repeats time steps")
    return time.join([(tensor, axes)])


@_operations("Tile")
def _tile(call: Call, time: Derivation) -> Hold:
    tensor, repeats = _first(call), _settings(call)["repeats"]
    rank = len(call.outputs[0].shape)
    repeats = (repeats,) if isinstance(repeats, int) else tuple(repeats)
    hold = time.join([(tensor, broadcast(tensor, rank))])
    if ((1,) * (rank - len(repeats)) + repeats)[hold.axis] != 1:
        raise Refused("it repeats the steps of a window")
    return hold


@_operations("Repeat")
def _repeat(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), _first(call)
    hold = time.join([(tensor, stay)])
    if settings["axis"] is None or hold.axis == settings["axis"] % len(tensor.shape):
        raise Refused("it repeats time steps, so that a window has more of them than the stream")
    return hold


@_operations("OneHot")
def _one_hot(call: Call, time: Derivation) -> Hold:
    rank = len(call.outputs[0].shape)
    new = _settings(call)["axis"] % rank
    return time.join([(_first(call), lambda axis: axis + (axis >= new))])


@_operations("Take")
def _take(call: Call, time: Derivation) -> Hold:
    tensor, indices = call.args[0], call.argument(1, "indices")
    axis = _settings(call)["axis"]
    if axis is None:
        if isinstance(time.of(tensor), Along):
            raise merges()
        return time.join([(indices, stay)])
    axis %= len(tensor.shape)
    indices = indices if hasattr(indices, "shape") else np.asarray(indices)
    rank = len(indices.shape)

    def of_tensor(a: int) -> int | None:
        return None if a == axis else a + (rank - 1) * (a > axis)

    return time.join([(tensor, of_tensor), (indices, lambda a: a + axis)])


@_operations("TakeAlongAxis")
def _take_along(call: Call, time: Derivation) -> Hold:
    tensor, indices = call.args[0], call.argument(1, "indices")
    rank, axis = len(tensor.shape), _settings(call)["axis"]
    hold = time.join([(tensor, stay), (indices, stay)])
    check_apart(hold, axis, rank)
    return hold


# Steps put in front, behind, cut off and read together


@_operations("Pad")
def _pad(call: Call, time: Derivation) -> Hold:
    tensor, settings = _first(call), _settings(call)
    hold = time.along(tensor)
    widths = settings["pad_width"]
    front, back = widths[0] if len(widths) == 1 else widths[hold.axis]
    if not front and not back:
        return hold
    value = settings.get("constant_values", call.argument(1, "constant_values"))
    if settings["mode"] != "constant" or not (value is None or isinstance(value, (int, float))):
        raise Refused(
            "it pads time with something else than one number, which is no past to start from",
            'Pad with zeros (`mode="constant"`).',
        )
    return padded(call, time, tensor, front, back)


def padded(call: Call, time: Derivation, tensor: Tensor, front: int, back: int) -> Hold:
    """A tensor with zeros put in front of time and behind it; those in front are the past."""
    hold = time.along(tensor)
    if front:
        hold = time.hold(call, tensor, front)
    return hold.padded(front, back)


@_operations("GetItem")
def _get_item(call: Call, time: Derivation) -> Hold:
    tensor, key = call.args[0], call.argument(1, "key")
    hold = time.along(tensor)
    old = new = 0  # axes of the tensor and of the output
    for entry in _entries(key, len(tensor.shape), call):
        if entry is not None and old == hold.axis:
            part = _part(entry, time, hold, tensor)
            return part.at(new) if isinstance(part, Along) else part
        old += entry is not None
        new += not isinstance(entry, int)
    raise unknown(call)


def _entries(key: Any, rank: int, call: Call) -> list[int | slice | None]:
    """What stands in the brackets of `x[...]`, one entry for each axis and each new one (None)."""
    entries = list(key) if isinstance(key, (tuple, list)) else [key]
    entries = [int(e) if isinstance(e, np.integer) else e for e in entries]
    if not all(e is None or e is Ellipsis or isinstance(e, (int, slice)) for e in entries):
        raise unknown(call)
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    at = entries.index(Ellipsis)
    rest = rank - sum(e is not None and e is not Ellipsis for e in entries)
    return [*entries[:at], *[slice(None)] * rest, *entries[at + 1 :]]


def _part(entry: int | slice, time: Derivation, hold: Along, tensor: Tensor) -> Hold:
    """What is left of time under an index or a slice."""
    if isinstance(entry, slice):
        return cut(time, hold, tensor, entry)
    size = tensor.shape[hold.axis]
    step = entry - size if entry >= 0 and time.measured and size is not None else entry
    if step >= 0:
        raise Refused(
            f"it takes the step {step} of each window, which is another one in each",
            "Take the last step (`[:, -1]`), or feed what is the same for a whole document as an "
            "input without time.",
            keeps_axis=False,
        )
    return time.end_of(hold, -step)


@_operations("Slice")
def _slice(call: Call, time: Derivation) -> Hold:
    tensor, start = call.args[0], call.argument(1, "start_indices")
    hold = time.along(tensor)
    begin, size = start[hold.axis], _settings(call)["shape"][hold.axis]
    if not isinstance(begin, (int, np.integer)):
        raise unknown(call)
    stop = None if size == -1 else begin + size
    return cut(time, hold, tensor, slice(int(begin), stop))


def cut(time: Derivation, hold: Along, tensor: Tensor, part: slice) -> Hold:
    """Some steps of a window, `tensor[:, part]`."""
    size = tensor.shape[hold.axis]
    start, stop = part.start or 0, part.stop
    if part.step not in (None, 1):
        raise Refused(
            f"it takes one of {part.step} steps",
            "Let the model run at the lower rate: frames of steps as one step (`encode=` of the "
            "sequence).",
        )
    if start < 0 and stop is None:  # the last ones: a fixed number, whatever the window
        return time.end_of(hold, -start)
    if stop is None:
        return hold.cut(start, 0)
    if stop >= 0 and time.measured and size is not None:
        stop -= size
        if stop == 0:
            return hold.cut(start, 0)
    if start < 0 or stop >= 0:
        raise Refused(
            f"it takes the steps {start} to {stop} of a window, which are others in the next one",
            "Cut off a number of steps in front or at the end (`[:, n:]`, `[:, :-n]`).",
            keeps_axis=False,
        )
    return hold.cut(start, -stop)


# Convolutions and pooling, as custom layers call them


@_operations("Conv DepthwiseConv SeparableConv")
def _conv(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), call.args[0]
    rank = len(tensor.shape) - 2
    kernel = call.argument(1, "kernel") if not _is(call, "SeparableConv") else call.args[1]
    window = Window(
        sizes=tuple(kernel.shape[:rank]),
        strides=settings["strides"],
        dilations=settings["dilation_rate"],
        padding=settings["padding"],
        data_format=settings["data_format"],
        mixes_channels=not _is(call, "DepthwiseConv"),
    )
    return read(call, time, tensor, window)


@_operations("MaxPool AveragePool")
def _pool(call: Call, time: Derivation) -> Hold:
    settings, tensor = _settings(call), call.args[0]
    size = settings["pool_size"]
    window = Window(
        sizes=size,
        strides=size if settings["strides"] is None else settings["strides"],
        dilations=1,
        padding=settings["padding"],
        data_format=settings["data_format"],
        mixes_channels=False,
    )
    return read(call, time, tensor, window)


def unknown(call: Call) -> Refused:
    """The refusal of what is not understood."""
    return Refused(
        f"whether `{type(call.operation).__name__}` mixes time steps cannot be derived",
        underivable=True,
    )
