"""Operations that put steps in front, cut them off, or read several together."""

from typing import Any

import numpy as np

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused
from keras_stateful.carry.time_axis.convolutions import Window, read
from keras_stateful.carry.time_axis.derivation import Derivation
from keras_stateful.carry.time_axis.rules import (
    first,
    is_named,
    operations,
    settings_of,
    unknown,
)
from keras_stateful.foundation.types import Tensor

# Steps put in front, behind, cut off and read together


@operations("Pad")
def _pad(call: Call, time: Derivation) -> Hold:
    tensor, settings = first(call), settings_of(call)
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


@operations("GetItem")
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


@operations("Slice")
def _slice(call: Call, time: Derivation) -> Hold:
    tensor, start = call.args[0], call.argument(1, "start_indices")
    hold = time.along(tensor)
    begin, size = start[hold.axis], settings_of(call)["shape"][hold.axis]
    if not isinstance(begin, (int, np.integer)):
        raise unknown(call)
    stop = None if size == -1 else begin + size
    return cut(time, hold, tensor, slice(int(begin), stop))


def cut(time: Derivation, hold: Along, tensor: Tensor, part: slice) -> Hold:
    """Some steps of a window, `tensor[:, part]`."""
    size = tensor.shape[hold.axis]
    start, stop = part.start or 0, part.stop
    if part.step is not None and part.step < 0:
        raise Refused(
            "it reads each window from its end, where the next window is not known yet",
            "Leave the steps in their order.",
        )
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


@operations("Conv DepthwiseConv SeparableConv")
def _conv(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), call.args[0]
    rank = len(tensor.shape) - 2
    kernel = call.argument(1, "kernel") if not is_named(call, "SeparableConv") else call.args[1]
    window = Window(
        sizes=tuple(kernel.shape[:rank]),
        strides=settings["strides"],
        dilations=settings["dilation_rate"],
        padding=settings["padding"],
        data_format=settings["data_format"],
        mixes_channels=not is_named(call, "DepthwiseConv"),
    )
    return read(call, time, tensor, window)


@operations("MaxPool AveragePool")
def _pool(call: Call, time: Derivation) -> Hold:
    settings, tensor = settings_of(call), call.args[0]
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
