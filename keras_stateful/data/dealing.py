"""Which row reads which piece: documents cut into pieces, pieces dealt over the rows of the batch.
NumPy only.
"""

import heapq
from typing import NamedTuple

import numpy as np

_NEIGHBOURS = 64  # rows that an overlong row is compared with at a time


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
    """Moves and swaps pieces between the longest row and shorter ones until no row exceeds `goal`,
    or none helps.
    """
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
            held = np.concatenate(
                [np.setdiff1d(members[row], out, assume_unique=True), into]
            ).astype("int64")
            members[row] = held[np.argsort(sizes[held], kind="stable")]
    return assignment


def deal(sizes: np.ndarray, rows: int, unit: int = 1) -> np.ndarray:
    """Deals pieces over rows so that the longest row is as short as a quick search can make it."""
    assignment = greedy(sizes, np.argsort(-sizes, kind="stable"), rows)
    least = max(-(-int(sizes.sum()) // rows), int(sizes.max()))
    return balance(sizes, assignment, rows, -(-least // unit) * unit)
