"""`StatefulSequence.from_frame`: what batches hold is what a loop over the frame would write down.

Each reading of `frame_of` tells its group and its hour, so that a number that a part must not know
is seen wherever it turns up, in padding too.
"""

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore:Only .* of all time")]

pandas = pytest.importorskip("pandas")
START = np.datetime64("2026-01-01T00", "us")
HOUR = np.timedelta64(1, "h")
GROUP = 10_000  # readings of group k are GROUP * (k + 1) + hour: 0 is padding alone


def frame_of(lengths, begins=None, package="pandas", seed=None):
    """A frame of machines "a", "b", ... with rows in any order.

    Args:
        lengths: rows of each.
        begins: the hour at which each begins; 0 by default.
        seed: of the order of rows; None for that of groups and times.
    """
    begins = [0] * len(lengths) if begins is None else begins
    hours = np.concatenate([b + np.arange(n) for n, b in zip(lengths, begins, strict=True)])
    group = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(hours))
    if seed is not None:
        np.random.default_rng(seed).shuffle(rows)
    columns = {
        "machine": np.array(list("abcdefgh"))[group][rows],
        "time": (START + hours * HOUR)[rows],
        "temp": (GROUP * (group + 1.0) + hours)[rows],
        "load": (-GROUP * (group + 1.0) - hours)[rows],
        "age": (group * 10)[rows],
    }
    if package == "pandas":
        return pandas.DataFrame(columns)
    if package == "polars":
        return pytest.importorskip("polars").DataFrame(columns)
    return pytest.importorskip("pyarrow").table(columns)


def make(frame, **options):
    arguments = {
        "by": "machine",
        "time": "time",
        "inputs": ["temp", "load"],
        "targets": "temp",
        "batch_size": 2,
        "sequence_length": 5,
        **options,
    }
    return StatefulSequence.from_frame(frame, **arguments)


def counted(sequence):
    """The steps that count: for each what is read and the targets, as `{input: targets}`."""
    steps = {}
    for i in range(len(sequence)):
        x, y, *weight = sequence[i]
        weight = weight[0].reshape(y.shape[:2]) if weight else np.ones(y.shape[:2])
        for row, column in np.argwhere(weight > 0):
            target = y[row, column].ravel().tolist()
            assert steps.setdefault(tuple(x[row, column].tolist()), target) is target  # once
    return steps


def batches(sequence):
    return [part for i in range(len(sequence)) for part in sequence[i]]


class Case(NamedTuple):
    lengths: list
    begins: list
    horizons: object
    split: object
    window: int
    rows: int
    package: str
    seed: int


@st.composite
def cases(draw):
    groups = draw(st.integers(1, 4))
    lengths = [draw(st.integers(26, 45)) for _ in range(groups)]
    begins = [draw(st.integers(0, 5)) for _ in range(groups)]
    horizons = draw(
        st.one_of(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=3))
    )
    # Each part has a step, with a target up to 5 later, of the shortest series that starts last.
    hours = draw(st.sampled_from([[], [12], [13, 19], [14]]))
    kind = draw(st.sampled_from(["time", "text", "fraction"]))
    if kind == "fraction":
        hours = [hour / 30 for hour in hours]
    elif kind == "time":
        hours = [(START + hour * HOUR).item() for hour in hours]
    else:
        hours = [str(START + hour * HOUR) for hour in hours]
    split = None if not hours else hours[0] if len(hours) == 1 else tuple(hours)
    return Case(
        lengths,
        begins,
        horizons,
        split,
        draw(st.integers(1, 9)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["pandas", "polars", "pyarrow"])),
        draw(st.integers(0, 99)),
    )


def ends_of(case, group):
    """The hours at which the parts of a series end."""
    first, length = case.begins[group], case.lengths[group]
    splits = [] if case.split is None else np.atleast_1d(np.array(case.split, object)).tolist()
    hours = [
        first + int(s * length) if isinstance(s, float) else (np.datetime64(s) - START) // HOUR
        for s in splits
    ]
    return [*hours, first + length]


def by_hand(case, part):
    """The steps of a part that count, written down one by one."""
    several = not isinstance(case.horizons, int)
    horizons = case.horizons if several else [case.horizons]
    steps = {}
    for group, first in enumerate(case.begins):
        ends = [first, *ends_of(case, group)]
        for hour in range(ends[part], ends[part + 1]):
            if hour + max(horizons) < ends[part + 1]:
                base = GROUP * (group + 1)
                steps[(base + hour, -base - hour)] = [base + hour + h for h in horizons]
    return steps


