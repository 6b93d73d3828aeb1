"""Checks that weights of time steps reach each step of a loss or a metric.

A function that returns one number has padding in it, and in the gradient, whatever the weights.
What a function returns is seen before the first step: it is called with symbols of a batch's shape.
"""

from collections.abc import Callable, Iterator

import keras

from keras_stateful.data.batch import Spec
from keras_stateful.training.step_loss import MEANS, has_axes_of, no_steps


def check_weighing(name: str, output: str, loss: object) -> None:
    """Refuses a loss that takes no mean over the steps that count.

    Args:
        name: of the argument that gives the data, used in error messages.
        output: name of the output that the loss is of.
        loss: text and functions have no `reduction`, and Keras takes the mean for them.
    """
    reduction = getattr(loss, "reduction", "mean")
    if (
        isinstance(loss, keras.losses.Loss)
        and type(loss).__call__ is not keras.losses.Loss.__call__
    ):
        raise ValueError(
            f"`{name}` gives weights of time steps, and nobody knows what a loss with a `__call__` "
            f"of its own does with them. Received: {type(loss).__name__} for the output "
            f"{output!r}. Name the method `call(self, y_true, y_pred)`, and return one value for "
            "each step: `keras.ops.mean(..., axis=-1)`."
        )
    if reduction in MEANS:
        return
    raise ValueError(
        f"`{name}` gives weights of time steps, whose loss is a mean over the steps that count. "
        f"Received: {type(loss).__name__} with reduction={reduction!r} for the output {output!r}, "
        "whose value depends on how much of a batch is padding. Compile the model with "
        'reduction="sum_over_batch_size", the default.'
    )


def check_reach(
    kind: str,
    output: str,
    function: Callable,
    target: Spec,
    shape: tuple[int | None, ...],
    lead: int = 2,
) -> None:
    """Refuses a function that gives no value for each step; a function that fails is left alone.

    Args:
        kind: "loss", or a metric and its name.
        output: name of the output.
        function: of targets and outputs.
        target: of a batch, `(batch, time, ...)`.
        shape: of the output.
        lead: how many axes weights have: 2, or 1 where a batch has one target for each window.

    Raises:
        ValueError: values without the axes of weights, `(batch, time)` or `(batch,)`.
    """
    sizes = target.shape[:lead]
    # With other sizes, too: an axis of features may be as long as the window.
    longer = [tuple(n + (i == axis) for i, n in enumerate(sizes)) for axis in range(lead)]
    for leading in (sizes, *longer):
        steps = keras.KerasTensor(leading)
        y = keras.KerasTensor((*leading, *target.shape[lead:]))
        p = keras.KerasTensor((*leading, *shape[lead:]))
        for values in _called(function, y, p):
            if not has_axes_of(steps, values):
                raise ValueError(no_steps(kind, output, tuple(values.shape), sizes))


def _called(
    function: Callable, y: keras.KerasTensor, p: keras.KerasTensor
) -> Iterator[keras.KerasTensor]:
    """What a function gives for symbols: one tensor, or none where it takes none."""
    # A layer, since functions may be written for the backend and not in `keras.ops`.
    layer = keras.layers.Lambda(lambda pair: function(*pair), dtype="float32")
    try:
        values = layer([y, p])
    except Exception:
        return
    if isinstance(values, keras.KerasTensor):
        yield values
