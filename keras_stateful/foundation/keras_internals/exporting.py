"""What Keras does to sizes that torch's exporter leaves open."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src import backend as _keras_backend

from keras_stateful.foundation.keras_internals.releases import has_keras


@contextlib.contextmanager
def open_sizes() -> Iterator[None]:
    """Has sizes that torch's exporter leaves open stay open, for as long as this lasts.

    Private: `keras.src.backend.standardize_shape`, which makes each size an `int`. Since Keras 3.14
    it makes those None, as is done here.
    """
    if keras.backend.backend() != "torch" or has_keras("3.14"):
        yield
        return
    import torch

    standardize = _keras_backend.standardize_shape

    def with_open_sizes(shape: Any) -> tuple:
        return standardize([None if isinstance(d, torch.SymInt) else d for d in shape])

    _keras_backend.standardize_shape = with_open_sizes
    try:
        yield
    finally:
        _keras_backend.standardize_shape = standardize
