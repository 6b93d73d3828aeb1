"""A model reads features by place: trained on frames, it reads later ones by the names of columns.

Whatever order the columns of a frame stand in, every way in gives what the order of the training
gives; what is missing or unknown is refused by name, and arrays go by place.
"""

import itertools
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks
from keras_stateful.training.model_memory import trained_on

pytestmark = pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning")

NAMES = ["load", "heat", "speed"]
ROTATED = ["speed", "load", "heat"]
ROWS, TIME = 2, 5
rng = np.random.default_rng(0)
ARRAYS = [rng.normal(size=(n, 3)).astype("float32") for n in (11, 14, 9)]


def frames(columns, arrays=ARRAYS):
    pandas = pytest.importorskip("pandas")
    return [pandas.DataFrame(a, columns=NAMES)[columns] for a in arrays]


def series(columns):
    return ks.StatefulSequence(frames(columns), ROWS, TIME, resets=True)


def one_text(columns):
    return ks.StatefulSequence(frames(columns)[0], ROWS, TIME, resets=True)


def stream(columns):
    return ks.StatefulStream(frames(columns), ROWS, TIME, resets=True)


def network(rows=None):
    keras.utils.set_random_seed(1)
    recurrent = layers.SimpleRNN(2, return_sequences=True, stateful=rows is not None)
    return keras.Sequential([keras.Input((None, 3), batch_size=rows), recurrent, layers.Dense(3)])


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.fixture(scope="module")
def trained():
    """A model that was trained on the columns in the order of `NAMES`; no test trains it on."""
    model = compiled(ks.to_stateful(network(), ROWS, resets="window"))
    model.fit(series(NAMES), verbose=0)
    return model


def labelled(model, columns):
    """The metrics of targets that are frames, too."""
    x, y = frames(NAMES), frames(columns)
    return ks.evaluate_documents(model, x, targets=y)["loss"]


def generated_from(model, prompt):
    return ks.generate(model, prompt, 3, next_input=lambda output: output)


def predicted_from(model, documents):
    return ks.predict_documents(model, documents, reduce="last")


