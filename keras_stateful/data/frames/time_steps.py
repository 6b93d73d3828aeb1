"""Times of a frame's series: each row one step after the other. NumPy only.

A recurrent network counts steps, not hours: where rows are missing, doubled or uneven it would read
another series than the one that was measured.
"""

from typing import Any, NoReturn

import numpy as np

from keras_stateful.data.frames.series import Series

_MONTH = np.timedelta64(28, "D")  # the shortest; steps from here on may be months
_DAY = np.timedelta64(1, "D")
_HOUR = np.timedelta64(1, "h")  # by which most clocks change
_SHORT_DAY = np.timedelta64(23, "h")
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


def check_steps(series: Series) -> Any:
    """Refuses series whose times are doubled, or do not go on by one step, the same in all.

    Returns:
        The step: a timedelta64, of months where each time is on the same day of its month, or a
        whole number; None if no series has two rows.

    Raises:
        ValueError: with the group, row and times, and how to mend the frame.
    """
    inner = np.ones(len(series.times), bool)  # places with one before them in the same series
    inner[series.begin] = False
    places = np.flatnonzero(inner)
    steps = series.times[places] - series.times[places - 1]
    if series.time is None or not len(steps):
        return 1 if series.time is None else None
    zero = steps.astype("int64") == 0
    if zero.any():
        _refuse_doubled(series, places[zero])
    if steps.dtype.kind == "m" and steps.min() >= _MONTH:
        months = _in_months(series.times)
        steps = steps if months is None else months[places] - months[places - 1]
    if (steps != steps[0]).any():
        usual = _usual(steps)
        other = steps != usual
        first = int(other.argmax())
        _refuse_uneven(series, int(places[first]), int(other.sum()), steps[first], usual)
    return steps[0]


def times_behind(times: np.ndarray, step: Any, count: int) -> np.ndarray:
    """The times of the steps that would follow a series.

    Args:
        times: of its rows.
        step: as `check_steps` returns it.
        count: how many.
    """
    ahead = np.arange(1, count + 1)
    if not isinstance(step, np.timedelta64) or _in_seconds(step):
        return times[-1] + ahead * step
    months = (times[-1].astype("datetime64[M]") + ahead * step).astype("datetime64[M]")
    # On the same day of their months, or on the last where all are, or where a month is shorter.
    ends = (months + 1).astype(times.dtype) - _DAY
    days = times - times.astype("datetime64[M]")
    last_days = (times + _DAY).astype("datetime64[M]") > times.astype("datetime64[M]")
    same = months + days[-1]
    behind = last_days.all() | (same.astype("datetime64[M]") > months)
    return np.where(behind, ends + days[-1] % _DAY, same).astype(times.dtype)


def _in_months(times: np.ndarray) -> np.ndarray | None:
    """Times as months, where each is on the same day of its month, or on the last; else None."""
    for shift in (0 * _DAY, _DAY):  # the last day of a month is the first but for one
        if _share_a_day(times + shift):
            return (times + shift).astype("datetime64[M]")
    return None


def _share_a_day(times: np.ndarray) -> bool:
    """True if all times are at the same moment of their month."""
    return len(np.unique(times - times.astype("datetime64[M]"))) == 1


def _usual(steps: np.ndarray) -> Any:
    """The step that most are; where clocks are not exact, the round one that is near to most."""
    kinds, counts = np.unique(steps, return_counts=True)
    if 2 * counts.max() > len(steps) or not _in_seconds(steps[0]):
        return kinds[counts.argmax()]
    middle = int(np.median(steps.astype("timedelta64[ns]").astype("int64")))
    for size, *_ in _UNITS:
        number = round(middle / size)
        if abs(number * size - middle) <= 0.02 * middle:
            break
    return np.timedelta64(number * size, "ns")


def _refuse_doubled(series: Series, places: np.ndarray) -> NoReturn:
    keys = [*series.by, series.time]
    local = series.times.dtype.kind == "M" and not series.zoned
    raise ValueError(
        f"A series must have one row for each time. Received: {series.where(places[0])}, and row "
        f"{series.rows[places[0] - 1]} of the same time (in all: {len(places)}). "
        + "If they are of several series, name the column that tells these apart, `by=`. "
        + (f"{_local_hours(series)} " if local else "")
        + f"Else keep one of them, in pandas `frame.drop_duplicates({keys})`, in polars "
        f"`frame.unique({keys})`."
    )


