"""`MirroredStrategy` on two logical devices; run by test_devices.py."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import DOCUMENTS, ROWS, assert_same, compiled, network, sequence, trained

import keras_stateful as ks

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def one_device():
    return trained()


@pytest.fixture(scope="module")
def two_replicas(strategy):
    with strategy.scope():
        return trained()


def test_two_replicas_equal_one_device(one_device, two_replicas):
    model = two_replicas[0]
    assert model.batch_size == ROWS
    assert model.inputs[0].shape[0] == ROWS // 2
    assert_same(two_replicas, one_device)


def test_states_stay_with_their_replica(one_device, two_replicas):
    for layer in ("first", "second"):
        expected = ks.get_states(one_device[0])[layer]
        for variable, whole in zip(
            two_replicas[0].get_layer(layer).state_variables(), expected, strict=True
        ):
            upper, lower = (v.numpy() for v in variable.value.values)
            np.testing.assert_allclose(upper, whole[: ROWS // 2], atol=1e-5)
            np.testing.assert_allclose(lower, whole[ROWS // 2 :], atol=1e-5)


def test_states_are_read_and_written_for_all_rows(two_replicas):
    model = two_replicas[0]
    before = ks.get_states(model)
    ks.reset_states(model, rows=[1, 6])
    after = ks.get_states(model)["first"][0]
    kept = np.isin(np.arange(ROWS), [1, 6], invert=True)
    np.testing.assert_array_equal(after[kept], before["first"][0][kept])
    assert not after[~kept].any()
    ks.reset_states(model)
    assert not any(s.any() for states in ks.get_states(model).values() for s in states)
    ks.set_states(model, before)
    for layer, states in ks.get_states(model).items():
        for a, b in zip(states, before[layer], strict=True):
            np.testing.assert_array_equal(a, b)


def test_resets_by_callback(one_device, strategy):
    with strategy.scope():
        assert_same(trained(resets=False), one_device)


def test_validation_leaves_no_trace_on_any_replica(strategy, two_replicas):
    with strategy.scope():
        data = sequence(shuffle=True, seed=3)
        model = compiled(data)
        history = model.fit(data, epochs=2, verbose=0).history  # without validation
    np.testing.assert_allclose(history["loss"], two_replicas[1]["loss"], rtol=1e-6)


def test_a_stream_ends_where_it_ends(strategy):
    losses = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        data = ks.StatefulStream(lambda: iter(DOCUMENTS), ROWS, 8, resets=True)
        with scope:
            model = compiled(data)
        losses.append(model.fit(data, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_documents_and_generation_outside_of_the_scope(one_device, two_replicas, strategy):
    def outcome(model):
        return {
            **ks.evaluate_documents(model, DOCUMENTS[:3]),
            "ids": ks.generate(model, DOCUMENTS[0][:9], 5, temperature=0.0),
        }

    two, one = outcome(two_replicas[0]), outcome(one_device[0])
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-4, err_msg=name)
    with strategy.scope(), pytest.raises(ValueError, match="outside of `strategy.scope"):
        ks.to_inference(two_replicas[0])


def test_what_replicas_cannot_do_is_refused(strategy, two_replicas):
    data = sequence()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with strategy.scope():
        with pytest.raises(
            ValueError, match=r"batch_size=7 .* of 2 replicas. Take a multiple of 2"
        ):
            ks.to_stateful(network(), 7)
        model = ks.to_stateful(network(), data)
    outside = ks.to_stateful(network(), data)

    def fit(model, *arguments, **options):
        model.compile(*arguments, **options)
        model.fit(data, verbose=0)

    weighed = keras.losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight")
    with strategy.scope():
        with pytest.raises(ValueError, match="Compile with steps_per_execution=1"):
            fit(model, "sgd", loss, steps_per_execution=2)
        with pytest.raises(ValueError, match='Use reduction="sum_over_batch_size"'):
            fit(model, "sgd", weighed)
        with pytest.raises(ValueError, match="made outside of the strategy's scope"):
            fit(outside, "sgd", loss)
    for method in ("train_on_batch", "test_on_batch", "predict_on_batch"):
        with pytest.raises(ValueError, match=f"whole batch in `{method}`"):
            getattr(two_replicas[0], method)(data[0][0])


def test_resuming_replicas_is_refused(two_replicas, tmp_path):
    data = sequence(shuffle=True, seed=3)
    resume = ks.ResumeTraining(tmp_path / "backup", data)
    with pytest.raises(
        ValueError, match="Received: 2 replicas of MirroredStrategy. Train in one process"
    ):
        two_replicas[0].fit(data, verbose=0, callbacks=[resume])
    assert not (tmp_path / "backup").exists()


def test_plain_stateful_layers_are_refused(strategy):
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((None, 2), batch_size=4),
                keras.layers.GRU(3, stateful=True, return_sequences=True),
            ]
        )
        model.compile("sgd", "mse")
    data = ks.StatefulSequence(np.ones((500, 2)), 8, 8, targets=np.ones((500, 3)))
    with pytest.raises(ValueError, match="Convert it, in the same scope"):
        model.fit(data, verbose=0, callbacks=[ks.ResetStatesCallback(data)])


def test_a_strategy_that_was_never_tried_is_refused(monkeypatch):
    strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    with strategy.scope(), pytest.raises(ValueError, match="Received: CentralStorageStrategy"):
        ks.to_stateful(network(), 8)


def test_keras_distribution_is_refused_where_it_would_be_ignored():
    data = sequence()
    model = compiled(data)
    distribution = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
    with distribution.scope(), pytest.raises(ValueError, match="works on the JAX backend only"):
        model.fit(data, verbose=0)
