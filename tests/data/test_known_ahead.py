"""What is known ahead is read at the step that is predicted, what is static at every step.

Every value tells where it comes from: it is `1000 * (document + 1) + time step`, and minus that in
what is known ahead. So whatever the layout, a step that reads v reads -(v + offset) of what is
known ahead, and v // 1000 of what is static: nothing of another document may come that way, and
nothing of what is predicted.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence, StatefulStream

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning"),
]

OFFSETS = st.sampled_from([1, 3, [2], [1, 4], [0, 2, 5]])


def steps(document, length):
    return 1000 * (document + 1) + np.arange(length)


def documents(lengths, longer):
    """Dicts of ids: what is known up to now, and what is known `longer` steps ahead."""
    return [
        {"load": steps(d, n), "now": steps(d, n), "hour": -steps(d, n + more)}
        for d, (n, more) in enumerate(zip(lengths, longer, strict=True))
    ]


def by_key(parts):
    return {key: [part[key] for part in parts] for key in parts[0]}


@st.composite
def corpora(draw):
    offset = draw(OFFSETS)
    reach = int(np.max(offset))
    lengths = [n + reach for n in draw(st.lists(st.integers(1, 40), min_size=1, max_size=9))]
    longer = [draw(st.integers(0, 6)) for _ in lengths]
    return documents(lengths, longer), offset


@st.composite
def layouts(draw):
    boundary = draw(st.sampled_from(["align", "pack", "ignore"]))
    rows, window = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    dealt = boundary != "ignore"
    arguments = {
        "boundary": boundary,
        "shuffle": draw(st.booleans()),
        "seed": 3,
        "burn_in": draw(st.sampled_from([0, 0, 1])),
        "max_document_length": draw(st.none() | st.integers(window, 20)) if dealt else None,
        "shift_windows": boundary != "align" and draw(st.booleans()),
        "resets": draw(st.booleans()) or boundary == "pack",
    }
    return rows, window, arguments


def made(corpus, rows, window, arguments, **others):
    try:
        return StatefulSequence(corpus, rows, window, **arguments, **others)
    except ValueError as error:  # too short for the layout: another test's matter
        if any(words in str(error) for words in ("shorter than one window", "`burn_in`")):
            return None
        raise


def batches(sequence, epoch=0):
    sequence.epoch = epoch
    for i in range(len(sequence)):
        x, y, *weights = sequence[i]
        yield x, y, weights[0] if weights else np.ones(y.shape[:2])


@settings(max_examples=300)
@given(corpora(), layouts(), st.booleans(), st.integers(0, 2))
def test_each_step_reads_what_it_predicts_and_its_own_document(corpus, layout, listed, epoch):
    (parts, offset), (rows, window, arguments) = corpus, layout
    numbers = 1 + np.arange(len(parts))
    data = made(
        parts if listed else by_key(parts),
        rows,
        window,
        arguments,
        targets="load",
        target_offset=offset,
        known_ahead=["hour"],
        static={"machine": np.stack([numbers, -numbers], axis=1)},
    )
    if data is None:
        return
    offsets = np.atleast_1d(offset)
    text = np.concatenate([part["load"] for part in parts])  # in "ignore"
    for x, y, weights in batches(data, epoch):
        real = x.get("load", y if np.ndim(y) == 2 else y[..., 0]) > 0
        assert not np.any(weights.reshape(real.shape)[~real])
        np.testing.assert_array_equal(x["machine"][..., 0], x["now"] // 1000)
        np.testing.assert_array_equal(x["machine"][..., 1], -(x["now"] // 1000))
        assert not x["hour"][~real].any()
        if arguments["boundary"] != "ignore":
            later = x["now"][real][:, None] + offsets
        elif not arguments["shuffle"]:  # one text: the step that is predicted may be another's
            later = text[np.searchsorted(text, x["now"][real])[:, None] + offsets]
        else:
            continue
        hour = x["hour"] if x["hour"].ndim == 3 else x["hour"][..., None]
        np.testing.assert_array_equal(hour[real], -later)


@settings(max_examples=100)
@given(corpora(), layouts(), st.integers(2, 3))
def test_shards_read_the_rows_of_one_layout(corpus, layout, count):
    (parts, offset), (rows, window, arguments) = corpus, layout
    others = {
        "targets": "load",
        "target_offset": offset,
        "known_ahead": ["hour"],
        "static": {"machine": np.arange(len(parts))},
    }
    whole = made(parts, rows * count, window, arguments, **others)
    if whole is None:
        return
    shards = [
        StatefulSequence(parts, rows * count, window, shard=(k, count), **arguments, **others)
        for k in range(count)
    ]
    for i in range(len(whole)):
        for key, array in whole[i][0].items():
            joined = np.concatenate([shard[i][0][key] for shard in shards])
            np.testing.assert_array_equal(joined, array)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), min_size=1, max_size=6))
def test_the_longest_readable_part(sizes):
    """Without targets in the way, a document is read as far as its inputs reach."""
    reach = 4
    parts = documents([n for n, _ in sizes], [more for _, more in sizes])
    readable = [min(n, n + more - reach) for n, more in sizes]
    arguments = {"targets": np.arange(len(parts)), "known_ahead": {"hour": [1, reach]}}
    if min(readable) < 1:
        with pytest.raises(ValueError, match="may go on behind the last step of the document"):
            StatefulSequence(parts, 2, 5, **arguments)
        return
    data = StatefulSequence(parts, 2, 5, **arguments)
    read = np.concatenate([x["now"][x["now"] > 0] for x, *_ in batches(data)])
    expected = [steps(d, n) for d, n in enumerate(readable)]
    np.testing.assert_array_equal(np.sort(read), np.concatenate(expected))


@pytest.mark.parametrize("planted", [lambda d: d, np.copy, lambda d: np.append(d, d[-3:], axis=0)])
@pytest.mark.parametrize("several", [False, True])
def test_the_future_of_what_is_predicted_is_found_where_it_is_planted(planted, several):
    series = [np.random.default_rng(d).random((n, 2)) for d, n in enumerate((30, 20))]
    known = [planted(d) for d in series]
    corpus = {"load": series, "plan": known} if several else {"load": series[0], "plan": known[0]}
    for targets in ("load", series if several else np.array(series[0])):
        for offset in (1, [1, 4]):
            with pytest.raises(ValueError, match="it is the target itself"):
                StatefulSequence(
                    corpus, 1, 6, targets=targets, target_offset=offset, known_ahead=["plan"]
                )
    # Where it is not what is predicted, it may be a plan of it.
    (corpus["plan"][0] if several else corpus["plan"])[3] += 1
    loads = [np.copy(d) - 0.5 for d in series]
    corpus["load"] = loads if several else loads[0]
    StatefulSequence(corpus, 1, 6, targets="load", target_offset=1, known_ahead=["plan"])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_several_offsets_stand_side_by_side_on_the_last_axis(shape):
    kind = "float32" if shape else "int32"
    hour = np.random.default_rng(0).integers(0, 99, (40, *shape)).astype(kind)
    corpus = {"load": np.arange(40.0)[:, None], "hour": hour}
    data = StatefulSequence(
        corpus, 1, 6, targets="load", target_offset=[1, 6], known_ahead=["hour"]
    )
    expected = np.stack([hour[1:7], hour[6:12]], axis=-1 if not shape else -2)
    np.testing.assert_array_equal(data[0][0]["hour"][0], expected.reshape(6, *shape[:-1], -1))


def test_columns_of_several_offsets_have_names_of_their_own():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.arange(60).reshape(30, 2), columns=["hour", "holiday"])
    corpus = {"load": np.arange(30.0)[:, None], "calendar": frame}
    names = {}
    for offset in (1, [1, 6]):
        arguments = {"target_offset": offset, "known_ahead": ["calendar"]}
        data = StatefulSequence(corpus, 1, 6, targets="load", **arguments)
        names[str(offset)] = data.columns.inputs["calendar"]
    assert names["1"] == ("hour", "holiday")
    assert names["[1, 6]"] == ("hour+1", "holiday+1", "hour+6", "holiday+6")


NAMES = ["size", "age", "heat"]


def with_rows(form, rows):
    """Documents that each have a row of a frame once, in four forms."""
    load = [steps(d, 9 + d) for d in range(len(rows))]
    parts = [{"load": array, "machine": row} for array, row in zip(load, rows, strict=True)]
    arguments = {"targets": "load", "target_offset": 1, "static": ["machine"]}
    if form == "a stream":
        return StatefulStream(parts, 2, 4, **arguments)
    if form == "beside the documents":
        arguments["static"] = {"machine": rows}
        return StatefulSequence({"load": load}, 2, 4, **arguments)
    source = range(len(rows)) if form == "a source" else parts
    encode = parts.__getitem__ if form == "a source" else None
    return StatefulSequence(source, 2, 4, encode=encode, **arguments)


@pytest.mark.parametrize("form", ["a list", "a source", "a stream", "beside the documents"])
def test_rows_of_a_frame_are_read_by_name(form):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.arange(9.0).reshape(3, 3), columns=NAMES)
    rows = [row[list(np.roll(NAMES, k))] for k, (_, row) in enumerate(frame.iterrows())]
    data = with_rows(form, rows)
    assert data.columns.inputs["machine"] == tuple(NAMES)
    by_place = with_rows(form, list(frame.to_numpy()))
    assert by_place.columns.inputs["machine"] is None
    for (x, *_), (expected, *_) in zip(data, by_place, strict=True):
        np.testing.assert_array_equal(x["machine"], expected["machine"])
    for wrong in (rows[2].rename({"heat": "cold"}), rows[2].to_numpy()):
        with pytest.raises(ValueError, match=r"machine'\].*same columns|same columns.*machine'\]"):
            list(with_rows(form, [*rows[:2], wrong]))


@settings(max_examples=100)
@given(corpora(), st.integers(1, 3), st.integers(1, 7), st.sampled_from(["align", "pack"]))
def test_a_stream_reads_what_a_sequence_reads(corpus, rows, window, boundary):
    parts, offset = corpus
    parts = [{**p, "machine": np.array([d, -d])} for d, p in enumerate(parts)]
    arguments = {
        "targets": "load",
        "target_offset": offset,
        "known_ahead": ["hour"],
        "static": ["machine"],
        "boundary": boundary,
        "resets": True,
    }
    try:
        stream = list(StatefulStream(parts, rows, window, **arguments))
    except ValueError as error:
        assert "ends within the first window" in str(error)  # noqa: PT017
        return
    sequence = StatefulSequence(parts, rows, window, **arguments)
    read = []
    for reader in (stream, sequence):
        found = set()
        for x, y, *_ in reader:
            real = x["now"] > 0
            columns = (x["now"], x["hour"].reshape(*real.shape, -1), x["machine"], y)
            by_step = np.concatenate([c[real].reshape(real.sum(), -1) for c in columns], axis=1)
            found |= set(map(tuple, by_step.tolist()))
        read.append(found)
    assert read[0] == read[1]
