"""What tests leave out with a Keras that lacks what they test; see `docs/versions.md`."""

import pytest

from keras_stateful.foundation import keras_internals

SLIDING_WINDOW = keras_internals.has_keras("3.15")  # of attention layers


def since_keras(release: str) -> pytest.MarkDecorator:
    """The mark of a test, or of a module, of what older releases than this lack."""
    return pytest.mark.skipif(
        not keras_internals.has_keras(release), reason=f"needs Keras {release} or later"
    )
