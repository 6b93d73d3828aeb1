"""Whole numbers as arguments: Python's and NumPy's alike, no bool. NumPy only."""

import operator
from typing import Any

import numpy as np


def whole_number(name: str, value: Any, least: int, alternative: str = "") -> int:
    """A size, index or seed of data, as an `int`.

    Args:
        name: how errors call it.
        value: anything with `__index__`, but for a bool.
        least: the smallest that is right.
        alternative: what else the argument may be, in words.

    Raises:
        TypeError: not a whole number.
        ValueError: a smaller one.
    """
    number = _index(value)
    if number is None:
        raise TypeError(
            f"`{name}` must be an int{' ' * bool(alternative)}{alternative}. Received: {name}={value!r}."
        )
    if number < least:
        raise ValueError(f"`{name}` must be {least} or more. Received: {name}={value!r}.")
    return number


def int_at_least(name: str, value: Any, least: int, unit: str = "") -> int:
    """How many rows, steps or epochs, as an `int`.

    Args:
        name: how errors call it.
        value: anything with `__index__`, but for a bool.
        least: the smallest that is right.
        unit: what is counted, in words.

    Raises:
        ValueError: anything else.
    """
    number = _index(value)
    if number is None or number < least:
        counted = f", in {unit}" if unit else ""
        raise ValueError(f"`{name}` must be an int of at least {least}{counted}. Received: {name}={value!r}.")
    return number


def _index(value: Any) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
