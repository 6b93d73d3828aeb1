"""Fixtures of several tests of training."""

import pytest

from keras_stateful.training import check_reader


@pytest.fixture
def readers_without_state(monkeypatch):
    """What records batches here carries no state, which `fit` refuses otherwise."""
    monkeypatch.setattr(check_reader, "check_reader", lambda sequence, call: None)
