"""Which row reads which piece: documents are cut into pieces, pieces dealt over the rows.

NumPy only.
"""

import heapq
from typing import NamedTuple

import numpy as np

from keras_stateful.data.burn_in import BurnIn
from keras_stateful.data.spans import counted_up
from keras_stateful.data.strides import Strides

_ALIKE = 1000  # pieces of each size, on average, from which on they are dealt together
_NEIGHBOURS = 64  # rows, the shortest first, that an overlong row is compared with
_ROUNDS_A_ROW, _ROUNDS = 40, 200  # exchanges that `balance` tries, for each row and in all


class Pieces(NamedTuple):
    """What is read without a reset in between: parts of documents, one array element each.

    Attributes:
        document: index of the document.
        first: the document's time step that is read first.
        steps: how many time steps are read.
        skip: how many of them, from the first on, are read and not trained on.
    """

    document: np.ndarray
    first: np.ndarray
    steps: np.ndarray
    skip: np.ndarray


def cut(
    lengths: np.ndarray, strides: Strides, limit: int | None, burn_in: BurnIn, aligned: bool
) -> Pieces:
    """Cuts documents into pieces.

    Args:
        lengths: time steps to read of each document.
        strides: of the windows.
        limit: time steps that a piece trains on at most; None: a document is one piece.
        burn_in: time steps read before each cut piece, and not trained on at each start; one number
            for all documents, or one for each.
        aligned: True if pieces fill whole windows, but for the last of a document.

    Returns:
        Pieces in the order of the documents.
    """
    lengths = np.asarray(lengths, "int64")
    if limit is None or (len(lengths) and limit >= lengths.max()):
        zeros = np.zeros(len(lengths), "int64")
        return Pieces(np.arange(len(lengths)), zeros, lengths, np.minimum(burn_in, lengths))
    # Steps that a document's first piece trains on, and each later one.
    burn_in = np.broadcast_to(burn_in, lengths.shape)
    head, rest = limit, np.full(len(lengths), limit)
    if aligned:
        # The steps read before a cut fill windows, too: with limit 10, burn_in 2 and windows of 4
        # the first piece has two windows, each later one three, 2 + 10 steps.
        head = int(strides.steps(strides.whole(limit)))
        rest = strides.steps(strides.whole(limit + burn_in)) - burn_in
    count = 1 + np.maximum(0, -(-(lengths - head) // rest))  # pieces of each document
    document = np.repeat(np.arange(len(lengths)), count)
    number = counted_up(np.zeros_like(count), count)  # 0, 1, ... in each document
    rest, burn_in = rest[document], burn_in[document]
    begin = np.where(number > 0, head + (number - 1) * rest, 0)
    end = np.minimum(head + number * rest, lengths[document])
    first = np.where(number > 0, begin - burn_in, 0)
    return Pieces(document, first, end - first, np.minimum(burn_in, end - first))


def greedy(sizes: np.ndarray, order: np.ndarray, rows: int) -> np.ndarray:
    """Gives each piece, in `order`, to the row with the least so far; returns the row of each."""
    assignment, ordered = np.empty(len(sizes), "int64"), sizes[order]
    ends = np.flatnonzero(np.diff(ordered)) + 1  # of runs of pieces of one size
    if len(order) > _ALIKE * len(ends):  # long runs, dealt without Python for each piece
        load, runs = np.zeros(rows, "int64"), np.split(ordered, ends)
        dealt = [_deal_alike(load, int(run[0]), len(run)) for run in runs]
        assignment[order] = np.concatenate(dealt)
        return assignment
    # Load and row in one number, load * rows + row, so that the heap compares plain ints: adding
    # size * rows changes the load alone, and the row is the rest of a division by `rows`.
    heap, taken = list(range(rows)), []
    for size in (ordered * rows).tolist():
        taken.append(heap[0])
        heapq.heapreplace(heap, heap[0] + size)
    assignment[order] = np.array(taken, "int64") % rows
    return assignment


def _deal_alike(load: np.ndarray, size: int, count: int) -> np.ndarray:
    """The same for so many pieces of one size; adds them to the `load` of each row.

    Returns:
        The row of each piece.
    """
    # A row takes its next pieces at the loads l, l + size, l + 2 * size, ...: those that are taken
    # are the `count` smallest of all rows, at equal loads the lower row first. They lie at most at
    # a level that is found by halves.
    low, high = int(load.min()), int(load.min()) + size * count
    while low < high:
        level = (low + high) // 2
        if np.maximum((level - load) // size + 1, 0).sum() < count:
            low = level + 1
        else:
            high = level
    several = np.maximum((low - load) // size + 1, 0)
    row = np.repeat(np.arange(len(load)), several)
    taken_at = counted_up(np.zeros_like(several), several) * size + load[row]
    taken = row[np.lexsort((row, taken_at))[:count]]
    load += np.bincount(taken, minlength=len(load)) * size
    return taken


class _Exchange(NamedTuple):
    """A piece of the longest row goes to another row, and perhaps one comes back."""

    longer: int  # load of the longer of the two rows afterwards
    other: int  # that row
    going: int  # which of the longest row's pieces
    coming: int  # which of the other's; -1: none


def balance(sizes: np.ndarray, assignment: np.ndarray, rows: int, goal: int) -> np.ndarray:
    """Makes the longest row shorter, by moving pieces one by one or exchanging them.

    Args:
        sizes: of the pieces.
        assignment: the row of each piece.
        rows: how many rows there are.
        goal: what no row should exceed; reached or not, this ends where no exchange helps.

    Returns:
        The row of each piece.
    """
    assignment = assignment.copy()
    load = np.bincount(assignment, sizes, rows).astype("int64")
    if load.max(initial=0) <= goal:
        return assignment
    order = np.lexsort((sizes, assignment))
    # The pieces of each row, ascending in size.
    members = np.split(order, np.cumsum(np.bincount(assignment, minlength=rows))[:-1])
    # Each round shortens one row. A greedy deal needs some rounds a row at most; the bound ends the
    # search where many rows are long and each round wins a step or two.
    for _ in range(_ROUNDS_A_ROW * rows + _ROUNDS):
        longest = int(load.argmax())
        if load[longest] <= goal:
            break
        best = _best_exchange(sizes, members, load, longest, goal)
        if best is None:
            break
        going = members[longest][best.going]
        coming = members[best.other][best.coming : best.coming + 1]  # one piece; [-1:0] is none
        moved = sizes[going] - sizes[coming].sum()
        load[longest] -= moved
        load[best.other] += moved
        assignment[going] = best.other
        assignment[coming] = longest
        for row, lost, gained in ((longest, [going], coming), (best.other, coming, [going])):
            kept = np.setdiff1d(members[row], lost, assume_unique=True)
            pieces = np.concatenate([kept, gained]).astype("int64")
            members[row] = pieces[np.argsort(sizes[pieces], kind="stable")]
    return assignment


def _best_exchange(
    sizes: np.ndarray, members: list[np.ndarray], load: np.ndarray, longest: int, goal: int
) -> _Exchange | None:
    """The exchange that leaves the longest row and another one shortest; None if none helps."""
    best: _Exchange | None = None
    mine = sizes[members[longest]]
    for other in np.argsort(load, kind="stable")[:_NEIGHBOURS].tolist():
        gap = int(load[longest] - load[other])
        # At best both rows meet in the middle, and rows that follow are no shorter than this one.
        if gap <= 1 or (best and best.longer <= max(goal, load[longest] - gap // 2)):
            break
        theirs = np.concatenate([[0], sizes[members[other]]])  # 0: nothing comes back
        # For each of mine the two of theirs next to the size that would make the rows meet.
        near = np.searchsorted(theirs, mine - gap / 2)
        for j in (np.maximum(near - 1, 0), np.minimum(near, len(theirs) - 1)):
            gain = mine - theirs[j]  # what the longest row loses
            miss = np.abs(2 * gain - gap)  # how far apart the rows are afterwards
            miss = np.where((gain > 0) & (gain < gap), miss, gap)  # no better than before
            i = int(miss.argmin())
            longer = int(max(load[longest] - gain[i], load[other] + gain[i]))
            if miss[i] < gap and (best is None or longer < best.longer):
                best = _Exchange(longer, other, i, int(j[i]) - 1)  # -1 for the 0 in front
    return best


def deal(sizes: np.ndarray, rows: int, unit: int = 1) -> np.ndarray:
    """Deals pieces over rows so that the longest is as short as a quick search can make it.

    Args:
        sizes: of the pieces.
        rows: how many rows there are.
        unit: sizes within the same multiple of it are as good as each other: a window.

    Returns:
        The row of each piece.
    """
    assignment = greedy(sizes, np.argsort(-sizes, kind="stable"), rows)
    least = max(-(-int(sizes.sum()) // rows), int(sizes.max()))
    return balance(sizes, assignment, rows, -(-least // unit) * unit)
