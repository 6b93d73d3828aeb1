"""A step model as exporters take it: one time step, flat, unrolled, in float32."""

from typing import Any

import keras
import numpy as np

from keras_stateful import compat
from keras_stateful.rewrite import copy_layer, parts_of, skip_initializers
from keras_stateful.step_model import StepModel


def single_step(step: StepModel) -> keras.Model:
    """A flat copy of a step model for exactly one time step.

    Sub-models are dissolved, recurrent layers unrolled, mixed precision computed in float32: what every exporter
    takes, and what runs fastest one step at a time.

    Args:
        step: from `to_step_model`; left as it is.

    Returns:
        A Functional with inputs `(batch, 1, ...)` where `step` has a time axis; other inputs, outputs and their order
        as in `step`.
    """
    data = len(step.data_inputs)
    inputs = []
    renewed: dict[int, Any] = {}
    for i, tensor in enumerate(step.inputs):
        shape = list(tensor.shape)
        if i < data and has_time(tensor):
            shape[1] = 1
        inputs.append(keras.Input(batch_shape=tuple(shape), dtype=tensor.dtype, name=tensor.name))
        renewed[id(tensor)] = inputs[-1]
    copies: dict[int, Any] = {}
    pending = []
    ends = {id(t): t for t in step.inputs}
    for call in compat.graph_calls(step, tensors=ends):
        operation = call.operation
        if id(operation) not in copies:
            copies[id(operation)] = operation
            if isinstance(operation, keras.layers.Layer):
                copy = copy_layer(operation, **({"unroll": True} if hasattr(operation, "unroll") else {}))
                # Two layers of different sub-models may have one name; a flat model's names are unique.
                copy.name = call.path.replace("/", "_")
                for part in parts_of(copy):
                    for rate in {"dropout", "recurrent_dropout"} & set(vars(part)):
                        # JAX draws the mask at inference, too, and cannot export that.
                        setattr(part, rate, 0.0)
                    if is_mixed(part):
                        part.dtype_policy = keras.DTypePolicy("float32")
                pending.append((operation, copy, skip_initializers(copy)))
                copies[id(operation)] = copy
        args, kwargs = keras.tree.map_structure(
            lambda a: renewed[id(a)] if isinstance(a, keras.KerasTensor) else a, (call.args, call.kwargs)
        )
        outputs = copies[id(operation)](*args, **kwargs)
        renewed.update({id(t): new for t, new in zip(call.outputs, keras.tree.flatten(outputs), strict=True)})
    for old, new, restore in pending:
        restore()
        for source, target in zip(_weights(old), _weights(new), strict=True):
            target.assign(np.array(keras.ops.convert_to_numpy(source)))
    return keras.Model(inputs, [renewed[id(ends[id(t)])] for t in step.outputs], name="step")


def _weights(layer: Any) -> list:
    """A layer's weights; a recurrent layer with shared weights lists the cell that it was made with, too."""
    return layer.cell.weights if isinstance(layer, keras.layers.RNN) else layer.weights


def has_time(tensor: Any) -> bool:
    """Whether an input or output of a step model has the time axis: there its size is unknown."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None


def is_mixed(layer: Any) -> bool:
    """Whether a layer computes in half precision, or in another one than its weights have."""
    policy = layer.dtype_policy
    return policy.compute_dtype != policy.variable_dtype or policy.compute_dtype in ("float16", "bfloat16")
