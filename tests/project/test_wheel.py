"""What `pip install` would put on a machine."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import keras_stateful

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(tmp_path),
    ]
    done = subprocess.run(build, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert f"-{keras_stateful.__version__}-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_stateful").rglob("*")
        if path.suffix in (".py", ".html") or path.name == "py.typed"
    }
    assert "keras_stateful/py.typed" in package
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_extras_that_errors_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {
        extra
        for path in (ROOT / "keras_stateful").rglob("*.py")
        for call in re.findall(r"pip_install\((.*?)\)", path.read_text(encoding="utf-8"))
        for extra in re.findall(r"['\"](\w+)['\"]", call)
    }
    assert named
    assert named <= set(extras)
