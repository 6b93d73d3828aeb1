"""Runs one call on random numbers, whole and cut in two, to see what it does along time.

What the outputs of a call hold, seen from a window of the stream:

    whole     x[0:6] ──▶ w                w == first ++ second along axis 1      TIME
    first     x[0:3] ──▶ a                w == second, not == the prefixes       END
    second    x[3:6] ──▶ b                w == second == every prefix            CONSTANT
    prefixes  x[0:1], x[0:2]              anything else                          refused
"""

from enum import Enum

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.graph import Call
from keras_stateful.foundation.types import Tensor


class Holds(Enum):
    """What a tensor behind the time axis holds."""

    TIME = "a value at every time step"
    END = "what is known at the end of the window"
    CONSTANT = "the same whatever the window"


class NotLocal(Exception):
    """A call whose result depends on where a window was cut, and in what way."""


def probe(call: Call, temporal: set[int], may_mix: bool) -> list[Holds]:
    """Tells what each output of a call holds.

    Args:
        call: whose outputs are asked for.
        temporal: ids of the tensors that have the time axis.
        may_mix: whether the call may mix time steps; then only shapes count.

    Raises:
        NotLocal: a call that mixes time steps, or cannot be run.
    """
    window = _Window(call, temporal)
    half = window.steps // 2
    # One scope for all runs: it leaves counters and seeds of the layer alone, and shows a later run
    # what an earlier one wrote, so that a layer which counts differs from run to run.
    with keras.StatelessScope():
        whole = _run_whole(window, may_mix)
        first, second = _run_parts(window, [slice(0, half), slice(half, window.steps)])
        if may_mix:
            return [
                Holds.TIME if _has_axis(w, window.steps) and _has_axis(a, half) else Holds.END
                for w, a in zip(whole, first, strict=True)
            ]
        held = [
            _compare(w, a, b, window.steps) for w, a, b in zip(whole, first, second, strict=True)
        ]
        if Holds.END in held:
            prefixes = [*_run_parts(window, [slice(0, k) for k in range(1, half)]), first]
            for i, w in enumerate(whole):
                if held[i] is Holds.END and all(_close(w, prefix[i]) for prefix in prefixes):
                    held[i] = Holds.CONSTANT
    return held


class _Window:
    """A window of random numbers for one call, of which any part can be run.

    Attributes:
        steps: time steps of the window.
    """

    def __init__(self, call: Call, temporal: set[int], steps: int = 6):
        lengths = [t.shape[1] for t in call.tensors if id(t) in temporal]
        self.steps = max((n for n in lengths if n is not None and n > 1), default=steps)
        rows = next((t.shape[0] for t in call.tensors if t.shape[0] is not None), 2)
        rng = np.random.default_rng(0)
        self._call, self._temporal = call, temporal
        self._values: dict[int, np.ndarray] = {}
        for tensor in call.tensors:
            shape = [rows, *(3 if size is None else size for size in tensor.shape[1:])]
            if id(tensor) in temporal:
                shape[1] = self.steps
            self._values[id(tensor)] = _random(rng, shape, tensor.dtype)

    def run(self, part: slice) -> list[np.ndarray]:
        """The outputs of the call on some of the time steps."""

        def value(argument):
            if not isinstance(argument, keras.KerasTensor):
                return argument
            array = self._values[id(argument)]
            if id(argument) in self._temporal:
                array = array[:, part]
            return ops.convert_to_tensor(array, dtype=argument.dtype)

        args, kwargs = keras.tree.map_structure(value, (self._call.args, self._call.kwargs))
        outputs: list[Tensor] = keras.tree.flatten(self._call.operation(*args, **kwargs))
        return [ops.convert_to_numpy(output) for output in outputs]


def _run_whole(window: _Window, may_mix: bool) -> list[np.ndarray]:
    """The outputs on the whole window, which must be the same when it is run again."""
    try:
        whole, again = (window.run(slice(0, window.steps)) for _ in range(2))
    except Exception as error:
        raise NotLocal(f"whether it mixes time steps could not be tried out ({error})") from error
    if not may_mix and not all(map(_close, whole, again)):
        raise NotLocal(
            "it draws random numbers or counts at inference, so whether it mixes time steps cannot "
            "be tried out (make that depend on `training`)"
        )
    return whole


def _run_parts(window: _Window, parts: list[slice]) -> list[list[np.ndarray]]:
    """The outputs on shorter windows."""
    try:
        return [window.run(part) for part in parts]
    except Exception as error:
        raise NotLocal("its result depends on the number of time steps in a window") from error


def _compare(whole: np.ndarray, first: np.ndarray, second: np.ndarray, steps: int) -> Holds:
    """What one output holds, from the whole window and its halves: TIME, or END (or CONSTANT)."""
    if _has_axis(whole, steps) and _has_axis(first, steps // 2):
        if not _close(whole, np.concatenate([first, second], axis=1)):
            raise NotLocal(
                "it mixes neighbouring time steps and would see zeros at the start of every window"
            )
        return Holds.TIME
    if _close(whole, second):  # both end with the same time step
        return Holds.END
    raise NotLocal("it merges the time steps of a window")


def _has_axis(output: np.ndarray, steps: int) -> bool:
    return output.ndim > 1 and output.shape[1] == steps


def _random(rng: np.random.Generator, shape: list[int], dtype: str) -> np.ndarray:
    if "int" in dtype or dtype == "bool":
        return rng.integers(0, 2, shape)  # 0 and 1: valid ids everywhere
    return rng.standard_normal(shape).astype("float32")


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """True if two outputs are the same but for rounding, in half precision too."""
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a.astype("float32"), b.astype("float32"), rtol=1e-3, atol=1e-4))
