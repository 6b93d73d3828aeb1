"""The loss of masked outputs under sample weights.

A sequence scales its weights so that the mean over a batch is the mean over what counts in the
epoch. Keras divides by the share of unmasked steps once more, batch by batch
(`keras.losses.loss.apply_mask`): where padding is masked, as by `Embedding(mask_zero=True)`, both
would make up for the same steps.
"""

from typing import Any

import keras
from keras import ops

from keras_stateful.foundation import keras_internals


def masks_into_weights(y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Outputs without their masks, and sample weights that are 0 where the masks were.

    Without sample weights nothing changes: Keras's mean over unmasked steps stays.

    Args:
        y_pred: outputs `(batch, time, ...)`, one or a structure of them.
        sample_weight: `(batch, time)` or `(batch,)`, one or a structure as `y_pred`, or None.
    """
    if sample_weight is None:
        return y_pred, None
    if isinstance(y_pred, dict):
        if not isinstance(sample_weight, dict):
            sample_weight = dict.fromkeys(y_pred, sample_weight)
        pairs = {k: _one(p, sample_weight.get(k)) for k, p in y_pred.items()}
        return {k: p for k, (p, _) in pairs.items()}, {
            k: w for k, (_, w) in pairs.items() if k in sample_weight
        }
    if isinstance(y_pred, (list, tuple)):
        if not isinstance(sample_weight, (list, tuple)):
            sample_weight = [sample_weight] * len(y_pred)
        both = [_one(p, w) for p, w in zip(y_pred, sample_weight, strict=True)]
        return [p for p, _ in both], [w for _, w in both]
    return _one(y_pred, sample_weight)


def _one(y_pred: Any, weight: Any) -> tuple[Any, Any]:
    mask = keras_internals.mask_of(y_pred)
    if mask is None or weight is None or keras.tree.is_nested(weight):
        return y_pred, weight
    weight = ops.cast(weight, keras.backend.floatx())
    mask = ops.cast(mask, weight.dtype)
    if len(weight.shape) < len(mask.shape):
        weight = ops.expand_dims(weight, -1)
    elif len(weight.shape) > len(mask.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.copy(y_pred), weight * mask  # the copy carries no mask
