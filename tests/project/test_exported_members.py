"""What the package exports is what it says it exports, and every exported name explains itself."""

import ast
import inspect
import types
from pathlib import Path

import keras
import pytest

import keras_stateful

pytestmark = pytest.mark.backend_free

NAMES = sorted(set(keras_stateful.__all__) - {"__version__"})


def imports_for_type_checkers() -> dict[str, str]:
    """`{name: module}` of the `if TYPE_CHECKING:` block."""
    tree = ast.parse(Path(keras_stateful.__file__).read_text(encoding="utf-8"))
    block = next(
        n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    )
    return {alias.name: statement.module for statement in block.body for alias in statement.names}


def test_all_equals_the_namespace():
    for name in NAMES:
        getattr(keras_stateful, name)  # exported lazily: the namespace has it from now on
    exported = {
        name
        for name, value in vars(keras_stateful).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith("keras_stateful")
    }
    assert exported == set(NAMES)


def test_all_names_everything_once():
    assert len(keras_stateful.__all__) == len(set(keras_stateful.__all__))


def test_type_checkers_see_the_same_names_in_the_same_modules():
    assert imports_for_type_checkers() == {
        name: getattr(keras_stateful, name).__module__ for name in NAMES
    }


def test_no_name_is_hidden_by_a_module():
    assert not {path.stem for path in Path(keras_stateful.__file__).parent.iterdir()} & set(NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        keras_stateful.nothing  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name):
    value = getattr(keras_stateful, name)
    text = inspect.getdoc(value)
    assert text, f"{name} has no docstring"
    if inspect.isclass(value):
        inherited = {
            getattr(base, "__doc__", None)
            for base in (keras.callbacks.Callback, keras.utils.PyDataset)
        }
        assert value.__doc__ not in {None, *inherited}, (
            f"{name} has only its base class's docstring"
        )
    if any(
        p.name not in ("self", "args", "kwargs")
        for p in inspect.signature(value).parameters.values()
    ):
        assert "Args:" in text, f"{name}: the docstring does not explain its arguments"
        assert "Example" in text, f"{name}: the docstring has no example"


@pytest.mark.parametrize("name", NAMES)
def test_arguments_have_type_hints(name):
    value = getattr(keras_stateful, name)
    if getattr(value, "_is_protocol", False):
        return  # nobody makes one: its methods say what others are to have
    function = value.__init__ if inspect.isclass(value) else value
    signature = inspect.signature(function)
    assert not [
        p.name
        for p in signature.parameters.values()
        if p.annotation is p.empty and p.name != "self"
    ]
    assert inspect.isclass(value) or signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", NAMES)
def test_public_methods_have_docstrings(name):
    value = getattr(keras_stateful, name)
    hooks = {key for key in vars(keras.callbacks.Callback) if key.startswith(("on_", "set_"))}
    silent = [
        key
        for key, member in (vars(value).items() if inspect.isclass(value) else ())
        if (inspect.isfunction(member) or isinstance(member, property))
        and not key.startswith("_")
        and key not in hooks
        and not inspect.getdoc(member)
    ]
    assert not silent
