"""Long work shows itself, as Keras's own does: `verbose` of every function that takes a while.

    with ProgressBar("auto", 12) as shown:         12/12 ━━━━━━━━━━━━━━━━━━━━ 3s 250ms/step
        for ...:
            shown.advance()

The bar is Keras's. This module needs no Keras until there is something to show.
"""

import os
import sys
import time
from typing import Any, TypeAlias

import numpy as np

Verbose: TypeAlias = str | int

_SECONDS = 0.05  # from one look at the bar to the next, as often as Keras draws it


class ProgressBar:
    """How far work has come: a bar in a terminal or notebook, a line at its end elsewhere.

    A context manager. Work that fails leaves its bar where it stood.

    Args:
        verbose: 0 for silence, 1 for a bar, 2 for one line at the end; "auto" for 1 where standard
            output is a terminal or a notebook, and 2 where it is a file or a pipe.
        steps: how many there are.
        unit: what a step is called.
        after: seconds before anything is shown: work that is seldom long says nothing else.

    Raises:
        ValueError: any other `verbose`.
    """

    def __init__(self, verbose: Verbose, steps: int, unit: str = "step", after: float = 0):
        mode = read_verbose(verbose)
        self._bar = _bar(mode, steps, unit) if mode and steps else None
        self._steps, self._done = steps, 0
        self._silent_until = self._look_at = time.perf_counter() + after

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        ended_early = kind is None and self._done < self._steps
        if ended_early and self._bar is not None and time.perf_counter() >= self._silent_until:
            self._bar.update(self._done, finalize=True)

    def advance(self, steps: int = 1) -> None:
        """Counts steps that are done; most calls do nothing else."""
        self._done += steps
        if self._bar is None:
            return
        now = time.perf_counter()
        if now >= self._look_at or (self._done >= self._steps and now >= self._silent_until):
            self._look_at = now + _SECONDS
            self._bar.update(self._done)


def read_verbose(verbose: Any) -> int:
    """Checks `verbose`; gives 0, 1 or 2.

    Raises:
        ValueError: any other value.
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if _is_watched() else 2
    if isinstance(verbose, (int, np.integer)) and verbose in (0, 1, 2):  # a bool is an int
        return int(verbose)
    raise ValueError(
        '`verbose` must be "auto", 0 (silent), 1 (a progress bar) or 2 (one line at the end). '
        f"Received: verbose={verbose!r}."
    )


def _is_watched() -> bool:
    """True where a bar can be drawn over itself.

    Keras decides likewise, but takes every process on Linux and macOS for a terminal
    (`"posix" in sys.modules`), whose log files then hold a bar for each 50 ms.
    """
    terminal = getattr(sys.stdout, "isatty", None)
    if terminal is not None and terminal():
        return True
    return "ipykernel" in sys.modules or "PYCHARM_HOSTED" in os.environ


def _bar(mode: int, steps: int, unit: str) -> Any:
    try:
        import keras
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The progress bar is Keras's, and Keras is not installed. Received: verbose={mode}. "
            "Leave it out, or pass 0."
        ) from error
    return keras.utils.Progbar(steps, verbose=mode, unit_name=unit)
