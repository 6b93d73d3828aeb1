"""A step model as exporters take it: one time step, flat, unrolled, in float32."""

from typing import Any

import keras
import numpy as np

from keras_stateful.carry.copying import copy_layer, copy_statistics, parts_of, skip_initializers
from keras_stateful.carry.graph import Graph
from keras_stateful.conversion.step_model import StepModel
from keras_stateful.foundation import keras_internals


def single_step(step: StepModel) -> keras.Model:
    """A flat copy of a step model for exactly one time step.

    Sub-models are dissolved, recurrent layers unrolled, mixed precision computed in float32: what
    every exporter takes, and what runs fastest one step at a time.

    Args:
        step: from `to_step_model`; left as it is.

    Returns:
        A Functional with inputs `(batch, 1, ...)` where `step` has a time axis; other inputs,
        outputs and their order as in `step`.
    """
    data = len(step.data_inputs)
    inputs = []
    renewed: dict[int, Any] = {}
    for i, tensor in enumerate(step.inputs):
        shape = list(tensor.shape)
        if i < data and has_time(tensor):
            shape[1] = 1
        dtype = _artifact_dtype(tensor.dtype)
        inputs.append(keras.Input(batch_shape=tuple(shape), dtype=dtype, name=tensor.name))
        renewed[id(tensor)] = inputs[-1]
    copies: dict[int, Any] = {}
    taken = {t.name for t in inputs}
    pending = []
    graph = Graph(step)
    for call in graph.calls:
        operation = call.operation
        if id(operation) not in copies:
            # Two layers of different sub-models may have one name; a flat model's names are unique.
            flat = call.path.replace("/", "_")
            copies[id(operation)] = operation
            if not isinstance(operation, keras.layers.Layer):
                if operation.name in taken:
                    copies[id(operation)] = _renamed(operation, _unique(flat, taken))
                taken.add(operation.name)
            else:
                copy = copy_layer(
                    operation, **({"unroll": True} if hasattr(operation, "unroll") else {})
                )
                copy.name = _unique(flat, taken)
                for part in parts_of(copy):
                    keras_internals.without_dropout(part)
                    if is_mixed(part):
                        part.dtype_policy = keras.DTypePolicy("float32")
                pending.append((operation, copy, skip_initializers(copy)))
                copies[id(operation)] = copy
        args, kwargs = keras.tree.map_structure(
            lambda a: renewed[id(a)] if isinstance(a, keras.KerasTensor) else a,
            (call.args, call.kwargs),
        )
        outputs = copies[id(operation)](*args, **kwargs)
        renewed.update(
            {id(t): new for t, new in zip(call.outputs, keras.tree.flatten(outputs), strict=True)}
        )
    for old, new, restore in pending:
        restore()
        for source, target in zip(old.weights, new.weights, strict=True):
            target.assign(np.array(keras.ops.convert_to_numpy(source)))
        copy_statistics(old, new)
    return keras.Model(inputs, [renewed[id(t)] for t in graph.outputs], name="step")


def _artifact_dtype(dtype: str) -> str:
    """JAX computes with 32 bits where 64 are asked for, unless it is told otherwise."""
    if keras.backend.backend() != "jax":
        return dtype
    import jax

    return str(jax.dtypes.canonicalize_dtype(dtype))


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; it is taken then."""
    unique, i = name, 1
    while unique in taken:
        unique, i = f"{name}_{i}", i + 1
    taken.add(unique)
    return unique


def _renamed(operation: Any, name: str) -> Any:
    copy = type(operation).from_config(operation.get_config())
    copy.name = name
    return copy


def has_time(tensor: Any) -> bool:
    """Whether an input or output of a step model has the time axis: there its size is unknown."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None


def is_mixed(layer: Any) -> bool:
    """Whether a layer computes in half precision, or in another one than its weights have."""
    policy = layer.dtype_policy
    return policy.compute_dtype != policy.variable_dtype or policy.compute_dtype in (
        "float16",
        "bfloat16",
    )
