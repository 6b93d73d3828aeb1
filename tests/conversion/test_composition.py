"""What a model is at present: seen is all that changes what it computes, and nothing else."""

import functools

import keras
import numpy as np
import pytest

from keras_stateful import StatefulSequence, generate, predict_documents, to_stateful
from keras_stateful.conversion.composition import composition

IDS = np.arange(90) % 5


class Scaled(keras.layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.numbers, self.array = factor, [1.0, 2.0], np.zeros(4, "float32")

    def call(self, x):
        y = x * self.factor
        if keras.backend.backend() != "torch":  # whose tensors always have values
            self.seen = y  # in a compiled call a symbol
        return y


def a_model(factor=2.0):
    inner = keras.Sequential([keras.Input((None, 4)), Scaled(factor, name="scaled")], name="inner")
    x = keras.Input((None,), dtype="int32")
    y = inner(keras.layers.Embedding(5, 4)(x))
    y = keras.layers.Normalization(name="normalization")(y)
    y = keras.layers.GRU(4, return_sequences=True, name="gru")(y)
    model = keras.Model(x, keras.layers.Dense(5, name="dense")(y))
    compiled(model)
    return model


def compiled(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def scaled(model):
    return model.get_layer("inner").layers[0]


CHANGES = {
    "an activation": lambda m: setattr(m.get_layer("dense"), "activation", keras.ops.sigmoid),
    "a function with arguments": lambda m: setattr(
        m.get_layer("dense"), "activation", functools.partial(keras.ops.softmax, axis=1)
    ),
    "a cell's activation": lambda m: setattr(m.get_layer("gru").cell, "activation", keras.ops.relu),
    "a number": lambda m: setattr(scaled(m), "factor", 3.0),
    "NumPy's number": lambda m: setattr(scaled(m), "factor", np.float32(3)),
    "an array": lambda m: setattr(scaled(m), "factor", np.ones(4, "float32")),
    "an array in place": lambda m: scaled(m).array.fill(2),
    "several numbers": lambda m: setattr(scaled(m), "factor", [1.0, 2.0, 3.0, 4.0]),
    "several numbers in place": lambda m: scaled(m).numbers.reverse(),
    "what was adapted to": lambda m: m.get_layer("normalization").adapt(np.ones((1, 2, 4))),
    "what is trained": lambda m: setattr(m.get_layer("dense"), "trainable", False),
    "compile": compiled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    model = a_model()
    before = composition(model)
    assert composition(model) == before
    CHANGES[change](model)
    assert composition(model) != before


def test_the_first_use_changes_nothing():
    model = a_model()
    before = composition(model)
    generate(model, [1], 2)
    assert composition(model) == before
    predict_documents(model, [IDS], verbose=0)
    assert composition(model) == before


def test_use_changes_nothing():
    sequence = StatefulSequence(IDS, 2, 9, resets=True)
    model = to_stateful(a_model(), sequence)
    compiled(model)
    model.fit(sequence, verbose=0)  # it remembers what it was trained on
    before = composition(model)
    for use in (
        lambda: model.predict(sequence, verbose=0),
        lambda: model.fit(sequence, validation_data=sequence, verbose=0),
        lambda: model.evaluate(sequence, verbose=0),
        lambda: predict_documents(model, [IDS], verbose=0),
        lambda: generate(model, [1], 2),
        lambda: setattr(model, "stop_training", True),
    ):
        use()
        assert composition(model) == before
