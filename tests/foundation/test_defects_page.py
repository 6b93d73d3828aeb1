"""The programs of `docs/keras-defects.md`, which assert what plain Keras does, on the backend at
hand.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_stateful.foundation import keras_internals

PAGE = Path(__file__).resolve().parents[2] / "docs" / "keras-defects.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
PROGRAMS = {
    s.split("\n", 1)[0]: re.findall(r"^```python\n(.*?)^```", s, re.DOTALL | re.MULTILINE)
    for s in SECTIONS
    if all(map(keras_internals.has_keras, re.findall(r"^Since Keras (\d\.\d+):", s, re.MULTILINE)))
}


def test_every_defect_has_a_program():
    assert len(PROGRAMS) > 10
    assert all(PROGRAMS.values())


def test_every_defect_is_still_there():
    """In one process, each in a namespace of its own: imports cost most of it."""
    code = f"""
failed = []
for name, parts in {PROGRAMS!r}.items():
    names = {{}}
    try:
        for part in parts:
            exec(compile(part, name, "exec"), names)
    except AssertionError:
        failed.append(name)
assert not failed, failed
"""
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.fail(done.stderr[-3000:])
