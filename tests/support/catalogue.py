"""What a refusal must say. The tables of bad input are `tests/project/test_catalogue_*.py`."""

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Bad(NamedTuple):
    """A call that must be refused, and what the message must hold.

    Attributes:
        call: makes the mistake.
        error: the exception, or a base class of it that users would catch.
        names: the argument, layer or file that is wrong.
        received: the value that was received.
        remedy: what to do instead.
    """

    call: Callable[..., object]
    error: type[Exception]
    names: str
    received: str
    remedy: str


def assert_refused(case: Bad, *arguments: object) -> None:
    """The call raises the error, whose message names the argument, the value and the remedy."""
    with pytest.raises(case.error) as caught:
        case.call(*arguments)
    message = str(caught.value)
    missing = [part for part in (case.names, case.received, case.remedy) if part not in message]
    assert not missing, f"{missing} not in: {message}"
