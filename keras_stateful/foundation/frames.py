"""Frames of any package: arrays whose columns have names, which go by these. NumPy only."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

Columns: TypeAlias = tuple[Any, ...] | None  # the columns of a frame by name, in order


def columns_of(value: Any) -> Columns:
    """The names of a frame's columns, in order; None for what is no frame.

    A frame is an array whose columns have names, `frame[name]` for each: of pandas, polars, Arrow
    and others. There is no protocol for less (pandas takes back `__dataframe__`, polars has).
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__array__"):
        return None
    # Arrow's word and everybody else's; Arrow has the columns themselves as `columns`.
    names = getattr(value, "column_names", getattr(value, "columns", None))
    return None if names is None else tuple(names)


def row_names(value: Any) -> Columns:
    """The names of the columns in one row of a frame, as pandas's `frame.loc[...]` gives it."""
    index = getattr(value, "index", None)
    if index is None or callable(index) or np.ndim(value) != 1:  # lists have a method `index`
        return None
    names = tuple(index)
    return names if all(isinstance(name, str) for name in names) else None


def named_row(value: Any) -> tuple[Columns, Any]:
    """The names in one row of readings, None where it has none, and its numbers in their order.

    Args:
        value: a row of a frame as `frame.loc[...]` gives it, a frame of one row, or a dict.
    """
    if isinstance(value, Mapping):
        return tuple(value), list(value.values())
    columns = columns_of(value)
    if columns is not None and len(value) == 1:
        return columns, np.asarray(value)[0]
    return row_names(value), value


def column_places(where: str, columns: Columns, expected: list[str] | None) -> np.ndarray | None:
    """Where the expected columns stand, int `(columns,)`, so that `array[..., places]` has them.

    Args:
        where: what has the columns, for an error message.
        columns: their names; None for what has none.
        expected: the names in the order that a model reads; None where nobody knows.

    Returns:
        None where they are in order, or one of both is unknown.

    Raises:
        ValueError: other columns, or one of them twice.
    """
    if columns is None or expected is None:
        return None
    names = column_texts(columns)
    if names == expected:
        return None
    missing = [name for name in expected if name not in names]
    unknown = [name for name in names if name not in expected]
    if missing or unknown or len(set(names)) < len(names) or len(names) != len(expected):
        raise ValueError(
            f"{where} must have the columns that the model was trained on. Received: "
            f"{_listed(names)}; it was trained on {_listed(expected)}"
            + (f"; missing {_listed(missing)}" if missing else "")
            + (f"; unknown {_listed(unknown)}" if unknown else "")
            + f". Choose them by name, `frame[{_listed(expected)}]`; where the names differ and "
            "the meaning does not, pass the numbers in that order: `frame.to_numpy()`."
        )
    return np.array([names.index(name) for name in expected])


def column_texts(columns: Iterable) -> list[str]:
    """Names of columns as text, as a file of a model or an artifact has them."""
    return [str(name) for name in columns]


def _listed(names: list[str]) -> str:
    text = str(names)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(names)} in all)"
