"""The catalogue of bad input: corpora, sequences and streams. NumPy only."""

import numpy as np
import pytest
from catalogue import Bad, assert_refused

from keras_stateful import StatefulSequence, StatefulStream

pytestmark = pytest.mark.backend_free


def make(corpus, rows=2, window=4, **kwargs):
    return StatefulSequence(corpus, rows, window, **kwargs)


def docs(*lengths):
    return [np.arange(n) for n in lengths]


def stream(source, rows=2, window=4, **kwargs):
    """Read to its end: some mistakes show when a later document arrives."""
    return list(StatefulStream(source, rows, window, **kwargs))


def frame():
    return pytest.importorskip("pandas").DataFrame({"machine": [0, 0, 1], "load": [1.0, 2.0, 3.0]})


def timed():
    when = pytest.importorskip("pandas").date_range("2020", periods=3)
    return frame().assign(when=when)


def columns(**lengths):
    return {k: np.arange(n) for k, n in lengths.items()}


nan, ones = float("nan"), np.ones((9, 2))

CORPUS = {
    "groups of a data frame": Bad(
        lambda: make(frame().groupby("machine")),
        TypeError,
        "`corpus`",
        "a pandas DataFrameGroupBy",
        "for _, part in",
    ),
    "a frame for each machine": Bad(
        lambda: make({0: frame()[["load"]], 1: frame()[["load"]]}),
        ValueError,
        "`corpus`",
        "key 0",
        "`list(corpus.values())`",
    ),
    "a frame for each machine, by text": Bad(
        lambda: make({"a": frame()[["load"]], "b": frame()[["load"]][:2]}),
        ValueError,
        "`corpus['b']`",
        "of 2",
        "`list(corpus.values())`",
    ),
    "as many frames for as many machines": Bad(
        lambda: make({"a": frame()[["load"]], "b": frame()[["load"]]}),
        ValueError,
        "`targets`",
        "['a', 'b']",
        "`list(corpus.values())`",
    ),
    "inputs and targets in a tuple": Bad(
        lambda: make((ones, ones)), ValueError, "`corpus`", "a tuple of 2", "`targets=`"
    ),
    "inputs, targets and weights in a tuple": Bad(
        lambda: make((frame()[["load"]], frame()["load"], [1, 1, 1])),
        ValueError,
        "`corpus`",
        "a tuple of 3",
        "pass a list",
    ),
    "documents and their labels in a tuple": Bad(
        lambda: make((docs(9, 9), [0, 1])), ValueError, "`corpus`", "a tuple of 2", "`targets=`"
    ),
    "a column of times": Bad(
        lambda: make([timed()]), TypeError, "`corpus[0]['when']`", "datetime64", "times.dt.hour"
    ),
    "a column of names": Bad(
        lambda: make(frame().assign(name="a")), TypeError, "['name']", "text", "leave the column"
    ),
    "times": Bad(
        lambda: make(timed()["when"]), TypeError, "`corpus`", "datetime64", "times.dt.hour"
    ),
    "times and numbers as objects": Bad(
        lambda: make(timed().to_numpy()), TypeError, "`corpus`", "Timestamp", "times.dt.hour"
    ),
    "a missing reading in nullable numbers": Bad(
        lambda: make([frame()[["load"]].astype("Float64").shift()]),
        ValueError,
        "`corpus`",
        "document 0, time step 0, column 'load'",
        "Fill in",
    ),
    "a missing reading in a dict of frames": Bad(
        lambda: make({"x": [frame(), frame().assign(load=[1, nan, 2])]}, targets="x"),
        ValueError,
        "`corpus['x']`",
        "document 1, time step 1, column 'load'",
        "weight 0",
    ),
    "a missing target in a column": Bad(
        lambda: make(
            [frame()] * 2,
            targets=[frame().assign(load=[1, nan, 2])] * 2,
            sample_weight=np.ones(2),
        ),
        ValueError,
        "`targets`",
        "document 0, time step 1, column 'load'",
        "`sample_weight=",
    ),
    "a frame that is not read": Bad(
        lambda: make(pytest.importorskip("polars").DataFrame({"a": [1.0]}).lazy()),
        TypeError,
        "`corpus`",
        "a polars LazyFrame",
        "`.collect()`",
    ),
    "frames of other columns": Bad(
        lambda: make([frame(), frame().rename(columns={"load": "heat"})]),
        ValueError,
        "`corpus[1]`",
        "['machine', 'heat']",
        "`frame[columns]`",
    ),
    "a frame among arrays": Bad(
        lambda: make([frame()[["load"]], np.ones((9, 1))]),
        ValueError,
        "`corpus[1]`",
        "no columns",
        "`frame[columns]`",
    ),
    "a tuple as a document": Bad(
        lambda: make([(np.arange(9), np.ones((9, 2)))] * 2),
        ValueError,
        "`corpus[0]`",
        "a tuple of 2",
        "a dict of arrays for several inputs",
    ),
    "shorter than one window a row": Bad(
        lambda: make(np.arange(7)),
        ValueError,
        "one window for each row",
        "7 time steps",
        "batch_size=1 or less",
    ),
    "so short that no batch size helps": Bad(
        lambda: make(np.arange(3)),
        ValueError,
        "one window for each row",
        "3 time steps",
        "more data",
    ),
    "documents stacked in one array": Bad(
        lambda: make(np.ones((3, 50, 2), "int32")),
        ValueError,
        "corpus",
        "3 time steps",
        "`list(x)`",
    ),
    "no documents": Bad(lambda: make([]), ValueError, "`corpus`", "length 0", "path"),
    "no time steps": Bad(lambda: make(np.arange(0)), ValueError, "`corpus`", "shape (0,)", "path"),
    "an empty document": Bad(
        lambda: make([*docs(9), np.arange(0)]),
        ValueError,
        "empty documents",
        "index 1",
        "if len(d)",
    ),
    "numbers in a list": Bad(
        lambda: make([1, 2, 3]), ValueError, "`corpus`", "corpus[0]", "np.asarray(corpus)"
    ),
    "a document that is not there": Bad(
        lambda: make([ones, None, ones]),
        ValueError,
        "`corpus`",
        "corpus[1], None or NaN",
        "if np.ndim(d)",
    ),
    "records with fields": Bad(
        lambda: make(np.zeros(90, [("load", "f4"), ("heat", "f4")])),
        TypeError,
        "`corpus`",
        "'load'",
        "structured_to_unstructured(x)",
    ),
    "rank 0": Bad(
        lambda: make(np.array(3)), ValueError, "`corpus`", "a scalar, 3", "`(timesteps, ...)`"
    ),
    "a text": Bad(lambda: make("hello"), TypeError, "`corpus`", "'hello'", "np.frombuffer"),
    "an encoder that gives words": Bad(
        lambda: make(["a b", "c d"], encode=str.split)[0],
        TypeError,
        "`encode`",
        "['a', 'b']",
        "`[index[t] for t in tokens]`",
    ),
    "an encoder that is none": Bad(
        lambda: make(["a b", "c d"], encode="utf8"),
        TypeError,
        "`encode`",
        "encode='utf8' of type str",
        "Pass the function",
    ),
    "an encoder that gives nothing": Bad(
        lambda: make(["a b", "c d"], encode=print)[0],
        TypeError,
        "`encode`",
        "NoneType",
        "must return the ids",
    ),
    "weights by output": Bad(
        lambda: make(docs(9, 9), sample_weight={"a": [1, 2]}),
        TypeError,
        "`sample_weight`",
        "a dict of ['a']",
        "loss_weights",
    ),
    "targets in a list of lists": Bad(
        lambda: make([ones] * 2, targets=[[ones, np.ones((9, 1))]] * 2),
        ValueError,
        "`targets",
        "inhomogeneous",
        "give a dict",
    ),
    "texts": Bad(lambda: make(["hello", "you"]), TypeError, "`corpus[0]`", "'hello'", "`encode=`"),
    "an array of strings": Bad(
        lambda: make(np.array(["a", "b"])), TypeError, "`corpus`", "<U1", "`encode=`"
    ),
    "complex numbers": Bad(
        lambda: make(np.ones((9, 2), "complex64")), TypeError, "`corpus`", "complex64", "float32"
    ),
    "a generator": Bad(
        lambda: make(d for d in docs(9, 9)), TypeError, "`corpus`", "generator", "`StatefulStream`"
    ),
    "ids stored as floats": Bad(
        lambda: make(np.arange(90) / 2), ValueError, "`corpus`", "float64", "`x[:, None]`"
    ),
    "masked values": Bad(
        lambda: make([ones, np.ma.masked_equal(ones, 1)]),
        ValueError,
        "`corpus[1]`",
        "18 masked values",
        "x.filled(value)",
    ),
    "one masked array": Bad(
        lambda: make(np.ma.masked_equal(np.eye(30), 1)),
        ValueError,
        "`corpus`",
        "30 masked values",
        "x.filled(value)",
    ),
    "float64 beyond float32": Bad(
        lambda: make([ones, ones * 1e39]),
        ValueError,
        "`corpus`",
        "document 1, time step 0",
        "too large for float32",
    ),
    "NaN features": Bad(
        lambda: make([ones, ones * nan]),
        ValueError,
        "`corpus`",
        "document 1, time step 0",
        "leave out",
    ),
    "infinite features": Bad(
        lambda: make(np.full((90, 2), np.inf)),
        ValueError,
        "`corpus`",
        "document 0, time step 0",
        "leave out",
    ),
    "ids beyond int32": Bad(
        lambda: make(np.arange(90) + 2**40)[0],
        ValueError,
        "`corpus`",
        "10995116278",
        "Number the ids from 0",
    ),
    "ragged features": Bad(
        lambda: make([ones, np.ones((9, 3))]),
        ValueError,
        "`corpus`",
        "corpus[1] of shape (9, 3)",
        "Only the first axis",
    ),
    "integers and floats": Bad(
        lambda: make([np.arange(9), np.ones(9)]),
        ValueError,
        "`corpus`",
        "float64, int64",
        "Convert",
    ),
    "a dict whose inputs differ in length": Bad(
        lambda: make(columns(a=90, b=80), targets="a", target_offset=1),
        ValueError,
        "`corpus['b']`",
        "corpus['b'] of 80",
        "one value for each time step",
    ),
    "a dict of an array and of documents": Bad(
        lambda: make({"a": np.arange(9), "b": docs(9)}, targets="a", target_offset=1),
        ValueError,
        "`corpus`",
        "'b': documents",
        "Give every key one array",
    ),
    "an input named resets": Bad(
        lambda: make(columns(resets=90), targets="resets"),
        ValueError,
        "`corpus`",
        "'resets'",
        "Rename",
    ),
}

