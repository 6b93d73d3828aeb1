"""The argument `rows`: which rows of a batch are meant, by mask or by index. NumPy only."""

import numpy as np
from numpy.typing import ArrayLike


def row_indices(
    rows: ArrayLike,
    batch_size: int,
    *,
    repeats: bool = True,
    least: int = 0,
    remedy: str = "",
) -> np.ndarray:
    """Reads `rows` of a batch as row indices.

    Args:
        rows: a bool mask `(batch,)`, or a list of row indices.
        batch_size: how many rows there are.
        repeats: False where each row may be named once only.
        least: how many rows a mask must name. A list names at least one: an empty one is likely to
            be a mistake, and a mask without True is a sequence's "no row starts here".
        remedy: what to do about a row that does not exist, a sentence.

    Returns:
        int `(rows,)`, each from 0 to `batch_size - 1`, in the order in which they were named.

    Raises:
        ValueError: a mask of another length, anything else that is not a list of indices, a row
            that does not exist, no row, a row named twice.
    """
    index = np.asarray(rows)
    is_mask = index.dtype == bool
    if is_mask:
        if index.shape != (batch_size,):
            raise ValueError(
                f"`rows` as a mask must have one value for each row, shape ({batch_size},). "
                f"Received: shape {index.shape}. {remedy}".rstrip()
            )
        index = np.flatnonzero(index)
    if index.ndim != 1 or index.dtype.kind not in "iu" or len(index) < (least if is_mask else 1):
        at_least = " that names a row" if least else ""
        raise ValueError(
            f"`rows` must be a bool mask{at_least}, or a list of at least one row index from 0 to "
            f"{batch_size - 1}. Received: rows={rows!r}."
        )
    if index.size and (index.min() < 0 or index.max() >= batch_size):
        raise ValueError(
            f"`rows` names a row that does not exist; there are rows from 0 to {batch_size - 1}. "
            f"Received: rows={rows!r}. {remedy}".rstrip()
        )
    if not repeats and len(np.unique(index)) != len(index):
        raise ValueError(f"`rows` must name each row once. Received: rows={rows!r}.")
    return index.astype(np.intp)
