"""The loss of masked outputs under sample weights.

The value of a batch under the default reduction (`apply_mask`, `reduce_values` in Keras's
`losses/loss.py`):

    without a mask      sum(loss * weight) / all steps
    with one            sum(loss * weight * mask) / unmasked steps

A sequence scales its weights for the first: the mean over a batch is then the mean over what counts
in the epoch. Where padding is masked, as by `Embedding(mask_zero=True)`, the second would make up
for the same steps once more. So the mask goes into the weights, and the outputs lose it.
"""

import keras
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor


def masks_into_weights(y_pred: Structure, sample_weight: Structure) -> tuple[Structure, Structure]:
    """Moves masks from outputs to weights: outputs without masks, and weights of 0 in their place.

    Without sample weights nothing changes: Keras's mean over unmasked steps stays.

    Args:
        y_pred: outputs `(batch, time, ...)`, one or a structure of them.
        sample_weight: `(batch, time)` or `(batch,)`, one or a structure as `y_pred`, or None.
    """
    if sample_weight is None:
        return y_pred, None
    if isinstance(y_pred, dict):
        if not isinstance(sample_weight, dict):  # one for all outputs
            sample_weight = dict.fromkeys(y_pred, sample_weight)
        pairs = {k: _moved(p, sample_weight.get(k)) for k, p in y_pred.items()}
        outputs = {k: p for k, (p, _) in pairs.items()}
        # An output that had no weights gets none.
        return outputs, {k: w for k, (_, w) in pairs.items() if k in sample_weight}
    if isinstance(y_pred, (list, tuple)):
        if not isinstance(sample_weight, (list, tuple)):
            sample_weight = [sample_weight] * len(y_pred)
        moved = [_moved(p, w) for p, w in zip(y_pred, sample_weight, strict=True)]
        return [p for p, _ in moved], [w for _, w in moved]
    return _moved(y_pred, sample_weight)


def _moved(y_pred: Tensor, weight: Structure) -> tuple[Tensor, Structure]:
    """One output and its weights, the mask moved from one to the other."""
    mask = keras_internals.mask_of(y_pred)
    if mask is None or weight is None or keras.tree.is_nested(weight):
        return y_pred, weight
    weight = ops.cast(weight, keras.backend.floatx())
    mask = ops.cast(mask, weight.dtype)
    # One of them may be `(batch, time)` and the other `(batch,)` or `(batch, time, 1)`.
    if len(weight.shape) < len(mask.shape):
        weight = ops.expand_dims(weight, -1)
    elif len(weight.shape) > len(mask.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.copy(y_pred), weight * mask  # the copy carries no mask
