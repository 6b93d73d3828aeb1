"""Inputs that do not fit a model are refused before the first step, with the remedy."""

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
        with pytest.raises(ValueError, match="structure"):
            model.fit(ks.StatefulSequence(IDS, 2, 8, resets=True), verbose=0)
