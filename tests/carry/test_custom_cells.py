"""Cells of a user's own: states of any shape, outputs that are no states, masks, resets."""

import itertools

import keras
import numpy as np
import passes
import pytest
from keras import layers, ops

import keras_stateful as ks

ROWS, STEPS = 2, 12


@keras.saving.register_keras_serializable(package="test_custom_cells")
class FastWeights(layers.Layer):
    """Linear attention: a matrix that adds up keys and values, and starts from a weight."""

    def __init__(self, units, keys=2, **kwargs):
        super().__init__(**kwargs)
        self.units, self.keys = units, keys
        self.state_size, self.output_size = [(keys, units)], units

    def build(self, shape):
        sizes = {"key": self.keys, "value": self.units, "query": self.keys}
        self.projections = {
            name: self.add_weight(shape=(shape[-1], size), name=name)
            for name, size in sizes.items()
        }

    def call(self, x, states):
        key, value, query = (ops.matmul(x, self.projections[n]) for n in ("key", "value", "query"))
        memory = 0.8 * states[0] + ops.einsum("bk,bv->bkv", ops.tanh(key), value)
        return ops.einsum("bk,bkv->bv", query, memory), [memory]

    def get_initial_state(self, batch_size=None):
        return [ops.full((batch_size, self.keys, self.units), 0.3)]

    def get_config(self):
        return {**super().get_config(), "units": self.units, "keys": self.keys}


@keras.saving.register_keras_serializable(package="test_custom_cells")
class Leaky(layers.Layer):
    """A vector and a number of another size, neither of which is the output."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units + 1, units], units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x, states, training=False):
        wide, fast = states
        fast = ops.tanh(ops.matmul(x, self.kernel) + 0.5 * fast)
        wide = 0.9 * wide + 0.1 * ops.concatenate([fast, fast[:, :1]], axis=1)
        return wide[:, 1:] * fast, [wide, fast]

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, n)) / n for n in self.state_size]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def rnn(cell, **options):
    return layers.RNN(cell, return_sequences=True, **options)


CELLS = {
    "matrix": lambda: rnn(FastWeights(3)),
    "as many keys as rows": lambda: rnn(FastWeights(3, keys=ROWS)),
    "vectors": lambda: rnn(Leaky(3)),
    "stacked": lambda: rnn([layers.LSTMCell(4), FastWeights(3)]),
    "stacked below": lambda: rnn([FastWeights(4), layers.GRUCell(3)]),
}


def build(name, masked=False):
    keras.utils.set_random_seed(2)
    x = keras.Input((None, 3))
    h = layers.Masking()(x) if masked else x
    # `add` drops the mask: what masked steps put out goes on.
    h = ops.add(CELLS[name]()(h), 0.0)
    return keras.Model(x, layers.Dense(2)(h))


def data(masked):
    x = np.random.default_rng(0).standard_normal((ROWS, STEPS, 3)).astype("float32")
    if masked:
        x[:, [0, 4, 5, 6]] = 0  # opens the stream, a window, a document; inside
        x[1, [8, 9]] = 0
    return x


# Keras's loop on JAX takes the first state of a cell for its output under a mask, and fails on a
# state of another shape: there is no long call to compare with, but the cell stepped by hand.
def by_hand(model, x, starts=()):
    """One long call, masked steps included: the cell called step by step, row by row."""
    rnn_layer = next(layer for layer in model.layers if isinstance(layer, layers.RNN))
    masked = any(isinstance(layer, layers.Masking) for layer in model.layers)
    head = model.layers[-1]
    rows = []
    for row in x:
        states, before, outputs = None, None, []
        for t, step in enumerate(row):
            if states is None or t in starts:
                states = rnn_layer.get_initial_state(1)
                before = np.zeros((1, 3), "float32")
            if not masked or (step != 0).any():
                output, states = rnn_layer.cell(ops.convert_to_tensor(step[None]), states)
                before = ops.convert_to_numpy(output)
            outputs.append(before)
        rows.append(np.concatenate(outputs))
    return ops.convert_to_numpy(head(np.stack(rows)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_windows_and_single_steps_are_one_pass(name, masked):
    model, x = build(name, masked), data(masked)
    expected = by_hand(model, x)
    if not masked or keras.backend.backend() != "jax":
        np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=0, atol=1e-5)
    for way in (passes.windows(ks.to_stateful(model, ROWS), x), passes.steps(model, x)):
        np.testing.assert_allclose(way[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_resets_by_step_are_each_document_alone(name, masked):
    model, x = build(name, masked), data(masked)
    training = ks.to_stateful(model, ROWS, resets="step")
    starts = [0, 3, 6, 10]
    flags = np.zeros((ROWS, STEPS), bool)
    flags[:, starts] = True
    parts = [
        training.predict_on_batch([x[:, a:b], flags[:, a:b]])
        for a, b in itertools.pairwise((0, 5, 8, 12))
    ]
    got = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(got, by_hand(model, x, starts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["matrix", "vectors"])
def test_a_masked_cell_trains_and_its_states_are_read_and_written(name):
    model, x = build(name, masked=True), data(True)
    training = ks.to_stateful(model, ROWS, resets="step")
    training.compile("sgd", "mse")
    flags = np.zeros((ROWS, STEPS), bool)
    training.train_on_batch([x, flags], np.zeros((ROWS, STEPS, 2), "float32"))
    ((key, states),) = ks.get_states(training).items()
    cell = [tuple(s.shape[1:]) for s in model.get_layer(key).get_initial_state(1)]
    assert [s.shape[1:] for s in states] == [*cell, (3,)]  # the output of the last step as well
    live = ks.to_inference(training, ROWS)
    ks.set_states(live, ks.get_states(training))
    step = ks.to_step_model(training)
    y, *_ = step.predict_on_batch([x[:, 5:], *states])
    np.testing.assert_allclose(live.predict_on_batch(x[:, 5:]), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["matrix", "stacked"])
def test_an_artifact_has_the_states_of_any_cell(name, masked, tmp_path):
    model, x = build(name, masked), data(masked)
    ks.export_step_model(model, tmp_path / "out")
    got = ks.load_session(tmp_path / "out", batch_size=ROWS).read(x)
    np.testing.assert_allclose(got, by_hand(model, x), rtol=0, atol=1e-5)


def test_a_known_cell_has_no_more_states_under_a_mask():
    x = keras.Input((None,), dtype="int32")
    h = layers.Embedding(7, 3, mask_zero=True)(x)
    h = layers.LSTM(3, return_sequences=True, name="lstm")(h)
    h = rnn([layers.GRUCell(3), layers.LSTMCell(2)], name="stack")(h)
    states = ks.get_states(ks.to_stateful(keras.Model(x, h), ROWS))
    assert {key: len(arrays) for key, arrays in states.items()} == {"lstm": 2, "stack": 3}


def test_a_step_model_of_a_matrix_survives_saving(tmp_path):
    model, x = build("matrix", masked=True), data(True)
    ks.to_step_model(model).save(tmp_path / "step.keras")
    step = keras.saving.load_model(tmp_path / "step.keras")
    y, *_ = step.predict_on_batch([x, *ks.initial_states(step, ROWS)])
    np.testing.assert_allclose(y, by_hand(model, x), rtol=0, atol=1e-5)
