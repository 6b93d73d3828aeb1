"""Files are loaded in a fresh process, whatever it has imported before and in whatever order."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_stateful as ks

ROOT = Path(__file__).resolve().parents[2]
BACKEND = keras.backend.backend()
PACKAGE, KERAS, RUNTIME = "import keras_stateful", "import keras", "import onnxruntime"
FRAMEWORK = f"import {BACKEND}"

LOAD = """
import keras
step = keras.saving.load_model("step.keras")
model = keras.saving.load_model("model.keras")
assert type(model).__name__ == "StatefulModel", type(model)
"""
RUN = f"""
import numpy as np
from keras_stateful import load_session
x = np.load("expected.npz")
np.testing.assert_allclose(model.predict(x["ids"], verbose=0), x["scores"], atol=1e-5)
session = load_session({str(ROOT / "tests" / "fixtures" / "flat" / "onnx")!r})
session.step([1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a program before has saved."""
    folder = tmp_path_factory.mktemp("saved")
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(5, 2),
            keras.layers.LSTM(3, return_sequences=True),
        ]
    )
    model = ks.to_stateful(network, 1)
    model.save(folder / "model.keras")
    ks.to_step_model(network).save(folder / "step.keras")
    (folder / "model.pickle").write_bytes(pickle.dumps(model))
    sequence = ks.StatefulSequence(np.arange(20) % 5, 1, 4)
    (folder / "sequence.pickle").write_bytes(pickle.dumps(sequence))
    ids = np.array([[1, 2, 3, 4]])
    np.savez(folder / "expected.npz", ids=ids, scores=network.predict(ids, verbose=0))
    return folder


def run(folder: Path, *code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": BACKEND},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "imports",
    [
        (PACKAGE, RUNTIME, KERAS, FRAMEWORK),
        (FRAMEWORK, KERAS, PACKAGE, RUNTIME),
        (RUNTIME, FRAMEWORK, PACKAGE, KERAS),
    ],
    ids=["package first", "package last", "runtime first"],
)
def test_models_and_artifacts_beside_each_other(folder, imports):
    """Of packages with native code one may break the other, as of two copies of a library."""
    done = run(folder, *imports, LOAD, RUN)
    assert done.returncode == 0, done.stderr


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "before",
    [
        "from keras import layers\nimport keras_stateful",
        "from keras_stateful import load_session",
        "import pickle\nwith open('model.pickle', 'rb') as file:\n    pickle.load(file)",
        "import pickle\nwith open('sequence.pickle', 'rb') as file:\n    pickle.load(file)",
        "import threading, keras_stateful\n"
        "thread = threading.Thread(target=__import__, args=['keras'])\nthread.start()\n"
        "keras_stateful.StatefulSequence\nthread.join()",
    ],
    ids=["package last", "session", "unpickled model", "unpickled data", "thread"],
)
def test_classes_are_registered_whatever_is_imported_first(folder, before):
    done = run(folder, before, LOAD)
    assert done.returncode == 0, done.stderr


@pytest.mark.backend_free
def test_a_model_in_a_program_that_does_not_import_the_package(folder):
    """Keras imports none of the modules that a file names, but says which they are."""
    done = run(folder, "import keras\nkeras.saving.load_model('model.keras')")
    assert done.returncode
    assert "Could not locate class 'StatefulModel'" in done.stderr
    assert "'module': 'keras_stateful." in done.stderr


@pytest.mark.backend_free
def test_sessions_import_no_framework(folder):
    code = """
import sys
from importlib import import_module
from pathlib import Path
import keras_stateful
for path in Path(keras_stateful.__file__).parent.joinpath("session").glob("*.py"):
    import_module(f"keras_stateful.session.{path.stem}")
frameworks = {"keras", "jax", "tensorflow", "torch", "onnxruntime", "pandas", "matplotlib"}
assert not frameworks & sys.modules.keys(), frameworks & sys.modules.keys()
"""
    done = run(folder, code)
    assert done.returncode == 0, done.stderr