WAYS_IN = {
    "evaluate(sequence)": lambda m, c: m.evaluate(series(c), verbose=0),
    "evaluate(one text)": lambda m, c: m.evaluate(one_text(c), verbose=0),
    "evaluate(stream)": lambda m, c: m.evaluate(stream(c), verbose=0),
    "predict(sequence)": lambda m, c: (ks.reset_states(m), m.predict(series(c), verbose=0))[1],
    "predict_documents": lambda m, c: predicted_from(m, frames(c)),
    "evaluate_documents": lambda m, c: ks.evaluate_documents(m, frames(c))["loss"],
    "targets": labelled,
    "generate": lambda m, c: generated_from(m, frames(c)),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_reads_columns_by_name(trained, way):
    read = WAYS_IN[way]
    expected = read(trained, NAMES)
    for columns in (ROTATED, NAMES):
        np.testing.assert_array_equal(read(trained, columns), expected)


def test_training_and_validation_go_by_name_whatever_was_read_first():
    histories = []
    for first, then in ((NAMES, NAMES), (NAMES, ROTATED)):
        model = compiled(ks.to_stateful(network(), ROWS, resets="window"))
        model.fit(series(first), validation_data=series(then), verbose=0)
        again = model.fit(stream(then), verbose=0, callbacks=[ks.ValidateDocuments(frames(then))])
        histories.append([*model.get_weights(), *again.history.values()])
    for one, other in zip(*histories, strict=True):
        np.testing.assert_array_equal(one, other)


def test_keras_own_layers_with_the_callbacks_in_either_order():
    losses = []
    for columns, order in itertools.product((NAMES, ROTATED), (1, -1)):
        model = compiled(network(ROWS))
        callbacks = [ks.ResetStatesCallback(), ks.ValidateDocuments(frames(columns))][::order]
        sequence = ks.StatefulSequence(frames(NAMES), ROWS, TIME)
        history = model.fit(sequence, verbose=0, shuffle=False, callbacks=callbacks).history
        losses.append([history["loss"], history["val_loss"]])
    np.testing.assert_array_equal(losses, losses[:1] * 4)


@pytest.mark.parametrize("kind", ["inference", "stateless", "file", "pickle"])
def test_copies_and_files_remember(trained, kind, tmp_path):
    if kind == "file":
        trained.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
    elif kind == "pickle":
        copy = pickle.loads(pickle.dumps(trained))
    else:
        copy = ks.to_inference(trained) if kind == "inference" else ks.to_stateless(trained)
    read = WAYS_IN["predict_documents"]
    np.testing.assert_array_equal(read(copy, ROTATED), read(copy, NAMES))
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        ks.predict_documents(copy, [f.assign(extra=0) for f in frames(NAMES)])


OTHERS = {
    "renamed": (lambda f: f.rename(columns={"heat": "Heat"}), r"missing \['heat'\]; unknown \['He"),
    "too few": (lambda f: f[["load", "speed"]], r"missing \['heat'\]"),
    "too many": (lambda f: f.assign(extra=0.0), r"unknown \['extra'\]"),
    "twice": (lambda f: f[["load", "heat", "heat", "speed"]], "was trained on"),
    "numbered": (lambda f: f.set_axis(range(3), axis=1), r"unknown \['0', '1', '2'\]"),
}
ARGUMENTS = {
    "validation_data": lambda m, d: m.fit(
        series(NAMES), validation_data=ks.StatefulSequence(d, ROWS, TIME, resets=True), epochs=2
    ),
    "x": lambda m, d: m.fit(ks.StatefulSequence(d, ROWS, TIME, resets=True)),
    "x (evaluate)": lambda m, d: m.evaluate(ks.StatefulStream(d, ROWS, TIME, resets=True)),
    "documents": ks.predict_documents,
    "prompt[0]": lambda m, d: ks.generate(m, d, 2, next_input=lambda output: output),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("other", OTHERS)
def test_other_columns_are_refused_before_the_first_step(trained, other, argument):
    change, named = OTHERS[other]
    before, steps = trained.get_weights(), int(trained.optimizer.iterations)
    with pytest.raises(ValueError, match=named) as caught:
        ARGUMENTS[argument](trained, [change(f) for f in frames(NAMES)])
    assert f"`{argument}` must have the columns" in str(caught.value)
    assert int(trained.optimizer.iterations) == steps
    for one, other_one in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other_one)
    # The remedy: numbers go by place.
    remedy = [f[NAMES].to_numpy() for f in frames(ROTATED)]
    np.testing.assert_array_equal(
        ks.predict_documents(trained, remedy, reduce="last"),
        WAYS_IN["predict_documents"](trained, NAMES),
    )


def test_arrays_have_no_columns_and_a_fit_that_is_refused_teaches_none():
    model = compiled(ks.to_stateful(network(), ROWS, resets="window"))
    model.fit(ks.StatefulSequence(ARRAYS, ROWS, TIME, resets=True), verbose=0)
    before = trained_on(model)
    assert before.inputs == before.targets == {}
    renamed = [f.rename(columns={"heat": "Heat"}) for f in frames(NAMES)]
    held_out = ks.StatefulSequence(renamed, ROWS, TIME, resets=True)
    with pytest.raises(ValueError, match="`validation_data` must have the columns"):
        model.fit(series(NAMES), validation_data=held_out, verbose=0)
    assert trained_on(model) == before
    model.fit(series(ROTATED), verbose=0)
    assert trained_on(model).inputs == {"": ROTATED}


def test_several_inputs_and_outputs_by_their_names():
    pandas = pytest.importorskip("pandas")
    wide, narrow = keras.Input((None, 3), name="wide"), keras.Input((None, 2), name="narrow")
    joined = layers.Concatenate()([narrow, wide])
    joined = layers.SimpleRNN(2, return_sequences=True)(joined)
    model = keras.Model([wide, narrow], layers.Dense(2)(joined))
    model = compiled(ks.to_stateful(model, ROWS, resets="window"))

    def documents(columns, pair):
        return {
            "wide": frames(columns),
            "narrow": [pandas.DataFrame(a[:, :2], columns=["p", "q"])[pair] for a in ARRAYS],
        }

    data = ks.StatefulSequence(
        documents(NAMES, ["p", "q"]), ROWS, TIME, targets="narrow", target_offset=1, resets=True
    )
    model.fit(data, verbose=0)
    results = [
        ks.predict_documents(model, documents(columns, pair), reduce="last")
        for columns in (NAMES, ROTATED)
        for pair in (["p", "q"], ["q", "p"])
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    with pytest.raises(ValueError, match=r"`documents\['narrow'\]` must have the columns"):
        ks.predict_documents(model, {**documents(NAMES, ["p", "q"]), "narrow": frames(NAMES)})


def test_labels_and_static_inputs_go_by_name():
    """Those have a row for each document, and their columns are remembered as well."""
    pandas = pytest.importorskip("pandas")
    rows = rng.normal(size=(3, 3))

    def arguments(columns):
        of_documents = pandas.DataFrame(rows, columns=NAMES)[columns]
        return {"targets": of_documents, "static": {"kind": of_documents}}

    series, kind = keras.Input((None, 3), name="series"), keras.Input((None, 3), name="kind")
    hidden = layers.SimpleRNN(2, return_sequences=True)(layers.Concatenate()([series, kind]))
    model = keras.Model({"series": series, "kind": kind}, layers.Dense(3)(hidden))
    model = compiled(ks.to_stateful(model, ROWS, resets="window"))
    corpus = {"series": ARRAYS}
    model.fit(ks.StatefulSequence(corpus, ROWS, TIME, resets=True, **arguments(NAMES)), verbose=0)
    scores = [ks.evaluate_documents(model, corpus, **arguments(c)) for c in (NAMES, ROTATED)]
    np.testing.assert_array_equal(scores[0]["loss"], scores[1]["loss"])
    with pytest.raises(ValueError, match=r"missing \['speed'\]"):
        ks.evaluate_documents(model, corpus, **arguments(NAMES[:2]))


@pytest.mark.parametrize("package", ["polars", "pyarrow", "narwhals"])
def test_frames_of_every_package_go_by_name(trained, package):
    """By one path: what is known of a frame are the names of its columns and the columns."""
    module = pytest.importorskip(package)
    make = {
        "polars": lambda f: module.from_pandas(f),
        "pyarrow": lambda f: module.Table.from_pandas(f),
        "narwhals": lambda f: module.from_native(f),
    }[package]
    for way in (generated_from, predicted_from):
        expected = way(trained, frames(NAMES))
        for columns in (NAMES, ROTATED):
            np.testing.assert_array_equal(
                way(trained, [make(f) for f in frames(columns)]), expected
            )
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        predicted_from(trained, [make(f.assign(extra=0.0)) for f in frames(NAMES)])
