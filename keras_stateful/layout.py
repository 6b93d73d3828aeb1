"""Where every time step of an epoch stands: lengths of documents in, spans of batches out. NumPy only.

    documents          pieces                  rows (batch_size = 2, window = 4)

    0: aaaaaa          aaaaaa                  "align"  aaaa aa.. cccc        "pack"  aaaa aacc cc..
    1: bbbbbbb         bbbbbbb                          bbbb bbb. ....                bbbb bbb. ....
    2: cccc            cccc
                                               "ignore" aaaa aabb     one text in two streams, its last
    max_document_length cuts a document                 bbbb bccc     steps dropped
    into pieces, burn_in reads some steps
    before each

A piece is read from its first step to its last, in one row. In "align" it begins at a window's first column and
its last window is padded; in "pack" it begins where the one before it ends. Everything here is a pure function
of the lengths and of (seed, epoch); nothing is kept but two epochs' layouts.
"""

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_TRIES = (None, 0.5, 0.1)  # how much a shuffled deal may differ from longest-first; None: not bound by it
_NEIGHBOURS = 64  # rows that an overlong row is compared with at a time


class Spans(NamedTuple):
    """Runs of consecutive time steps of one document each, in one batch, ordered by row and column."""

    row: np.ndarray
    column: np.ndarray
    document: np.ndarray
    start: np.ndarray  # the document's time step that stands in `column`
    steps: np.ndarray
    skip: np.ndarray  # leading steps that are read and not trained on
    opens: np.ndarray  # bool: a piece starts here, from the initial state
    closes: np.ndarray  # bool: its last step is in here
    single: bool  # at most one span a row, at column 0


class Pieces(NamedTuple):
    """What is read without a reset in between."""

    document: np.ndarray
    first: np.ndarray  # first time step read
    steps: np.ndarray
    skip: np.ndarray  # leading steps that are read and not trained on


