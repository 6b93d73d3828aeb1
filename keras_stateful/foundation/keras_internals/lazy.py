"""The packages that Keras imports when it first asks for them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keras.src.utils import module_utils


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Keeps Keras from importing TensorFlow only to see that a config holds nothing of it.

    `serialize_keras_object`, and with it every `get_config`, asks `module_utils.tensorflow` whether
    it is `available`, which imports it: seconds on JAX and torch, where TensorFlow is installed
    beside them. Where nobody has imported it there can be nothing of it. No public API says so.
    """
    kept = vars(module_utils.tensorflow)  # any other look at an attribute imports it, too
    if "tensorflow" in sys.modules or kept.get("_available") is not None:
        yield
        return
    kept["_available"] = False
    try:
        yield
    finally:
        kept["_available"] = None
