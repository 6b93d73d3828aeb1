"""Custom layers that take each step alone, in whatever way they are written, and those that mix."""

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import keras_stateful as ks

FEATURES = 3


class Own(layers.Layer):
    """Computes a function `(layer, x, training)`, with a few parts to do it with."""

    def __init__(self, function=None, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.seed = keras.random.SeedGenerator(0)
        self.dense, self.conv = layers.Dense(FEATURES), layers.Conv1D(1, 2)

    def build(self, shape):
        self.dense.build((None, FEATURES))
        self.conv.build((None, FEATURES, 1))
        self.built = True

    def call(self, x, training=False):
        return self.function(self, x, training)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "function": self.function}


def network(function):
    keras.utils.set_random_seed(0)
    own = Own(function)
    gru = layers.GRU(2, return_sequences=True)
    return keras.Sequential([keras.Input((None, FEATURES)), own, gru])


def rows(x):
    """Every step as a row: `(batch, time, features)` -> `(batch * time, features)`."""
    return ops.reshape(x, (-1, FEATURES))


def convolved(layer, x):
    """A convolution over the features of each step, by a reshape in place of TimeDistributed."""
    made = layer.conv(ops.reshape(x, (-1, FEATURES, 1)))
    made = ops.reshape(made, (-1, ops.shape(x)[1], FEATURES - 1))
    return ops.concatenate([made, x[..., :1]], axis=-1)


def late(x):
    """One step later: `(time, batch, features)`."""
    return ops.pad(x, ((1, 0), (0, 0), (0, 0)))[:-1, :]


def in_a_row_of_parts(layer, x):
    parts = ops.reshape(layer.dense(rows(x)), (-1, FEATURES, 1))
    return ops.reshape(parts - ops.mean(parts, axis=1, keepdims=True), ops.shape(x))


OF_EACH_STEP = {
    "dropout": lambda s, x, t: keras.random.dropout(x, 0.5, seed=s.seed) if t else x,
    "dropout of features": lambda s, x, t: (
        keras.random.dropout(x, 0.5, noise_shape=(None, 1, FEATURES), seed=s.seed) if t else x
    ),
    "dropout by name": lambda s, x, t: keras.random.dropout(inputs=x, rate=0.0, seed=s.seed),
    "mish": lambda s, x, t: activations.mish(x),
    "mish by name": lambda s, x, t: activations.get("mish")(s.dense(x)),
    "hard silu": lambda s, x, t: activations.hard_silu(x),
    "sparsemax": lambda s, x, t: activations.sparsemax(x),
    "penalty": lambda s, x, t: (s.add_loss(ops.mean(ops.square(x))), x)[1],
    "spectrum": lambda s, x, t: ops.rfft(x, fft_length=4)[0],
    "rows, and back by length": lambda s, x, t: ops.reshape(
        s.dense(rows(x)), (-1, ops.shape(x)[1], FEATURES)
    ),
    "rows, and back by shape": lambda s, x, t: ops.reshape(s.dense(rows(x)), ops.shape(x)),
    "rows, and back by batch": lambda s, x, t: ops.reshape(
        ops.softmax(rows(x)), (ops.shape(x)[0], -1, FEATURES)
    ),
    "rows of values": lambda s, x, t: (
        x + ops.reshape(ops.tanh(ops.ravel(x[..., 0])), ops.shape(x)[:2])[..., None]
    ),
    "time in front": lambda s, x, t: ops.transpose(
        ops.softmax(ops.transpose(x, (1, 0, 2)), axis=-1), (1, 0, 2)
    ),
    "rows of images": lambda s, x, t: convolved(s, x),
    "rows of parts": lambda s, x, t: in_a_row_of_parts(s, x),
}


@pytest.mark.parametrize("name", OF_EACH_STEP)
def test_what_takes_each_step_alone_is_accepted(name):
    model = network(OF_EACH_STEP[name])
    x = np.random.default_rng(0).standard_normal((2, 6, FEATURES)).astype("float32")
    whole = ops.convert_to_numpy(model(x))
    stateful, live = ks.to_stateful(model, 2), ks.to_inference(model, 2)
    for carrying, steps in ((stateful, 3), (live, 1)):
        parts = [carrying(x[:, t : t + steps]) for t in range(0, 6, steps)]
        windows = np.concatenate(list(map(ops.convert_to_numpy, parts)), axis=1)
        np.testing.assert_allclose(windows, whole, atol=1e-5)


