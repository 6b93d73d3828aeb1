"""The catalogue of bad input: frames of readings. NumPy only."""

import numpy as np
import pytest
from catalogue import Bad, assert_refused

from keras_stateful import StatefulSequence
from keras_stateful.foundation.protocols import is_sequence

pytestmark = pytest.mark.backend_free

pandas = pytest.importorskip("pandas")
ones = np.ones((9, 2))


def readings(change=None, **options):
    """Sequences from a frame of two machines, five hours each."""
    hours = pandas.date_range("2026-01-01", periods=5, freq="h")
    parts = [{"machine": m, "time": hours, "temp": [1.0, 2, 3, 4, 5], "on": 1.0} for m in "ab"]
    table = pandas.concat(map(pandas.DataFrame, parts), ignore_index=True)
    arguments = {
        "by": "machine",
        "time": "time",
        "inputs": ["temp"],
        "targets": "temp",
        "batch_size": 2,
        "sequence_length": 4,
        **options,
    }
    table = table if change is None else change(table)
    return StatefulSequence.from_frame(table, **arguments)


def split_in_two(use):
    """What a function makes of a frame's sequences: 10 hours to train on, and 10 to validate."""
    hours = pandas.date_range("2026-01-01", periods=20, freq="h")
    parts = [{"machine": m, "time": hours, "temp": np.arange(20.0)} for m in "ab"]
    table = pandas.concat(map(pandas.DataFrame, parts), ignore_index=True)
    return use(readings(lambda _: table, split=0.5, sequence_length=3))


def later(table, row, **step):
    """A frame with the times of a machine moved from a row on."""
    move = (table.index >= row) & (table["machine"] == table["machine"][row])
    return table.assign(time=table["time"] + move.astype(int) * pandas.Timedelta(**step))


