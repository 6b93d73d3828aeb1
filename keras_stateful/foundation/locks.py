"""A lock that can be copied and pickled, as Python's own cannot. Imports nothing."""

import threading


class Lock:
    """A reentrant lock; a copy is another lock, open."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple:
        return Lock, ()
