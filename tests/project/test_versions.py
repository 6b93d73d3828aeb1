"""The versions that this package is for: what it asks for, what is tested, what it leaves alone."""

import json
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "test.py"))
RELEASES, installations = SCRIPT["RELEASES"], SCRIPT["installations"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What else stock Colab has of what the extras ask for, directly or not; the list as of `RELEASES`.
BESIDE = {
    "absl-py": "1.4.0",
    "array_record": "0.8.3",
    "attrs": "26.1.0",
    "dm-tree": "0.1.10",
    "einops": "0.8.2",
    "etils": "1.14.0",
    "filelock": "3.32.3",
    "flatbuffers": "25.12.19",
    "fsspec": "2025.3.0",
    "grpcio": "1.83.0",
    "h5py": "3.16.0",
    "huggingface_hub": "1.27.0",
    "immutabledict": "4.3.1",
    "jaxlib": "0.7.2",
    "Jinja2": "3.1.6",
    "matplotlib": "3.10.0",
    "ml_dtypes": "0.6.0",
    "namex": "0.1.0",
    "narwhals": "2.24.0",
    "networkx": "3.6.1",
    "optree": "0.19.1",
    "packaging": "26.3",
    "pandas": "2.2.3",
    "pillow": "11.3.0",
    "polars": "1.35.2",
    "promise": "2.3",
    "psutil": "5.9.5",
    "pyarrow": "18.1.0",
    "requests": "2.32.4",
    "rich": "13.9.4",
    "scikit-learn": "1.6.1",
    "scipy": "1.16.3",
    "setuptools": "75.2.0",
    "sympy": "1.14.0",
    "tensorboard": "2.20.0",
    "tensorflow-datasets": "4.9.10",
    "tensorflow-metadata": "1.21.0",
    "termcolor": "3.3.0",
    "tokenizers": "0.22.2",
    "toml": "0.10.2",
    "tqdm": "4.67.3",
    "typing_extensions": "4.16.0",
    "wrapt": "2.3.0",
}


def requirement(name: str) -> str:
    extras = PROJECT["optional-dependencies"]
    everything = [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]
    (line,) = {line for line in everything if re.match(rf"{name}\b(?!-)", line)}
    return line


@pytest.mark.parametrize("name", ["keras", "tensorflow", "jax", "torch"])
def test_the_lower_bounds_are_what_the_oldest_release_pins(name):
    pinned = re.sub(r"\.0$", "", RELEASES["oldest"][name])
    assert requirement(name) in (f"{name}>={pinned}", f"{name}>={pinned}.0")


def test_the_pythons_of_the_classifiers_are_those_of_the_workflow():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    run = set(re.findall(r'python(?:-version)?: "(3\.\d+)"', workflow))
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert min(named, key=lambda v: int(v[2:])) == PROJECT["requires-python"].removeprefix(">=")
    assert {min(run), max(run)} == {min(named), max(named)}


def test_the_page_has_the_pins():
    page = (ROOT / "docs" / "versions.md").read_text("utf-8")
    for name in RELEASES["oldest"]:
        row = f"| {name} | {RELEASES['oldest'][name]} | {RELEASES['colab'][name]} |"
        assert row in page
    assert RELEASES["colab"]["protobuf"] in page


def test_a_release_pins_what_another_version_does_not_replace():
    first, everything = installations("colab", None, None)
    assert first == ["torch==2.11.0"]
    assert {"keras==3.13.2", "jax==0.7.2", "tensorflow==2.20.0", "torch==2.11.0"} <= {*everything}
    assert not any("jax2onnx" in part for part in everything)
    first, everything = installations("colab", "3.12.1", "2.13.0")
    assert first == ["torch==2.13.0"]
    assert {"keras==3.12.1", "jax==0.7.2", "torch==2.13.0"} <= {*everything}
    assert "keras==3.13.2" not in everything
    (first,), everything, nightly = installations("newest", "nightly", "newest")
    assert first == "torch"
    assert "keras" in everything
    assert any("jax2onnx" in part for part in everything)
    assert nightly[-1] == "keras-nightly"


def pip(*arguments, seconds: int = 120) -> subprocess.CompletedProcess:
    """Runs pip, which does not wait for an index that does not answer."""
    quick = ("--disable-pip-version-check", "--retries", "0", "--timeout", "10")
    return subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), *quick],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """The Python of an environment that says of itself what Colab's says: names and versions."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    for name, version in {**RELEASES["colab"], **BESIDE}.items():
        about = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        fields = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (about / "METADATA").write_text(fields)
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}), "python")


@pytest.fixture(scope="module")
def index() -> None:
    """Skips what has to ask an index, where none answers."""
    try:
        done = pip("install", "--dry-run", "--ignore-installed", "--no-deps", "-q", "namex")
    except subprocess.TimeoutExpired:
        pytest.skip("the index does not answer")
    if done.returncode:
        pytest.skip(f"no index: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def replaced(python: Path, requirement: str) -> dict[str, str]:
    """What pip would install in this environment in the place of what is there."""
    done = pip("--python", python, "install", "--dry-run", "-q", "--report", "-", requirement)
    assert done.returncode == 0, done.stderr
    installed = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    there = {re.sub("[-_.]+", "-", name).lower() for name in (*RELEASES["colab"], *BESIDE)}
    versions = {re.sub("[-_.]+", "-", m["name"]).lower(): m["version"] for m in installed}
    return {name: version for name, version in versions.items() if name in there}


def test_nothing_that_colab_has_is_replaced(colab, wheel):
    """Colab has all that these extras ask for: no index is asked."""
    assert replaced(colab, f"{wheel}[tensorflow,jax,torch,plots,datasets]") == {}


@pytest.mark.usefixtures("index")
def test_nothing_that_colab_has_is_replaced_by_what_exporters_need(colab, wheel):
    assert replaced(colab, f"{wheel}[export]") == {}


@pytest.mark.usefixtures("index")
def test_what_would_be_replaced_is_seen(colab):
    assert "jax" in replaced(colab, "jax>=0.8.1")
