"""Resets inside a window by one call of a fused kernel are those of the loop, with its gradients.

What the kernel computes runs on the CPU here (`support.fused_on_the_cpu`);
`tests/carry/test_fused_step.py` counts the calls of the compiled step on a GPU.
"""

import keras
import numpy as np
import pytest
from fused_on_the_cpu import fused_on_the_cpu
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers
from numpy_lstm import NumpyLSTM
from releases import since_keras

import keras_stateful as ks
from keras_stateful.carry import fused_resets

BACKEND = keras.backend.backend()
ROWS, WINDOW, FEATURES = 3, 6, 3
WIDTH = fused_resets._width(FEATURES)
pytestmark = since_keras("3.14") if BACKEND == "jax" else []  # before, no cuDNN
KINDS = [layers.LSTM] if BACKEND == "jax" else [layers.LSTM, layers.GRU]  # no cuDNN GRU on JAX


def network(window=WINDOW, *, stacked=True, **settings) -> keras.Model:
    """Layers that read one mask of resets, with something to learn on either side."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((window, FEATURES), dtype="float32")
    settings = {"bias_initializer": "uniform", **settings}
    x = KINDS[0](5, return_sequences=True, **settings)(layers.Dense(4)(inputs))
    if not stacked:
        return keras.Model(inputs, [layers.Dense(2)(x)])
    last = KINDS[-1](4, **settings)(x)
    return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(2)(last)])


class Pair:
    """A model that takes the fused call and the same one that takes the loop.

    Args:
        monkeypatch: which lets the first one take it on the CPU.
        most_resets: that the layers make room for.
        carry_after: steps of a window behind which the states are carried on; None: all.
        window: its time steps.
        settings: of the network.

    Attributes:
        calls: of kernels in the last step.
    """

    def __init__(self, monkeypatch, most_resets, *, carry_after=None, window=WINDOW, **settings):
        self.calls = fused_on_the_cpu(monkeypatch)
        self.models = []
        for use_cudnn in ("auto", False):
            base = network(window, use_cudnn=use_cudnn, **settings)
            model = ks.to_stateful(base, ROWS, resets="step")
            for layer in model.layers:
                if isinstance(layer, keras.layers.RNN):
                    layer.most_resets, layer.carry_after = most_resets, carry_after
            model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=BACKEND == "jax")
            self.models.append(model)
        self._weights = self.models[0].get_weights()

    def step(self, seed: int, mask: np.ndarray) -> list:
        """Of each model the loss, and weights and states behind one step of training."""
        rng = np.random.default_rng(seed)

        def drawn(array):
            return rng.normal(size=array.shape).astype("float32")

        x, *y = map(drawn, (self.models[0].inputs[0], *self.models[0].outputs))
        states = keras.tree.map_structure(drawn, list(ks.get_states(self.models[0]).values()))
        behind = []
        self.calls.clear()
        for model in self.models:
            model.set_weights(self._weights)
            ks.set_states(model, dict(zip(ks.get_states(model), states, strict=True)))
            loss = model.train_on_batch([x, mask], y)
            behind.append([loss, model.get_weights(), list(ks.get_states(model).values())])
        return behind

    def assert_same(self, mask: np.ndarray, seed: int = 0, atol: float = 2e-6) -> None:
        fused, loop = map(keras.tree.flatten, self.step(seed, mask))
        for a, b in zip(fused, loop, strict=True):
            np.testing.assert_allclose(a, b, rtol=atol, atol=atol)


@pytest.fixture(scope="module")
def pair():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Pair(monkeypatch, 2)


masks = hnp.arrays(bool, (ROWS, WINDOW), elements=st.sampled_from([False, False, True]))


@settings(max_examples=25)
@given(masks, st.integers(0, 9))
@example(np.zeros((ROWS, WINDOW), bool), 0)
@example(np.ones((ROWS, WINDOW), bool), 0)  # more than there is room for: by the loop
@example(np.eye(ROWS, WINDOW, dtype=bool), 0)  # at the first step, too
@example(np.eye(ROWS, WINDOW, k=WINDOW - ROWS, dtype=bool), 0)  # and at the last
def test_any_mask_trains_as_the_loop_does(pair, mask, seed):
    """Losses, gradients of all weights (those in front of the layers, too) and new states."""
    pair.assert_same(mask, seed)


def some_resets(window: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((ROWS, window)) < 0.4


@pytest.mark.parametrize(
    "settings",
    [
        {"most_resets": None},
        {"most_resets": WINDOW},  # for as many as there can be
        {"most_resets": 2, "carry_after": 4},  # two parts, with gradients through the state between
        {"most_resets": 2, "window": 1},
    ],
    ids=str,
)
def test_whatever_the_room_and_the_window(settings, monkeypatch):
    pair = Pair(monkeypatch, **settings, stacked=False)
    for seed in range(3):
        pair.assert_same(some_resets(settings.get("window", WINDOW), seed), seed)
    pair.assert_same(np.zeros((ROWS, settings.get("window", WINDOW)), bool))
    assert BACKEND != "torch" or len(pair.calls) in (1, 2)  # one each part


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has cuDNN in float32 alone")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_reduced_precision(policy, monkeypatch):
    Pair(monkeypatch, 4, dtype=policy, stacked=False).assert_same(some_resets(WINDOW), atol=0.03)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_inserted_steps_clear_and_hold_to_the_last_bit(kind, dtype, monkeypatch):
    fused_on_the_cpu(monkeypatch)
    layer = kind(5, dtype=dtype, recurrent_initializer="glorot_uniform", bias_initializer="uniform")
    layer(np.zeros((ROWS, 1, FEATURES), dtype))
    layer.batch_size, layer.initial_state_given = ROWS, False
    states = [
        keras.ops.cast(3 * np.random.default_rng(n).normal(size=(ROWS, 5)), dtype)
        for n in range(len(layer.get_initial_state(ROWS)))
    ]
    sequences = keras.ops.zeros((ROWS, 2, FEATURES), dtype)
    kernel = fused_resets.fused_kernel(layer, sequences)
    if kernel is None:
        assert BACKEND == "jax"
        assert dtype != "float32"
        return
    clear, hold = np.eye(WIDTH)[FEATURES + 1 : FEATURES + 3]

    def behind(*steps):
        inserted = keras.ops.cast(np.broadcast_to(steps, (ROWS, 2, WIDTH)), dtype)
        _, last = kernel(inserted, states, fused_resets._with_gates(layer.cell, dtype))
        return [keras.ops.convert_to_numpy(keras.ops.cast(s, "float32")) for s in last]

    for state in behind(hold, clear):
        np.testing.assert_array_equal(state, 0)
    if kind is layers.LSTM:
        c = keras.ops.convert_to_numpy(keras.ops.cast(states[1], "float32"))
        np.testing.assert_array_equal(behind(hold, hold)[1], c)


def recurrent_weights(model: keras.Model, name: str) -> list[keras.Variable]:
    """One weight (or bias) of each recurrent cell."""
    cells = [layer.cell for layer in model.layers if isinstance(layer, keras.layers.RNN)]
    return [getattr(cell, name) for cell in cells]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_inserted_steps_clear_whatever_a_kernel_is_left_to(kind, sign, monkeypatch):
    """Every gate pulled as far as is left to one call, all one way; beyond, no call is made."""
    fused_on_the_cpu(monkeypatch)
    layer = kind(5)
    layer(np.zeros((ROWS, 1, FEATURES), "float32"))
    layer.batch_size, layer.initial_state_given = ROWS, False
    states = [keras.ops.full((ROWS, 5), 3.0) for _ in layer.get_initial_state(ROWS)]
    sequences = keras.ops.zeros((ROWS, 2, FEATURES))
    kernel = fused_resets.fused_kernel(layer, sequences)
    clear, hold = np.eye(WIDTH, dtype="float32")[FEATURES + 1 : FEATURES + 3]
    left = fused_resets._OPEN / 2
    for pull, obeyed in ((0.99 * left, True), (1.01 * left, False)):
        # Half of it by the five states, which are 3, half by the bias (two of them in a GRU).
        recurrent = np.full(layer.cell.recurrent_kernel.shape, sign * pull / 2 / 15)
        bias = np.full(layer.cell.bias.shape, sign * pull / 2)
        bias /= len(bias) if bias.ndim == 2 else 1
        layer.cell.recurrent_kernel.assign(recurrent)
        layer.cell.bias.assign(bias)
        answer = fused_resets._obeyed(layer.cell, sequences, states)
        assert bool(keras.ops.convert_to_numpy(answer)) is obeyed
        if obeyed:
            for step, cleared in ((clear, len(states)), (hold, 0)):
                inserted = np.broadcast_to(step, (ROWS, 1, WIDTH))
                weights = fused_resets._with_gates(layer.cell, "float32")
                _, last = kernel(keras.ops.convert_to_tensor(inserted), states, weights)
                for state in last[:cleared]:
                    np.testing.assert_array_equal(keras.ops.convert_to_numpy(state), 0)
                for state in last[max(cleared, 1) :]:  # an LSTM's `c`
                    np.testing.assert_array_equal(keras.ops.convert_to_numpy(state), 3)


@pytest.mark.parametrize("scale", [1, 1e2, 1e4, 1e6, 1e38])
@pytest.mark.parametrize("name", ["recurrent_kernel", "bias"])
def test_what_is_in_front_of_a_reset_changes_nothing_behind_it(pair, name, scale):
    """Bit for bit, however large the weights are, as those of a training that diverged."""
    model, mask = pair.models[0], np.zeros((ROWS, WINDOW), bool)
    model.set_weights(pair._weights)
    rng = np.random.default_rng(0)
    for weight in recurrent_weights(model, name):
        large = rng.random(weight.shape) < 0.5  # not all gates, or nothing at all would matter
        weight.assign(rng.uniform(-1, 2, weight.shape) * np.where(large, scale, 1))
    mask[:, 3] = True
    x = rng.normal(size=(ROWS, WINDOW, FEATURES)).astype("float32")
    behind = []
    for factor in (1, -1, 9):
        ks.reset_states(model)
        x[:, :3] *= factor
        whole, last = keras.tree.map_structure(np.copy, model.predict_on_batch([x, mask]))
        states = list(ks.get_states(model).values())
        behind.append(keras.tree.flatten([whole[:, 3:], last, states]))
    for other in behind[1:]:
        for a, b in zip(behind[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    model.set_weights(pair._weights)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38], ids=str)
@pytest.mark.parametrize("where", ["inputs", "kernel", "recurrent_kernel", "bias"])
def test_what_is_no_number_goes_as_far_as_by_the_loop(pair, where, value):
    """In an input it ends at the next reset of its row; in a weight of one unit it comes back."""
    x = np.random.default_rng(0).normal(size=(ROWS, WINDOW, FEATURES)).astype("float32")
    mask = np.zeros((ROWS, WINDOW), bool)
    mask[1, [1, 4]] = mask[2, 2] = True
    results = []
    if where == "inputs":
        x[1, 2, 0] = value
    for model in pair.models:
        model.set_weights(pair._weights)
        for weight in recurrent_weights(model, where) if where != "inputs" else ():
            changed = keras.ops.convert_to_numpy(weight).copy()
            changed.flat[0] = value
            weight.assign(changed)
        ks.reset_states(model)
        # As in a training loop of one's own: `fit` and `predict` refuse such inputs.
        outputs = model([x, mask], training=True)
        outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
        results.append(keras.tree.flatten([outputs, list(ks.get_states(model).values())]))
        model.set_weights(pair._weights)
    for fused, loop in zip(*results, strict=True):
        np.testing.assert_allclose(fused, loop, rtol=2e-6, atol=2e-6)
    if where == "inputs":
        whole = results[0][0]
        assert np.isfinite(whole[[0, 2]]).all()
        assert np.isfinite(whole[1, [0, 1, 4, 5]]).all()


def test_rows_are_alone_bit_for_bit(pair):
    """Resets of one row, where they fit, change nothing of the others."""
    mask = np.zeros((ROWS, WINDOW), bool)
    mask[0, 3] = mask[2, 1] = True
    x = np.random.default_rng(0).normal(size=(ROWS, WINDOW, FEATURES)).astype("float32")
    found = []
    for steps in ([], [4], [3], [2, 5]):
        mask[1] = np.isin(np.arange(WINDOW), steps)
        ks.reset_states(pair.models[0])
        outputs = pair.models[0].predict_on_batch([x, mask])
        states = list(ks.get_states(pair.models[0]).values())
        found.append(keras.tree.map_structure(np.copy, keras.tree.flatten([outputs, states])))
    for several in zip(*found, strict=True):
        for other in several[1:]:
            np.testing.assert_array_equal(other[[0, 2]], several[0][[0, 2]])
            assert (other[1] != several[0][1]).any()


def test_a_state_that_is_no_number_is_cleared(pair):
    """By the loop, which the next window takes: 0 times NaN is NaN."""
    model, mask = pair.models[0], np.zeros((ROWS, WINDOW), bool)
    mask[1, 3] = mask[0, 2] = True
    x = np.random.default_rng(0).normal(size=(ROWS, WINDOW, FEATURES)).astype("float32")
    found = []
    for value in (0.0, np.nan):
        ks.reset_states(model)
        for layer in model.layers:
            for state in layer.state_variables() if isinstance(layer, keras.layers.RNN) else ():
                array = np.zeros(state.shape, "float32")
                array[1] = value
                state.assign(array)
        outputs = model.predict_on_batch([x, mask])
        found.append([outputs, list(ks.get_states(model).values())])
    (outputs, states), (from_nan, states_from_nan) = found
    assert np.isnan(from_nan[0][1, :3]).all()
    np.testing.assert_allclose(from_nan[0][1, 3:], outputs[0][1, 3:], atol=1e-6)
    np.testing.assert_allclose(from_nan[0][[0, 2]], outputs[0][[0, 2]], atol=1e-6)
    for a, b in zip(*map(keras.tree.flatten, (states, states_from_nan)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_outside_of_training_and_with_a_numpy_reference(monkeypatch):
    calls = fused_on_the_cpu(monkeypatch)
    inputs = keras.Input((WINDOW, FEATURES))
    model = keras.Model(inputs, layers.Dense(2)(layers.LSTM(4, return_sequences=True)(inputs)))
    reference = NumpyLSTM(model.get_weights(), ROWS)
    model = ks.to_stateful(model, ROWS, resets="step")
    for layer in model.layers:
        layer.most_resets = WINDOW
    model.compile("sgd", "mse")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(ROWS, WINDOW, FEATURES)), rng.normal(size=(ROWS, WINDOW, 2))
        mask = some_resets(WINDOW, seed)
        calls.clear()
        model.reset_metrics()  # before Keras 3.15 the result is the mean of all batches so far
        loss = model.test_on_batch([x.astype("float32"), mask], y.astype("float32"))
        assert calls or seed
        wanted = reference.window(x, y, np.ones((ROWS, WINDOW)), mask, rate=0.0)
        np.testing.assert_allclose(np.ravel(loss)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu"},
        {"recurrent_dropout": 0.5},
        {"unroll": True},
        {"use_cudnn": False},
        {"masked": True},
        {"initial": True},
        {"kind": layers.SimpleRNN},
        {"kind": layers.GRU, "reset_after": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_it_cannot_do_keeps_the_loop(settings, monkeypatch):
    calls, settings = fused_on_the_cpu(monkeypatch), dict(settings)
    kind, masked = settings.pop("kind", layers.LSTM), settings.pop("masked", False)
    initial = settings.pop("initial", False)
    inputs = keras.Input((WINDOW, FEATURES))
    x = layers.Masking()(inputs) if masked else inputs
    start = [keras.Input((4,))] * 2 if initial else None
    outputs = kind(4, return_sequences=True, **settings)(x, initial_state=start)
    model = keras.Model([inputs, *(start or [])[:1]], outputs)
    model = ks.to_stateful(model, ROWS, resets="step")
    data = [np.ones((ROWS, *t.shape[1:]), "float32") for t in model.inputs[:-1]]
    calls.clear()
    model([*data, some_resets(WINDOW)])
    assert not calls


def test_room():
    assert [fused_resets.room(n, 128) for n in (0, 1, 2, 3, 9, 100, 128)] == [
        *(1, 1, 2, 4, 16, 127, 127)
    ]
    assert fused_resets.room(None, 128) == 16
    assert [fused_resets.room(None, n) for n in (1, 2, 3)] == [0, 1, 1]


def test_a_model_learns_from_its_sequence_how_many_resets_there_are(tmp_path):
    documents = [np.zeros((n, FEATURES), "float32") for n in (4, 2, 5, 9, 3, 3, 8)]
    sequence = ks.StatefulSequence(documents, ROWS, WINDOW, boundary="pack", resets=True)
    model = ks.to_stateful(network(None), sequence)
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        told = {x.most_resets for x in one.layers if isinstance(x, keras.layers.RNN)}
        assert told == {sequence.most_resets}
    assert not hasattr(ks.to_stateless(model).layers[2], "most_resets")
