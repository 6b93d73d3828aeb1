"""How the package is imported: rooms one way."""

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import keras_stateful

pytestmark = pytest.mark.backend_free

PACKAGE = "keras_stateful"
FOLDER = Path(keras_stateful.__file__).parent

# The rooms that each room stands on; it may also import what those may.
STANDS_ON: dict[str, tuple[str, ...]] = {
    "foundation": (),
    "data": ("foundation",),
    "carry": ("data",),
    "training": ("carry",),
    "conversion": ("training",),
    "evaluation": ("conversion",),
    "inspection": ("conversion",),
    "generation": ("conversion",),
    "resuming": ("training",),
    "session": ("foundation",),
    "export": ("conversion", "session"),
}

# The single exception: `fit` asks the data first, and the data ask whether the model may read them.
# The import stands in a function, so that data can be made without the rooms above.
UPWARDS = {("data.feed", "training.check_reader")}


def module_name(path: Path) -> str:
    """`data.feed` for `keras_stateful/data/feed.py`; a folder's name for its `__init__.py`."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {module_name(path): path for path in FOLDER.rglob("*.py") if path.parent != FOLDER}
MODULES = sorted(PATHS.keys() - STANDS_ON.keys())


def room(module: str) -> str:
    return module.partition(".")[0]


def statements(tree: ast.Module, everywhere: bool) -> Iterator[ast.AST]:
    """The statements that run when a module is imported; `everywhere`: all others too."""
    if everywhere:
        return ast.walk(tree)
    return iter(tree.body)  # what stands in `if TYPE_CHECKING:` or a function does not run


@cache
def imported(module: str, everywhere: bool = True) -> frozenset[str]:
    """Full names of what a module imports; of `from a import b`, both `a` and `a.b`."""
    names: set[str] = set()
    for node in statements(ast.parse(PATHS[module].read_text(encoding="utf-8")), everywhere):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def neighbours(module: str, everywhere: bool = True) -> set[str]:
    """The package's modules that a module imports."""
    names = {name.removeprefix(f"{PACKAGE}.") for name in imported(module, everywhere)}
    return names & set(MODULES) - {module}


def reached(module: str, everywhere: bool = True, without: str | None = None) -> set[str]:
    """The package's modules that importing one needs, itself too; `without`: not through this."""
    seen: set[str] = set()
    todo = {module}
    while todo:
        seen |= todo
        todo = set().union(*(neighbours(m, everywhere) for m in todo)) - seen - {without}
    return seen


def with_keras(modules: set[str], everywhere: bool = True) -> set[str]:
    """Those of some modules that import Keras themselves."""
    return {
        module
        for module in modules
        if "keras" in {name.partition(".")[0] for name in imported(module, everywhere)}
    }


def allowed(name: str) -> set[str]:
    """The rooms that a room may import from."""
    return {name}.union(*(allowed(below) for below in STANDS_ON[name]))


def test_every_folder_is_a_room():
    assert {room(module) for module in PATHS} == STANDS_ON.keys()
    assert len(MODULES) > 60


def test_rooms_import_one_way():
    offenders = {
        (module, other)
        for module in MODULES
        for other in neighbours(module)
        if room(other) not in allowed(room(module))
    }
    assert offenders == UPWARDS


def test_the_exception_runs_when_fit_does():
    for module, other in UPWARDS:
        assert other not in neighbours(module, everywhere=False)


def test_no_room_imports_the_public_names():
    """They are made from all rooms: whoever imports them imports upwards."""
    rooms = {f"{PACKAGE}.{name}" for name in STANDS_ON}
    offenders = {
        (module, name)
        for module in MODULES
        for name in imported(module)
        if name.startswith(f"{PACKAGE}.") and name.count(".") == 1 and name not in rooms
    }
    assert not offenders


def test_modules_import_without_a_cycle():
    graph = {module: neighbours(module) for module in MODULES}
    for module, other in UPWARDS:
        graph[module].remove(other)
    assert sum(map(len, graph.values())) > 100
    list(graphlib.TopologicalSorter(graph).static_order())  # raises at a cycle


@pytest.mark.parametrize("name", STANDS_ON)
def test_a_room_says_what_it_is_for_and_nothing_else(name):
    (docstring,) = ast.parse(PATHS[name].read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    assert "may import" in " ".join(docstring.value.value.split())


def test_sessions_never_need_keras():
    for module in MODULES:
        if room(module) == "session":
            assert not with_keras(reached(module)), module


PROGRESS = "foundation.progress"  # asks for Keras's progress bar when there is something to show


def test_data_need_keras_in_feed_alone():
    for module in MODULES:
        if room(module) == "data" and module != "data.feed":
            assert with_keras(reached(module, without="data.feed")) <= {PROGRESS}, module
            at_once = reached(module, everywhere=False, without="data.feed")
            assert not with_keras(at_once, everywhere=False), module


@pytest.mark.parametrize("module", ["data.source", "data.corpus", "data.plan", "data.windows"])
def test_data_are_read_without_the_model(module):
    needed = reached(module)
    assert len(needed) > 2
    assert {room(other) for other in needed} <= {"data", "foundation"}


@pytest.mark.parametrize("name", ["generate", "request", "sampling"])
def test_a_session_writes_without_keras(name):
    """What generation needs of a model is imported once there is one."""
    assert not with_keras(reached(f"generation.{name}", everywhere=False), everywhere=False)
