"""Which ids a model reads, and whether the scores that it gives are logits: told from its graph."""

from typing import Any

import keras

from keras_stateful.foundation import keras_internals


def input_vocabulary(calls: list[keras_internals.Call], entry: Any) -> int | None:
    """How many ids the `Embedding` behind an input knows; None where there is none."""
    sizes = [
        c.operation.input_dim
        for c in calls
        if isinstance(c.operation, keras.layers.Embedding)
        and (c.args[0] if c.args else c.kwargs["inputs"]) is entry
    ]
    return min(sizes, default=None)


def entries(model: keras.Model, keys: list) -> dict[Any, Any]:
    """The input tensor of a graph that each key of a batch goes to; keys that have none are left
    out.

    Args:
        model: a model whose graph can be read.
        keys: of inputs; the key is None for a single one, the model's first that is not the resets.
    """
    given = keras_internals.functional(model).input
    flat = keras.tree.flatten(given)  # a dict is sorted by its keys
    by_key = dict(given) if isinstance(given, dict) else {t.name: t for t in flat}
    by_key[None] = next(t for t in flat if t.name != "resets")
    return {k: by_key[k] for k in keys if k in by_key}


def ids_known(model: keras.Model, keys: list) -> dict[Any, int]:
    """How many ids each input that goes straight into an `Embedding` may hold; inputs that do not
    are left out.

    Args:
        model: any model; of a subclassed one nothing is known.
        keys: of the inputs in question; the key is None for a single one, the model's first.
    """
    if not keras_internals.is_graph(model):
        return {}
    plain = keras.layers.Embedding.call  # a subclass may fold ids before it looks them up
    calls = [
        c
        for c in keras_internals.graph_calls(model)
        if getattr(type(c.operation), "call", None) is plain
    ]
    sizes = {k: input_vocabulary(calls, entry) for k, entry in entries(model, keys).items()}
    return {k: size for k, size in sizes.items() if size is not None}


def reads_as_logits(calls: list[keras_internals.Call], output: Any) -> tuple[bool | None, str]:
    """Whether an output is logits, as far as the operation it comes from tells, and that operation
    in words.
    """
    call = next((c for c in reversed(calls) if any(t is output for t in c.outputs)), None)
    if call is None:
        return None, "an input"
    layer = call.operation
    if isinstance(layer, (keras.layers.Dropout, keras.layers.Identity)) or (
        isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear
    ):
        return reads_as_logits(calls, call.args[0])
    while isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, keras.layers.Softmax) or type(layer).__name__ == "Softmax":
        return False, f"`{call.path}`"
    if not isinstance(
        layer, (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation)
    ):
        return None, f"`{call.path}` ({type(layer).__name__})"
    told = {
        keras.activations.linear: True,
        keras.activations.log_softmax: True,
        keras.activations.softmax: False,
    }
    name = getattr(layer.activation, "__name__", layer.activation)
    return told.get(layer.activation), f"`{call.path}` ({type(layer).__name__}, activation={name})"
