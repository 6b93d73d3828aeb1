"""Where windows lie along a row of time steps, and in which of them each step is new.

    window 4, stride 4      time steps   0 1 2 3 4 5 6 7
                                         ─────── ───────
    window 4, stride 2      time steps   0 1 2 3 4 5 6 7
                                         ───────               window 0: all its steps are new
                                             . . ───           window 1: 4 and 5 are
                                                 . . ───       window 2: 6 and 7

A step is new in the first window that reads it, and is trained on there alone. NumPy only.
"""

from typing import NamedTuple, TypeVar

import numpy as np

_Steps = TypeVar("_Steps", int, np.ndarray)


class Strides(NamedTuple):
    """Windows of equal length at equal distances; windows and time steps are counted from 0.

    Attributes:
        window: time steps of a window.
        stride: time steps from the start of a window to that of the next; at most `window`.
    """

    window: int
    stride: int

    @property
    def overlap(self) -> int:
        """Time steps at the start of each window but the first that are not new in it."""
        return self.window - self.stride

    def steps(self, windows: _Steps) -> _Steps:
        """Time steps that so many windows cover together, at least one."""
        return self.window + (windows - 1) * self.stride

    def covering(self, steps: _Steps) -> _Steps:
        """Windows that cover so many time steps, the last of them perhaps not filled."""
        return 1 + np.maximum(0, -((self.window - steps) // self.stride))

    def whole(self, steps: _Steps) -> _Steps:
        """Windows that lie within so many time steps; the window in which step `steps` is new."""
        return np.maximum(0, (steps - self.window) // self.stride + 1)
