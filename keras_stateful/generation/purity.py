"""Tells whether a Python function may be compiled into a loop: traced once, never called again.

A traced function that draws from NumPy, counts its calls or writes somewhere would silently repeat
its first result at every step. So a function is compiled only if what it reaches says that it can
do none of that. Whatever is not known to be harmless is not: such a function is called at every
step instead, which is slow and right.
"""

import builtins
import dis
import types
from collections.abc import Callable, Hashable

import numpy as np

from keras_stateful.foundation import keras_internals

# Modules of pure functions. A set that is not empty names the only attributes of the module that
# are pure: `keras.random` is in `keras`, too.
_MODULES: dict[str, set[str]] = {
    "keras.ops": set(),
    "jax.numpy": set(),
    "jax.nn": set(),
    "math": set(),
    "keras": {"ops", "activations"},
}
_BUILTINS = {
    *("len", "range", "min", "max", "sum", "abs", "float", "int"),
    *("tuple", "list", "slice", "zip", "enumerate"),
}
# Bytecode that changes something outside of the function, or brings in what its key could not
# describe: an inner function, a generator, an import.
_WRITES = {
    *("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR"),
    *("IMPORT_NAME", "MAKE_FUNCTION", "YIELD_VALUE"),
}
_LARGEST = 1 << 16  # bytes of an array that may be compared on every call

Functions = tuple[types.FunctionType, ...]


def pure_key(function: Callable | None) -> Hashable | None:
    """A key of a function that is certain to give the same results whenever it is traced.

    Certain are functions and lambdas that only reach `keras.ops`, numbers, small constant arrays,
    and other such functions. Two functions of equal code that reach equal values have the same key.

    Args:
        function: any callable; None has the key `()`.

    Returns:
        A hashable key, or None where that is not certain.
    """
    if function is None:
        return ()
    return _key(function, ())


def _key(value: object, above: Functions) -> Hashable | None:
    """The key of a value that a function reaches, or None.

    Args:
        value: a constant, a tuple of such, or a function.
        above: the functions through which it was reached; one that reaches itself has no key.
    """
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return type(value).__name__, repr(value)  # 1, 1.0 and True are equal, and traced apart
    if isinstance(value, tuple):
        return _all([_key(v, above) for v in value])
    if isinstance(value, np.ndarray) and value.dtype != object and value.nbytes <= _LARGEST:
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, types.FunctionType) and value not in above:
        if keras_internals.is_keras_op(value):
            return value.__module__, value.__qualname__
        return _function_key(value, (*above, value))
    return None


def _function_key(function: types.FunctionType, above: Functions) -> Hashable | None:
    """The key of a function: its code, and the keys of all that the code reaches."""
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
    # `co_names` are globals, builtins and attributes alike. An attribute belongs to a value that is
    # reached otherwise, or to an argument, a tensor, whose methods are pure.
    for name in code.co_names:
        if name in function.__globals__:
            reached.append(_reached_key(function.__globals__[name], code, above))
        elif hasattr(builtins, name) and name not in _BUILTINS:
            return None
    return _all(reached)


def _reached_key(value: object, code: types.CodeType, above: Functions) -> Hashable | None:
    """The key of what a name in the code stands for; of a module its name, if it is harmless."""
    if not isinstance(value, types.ModuleType):
        return _key(value, above)
    name = keras_internals.module_name(value)
    if name not in _MODULES:
        return None
    harmless = _MODULES[name]
    if harmless and any(n not in harmless and hasattr(value, n) for n in code.co_names):
        return None
    return name


def _all(keys: list[Hashable | None]) -> Hashable | None:
    return None if any(k is None for k in keys) else tuple(keys)
