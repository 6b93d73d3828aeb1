"""Where every time step of an epoch stands: lengths of documents in, spans of batches out.

    documents          pieces                  rows (batch_size = 2, window = 4)

    0: aaaaaa          aaaaaa                  "align"  aaaa aa.. cccc      "pack"  aaaa aacc cc..
    1: bbbbbbb         bbbbbbb                          bbbb bbb. ....              bbbb bbb. ....
    2: cccc            cccc
                                               "ignore" aaaa aabb    one text in two streams, its
    max_document_length cuts a document                 bbbb bccc    last step dropped
    into pieces, burn_in reads some steps
    before each

A piece is read from its first step to its last, in one row. In "align" it begins at a window's
first column and its last window is padded; in "pack" it begins where the one before it ends. A
layout is a pure function of what it is made with: the lengths or pieces, their order and rows; what
is drawn at random is drawn in `plan`. Windows may overlap (`strides`): a step is then read in
several and trained on in the first of them. NumPy only.
"""

from abc import ABC, abstractmethod

import numpy as np

from keras_stateful.data.dealing import Pieces
from keras_stateful.data.spans import Spans, counted_up
from keras_stateful.data.strides import Strides

AT_ENDS = "ends"  # in `Layout.counted`: at the last step of whole windows alone


class Layout(ABC):
    """The layout of one epoch."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}  # by `label_at`; a count looks at all pieces

    @abstractmethod
    def spans(self, begin: int, end: int, low: int, high: int) -> Spans:
        """What some batches read.

        Args:
            begin: the first batch.
            end: the batch behind the last one. Their rows are numbered one batch after the other,
                as if they were one tall batch.
            low: the first row.
            high: the row behind the last one.
        """

    def later(self, spans: Spans, steps: int, begin: int, end: int, low: int, high: int) -> Spans:
        """What stands so many time steps later than the `spans` of these batches, for targets."""
        return spans.later(steps)

    def counted(self, label_at: str) -> int:
        """Time steps of the epoch, in all rows, that are trained on.

        Args:
            label_at: as in `StatefulSequence`, or `AT_ENDS`.
        """
        if label_at not in self._counts:
            self._counts[label_at] = self._count(label_at)
        return self._counts[label_at]

    @abstractmethod
    def _count(self, label_at: str) -> int:
        """The same, counted."""


class Dealt(Layout):
    """The layout of one epoch in "align" and "pack".

    Places in a row are counted in windows in "align", where each piece takes whole ones, and in
    time steps in "pack".

    Args:
        pieces: what is read without a reset in between.
        assignment: the row of each piece.
        within: numbers by which the pieces of a row are ordered.
        rows: of a batch, in all shards.
        strides: of the windows.
        num_batches: of the epoch.
        packed: True for "pack".
        idle: time steps at the start of each row without a piece; None for none. For "pack".
    """

    def __init__(
        self,
        pieces: Pieces,
        assignment: np.ndarray,
        within: np.ndarray,
        rows: int,
        strides: Strides,
        num_batches: int,
        packed: bool,
        idle: np.ndarray | None = None,
    ):
        super().__init__()
        order = np.lexsort((within, assignment))  # by row, then in the row's order
        self.pieces = Pieces(*(a[order] for a in pieces))
        self.row = assignment[order]
        self.strides, self.packed = strides, packed
        size = self.pieces.steps if packed else strides.covering(self.pieces.steps)
        self.size = size  # of each piece, in places
        # For the drawing above, "align": a has row 0 and size 2, c row 0 and 1, b row 1 and 2.
        before = np.cumsum(size) - size  # a 0, c 2, b 3: sizes of all pieces before, in any row
        self.row_begin = np.searchsorted(self.row, np.arange(rows + 1))  # 0, 2, 3: first pieces
        total = before[-1] + size[-1]  # what rows behind the last piece begin at
        base = np.append(before, total)[self.row_begin[:-1]]  # 0, 3: `before` of the first pieces
        self.position = before - base[self.row]  # a 0, c 2, b 0: the place where a piece begins
        if idle is not None:
            self.position = self.position + idle[self.row]
        # Rows one behind the other are a line of places, on which pieces are sorted: a 0, c 2, b 3.
        self.length = strides.steps(num_batches) if packed else num_batches  # places of a row
        self.key = self.row * self.length + self.position

    def spans(self, begin: int, end: int, low: int, high: int) -> Spans:
        batch, rows = _tall(begin, end, low, high)
        find = self._find_packed if self.packed else self._find_aligned
        tall, j, inside, column, new = find(batch, rows)
        pieces = self.pieces
        left = pieces.steps[j] - inside
        steps = np.minimum(left, self.strides.window - column)
        return Spans(
            row=tall,
            column=column,
            document=pieces.document[j],
            start=pieces.first[j] + inside,
            steps=steps,
            skip=_within(np.maximum(pieces.skip[j] - inside, new - column), steps),
            opens=inside == 0,
            closes=steps == left,
            single=not self.packed,
            batch=high - low,
        )

    def most_begun(self) -> int:
        """The most pieces that begin behind the first column of a window, in one row of "pack".

        Counted wherever the window lies, also where another epoch's would.
        """
        reach = self.strides.window - 2  # from the first such piece to the last, at most
        first = np.searchsorted(self.key, self.key - reach, "left")  # a window's first, by its last
        return int((np.arange(len(first)) + 1 - first).max(initial=0))

    def _find_aligned(self, batch: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """The piece of each window.

        Returns:
            Its row of the tall batch, the piece, its step there, the column, and the column from
            which on the window's steps are new.
        """
        tall = np.arange(len(rows))
        # The last piece that begins at the window or before. In the drawing the keys are 0, 2, 3;
        # batch 1 of row 0 is place 1 of the line and finds piece 0, a, whose window 1 it is.
        j = np.searchsorted(self.key, rows * self.length + batch, "right") - 1
        # None where that piece stands in a row before (-1: in none), or has ended: batch 2 of row 1
        # is place 5 and finds b, which has the two windows 0 and 1.
        real = (self.row[j] == rows) & (j >= 0) & (batch < self.position[j] + self.size[j])
        if not real.all():
            tall, batch, j = tall[real], batch[real], j[real]
        inside = (batch - self.position[j]) * self.strides.stride  # a: (1 - 0) * 4, its step 4
        return tall, j, inside, np.zeros(len(j), "int64"), (inside > 0) * self.strides.overlap

    def _find_packed(self, batch: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """The pieces of each window, likewise."""
        at = batch * self.strides.stride  # the window's first place in its row
        # From the last piece that begins there or before to the last that begins inside. The keys
        # are a 0, c 6, b 12; batch 1 of row 0 has the places 4 to 7 and finds a and c.
        first = np.searchsorted(self.key, rows * self.length + at, "right") - 1
        first = np.maximum(first, self.row_begin[rows])  # not one of the row before
        last = np.searchsorted(self.key, rows * self.length + at + self.strides.window, "left")
        j, tall = _ranges(first, last, np.arange(len(rows)))
        past = at[tall] - self.position[j]  # a 4 - 0, c 4 - 6: steps before the window
        inside = np.maximum(past, 0)  # a goes on at its step 4, c begins
        column = np.maximum(-past, 0)  # a in column 0, c in column 2
        real = inside < self.pieces.steps[j]  # the first found may have ended before the window
        if not real.all():
            tall, j, inside, column = tall[real], j[real], inside[real], column[real]
        return tall, j, inside, column, (at[tall] > 0) * self.strides.overlap

    def _count(self, label_at: str) -> int:
        _, _, steps, skip = self.pieces
        last = skip < steps  # the last step is trained on, unless all are burnt in
        if label_at == "every":
            return int((steps - skip).sum())
        if label_at == "last":
            return int(last.sum())
        # Where the windows begin that a piece is read in, and where it begins among them.
        begin = self.position if self.packed else np.zeros_like(steps)
        whole, first, end = self.strides.whole, begin + skip, begin + steps
        if label_at == AT_ENDS:  # windows that end behind the first step that counts
            return int((whole(end) - whole(first)).sum())
        # One step a window: from that in which the first step that counts is new to the last.
        return int(((whole(end - 1) - whole(first) + 1) * last).sum())


class Streams(Layout):
    """The layout of one epoch in "ignore": one text in streams of equal length.

    Args:
        lengths: time steps of each document.
        rows: how many streams there are, in all shards.
        strides: of the windows.
        num_batches: of the epoch.
        burn_in: time steps at the start of each stream that are not trained on.
        begin: time steps of the text that are left out at its start.
        order: of the documents; None for as they are.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        rows: int,
        strides: Strides,
        num_batches: int,
        burn_in: int,
        begin: int = 0,
        order: np.ndarray | None = None,
    ):
        super().__init__()
        self.order = order
        # Where documents end in the text. In the drawing a 6, b 13, c 17.
        self.ends = np.cumsum(lengths if order is None else lengths[order])
        self.rows, self.strides, self.num_batches = rows, strides, num_batches
        self.length = strides.steps(num_batches)  # time steps of a stream
        self.burn_in, self.begin = burn_in, begin

    @property
    def one_text(self) -> bool:
        """True if it is no more than one document, so that a stream is one piece of it."""
        return len(self.ends) == 1

    def spans(self, begin: int, end: int, low: int, high: int) -> Spans:
        return self._shifted(0, begin, end, low, high)

    def later(self, spans: Spans, steps: int, begin: int, end: int, low: int, high: int) -> Spans:
        if self.one_text:
            return spans.later(steps)
        return self._shifted(steps, begin, end, low, high)  # perhaps in the documents that follow

    def _shifted(self, shift: int, begin: int, end: int, low: int, high: int) -> Spans:
        batch, rows = _tall(begin, end, low, high)
        tall = np.arange(len(rows))
        # Windows by their first step in the text. Batch 1 of row 0 begins at (0 * 2 + 1) * 4 = 4.
        window, stride = self.strides
        at = self.begin + shift + rows * self.length + batch * stride
        if self.one_text:
            start, j = at, np.zeros(len(rows), "int64")
            column, steps = j, np.full(len(rows), window)
        else:
            # From the document of its first step, 4: a, to that of its last, 7: b.
            first = np.searchsorted(self.ends, at, "right")
            last = np.searchsorted(self.ends, at + window - 1, "right") + 1
            j, tall = _ranges(first, last, tall)
            at, batch = at[tall], batch[tall]
            opening = np.where(j > 0, self.ends[j - 1], 0)  # a 0, b 6: where documents begin
            column = np.maximum(opening - at, 0)  # a 0, b 6 - 4
            start = at + column - opening  # a 4, b 0: the document's own step there
            steps = np.minimum(self.ends[j] - at, window) - column  # a 2, b 2
        # The column from which on steps count: new in this window, and not burnt in.
        counts = np.maximum(self.burn_in - batch * stride, (batch > 0) * self.strides.overlap)
        return Spans(
            row=tall,
            column=column,
            document=j if self.order is None else self.order[j],
            start=start,
            steps=steps,
            skip=_within(counts - column, steps),
            opens=(batch == 0) & (column == 0),
            closes=at + column + steps == self.ends[j],
            single=self.one_text,
            batch=high - low,
        )

    def _count(self, label_at: str) -> int:
        windows, whole = self.rows * self.num_batches, self.strides.whole
        if label_at == "every":
            return self.rows * (self.length - min(self.burn_in, self.length))
        if label_at == AT_ENDS:
            return windows - self.rows * int(min(whole(self.burn_in), self.num_batches))
        ends = self.ends - self.begin  # counted from the first step read
        ends = (ends[(ends > 0) & (ends <= self.rows * self.length)] - 1) % self.length + 1
        # A window has one run of new steps, and one more for each document that ends before the
        # last of them.
        inside = int((self.strides.steps(whole(ends)) != ends).sum())
        count = len(ends) if label_at == "last" else windows + inside
        # Less the runs whose new steps are all burnt in: they lie in the first windows of each
        # stream.
        burnt_in = int(whole(self.burn_in - 1)) + 1 if self.burn_in else 0
        for i in range(min(self.num_batches, burnt_in)):
            spans = self.spans(i, i + 1, 0, self.rows)
            labelled = spans.closes | (label_at == "window")
            new = spans.column + spans.steps > (i > 0) * self.strides.overlap
            count -= int(((spans.skip == spans.steps) & new & labelled).sum())
        return count


def _tall(begin: int, end: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Batch and row of every row of a tall batch."""
    rows = np.arange(low, high)
    if end - begin == 1:
        return np.full(len(rows), begin), rows
    return np.repeat(np.arange(begin, end), len(rows)), np.tile(rows, end - begin)


def _within(count: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Each count from 0 to its steps; `np.clip` takes twice as long."""
    return np.minimum(np.maximum(count, 0), steps)


def _ranges(first: np.ndarray, last: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`first[k], ..., last[k] - 1` for each row one after the other, and the row of each."""
    count = np.maximum(last - first, 0)
    return counted_up(first, count), np.repeat(rows, count)
