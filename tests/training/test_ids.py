"""Ids that no `Embedding` of the model knows are refused before the first step.

On JAX they would be NaN, and no error.
"""

import keras
import numpy as np
import pytest
from zoo import Source

import keras_stateful as ks

KNOWN = 5
GOOD = np.arange(60) % KNOWN


def network(known=KNOWN, embedding=keras.layers.Embedding):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            embedding(known, 3),
            keras.layers.GRU(4, return_sequences=True),
            keras.layers.Dense(9, activation="softmax"),
        ]
    )


def compiled(sequence, network=network):
    model = ks.to_stateful(network(), sequence)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def with_id(wrong, document=1, step=7):
    documents = [GOOD.copy(), GOOD.copy()]
    documents[document][step] = wrong
    return documents


MADE = {
    "arrays in memory": lambda d: ks.StatefulSequence(d, 2, 10, resets=True),
    "slices of one array": lambda d: ks.StatefulSequence(
        np.split(np.concatenate(d), [60]), 2, 10, resets=True
    ),
    "one text": lambda d: ks.StatefulSequence(np.concatenate(d), 2, 10, resets=True),
    "bytes": lambda d: ks.StatefulSequence([x.astype("int8") for x in d], 2, 10, resets=True),
    "packed": lambda d: ks.StatefulSequence(d, 2, 10, boundary="pack", resets=True),
    "joined": lambda d: ks.StatefulSequence(d, 2, 10, boundary="ignore", resets=True),
    "a source": lambda d: ks.StatefulSequence(Source(d), 2, 10, resets=True),
    "a stream": lambda d: ks.StatefulStream(d, 2, 10, resets=True),
}


@pytest.mark.parametrize("wrong", [KNOWN, -1])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_an_id_beyond_the_embedding_is_refused(method, make, wrong):
    sequence = make(with_id(wrong))
    model = compiled(sequence)
    before = [np.array(w) for w in model.get_weights()]
    message = f"does not know. Received: id {wrong}(.|\n)*knows 0 to {KNOWN - 1}"
    with pytest.raises(
        Exception, match=message
    ):  # TensorFlow wraps what a source raises as it is read
        getattr(model, method)(sequence, verbose=0)
    if make is not MADE["a stream"] and make is not MADE["a source"]:
        for now, was in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_ids_that_it_knows_are_read(make):
    sequence = make([GOOD, GOOD])
    assert np.isfinite(compiled(sequence).fit(sequence, verbose=0).history["loss"][0])


def test_the_place_is_named():
    sequence = ks.StatefulSequence(with_id(8, document=1, step=7), 2, 10, resets=True)
    with pytest.raises(
        ValueError,
        match=r"id 8; the first such in document 1 at time step 7(.|\n)*input_dim=9 or more",
    ):
        compiled(sequence).fit(sequence, verbose=0)


@pytest.mark.parametrize("boundary", ["align", "pack", "ignore"])
def test_an_id_that_is_only_ever_a_target_needs_no_row(boundary):
    ends = (
        [np.append(GOOD, KNOWN), np.append(GOOD, KNOWN)]
        if boundary != "ignore"
        else np.append(GOOD, KNOWN)
    )
    sequence = ks.StatefulSequence(ends, 2, 10, boundary=boundary, resets=True)
    assert np.isfinite(compiled(sequence).fit(sequence, verbose=0).history["loss"][0])


def test_ids_of_a_validation_of_documents_and_of_one_that_folds():
    good = ks.StatefulSequence([GOOD, GOOD], 2, 10, resets=True)
    wrong = ks.StatefulSequence(with_id(7), 2, 10, resets=True)
    model = compiled(good)
    with pytest.raises(ValueError, match="Received: id 7"):
        model.fit(good, validation_data=wrong, verbose=0)
    with pytest.raises(ValueError, match="Received: id 7"):
        ks.evaluate_documents(model, with_id(7))
    with pytest.raises(ValueError, match="Received: id 7"):
        ks.predict_documents(model, with_id(7))


class Folded(keras.layers.Embedding):
    """Takes any id: folds it into the rows that it has."""

    def call(self, inputs):
        return super().call(keras.ops.mod(inputs, self.input_dim))


def test_an_embedding_that_takes_any_id_is_left_alone():
    sequence = ks.StatefulSequence(with_id(8), 2, 10, resets=True)
    model = compiled(sequence, lambda: network(embedding=Folded))
    assert np.isfinite(model.fit(sequence, verbose=0).history["loss"][0])


def test_each_input_has_its_own_embedding():
    def two():
        words, tags = (keras.Input((None,), dtype="int32", name=n) for n in ("words", "tags"))
        h = keras.layers.Concatenate()(
            [keras.layers.Embedding(9, 3)(words), keras.layers.Embedding(2, 2)(tags)]
        )
        h = keras.layers.GRU(4, return_sequences=True)(h)
        return keras.Model(
            {"words": words, "tags": tags}, keras.layers.Dense(9, activation="softmax")(h)
        )

    def read(words, tags):
        sequence = ks.StatefulSequence(
            {"words": words, "tags": tags}, 2, 10, targets="words", target_offset=1, resets=True
        )
        return compiled(sequence, two).fit(sequence, verbose=0)

    read(np.arange(60) % 9, np.arange(60) % 2)
    with pytest.raises(ValueError, match=r"corpus\['tags'\]` holds an id(.|\n)*Received: id 3"):
        read(np.arange(60) % 9, np.arange(60) % 4)
