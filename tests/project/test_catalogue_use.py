"""The catalogue of bad input: states, whole documents, generation, export and sessions."""

import hashlib
import json
import os
import shutil

import keras
import numpy as np
import pytest
from catalogue import Bad, assert_refused
from keras import layers

import keras_stateful as ks
from keras_stateful.session.manifest import ManifestError

pytestmark = pytest.mark.backend_free

VOCABULARY = 11


def network(activation=None, units=VOCABULARY, **kwargs):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", **kwargs),
            layers.Embedding(VOCABULARY, 4),
            layers.LSTM(6, return_sequences=True, name="lower"),
            layers.GRU(5, return_sequences=True, name="upper"),
            layers.Dense(units, activation=activation, name="scores"),
        ]
    )


def signals(features=3):
    stack = [layers.GRU(2, return_sequences=True), layers.Dense(features)]
    return keras.Sequential([keras.Input((None, features)), *stack])


@pytest.fixture(scope="module")
def model():
    """A model to generate with and to export, never changed."""
    return network()


@pytest.fixture(scope="module")
def carrying():
    model = ks.to_stateful(network(), 4)
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def cases(*tables):
    return [pytest.param(case, id=name) for table in tables for name, case in table.items()]


TEXTS = [np.arange(n) % VOCABULARY for n in (12, 33)]


def table():
    """A frame of texts, a row for each id."""
    return pytest.importorskip("pandas").DataFrame({"text": list("aab"), "id": [1, 2, 3]})


def columns(arrays):
    """The arrays as columns of frames, whose index has the numbers of rows."""
    return list(map(pytest.importorskip("pandas").Series, arrays))


def zoned(arrays):
    """The arrays as columns of frames, whose index has times in a time zone."""
    pandas = pytest.importorskip("pandas")
    tokyo = pandas.Timestamp("2026-03-01", tz="Asia/Tokyo")
    return [
        pandas.Series(a, index=pandas.date_range(tokyo, periods=len(a), freq="h")) for a in arrays
    ]


def vectors(*names):
    """Rows of frames with columns of these letters."""
    series = pytest.importorskip("pandas").Series
    return [series(1.0, index=list(letters)) for letters in names]


STATES = {
    "a row beyond the last": Bad(
        lambda m: ks.reset_states(m, rows=[4]), ValueError, "`rows`", "[4]", "from 0 to 3"
    ),
    "a row below 0": Bad(
        lambda m: ks.reset_states(m, rows=[-1]), ValueError, "`rows`", "[-1]", "from 0 to 3"
    ),
    "half a row": Bad(
        lambda m: ks.reset_states(m, rows=[0.5]), ValueError, "`rows`", "[0.5]", "from 0 to 3"
    ),
    "rows in a table": Bad(
        lambda m: ks.reset_states(m, rows=[[0, 1]]),
        ValueError,
        "`rows`",
        "[[0, 1]]",
        "a list of at least one row index",
    ),
    "a mask of another length": Bad(
        lambda m: ks.reset_states(m, rows=np.ones(3, bool)),
        ValueError,
        "`rows`",
        "(3,)",
        "shape (4,)",
    ),
    "no states": Bad(
        lambda m: ks.set_states(m, {}), ValueError, "`states`", "[]", "['lower', 'upper']"
    ),
    "states in a list": Bad(
        lambda m: ks.set_states(m, [1]), TypeError, "`states`", "list", "`get_states`"
    ),
    "states of a layer that are no list": Bad(
        lambda m: ks.set_states(m, {"lower": None, "upper": None}),
        TypeError,
        "`states['lower']`",
        "NoneType",
        "a list of 2 arrays",
    ),
    "states of another batch size": Bad(
        lambda m: ks.set_states(m, {"lower": [np.zeros((2, 6))] * 2, "upper": [np.zeros((4, 5))]}),
        ValueError,
        "`states['lower']`",
        "(2, 6)",
        "at the batch size they were read at",
    ),
    "a model without states": Bad(
        lambda m: ks.get_states(keras.Sequential([keras.Input((3,)), layers.Dense(1)])),
        ValueError,
        "carries no state",
        "'sequential",
        "`to_stateful(model, batch_size)`",
    ),
    "no model": Bad(lambda m: ks.get_states("model"), TypeError, "`model`", "str", "Keras model"),
    "no model to preserve": Bad(
        lambda m: ks.preserve_states("model").__enter__(),
        TypeError,
        "`model`",
        "str",
        "Keras model",
    ),
    "initial states of no rows": Bad(
        lambda m: ks.initial_states(ks.to_step_model(m), 0),
        ValueError,
        "`batch_size`",
        "batch_size=0",
        "1 or more",
    ),
    "initial states of another model": Bad(
        lambda m: ks.initial_states(m),
        TypeError,
        "`step_model`",
        "StatefulModel",
        "`to_step_model(model)`",
    ),
}