BAD = {
    "an array": Bad(
        lambda: readings(lambda t: t.to_numpy()),
        TypeError,
        "`frame`",
        "numpy.ndarray",
        "`pandas.DataFrame(...)`",
    ),
    "a frame that groups hold": Bad(
        lambda: readings(lambda t: t.groupby("machine")),
        TypeError,
        "`frame`",
        "DataFrameGroupBy",
        "`by=`",
    ),
    "a frame that is not read": Bad(
        lambda: readings(lambda t: pytest.importorskip("polars").from_pandas(t).lazy()),
        TypeError,
        "`frame`",
        "LazyFrame",
        "`frame.collect()`",
    ),
    "a frame without rows": Bad(
        lambda: readings(lambda t: t[:0]), ValueError, "`frame`", "length 0", "filter"
    ),
    "an unknown column": Bad(
        lambda: readings(inputs=["tmep"]),
        ValueError,
        "`inputs`",
        "'tmep'",
        "nearest: 'time', 'temp'",
    ),
    "an unknown target": Bad(
        lambda: readings(targets="heat"),
        ValueError,
        "`targets`",
        "'heat'",
        "['machine', 'time', 'temp', 'on']",
    ),
    "a column of that name twice": Bad(
        lambda: readings(lambda t: t.rename(columns={"on": "temp"})),
        ValueError,
        "`targets`",
        "2 times",
        "Rename",
    ),
    "one column named twice": Bad(
        lambda: readings(inputs=["temp", "on", "temp"]),
        ValueError,
        "`inputs`",
        "2 times. Received: 'temp'",
        "Name each once",
    ),
    "columns without an order": Bad(
        lambda: readings(inputs={"temp", "on"}), ValueError, "`inputs`", "{'", "one of its columns"
    ),
    "one input from two arguments": Bad(
        lambda: readings(inputs={"x": ["temp"]}, known_ahead={"x": ["on"]}),
        ValueError,
        "`inputs` and `known_ahead`",
        "key 'x'",
        "Rename one",
    ),
    "missing weights": Bad(
        lambda: readings(lambda t: t.assign(w=np.nan), sample_weight="w"),
        ValueError,
        "`sample_weight`",
        "column 'w', machine='a', row 0",
        "`.fillna(0)`",
    ),
    "a stride as text": Bad(
        lambda: readings(stride="2", label_at="window"), TypeError, "`stride`", "'2'", "an int"
    ),
    "weights in a list": Bad(
        lambda: readings(sample_weight=["on"]),
        TypeError,
        "`sample_weight`",
        "['on']",
        "sample_weight='w'",
    ),
    "an input of no columns": Bad(
        lambda: readings(lambda t: t.assign(machine=0), by=None, time=None, inputs={"x": []}),
        ValueError,
        "`inputs['x']`",
        "[]",
        "Leave that key out",
    ),
    "a plan of no columns": Bad(
        lambda: readings(lambda t: t[["temp", "on"]], by=None, time=None, known_ahead={"x": []}),
        ValueError,
        "`known_ahead['x']`",
        "[]",
        "Leave that key out",
    ),
    "weights of nothing": Bad(
        lambda: readings(lambda t: t.assign(w=0), sample_weight="w"),
        ValueError,
        "a weight above 0",
        "machine='a'",
        "other weights",
    ),
    "a column that is the index": Bad(
        lambda: readings(lambda t: t.set_index("time")),
        ValueError,
        "`time`",
        "'time'",
        "`frame.reset_index()`",
    ),
    "an index of times": Bad(
        lambda: readings(lambda t: t[:5].set_index("time"), time=None),
        ValueError,
        "`time`",
        "an index of datetime64",
        "`frame.reset_index(names='time')`",
    ),
    "a group without a name": Bad(
        lambda: readings(lambda t: t.assign(machine=t["machine"].where(t.index != 3))),
        ValueError,
        "`by`",
        "'machine', row 3",
        "Leave those rows out",
    ),
    "groups of several types": Bad(
        lambda: readings(lambda t: t.assign(machine=[1, "b"] * 5)),
        TypeError,
        "`by`",
        "'machine'",
        ".astype(str)",
    ),
    "times as text": Bad(
        lambda: readings(lambda t: t.assign(time=t["time"].astype(str))),
        TypeError,
        "`time`",
        "2026-01-01",
        "pandas.to_datetime",
    ),
    "times in fractions": Bad(
        lambda: readings(lambda t: t.assign(time=t.index / 10)),
        TypeError,
        "`time`",
        "float64",
        "whole numbers",
    ),
    "a missing time": Bad(
        lambda: readings(lambda t: t.assign(time=t["time"].where(t.index != 3))),
        ValueError,
        "`time`",
        "'time', row 3",
        "Leave those rows out",
    ),
    "rows of one time": Bad(
        lambda: readings(lambda t: later(t, 8, hours=-1)),
        ValueError,
        "one row for each time",
        "machine='b', row 8 (time=2026-01-01T02:00:00), and row 7",
        "frame.drop_duplicates(['machine', 'time'])",
    ),
    "series that nothing tells apart": Bad(
        lambda: readings(by=None), ValueError, "one row for each time", "in all: 5", "`by=`"
    ),
    "a gap in time": Bad(
        lambda: readings(lambda t: later(t, 8, hours=2)),
        ValueError,
        "one step apart",
        "machine='b', row 8 (time=2026-01-01T05:00:00), 3h after row 7",
        ".resample('1h', origin='start').asfreq()",
    ),
    "an uneven step": Bad(
        lambda: readings(lambda t: later(t, 8, minutes=7)),
        ValueError,
        "one step apart",
        "machine='b', row 8 (time=2026-01-01T03:07:00), 67min after row 7",
        "[columns].resample('1h').mean()",
    ),
    "working days": Bad(
        lambda: readings(
            lambda t: t.assign(time=[*pandas.bdate_range("2026-01-01", periods=5)] * 2)
        ),
        ValueError,
        "one step apart",
        "machine='a', row 2 (time=2026-01-05T00:00:00), 3D after row 1",
        "`frame['step'] = frame.groupby(['machine']).cumcount()`",
    ),
    "a missing input": Bad(
        lambda: readings(lambda t: t.assign(on=t["on"].where(t.index != 7)), inputs=["temp", "on"]),
        ValueError,
        "`inputs`",
        "column 'on', machine='b', row 7 (time=2026-01-01T02:00:00)",
        "frame['missing']",
    ),
    "a missing target": Bad(
        lambda: readings(lambda t: t.assign(on=t["on"].where(t.index != 7)), targets="on"),
        ValueError,
        "`targets`",
        "column 'on', machine='b', row 7",
        'missing_targets="skip"',
    ),
    "features without an axis": Bad(
        lambda: readings(inputs="temp"), ValueError, "`inputs`", "'temp'", "`inputs=['temp']`"
    ),
    "nothing to read": Bad(
        lambda: readings(inputs=[]), ValueError, "`inputs`", "no columns", "inputs=['temp']"
    ),
    "nothing to predict": Bad(
        lambda: readings(targets=[]), ValueError, "`targets`", "none", "name the column"
    ),
    "a static column that changes": Bad(
        lambda: readings(static=["temp"]),
        ValueError,
        "`static`",
        "column 'temp', machine='a', row 1",
        "`known_ahead`",
    ),
    "the answer among what is known ahead": Bad(
        lambda: readings(known_ahead=["temp"]),
        ValueError,
        "`known_ahead`",
        "'temp'",
        "Pass it in `inputs`",
    ),
    "the answer among the inputs": Bad(
        lambda: readings(horizons=[0, 1]), ValueError, "`inputs`", "'temp'", "horizons of 1 or more"
    ),
    "horizons that no series has": Bad(
        lambda: readings(horizons=5),
        ValueError,
        "in the training",
        "machine='a' with 5 of its 5 rows",
        "smaller `horizons`",
    ),
    "a series that is too short": Bad(
        lambda: readings(lambda t: t[:6]),
        ValueError,
        "in the training",
        "machine='b' with 1 of its 1 rows",
        "`partial=True`",
    ),
    "a split before the frame": Bad(
        lambda: readings(split="2025-01-01"),
        ValueError,
        "in the training",
        "split='2025-01-01', times from 2026-01-01",
        "another `split`",
    ),
    "a split that is no time": Bad(
        lambda: readings(split="soon"), TypeError, "`split`", "'soon'", "'2026-03-01T12:00'"
    ),
    "a split as a number": Bad(
        lambda: readings(split=3), TypeError, "`split`", "split=3", "'2026-03-01T12:00'"
    ),
    "a split with a time zone": Bad(
        lambda: readings(split=pandas.Timestamp("2026-01-01T03", tz="UTC")),
        TypeError,
        "`split`",
        "tz='UTC'",
        "`.replace(tzinfo=None)`",
    ),
    "a split in text with a time zone": Bad(
        lambda: readings(split="2026-01-01T03:00+01:00"),
        TypeError,
        "`split`",
        "have none",
        "`.replace(tzinfo=None)`",
    ),
    "a split without a time zone": Bad(
        lambda: readings(
            lambda t: t.assign(time=t["time"].dt.tz_localize("Asia/Tokyo")), split="2026-01-01T03"
        ),
        TypeError,
        "`split`",
        "split='2026-01-01T03'",
        "'2026-03-01T12:00+01:00'",
    ),
    "a time and a fraction": Bad(
        lambda: readings(split=(0.5, "2026-01-01T03")),
        TypeError,
        "`split`",
        "(0.5, '2026-01-01T03')",
        "(0.7, 0.85)",
    ),
    "a split of the whole": Bad(
        lambda: readings(split=1.5), ValueError, "`split`", "split=1.5", "Pass 0.8"
    ),
    "splits in the wrong order": Bad(
        lambda: readings(split=(0.8, 0.5)), ValueError, "`split`", "(0.8, 0.5)", "in order"
    ),
    "three splits": Bad(
        lambda: readings(split=(0.4, 0.6, 0.8)), ValueError, "`split`", "0.6", "a pair"
    ),
    "horizons as text": Bad(
        lambda: readings(horizons="6"), TypeError, "`horizons`", "'6'", "an int"
    ),
    "an offset beside horizons": Bad(
        lambda: readings(target_offset=6), TypeError, "`target_offset`", "6", "`horizons=`"
    ),
    "missing targets kept": Bad(
        lambda: readings(missing_targets="keep"), ValueError, "`missing_targets`", "keep", '"skip"'
    ),
    "forecasts of a part that is not there": Bad(
        lambda: readings().forecasts(ones, "test"),
        ValueError,
        "`part`",
        "'test'",
        "`series.training`",
    ),
    "forecasts of a sequence of another frame": Bad(
        lambda: readings().forecasts(ones, readings().training),
        ValueError,
        "`part`",
        "<StatefulSequence",
        "`series.training`",
    ),
    "forecasts of another part": Bad(
        lambda: split_in_two(lambda s: s.forecasts(np.ones((14, 3, 1)), s.training)),
        ValueError,
        "`predictions`",
        "(14, 3, 1) with `series.training`, whose have 6 rows",
        "`series.forecasts(predictions, series.validation)`",
    ),
    "forecasts of a future without a plan": Bad(
        lambda: readings(known_ahead=["on"]).forecasts(ones, readings(known_ahead=["on"]).future),
        ValueError,
        "`part`",
        "Received: None",
        "`future` needs rows behind the last reading",
    ),
    "a table of an output without horizons": Bad(
        lambda: readings(horizons=[1, 2], sequence_length=3).table(np.ones((2, 3, 1)), "training"),
        ValueError,
        "horizons",
        "(1,) for each step, horizons [1, 2]",
        "`Dense(2)`",
    ),
    "a table with two columns of a name": Bad(
        lambda: readings(lambda t: t.rename(columns={"machine": "row"}), by="row").table(
            np.ones((2, 4, 1)), "training"
        ),
        ValueError,
        "`by`",
        "by=['row']",
        "Rename",
    ),
    "all parts to read": Bad(
        lambda: is_sequence(readings()),
        TypeError,
        "one sequence",
        "<FrameSequences of 2 series",
        "`series.training`",
    ),
    "an argument that is none": Bad(
        lambda: readings(horizon=[1]), TypeError, "`horizon`", "horizon=[1]", "`horizons=`"
    ),
    "an argument like none": Bad(
        lambda: readings(zzz=1), TypeError, "`zzz`", "zzz=1", "those of `StatefulSequence`"
    ),
    "an encoding of columns": Bad(
        lambda: readings(encode=len), TypeError, "`encode`", "encode=", "`inputs=`"
    ),
    "a split of joined series": Bad(
        lambda: readings(boundary="ignore", split=0.5),
        ValueError,
        "`boundary",
        "split=0.5",
        'boundary="align"',
    ),
    "a split behind the frame": Bad(
        lambda: readings(split="2027-01-01", partial=True),
        ValueError,
        "in the validation",
        "split='2027-01-01'",
        "No series has any: take smaller `horizons`, another `split`",
    ),
    "numbers as text": Bad(
        lambda: readings(lambda t: t.assign(on="1.5"), inputs=["temp", "on"]),
        TypeError,
        "`inputs`",
        "column 'on' of text, such as '1.5'",
        "pandas.to_numeric(frame['on'])",
    ),
    "names as constants": Bad(
        lambda: readings(static=["machine"]),
        TypeError,
        "`static`",
        "column 'machine' of text, such as 'a'",
        ".astype('category').cat.codes",
    ),
    "a missing constant": Bad(
        lambda: readings(lambda t: t.assign(on=t["on"].where(t.index != 7)), static=["on"]),
        ValueError,
        "`static`",
        "column 'on', machine='b', row 7",
        "frame.groupby(['machine'])['on'].transform('first')",
    ),
    "an unknown plan": Bad(
        lambda: readings(lambda t: t.assign(on=t["on"].where(t.index != 7)), known_ahead=["on"]),
        ValueError,
        "`known_ahead`",
        "column 'on', machine='b', row 7",
        "belongs in `inputs`",
    ),
    "forecasts of something else": Bad(
        lambda: readings().forecasts(ones, "training"),
        ValueError,
        "`predictions`",
        "(9, 2)",
        "model.predict(sequence)",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in BAD.items()])
def test_frame(case):
    assert_refused(case)
