"""What `programs` imports before it forks: it computes nothing, since a backend starts threads."""

import contextlib

import keras_stateful

for _name in keras_stateful.__all__:
    getattr(keras_stateful, _name)

with contextlib.suppress(ImportError):
    import pandas  # noqa: F401
with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401  (`keras.utils.set_random_seed` does, on every backend)
