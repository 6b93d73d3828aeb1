"""Sequences and streams have all that `Readable` says of them, under the same names."""

import inspect

import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.foundation.protocols import Readable, is_sequence, sequence_or_none

DOCUMENTS = [np.arange(30) % 9, np.arange(17) % 9]
METHODS = [name for name, value in vars(Readable).items() if inspect.isfunction(value)]
METHODS = [name for name in METHODS if not name.startswith("_")]
PROPERTIES = [name for name, value in vars(Readable).items() if isinstance(value, property)]


@pytest.mark.backend_free
@pytest.mark.parametrize("kind", [ks.StatefulSequence, ks.StatefulStream])
def test_what_is_asked_is_there(kind):
    data = kind(DOCUMENTS, 2, 8)
    assert is_sequence(data)
    assert sequence_or_none(data) is data
    assert METHODS
    for name in [*Readable.__annotations__, *PROPERTIES]:
        getattr(data, name)
    for name in METHODS:
        asked = inspect.signature(getattr(Readable, name)).parameters
        there = inspect.signature(getattr(kind, name)).parameters
        assert list(asked) == list(there), name


@pytest.mark.backend_free
@pytest.mark.parametrize("data", [None, DOCUMENTS, DOCUMENTS[0], object(), ks.StatefulSequence])
def test_other_data_are_none(data):
    assert not is_sequence(data)
    assert sequence_or_none(data) is None
