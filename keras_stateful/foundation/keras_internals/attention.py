"""What Keras's attention layers do between their projections, which they have no names for.

Private: `_query_dense`, `_key_dense`, `_value_dense`, `_gate_dense`, `_output_dense`,
`_compute_attention`, `_sliding_window`. The public `call` projects every key and value that it is
given, so that nobody could hand it those of earlier steps.
"""

from typing import Any

import keras
from keras import ops
from keras.src.backend.common.masking import set_keras_mask

from keras_stateful.foundation.types import Tensor


def _is_grouped(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.GroupQueryAttention)


def sliding_window(layer: Any) -> int | None:
    """How many steps a step attends to, itself included; None: all, or Keras has no such argument.

    Private: `MultiHeadAttention._sliding_window`.
    """
    return getattr(layer, "sliding_window" if _is_grouped(layer) else "_sliding_window", None)


def forget_masks(layer: keras.layers.Layer, tensors: list[Tensor]) -> None:
    """Takes the masks from what `MultiHeadAttention` is called with, as it does.

    What else reads these tensors then gets no mask, in one long pass as in windows.

    Private: `keras.src.backend.common.masking.set_keras_mask`.
    """
    if not _is_grouped(layer):
        for tensor in tensors:
            set_keras_mask(tensor, None)


def project(layer: Any, value: Tensor, key: Tensor) -> list[Tensor]:
    """The projections of value and key, `(batch, steps, heads, size)` each."""
    return [layer._value_dense(value), layer._key_dense(key)]


def projected_shapes(layer: Any) -> list[tuple]:
    """The shapes `(heads, size)` of what `project` gives."""
    if _is_grouped(layer):
        return [(layer.num_key_value_heads, layer.head_dim)] * 2
    return [(layer.num_heads, layer.value_dim), (layer.num_heads, layer.key_dim)]


def attend(
    layer: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, training: bool | None
) -> Tensor:
    """What the layer's `call` does behind the projections of keys and values.

    Args:
        layer: built.
        query: `(batch, time, features)`.
        keys: `(batch, steps, heads, size)`.
        values: likewise.
        mask: bool `(batch or 1, time, steps)`: which step may read which.
        training: as for the call.
    """
    if _is_grouped(layer):
        keys, values = (ops.repeat(t, layer.num_repeats, axis=2) for t in (keys, values))
    outputs, _ = layer._compute_attention(
        layer._query_dense(query), keys, values, attention_mask=mask, training=training
    )
    gated = layer.use_gate if _is_grouped(layer) else getattr(layer, "_use_gate", False)
    if gated:
        outputs = ops.multiply(outputs, layer._gate_dense(query))
    return layer._output_dense(outputs)
