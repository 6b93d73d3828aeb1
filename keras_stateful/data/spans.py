"""Spans: which time steps of which documents stand where in a batch. NumPy only.

    document 0: aaaaaa      row 0  a a a a | b b      row  column  document  start  steps
    document 1: bb          row 1  c c c . | . .       0     0        0        0      4
    document 2: ccc                                    1     0        2        0      3   ...

Functions here turn spans into arrays `(rows, window)`.
"""

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

    def fill(self, rows: int, window: int) -> bool:
        """True if every row is one run over the whole window, so that nothing is padding."""
        return self.single and len(self.row) == rows and int(self.steps.min()) == window


def place(spans: Spans, marks: np.ndarray) -> tuple[int, int]:
    """Document and time step of the first mark in a bool array `(rows, window)`."""
    row, column = np.argwhere(marks)[0]
    k = np.flatnonzero((spans.row == row) & (spans.column <= column))[-1]
    return int(spans.document[k]), int(spans.start[k] + column - spans.column[k])


def trained(spans: Spans, rows: int, window: int) -> np.ndarray:
    """Marks the steps that are real and not burnt in, bool `(rows, window)`."""
    begin, end = spans.column + spans.skip, spans.column + spans.steps
    if spans.single:
        column = np.arange(window)
        inside = (column >= begin[:, None]) & (column < end[:, None])
        if len(inside) == rows:
            return inside
        marks = np.zeros((rows, window), bool)
        marks[spans.row] = inside
        return marks
    # Rows one after the other: +1 where a run begins, -1 behind its end. The running sum is 1
    # inside of runs and 0 between them. Where one ends and the next begins, both add to one edge.
    edges = np.zeros(rows * window + 1, "int8")
    at = spans.row * window
    np.add.at(edges, at + begin, 1)
    np.add.at(edges, at + end, -1)
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


def padded(values: np.ndarray, spans: Spans, rows: int, window: int) -> np.ndarray:
    """Puts single windows into their rows, with zeros behind the end of what is shorter.

    Args:
        values: `(spans, window, ...)`, a window for each span; written to.
    """
    short = np.flatnonzero(spans.steps < window)
    for k, steps in zip(short.tolist(), spans.steps[short].tolist(), strict=True):
        values[k, steps:] = 0
    if len(values) == rows:
        return values
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[spans.row] = values
    return out
