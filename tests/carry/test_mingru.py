"""The minGRU of the examples, a layer that Keras does not have, against a loop in NumPy."""

import importlib
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_stateful as ks

ROWS, STEPS, UNITS = 3, 12, 5


@pytest.fixture
def mingru(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    return importlib.import_module("mingru")


def by_hand(layer, x, starts):
    """The outputs of a layer, step by step in float64."""
    kernel, bias = (keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights)
    z, c = np.split(x @ kernel + bias, 2, axis=-1)
    z = 1 / (1 + np.exp(-z))
    h, outputs = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        h = (1 - z[:, t]) * np.where(starts[:, t, None], 0, h) + z[:, t] * c[:, t]
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("parallel", [True, False])
def test_windows_with_resets_equal_a_loop_by_hand(mingru, parallel):
    keras.utils.set_random_seed(0)
    layer = mingru.MinGRU(UNITS, parallel=parallel, name="mingru")
    model = keras.Sequential([keras.Input((6, 4)), layer])  # the scan is for a known length
    x = np.random.default_rng(0).standard_normal((ROWS, STEPS, 4)).astype("float32")
    starts = np.random.default_rng(1).random((ROWS, STEPS)) < 0.2
    expected = by_hand(layer, x, starts)
    training = ks.to_stateful(model, ROWS, resets="step")
    windows = [
        training.predict_on_batch([x[:, a:b], starts[:, a:b]])
        for a, b in itertools.pairwise([0, 6, 12])
    ]
    np.testing.assert_allclose(np.concatenate(windows, axis=1), expected, rtol=0, atol=1e-5)
    (h,) = ks.get_states(training)["mingru"]
    np.testing.assert_allclose(h, expected[:, -1], rtol=0, atol=1e-5)
    live = ks.to_inference(training, ROWS)
    steps = [live.predict_on_batch(x[:, t : t + 1]) for t in range(4)]
    without = by_hand(layer, x[:, :4], np.zeros((ROWS, 4), bool))
    np.testing.assert_allclose(np.concatenate(steps, axis=1), without, rtol=0, atol=1e-5)


def test_both_loops_have_the_same_gradients(mingru):
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")
    starts = np.array([[True, False, False, True, False, False]] * 2)
    weights = []
    for parallel in (True, False):
        keras.utils.set_random_seed(0)
        layer = mingru.MinGRU(UNITS, parallel=parallel)
        model = keras.Sequential([keras.Input((6, 4)), layer])
        training = ks.to_stateful(model, 2, resets="step")
        training.compile(keras.optimizers.SGD(1.0), "mse")
        training.train_on_batch([x, starts], np.ones((2, 6, UNITS)))
        weights.append(training.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_the_scan_keeps_its_precision_whatever_keras_makes_of_it(mingru):
    factor, addend = (keras.ops.ones((1, 3, 2), "bfloat16") for _ in range(2))
    h = mingru.scan(factor, addend, keras.ops.zeros((1, 2), "bfloat16"))
    assert keras.backend.standardize_dtype(h.dtype) == "bfloat16"
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.cast(h, "float32"))[0, :, 0], [1, 2, 3]
    )
