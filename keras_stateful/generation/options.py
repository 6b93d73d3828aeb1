"""The options of `generate`, `stream` and `SampleText`, checked alike for all. NumPy only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import whole_number
from keras_stateful.generation.engine import ByLayer, NextInput


@dataclass(frozen=True, eq=False)
class Options:
    """How outputs become the next inputs, and what is read beside; each as in `generate`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: ArrayLike | None = None
    next_input: NextInput | None = None
    compile_next_input: bool = False
    from_logits: bool | None = None
    future: Mapping[str, Any] | None = None
    known_ahead: Mapping[str, Any] | None = None
    states: ByLayer | None = None

    def check(self) -> None:
        """Checks what can be checked without a model.

        Raises:
            ValueError: an option out of its range, or one that does nothing beside `next_input`.
            TypeError: a `top_k` that is not a whole number, a `next_input` that is no function.
        """
        _check_temperature(self.temperature)
        if self.top_k is not None:
            whole_number("top_k", self.top_k, 1)
        if self.top_p is not None:
            _check_top_p(self.top_p)
        if self.next_input is not None:
            self._check_signal()
        elif self.compile_next_input:
            raise ValueError(
                "`compile_next_input` says how `next_input` is run, and there is none. Received: "
                f"compile_next_input={self.compile_next_input!r}. Leave it out: a loop over ids "
                "is compiled without it."
            )
        if self.from_logits not in (None, True, False):
            raise ValueError(
                "`from_logits` must be True, False or None. Received: "
                f"from_logits={self.from_logits!r}."
            )

    def _check_signal(self) -> None:
        """With `next_input` nothing is drawn, so no option of a draw may be given."""
        if not callable(self.next_input):
            raise TypeError(
                "`next_input` must be a function from an output to the next input. Received: "
                f"next_input={self.next_input!r}."
            )
        useless = {  # None for what was left at its default
            "temperature": None if self.temperature == 1 else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
            "from_logits": self.from_logits,
        }
        useless = {name: value for name, value in useless.items() if value is not None}
        if useless:
            raise ValueError(
                f"With `next_input` no id is drawn, so these do nothing. Received: {useless}. "
                "Leave them out, and draw inside `next_input` if the outputs are distributions."
            )


def _check_temperature(temperature: Any) -> None:
    # NaN is in no range, so that it fails the second test.
    if not _is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(
            "`temperature` must be a finite number of at least 0, where 0 takes the most likely id "
            f"at every step. Received: temperature={temperature!r}."
        )


def _check_top_p(top_p: Any) -> None:
    if not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(
            "`top_p` must be a number in (0, 1]: how much probability the ids that are kept reach "
            f"together. Received: top_p={top_p!r}. For the most likely id alone, pass "
            "temperature=0."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
