"""Checks of one array, and of documents made of arrays. NumPy only.

Batches have numbers as `int32` or `float32`; what these cannot hold is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

_INT32 = np.iinfo("int32")
_TOO_LARGE = (2 - 2.0**-24) * 2.0**127  # the smallest float64 that float32 rounds to infinity


def is_array(value: Any) -> bool:
    """True if a value is one array, not a list of them."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__array__")


def is_tf_dataset(value: Any) -> bool:
    """True if a value is a `tf.data.Dataset`; TensorFlow is not imported."""
    return type(value).__module__.startswith("tensorflow") and hasattr(value, "as_numpy_iterator")


def as_document(name: str, item: Any, encode: Callable | None) -> dict[str | None, np.ndarray]:
    """One document of a source as arrays by key.

    Args:
        name: name of the document, used in error messages.
        item: what the source gave.
        encode: a function from that to a document, or None.

    Returns:
        Arrays by key; the key is None where the document is a single array.
    """
    if encode is not None:
        item = _encoded(name, item, encode)
    if not isinstance(item, dict):
        array = as_array(name, item)
        out_dtype(name, array.dtype)  # refuses what is no number
        return {None: array}
    document: dict[str | None, np.ndarray] = {}
    for key, value in item.items():
        document[key] = as_array(f"{name}[{key!r}]", value)
        out_dtype(f"{name}[{key!r}]", document[key].dtype)
    return document


def _encoded(name: str, item: Any, encode: Callable) -> Any:
    """What `encode` makes of an item, which must be numbers."""
    try:
        document = encode(item)
    except Exception as error:
        error.add_note(f"`encode` failed for `{name}`.")
        raise
    # Text, or a list of tokens that are text. Other things that are no numbers, `as_array` finds.
    first = document[0] if isinstance(document, (list, tuple)) and document else document
    if first is None or isinstance(first, (str, bytes)):
        raise TypeError(
            "`encode` must return the ids of a document, an array of numbers. Received: "
            f"{str(document)[:40]!r} of type {type(document).__name__} for `{name}`. Look each "
            "token up in a vocabulary: `[index[t] for t in tokens]`."
        )
    return document


def as_array(name: str, value: Any) -> np.ndarray:
    """An array of numbers, or an error that says what is none."""
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"`{name}` must be numbers. Received: text, {value[:20]!r}... Pass `encode=`, a "
            "function from a document to its ids, or encode the documents first."
        )
    # A pair `(x, y)`, as `fit` takes it. NumPy would stack arrays of one shape to a single one.
    if isinstance(value, tuple) and any(getattr(part, "ndim", 0) for part in value):
        raise ValueError(
            f"`{name}` must be an array `(timesteps, ...)`. Received: a tuple of {len(value)} "
            "arrays. Give a dict of arrays for several inputs, and targets as `targets=`."
        )
    refuse_masked(name, value)
    try:
        return np.asarray(value)
    except ValueError as error:
        several = isinstance(value, list) and any(getattr(part, "ndim", 0) for part in value)
        remedy = " For several inputs or outputs give a dict: `{'a': [...], 'b': [...]}`."
        raise ValueError(
            f"`{name}` must be an array `(timesteps, ...)`. Received: {str(value)[:60]}... "
            f"({error}){remedy if several else ''}"
        ) from None


