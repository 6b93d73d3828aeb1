"""States know whose they are: other weights refuse them, the same weights take them anywhere."""

import copy
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.foundation.states import States, fingerprint

FEATURES = 3


def network(seed=1, dtype=None, build=keras.layers.LSTM):
    keras.utils.set_random_seed(seed)
    x = keras.Input((None, FEATURES))
    inner = keras.Sequential([build(4, return_sequences=True, name="lower", dtype=dtype)])
    h = keras.layers.BatchNormalization()(inner(x))
    h = keras.layers.GRU(3, return_sequences=True, name="upper", dtype=dtype)(h)
    return keras.Model(x, keras.layers.Dense(FEATURES, dtype=dtype)(h))


def readings(rows=1, steps=7, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, steps, FEATURES)).astype("float32")


def session(model, folder, **options):
    ks.export_step_model(model, folder, **options)
    return ks.load_session(folder)


def retrained(model):
    """The same model after one step of training."""
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(readings(2), readings(2, seed=1))
    return model


def after_reading(reader):
    read = getattr(reader, "read", None) or reader.predict_on_batch
    read(readings())
    return now(reader)


def take(reader, states):
    if hasattr(reader, "set_states"):
        reader.set_states(states)
    else:
        ks.set_states(reader, states)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Sessions and live models of the same weights before a training, and of those after it."""
    folder: Path = tmp_path_factory.mktemp("exports")
    model = network()
    before = [
        session(model, folder / "before"),
        session(ks.to_stateful(model, 4, resets="window"), folder / "converted"),
        ks.to_inference(model),
    ]
    retrained(model)
    return before, [session(model, folder / "after"), ks.to_inference(model)]


def now(reader):
    return reader.get_states() if hasattr(reader, "get_states") else ks.get_states(reader)


def assert_equal(states, expected):
    assert list(states) == list(expected)
    for key, arrays in expected.items():
        for array, other in zip(states[key], arrays, strict=True):
            np.testing.assert_array_equal(array, other)


def test_every_reader_of_the_same_weights_takes_the_states_of_the_others(readers):
    for group in readers:
        for reader in group:
            states = after_reading(reader)
            for other in group:
                take(other, states)
                assert_equal(now(other), states)


def test_states_from_before_a_retraining_are_refused(readers):
    before, after = readers
    for old in before:
        states = after_reading(old)
        for new in after:
            mine = after_reading(new)
            for kept in (
                states,
                copy.deepcopy(states),
                pickle.loads(pickle.dumps(states)),
                states.copy(),
            ):
                with pytest.raises(ValueError, match=r"`states` were made by other weights"):
                    take(new, kept)
            assert_equal(now(new), mine)
            take(new, dict(states))  # the way out that the message names


def test_the_model_that_they_were_read_from_takes_them_after_a_step_of_training():
    """Truncated backpropagation carries states past each update; so does parking them."""
    model = ks.to_stateful(network(), 2)
    parked = after_reading_two(model)
    retrained(model)
    ks.set_states(model, parked)
    assert_equal(ks.get_states(model), parked)
    with pytest.raises(ValueError, match="other weights"):
        ks.set_states(model, pickle.loads(pickle.dumps(parked)))


def after_reading_two(model):
    model.predict_on_batch(readings(2))
    return ks.get_states(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_states_that_are_not_finite_are_refused(readers, value):
    for reader in (readers[0][0], readers[0][2]):
        states = after_reading(reader)
        for key in states:
            broken = {k: [a.copy() for a in arrays] for k, arrays in states.items()}
            broken[key][-1][0, 1] = value
            with pytest.raises(ValueError, match=rf"(?s)`states\['{key}'\]` must be finite.*1 val"):
                take(reader, broken)


@pytest.mark.backend_free
def test_a_fingerprint_is_of_weights_alone(tmp_path):
    model = network()
    owner = ks.get_states(ks.to_inference(model)).fingerprint
    assert ks.get_states(ks.to_stateful(model, 5)).fingerprint == owner
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert ks.get_states(ks.to_inference(loaded)).fingerprint == owner
    for layer in loaded.weights:  # any weight counts, moving means among them
        value = np.array(keras.ops.convert_to_numpy(layer))
        changed = value.copy()
        changed.flat[0] += 0.25
        layer.assign(changed)
        assert ks.get_states(ks.to_inference(loaded)).fingerprint != owner
        layer.assign(value)


def test_a_mixed_network_and_its_artifact_have_one_fingerprint(tmp_path):
    model = network(dtype="mixed_bfloat16")
    exported = session(model, tmp_path / "exported")
    assert exported.manifest.fingerprint == ks.get_states(ks.to_inference(model)).fingerprint
    take(exported, after_reading(ks.to_inference(model)))


@pytest.mark.backend_free
def test_states_are_a_dict_and_a_tree():
    states = States({"b": [np.ones(2)], "a": [np.zeros(3), np.zeros(1)]}, "abc")
    assert states == {"b": states["b"], "a": states["a"]}
    assert [len(a) for a in keras.tree.flatten(states)] == [3, 1, 2]
    doubled = keras.tree.map_structure(lambda a: a * 2, states)
    assert isinstance(doubled, States)
    assert doubled.fingerprint is None  # nobody's states
    assert list(doubled["b"][0]) == [2, 2]
    assert len(fingerprint([((2,), np.ones(2))])) == 64


@pytest.mark.parametrize("rows", [[1], [2, 0], np.array([False, True, True])])
def test_rows_are_read_and_written_alone(rows):
    model = ks.to_inference(network(), 3)
    model.predict_on_batch(readings(3))
    whole, some = ks.get_states(model), ks.get_states(model, rows)
    index = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
    for key, arrays in whole.items():
        for array, part in zip(arrays, some[key], strict=True):
            np.testing.assert_array_equal(part, array[index])
    ks.reset_states(model)
    ks.set_states(model, some, rows)
    for key, arrays in ks.get_states(model).items():
        for array, before in zip(arrays, whole[key], strict=True):
            np.testing.assert_array_equal(array[index], before[index])
            assert not np.delete(array, index, axis=0).any()


@pytest.mark.parametrize("use", ["reset", "states"])
def test_an_empty_list_of_rows_is_refused_by_models_and_sessions_alike(readers, use):
    live, opened = readers[0][2], readers[0][0]
    calls = {
        "reset": (opened.reset, lambda rows: ks.reset_states(live, rows)),
        "states": (opened.get_states, lambda rows: ks.get_states(live, rows)),
    }[use]
    for call in calls:
        with pytest.raises(ValueError, match="at least one row index"):
            call([])
        if use == "reset":
            call([False])  # a mask says it: nobody