DOCUMENTS = {
    "a sequence": Bad(
        lambda m: ks.evaluate_documents(m, ks.StatefulSequence(TEXTS, 2, 4)),
        TypeError,
        "`documents`",
        "StatefulSequence",
        "Pass the list",
    ),
    "one array": Bad(
        lambda m: ks.evaluate_documents(m, np.zeros((3, 9), int)),
        ValueError,
        "`documents`",
        "(3, 9)",
        "`list(x)`",
    ),
    "a generator": Bad(
        lambda m: ks.evaluate_documents(m, (d for d in TEXTS)),
        TypeError,
        "`documents`",
        "generator",
        "`list(documents)`",
    ),
    "a number": Bad(
        lambda m: ks.predict_documents(m, 5), TypeError, "`documents`", "int", "Pass a list"
    ),
    "groups of a frame": Bad(
        lambda m: ks.predict_documents(m, table().groupby("text")),
        TypeError,
        "`documents`",
        "a pandas DataFrameGroupBy",
        "`[part[columns] for _, part in frame.groupby(...)]`",
    ),
    "groups of one column": Bad(
        lambda m: ks.evaluate_documents(m, {"x": table().groupby("text")["id"]}),
        TypeError,
        "`documents`",
        "a pandas SeriesGroupBy",
        "a list with a document for each group",
    ),
    "groups of polars": Bad(
        lambda m: ks.predict_documents(
            m, pytest.importorskip("polars").from_pandas(table()).group_by("text")
        ),
        TypeError,
        "`documents`",
        "a polars GroupBy",
        "a list with a document for each group",
    ),
    "what is known ahead from the end of a document on": Bad(
        lambda m: ks.predict_documents(
            m, {"x": TEXTS, "hour": [t[:5] for t in TEXTS]}, known_ahead={"hour": 1}
        ),
        ValueError,
        "`documents['hour']` is known ahead",
        "documents['hour'][0] of 5",
        "begins with the document",
    ),
    "likewise in documents that are dicts": Bad(
        lambda m: ks.predict_documents(
            m, [{"x": t, "hour": t[:5]} for t in TEXTS], known_ahead={"hour": 1}
        ),
        ValueError,
        "same time steps",
        "'hour': 5",
        "begins with the document",
    ),
    "documents that are not read whole": Bad(
        lambda m: ks.evaluate_documents(m, TEXTS, boundary="ignore"),
        TypeError,
        "keyword argument",
        "'boundary'",
        "evaluate_documents",
    ),
    "documents that are cut": Bad(
        lambda m: ks.ValidateDocuments(TEXTS, max_document_length=16),
        TypeError,
        "keyword argument",
        "'max_document_length'",
        "ValidateDocuments",
    ),
    "one document as a dict": Bad(
        lambda m: ks.evaluate_documents(m, {"ids": np.arange(9)}),
        ValueError,
        "`documents`",
        "shape (9,)",
        "pass `[x]`",
    ),
    "no document": Bad(
        lambda m: ks.evaluate_documents(m, []), ValueError, "no documents", "length 0", "path"
    ),
    "a document of one step": Bad(
        lambda m: ks.evaluate_documents(m, [np.arange(1)]),
        ValueError,
        "target",
        "document 0 of 1 time steps",
        "Leave such documents out",
    ),
    "an unknown reduce": Bad(
        lambda m: ks.predict_documents(m, TEXTS, reduce="max"),
        ValueError,
        "`reduce`",
        "'max'",
        '"last" or "mean"',
    ),
    "a start that is a whole": Bad(
        lambda m: ks.evaluate_documents(m, TEXTS, start=1.0),
        ValueError,
        "`start`",
        "start=1.0",
        "Time steps are an int",
    ),
    "a start for some documents": Bad(
        lambda m: ks.predict_documents(m, TEXTS, start=[1]),
        ValueError,
        "`start`",
        f"1 for {len(TEXTS)} documents",
        "one for each",
    ),
    "a start in the order of other documents": Bad(
        lambda m: ks.predict_documents(m, TEXTS, start=[999] * len(TEXTS)),
        ValueError,
        "`start[0]`",
        "999, document 0",
        "the order of the documents",
    ),
    "a start behind the end of all documents": Bad(
        lambda m: ks.evaluate_documents(m, TEXTS, start=999),
        ValueError,
        "`start`",
        "start=999",
        "Take a smaller `start`",
    ),
    "a time in documents without one": Bad(
        lambda m: ks.evaluate_documents(m, TEXTS, start="2026-03-01"),
        TypeError,
        "`start`",
        "'2026-03-01'",
        "Count the steps before it",
    ),
    "a time in frames of row numbers": Bad(
        lambda m: ks.predict_documents(m, columns(TEXTS), start="2026-03-01"),
        TypeError,
        "`start`",
        "start='2026-03-01', document 0 with an index of int64",
        '`frame.set_index("time")`',
    ),
    "a time without the zone that frames have": Bad(
        lambda m: ks.predict_documents(m, zoned(TEXTS), start="2026-03-01T01:00"),
        TypeError,
        "`start`",
        "the times of the frames have a zone, Asia/Tokyo",
        "`pandas.Timestamp(..., tz=...)`",
    ),
    "vectors of other names": Bad(
        lambda m: ks.predict_documents(m, {"x": TEXTS}, static={"size": vectors("ab", "ac")}),
        ValueError,
        "`static['size']`",
        "`static['size'][1]` with ['a', 'c']",
        "rows of one frame",
    ),
    "a start and a burn-in": Bad(
        lambda m: ks.evaluate_documents(m, TEXTS, start=3, burn_in=3),
        ValueError,
        "`burn_in`",
        "start=3, burn_in=3",
        "Leave one out",
    ),
    "no rows": Bad(
        lambda m: ks.predict_documents(m, TEXTS, batch_size=0),
        ValueError,
        "`batch_size`",
        "batch_size=0",
        "1 or more",
    ),
    "a model that was not compiled": Bad(
        lambda m: ks.evaluate_documents(network(), TEXTS),
        ValueError,
        "compiled",
        "'sequential",
        "`model.compile(loss=",
    ),
    "a model with one output a window": Bad(
        lambda m: ks.predict_documents(
            keras.Sequential(
                [
                    keras.Input((None,), dtype="int32"),
                    layers.Embedding(VOCABULARY, 4),
                    layers.GRU(5),
                ]
            ),
            TEXTS,
        ),
        ValueError,
        "output at every time step",
        "(None, 5)",
        "`return_sequences=True`",
    ),
    "an empty document": Bad(
        lambda m: ks.evaluate_documents(m, [TEXTS[0], TEXTS[1][:0]]),
        ValueError,
        "`documents`",
        "index 1",
        "`[d for d in documents if len(d)]`",
    ),
    "texts": Bad(
        lambda m: ks.predict_documents(m, ["hello", "you"]),
        TypeError,
        "`documents[0]`",
        "'hello'",
        "`encode=`",
    ),
    "time steps in place of documents": Bad(
        lambda m: ks.predict_documents(m, [1, 2, 3]),
        ValueError,
        "`documents`",
        "documents[0], a single number",
        "For one document pass `[documents]`.",
    ),
    "a missing reading": Bad(
        lambda m: ks.predict_documents(signals(), [np.ones((5, 3)), np.full((5, 3), np.nan)]),
        ValueError,
        "`documents`",
        "document 1, time step 0",
        "Fill in",
    ),
    "keys of unequal length": Bad(
        lambda m: ks.predict_documents(m, {"a": TEXTS, "b": TEXTS[::-1]}),
        ValueError,
        "`documents['b']`",
        "documents['b'][0] of 33, documents['a'][0] of 12",
        "`list(documents.values())`",
    ),
    "a word that the model does not know": Bad(
        lambda m: ks.evaluate_documents(m, [np.array([1, 2, 30, 4])]),
        ValueError,
        "`documents`",
        "id 30; the first such in document 0 at time step 2",
        "the vocabulary that the model was built for",
    ),
    "a last word that the model does not know": Bad(  # it is a target alone
        lambda m: ks.evaluate_documents(m, [np.array([1, 2, 30])]),
        ValueError,
        "`documents`",
        "id 30, for document 0 at time step 1",
        "else encode with the vocabulary that the model was built for",
    ),
    "a validation at no epoch": Bad(
        lambda m: ks.ValidateDocuments(TEXTS, every=0),
        ValueError,
        "`every`",
        "every=0",
        "1 or more",
    ),
}


