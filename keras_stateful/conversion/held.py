"""Policies for the calls that read a bounded past: what becomes of them in a new model.

holds its inputs         the layer of `carry.past`, with a state for each call
between a padding and    with resets by step: called for each time step by itself
what uses it up          (`carry.each_step`); otherwise it needs no policy
"""

from collections import Counter
from typing import Any

import keras

from keras_stateful.carry.adapters import CarryAdapted
from keras_stateful.carry.attention import ATTENTION, attention_class
from keras_stateful.carry.each_step import (
    AsOneWindow,
    ForEachStep,
    PastOfEachStep,
    SameForEachStep,
)
from keras_stateful.carry.graph import RESETS, Call, Graph, Unconvertible
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.past import HeldPast, Pad, Past, fill_of, past_class
from keras_stateful.carry.rewrite import Rewriter
from keras_stateful.carry.time_axis import TimeAxis
from keras_stateful.conversion.masked_attention import check_masked_attention
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure


class HeldCalls:
    """Builds the calls that a conversion must change because of a bounded past.

    Args:
        graph: of the old model.
        time: what runs along its time axis.
        rows: of the new model, where it carries its states.
        by_step: whether the new model gets resets inside windows.
        trains: whether the new model is one to train.
        carry_after: steps of a window behind which the states are carried on; None: all.

    Attributes:
        paths: of the layers and operations whose calls must be built here.

    Raises:
        Unconvertible: resets by step that could not be right.
    """

    def __init__(
        self,
        graph: Graph,
        time: TimeAxis,
        rows: int = 0,
        *,
        by_step: bool = False,
        trains: bool = False,
        carry_after: int | None = None,
    ):
        self._time, self._rows, self._by_step, self._trains = time, rows, by_step, trains
        self._carry_after = carry_after
        self._old: dict[str, list[Call]] = {}
        for call in graph.calls:
            self._old.setdefault(call.path, []).append(call)
        self._seen: Counter[str] = Counter()
        self._pads: dict[int, Past] = {}  # by the id of the operation that each stands for
        self.paths = set(time.held)
        for path in time.held:
            _check_holds(self._old[path][0], time)
        check_masked_attention(graph, time)
        if by_step:
            self.paths |= {call.path for call in graph.calls if self._is_longer(call)}
            for call in graph.calls:
                if call.path in self.paths:
                    self._check_by_step(call)

    # What runs along time

    def _lead(self, tensor: keras.KerasTensor) -> int:
        """How many steps from before the window a tensor has in front."""
        along = self._time.along.get(id(tensor))
        return along.lead if along is not None else 0

    def _is_longer(self, call: Call) -> bool:
        """True if a call is given or gives a window that is longer than the model's."""
        if isinstance(call.operation, ForEachStep):  # of an earlier conversion, which is left out
            return False
        return any(map(self._lead, (*call.tensors, *call.outputs)))

    def _check_by_step(self, call: Call) -> None:
        """Checks that a document's start inside a window can be one for this call."""
        before = max(map(self._lead, call.tensors))
        axes = {self._time.along[id(t)].axis for t in call.tensors if id(t) in self._time.along}
        if call.path in self._time.held and before:
            raise _not_by_step(
                call,
                f"it pads a window that has {before} steps from before it in front already",
                "Pad once, in front of the layers in between (n + m steps for n and m), or let "
                "those layers use up what was padded first.",
            )
        if axes != {1}:
            raise _not_by_step(
                call, f"its time steps lie along axis {sorted(axes)}", "Keep time at axis 1."
            )
        if before and any(id(t) in self._time.along and not self._lead(t) for t in call.tensors):
            raise _not_by_step(
                call,
                "it is given windows with and without steps from before them",
                "Cut off what was padded first (`[:, n:]`).",
            )

    # Calls in the new model

    def _next(self, call: Call) -> Call:
        """The call of the old model that is being built anew."""
        self._seen[call.path] += 1
        return self._old[call.path][self._seen[call.path] - 1]

    def layer(self, rewriter: Rewriter, call: Call, slots: int = 0) -> CarryAdapted:
        """The layer that holds its inputs, for a call that does.

        Args:
            rewriter: builds the new model.
            call: the old layer, with the new arguments.
            slots: how many states it has, one for each call; without any they are arguments.
        """
        return self._layer(rewriter, self._next(call), slots)

    def _layer(self, rewriter: Rewriter, old: Call, slots: int) -> CarryAdapted:
        if isinstance(old.operation, ATTENTION):
            cls = attention_class(type(old.operation), trains=self._trains)
            return rewriter.layer(old.operation, cls, slots=slots, carry_after=self._carry_after)
        held = self._time.held[old.path]
        axis = self._time.along[id(old.data[0])].axis
        config: dict[str, Any] = {
            "slots": slots,
            "carry_after": self._carry_after,
            "held_past": HeldPast(held.steps, held.lead, axis),
        }
        operation = old.operation
        if isinstance(operation, keras.layers.Layer):
            return rewriter.layer(operation, past_class(plain_class(type(operation))), **config)
        if id(operation) not in self._pads:
            value = old.argument(1, "constant_values")
            widths = operation.pad_width * (len(old.data[0].shape) // len(operation.pad_width))
            self._pads[id(operation)] = past_class(Pad)(
                widths, value, name=operation.name, **config
            )
        return self._pads[id(operation)]

    def carry(
        self,
        rewriter: Rewriter,
        call: Call,
        slots: int,
        slot: int,
        resets: keras.KerasTensor | None,
    ) -> Structure:
        """The call of a layer that holds its inputs, which carries them.

        Args:
            rewriter: builds the new model.
            call: the old layer, with the new arguments.
            slots: how many calls of the layer there are.
            slot: which of the calls this one is.
            resets: bool `(batch,)` or `(batch, time)`; None for none.
        """
        old = self._next(call)
        layer = self._layer(rewriter, old, slots)
        added = {} if resets is None else {RESETS: resets}
        outputs = called(layer, call, **added, slot=slot)
        lead = max(map(self._lead, old.outputs))
        if self._by_step and lead:
            steps = self._time.held[old.path].steps
            outputs = PastOfEachStep((steps, lead - steps), fill_of(layer))(outputs, resets)
        return outputs

    def for_each_step(self, rewriter: Rewriter, call: Call) -> Structure:
        """Calls a layer that is given a longer window for each time step by itself."""
        old = self._next(call)
        pairs = zip(_leaves(old), _leaves(call), strict=True)
        longer = next(new for before, new in pairs if _is_tensor(before) and self._lead(before))

        def of_each_step(before: Any, new: Any) -> Any:
            if not _is_tensor(before) or self._lead(before) or not len(new.shape):
                return new
            return SameForEachStep()(new, longer)

        args, kwargs = keras.tree.map_structure(
            of_each_step, (old.args, old.kwargs), (call.args, call.kwargs)
        )
        outputs = keras.tree.flatten(rewriter.layer(call.operation)(*args, **kwargs))
        return [
            new if self._lead(before) else AsOneWindow(self._rows, before.shape[1])(new)
            for before, new in zip(old.outputs, outputs, strict=True)
        ]


def _check_holds(call: Call, time: TimeAxis) -> None:
    """Checks that a call is one of a layer that can hold its inputs."""
    what = f"`to_stateful` cannot carry `{call.path}` ({type(call.operation).__name__}): "
    if isinstance(call.operation, ATTENTION):
        return
    # Of what a custom layer reads back it is known that it pads the one tensor that it is given.
    single = len(call.data) == 1 and call.args and call.args[0] is call.data[0]
    if not (single and all(id(t) in time.along for t in call.outputs)):
        raise Unconvertible(
            f"{what}it reads {time.held[call.path].steps} steps back in one of several tensors, or "
            "gives out something without time. Call its operations in the Functional graph "
            "themselves: paddings there hold the past."
        )


def called(layer: Any, call: Call, **added: Any) -> Structure:
    """Calls a layer that holds its inputs as the old one was called."""
    if isinstance(layer, Pad):
        return layer(call.data[0], **added)
    return layer(*call.args, **call.users_arguments, **added)


def _leaves(call: Call) -> list:
    return keras.tree.flatten((call.args, call.kwargs))


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, keras.KerasTensor)


def _not_by_step(call: Call, why: str, remedy: str) -> Unconvertible:
    return Unconvertible(
        f"`{call.path}` ({type(call.operation).__name__}) could read over a document's start "
        f'inside a window: {why}. Received: resets="step". {remedy} Or let every document start '
        'at the beginning of a window (`boundary="align"`, resets="window").'
    )


def without_past(rewriter: Rewriter, call: Call) -> Structure:
    """The call of a plain layer or operation in place of one that holds its inputs."""
    layer = call.operation
    if isinstance(layer, Pad):
        return keras_internals.named_pad(
            call.args[0], layer.pad_width, layer.constant_values, layer.name
        )
    return rewriter.layer(layer, plain_class(type(layer)))(*call.args, **call.users_arguments)
