"""Spans: which time steps of which documents stand where in a batch. NumPy only.

    document 0: aaaaaa      row 0  a a a a | b b      row  column  document  start  steps
    document 1: bb          row 1  c c c . | . .       0     0        0        0      4
    document 2: ccc                                    1     0        2        0      3   ...

Functions here turn spans into arrays `(rows, window)`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Spans(NamedTuple):
    """Runs of consecutive time steps of one document each, ordered by row and column.

    Attributes:
        row: row of the batch.
        column: where in the window the run begins.
        document: index of the document that is read.
        start: the document's time step that stands in `column`.
        steps: how many time steps the run has.
        skip: how many of them, from the first on, are read and not trained on.
        opens: bool; True where a piece starts, from the initial state.
        closes: bool; True where a piece's last step is among them.
        single: True if there is at most one run a row, at column 0.
        batch: rows of a batch. In a tall one, batches one below the other, a row goes on so many
            rows further down.
    """

    row: np.ndarray
    column: np.ndarray
    document: np.ndarray
    start: np.ndarray
    steps: np.ndarray
    skip: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    single: bool
    batch: int

    def later(self, steps: int) -> "Spans":
        """What stands so many time steps later in the same documents."""
        return self._replace(start=self.start + steps)

    def of_rows(self, rows: np.ndarray, count: int) -> "Spans":
        """The spans of some rows, which are numbered anew.

        Args:
            rows: indices of the rows, ascending.
            count: how many rows there are in all.
        """
        number = np.full(count, -1)
        number[rows] = np.arange(len(rows))
        row = number[self.row]
        kept = row >= 0
        return Spans(
            row=row[kept],
            column=self.column[kept],
            document=self.document[kept],
            start=self.start[kept],
            steps=self.steps[kept],
            skip=self.skip[kept],
            opens=self.opens[kept],
            closes=self.closes[kept],
            single=self.single,
            batch=self.batch,
        )

    def fill(self, rows: int, window: int) -> bool:
        """True if every row is one run over the whole window, so that nothing is padding."""
        return self.single and len(self.row) == rows and int(self.steps.min()) == window


def place(spans: Spans, marks: np.ndarray) -> tuple[int, int]:
    """Document and time step of the first mark in a bool array `(rows, window)`."""
    row, column = np.argwhere(marks)[0]
    k = np.flatnonzero((spans.row == row) & (spans.column <= column))[-1]
    return int(spans.document[k]), int(spans.start[k] + column - spans.column[k])


def weighted(spans: Spans, rows: int, window: int, scale: float) -> np.ndarray:
    """`scale` at steps that are real and not burnt in, 0 elsewhere: float32 `(rows, window)`."""
    weights = np.full((rows, window), scale, "float32")
    counted = np.bincount(spans.row, spans.steps - spans.skip, rows)
    partial = np.flatnonzero(counted < window)  # of most rows all steps count
    if len(partial):
        marks = _trained(spans.of_rows(partial, rows), len(partial), window)
        weights[partial] = marks * np.float32(scale)
    return weights


def _trained(spans: Spans, rows: int, window: int) -> np.ndarray:
    """Marks the steps that are real and not burnt in, bool `(rows, window)`."""
    # Rows one after the other: +1 where a run begins, -1 behind its end. The running sum is 1
    # inside of runs and 0 between them. Where one ends and the next begins, both add to one edge.
    edges = np.zeros(rows * window + 1, "int8")
    at = spans.row * window + spans.column
    np.add.at(edges, at + spans.skip, 1)
    np.add.at(edges, at + spans.steps, -1)
    return np.cumsum(edges[:-1], dtype="int8").astype(bool).reshape(rows, window)


def spread(out: np.ndarray, spans: Spans, values: np.ndarray) -> None:
    """Writes one value of each span to all its steps in `out`, `(rows, window, ...)`."""
    rows, window, *shape = out.shape
    at = counted_up(spans.row * window + spans.column, spans.steps)
    out.reshape(rows * window, *shape)[at] = np.repeat(values, spans.steps, axis=0)


def repeated(values: np.ndarray, spans: Spans, rows: int, window: int) -> np.ndarray:
    """Each document's value at each of its steps, `(rows, window, ...)`, 0 elsewhere.

    Args:
        values: `(documents, ...)`.
    """
    if spans.fill(rows, window):
        return np.repeat(values[spans.document][:, None], window, axis=1)
    out = np.zeros((rows, window, *values.shape[1:]), values.dtype)
    spread(out, spans, values[spans.document])
    return out


def counted_up(begin: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`begin[k], begin[k] + 1, ...`, of each run as many as it has steps, one after the other."""
    before = np.cumsum(steps) - steps  # steps of all runs before this one
    total = int(steps.sum())
    # A plain count is too high by `before[k]` inside of run k, and too low by `begin[k]`.
    return np.arange(total) + np.repeat(begin - before, steps)


def joined(spans: Spans, window: int) -> Iterator[tuple[int, ...]]:
    """Spans as runs, joined where a document goes on in the next window of its row.

    Yields:
        Of each run: row and column where it begins, the document, its first time step and the one
        behind its last, and how many windows it has. Several windows are all full, and stand
        `spans.batch` rows below each other.
    """
    stop, one = spans.start + spans.steps, np.ones_like(spans.row)
    runs = np.stack([spans.row, spans.column, spans.document, spans.start, stop, one])
    if len(one) and spans.row[-1] >= spans.batch:  # in one batch no document goes on
        runs = runs[:, np.argsort(spans.row % spans.batch, kind="stable")]
        row, _, document, start, stop, _ = runs
        whole = stop - start == window
        follows = (
            (whole[1:] & whole[:-1])
            & (document[1:] == document[:-1])
            & (start[1:] == stop[:-1])
            & (row[1:] == row[:-1] + spans.batch)
        )
        first = np.flatnonzero(np.append(True, ~follows))
        last = np.append(first[1:], len(row)) - 1
        runs = runs[:, first]
        runs[4:] = stop[last], last - first + 1
    return zip(*runs.tolist(), strict=True)


def padded(values: np.ndarray, row: np.ndarray, steps: np.ndarray, rows: int) -> np.ndarray:
    """Puts single windows into their rows, with zeros behind the end of what is shorter.

    Args:
        values: `(windows, window, ...)`; written to.
        row: of each window, ascending.
        steps: that each window has.
        rows: how many rows there are.
    """
    short = np.flatnonzero(steps < values.shape[1])
    for k, stop in zip(short.tolist(), steps[short].tolist(), strict=True):
        values[k, stop:] = 0
    if len(values) == rows:
        return values
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[row] = values
    return out
