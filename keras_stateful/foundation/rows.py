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
        least: how many rows must be named.
        remedy: what to do about a row that does not exist, a sentence.

    Returns:
        int `(rows,)`, each from 0 to `batch_size - 1`, in the order in which they were named.

    Raises:
        ValueError: a mask of another length, anything else that is not a list of indices, a row
            that does not exist, too few rows, a row named twice.
    """
    index = np.asarray(rows)
    if index.dtype == bool:
        if index.shape != (batch_size,):
            raise ValueError(
                f"`rows` as a mask must have one value for each row, shape ({batch_size},). "
                f"Received: shape {index.shape}. {remedy}".rstrip()
            )
        index = np.flatnonzero(index)
    elif index.ndim == 1 and not index.size:
        index = index.astype(np.intp)  # NumPy makes floats of an empty list
    if index.ndim != 1 or index.dtype.kind not in "iu" or len(index) < least:
        at_least = " of at least one row index" if least else " of row indices"
        raise ValueError(
            f"`rows` must be a bool mask, or a list{at_least} from 0 to {batch_size - 1}. "
            f"Received: rows={rows!r}."
        )
    if index.size and (index.min() < 0 or index.max() >= batch_size):
        raise ValueError(
            f"`rows` names a row that does not exist; there are rows from 0 to {batch_size - 1}. "
            f"Received: rows={rows!r}. {remedy}".rstrip()
        )
    if not repeats and len(np.unique(index)) != len(index):
        raise ValueError(f"`rows` must name each row once. Received: rows={rows!r}.")
    return index.astype(np.intp)
