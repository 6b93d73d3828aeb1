"""`keras.distribution` on four devices; run by test_devices.py, which makes them."""

import contextlib
import shutil
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from training import DOCUMENTS, ROWS, assert_same, compiled, network, sequence, trained

import keras_stateful as ks


def model_parallel():
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*first.*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


@pytest.fixture(scope="module")
def one_device():
    return trained(dropout=0.2)


@pytest.fixture(scope="module")
def data_parallel():
    return keras.distribution.DataParallel()


@pytest.fixture(scope="module")
def four_devices(data_parallel):
    with data_parallel.scope():
        return trained(dropout=0.2)


def state_variables(model):
    return [
        v
        for layer in model.layers
        if hasattr(layer, "state_variables")
        for v in layer.state_variables()
    ]


def assert_states_lie_with_their_rows(model, distribution):
    rows = distribution.get_data_layout((ROWS, 8)).backend_layout.devices_indices_map((ROWS, 8))
    assert len({index[0].start for index in rows.values()}) > 1
    assert len(state_variables(model)) == 3
    for variable in state_variables(model):
        for shard in variable.value.addressable_shards:
            assert shard.index[0] == rows[shard.device][0]


def test_data_parallel_equals_one_device(one_device, four_devices):
    assert len(jax.devices()) == 4
    assert_same(four_devices, one_device)


def test_each_device_holds_the_states_of_its_rows(four_devices, data_parallel):
    model, distribution = four_devices[0], data_parallel
    assert_states_lie_with_their_rows(model, distribution)
    before = ks.get_states(model)
    ks.reset_states(model, rows=[1, 6])
    assert_states_lie_with_their_rows(model, distribution)
    after = ks.get_states(model)["first"][0]
    kept = np.isin(np.arange(ROWS), [1, 6], invert=True)
    np.testing.assert_array_equal(after[kept], before["first"][0][kept])
    assert not after[~kept].any()
    ks.set_states(model, before)
    assert_states_lie_with_their_rows(model, distribution)
    np.testing.assert_array_equal(ks.get_states(model)["first"][0], before["first"][0])


