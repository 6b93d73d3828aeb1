"""Operations that take values alone, merge several of them, or multiply axes."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import tree

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused
from keras_stateful.carry.time_axis.derivation import Axes, Derivation, merges
from keras_stateful.carry.time_axis.rules import (
    broadcast,
    first,
    is_named,
    operations,
    positive,
    reduced,
    settings_of,
    stay,
    unknown,
)
from keras_stateful.foundation.types import Tensor

# Values alone


@operations(
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
    if is_named(call, "Where") and call.argument(1, "x1") is None:
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


@operations("Digitize SearchSorted IsIn")
def _looked_up(call: Call, time: Derivation) -> Hold:
    """Each value is looked up among others, which are the same for all."""
    values = call.args[1] if is_named(call, "SearchSorted") else call.args[0]
    for other in tree.flatten((call.args, call.kwargs)):
        if other is not values and isinstance(time.of(other), Along):
            raise merges()
    return time.join([(values, stay)])


# Several values to one, and values beside each other


@operations(
    "All Any Amax Amin Argmax Argmin CountNonzero Max Mean Median Min Prod Std Sum Var Ptp "
    "Nanargmax Nanargmin Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum Nanvar "
    "Logsumexp Norm Moments"
)
def _merge(call: Call, time: Derivation) -> Hold:
    settings = settings_of(call)
    tensor = first(call)
    axes = settings.get("axis", settings.get("axes"))
    rank = len(tensor.shape)
    axes = range(rank) if axes is None else positive(axes, rank)
    return time.join([(tensor, reduced(axes, settings.get("keepdims", False)))])


@operations("Average")
def _average(call: Call, time: Derivation) -> Hold:
    tensor, weights = call.args[0], call.argument(1, "weights")
    rank, axis = len(tensor.shape), settings_of(call)["axis"]
    axes = range(rank) if axis is None else positive(axis, rank)
    parts = [(tensor, reduced(axes, False))]
    if weights is not None and len(weights.shape) == rank:
        parts.append((weights, reduced(axes, False)))
    elif isinstance(time.of(weights), Along):
        raise merges()
    return time.join(parts)


@operations(
    "Softmax LogSoftmax Sparsemax Cumsum Cumprod Nancumsum Nancumprod Sort Argsort Argpartition "
    "Flip Normalize RMSNorm LayerNorm BatchNorm TopK Glu"
)
def _along_axis(call: Call, time: Derivation) -> Hold:
    """Values of one axis are computed from each other."""
    axis = settings_of(call).get("axis", -1)
    tensor = first(call)
    hold = time.join([(tensor, stay)])
    check_apart(hold, axis, len(tensor.shape))
    return hold


@operations("FFT RFFT IRFFT")
def _spectrum(call: Call, time: Derivation) -> Hold:
    hold = time.join([(tensor, stay) for tensor in call.tensors])  # real and imaginary parts
    check_apart(hold, -1, len(call.tensors[0].shape))
    return hold


def check_apart(hold: Hold, axes: int | Iterable[int] | None, rank: int) -> None:
    """Refuses what computes values of some axes from each other, if time is among them."""
    if isinstance(hold, Along) and (axes is None or hold.axis in positive(axes, rank)):
        raise Refused(
            "it computes each time step from all others of the window (axis "
            f"{hold.axis}), across which windows are cut",
            "Let it run along the features alone (`axis=-1` of `(batch, time, features)`).",
        )


@operations("Roll")
def _roll(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), first(call)
    hold = time.join([(tensor, stay)])
    axis = settings["axis"]
    if axis is None or hold.axis in positive(axis, len(tensor.shape)):
        raise Refused(
            "it takes the steps that it rolls out of the window in again at its other end",
            "For the value n steps before, write "
            "`ops.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :-n]`: the padding holds the past.",
        )
    return hold


@operations("Diff")
def _differences(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), first(call)
    hold = time.along(tensor)
    if hold.axis in positive(settings["axis"], len(tensor.shape)):
        return hold.read_back(settings["n"])
    return hold


# Products


@operations("Matmul Dot")
def _matmul(call: Call, time: Derivation) -> Hold:
    a, b = call.args
    rank_a, rank_b = len(a.shape), len(b.shape)
    if min(rank_a, rank_b) < 1 or (is_named(call, "Dot") and rank_b > 2):
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


@operations("Tensordot")
def _tensordot(call: Call, time: Derivation) -> Hold:
    a, b = call.args
    rank_a, rank_b = len(a.shape), len(b.shape)
    axes = settings_of(call)["axes"]
    if isinstance(axes, int):
        axes = (range(rank_a - axes, rank_a), range(axes))
    summed_a, summed_b = positive(axes[0], rank_a), positive(axes[1], rank_b)
    of_b = reduced(summed_b, False)

    def behind(axis: int) -> int | None:
        to = of_b(axis)
        return None if to is None else to + rank_a - len(summed_a)

    return time.join([(a, reduced(summed_a, False)), (b, behind)])


@operations("Einsum")
def _einsum(call: Call, time: Derivation) -> Hold:
    return time.join(list(einsum_parts(settings_of(call)["subscripts"], call.args)))


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
