"""What reads documents is kept with the model: a second call builds and compiles nothing.

Whatever happened to the model meanwhile, each call gives what a first call gives.
"""

import gc
import logging
import threading
import weakref

import keras
import numpy as np
import pytest

from keras_stateful import evaluate_documents, predict_documents, to_stateful
from keras_stateful.evaluation import kept_twins

DOCUMENTS = [np.arange(n, dtype="int32") % 7 for n in (5, 19, 11)]


def small_model(mask_zero=False):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(7, 4, mask_zero=mask_zero)(inputs)
    x = keras.layers.Dense(4, name="first")(x)
    x = keras.layers.Dense(4, name="second")(x)
    x = keras.layers.GRU(4, return_sequences=True)(x)
    model = keras.Model(inputs, keras.layers.Dense(7)(x))
    compiled(model)
    return model


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)


@pytest.fixture
def made(monkeypatch):
    """The batch sizes of the twins that were made."""
    sizes, make = [], kept_twins.make
    monkeypatch.setattr(
        kept_twins, "make", lambda model, rows: sizes.append(rows) or make(model, rows)
    )
    return sizes


def read(model, documents=DOCUMENTS):
    outputs = predict_documents(model, documents, sequence_length=4, verbose=0)
    losses = evaluate_documents(model, documents, sequence_length=4, verbose=0)["loss"]
    return [*outputs, losses]


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_a_second_call_makes_nothing(made, mask_zero):
    model = small_model(mask_zero)
    first = read(model)
    assert made == [3]
    assert_equal(read(model), first)
    assert_equal(read(model, DOCUMENTS[::-1])[2::-1], first[:3])
    assert made == [3]
    read(model, DOCUMENTS[:2])
    assert made == [3, 2]


def test_a_training_between_two_calls_makes_nothing(made):
    model = small_model()
    trained(model)
    read(model)
    trained(model)
    read(model)
    assert made == [3]