def refuse_masked(name: str, value: Any) -> None:
    """Refuses a masked array with masked values: batches would hold what the mask hides."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"`{name}` is a masked array, and what its mask hides would be read. Received: "
            f"{np.ma.count_masked(value)} masked values. Fill them in, `x.filled(value)`, or leave "
            "those time steps out. Missing targets: `targets.filled(np.nan)`, with weight 0 "
            "(`sample_weight=`)."
        )


def out_dtype(name: str, dtype: np.dtype) -> np.dtype:
    """The dtype that batches have of values stored as `dtype`."""
    if dtype.kind in "iu":
        return np.dtype("int32")
    if dtype.kind in "fb" or dtype.name == "bfloat16":
        return np.dtype("float32")
    raise TypeError(
        f"`{name}` must be numbers. Received: dtype {dtype}. "
        + (
            "Encode text as ids, with `encode=` or beforehand."
            if dtype.kind in "USO"
            else "Convert it to float32 or int32."
        )
    )


def all_finite(values: np.ndarray) -> bool:
    """True if no value is NaN or infinite, as float32."""
    if values.dtype.kind != "f":  # integers, bool, and bfloat16, whose kind is "V"
        return values.dtype.kind in "iub" or bool(finite(values).all())
    if not values.size:
        return True
    # Two passes without a copy. The minimum of values with a NaN is NaN, which `is_finite` refuses.
    return is_finite(values.min()) and is_finite(values.max())


def is_finite(number: float | np.number) -> bool:
    """True if one number is neither NaN nor infinite, as float32."""
    return -_TOO_LARGE < float(number) < _TOO_LARGE


def finite(values: np.ndarray) -> np.ndarray:
    """Marks values that are neither NaN nor infinite, as float32."""
    with np.errstate(over="ignore"):
        return np.isfinite(np.asarray(values).astype("float32", copy=False))


def missing_steps(values: np.ndarray) -> np.ndarray:
    """Marks time steps of a document with a value that is NaN or infinite, bool `(steps,)`."""
    if all_finite(values):
        return np.zeros(len(values), bool)
    return ~np.asarray(finite(values).reshape(len(values), -1).all(1))


def fits_int32(low: int, high: int) -> bool:
    """True if integers from `low` to `high` fit int32, which batches have."""
    return _INT32.min <= low and high <= _INT32.max


def is_wide_integer(dtype: np.dtype) -> bool:
    """True for integers that may not fit int32: int64, uint32 and uint64."""
    return dtype.kind in "iu" and dtype.itemsize > 3 and dtype != np.int32


def check_int32(name: str, values: np.ndarray) -> None:
    """Refuses integers that batches cannot hold."""
    if is_wide_integer(values.dtype) and values.size:
        low, high = int(values.min()), int(values.max())
        if not fits_int32(low, high):
            raise ValueError(
                f"`{name}` has integers that do not fit int32, which batches have. Received: "
                f"{low} to {high}. Number the ids from 0, or store the values as floating point."
            )


def refuse_not_finite(name: str, document: int, step: int, offsets: tuple[int, ...] = (0,)) -> None:
    """Raises a ValueError for a value that is NaN or infinite.

    Args:
        name: name of the array; for one that starts with "targets" the error says how to leave
            targets out.
        document: index of the document that holds the value.
        step: its time step in the document.
        offsets: how many steps later the targets of a step stand.
    """
    remedy = (
        f"Give missing targets weight 0: {_known_targets(offsets)}; their value then does not "
        "matter."
        if name.startswith("targets")
        else "A network passes it on to every later state. Fill in or leave out missing readings."
    )
    raise ValueError(
        f"`{name}` is NaN or infinite, or too large for float32. Received: document {document}, "
        f"time step {step}. {remedy}"
    )


def _known_targets(offsets: tuple[int, ...]) -> str:
    """Python, in words, for weights that leave out missing targets.

    A weight belongs to the step that is read, its targets stand at all `offsets` behind it.
    """
    reach = max(offsets)
    if not reach:
        return (
            "`sample_weight=[~np.isnan(t).reshape(len(t), -1).any(1) for t in targets]`, one bool "
            "for each time step of each document"
        )
    # Of each offset a slice, all as long as what is read: for 1 and 4 known[1:-3] and known[4:].
    parts = [f"known[{o or ''}:{'' if o == reach else o - reach}]" for o in sorted(set(offsets))]
    return (
        f"a weight belongs to the time step that is read, its target stands up to {reach} later, "
        "so with `known = ~np.isnan(targets)` (one bool per time step) "
        f"`sample_weight=np.append({' & '.join(parts)}, np.zeros({reach}))` for each document"
    )
