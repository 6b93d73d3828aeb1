"""Law 1: windows one after the other through a stateful model equal one long call of the stateless
model.

And law 4: resetting a row changes no other row's outputs, bit for bit.
"""

import itertools

import keras
import numpy as np
import pytest
import zoo

import keras_stateful as ks

ROWS, STEPS = 4, 12


def pass_over(model, arrays, edges, resets=None):
    """Outputs of a model that is called window by window, joined along time."""
    parts = []
    for start, stop in itertools.pairwise(edges):
        mask = None if resets is None else resets(start, stop)
        x = zoo.window(model, arrays, slice(start, stop), mask)
        parts.append(zoo.outputs(model.predict_on_batch(x)))
    return [np.concatenate(p, axis=1) for p in zip(*parts, strict=True)]


def no_resets(kind):
    if kind is None:
        return None
    return lambda a, b: np.zeros((ROWS,) if kind == "window" else (ROWS, b - a), bool)


def assert_close(got, wanted, where=..., tolerance=1e-5):
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g[where], w[where], rtol=0, atol=tolerance)


@pytest.mark.parametrize("resets", [None, "window", "step"])
@pytest.mark.parametrize("name", zoo.MODELS)
def test_windows_equal_one_long_call(name, resets):
    model = zoo.build(name)
    arrays = zoo.data(model, ROWS, STEPS)
    whole = zoo.outputs(model.predict_on_batch(zoo.window(model, arrays, slice(None))))
    stateful = ks.to_stateful(model, ROWS, resets=resets)
    assert_close(pass_over(stateful, arrays, [0, 4, 8, 12], no_resets(resets)), whole)


@pytest.mark.parametrize("name", ["heads", "nested", "stacked_cells"])
def test_windows_of_changing_length(name):
    """TensorFlow compiles the second length for any: Keras's `TimeDistributed` goes wrong there."""
    model = zoo.build(name)
    arrays = zoo.data(model, ROWS, STEPS)
    whole = zoo.outputs(model.predict_on_batch(zoo.window(model, arrays, slice(None))))
    for resets in ("window", "step"):
        stateful = ks.to_stateful(model, ROWS, resets=resets)
        assert_close(pass_over(stateful, arrays, [0, 4, 7, 12], no_resets(resets)), whole)
    live = ks.to_inference(model, ROWS, share_weights=True)
    assert_close(pass_over(live, arrays, [0, 4, 7, 12]), whole)


@pytest.mark.parametrize("resets", [None, "window", "step"])
@pytest.mark.parametrize("name", zoo.MASKED)
def test_masked_steps_are_carried_through(name, resets):
    """States and unmasked steps; what Keras puts out at masked steps depends on the backend."""
    model = zoo.build(name)
    (x,) = zoo.data(model, ROWS, STEPS)
    masked = np.random.default_rng(1).random((ROWS, STEPS)) < 0.4
    masked[:, 4] = True  # a masked step opens a window
    x[masked] = 0
    whole = zoo.outputs(model.predict_on_batch(x))
    stateful = ks.to_stateful(model, ROWS, resets=resets)
    got = pass_over(stateful, [x], [0, 4, 8, 12], no_resets(resets))
    assert_close(got, whole, where=~masked)
    at_once = ks.to_stateful(model, ROWS, resets=resets)
    pass_over(at_once, [x], [0, 12], no_resets(resets))
    for a, b in zip(ks.get_states(stateful).values(), ks.get_states(at_once).values(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    "name", ["lstm", "gru", "stacked_cells", "custom_cell", "nested", "mask_zero"]
)
def test_resets_in_mid_window_equal_each_document_alone(name):
    model = zoo.build(name)
    arrays = zoo.data(model, ROWS, STEPS)
    starts = np.random.default_rng(3).random((ROWS, STEPS)) < 0.3
    starts[:, 0] = True
    stateful = ks.to_stateful(model, ROWS, resets="step")
    (got,) = pass_over(stateful, arrays, [0, 6, 12], lambda a, b: starts[:, a:b])
    for row in range(ROWS):
        edges = [*np.flatnonzero(starts[row]), STEPS]
        for a, b in itertools.pairwise(edges):
            x = [
                np.roll(x[row : row + 1], -a, axis=1) for x in arrays
            ]  # steps behind the document change nothing
            (alone,) = zoo.outputs(model.predict_on_batch(zoo.window(model, x, slice(None))))
            np.testing.assert_allclose(got[row, a:b], alone[0, : b - a], rtol=0, atol=1e-5)


def gradients(model, x, y, extra=()):
    """Loss gradients of one SGD step at rate 1: the change of the weights."""
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch([x, *extra] if extra else x, y)
    return [b - keras.ops.convert_to_numpy(w) for b, w in zip(before, model.weights, strict=True)]


@pytest.mark.parametrize("layer", ["SimpleRNN", "GRU", "LSTM"])
def test_resets_in_mid_window_have_the_gradients_of_each_document_alone(layer):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            getattr(keras.layers, layer)(4, return_sequences=True),
            keras.layers.Dense(2),
        ]
    )
    (x,) = zoo.data(model, 1, 8)
    y = np.random.default_rng(5).standard_normal((1, 8, 2)).astype("float32")
    starts = np.zeros((1, 8), bool)
    starts[0, [0, 3]] = True
    packed = gradients(ks.to_stateful(model, 1, resets="step"), x, y, (starts,))
    first = gradients(ks.to_stateful(model, 1), x[:, :3], y[:, :3])
    second = gradients(ks.to_stateful(model, 1), x[:, 3:], y[:, 3:])
    for p, a, b in zip(packed, first, second, strict=True):
        np.testing.assert_allclose(p, 3 / 8 * a + 5 / 8 * b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["window", "step"])
