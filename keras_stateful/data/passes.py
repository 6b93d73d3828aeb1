"""What a stream remembers while it is read: how far a pass has come, and how many steps it had."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.stream_windows import Made

# Batches that Keras may take from an iterator that it then leaves: to see their shape, or ahead of
# its steps. They are given again.
_PEEKED = 8
KEPT = 64  # masks and positions that are kept behind the last batch made


class MadeBatch(NamedTuple):
    """A batch, and where the stream stands behind it."""

    made: Made
    after: dict[str, Any]


@dataclass
class Pass:
    """How far one epoch has come, in batches: `trained <= given <= made`.

    Attributes:
        made: batches made, among them those that the pass before gives back.
        given: batches handed out.
        trained: batches trained on; Keras may have been given more.
        keras_epoch: how many epochs Keras had begun when the first batch was asked for.
        looked_at: True if Keras only looks at a batch of it.
        finished: True if there are no more to give.
        broken: True if the source failed while it was read.
        resumed: True if `seek` made it, and it has not begun.
        waiting: batches made and not given.
        last: the last ones given.
        masks: reset masks by index of the batch, the last ones.
        positions: where the stream stands after so many batches, the last ones.
    """

    made: int = 0
    given: int = 0
    trained: int = 0
    keras_epoch: int = 0
    looked_at: bool = False
    finished: bool = False
    broken: bool = False
    resumed: bool = False
    waiting: deque[MadeBatch] = field(default_factory=deque)
    last: deque[MadeBatch] = field(default_factory=lambda: deque(maxlen=_PEEKED))
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    positions: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def untouched(self) -> bool:
        """True if no batch was given."""
        return not self.given and not self.finished

    def add(self, batch: MadeBatch) -> None:
        """Takes in the next batch made; what lies far behind is forgotten."""
        self.masks[self.made] = batch.made.mask
        self.masks.pop(self.made - KEPT, None)
        self.made += 1
        self.positions[self.made] = batch.after
        self.positions.pop(self.made - KEPT, None)
        self.waiting.append(batch)

    def give(self, limit: int | None) -> MadeBatch:
        """Hands out the next batch that waits; the pass ends after `limit` of them."""
        batch = self.waiting.popleft()
        self.last.append(batch)
        self.given += 1
        self.finished = self.given == limit
        return batch

    def given_back(self, goes_on: bool, once: bool) -> int | None:
        """How many of the batches given are those of the pass to come; None if it begins anew.

        Those that were given and not trained on, if they are few enough to be still kept: what
        Keras read ahead of its last step, or all of a pass that it left, as it does to see the
        shape of a batch.

        Args:
            goes_on: True if passes are parts of the source, which go on from each other.
            once: True if the source can be read one time only.
        """
        back = self.given
        if self.trained and (goes_on or (once and back > len(self.last))):
            back = max(0, self.given - self.trained)
        over = self.finished and not (self.looked_at or (goes_on and self.trained))
        if back <= len(self.last) and not over:
            return back
        # The source goes on where it is, though batches are lost, or begins anew.
        return 0 if goes_on or (once and not self.finished) else None

    def followed(self, back: int, here: dict[str, Any]) -> "Pass":
        """The pass to come, which gives so many batches again; the stream stands `here`."""
        after = Pass(positions={0: self.positions.get(self.given - back, here)})
        for batch in [*[*self.last][len(self.last) - back :], *self.waiting]:
            after.add(batch)
        return after


@dataclass
class StepCounts:
    """Time steps of batches, whose share that is trained on scales the weights.

    Attributes:
        counted: trained on, since the source was opened last; or windows, where one target stands
            at the end of each.
        read: in all rows, padding included, since then; likewise.
        real: in documents, since the stream was made.
        ever: in all rows, padding included, since then.
        share: counted / read of the pass before, or of all passes if these are parts of the source;
            None before there is one.
    """

    counted: float = 0.0
    read: float = 0.0
    real: int = 0
    ever: int = 0
    share: float | None = None

    @property
    def divisor(self) -> np.float32:
        """What the weights of all batches of a pass are divided by; in float32, which they are.

        One number, so that the mean over a pass, each step by its weight, does not depend on it.
        """
        return np.float32(self.share or 1.0)

    def add(self, counted: int, read: int, real: int, everything: int) -> None:
        """Adds a batch, in whose rows there are `everything` time steps."""
        self.counted, self.read = self.counted + counted, self.read + read
        self.real, self.ever = self.real + real, self.ever + everything

    def count_anew(self) -> None:
        """Something else is counted from now on."""
        self.counted, self.read, self.share = 0.0, 0.0, None

    def settle(self, counted: float, read: float) -> None:
        """The share of these steps is that of the passes to come."""
        if counted:
            self.share = counted / read

    def reopen(self, whole: bool) -> None:
        """The source begins again; `whole` says that it was read to its end."""
        if whole:
            self.settle(self.counted, self.read)
        self.counted = self.read = 0.0
