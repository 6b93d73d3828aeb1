"""Random Functional models in which it is known what each part does along time.

A model is a chain of blocks, each from `(batch, time, WIDTH)` to the same shape. A block is one of
`LOCAL`, `CARRIED` or `REFUSED`, or holds chains of its own (a residual branch, two branches, a
sub-model). A graph carries if no block of it is in `REFUSED`.
"""

import keras
from hypothesis import strategies as st
from keras import layers, ops
from releases import SLIDING_WINDOW

WIDTH = 4

# Blocks that read each step alone.


def _gate(h):
    return layers.Multiply()([h, layers.Dense(WIDTH, activation="sigmoid")(h)])


def _condition(h, static):
    """Adds a vector without time to each step."""
    return layers.Add()([h, ops.expand_dims(layers.Dense(WIDTH)(static), 1)])


@keras.saving.register_keras_serializable(package="tests")
class Mixture(layers.Layer):
    """A layer of a user's own, written in `keras.ops`, that mixes the features of each step."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x):
        share = ops.softmax(ops.matmul(x, self.kernel), axis=-1)
        return ops.einsum("btf,btg->btf", x, share) + ops.where(x > 0.5, x, 0.0)


@keras.saving.register_keras_serializable(package="tests")
class Spread(layers.Layer):
    """One that mixes the steps."""

    def call(self, x):
        return ops.einsum("btf,bsf->btf", x, ops.tanh(x)) / 10.0


@keras.saving.register_keras_serializable(package="tests")
def shrunk(x):
    return x / (1.0 + ops.abs(x))


@keras.saving.register_keras_serializable(package="tests")
def share_of_time(x):
    return ops.softmax(x, axis=1)


LOCAL = {
    "custom": lambda h: Mixture()(h),
    "activation": lambda h: layers.Dense(WIDTH, activation=shrunk)(h),
    "lambda": lambda h: layers.Lambda(shrunk)(h),
    "dense": lambda h: layers.Dense(WIDTH, activation="tanh")(h),
    "layer_norm": lambda h: layers.LayerNormalization()(h),
    "softmax_features": lambda h: layers.Activation("softmax")(h),
    "prelu": lambda h: layers.PReLU(shared_axes=[1], alpha_initializer="ones")(h),
    "dropout": lambda h: layers.Dropout(0.5)(h),
    "time_distributed": lambda h: layers.TimeDistributed(layers.Dense(WIDTH))(h),
    "gate": _gate,
    "elementwise": lambda h: ops.tanh(h) * 2.0 - ops.abs(h),
    "reversed_features": lambda h: ops.flip(h, axis=-1),
    "mean_of_features": lambda h: h - ops.mean(h, axis=-1, keepdims=True),
    "reshaped": lambda h: layers.Reshape((-1, WIDTH))(layers.Reshape((-1, 2, WIDTH // 2))(h)),
    "there_and_back": lambda h: ops.transpose(ops.transpose(h, (0, 2, 1)) * 1.5, (0, 2, 1)),
    "one_by_one": lambda h: layers.Conv1D(WIDTH, 1)(h),
}

# Blocks that read a past, which is their state.


def _lag(h):
    return ops.pad(h, ((0, 0), (3, 0), (0, 0)))[:, :-3]


def _difference(h):
    return h - ops.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def _attention(h):
    h = layers.LayerNormalization()(h)
    return layers.MultiHeadAttention(2, 2, sliding_window=3)(h, h, use_causal_mask=True)


CARRIED = {
    "lstm": lambda h: layers.LSTM(WIDTH, return_sequences=True)(h),
    "gru": lambda h: layers.GRU(WIDTH, return_sequences=True)(h),
    "cells": lambda h: layers.RNN(
        [layers.SimpleRNNCell(3), layers.LSTMCell(WIDTH)], return_sequences=True
    )(h),
    "causal_conv": lambda h: layers.Conv1D(WIDTH, 3, padding="causal")(h),
    "dilated_conv": lambda h: layers.Conv1D(WIDTH, 2, dilation_rate=4, padding="causal")(h),
    "padded_conv": lambda h: layers.Conv1D(WIDTH, 3)(layers.ZeroPadding1D((2, 0))(h)),
    "padded_twice": lambda h: layers.Conv1D(WIDTH, 2)(
        layers.Conv1D(WIDTH, 3)(layers.ZeroPadding1D((3, 0))(h))
    ),
    "separable": lambda h: layers.SeparableConv1D(WIDTH, 3)(layers.ZeroPadding1D((2, 0))(h)),
    "depthwise": lambda h: layers.DepthwiseConv1D(2)(layers.ZeroPadding1D((1, 0))(h)),
    "max_pool": lambda h: layers.MaxPooling1D(3, strides=1)(layers.ZeroPadding1D((2, 0))(h)),
    "mean_pool": lambda h: layers.AveragePooling1D(2, strides=1)(layers.ZeroPadding1D((1, 0))(h)),
    "lag": _lag,
    "difference": _difference,
    "attention": _attention,
}

if not SLIDING_WINDOW:
    del CARRIED["attention"]

# Blocks that no state makes right: they read ahead, or the whole window.


def _same(h):
    return layers.Conv1D(WIDTH, 3, padding="same")(h)


def _ahead(h):
    return ops.pad(h, ((0, 0), (0, 2), (0, 0)))[:, 2:]


def _unbounded_attention(h):
    h = layers.LayerNormalization()(h)
    return layers.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True)


REFUSED = {
    "custom_spread": lambda h: Spread()(h),
    "activation_over_time": lambda h: h * layers.Dense(WIDTH, activation=share_of_time)(h),
    "lambda_over_time": lambda h: h * layers.Lambda(share_of_time)(h),
    "same_conv": _same,
    "ahead": _ahead,
    "rolled": lambda h: ops.roll(h, 12, axis=1),
    "rolled_a_little": lambda h: ops.roll(h, 1, axis=1),
    "backwards": lambda h: ops.flip(h, axis=1),
    "softmax_over_time": lambda h: h * ops.softmax(h, axis=1),
    "cumulated": lambda h: ops.cumsum(h, axis=1),
    "centred": lambda h: h - ops.mean(h, axis=1, keepdims=True),
    "pooled": lambda h: h + ops.expand_dims(layers.GlobalAveragePooling1D()(h), 1),
    "bidirectional": lambda h: layers.Bidirectional(layers.GRU(WIDTH // 2, return_sequences=True))(
        h
    ),
    "unbounded_attention": _unbounded_attention,
    "last_step": lambda h: h + h[:, -1:],
    "first_step": lambda h: h - h[:, :1],
}

_BLOCKS = {**LOCAL, **CARRIED, **REFUSED}


def chains(*, refused=False, depth=2):
    """Chains of blocks, as `build` takes them.

    Args:
        refused: whether one of the blocks is of those that must be refused.
        depth: how deep chains lie in chains.
    """
    sound = st.one_of(
        st.sampled_from(sorted(CARRIED)),
        st.sampled_from([*sorted(LOCAL), "condition", "second_stream"]),
    )
    if depth:
        inner = chains(depth=depth - 1)
        sound = st.one_of(
            sound,
            st.tuples(st.sampled_from(["residual", "sequential", "functional", "twice"]), inner),
            st.tuples(st.just("branches"), inner, inner),
        )
    chain = st.lists(sound, min_size=1, max_size=3)
    if depth == 2:  # a model in which nothing carries is not converted
        chain = st.tuples(chain, st.sampled_from(sorted(CARRIED))).map(lambda p: [*p[0], p[1]])
    if not refused:
        return chain
    return st.tuples(chain, st.sampled_from(sorted(REFUSED)), chain).map(
        lambda parts: [*parts[0], parts[1], *parts[2]]
    )


def build(chain, carried=True):
    """A model of a chain, with three inputs: a stream, a second stream, and a vector without time.

    Args:
        chain: of `chains`.
        carried: False puts a `Dense` in the place of each carried block.
    """
    x = keras.Input((None, 3), name="x")
    second = keras.Input((None, 2), name="second")
    static = keras.Input((2,), name="static")
    h = layers.Dense(WIDTH)(x)
    h = _chain(h, chain, {"second": second, "static": static}, carried)
    h = layers.Add()([h, layers.Dense(WIDTH)(second), ops.expand_dims(layers.Dense(4)(static), 1)])
    model = keras.Model([x, second, static], layers.Dense(2)(h))
    for weight in model.trainable_weights:  # biases too: what is padded with zeros gives them
        weight.assign(keras.random.normal(weight.shape, stddev=0.5))
    return model


def _chain(h, chain, inputs, carried):
    for block in chain:
        h = _block(h, block, inputs, carried)
    return h


def _block(h, block, inputs, carried):
    if block == "condition":
        return _condition(h, inputs["static"]) if inputs else LOCAL["dense"](h)
    if block == "second_stream":
        if not inputs:
            return LOCAL["dense"](h)
        return layers.Dense(WIDTH)(layers.Concatenate()([h, inputs["second"]]))
    if isinstance(block, str):
        if block in CARRIED and not carried:
            return layers.Dense(WIDTH)(h)
        return _BLOCKS[block](h)
    kind, *parts = block
    if kind == "residual":
        return layers.Add()([h, _chain(h, parts[0], inputs, carried)])
    if kind == "branches":
        both = [_chain(h, part, inputs, carried) for part in parts]
        return layers.Dense(WIDTH)(layers.Concatenate()(both))
    # A sub-model sees its own input alone.
    inner = keras.Input((None, WIDTH))
    model = keras.Model(inner, _chain(inner, parts[0], {}, carried))
    if kind == "twice":  # its layers, called twice
        return _twice(h, parts[0], carried)
    if kind == "sequential" and all(isinstance(part, str) for part in parts[0]):
        return keras.Sequential([keras.Input((None, WIDTH)), model])(h)
    return model(h)


def _twice(h, chain, carried):
    """Two calls of one layer, of which each has a state."""
    # Not linear: of h and -h, a linear layer's outputs add up to its biases, whatever h was.
    plain = layers.Dense(WIDTH, activation="tanh")
    layer = layers.GRU(WIDTH, return_sequences=True) if carried else plain
    return layers.Add()([layer(h), _chain(layer(-h), chain, {}, carried)])
