"""The prompt of `generate`: one row or many, each checked against the model. NumPy only."""

from typing import Any

import numpy as np

from keras_stateful.generation.engine import Engine, InputFacts
from keras_stateful.generation.values import one_array, readable

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
    read = []
    for r, row in enumerate(rows):
        name = "`prompt`" if single else f"`prompt` of row {r}"
        if not len(row):
            raise ValueError(f"{name} is empty. Received: shape {row.shape}. {_AT_LEAST_A_STEP}")
        read.append(readable(row, fed, (None, *fed.shape), name, ids=ids))
    return read, single


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
    array = one_array(engine, prompt, "`prompt`")
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
