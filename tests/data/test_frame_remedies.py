"""The code that refusals of a frame name mends it: it is run as the message says it."""

import numpy as np
import pytest
from machine_frames import GROUP, counted, frame_of, make

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore:Only .* of all time")]

pandas = pytest.importorskip("pandas")


def codes(error):
    """The programs that a message names."""
    return [part for part in str(error.value).split("`")[1::2] if part.startswith("frame")]


@pytest.mark.parametrize("by", ["machine", None])
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_the_remedy_of_a_gap_works(package, by):
    frame = frame_of([30, 24][: 2 if by else 1], package=package)
    gap = [k for k in range(len(frame)) if k not in (6, 7)]
    if package == "pandas":
        frame = frame.iloc[gap].assign(time=frame["time"].iloc[gap] + pandas.Timedelta("7min"))
    else:
        frame = frame[gap]
    options = {"by": by, "inputs": ["filled", "missing"], "missing_targets": "skip"}
    with pytest.raises(ValueError, match="2 missing between them") as error:
        make(frame, by=by)
    insert = next(code for code in codes(error) if ("set_index" in code) == (package == "pandas"))
    names = {"frame": frame}
    exec(insert, names)
    if package == "pandas":
        names["column"] = "temp"
        exec("; ".join(code for code in codes(error) if "isna" in code or "ffill" in code), names)
        frame = names["frame"]
    else:
        polars = pytest.importorskip("polars")
        frame = names["frame"].with_columns(
            missing=polars.col("temp").is_null().cast(float),
            filled=polars.col("temp").fill_null(strategy="forward"),
            machine=polars.col("machine").fill_null(strategy="forward"),
        )
    made = make(frame, **options)  # the targets are as they were measured
    steps = counted(made.training)
    assert {x[0] for x in steps if x[1]} == {GROUP + 5}  # carried on through the gap, and marked
    assert len(steps) == len(frame) - (2 if by else 1) - 2


@pytest.mark.parametrize("by", ["machine", None])
@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("clock", ["two late", "all inexact"])
def test_the_remedy_of_uneven_steps_works(clock, package, by):
    frame = frame_of([30, 24][: 2 if by else 1])
    if clock == "two late":
        frame.loc[[5, 9], "time"] += pandas.Timedelta("90s")
    else:
        late = np.random.default_rng(0).integers(0, 40, len(frame))
        frame["time"] += pandas.to_timedelta(late, unit="s")
    if package == "polars":
        frame = pytest.importorskip("polars").from_pandas(frame)
    with pytest.raises(ValueError, match="most are 1h apart: an uneven") as error:
        make(frame, by=by)
    even = next(code for code in codes(error) if ("set_index" in code) == (package == "pandas"))
    names = {"frame": frame, "columns": ["temp", "load"]}
    if package == "polars":
        names["polars"] = pytest.importorskip("polars")
    exec(even, names)
    assert len(counted(make(names["frame"], by=by).training)) == len(frame) - (2 if by else 1)
    if package == "pandas":  # working days are counted
        count = [code for code in codes(error) if "sort_values" in code or "'step'" in code]
        exec("; ".join(count), names := {"frame": frame})
        made = make(names["frame"], by=by, time="step")
        assert len(counted(made.training)) == len(frame) - (2 if by else 1)


@pytest.mark.parametrize("by", ["machine", None])
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_the_remedy_of_uneven_steps_inserts_the_rows_of_a_gap(package, by):
    frame = frame_of([30, 24][: 2 if by else 1])
    frame.loc[[5, 9], "time"] += pandas.Timedelta("90s")
    frame = frame.drop([12, 13])
    if package == "polars":
        frame = pytest.importorskip("polars").from_pandas(frame)
    with pytest.raises(ValueError, match="most are 1h apart: an uneven") as error:
        make(frame, by=by)
    even = next(code for code in codes(error) if ("set_index" in code) == (package == "pandas"))
    names = {"frame": frame, "columns": ["temp", "load"]}
    exec(f"import {package}; {even}", names)
    assert len(names["frame"]) == len(frame) + 2
    with pytest.raises(ValueError, match=r"NaN or infinite.*in all: 2"):
        make(names["frame"], by=by)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_the_remedy_of_doubled_rows_works(package):
    frame = frame_of([12, 14], package=package)
    twice = [*range(26), 3, 5]
    frame = frame.iloc[twice] if package == "pandas" else frame[twice]
    with pytest.raises(
        ValueError, match=r"row 26 .*, and row 3 of the same time \(in all: 2\)"
    ) as error:
        make(frame)
    keep = "unique(" if package == "polars" else "drop_duplicates("
    keep = next(code for code in codes(error) if keep in code)
    assert len(counted(make(eval(keep, {"frame": frame})).training)) == 24


