"""What tests leave out with a Keras that lacks what they test; see `docs/versions.md`."""

import keras
import pytest

from keras_stateful.foundation import keras_internals

SLIDING_WINDOW = keras_internals.has_keras("3.15")  # of attention layers
# Before Keras 3.14, a plain `stateful=True` layer fails on TensorFlow where Keras does not know the
# rows of a batch beforehand; and on JAX Keras reads two batches ahead, and leaves ONNX to a process
# of another backend, in which nothing is as a test has arranged it.
_BACKEND = keras.backend.backend()
ANY_ROWS = _BACKEND != "tensorflow" or keras_internals.has_keras("3.14")
READS_AHEAD = _BACKEND == "jax" and not keras_internals.has_keras("3.14")
EXPORTS_ITSELF = _BACKEND != "jax" or keras_internals.has_keras("3.14")
needs_any_rows = pytest.mark.skipif(not ANY_ROWS, reason="needs Keras 3.14 or later")
needs_own_exporter = pytest.mark.skipif(not EXPORTS_ITSELF, reason="needs Keras 3.14 or later")


def since_keras(release: str) -> pytest.MarkDecorator:
    """The mark of a test, or of a module, of what older releases than this lack."""
    return pytest.mark.skipif(
        not keras_internals.has_keras(release), reason=f"needs Keras {release} or later"
    )
