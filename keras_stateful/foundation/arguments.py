"""Arguments that every room reads alike: whole numbers, words, paths, shapes. NumPy only."""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def whole_number(
    name: str, value: Any, least: int, *, alternative: str = "", unit: str = ""
) -> int:
    """Checks a size, index or seed and returns it as an `int`: Python's and NumPy's alike, no bool.

    Args:
        name: name of the argument, used in error messages.
        value: anything with `__index__`, but for a bool.
        least: the smallest value allowed.
        alternative: what else the argument may be, in words.
        unit: what is counted, in words.

    Raises:
        TypeError: not a whole number.
        ValueError: a smaller one.
    """
    number = _index(value)
    if number is None:
        raise TypeError(
            f"`{name}` must be an int{' ' * bool(alternative)}{alternative}. "
            f"Received: {name}={_shown(value)}."
        )
    if number < least:
        counted = f", in {unit}" if unit else ""
        raise ValueError(f"`{name}` must be {least} or more{counted}. Received: {name}={value!r}.")
    return number


def _shown(value: Any) -> str:
    """A value as an error message shows it: whoever mixes up arguments gives a whole corpus."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}... of type {type(value).__name__}"


def _index(value: Any) -> int | None:
    """The value as an int; None for what is no whole number, bools included."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def one_of(name: str, value: Any, choices: Sequence[str], remedy: str = "") -> str:
    """Checks that an argument is one of a few words and returns it.

    Args:
        name: name of the argument, used in error messages.
        value: what was given.
        choices: the words allowed.
        remedy: what to do instead, a sentence.

    Raises:
        ValueError: any other value.
    """
    if isinstance(value, str) and value in choices:
        return value
    *most, last = [f'"{choice}"' for choice in choices]
    words = f"{', '.join(most)} or {last}" if most else last
    raise ValueError(
        f"`{name}` must be {words}. Received: {name}={_shown(value)}. {remedy}".rstrip()
    )


def true_or_false(name: str, value: Any, remedy: str = "") -> bool:
    """Checks that an argument is a bool and returns it: text is true, whatever it says.

    Args:
        name: name of the argument, used in error messages.
        value: what was given: Python's and NumPy's bools, 0 and 1.
        remedy: what to do instead, a sentence.

    Raises:
        TypeError: any other value.
    """
    if isinstance(value, (bool, np.bool_, int, np.integer)) and value in (0, 1):
        return bool(value)
    raise TypeError(
        f"`{name}` must be True or False. Received: {name}={_shown(value)}. {remedy}".rstrip()
    )


def a_path(name: str, value: Any) -> Path:
    """Checks that an argument is a path and returns it.

    Raises:
        TypeError: neither text nor a path.
    """
    if isinstance(value, (str, os.PathLike)):
        return Path(value)
    raise TypeError(
        f"`{name}` must be a path, as text or a `pathlib.Path`. Received: {name}={_shown(value)}."
    )


def existing_part(path: Path) -> Path:
    """A path as far as there is something, or the part of it in which all else would be made."""
    return next(part for part in (path, *path.absolute().parents) if part.exists())


def check_in_directory(name: str, path: Path) -> None:
    """Refuses a path that leads through a file, or to one where a directory is expected.

    Raises:
        ValueError: a file in its place or above it.
    """
    there = existing_part(path)
    if not there.is_dir():
        raise ValueError(
            f"`{name}` must be a directory, or a path where there is nothing yet. Received: "
            f"{str(path)!r}, where {there} is a file. Name another, or remove the file."
        )


def file_to_write(name: str, value: Any) -> Path:
    """Checks that a file can be made at a path, or replaced, and returns it.

    Raises:
        TypeError: neither text nor a path.
        ValueError: a directory, or a file in one that does not exist.
    """
    path = a_path(name, value)
    if path.is_dir():
        raise ValueError(
            f"`{name}` must be a file. Received: {str(path)!r}, a directory. Name a file in it."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"`{name}` must be a file in a directory that exists. Received: {str(path)!r}, and "
            f"there is no directory {str(path.parent)!r}. Make it first."
        )
    return path


def fits(shape: tuple, pattern: tuple) -> bool:
    """True if a shape has the sizes of a pattern, in which None stands for any size."""
    return len(shape) == len(pattern) and all(
        size in (None, actual) for actual, size in zip(shape, pattern, strict=True)
    )