@pytest.mark.parametrize("case", cases(STATES, DOCUMENTS))
def test_states_and_documents(case, carrying):
    assert_refused(case, carrying)


def generating(**arguments):
    return lambda model: ks.generate(model, **{"prompt": [1, 2], "length": 3, **arguments})


def states_behind(model, rows):
    return ks.predict_documents(model, [np.arange(3)] * rows, return_states=True)[1]


GENERATION = {
    "states of other rows than prompts": Bad(
        lambda m: ks.generate(m, [[1], [2]], 3, states=states_behind(m, 3)),
        ValueError,
        "`states`",
        "states of 3 rows for 2 prompts",
        "Choose those of the documents",
    ),
    "states of other layers": Bad(
        lambda m: ks.generate(m, [[1], [2]], 3, states={"lower": states_behind(m, 2)["lower"]}),
        ValueError,
        "`states`",
        "['lower']",
        "the model has ['lower', 'upper']",
    ),
    "an empty prompt": Bad(
        generating(prompt=[]), ValueError, "`prompt`", "shape (0,)", "at least one step"
    ),
    "an empty prompt among others": Bad(
        generating(prompt=[[1], []]), ValueError, "prompt", "row 1", "at least one step"
    ),
    "a prompt of text": Bad(
        generating(prompt="abc"), TypeError, "`prompt`", "'abc'", "Encode it first"
    ),
    "prompts of text": Bad(
        generating(prompt=["abc", "d"]), TypeError, "`prompt`", "'abc'", "Encode it first"
    ),
    "half an id": Bad(
        generating(prompt=[0.5]), TypeError, "prompt", "float64", "`.astype('int32')`"
    ),
    "an id above the vocabulary": Bad(
        generating(prompt=[1, VOCABULARY]), ValueError, "prompt", "id 11", "it reads 0 to 10"
    ),
    "an id below 0": Bad(
        generating(prompt=[[1], [-1]]), ValueError, "row 1", "id -1", "it reads 0 to 10"
    ),
    "half an id that next_input goes on from": Bad(
        generating(prompt=[0.5], next_input=lambda y: y), TypeError, "prompt", "float64", "int32"
    ),
    "an id above the vocabulary that next_input goes on from": Bad(
        generating(prompt=[VOCABULARY], next_input=lambda y: y), ValueError, "prompt", "id 11", "10"
    ),
    "a prompt that is missing values": Bad(
        lambda m: ks.generate(signals(), [[0, np.nan, 0]], 3, next_input=lambda y: y),
        ValueError,
        "`prompt`",
        "1 such values",
        "Fill in",
    ),
    "a ragged prompt": Bad(
        lambda m: ks.generate(signals(), [[0, 1, 2], [0, 1]], 3, next_input=lambda y: y),
        ValueError,
        "`prompt`",
        "[0, 1]]",
        "as many numbers",
    ),
    "a prompt with too many axes": Bad(
        generating(prompt=np.zeros((1, 1, 1), "int32")),
        ValueError,
        "`prompt`",
        "(1, 1, 1)",
        "(timesteps,)",
    ),
    "a prompt without an axis": Bad(
        generating(prompt=3), ValueError, "`prompt`", "shape ()", "(timesteps,)"
    ),
    "no length": Bad(generating(length=0), ValueError, "`length`", "length=0", "1 or more"),
    "half a step": Bad(generating(length=2.5), TypeError, "`length`", "length=2.5", "an int"),
    "a temperature below 0": Bad(
        generating(temperature=-0.1), ValueError, "`temperature`", "temperature=-0.1", "at least 0"
    ),
    "a temperature of NaN": Bad(
        generating(temperature=float("nan")),
        ValueError,
        "`temperature`",
        "temperature=nan",
        "finite",
    ),
    "a temperature in words": Bad(
        generating(temperature="hot"), ValueError, "`temperature`", "temperature='hot'", "number"
    ),
    "top_k 0": Bad(generating(top_k=0), ValueError, "`top_k`", "top_k=0", "1 or more"),
    "top_p 0": Bad(generating(top_p=0), ValueError, "`top_p`", "top_p=0", "pass temperature=0"),
    "top_p above 1": Bad(generating(top_p=1.1), ValueError, "`top_p`", "top_p=1.1", "(0, 1]"),
    "top_p below 0": Bad(generating(top_p=-0.1), ValueError, "`top_p`", "top_p=-0.1", "(0, 1]"),
    "a seed below 0": Bad(generating(seed=-1), ValueError, "`seed`", "seed=-1", "0 or more"),
    "a stop id beyond the vocabulary": Bad(
        generating(stop=VOCABULARY), ValueError, "`stop`", "stop=11", "from 0 to 10"
    ),
    "no stop id": Bad(generating(stop=[]), ValueError, "`stop`", "stop=[]", "at least one"),
    "a stop of text": Bad(generating(stop="."), TypeError, "`stop`", "stop='.'", "a list of ids"),
    "from_logits in words": Bad(
        generating(from_logits="yes"), ValueError, "`from_logits`", "'yes'", "True, False or None"
    ),
    "next_input that is no function": Bad(
        generating(next_input=3), TypeError, "`next_input`", "next_input=3", "a function"
    ),
    "compile_next_input without a next_input": Bad(
        generating(compile_next_input=True),
        ValueError,
        "`compile_next_input`",
        "compile_next_input=True",
        "Leave it out",
    ),
    "next_input and a temperature": Bad(
        generating(next_input=lambda y: y, top_k=2, temperature=0),
        ValueError,
        "`next_input`",
        "'top_k': 2",
        "Leave them out",
    ),
    "a model of signals": Bad(
        lambda m: ks.generate(signals(), np.ones(4, "int32"), 3),
        ValueError,
        "`model`",
        "reads (3,) features",
        "Pass `next_input`",
    ),
    "a model that says ids it cannot read": Bad(
        lambda m: ks.generate(network(units=20), [1], 3),
        ValueError,
        "Embedding",
        "outputs of 20 ids",
        "input_dim=11",
    ),
    "a last activation that is neither": Bad(
        lambda m: ks.generate(network("relu"), [1], 3),
        ValueError,
        "from_logits=None",
        "activation=relu",
        "from_logits=False",
    ),
    "no model": Bad(
        lambda m: ks.generate("model", [1], 3), TypeError, "model", "str", "Keras model"
    ),
}


