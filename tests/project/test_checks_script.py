"""The script that runs every check may not take silence for success."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("checks_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "checks_script", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "passed", "failed"),
    [
        ("def test_one(): pass", 1, 0),
        ("def test_one(): assert 0\ndef test_two(): pass", 1, 1),
        ("import pytest\ndef test_one(): pytest.skip()\ndef test_two(): pass", 1, 0),
        ("x = 1", 0, 1),  # no test found
        ("import nothing_of_this_name", 0, 1),
        ("import os\nos._exit(0)", 0, 1),  # no report
    ],
)
def test_counts(script, monkeypatch, tmp_path, body, passed, failed):
    (tmp_path / "test_it.py").write_text(body)
    monkeypatch.setitem(script.CHECKS, "jax", ["pytest", "-p", "no:cacheprovider", str(tmp_path)])
    monkeypatch.setattr(script, "ROOT", tmp_path)
    result = script.check("jax", Path(sys.executable), tmp_path / "compiled")
    assert (result.passed, result.failed) == (passed, failed)


def test_slow_tests_are_run_and_no_others(script, monkeypatch, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.slow\ndef test_one(): pass\ndef test_two(): assert 0"
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    slow: as in pyproject.toml\naddopts = -m 'not slow'"
    )
    command = [str(tmp_path) if part == "tests" else part for part in script.CHECKS["slow"]]
    monkeypatch.setitem(script.CHECKS, "slow", [*command, "-p", "no:cacheprovider"])
    monkeypatch.setattr(script, "ROOT", tmp_path)
    result = script.check("slow", Path(sys.executable), tmp_path / "compiled")
    assert (result.passed, result.failed) == (1, 0), result.output


def test_a_check_that_hangs_fails(script, monkeypatch, tmp_path):
    (tmp_path / "test_it.py").write_text("import time\ndef test_one(): time.sleep(60)")
    monkeypatch.setitem(script.CHECKS, "jax", ["pytest", str(tmp_path)])
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "LIMIT", 2)
    result = script.check("jax", Path(sys.executable), tmp_path / "compiled")
    assert (result.passed, result.failed) == (0, 1)
    assert "stopped after 2 seconds" in result.output
