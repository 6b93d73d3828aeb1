"""Inputs that do not fit a model are refused before the first step, with the remedy."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

IDS = np.arange(200) % 7


def ids_model(window=None):
    return keras.Sequential(
        [
            keras.Input((window,), dtype="int32"),
            layers.Embedding(7, 3),
            layers.LSTM(4, return_sequences=True),
            layers.Dense(7, activation="softmax"),
        ]
    )


def features_model(width):
    return keras.Sequential(
        [keras.Input((None, width)), layers.LSTM(4, return_sequences=True), layers.Dense(width)]
    )


def refused(base, sequence, words, loss="mse"):
    model = ks.to_stateful(base, sequence)
    model.compile("sgd", loss)
    before = model.get_weights()
    for read in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=words):
            read(sequence, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("resets", [False, True])
def test_another_window_length(resets):
    sequence = ks.StatefulSequence(IDS, 2, 8, resets=resets)
    refused(ids_model(16), sequence, "sequence_length=16", "sparse_categorical_crossentropy")


def test_features_for_an_embedding():
    one_hot = np.eye(7, dtype="float32")[IDS]
    labels = {"targets": IDS}
    words = r"`x.argmax\(-1\)`"
    refused(
        ids_model(),
        ks.StatefulSequence(one_hot, 2, 8, **labels),
        words,
        "sparse_categorical_crossentropy",
    )
    features = np.zeros((200, 3), "float32")
    words = "an integer array"
    refused(
        ids_model(),
        ks.StatefulSequence(features, 2, 8, **labels),
        words,
        "sparse_categorical_crossentropy",
    )


def test_ids_for_an_input_of_features():
    refused(features_model(3), ks.StatefulSequence(IDS, 2, 8, resets=True), "`Embedding`")


def test_other_features():
    sequence = ks.StatefulSequence(np.zeros((200, 5), "float32"), 2, 8, targets=np.zeros((200, 3)))
    refused(features_model(3), sequence, r"keras.Input\(\(None, 5\)\)")


def test_of_several_inputs_each_is_looked_at():
    words, sizes = (
        keras.Input((None,), dtype="int32", name="words"),
        keras.Input((None, 2), name="sizes"),
    )
    x = layers.Concatenate()([layers.Embedding(7, 3)(words), sizes])
    base = keras.Model(
        {"words": words, "sizes": sizes}, layers.Dense(1)(layers.GRU(4, return_sequences=True)(x))
    )
    for width in (2, 4):
        corpus = {"words": IDS, "sizes": np.zeros((200, width), "float32")}
        sequence = ks.StatefulSequence(corpus, 2, 8, targets=np.zeros((200, 1)), resets=True)
        if width == 4:
            refused(base, sequence, r"of \(4,\), the input 'sizes' of \(2,\)")
            continue
        model = ks.to_stateful(base, sequence)
        model.compile("sgd", "mse")
        model.fit(sequence, verbose=0)


@pytest.mark.parametrize("width", [4, 1, 6])
@pytest.mark.parametrize("per_step", [True, False])
def test_an_input_of_features_without_a_time_axis(width, per_step):
    """Its width is no length of a window."""
    series = keras.Input((None, 3), name="series")
    fixed = keras.Input((None, width) if per_step else (width,), name="fixed")
    h = layers.GRU(4, return_sequences=True)(series)
    more = layers.Dense(4)(fixed)
    h = layers.Add()([h, more if per_step else layers.Reshape((1, 4))(more)])
    base = keras.Model([series, fixed], layers.Dense(1)(h))
    corpus = {
        "series": np.zeros((200, 3)),
        "fixed": np.repeat(np.ones((1, width)), 200, axis=0),  # the remedy, for `per_step`
    }
    sequence = ks.StatefulSequence(corpus, 2, 8, targets=np.zeros((200, 1)), resets=True)
    if not per_step:
        refused(base, sequence, rf"(?s)'fixed'.*keras.Input\(\(None, {width}\)\)")
        return
    model = ks.to_stateful(base, sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("resets", [False, True])
def test_a_last_axis_of_one_is_what_keras_adds_and_takes_away(dtype, resets):
    """Ids in a column, and ids stored as floats, which Keras casts."""
    sequence = ks.StatefulSequence(IDS[:, None].astype(dtype), 2, 8, targets=IDS, resets=resets)
    model = ks.to_stateful(ids_model(), sequence)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(sequence, verbose=0)


def test_ids_for_features_of_one():
    model = ks.to_stateful(features_model(1), 2)
    model.compile("sgd", "mse")
    model.fit(ks.StatefulSequence(IDS, 2, 8), verbose=0)


@pytest.mark.parametrize("key", ["ids", "tokens"])
def test_a_dict_of_one_input_whatever_its_key(key):
    """The keys of a dict are sorted, "resets" among them."""
    ids = keras.Input((None,), dtype="int32", name=key)
    h = layers.LSTM(4, return_sequences=True)(layers.Embedding(7, 3)(ids))
    sequence = ks.StatefulSequence({key: IDS}, 2, 8, resets=True)
    model = ks.to_stateful(keras.Model({key: ids}, layers.Dense(7)(h)), sequence)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(sequence, verbose=0)
    if (
        key > "resets"
    ):  # Keras fills a dict in the order of its keys, and here would take the one for the other
        with pytest.raises(ValueError, match=r"Give `\{'tokens': ...\}`"):
            model.fit(ks.StatefulSequence(IDS, 2, 8, resets=True), verbose=0)


def named_model(*shapes, in_dict):
    """Inputs "a", "b", ... of these shapes, those without time added to every step."""
    inputs = {name: keras.Input(s, name=name) for name, s in zip("abc", shapes, strict=False)}
    series = [i for i in inputs.values() if len(i.shape) == 3]
    h = layers.GRU(4, return_sequences=True)(
        layers.Concatenate()(series) if len(series) > 1 else series[0]
    )
    for static in (i for i in inputs.values() if len(i.shape) == 2):
        h = layers.Add()([h, layers.Reshape((1, 4))(layers.Dense(4)(static))])
    given = inputs if in_dict else list(inputs.values())
    return keras.Model(given if in_dict or len(inputs) > 1 else given[0], layers.Dense(1)(h))


WIDTHS = {"a": 3, "b": 2, "c": 5, "x": 3}


def of_widths(*names):
    return {name: np.ones((60, WIDTHS[name]), "float32") for name in names}


NAMES = {
    "one array for two series": ([(None, 3), (None, 2)], np.ones((60, 3)), "Give `{'a': ..., 'b'"),
    "one array beside an input without time": ([(None, 3), (4,)], np.ones((60, 3)), "Give `{'a'"),
    "a series too few": ([(None, 3), (None, 2)], of_widths("a"), "Add ['b']"),
    "one too many for one input": ([(None, 3)], of_widths("a", "b"), "input for ['b']"),
    "one too many for two": ([(None, 3), (None, 2)], of_widths("a", "b", "c"), "input for ['c']"),
    "another name": ([(None, 3)], of_widths("x"), "keras.Input(..., name='x')"),
    "features for an input without time": (
        [(None, 3), (2,)], of_widths("a", "b"), "Give it one, `keras.Input((None, 2))`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("in_dict", [False, True])
@pytest.mark.parametrize("case", NAMES)
def test_inputs_by_name_are_those_of_the_model(case, in_dict):
    shapes, corpus, words = NAMES[case]
    for rows, resets in ((2, True), (3, False)):
        sequence = ks.StatefulSequence(
            corpus, rows, 2, targets=np.ones((60, 1)), resets=resets
        )  # two steps: as many as the features of an input without time
        refused(named_model(*shapes, in_dict=in_dict), sequence, re.escape(words))
    stream = [corpus if isinstance(corpus, dict) else {"a": corpus}] * 4
    if isinstance(corpus, dict):
        rows = [{**document, "y": np.ones((60, 1))} for document in stream]
        sequence = ks.StatefulStream(rows, 2, 2, targets="y", resets=True)
        refused(named_model(*shapes, in_dict=in_dict), sequence, re.escape(words))


@pytest.mark.parametrize(
    ("corpus", "model", "words"),
    [
        (np.ones((40, 50), "float32"), features_model(1), "`[d[:, None] for d in x]`"),
        (np.ones((40, 50, 3), "float32"), features_model(3), "pass the series as it was before"),
        ([np.ones((9, 50, 3), "float32")] * 4, features_model(3), "cut into windows of 50"),
        (np.ones((40, 50), "int32"), ids_model(), "`[d for d in x]`"),
        (np.arange(90) % 7, features_model(3), "`x[:, None]`"),
    ],
    ids=["documents of one feature", "windows", "documents of windows", "documents", "one series"],
)
def test_an_axis_too_many_is_said_to_be_what_it_is(corpus, model, words):
    """Not that the model should take it."""
    steps = len(corpus) if isinstance(corpus, np.ndarray) else 9
    targets = np.ones((steps, 3)) if isinstance(corpus, np.ndarray) else [np.ones((9, 3))] * 4
    sequence = ks.StatefulSequence(corpus, 2, 4, targets=targets)
    refused(model, sequence, re.escape(words))


def test_windows_of_features_are_not_called_time_steps():
    """An input of four features, fed with one number at each step, may be taken for either."""
    model = keras.Sequential([
        keras.Input((4,)), layers.Reshape((-1, 1)), layers.LSTM(4, return_sequences=True),
    ])  # fmt: skip
    sequence = ks.StatefulSequence(np.ones((60, 1), "float32"), 2, 5, targets=np.ones((60, 4)))
    refused(model, sequence, re.escape("if that axis counts features, `keras.Input((None, 4))`"))
