"""`keras.ops.add` on TensorFlow, which Keras turns into the addition of a bias where it may not."""

from typing import Any

import keras
from keras.src import backend as _keras_backend

from keras_stateful.foundation.types import Tensor

_OURS = "_keras_stateful_add"  # marks the function that stands in the place of Keras's


def add_as_numpy_does() -> None:
    """Has `keras.ops.add` broadcast as NumPy does, in all layers and models; TensorFlow alone.

    Private: `keras.src.backend.numpy.add`, since Keras 3.16 in `keras.src.backend.ops`. It takes
    for a bias whatever can be squeezed to as many numbers as the other tensor has along its second
    or its last axis, whichever axis they lie along: `(batch, 1, 1)` where batch and features agree.
    That is so in a window of one time step.
    """
    module = getattr(_keras_backend, "ops", _keras_backend).numpy
    if keras.backend.backend() != "tensorflow" or hasattr(module.add, _OURS):
        return
    module.add = _addition(module.add)


def _addition(keras_add: Any) -> Any:
    """`keras_add` where it adds a bias to the last axis, which it may fuse; else TensorFlow's."""
    import tensorflow as tf

    def add(x1: Tensor, x2: Tensor) -> Tensor:
        shapes = [tuple(getattr(x, "shape", ())) for x in (x1, x2)]
        sparse = any(isinstance(x, (tf.SparseTensor, tf.IndexedSlices)) for x in (x1, x2))
        sizes = [size for size in shapes[1] if size != 1]
        # One number for each feature of the other, or what is no vector.
        as_meant = len(sizes) != 1 or (shapes[0] and shapes[0][-1] == shapes[1][-1])
        if sparse or as_meant:
            return keras_add(x1, x2)
        dtype = keras.backend.result_type(*(getattr(x, "dtype", type(x)) for x in (x1, x2)))
        return tf.add(*(keras.ops.convert_to_tensor(x, dtype) for x in (x1, x2)))

    setattr(add, _OURS, True)
    return add
