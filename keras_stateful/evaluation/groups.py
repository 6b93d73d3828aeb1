"""What is scored together: a document, all documents, or the steps at like positions of all.

A position is how many time steps of its document stand before a step:

    position   0 | 1 | 2 3 | 4 5 6 7 | 8 .. 15 | 16 .. 31 | ...
    bin        0 | 1 |  2  |    3    |    4    |    5     |        each twice as long as the last
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_stateful.evaluation.reading import Window
from keras_stateful.foundation.types import Structure


class ByDocument:
    """Each document is scored by itself.

    Args:
        lengths: time steps of each document.
        window: time steps of a window.
    """

    def __init__(self, lengths: np.ndarray, window: int):
        self._lengths, self._window = lengths, window

    def windows(self) -> np.ndarray:
        """How many windows each group has that is scored together."""
        return -(-self._lengths // self._window)

    def split(self, window: Window) -> Iterator[tuple[int, Structure]]:
        """The groups that a window belongs to, and its weights there."""
        yield window.span.document, window.weights

    def results(self, scores: dict[str, np.ndarray]) -> dict[str, Any]:
        """The scores of all groups, as they are returned."""
        return scores


class Pooled(ByDocument):
    """All documents are scored together."""

    def windows(self) -> np.ndarray:
        return super().windows().sum(keepdims=True)

    def split(self, window: Window) -> Iterator[tuple[int, Structure]]:
        yield 0, window.weights

    def results(self, scores: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: float(values[0]) for name, values in scores.items()}


class ByPosition(ByDocument):
    """The steps of all documents at the positions of a bin are scored together.

    Attributes:
        first: the first position of each bin, `(bins,)`.
        steps: how many time steps at these positions counted, `(bins,)`.
    """

    def __init__(self, lengths: np.ndarray, window: int):
        super().__init__(lengths, window)
        longest = int(lengths.max())
        self.first = np.array([0, *(1 << k for k in range((longest - 1).bit_length()))])
        self._end = np.append(self.first[1:], longest)
        self.steps = np.zeros(len(self.first), int)

    def windows(self) -> np.ndarray:  # that have steps in the bin
        first, end = self.first[:, None], np.minimum(self._end[:, None], self._lengths)
        touched = (end - 1) // self._window - first // self._window + 1
        return np.where(end > first, touched, 0).sum(axis=1)

    def split(self, window: Window) -> Iterator[tuple[int, Structure]]:
        start, weights = window.span.start, window.weights
        position = start + np.arange(self._window)
        ends = (start, start + window.span.steps - 1)
        first, last = (np.searchsorted(self.first, ends, "right") - 1).tolist()
        for k in range(first, last + 1):
            inside = (position >= self.first[k]) & (position < self._end[k])
            part = keras.tree.map_structure(lambda w, inside=inside: _within(w, inside), weights)
            counted = [w.reshape(len(w), -1).any(axis=1) for w in keras.tree.flatten(part)]
            self.steps[k] += int(np.any(counted, axis=0).sum())
            yield k, part

    def results(self, scores: dict[str, np.ndarray]) -> dict[str, Any]:
        if taken := {"position", "steps"} & set(scores):
            raise ValueError(
                f'by="position" gives an array under {min(taken)!r}, and a metric has that name. '
                f"Received: {sorted(scores)}. Give the metric another `name=`."
            )
        return {"position": self.first, "steps": self.steps, **scores}


def _within(weights: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Weights `(time,)`, or with a horizon `(time, 1)`, of some steps."""
    return weights * inside.reshape(-1, *[1] * (weights.ndim - 1))
