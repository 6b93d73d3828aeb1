"""`StatefulSequence.from_frame`: what batches hold is what a loop over the frame would write down.

Each reading of `frame_of` tells its group and its hour, so that a number that a part must not know
is seen wherever it turns up, in padding too.
"""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given, settings
from machine_frames import GROUP, HOUR, START, Case, cases, counted, frame_of, make

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore:Only .* of all time")]

pandas = pytest.importorskip("pandas")


def batches(sequence):
    return [part for i in range(len(sequence)) for part in sequence[i]]


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
    assert [warning.filename for warning in caught] == [make.__code__.co_filename]


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