OF_OTHER_STEPS = {
    "dropout at inference": lambda s, x, t: keras.random.dropout(x, 0.5, seed=s.seed),
    "dropout by the global seed": lambda s, x, t: keras.random.dropout(x, 0.5),
    "sparsemax of time": lambda s, x, t: activations.sparsemax(x, axis=1),
    "mish of a sum": lambda s, x, t: activations.mish(ops.cumsum(x, axis=1)),
    "spectrum of time": lambda s, x, t: ops.rfft(ops.swapaxes(x, 1, 2))[0][..., :FEATURES],
    "batch and time exchanged": lambda s, x, t: ops.reshape(
        rows(x), (ops.shape(x)[1], -1, FEATURES)
    ),
    "a batch of two": lambda s, x, t: ops.reshape(rows(x), (2, -1, FEATURES)),
    "windows of three": lambda s, x, t: ops.reshape(rows(x), (-1, 3, FEATURES)),
    "features for time": lambda s, x, t: ops.reshape(
        ops.reshape(x, (-1, ops.shape(x)[1])), ops.shape(x)
    ),
    "softmax over rows": lambda s, x, t: ops.reshape(ops.softmax(rows(x), axis=0), ops.shape(x)),
    "sum of rows": lambda s, x, t: ops.reshape(ops.cumsum(rows(x), axis=0), ops.shape(x)),
    "mean of rows": lambda s, x, t: x - ops.mean(rows(x), axis=0),
    "difference of rows": lambda s, x, t: ops.reshape(
        ops.pad(rows(x), ((1, 0), (0, 0)))[:-1, :], ops.shape(x)
    ),
    "a lag with time in front": lambda s, x, t: ops.transpose(
        late(ops.transpose(x, (1, 0, 2))), (1, 0, 2)
    ),
    "rows put back by a transposition": lambda s, x, t: ops.reshape(
        ops.transpose(ops.pad(ops.transpose(rows(x)), ((0, 0), (1, 0)))[:, :-1]), ops.shape(x)
    ),
    "rows on an axis of their own": lambda s, x, t: ops.reshape(
        ops.pad(rows(x)[None], ((0, 0), (1, 0), (0, 0)))[0, :-1], ops.shape(x)
    ),
    "rows laid upon steps": lambda s, x, t: x[:1] + ops.mean(rows(x)[:, None] * rows(x), axis=0),
    "rows convolved": lambda s, x, t: ops.reshape(
        s.conv(rows(x)[None, :, :1] * np.ones((1, 1, FEATURES), "float32")), (-1, 1, 1)
    ),
}


@pytest.mark.parametrize("name", OF_OTHER_STEPS)
def test_what_mixes_steps_or_draws_at_inference_is_refused(name):
    model = network(OF_OTHER_STEPS[name])
    with pytest.raises(ValueError, match="cannot carry"):
        ks.to_stateful(model, 2)


@pytest.mark.parametrize("size", [3, [3], None, "wide", np.array([3, 3])], ids=repr)
def test_what_a_custom_layer_means_by_a_name_of_keras_does_not_hide_the_refusal(size):
    model = network(OF_OTHER_STEPS["mish of a sum"])
    next(layer for layer in model.layers if isinstance(layer, Own)).kernel_size = size
    with pytest.raises(ValueError, match="cannot carry"):
        ks.to_stateful(model, 2)


def test_rows_in_the_graph_itself_are_refused_for_what_takes_steps_alone():
    x = keras.Input((6, FEATURES))
    dense, gru = layers.Dense(FEATURES), layers.GRU(2, return_sequences=True)
    by_hand = keras.Model(x, gru(ops.reshape(dense(rows(x)), (-1, 6, FEATURES))))
    with pytest.raises(ValueError, match=r"`Dense` takes each step.*`TimeDistributed\(layer\)`"):
        ks.to_stateful(by_hand, 2)
    for step in (dense, layers.TimeDistributed(dense)):
        ks.to_stateful(keras.Model(x, gru(step(x))), 2)
