"""The table of Keras's layers is true: single steps are changed, and what changes is compared."""

import keras
import numpy as np
import pytest
from keras import layers
from releases import SLIDING_WINDOW
from time_steps import assert_as_derived, derive, mixes

from keras_stateful.carry.time_axis.along import END
from keras_stateful.carry.time_axis.table import LAYERS as RULES

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="what is derived is the same on every backend, and torch compiles nothing for one call",
)

STEPS = 12


def model(layer, shape=(4,), steps=STEPS, ids=None):
    x = keras.Input((steps, *shape), dtype="float32" if ids is None else "int32")
    y = layer(x)
    outputs = keras.tree.flatten(y)
    made = keras.Model(x, outputs[0])
    rng = np.random.default_rng(0)
    for weight in made.weights:  # so large that nothing goes unseen
        if weight.dtype.startswith("float"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return made


def sums(values):
    """An activation that a user wrote."""
    return keras.ops.tanh(values) + 0.1 * values


def over_time(values):
    return keras.ops.softmax(values, axis=1)


def vocabulary(lookup, **options):
    return lookup(vocabulary=[1, 2, 3, 4], **options)


class OwnBuild(layers.Dense):
    """A subclass that computes what its Keras class does."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)

    def build(self, shape):
        super().build(shape)


def beside(joined):
    """A layer of several inputs, all of one stream."""
    return lambda x: joined([x, layers.Dense(4)(x)])


def memory():
    """What has no time: the same for whatever the stream holds."""
    return np.arange(12, dtype="float32").reshape(1, 3, 4)


def with_window(layer):
    """The entries for attention with `sliding_window`: none where Keras has no such argument."""
    return [(layer, (4,))] if SLIDING_WINDOW else []


CAUSAL = {"use_causal_mask": True}
IMAGE = (5, 6)  # frequencies, channels
VIDEO = (5, 5, 6)

# For each class what is right, as (layer, shape of a step).
RIGHT = {
    layers.ActivityRegularization: [(layers.ActivityRegularization(0.1), (4,))],
    layers.AlphaDropout: [(layers.AlphaDropout(0.1), (4,))],
    layers.Dropout: [(layers.Dropout(0.1), (4,)), (layers.Dropout(0.1), ())],
    layers.ELU: [(layers.ELU(), (4,))],
    layers.GaussianDropout: [(layers.GaussianDropout(0.1), (4,))],
    layers.GaussianNoise: [(layers.GaussianNoise(0.1), (4,))],
    layers.Identity: [(layers.Identity(), IMAGE)],
    layers.LeakyReLU: [(layers.LeakyReLU(), (4,))],
    layers.ReLU: [(layers.ReLU(), (4,))],
    layers.SpatialDropout1D: [(layers.SpatialDropout1D(0.1), (4,))],
    layers.SpatialDropout2D: [(layers.SpatialDropout2D(0.1), IMAGE)],
    layers.SpatialDropout3D: [(layers.SpatialDropout3D(0.1), VIDEO)],
    layers.Discretization: [(layers.Discretization([-2.0, -1.0, 0.0, 1.0, 2.0]), (4,))],
    layers.Activation: [
        (layers.Activation("relu"), (4,)),
        (layers.Activation("softmax"), (4,)),
        (layers.Activation(sums), (4,)),
        (layers.Activation(keras.activations.mish), ()),
        (layers.Activation("tanh"), ()),
        (layers.Activation("sparsemax"), (4,)),
        (layers.Activation("hard_silu"), ()),
    ],
    layers.Rescaling: [
        (layers.Rescaling(2.0, 1.0), (4,)),
        (layers.Rescaling([1.0, 2.0, 3.0, 4.0]), (4,)),
    ],
    layers.PReLU: [
        (layers.PReLU(shared_axes=[1]), (4,)),
        (layers.PReLU(shared_axes=[1, 2]), IMAGE),
    ],
    layers.Add: [(beside(layers.Add()), (4,))],
    layers.Average: [(beside(layers.Average()), (4,))],
    layers.Maximum: [(beside(layers.Maximum()), (4,))],
    layers.Minimum: [(beside(layers.Minimum()), (4,))],
    layers.Multiply: [(beside(layers.Multiply()), (4,))],
    layers.Subtract: [(beside(layers.Subtract()), (4,))],
    layers.Concatenate: [(beside(layers.Concatenate()), (4,))],
    layers.Dense: [
        (layers.Dense(3), (4,)),
        (layers.Dense(3, activation="gelu"), IMAGE),
        (layers.Dense(3, activation="softmax"), (4,)),
        (layers.Dense(3, activation=sums), (4,)),
        (layers.Dense(3, activation=layers.LeakyReLU()), (4,)),
        (OwnBuild(3), (4,)),
    ],
    layers.EinsumDense: [
        (layers.EinsumDense("abc,cd->abd", (None, 3)), (4,)),
        (layers.EinsumDense("...c,cd->...d", 3), (4,)),
        (layers.EinsumDense("abcd,cde->abe", (None, 3), bias_axes="e"), IMAGE),
        (layers.EinsumDense("abc,cd->adb", (3, None)), (4,)),
    ],
    layers.Masking: [(layers.Masking(), (4,))],
    layers.Softmax: [(layers.Softmax(), (4,)), (layers.Softmax(axis=[2, 3]), IMAGE)],
    layers.BatchNormalization: [(layers.BatchNormalization(), (4,))],
    layers.LayerNormalization: [
        (layers.LayerNormalization(), (4,)),
        (layers.LayerNormalization(axis=[2, 3]), IMAGE),
    ],
    layers.RMSNormalization: [(layers.RMSNormalization(), (4,))],
    layers.UnitNormalization: [(layers.UnitNormalization(), (4,))],
    layers.Normalization: [
        (layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4), (4,)),
        (layers.Normalization(axis=None, mean=1.0, variance=2.0), (4,)),
    ],
    layers.SpectralNormalization: [(layers.SpectralNormalization(layers.Dense(3)), (4,))],
    layers.Permute: [
        (layers.Permute((2, 1)), (4,)),
        (lambda x: layers.Permute((2, 1))(layers.Permute((2, 1))(x)), (4,)),
        (layers.Permute((1, 3, 2)), IMAGE),
    ],
    layers.Reshape: [
        (layers.Reshape((STEPS, 2, 2)), (4,)),
        (layers.Reshape((STEPS, 30)), IMAGE),
        (layers.Reshape((-1, 1)), ()),
        (layers.Reshape((STEPS, 1)), ()),
        (layers.Reshape((STEPS,)), (1,)),
        (layers.Reshape((1, STEPS, 4)), (4,)),
    ],
    layers.Flatten: [(layers.Flatten(), (1,)), (layers.Flatten(), ())],
    layers.ZeroPadding1D: [
        (layers.ZeroPadding1D((3, 0)), (4,)),
        (layers.ZeroPadding1D((0, 2)), (4,)),
        (layers.ZeroPadding1D((3, 2)), (4,)),
    ],
    layers.ZeroPadding2D: [
        (layers.ZeroPadding2D(((3, 0), (1, 1))), IMAGE),
        (layers.ZeroPadding2D(((0, 0), (1, 1))), IMAGE),
    ],
    layers.ZeroPadding3D: [(layers.ZeroPadding3D(((2, 0), (1, 1), (1, 1))), VIDEO)],
    layers.Cropping1D: [(layers.Cropping1D((3, 0)), (4,)), (layers.Cropping1D((1, 2)), (4,))],
    layers.Cropping2D: [(layers.Cropping2D(((2, 1), (1, 1))), IMAGE)],
    layers.Cropping3D: [(layers.Cropping3D(((2, 1), (1, 1), (1, 1))), VIDEO)],
    layers.Conv1D: [
        (layers.Conv1D(3, 1), (4,)),
        (layers.Conv1D(3, 3), (4,)),
        (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), (4,)),
        (layers.Conv1D(4, 2, padding="causal", groups=2, activation="relu"), (4,)),
        (layers.Conv1D(4, 1, padding="same"), (4,)),
    ],
    layers.Conv2D: [
        (layers.Conv2D(3, (3, 2)), IMAGE),
        (layers.Conv2D(3, (1, 3), padding="same", strides=(1, 2)), IMAGE),
        (layers.Conv2D(3, (2, 1), dilation_rate=(3, 1)), IMAGE),
    ],
    layers.Conv3D: [(layers.Conv3D(2, (2, 3, 3)), VIDEO)],
    layers.DepthwiseConv1D: [(layers.DepthwiseConv1D(3), (4,))],
    layers.DepthwiseConv2D: [(layers.DepthwiseConv2D((3, 2)), IMAGE)],
    layers.SeparableConv1D: [(layers.SeparableConv1D(3, 3), (4,))],
    layers.SeparableConv2D: [(layers.SeparableConv2D(3, (3, 2)), IMAGE)],
    layers.MaxPooling1D: [
        (layers.MaxPooling1D(3, strides=1), (4,)),
        (layers.MaxPooling1D(1), (4,)),
    ],
    layers.MaxPooling2D: [
        (layers.MaxPooling2D((3, 2), strides=(1, 2)), IMAGE),
        (layers.MaxPooling2D((1, 2), padding="same"), IMAGE),
    ],
    layers.MaxPooling3D: [(layers.MaxPooling3D((2, 2, 2), strides=(1, 2, 2)), VIDEO)],
    layers.AveragePooling1D: [(layers.AveragePooling1D(3, strides=1), (4,))],
    layers.AveragePooling2D: [(layers.AveragePooling2D((3, 2), strides=(1, 2)), IMAGE)],
    layers.AveragePooling3D: [(layers.AveragePooling3D((2, 2, 2), strides=(1, 2, 2)), VIDEO)],
    layers.UpSampling2D: [(layers.UpSampling2D((1, 2)), IMAGE)],
    layers.UpSampling3D: [(layers.UpSampling3D((1, 2, 2)), VIDEO)],
    layers.TimeDistributed: [
        (layers.TimeDistributed(layers.Conv1D(2, 3, padding="same")), IMAGE),
        (layers.TimeDistributed(layers.GRU(2)), IMAGE),
        (layers.TimeDistributed(layers.Flatten()), IMAGE),
    ],
    layers.MultiHeadAttention: [
        (lambda x: layers.MultiHeadAttention(2, 2)(x, memory()), (4,)),
        *with_window(lambda x: layers.MultiHeadAttention(2, 2, sliding_window=4)(x, x, **CAUSAL)),
        *with_window(lambda x: layers.MultiHeadAttention(1, 2, sliding_window=1)(x, x, **CAUSAL)),
    ],
    layers.GroupQueryAttention: [
        (lambda x: layers.GroupQueryAttention(2, 2, 1)(x, memory()), (4,)),
        *with_window(
            lambda x: layers.GroupQueryAttention(2, 2, 1, sliding_window=4)(x, x, **CAUSAL)
        ),
    ],
    layers.Attention: [(lambda x: layers.Attention()([x, memory()]), (4,))],
    layers.AdditiveAttention: [(lambda x: layers.AdditiveAttention()([x, memory()]), (4,))],
}


IDS = {
    layers.Embedding: lambda: layers.Embedding(5, 3),
    layers.Hashing: lambda: layers.Hashing(50),
    layers.CategoryEncoding: lambda: layers.CategoryEncoding(5, output_mode="one_hot"),
}

# What is right to refuse: it really mixes.
WRONG = {
    layers.Activation: [
        (layers.Activation(over_time), (4,)),
        (layers.Activation("softmax"), ()),
        (layers.Activation("sparsemax"), ()),
    ],
    layers.Dense: [(layers.Dense(STEPS), ()), (layers.Dense(3, activation=over_time), (4,))],
    layers.EinsumDense: [
        (layers.EinsumDense("abc,bd->adc", (STEPS, 4)), (4,)),
        (layers.EinsumDense("abc,bcd->abd", (STEPS, 3)), (4,)),
    ],
    layers.PReLU: [(layers.PReLU(), (4,))],
    layers.Rescaling: [(layers.Rescaling(list(range(STEPS))), ())],
    layers.Softmax: [(layers.Softmax(axis=1), (4,)), (layers.Softmax(), ())],
    layers.LayerNormalization: [(layers.LayerNormalization(axis=[1, 2]), (4,))],
    layers.BatchNormalization: [(layers.BatchNormalization(axis=1), (4,))],
    layers.UnitNormalization: [(layers.UnitNormalization(axis=1), (4,))],
    layers.Normalization: [
        (layers.Normalization(axis=1, mean=range(STEPS), variance=[2.0] * STEPS), (4,))
    ],
    layers.GroupNormalization: [(layers.GroupNormalization(2), (4,))],
    layers.Concatenate: [(beside(layers.Concatenate(axis=1)), (4,))],
    layers.Dot: [(beside(layers.Dot(axes=1)), (4,)), (beside(layers.Dot(axes=2)), (4,))],
    layers.Reshape: [(layers.Reshape((4, STEPS)), (4,)), (layers.Reshape((2 * STEPS, 2)), (4,))],
    layers.Flatten: [(layers.Flatten(), (4,))],
    layers.RepeatVector: [(layers.RepeatVector(3), ())],
    layers.Conv1D: [
        (layers.Conv1D(3, 3, padding="same"), (4,)),
        (layers.Conv1D(3, 1, strides=2), (4,)),
        (lambda x: layers.Conv1D(3, 1)(layers.Permute((2, 1))(x)), (4,)),
    ],
    layers.Conv2D: [(layers.Conv2D(3, (3, 3), padding="same"), IMAGE)],
    layers.Conv3D: [(layers.Conv3D(3, (3, 1, 1), padding="same"), VIDEO)],
    layers.DepthwiseConv1D: [(layers.DepthwiseConv1D(3, padding="same"), (4,))],
    layers.SeparableConv1D: [(layers.SeparableConv1D(3, 3, padding="same"), (4,))],
    layers.MaxPooling1D: [
        (layers.MaxPooling1D(2), (4,)),
        (layers.MaxPooling1D(3, 1, padding="same"), (4,)),
    ],
    layers.AveragePooling1D: [(layers.AveragePooling1D(2), (4,))],
    layers.GlobalAveragePooling1D: [
        (layers.GlobalAveragePooling1D(), (4,)),
        (layers.GlobalAveragePooling1D(keepdims=True), (4,)),
    ],
    layers.GlobalMaxPooling1D: [(layers.GlobalMaxPooling1D(), (4,))],
    layers.GlobalAveragePooling2D: [(layers.GlobalAveragePooling2D(), IMAGE)],
    layers.GlobalMaxPooling2D: [(layers.GlobalMaxPooling2D(), IMAGE)],
    layers.GlobalAveragePooling3D: [(layers.GlobalAveragePooling3D(), VIDEO)],
    layers.GlobalMaxPooling3D: [(layers.GlobalMaxPooling3D(), VIDEO)],
    layers.UpSampling1D: [(layers.UpSampling1D(2), (4,))],
    layers.UpSampling2D: [(layers.UpSampling2D((2, 1)), IMAGE)],
    layers.MultiHeadAttention: [
        (lambda x: layers.MultiHeadAttention(2, 2)(x, x), (4,)),
        (lambda x: layers.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True), (4,)),
        (lambda x: layers.MultiHeadAttention(2, 2)(memory(), x), (4,)),
        *with_window(lambda x: layers.MultiHeadAttention(2, 2, sliding_window=3)(x, x)),
    ],
    layers.GroupQueryAttention: [(lambda x: layers.GroupQueryAttention(2, 2, 1)(x, x), (4,))],
    layers.Attention: [(beside(layers.Attention()), (4,))],
    layers.AdditiveAttention: [(beside(layers.AdditiveAttention()), (4,))],
    layers.Bidirectional: [(layers.Bidirectional(layers.GRU(2, return_sequences=True)), (4,))],
}


def cases(table):
    return [
        pytest.param(layer, shape, id=f"{cls.__name__}-{i}")
        for cls, entries in table.items()
        for i, (layer, shape) in enumerate(entries)
    ]


def test_every_entry_of_the_table_is_tested():
    lookups = {layers.IntegerLookup, layers.StringLookup}  # run in TensorFlow's graphs alone
    # The package's own layers have their laws beside the tests of what they carry.
    of_keras = {cls for cls in RULES if cls.__module__.startswith("keras.")}
    assert of_keras == RIGHT.keys() | WRONG.keys() | IDS.keys() | lookups


@pytest.mark.parametrize(("layer", "shape"), cases(RIGHT))
def test_what_a_layer_is_said_to_read_is_what_it_reads(layer, shape):
    assert_as_derived(model(layer, shape), STEPS)


@pytest.mark.parametrize("layer", IDS.values(), ids=[cls.__name__ for cls in IDS])
def test_ids_are_looked_up_one_by_one(layer):
    assert_as_derived(model(layer(), (), ids=5), STEPS, ids=5)


@pytest.mark.parametrize(("layer", "shape"), cases(WRONG))
def test_what_a_layer_is_refused_for_is_true(layer, shape):
    network = model(layer, shape)
    why = derive(network)
    assert isinstance(why, str), why
    of_each_step = ("its own for each time step", "one value for each time step", "features")
    assert mixes(network, STEPS) or any(words in why for words in of_each_step)


@pytest.mark.parametrize("keepdims", [False, True])
def test_pooling_of_other_axes_leaves_time_alone(keepdims):
    pool = layers.GlobalAveragePooling1D(data_format="channels_first", keepdims=keepdims)
    assert_as_derived(model(pool, (4,)), STEPS)
    pool = layers.GlobalMaxPooling2D(data_format="channels_first", keepdims=keepdims)
    assert_as_derived(model(pool, IMAGE), STEPS)


@pytest.mark.parametrize("cut", [lambda x: x[:, -1], lambda x: x[:, -1:]])
def test_the_last_step_is_the_end(cut):
    assert derive(model(cut)) is END


class OwnConvolution(layers.Conv2D):
    """Looks ahead, by the method that Keras has for it."""

    def convolution_op(self, inputs, kernel):
        ahead = keras.ops.pad(inputs, ((0, 0), (0, 2), (0, 0), (0, 0)))
        return super().convolution_op(ahead, kernel)


class OwnScale(layers.Dense):
    def call(self, inputs, training=None):
        return keras.ops.cumsum(super().call(inputs), axis=1)


class OwnMask(layers.Masking):
    def call(self, inputs):
        return super().call(inputs) - keras.ops.mean(inputs, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "layer",
    [lambda: OwnScale(3), OwnMask],
    ids=["Dense", "Masking"],
)
def test_a_subclass_with_a_call_of_its_own_is_no_layer_of_keras(layer):
    network = model(layer())
    assert isinstance(derive(network), str)
    assert mixes(network, STEPS)


def test_a_subclass_is_no_layer_of_keras_if_it_computes_on_its_own_in_another_method():
    network = model(OwnConvolution(3, (3, 1)), IMAGE)
    assert derive(network).ahead == 2
    assert_as_derived(network, STEPS)
