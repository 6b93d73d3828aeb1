"""Times of a frame's series: each row one step after the other. NumPy only.

A recurrent network counts steps, not hours: where rows are missing, doubled or uneven it would read
another series than the one that was measured.
"""

from typing import Any, NoReturn

import numpy as np

from keras_stateful.data.series import Series

_MONTH = np.timedelta64(28, "D")  # the shortest; steps from here on may be months
_DAY = np.timedelta64(1, "D")
# Nanoseconds of a unit, and its names in pandas and in polars.
_UNITS = (
    (86_400 * 10**9, "D", "d"),
    (3_600 * 10**9, "h", "h"),
    (60 * 10**9, "min", "m"),
    (10**9, "s", "s"),
    (10**6, "ms", "ms"),
    (10**3, "us", "us"),
    (1, "ns", "ns"),
)


def check_steps(series: Series) -> None:
    """Refuses series whose times are doubled, or do not go on by one step, the same in all.

    Raises:
        ValueError: with the group, row and times, and how to mend the frame.
    """
    if series.time is None:
        return
    inner = np.ones(len(series.times), bool)  # places with one before them in the same series
    inner[series.begin] = False
    places = np.flatnonzero(inner)
    steps = series.times[places] - series.times[places - 1]
    ticks = steps.astype("int64")
    if not ticks.all():
        _refuse_doubled(series, places[ticks == 0])
    kinds, counts = np.unique(ticks, return_counts=True)
    if len(kinds) <= 1 or _even_in_months(series.times, places, steps):
        return
    usual = kinds[counts.argmax()]
    other = ticks != usual
    _refuse_uneven(series, places[other][0], int(other.sum()), steps[ticks == usual][0])


def _even_in_months(times: np.ndarray, places: np.ndarray, steps: np.ndarray) -> bool:
    """True if steps are a number of months: each on the same day of its month, or on the last."""
    if times.dtype.kind != "M" or steps.min() < _MONTH:
        return False
    for shift in (0 * _DAY, _DAY):  # the last day of a month is the first but for one
        months = (times + shift).astype("datetime64[M]")
        if len(np.unique(times + shift - months)) == 1:
            return len(np.unique(months[places] - months[places - 1])) == 1
    return False


def _refuse_doubled(series: Series, places: np.ndarray) -> NoReturn:
    keys = [*series.by, series.time]
    raise ValueError(
        f"A series must have one row for each time. Received: {series.where(places[0])}, and row "
        f"{series.rows[places[0] - 1]} of the same time (in all: {len(places)}). Keep one of "
        f"them, in pandas `frame.drop_duplicates({keys})`, in polars `frame.unique({keys})`; or, "
        "if they are of several series, name the column that tells these apart, `by=`."
    )


def _refuse_uneven(series: Series, place: int, count: int, usual: Any) -> NoReturn:
    """Raises the error for a step that is not the usual one.

    Args:
        series: of the frame.
        place: behind the step.
        count: of such steps.
        usual: the step that most are, a timedelta64 or a number.
    """
    step = series.times[place] - series.times[place - 1]
    missing = int(step // usual) - 1 if step % usual == 0 * usual else 0
    pandas, polars = _every(usual)
    cause = f"{missing} missing between them" if missing else "an uneven step"
    remedy = _inserting(series, pandas, polars) if missing else _averaging(series, pandas, polars)
    if series.times.dtype.kind != "M":
        remedy = "Insert the rows that are missing, and a column that marks them."
    raise ValueError(
        f"The rows of a series must be one step apart. Received: {series.where(place)}, "
        f"{_every(step)[0]} after row {series.rows[place - 1]} where most are {pandas} apart: "
        f"{cause} (such places in all: {count}). {remedy} Where the steps are as they should be "
        f"(working days), count them: {_counting(series)}."
    )


def _inserting(series: Series, pandas: str, polars: str) -> str:
    """How to insert missing rows and to mark them."""
    group, of = (f".groupby({list(series.by)})", f", group_by={list(series.by)}")
    if not series.by:
        group = of = ""
    time = series.time
    return (
        f"Insert the missing rows, in pandas `frame = frame.set_index({time!r}){group}"
        f".resample({pandas!r}).asfreq().reset_index()`, in polars `frame = frame.sort({time!r})"
        f".upsample({time!r}, every={polars!r}{of})`; mark them in a column that is one more input,"
        " `frame['missing'] = frame[column].isna()`, and fill them in, `.ffill()`, or with a value "
        "that a `keras.layers.Masking` skips."
    )


def _averaging(series: Series, pandas: str, polars: str) -> str:
    """How to make steps even."""
    group, of = (f".groupby({list(series.by)})", f", group_by={list(series.by)}")
    if not series.by:
        group = of = ""
    time = series.time
    return (
        f"Make them even, in pandas `frame = frame.set_index({time!r}){group}[columns]"
        f".resample({pandas!r}).mean().reset_index()`, in polars `frame = frame.sort({time!r})"
        f".group_by_dynamic({time!r}, every={polars!r}{of}).agg(polars.col(columns).mean())`."
    )


def _counting(series: Series) -> str:
    count = f"frame.groupby({list(series.by)}).cumcount()" if series.by else "range(len(frame))"
    return f"`frame = frame.sort_values({series.time!r})`, `frame['step'] = {count}`, `time='step'`"


def _every(step: Any) -> tuple[str, str]:
    """A step as pandas and as polars write it, as in '15min' and '15m'."""
    if not isinstance(step, np.timedelta64):
        return str(step), str(step)
    nanoseconds = int(step.astype("timedelta64[ns]").astype("int64"))
    size, pandas, polars = next(unit for unit in _UNITS if nanoseconds % unit[0] == 0)
    return f"{nanoseconds // size}{pandas}", f"{nanoseconds // size}{polars}"
