"""What plain Keras does with stateful layers. Each test fails when Keras changes, and a repair can
go.

The README's table and `docs/keras-defects.md` name these tests; what this package makes of each is
tested beside it, or in the test named in the docstring.
"""

import keras
import numpy as np
import pytest
from releases import since_keras

import keras_stateful as ks
from keras_stateful.foundation import keras_internals

BACKEND = keras.backend.backend()
ROWS, TIME = 4, 5


def network(layer="LSTM", **kwargs):
    return keras.Sequential(
        [
            keras.Input((TIME, 3), batch_size=ROWS),
            getattr(keras.layers, layer)(4, stateful=True, return_sequences=True, **kwargs),
            keras.layers.Dense(2),
        ]
    )


def compiled(model, rate=0.0, **kwargs):
    model.compile(keras.optimizers.SGD(rate), "mse", **kwargs)
    return model


def batches(count=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count * ROWS, TIME, 3)).astype("float32")
    return x, rng.standard_normal((count * ROWS, TIME, 2)).astype("float32")


def states(model):
    return [a for arrays in ks.get_states(model).values() for a in arrays]


def carried(model):
    return any(np.abs(s).max() > 0 for s in states(model))


def fit(model, x, y, **kwargs):
    return model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0, **kwargs)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
@pytest.mark.parametrize("layer", ["SimpleRNN", "GRU", "LSTM"])
def test_jax_drops_the_state_in_fit(layer):
    model = compiled(network(layer))
    fit(model, *batches())
    assert not carried(model)
    fit(model, *batches(), callbacks=[ks.ResetStatesCallback()])
    assert carried(model)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
def test_jax_freezes_the_state_of_the_first_trace():
    x, _ = batches()
    model = network()
    ks.set_states(model, {model.layers[0].name: [np.full((ROWS, 4), 0.7)] * 2})
    first = model.predict(x, verbose=0, batch_size=ROWS)
    ks.reset_states(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0, batch_size=ROWS), first)
    stateful = ks.to_stateful(network(), ROWS)
    warm = stateful.predict(x, verbose=0), stateful.predict(x, verbose=0)
    ks.reset_states(stateful)
    np.testing.assert_allclose(stateful.predict(x, verbose=0), warm[0], atol=1e-6)
    assert np.abs(warm[0] - warm[1]).max() > 1e-3


@pytest.mark.skipif(BACKEND != "torch", reason="torch only")
@pytest.mark.parametrize("layer", ["GRU", "LSTM"])
def test_torch_crashes_in_backward(layer):
    x, y = batches(3)
    # A GRU since it has a loop of its own; an LSTM once more since it has a fused one.
    if keras_internals.has_keras("3.14" if layer == "LSTM" else "3.15"):
        with pytest.raises(RuntimeError, match="inplace operation"):
            fit(compiled(network(layer), 0.1), x, y)
    model = compiled(network(layer), 0.1)
    fit(model, x, y, callbacks=[ks.ResetStatesCallback()])
    assert carried(model)


@pytest.mark.skipif(BACKEND != "torch", reason="torch only")
def test_torch_never_writes_the_state_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(network("SimpleRNN"))
    fit(model, *batches())
    assert not carried(model)
    fit(model, *batches(), callbacks=[ks.ResetStatesCallback()])
    assert carried(model)


