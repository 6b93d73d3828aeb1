"""From the grid of batches back to documents: what a model gave at each of their time steps.

predictions   row 0 | a0 a1 | a2 .. |        a: a0 a1 a2
              row 1 | b0 b1 | b2 b3 |        b: b0 b1 b2 b3
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_stateful.data.kinds import as_array
from keras_stateful.data.layout import Layout
from keras_stateful.data.spans import counted_up
from keras_stateful.foundation.types import Structure

_AT_ONCE = 1 << 20  # time steps whose places are looked up together


class Grid:
    """The places of a pass's time steps in its batches.

    Args:
        layout: of the epoch.
        lengths: time steps of each document.
        rows: of the layout, that were read.
        window: time steps of a batch.
        num_batches: of the pass.
        at_ends: True where there is one prediction for each window, at its last step.
    """

    def __init__(
        self,
        layout: Layout,
        lengths: np.ndarray,
        rows: range,
        window: int,
        num_batches: int,
        *,
        at_ends: bool = False,
    ):
        self._layout, self._lengths, self._rows = layout, lengths, rows
        self._window, self._num_batches, self._at_ends = window, num_batches, at_ends

    def restore(self, predictions: Any) -> Structure:
        """One array for each document of every array in a structure; see `StatefulSequence`."""
        if isinstance(predictions, dict):
            return {key: self.restore(part) for key, part in predictions.items()}
        if isinstance(predictions, (list, tuple)):
            return [self.restore(part) for part in predictions]
        return self._restored(self._checked(as_array("predictions", predictions)))

    def _checked(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions of a whole pass, with a value for every time step."""
        expected = (self._num_batches * len(self._rows), self._window)
        if self._at_ends:
            if predictions.shape[:1] == expected[:1]:
                return predictions[:, None]
            raise ValueError(
                "`predictions` must be those of a whole pass, with a value for each window, "
                f"`({expected[0]}, ...)`: {self._num_batches} batches of {len(self._rows)} rows. "
                f"Received: shape {predictions.shape}. Pass what `model.predict(sequence)` gave, "
                "without `steps=`."
            )
        if predictions.shape[:2] == expected:
            return predictions
        raise ValueError(
            "`predictions` must be those of a whole pass, with a value for every time step, "
            f"`({expected[0]}, {expected[1]}, ...)`: {self._num_batches} batches of "
            f"{len(self._rows)} rows. Received: shape {predictions.shape}. Pass what "
            "`model.predict(sequence)` gave, without `steps=`, by a model with an output at every "
            "step."
        )

    def _restored(self, predictions: np.ndarray) -> list[np.ndarray]:
        steps = predictions.reshape(-1, *predictions.shape[2:])
        begin = np.cumsum(self._lengths) - self._lengths  # documents one after the other
        line = np.zeros((int(self._lengths.sum()), *steps.shape[1:]), steps.dtype)
        known = np.zeros(len(line), bool)
        # A step that is burnt in may be read twice: its value from the piece that it belongs to is
        # written last.
        for burnt_in in (True, False):
            for source, goal in self._places(begin, burnt_in):
                line[goal] = steps[source]
                known[goal] = True
        if not known.all():
            line = line.astype("float64") if line.dtype.kind in "iub" else line
            line[~known] = np.nan
        return np.split(line, begin[1:])

    def _places(self, begin: np.ndarray, burnt_in: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Where time steps stand in the grid, and where in a line of all documents."""
        rows = len(self._rows)
        several = max(1, _AT_ONCE // (rows * self._window))
        for first in range(0, self._num_batches, several):
            last = min(first + several, self._num_batches)
            spans = self._layout.spans(first, last, self._rows.start, self._rows.stop)
            skip = np.zeros_like(spans.skip) if burnt_in else spans.skip
            count = spans.skip if burnt_in else spans.steps - spans.skip
            row = first * rows + spans.row
            if self._at_ends:
                chosen = (spans.column + spans.steps == self._window) & (
                    (spans.skip == spans.steps) == burnt_in
                )
                ends = begin[spans.document] + spans.start + spans.steps - 1
                yield row[chosen], ends[chosen]
                continue
            yield (
                counted_up(row * self._window + spans.column + skip, count),
                counted_up(begin[spans.document] + spans.start + skip, count),
            )