def assert_only_before(arrays, case, part):
    """No number in what batches hold, padding included, is of the part's end or later."""
    for values in arrays:
        numbers = np.unique(np.abs(values))
        for number in numbers[numbers >= GROUP].astype(int).tolist():
            group, hour = divmod(number, GROUP)
            assert hour < ends_of(case, group - 1)[part]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_parts_hold_what_a_loop_writes_down_and_nothing_later(case):
    options = {
        "horizons": case.horizons,
        "split": case.split,
        "sequence_length": case.window,
        "batch_size": case.rows,
    }
    frame = frame_of(case.lengths, case.begins, case.package, case.seed)
    made = make(frame, **options)
    in_order = make(frame_of(case.lengths, case.begins), **options)
    assert made.groups == list("abcd"[: len(case.lengths)])
    names = ["training", "validation", "test"][: len(ends_of(case, 0))]
    for part, name in enumerate(names):
        sequence = getattr(made, name)
        assert counted(sequence) == by_hand(case, part)
        assert_only_before(batches(sequence), case, part)
        for one, other in zip(batches(sequence), batches(getattr(in_order, name)), strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(getattr(made, name) is None for name in ("validation", "test") if name not in names)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_a_changed_future_changes_nothing_before_it(case):
    """Poison from the split on: the training must not show it, nor the validation that of t2."""
    assume(case.split is not None)
    options = {"horizons": case.horizons, "split": case.split, "sequence_length": case.window}
    frame = frame_of(case.lengths, case.begins, seed=case.seed)
    hour = (frame["time"].to_numpy() - START) // HOUR
    group = [ord(name) - ord("a") for name in frame["machine"]]
    plain = make(frame, **options)
    for part, name in enumerate(["training", "validation"][: len(ends_of(case, 0)) - 1]):
        late = hour >= np.array([ends_of(case, g)[part] for g in group])
        poisoned = frame.assign(
            temp=frame["temp"].where(~late, 1e9), load=frame["load"].where(~late, -1e9)
        )
        other = make(poisoned, **options)
        for one, like in zip(
            batches(getattr(other, name)), batches(getattr(plain, name)), strict=True
        ):
            np.testing.assert_array_equal(one, like)


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


def test_a_series_is_read_from_its_beginning_in_every_part():
    made = make(frame_of([30]), split=(0.5, 0.8), batch_size=1)
    for sequence, stop, start in ((made.validation, 24, 15), (made.test, 30, 24)):
        read = np.concatenate([sequence[i][0][0, :, 0] for i in range(len(sequence))])
        np.testing.assert_array_equal(read[: stop - 1], GROUP + np.arange(stop - 1))
        weight = np.concatenate([sequence[i][2].ravel() for i in range(len(sequence))])
        assert np.flatnonzero(weight)[0] == start


@pytest.mark.parametrize("end", [25, 29, 30, 99])
def test_a_second_split_near_the_end_leaves_no_test(end):
    """Of the hours 0 to 29, with a horizon of 5: the validation still ends where it says."""
    made = make(frame_of([30, 30]), split=(START + 10 * HOUR, START + end * HOUR), horizons=5)
    assert made.test is None
    latest = max(target for (target,) in counted(made.validation).values())
    assert latest == 2 * GROUP + min(end, 30) - 1
    assert make(frame_of([30, 30]), split=(0.4, 24 / 30), horizons=5).test is not None


def test_what_columns_are_read_as():
    frame = frame_of([12, 14]).assign(kind=[3] * 26)
    made = make(frame, inputs={"x": ["load", "temp"], "kind": "kind"}, targets={"y": ["temp"]})
    x, y = made.training[0][:2]
    assert x["x"].shape == (2, 5, 2)
    assert x["kind"].shape == (2, 5)
    assert x["kind"].dtype == np.int32
    assert y["y"].shape == (2, 5, 1)
    assert made.training.columns.inputs == {"x": ("load", "temp"), "kind": ("kind",)}
    assert made.training.columns.targets == {"y": ("temp",)}
    assert make(frame).training.columns.inputs == {None: ("temp", "load")}
    with pytest.raises(ValueError, match=r"a list: `inputs=\['temp'\]`"):
        make(frame, inputs="temp")


@settings(max_examples=25, deadline=None)
@given(cases())
def test_what_is_known_ahead_and_what_is_constant(case):
    """At each step the known-ahead columns of the time that is predicted, and the group's own."""
    horizons = np.atleast_1d(case.horizons)
    made = make(
        frame_of(case.lengths, case.begins, case.package, case.seed),
        inputs=["temp"],
        known_ahead=["load", "age"],
        static=["age"],
        horizons=case.horizons,
        split=case.split,
    )
    for part, name in enumerate(["training", "validation", "test"][: len(ends_of(case, 0))]):
        sequence, read = getattr(made, name), {}
        for i in range(len(sequence)):
            x, y, *weight = sequence[i]
            assert sorted(x) == ["inputs", "known_ahead", "static"]
            weight = weight[0].reshape(y.shape[:2]) if weight else np.ones(y.shape[:2])
            for at in map(tuple, np.argwhere(weight > 0)):
                read[float(x["inputs"][at][0])] = (x["known_ahead"][at], x["static"][at])
        assert len(read) == len(by_hand(case, part))
        for temp, (ahead, age) in read.items():
            assert age == 10 * (temp // GROUP - 1)
            at_each = [(-temp - h, float(age[0])) for h in horizons]
            np.testing.assert_array_equal(ahead, np.concatenate(at_each))
        inputs = [x for i in range(len(sequence)) for x in sequence[i][0].values()]
        assert_only_before(inputs, case, part)


TIMES = {
    "hours": START + np.arange(40) * HOUR,
    "an hour that clocks change": pandas.date_range(
        "2026-03-28T20", periods=40, freq="h", tz="Europe/Berlin"
    ),
    "objects": [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=k) for k in range(40)],
    "days": [datetime(2026, 1, 1).date() + timedelta(days=k) for k in range(40)],
    "first days of months": pandas.date_range("2020", periods=40, freq="MS"),
    "last days of months": pandas.date_range("2020", periods=40, freq="ME"),
    "quarters": pandas.date_range("2020-02-15", periods=40, freq=pandas.DateOffset(months=3)),
    "years": pandas.date_range("1980", periods=40, freq="YS"),
    "numbers": np.arange(7, 127, 3),
    "unsigned numbers": np.arange(40).astype("uint8"),
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_times_of_one_step(package, kind):
    table = {"time": TIMES[kind], "temp": GROUP + np.arange(40.0)}
    frame = pandas.DataFrame(table)
    split = frame["time"][30]
    if package == "polars":
        polars = pytest.importorskip("polars")
        frame = polars.DataFrame({"time": polars.from_pandas(frame)["time"], "temp": table["temp"]})
    # Python's ints, as users write them.
    split = int(split) if isinstance(split, np.integer) else split
    made = make(frame, by=None, inputs=["temp"], split=split, batch_size=1)
    assert made.groups == [None]
    assert max(*counted(made.training).values())[0] == GROUP + 29
    assert min(*counted(made.validation))[0] == GROUP + 30
    gap = frame.drop(index=20) if package == "pandas" else frame[[*range(20), *range(21, 40)]]
    with pytest.raises(ValueError, match=r"row 20 .* after row 19 .* most are"):
        make(gap, by=None, inputs=["temp"])


SPLITS = {
    "text": "2026-01-01T12:00",
    "a date": (START + 24 * HOUR).item().date(),
    "a timestamp": pandas.Timestamp("2026-01-01T12"),
    "NumPy's": np.datetime64("2026-01-01T12"),
    "NumPy's pair": np.array(["2026-01-01T12", "2026-01-02T00"], "datetime64[h]"),
    "fractions": np.array([0.3, 0.6]),
    "timestamps": pandas.DatetimeIndex(["2026-01-01T12", "2026-01-02T00"]),
}
ZONED = {
    "text": "2026-01-01T12:00+00:00",
    "text of another zone": "2026-01-01T14:00+02:00",
    "a timestamp": pandas.Timestamp("2026-01-01T13", tz="Europe/Berlin"),
    "a datetime": datetime(2026, 1, 1, 12, tzinfo=UTC),
}


@pytest.mark.parametrize("zoned", [False, True])
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_splits_of_every_kind_are_the_same_time(package, zoned):
    frame = frame_of([40, 40])
    if zoned:
        frame["time"] = frame["time"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    if package == "polars":
        frame = pytest.importorskip("polars").from_pandas(frame)
    for split in (ZONED if zoned else SPLITS).values():
        made = make(frame, split=split)
        hour = 24 if isinstance(split, date) and not isinstance(split, datetime) else 12
        assert max(x for x, _ in counted(made.training)) == 2 * GROUP + hour - 2
        assert min(x for x, _ in counted(made.validation)) == GROUP + hour


def test_rows_without_times_are_in_order():
    frame = frame_of([30, 25], seed=None).drop(columns="time")
    made = make(frame, time=None, split=20)
    timed = make(frame_of([30, 25]), split=START + 20 * HOUR)
    for name in ("training", "validation"):
        assert counted(getattr(made, name)) == counted(getattr(timed, name))
    answers = np.concatenate([made.validation[i][1] for i in range(len(made.validation))])
    forecasts = made.forecasts(answers, made.validation)
    assert forecasts["b"].times.tolist() == list(range(21, 25))


def test_a_warning_names_the_line_of_the_user_and_is_of_the_training_alone():
    with pytest.warns(UserWarning, match="Only .* of all time") as caught:
        make(frame_of([40]), split=0.5, batch_size=8)
    assert [warning.filename for warning in caught] == [__file__]


GROUPS = {
    "numbers": np.array([9, 10, -3]),
    "bools": np.array([True, False]),
    "text": np.array(["b", "aa", ""]),
    "categories": pandas.Categorical(["b", "a"], categories=["b", "a", "c"]),
    "nullable": pandas.array([4, 2], dtype="Int64"),
    "days": np.array(["2026-02-01", "2026-01-01"], "datetime64[ns]"),
}


@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("kind", GROUPS)
def test_groups_of_any_kind_are_sorted(kind, package):
    labels, count = GROUPS[kind], len(GROUPS[kind])
    group = np.arange(12 * count) % count
    frame = frame_of([12 * count]).assign(machine=labels[group])
    if package == "polars":
        frame = pytest.importorskip("polars").from_pandas(frame)
    order = np.argsort(np.asarray(labels), kind="stable")
    made = make(frame)
    assert made.groups == list(np.asarray(labels)[order])
    first = made.training[0][0][:, 0, 0] if count > 1 else []
    assert first[:2].tolist() == (GROUP + order[:2]).tolist()


@pytest.mark.parametrize("by", [["site", "machine"], ("site", "machine"), pandas.Index(["site"])])
def test_groups_of_several_columns(by):
    frame = pandas.concat(
        [
            frame_of([12]).assign(site=site, machine=machine)
            for site, machine in ((2, "x"), (1, "y"))
        ]
    )
    made = make(frame, by=by)
    assert made.groups == ([(1,), (2,)] if len(by) == 1 else [(1, "y"), (2, "x")])
    assert len(counted(make(frame.assign(temp=range(24)), by=by).training)) == 22


def test_missing_targets_are_skipped_or_refused():
    frame = frame_of([30, 24])
    lacking = frame.assign(heat=frame["temp"].where((np.arange(54) % 10) != 7))
    options = {"targets": "heat", "horizons": [1, 3], "split": 0.6}
    with pytest.raises(ValueError, match=r"column 'heat', machine='a', row 7 .*\(rows in all: 5\)"):
        make(lacking, **options)
    made = make(lacking, missing_targets="skip", **options)
    plain = make(frame, **{**options, "targets": "temp"})
    for name in ("training", "validation"):
        kept = {
            x: y
            for x, y in counted(getattr(plain, name)).items()
            if not any((t % GROUP + (0 if t < 2 * GROUP else 30)) % 10 == 7 for t in y)
        }
        assert counted(getattr(made, name)) == kept
    # The first rows are no targets of anything.
    early = frame.assign(heat=frame["temp"].where(frame["temp"] % GROUP > 0))
    assert counted(make(early, targets="heat").training) == counted(make(frame).training)


def test_weights_belong_to_the_row_that_is_read():
    frame = frame_of([30]).assign(weight=np.arange(30.0), heat=np.nan)
    frame["heat"] = frame["temp"].where(np.arange(30) != 1)  # the target of the row of weight 0
    made = make(frame, sample_weight="weight", targets="heat", batch_size=1)
    weight = np.concatenate([made.training[i][2].ravel() for i in range(len(made.training))])[:29]
    np.testing.assert_allclose(weight / weight[1], np.arange(29))


def test_series_that_lack_a_part():
    frame = frame_of([40, 12, 20], begins=[0, 0, 20])
    with pytest.raises(ValueError, match=r"in the training.*machine='c' with 0 of its 20 rows"):
        make(frame, split=START + 20 * HOUR)
    with pytest.raises(ValueError, match=r"in the validation.*machine='b' with 0 of its 12 rows"):
        make(frame[frame["machine"] != "c"], split=START + 20 * HOUR)
    made = make(frame, split=START + 20 * HOUR, partial=True)
    case = Case([40, 12, 20], [0, 0, 20], 1, START + 20 * HOUR, 5, 2, "pandas", 0)
    assert {x // GROUP for x, _ in counted(made.training)} == {1, 2}
    assert {x // GROUP for x, _ in counted(made.validation)} == {1, 3}
    assert_only_before(batches(made.training), case, 0)
    answers = np.concatenate([made.validation[i][1] for i in range(len(made.validation))])
    assert list(made.forecasts(answers, "validation")) == ["a", "c"]
    assert "39 steps of 2 series" not in repr(made)
    with pytest.raises(ValueError, match="nowhere|in the training"):
        make(frame, split=START - HOUR, partial=True)


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
