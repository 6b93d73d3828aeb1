"""Reading, writing, resetting and preserving states, in any model, also within an epoch."""

import keras
import numpy as np
import pytest
import zoo

import keras_stateful as ks

ROWS = 4


def stateful(name="lstm", **kwargs):
    return ks.to_stateful(zoo.build(name), ROWS, **kwargs)


def warm(model):
    model.predict_on_batch(zoo.window(model, zoo.data(model, ROWS, 5), slice(None)))
    return model


def plain(*stack):
    model = keras.Sequential([keras.Input((5, 3), batch_size=ROWS), *stack])
    model.compile("sgd", "mse")
    return model


def flat(states):
    return [a for arrays in states.values() for a in arrays]


@pytest.mark.parametrize(
    "name", ["lstm", "stacked_cells", "nested", "shared", "conv_lstm", "custom_cell"]
)
def test_get_and_set_round_trip_and_decide_what_comes_next(name):
    model = warm(stateful(name))
    kept = ks.get_states(model)
    x = zoo.window(model, zoo.data(model, ROWS, 3, seed=1), slice(None))
    first = zoo.outputs(model.predict_on_batch(x))
    second = zoo.outputs(model.predict_on_batch(x))
    assert np.abs(first[0] - second[0]).max() > 1e-5
    ks.set_states(model, kept)
    for a, b in zip(zoo.outputs(model.predict_on_batch(x)), first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_are_paths_below_the_model_and_stay_after_conversion():
    model = stateful("nested")
    assert list(ks.get_states(model)) == ["encoder/lstm", "decoder/gru"]
    assert list(ks.get_states(ks.to_inference(model))) == ["encoder/lstm", "decoder/gru"]
    shared = stateful("shared")
    name = next(layer.name for layer in shared.layers if isinstance(layer, keras.layers.LSTM))
    assert list(ks.get_states(shared)) == [name, f"{name}#1"]
    assert [a.shape for a in ks.get_states(shared)[name]] == [(ROWS, 4), (ROWS, 4)]


@pytest.mark.parametrize("rows", [[1, 3], np.array([False, True, False, True]), None])
@pytest.mark.parametrize("name", ["lstm", "stacked_cells", "nested", "shared", "custom_cell"])
def test_reset_sets_the_cells_own_initial_state_in_those_rows_alone(name, rows):
    model = stateful(name)
    start = flat(ks.get_states(model))
    before = flat(ks.get_states(warm(model)))
    ks.reset_states(model, rows)
    kept = [] if rows is None else [0, 2]
    reset = [r for r in range(ROWS) if r not in kept]
    for a, b, s in zip(flat(ks.get_states(model)), before, start, strict=True):
        np.testing.assert_array_equal(a[kept], b[kept])
        np.testing.assert_array_equal(a[reset], s[reset])
    if name == "custom_cell":
        assert np.all(start[0] == 0.5)


def test_plain_stateful_layers_with_nested_states():
    cells = [keras.layers.LSTMCell(4), keras.layers.GRUCell(3)]
    model = plain(keras.layers.RNN(cells, stateful=True, name="rnn"))
    states = {"rnn": [np.full((ROWS, n), float(n)) for n in (4, 4, 3)]}
    ks.set_states(model, states)
    for a, b in zip(ks.get_states(model)["rnn"], states["rnn"], strict=True):
        np.testing.assert_array_equal(a, b)
    ks.reset_states(model, rows=[0])
    assert all(np.all(a[0] == 0) and np.all(a[1:] != 0) for a in ks.get_states(model)["rnn"])


def test_preserve_puts_back_also_after_an_error():
    model = warm(stateful())
    before = flat(ks.get_states(model))
    with pytest.raises(KeyError), ks.preserve_states(model):
        warm(model)
        raise KeyError
    for a, b in zip(flat(ks.get_states(model)), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "make",
    [
        stateful,
        lambda: plain(
            keras.layers.LSTM(4, stateful=True, return_sequences=True), keras.layers.Dense(2)
        ),
    ],
)
def test_in_the_middle_of_an_epoch(make):
    """What a callback reads at each step is what a hand loop has there; what it writes is what the
    next step reads.
    """
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(flat(ks.get_states(self.model)))
            if batch == 1:
                ks.reset_states(self.model, rows=[2])

    model = make()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4 * ROWS, 5, 3)).astype("float32")
    y = rng.standard_normal((4 * ROWS, 5, 2)).astype("float32")
    model.fit(
        x,
        y,
        batch_size=ROWS,
        shuffle=False,
        verbose=0,
        callbacks=[ks.ResetStatesCallback(), Look()],
    )
    twin = ks.to_inference(model, ROWS)
    for i in range(4):
        twin.predict_on_batch(x[i * ROWS : (i + 1) * ROWS])
        for a, b in zip(seen[i], flat(ks.get_states(twin)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        if i == 1:
            ks.reset_states(twin, rows=[2])