LAYOUT = {
    "batch_size 0": Bad(
        lambda: make(docs(9), 0), ValueError, "`batch_size`", "batch_size=0", "1 or more"
    ),
    "batch_size below 0": Bad(
        lambda: make(docs(9), -2), ValueError, "`batch_size`", "batch_size=-2", "1 or more"
    ),
    "batch_size of a float": Bad(
        lambda: make(docs(9), 2.0), TypeError, "`batch_size`", "batch_size=2.0", "an int"
    ),
    "sequence_length 0": Bad(
        lambda: make(docs(9), 2, 0),
        ValueError,
        "`sequence_length`",
        "sequence_length=0",
        "1 or more",
    ),
    "a kind of resets": Bad(
        lambda: make(docs(9), resets="step"),
        TypeError,
        "`resets`",
        "resets='step'",
        "follows from `boundary`",
    ),
    "a shuffle of text": Bad(
        lambda: make(docs(9), shuffle="no"), TypeError, "`shuffle`", "'no'", "True or False"
    ),
    "an unknown boundary": Bad(
        lambda: make(docs(9), boundary="reset"),
        ValueError,
        "`boundary`",
        "'reset'",
        '"pack" or "ignore"',
    ),
    "a cut where nothing is cut": Bad(
        lambda: make(docs(99), boundary="ignore", max_document_length=5),
        ValueError,
        'boundary="ignore"',
        "max_document_length=5",
        'boundary="align"',
    ),
    "one text that is cut and ignored": Bad(
        lambda: make(np.arange(90), boundary="ignore", max_document_length=5),
        ValueError,
        "`max_document_length`",
        "max_document_length=5",
        "Leave it out",
    ),
    "a cut within a window": Bad(
        lambda: make(docs(99), max_document_length=3),
        ValueError,
        "`max_document_length`",
        "max_document_length=3",
        "at least 4",
    ),
    "a cut for each document": Bad(
        lambda: make(docs(99, 50), max_document_length=np.array([8, 8])),
        TypeError,
        "`max_document_length`",
        "array([8, 8])",
        '"auto"',
    ),
    "a cut of a float": Bad(
        lambda: make(docs(99), max_document_length=8.0),
        TypeError,
        "`max_document_length`",
        "max_document_length=8.0",
        '"auto"',
    ),
    "a burn-in that leaves nothing": Bad(
        lambda: make(docs(9), burn_in=20),
        ValueError,
        "`burn_in`",
        "burn_in=20",
        "smaller `burn_in`",
    ),
    "a burn-in longer than the pieces": Bad(
        lambda: make(docs(99), max_document_length=8, burn_in=9),
        ValueError,
        "`burn_in`",
        "burn_in=9",
        "smaller `burn_in`",
    ),
    "a burn-in for some documents": Bad(
        lambda: make(docs(9, 9), burn_in=[1]),
        ValueError,
        "`burn_in`",
        "1 for 2 documents",
        "one for each",
    ),
    "a burn-in in the order of other documents": Bad(
        lambda: make(docs(9, 20), burn_in=[12, 3]),
        ValueError,
        "`burn_in[0]`",
        "12, document 0 of 9",
        "the order of the documents",
    ),
    "a fraction burnt in": Bad(
        lambda: make(docs(9, 20), burn_in=0.5),
        TypeError,
        "`burn_in`",
        "burn_in=0.5",
        "one int for each document",
    ),
    "a burn-in of a part of a step": Bad(
        lambda: make(docs(9, 20), burn_in=[1, 0.5]),
        TypeError,
        "`burn_in[1]`",
        "0.5",
        "an int",
    ),
    "burn-ins longer than the pieces of one document": Bad(
        lambda: make(docs(99, 9), max_document_length=8, burn_in=[9, 9]),
        ValueError,
        "`burn_in`",
        "burn_in=9",
        "smaller `burn_in`",
    ),
    "a burn-in for each document of one text": Bad(
        lambda: make(np.arange(99), burn_in=[9]),
        ValueError,
        "`burn_in`",
        "1 ints with one array",
        "Pass one int",
    ),
    "a burn-in for each document that nobody has counted": Bad(
        lambda: stream(docs(9, 9), burn_in=[1, 2]),
        TypeError,
        "`burn_in`",
        "burn_in=[1, 2]",
        "`sample_weight=key`",
    ),
    "a burn-in below 0": Bad(
        lambda: make(docs(9), burn_in=-1), ValueError, "`burn_in`", "burn_in=-1", "0 or more"
    ),
    "a shard out of range": Bad(
        lambda: make(docs(9), shard=(2, 2)),
        ValueError,
        "`shard`",
        "shard=(2, 2)",
        "0 <= index < count",
    ),
    "a shard below 0": Bad(
        lambda: make(docs(9), shard=(-1, 2)),
        ValueError,
        "`shard`",
        "shard=(-1, 2)",
        "0 <= index < count",
    ),
    "rows that do not divide among shards": Bad(
        lambda: make(docs(9), 3, shard=(0, 2)),
        ValueError,
        "`batch_size`",
        "batch_size=3",
        "multiple of 2",
    ),
    "a shard that is no pair": Bad(
        lambda: make(docs(9), shard=1), TypeError, "`shard`", "shard=1", "(index, count)"
    ),
    "shards that would shuffle apart": Bad(
        lambda: make(docs(9, 9), shard=(0, 2), shuffle=True),
        ValueError,
        "Shards",
        "seed=None",
        "same `seed=`",
    ),
    "one text shuffled": Bad(
        lambda: make(np.arange(90), shuffle=True),
        ValueError,
        "`shuffle=True`",
        "90 time steps",
        "`shift_windows=True`",
    ),
    "documents whose windows move": Bad(
        lambda: make(docs(9), shift_windows=True),
        ValueError,
        "`shift_windows=True`",
        '"align"',
        'boundary="pack"',
    ),
    "a seed below 0": Bad(
        lambda: make(docs(9), seed=-1), ValueError, "`seed`", "seed=-1", "0 or more"
    ),
    "a batch that is not there": Bad(
        lambda: make(docs(9))[99], IndexError, "index", "99", "has 2 batches"
    ),
}

