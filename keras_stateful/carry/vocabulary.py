"""Which ids a model reads, and whether its scores are logits, as far as its graph tells."""

from collections.abc import Sequence

import keras

from keras_stateful.carry.each_step import ForEachStep
from keras_stateful.carry.graph import RESETS, Graph
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Key


def input_vocabulary(graph: Graph, tensor: keras.KerasTensor) -> int | None:
    """How many ids the `Embedding` behind an input knows; None where there is none."""
    return min((layer.input_dim for layer in _embeddings(graph, tensor)), default=None)


def _embeddings(graph: Graph, tensor: keras.KerasTensor) -> list[keras.layers.Embedding]:
    """The `Embedding`s that an input goes straight into.

    Without those of a class with a `call` of its own, which may fold ids before it looks them up.
    """
    return [
        call.operation
        for call in graph.calls
        if isinstance(call.operation, keras.layers.Embedding)
        and type(call.operation).call is keras.layers.Embedding.call
        and call.argument(0, "inputs") is tensor
    ]


def entries(model: keras.Model, keys: Sequence[Key]) -> dict[Key, keras.KerasTensor]:
    """The input tensor that each key of a batch goes to; keys that have none are left out.

    Args:
        model: a model whose graph can be read.
        keys: of inputs; the key is None for a single one, the model's first that is not the resets.
    """
    inputs = keras_internals.functional(model).input
    flat = keras.tree.flatten(inputs)  # a dict is sorted by its keys
    by_key = dict(inputs) if isinstance(inputs, dict) else {t.name: t for t in flat}
    by_key[None] = next(t for t in flat if t.name != RESETS)
    return {key: by_key[key] for key in keys if key in by_key}


def ids_known(graph: Graph, keys: Sequence[Key]) -> dict[Key, int]:
    """How many ids each input that goes straight into an `Embedding` may hold; others are left out.

    Args:
        graph: of the model.
        keys: of the inputs in question; the key is None for a single one, the model's first.
    """
    known = {
        key: input_vocabulary(graph, tensor) for key, tensor in entries(graph.model, keys).items()
    }
    return {key: count for key, count in known.items() if count is not None}


# What an activation makes of the scores: logits (a softmax is yet to come), or probabilities
_GIVES_LOGITS = {
    keras.activations.linear: True,
    keras.activations.log_softmax: True,
    keras.activations.softmax: False,
}


def reads_as_logits(graph: Graph, output: keras.KerasTensor) -> tuple[bool | None, str]:
    """Tells whether an output is logits.

    Returns:
        True for logits, False for probabilities, None where the graph does not tell; and the
        operation that the output comes from, in words.
    """
    call = graph.producers.get(id(output))
    if call is None:
        return None, "an input"
    layer = call.operation
    if _passes_on(layer):
        return reads_as_logits(graph, call.args[0])
    while isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    # `keras.ops.softmax` in a graph is an operation of this name, which is not public.
    if isinstance(layer, keras.layers.Softmax) or type(layer).__name__ == "Softmax":
        return False, f"`{call.path}`"
    scoring = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation)
    if not isinstance(layer, scoring):
        return None, f"`{call.path}` ({type(layer).__name__})"
    name = getattr(layer.activation, "__name__", layer.activation)
    in_words = f"`{call.path}` ({type(layer).__name__}, activation={name})"
    return _GIVES_LOGITS.get(layer.activation), in_words


def _passes_on(layer: keras.Operation) -> bool:
    """True if scores leave a layer, at inference, as they entered it."""
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, (keras.layers.Dropout, keras.layers.Identity, ForEachStep))
