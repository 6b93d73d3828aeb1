"""The catalogue of bad input: models that cannot be converted, on the backend at hand.

The rest of it needs no backend: `test_catalogue_data.py` and `test_catalogue_use.py`. The arguments
of `fit` stand with the law that they would break: `tests/training/test_fit_arguments.py`.
"""

import keras
import numpy as np
import pytest
from catalogue import Bad, assert_refused
from keras import layers

import keras_stateful as ks


def sequential(*stack, shape=(None, 3), **kwargs):
    return keras.Sequential([keras.Input(shape, **kwargs), *stack])


def lstm(**kwargs):
    return layers.LSTM(4, return_sequences=True, **kwargs)


def custom(function):
    class Custom(layers.Layer):
        def call(self, x):
            return function(x)

        def compute_output_shape(self, shape):
            return shape

    return Custom(name="custom")


def attending():
    x = keras.Input((None, 3))
    h = lstm()(x)
    return keras.Model(x, layers.MultiHeadAttention(2, 4, name="attention")(h, h))


def reshaped(rows):
    x = keras.Input((6, 3), batch_size=rows)
    return keras.Model(x, lstm(name="lstm")(keras.ops.reshape(x, (rows, -1, 3))))


def siamese():
    encoder = keras.Sequential([keras.Input((None, 3)), lstm()], name="encoder")
    a, b = keras.Input((None, 3)), keras.Input((None, 3))
    return keras.Model([a, b], layers.Add()([encoder(a), encoder(b)]))


def nested():
    encoder = keras.Sequential(
        [keras.Input((None, 3)), layers.Conv1D(3, 3, name="conv")], name="encoder"
    )
    return sequential(encoder, lstm())


def with_an_input_named_resets():
    x = keras.Input((None, 3), name="resets")
    return keras.Model(x, lstm()(x))


class Subclassed(keras.Model):
    def call(self, x):
        return x


def positions():
    number = custom(lambda x: x + keras.ops.arange(x.shape[1], dtype="float32")[:, None])
    return sequential(number, lstm(), shape=(6, 3))


def stateful_slices():
    inner = layers.TimeDistributed(layers.GRU(3, stateful=True), name="slices")
    return keras.Sequential([keras.Input((4, 5, 2), batch_size=2), inner, lstm()])


def slices():
    return sequential(layers.TimeDistributed(layers.GRU(3)), shape=(None, 5, 2))


def with_its_own_end():
    x = keras.Input((None, 3))
    h, end = layers.GRU(4, return_sequences=True, return_state=True)(x)
    return keras.Model(x, layers.Multiply(name="times")([h, end[:, None]]))


def encoder_and_decoder():
    x = keras.Input((None, 3))
    _, end = layers.GRU(4, return_state=True)(x)
    return keras.Model(
        x, layers.GRU(4, return_sequences=True, name="decoder")(x, initial_state=end)
    )


class Sums(layers.Dense):
    def call(self, x):
        return keras.ops.cumsum(super().call(x), axis=1)


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return 100.0


class OwnCall(keras.Sequential):
    def call(self, *args, **kwargs):
        return 2 * super().call(*args, **kwargs)


def some_stateful():
    return sequential(lstm(name="first", stateful=True), lstm(name="second"), batch_size=2)


def converting(make, **arguments):
    return lambda: ks.to_stateful(make(), **{"batch_size": 2, **arguments})


