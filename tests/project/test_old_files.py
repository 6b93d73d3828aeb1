"""Files that an earlier version wrote are read: models, weights, artifacts, backups.

Commit 6a65e60 wrote `tests/fixtures/flat/`, with the program `tests/support/old_files.py`. Its
modules lay in one folder: what its files name by module must be found by another name since.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import old_files
import pytest
from releases import since_keras

import keras_stateful as ks

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "flat"
BACKEND = keras.backend.backend()
# Keras 3.15 wrote them: an older one does not know its configs, and `ResumeTraining` compares them.
loads = since_keras("3.15")
resumes = pytest.mark.skipif(
    not keras.__version__.startswith("3.15."), reason="a training goes on with the Keras it had"
)
TOLERANCE = 1e-5  # two machines add up in different orders


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """Inputs, and what the models gave for them: `ids (1, time)`, `scores (1, time, IDS)`, ..."""
    with np.load(FOLDER / "expected.npz") as arrays:
        return dict(arrays)


@loads
def test_an_inference_model(expected):
    model = keras.models.load_model(FOLDER / "inference.keras")
    scores = model.predict(expected["ids"], verbose=0)
    np.testing.assert_allclose(scores, expected["scores"], atol=TOLERANCE)


@loads
def test_a_training_model_that_is_converted_now(expected):
    model = keras.models.load_model(FOLDER / "training.keras")
    scores = ks.to_inference(model).predict(expected["ids"], verbose=0)
    np.testing.assert_allclose(scores, expected["scores"], atol=TOLERANCE)


@loads
def test_a_training_model_goes_on_with_its_optimizer():
    model = keras.models.load_model(FOLDER / "training.keras")
    if BACKEND != "jax":
        model.jit_compile = False  # the file says True, as JAX chose: others compile for minutes
    sequence, _ = old_files.training()
    assert int(model.optimizer.iterations) == len(sequence)
    history = model.fit(sequence, verbose=0).history
    assert history["loss"][0] < np.log(old_files.IDS)


@loads
def test_every_kind_of_layer_with_resets(expected):
    model = keras.models.load_model(FOLDER / "kinds.keras", compile=False)
    images = model.predict_on_batch([expected["readings"], expected["resets"]])
    np.testing.assert_allclose(images, expected["images"], atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_weights_in_a_model_that_is_built_now(expected):
    _, model = old_files.training()
    model.load_weights(FOLDER / "training.weights.h5")
    scores = ks.to_inference(model).predict(expected["ids"], verbose=0)
    np.testing.assert_allclose(scores, expected["scores"], atol=TOLERANCE)


@loads
def test_a_step_model(expected):
    model = keras.models.load_model(FOLDER / "step.keras")
    states = ks.initial_states(model, 1)
    for ids, scores in zip(expected["ids"].T, expected["scores"][0], strict=True):
        step, *states = model([ids[:, None], *states])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(step)[0, 0], scores, atol=TOLERANCE)


@pytest.mark.backend_free
def test_an_artifact(expected):
    pytest.importorskip("onnxruntime")
    session = ks.load_session(FOLDER / "onnx")
    assert session.metadata == {"alphabet": list("abcdefg")}
    for ids, scores in zip(expected["ids"].T, expected["scores"][0], strict=True):
        np.testing.assert_allclose(np.squeeze(session.step(ids)), scores, atol=TOLERANCE)


@resumes
def test_a_stopped_training_goes_on_and_ends_as_if_unbroken(tmp_path):
    """Losses from the saved step on; the history, the samples and the log from the first one."""
    written = FOLDER / f"backup-{BACKEND}"
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    unbroken = json.loads((written / "expected.json").read_text())
    steps = old_files.Steps()
    sequence, model = old_files.training()
    callbacks = old_files.callbacks(tmp_path, sequence, steps)
    history = model.fit(sequence, epochs=old_files.EPOCHS, verbose=0, callbacks=callbacks)
    resumed = old_files.results(steps, callbacks, history, tmp_path / "log.csv")

    saved = old_files.STOPPED_AFTER // old_files.SAVE_FREQ * old_files.SAVE_FREQ
    assert len(resumed["losses"]) == len(unbroken["losses"]) - saved
    np.testing.assert_allclose(resumed["losses"], unbroken["losses"][saved:], rtol=TOLERANCE)
    assert resumed["history"].keys() == unbroken["history"].keys()
    for key, values in unbroken["history"].items():
        np.testing.assert_allclose(resumed["history"][key], values, rtol=1e-4, err_msg=key)
    assert resumed["samples"] == {int(epoch): text for epoch, text in unbroken["samples"].items()}
    assert [line.split(",")[0] for line in resumed["log"]] == ["epoch", "0", "1", "2"]
    assert resumed["log"][:2] == (written / "log.csv").read_text().splitlines()
