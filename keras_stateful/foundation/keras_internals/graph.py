"""The nodes and tensors of a Functional model, which Keras shows nobody.

`keras.models.clone_model` is the public way to rebuild a model. It cannot enter sub-models, add
inputs or outputs, or say which tensor runs along time, so the nodes themselves are read.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras.src.backend.common.masking import get_keras_mask

from keras_stateful.foundation.types import Structure, Tensor


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph behind a built `Sequential`; any other model itself.

    Private: `Sequential._functional`. A `Sequential` has no public way to its graph.
    """
    return model._functional if isinstance(model, keras.Sequential) and model.built else model


def is_graph(operation: Any) -> bool:
    """True if an operation is a model whose graph can be read.

    Private: `Function._nodes_by_depth`. Subclassed models are `keras.Model` too, and have none.
    """
    return isinstance(operation, keras.Model) and hasattr(functional(operation), "_nodes_by_depth")


def nodes(model: keras.Model) -> Iterator[Any]:
    """The nodes of a model's graph in an order in which they can run, without input nodes.

    Each has an `operation` (mostly a layer) and its `outputs`, a list of tensors.

    Private: `Function._nodes_by_depth`, which counts depths from the outputs, 0, to the inputs.
    """
    by_depth = functional(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation and not node.is_input:
                yield node


def fill_in(node: Any, tensors: dict[int, Tensor]) -> tuple[tuple, dict[str, Any]]:
    """What a node's operation is called with, `(args, kwargs)`, other tensors in place of its own.

    Private: `SymbolicArguments.fill_in`.

    Args:
        node: from `nodes`.
        tensors: what stands for each tensor of the node's graph, by that tensor's id.
    """
    return node.arguments.fill_in(tensors)


class Call(NamedTuple):
    """One call of an operation in a Functional graph, its tensors as in the outermost graph."""

    path: str
    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[Tensor]


def graph_calls(
    model: keras.Model,
    prefix: str = "",
    tensors: dict[int, Tensor] | None = None,
    known: set[int] | None = None,
) -> Iterator[Call]:
    """All calls of a graph, inside its sub-models too, in an order in which they can run.

    Args:
        model: a model whose graph can be read.
        prefix: what the paths begin with.
        tensors: what stands for the graph's tensors, by their id; this adds to it. By default the
            inputs stand for themselves.
        known: ids of the output tensors of earlier calls.
    """
    known = set() if known is None else known
    if tensors is None:
        tensors = {id(t): t for t in functional(model).inputs}
    for node in nodes(model):
        args, kwargs = fill_in(node, tensors)
        operation = node.operation
        path = f"{prefix}{operation.name}"
        if is_graph(operation):
            # The tensors inside a sub-model are its own; its inputs stand for what it is given here.
            inner = functional(operation)
            entering = keras.tree.flatten(args[0] if args else kwargs["inputs"])
            inside = {id(t): g for t, g in zip(inner.inputs, entering, strict=True)}
            yield from graph_calls(operation, f"{path}/", inside, known)
            results = [inside[id(t)] for t in inner.outputs]
        else:
            # A sub-model that is called twice has one set of tensors inside: the second call gets
            # copies, so that its outputs are not taken for those of the first.
            results = [copy.copy(t) if id(t) in known else t for t in node.outputs]
            known.update(map(id, node.outputs))
            yield Call(path, operation, args, kwargs, results)
        for tensor, result in zip(node.outputs, results, strict=True):
            tensors[id(tensor)] = result


def graph(model: keras.Model) -> tuple[list[Call], list[Tensor]]:
    """All calls of a model's graph, and its outputs as the tensors that the calls speak of."""
    tensors = {id(t): t for t in functional(model).inputs}
    calls = list(graph_calls(model, tensors=tensors))
    return calls, [tensors[id(t)] for t in functional(model).outputs]


def mask_of(tensor: Tensor) -> Structure:
    """The mask that Keras attached to a tensor, symbolic or not, or None.

    Private: `keras.src.backend.common.masking.get_keras_mask`. Keras drops the implicit mask of a
    call with several tensors, and scales sample weights by it.
    """
    return get_keras_mask(tensor)
