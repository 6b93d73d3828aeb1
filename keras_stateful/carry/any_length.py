"""Calls that have the number of time steps of a window written into them, made for any number.

    Reshape((12, 1))                          ──▶ Reshape((-1, 1))
    RepeatVector(12) of what has no time      ──▶ one step, which is laid upon all steps
    Concatenate()([stream, repeated])         ──▶ the one step is repeated as often as the stream's

`to_inference` and `to_step_model` make a model that takes windows of any length; these calls are
given to `AnyLength` there, as recurrent ones are to a policy.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from keras import layers, ops

from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.time_axis import TimeAxis
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

# Gives the new layer or operation for an old one.
Renewed: TypeAlias = Callable[[keras.Operation], keras.Operation]


class AnyLength:
    """The calls of a graph that have to be made for any number of time steps.

    Args:
        graph: of the model.
        time: what runs along time in it.

    Attributes:
        paths: of those calls.
    """

    def __init__(self, graph: Graph, time: TimeAxis):
        self._shapes: dict[str, tuple] = {}  # of reshapes: the sizes behind the batch, -1 for time
        self._joins: dict[str, list[bool]] = {}  # which parts of a concatenation are repeated
        self._repeats: set[str] = set()
        meets = _meets_a_stream(graph, time)
        for call in graph.calls:
            output = call.outputs[0]
            along = time.along.get(id(output))
            if along is not None and _is(call, layers.Reshape, "Reshape"):
                sizes = list(output.shape[1:])
                sizes[along.axis - 1] = -1
                if None not in sizes:
                    self._shapes[call.path] = tuple(sizes)
            elif along is not None and _joins(call):
                repeated = [id(t) in time.repeated for t in call.tensors]
                if any(repeated):
                    self._joins[call.path] = repeated
            elif id(output) in meets and _repeats(call):
                self._repeats.add(call.path)
        self.paths = {*self._shapes, *self._joins, *self._repeats}

    def call(self, call: Call, renewed: Renewed) -> Structure:
        """Makes one of the calls, whose arguments are new."""
        if call.path in self._shapes:
            return layers.Reshape(self._shapes[call.path], name=call.operation.name)(*call.args)
        if call.path in self._repeats:
            vector = call.args[0]
            of_layer = isinstance(call.operation, layers.RepeatVector)
            return ops.expand_dims(vector, 1) if of_layer else vector
        parts = keras.tree.flatten(call.args[0])
        repeated = self._joins[call.path]
        like = parts[repeated.index(False)]
        parts = [
            _repeated_as(part, like) if is_repeated else part
            for part, is_repeated in zip(parts, repeated, strict=True)
        ]
        return renewed(call.operation)(parts)


def _is(call: Call, layer: type, operation: str) -> bool:
    """True for a layer of Keras's class, or for the operation of that name."""
    return (
        type(call.operation) is layer or keras_internals.operation_name(call.operation) == operation
    )


def _joins(call: Call) -> bool:
    """True for what takes parts of the same number of steps alone."""
    names = ("Concatenate", "Stack")
    operation: Any = call.operation
    return type(operation) is layers.Concatenate or (
        keras_internals.operation_name(operation) in names
    )


def _repeats(call: Call) -> bool:
    """True for what repeats something along a window."""
    names = ("Repeat", "Tile")
    operation: Any = call.operation
    return isinstance(operation, layers.RepeatVector) or (
        keras_internals.operation_name(operation) in names
    )


def _meets_a_stream(graph: Graph, time: TimeAxis) -> set[int]:
    """Ids of the repeated tensors that are laid upon the steps of a stream, sooner or later.

    Raises:
        Unconvertible: one that something else reads as well, as often as it was repeated.
    """
    meets: set[int] = set()
    for call in reversed(graph.calls):
        repeated = [t for t in call.tensors if id(t) in time.repeated]
        if any(id(t) in time.along or id(t) in meets for t in call.outputs):
            meets.update(map(id, repeated))
    for call in graph.calls:
        reads = any(id(t) in meets for t in call.tensors)
        goes_on = all(id(t) in time.along or id(t) in meets for t in call.outputs)
        if reads and not goes_on:
            raise Unconvertible(
                f"`{call.path}` reads what is repeated along a window of fixed length, and so does "
                "the stream, whose windows may have any length here. Repeat it for "
                f"`{call.path}` by a layer of its own."
            )
    return meets


def _repeated_as(one_step: Tensor, like: Tensor) -> Tensor:
    """One step `(batch, 1, ...)`, as often as another tensor `(batch, time, ...)` has steps."""
    return ops.add(one_step, ops.cast(ops.zeros_like(like[..., :1]), one_step.dtype))
