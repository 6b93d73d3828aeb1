"""Where every time step of an epoch stands: lengths of documents in, spans of batches out. NumPy
only.

    documents          pieces                  rows (batch_size = 2, window = 4)

    0: aaaaaa          aaaaaa                  "align"  aaaa aa.. cccc        "pack"  aaaa aacc cc..
    1: bbbbbbb         bbbbbbb                          bbbb bbb. ....                bbbb bbb. ....
    2: cccc            cccc
                                               "ignore" aaaa aabb     one text in two streams, its last
    max_document_length cuts a document                 bbbb bccc     steps dropped
    into pieces, burn_in reads some steps
    before each

A piece is read from its first step to its last, in one row. In "align" it begins at a window's
first column and its last window is padded; in "pack" it begins where the one before it ends. A
layout is a pure function of what it is made with: the lengths or pieces, their order and rows; what
is drawn at random is drawn in `plan`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_stateful.data.dealing import Pieces
from keras_stateful.data.spans import Spans


def _remembered(count: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
    """Keeps what a layout counted: it counts all its pieces."""

    def counted(layout: Any, label_at: str) -> int:
        if label_at not in layout.counts:
            layout.counts[label_at] = count(layout, label_at)
        return layout.counts[label_at]

    return counted


class Dealt:
    """The layout of one epoch in "align" and "pack"."""

    def __init__(self, pieces: Pieces, assignment: np.ndarray, within: np.ndarray, rows: int, window: int,
                 num_batches: int, packed: bool, idle: np.ndarray | None = None):  # fmt: skip
        order = np.lexsort((within, assignment))
        self.pieces = Pieces(*(a[order] for a in pieces))
        self.row = assignment[order]
        self.window, self.num_batches, self.packed = window, num_batches, packed
        self.length = (
            num_batches * window if packed else num_batches
        )  # of a row, in steps or windows
        size = self.pieces.steps if packed else -(-self.pieces.steps // window)
        self.size = size
        before = np.cumsum(size) - size
        self.row_begin = np.searchsorted(self.row, np.arange(rows + 1))
        base = np.append(before, before[-1] + size[-1])[self.row_begin[:-1]]
        self.position = before - base[self.row]
        if idle is not None:
            self.position = self.position + idle[self.row]
        self.key = self.row * self.length + self.position
        self.counts: dict[str, int] = {}

    def spans(self, begin: int, end: int, low: int, high: int, shift: int = 0) -> Spans:
        """Spans of batches `begin` to `end` in rows `low` to `high`, `shift` steps later in their
        documents.

        Rows of several batches are numbered one batch after the other, as if they were one tall
        batch.
        """
        batch, rows = _tall(begin, end, low, high)
        tall = np.arange(len(rows))
        if not self.packed:
            j = np.searchsorted(self.key, rows * self.length + batch, "right") - 1
            real = (self.row[j] == rows) & (j >= 0) & (batch < self.position[j] + self.size[j])
            if not real.all():
                tall, batch, j = tall[real], batch[real], j[real]
            inside = (batch - self.position[j]) * self.window
            column = np.zeros(len(j), "int64")
        else:
            at = batch * self.window
            first = np.searchsorted(self.key, rows * self.length + at, "right") - 1
            first = np.maximum(first, self.row_begin[rows])
            last = np.searchsorted(self.key, rows * self.length + at + self.window, "left")
            j, tall = _ranges(first, last, tall)
            past = at[tall] - self.position[j]
            inside, column = np.maximum(past, 0), np.maximum(-past, 0)
            real = inside < self.pieces.steps[j]
            if not real.all():
                tall, j, inside, column = tall[real], j[real], inside[real], column[real]
        pieces = self.pieces
        left = pieces.steps[j] - inside
        steps = np.minimum(left, self.window - column)
        skip = np.clip(pieces.skip[j] - inside, 0, steps)
        return Spans(tall, column, pieces.document[j], pieces.first[j] + inside + shift, steps, skip,
                     inside == 0, steps == left, not self.packed)  # fmt: skip

    @_remembered
    def counted(self, label_at: str) -> int:
        """Time steps of the epoch, in all rows, that are trained on."""
        _, _, steps, skip = self.pieces
        if label_at == "every":
            return int((steps - skip).sum())
        if label_at == "last":
            return int((skip < steps).sum())
        offset = self.position % self.window if self.packed else 0
        others = -(-(offset + steps) // self.window) - 1  # windows but the piece's last
        return int(
            (others - np.minimum((skip + offset) // self.window, others) + (skip < steps)).sum()
        )


class Streams:
    """The layout of one epoch in "ignore": one text in streams of equal length."""

    packed = False

    def __init__(self, lengths: np.ndarray, rows: int, window: int, num_batches: int, burn_in: int,
                 begin: int = 0, order: np.ndarray | None = None):  # fmt: skip
        self.order = order
        self.ends = np.cumsum(lengths if order is None else lengths[order])
        self.rows, self.window, self.num_batches = rows, window, num_batches
        self.burn_in, self.begin = burn_in, begin
        self.counts: dict[str, int] = {}

    @property
    def one_text(self) -> bool:
        """Whether it is no more than one document, so that a stream is one piece of it."""
        return len(self.ends) == 1

    def spans(self, begin: int, end: int, low: int, high: int, shift: int = 0) -> Spans:
        """Spans of batches `begin` to `end` in rows `low` to `high`, `shift` steps later in the
        text.

        Rows of several batches are numbered one batch after the other, as if they were one tall
        batch.
        """
        batch, rows = _tall(begin, end, low, high)
        tall = np.arange(len(rows))
        at = self.begin + shift + (rows * self.num_batches + batch) * self.window
        if self.one_text:
            start, j = at, np.zeros(len(rows), "int64")
            column, steps = j, np.full(len(rows), self.window)
        else:
            first = np.searchsorted(self.ends, at, "right")
            last = np.searchsorted(self.ends, at + self.window - 1, "right") + 1
            j, tall = _ranges(first, last, tall)
            at, batch = at[tall], batch[tall]
            opening = np.where(j > 0, self.ends[j - 1], 0)
            column = np.maximum(opening - at, 0)
            start = at + column - opening
            steps = np.minimum(self.ends[j] - at, self.window) - column
        document = j if self.order is None else self.order[j]
        skip = np.clip(self.burn_in - batch * self.window - column, 0, steps)
        return Spans(tall, column, document, start, steps, skip, (batch == 0) & (column == 0),
                     at + column + steps == self.ends[j], self.one_text)  # fmt: skip

    @_remembered
    def counted(self, label_at: str) -> int:
        """Time steps of the epoch, in all rows, that are trained on."""
        total = self.rows * self.num_batches
        if label_at == "every":
            return total * self.window - self.rows * min(
                self.burn_in, self.num_batches * self.window
            )
        inner = self.ends - self.begin  # where documents end, counted from the first step read
        inner = inner[(inner > 0) & (inner <= total * self.window)]
        found = len(inner) if label_at == "last" else total + int((inner % self.window != 0).sum())
        for i in range(min(self.num_batches, -(-self.burn_in // self.window))):
            spans = self.spans(i, i + 1, 0, self.rows)
            found -= int(
                ((spans.skip == spans.steps) & (spans.closes | (label_at == "window"))).sum()
            )
        return found


def _tall(begin: int, end: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Batch and row of every row of a tall batch."""
    rows = np.arange(low, high)
    if end - begin == 1:
        return np.full(len(rows), begin), rows
    return np.repeat(np.arange(begin, end), len(rows)), np.tile(rows, end - begin)


def _ranges(first: np.ndarray, last: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All of `first[k]:last[k]` one after the other, and the row of each."""
    count = np.maximum(last - first, 0)
    ends = np.cumsum(count)
    return np.arange(ends[-1]) + np.repeat(first - ends + count, count), np.repeat(rows, count)
