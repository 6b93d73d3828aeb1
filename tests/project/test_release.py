"""What a release changes, and that files agree about the version and where it is to be had."""

import datetime
import importlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

import keras_stateful
from keras_stateful.foundation import version

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [*(ROOT / "keras_stateful").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
ADDRESS = "https://forge.example/somebody/keras_stateful"
DATE = datetime.date(2030, 2, 28)
unpublished = pytest.mark.skipif(version.PUBLISHED, reason="the index has it: this is past")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.release")


@pytest.fixture
def copy(tmp_path):
    """The files that a release may change."""
    for path in [*PAGES, *(ROOT / n for n in ("CHANGELOG.md", "CITATION.cff", "pyproject.toml"))]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    target = tmp_path / Path(version.__file__).relative_to(ROOT)
    target.parent.mkdir(parents=True)
    shutil.copy(version.__file__, target)
    return tmp_path


def installed_as(text: str) -> list[str]:
    """What the commands of installation of a text install, of this package."""
    return re.findall(r'pip install (?:-\S+ )*"(\.|keras-stateful)(?:\[|")', text)


def test_no_text_says_otherwise_than_the_errors():
    texts = {path.name: path.read_text(encoding="utf-8") for path in [*PAGES, *CODE]}
    del texts["version.py"]
    if version.PUBLISHED:
        assert not [name for name, text in texts.items() if "a clone of keras_stateful" in text]
    else:
        assert not [name for name, text in texts.items() if "keras-stateful" in installed_as(text)]
        assert not [name for name, text in texts.items() if "pip install keras-stateful" in text]


def test_commands_say_where_they_work():
    """Alone they are written so that a release finds them; others run what lies in the clone."""
    for path in PAGES:
        blocks = re.split(r"^\s*```.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for block in blocks:
            for line in block.splitlines():
                if '".[' in line and not re.search("examples/|scripts/", block):
                    assert "a clone of keras_stateful" in line, f"{path.name}: {line}"


@unpublished
def test_publishing_changes_where_it_is_installed_from_and_nothing_else(script, copy):
    changes = script.publish(copy, ADDRESS)
    assert {"README.md", "docs/index.md", "docs/deploy.md", script.VERSION} <= changes.keys()
    for path, text in changes.items():
        if not path.endswith(".md"):
            continue
        assert "a clone of keras_stateful" not in text
        assert "keras-stateful" in installed_as(text)
        # Backwards, it is the page that was.
        for there, back in (
            (r'(pip install (?:-\S+ )*")keras-stateful(.*")(`)', r"\1.\2\3 in a clone"),
            (r'(pip install (?:-\S+ )*")keras-stateful(.*")$', r"\1.\2  # in a clone"),
        ):
            text = re.sub(there, rf"{back} of keras_stateful", text, flags=re.MULTILINE)
        assert text.replace(f"{ADDRESS}/blob/main/", "") == (copy / path).read_text("utf-8")


@unpublished
def test_a_published_version_speaks_of_the_index(script, copy):
    changes = script.publish(copy, ADDRESS)
    names: dict = {}
    exec(changes[script.VERSION], names)
    assert names["__version__"] == version.__version__
    assert names["pip_install"]("jax", "export") == '`pip install "keras-stateful[jax,export]"`'
    project = tomllib.loads(changes["pyproject.toml"])["project"]
    assert project.pop("urls")["Repository"] == ADDRESS
    assert project == tomllib.loads((copy / "pyproject.toml").read_text())["project"]
    assert f'repository-code: "{ADDRESS}"' in changes["CITATION.cff"]


@unpublished
def test_links_of_the_readme_lead_somewhere_on_an_index_too(script, copy):
    links = re.findall(r"\]\(([^)#\s]+)", script.publish(copy, ADDRESS)["README.md"])
    ours = [link for link in links if link.startswith(f"{ADDRESS}/blob/main/")]
    assert len(ours) > 20
    assert all((ROOT / link.removeprefix(f"{ADDRESS}/blob/main/")).exists() for link in ours)
    assert all("://" in link for link in links)


def test_errors_say_what_works(monkeypatch):
    monkeypatch.setattr(version, "PUBLISHED", False)
    assert version.pip_install("plots") == '`pip install ".[plots]"` in a clone of keras_stateful'
    monkeypatch.setattr(version, "PUBLISHED", True)
    assert version.pip_install("jax", "export") == '`pip install "keras-stateful[jax,export]"`'


def test_a_release_has_one_version_and_one_date(script, copy):
    (copy / "CHANGELOG.md").write_text("# C\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n")
    changes = script.release(copy, "99.0.1", DATE)
    assert changes["CHANGELOG.md"] == (
        "# C\n\n## [Unreleased]\n\n## [99.0.1] - 2030-02-28\n\n### Added\n\n- A thing.\n"
    )
    assert '__version__ = "99.0.1"\n' in changes[script.VERSION]
    assert "\nversion: 99.0.1\ndate-released: 2030-02-28\n" in changes["CITATION.cff"]
    for path, text in changes.items():
        (copy / path).write_text(text)
    with pytest.raises(ValueError, match="it was released"):
        script.release(copy, "99.0.1", DATE)
    with pytest.raises(ValueError, match="nothing under Unreleased"):
        script.release(copy, "99.0.2", DATE)
    changelog = copy / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("leased]\n", "leased]\n\n- A fix.\n"))
    citation = script.release(copy, "99.0.2", DATE + datetime.timedelta(1))["CITATION.cff"]
    assert citation.count("date-released") == 1


@pytest.mark.parametrize("wrong", ["1.0", "v1.0.0", "1.0.0rc1", ""])
def test_what_is_no_version(script, copy, wrong):
    with pytest.raises(ValueError, match=r"A version is X\.Y\.Z"):
        script.release(copy, wrong, DATE)


@pytest.mark.parametrize("wrong", ["forge.example/x", "https://forge.example/x/", ""])
def test_what_is_no_address(script, copy, wrong):
    with pytest.raises(ValueError, match="An address is https"):
        script.publish(copy, wrong)


@unpublished
def test_nothing_is_published_twice(script, copy):
    for path, text in script.publish(copy, ADDRESS).items():
        (copy / path).write_text(text)
    with pytest.raises(ValueError, match=r"version\.py should have .* once, and has it 0 times"):
        script.publish(copy, ADDRESS)


def test_a_call_that_is_refused_changes_nothing(script, monkeypatch, copy):
    monkeypatch.setattr(script, "ROOT", copy)
    monkeypatch.setattr(sys, "argv", ["release.py", "version", "x"])
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="Nothing was changed"):
        script.main()
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_files_agree_about_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [keras_stateful.__version__]
    released = dict(
        re.findall(
            r"^## \[(\d\S*)\] - (\S+)$",
            (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    dated = re.findall(r"^date-released: (.*)$", citation, re.MULTILINE)
    assert dated == [released[v] for v in [keras_stateful.__version__] if v in released]
