"""A copy of a lock is another lock, open."""

import copy
import pickle

import pytest

from keras_stateful.foundation.locks import Lock

pytestmark = pytest.mark.backend_free


def test_copies_are_open_while_the_lock_is_held():
    lock = Lock()
    with lock, lock:  # twice by the same thread
        for other in (copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
            assert other._lock is not lock._lock
            with other:
                pass
