"""What a model's graph says is read once, and read anew where the model or its loss is another."""

import copy
import gc
import weakref

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.carry import graph
from keras_stateful.training.model_facts import facts_of


def network(ids=9):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(ids, 4),
            keras.layers.GRU(5, return_sequences=True),
            keras.layers.Dense(9, activation="softmax"),
        ]
    )


def sequence(ids=9, **options):
    documents = [np.arange(n) % ids for n in (30, 17, 22)]
    return ks.StatefulSequence(documents, 3, 8, **options)


@pytest.fixture
def readings(monkeypatch):
    """How often a graph was read."""
    models = []
    read = graph.Graph.__init__

    def count(self, model):
        models.append(model)
        read(self, model)

    monkeypatch.setattr(graph.Graph, "__init__", count)
    return models


def plain_model():
    model = keras.Sequential(
        [
            keras.Input((None,), batch_size=3, dtype="int32"),
            keras.layers.Embedding(9, 4),
            keras.layers.GRU(5, return_sequences=True, stateful=True),
            keras.layers.Dense(9, activation="softmax"),
        ]
    )
    return model, [ks.ResetStatesCallback()]


@pytest.mark.parametrize("kind", ["mask", "callback", "plain"])
def test_a_fit_reads_the_graph_once(kind, readings):
    resets = kind == "mask"
    data, held_out = sequence(resets=resets), sequence(resets=resets)
    model, callbacks = plain_model() if kind == "plain" else (ks.to_stateful(network(), data), None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    readings.clear()
    for _ in range(2):
        model.fit(data, validation_data=held_out, epochs=3, verbose=0, callbacks=callbacks)
    assert len(readings) == 1


def test_a_loss_compiled_anew_is_checked_anew():
    data = sequence(resets=True)
    model = ks.to_stateful(network(), data)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(data, verbose=0)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="broadcast"):
        model.fit(data, verbose=0)


def test_a_sequence_is_checked_for_each_model_that_reads_it():
    """A source on disk is searched as it is read, for what the model knows that reads it now."""
    rows = [{"x": np.arange(30) % 9}, {"x": np.arange(22) % 9}]

    def read(row):
        return row["x"]

    data = ks.StatefulSequence(rows, 2, 8, resets=True, encode=read)
    small, large = (ks.to_stateful(network(ids), data) for ids in (5, 9))
    for model in (small, large):
        model.compile("sgd", "sparse_categorical_crossentropy")
    for _ in range(2):
        large.fit(data, verbose=0)
        with pytest.raises(Exception, match="the Embedding knows 0 to 4"):
            small.fit(data, verbose=0)


def test_a_sequential_with_another_layer_is_read_anew():
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(5, return_sequences=True)])
    assert facts_of(model) is facts_of(model)
    assert facts_of(model).along_time == (True,)
    before = facts_of(model)
    model.add(keras.layers.GRU(5))
    assert facts_of(model) is not before
    assert facts_of(model).along_time == (False,)


def test_a_copy_of_a_trained_model_reads_its_own_graph():
    data = sequence(resets=True)
    model = ks.to_stateful(network(), data)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(data, verbose=0)
    copied = copy.deepcopy(model)
    copied.fit(data, verbose=0)
    assert facts_of(copied).model is copied
    assert facts_of(model).model is model


def test_what_was_found_to_fit_keeps_no_data_in_memory():
    data = sequence(resets=True)
    model = ks.to_stateful(network(), data)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(data, verbose=0)
    kept = weakref.ref(data)
    del data
    gc.collect()
    assert kept() is None
