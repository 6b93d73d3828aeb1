"""Arrays of the user's as a model reads them: shape, numbers and ids checked. NumPy only."""

from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import fits
from keras_stateful.generation.engine import ANY_ID, Engine, InputFacts, Shape


def one_array(engine: Engine, value: Any, name: str) -> np.ndarray:
    """What the user gave as one array in NumPy.

    Args:
        engine: what runs the model; it knows the backend's tensors.
        value: anything that may be an array.
        name: what it is, used in error messages.

    Raises:
        ValueError: a ragged list, or anything else that is no array.
    """
    try:
        return engine.to_numpy(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is no array of one shape. Received: {value!r}. Give each time step as many "
            "numbers as the others."
        ) from error


def readable(
    array: np.ndarray, entry: InputFacts, shape: Shape, name: str, *, ids: bool = False
) -> np.ndarray:
    """An array that a model can read, in a dtype that it takes.

    Args:
        array: what the user gave.
        entry: the input that reads it.
        shape: which it must have, None for any size; None in the first place is the time axis.
        name: what it is, used in error messages.
        ids: True for ids of an input that may have any dtype, as what is drawn is fed to it.

    Returns:
        int32 for ids, else float32; the engine casts to the model's own dtype, which NumPy may not
        have: bfloat16.

    Raises:
        ValueError: another shape; an id that the model cannot read; NaN or infinite values.
        TypeError: what is not numbers, or for ids no whole numbers.
    """
    if not fits(array.shape, shape):
        expected = tuple("timesteps" if i == 0 and s is None else s for i, s in enumerate(shape))
        raise ValueError(
            f"{name} has another shape than the model reads. Received: {array.shape}; it must be "
            f"{str(expected).replace(chr(39), '')}."
        )
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise TypeError(f"{name} must be numbers. Received: dtype {array.dtype}. Encode it.")
    if ids or entry.of_ids:
        _check_ids(array, entry, name, "; for signals pass `next_input`" if ids else "")
        return array.astype("int32", copy=False)
    array = array.astype("float32", copy=False)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} is NaN or infinite. Received: {np.count_nonzero(~np.isfinite(array))} such "
            "values. Fill in what is missing, as for the training."
        )
    return array


def _check_ids(array: np.ndarray, entry: InputFacts, name: str, otherwise: str) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name} must be integer ids. Received: dtype {array.dtype}. Convert it with "
            f"`.astype('int32')`{otherwise}."
        )
    highest = (entry.vocabulary or ANY_ID) - 1
    unknown = array[(array < 0) | (array > highest)]
    if unknown.size:
        raise ValueError(
            f"{name} holds an id that the model cannot read. Received: id {int(unknown.flat[0])}; "
            f"it reads 0 to {highest}. Encode it with the vocabulary of the training."
        )


def side_by_side(rows: list[np.ndarray], positions: int) -> np.ndarray:
    """Rows of any lengths as one array `(rows, positions, ...)`, zeros behind the shorter ones."""
    together = np.zeros((len(rows), positions, *rows[0].shape[1:]), rows[0].dtype)
    for into, row in zip(together, rows, strict=True):
        into[: len(row)] = row
    return together
