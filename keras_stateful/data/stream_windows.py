"""The windows of a stream: rows that read documents of a source, and the batches made of them."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_stateful.data.batch import copied, mark_resets, no_resets
from keras_stateful.data.columns import ColumnOrder
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.parts import Gathered, IdChecks, Parts
from keras_stateful.data.source import Document, Source
from keras_stateful.data.spans import Spans


@dataclass
class _Row:
    """What a row of the batch is reading: a document, from time step `at` on."""

    document: Document | None = None  # None: the next one of the source
    at: int = 0


class Reading(NamedTuple):
    """What all rows read in one window.

    Attributes:
        spans: runs of steps; `spans.document` counts in `documents`.
        documents: one for each run.
    """

    spans: Spans
    documents: list[Document]

    @property
    def steps(self) -> int:
        """Time steps in all rows."""
        return int(self.spans.steps.sum())


class Made(NamedTuple):
    """A batch before it is given.

    Attributes:
        gathered: its arrays.
        mask: its reset mask.
        parts: what it was made of, without documents.
        spans: where its steps come from, by number of the document in the source.
    """

    gathered: Gathered
    mask: np.ndarray
    parts: Parts
    spans: Spans


class StreamWindows:
    """Rows that each read a document to its end and then take the next one, window by window.

    Args:
        source: where documents come from.
        rows: of a batch.
        window: time steps of a batch.
        boundary: as in `StatefulStream`, and so are `burn_in` and `resets`.

    Attributes:
        order: of the columns of frames; settable.
        once: keys of inputs that are handed once for each row; settable.
        at_ends: True where targets and weights stand at the last step of each window alone;
            settable.
    """

    def __init__(
        self, source: Source, rows: int, window: int, boundary: str, burn_in: int, resets: bool
    ):
        self._source, self._window = source, window
        self._rows = [_Row() for _ in range(rows)]
        self._boundary, self._burn_in, self._resets = boundary, burn_in, resets
        self._checks = IdChecks()
        # As the model that reads wants it
        self.order, self.at_ends = ColumnOrder(), False
        self.once: frozenset[str] = frozenset()

    def signature(self) -> tuple:
        """A batch with a `Spec` in place of each array."""
        return self._source.parts.signature(
            len(self._rows),
            self._window,
            self._boundary,
            resets=self._resets,
            weighted=True,
            once=self.once,
            at_ends=self.at_ends,
        )

    def no_resets(self) -> np.ndarray:
        """The mask of a batch in which no document starts."""
        return no_resets(len(self._rows), self._window, self._boundary)

    def check_ids(self, known: dict[str | None, int]) -> None:
        """Refuses ids that a model does not know, in batches as they are given."""
        inputs = self._source.parts.inputs
        self._checks.vocabularies = {
            key: Vocabulary(size)
            for key, size in known.items()
            if inputs[key].out_dtype == np.int32
        }

    def check_classes(self, classes: dict[str | None, Classes]) -> None:
        """Refuses target ids that an output has no class for, in batches as they are given."""
        self._checks.classes = classes

    def give(self, made: Made, share: np.float32) -> tuple:
        """A batch as a model takes it, its weights divided by the share of steps that count.

        Checked only now: it may have been made before the model that reads it was known. A copy,
        since it may be given again, and whoever reads it may write to it.
        """
        self._checks.check(made.gathered, made.parts, made.spans)
        mask = made.mask if self._resets else None
        arranged = self.order.arrange(made.gathered).handed_once(self.once)
        gathered = copied(arranged.assemble(mask, at_ends=self.at_ends))
        # Divided last, the user's weights included: a checkpoint of an earlier version goes on with
        # the very same numbers.
        for weights in gathered[2].values() if isinstance(gathered[2], dict) else gathered[2:]:
            weights /= share
        return gathered

    # Where the rows are

    @property
    def idle(self) -> bool:
        """True if no row is inside a document."""
        return all(row.document is None for row in self._rows)

    def restart(self) -> None:
        """All rows, and the source, begin anew."""
        self._rows = [_Row() for _ in self._rows]
        self._source.restart()

    def progress(self) -> list:
        """How far each row has come, as JSON.

        Returns:
            For each row the number of its document, the time step reached and the document's
            checksum; None where it is inside none.
        """
        return [
            None if r.document is None else [r.document.number, r.at, r.document.checksum]
            for r in self._rows
        ]

    def go_on(self, progress: list, taken: int) -> None:
        """The rows go on where `progress` says; the source is read again up to there."""
        documents = self._source.reread(progress, taken)
        self._rows = [
            _Row(document, 0 if reached is None else reached[1])
            for reached, document in zip(progress, documents, strict=True)
        ]

    # Batches

    def read(self) -> Reading:
        """Moves all rows on by a window; reads nothing where the source and all rows have ended."""
        documents: list[Document] = []
        runs: list[tuple[int, int, int, int]] = []  # row, column, first time step, steps
        for number, row in enumerate(self._rows):
            column = 0
            while column < self._window and (document := self._document(row, column)) is not None:
                steps = min(self._window - column, document.steps - row.at)
                documents.append(document)
                runs.append((number, column, row.at, steps))
                column += steps
                row.at += steps
                if row.at == document.steps:
                    row.document = None
        return Reading(self._spans(runs, documents), documents)

    def _document(self, row: _Row, column: int) -> Document | None:
        """What a row reads from a column on; None where the rest of the window is padding."""
        # In "align" a document that ends inside of a window leaves the rest of it empty.
        if row.document is None and not (column and self._boundary == "align"):
            row.document, row.at = self._source.take(), 0
        return row.document

    def _spans(self, runs: list[tuple[int, int, int, int]], documents: list[Document]) -> Spans:
        numbers = itertools.chain.from_iterable(runs)
        row, column, start, steps = np.fromiter(numbers, "int64").reshape(-1, 4).T
        lengths = np.array([document.steps for document in documents], "int64")
        return Spans(
            row=row,
            column=column,
            document=np.arange(len(runs)),
            start=start,
            steps=steps,
            skip=np.minimum(np.maximum(self._burn_in - start, 0), steps),
            opens=start == 0,
            closes=start + steps == lengths,
            single=self._boundary == "align",
            batch=len(self._rows),
        )

    def counted(self, reading: Reading) -> tuple[int, int]:
        """How many time steps are trained on, before the user's own weights, and of how many.

        With `at_ends` how many windows.
        """
        target = next(iter(self._source.parts.targets.values()))  # all outputs agree
        counted = target.counted(reading.spans, self._window, at_ends=self.at_ends)
        return counted, len(self._rows) * (1 if self.at_ends else self._window)

    def make(self, reading: Reading) -> Made:
        """A batch of what the rows read."""
        spans, documents = reading
        parts = self._source.parts_of(documents)

        gathered = parts.gather(spans, spans.later, len(self._rows), self._window, lambda _: 1.0)
        numbers = np.array([document.number for document in documents], "int64")
        return Made(
            gathered,
            mark_resets(self.no_resets(), spans),
            self._source.parts,  # without the documents, which batches that wait would keep
            spans._replace(document=numbers),
        )
