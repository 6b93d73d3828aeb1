"""How many time steps ahead of its input a target stands, or what is known ahead. NumPy only."""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Offsets: TypeAlias = int | Sequence[int] | None


def read_offsets(
    argument: Offsets, default: int, name: str = "target_offset"
) -> tuple[tuple[int, ...], bool]:
    """Reads `target_offset`, or another argument that says how far ahead something stands.

    Args:
        argument: what the user gave: an int, several, or None.
        default: what None means.
        name: name of the argument, used in error messages.

    Returns:
        The offsets, and True if they have an axis of their own.
    """
    if argument is None:
        return (default,), False
    horizon = not np.isscalar(argument)
    several: Any = argument if horizon else [argument]
    try:
        offsets = tuple(operator.index(offset) for offset in several)
    except TypeError:
        raise TypeError(
            f"`{name}` must be an int or a sequence of ints, in time steps. Received: "
            f"{name}={argument!r}."
        ) from None
    if not offsets or min(offsets) < 0:
        raise ValueError(
            f"`{name}` must be 0 or more time steps. Received: {name}={argument!r}. To predict the "
            "past, pass `targets` that are shifted already."
        )
    return offsets, horizon


def at_all_offsets(parts: list[np.ndarray], of_features: bool) -> np.ndarray:
    """What steps read of one input at several offsets: side by side on the last axis.

    Args:
        parts: `(..., features)` of each offset, or `(...)` where a step is one value.
        of_features: True for the former.
    """
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, axis=-1) if of_features else np.stack(parts, axis=-1)
