"""Every Python fence of the README, the docs and the docstrings runs.

A page is one namespace in one process; its lines keep their numbers, so that a traceback points at
the page. A fence opts out only by being no Python: text, bash or console. The part of a page that
is a notebook runs in test_notebooks.py.
"""

import inspect
import re
from pathlib import Path

import programs
import pytest
from releases import SLIDING_WINDOW

import keras_stateful

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
REPORTS = {*(ROOT / "docs" / "upstream").glob("*/report.md")}  # their programs are to fail
LANGUAGES = {"python", "text", "bash", "console"}
NOTEBOOK_ENDS = "<!-- Here the notebook ends. -->"


def fences(text: str) -> list[tuple[str, int, str]]:
    """`(language, number of the first line, code)` of every fence, indented ones too."""
    blocks, lines, start = [], text.splitlines(), None
    for number, line in enumerate(lines):
        fence = re.match(r"\s*(```+|~~~+)\s*(\S*)", line)
        if not fence:
            continue
        if start is None:
            start, language, indent = number + 1, fence[2], len(line) - len(line.lstrip())
        else:
            blocks.append((language, start, "\n".join(row[indent:] for row in lines[start:number])))
            start = None
    assert start is None, f"the fence that opens at line {start} is never closed"
    return blocks


def program(text: str) -> str:
    """The Python fences, each line where it stands in the page."""
    lines = [""] * len(text.splitlines())
    for language, start, code in fences(text):
        if language == "python":
            rows = code.splitlines()
            lines[start : start + len(rows)] = rows
    return "\n".join(lines)


def run(source: str, name: str, folder: Path) -> None:
    """Execute in a process of its own, in an empty folder."""
    script = folder / "page.py"
    script.write_text(source, encoding="utf-8")
    done = programs.run(script, folder, name=name, MPLBACKEND="agg", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    kinds = {language for language, _, _ in fences(text)}
    assert kinds <= LANGUAGES, (
        f"{page.name} has fences of {kinds - LANGUAGES}: make them python, or one of {LANGUAGES}"
    )
    if "sliding_window=" in program(text) and not SLIDING_WINDOW:
        pytest.skip("an older Keras")
    if NOTEBOOK_ENDS in text:
        start = text[: text.index(NOTEBOOK_ENDS)].count("\n")
        text = "\n" * start + text.partition(NOTEBOOK_ENDS)[2]
        kinds = {language for language, _, _ in fences(text)}
    # Reports are run by `test_upstream.py`, the defects on each backend by `test_defects_page.py`.
    if "python" in kinds and page not in REPORTS and page.name != "keras-defects.md":
        run(program(text), str(page.relative_to(ROOT)), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_exist(page):
    prose = re.sub(
        r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page):
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))


@pytest.mark.parametrize("name", ["backends", "reliability"])
def test_every_row_names_a_test(name):
    """Of the tables that have a column for it."""
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    tables = [table for table in tables if re.search(r"\| tests? \|$", table[0])]
    assert len(tables) >= 2
    for row in (row for table in tables for row in table[2:]):
        assert re.search(r"`test_\w+`[^|]*\|$", row), row


def test_every_public_name_is_on_the_api_page():
    named = re.findall(
        r"^::: keras_stateful\.(\w+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(named) == sorted(set(keras_stateful.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation():
    pages = set(re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert pages == {
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }


def test_docstring_examples(tmp_path):
    """All in one process, each in a namespace and a directory of its own."""
    examples = {}
    for name in sorted(set(keras_stateful.__all__) - {"__version__"}):
        value = getattr(keras_stateful, name)
        members = {name: value}
        if inspect.isclass(value):
            ours = [c for c in value.__mro__ if c.__module__.startswith("keras_stateful")]
            members |= {
                f"{name}.{key}": m
                for one in reversed(ours)
                for key, m in vars(one).items()
                if not key.startswith("_")
            }
        for path, member in members.items():
            code = [
                text
                for language, _, text in fences(inspect.getdoc(member) or "")
                if language == "python"
            ]
            if code:
                examples[path] = "\n".join(code)
    assert examples, "no docstring has an example"
    run(
        f"""
import os, tempfile, traceback
failed = []
for name, code in {examples!r}.items():
    os.chdir(tempfile.mkdtemp(dir={str(tmp_path)!r}))
    try:
        exec(compile(code, name, "exec"), {{"__name__": name}})
    except Exception:
        failed.append(name)
        traceback.print_exc()
assert not failed, failed
""",
        "docstring examples",
        tmp_path,
    )


def test_a_wrong_page_would_fail(tmp_path):
    page = "text\n\n```python\nx = 1\n```\n\n  ```python\n  assert x == 2\n  ```\n"
    with pytest.raises(AssertionError, match=r'File "page\.md", line 8'):
        run(program(page), "page.md", tmp_path)