def _refuse_uneven(series: Series, place: int, count: int, step: Any, usual: Any) -> NoReturn:
    """Raises the error for a step that is not the usual one.

    Args:
        series: of the frame.
        place: behind the step.
        count: of such steps.
        step: which it is, a timedelta64 or a number.
        usual: which most are.
    """
    missing = int(step // usual) - 1 if step % usual == 0 * usual else 0
    cause = f"{missing} missing between them" if missing else "an uneven step"
    counted = f"frame.groupby({list(series.by)}).cumcount()" if series.by else "range(len(frame))"
    raise ValueError(
        f"The rows of a series must be one step apart. Received: {series.where(place)}, "
        f"{_every(step)[0]} after row {series.rows[place - 1]} where most are {_every(usual)[0]} "
        f"apart: {cause} (such places in all: {count}). "
        + _at_clock_changes(series, step, usual)
        + (_inserting(series, usual) if missing else _averaging(series, usual))
        + " Where the steps are as they should be (working days), count them: `frame = frame"
        f".sort_values({series.time!r})`, `frame['step'] = {counted}`, `time='step'`."
    )


def _at_clock_changes(series: Series, step: Any, usual: Any) -> str:
    """What to do if steps are uneven because clocks were put forward or back; else nothing."""
    if not _in_seconds(step):
        return ""
    if series.zoned and usual >= _SHORT_DAY:
        return (
            "Days and months in a time zone are of several lengths where clocks change. Without "
            f"the zone they are even: in pandas `frame[{series.time!r}] = frame[{series.time!r}]"
            f".dt.tz_localize(None)`, in polars `frame = frame.with_columns(polars.col("
            f"{series.time!r}).dt.replace_time_zone(None))`. Else: "
        )
    if not series.zoned and step - usual == _HOUR and usual <= _HOUR:
        return f"{_local_hours(series)} Else: "
    return ""


def _local_hours(series: Series) -> str:
    """What to do if times are those of a place's clocks, which skip an hour and double another."""
    by, time = list(series.by), series.time
    zoned = ".dt.tz_localize('Europe/Berlin', ambiguous='infer')"
    code = (
        f"`frame[{time!r}] = frame.groupby({by}, group_keys=False)[{time!r}].apply(lambda t: "
        f"t{zoned})`"
        if by
        else f"`frame[{time!r}] = frame[{time!r}]{zoned}`"
    )
    return (
        "If these are local times and clocks were changed there, no hour is doubled or missing: "
        f"give them their time zone, in pandas {code}, for example."
    )


def _inserting(series: Series, step: Any) -> str:
    """How to insert missing rows and to mark them."""
    pandas, polars = _every(step)
    group, of = _by_group(series)
    how = (
        f", in pandas `frame = frame.set_index({series.time!r}){group}.resample({pandas!r}, "
        f"origin='start').asfreq().reset_index()`, in polars `frame = frame.sort({series.time!r})"
        f".upsample({series.time!r}, every={polars!r}{of})`"
        if _in_seconds(step)
        else ""
    )
    by = f".groupby({list(series.by)})" if series.by else ""
    return (
        f"Insert the missing rows{how}. Fill in a copy of each input, mark what was missing, and "
        "read these: `frame['missing'] = frame[column].isna().astype(float)`, `frame['filled'] = "
        f"frame{by}[column].ffill()`, `inputs=['filled', 'missing']`. In `targets` keep the column "
        'as it is, with `missing_targets="skip"`: what was filled in never came. Or fill the copy '
        "in with a value that a `keras.layers.Masking` skips."
    )


def _averaging(series: Series, step: Any) -> str:
    """How to make steps even."""
    if not _in_seconds(step):
        return "Insert the rows that are missing, and a column that marks them."
    pandas, polars = _every(step)
    group, of = _by_group(series)
    return (
        f"Make them even, in pandas `frame = frame.set_index({series.time!r}){group}[columns]"
        f".resample({pandas!r}).mean().reset_index()`, in polars `frame = frame"
        f".sort({series.time!r}).group_by_dynamic({series.time!r}, every={polars!r}{of})"
        f".agg(polars.col(columns).mean()).upsample({series.time!r}, every={polars!r}{of})`."
    )


def _by_group(series: Series) -> tuple[str, str]:
    """How pandas and polars are told the groups of series."""
    by = list(series.by)
    return (f".groupby({by})", f", group_by={by}") if by else ("", "")


def _in_seconds(step: Any) -> bool:
    """True for a step of a fixed time; False for months, and for numbers."""
    return isinstance(step, np.timedelta64) and np.datetime_data(step.dtype)[0] not in ("M", "Y")


def _every(step: Any) -> tuple[str, str]:
    """A step as pandas and as polars write it, as in '15min' and '15m'."""
    if not isinstance(step, np.timedelta64):
        return str(step), str(step)
    if not _in_seconds(step):
        return str(step), f"{step.astype('int64')}mo"
    nanoseconds = int(step.astype("timedelta64[ns]").astype("int64"))
    size, pandas, polars = next(unit for unit in _UNITS if nanoseconds % unit[0] == 0)
    return f"{nanoseconds // size}{pandas}", f"{nanoseconds // size}{polars}"