class Recorded(keras.utils.PyDataset):
    """Batches whose content tells their index."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.asked = []

    def __len__(self):
        return 12

    def __getitem__(self, i):
        self.asked.append(i)
        return np.full((ROWS, TIME, 3), i, "float32"), np.zeros((ROWS, TIME, 2), "float32")


def order_received(data, callbacks=(), **kwargs):
    """The index of each batch that a training step really got, from the loss of an identity."""
    x = keras.Input((TIME, 3), batch_size=ROWS)
    model = keras.Model(
        x, keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(1 / 3))(x)
    )
    model.compile(keras.optimizers.SGD(0.0), "mae")
    order, total = [], [0.0]

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            now = float(logs["loss"]) * (batch + 1)
            order.append(round(now - total[0]))
            total[0] = now

    model.fit(data, verbose=0, callbacks=[Look(), *callbacks], **kwargs)
    return order


def test_fit_shuffles_the_batches_of_a_dataset():
    """Ours keep their order: `test_sequence_fit.py`."""
    assert order_received(Recorded()) != list(range(12))
    assert order_received(Recorded(), shuffle=False) == list(range(12))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras hands torch's batches over in order")
def test_steps_per_execution_hides_batches_from_callbacks():
    """Refused, or right with resets inside the step: `test_fit_arguments`, `test_trajectory`."""
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(batch)

    fit(compiled(network(), steps_per_execution=4), *batches(8), callbacks=[Look()])
    assert seen == [0, 4]


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX plain Keras carries nothing at all")
def test_validation_and_training_share_one_state():
    """Kept apart here: `test_validation.py`."""
    model = compiled(network("SimpleRNN"))
    x, y = batches(2)
    fit(model, x, y)
    trained = states(model)
    model.evaluate(x, y, batch_size=ROWS, verbose=0)
    assert np.abs(states(model)[0] - trained[0]).max() > 1e-6


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow only; JAX and torch raise")
def test_tensorflow_broadcasts_a_last_batch_of_one_row():
    x = np.ones((ROWS + 1, TIME, 3), "float32")
    if keras_internals.has_keras("3.14"):  # before, it raises on TensorFlow, too
        assert len(network().predict(x, batch_size=ROWS, verbose=0)) == 2 * ROWS
    with pytest.raises(ValueError, match="5 rows"):
        ks.to_stateful(network(), ROWS).predict(x, verbose=0)


def test_batches_are_asked_for_before_the_epoch_begins():
    """Ours depend on index and epoch: `test_a_batch_depends_on_index_and_epoch_alone`."""
    data, asked = Recorded(), []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            asked.extend(data.asked)

    order_received(data, shuffle=False, callbacks=[Look()])
    assert asked


def test_what_changes_the_state_of_a_plain_model():
    """Ours: `evaluate` leaves no trace, `predict` and calls go on from where they were, on every
    backend.
    """
    x, y = batches()
    changed = {}
    for name, use in {
        "predict": lambda m: m.predict(x, batch_size=ROWS, verbose=0),
        "evaluate": lambda m: m.evaluate(x, y, batch_size=ROWS, verbose=0),
        "call": lambda m: m(x),
    }.items():
        for model, owner in (
            (compiled(network()), "keras"),
            (compiled(ks.to_stateful(network(), ROWS)), "ours"),
        ):
            use(model)
            changed[name, owner] = carried(model)
    assert changed["predict", "keras"] == changed["evaluate", "keras"] == (BACKEND != "jax")
    assert changed["call", "keras"]
    assert (changed["predict", "ours"], changed["evaluate", "ours"], changed["call", "ours"]) == (
        True,
        False,
        True,
    )


def test_loading_weights_leaves_the_state_as_it_was(tmp_path):
    model = network("SimpleRNN")
    model.save_weights(tmp_path / "m.weights.h5")
    ks.set_states(model, {model.layers[0].name: [np.full((ROWS, 4), 0.7)]})
    model.load_weights(tmp_path / "m.weights.h5")
    assert carried(model)


def test_there_is_no_reset_of_a_model():
    assert not hasattr(keras.Model, "reset_states")
    assert not hasattr(keras.Model, "reset_state")


def test_reset_state_crashes_on_stacked_cells():
    cells = [keras.layers.LSTMCell(4), keras.layers.GRUCell(4)]
    model = keras.Sequential(
        [keras.Input((TIME, 3), batch_size=ROWS), keras.layers.RNN(cells, stateful=True)]
    )
    with pytest.raises((AttributeError, TypeError)):
        model.layers[0].reset_state()
    ks.reset_states(model)


def test_plain_weight_files_hold_no_states(tmp_path):
    model = network("SimpleRNN")
    ks.set_states(model, {model.layers[0].name: [np.full((ROWS, 4), 0.7)]})
    model.save(tmp_path / "m.keras")
    assert not carried(keras.saving.load_model(tmp_path / "m.keras"))


def test_a_stateful_bidirectional_is_refused():
    wrapped = keras.layers.Bidirectional(
        keras.layers.SimpleRNN(4, stateful=True, return_sequences=True)
    )
    model = compiled(
        keras.Sequential([keras.Input((TIME, 3), batch_size=ROWS), wrapped, keras.layers.Dense(2)])
    )
    with pytest.raises(ValueError, match="(?s)Bidirectional.*future"):
        fit(model, *batches(), callbacks=[ks.ResetStatesCallback()])


@since_keras("3.14")
def test_time_distributed_takes_rows_for_steps_where_the_length_is_unknown():
    """Any length is right after a conversion: `test_windows_of_changing_length`."""
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow only")
    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.TimeDistributed(keras.layers.Dense(2))]
    )
    assert model.predict_on_batch(np.ones((ROWS, 5, 3), "float32")).shape == (ROWS, 5, 2)
    assert model.predict_on_batch(np.ones((ROWS, 7, 3), "float32")).shape == (ROWS, ROWS, 2)


def test_a_call_that_fails_loses_the_weights_on_jax():
    model = compiled(network())
    with pytest.raises(Exception):  # noqa: B017, PT011 - each backend has an error of its own
        model.predict(np.ones((ROWS + 1, TIME, 3), "float32"), verbose=0, batch_size=ROWS + 1)
    if BACKEND != "jax":
        assert model.get_weights()
        return
    with pytest.raises(TypeError, match="NoneType"):
        model.get_weights()
    for use in (
        lambda: ks.to_inference(model),
        lambda: ks.to_stateful(model, ROWS),
        lambda: ks.predict_documents(model, [np.ones((7, 3))]),
        lambda: ks.to_step_model(model),
    ):
        with pytest.raises(RuntimeError, match=r"weights of .* are gone.*failed.*load"):
            use()


@pytest.mark.parametrize("failing", ["predict", "evaluate"])
def test_a_converted_model_keeps_its_weights_where_the_batch_is_wrong(failing):
    model = ks.to_stateful(network(), ROWS)
    model.compile(loss="mse")
    x = np.ones((ROWS + 1, TIME, 3), "float32")
    with pytest.raises(ValueError, match="rows"):
        model.predict(x, verbose=0) if failing == "predict" else model.evaluate(
            x, x[..., :2], verbose=0
        )
    assert model.get_weights()
