"""Small models of every kind that can carry a state, with inputs for them."""

from collections.abc import Callable

import keras
import numpy as np
from keras import layers

FEATURES = 3


@keras.saving.register_keras_serializable(package="tests")
class MinimalCell(keras.layers.Layer):
    """A cell of a user's own, whose initial state is not zero."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, inputs, states):
        h = keras.ops.tanh(
            keras.ops.matmul(inputs, self.kernel) + keras.ops.matmul(states[0], self.recurrent)
        )
        return h, [h]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.full((batch_size, self.units), 0.5)]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _sequential(*stack, shape=(None, FEATURES), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def _several():
    x = keras.Input((None, FEATURES))
    a = layers.LSTM(4, return_sequences=True)(x)
    b = layers.GRU(3, return_sequences=True)(layers.Concatenate()([a, x]))
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()([a, b])))


def _shared():
    a, b = keras.Input((None, FEATURES), name="a"), keras.Input((None, FEATURES), name="b")
    lstm = layers.LSTM(4, return_sequences=True)
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([lstm(a), lstm(b)])))


def _nested():
    encoder = keras.Sequential(
        [keras.Input((None, FEATURES)), layers.LSTM(4, return_sequences=True), layers.Dense(3)],
        name="encoder",
    )
    y = keras.Input((None, 3))
    decoder = keras.Model(y, layers.GRU(3, return_sequences=True)(y), name="decoder")
    x = keras.Input((None, FEATURES))
    return keras.Model(x, layers.Dense(2)(decoder(encoder(x))))


def _heads():
    """A head over every step, and one inside a sub-model."""
    x = keras.Input((None, FEATURES))
    h = layers.LSTM(4, return_sequences=True)(x)
    inner = keras.Sequential(
        [keras.Input((None, 4)), layers.TimeDistributed(layers.Dense(2))], name="inner"
    )
    return keras.Model(
        x,
        layers.Concatenate()([inner(h), layers.TimeDistributed(layers.Dense(2), name="outer")(h)]),
    )


def _two_outputs():
    x = keras.Input((None, FEATURES))
    h, *_ = layers.LSTM(4, return_sequences=True, return_state=True)(x)
    return keras.Model(x, {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(1, name="b")(h)})


def _dict_inputs():
    inputs = {
        "ids": keras.Input((None,), dtype="int32", name="ids"),
        "x": keras.Input((None, FEATURES), name="x"),
    }
    both = layers.Concatenate()([layers.Embedding(7, 2)(inputs["ids"]), inputs["x"]])
    return keras.Model(inputs, layers.GRU(4, return_sequences=True)(both))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "simple_rnn": lambda: _sequential(layers.SimpleRNN(4, return_sequences=True), layers.Dense(2)),
    "gru": lambda: _sequential(
        layers.GRU(4, return_sequences=True), layers.LayerNormalization(), layers.Dense(2)
    ),
    "lstm": lambda: _sequential(layers.LSTM(4, return_sequences=True), layers.Dense(2)),
    "heads": _heads,
    "two_lstm": lambda: _sequential(
        layers.LSTM(4, return_sequences=True), layers.LSTM(3, return_sequences=True)
    ),
    "stacked_cells": lambda: _sequential(
        layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True), layers.Dense(2)
    ),
    "custom_cell": lambda: _sequential(
        layers.RNN(MinimalCell(4), return_sequences=True), layers.Dense(2)
    ),
    "conv_lstm": lambda: _sequential(
        layers.ConvLSTM1D(3, 3, padding="same", return_sequences=True), shape=(None, 5, 2)
    ),
    "several": _several,
    "shared": _shared,
    "nested": _nested,
    "two_outputs": _two_outputs,
    "dict_inputs": _dict_inputs,
    "embedding": lambda: _sequential(
        layers.Embedding(7, 4),
        layers.GRU(4, return_sequences=True),
        layers.Dense(7),
        shape=(None,),
        dtype="int32",
    ),
}

MASKED: dict[str, Callable[[], keras.Model]] = {
    "masking": lambda: _sequential(layers.Masking(), layers.LSTM(4, return_sequences=True)),
    "mask_zero": lambda: _sequential(
        layers.Embedding(7, 4, mask_zero=True),
        layers.GRU(4, return_sequences=True),
        shape=(None,),
        dtype="int32",
    ),
    "mask_two": lambda: _sequential(
        layers.Embedding(7, 4, mask_zero=True),
        layers.LSTM(4, return_sequences=True),
        layers.SimpleRNN(3, return_sequences=True),
        shape=(None,),
        dtype="int32",
    ),
}


def build(name: str) -> keras.Model:
    """A model of the zoo with fixed weights."""
    keras.utils.set_random_seed(7)
    return {**MODELS, **MASKED}[name]()


def data(model: keras.Model, rows: int, steps: int, seed: int = 0) -> list[np.ndarray]:
    """An array `(rows, steps, ...)` for each input of a model, in the order of `model.inputs`."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(1, 7, (rows, steps))
        if "int" in t.dtype
        else rng.standard_normal((rows, steps, *t.shape[2:])).astype("float32")
        for t in model.inputs
        if t.name != "resets"
    ]


def window(
    model: keras.Model, arrays: list[np.ndarray], steps: slice, resets: np.ndarray | None = None
):
    """The part of the arrays that a model is called with for one window, in its input structure."""
    part = [a[:, steps] for a in arrays] + ([] if resets is None else [resets])
    if not isinstance(model, keras.Sequential) and isinstance(model.input, dict):
        names = [t.name for t in model.inputs if t.name != "resets"] + (
            [] if resets is None else ["resets"]
        )
        return dict(zip(names, part, strict=True))
    return part if len(part) > 1 else part[0]


def outputs(result) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(r) for r in keras.tree.flatten(result)]


class Source:
    """Documents that are read when asked for, as those on a disk."""

    def __init__(self, documents):
        self.documents = documents

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, index):
        return self.documents[index]
