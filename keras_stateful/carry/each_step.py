"""Resets inside windows for what reads a window that is longer than itself.

A padding puts n steps from before the window in front of it, and a valid convolution, a pooling or
a slice behind it reads them. Where a document starts inside the window, these steps are to be those
of the document: zeros, where it has not begun. So between the padding and the layer that uses them
up, each step is computed by itself, with the past that its document has:

    padded (batch, n + time, ...) ──▶ PastOfEachStep ──▶ (batch * time, n + 1, ...)
        ──▶ the layers in between, unchanged ──▶ (batch * time, 1, ...)
            ──▶ AsOneWindow ──▶ (batch, time, ...)

A window of one step is as good as any to layers that carry, so the numbers are those of each
document alone, whatever stands in between.
"""

from typing import Any

import keras
from keras import ops

from keras_stateful.foundation.types import Tensor

_register = keras.saving.register_keras_serializable(package="keras_stateful")


def segments(resets: Tensor, before: int, behind: int = 0) -> Tensor:
    """Which document each step is of: 0 is what goes on from before the window.

    Args:
        resets: bool `(batch, time)`: a document starts at that step.
        before: steps in front of the window.
        behind: steps behind it, taken for steps of its last document.

    Returns:
        int32 `(batch, before + time + behind)`.
    """
    documents = ops.cumsum(ops.cast(resets, "int32"), axis=1)
    documents = ops.pad(documents, ((0, 0), (before, 0)))
    return ops.concatenate([documents, *[documents[:, -1:]] * behind], axis=1)


def is_same_document(documents: Tensor, others: Tensor, like: Tensor) -> Tensor:
    """Whether two steps are of one document, bool, shaped to be broadcast against a tensor."""
    same = ops.equal(documents, others)
    for _ in range(len(like.shape) - len(same.shape)):
        same = ops.expand_dims(same, -1)
    return same


def of_each_step(
    extended: Tensor, resets: Tensor, offsets: range, fill: float, behind: int = 0
) -> Tensor:
    """What each step of a window reads, some of it from outside of the window.

    Args:
        extended: `(batch, before + time + behind, ...)`.
        resets: bool `(batch, time)`: a document starts at that step.
        offsets: which steps are read, counted from `before` steps before; the last one of them is
            `before + behind`.
        fill: what is read in place of another document's step.
        behind: how many steps of `extended` lie behind the window.

    Returns:
        `(batch, time, len(offsets), ...)`.
    """
    around = offsets[-1]
    before = around - behind
    documents = segments(resets, before, behind)
    now = _from(documents, before, around)
    read = []
    for offset in offsets:
        steps = _from(extended, offset, around)
        if offset != before:  # else it is the step itself, of the same document
            same = is_same_document(_from(documents, offset, around), now, steps)
            steps = ops.where(same, steps, ops.cast(fill, steps.dtype))
        read.append(steps)
    return ops.stack(read, axis=2)


def _from(steps: Tensor, offset: int, around: int) -> Tensor:
    """A window's length of steps that has `around` more, from one of them on."""
    return steps[:, offset : offset - around or None]


class ForEachStep(keras.layers.Layer):
    """A layer that a conversion puts in for resets inside windows, and the next one leaves out.

    It gives its first argument in another arrangement.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)


@_register
class PastOfEachStep(ForEachStep):
    """What a padding put out, for each step by itself.

    Args:
        padding: how many steps were put in front of the window and behind it.
        fill: what with.
    """

    def __init__(self, padding: tuple[int, int], fill: float = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.padding, self.fill = tuple(padding), fill

    def call(self, padded: Tensor, resets: Tensor) -> Tensor:
        before, behind = self.padding
        steps = range(before + behind + 1)
        read = of_each_step(padded, ops.cast(resets, "bool"), steps, self.fill, behind)
        return ops.reshape(read, (-1, len(steps), *padded.shape[2:]))

    def compute_output_spec(
        self, padded: keras.KerasTensor, resets: keras.KerasTensor
    ) -> keras.KerasTensor:
        # How many steps stays unknown: a sub-model must take a window of its own length again.
        return keras.KerasTensor((None, None, *padded.shape[2:]), padded.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": list(self.padding), "fill": self.fill}


@_register
class SameForEachStep(ForEachStep):
    """What is the same at each time step, `(batch, ...)`, as often as there are steps."""

    def call(self, constant: Tensor, of_each_step: Tensor) -> Tensor:
        rows = constant.shape[0]
        time = ops.shape(of_each_step)[0] // rows
        repeated = ops.repeat(ops.expand_dims(constant, 1), time, axis=1)
        return ops.reshape(repeated, (-1, *constant.shape[1:]))

    def compute_output_spec(
        self, constant: keras.KerasTensor, of_each_step: keras.KerasTensor
    ) -> keras.KerasTensor:
        return keras.KerasTensor((None, *constant.shape[1:]), constant.dtype)


@_register
class AsOneWindow(ForEachStep):
    """What was computed for each step by itself, `(batch * time, 1, ...)`, as `(batch, time, ...)`.

    Args:
        rows: the batch.
        time: how many steps; None for any.
    """

    def __init__(self, rows: int, time: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rows, self.time = rows, time

    def call(self, of_each_step: Tensor) -> Tensor:
        return ops.reshape(of_each_step, (self.rows, self.time or -1, *of_each_step.shape[2:]))

    def compute_output_spec(self, of_each_step: keras.KerasTensor) -> keras.KerasTensor:
        shape = (self.rows, self.time, *of_each_step.shape[2:])
        return keras.KerasTensor(shape, of_each_step.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "time": self.time}
