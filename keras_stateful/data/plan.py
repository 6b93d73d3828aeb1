"""The layouts of all epochs, planned from the lengths of documents; and how to waste less.

Everything here is a pure function of the lengths and of (seed, epoch); nothing is kept but two
epochs' layouts. NumPy only.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from keras_stateful.data.burn_in import BurnIn
from keras_stateful.data.dealing import Pieces, balance, cut, deal, greedy
from keras_stateful.data.layout import Dealt, Layout, Streams
from keras_stateful.data.strides import Strides
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.locks import Lock

# A shuffle deals pieces in any order (None). Where that makes a row too long, it deals longer ones
# first, which fills rows more evenly: by size * exp(spread * noise), with ever less noise.
_SPREADS = (None, 0.5, 0.1)
_MANY = 100_000  # documents for which other arguments are not tried out, which would take long


@dataclass(frozen=True)
class Settings:
    """What a layout depends on beside the lengths.

    Attributes:
        rows: of a batch, in all shards.
        window: time steps of a batch.
        stride: time steps from the start of a window to that of the next.
        boundary: as in `StatefulSequence`, but "ignore" for one text too; and so are `burn_in`,
            `shuffle`, `shift_windows` and `seed`.
        limit: `max_document_length` in time steps; None where nothing is cut.
    """

    rows: int
    window: int
    stride: int
    boundary: str
    limit: int | None
    burn_in: BurnIn
    shuffle: bool
    shift_windows: bool
    seed: int

    @property
    def strides(self) -> Strides:
        """Of the windows."""
        return Strides(self.window, self.stride)


class _Deal(NamedTuple):
    """Pieces of documents and the rows that they are first dealt to; a shuffle deals them anew.

    Attributes:
        pieces: what is read without a reset in between.
        packed: True for "pack".
        sizes: of the pieces, in time steps where they are packed, else in windows.
        rows: of each piece.
    """

    pieces: Pieces
    packed: bool
    sizes: np.ndarray
    rows: np.ndarray


class Plan:
    """The layouts of all epochs; their number of batches is the same.

    Args:
        lengths: time steps to read of each document; in "ignore" all that it has.
        settings: rows, window and the rest.
        reach: in "ignore", time steps that targets look ahead.

    Attributes:
        deal: of the pieces of documents; None in "ignore", where there are none.
        num_batches: of every epoch.
        utilization: time steps in rows that are no padding / all.
        dropped: time steps that "ignore" leaves out.
    """

    def __init__(self, lengths: np.ndarray, settings: Settings, reach: int = 0):
        self.lengths, self.settings = lengths, settings
        s = settings
        self._layouts: dict[int, Layout] = {}
        self._lock = Lock()
        self.deal = None if s.boundary == "ignore" else _first_deal(lengths, s)
        if self.deal is None:
            total = int(lengths.sum())
            of_row = max(0, total - reach - self._slack) // s.rows
            self.num_batches = int(s.strides.whole(of_row))
            read = s.rows * int(s.strides.steps(self.num_batches)) if self.num_batches else 0
            self.utilization, self.dropped = 1.0, total - read
        else:
            longest = int(np.bincount(self.deal.rows, self.deal.sizes).max()) + self._slack
            packed, steps = self.deal.packed, self.deal.pieces.steps
            self.num_batches = int(s.strides.covering(longest)) if packed else longest
            # In "align" windows stand alone, and what they have in common counts for each of them.
            again = 0 if packed else (self.deal.sizes - 1) * s.strides.overlap
            everything = (
                s.strides.steps(self.num_batches) if packed else self.num_batches * s.window
            )
            self.utilization = int((steps + again).sum()) / (s.rows * int(everything))
            self.dropped = 0

    @property
    def _slack(self) -> int:
        """Time steps of a row that `shift_windows` may leave out or idle."""
        return self.settings.stride - 1 if self.settings.shift_windows else 0

    @property
    def padded(self) -> bool:
        """True if any epoch has a step that is not real or not trained on."""
        read_again = self.settings.strides.overlap > 0 and self.num_batches > 1
        return self.utilization < 1 or bool(np.any(self.settings.burn_in)) or read_again

    def layout(self, epoch: int) -> Layout:
        """The layout of an epoch."""
        if not (self.settings.shuffle or self.settings.shift_windows):
            epoch = 0
        with self._lock:
            if epoch not in self._layouts:
                while len(self._layouts) > 1:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[epoch] = self._make(epoch)
            return self._layouts[epoch]

    def _make(self, epoch: int) -> Layout:
        # The draws keep their number and order: with others, a seed would give other layouts, and
        # trainings saved before could not go on.
        s, first = self.settings, self.deal
        rng = np.random.default_rng((s.seed, epoch))
        if first is None:
            begin = int(rng.integers(s.stride)) if s.shift_windows else 0
            order = rng.permutation(len(self.lengths)) if s.shuffle else None
            assert isinstance(s.burn_in, int)
            return Streams(
                self.lengths, s.rows, s.strides, self.num_batches, s.burn_in, begin, order
            )
        assignment, within = first.rows, np.arange(len(first.sizes))
        if s.shuffle:
            assignment, within = self._dealt_anew(first, rng), rng.permutation(len(first.sizes))
        idle = None
        if s.shift_windows:  # each row begins a little later, where it has the room
            load = np.bincount(assignment, first.sizes, s.rows).astype("int64")
            room = int(s.strides.steps(self.num_batches)) - load
            idle = rng.integers(0, np.minimum(room, s.stride - 1) + 1)
        return Dealt(
            first.pieces,
            assignment,
            within,
            s.rows,
            s.strides,
            self.num_batches,
            first.packed,
            idle,
        )

    def _dealt_anew(self, first: _Deal, rng: np.random.Generator) -> np.ndarray:
        """A row for each piece, drawn at random, so that no row exceeds the epoch's batches."""
        s, sizes = self.settings, first.sizes
        room = self.num_batches
        if first.packed:
            room = int(s.strides.steps(room)) - self._slack
        for spread in _SPREADS:
            order = rng.permutation(len(sizes))
            if spread is not None:
                order = np.argsort(
                    -sizes * np.exp(spread * rng.standard_normal(len(sizes))), kind="stable"
                )
            assignment = balance(sizes, greedy(sizes, order, s.rows), s.rows, room)
            if np.bincount(assignment, sizes).max() <= room:
                return assignment
        # None fits: the first deal with its rows renamed and pieces of equal size exchanged. Sorted
        # by size, `order` and `mixed` stand for the same sizes, ties of `mixed` at random.
        order = np.argsort(sizes, kind="stable")
        mixed = np.lexsort((rng.random(len(sizes)), sizes))
        assignment = np.empty_like(first.rows)
        assignment[mixed] = rng.permutation(s.rows)[first.rows[order]]
        return assignment


