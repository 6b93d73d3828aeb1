"""What a compiled model keeps of its losses, which Keras resolves when it sees the first batch."""

from collections.abc import Callable

import keras
from keras.src.utils.tracking import DotNotTrackScope

from keras_stateful.foundation.types import Tensor


def wrap_losses(
    model: keras.Model,
    wrap: Callable[[keras.losses.Loss, str, float | None], keras.losses.Loss],
) -> None:
    """Puts `wrap(loss, name, weight)` in the place of each loss of a compiled model.

    At once, or as soon as Keras has made losses of the text and functions that `compile` was given.

    Private: `Trainer._compile_loss`, `CompileLoss.build` and `CompileLoss._flat_losses`. A loss
    that is wrapped before `compile` would be saved with the model, and not be read without us.

    Args:
        model: a compiled model; one without a loss is left as it is.
        wrap: gives what computes in the place of a loss. The name is that of its output, the weight
            the one of `loss_weights`, or None.
    """
    compile_loss = model._compile_loss
    if compile_loss is None:
        return

    def replace_all() -> None:
        compile_loss._flat_losses = [
            entry._replace(loss=wrap(entry.loss, entry.name, entry.loss_weights))
            for entry in compile_loss._flat_losses
        ]

    if compile_loss.built:
        replace_all()
        return
    build = compile_loss.build

    def build_and_replace(y_true: Tensor, y_pred: Tensor) -> None:
        build(y_true, y_pred)
        replace_all()

    compile_loss.build = build_and_replace


def set_loss_tracker(model: keras.Model, tracker: keras.metrics.Mean) -> None:
    """Gives a compiled model another metric for its loss than Keras's mean over batches.

    Private: `Trainer._loss_tracker`, and `DotNotTrackScope`: tracked as an attribute, the metric
    would be listed twice.
    """
    with DotNotTrackScope():
        model._loss_tracker = tracker


def loss_tracker(model: keras.Model) -> keras.metrics.Mean | None:
    """The metric of a model's loss; None of one that is not compiled. See `set_loss_tracker`."""
    return getattr(model, "_loss_tracker", None)
