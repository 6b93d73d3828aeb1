"""What a model is at present: what was made of it for this serves as long as it is that.

A compiled call goes on as it was recorded when an attribute of a layer changes, and so does a layer
that was made from the config of another. Keras's own calls do, too, until the next `compile`.
"""

from functools import cache
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_stateful.carry.copying import parts_of
from keras_stateful.foundation import keras_internals
from keras_stateful.training.model_memory import trained_on

Composition: TypeAlias = tuple


def composition(model: keras.Model) -> Composition:
    """Layers, settings, variables, devices: equal as long as weights mean the same to a call."""
    variables = tuple((_Same(v), v.trainable) for v in model.weights)  # calls go by both
    settings = tuple(map(_settings, parts_of(model)))
    compilation = _Same(keras_internals.compilation(model))
    devices, known = keras.distribution.distribution(), str(trained_on(model))
    return variables, settings, compilation, devices, known


def _settings(layer: keras.layers.Layer) -> tuple:
    """A layer, and what it computes with beside its variables: such as its activation."""
    if keras_internals.is_submodel(layer):  # whose call is that of its parts
        return _Same(layer), layer.compute_dtype
    own = {k: v for k, v in vars(layer).items() if k not in _of_every_layer()}
    # A cell has no dropout mask before its first call, and None for one behind it.
    told = {k: v for k, v in own.items() if v is not None and not _is_symbol(v)}
    return _Same(layer), layer.compute_dtype, *((k, _comparable(v)) for k, v in told.items())


@cache
def _of_every_layer() -> frozenset[str]:
    """The attributes that Keras itself keeps account with."""
    return frozenset(vars(keras.layers.Layer(name="any")))


def _is_symbol(value: Any) -> bool:
    """True for a tensor without a value, which a call left in an attribute when it was recorded."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return isinstance(value, (jax.core.Tracer, keras.KerasTensor))
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.is_symbolic_tensor(value) or isinstance(value, keras.KerasTensor)
    return isinstance(value, keras.KerasTensor)


class _Same:
    """An object that equals itself alone, whatever its own class says."""

    def __init__(self, value: Any):
        self._value = value  # held, since another one might be made in its place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _comparable(value: Any) -> Any:
    """What may be changed in place, by its values; other things as themselves."""
    if isinstance(value, (bool, int, float, str, np.generic)):
        return value
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(_comparable, value))
    if isinstance(value, dict):
        return tuple((_comparable(k), _comparable(v)) for k, v in value.items())
    return _Same(value)
