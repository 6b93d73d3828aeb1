"""Checks of the values in arrays: readings that are finite, ids that the model knows.

A NaN stays in the state of its row until that is reset, long after the reading that it came from;
and on JAX an id that an `Embedding` does not know becomes a NaN without an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

import keras
import numpy as np

from keras_stateful.data.arrays import all_finite, finite
from keras_stateful.data.ids import Vocabulary
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Key
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.check_arrays import is_arrays, leaves_of
from keras_stateful.training.model_facts import facts_of


def check_values(model: keras.Model, name: str, x: Structure) -> None:
    """Checks the values that a model is about to read.

    Args:
        model: the model that reads them.
        name: name of the argument, used in error messages.
        x: inputs. Only arrays with values are looked at: NumPy's, and tensors outside of a graph.

    Raises:
        ValueError: NaN or infinite values, or an id that an `Embedding` does not know.
    """
    if not is_arrays(x):
        return
    arrays = leaves_of(x)
    known = facts_of(model).ids_known
    for key, array in zip(_keys(model, x, len(arrays)), arrays, strict=True):
        values = _values(array)
        if values is None or not values.size:
            continue
        if values.dtype.kind == "f" and not _all_finite(values):
            _refuse(name, key, values)
        if key in known and values.dtype.kind in "iu":
            vocabulary = Vocabulary(known[key])
            if not vocabulary.holds_all(values):
                vocabulary.refuse(name, values)


_CHECKED = "_keras_stateful_values_checked"


@contextmanager
def checked_once(model: keras.Model) -> Iterator[None]:
    """Has the calls inside, on values that were checked, not check them again (torch)."""
    vars(model)[_CHECKED] = True
    try:
        yield
    finally:
        vars(model)[_CHECKED] = False


def check_call(model: keras.Model, x: Structure) -> None:
    """Checks the values that a call reads, unless they were checked; see `check_values`."""
    if not vars(model).get(_CHECKED, False):
        check_values(model, "inputs", x)


def checked_batches(model: keras.Model, name: str, data: Structure) -> Structure:
    """The batches of a generator, each checked when it comes; all other data as they are.

    Args:
        model: the model that reads them.
        name: name of the argument that gives them, used in error messages.
        data: anything that Keras takes.
    """
    return _each_checked(model, name, data) if isinstance(data, GeneratorType) else data


def _each_checked(model: keras.Model, name: str, batches: Iterator) -> Iterator:
    for batch in batches:
        check_values(model, name, batch[0] if isinstance(batch, tuple) else batch)
        yield batch


def _all_finite(values: np.ndarray) -> bool:
    """True if no value is NaN or infinite, as float32; quick for the few values of a step."""
    if values.dtype == np.float32:
        return bool(np.isfinite(values).all())
    return all_finite(values)


def _keys(model: keras.Model, x: Structure, count: int) -> list[Key]:
    """The key in `ids_known` of each array, in the order in which Keras flattens them."""
    if isinstance(x, dict) and len(x) == count:
        return sorted(x)
    if count == 1:
        return [None]  # the model's first input
    graph = keras_internals.functional(model)
    names = [tensor.name for tensor in graph.inputs]
    if isinstance(graph.input, dict):
        names = sorted(graph.input)
    # Another number of arrays is Keras's to refuse.
    return [*names, *[None] * count][:count]


def _values(array: Any) -> np.ndarray | None:
    """The values of an array or tensor; None where it stands for values that are yet to come."""
    if isinstance(array, np.ndarray):
        return array
    return _of_tensor(array) if keras.ops.is_tensor(array) else None


def _of_tensor(tensor: Tensor) -> np.ndarray | None:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        concrete = isinstance(tensor, jax.Array) and not isinstance(tensor, jax.core.Tracer)
        if not concrete or not tensor.is_fully_addressable:
            return None
    elif backend == "tensorflow":
        import tensorflow as tf

        if not isinstance(tensor, tf.Tensor) or tf.is_symbolic_tensor(tensor):
            return None
    else:
        import torch

        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):  # one that is being recorded
            return None
    values = np.asarray(keras.ops.convert_to_numpy(tensor))
    return values.astype("float32") if values.dtype.name == "bfloat16" else values


def _refuse(name: str, key: Key, values: np.ndarray) -> None:
    which = "" if key is None else f", in the input {key!r}"
    wrong = ~finite(values)
    rows = np.unique(np.argwhere(wrong)[:, 0]).tolist()
    raise ValueError(
        f"`{name}` is NaN or infinite, or too large for float32, which its row would carry in its "
        f"state from then on. Received: {np.count_nonzero(wrong)} such values{which}, in rows "
        f"{rows[:5]}. Fill in missing readings as for training, or mark them by a feature of their "
        "own."
    )
