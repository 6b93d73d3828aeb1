"""Files of models: what is written loads, whatever was imported first."""

import sys

import keras
import numpy as np
import pytest
from small_trainings import model_for, network, sequence

import keras_stateful as ks
from keras_stateful.foundation.on_import import after_import


def step_model():
    return ks.to_step_model(network())


def inside_another():
    model = model_for("converted", resets=False)
    x = keras.Input(batch_shape=model.inputs[0].shape, dtype="int32")
    return keras.Model(x, model(x))


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
@pytest.mark.parametrize(
    "save",
    [
        lambda model, path: model.save(path),
        lambda model, path: keras.saving.save_model(model, path),
    ],
    ids=["save", "save_model"],
)
@pytest.mark.parametrize(
    "make", [lambda: model_for("converted"), step_model, inside_another], ids=["", "step", "inside"]
)
def test_an_hdf5_file_that_would_not_load_is_refused(make, save, name, tmp_path):
    with pytest.raises(ValueError, match=r"Received: filepath=.*h.*5'\. Save it as `\.keras`"):
        save(make(), tmp_path / name if name == "model.h5" else str(tmp_path / name))


def test_the_remedy_works_and_weights_go_into_hdf5(tmp_path):
    model = model_for("converted")
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded) is type(model)
    loaded.fit(sequence(), verbose=0)
    loaded.load_weights(tmp_path / "m.weights.h5")
    keras.tree.map_structure(
        np.testing.assert_array_equal, loaded.get_weights(), model.get_weights()
    )


@pytest.mark.parametrize("name", ["{epoch}.h5", "best.h5"])
def test_checkpoints_that_would_not_load_are_refused_before_the_first_step(name, tmp_path):
    model = model_for("converted")
    before = model.get_weights()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"ModelCheckpoint.filepath=.*save_weights_only=True"):
        model.fit(sequence(), verbose=0, callbacks=[checkpoint])
    keras.tree.map_structure(np.testing.assert_array_equal, model.get_weights(), before)


@pytest.mark.parametrize("convert", [lambda m, **k: ks.to_stateful(m, 2, **k), ks.to_step_model])
@pytest.mark.parametrize("wrap", [lambda layer: layer, keras.layers.TimeDistributed])
def test_a_file_from_a_stranger_runs_no_lambda(convert, wrap, tmp_path):
    """Keras's safe mode reaches the layers that a conversion wraps in its own."""
    layer = wrap(keras.layers.Lambda(lambda x: 2 * x, name="double"))
    network = keras.Sequential(
        [keras.Input((None, 3)), layer, keras.layers.LSTM(2, return_sequences=True)]
    )
    convert(network, local=[layer.name]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.saving.load_model(tmp_path / "model.keras")
    keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)


@pytest.mark.backend_free
def test_what_waits_for_an_import_is_done_once(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    done = []
    after_import("imported_late", lambda: done.append(sys.modules["imported_late"].value))
    assert not done
    import imported_late  # noqa: F401

    assert done == [1]
    after_import("imported_late", lambda: done.append(2))
    assert done == [1, 2]


@pytest.mark.parametrize("jit_compile", ["auto", True, False])
def test_how_a_step_is_compiled_is_decided_where_a_model_is_loaded(jit_compile, tmp_path):
    model = model_for("converted")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    by_default = model_for("converted").jit_compile
    expected = "auto" if model.jit_compile == by_default else model.jit_compile
    assert model.get_compile_config()["jit_compile"] == expected
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").jit_compile == model.jit_compile


@pytest.mark.parametrize("name", ["reset_states", "get_states", "generate", "predict_documents"])
def test_a_function_looked_for_as_a_method_is_named(name):
    model = model_for("converted")
    with pytest.raises(AttributeError, match=rf"function: `keras_stateful\.{name}\(model"):
        getattr(model, name)
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="no attribute 'is_not_there'"):
        model.is_not_there  # noqa: B018
