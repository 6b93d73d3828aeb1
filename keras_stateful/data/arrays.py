"""Checks of one array of numbers. NumPy only.

Batches have numbers as `int32` or `float32`; what these cannot hold is refused.
"""

from typing import Any, NoReturn

import numpy as np

_INT32 = np.iinfo("int32")
_TOO_LARGE = (2 - 2.0**-24) * 2.0**127  # the smallest float64 that float32 rounds to infinity


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
    kind = "fields" if dtype.names else dtype.kind
    raise TypeError(
        f"`{name}` must be numbers. Received: dtype {dtype}. "
        + _NO_NUMBERS.get(kind, "Convert it to float32 or int32.")
    )


# What to do with values that are no numbers, by kind of their dtype; or "fields" of a record.
_NO_NUMBERS = {
    **dict.fromkeys("UST", "Encode text as ids, with `encode=` or beforehand."),
    **dict.fromkeys("Mm", "Make numbers of times, such as the hour: `times.dt.hour`."),
    "fields": "Make a feature of each field: `from numpy.lib.recfunctions import "
    "structured_to_unstructured`, `structured_to_unstructured(x)`.",
    "c": "Give the real and the imaginary part as two features, float32.",
}


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
            refuse_wide(name, low, high)


def refuse_wide(name: str, low: int, high: int) -> NoReturn:
    """Raises a ValueError for integers from `low` to `high`, which batches cannot hold."""
    raise ValueError(
        f"`{name}` has integers that do not fit int32, which batches have. Received: {low} to "
        f"{high}. Number the ids from 0, or store the values as floating point."
    )


def refuse_not_finite(
    name: str,
    document: int,
    step: int,
    offsets: tuple[int, ...] | None = None,
    column: str = "",
) -> NoReturn:
    """Raises a ValueError for a value that is NaN or infinite.

    Args:
        name: name of the array.
        document: index of the document that holds the value.
        step: its time step in the document.
        offsets: of targets, how many steps later those of a step stand: the error says how to leave
            targets out. None for what a model reads.
        column: of a frame, from `missing_column`.
    """
    remedy = (
        "A network passes it on to every later state. Fill in or leave out missing readings."
        if offsets is None
        else f"Give missing targets weight 0: {_known_targets(offsets)}; their value then does not "
        "matter."
    )
    raise ValueError(
        f"`{name}` is NaN or infinite, or too large for float32. Received: document {document}, "
        f"time step {step}{column}. {remedy}"
    )


def missing_column(columns: tuple | None, reading: np.ndarray) -> str:
    """The first column of a reading that is NaN or infinite, in words; "" of what is no frame."""
    return "" if columns is None else f", column {columns[int(finite(reading).argmin())]!r}"


def _known_targets(offsets: tuple[int, ...]) -> str:
    """Python, in words, for weights that leave out missing targets.

    A weight belongs to the step that is read, its targets stand at all `offsets` behind it.
    """
    reach = max(offsets)
    if not reach:
        return (
            "`sample_weight=[~np.isnan(np.asarray(t)).reshape(len(t), -1).any(1) for t in targets]`"
            ", one bool for each time step of each document"
        )
    # Of each offset a slice, all as long as what is read: for 1 and 4 known[1:-3] and known[4:].
    parts = [f"known[{o or ''}:{'' if o == reach else o - reach}]" for o in sorted(set(offsets))]
    return (
        f"a weight belongs to the time step that is read, its target stands up to {reach} later, "
        "so with `known = ~np.isnan(targets)` (one bool per time step) "
        f"`sample_weight=np.append({' & '.join(parts)}, np.zeros({reach}))` for each document"
    )