def cut(lengths: np.ndarray, window: int, limit: int | None, burn_in: int, aligned: bool) -> Pieces:
    """Cuts documents into pieces.

    Args:
        lengths: time steps to read of each document.
        window: time steps of a window.
        limit: time steps that a piece trains on at most; None: a document is one piece.
        burn_in: time steps read before each cut piece, and not trained on at each start.
        aligned: whether pieces fill whole windows, but for the last of a document.

    Returns:
        Pieces in the order of the documents.
    """
    lengths = np.asarray(lengths, "int64")
    if limit is None or (len(lengths) and limit >= lengths.max()):
        zeros = np.zeros(len(lengths), "int64")
        return Pieces(np.arange(len(lengths)), zeros, lengths, np.minimum(burn_in, lengths))
    head, rest = limit, limit
    if aligned:  # the steps read before a cut count towards its windows
        head = limit // window * window
        rest = (limit + burn_in) // window * window - burn_in
    more = np.maximum(0, -(-(lengths - head) // rest))
    document = np.repeat(np.arange(len(lengths)), more + 1)
    number = np.arange(len(document)) - np.repeat(np.cumsum(more + 1) - (more + 1), more + 1)
    begin = np.where(number > 0, head + (number - 1) * rest, 0)
    end = np.minimum(head + number * rest, lengths[document])
    first = np.where(number > 0, begin - burn_in, 0)
    return Pieces(document, first, end - first, np.minimum(burn_in, end - first))


def greedy(sizes: np.ndarray, order: np.ndarray, rows: int) -> np.ndarray:
    """Gives each piece, in `order`, to the row with the least so far."""
    heap, took = list(range(rows)), []  # load * rows + row
    for size in (sizes[order] * rows).tolist():
        took.append(heap[0])
        heapq.heapreplace(heap, heap[0] + size)
    assignment = np.empty(len(sizes), "int64")
    assignment[order] = np.array(took, "int64") % rows
    return assignment


def balance(sizes: np.ndarray, assignment: np.ndarray, rows: int, goal: int) -> np.ndarray:
    """Moves and swaps pieces between the longest row and shorter ones until no row exceeds `goal`, or none helps."""
    assignment = assignment.copy()
    load = np.bincount(assignment, sizes, rows).astype("int64")
    if load.max(initial=0) <= goal:
        return assignment
    order = np.lexsort((sizes, assignment))
    members = np.split(order, np.cumsum(np.bincount(assignment, minlength=rows))[:-1])
    for _ in range(40 * rows + 200):
        longest = int(load.argmax())
        if load[longest] <= goal:
            break
        best = None
        mine = sizes[members[longest]]
        for other in np.argsort(load, kind="stable")[:_NEIGHBOURS].tolist():
            gap = int(load[longest] - load[other])
            if gap <= 1 or (best and best[0] <= max(goal, load[longest] - gap // 2)):
                break
            theirs = np.concatenate([[0], sizes[members[other]]])  # 0: nothing comes back
            near = np.searchsorted(theirs, mine - gap / 2)
            for j in (np.maximum(near - 1, 0), np.minimum(near, len(theirs) - 1)):
                gain = mine - theirs[j]
                worth = np.where((gain > 0) & (gain < gap), np.abs(2 * gain - gap), gap)
                i = int(worth.argmin())
                result = int(max(load[longest] - gain[i], load[other] + gain[i]))
                if worth[i] < gap and (best is None or result < best[0]):
                    best = (result, other, i, int(j[i]) - 1)
        if best is None:
            break
        _, other, i, back = best
        going = members[longest][i]
        coming = members[other][back : back + 1] if back >= 0 else members[other][:0]
        moved = sizes[going] - sizes[coming].sum()
        load[longest] -= moved
        load[other] += moved
        assignment[going] = other
        assignment[coming] = longest
        for row, out, into in ((longest, [going], coming), (other, coming, [going])):
            held = np.concatenate([np.setdiff1d(members[row], out, assume_unique=True), into]).astype("int64")
            members[row] = held[np.argsort(sizes[held], kind="stable")]
    return assignment


def deal(sizes: np.ndarray, rows: int, unit: int = 1) -> np.ndarray:
    """Deals pieces over rows so that the longest row is as short as a quick search can make it."""
    assignment = greedy(sizes, np.argsort(-sizes, kind="stable"), rows)
    least = max(-(-int(sizes.sum()) // rows), int(sizes.max()))
    return balance(sizes, assignment, rows, -(-least // unit) * unit)


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
        self.length = num_batches * window if packed else num_batches  # of a row, in steps or windows
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
        """Spans of batches `begin` to `end` in rows `low` to `high`, `shift` steps later in their documents.

        Rows of several batches are numbered one batch after the other, as if they were one tall batch.
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
        return int((others - np.minimum((skip + offset) // self.window, others) + (skip < steps)).sum())


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

    def spans(self, begin: int, end: int, low: int, high: int, shift: int = 0) -> Spans:
        """Spans of batches `begin` to `end` in rows `low` to `high`, `shift` steps later in the text.

        Rows of several batches are numbered one batch after the other, as if they were one tall batch.
        """
        batch, rows = _tall(begin, end, low, high)
        tall = np.arange(len(rows))
        at = self.begin + shift + (rows * self.num_batches + batch) * self.window
        single = len(self.ends) == 1
        if single:
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
                     at + column + steps == self.ends[j], single)  # fmt: skip

    @_remembered
    def counted(self, label_at: str) -> int:
        """Time steps of the epoch, in all rows, that are trained on."""
        total = self.rows * self.num_batches
        if label_at == "every":
            return total * self.window - self.rows * min(self.burn_in, self.num_batches * self.window)
        inner = self.ends - self.begin  # where documents end, counted from the first step read
        inner = inner[(inner > 0) & (inner <= total * self.window)]
        found = len(inner) if label_at == "last" else total + int((inner % self.window != 0).sum())
        for i in range(min(self.num_batches, -(-self.burn_in // self.window))):
            spans = self.spans(i, i + 1, 0, self.rows)
            found -= int(((spans.skip == spans.steps) & (spans.closes | (label_at == "window"))).sum())
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


@dataclass(frozen=True)
class Settings:
    """What a layout depends on beside the lengths."""

    rows: int
    window: int
    boundary: str
    limit: int | None
    burn_in: int
    shuffle: bool
    shift_windows: bool
    seed: int


class Plan:
    """The layouts of all epochs; their number of batches is the same.

    Args:
        lengths: time steps to read of each document; in "ignore" all that it has.
        settings: rows, window and the rest.
        reach: in "ignore", time steps that targets look ahead.
    """

    def __init__(self, lengths: np.ndarray, settings: Settings, reach: int = 0):
        self.lengths, self.settings = lengths, settings
        s = settings
        self.pieces: Pieces | None = None
        self._layouts: dict[int, Dealt | Streams] = {}
        self._lock = threading.Lock()
        self.dropped = 0
        if s.boundary == "ignore":
            total = int(lengths.sum())
            self.num_batches = max(0, total - reach - self._slack) // (s.rows * s.window)
            self.real_steps = s.rows * s.window * self.num_batches
            self.dropped = total - self.real_steps
            return
        self.pieces = cut(lengths, s.window, s.limit, s.burn_in, s.boundary == "align")
        self.packed = s.boundary == "pack"
        self.sizes = self.pieces.steps if self.packed else -(-self.pieces.steps // s.window)
        self.base = deal(self.sizes, s.rows, s.window if self.packed else 1)
        longest = int(np.bincount(self.base, self.sizes).max()) + self._slack
        self.num_batches = -(-longest // s.window) if self.packed else longest
        self.real_steps = int(self.pieces.steps.sum())

    @property
    def _slack(self) -> int:
        return self.settings.window - 1 if self.settings.shift_windows else 0

    @property
    def utilization(self) -> float:
        """Real time steps / all time steps."""
        return self.real_steps / max(1, self.num_batches * self.settings.rows * self.settings.window)

    @property
    def padded(self) -> bool:
        """Whether any epoch has a step that is not real or not trained on."""
        return self.utilization < 1 or self.settings.burn_in > 0

    def layout(self, epoch: int) -> Dealt | Streams:
        """The layout of an epoch."""
        if not (self.settings.shuffle or self.settings.shift_windows):
            epoch = 0
        with self._lock:
            if epoch not in self._layouts:
                while len(self._layouts) > 1:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[epoch] = self._make(epoch)
            return self._layouts[epoch]

    def _make(self, epoch: int) -> Dealt | Streams:
        s, rng = self.settings, np.random.default_rng((self.settings.seed, epoch))
        if self.pieces is None:
            return Streams(self.lengths, s.rows, s.window, self.num_batches, s.burn_in,
                           int(rng.integers(s.window)) if s.shift_windows else 0,
                           rng.permutation(len(self.lengths)) if s.shuffle else None)  # fmt: skip
        assignment, within = self.base, np.arange(len(self.sizes))
        if s.shuffle:
            assignment, within = self._dealt_anew(rng), rng.permutation(len(self.sizes))
        idle = None
        if s.shift_windows:
            load = np.bincount(assignment, self.sizes, s.rows).astype("int64")
            idle = rng.integers(0, np.minimum(self.num_batches * s.window - load, s.window - 1) + 1)
        return Dealt(self.pieces, assignment, within, s.rows, s.window, self.num_batches, self.packed, idle)

    def _dealt_anew(self, rng: np.random.Generator) -> np.ndarray:
        s, sizes = self.settings, self.sizes
        room = self.num_batches * s.window - self._slack if self.packed else self.num_batches
        for spread in _TRIES:
            order = rng.permutation(len(sizes))
            if spread is not None:
                order = np.argsort(-sizes * np.exp(spread * rng.standard_normal(len(sizes))), kind="stable")
            assignment = balance(sizes, greedy(sizes, order, s.rows), s.rows, room)
            if np.bincount(assignment, sizes).max() <= room:
                return assignment
        # The first deal, its rows renamed, pieces of equal size exchanged.
        order = np.argsort(sizes, kind="stable")
        mixed = np.lexsort((rng.random(len(sizes)), sizes))
        assignment = np.empty_like(self.base)
        assignment[mixed] = rng.permutation(s.rows)[self.base[order]]
        return assignment


def longest_unwasted(lengths: np.ndarray, settings: Settings, waste: float = 0.03) -> int | None:
    """The longest `max_document_length`, in whole windows, that leaves under `waste` of the rows idle.

    None where nothing need be cut. What cutting cannot change, the padding of last windows, is not counted. If no
    length will do, the one that wastes least.
    """
    window = settings.window

    def idle(windows: int | None) -> float:
        limit = None if windows is None else windows * window
        pieces = cut(lengths, window, limit, settings.burn_in, settings.boundary == "align")
        packed = settings.boundary == "pack"
        sizes = pieces.steps if packed else -(-pieces.steps // window)
        unit = window if packed else 1
        total = int(sizes.sum())
        least = -(-max(-(-total // settings.rows), int(sizes.max())) // unit) * unit
        if 1 - total / (least * settings.rows) >= waste:
            return 1 - total / (least * settings.rows)
        longest = int(np.bincount(deal(sizes, settings.rows, unit), sizes).max())
        return 1 - total / (-(-longest // unit) * unit * settings.rows)

    if idle(None) < waste:
        return None
    low = max(1, -(-settings.burn_in // window))  # a cut piece holds at least its burn-in
    high = max(low, -(-int(lengths.max()) // window))
    best, windows, tried = (idle(low), low), high, high
    while windows > low:
        found = idle(windows)
        best = min(best, (found, windows), key=lambda pair: (pair[0], -pair[1]))
        if found < waste:  # a longer one, up to the last that failed
            for longer in np.unique(np.linspace(windows + 1, tried - 1, 16).astype(int))[::-1].tolist():
                if windows < longer < tried and idle(longer) < waste:
                    return longer * window
            return windows * window
        tried, windows = windows, min(windows - 1, int(windows * 0.95))
    return best[1] * window
