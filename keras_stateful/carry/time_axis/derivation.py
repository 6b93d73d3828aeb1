"""What the tensors of a graph hold along time, derived call by call.

    what the inputs hold ──▶ first call ──▶ what its outputs hold ──▶ second call ──▶ ...

`keras_layers` and `operations` have a rule for each layer and operation of Keras; anything else is
called on symbolic tensors, and what it does there is derived in the same way (`tracing`). A rule
speaks of axes: which axis of each argument becomes which axis of the output.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

import keras

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import (
    END,
    MERGED,
    Along,
    End,
    Held,
    Hold,
    Merged,
    Refused,
    Repeated,
    joined,
)
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# Tells for an axis of an argument which axis of the output it becomes; None: it is merged.
Axes: TypeAlias = Callable[[int], int | None]
# Says what the outputs of a call hold, a single one or all.
Rule: TypeAlias = Callable[[Call, "Derivation"], Hold | list[Hold]]


class LinedUp(Refused):
    """A tensor without time has an axis that is laid upon time: it may have to have time, too.

    Attributes:
        tensor: which.
        axis: of the tensor.
    """

    def __init__(self, tensor: Tensor, axis: int):
        super().__init__(
            f"something without time, of shape {tuple(tensor.shape)}, is given one value for each "
            "time step of a window, and a stream has no such number of steps",
            "Give it one value for all steps (size 1 along time; ones and zeros are "
            "`ops.ones_like(x[..., :1])`), or feed it as one more input `(batch, time, ...)`.",
        )
        self.tensor, self.axis = tensor, axis


class NoTime(Exception):
    """Nothing that an output is made of depends on the window."""


class RefusedCall(Exception):
    """A call of the graph that is refused, and why."""

    def __init__(self, call: Call, refused: Refused):
        super().__init__(call.path)
        self.call, self.refused = call, refused


class Derivation:
    """What is known of time while the calls of a graph are gone through in order.

    Args:
        holds: what tensors hold, by their id; added to.
        rule_of: gives the rule for a call.
        chosen: paths of the recurrent layers that are to carry; None: all.
        searching: whether time is only searched for: what would be refused is gone through.
        window: rows and steps that calls inside a call were tried with, None where nobody knows how
            many; None for the graph itself, where nothing is tried.
        noisy: whether random numbers were drawn for these calls.
        records: what calls did on symbolic tensors, for `tracing` to look at once; added to.

    Attributes:
        recurrent: paths of recurrent layers along time, in order of first call.
        held: what other calls hold, by path.
        held_tensors: ids of the tensors whose last steps those calls hold.
        calls: the number of calls of each path of both kinds.
        initial_state_given: paths of recurrent layers whose `initial_state` the graph gives.
        shortened: by id of a tensor with steps missing, the path of the call that left them out.
    """

    def __init__(
        self,
        holds: dict[int, Hold],
        rule_of: Callable[[Call], Rule],
        chosen: Collection[str] | None = None,
        *,
        searching: bool = False,
        window: tuple[int | None, int | None] | None = None,
        noisy: bool = False,
        records: dict[tuple, Any] | None = None,
    ):
        self.holds, self.rule_of, self.chosen = holds, rule_of, chosen
        self.searching, self.window, self.noisy = searching, window, noisy
        self.records = {} if records is None else records
        self.recurrent: list[str] = []
        self.held: dict[str, Held] = {}
        self.held_tensors: set[int] = set()
        self.calls: dict[str, int] = {}
        self._counted: set[int] = set()
        self.initial_state_given: set[str] = set()
        self.shortened: dict[int, Call] = {}

    @property
    def measured(self) -> bool:
        """Whether sizes along time are numbers of our own choice, tried with two."""
        return self.window is not None and self.window[1] is not None

    def inside(self, holds: dict[int, Hold], **options: Any) -> "Derivation":
        """One for the calls inside a call."""
        same = {"searching": self.searching, "records": self.records, "window": self.window}
        return Derivation(holds, self.rule_of, **{**same, **options})

    # Going through the calls

    def run(self, calls: Iterable[Call]) -> None:
        """Goes through calls in order.

        Raises:
            RefusedCall: the first that cannot be right.
        """
        for call in calls:
            self.follow(call)

    def follow(self, call: Call) -> None:
        """Notes what the outputs of a call hold."""
        inputs = [self.holds.get(id(t)) for t in call.tensors]
        try:
            outputs = self._outputs(call, inputs)
        except NoTime:
            return
        except Refused as refused:
            if not self.searching:
                raise RefusedCall(call, refused) from refused
            outputs = [_passed_over(call, self, refused, t) for t in call.outputs]
        for tensor, hold in zip(call.outputs, outputs, strict=True):
            if hold is not None:
                self.holds[id(tensor)] = hold
        self._note_missing_steps(call)

    def _outputs(self, call: Call, inputs: list[Hold]) -> list[Hold]:
        along = any(isinstance(hold, Along) for hold in inputs)
        ends = next((hold for hold in inputs if isinstance(hold, (End, Merged))), None)
        if not along and ends is not None:
            # What is made of a window's end alone is an end as well: a head, a second network.
            return [ends] * len(call.outputs)
        if along and ends is not None and not self.searching:
            raise Refused(
                "its time steps are given what is known at the end of the window, which is not the "
                "end of the stream",
                "Give each step what is known at that step: `return_sequences=True` in place of "
                "the last output or state.",
            )
        if not along:
            return self._without_time(call, inputs)
        result = self.rule_of(call)(call, self)
        return result if isinstance(result, list) else [result] * len(call.outputs)

    def _without_time(self, call: Call, inputs: list[Hold]) -> list[Hold]:
        """What is made of tensors without time: nothing of interest but what is repeated."""
        result: Hold | list[Hold] = None
        if _repeats_one_step(call):
            result = Repeated(1)
        elif any(isinstance(hold, Repeated) for hold in inputs):
            with contextlib.suppress(Refused, NoTime):
                result = self.rule_of(call)(call, self)
        return result if isinstance(result, list) else [result] * len(call.outputs)

    def _note_missing_steps(self, call: Call) -> None:
        """Remembers which call left out steps in front, for whoever misses them."""
        known = [self.shortened[id(t)] for t in call.tensors if id(t) in self.shortened]
        for tensor in call.outputs:
            hold = self.holds.get(id(tensor))
            if isinstance(hold, Along) and hold.lead < 0:
                self.shortened[id(tensor)] = known[0] if known else call

    # What rules ask

    def of(self, tensor: Tensor) -> Hold:
        """What a tensor holds."""
        return self.holds.get(id(tensor))

    def along(self, tensor: Tensor) -> Along:
        """What a tensor with time holds.

        Raises:
            Refused: it has no time, and something else of the call has.
        """
        hold = self.of(tensor)
        if not isinstance(hold, Along):
            raise Refused("only a part of what it reads along time has time steps")
        return hold

    def join(self, parts: Iterable[tuple[Tensor, Axes]]) -> Along | Repeated:
        """What an output holds that is made of tensors, each with its axes laid on the output's.

        Args:
            parts: tensors (graph tensors, weights, arrays) and where their axes go.

        Raises:
            Refused: time steps are merged, or not laid upon each other.
            NoTime: none of the parts has time.
        """
        parts = list(parts)
        along: list[Along] = []
        for tensor, axes in parts:
            hold = self.of(tensor)
            if isinstance(hold, Along):
                axis = axes(hold.axis)
                if axis is None:
                    raise merges()
                if not self._is_one_for_all(tensor, hold, axis, parts):
                    along.append(hold.at(axis))
        if not along:
            return self._join_without_time(parts)
        result = joined(along)
        sizes = {t.shape[h.axis] for t, _ in parts if isinstance(h := self.of(t), Along)}
        for tensor, axes in parts:
            if not self._is_along(tensor):
                self._lay_upon(tensor, axes, result.axis, sizes == {1})
        return result

    def _is_one_for_all(
        self, tensor: Tensor, hold: Along, axis: int, parts: list[tuple[Tensor, Axes]]
    ) -> bool:
        """Whether a tensor of one step, searched for time, is laid upon more steps of another."""
        return (
            self.searching
            and tensor.shape[hold.axis] == 1
            and any(
                t.shape[a] != 1 for t, axes in parts for a in range(_rank(t)) if axes(a) == axis
            )
        )

    def _is_along(self, tensor: Tensor) -> bool:
        return isinstance(self.of(tensor), Along)

    def _join_without_time(self, parts: list[tuple[Tensor, Axes]]) -> Repeated:
        """Repeated, if all parts that have that axis are."""
        repeated = {axes(h.axis) for t, axes in parts if isinstance(h := self.of(t), Repeated)}
        axis = next(iter(repeated), None)
        if len(repeated) != 1 or axis is None:
            raise NoTime
        for tensor, axes in parts:
            on = [a for a in range(_rank(tensor)) if axes(a) == axis]
            if not isinstance(self.of(tensor), Repeated) and any(tensor.shape[a] != 1 for a in on):
                raise NoTime
        return Repeated(axis)

    def _lay_upon(self, tensor: Tensor, axes: Axes, time: int, window_of_one: bool) -> None:
        """Checks a part without time, one of whose axes may be laid upon time."""
        on = next((a for a in range(_rank(tensor)) if axes(a) == time), None)
        if on is None or self.searching or self.of(tensor) == Repeated(on):
            return
        in_graph = isinstance(tensor, keras.KerasTensor)
        if tensor.shape[on] == 1 and not (window_of_one and in_graph):
            return  # the same at all steps
        if self.noisy and not in_graph and not isinstance(tensor, keras.Variable):
            return  # random numbers, drawn anew for each step
        raise LinedUp(tensor, on)

    def hold(self, call: Call, tensor: Tensor, steps: int) -> Along:
        """Notes that a call holds the last steps of a tensor, and returns what that holds.

        Raises:
            Refused: what would have to be held is not there, or not final yet.
        """
        hold = self.along(tensor).in_line()
        if hold.lead < 0 and not self.searching:
            missing = self.shortened.get(id(tensor), call).path
            raise Refused(
                f"it pads in front what `{missing}` left {-hold.lead} steps out of, which a window "
                "has to compute anew",
                f"Pad first and cut afterwards: put the padding in front of `{missing}`.",
            )
        self.check_not_ahead(hold)
        held = Held(steps, max(hold.lead, 0))
        if self.held.setdefault(call.path, held) != held:
            raise Refused("its calls hold different numbers of steps", "Use a layer for each.")
        self.held_tensors.add(id(tensor))
        self.count(call)
        return hold

    def count(self, call: Call) -> None:
        """Counts a call of a layer that is recurrent or holds its past, once."""
        if id(call.outputs[0]) not in self._counted:  # it may be derived for training as well
            self._counted.add(id(call.outputs[0]))
            self.calls[call.path] = self.calls.get(call.path, 0) + 1

    def carries(self, path: str) -> bool:
        """Whether a recurrent layer is to carry its state."""
        return self.chosen is None or path in self.chosen

    def check_not_ahead(self, hold: Along) -> None:
        """Refuses a value that must be final and waits for later steps."""
        if hold.ahead > 0 and not self.searching:
            raise Refused(
                f"what it is given reads {hold.ahead} steps ahead, which a stream does not know "
                "yet",
                f"Cut the last {hold.ahead} steps off in front of it (`[:, :-{hold.ahead}]`).",
            )

    def end_of(self, hold: Along, steps: int = 1) -> Hold:
        """What the step is, `steps` before the end of a window (1: the last one)."""
        hold = hold.in_line()
        if steps - 1 > hold.lead:
            raise Refused(
                f"it takes the step {steps - 1} before the window's last one, which a window of "
                "one step does not have",
                f"Put {steps - 1} steps in front first (`ZeroPadding1D(({steps - 1}, 0))`).",
                keeps_axis=False,
            )
        self.check_not_ahead(hold._replace(ahead=hold.ahead - steps + 1))
        return END


def _repeats_one_step(call: Call) -> bool:
    """True for what repeats something without time along axis 1."""
    if isinstance(call.operation, keras.layers.RepeatVector):
        return True
    if keras_internals.operation_name(call.operation) not in ("Repeat", "Tile"):
        return False
    tensor, output = call.args[0], call.outputs[0]
    sizes = (tensor.shape, output.shape)
    one_step = len(tensor.shape) == len(output.shape) > 1 and tensor.shape[1] == 1
    return one_step and all(a == b for i, (a, b) in enumerate(zip(*sizes, strict=True)) if i != 1)


def merges(what: str = "the time steps of a window") -> Refused:
    """The refusal of what makes one value of a whole window."""
    return Refused(
        f"it merges {what} into one value",
        "Let each step have its own output and take the last one, which has seen the others: "
        '`return_sequences=False`, or targets with `label_at="last"`; for a mean over a document '
        'use `predict_documents(model, documents, reduce="mean")`.',
        keeps_axis=False,
    )


def _rank(tensor: Tensor) -> int:
    return len(tensor.shape)


def _passed_over(call: Call, time: Derivation, refused: Refused, output: Tensor) -> Hold:
    """What an output holds of a call that would be refused, where time is only searched for."""
    along = [hold for t in call.tensors if isinstance(hold := time.of(t), Along)]
    if along and refused.keeps_axis and len(output.shape) > along[0].axis:
        return along[0]._replace(lead=0, past=None)
    return MERGED