@pytest.mark.parametrize("by", ["machine", None])
def test_the_remedy_of_missing_inputs_leaves_targets_as_they_were(by):
    """What was filled in is read, never learnt, also at the beginning of a series."""
    frame = frame_of([30, 24][: 2 if by else 1])
    frame["temp"] = frame["temp"].where(~frame.index.isin([0, 1, 9, 10]))
    with pytest.raises(ValueError, match=r"column 'temp', .*row 0 .*in all: 4") as error:
        make(frame, by=by, inputs=["temp"])
    exec(
        "; ".join(c for c in codes(error) if "isna" in c or "ffill" in c), names := {"frame": frame}
    )
    made = make(names["frame"], by=by, inputs=["filled", "missing"], missing_targets="skip")
    steps = counted(made.training)
    assert {x[0] for x in steps if x[1]} == {0, GROUP + 8}
    learnt = sorted(y for (y,) in steps.values())
    known = frame.groupby("machine")["temp"].apply(lambda t: t.iloc[1:]).dropna()
    assert learnt == sorted(known)


def clocks_of(package, freq, periods, by):
    """Readings that count on, at times of a place where clocks are changed."""
    times = pandas.date_range("2026-03-20", periods=periods, freq=freq, tz="Europe/Berlin")
    parts = [
        {"machine": m, "time": times, "temp": k * GROUP + np.arange(1.0 * periods)}
        for k, m in enumerate("ab")
    ]
    frame = pandas.concat(map(pandas.DataFrame, parts[: 2 if by else 1]), ignore_index=True)
    return frame if package == "pandas" else pytest.importorskip("polars").from_pandas(frame)


@pytest.mark.parametrize("by", ["machine", None])
@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("freq", ["D", "W", "MS"])
def test_the_remedy_of_days_in_a_time_zone_works(freq, package, by):
    frame = clocks_of(package, freq, 40 if freq != "MS" else 20, by)
    with pytest.raises(ValueError, match="Without the zone they are even") as error:
        make(frame, by=by, inputs=["temp"])
    local = next(c for c in codes(error) if ("polars" in c) == (package == "polars"))
    names = {"frame": frame, "polars": package == "polars" and pytest.importorskip("polars")}
    exec(local, names)
    made = make(names["frame"], by=by, inputs=["temp"])
    assert len(counted(made.training)) == len(frame) - (2 if by else 1)


@pytest.mark.parametrize("by", ["machine", None])
@pytest.mark.parametrize("begin", ["2026-03-20", "2026-10-20"])
@pytest.mark.parametrize("freq", ["h", "15min"])
def test_the_remedy_of_local_times_keeps_the_hour_that_clocks_double(freq, begin, by):
    times = pandas.date_range(begin, periods=1200, freq=freq, tz="Europe/Berlin")
    parts = [{"machine": m, "time": times.tz_localize(None), "temp": GROUP + 0.0} for m in "ab"]
    frame = pandas.concat(map(pandas.DataFrame, parts[: 2 if by else 1]), ignore_index=True)
    with pytest.raises(ValueError, match="local times") as error:
        make(frame, by=by, inputs=["temp"])
    exec(next(c for c in codes(error) if "ambiguous" in c), names := {"frame": frame})
    made = make(names["frame"], by=by, inputs=["temp"])
    assert f"of {1200 * (2 if by else 1)} time steps" in repr(made.training)
    assert (pandas.DatetimeIndex(names["frame"]["time"][:1200]) == times).all()
