"""Ctrl-C, which Python lets strike between any two instructions, held back where it would harm.

    with watched():                 a call of many steps; sets a handler, which asks the system
        with held_back():           a step; says no more than "not now"
            ...
                                    here it strikes, if it came meanwhile

Nothing else is held back: not what the code inside raises, nor other signals. Only the main thread
is ever interrupted, so elsewhere both do nothing.
"""

import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# That of the module `signal` makes enums of numbers, which takes longer than all the rest.
_get_handler = inspect.unwrap(signal.getsignal)


class _Watch:
    """A handler of SIGINT that can be told to wait.

    Attributes:
        handler: what else would be called.
        holding: True while it is to wait.
        came: True if an interrupt came meanwhile.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], object]):
        self.handler, self.holding, self.came = handler, False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.holding:
            self.came = True
        else:
            self.handler(number, frame)


@contextmanager
def watched() -> Iterator[_Watch | None]:
    """Makes `held_back` cheap inside; gives what waits, None where nothing can be interrupted."""
    handler = _get_handler(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield None
    elif isinstance(handler, _Watch):
        yield handler
    elif not callable(handler):  # Ctrl-C is ignored, or ends the process at once
        yield None
    else:
        watch = _Watch(handler)
        signal.signal(signal.SIGINT, watch)
        try:
            yield watch
        finally:
            if _get_handler(signal.SIGINT) is watch:  # else somebody inside has set another
                signal.signal(signal.SIGINT, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Has an interrupt that comes inside strike at the end of the block."""
    with watched() as watch:
        if watch is None:
            yield
            return
        watch.holding = True
        try:
            yield
        finally:
            watch.holding = False
            if watch.came:
                watch.came = False
                watch.handler(signal.SIGINT, None)
