"""What the model that the user gave computes of a stream; an artifact must compute the same.

The step model is of this package's own making, so an artifact that agrees with it may still be
wrong. The user's model is called as it is, in windows of its own length and with its own rows:

    initial state ──▶ window ──▶ window ──▶ ...     a model that carries
                      window                        a plain one: whatever it is built for, or 16
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.states import LayerState, find_states
from keras_stateful.foundation.types import Tensor
from keras_stateful.session.manifest import Tensor as Described

STEPS = 16  # at least, where the model leaves the number open

Arrays: TypeAlias = list[np.ndarray]


class Stream(NamedTuple):
    """Random data, and what the model makes of them.

    Attributes:
        inputs: an array `(rows, time, ...)`, or `(rows, ...)` of what has no time axis, for each
            input of the artifact.
        outputs: likewise; what has no time axis is that at the stream's end.
        rows: of each.
        steps: time steps.
    """

    inputs: Arrays
    outputs: Arrays
    rows: int
    steps: int


def read_by_model(
    graph: Graph,
    inputs: tuple[Described, ...],
    outputs: tuple[Described, ...],
    rows: int,
    make: Callable[[Described, tuple[int, ...]], np.ndarray],
) -> Stream:
    """Has the user's model read a stream from the initial state. It is left as it was.

    Args:
        graph: of the model.
        inputs: of the artifact.
        outputs: of the artifact.
        rows: how many, where the model leaves it open.
        make: makes the data for one input, of a shape.
    """
    tensors = [t for t in graph.inputs if t is not graph.resets]
    rows = tensors[0].shape[0] or rows
    states = find_states(graph.model)
    lengths = [t.shape[1] for t, i in zip(tensors, inputs, strict=True) if i.time and t.shape[1]]
    window = lengths[0] if lengths else (STEPS // 2 if states else STEPS)
    steps = window * (math.ceil(STEPS / window) if states else 1)
    data = [
        make(i, (rows, steps, *t.shape[2:]) if i.time else (rows, *t.shape[1:]))
        for t, i in zip(tensors, inputs, strict=True)
    ]
    call = _call_of(graph, [v for state in states for v in state.variables])
    values = [value for state in states for value in _initial_values(state)]
    parts: list[Arrays] = []
    with _without_cudnn(graph):
        for start in range(0, steps, window):
            feeds = [
                a[:, start : start + window] if i.time else a
                for a, i in zip(data, inputs, strict=True)
            ]
            results, values = call(_with_resets(graph, feeds, rows, window), values)
            parts.append([ops.convert_to_numpy(r) for r in results])
    read = [
        np.concatenate(several, axis=1) if o.time else several[-1]
        for o, several in zip(outputs, zip(*parts, strict=True), strict=True)
    ]
    return Stream(data, read, rows, steps)


def _with_resets(graph: Graph, feeds: Arrays, rows: int, window: int) -> Arrays:
    """What the model is fed: its inputs in order, and no row is reset."""
    if graph.resets is None:
        return feeds
    none = np.zeros((rows, window)[: len(graph.resets.shape)], bool)
    position = next(i for i, t in enumerate(graph.inputs) if t is graph.resets)
    return [*feeds[:position], none, *feeds[position:]]


def _initial_values(state: LayerState) -> list[Tensor]:
    """What the state variables of a layer are reset to."""
    rows, layer = state.variables[0].shape[0], state.layer
    carries = isinstance(layer, Carry)
    initial = layer.initial_states(rows) if carries else layer.get_initial_state(rows)
    values = keras.tree.flatten(initial)
    values += [ops.ones((rows,))] * (len(state.variables) - len(values))  # rows that are fresh
    pairs = zip(values, state.variables, strict=True)
    return [ops.copy(ops.cast(value, variable.dtype)) for value, variable in pairs]


def _call_of(
    graph: Graph, states: list[keras.Variable]
) -> Callable[[Arrays, list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
    """The model at inference as a function of inputs and states; it writes no variable."""
    model, structure = graph.model, graph.functional.input

    def call(
        feeds: Arrays, values: list[Tensor], weights: tuple[tuple, ...] = ()
    ) -> tuple[list[Tensor], list[Tensor]]:
        mapping = [*weights, *zip(states, values, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            x = keras.tree.pack_sequence_as(structure, list(map(ops.convert_to_tensor, feeds)))
            results = keras.tree.flatten(model(x, training=False))
            after = [scope.get_current_value(v) for v in states]
        return results, [v if a is None else a for a, v in zip(after, values, strict=True)]

    if keras.backend.backend() != "jax":
        return call
    import jax

    held = {id(v) for v in states}
    others = [v for v in model.variables if id(v) not in held]
    # A loop inside a call that is not compiled as a whole is compiled anew every time.
    compiled = jax.jit(lambda w, f, v: call(f, v, tuple(zip(others, w, strict=True))))
    return lambda feeds, values: compiled([v.value for v in others], feeds, values)


@contextmanager
def _without_cudnn(graph: Graph) -> Iterator[None]:
    """Keeps plain layers from cuDNN, which fails on rows that are masked as a whole."""
    parts = [p for layer in graph.layers for p in parts_of(layer)]
    auto = [p for p in parts if getattr(p, "use_cudnn", None) == "auto"]
    for part in auto:
        part.use_cudnn = False
    try:
        yield
    finally:
        for part in auto:
            part.use_cudnn = "auto"
