"""How a batch is put together, its signature and its checksum; and reading ahead. NumPy only.

A signature is a batch with a `Spec` in place of each array.
"""

import itertools
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from keras_stateful.data.spans import Spans
from keras_stateful.foundation.types import Structure

_Item = TypeVar("_Item")


def assemble(inputs: dict, mask: Structure, targets: dict, weights: dict | None) -> tuple:
    """`(x, y)` or `(x, y, sample_weight)` as a model takes it.

    Of arrays, or of what stands for each: a `Spec`, an iterator over the arrays of many batches.

    Args:
        inputs: by key of the corpus; the key is None where it is no dict.
        mask: the reset mask, which becomes the last input, or the one under the key "resets"; None
            for a model that has no such input.
        targets: by name of the output; the name is None for a single one.
        weights: likewise, or None.
    """
    if None in inputs:
        x = inputs[None] if mask is None else (inputs[None], mask)
    else:
        x = inputs if mask is None else {**inputs, "resets": mask}
    answers = (targets,) if weights is None else (targets, weights)
    return (x, *(part.get(None, part) for part in answers))


def copied(part: Structure) -> Structure:
    """A copy of an array, or of all arrays in a dict or tuple."""
    if isinstance(part, dict):
        return {k: copied(v) for k, v in part.items()}
    return tuple(map(copied, part)) if isinstance(part, tuple) else part.copy()


def no_resets(rows: int, window: int, boundary: str) -> np.ndarray:
    """A reset mask that is False everywhere: `(rows,)`, in "pack" `(rows, window)`."""
    return np.zeros((rows, window) if boundary == "pack" else (rows,), bool)


def mark_resets(mask: np.ndarray, spans: Spans) -> np.ndarray:
    """Sets a reset mask where pieces start, and returns it."""
    row, column = spans.row[spans.opens], spans.column[spans.opens]
    mask[(row, column) if mask.ndim == 2 else row] = True
    return mask


# Signatures


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of one array of a batch; a leaf for `keras.tree`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of such an array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def of_step(self) -> "Spec":
        """The same of one time step of `(rows, window, ...)`."""
        return Spec((self.shape[0], *self.shape[2:]), self.dtype)


def spec_bytes(signature: Structure) -> int:
    """Bytes of a batch with this signature."""
    return sum(spec.nbytes for spec in _leaves(signature))


# Checksums


def checksum(parts: Structure, start: int = 0) -> int:
    """CRC-32 of the bytes of all arrays in a structure, in the order of `keras.tree.flatten`."""
    for part in _leaves(parts):
        array = np.ascontiguousarray(part)
        if array.size:
            start = zlib.crc32(array.view(np.uint8).data, start)
    return start


def _leaves(parts: Structure) -> list:
    """The arrays of a structure, those of a dict in the order of its keys."""
    if isinstance(parts, dict):  # a single key may be None; several can be sorted
        parts = [parts[k] for k in sorted(parts)] if len(parts) > 1 else [*parts.values()]
    if isinstance(parts, (tuple, list)):
        return [leaf for part in parts for leaf in _leaves(part)]
    return [parts]


# Reading ahead


def in_order(
    read: Callable[[int], _Item], indices: Iterable[int], workers: int, ahead: int
) -> Iterator[_Item]:
    """`read(i)` for each index, in their order; threads read some ahead.

    Args:
        read: makes what belongs to an index; threads may call it at the same time.
        indices: in the order that is kept.
        workers: threads; with fewer than two, each is read when it is asked for.
        ahead: how many are read beforehand.
    """
    if workers < 2:
        yield from map(read, indices)
        return
    remaining, pool = iter(indices), ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(read, i) for i in itertools.islice(remaining, max(1, ahead)))
        while waiting:
            item = waiting.popleft().result()
            # The next is read while the caller works with this one.
            waiting.extend(pool.submit(read, i) for i in itertools.islice(remaining, 1))
            yield item
    finally:  # also where the caller leaves before the end; a read that has begun is not waited for
        pool.shutdown(wait=False, cancel_futures=True)