TARGETS = {
    "target_offset 0 without targets": Bad(
        lambda: make(docs(9), target_offset=0),
        ValueError,
        "`target_offset=0`",
        "targets=None",
        "`target_offset=1`",
    ),
    "target_offset below 0": Bad(
        lambda: make(docs(9), target_offset=-1),
        ValueError,
        "`target_offset`",
        "target_offset=-1",
        "shifted already",
    ),
    "target_offset of text": Bad(
        lambda: make(docs(9), target_offset="next"),
        TypeError,
        "`target_offset`",
        "'next'",
        "sequence of ints",
    ),
    "target_offset longer than a document": Bad(
        lambda: make(docs(9, 3), target_offset=3),
        ValueError,
        "target_offset",
        "document 1 of 3",
        "smaller `target_offset`",
    ),
    "labels of the wrong count": Bad(
        lambda: make(docs(9, 9), targets=[1, 2, 3]),
        ValueError,
        "`targets`",
        "shape (3,) for 2",
        "Give one label for each",
    ),
    "targets of another length": Bad(
        lambda: make(docs(9, 9), targets=docs(9, 8)),
        ValueError,
        "`targets`",
        "targets[1] of 8",
        "`target_offset` does",
    ),
    "targets laid out otherwise": Bad(
        lambda: make(np.arange(90), targets=docs(45, 45)),
        ValueError,
        "`targets`",
        "list of length 2",
        "Pass one array",
    ),
    "a key that is not there": Bad(
        lambda: make(columns(a=90), targets="b"), ValueError, "`targets`", "'b'", "one of its keys"
    ),
    "several inputs and no targets": Bad(
        lambda: make(columns(a=90, b=90)), ValueError, "`targets`", "['a', 'b']", "Pass the key"
    ),
    "the only input as target": Bad(
        lambda: make(columns(a=90), targets="a"),
        ValueError,
        "`targets`",
        "targets='a'",
        "`target_offset=1`",
    ),
    "no targets at all": Bad(
        lambda: make(docs(9), targets={}), ValueError, "`targets`", "{}", "Leave it out"
    ),
    "a stride that leaves steps out": Bad(
        lambda: make(docs(9), stride=5), ValueError, "`stride`", "stride=5", "`sample_weight=`"
    ),
    "a stride that stands still": Bad(
        lambda: make(docs(9), stride=0), ValueError, "`stride`", "stride=0", "1 or more"
    ),
    "half a stride": Bad(lambda: make(docs(9), stride=0.5), TypeError, "`stride`", "0.5", "an int"),
    "an unknown label_at": Bad(
        lambda: make(docs(9), targets=[1], label_at="end"),
        ValueError,
        "`label_at`",
        "'end'",
        '"window" or "last"',
    ),
    "label_at of targets at each step": Bad(
        lambda: make(docs(9), label_at="last"), ValueError, "`label_at`", "'last'", "(documents,)"
    ),
    "NaN targets": Bad(
        lambda: make([ones] * 2, targets=[ones * nan] * 2),
        ValueError,
        "`targets",
        "time step 0",
        "weight 0",
    ),
    "NaN targets with weight": Bad(
        lambda: make([ones] * 2, targets=[ones * nan] * 2, sample_weight=[1, 1]),
        ValueError,
        "`targets",
        "time step 0",
        "weight 0",
    ),
    "a weight below 0": Bad(
        lambda: make(docs(9, 9), sample_weight=[1, -1]),
        ValueError,
        "`sample_weight`",
        "-1.0",
        "Use 0",
    ),
    "a NaN weight": Bad(
        lambda: make(docs(9, 9), sample_weight=[1, nan]),
        ValueError,
        "`sample_weight`",
        "nan",
        "Use 0",
    ),
    "weights of the wrong count": Bad(
        lambda: make(docs(9, 9), sample_weight=[1]),
        ValueError,
        "`sample_weight`",
        "shape (1,) for 2",
        "Give one for each",
    ),
    "weights under a key that is not there": Bad(
        lambda: make(columns(a=90), targets="a", target_offset=1, sample_weight="w"),
        ValueError,
        "`sample_weight`",
        "'w'; the corpus has ['a']",
        "one of its keys",
    ),
    "weights under a key of no dict": Bad(
        lambda: make(docs(9), sample_weight="w"),
        ValueError,
        "`sample_weight`",
        "'w'; the corpus has no keys",
        "an array",
    ),
    "weights of another length": Bad(
        lambda: make(docs(9, 9), sample_weight=docs(9, 8)),
        ValueError,
        "`sample_weight`",
        "sample_weight[1] of 8",
        "the time step that is read",
    ),
    "weights with features": Bad(
        lambda: make(docs(9), sample_weight=[ones]),
        ValueError,
        "`sample_weight`",
        "(2,)",
        "Sum or average",
    ),
}


