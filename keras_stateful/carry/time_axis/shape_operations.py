"""Operations that put axes in another order, or make others of them."""

from typing import TypeGuard

import numpy as np
from keras import tree

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused, Repeated
from keras_stateful.carry.time_axis.derivation import Axes, Derivation, merges
from keras_stateful.carry.time_axis.rules import (
    broadcast,
    first,
    operations,
    positive,
    reduced,
    settings_of,
    stay,
)
from keras_stateful.carry.time_axis.value_operations import (
    check_apart,
)

# Axes in another order, or others


@operations("Concatenate")
def _concatenate(call: Call, time: Derivation) -> Hold:
    tensors = tree.flatten(call.args[0])
    hold = time.join([(t, stay) for t in tensors])
    check_not_appended(hold, settings_of(call)["axis"], len(tensors[0].shape))
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


@operations("Stack")
def _stack(call: Call, time: Derivation) -> Hold:
    tensors = tree.flatten(call.args[0])
    new = settings_of(call)["axis"] % (len(tensors[0].shape) + 1)
    return time.join([(t, lambda axis: axis + (axis >= new)) for t in tensors])


@operations("Split ArraySplit")
def _split(call: Call, time: Derivation) -> Hold:
    return _apart(call, time, stay)


@operations("Unstack")
def _unstack(call: Call, time: Derivation) -> Hold:
    axis = settings_of(call)["axis"] % len(first(call).shape)
    return _apart(call, time, lambda a: a - (a > axis))


def _apart(call: Call, time: Derivation, axes: Axes) -> Hold:
    """One tensor is taken apart along an axis."""
    tensor = first(call)
    hold = time.join([(tensor, stay)])
    if hold.axis == settings_of(call)["axis"] % len(tensor.shape):
        raise Refused("it takes the time steps of a window apart", keeps_axis=False)
    return time.join([(tensor, axes)])


@operations("ExpandDims")
def _expand(call: Call, time: Derivation) -> Hold:
    rank = len(first(call).shape)
    new = positive(settings_of(call)["axis"], rank + 1)

    def to(axis: int) -> int:
        return [a for a in range(rank + len(new)) if a not in new][axis]

    return time.join([(first(call), to)])


@operations("Squeeze")
def _squeeze(call: Call, time: Derivation) -> Hold:
    tensor = first(call)
    axis = settings_of(call)["axis"]
    gone = [a for a, size in enumerate(tensor.shape) if size == 1] if axis is None else axis
    return time.join([(tensor, reduced(positive(gone, len(tensor.shape)), False))])


@operations("Transpose")
def _transpose(call: Call, time: Derivation) -> Hold:
    tensor, axes = first(call), settings_of(call)["axes"]
    rank = len(tensor.shape)
    order = list(range(rank))[::-1] if axes is None else positive(axes, rank)
    return time.join([(tensor, order.index)])


@operations("Swapaxes")
def _swap(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), first(call)
    a, b = positive((settings["axis1"], settings["axis2"]), len(tensor.shape))
    return time.join([(tensor, lambda axis: {a: b, b: a}.get(axis, axis))])


@operations("Moveaxis")
def _move(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), first(call)
    rank = len(tensor.shape)
    sources = positive(settings["source"], rank)
    targets = positive(settings["destination"], rank)
    order = [a for a in range(rank) if a not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return time.join([(tensor, order.index)])


@operations("Reshape Ravel")
def _reshape(call: Call, time: Derivation) -> Hold:
    tensor = first(call)
    hold, old, new = time.of(tensor), tuple(tensor.shape), tuple(call.outputs[0].shape)
    if isinstance(hold, Along) and hold.in_rows:
        return _apart_again(hold, old, new, time)
    if not _puts_steps_in_rows(hold, old, new):
        return reshaped(hold, old, new)
    if time.window is None and not time.searching:
        raise Refused(
            "it makes a row of each time step, and what takes these apart again in the graph does "
            "so for one length of windows",
            "Leave time an axis of its own: `Dense` takes each step of `(batch, time, features)` "
            "alone, and `TimeDistributed(layer)` has any layer do so; or do all of it in one "
            "custom layer.",
            keeps_axis=False,
        )
    return hold._replace(axis=0, in_rows=True)


def _puts_steps_in_rows(hold: Hold, old: tuple, new: tuple) -> TypeGuard[Along]:
    """True if batch and time become one axis: every step is then a row, as in `TimeDistributed`."""
    if not isinstance(hold, Along) or hold.axis != 1 or hold.lead or not _same(old[2:], new[1:]):
        return False
    return new[0] == (None if None in old[:2] else old[0] * old[1])


def _apart_again(hold: Along, old: tuple, new: tuple, time: Derivation) -> Along:
    """What a tensor holds that has a step in each row, and is given another shape."""
    if hold.axis == 0 and _same(old[1:], new[1:]):
        return hold
    # Two sizes that nobody knows might be others; but every call is tried with numbers as well.
    apart = new[:2] == time.window or time.searching
    if hold.axis == 0 and apart and _same(old[1:], new[2:]):
        return hold._replace(axis=1, in_rows=False)
    raise Refused(
        f"it makes other axes {_words(new)} of {_words(old)}, of which axis {hold.axis} has the "
        "steps of all rows behind each other",
        "Give batch and time back the sizes that they had (`ops.shape(x)[:2]`).",
    )


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


@operations("BroadcastTo")
def _broadcast_to(call: Call, time: Derivation) -> Hold:
    tensor = first(call)
    hold = time.along(tensor)
    axes = broadcast(tensor, len(call.outputs[0].shape))
    if call.outputs[0].shape[axes(hold.axis)] != tensor.shape[hold.axis]:
        raise Refused("it repeats time steps")
    return time.join([(tensor, axes)])


@operations("Tile")
def _tile(call: Call, time: Derivation) -> Hold:
    tensor, repeats = first(call), settings_of(call)["repeats"]
    rank = len(call.outputs[0].shape)
    repeats = (repeats,) if isinstance(repeats, int) else tuple(repeats)
    hold = time.join([(tensor, broadcast(tensor, rank))])
    if ((1,) * (rank - len(repeats)) + repeats)[hold.axis] != 1:
        raise Refused("it repeats the steps of a window")
    return hold


@operations("Repeat")
def _repeat(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), first(call)
    hold = time.join([(tensor, stay)])
    if settings["axis"] is None or hold.axis == settings["axis"] % len(tensor.shape):
        raise Refused("it repeats time steps, so that a window has more of them than the stream")
    return hold


@operations("OneHot")
def _one_hot(call: Call, time: Derivation) -> Hold:
    rank = len(call.outputs[0].shape)
    new = settings_of(call)["axis"] % rank
    return time.join([(first(call), lambda axis: axis + (axis >= new))])


@operations("Take")
def _take(call: Call, time: Derivation) -> Hold:
    tensor, indices = call.args[0], call.argument(1, "indices")
    axis = settings_of(call)["axis"]
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


@operations("TakeAlongAxis")
def _take_along(call: Call, time: Derivation) -> Hold:
    tensor, indices = call.args[0], call.argument(1, "indices")
    rank, axis = len(tensor.shape), settings_of(call)["axis"]
    hold = time.join([(tensor, stay), (indices, stay)])
    check_apart(hold, axis, rank)
    return hold