def _first_deal(lengths: np.ndarray, settings: Settings) -> _Deal:
    s = settings
    pieces, sizes, unit = _cut(lengths, s, s.limit)
    return _Deal(pieces, s.boundary == "pack", sizes, deal(sizes, s.rows, unit))


def _cut(
    lengths: np.ndarray, settings: Settings, limit: int | None
) -> tuple[Pieces, np.ndarray, int]:
    """Pieces, their sizes in time steps ("pack") or windows, and how many of these a batch adds."""
    s = settings
    pieces = cut(lengths, s.strides, limit, s.burn_in, s.boundary == "align")
    if s.boundary == "pack":
        return pieces, pieces.steps, s.stride
    return pieces, s.strides.covering(pieces.steps), 1


def longest_unwasted(lengths: np.ndarray, settings: Settings, waste: float = 0.03) -> int | None:
    """The longest `max_document_length` that leaves under `waste` of the rows idle.

    What cutting cannot change, the padding of last windows, is not counted.

    Returns:
        Time steps, whole windows; if no length will do, that which wastes least. None where nothing
        need be cut.
    """
    strides = settings.strides

    def idle(windows: int | None) -> float:
        limit = None if windows is None else int(strides.steps(windows))
        return _idle(lengths, settings, limit, waste)

    if idle(None) < waste:
        return None
    low = int(strides.covering(int(np.max(settings.burn_in))))  # a piece holds its burn-in
    high = max(low, int(strides.covering(int(lengths.max()))))
    best, windows, failed = (idle(low), low), high, high
    # In steps of 5 % down to the first that will do. Not by halves: a shorter one may waste more.
    while windows > low:
        share = idle(windows)
        best = min(best, (share, windows), key=lambda pair: (pair[0], -pair[1]))
        if share < waste:  # perhaps a longer one will, up to the last that failed
            between = np.unique(np.linspace(windows + 1, failed - 1, 16).astype(int))
            for longer in between[::-1].tolist():
                if windows < longer < failed and idle(longer) < waste:
                    return int(strides.steps(longer))
            return int(strides.steps(windows))
        failed, windows = windows, min(windows - 1, int(windows * 0.95))
    return int(strides.steps(best[1]))


