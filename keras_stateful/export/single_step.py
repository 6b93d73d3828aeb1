"""A step model as exporters take it: one time step, flat, unrolled, in float32."""

from typing import Any

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.twins import Twins
from keras_stateful.conversion.step_model import StepModel, has_time
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure


def single_step(step: StepModel, graph: Graph) -> keras.Model:
    """A flat copy of a step model for exactly one time step.

    Sub-models are dissolved, recurrent layers unrolled, mixed and double precision computed in
    float32: what every exporter takes, and what runs fastest one step at a time.

    Args:
        step: from `to_step_model`; left as it is.
        graph: of `step`.

    Returns:
        A Functional with inputs `(batch, 1, ...)` where `step` has a time axis; other inputs,
        outputs and their order as in `step`.
    """
    data = len(step.data_inputs)  # the states, which have no time axis, stand behind them
    inputs = [_one_step(t, i < data and has_time(t)) for i, t in enumerate(graph.inputs)]
    # The graph is called again from its inputs on; `tensors` has the new tensor for each old one.
    tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
    copies = _Copies(graph, {t.name for t in inputs})
    for call in graph.calls:
        args, kwargs = keras.tree.map_structure(
            lambda a: tensors[id(a)] if isinstance(a, keras.KerasTensor) else a,
            (call.args, call.kwargs),
        )
        outputs = keras.tree.flatten(copies.call(call, args, kwargs))
        tensors.update({id(old): new for old, new in zip(call.outputs, outputs, strict=True)})
    copies.twins.hand_over_weights()
    outputs = [tensors[id(t)] for t in graph.outputs]
    if keras.backend.backend() == "jax":
        outputs = _apart(graph, outputs)
    return keras.Model(inputs, outputs, name="step")


def _apart(graph: Graph, outputs: list[keras.KerasTensor]) -> list[keras.KerasTensor]:
    """The outputs, each of them computed for nothing else.

    jax2onnx 0.17 leaves out a transposition and its reverse behind it, as of one recurrent layer
    and the next, though what lies between is an output of the model.
    """
    read = {id(tensor) for call in graph.calls for tensor in call.data}
    return [
        keras.ops.multiply(new, 1.0) if id(old) in read and "float" in new.dtype else new
        for old, new in zip(graph.outputs, outputs, strict=True)
    ]


def _one_step(tensor: keras.KerasTensor, is_sequence: bool) -> keras.KerasTensor:
    shape = list(tensor.shape)
    if is_sequence:
        shape[1] = 1
    return keras.Input(
        batch_shape=tuple(shape), dtype=_artifact_dtype(tensor.dtype), name=tensor.name
    )


def _artifact_dtype(dtype: str) -> str:
    """The dtype that the artifact will have: JAX computes 64 bits as 32, unless told otherwise."""
    if dtype == "float64":
        return "float32"
    if keras.backend.backend() != "jax":
        return dtype
    import jax

    return str(jax.dtypes.canonicalize_dtype(dtype))


class _Copies:
    """Copies of a graph's layers and operations, one of each, under names that are distinct.

    Two layers of different sub-models may have one name; in a flat model they may not.
    """

    def __init__(self, graph: Graph, taken: set[str]):
        self.twins = Twins(graph.layers)
        self._taken = taken
        self._copies: dict[int, keras.Operation] = {}  # by the id of the original

    def call(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> Structure:
        """Calls the copy of what a call calls: one for all calls of the same layer or operation."""
        operation = call.operation
        if id(operation) not in self._copies:
            is_layer = isinstance(operation, keras.layers.Layer)
            name = call.path.replace("/", "_")
            copy = self._layer(operation, name) if is_layer else self._operation(operation, name)
            self._copies[id(operation)] = copy
        args, kwargs = self.twins.arguments((args, kwargs))
        return self._copies[id(operation)](*args, **kwargs)

    def _layer(self, layer: keras.layers.Layer, name: str) -> keras.layers.Layer:
        # One step of a loop needs no loop, which some exporters cannot write.
        config = {"unroll": True} if hasattr(layer, "unroll") else {}
        if any(map(_is_not_float32, parts_of(layer))):
            config |= _without_built_parts(layer)
        copy = self.twins.of(layer, **config)
        copy.name = unique(name, self._taken)
        for part in parts_of(copy):
            keras_internals.without_dropout(part)
            if _is_not_float32(part):
                part.dtype_policy = keras.DTypePolicy("float32")
        return copy

    def _operation(self, operation: keras.Operation, name: str) -> keras.Operation:
        """An operation has no weights: it is called again itself, unless its name is taken."""
        if operation.name in self._taken:
            config = operation.get_config()
            operation = type(operation).from_config(config)
            operation.name = unique(name, self._taken)
        self._taken.add(operation.name)
        return operation


def _without_built_parts(layer: keras.layers.Layer) -> dict[str, Any]:
    """The entries of a layer's config from which Keras makes layers that are built, but unbuilt.

    A layer that is built, as a cell, keeps the variables of its old precision.
    """
    config = layer.get_config()
    return {name: _unbuilt(entry) for name, entry in config.items() if _is_built(entry)}


def _is_built(config: Structure) -> bool:
    if isinstance(config, dict):
        return "build_config" in config or any(map(_is_built, config.values()))
    return isinstance(config, (list, tuple)) and any(map(_is_built, config))


def _unbuilt(config: Structure) -> Structure:
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    if isinstance(config, (list, tuple)):
        return list(map(_unbuilt, config))
    return config


def unique(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken; adds the result to `taken`."""
    candidate, i = name, 1
    while candidate in taken:
        candidate, i = f"{name}_{i}", i + 1
    taken.add(candidate)
    return candidate


def _is_not_float32(layer: keras.layers.Layer) -> bool:
    return is_mixed(layer) or layer.compute_dtype == "float64"


def is_mixed(layer: keras.layers.Layer) -> bool:
    """True if a layer computes in half precision, or in another one than its weights have."""
    policy = layer.dtype_policy
    half = policy.compute_dtype in ("float16", "bfloat16")
    return half or policy.compute_dtype != policy.variable_dtype
