"""Which ids may stand at a time step: those an `Embedding` knows, or the classes of an output.

NumPy only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_stateful.data.batch import Spec


@dataclass(frozen=True)
class IdRange(ABC):
    """Ids from 0 to `size - 1`; a subclass says whose they are.

    Attributes:
        size: how many ids there are.
    """

    size: int

    def holds(self, lowest: int, highest: int) -> bool:
        """True if all ids from the lowest to the highest are allowed."""
        return lowest >= 0 and highest < self.size

    def holds_all(self, ids: np.ndarray) -> bool:
        """True if every id of an array is allowed."""
        return not ids.size or self.holds(int(ids.min()), int(ids.max()))

    def wrong(self, ids: np.ndarray) -> np.ndarray:
        """Marks ids that are not allowed, bool of the same shape."""
        return (ids < 0) | (ids >= self.size)

    def wrong_steps(self, ids: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Marks time steps with an id that is not allowed, bool `(rows, window)`.

        Args:
            ids: `(rows, window, ...)`.
            weights: `(rows, window)` or `(rows, window, 1)`; steps with weight 0 do not count. None
                where all steps count.
        """
        steps: np.ndarray = np.any(self.wrong(ids).reshape(*ids.shape[:2], -1), axis=-1)
        return steps if weights is None else steps & (weights.reshape(steps.shape) > 0)

    def refuse(self, name: str, ids: np.ndarray, place: tuple[int, int] | None = None) -> None:
        """Raises a ValueError for an array that holds an id that is not allowed.

        Args:
            name: name of the array, used in the error message.
            ids: the ids, at least one of them not allowed.
            place: document and time step of the first such id, if known.
        """
        raise ValueError(self.explain(name, int(ids.min()), int(ids.max()), place))

    @abstractmethod
    def explain(self, name: str, low: int, high: int, place: tuple[int, int] | None) -> str:
        """The error message for ids from `low` to `high`, of which some are not allowed."""


@dataclass(frozen=True)
class Vocabulary(IdRange):
    """The ids that a model's `Embedding` knows."""

    def explain(self, name: str, low: int, high: int, place: tuple[int, int] | None) -> str:
        where = ""
        if place is not None:
            where = f"; the first such in document {place[0]} at time step {place[1]}"
        remedy = (
            "Number the ids from 0."
            if low < 0
            else f"Give the Embedding input_dim={high + 1} or more, or encode with the vocabulary "
            "that the model was built for."
        )
        return (
            f"`{name}` holds an id that the model's Embedding does not know. Received: id "
            f"{low if low < 0 else high}{where}; the Embedding knows 0 to {self.size - 1}. {remedy}"
        )


@dataclass(frozen=True)
class Classes(IdRange):
    """The classes of one output whose loss takes ids.

    Attributes:
        size: how many classes there are.
        ignored: an id that the loss leaves out (`ignore_class`), or None.
        output: name of the output, used in error messages.
        of_text: True if the ids are those that the model reads, some steps later.
    """

    ignored: int | None
    output: str
    of_text: bool = False

    def wrong(self, ids: np.ndarray) -> np.ndarray:
        wrong = super().wrong(ids)
        return wrong if self.ignored is None else wrong & (ids != self.ignored)

    def explain(self, name: str, low: int, high: int, place: tuple[int, int] | None) -> str:
        where = ""
        if place is not None:
            where = f", for document {place[0]} at time step {place[1]}"
        too_high = high >= self.size
        remedy = (
            "Number them from 0, and give steps that have no class weight 0 (`sample_weight=`)."
        )
        if self.of_text:
            remedy = (
                "Encode with the vocabulary that the model was built for, which has an id for "
                "everything else, too."
            )
        if too_high:
            more = f"If {high} is a class, give that output {high + 1} units or more; else "
            remedy = more + remedy[0].lower() + remedy[1:]
        return (
            f"`{name}` holds an id that the output {self.output!r} has no class for. Received: id "
            f"{high if too_high else low}{where}; the output has {self.size} classes, 0 to "
            f"{self.size - 1}. {remedy}"
        )


def of_id_targets(
    classes: Mapping[str | None, Classes], targets: Spec | dict[str, Spec]
) -> dict[str | None, Classes]:
    """The classes of those outputs whose targets are ids.

    Args:
        classes: by name of the output; the name is None for a single one.
        targets: the targets' part of a signature.
    """
    specs: Mapping = targets if isinstance(targets, dict) else {None: targets}
    return {name: c for name, c in classes.items() if specs[name].dtype == np.int32}
