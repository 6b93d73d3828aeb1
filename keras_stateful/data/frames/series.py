"""Series of a frame: the rows of each group in the order of time. NumPy only.

row   machine  time         series      rows
0     b        02:00        machine a   3 1
1     a        02:00   ─▶   machine b   2 0
2     b        01:00
3     a        01:00
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, date
from difflib import get_close_matches
from typing import Any

import numpy as np

from keras_stateful.foundation.frames import columns_of


@dataclass(frozen=True)
class Series:
    """The series of a frame, one after the other.

    Attributes:
        by: the columns that tell them apart; none where the frame is one series.
        names: of each series: its value in `by`, a tuple for a list of columns, None without any.
        rows: of the frame, in the order of series and time, `(rows,)`.
        begin: where each series begins among them, `(series,)`.
        lengths: rows of each, `(series,)`.
        readings: how many of these there are up to the last reading, `(series,)`; rows behind it
            are to come, and hold what is known ahead.
        times: of `rows`, datetime64 (UTC where the frame's have a time zone) or int64;
            counted from 0 in each series where the frame has no column of times.
        time: the column of these, or None.
        zoned: True if the frame's times have a time zone.
    """

    by: tuple[Hashable, ...]
    names: list[Any]
    rows: np.ndarray
    begin: np.ndarray
    lengths: np.ndarray
    readings: np.ndarray
    times: np.ndarray
    time: Hashable | None
    zoned: bool

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def within(self) -> np.ndarray:
        """Which time step of its series each of `rows` is."""
        return np.arange(len(self.rows)) - np.repeat(self.begin, self.lengths)

    @property
    def to_come(self) -> np.ndarray:
        """Marks those of `rows` that lie behind the last reading of their series."""
        return self.within >= np.repeat(self.readings, self.lengths)

    def slice(self, series: int, start: int = 0, stop: int | None = None) -> slice:
        """Where the steps of a series from `start` to `stop` stand in `rows` and `times`."""
        begin, length = int(self.begin[series]), int(self.lengths[series])
        return slice(begin + start, begin + (length if stop is None else stop))

    def describe(self, series: int) -> str:
        """A series by its group, as in `machine='b'`."""
        if not self.by:
            return "the frame"
        name = self.names[series]
        values = name if isinstance(name, tuple) else (name,)
        return ", ".join(f"{c}={value!r}" for c, value in zip(self.by, values, strict=True))

    def of(self, place: int) -> int:
        """The series that a place in `rows` lies in."""
        return int(np.searchsorted(self.begin, place, "right")) - 1

    def shown(self, time: Any) -> str:
        """A time as an error message shows it."""
        seconds, _, fraction = str(time).partition(".")
        zone = " UTC" if self.zoned else ""
        return f"{time if fraction.strip('0') else seconds}{zone}"

    def where(self, place: int) -> str:
        """A place in `rows` as its group, row of the frame and time."""
        at = "" if self.time is None else f" ({self.time}={self.shown(self.times[place])})"
        return f"{self.describe(self.of(place))}, row {self.rows[place]}{at}"


def open_series(frame: Any, by: Any, time: Hashable | None) -> Series:
    """Reads the groups and times of a frame.

    Args:
        frame: with named columns.
        by: a column, several, or None: those that tell series apart, which are sorted by it.
        time: the column of times, by which the rows of each are sorted; None keeps their order.

    Raises:
        TypeError: groups of several types, times that are no times.
        ValueError: a column that the frame lacks, a missing group or time.
    """
    number = len(frame)
    codes, columns = np.zeros(number, "int64"), ()
    names: list[Any] = [None]
    if by is not None:
        several = is_several(by, columns_of(frame) or ())
        columns = tuple(by) if several else (by,)
        check_columns("by", columns, frame)
        codes, names = _groups(frame, columns)
        names = names if several else [name for (name,) in names]
    if time is None:
        _refuse_index_of_times(frame)
        rows, zoned = np.argsort(codes, kind="stable"), False
    else:
        check_columns("time", [time], frame)
        times, zoned = _times(frame, time)
        rows = np.lexsort((times, codes))
    lengths = np.bincount(codes, minlength=len(names))
    begin = np.cumsum(lengths) - lengths
    ordered = np.arange(number) - np.repeat(begin, lengths) if time is None else times[rows]
    return Series(columns, names, rows, begin, lengths, lengths, ordered, time, zoned)


def is_several(argument: Any, columns: tuple) -> bool:
    """True for a list of columns, False for the name of one; a tuple may be the name of one."""
    if isinstance(argument, tuple):
        return argument not in columns
    return isinstance(argument, Iterable) and not isinstance(argument, (str, set, frozenset))


def check_columns(name: str, chosen: Iterable, frame: Any) -> None:
    """Refuses columns that a frame lacks, or has twice.

    Args:
        name: name of the argument, used in the error message.
        chosen: the columns that it names.
        frame: with named columns.
    """
    columns, chosen = columns_of(frame) or (), list(chosen)
    for column in chosen:
        count = columns.count(column)
        if count == 1:
            if chosen.count(column) > 1:
                raise ValueError(
                    f"`{name}` names a column {chosen.count(column)} times. Received: {column!r}. "
                    "Name each once."
                )
            continue
        if count:
            raise ValueError(
                f"`{name}` names a column that the frame has {count} times. Received: {column!r}. "
                "Rename them, so that each is meant by one name."
            )
        if column in getattr(getattr(frame, "index", None), "names", ()):
            remedy = "It is in the frame's index: pass `frame.reset_index()`."
        else:
            near = get_close_matches(str(column), map(str, columns), cutoff=0.5)
            nearest = f"The nearest: {', '.join(map(repr, near))}. " if near else ""
            remedy = f"{nearest}Pass one of its columns: {str(list(columns))[:300]}."
        raise ValueError(
            f"`{name}` names a column that the frame lacks. Received: {column!r}. {remedy}"
        )


# Groups


def _groups(frame: Any, by: tuple) -> tuple[np.ndarray, list[tuple]]:
    """The number of each row's group, and the name of each: groups are in sorted order."""
    codes, names = np.zeros(len(frame), "int64"), [()]
    for column in by:
        labels, numbers = _numbered(column, np.asarray(frame[column]))
        # Numbered by the columns so far and, within each such group, by this one.
        pairs, codes = np.unique(codes * len(labels) + numbers, return_inverse=True)
        within = (divmod(pair, len(labels)) for pair in pairs.tolist())
        names = [(*names[group], labels[number]) for group, number in within]
    return codes, names


def _numbered(column: Hashable, values: np.ndarray) -> tuple[list, np.ndarray]:
    """The different values of a column, sorted, and which of them each row has."""
    missing = _missing(values)
    if missing.any():
        raise ValueError(
            f"`by` names a column with missing values. Received: {column!r}, row "
            f"{missing.argmax()} (in all: {missing.sum()}). Leave those rows out, or name the "
            "group that they belong to."
        )
    if values.dtype.kind != "O":
        kinds, numbers = np.unique(values, return_inverse=True)
        return list(kinds) if kinds.dtype.kind == "M" else kinds.tolist(), numbers
    try:
        labels = sorted(set(values))
    except TypeError:
        raise TypeError(
            f"`by` names a column of several types, which have no order. Received: {column!r}. "
            f"Make text of all: `frame[{column!r}].astype(str)`."
        ) from None
    number = {label: k for k, label in enumerate(labels)}
    return labels, np.fromiter(map(number.__getitem__, values), "int64", len(values))


def _missing(values: np.ndarray) -> np.ndarray:
    """Marks None, NaN, NaT and pandas's NA."""
    if values.dtype.kind != "O":
        return np.isnat(values) if values.dtype.kind in "mM" else values != values
    return np.array([v is None or type(v).__name__ == "NAType" or v != v for v in values], bool)


# Times


def _refuse_index_of_times(frame: Any) -> None:
    """Refuses times that would not be looked at: those of pandas that stand beside the columns."""
    dtype = getattr(getattr(frame, "index", None), "dtype", None)
    if getattr(dtype, "kind", None) == "M":
        raise ValueError(
            "`time` must name the column of times, and the frame has them as its index. Received: "
            f"time=None, an index of {dtype}. Pass `frame.reset_index(names='time')` with "
            "`time='time'`."
        )


def _times(frame: Any, name: Hashable) -> tuple[np.ndarray, bool]:
    """Times as datetime64 or whole numbers, and True if they have a time zone."""
    column = frame[name]
    values = np.asarray(column)
    kind = getattr(column, "dtype", getattr(column, "type", None))
    zone = getattr(kind, "time_zone", None) or getattr(kind, "tz", None)
    missing = _missing(values)
    if missing.any():
        raise ValueError(
            f"`time` names a column with missing times. Received: {name!r}, row "
            f"{missing.argmax()} (in all: {missing.sum()}). Leave those rows out, or fill them in."
        )
    if values.dtype.kind == "O" and len(values) and all(isinstance(v, date) for v in values):
        zones = {getattr(v, "tzinfo", None) is not None for v in values}
        if len(zones) == 1:
            zone = zones == {True} or None
            if zone:
                values = np.array([v.astimezone(UTC).replace(tzinfo=None) for v in values])
            values = values.astype("datetime64[us]")
    if values.dtype.kind in "iu":
        return values.astype("int64"), False  # which holds differences, and times behind the last
    if values.dtype.kind == "M":
        return values, zone is not None
    remedies = {
        "f": "Count the steps in whole numbers: `(times / step).round().astype('int64')`.",
        "O": "Convert them: `pandas.to_datetime(...)`, or of periods `.dt.to_timestamp()`.",
        "m": "Add them to a time, or count the steps in whole numbers.",
    }
    raise TypeError(
        f"`time` must name a column of times or whole numbers. Received: {name!r} of "
        f"{kind if kind is not None else values.dtype}, such as {values[:1].tolist()}. "
        + remedies.get(values.dtype.kind, "Convert them to times.")
    )
