"""The kernels of the CPU (`scan_kernels`, `torch_kernels`) are Keras's loop, with its gradients."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks
from keras_stateful.carry import loops, scan_kernels, torch_kernels
from keras_stateful.carry.steps import StepResets

BACKEND = keras.backend.backend()
ROWS, WINDOW, UNITS = 4, 7, 5
KINDS = [layers.LSTM, layers.GRU, layers.SimpleRNN]


def network(layer, resets, *, dtype=None, learned_start=False):
    """Something to learn on either side of the layer, so that its gradients reach both."""
    inputs = keras.Input((WINDOW, 3), dtype=dtype)
    x = layers.Dense(4, dtype=dtype)(inputs)
    start = None
    if learned_start:
        outset = keras.Input((2,), dtype=dtype)
        start = [layers.Dense(UNITS, dtype=dtype)(outset) for _ in layer.state_size]
        inputs = [inputs, outset]
    outputs = layers.Dense(2, dtype=dtype)(layer(x, initial_state=start))
    return ks.to_stateful(keras.Model(inputs, outputs), ROWS, resets=resets)


def trained(model, resets, steps=3):
    """Losses, weights and states of some steps; the second starts from the states of the first."""
    model.compile(keras.optimizers.SGD(0.5), "mse")
    losses = []
    for k in range(steps):
        rng = np.random.default_rng(k)
        x = [rng.normal(size=(ROWS, *t.shape[1:])) for t in model.inputs if t.name != "resets"]
        if resets:
            x.append(rng.random((ROWS,) if resets == "window" else (ROWS, WINDOW)) < 0.4)
        y = rng.normal(size=model.output.shape)
        losses.append(np.ravel(model.train_on_batch(x if len(x) > 1 else x[0], y))[0])
    return losses, model.get_weights(), list(ks.get_states(model).values())


def fitted(model):
    """The same of a plain model, from `fit` under `ResetStatesCallback`."""
    lengths = (31, 12, 20, 26, 9)
    documents = [np.random.default_rng(n).normal(size=(n, 3)).astype("float32") for n in lengths]
    sequence = ks.StatefulSequence(documents, ROWS, WINDOW)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    history = model.fit(sequence, epochs=2, verbose=0, callbacks=[ks.ResetStatesCallback(sequence)])
    return history.history["loss"], model.get_weights(), list(ks.get_states(model).values())


def assert_same(monkeypatch, make, resets=None, atol=1e-5, served=True, fit=False):
    """What a model learns with the kernel is what it learns without, and the kernel was used where
    it should be.
    """
    kernels, calls, found = (scan_kernels, torch_kernels), [], []
    for kernel in kernels:
        run = kernel.run
        monkeypatch.setattr(kernel, "run", lambda *a, run=run: calls.append(1) or run(*a))
    for on in (True, False):
        if not on:
            for kernel in kernels:
                monkeypatch.setattr(kernel, "serves", lambda *a: False)
            before = len(calls)
        keras.utils.set_random_seed(1)
        found.append(fitted(make()) if fit else trained(make(), resets))
    assert len(calls) == before
    assert bool(calls) == served
    for with_kernel, without in zip(*map(keras.tree.flatten, found), strict=True):
        np.testing.assert_allclose(with_kernel, without, atol=atol)


@pytest.mark.parametrize("resets", [None, "window", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_the_loop(kind, resets, monkeypatch):
    assert_same(
        monkeypatch,
        lambda: network(kind(UNITS, return_sequences=True, bias_initializer="uniform"), resets),
        resets,
    )


@pytest.mark.parametrize(
    "settings",
    [{"use_bias": False}, {"return_sequences": False}, {"dropout": 0.4}],
    ids=lambda s: next(iter(s)),
)
@pytest.mark.parametrize("kind", KINDS)
def test_with_settings_that_it_serves(kind, settings, monkeypatch):
    settings = {"return_sequences": True, "seed": 3, **settings}
    assert_same(monkeypatch, lambda: network(kind(UNITS, **settings), "window"), "window")


@pytest.mark.parametrize("resets", ["window", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_initial_state(kind, resets, monkeypatch):
    assert_same(
        monkeypatch,
        lambda: network(kind(UNITS, return_sequences=True), resets, learned_start=True),
        resets,
    )


def plain(layer):
    inputs = keras.Input((None, 3), batch_size=ROWS)
    return keras.Model(inputs, layers.Dense(3)(layer(layers.Dense(4)(inputs))))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_layers_take_it_under_the_callback(kind, monkeypatch):
    assert_same(
        monkeypatch,
        lambda: plain(kind(UNITS, return_sequences=True, stateful=True)),
        fit=True,
    )


def test_a_plain_class_of_ones_own_stays_with_keras(monkeypatch):
    class Own(layers.LSTM):
        def inner_loop(self, *args, **kwargs):
            return super().inner_loop(*args, **kwargs)

    make = lambda: plain(Own(UNITS, return_sequences=True, stateful=True))  # noqa: E731
    assert_same(monkeypatch, make, fit=True, served=False)


@pytest.mark.parametrize("kind", KINDS)
def test_backwards_in_time_stays_with_keras(kind):
    """`to_stateful` and the callback refuse what carries backwards; what carries nothing may not be
    taken by mistake.
    """
    layer = kind(UNITS, return_sequences=True, go_backwards=True)
    x = np.zeros((ROWS, WINDOW, 3), "float32")
    layer(x)
    states = layer.get_initial_state(ROWS)
    assert loops.run(layer, keras.ops.convert_to_tensor(x), states, None, True) is None
    layer.go_backwards = False
    served = loops.run(layer, keras.ops.convert_to_tensor(x), states, None, True)
    assert served is not None


def in_numpy(kind, weights, x, states):
    """One step of a cell: its new states, the first of which is the output."""
    kernel, recurrent, bias = weights
    bias_x, bias_h = bias if bias.ndim == 2 else (bias, 0 * bias)
    a, b = x @ kernel + bias_x, states[0] @ recurrent + bias_h
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    if kind is layers.SimpleRNN:
        return [np.tanh(a + b)]
    if kind is layers.GRU:
        (z, r, g), (z_h, r_h, g_h) = np.split(a, 3, -1), np.split(b, 3, -1)
        z, r = sigmoid(z + z_h), sigmoid(r + r_h)
        return [z * states[0] + (1 - z) * np.tanh(g + r * g_h)]
    i, f, g, o = np.split(a + b, 4, -1)
    c = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_double_precision_to_twelve_digits(kind, resets):
    if BACKEND == "jax":
        pytest.skip("Keras on JAX has no double precision unless jax_enable_x64 is set")
    rng = np.random.default_rng(0)
    layer = kind(UNITS, return_sequences=True, dtype="float64", bias_initializer="uniform")
    x = rng.normal(size=(ROWS, WINDOW, 3))
    layer(x)
    start = [rng.normal(size=(ROWS, UNITS)) for _ in layer.get_initial_state(ROWS)]
    marks = rng.random((ROWS, WINDOW)) < (0.4 if resets else 0)
    initial = [np.ones((ROWS, UNITS))] * len(start)
    sequences, states, flags, values = keras.tree.map_structure(
        keras.ops.convert_to_tensor, (x, start, marks, initial)
    )
    step_resets = StepResets(flags, values) if resets else None
    _, outputs, ends = loops.run(layer, sequences, states, None, True, step_resets)
    states, wanted = start, []
    for t in range(WINDOW):
        states = [np.where(marks[:, t, None], i, s) for i, s in zip(initial, states, strict=True)]
        states = in_numpy(
            kind, [np.asarray(w, "float64") for w in layer.get_weights()], x[:, t], states
        )
        wanted.append(states[0])
    found = keras.tree.map_structure(keras.ops.convert_to_numpy, [outputs, *ends])
    for ours, theirs in zip(found, [np.stack(wanted, 1), *states], strict=True):
        assert ours.dtype == "float64"
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_window_of_any_length_and_of_one_step():
    """Under an `Input` of unknown length, each length as Keras's loop has it."""
    base = keras.Sequential([keras.Input((None, 3)), layers.GRU(UNITS, return_sequences=True)])
    model = ks.to_stateful(base, ROWS)
    x = np.random.default_rng(0).normal(size=(ROWS, 9, 3)).astype("float32")
    whole = base(x)
    parts = [model(x[:, a:b], training=True) for a, b in ((0, 1), (1, 6), (6, 9))]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.concatenate(parts, 1)),
        keras.ops.convert_to_numpy(whole),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"recurrent_dropout": 0.1},
        {"unroll": True},
        {"use_cudnn": False},
        {"dtype": "mixed_bfloat16"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_it_cannot_do_stays_with_keras(settings, monkeypatch):
    make = lambda: network(layers.LSTM(UNITS, return_sequences=True, seed=3, **settings), None)  # noqa: E731
    assert_same(monkeypatch, make, served=False)


def test_a_gru_that_resets_before_stays_with_keras(monkeypatch):
    make = lambda: network(layers.GRU(UNITS, return_sequences=True, reset_after=False), None)  # noqa: E731
    assert_same(monkeypatch, make, served=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_stays_with_keras(kind, monkeypatch):
    def make():
        inputs = keras.Input((WINDOW, 3))
        x = kind(UNITS, return_sequences=True)(layers.Masking()(inputs))
        return ks.to_stateful(keras.Model(inputs, layers.Dense(2)(x)), ROWS)

    assert_same(monkeypatch, make, served=False)


def test_a_dropout_mask_for_each_gate_stays_with_keras(monkeypatch):
    def make():
        model = network(layers.LSTM(UNITS, return_sequences=True, seed=3, dropout=0.3), None)
        next(x for x in model.layers if isinstance(x, layers.LSTM)).cell.implementation = 1
        return model

    assert_same(monkeypatch, make, served=False)


def test_a_cell_of_ones_own_stays_with_keras(monkeypatch):
    class Doubling(layers.LSTMCell):
        def call(self, inputs, states, training=False):
            return super().call(2 * inputs, states, training=training)

    class Own(layers.LSTM):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.cell = Doubling(units, name="cell")

    assert_same(monkeypatch, lambda: network(Own(UNITS, return_sequences=True), None), served=False)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_training_it_serves_torch_alone(kind, monkeypatch):
    """The others' loops are compiled, go forwards as fast, and are what exporters can write."""
    model = network(kind(UNITS, return_sequences=True, bias_initializer="uniform"), "window")
    rng, calls = np.random.default_rng(0), []
    windows = [
        [rng.normal(size=(ROWS, WINDOW, 3)).astype("float32"), rng.random(ROWS) < 0.4]
        for _ in range(3)
    ]
    for kernel in (scan_kernels, torch_kernels):
        run = kernel.run
        monkeypatch.setattr(kernel, "run", lambda *a, run=run: calls.append(1) or run(*a))
    served = [model.predict_on_batch(window) for window in windows]
    assert len(calls) == (3 if BACKEND == "torch" else 0)
    monkeypatch.setattr(torch_kernels, "serves", lambda *a: False)
    ks.reset_states(model)
    for ours, window in zip(served, windows, strict=True):
        np.testing.assert_allclose(ours, model.predict_on_batch(window), atol=1e-6)


def test_a_single_step_stays_with_keras(monkeypatch):
    """Which `stream` and `generate` call for each id: weights are laid out anew for each call."""
    base = keras.Sequential([keras.Input((None, 3)), layers.LSTM(UNITS, return_sequences=True)])
    model, calls = ks.to_stateful(base, ROWS), []
    monkeypatch.setattr(torch_kernels, "run", lambda *a: calls.append(1))
    model(np.zeros((ROWS, 1, 3), "float32"))
    assert not calls


@pytest.mark.skipif(BACKEND != "torch", reason="torch's recorders")
def test_what_records_the_calls_sees_keras_loop():
    import torch

    model = network(layers.LSTM(UNITS, return_sequences=True), None)
    x = torch.zeros((ROWS, WINDOW, 3))
    recorded = str(torch.jit.trace(model, (x,), check_trace=False).inlined_graph)
    assert "aten::sigmoid" in recorded
    assert "aten::lstm" not in recorded


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's forward mode")
@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        (layers.LSTM, {"use_cudnn": False}),
        (layers.GRU, {"use_cudnn": False}),
        (layers.SimpleRNN, {"unroll": True}),
    ],
)
def test_forward_mode_says_so_and_has_a_way_out(kind, way_out):
    import jax

    x = np.ones((ROWS, WINDOW, 3), "float32")

    def pushed(**settings):
        model = network(kind(UNITS, return_sequences=True, **settings), None)
        values = [
            [v.value for v in g] for g in (model.trainable_variables, model.non_trainable_variables)
        ]
        return jax.jvp(lambda x: model.stateless_call(*values, x, training=True)[0], (x,), (x,))

    with pytest.raises(TypeError, match="forward-mode"):
        pushed()
    outputs, moved = pushed(**way_out)
    assert outputs.shape == moved.shape
