"""The installed Keras with patches of `docs/upstream/`, in a folder of its own.

    overlay/keras/src/layers/rnn/rnn.py   a copy, patched
    overlay/keras/src/layers/rnn/*        links to the installed files
    overlay/keras/src/*                   links

Run as a script, with such a folder first on the path, this module prints as JSON what fails of the
given folders of `docs/upstream/`, and the numbers of a training of this package.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types
import unittest
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ROOT / "docs" / "upstream"


def patch_of(folder: str) -> Path:
    """The patch in a folder of `docs/upstream/` for the installed Keras; it need not exist."""
    minor = ".".join(keras.__version__.split(".")[:2])
    return UPSTREAM / folder / f"keras-{minor}.patch"


def patched(overlay: Path, patches: list[Path]) -> Path:
    """Makes a folder whose `keras` is the installed one with these patches, one after the other."""
    installed = Path(keras.__file__).parent
    texts = [patch.read_text(encoding="utf-8") for patch in patches]
    for name in {n for text in texts for n in re.findall(r"^\+\+\+ b/keras/(\S+)", text, re.M)}:
        _copy(installed, overlay / "keras", name)
    ceiling = {"GIT_CEILING_DIRECTORIES": str(overlay.parent)}  # this is no part of a repository
    for patch in patches:
        command = ["git", "apply", str(patch)]
        done = subprocess.run(
            command, cwd=overlay, env=os.environ | ceiling, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{patch}: {done.stderr}"
    return overlay


def _copy(installed: Path, overlay: Path, name: str) -> None:
    """Copies one file; links what lies beside it and beside the folders that it lies in."""
    first, _, rest = name.partition("/")
    if not overlay.exists():
        overlay.mkdir(parents=True)
        for path in installed.iterdir():
            if path.name != "__pycache__":
                (overlay / path.name).symlink_to(path)
    if (overlay / first).is_symlink():
        (overlay / first).unlink()
        if not rest:
            shutil.copyfile(installed / first, overlay / first)
    if rest:
        _copy(installed / first, overlay / first, rest)


def failures(folder: str, failfast: bool = False) -> list[str]:
    """What fails with the Keras at hand, the program of a report first, then tests.

    Args:
        folder: its name in `docs/upstream/`.
        failfast: stop at the first test.
    """
    failed = []
    report = (UPSTREAM / folder / "report.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", report, re.DOTALL | re.MULTILINE)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program, f"{folder}/report.md", "exec"), {})
    except AssertionError:
        failed.append(f"the program of {folder}/report.md")
    return failed + _failed_tests(folder, failfast)


def _failed_tests(folder: str, failfast: bool) -> list[str]:
    (path,) = (UPSTREAM / folder).glob("*_test.py")
    module = types.ModuleType(f"upstream_{folder[0]}")
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    filtered = keras.config.is_traceback_filtering_enabled()
    try:  # Keras's `TestCase` switches it off for good
        with contextlib.redirect_stderr(io.StringIO()):
            result = unittest.TextTestRunner(io.StringIO(), failfast=failfast).run(suite)
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()
    assert result.testsRun > len(result.skipped), f"{path} has no test for this backend"
    return [f"{test.id()}\n{text}" for test, text in result.failures + result.errors]


def trained() -> list[float]:
    """Losses of two short trainings: of a converted model, and of a plain stateful one."""
    from keras_stateful import ResetStatesCallback, StatefulSequence, to_stateful

    numbers = []
    rng = np.random.default_rng(0)
    documents = [rng.normal(size=(length, 2)).astype("float32") for length in (9, 6, 4, 13)]
    for converted in (True, False):
        keras.utils.set_random_seed(0)
        data = StatefulSequence(documents, 2, 4, targets=documents, resets=converted)
        model = keras.Sequential(
            [
                keras.Input((4, 2), batch_size=2),
                keras.layers.LSTM(3, return_sequences=True, stateful=not converted),
                keras.layers.Dense(2),
            ]
        )
        if converted:
            model = to_stateful(model, data)
        model.compile(keras.optimizers.SGD(0.1), "mse", weighted_metrics=["mae"])
        callbacks = [] if converted else [ResetStatesCallback(data, data)]
        history = model.fit(
            data, epochs=2, validation_data=data, verbose=0, callbacks=callbacks
        ).history
        numbers += [float(value) for name in sorted(history) for value in history[name]]
    return numbers


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "keras": keras.__file__,
                "failures": {folder: failures(folder) for folder in sys.argv[1:]},
                "trained": trained(),
            }
        )
    )