def test_each_gradient_crosses_the_wire_once(data_parallel, monkeypatch):
    """And not at each time step of the backward loop, as those of Keras's own loop do."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    from devices import collectives

    with data_parallel.scope():
        data = sequence()
        model = compiled(data)
        model.fit(data, verbose=0)
        sent = collectives(model, data)
    gradients = 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert list(sent) == ["all-reduce"]
    assert gradients <= sent["all-reduce"] <= gradients + 32  # the loss and the metrics


def test_resets_by_callback_equal_those_inside_the_step(one_device, data_parallel):
    expected = trained(resets=False)
    with data_parallel.scope():
        model, history = trained(resets=False)
        assert_same((model, history), expected)
        assert_states_lie_with_their_rows(model, data_parallel)


def test_plain_stateful_layers_with_the_callback(data_parallel):
    def run():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((None,), batch_size=ROWS, dtype="int32"),
                keras.layers.Embedding(12, 4),
                keras.layers.LSTM(4, stateful=True, return_sequences=True, name="plain"),
                keras.layers.Dense(12),
            ]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = sequence(resets=False)
        losses = model.fit(
            data, epochs=2, verbose=0, callbacks=[ks.ResetStatesCallback(data)]
        ).history["loss"]
        return losses, model.get_layer("plain").states

    expected, _ = run()
    with data_parallel.scope():
        got, states = run()
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        assert {s.value.sharding.spec[0] for s in states} == {"batch"}


def test_model_parallel_equals_one_device(one_device):
    with model_parallel().scope():
        model, history = trained(dropout=0.2)
        assert_same((model, history), one_device)
        assert_states_lie_with_their_rows(model, keras.distribution.distribution())
        kernels = [v for v in model.trainable_variables if "first" in v.path and "kernel" in v.path]
        assert {v.value.sharding.spec[1] for v in kernels} == {"model"}


def test_a_layout_of_the_users_own_stays():
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*rnn_state"] = ("batch", "model")
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        model = compiled(sequence())
        assert {v.value.sharding.spec for v in state_variables(model)} == {
            jax.sharding.PartitionSpec("batch", "model")
        }


@pytest.mark.parametrize("inside", [True, False])
def test_documents_and_generation_are_those_of_one_device(
    one_device, four_devices, data_parallel, inside
):
    def outcome(model):
        return {
            **ks.evaluate_documents(model, DOCUMENTS[:3]),
            "outputs": ks.predict_documents(model, DOCUMENTS[:3], reduce="last"),
            "ids": ks.generate(model, DOCUMENTS[0][:9], 5, temperature=0.0),
        }

    one = outcome(one_device[0])
    with data_parallel.scope() if inside else contextlib.nullcontext():
        four = outcome(four_devices[0])
    for name, values in one.items():
        np.testing.assert_allclose(four[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_validation_by_documents_that_do_not_divide(data_parallel):
    def run():
        data = sequence()
        model = compiled(data)
        return model.fit(data, verbose=0, callbacks=[ks.ValidateDocuments(DOCUMENTS[:5])]).history[
            "val_loss"
        ]

    expected = run()
    with data_parallel.scope():
        np.testing.assert_allclose(run(), expected, rtol=1e-5)


def test_rows_that_do_not_divide_are_refused(four_devices, data_parallel):
    with data_parallel.scope():
        with pytest.raises(
            ValueError, match="batch_size=6 under DataParallel over 4 devices. Take a multiple of 4"
        ):
            ks.to_stateful(network(), 6)
        writer = ks.to_inference(four_devices[0])
        assert writer.predict_on_batch(DOCUMENTS[0][None, :8]).shape == (1, 8, 12)
        with pytest.raises(ValueError, match="or call `predict_on_batch`"):
            writer.predict(DOCUMENTS[0][None, :8], verbose=0)


def test_a_model_from_before_the_distribution_is_refused(data_parallel):
    data = sequence()
    model = compiled(data)
    with (
        data_parallel.scope(),
        pytest.raises(ValueError, match="before the distribution was set"),
    ):
        model.fit(data, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"shard=\(0, 1\). Pass `shard=\(jax.process_index\(\), 2\)`"),
        ({"shard": (0, 4), "seed": 0}, r"shard=\(0, 4\)"),
        ({"shard": (0, 2), "resets": False}, "cannot reset rows of another"),
    ],
)
def test_what_would_read_the_wrong_rows_in_several_processes_is_refused(
    monkeypatch, data_parallel, arguments, message
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with data_parallel.scope():
        data = sequence(**arguments)
        model = compiled(data)
        assert model.batch_size == ROWS
        with pytest.raises(ValueError, match=message):
            model.fit(data, verbose=0)


def test_processes_without_a_distribution_are_refused(monkeypatch):
    data = sequence(shard=(0, 2))
    model = compiled(data)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"a model of its own.*set_distribution"):
        model.fit(data, verbose=0)
    with pytest.raises(ValueError, match="The outputs of `predict` lie in 2 processes"):
        model.predict(data, verbose=0)


class Steps(keras.callbacks.Callback):
    """The loss of every step, and where the states lie before the first; after `stop` steps an
    error.
    """

    def __init__(self, distribution=None, stop=None):
        super().__init__()
        self.distribution, self.stop, self.losses = distribution, stop, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if len(self.losses) == self.stop:
            raise KeyboardInterrupt
        if self.distribution is not None:
            assert_states_lie_with_their_rows(self.model, self.distribution)

    def on_train_batch_end(self, batch, logs=None):
        self.losses[self.epoch, batch] = logs["loss"]

    def get_state(self):
        return {"losses": self.losses}

    def set_state(self, state):
        self.losses = state["losses"]


def test_a_resumed_training_has_its_rows_where_they_were(data_parallel, tmp_path):
    def run(steps, *resume):
        data = sequence(shuffle=True, seed=3)
        model = compiled(data, dropout=0.2)
        resume = [ks.ResumeTraining(folder, data, 4) for folder in resume]
        history = model.fit(data, epochs=2, verbose=0, callbacks=[steps, *resume]).history
        return model, history, steps.losses

    backup = tmp_path / "backup"
    with data_parallel.scope():
        model, history, losses = run(Steps())
        with pytest.raises(KeyboardInterrupt):
            run(Steps(stop=len(losses) - 3), backup)
        shutil.copytree(backup, tmp_path / "moved")
        resumed = run(Steps(data_parallel), backup)
        assert_states_lie_with_their_rows(resumed[0], data_parallel)
        assert resumed[1:] == (history, losses)
        for name, arrays in ks.get_states(model).items():
            np.testing.assert_array_equal(ks.get_states(resumed[0])[name], arrays)
    assert_same(run(Steps(), tmp_path / "moved")[:2], (model, history))  # on one device
