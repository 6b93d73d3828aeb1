"""Where the parts of a frame's series begin and end. NumPy only.

              0     t1      t2    end     ■ counts     ░ is read
training      ■■■■■■|       |       |
validation    ░░░░░░|■■■■■■■|       |
test          ░░░░░░|░░░░░░░|■■■■■■■|
future        ░░░░░░|░░░░░░░|░░░░░░░|■■■■    what is known ahead may go on there
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.frames.series import Series

PARTS = ("training", "validation", "test")


class Part(NamedTuple):
    """What a part has of the series that are in it.

    Attributes:
        name: "training", "validation", "test" or "future".
        series: their numbers, `(documents,)`.
        start: the first step of each that counts; those before are read.
        stop: the end of each: no step, and no target, lies there or later.
        begin: the first step of each that is read; all but the future's begin at 0.
    """

    name: str
    series: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    begin: np.ndarray

    def ending_windows(self, reach: int, window: int, stride: int) -> "Part":
        """The part of series that begin later, so that a window ends with the last step read.

        For a model with one output for each window. Fewer than `stride` steps are left out.

        Args:
            reach: how many steps behind it the part stops.
            window: steps of a window.
            stride: from one window to the next.
        """
        begin = np.maximum(0, self.stop - reach - window) % stride
        return self._replace(begin=begin, start=np.maximum(self.start, begin))


def parts_of(
    series: Series, split: Any, reach: int, weights: np.ndarray | None, partial: bool
) -> list[Part]:
    """The parts that series are split into.

    Args:
        series: of a frame.
        split: as `StatefulSequence.from_frame` takes it.
        reach: how many steps later the latest target of a step stands.
        weights: of each row, 0 where it does not count; None where all do.
        partial: True if a part may lack series that have no step to count in it.

    Returns:
        As many as there are; no test where nothing is left to count behind the second split.

    Raises:
        TypeError: a split of the wrong type.
        ValueError: one that lies elsewhere, series without a step to count.
    """
    bounds = [np.zeros(len(series), "int64"), *_cuts(series, split), series.readings]
    parts = []
    for name, start, stop in zip(PARTS, bounds, bounds[1:], strict=False):
        counted = np.maximum(0, stop - reach - start)
        if weights is not None:
            inside = [
                series.slice(k, start[k], max(start[k], stop[k] - reach)) for k in range(len(start))
            ]
            counted = np.array([np.count_nonzero(weights[place]) for place in inside])
        empty = np.flatnonzero(counted == 0)
        if name == "test" and len(empty) == len(series):
            break  # the validation goes on to the end of the frame
        if len(empty) and not (partial and len(empty) < len(series)):
            raise _too_short(series, split, name, empty, stop - start, reach)
        kept = np.flatnonzero(counted)
        parts.append(Part(name, kept, start[kept], stop[kept], np.zeros_like(kept)))
    return parts


def future_of(series: Series, reach: int, *, ahead: bool) -> Part | None:
    """The forecasts that nothing has come of yet: of steps up to the last reading of each series.

    Args:
        series: of a frame.
        reach: how many steps later the latest target of a step stands.
        ahead: True if something known ahead is read, which must be there for that step.

    Returns:
        The part, which counts the steps whose latest target lies behind the last reading; it stops
        that many steps behind what is read. None without such a step.
    """
    read = np.minimum(series.readings, series.lengths - reach) if ahead else series.readings
    start = np.maximum(0, series.readings - reach)
    kept = np.flatnonzero(read > start)
    if not len(kept):
        return None
    return Part("future", kept, start[kept], read[kept] + reach, np.zeros_like(kept))


def _too_short(
    series: Series, split: Any, name: str, empty: np.ndarray, rows: np.ndarray, reach: int
) -> ValueError:
    low, high = series.shown(series.times.min()), series.shown(series.times.max())
    first = ", ".join(
        f"{series.describe(k)} with {rows[k]} of its {series.readings[k]} rows there"
        for k in empty[:3].tolist()
    )
    more = f", and {len(empty) - 3} more" if len(empty) > 3 else ""
    return ValueError(
        f"Each series must have a step to count in the {name}: a row with targets up to {reach} "
        f"steps later that are not missing, and a weight above 0. Received: {first}{more}; "
        f"split={split!r}, times from {low} to {high}. "
        + (
            "Leave such series out of the frame, take smaller `horizons` or another `split`, or "
            "pass `partial=True`: parts then lack the series that have nothing in them."
            if len(empty) < len(series)
            else "No series has any: take smaller `horizons`, another `split` or other weights."
        )
    )


def _cuts(series: Series, split: Any) -> list[np.ndarray]:
    """At which step of each series each split lies."""
    if split is None:
        return []
    one = isinstance(split, str) or not isinstance(split, Iterable)
    several = [split] if one else list(split)
    if not 1 <= len(several) <= 2:
        raise ValueError(
            "`split` must be where training ends, or a pair: where validation ends, too. Received: "
            f"split={split!r}."
        )
    fractions = [isinstance(value, (float, np.floating)) for value in several]
    if any(fractions):
        if not all(fractions):
            raise TypeError(
                "`split` must be two times, or two fractions of each series. Received: "
                f"split={split!r}. Pass two of a kind, such as (0.7, 0.85)."
            )
        if not all(0 < value < 1 for value in several):
            raise ValueError(
                "`split` as a float is a fraction of each series, between 0 and 1. Received: "
                f"split={split!r}. Pass 0.8, or a time as the frame has it."
            )
        cuts = [(value * series.readings).astype("int64") for value in several]
    else:
        names = ["split"] if len(several) == 1 else ["split[0]", "split[1]"]
        times = [_as_time(name, value, series) for name, value in zip(names, several, strict=True)]
        places = [series.slice(number) for number in range(len(series))]
        cuts = [np.array([np.searchsorted(series.times[p], t) for p in places]) for t in times]
        cuts = [np.minimum(cut, series.readings) for cut in cuts]
        several = times
    if len(several) == 2 and not several[0] < several[1]:
        raise ValueError(
            "`split` must be in order: where training ends, then where validation ends. Received: "
            f"split={split!r}."
        )
    return cuts


def _as_time(name: str, value: Any, series: Series) -> Any:
    """A time to compare those of a frame with.

    Args:
        name: name of the argument, used in error messages.
        value: text, a `datetime` (pandas's too), a date, `np.datetime64`, or a whole number.
        series: of the frame.
    """
    received = f"Received: {name}={value!r}"
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if series.times.dtype.kind != "M":
        if whole:
            return int(value)
        of = "steps that are counted" if series.time is None else f"those of {series.time!r}"
        raise TypeError(
            f"`{name}` must be a time as the frame has it, a whole number ({of}), or a fraction of "
            f"each series. {received}. Pass `{name}=0.8`, or name a column of times, `time=`."
        )
    value = _read_with_zone(value)
    zoned = getattr(value, "tzinfo", None) is not None
    if zoned != series.zoned:
        have, remedy = (
            ("have one", "text as in '2026-03-01T12:00+01:00', or `pandas.Timestamp(..., tz=...)`")
            if series.zoned
            else ("have none", "the time as the frame counts it, `.replace(tzinfo=None)`")
        )
        raise TypeError(
            f"`{name}` must have a time zone where the times of the frame have one, and only then. "
            f"{received}; the times of the frame {have}. Pass {remedy}."
        )
    try:
        if whole:  # which NumPy would count from 1970
            raise ValueError("a number")
        time = np.datetime64(value.astimezone(UTC).replace(tzinfo=None) if zoned else value)
        if np.isnat(time):
            raise ValueError("no time")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a time, or a fraction of each series. {received} ({error}). Pass "
            "text as in '2026-03-01T12:00', a `datetime`, `np.datetime64`, or `0.8`."
        ) from None
    return time


def _read_with_zone(value: Any) -> Any:
    """A time in text that has a time zone, as a `datetime`: NumPy knows none."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return value if time.tzinfo is None else time
