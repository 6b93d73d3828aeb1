"""The loss of an epoch as the mean over the time steps that count.

Keras's loss of a batch is `sum(loss * weight) / all steps`, and that of an epoch the mean over its
batches. Both count steps of weight 0: padding, and what a user left out. A sequence scales its
weights by all steps / counted steps of a pass, and so the optimizer sees a mean over what counts;
but for a part of a pass, a stream that was never read to its end, or steps that are masked inside
the model, nobody knows the ratio beforehand. So the weights are added up beside the losses:

    of a batch, for the optimizer     sum(loss * weight) / all steps            as Keras has it
    of an epoch, for the logs         sum(loss * weight) / sum(weight)          over all batches

A mask is a weight of 0 where Keras would divide each batch by its own unmasked steps; without
sample weights the optimizer sees Keras's mean over those still.
"""

from dataclasses import dataclass

import keras
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

MEANS = ("sum_over_batch_size", "mean")  # the reductions that are a mean over steps


@dataclass
class _Sums:
    """What is added up of one loss over the batches of an epoch, each batch by its rows.

    Attributes:
        share: the weight of this loss in the whole.
        reported: the losses of batches, as Keras's mean has them.
        weighted: the means of loss * weight.
        weights: the means of the weights.
    """

    share: float
    reported: keras.Variable
    weighted: keras.Variable
    weights: keras.Variable

    def add(self, rows: Tensor, *batch: Tensor) -> None:
        """Adds a batch of so many rows: what it reported, and its means as named above."""
        for variable, value in zip(
            (self.reported, self.weighted, self.weights), batch, strict=True
        ):
            variable.assign_add(ops.cast(rows, variable.dtype) * ops.cast(value, variable.dtype))


class LossOfEpoch(keras.metrics.Mean):
    """Keras's mean over batches, which steps are logged with, and the mean over what counts."""

    def __init__(self) -> None:
        super().__init__(name="loss")
        self._sums: dict[str, _Sums] = {}

    def add(self, name: str, share: float | None) -> _Sums:
        """Makes the sums of another loss."""
        variables = [
            self.add_variable((), "zeros", name=kind)
            for kind in ("reported", "weighted", "weights")
        ]
        self._sums[name] = _Sums(1.0 if share is None else share, *variables)
        return self._sums[name]

    def reset_state(self) -> None:
        for variable in self.variables:
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    @property
    def sums(self) -> list[keras.Variable]:
        """What `keras.metrics.Mean` does not have."""
        return [v for v in self.variables if v is not self.total and v is not self.count]

    def keep_keras_mean(self) -> None:
        """Until the next reset, the means are Keras's: for sums that begin within an epoch."""
        for sums in self._sums.values():
            sums.weights.assign(float("nan"))

    def means(self, of_batches: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss, and that of each output, as means over what counts, by their names in logs.

        Args:
            of_batches: Keras's means over batches.
        """
        if not self._sums:  # a model that computes its loss itself
            return of_batches
        sums = self._sums.values()
        # What is no loss of an output, as regularization, has no steps: Keras's mean stays.
        other = self.total - sum(s.share * s.reported for s in sums)
        means = {f"{name}_loss": s.weighted / s.weights for name, s in self._sums.items()}
        means["loss"] = other / self.count + sum(s.share * s.weighted / s.weights for s in sums)
        unknown = ops.isnan(sum(s.weights for s in sums))
        return {
            name: ops.where(unknown, mean, means[name]) if name in means else mean
            for name, mean in of_batches.items()
        }


class StepLoss(keras.losses.Loss):
    """A loss of Keras's, or a user's, whose weights are those of time steps.

    Args:
        loss: whose `call` gives a value for each step, or several, or one for the whole batch; an
            attribute of the same name has it.
        output: name of the output, used in error messages.
        sums: what is added up for the epoch.
    """

    def __init__(self, loss: keras.losses.Loss, output: str, sums: _Sums):
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss, self._output, self._sums = loss, output, sums
        self._reduced = _Reduced(reduction=loss.reduction, dtype=loss.dtype)

    def __call__(
        self, y_true: Structure, y_pred: Structure, sample_weight: Tensor = None
    ) -> Tensor:
        mask = keras_internals.mask_of(y_pred)
        y_true, y_pred = (
            keras.tree.map_structure(lambda t: ops.convert_to_tensor(t, dtype=self.dtype), part)
            for part in (y_true, y_pred)
        )
        values = self.loss.call(y_true, y_pred)
        # A loss with `ignore_class` masks its values.
        masks = [m for m in (mask, keras_internals.mask_of(values)) if m is not None]
        values = ops.convert_to_tensor(values, dtype=self.dtype)
        weight = ops.ones((), values.dtype)
        for part in masks if sample_weight is None else [sample_weight, *masks]:
            weight = weight * along_steps(part, values, self._output)
        mean, counted = ops.mean(values * weight), ops.mean(weight)
        reported = mean
        if masks and sample_weight is None:  # Keras's mean over the unmasked steps of a batch
            reported = ops.divide_no_nan(mean, counted)
        rows = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        self._sums.add(rows, reported, mean, counted)
        # Of several replicas, each has its part of the loss.
        return self._reduced(y_true, ops.reshape(reported, (1,)))


class _Reduced(keras.losses.Loss):
    """What Keras makes of values."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


def along_steps(weight: Tensor, values: Tensor, output: str) -> Tensor:
    """Weights or a mask with the axes of a loss, which may have more behind the time axis.

    Left as they are, `(batch, time)` would be broadcast from the right, against what stands last.

    Args:
        weight: `(batch, time)`, `(batch,)`, or these with a last axis of length 1.
        values: of a loss, `(batch, time, ...)`.
        output: name of the output, used in the error message.

    Raises:
        ValueError: values without the axes of the weights.
    """
    weight = ops.cast(ops.convert_to_tensor(weight), values.dtype)
    while len(weight.shape) > len(values.shape) and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, -1)
    if not has_axes_of(weight, values):
        raise ValueError(no_steps("loss", output, tuple(values.shape), tuple(weight.shape)))
    missing = len(values.shape) - len(weight.shape)
    return ops.reshape(weight, (*ops.shape(weight), *[1] * missing))


def has_axes_of(weight: Tensor, values: Tensor) -> bool:
    """True if values have the axes of weights, and more at most, so that these reach each step."""
    sizes = [None if size == 1 else size for size in weight.shape]
    leading = tuple(values.shape)[: len(sizes)]
    return len(leading) == len(sizes) and all(
        actual is None or size is None or actual == size
        for actual, size in zip(leading, sizes, strict=True)
    )


def no_steps(kind: str, output: str, values: tuple, weights: tuple) -> str:
    """The error for a loss or a metric, `kind`, that weights cannot reach."""
    return (
        f"The {kind} of the output {output!r} takes a mean over time steps itself, so that padding "
        f"and steps of weight 0 would be in it. Received: values of shape {values} beside weights "
        f"of shape {weights}. Return one value for each step: `keras.ops.mean(..., axis=-1)`, over "
        "which the mean is taken then. (The root of a mean, or its like, is no mean over steps: "
        "train on its square, and watch it as `keras.metrics.RootMeanSquaredError()`.)"
    )
