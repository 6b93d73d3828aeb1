"""Every patch of `docs/upstream/`: its test, and the program of its report, fail with the installed
Keras, and pass with the patch.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from patched_keras import ROOT, UPSTREAM, failures, patch_of, patched, trained

TABLE = re.findall(
    r"^\| \[\d\]\(([\w-]+)/report\.md\) \| [^|]+ \| ([\w, ]+) \|",
    (UPSTREAM / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
FOLDERS = [folder for folder, _ in TABLE]
PATCHED = [folder for folder in FOLDERS if patch_of(folder).exists()]
NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "torch"}
HERE = [
    folder
    for folder, backends in TABLE
    if folder in PATCHED
    and (backends == "all" or NAMES[keras.backend.backend()] in backends.split(", "))
]

pytestmark = [
    pytest.mark.skipif(not shutil.which("git"), reason="the patches are applied by git"),
    pytest.mark.skipif(not PATCHED, reason=f"there are no patches for Keras {keras.__version__}"),
]


def run_with(overlay, folders):
    """What `patched_keras` says in a process in which Keras is the patched one."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "patched_keras.py"), *folders],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(overlay), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KERAS_BACKEND": keras.backend.backend(),
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["keras"].startswith(str(overlay))
    return result


@pytest.fixture(scope="module")
def with_all(tmp_path_factory):
    overlay = patched(tmp_path_factory.mktemp("all"), [patch_of(folder) for folder in PATCHED])
    return run_with(overlay, HERE)


@pytest.mark.backend_free
def test_upstream_page_lists_every_patch():
    assert sorted(FOLDERS) == sorted(path.name for path in UPSTREAM.iterdir() if path.is_dir())
    for folder in FOLDERS:
        names = {path.name for path in (UPSTREAM / folder).iterdir()} - {"__pycache__"}
        assert {"report.md", "keras-3.15.patch"} < names
        assert any(name.endswith("_test.py") for name in names)


@pytest.mark.backend_free
@pytest.mark.parametrize("folder", PATCHED)
def test_upstream_patch_applies_alone(folder, tmp_path):
    patched(tmp_path, [patch_of(folder)])


@pytest.mark.parametrize("folder", HERE)
def test_fails_without_the_patch(folder):
    program, *tests = failures(folder, failfast=True)
    assert program.startswith("the program")
    assert tests


@pytest.mark.parametrize("folder", HERE)
def test_passes_with_all_patches(folder, with_all):
    assert with_all["failures"][folder] == []


def test_this_package_trains_as_before_with_all_patches(with_all):
    np.testing.assert_allclose(with_all["trained"], trained(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("folder", HERE)
def test_passes_with_its_patch_alone(folder, tmp_path):
    overlay = patched(tmp_path, [patch_of(folder)])
    assert run_with(overlay, [folder])["failures"][folder] == []