def forecaster():
    """Writes `load` beside `hour`, which it reads one step ahead, and the constant `machine`."""
    load, hour = keras.Input((None, 1), name="load"), keras.Input((None, 2), name="hour")
    machine = keras.Input((3,), name="machine")
    read = layers.Concatenate()([load, hour])
    read = layers.GRU(3, return_sequences=True)(read, initial_state=layers.Dense(3)(machine))
    return keras.Model([load, hour, machine], layers.Dense(1)(read))


PAST = {"load": np.ones((5, 1)), "hour": np.ones((5, 2)), "machine": np.ones(3)}


def forecasting(future=None, prompt=None, known_ahead=None, length=4, model=forecaster, **others):
    arguments = {
        "future": {"hour": np.ones((4, 2))} if future is None else future,
        "known_ahead": {"hour": 1} if known_ahead is None else known_ahead,
        "next_input": lambda output: output,
        **others,
    }
    return lambda _: ks.generate(model(), {**PAST, **(prompt or {})}, length, **arguments)


def of_two_outputs():
    model = forecaster()
    return keras.Model(model.inputs, [model.outputs[0], model.outputs[0]])


FUTURE = {
    "a future that is too short": Bad(
        forecasting({"hour": np.ones((3, 2))}),
        ValueError,
        "`future['hour']`",
        "Received: 3",
        "Give 1 more, or write fewer, `length=3`",
    ),
    "a future that is too long": Bad(
        forecasting({"hour": np.ones((9, 2))}),
        ValueError,
        "`future['hour']`",
        "Received: 9",
        "`future['hour'][:4]`",
    ),
    "a future of another width": Bad(
        forecasting({"hour": np.ones((4, 5))}),
        ValueError,
        "`future['hour']`",
        "(4, 5)",
        "(timesteps, 2)",
    ),
    "a future that is missing values": Bad(
        forecasting({"hour": np.full((4, 2), np.nan)}),
        ValueError,
        "`future['hour']`",
        "8 such values",
        "Fill in",
    ),
    "the series that is written as a future": Bad(
        forecasting({"hour": np.ones((4, 2)), "load": np.ones((4, 1))}),
        ValueError,
        "none is left",
        "future with ['hour', 'load']",
        "out of `future`",
    ),
    "no future": Bad(
        forecasting({}),
        ValueError,
        "`future['hour']`",
        "Received: 0",
        "Give 4 more",
    ),
    "a future of one array": Bad(
        forecasting(np.ones((4, 2))),
        TypeError,
        "`future`",
        "ndarray",
        "`future={",
    ),
    "a future of an input that the model lacks": Bad(
        forecasting({"hour": np.ones((4, 2)), "sun": np.ones((4, 1))}),
        ValueError,
        "`future`",
        "['sun']",
        "Leave them out",
    ),
    "a future of everything": Bad(
        forecasting({"hour": np.ones((4, 2)), "load": np.ones((4, 1))}),
        ValueError,
        "`generate` writes",
        "['hour', 'load']",
        "out of `future`",
    ),
    "two series and no future": Bad(
        forecasting({}, known_ahead={}),
        ValueError,
        "`generate` writes one input",
        "['load', 'hour']",
        "future={'hour': ...}",
    ),
    "steps of which nobody knows": Bad(
        forecasting(known_ahead={}),
        ValueError,
        "'hour'",
        "`future` of a model that was not trained",
        "`known_ahead={'hour': 1}`",
    ),
    "a list of what is known ahead": Bad(
        forecasting(known_ahead=["hour"]),
        TypeError,
        "`known_ahead`",
        "['hour']",
        "`known_ahead={'hour': 1}`",
    ),
    "what is known ahead of an input that the model lacks": Bad(
        forecasting(known_ahead={"hour": 1, "sun": 1}),
        ValueError,
        "`known_ahead`",
        "['sun']",
        "Leave them out",
    ),
    "a ragged future": Bad(
        forecasting({"hour": [[1, 2], [3, 4], [5]]}),
        ValueError,
        "`future['hour']`",
        "[5]]",
        "as many numbers",
    ),
    "one number for all rows": Bad(
        forecasting(prompt={k: [PAST[k]] * 2 for k in ("load", "hour")} | {"machine": 3}),
        ValueError,
        "`prompt['machine']`",
        "0 for 2 rows",
        "a list of as many",
    ),
    "a past of another length": Bad(
        forecasting(prompt={"hour": np.ones((6, 2))}),
        ValueError,
        "`prompt['hour']`",
        "6 time steps, the series has 5",
        "goes to `future`",
    ),
    "a constant of another width": Bad(
        forecasting(prompt={"machine": np.ones(4)}),
        ValueError,
        "`prompt['machine']`",
        "(4,)",
        "must be (3,)",
    ),
    "a prompt without an input": Bad(
        lambda _: ks.generate(forecaster(), {"load": np.ones((5, 1))}, 3),
        ValueError,
        "`prompt`",
        "['load']",
        "one entry for each input",
    ),
    "one array for several inputs": Bad(
        lambda _: ks.generate(forecaster(), np.ones((5, 1)), 3),
        TypeError,
        "`prompt`",
        "ndarray",
        "Pass `{'load'",
    ),
    "nobody knows how the output is read": Bad(
        forecasting(next_input=None),
        ValueError,
        "`generate` feeds ids",
        "(1,) features",
        "Pass `next_input`",
    ),
    "two outputs": Bad(
        forecasting(model=of_two_outputs),
        ValueError,
        "one output",
        "outputs",
        "Concatenate",
    ),
}

