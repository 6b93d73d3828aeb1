"""Documents that are slices of one array, told by their memory, and read from that array."""

from collections.abc import Collection
from operator import attrgetter

import numpy as np

from keras_stateful.data.fields import Flat

_MANY = 10_000  # documents that are joined at a time, and from which on that is tried
_SHORT = 1 << 12  # bytes of such a document, at most


def dtypes_of(documents: Collection[np.ndarray]) -> set[np.dtype]:
    """The dtypes of arrays."""
    # `map` runs no Python for each, of which there may be a million; likewise below.
    return {*map(attrgetter("dtype"), documents)}


def slices(name: str, documents: list[np.ndarray], lengths: np.ndarray) -> Flat | None:
    """Documents cut from one array, as `np.split` does, read from that array; else None.

    Gathering from one array takes no Python for each document.

    Args:
        name: of the corpus, used in error messages.
        documents: arrays `(timesteps, ...)` of the same features.
        lengths: int64 `(documents,)`, their time steps.
    """
    base, first = documents[0].base, documents[0]
    if not isinstance(base, np.ndarray) or base.ndim < 1:
        return None  # the first owns its memory
    if {*map(id, map(attrgetter("base"), documents))} != {id(base)}:
        return None  # cut from different arrays
    if dtypes_of(documents) != {base.dtype}:
        return None  # the array's bytes read as another dtype
    if not (base.flags.c_contiguous and all(d.flags.c_contiguous for d in documents)):
        return None  # strided
    step = first[0].nbytes
    if not step or base.nbytes % step:
        return None  # time steps without a feature, or not those of the array
    flat = base.reshape(-1, *first.shape[1:])
    begin, odd = divmod(_address(first) - _address(base), step)
    offsets = begin + np.cumsum(lengths) - lengths
    if not odd and _lie_in_order(documents, flat[begin:]):
        return Flat(name, flat, offsets, lengths)
    places = np.fromiter(map(_address, documents), "int64", len(documents)) - _address(base)
    if (places % step).any():
        return None  # some begin inside of what would be a time step of the array
    return Flat(name, flat, places // step, lengths)


def _lie_in_order(documents: list[np.ndarray], flat: np.ndarray) -> bool:
    """True if so many documents are one behind the other what `flat` begins with, byte for byte.

    Of many short ones, as `np.split` cuts them, that is told sooner than where each of them lies.
    Documents with the bytes of their neighbours may lie elsewhere: they read alike, unless the
    array is changed in place afterwards.
    """
    if len(documents) < _MANY or max(map(len, documents)) * flat[0].nbytes > _SHORT:
        return False
    at = 0
    for k in range(0, len(documents), _MANY):
        joined = np.concatenate(documents[k : k + _MANY])
        there = flat[at : at + len(joined)]
        if joined.tobytes() != there.tobytes():
            return False
        at += len(joined)
    return True


def _address(array: np.ndarray) -> int:
    """Where an array begins in memory."""
    return array.__array_interface__["data"][0]