MODELS = {
    "Conv1D": Bad(
        converting(lambda: sequential(layers.Conv1D(3, 3, name="conv"), lstm())),
        ValueError,
        "`conv`",
        "2 steps in front of each window that are not there",
        'padding="causal"',
    ),
    "Conv1D behind": Bad(
        converting(lambda: sequential(lstm(), layers.Conv1D(3, 3, padding="same", name="conv"))),
        ValueError,
        "`conv`",
        "reads 1 steps ahead",
        'Give it `padding="causal"`',
    ),
    "Conv1D in a sub-model": Bad(
        converting(nested),
        ValueError,
        "`encoder/conv`",
        "2 steps in front of each window that are not there",
        "`ZeroPadding1D((2, 0))` in front of `encoder/conv`",
    ),
    "an average over time": Bad(
        converting(lambda: sequential(lstm(), layers.GlobalAveragePooling1D(name="mean"))),
        ValueError,
        "`mean`",
        "merges the time steps",
        'reduce="mean"',
    ),
    "pooling": Bad(
        converting(lambda: sequential(layers.MaxPooling1D(2, name="pool"), lstm())),
        ValueError,
        "`pool`",
        "one time step for 2",
        "frames of 2 steps in `encode=`",
    ),
    "Flatten": Bad(
        converting(
            lambda: sequential(lstm(), layers.Flatten(name="flat"), layers.Dense(2), shape=(6, 3))
        ),
        ValueError,
        "`flat`",
        "(None, 24) of (None, 6, 4)",
        "`TimeDistributed(Reshape(...))`",
    ),
    "Reshape": Bad(
        converting(lambda: sequential(layers.Reshape((3, 6), name="shape"), lstm(), shape=(6, 3))),
        ValueError,
        "`shape` (Reshape)",
        "(None, 3, 6) of (None, 6, 3)",
        "`Reshape((-1, ...))`",
    ),
    "attention": Bad(
        converting(attending),
        ValueError,
        "`attention`",
        "attends to later steps",
        "`sliding_window=`",
    ),
    "Bidirectional": Bad(
        converting(lambda: sequential(layers.Bidirectional(lstm(), name="both"))),
        ValueError,
        "`both`",
        "not known yet",
        "Use its forward layer alone",
    ),
    "go_backwards": Bad(
        converting(lambda: sequential(lstm(go_backwards=True, name="back"))),
        ValueError,
        "`back`",
        "from the end",
        "`go_backwards=False`",
    ),
    "a layer of one's own that sums over time": Bad(
        converting(lambda: sequential(custom(lambda x: keras.ops.cumsum(x, 1)), lstm())),
        ValueError,
        "`custom`",
        "cumsum",
        "`axis=-1`",
    ),
    "a layer of one's own that counts positions": Bad(
        converting(positions),
        ValueError,
        "`custom`",
        "one value for each time step of a window",
        "one more input",
    ),
    "time steps that are given the window's end": Bad(
        converting(with_its_own_end),
        ValueError,
        "`times`",
        "end of the window",
        "`return_sequences=True`",
    ),
    "a decoder that starts from the window's end": Bad(
        converting(encoder_and_decoder),
        ValueError,
        "`decoder`",
        "end of the window",
        "`return_sequences=True`",
    ),
    "a norm over time": Bad(
        converting(
            lambda: sequential(layers.UnitNormalization(axis=-2, name="unit"), lstm(), shape=(6, 3))
        ),
        ValueError,
        "`unit`",
        "each time step from all others",
        "`axis=-1`",
    ),
    "a mean for each step of the window": Bad(
        converting(
            lambda: sequential(
                layers.BatchNormalization(axis=-2, name="batch"), lstm(), shape=(6, 3)
            )
        ),
        ValueError,
        "`batch`",
        "of its own for each time step of a window",
        "`axis=-1`",
    ),
    "a Dense of one's own that sums over time": Bad(
        converting(lambda: sequential(Sums(4, name="sums"), lstm())),
        ValueError,
        "`sums`",
        "cumsum",
        "`axis=-1`",
    ),
    "a loss of one's own": Bad(
        converting(lambda: OwnLoss([keras.Input((None, 3)), lstm()])),
        ValueError,
        "`OwnLoss.compute_loss` would be lost",
        "own_loss",
        "`ResetStatesCallback`",
    ),
    "a call of one's own": Bad(
        converting(lambda: OwnCall([keras.Input((None, 3)), lstm()])),
        ValueError,
        "`OwnCall.call` would be lost",
        "own_call",
        "`ResetStatesCallback`",
    ),
    "some layers stateful": Bad(
        converting(some_stateful),
        ValueError,
        "stateful ['first'], not stateful ['second']",
        "first",
        "`layers=['first', 'second']`",
    ),
    "a stateful layer inside TimeDistributed": Bad(
        converting(stateful_slices),
        ValueError,
        "`slices`",
        "from slice to slice",
        "`stateful=False`",
    ),
    "nothing that carries": Bad(
        converting(lambda: sequential(layers.Dense(3, name="dense"))),
        ValueError,
        "nothing that carries a state",
        "['dense']. One that takes each time step alone is read by `model.evaluate`",
        "What carries are SimpleRNN, GRU, LSTM",
    ),
    "recurrent along another axis only": Bad(
        converting(slices),
        ValueError,
        "nothing that carries a state",
        "time_distributed",
        "run along another axis",
    ),
    "a batch size written into the graph": Bad(
        converting(lambda: reshaped(3)),
        ValueError,
        "`lstm`",
        "3 rows where the model has 2",
        "`keras.layers.Reshape`",
    ),
    "a subclassed model": Bad(
        converting(lambda: Subclassed(name="own")),
        ValueError,
        "subclass",
        "'own'",
        "keras.Model(x, model.call(x))",
    ),
    "no input": Bad(
        converting(lambda: keras.Sequential([lstm()])),
        ValueError,
        "shape of the model's input",
        "not built",
        "`keras.Input(",
    ),
    "a recurrent sub-model called twice": Bad(
        converting(siamese),
        ValueError,
        "`encoder`",
        "called 2 times",
        "one sub-model for each call",
    ),
    "an input named resets": Bad(
        converting(with_an_input_named_resets), ValueError, "input", "'resets'", "Rename"
    ),
    "no model": Bad(
        converting(lambda: "model"), TypeError, "`model`", "'model' of type str", "Keras model"
    ),
    "model and sequence exchanged": Bad(
        lambda: ks.to_stateful(ks.StatefulSequence([np.arange(30)] * 2, 2, 8), sequential(lstm())),
        TypeError,
        "`model`",
        "StatefulSequence",
        "to_stateful(model, sequence)",
    ),
    "no rows": Bad(
        converting(lambda: sequential(lstm()), batch_size=0),
        ValueError,
        "`batch_size`",
        "batch_size=0",
        "1 or more",
    ),
    "half a row": Bad(
        converting(lambda: sequential(lstm()), batch_size=2.5),
        TypeError,
        "`batch_size`",
        "batch_size=2.5",
        "an int",
    ),
    "a batch size of True": Bad(
        converting(lambda: sequential(lstm()), batch_size=True),
        TypeError,
        "`batch_size`",
        "batch_size=True",
        "an int",
    ),
    "unknown resets": Bad(
        converting(lambda: sequential(lstm()), resets="windows"),
        ValueError,
        "`resets`",
        "'windows'",
        '"window" or "step"',
    ),
    "a layer that does not exist": Bad(
        converting(lambda: sequential(lstm(name="carried")), layers=["nobody"]),
        ValueError,
        "`layers`",
        "'nobody'",
        "there are ['carried']",
    ),
    "a layer that is not in a list": Bad(
        converting(lambda: sequential(lstm(name="carried")), layers="carried"),
        TypeError,
        "`layers`",
        "layers='carried'",
        "Pass `['carried']`",
    ),
    "to_inference of no rows": Bad(
        lambda: ks.to_inference(sequential(lstm()), 0),
        ValueError,
        "`batch_size`",
        "batch_size=0",
        "1 or more",
    ),
    "to_stateless without a recurrent layer": Bad(
        lambda: ks.to_stateless(sequential(layers.Dense(3, name="dense"))),
        ValueError,
        "nothing that carries a state",
        "['dense']",
        "What carries are",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in MODELS.items()])
def test_models_and_conversions(case):
    assert_refused(case)
