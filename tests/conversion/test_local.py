"""`local=`: layers for which the user vouches, since nothing of them can be derived."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

BACKEND = keras.backend.backend()
if BACKEND == "jax":
    import jax.numpy as jnp
elif BACKEND == "torch":
    pass
else:
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="test_local")
class Raw(layers.Layer):
    """Written in the backend's own functions, which no symbolic tensor goes through."""

    def __init__(self, function="tanh", **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        if self.function == "cumsum":
            # Not `jax.numpy.cumsum`, which jax2onnx leaves another function after an export.
            return tf.math.cumsum(x, 1) if BACKEND == "tensorflow" else x.cumsum(1)
        return x.tanh() if BACKEND == "torch" else (jnp if BACKEND == "jax" else tf).tanh(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self):
        return {**super().get_config(), "function": self.function}


def network(layer, more=()):
    lstm = layers.LSTM(4, return_sequences=True)
    return keras.Sequential([keras.Input((None, 3)), layer, lstm, *more])


def within(layer):
    return network(keras.Sequential([keras.Input((None, 3)), layer], name="encoder"))


CONVERSIONS = [
    lambda m, **options: ks.to_stateful(m, 1, **options),
    ks.to_inference,
    ks.to_step_model,
]


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize("make", [network, within])
def test_what_cannot_be_derived_is_refused_unless_the_user_vouches(make, convert):
    model = make(Raw(name="raw"))
    with pytest.raises(ValueError, match=r"`(encoder/)?raw` \(Raw\).*`local=\['(encoder/)?raw'\]`"):
        convert(model)
    converted = convert(model, local=["raw"])
    x = np.random.default_rng(0).standard_normal((1, 6, 3)).astype("float32")
    if convert is ks.to_step_model:
        return
    parts = [converted.predict_on_batch(x[:, t : t + 3]) for t in (0, 3)]
    expected = model.predict_on_batch(x)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-6)


def test_what_is_made_of_the_model_knows_of_it(tmp_path):
    model = network(Raw(name="raw"))
    layer = model.layers[0]
    training = ks.to_stateful(model, 2, resets="window", local=[layer])
    training.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    documents = [np.ones((n, 3), "float32") for n in (5, 8)]
    expected = [model.predict_on_batch(d[None])[0] for d in documents]
    for carrying in (training, loaded, ks.to_inference(training), ks.to_stateful(loaded, 3)):
        assert carrying.local == ["raw"]
        ks.to_step_model(carrying)
        predictions = ks.predict_documents(carrying, documents)
        for prediction, wanted in zip(predictions, expected, strict=True):
            np.testing.assert_allclose(prediction, wanted, atol=1e-6)


def test_random_numbers_may_contradict_the_user():
    with pytest.raises(ValueError, match="`raw`.*vouches.*depend on each other"):
        ks.to_stateful(network(Raw("cumsum", name="raw")), 2, local=["raw"])


@pytest.mark.parametrize(
    "mixes",
    [
        lambda: layers.Conv1D(3, 3, padding="same", kernel_initializer="zeros"),
        lambda: layers.Lambda(lambda x: keras.ops.roll(x, 6, axis=1)),
        lambda: layers.Softmax(axis=1),
        lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    ],
    ids=["Conv1D", "Lambda", "Softmax", "Bidirectional"],
)
def test_nobody_can_vouch_against_what_is_derived(mixes):
    layer = mixes()
    with pytest.raises(ValueError, match=f"cannot carry `{layer.name}`"):
        ks.to_stateful(network(layer), 2, local=[layer])


@pytest.mark.parametrize(
    ("local", "error", "says"),
    [
        ("raw", TypeError, r"`local` must be a list.*Received: local='raw'.*\['raw'\]"),
        (["row"], ValueError, r"`local` must name layers of the model.*'row'.*fits none"),
    ],
)
def test_names_that_fit_nothing(local, error, says):
    with pytest.raises(error, match=says):
        ks.to_stateful(network(Raw(name="raw")), 2, local=local)
