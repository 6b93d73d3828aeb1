"""How a batch is put together: arrays by name, the reset mask, targets and weights."""

from typing import Any

import numpy as np


def assemble(inputs: dict, mask: Any, targets: dict, weights: dict | None) -> tuple:
    """`(x, y)` or `(x, y, sample_weight)`, as a model takes it; of arrays, or of what stands for them.

    Args:
        inputs: by key of the corpus; the key is None where it is no dict.
        mask: which rows are reset, or None: it rides along as the last input, or under the key "resets".
        targets: by name of the output; the name is None for a single one.
        weights: likewise, or None.
    """
    if None in inputs:
        x = inputs[None] if mask is None else (inputs[None], mask)
    else:
        x = inputs if mask is None else {**inputs, "resets": mask}
    answers = (targets,) if weights is None else (targets, weights)
    return (x, *(part.get(None, part) for part in answers))


def rows_of(part: Any, rows: slice) -> Any:
    """Some rows of an array, or of all arrays in a dict or pair."""
    if isinstance(part, dict):
        return {k: v[rows] for k, v in part.items()}
    return tuple(v[rows] for v in part) if isinstance(part, tuple) else part[rows]


def no_resets(rows: int, window: int, boundary: str) -> np.ndarray:
    """A reset mask that is False everywhere: `(rows,)`, in "pack" `(rows, window)`."""
    return np.zeros((rows, window) if boundary == "pack" else (rows,), bool)
