"""Private parts of Keras are used in `foundation/keras_internals` alone.

Private is what begins with an underscore and is nothing of this package's own, what is imported
from `keras.src`, and a few attributes without an underscore that Keras's reference does not name.
"""

import ast
from pathlib import Path

import pytest

import keras_stateful

pytestmark = pytest.mark.backend_free

FOLDER = Path(keras_stateful.__file__).parent
HOME = FOLDER / "foundation" / "keras_internals"
SOURCES = {
    str(path.relative_to(FOLDER)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.rglob("*.py"))
    if path.parent != HOME
}
UNDOCUMENTED = {
    "append_header",  # of a CSVLogger, like the next
    "csv_file",
    "distribute_strategy",  # of a model, on TensorFlow
    "fill_in",  # of a node's arguments
    "get_dropout_mask",  # of a cell
    "jax_state_sync",  # of a model, on JAX
    "seed_generator",  # of a layer or cell
    "state_mapping",  # of a StatelessScope
    "supports_jit",  # of a layer
}
# Methods that Keras calls by these names have to stand in the class that overrides them.
OVERRIDDEN = {
    ("carry/recurrent.py", "inner_loop"): "the loop over time steps of a recurrent layer",
    ("carry/loops.py", "inner_loop"): "likewise, of a plain layer",
    ("conversion/model.py", "_maybe_symbolic_build"): "the first batch of TensorFlow's trainer",
}
NAMEDTUPLES = {"_asdict", "_fields", "_make", "_replace"}
OTHER_THAN_KERAS = {"_getframe", "_initializing"}  # of `sys`; of the spec of a module


def attributes(tree: ast.AST) -> set[str]:
    """The names of all attributes in a module, those of `getattr` and its like included."""
    dotted = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "keras_internals"
    }
    asked = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr", "setattr", "delattr")
        and isinstance(node.args[1], ast.Constant)
    }
    return dotted | asked


def defined(tree: ast.AST) -> set[str]:
    """The names of functions and classes, of what is set on `self`, and of fields and constants."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    return names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith(("__", "_keras_stateful_"))


def test_nobody_else_names_the_inside_of_keras():
    assert len(SOURCES) > 50
    inside = {
        (source, node.value)
        for source, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "keras.src" in node.value
    }
    imported = {
        (source, name)
        for source, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.startswith("keras.src")
    }
    assert not inside | imported


def test_nobody_else_reads_what_keras_keeps_private():
    own = set().union(*map(defined, SOURCES.values())) | NAMEDTUPLES | OTHER_THAN_KERAS
    foreign = {
        (source, name)
        for source, tree in SOURCES.items()
        for name in attributes(tree)
        if (is_private(name) and name not in own) or name in UNDOCUMENTED
    }
    assert not foreign


def test_methods_that_keras_calls_stand_where_they_must():
    """`inner_loop` and `_maybe_symbolic_build` are defined in these modules, and in no other."""
    names = {name for _, name in OVERRIDDEN}
    methods = {
        (source, node.name)
        for source, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in names
    }
    assert methods == set(OVERRIDDEN)


def test_the_inside_of_keras_is_used_in_keras_internals():
    """The search finds what there is to find."""
    home = [ast.parse(path.read_text(encoding="utf-8")) for path in HOME.glob("*.py")]
    used = set().union(*map(attributes, home))
    assert used >= UNDOCUMENTED | {"_functional", "_layers", "_compile_config", "_tracker"}
