"""Losses and metrics of a model that reads windows: every time step that counts, counted once.

    compute_loss ──▶ `step_loss.StepLoss`: weights of steps, masks among them
    compute_metrics ──▶ masks join the weights; a step is logged with Keras's own means
    get_metrics_result ──▶ asked for at the end of an epoch: the loss is the mean over what counts

On JAX the outputs leave the step's gradient without their masks, so that Keras's weighted metrics
count masked steps in `fit`, though not in `evaluate` (`docs/keras-defects.md`). There they are
handed on beside the outputs.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.step_loss import MEANS, LossOfEpoch, StepLoss

_SCORED_BY_STEP = "_keras_stateful_scored_by_step"


class ScoresByStep:
    """Methods of a model that is scored by time steps; to be named before `keras.Model`.

    They have an effect once `score_by_step` has seen the model.
    """

    def compute_metrics(
        self, x: Structure, y: Structure, y_pred: Structure, sample_weight: Structure = None
    ) -> dict[str, Tensor]:
        """As `keras.Model.compute_metrics`; masks are weights of 0."""
        return _compute_metrics(super(), x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Tensor]:
        """As `keras.Model.get_metrics_result`; the losses are means over what counts."""
        return _metrics_result(super(), self)

    def compute_loss_and_updates(self, *args: Any, **kwargs: Any) -> tuple:
        """As Keras's own on JAX; outputs keep their masks."""
        return _loss_and_updates(super(), *args, **kwargs)


def score_by_step(model: keras.Model) -> None:
    """Has a compiled model scored by time steps, from its next step on.

    To be called whenever a step may follow: Keras makes new losses in each `compile`, which a class
    cannot override without losing what `load_model` compiles.
    """
    if not model.compiled or isinstance(keras_internals.loss_tracker(model), LossOfEpoch):
        return
    if not isinstance(model, ScoresByStep) and not getattr(model, _SCORED_BY_STEP, False):
        # Set on the instance, whose class is not ours; bound methods serve as `super()`.
        names = [n for n in _METHODS if hasattr(model, n)]
        keras_model = SimpleNamespace(**{name: getattr(model, name) for name in names})
        for name in names:
            setattr(model, name, _METHODS[name](keras_model, model))
        setattr(model, _SCORED_BY_STEP, True)
    _score_losses(model)
    model.train_function = model.test_function = None  # steps compiled with the losses before


@contextlib.contextmanager
def metrics_kept(model: keras.Model) -> Iterator[None]:
    """Puts back what the metrics of a running `fit` have added up, for an `evaluate` within it.

    Keras has one set of metrics for both: the loss of an epoch in which a callback evaluated would
    be that of the steps since, and of the evaluation's.
    """
    call = keras_internals.trainer_call()
    if call is None or call.method != "fit" or call.model is not model:
        yield
        return
    keras_internals.sync_from_jax(model)
    # By way of NumPy: on JAX the step gives its buffers away.
    values = [(v, np.array(ops.convert_to_numpy(v))) for v in model.metrics_variables]
    try:
        yield
    finally:
        keras_internals.sync_from_jax(model)
        model.reset_metrics()  # before its first step a `fit` has added up nothing, and has no sums
        for variable, value in values:
            variable.assign(value)


_METHODS = {
    "compute_metrics": lambda keras_model, _: (
        lambda *args, **kwargs: _compute_metrics(keras_model, *args, **kwargs)
    ),
    "get_metrics_result": lambda keras_model, model: lambda: _metrics_result(keras_model, model),
    "compute_loss_and_updates": lambda keras_model, _: (
        lambda *args, **kwargs: _loss_and_updates(keras_model, *args, **kwargs)
    ),
}


# What the methods do; `keras_model` has those that they stand before


def _score_losses(model: keras.Model) -> None:
    """Has the losses of a model weighed by time steps, and added up over an epoch."""
    tracker = LossOfEpoch()

    def wrap(loss: keras.losses.Loss, name: str, share: float | None) -> keras.losses.Loss:
        if isinstance(loss, StepLoss):  # of an earlier `compile`, where the last was given no loss
            loss = loss.loss
        # Of another reduction, or a call of its own, we know no mean over steps.
        plain = type(loss).__call__ is keras.losses.Loss.__call__
        if not plain or loss.reduction not in MEANS:
            return loss
        return StepLoss(loss, name, tracker.add(name, share))

    keras_internals.set_loss_tracker(model, tracker)
    keras_internals.wrap_losses(model, wrap)


def _metrics_result(keras_model: Any, model: keras.Model) -> dict[str, Tensor]:
    result = keras_model.get_metrics_result()
    tracker = keras_internals.loss_tracker(model)
    return tracker.means(result) if isinstance(tracker, LossOfEpoch) else result


def _compute_metrics(
    keras_model: Any,
    x: Structure,
    y: Structure,
    y_pred: Structure,
    sample_weight: Structure = None,
) -> dict[str, Tensor]:
    masks = keras.tree.map_structure(keras_internals.mask_of, y_pred)
    if isinstance(y_pred, _Masked):
        y_pred, masks = y_pred
    keras_model.compute_metrics(x, y, y_pred, metric_weights(y_pred, masks, sample_weight))
    # Not what that gives: steps are logged with Keras's mean over batches, as the optimizer has it.
    return keras_model.get_metrics_result()


def _loss_and_updates(keras_model: Any, *args: Any, **kwargs: Any) -> tuple:
    loss, (unscaled, y_pred, *rest) = keras_model.compute_loss_and_updates(*args, **kwargs)
    masks = keras.tree.map_structure(keras_internals.mask_of, y_pred)
    if any(mask is not None for mask in keras.tree.flatten(masks)):
        y_pred = _Masked(y_pred, masks)
    return loss, (unscaled, y_pred, *rest)


class _Masked(NamedTuple):
    """Outputs and their masks, each with the structure of the outputs."""

    outputs: Structure
    masks: Structure


# Weights of metrics


def metric_weights(y_pred: Structure, masks: Structure, sample_weight: Structure) -> Structure:
    """The weights of each output's metrics: those given, and 0 where a mask is False.

    Args:
        y_pred: outputs `(batch, time, ...)`, one or a structure of them.
        masks: of each output `(batch, time)`, or None.
        sample_weight: `(batch, time)` or `(batch,)`, one for all or a structure as `y_pred`; None.
    """
    if isinstance(y_pred, dict):
        each = sample_weight if isinstance(sample_weight, dict) else None
        return {
            k: _joined(p, masks[k], sample_weight if each is None else each.get(k))
            for k, p in y_pred.items()
        }
    if isinstance(y_pred, (list, tuple)):
        if not isinstance(sample_weight, (list, tuple)):
            sample_weight = [sample_weight] * len(y_pred)
        return [_joined(*part) for part in zip(y_pred, masks, sample_weight, strict=True)]
    return _joined(y_pred, masks, sample_weight)


def _joined(y_pred: Tensor, mask: Tensor | None, weight: Structure) -> Structure:
    """Weights and mask of one output as one, with an axis for each of its values but the last.

    Keras's metrics weigh the values of a function, which are one for each last axis of an output.
    """
    parts = [part for part in (mask, weight) if part is not None]
    if not parts or any(map(keras.tree.is_nested, (y_pred, *parts))):
        return weight
    parts = [ops.cast(part, keras.backend.floatx()) for part in parts]
    rank = max(len(y_pred.shape) - 1, *(len(part.shape) for part in parts))
    joined = ops.ones((), parts[0].dtype)
    for part in parts:
        joined = joined * ops.reshape(part, (*ops.shape(part), *[1] * (rank - len(part.shape))))
    return joined
