"""The prompt of `generate`: one row or many, each checked against the model. NumPy only."""

from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import fits
from keras_stateful.generation.engine import ANY_ID, Engine, InputFacts

_AT_LEAST_A_STEP = (
    "A model continues what it has read: give it at least one step, for example the id that "
    "documents start with."
)


def read_prompt(
    engine: Engine, fed: InputFacts, prompt: Any, *, ids: bool
) -> tuple[list[np.ndarray], bool]:
    """Reads a prompt as rows.

    Args:
        engine: what runs the model.
        fed: the input that reads it.
        prompt: as in `generate`.
        ids: True for ids, False for features.

    Returns:
        The rows `(timesteps, ...)` in dtypes that the model takes, and True if the prompt was one
        row rather than a list of such.

    Raises:
        ValueError: an empty prompt, another shape, an id that the model cannot read.
        TypeError: text, or a prompt that is not numbers.
    """
    rows, single = _rows(engine, fed, prompt)
    read = _read_ids if ids else _read_features
    names = ["The prompt"] if single else [f"The prompt of row {r}" for r in range(len(rows))]
    return [read(fed, row, name) for row, name in zip(rows, names, strict=True)], single


def side_by_side(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of any lengths as one array `(rows, longest, ...)`, zeros behind the shorter ones."""
    longest = max(len(row) for row in rows)
    together = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    for into, row in zip(together, rows, strict=True):
        into[: len(row)] = row
    return together


def _rows(engine: Engine, fed: InputFacts, prompt: Any) -> tuple[list[np.ndarray], bool]:
    """Tells one row from a list of rows, by the number of axes that a row has."""
    axes = 1 + len(fed.shape)
    is_list = isinstance(prompt, (list, tuple))
    if isinstance(prompt, str) or (is_list and any(isinstance(p, str) for p in prompt)):
        raise TypeError(
            f"`prompt` must be ids or features, not text. Received: prompt={prompt!r}. Encode it "
            "first, with what encoded the training text."
        )
    # Rows of different lengths make no array, so that each is looked at alone.
    if is_list and len(prompt) and all(_axes(p) == axes for p in prompt):
        return [engine.to_numpy(p) for p in prompt], False
    try:
        array = engine.to_numpy(prompt)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`prompt` is neither one row nor a list of rows. Received: prompt={prompt!r}."
        ) from error
    if array.size == 0:
        raise ValueError(f"`prompt` is empty. Received: shape {array.shape}. {_AT_LEAST_A_STEP}")
    if array.ndim == axes:
        return [array], True
    if array.ndim == axes + 1:
        return list(array), False
    shape = str(("timesteps", *fed.shape)).replace("'", "")
    raise ValueError(
        f"`prompt` must have shape {shape}, or be a list of such, one per row. Received: shape "
        f"{array.shape}."
    )


def _axes(value: Any) -> int | None:
    try:
        return np.ndim(value)
    except ValueError:  # a ragged list
        return None


def _read_features(fed: InputFacts, row: np.ndarray, name: str) -> np.ndarray:
    if not len(row):
        raise ValueError(f"{name} is empty. {_AT_LEAST_A_STEP}")
    if not fits(row.shape[1:], fed.shape):
        raise ValueError(
            f"{name} has shape {row.shape}; the model reads {fed.shape} features a step."
        )
    if not (np.issubdtype(row.dtype, np.number) or row.dtype == bool):
        raise TypeError(f"{name} must be numbers. Received: dtype {row.dtype}.")
    # The engine casts to the model's own dtype, which NumPy may not have: bfloat16.
    return row.astype("int32" if fed.of_ids else "float32", copy=False)


def _read_ids(fed: InputFacts, row: np.ndarray, name: str) -> np.ndarray:
    if not len(row):
        raise ValueError(f"{name} is empty. {_AT_LEAST_A_STEP}")
    if not np.issubdtype(row.dtype, np.integer):
        raise TypeError(
            f"{name} must be integer ids. Received: dtype {row.dtype}. Convert it with "
            "`.astype('int32')`; for signals pass `next_input`."
        )
    highest = (fed.vocabulary or ANY_ID) - 1
    unknown = row[(row < 0) | (row > highest)]
    if unknown.size:
        raise ValueError(
            f"{name} holds an id that the model cannot read. Received: id {int(unknown[0])}; it "
            f"reads 0 to {highest}. The prompt was likely encoded with another vocabulary than the "
            "training text."
        )
    return row.astype("int32", copy=False)