class Scaled(keras.layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return keras.ops.multiply(x, self.factor)

    def compute_output_shape(self, shape):
        return shape


class Table(keras.layers.Layer):
    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self._table = table

    def call(self, x):
        return keras.ops.multiply(x, np.float32(self._table))

    def compute_output_shape(self, shape):
        return shape


CHANGES = {
    "an activation": lambda m: setattr(m.get_layer("dense"), "activation", keras.ops.sigmoid),
    "a cell's activation": lambda m: setattr(m.get_layer("gru").cell, "activation", keras.ops.relu),
    "a layer of a model inside": lambda m: setattr(m.get_layer("inner").layers[0], "factor", 5.0),
    "a number": lambda m: setattr(m.get_layer("scaled"), "factor", -2),
    "an array": lambda m: setattr(m.get_layer("scaled"), "factor", np.float32([1, 2, 3])),
    "an array in place": lambda m: m.get_layer("table")._table.fill(-2),
    "a list in place": lambda m: m.get_layer("listed")._table.reverse(),
    "a normalization": lambda m: m.get_layer("normalized").adapt(
        np.float32([[1, 2, 5], [0, 1, 0]])
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_computes_as_it_is_now(change):
    inner = keras.Sequential([keras.Input((None, 4)), Scaled(0.5)], name="inner")
    x = keras.Input((None,), dtype="int32")
    y = inner(keras.layers.Embedding(7, 4)(x))
    y = keras.layers.GRU(4, return_sequences=True, name="gru")(y)
    y = Scaled(2, name="scaled")(keras.layers.Dense(3, name="dense")(y))
    y = Table([1.0, 2.0, 3.0], name="listed")(y)
    y = Table(np.float32([1, 3, 2]), name="table")(y)
    normalized = keras.layers.Normalization(name="normalized")
    normalized.adapt(np.float32([[0, 1, 2], [3, 5, 9]]))
    y = normalized(y)
    model = keras.Model(x, y)
    compiled(model)
    for step in (lambda m: None, CHANGES[change], lambda m: None):
        step(model)
        outputs = predict_documents(model, DOCUMENTS, sequence_length=4, verbose=0)
        for document, output in zip(DOCUMENTS, outputs, strict=True):
            expected = keras.ops.convert_to_numpy(model(document[None]))[0]
            np.testing.assert_allclose(output, expected, atol=1e-5)


def test_what_was_read_before_is_not_read_again():
    model = small_model()
    for documents in ([DOCUMENTS[1]], [DOCUMENTS[0]], [DOCUMENTS[1]]):
        (output,) = predict_documents(model, documents, sequence_length=4, verbose=0)
        expected = keras.ops.convert_to_numpy(model(documents[0][None]))[0]
        np.testing.assert_allclose(output, expected, atol=1e-5)


def trained(model):
    model.fit(np.stack([DOCUMENTS[1]] * 2), np.stack([DOCUMENTS[1]] * 2), verbose=0)


def frozen_otherwise(model):
    """As many variables of the same shapes are trainable, but others: a compiled call mixes them.

    (The order in which a call takes them goes by what is trainable.)
    """
    first, second = (model.get_layer(name) for name in ("first", "second"))
    first.trainable, second.trainable = second.trainable, first.trainable


@pytest.mark.parametrize("change", [trained, frozen_otherwise])
def test_a_model_that_changed_is_read_as_it_is_now(change):
    model = small_model()
    model.get_layer("second").trainable = False
    read(model)
    change(model)
    now = read(model)
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    compiled(fresh)
    assert_equal(now, read(fresh))


def test_a_stack_that_grew_is_another_model():
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(3, return_sequences=True)])
    documents = [np.random.default_rng(0).normal(size=(9, 3)).astype("float32")]
    (before,) = predict_documents(model, documents, verbose=0)
    model.add(keras.layers.ReLU())
    (after,) = predict_documents(model, documents, verbose=0)
    np.testing.assert_allclose(after, np.maximum(before, 0), atol=1e-6)


def test_a_reader_inside_another_has_a_twin_of_its_own(made):
    model = small_model()
    inner = []

    def encode(document):
        if not inner:
            inner.append(None)
            inner[0] = read(model)
        return document

    outer = predict_documents(model, DOCUMENTS, sequence_length=4, encode=encode, verbose=0)
    assert_equal(outer, inner[0][:3])


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="Keras takes the values out of the variables there"
)
def test_threads_read_each_its_own():
    model = to_stateful(small_model(), 2)
    expected = [predict_documents(model, [d], sequence_length=4, verbose=0)[0] for d in DOCUMENTS]
    results, barrier = {}, threading.Barrier(len(DOCUMENTS))

    def reads(k):
        barrier.wait()
        for turn in range(3):
            results[k, turn] = predict_documents(
                model, [DOCUMENTS[k]], sequence_length=4, verbose=0
            )[0]

    threads = [threading.Thread(target=reads, args=(k,)) for k in range(len(DOCUMENTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (k, _), result in results.items():
        np.testing.assert_allclose(result, expected[k], atol=1e-6)
    assert len(results) == 9


def test_a_reader_that_failed_leaves_nothing(made):
    model = small_model()
    expected = read(model)

    def failing(key):
        raise OSError("gone")

    broken = [*DOCUMENTS]
    with pytest.raises(OSError, match="gone"):
        predict_documents(model, broken, encode=failing, verbose=0)
    assert_equal(read(model), expected)


def test_few_are_kept_and_they_die_with_the_model():
    model = small_model()
    for count in range(1, 8):
        predict_documents(model, DOCUMENTS[:1] * count, sequence_length=4, verbose=0)
    assert len(vars(model)[kept_twins._SLOT]) == kept_twins._KEPT
    gone = weakref.ref(next(iter(vars(model)[kept_twins._SLOT].values())).model)
    del model
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow alone warns")
def test_tensorflow_does_not_warn_of_calls_in_a_loop(caplog):
    import tensorflow as tf

    model = small_model()
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        for k in range(7):
            documents = [DOCUMENTS[k % 3][: 5 + k], DOCUMENTS[1]]
            predict_documents(model, documents, sequence_length=4, verbose=0)
            evaluate_documents(model, documents, sequence_length=4, verbose=0)
    finally:
        logger.removeHandler(caplog.handler)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [line for line in said if "retracing" in line]
