"""Target ids that an output of so many classes can be trained on. NumPy only."""

from typing import Any, NamedTuple

import numpy as np


class Classes(NamedTuple):
    """The classes of one output whose loss takes ids.

    Attributes:
        size: how many; ids go from 0 to `size - 1`.
        ignored: an id that the loss leaves out (`ignore_class`), or None.
        output: how errors call the output.
    """

    size: int
    ignored: int | None
    output: str

    def beyond(self, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Where a target that counts is no class.

        Args:
            y: ids `(rows, window, ...)`.
            weights: `(rows, window)` or `(rows, window, 1)`; None where all count.

        Returns:
            bool `(rows, window)`.
        """
        wrong = (y < 0) | (y >= self.size)
        if self.ignored is not None:
            wrong &= y != self.ignored
        found = np.any(wrong.reshape(*y.shape[:2], -1), axis=-1)
        return found if weights is None else found & (weights.reshape(found.shape) > 0)

    def refuse(self, name: str, wrong: np.ndarray, place: tuple[int, int] | None = None) -> None:
        """Raises for targets that are no classes; the place is document and time step of what is
        read there.
        """
        low, high = int(wrong.min()), int(wrong.max())
        where = "" if place is None else f", for document {place[0]} at time step {place[1]}"
        too_high = high >= self.size
        more = (
            f"If {high} is a class, give that output {high + 1} units or more; else n"
            if too_high
            else "N"
        )
        raise ValueError(
            f"`{name}` holds an id that the output {self.output!r} has no class for. Received: id "
            f"{high if too_high else low}{where}; the output has {self.size} classes, 0 to "
            f"{self.size - 1}. {more}umber them from 0, and give steps that have no class weight 0 "
            "(`sample_weight=`)."
        )


def with_id_targets(known: dict[Any, Classes], targets: Any) -> dict[Any, Classes]:
    """Those of `known` whose targets are ids, by the `(shape, dtype)` of each."""
    specs = targets if isinstance(targets, dict) else {None: targets}
    return {k: c for k, c in known.items() if specs[k][1] == np.int32}
