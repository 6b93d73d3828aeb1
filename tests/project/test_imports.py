"""How the package is imported: along one direction, and in any order with Keras."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_stateful

pytestmark = pytest.mark.backend_free

FOLDER = Path(keras_stateful.__file__).parent
MODULES = {
    ".".join(p.relative_to(FOLDER).with_suffix("").parts)
    for p in FOLDER.rglob("*.py")
    if p.name != "__init__.py"
}


def imported(module: str) -> set[str]:
    """The package's modules that one of them imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(
        ast.parse(
            (FOLDER.joinpath(*module.split(".")).with_suffix(".py")).read_text(encoding="utf-8")
        )
    ):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_stateful."):
            place = node.module.removeprefix("keras_stateful.")
            found |= {place, *(f"{place}.{alias.name}" for alias in node.names)}
    return found & MODULES


def test_modules_import_one_way():
    graph = {module: imported(module) for module in MODULES}
    assert sum(map(len, graph.values())) > 100
    list(graphlib.TopologicalSorter(graph).static_order())  # raises at a cycle


@pytest.mark.parametrize("module", ["data.source", "data.corpus", "data.plan", "data.windows"])
def test_data_are_read_without_the_model(module):
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        todo = set().union(*map(imported, todo)) - reached
    assert len(reached) > 2
    assert not reached & {"carry.layers", "carry.states", "training.check_reader"}


@pytest.mark.parametrize(
    "first", ["import keras", "from keras_stateful import load_session", "import keras_stateful"]
)
def test_a_saved_model_loads_whatever_is_imported_first(tmp_path, first):
    """`load_session` needs no Keras: when it was imported first, Keras's classes are registered
    with the next name.
    """
    import keras

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    keras_stateful.to_stateful(model, 2).save(tmp_path / "model.keras")
    keras_stateful.to_step_model(model).save(tmp_path / "step.keras")
    code = (
        f"{first}\nimport keras\nimport keras_stateful as ks\nks.reset_states\n"
        "for name in ('model', 'step'):\n    keras.models.load_model(f'{name}.keras')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
