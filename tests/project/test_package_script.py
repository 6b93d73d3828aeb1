"""The environments in which the package is tried hold what it declares, and nothing else."""

import importlib
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
OURS = "keras-stateful"
FRAMEWORKS = {"jax", "tensorflow", "torch"}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.package")


def names(script, *needed: str) -> set[str]:
    return {one.name.lower() for one in script.closure(list(needed))}


@pytest.mark.parametrize("backend", sorted(FRAMEWORKS))
def test_one_backend_brings_no_other(script, backend):
    needed = script.requirements(distribution(OURS), {backend})
    brought = names(script, *needed)
    assert {"keras", "numpy", "h5py"} <= brought
    assert brought & FRAMEWORKS == {backend}
    assert not brought & {"matplotlib", "onnxruntime", "pytest", "pandas"}


def test_extras_of_what_is_needed_come_along(script):
    plain = names(script, f"{OURS}[torch]")
    assert names(script, f"{OURS}[torch,plots]") - plain >= {"matplotlib"}
    assert names(script, OURS, f"{OURS}[torch]") == plain


def test_what_a_session_needs_is_no_framework(script):
    brought = names(script, *script.SESSION)
    assert "onnxruntime" in brought
    assert not brought & {"keras", *FRAMEWORKS}


def test_a_version_that_does_not_suffice_is_no_check(script):
    with pytest.raises(AssertionError, match=r"numpy>=99 is needed, \S+ is installed"):
        script.closure(["numpy>=99"])


def test_files_of_a_distribution_lie_where_they_are_linked_from(script):
    numpy = distribution("numpy")
    paths = script.files(numpy)
    assert Path("numpy/__init__.py") in paths
    assert all(numpy.locate_file(path).exists() for path in paths[:100])
