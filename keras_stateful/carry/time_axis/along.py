"""What a tensor of a graph holds along time, and what padding, cutting and reading on make of it.

A window of the stream has `time` steps, of which nobody knows how many there will be. A tensor that
runs along it has `time + lead` of them and is aligned at its end: its last index stands for the
window's last step. What stands at a step was made of the input's steps `t - past ... t + ahead`.

    input                     . . | 0 1 2 3 4      lead  0   past 0   ahead  0
    2 steps put in front      p p | 0 1 2 3 4      lead  2   past 0   ahead  0
    3 taps, no padding            | 0 1 2 3 4      lead  0   past 2   ahead  0
    the last step cut off           . 0 1 2 3      lead -1   past 3   ahead -1

The steps `p` of a padding are zeros at the start of a stream; in every other window they are the
padding's last inputs of the window before: whoever pads in front holds them.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias


class Along(NamedTuple):
    """A value for each time step.

    Attributes:
        axis: which axis of the tensor is time.
        lead: steps from before the window that are in front; negative: steps that are missing.
        past: how many steps back a value reads; None: to the start of the stream.
        ahead: how many steps ahead a value reads; negative: it is late by so many.
        in_rows: whether that axis is batch and time in one, each step a row of its own, those of
            one stream behind each other, as `ops.reshape(x, (-1, features))` lays them.
    """

    axis: int
    lead: int = 0
    past: int | None = 0
    ahead: int = 0
    in_rows: bool = False

    def at(self, axis: int) -> "Along":
        """The same along another axis."""
        return self._replace(axis=axis)

    def in_line(self) -> "Along":
        """The same, whose steps lie in line: beside each the one before and the one behind it.

        Raises:
            Refused: time is one axis with the batch, whose neighbours may be of another row.
        """
        if self.in_rows:
            raise Refused(
                "it goes along an axis on which the steps of all rows follow each other",
                "Give time an axis of its own again in front of it.",
                keeps_axis=False,
            )
        return self

    def padded(self, front: int, back: int) -> "Along":
        """With steps added at both ends; those at the back make all others earlier ones."""
        changed = self.in_line() if front or back else self
        return changed._later(-back)._replace(lead=self.lead + front + back)

    def cut(self, front: int, back: int) -> "Along":
        """With steps taken away at both ends."""
        changed = self.in_line() if front or back else self
        return changed._later(back)._replace(lead=self.lead - front - back)

    def read_back(self, steps: int) -> "Along":
        """What is made of each step and `steps` before it, where all of them are there."""
        changed = self.in_line() if steps else self
        return changed._replace(lead=self.lead - steps, past=_more(self.past, steps))

    def _later(self, steps: int) -> "Along":
        """Each value stands for a step that is so much later."""
        return self._replace(past=_more(self.past, steps), ahead=self.ahead - steps)


class Repeated(NamedTuple):
    """The same value at every time step: what was made without time is repeated along a window.

    Attributes:
        axis: which axis of the tensor is time.
    """

    axis: int

    def at(self, axis: int) -> "Repeated":
        """The same along another axis."""
        return Repeated(axis)


class End:
    """What is known at the end of the window, without a time axis."""


class Merged:
    """Steps of a window merged into one value: refused, but where time is only searched for."""


END, MERGED = End(), Merged()

# What a tensor holds; None: nothing that depends on the window.
Hold: TypeAlias = Along | Repeated | End | Merged | None


class Held(NamedTuple):
    """What a call that is not recurrent holds: the last steps of its input.

    Attributes:
        steps: how many.
        lead: steps from before the window that its input has already; the held ones come in front.
    """

    steps: int
    lead: int


class Refused(Exception):
    """Why a call cannot be right when the stream is cut into windows.

    Attributes:
        why: in words that go behind "cannot carry `path`:".
        remedy: a sentence that says what to do, or "".
        keeps_axis: whether its output still has the time axis.
        underivable: whether nothing is known of it, so that the user may vouch for it.
    """

    def __init__(
        self, why: str, remedy: str = "", *, keeps_axis: bool = True, underivable: bool = False
    ):
        super().__init__(why)
        self.why, self.remedy = why, remedy
        self.keeps_axis, self.underivable = keeps_axis, underivable

    def within(self, what: str) -> "Refused":
        """The same, of a call that holds what is refused."""
        return Refused(
            f"{what}: {self.why}",
            self.remedy,
            keeps_axis=self.keeps_axis,
            underivable=self.underivable,
        )


def joined(parts: Sequence[Along]) -> Along:
    """What is made, step by step, of several tensors whose time axes are laid upon each other.

    Raises:
        Refused: they do not lie alike.
    """
    first = parts[0]
    if any((part.axis, part.in_rows) != (first.axis, first.in_rows) for part in parts):
        raise Refused("it compares the time steps of a window with each other", keeps_axis=False)
    leads = sorted({part.lead for part in parts})
    if len(leads) > 1:
        longer = leads[-1] - leads[0]
        raise Refused(
            f"one of its inputs has {longer} steps more in front than another",
            f"Cut the longer one in front (`[:, {longer}:]`), or put {longer} steps more in front "
            "of the shorter one before anything of it is cut or read "
            f"(`ZeroPadding1D(({longer}, 0))`).",
        )
    pasts = [part.past for part in parts if part.past is not None]
    past = max(pasts) if len(pasts) == len(parts) else None
    return first._replace(past=past, ahead=max(part.ahead for part in parts))


def _more(past: int | None, steps: int) -> int | None:
    return None if past is None else past + steps
