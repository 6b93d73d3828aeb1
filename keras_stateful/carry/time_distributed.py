"""`TimeDistributed` for any window length.

Keras 3.14 to 3.15 runs it over as many steps as the *batch* has rows where the number of time steps
is unknown (`ops.shape(inputs)[0]`, taken before the axes are swapped). TensorFlow meets such shapes
as soon as a model is called with windows of a second length, so what `to_stateful` and
`to_inference` return would be silently wrong. `docs/keras-defects.md` has the reproduction,
`tests/foundation/test_keras_facts.py` tells when this is no longer needed.
"""

import inspect
from typing import Any

import keras
from keras import ops

from keras_stateful.foundation import keras_internals


@keras.saving.register_keras_serializable(package="keras_stateful")
class TimeDistributed(keras.layers.TimeDistributed):
    """`keras.layers.TimeDistributed`, also where the number of time steps is known at run time
    only.
    """

    def call(self, inputs, training=None, mask=None):
        if inputs.shape[1] is not None:
            return super().call(inputs, training=training, mask=mask)
        taken = inspect.signature(self.layer.call).parameters

        def step(parts):
            x, *masks = parts
            kwargs = {"mask": masks[0]} if masks else {}
            if "training" in taken:
                kwargs["training"] = training
            return self.layer.call(x, **kwargs)

        parts = [inputs] if mask is None or "mask" not in taken else [inputs, mask]
        outputs = ops.vectorized_map(step, [ops.swapaxes(p, 0, 1) for p in parts])
        return ops.swapaxes(outputs, 0, 1)


def shared(operation: Any) -> Any:
    """An operation to be used in another model as it is: itself, or where that is a Keras
    `TimeDistributed` one over the same layer that runs over any number of time steps.
    """
    if type(operation) is not keras.layers.TimeDistributed:
        return operation
    return TimeDistributed(operation.layer, name=operation.name, dtype=operation.dtype_policy)


def for_any_length(layer: Any) -> Any:
    """Makes every `TimeDistributed` in a layer that nobody else uses run over any number of time
    steps.
    """
    return _swap(layer, keras.layers.TimeDistributed, TimeDistributed)


def is_within(layer: Any) -> bool:
    """Whether a layer is, or holds, a `TimeDistributed` of Keras's own."""
    return type(layer) is keras.layers.TimeDistributed or any(
        map(is_within, keras_internals.sublayers(layer))
    )


def plain(layer: Any) -> Any:
    """Makes every `TimeDistributed` in a layer that nobody else uses Keras's own again."""
    return _swap(layer, TimeDistributed, keras.layers.TimeDistributed)


def _swap(layer: Any, old: type, new: type) -> Any:
    if type(layer) is old:
        layer.__class__ = new  # the classes hold the same things
    for part in keras_internals.sublayers(layer):
        _swap(part, old, new)
    return layer