def ahead(known=12, load=9, **kwargs):
    """One series of loads, with hours that go on behind its end."""
    corpus = {"load": np.ones((load, 1)), "hour": np.arange(known)}
    arguments = {"targets": "load", "target_offset": 1, "known_ahead": ["hour"], **kwargs}
    return make(corpus, 1, 4, **arguments)


AHEAD = {
    "vectors of documents in the corpus": Bad(
        lambda: make({"x": [ones, ones], "machine": np.ones((2, 3))}, targets="x"),
        ValueError,
        "`corpus`",
        "'machine': an array",
        "`static={name: vectors}`",
    ),
    "a single key as text": Bad(
        lambda: ahead(known_ahead="hour"),
        TypeError,
        "`known_ahead`",
        "known_ahead=hour",
        "`known_ahead=['hour']`",
    ),
    "known ahead of a corpus without keys": Bad(
        lambda: make(ones, 1, known_ahead=["hour"]),
        ValueError,
        "`known_ahead`",
        "'hour'",
        "Pass one of its keys",
    ),
    "a key that the corpus lacks": Bad(
        lambda: ahead(known_ahead=["tariff"], known=9),
        ValueError,
        "`known_ahead`",
        "'tariff'",
        "['hour', 'load']",
    ),
    "what is predicted": Bad(
        lambda: ahead(known_ahead=["load"], known=9),
        ValueError,
        "`known_ahead`",
        "'load'",
        "out of `known_ahead`",
    ),
    "the same data under another key": Bad(
        lambda: make(
            {"x": ones, "again": ones}, 1, targets="x", target_offset=1, known_ahead=["again"]
        ),
        ValueError,
        "`known_ahead`",
        "'again'",
        "out of `known_ahead`",
    ),
    "the weights": Bad(
        lambda: make(
            {"load": ones, "w": ones[:, 0]},
            1,
            targets="load",
            target_offset=1,
            sample_weight="w",
            known_ahead=["w"],
        ),
        ValueError,
        "`known_ahead`",
        "'w'",
        "the weight",
    ),
    "nothing lies ahead": Bad(
        lambda: ahead(target_offset=0),
        ValueError,
        "`known_ahead`",
        "target_offset=0",
        "`target_offset=1`",
    ),
    "nothing lies ahead of one key": Bad(
        lambda: ahead(known_ahead={"hour": 0}),
        ValueError,
        "`known_ahead`",
        "known_ahead={'hour': 0}",
        "`known_ahead={'hour': 1}`",
    ),
    "labels of documents": Bad(
        lambda: make({"x": [ones], "hour": docs(9)}, 1, targets=[1], known_ahead=["hour"]),
        ValueError,
        "`known_ahead`",
        "target_offset=0",
        "leave 'hour' out",
    ),
    "an offset before the step": Bad(
        lambda: ahead(known_ahead={"hour": -1}),
        ValueError,
        "`known_ahead['hour']`",
        "-1",
        "0 or more",
    ),
    "hours that end before the series": Bad(
        lambda: ahead(known=8),
        ValueError,
        "`corpus['hour']`",
        "of 8",
        "give its values from the first step on",
    ),
    "hours that do not reach as far as they are read": Bad(
        lambda: make({"x": [ones], "hour": docs(9)}, 1, targets=[1], known_ahead={"hour": 9}),
        ValueError,
        "`corpus['hour']`",
        "9 later",
        "may go on behind the last step",
    ),
    "a static list in place of vectors": Bad(
        lambda: ahead(static=["machine"]),
        ValueError,
        "`static`",
        "'machine'",
        "`static={'machine': array}`",
    ),
    "static vectors without a name": Bad(
        lambda: ahead(static=np.ones((1, 2))),
        TypeError,
        "`static`",
        "ndarray",
        "`static=",
    ),
    "a static input under a key of the corpus": Bad(
        lambda: ahead(static={"hour": np.ones((1, 2))}),
        ValueError,
        "`static`",
        "'hour'",
        "Rename it",
    ),
    "static vectors of other documents": Bad(
        lambda: ahead(static={"machine": np.ones((3, 2))}),
        ValueError,
        "`static['machine']`",
        "(3, 2) for 1 documents",
        "(1, features)",
    ),
    "static numbers without an axis": Bad(
        lambda: ahead(static={"machine": np.ones(1)}),
        ValueError,
        "`static['machine']`",
        "(1,)",
        "`x[:, None]`",
    ),
    "a static vector that is missing": Bad(
        lambda: ahead(static={"machine": np.full((1, 2), nan)}),
        ValueError,
        "`static['machine']`",
        "document 0",
        "Fill in",
    ),
    "static inputs beside one array": Bad(
        lambda: make(ones, 1, static={"machine": np.ones((1, 2))}),
        ValueError,
        "`static`",
        "['machine']",
        "`{'x': corpus}`",
    ),
    "static arrays of a stream": Bad(
        lambda: stream([{"x": ones}] * 3, static={"machine": np.ones((3, 2))}),
        TypeError,
        "`static`",
        "['machine']",
        "`static=['machine']`",
    ),
    "hours of a stream that are too short": Bad(
        lambda: stream(
            [{"x": ones, "hour": np.arange(9)}] * 3,
            targets="x",
            target_offset=1,
            known_ahead={"hour": 9},
        ),
        ValueError,
        "source[0]",
        "known_ahead={'hour': 9}",
        "out of the source",
    ),
}


