"""Whole numbers as arguments: Python's and NumPy's alike, no bool. NumPy only."""

import operator
from typing import Any

import numpy as np


def whole_number(
    name: str, value: Any, least: int, *, alternative: str = "", unit: str = ""
) -> int:
    """A size, index or seed, as an `int`.

    Args:
        name: how errors call it.
        value: anything with `__index__`, but for a bool.
        least: the smallest that is right.
        alternative: what else the argument may be, in words.
        unit: what is counted, in words.

    Raises:
        TypeError: not a whole number.
        ValueError: a smaller one.
    """
    number = _index(value)
    if number is None:
        raise TypeError(
            f"`{name}` must be an int{' ' * bool(alternative)}{alternative}. Received: "
            f"{name}={value!r}."
        )
    if number < least:
        counted = f", in {unit}" if unit else ""
        raise ValueError(f"`{name}` must be {least} or more{counted}. Received: {name}={value!r}.")
    return number


def _index(value: Any) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
