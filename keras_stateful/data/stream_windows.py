"""What the rows of a stream read next, and the batches made of it."""

from typing import Any

import numpy as np

from keras_stateful.data.arrays import out_dtype
from keras_stateful.data.batch import Spec, assemble, no_resets
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.source import Document, Output, Source

Filled = list[
    list[tuple[int, Document, int, int]]
]  # for each row: column, document, first time step, steps


class _Row:
    """What a row of the batch is reading."""

    def __init__(self) -> None:
        self.document: Document | None = None
        self.at = 0


class StreamWindows:
    """Rows that each read a document to its end and then take the next one of the source, window by
    window.

    Args:
        source: where documents come from.
        rows: of a batch.
        window: time steps of a batch.
        boundary: as in `StatefulStream`, and so are `burn_in`, `label_at`, `resets`.
    """

    def __init__(
        self,
        source: Source,
        rows: int,
        window: int,
        boundary: str,
        burn_in: int,
        label_at: str,
        resets: bool,
    ):
        self._source, self._rows, self._window = source, [_Row() for _ in range(rows)], window
        self._boundary, self._burn_in, self._label_at, self._resets = (
            boundary,
            burn_in,
            label_at,
            resets,
        )
        self.known: dict[Any, int] = {}  # how many ids the model that reads them knows, by key
        self.classes: dict[Any, Classes] = {}  # of its outputs

    def signature(self) -> tuple:
        """A batch with a `Spec` in place of each array."""
        inputs, targets, weights = self._specs()
        mask = Spec(self.no_resets().shape, np.dtype(bool)) if self._resets else None
        return assemble(inputs, mask, targets, weights)

    def _specs(self) -> tuple[dict, dict, dict]:
        """Shape and dtype of each input, target and weight."""
        source, shape = self._source, (len(self._rows), self._window)
        inputs = {
            k: Spec((*shape, *source.like[k][0]), out_dtype("source", source.like[k][1]))
            for k in source.inputs
        }
        axis, weights_axis = ((len(source.offsets),), (1,)) if source.horizon else ((), ())
        both = {
            k: (
                Spec((*shape, *axis, *o.shape, *(1,) * o.lifted), o.dtype),
                Spec((*shape, *weights_axis), np.dtype("float32")),
            )
            for k, o in source.outputs.items()
        }
        return inputs, {k: y for k, (y, _) in both.items()}, {k: w for k, (_, w) in both.items()}

    def no_resets(self) -> np.ndarray:
        """The mask of a batch in which no document starts."""
        return no_resets(len(self._rows), self._window, self._boundary)

    def check(self, batch: tuple) -> None:
        """Refuses a batch whose inputs hold ids beyond `known`, or its targets ids beyond
        `classes`.
        """
        x, y, weights = batch
        for key, size in self.known.items():
            ids = x[key] if key is not None else x[0] if self._resets else x
            if not Vocabulary(size).holds_all(ids):
                Vocabulary(size).refuse("source" if key is None else f"source[...][{key!r}]", ids)
        for key, classes in self.classes.items():
            targets, counted = (y, weights) if key is None else (y[key], weights[key])
            bad = classes.wrong_steps(targets, counted)
            if bad.any():
                classes.refuse("targets" if key is None else f"targets[{key!r}]", targets[bad])

    # Where the rows are

    @property
    def idle(self) -> bool:
        """Whether no row is inside a document."""
        return all(row.document is None for row in self._rows)

    def restart(self) -> None:
        """All rows, and the source, begin anew."""
        self._rows = [_Row() for _ in self._rows]
        self._source.restart()

    def reading(self) -> list:
        """For each row the number, the time step reached and the checksum of its document, or None;
        as JSON.
        """
        return [
            None if r.document is None else [r.document.number, r.at, r.document.checksum]
            for r in self._rows
        ]

    def go_on(self, reading: list, taken: int) -> None:
        """The rows go on where `reading` says; the source is read again up to there."""
        documents = self._source.reread(reading, taken)
        for row, here, document in zip(self._rows, reading, documents, strict=True):
            row.document, row.at = document, 0 if here is None else here[1]

    # Batches

    def fill(self) -> Filled:
        """What each row reads in the next window."""
        return [self._fill(row) for row in self._rows]

    def _fill(self, row: _Row) -> list[tuple[int, Document, int, int]]:
        spans, column, window = [], 0, self._window
        while column < window:
            if row.document is None:
                if column and self._boundary == "align":
                    break
                row.document, row.at = self._source.take(), 0
                if row.document is None:
                    break
            steps = min(window - column, row.document.steps - row.at)
            spans.append((column, row.document, row.at, steps))
            column, row.at = column + steps, row.at + steps
            if row.at == row.document.steps:
                row.document = None
        return spans

    def gather(self, filled: Filled) -> tuple[tuple, np.ndarray, float]:
        """What `fill` gave as a batch with unscaled weights, its reset mask, and how many steps
        count.
        """
        source, (input_specs, target_specs, _) = self._source, self._specs()
        inputs = {k: np.zeros(s.shape, s.dtype) for k, s in input_specs.items()}
        targets = {k: np.zeros(s.shape, s.dtype) for k, s in target_specs.items()}
        mask, weights = self.no_resets(), np.zeros((len(self._rows), self._window), "float32")
        for row, spans in enumerate(filled):
            for column, document, start, steps in spans:
                stop, end = column + steps, start + steps
                for key in source.inputs:
                    inputs[key][row, column:stop] = document.arrays[key][start:end]
                for key, output in source.outputs.items():
                    self._put(
                        targets[key][row, column:stop],
                        output,
                        document.arrays[output.key],
                        start,
                        end,
                    )
                skip = min(max(self._burn_in - start, 0), steps)
                if self._label_at == "every":
                    weights[row, column + skip : stop] = 1
                elif skip < steps and (self._label_at == "window" or end == document.steps):
                    weights[row, stop - 1] = 1
                if start == 0:
                    mask[(row, column) if mask.ndim == 2 else row] = True
        counts = float(weights.sum())
        if source.weighted:
            for row, spans in enumerate(filled):
                for column, document, start, steps in spans:
                    given = document.weights
                    weights[row, column : column + steps] *= (
                        given[start : start + steps]
                        if isinstance(given, np.ndarray) and given.ndim
                        else given
                    )
        if source.horizon:  # a loss `(batch, time, offsets)` broadcasts them
            weights = weights[..., None]
        batch = assemble(
            inputs, mask if self._resets else None, targets, {k: weights.copy() for k in targets}
        )
        return batch, mask, counts

    def _put(
        self, into: np.ndarray, output: Output, values: np.ndarray, start: int, end: int
    ) -> None:
        into = into[..., 0] if output.lifted else into
        if output.is_label:
            into[:] = values
        elif self._source.horizon:
            for k, offset in enumerate(self._source.offsets):
                into[:, k] = values[start + offset : end + offset]
        else:
            into[:] = values[start + self._source.offsets[0] : end + self._source.offsets[0]]