STREAM = {
    "a missing reading in a frame": Bad(
        lambda: stream([frame().assign(load=[1, nan, 2])] * 3),
        ValueError,
        "`source`",
        "document 0, time step 1, column 'load'",
        "Fill in",
    ),
    "its length": Bad(
        lambda: len(StatefulStream(docs(30, 40), 2, 4)),
        TypeError,
        "no length",
        "len(stream)",
        "steps_per_epoch=...",
    ),
    "an empty source": Bad(lambda: stream([]), ValueError, "`source`", "empty source", "path"),
    "one array": Bad(
        lambda: stream(np.arange(9)), TypeError, "`source`", "ndarray", "`StatefulSequence`"
    ),
    "a function that gives no iterator": Bad(
        lambda: stream(lambda: 5), TypeError, "`source`", "a function that returned int", "`yield`"
    ),
    "no source": Bad(lambda: stream(5), TypeError, "`source`", "int", "a function that gives one"),
    "a path": Bad(
        lambda: stream("book.txt"), TypeError, "`source`", "str", "Pass a list or other iterable"
    ),
    "time steps one by one": Bad(
        lambda: stream([3, 4]), ValueError, "source[0]", "a single value", "itertools.batched"
    ),
    "texts": Bad(lambda: stream(["abc"]), TypeError, "`source[0]`", "'abc'", "`encode=`"),
    "a source that ends within the first window": Bad(
        lambda: stream(docs(3)), ValueError, "`source`", "2 time steps", "fewer rows"
    ),
    "a document without a target": Bad(
        lambda: stream(docs(30, 40, 1, 9)),
        ValueError,
        "source[2]",
        "of 1 time steps",
        "Leave such documents out",
    ),
    "a document shorter than the offset": Bad(
        lambda: stream(docs(30, 40, 5, 9), target_offset=5),
        ValueError,
        "target_offset",
        "source[2] of 5",
        "Leave such documents out",
    ),
    "ragged features": Bad(
        lambda: stream([ones, np.ones((9, 3))], 1),
        ValueError,
        "`source`",
        "source[1]",
        "alike but for their length",
    ),
    "inputs that differ in length": Bad(
        lambda: stream([columns(a=3, b=4)], 1, 2, targets="a"),
        ValueError,
        "source[0]",
        "'b': 4",
        "same time steps",
    ),
    "NaN features": Bad(
        lambda: stream([ones * nan], 1),
        ValueError,
        "`source`",
        "document 0, time step 0",
        "leave out",
    ),
    "NaN targets": Bad(
        lambda: stream([{"x": ones, "y": ones * nan}], 1, targets="y"),
        ValueError,
        "`targets",
        "time step 0",
        "weight 0",
    ),
    "weights below 0": Bad(
        lambda: stream(
            [{"a": np.arange(9), "w": -np.ones(9)}],
            1,
            targets="a",
            target_offset=1,
            sample_weight="w",
        ),
        ValueError,
        "`sample_weight`",
        "-1.0",
        "0 or more",
    ),
    "a weight that documents lack": Bad(
        lambda: stream([columns(a=9)], 1, targets="a", target_offset=1, sample_weight="w"),
        ValueError,
        "`sample_weight`",
        "'w'",
        "they have ['a']",
    ),
    "target_offset 0 without targets": Bad(
        lambda: stream(docs(30), target_offset=0),
        ValueError,
        "`target_offset=0`",
        "target_offset=0",
        "`target_offset=1`",
    ),
    "a key where documents have none": Bad(
        lambda: stream(docs(30), targets="y"), ValueError, "`targets`", "'y'", "name a key"
    ),
    "a boundary that streams lack": Bad(
        lambda: stream(docs(30), boundary="ignore"),
        ValueError,
        "`boundary`",
        "'ignore'",
        '"align" or "pack"',
    ),
    "label_at of targets at each step": Bad(
        lambda: stream(docs(30), label_at="last"),
        ValueError,
        "`label_at`",
        "'last'",
        "Leave it out",
    ),
    "a kind of resets": Bad(
        lambda: stream(docs(30), resets="window"),
        TypeError,
        "`resets`",
        "resets='window'",
        "follows from `boundary`",
    ),
    "no steps in an epoch": Bad(
        lambda: stream(docs(30), steps_per_epoch=0),
        ValueError,
        "`steps_per_epoch`",
        "steps_per_epoch=0",
        "1 or more",
    ),
    "batch_size 0": Bad(
        lambda: stream(docs(30), 0), ValueError, "`batch_size`", "batch_size=0", "1 or more"
    ),
    "ids stored as floats": Bad(
        lambda: stream([np.ones(9)], 1), ValueError, "ids", "float64", "`x[:, None]`"
    ),
    "ids beyond int32": Bad(
        lambda: stream([np.arange(9) + 2**40], 1),
        ValueError,
        "`source[0]`",
        "1099511627776",
        "Number the ids from 0",
    ),
    "an iterator read twice": Bad(
        lambda: [list(s) for s in [StatefulStream((d for d in docs(30)), 1, 4)] * 2],
        ValueError,
        "`source`",
        "an iterator",
        "Pass a function",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=n) for n, c in (CORPUS | LAYOUT | TARGETS | AHEAD).items()]
)
def test_sequence(case):
    assert_refused(case)


@pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in STREAM.items()])
def test_stream(case):
    assert_refused(case)