def _idle(lengths: np.ndarray, settings: Settings, limit: int | None, waste: float) -> float:
    """The share of all rows that is idle if documents are cut at `limit`; a bound over `waste`."""
    _, sizes, unit = _cut(lengths, settings, limit)
    rows, total = settings.rows, int(sizes.sum())
    # No deal has a longest row shorter than the mean, or than the longest piece.
    longest = max(-(-total // rows), int(sizes.max()))
    bound = 1 - total / (-(-longest // unit) * unit * rows)
    if bound >= waste:  # so that none need be made
        return bound
    longest = int(np.bincount(deal(sizes, rows, unit), sizes).max())
    return 1 - total / (-(-longest // unit) * unit * rows)


def piece_limit(argument: int | str | None, lengths: np.ndarray, settings: Settings) -> int | None:
    """`max_document_length` in time steps, checked; None where nothing is cut."""
    window = settings.window
    if argument is None:
        return None
    if isinstance(argument, str) and argument == "auto":
        return longest_unwasted(lengths, settings)
    limit = whole_number("max_document_length", argument, 1, alternative='or "auto"')
    if settings.boundary == "align" and limit < window:
        raise ValueError(
            '`max_document_length` cuts at the edges of windows in boundary="align". Received: '
            f"max_document_length={limit}, sequence_length={window}. Take at least {window}, "
            'or boundary="pack".'
        )
    strides = settings.strides
    whole = int(strides.steps(strides.whole(limit)))
    shortest = whole if settings.boundary == "align" else limit
    # Of documents that are not cut, all may be burnt in.
    longest = int(np.where(lengths > shortest, settings.burn_in, 0).max())
    if longest > shortest:
        raise ValueError(
            "`burn_in` reads steps of the piece before, and must not be longer than that. "
            f"Received: burn_in={longest}, pieces of {shortest} time steps. Take a "
            "smaller `burn_in` or a larger `max_document_length`."
        )
    return limit


def remedies(plan: Plan, boundary: str) -> str:
    """Why much is padding, and which arguments would leave less: tried, not guessed.

    Args:
        plan: what was planned.
        boundary: as the user gave it.
    """
    settings, lengths = plan.settings, plan.lengths
    rows, window = settings.rows, settings.window
    tried: list[tuple[str, Settings]] = []
    if len(lengths) <= _MANY:
        tried = [
            (f"batch_size={r}", replace(settings, rows=r)) for r in (rows // 2, rows // 4) if r
        ]
        if not settings.limit:
            longest = longest_unwasted(lengths, settings)
            tried.append(('max_document_length="auto"', replace(settings, limit=longest)))
        if boundary == "align":
            tried.append(('boundary="pack"', replace(settings, boundary="pack")))
        if window > 1 and settings.stride == window:
            tried.append(
                (
                    f"sequence_length={window // 2}",
                    replace(settings, window=window // 2, stride=window // 2),
                )
            )
    utilizations = [(Plan(lengths, s).utilization, name) for name, s in tried]
    better = [
        f"{name} gives {u:.2f}"
        for u, name in sorted(utilizations, reverse=True)
        if u > plan.utilization + 0.005
    ]
    cause = (
        f"there are fewer documents ({len(lengths)}) than rows"
        if plan.deal is not None and len(plan.deal.sizes) < rows
        else "documents are short beside a window, or one is long beside the rest"
    )
    return (
        f"Only {plan.utilization:.2f} of all time steps are real; the rest is padding with weight "
        f"0: {cause}. Received: batch_size={rows}, sequence_length={window}, "
        f"boundary={boundary!r}, max_document_length={settings.limit}. "
        + (f"{'; '.join(better)}." if better else "")
    ).strip()
