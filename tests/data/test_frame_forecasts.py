"""The way back from predictions to the rows of a frame, and forecasts of what has not come yet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_frames import GROUP, HOUR, START, cases, counted, frame_of, make

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore:Only .* of all time")]

pandas = pytest.importorskip("pandas")


@settings(max_examples=30, deadline=None)
@given(cases(), st.booleans())
def test_forecasts_lead_back_to_the_rows_of_the_frame(case, several):
    """A model that knew the answers would give each row its own reading."""
    frame = frame_of(case.lengths, case.begins, seed=case.seed)
    made = make(
        frame,
        horizons=case.horizons,
        split=case.split,
        sequence_length=case.window,
        targets=["temp", "load"] if several else "temp",
        shuffle=True,
        seed=case.seed,
    )
    for name in ("training", "validation", "test"):
        sequence = getattr(made, name)
        if sequence is None:
            continue
        answers = np.concatenate([sequence[i][1] for i in range(len(sequence))])
        forecasts = made.forecasts({"a": answers, "b": [answers]}, name)
        assert forecasts["b"][0].keys() == forecasts["a"].keys() == set(made.groups)
        total = 0
        for group, (times, rows, rows_read, values) in forecasts["a"].items():
            values = values.reshape(*rows.shape, -1)
            known = frame.iloc[rows.ravel()]
            assert set(known["machine"]) == {group}
            np.testing.assert_array_equal(known["temp"], values[..., 0].ravel())
            np.testing.assert_array_equal(known["time"].to_numpy(), times.ravel())
            horizons = np.array(case.horizons)
            read = frame.iloc[rows_read]
            assert set(read["machine"]) == {group}
            ahead = read["time"].to_numpy() + horizons[..., None] * HOUR
            np.testing.assert_array_equal(times.T, ahead)
            total += len(values)
        assert total == len(counted(sequence)) if not several else total > 0


def echo(sequence, horizons):
    """What a model gives that predicts for each horizon the first number that it reads."""
    read = [sequence[i][0] for i in range(len(sequence))]
    read = np.concatenate([x["inputs"] if isinstance(x, dict) else x for x in read])[..., :1]
    return read if isinstance(horizons, int) else np.repeat(read, len(horizons), -1)


def check_future(forecasts, frame, case, known_to):
    """Those of the steps whose latest target lies behind the last reading, with their times.

    Args:
        forecasts: of `echo`.
        frame: with its rows to come.
        case: readings alone.
        known_to: the end of what is known ahead, hours of each group; None where nothing is.
    """
    horizons, rows = np.atleast_1d(case.horizons), frame.reset_index(drop=True)
    place = {key: k for k, key in enumerate(zip(rows["machine"], rows["time"], strict=True))}
    expected = {}
    for group, (begin, length) in enumerate(zip(case.begins, case.lengths, strict=True)):
        steps = [
            t
            for t in range(begin, begin + length)
            if t + max(horizons) >= begin + length
            and (known_to is None or t + max(horizons) < known_to[group])
        ]
        if steps:
            expected["abcdefgh"[group]] = steps
    assert list(forecasts) == list(expected)
    for name, steps in expected.items():
        base = GROUP * ("abcdefgh".index(name) + 1)
        times = START + (np.array(steps)[:, None] + horizons) * HOUR
        times = times if isinstance(case.horizons, list) else times[:, 0]
        np.testing.assert_array_equal(forecasts[name].times, times)
        values = forecasts[name].values.reshape(len(steps), -1)
        np.testing.assert_array_equal(values, base + np.repeat([steps], len(horizons), 0).T)
        assert forecasts[name].rows_read.tolist() == [place[name, START + t * HOUR] for t in steps]
        holding = [place.get((name, time), len(frame)) for time in times.ravel()]
        assert forecasts[name].rows.ravel().tolist() == holding


@settings(max_examples=25, deadline=None)
@given(cases())
def test_the_future_is_forecast_from_the_last_readings(case):
    frame = frame_of(case.lengths, case.begins, case.package, case.seed)
    options = {"horizons": case.horizons, "split": case.split, "sequence_length": case.window}
    made = make(frame, **options, shuffle=True, seed=1, batch_size=case.rows)
    forecasts = made.forecasts(echo(made.future, case.horizons), made.future)
    check_future(forecasts, frame_of(case.lengths, case.begins, seed=case.seed), case, None)
    assert not counted(made.future)  # nothing has come that could be scored


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 8), st.booleans())
def test_rows_to_come_hold_what_is_known_ahead(case, rows, weighted):
    """Readings are missing in them, and every other part is what it is without them."""
    plain = frame_of(case.lengths, case.begins, seed=case.seed).assign(weight=1.0)
    frame = frame_of([n + rows for n in case.lengths], case.begins, seed=case.seed)
    hour = ((frame["time"] - START) // HOUR).to_numpy()
    group = frame["machine"].map("abcd".index).to_numpy()
    ends = np.array(case.begins) + case.lengths
    frame["temp"] = frame["temp"].where(hour < ends[group])
    frame["weight"] = np.where(hour < ends[group], 1.0, np.nan)
    options = {
        "inputs": ["temp"],
        "known_ahead": ["load"],
        "static": ["age"],
        "horizons": case.horizons,
        "split": case.split,
        "sequence_length": case.window,
        **({"sample_weight": "weight"} if weighted else {}),
    }
    made, like = make(frame, **options), make(plain, **options)
    for name in ("training", "validation", "test"):
        one, other = getattr(made, name), getattr(like, name)
        assert (one is None) == (other is None)
        for i in range(0 if one is None else len(other)):
            for part, same in zip(flat(one[i]), flat(other[i]), strict=True):
                np.testing.assert_array_equal(part, same)
    assert like.future is None  # no step has what is known ahead of the time that it predicts
    assert (made.future is None) == (rows == 0)
    if rows:
        forecasts = made.forecasts(echo(made.future, case.horizons), made.future)
        check_future(forecasts, frame, case, ends + rows)
        (last,) = [x["known_ahead"] for x, *_ in [made.future[len(made.future) - 1]]]
        assert -last.min() <= GROUP * len(ends) + max(ends) + rows - 1


def flat(batch):
    return [a for part in batch for a in (part.values() if isinstance(part, dict) else [part])]


@pytest.mark.parametrize("lacking", ["temp", "load", "heat"])
def test_rows_of_which_something_is_known_are_not_to_come(lacking):
    """And neither are any where nothing is known ahead."""
    frame = frame_of([30, 24]).assign(heat=1.0, plan=2.0)
    late = frame.index >= 50
    some = frame.assign(**{lacking: frame[lacking].where(~late)})
    options = {"targets": "heat", "known_ahead": ["plan"]}
    with pytest.raises(ValueError, match=rf"column '{lacking}', machine='b', row 50 .*in all: 4"):
        make(some, **options)
    none = frame.assign(**{name: frame[name].where(~late) for name in ("temp", "load", "heat")})
    assert "future: 1 steps of 1 series" in repr(make(none, **options))
    with pytest.raises(ValueError, match="NaN"):
        make(none, targets="heat")


def test_joined_series_have_no_future():
    frame = frame_of([30, 24])
    assert make(frame, boundary="ignore").future is None
    assert make(frame, boundary="pack").future is not None


def test_gaps_that_are_filled_in_before_rows_to_come_follow():
    """Both remedies together: the last reading is the last, however its inputs are filled in."""
    frame = frame_of([33]).assign(plan=1.0)
    come = frame[30:].assign(temp=np.nan, load=np.nan)
    known = frame[:30].assign(temp=lambda f: f["temp"].where(~f.index.isin([11, 12])))
    known["missing"] = known["temp"].isna().astype(float)
    known["filled"] = known["temp"].ffill()
    made = make(
        pandas.concat([known, come]),
        inputs=["filled", "missing"],
        known_ahead=["plan"],
        horizons=[1, 3],
        missing_targets="skip",
    )
    forecasts = made.forecasts(echo(made.future, [1, 3]), made.future)["a"]
    assert forecasts.values[:, 0].tolist() == [GROUP + hour for hour in (27, 28, 29)]
    assert forecasts.rows[-1].tolist() == [30, 32]


BEHIND = {
    "hours": (START + np.arange(30) * HOUR, START + np.arange(30, 33) * HOUR),
    "hours of a time zone": (
        pandas.date_range("2026-03-28T01", periods=30, freq="h", tz="Europe/Berlin"),
        pandas.date_range("2026-03-29T06", periods=3, freq="h"),
    ),
    "first days of months": (
        pandas.date_range("2020-02", periods=30, freq="MS"),
        pandas.date_range("2022-08", periods=3, freq="MS"),
    ),
    "last days of months": (
        pandas.date_range("2020-09-30", periods=29, freq="ME"),
        pandas.date_range("2023-02-28", periods=3, freq="ME"),
    ),
    "two months": (
        pandas.DatetimeIndex(["2026-07-31T06", "2026-08-31T06"]),
        pandas.date_range("2026-09-30T06", periods=3, freq="ME"),
    ),
    "days that not all months have": (
        pandas.DatetimeIndex([f"2026-{month:02}-30" for month in range(3, 13)]),
        pandas.DatetimeIndex(["2027-01-30", "2027-02-28", "2027-03-30"]),
    ),
    "quarters": (
        pandas.date_range("2020-02-15", periods=12, freq=pandas.DateOffset(months=3)),
        pandas.date_range("2023-02-15", periods=3, freq=pandas.DateOffset(months=3)),
    ),
    "numbers": (np.arange(7, 97, 3), np.array([97, 100, 103])),
    "unsigned numbers": (np.arange(7, 97, 3).astype("uint64"), np.array([97, 100, 103])),
    "small numbers": (np.array([-90, 30], "int8"), np.array([150, 270, 390])),
    "rows": (None, np.array([30, 31, 32])),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_times_behind_the_frame(kind):
    times, later = BEHIND[kind]
    frame = pandas.DataFrame(
        {"time": times, "temp": np.arange(30.0 if times is None else len(times))}
    )
    options = {"by": None, "inputs": ["temp"], "batch_size": 1, "horizons": 1}
    options |= {"time": None} if times is None else {}
    for horizon in (1, 2, 3)[: len(frame) - 1]:
        made = make(frame, **{**options, "horizons": horizon})
        forecasts = made.forecasts(echo(made.future, 1), "future")[None]
        np.testing.assert_array_equal(forecasts.times, np.asarray(later)[:horizon])
        assert forecasts.times.dtype.kind == np.asarray(later).dtype.kind
        assert (forecasts.rows == len(frame)).all()


@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("horizons", [2, [1, 4]])
@pytest.mark.parametrize("part", ["validation", "future"])
@pytest.mark.parametrize("by", ["machine", ["machine", "age"], None])
def test_a_table_has_a_row_for_each_group_time_and_horizon(by, part, horizons, package):
    frame = frame_of([30, 24] if by else [30], package=package, seed=4)
    made = make(frame, by=by, horizons=horizons, split=0.6)
    answers = echo(getattr(made, part), horizons)
    table = made.table({"a": answers, "b": [np.stack([answers, -answers], -1)]}, part)
    names = {None: [], "machine": ["machine"]}.get(by if by is None else str(by), by)
    assert list(table["a"]) == [*names, "time", "horizon", "row", "forecast"]
    (two,) = table["b"]
    assert (two["forecast_0"] == -two["forecast_1"]).all()
    pythons = pytest.importorskip(package)
    rows = pythons.DataFrame(table["a"])
    rows = rows if package == "pandas" else rows.to_pandas()
    plain = frame if package == "pandas" else frame.to_pandas()
    read = rows["time"] - pandas.to_timedelta(rows["horizon"], unit="h")
    assert (rows["forecast"] % GROUP == (read - START) // HOUR).all()
    assert set(rows["horizon"]) == set(np.atleast_1d(horizons))
    assert not rows.duplicated([*names, "time", "horizon"]).any()
    assert len(rows) == sum(f.times.size for f in made.forecasts(answers, part).values())
    there = rows[rows["row"] < len(plain)]
    for name in [*names, "time"]:
        np.testing.assert_array_equal(plain[name].to_numpy()[there["row"]], there[name])
    if part == "future":
        assert (rows["time"][rows["row"] == len(plain)] > plain["time"].min()).all()
        assert (rows["row"] == len(plain)).any()