@pytest.mark.parametrize("name", ["lstm", "gru", "stacked_cells", "shared", "conv_lstm"])
def test_rows_are_alone(name, kind):
    model = zoo.build(name)
    arrays = zoo.data(model, ROWS, STEPS)
    stateful = ks.to_stateful(model, ROWS, resets=kind)

    def run(row):
        ks.reset_states(stateful)

        def mask(a, b):
            flags = np.zeros((ROWS,) if kind == "window" else (ROWS, b - a), bool)
            if row is not None and a == 6:
                flags[(row,) if kind == "window" else (row, 0)] = True
            return flags

        return pass_over(stateful, arrays, [0, 6, 12], mask)

    free, reset = run(None), run(2)
    others = [0, 1, 3]
    for f, r in zip(free, reset, strict=True):
        np.testing.assert_array_equal(f[others], r[others])
        assert np.abs(f[2, 6:] - r[2, 6:]).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("resets", [None, "window", "step"])
def test_the_carry_survives_reduced_precision(policy, resets):
    keras.config.set_dtype_policy(policy)
    model = zoo.build("two_lstm")
    (x,) = zoo.data(model, ROWS, STEPS)
    whole = zoo.outputs(model.predict_on_batch(x))[0].astype("float32")
    stateful = ks.to_stateful(model, ROWS, resets=resets)
    (got,) = pass_over(stateful, [x], [0, 4, 8, 12], no_resets(resets))
    np.testing.assert_allclose(got.astype("float32"), whole, rtol=0, atol=0.03)
    (cold,) = zoo.outputs(model(x[:, 8:]))
    assert np.abs(got[:, 8].astype("float32") - cold[:, 0].astype("float32")).max() > 0.03


@pytest.mark.parametrize("layer", ["SimpleRNN", "GRU", "LSTM"])
def test_dropout_inside_the_cell_draws_one_mask_a_window_with_step_resets(layer):
    """As the plain layer does: the same units are dropped at each step of a window, others in the
    next.
    """
    keras.utils.set_random_seed(0)
    recurrent = getattr(keras.layers, layer)(
        3, return_sequences=True, dropout=0.5, kernel_initializer="ones"
    )
    model = keras.Sequential([keras.Input((None, 8)), recurrent])
    stateful = ks.to_stateful(model, 2, resets="step")
    x, resets = (
        np.ones((2, 6, 8), "float32"),
        np.ones((2, 6), bool),
    )  # reset at every step: equal steps
    windows = [keras.ops.convert_to_numpy(stateful([x, resets], training=True)) for _ in range(8)]
    for w in windows:
        np.testing.assert_allclose(w, np.repeat(w[:, :1], 6, axis=1), atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in itertools.pairwise(windows))


def test_a_graphs_initial_state_is_what_a_reset_sets():
    x, start = keras.Input((None, 3), name="x"), keras.Input((4,), name="start")
    model = keras.Model(
        [x, start], keras.layers.GRU(4, return_sequences=True)(x, initial_state=start)
    )
    rng = np.random.default_rng(0)
    a, s = (
        rng.standard_normal((2, 9, 3)).astype("float32"),
        rng.standard_normal((2, 4)).astype("float32"),
    )
    whole = zoo.outputs(model([a, s]))[0]
    second = zoo.outputs(model([a[:, 6:], s]))[0]
    for resets in (None, "window"):
        stateful = ks.to_stateful(model, 2, resets=resets)

        def call(steps, rows, stateful=stateful, resets=resets):
            if resets is None and any(rows):
                ks.reset_states(stateful, rows=np.array(rows))
            inputs = [a[:, steps], s] + ([np.array(rows)] if resets else [])
            return zoo.outputs(stateful.predict_on_batch(inputs))[0]

        parts = [call(slice(0, 3), [False, False]), call(slice(3, 6), [False, False])]
        np.testing.assert_allclose(np.concatenate(parts, 1), whole[:, :6], atol=1e-5)
        last = call(slice(6, 9), [True, False])
        np.testing.assert_allclose(last[0], second[0], atol=1e-5)
        np.testing.assert_allclose(last[1], whole[1, 6:], atol=1e-5)


def test_an_initial_state_that_is_learned_gets_a_gradient_through_resets():
    class Learned(keras.layers.SimpleRNNCell):
        def build(self, shape):
            super().build(shape)
            self.start = self.add_weight(shape=(self.units,), name="start", initializer="zeros")

        def get_initial_state(self, batch_size=None):
            return [
                keras.ops.broadcast_to(
                    keras.ops.convert_to_tensor(self.start), (batch_size, self.units)
                )
            ]

    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.RNN(Learned(4), return_sequences=True)]
    )
    stateful = ks.to_stateful(model, 2, resets="window")
    stateful.compile(keras.optimizers.SGD(0.5), "mse")
    x, y = np.ones((2, 3, 3), "float32"), np.ones((2, 3, 4), "float32")
    start = next(w for w in stateful.weights if w.name == "start")
    stateful.train_on_batch([x, np.array([False, False])], y)
    assert np.abs(keras.ops.convert_to_numpy(start)).max() == 0
    stateful.train_on_batch([x, np.array([True, False])], y)
    assert np.abs(keras.ops.convert_to_numpy(start)).max() > 0
