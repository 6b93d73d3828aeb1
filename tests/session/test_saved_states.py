"""States in a file keep their owner, and a damaged file is never a state."""

import os

import keras
import numpy as np
import pytest
from damage import rewrite_head, with_a_byte_inverted

import keras_stateful as ks
from keras_stateful.foundation.states import States

pytestmark = pytest.mark.backend_free


def states(fingerprint="ab" * 32):
    rng = np.random.default_rng(0)
    layers = {"encoder/lstm": [rng.normal(size=(2, 3))] * 2, "gru#1": [rng.normal(size=(2, 4))]}
    return States(
        {k: [a.astype("float32") for a in arrays] for k, arrays in layers.items()}, fingerprint
    )


@pytest.mark.parametrize("fingerprint", ["ab" * 32, None])
def test_what_is_saved_is_loaded(tmp_path, fingerprint):
    path, saved = tmp_path / "states.npz", states(fingerprint)
    for _ in range(2):  # it may be saved again
        ks.save_states(path, saved)
    loaded = ks.load_states(path)
    assert loaded.fingerprint == fingerprint
    assert list(loaded) == list(saved)
    for key, arrays in saved.items():
        assert [a.dtype for a in loaded[key]] == [a.dtype for a in arrays]
        np.testing.assert_array_equal(loaded[key], arrays)
    assert os.listdir(tmp_path) == ["states.npz"]  # nothing is left behind


@pytest.mark.parametrize("steps", [[1], [1, 2, 3], [-1, 2], [1.5, 2], ["1", 2], 7, None, [True, 2]])
def test_steps_that_are_not_those_of_the_rows_are_damage(tmp_path, steps):
    path, sound = tmp_path / "states.npz", states()
    sound.steps = np.array([3, 0])
    ks.save_states(path, sound)
    assert ks.load_states(path).steps.tolist() == [3, 0]
    rewrite_head(path, steps=steps)
    with pytest.raises(ValueError, match="damaged .*steps are not those of"):
        ks.load_states(path)


def test_a_conversation_goes_on_after_a_restart_but_not_after_a_retraining(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 2)), keras.layers.GRU(3, return_sequences=True), keras.layers.Dense(2)]
    )
    x = np.random.default_rng(1).normal(size=(1, 9, 2)).astype("float32")
    ks.export_step_model(model, tmp_path / "first")
    whole = ks.load_session(tmp_path / "first").read(x)
    session = ks.load_session(tmp_path / "first")
    session.read(x[:, :5])
    ks.save_states(tmp_path / "states.npz", session.get_states())
    again = ks.load_session(tmp_path / "first", batch_size=3)
    again.set_states(ks.load_states(tmp_path / "states.npz"), rows=[2])
    np.testing.assert_array_equal(again.read(x[:, 5:], rows=[2]), whole[:, 5:])
    live = ks.to_inference(model)
    ks.set_states(live, ks.load_states(tmp_path / "states.npz"))
    np.testing.assert_allclose(live.predict_on_batch(x[:, 5:]), whole[:, 5:], atol=1e-5)
    for weight in model.weights:
        weight.assign(weight + 0.1)
    ks.export_step_model(model, tmp_path / "second")
    with pytest.raises(ValueError, match="made by other weights"):
        ks.load_session(tmp_path / "second").set_states(ks.load_states(tmp_path / "states.npz"))


def test_every_damage_is_found(tmp_path):
    path = tmp_path / "states.npz"
    ks.save_states(path, states())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    sound = states()
    for size in rng.integers(0, len(content), 40).tolist():
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged"):
            ks.load_states(path)
    for damaged in with_a_byte_inverted(content, 200):
        path.write_bytes(damaged)
        try:  # a byte that says nothing, a date for example, may be any
            loaded = ks.load_states(path)
        except ValueError:
            continue
        assert loaded.fingerprint == sound.fingerprint
        for key, arrays in sound.items():
            np.testing.assert_array_equal(loaded[key], arrays)


def test_other_files_and_other_values_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "objects.npz", states=np.array([{}], object))
    (tmp_path / "text.npz").write_text("states")
    np.save(tmp_path / "array.npz", np.ones(3))  # written to `array.npz.npy`
    os.replace(tmp_path / "array.npz.npy", tmp_path / "array.npz")
    with pytest.raises(ValueError, match="it is no `.npz` archive"):
        ks.load_states(tmp_path / "array.npz")
    for name in ("other", "objects", "text"):
        with pytest.raises(ValueError, match=f"{name}.npz is not a file of `save_states`"):
            ks.load_states(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        ks.load_states(tmp_path / "none.npz")
    for wrong in ([1], {"a": np.ones(2)}, {"a": ["text"]}, {"a": [None]}):
        with pytest.raises(TypeError, match="`states` must"):
            ks.save_states(tmp_path / "wrong.npz", wrong)
    with pytest.raises(TypeError, match=r"`save_states\(path, states\)`"):
        ks.save_states(states(), tmp_path / "swapped.npz")
    assert not (tmp_path / "wrong.npz").exists()
