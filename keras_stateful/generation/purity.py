"""Whether a Python function may be compiled into a loop: traced once, then never called again.

A traced function that draws from NumPy, counts its calls or writes somewhere would silently repeat
its first result at every step. So a function is compiled only if what it reaches says that it can
do none of that.
"""

import builtins
import dis
import types
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from keras_stateful.foundation import keras_internals

_MODULES = {
    "keras.ops": set(),
    "jax.numpy": set(),
    "jax.nn": set(),
    "math": set(),
    "keras": {"ops", "activations"},
}
_BUILTINS = {
    "len",
    "range",
    "min",
    "max",
    "abs",
    "float",
    "int",
    "tuple",
    "list",
    "zip",
    "enumerate",
    "sum",
    "slice",
}
_WRITES = {
    "STORE_GLOBAL",
    "STORE_DEREF",
    "STORE_ATTR",
    "STORE_SUBSCR",
    "IMPORT_NAME",
    "MAKE_FUNCTION",
    "YIELD_VALUE",
}
_LARGEST = 1 << 16  # bytes of an array that may be compared on every call


def pure_key(function: Callable | None) -> Hashable | None:
    """A key of a function that gives the same results whenever it is traced, or None where that is
    not certain.

    Certain are functions and lambdas that only reach `keras.ops`, numbers, small constant arrays,
    and other such functions. Two functions of equal code that reach equal values have the same key.

    Args:
        function: any callable; None has the key `()`.

    Returns:
        A hashable key, or None.
    """
    if function is None:
        return ()
    return _key(function, ())


def _key(value: Any, above: tuple) -> Hashable | None:
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return type(value).__name__, repr(value)
    if isinstance(value, tuple):
        return _all([_key(v, above) for v in value])
    if isinstance(value, np.ndarray) and value.dtype != object and value.nbytes <= _LARGEST:
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, types.FunctionType) and value not in above:
        if keras_internals.is_keras_op(value):
            return value.__module__, value.__qualname__
        return _function_key(value, (*above, value))
    return None


def _function_key(function: types.FunctionType, above: tuple) -> Hashable | None:
    code = function.__code__
    if any(
        i.opname in _WRITES or i.opname.startswith("DELETE_") for i in dis.get_instructions(code)
    ):
        return None
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    reached = [code, _key(defaults, above)]
    for cell in function.__closure__ or ():
        try:
            reached.append(_reached_key(cell.cell_contents, code, above))
        except ValueError:  # not assigned yet
            return None
    for name in code.co_names:
        if name in function.__globals__:
            reached.append(_reached_key(function.__globals__[name], code, above))
        elif hasattr(builtins, name) and name not in _BUILTINS:
            return None
    return _all(reached)


def _reached_key(value: Any, code: types.CodeType, above: tuple) -> Hashable | None:
    if not isinstance(value, types.ModuleType):
        return _key(value, above)
    name = keras_internals.module_name(value)
    if name not in _MODULES:
        return None
    harmless = _MODULES[name]
    if harmless and any(n not in harmless and hasattr(value, n) for n in code.co_names):
        return None
    return name


def _all(keys: list) -> Hashable | None:
    return None if any(k is None for k in keys) else tuple(keys)
