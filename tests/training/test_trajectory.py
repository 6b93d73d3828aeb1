"""Law 2: training losses are those of an LSTM in plain NumPy that resets and steps by hand.

The reference is the same on every backend, so equality with it to 5e-5 makes the backends agree to
1e-4.
"""

import keras
import numpy as np
import pytest
from numpy_lstm import NumpyLSTM
from step_callbacks import StepLosses

import keras_stateful as ks

ROWS, TIME, FEATURES, UNITS, OUTPUTS = 4, 6, 3, 5, 2


def problem(steps, kind, seed=0):
    """Random windows, targets, weights with zeros among them, and random resets."""
    rng = np.random.default_rng(seed)
    rows = steps * ROWS
    x = rng.standard_normal((rows, TIME, FEATURES)).astype("float32")
    y = rng.standard_normal((rows, TIME, OUTPUTS)).astype("float32")
    weight = (rng.random((rows, TIME)) * (rng.random((rows, TIME)) < 0.8)).astype("float32")
    resets = rng.random((rows,) if kind == "window" else (rows, TIME)) < 0.3
    return x, y, weight, resets


def network(stateful=False):
    shape = dict(batch_size=ROWS) if stateful else {}
    return keras.Sequential(
        [
            keras.Input((TIME if stateful else None, FEATURES), **shape),
            keras.layers.LSTM(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.Dense(OUTPUTS),
        ]
    )


def by_hand(model, x, y, weight, resets, rate, weights_after=None):
    """Losses of the NumPy LSTM from the model's weights."""
    reference = NumpyLSTM([keras.ops.convert_to_numpy(w) for w in model.weights], ROWS)
    losses = []
    for i in range(0, len(x), ROWS):
        here = slice(i, i + ROWS)
        reset = np.zeros((ROWS, TIME), bool)
        if resets is not None:
            reset[:, : 1 if resets.ndim == 1 else TIME] = resets[here].reshape(ROWS, -1)
        losses.append(reference.window(x[here], y[here], weight[here], reset, rate))
    if weights_after is not None:
        weights_after += reference.w
    return losses


def trained(model, inputs, y, weight, rate, callbacks=(), **compile_arguments):
    model.compile(keras.optimizers.SGD(rate), "mse", **compile_arguments)
    losses = StepLosses()
    model.fit(
        inputs,
        y,
        sample_weight=weight,
        batch_size=ROWS,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, losses],
    )
    return losses.losses


@pytest.mark.parametrize("kind", ["window", "step"])
@pytest.mark.parametrize(("rate", "steps", "tolerance"), [(0.0, 12, 1e-5), (0.3, 50, 5e-5)])
def test_fit_with_random_resets_equals_numpy(kind, rate, steps, tolerance):
    x, y, weight, resets = problem(steps, kind)
    model = ks.to_stateful(network(), ROWS, resets=kind)
    expected = by_hand(model, x, y, weight, resets, rate)
    np.testing.assert_allclose(
        trained(model, [x, resets], y, weight, rate), expected, atol=tolerance
    )


@pytest.mark.parametrize("stateful", [False, True], ids=["to_stateful", "plain stateful=True"])
def test_fit_that_only_carries_equals_numpy(stateful):
    x, y, weight, _ = problem(50, "window", seed=1)
    model = network(stateful) if stateful else ks.to_stateful(network(), ROWS)
    expected = by_hand(model, x, y, weight, None, 0.3)
    got = trained(model, x, y, weight, 0.3, [ks.ResetStatesCallback()])
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize(
    "arguments", [dict(run_eagerly=True), dict(jit_compile=True), dict(jit_compile=False)], ids=str
)
def test_however_the_step_is_compiled(arguments):
    if keras.backend.backend() == "torch" and arguments.get("jit_compile"):
        pytest.skip("torch.compile is not part of this package's promise")
    x, y, weight, resets = problem(6, "window", seed=2)
    model = ks.to_stateful(network(), ROWS, resets="window")
    expected = by_hand(model, x, y, weight, resets, 0.3)
    np.testing.assert_allclose(
        trained(model, [x, resets], y, weight, 0.3, **arguments), expected, atol=2e-5
    )


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses steps_per_execution > 1 on torch"
)
def test_resets_inside_the_step_survive_steps_per_execution():
    x, y, weight, resets = problem(12, "window", seed=3)
    model = ks.to_stateful(network(), ROWS, resets="window")
    by_hand(model, x, y, weight, resets, 0.3, expected := [])
    model.compile(keras.optimizers.SGD(0.3), "mse", steps_per_execution=4)
    model.fit([x, resets], y, sample_weight=weight, shuffle=False, verbose=0)
    for got, want in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_train_on_batch_carries():
    x, y, weight, resets = problem(6, "window", seed=4)
    model = ks.to_stateful(network(), ROWS, resets="window")
    expected = by_hand(model, x, y, weight, resets, 0.3)
    model.compile(keras.optimizers.SGD(0.3), "mse")
    for i, want in enumerate(expected):
        here = slice(i * ROWS, (i + 1) * ROWS)
        model.reset_metrics()
        got = model.train_on_batch([x[here], resets[here]], y[here], sample_weight=weight[here])
        np.testing.assert_allclose(float(np.squeeze(got)), want, atol=2e-5)


def test_fit_in_mixed_precision_follows_float32():
    x, y, weight, resets = problem(12, "window", seed=5)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = ks.to_stateful(network(), ROWS, resets="window")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.7, w.shape) for w in model.weights])
    expected = by_hand(model, x, y, weight, resets, 0.3)
    without_state = by_hand(model, x, y, weight, np.ones_like(resets), 0.3)
    got = trained(model, [x, resets], y, weight, 0.3)
    assert (
        np.abs(np.subtract(got, expected)).max()
        < 0.2 * np.abs(np.subtract(without_state, expected)).max()
    )


@pytest.mark.parametrize(
    "arguments", [dict(run_eagerly=True), dict(jit_compile=True), dict(jit_compile=False)], ids=str
)
def test_plain_layers_with_the_callback_however_the_step_is_compiled(arguments):
    if keras.backend.backend() == "torch" and arguments.get("jit_compile"):
        pytest.skip("torch.compile is not part of this package's promise")
    x, y, weight, _ = problem(6, "window", seed=6)
    model = network(stateful=True)
    expected = by_hand(model, x, y, weight, None, 0.3)
    got = trained(model, x, y, weight, 0.3, [ks.ResetStatesCallback()], **arguments)
    np.testing.assert_allclose(got, expected, atol=2e-5)
