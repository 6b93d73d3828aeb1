"""Small models that read a bounded past, of every kind that carries it, `(batch, time, 4)` in."""

from collections.abc import Callable
from functools import partial

import keras
from keras import layers, ops

FEATURES = 4
ONES = {"bias_initializer": "ones"}  # what reads zeros must not put out zeros


@keras.saving.register_keras_serializable(package="tests")
class Lag(layers.Layer):
    """What was two steps ago, beside what is."""

    def call(self, x):
        before = ops.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :-2]
        return ops.concatenate([x, before], -1)


@keras.saving.register_keras_serializable(package="tests")
class NamedConv(layers.Conv1D):
    """A subclass without a `call` of its own."""


def _model(function: Callable) -> keras.Model:
    x = keras.Input((None, FEATURES))
    return keras.Model(x, function(x))


def causal_then_lstm(x):
    h = layers.Conv1D(6, 3, padding="causal", activation="relu", **ONES)(x)
    return layers.Dense(2)(layers.LSTM(5, return_sequences=True)(h))


def gru_then_dilated(x):
    h = layers.GRU(5, return_sequences=True)(x)
    return layers.Conv1D(6, 3, padding="causal", dilation_rate=2, **ONES)(h)


def grouped(x):
    return layers.Conv1D(8, 2, padding="causal", groups=2, dilation_rate=5, **ONES)(x)


def subclass(x):
    return NamedConv(3, 3, padding="causal", **ONES)(x)


def shared(x):
    """One layer, called twice: a state for each call."""
    conv = layers.Conv1D(FEATURES, 3, padding="causal", **ONES)
    return conv(conv(x))


def keras_tcn(x):
    """A TCN as the keras-tcn package builds it: residual blocks of two convolutions each."""
    skips = []
    for dilation in (1, 2):
        h = x
        for i in range(2):
            h = layers.Conv1D(
                5, 2, padding="causal", dilation_rate=dilation, name=f"conv{i}_{dilation}"
            )(h)
            h = layers.LayerNormalization()(h)
            h = layers.SpatialDropout1D(0.1)(layers.Activation("relu")(h))
        skips.append(h)
        x = layers.Activation("relu")(layers.Add()([layers.Conv1D(5, 1)(x), h]))
    return layers.Dense(2)(layers.Add()([*skips, x]))


def residual_depthwise(x):
    """`ds_tc_resnet` of kws_streaming, without its strides."""
    x = layers.Dense(5)(x)
    for dilation in (1, 2):
        h = layers.ZeroPadding1D((2 * dilation, 0))(x)
        h = layers.DepthwiseConv1D(3, dilation_rate=dilation, **ONES)(h)
        h = layers.BatchNormalization()(layers.Dense(5, use_bias=False)(h))
        x = layers.Activation("relu")(layers.Add()([x, h]))
    return x


def svdf(x):
    """A fully connected layer and a memory of its outputs, one filter over time for each unit."""
    h = layers.ZeroPadding1D((3, 0))(layers.Dense(6)(x))
    h = layers.DepthwiseConv1D(4, **ONES)(h)
    return layers.Dense(2, activation="softmax")(layers.Activation("relu")(h))


def crnn(x):
    """A convolution over time and frequency, then a recurrent layer."""
    h = layers.ZeroPadding2D(((2, 0), (1, 1)))(layers.Reshape((-1, FEATURES, 1))(x))
    h = layers.Conv2D(3, 3, activation="relu", **ONES)(h)
    return layers.GRU(5, return_sequences=True)(layers.Reshape((-1, 3 * FEATURES))(h))


def separable_2d(x):
    h = layers.ZeroPadding2D(((2, 0), (0, 0)))(layers.Reshape((-1, FEATURES, 1))(x))
    h = layers.SeparableConv2D(2, (3, 2), **ONES)(h)
    h = layers.ZeroPadding2D(((1, 0), (0, 0)))(h)
    return layers.Reshape((-1, 6))(layers.DepthwiseConv2D((2, 1), **ONES)(h))


def padded_in_between(x):
    """What is between the padding and its reader makes something else of zeros."""
    h = layers.ZeroPadding1D((4, 0))(x)
    h = layers.Dense(5, activation="tanh", **ONES)(h)
    return layers.Conv1D(3, 3, **ONES)(layers.Conv1D(5, 3, **ONES)(h))


def separable(x):
    h = layers.ZeroPadding1D((4, 0))(x)
    return layers.SeparableConv1D(5, 3, dilation_rate=2, **ONES)(h)


def highest(x):
    return layers.MaxPooling1D(3, 1)(layers.ZeroPadding1D((2, 0))(x))


def mean(x):
    return layers.AveragePooling1D(3, 1)(layers.ZeroPadding1D((2, 0))(x))


def lags(x):
    """Lags and a difference, in the graph itself."""
    padded = ops.pad(x, ((0, 0), (5, 0), (0, 0)))
    ago = [padded[:, :-5], padded[:, 3:-2], x - padded[:, 4:-1]]
    return layers.Dense(3)(layers.Concatenate()([x, *ago]))


def filled(x):
    """A padding with something else than zeros."""
    return layers.Conv1D(3, 4)(ops.pad(x, ((0, 0), (3, 0), (0, 0)), constant_values=2.5))


def both_ends(x):
    return layers.Conv1D(3, 4, **ONES)(layers.ZeroPadding1D((3, 2))(x))[:, :-2]


def twice_in_front(x):
    """A padding in front of a padded window."""
    h = layers.Conv1D(3, 2, **ONES)(layers.ZeroPadding1D((2, 0))(x))
    return layers.Conv1D(3, 3, **ONES)(layers.ZeroPadding1D((1, 0))(h))


def lag_layer(x):
    return layers.Dense(3)(Lag()(x))


def lag_lambda(x):
    lag = layers.Lambda(lambda x: x - ops.pad(x, ((0, 0), (3, 0), (0, 0)))[:, :-3])
    return layers.Dense(3)(lag(x))


def in_submodel(x):
    inner = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            layers.ZeroPadding1D((2, 0)),
            layers.Dense(4, **ONES),
            layers.Conv1D(4, 3, **ONES),
        ],
        name="inner",
    )
    return layers.LSTM(3, return_sequences=True)(inner(x))


def across_submodels(x):
    """The padding is outside of the model that reads it."""
    y = keras.Input((None, FEATURES))
    inner = keras.Model(y, layers.Conv1D(4, 3, **ONES)(layers.Dense(4, **ONES)(y)), name="inner")
    return inner(layers.ZeroPadding1D((2, 0))(x))


_MODELS = [
    causal_then_lstm, gru_then_dilated, grouped, subclass, shared, keras_tcn, residual_depthwise,
    svdf, crnn, separable_2d, padded_in_between, separable, highest, mean, lags, filled, both_ends,
    twice_in_front, lag_layer, lag_lambda, in_submodel, across_submodels,
]  # fmt: skip
MODELS: dict[str, Callable[[], keras.Model]] = {}
for _function in _MODELS:
    MODELS[_function.__name__] = _build = partial(_model, _function)
    _build.__name__ = _function.__name__
