"""`TimeDistributed` for any window length.

Keras 3.14 to 3.15 runs it over as many steps as the *batch* has rows where the number of time steps
is unknown (`ops.shape(inputs)[0]`, taken before the axes are swapped). TensorFlow meets such shapes
as soon as a model is called with windows of a second length, so what `to_stateful` and
`to_inference` return would be silently wrong. `docs/keras-defects.md` has the reproduction,
`tests/foundation/test_keras_facts.py` tells when this is no longer needed.
"""

import inspect
from typing import TypeAlias

import keras
from keras import ops

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

Layer: TypeAlias = keras.layers.Layer


@keras.saving.register_keras_serializable(package="keras_stateful")
class TimeDistributed(keras.layers.TimeDistributed):
    """`keras.layers.TimeDistributed`, also where only the run knows the number of time steps."""

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if inputs.shape[1] is not None:
            return super().call(inputs, training=training, mask=mask)
        parameters = inspect.signature(self.layer.call).parameters

        def step(parts: list[Tensor]) -> Tensor:
            x, *masks = parts
            options = {"mask": masks[0]} if masks else {}
            if "training" in parameters:
                options["training"] = training
            return self.layer.call(x, **options)

        parts = [inputs] if mask is None or "mask" not in parameters else [inputs, mask]
        # Maps over the first axis, whatever its length.
        outputs = ops.vectorized_map(step, [ops.swapaxes(part, 0, 1) for part in parts])
        return ops.swapaxes(outputs, 0, 1)


def for_any_length(layer: Layer) -> Layer:
    """Makes every `TimeDistributed` in a layer run over any number of time steps.

    In place: nobody else may use the layer.
    """
    return _swap(layer, keras.layers.TimeDistributed, TimeDistributed)


def plain(layer: Layer) -> Layer:
    """Makes every `TimeDistributed` in a layer Keras's own again; in place, as above."""
    return _swap(layer, TimeDistributed, keras.layers.TimeDistributed)


def shared(operation: keras.Operation) -> keras.Operation:
    """An operation as another model may use it, over the same variables.

    Itself; but of a `TimeDistributed` of Keras's own, one around the same layer that runs over any
    number of time steps.
    """
    if type(operation) is not keras.layers.TimeDistributed:
        return operation
    return TimeDistributed(operation.layer, name=operation.name, dtype=operation.dtype_policy)


def is_within(layer: Layer) -> bool:
    """True if a layer is, or holds, a `TimeDistributed` of Keras's own."""
    return type(layer) is keras.layers.TimeDistributed or any(
        map(is_within, keras_internals.sublayers(layer))
    )


def _swap(layer: Layer, old: type, new: type) -> Layer:
    if type(layer) is old:
        layer.__class__ = new  # the classes hold the same things
    for part in keras_internals.sublayers(layer):
        _swap(part, old, new)
    return layer