SAMPLE = {"prompt": "a", "length": 5, "encode": list, "decode": str}

SAMPLING = {
    "a sample at no epoch": Bad(
        lambda m: ks.SampleText(**SAMPLE, every=0), ValueError, "`every`", "every=0", "1 or more"
    ),
    "a decoder that is no function": Bad(
        lambda m: ks.SampleText(**{**SAMPLE, "decode": 3}),
        TypeError,
        "`decode`",
        "decode=3",
        "a function",
    ),
}


@pytest.mark.parametrize("case", cases(GENERATION, FUTURE, SAMPLING))
def test_generation(case, model):
    assert_refused(case, model)


@pytest.mark.parametrize("name", ["an empty prompt", "a temperature below 0", "top_p above 1"])
def test_a_stream_refuses_when_it_is_asked_for(name, model, monkeypatch):
    """Not at its first id."""
    monkeypatch.setattr(ks, "generate", ks.stream)
    assert_refused(GENERATION[name], model)


def exporting(**arguments):
    return lambda model, path: ks.export_step_model(model, path / "out", **arguments)


DATA = np.zeros((1, 2), "int32")

EXPORT = {
    "model and directory exchanged": Bad(
        lambda m, d: ks.export_step_model(d, m),
        TypeError,
        "`model`",
        "PosixPath",
        "export_step_model(model, directory)",
    ),
    "an unknown format": Bad(
        exporting(format="tflite"), ValueError, "`format`", "'tflite'", '"executorch" or'
    ),
    "no rows": Bad(
        exporting(batch_size=0), ValueError, "`batch_size`", "batch_size=0", "1 or more"
    ),
    "half a row": Bad(
        exporting(batch_size=2.5), TypeError, "`batch_size`", "batch_size=2.5", "an int"
    ),
    "an unknown quantizer": Bad(
        exporting(quantize="int4"), ValueError, "`quantize`", "'int4'", '"int8"'
    ),
    "int8 without data": Bad(
        exporting(quantize="int8"),
        ValueError,
        "`representative_data`",
        "quantize='int8'",
        "go together",
    ),
    "data without int8": Bad(
        exporting(representative_data=DATA),
        ValueError,
        '`quantize="int8"`',
        "quantize=None",
        "go together",
    ),
    "a format without a quantizer": Bad(
        exporting(quantize="int8", format="tf_saved_model", representative_data=DATA),
        ValueError,
        '"tf_saved_model"',
        "int8",
        'Export as "onnx", "openvino" or "litert"',
    ),
    "metadata that JSON does not hold": Bad(
        exporting(metadata={"size": np.float32(1)}),
        TypeError,
        "`metadata['size']`",
        "float32",
        "what JSON holds",
    ),
    "metadata of NaN": Bad(
        exporting(metadata=[float("nan")]), TypeError, "`metadata[0]`", "nan", "finite numbers"
    ),
    "metadata keyed by numbers": Bad(
        exporting(metadata={0: "a"}), TypeError, "`metadata`", "the key 0", "a list of its tokens"
    ),
    "a directory that exists": Bad(
        lambda m, path: ks.export_step_model(m, path),
        ValueError,
        "`directory`",
        "test_export",
        "export beside it",
    ),
    "an initial state from the graph": Bad(
        lambda m, path: ks.export_step_model(started_by_an_input(), path / "out"),
        ValueError,
        "initial_state",
        "gru",
        "inputs",
    ),
}


def started_by_an_input():
    x, start = keras.Input((None, 3)), keras.Input((4,))
    return keras.Model([x, start], layers.GRU(4, name="gru")(x, initial_state=start))


@pytest.mark.parametrize("case", cases(EXPORT))
def test_export(case, model, tmp_path):
    assert_refused(case, model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "text"
    ks.export_step_model(model, directory, metadata={"characters": "abc"})
    return directory


SESSION = {
    "a time axis too many": Bad(
        lambda s: s.step(np.zeros((2, 3), int)),
        ValueError,
        "Input",
        "shape (2, 3)",
        "`read` takes many",
    ),
    "a time axis too few": Bad(
        lambda s: s.read(np.zeros(2, int)),
        ValueError,
        "Input",
        "shape (2,)",
        "`step` takes one step",
    ),
    "too few rows": Bad(lambda s: s.step([1]), ValueError, "Input", "shape (1,)", "`rows=`"),
    "no array": Bad(lambda s: s.read([[1, 2], [1]]), ValueError, "Input", "inhomogeneous", "array"),
    "half an id": Bad(
        lambda s: s.step([0.5, 1.5]), TypeError, "Input", "float64", '`x.astype("int32")`'
    ),
    "text": Bad(
        lambda s: s.step(["a", "b"]), TypeError, "is int32", "<U1", "Encode it first: pass ids"
    ),
    "no row axis": Bad(lambda s: s.step(3), ValueError, "shape (rows,).", "shape ()", "`[x]`"),
    "nothing for an array": Bad(
        lambda s: s.step(None), ValueError, "Input", "Received: None", "shape (rows,)"
    ),
    "a number for a path": Bad(
        lambda s: s.pool(4), TypeError, "`path` must be a path", "path=4", "as text or"
    ),
    "a directory for a file": Bad(
        lambda s: s.pool().save(os.curdir), ValueError, "`path`", "'.'", "Name a file in it"
    ),
    "a file in no directory": Bad(
        lambda s: s.pool().save("none/a.npz"), ValueError, "`path`", "'none/a.npz'", "Make it first"
    ),
    "an id above the vocabulary": Bad(
        lambda s: s.step([0, VOCABULARY]), ValueError, "Input", "11", "ids from 0 to 10"
    ),
    "an id below 0": Bad(lambda s: s.step([0, -1]), ValueError, "Input", "-1", "ids from 0 to 10"),
    "nothing to read": Bad(
        lambda s: s.read(np.zeros((2, 0), int)),
        ValueError,
        "`x`",
        "no time steps",
        "at least one time step",
    ),
    "inputs by other names": Bad(
        lambda s: s.step({"x": [1, 1]}), ValueError, "`x`", "['x']", "one entry for each"
    ),
    "a row twice": Bad(
        lambda s: s.step([1, 1], rows=[0, 0]), ValueError, "`rows`", "[0, 0]", "each row once"
    ),
    "a row beyond the last": Bad(
        lambda s: s.step([1], rows=[2]),
        ValueError,
        "`rows`",
        "[2]",
        "`load_session(directory, batch_size=...)`",
    ),
    "no rows": Bad(
        lambda s: s.step([], rows=[]), ValueError, "`rows`", "rows=[]", "at least one row index"
    ),
    "a mask of another length": Bad(
        lambda s: s.reset([True, False, True]),
        ValueError,
        "`rows`",
        "(3,)",
        "one value for each row",
    ),
    "states of other layers": Bad(
        lambda s: s.set_states({"lower": []}),
        ValueError,
        "`states`",
        "['lower']",
        "['lower', 'upper']",
    ),
    "states of another shape": Bad(
        lambda s: s.set_states(
            {"lower": [np.zeros((2, 6)), np.zeros((2, 5))], "upper": [np.zeros((2, 5))]}
        ),
        ValueError,
        "`states['lower']`",
        "(2, 5)",
        "they must be [(2, 6), (2, 6)]",
    ),
    "a misspelt name of a pool": Bad(
        lambda s: s.pool().step({"pump1": 1}, new=False),
        ValueError,
        "`x` must name streams",
        "'pump1'",
        "`new=True` has it begin",
    ),
    "columns by name that nobody knows": Bad(
        lambda s: s.pool().step({"pump1": {s.manifest.inputs[0].name: {"id": 1}}}),
        TypeError,
        "`x['pump1']`",
        "['id']",
        "`list(x.values())`",
    ),
    "states in a list": Bad(
        lambda s: s.set_states([1]), TypeError, "`states`", "list", "`get_states`"
    ),
}


@pytest.mark.parametrize("case", cases(SESSION))
def test_a_session_refuses_and_stays_where_it_was(case, exported):
    session = ks.load_session(exported, batch_size=2)
    session.read(np.arange(10).reshape(2, 5))
    before = session.get_states()
    assert_refused(case, session)
    keras.tree.map_structure(np.testing.assert_array_equal, session.get_states(), before)


@pytest.mark.parametrize("use", ["step", "read", "get_states", "reset", "fork", "__enter__"])
def test_a_closed_session(use, exported):
    session = ks.load_session(exported)
    session.close()
    arguments = {"step": ([1],), "read": ([[1]],)}.get(use, ())
    closed = Bad(
        lambda: getattr(session, use)(*arguments),
        ValueError,
        "session",
        "closed",
        "`load_session(directory)`",
    )
    assert_refused(closed)


def test_a_session_takes_no_reading_that_is_missing(tmp_path):
    readings = keras.Sequential([keras.Input((None, 3)), layers.GRU(4, return_sequences=True)])
    ks.export_step_model(readings, tmp_path / "readings")
    session = ks.load_session(tmp_path / "readings", batch_size=2)
    before = session.get_states()
    missing = np.array([[1, 2, 3], [4, np.nan, 5]], "float32")
    assert_refused(
        Bad(lambda: session.step(missing), ValueError, "is NaN", "1 such values", "`rows=`")
    )
    masked = np.ma.masked_invalid(missing)
    assert_refused(
        Bad(lambda: session.step(masked), ValueError, "masked", "1 masked values", "`rows=`")
    )
    large = np.array([[1, 2, 3], [4, 1e39, 5]])
    assert_refused(
        Bad(lambda: session.step(large), ValueError, "is float32", "beyond its range", "Scale them")
    )
    np.testing.assert_array_equal(session.get_states()["gru"], before["gru"])
    session.step(missing[:1], rows=[0])


PATHS = {
    "a model to load": Bad(
        lambda model: ks.load_session(model), TypeError, "`directory`", "Sequential", "as text or"
    ),
    "a number to load": Bad(
        lambda model: ks.load_states(4), TypeError, "`path`", "path=4", "`pathlib.Path`"
    ),
    "an export through a file": Bad(
        lambda model: ks.export_step_model(model, "plain/sub"),
        ValueError,
        "`directory`",
        "'plain/sub'",
        "remove the file",
    ),
    "an export to nowhere": Bad(
        lambda model: ks.export_step_model(model, None), TypeError, "`directory`", "None", "as text"
    ),
    "states to a directory": Bad(
        lambda model: ks.save_states(".", ks.get_states(ks.to_inference(model))),
        ValueError,
        "`path`",
        "'.'",
        "Name a file in it",
    ),
    "states through a file": Bad(
        lambda model: ks.save_states("plain/a.npz", ks.get_states(ks.to_inference(model))),
        ValueError,
        "`path`",
        "'plain/a.npz'",
        "Make it first",
    ),
    "a page in no directory": Bad(
        lambda model: ks.plot_activations("ab", np.ones((2, 1)), path="none/a.html"),
        ValueError,
        "`path`",
        "'none/a.html'",
        "Make it first",
    ),
}


@pytest.mark.parametrize("case", cases(PATHS))
def test_paths(case, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("a file")
    assert_refused(case, model)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize("rows", [0, -1, 1.5, "1"])
def test_a_session_of_no_rows(rows, exported):
    call = lambda: ks.load_session(exported, batch_size=rows)  # noqa: E731
    whole = isinstance(rows, int)
    error, remedy = (ValueError, "1 or more") if whole else (TypeError, "must be an int")
    assert_refused(Bad(call, error, "`batch_size`", f"batch_size={rows!r}", remedy))


# Artifacts that are not what was exported


def edit(directory, change):
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def truncated(directory, other):
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[:-20])


def altered(directory, other):
    content = bytearray((directory / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "model.onnx").write_bytes(content)


def artifact_of_another(directory, other):
    shutil.copy(other / "model.onnx", directory)


def manifest_of_another(directory, other):
    shutil.copy(other / "manifest.json", directory)


def another_with_checksums_made_to_fit(directory, other):
    artifact_of_another(directory, other)
    content = (other / "model.onnx").read_bytes()
    fits = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(directory, lambda manifest: manifest["artifact"]["files"][0].update(fits))


def of_a_newer_version(directory, other):
    edit(directory, lambda manifest: manifest.update(format_version=manifest["format_version"] + 1))


def outside_of(path):
    def change(manifest):
        manifest["artifact"]["entry"] = manifest["artifact"]["files"][0]["path"] = path

    return lambda directory, other: edit(directory, change)


ARTIFACTS = {
    "an artifact cut off": (
        truncated,
        "model.onnx",
        "the manifest says",
        "copy the whole directory again",
    ),
    "an artifact altered": (altered, "model.onnx", "SHA-256 differs", "export again"),
    "the artifact of another model": (
        artifact_of_another,
        "model.onnx",
        "bytes",
        "copy the whole directory again",
    ),
    "the manifest of another model": (
        manifest_of_another,
        "model.onnx",
        "bytes",
        "copy the whole directory again",
    ),
    "another model with its checksum": (
        another_with_checksums_made_to_fit,
        "another artifact",
        "'keras_tensor",
        "Copy the whole directory",
    ),
    "no artifact": (
        lambda d, o: (d / "model.onnx").unlink(),
        "model.onnx",
        "No such file",
        "Copy the whole directory",
    ),
    "no manifest": (
        lambda d, o: (d / "manifest.json").unlink(),
        "`directory`",
        "manifest.json",
        "`export_step_model`",
    ),
    "a manifest of a newer version": (
        of_a_newer_version,
        "newer",
        "format_version=2",
        "Upgrade keras_stateful",
    ),
    "no JSON": (
        lambda d, o: (d / "manifest.json").write_text("{"),
        "manifest.json",
        "not JSON",
        "export again",
    ),
    "some other JSON": (
        lambda d, o: (d / "manifest.json").write_text("{}"),
        "manifest.json",
        '"kind"',
        "keras_stateful",
    ),
    "an artifact above the directory": (
        outside_of("../secret.onnx"),
        "artifact",
        "../secret.onnx",
        "below the directory",
    ),
    "an artifact by its full path": (
        outside_of("/etc/passwd"),
        "artifact",
        "/etc/passwd",
        "below the directory",
    ),
}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "other"
    ks.export_step_model(signals(), directory)
    return directory


@pytest.mark.parametrize("name", ARTIFACTS)
def test_what_was_not_exported_is_not_run(name, exported, other, tmp_path, monkeypatch):
    change, names, received, remedy = ARTIFACTS[name]
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(copy, other)
    monkeypatch.setattr(
        "keras_stateful.session.runtimes.OnnxRuntime.run",
        lambda *a: pytest.fail("the artifact ran"),
    )
    assert_refused(Bad(lambda: ks.load_session(copy), ManifestError, names, received, remedy))
