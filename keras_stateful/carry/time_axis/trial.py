"""Tries a layer that the user vouches for on random numbers, to catch what is plainly wrong.

A window is run whole and cut in two. If the parts are not the whole, the layer mixes time steps; if
they are, that proves nothing, and the user's word stands.
"""

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused
from keras_stateful.carry.time_axis.derivation import Derivation
from keras_stateful.foundation.types import Tensor


def vouched(call: Call, time: Derivation) -> list[Hold]:
    """What the outputs of a call hold of which the user says that it takes each step alone.

    Raises:
        Refused: an output without the time axis, or a layer that mixes time steps after all.
    """
    along = [hold for t in call.tensors if isinstance(hold := time.of(t), Along)]
    for output in call.outputs:
        sizes = {t.shape[1] for t in call.tensors if isinstance(time.of(t), Along)}
        if len(output.shape) < 2 or output.shape[1] not in sizes | {None}:
            raise Refused(
                f"`local=` vouches for it, and its output of shape {tuple(output.shape)} has no "
                "value for each time step"
            )
    if not time.searching and _contradicts(call, time):
        raise Refused(
            "`local=` vouches for it, and on random numbers its steps depend on each other"
        )
    hold = time.join([(t, lambda axis: axis) for t in call.tensors if time.of(t) in along])
    return [hold] * len(call.outputs)


def _contradicts(call: Call, time: Derivation, steps: int = 12) -> bool:
    """True if a window of random numbers comes out otherwise when it is cut in two."""
    lengths = [t.shape[1] for t in call.tensors if isinstance(time.of(t), Along)]
    steps = next((n for n in lengths if n is not None), steps)
    if steps < 2:
        return False
    rng = np.random.default_rng(0)
    values: dict[int, np.ndarray] = {}
    for tensor in call.tensors:
        shape = [2 if size is None else size for size in tensor.shape]
        if isinstance(time.of(tensor), Along):
            shape[1] = steps
        values[id(tensor)] = _random(rng, shape, tensor.dtype)

    def run(part: slice) -> list[np.ndarray]:
        def value(argument: object) -> object:
            if not isinstance(argument, keras.KerasTensor):
                return argument
            array = values[id(argument)]
            array = array[:, part] if isinstance(time.of(argument), Along) else array
            return ops.convert_to_tensor(array, dtype=argument.dtype)

        args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
        outputs: list[Tensor] = keras.tree.flatten(call.operation(*args, **kwargs))
        return [np.asarray(ops.convert_to_numpy(output), "float32") for output in outputs]

    try:
        with keras.StatelessScope():  # leaves counters and seeds of the layer alone
            whole, again = run(slice(None)), run(slice(None))
            first, second = run(slice(0, steps // 2)), run(slice(steps // 2, None))
    except Exception:  # what cannot be run says nothing
        return False
    if not all(map(_close, whole, again)):  # random numbers of its own
        return False
    parts = [np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)]
    return not all(map(_close, whole, parts))


def _random(rng: np.random.Generator, shape: list[int], dtype: str) -> np.ndarray:
    if "int" in dtype or dtype == "bool":
        return rng.integers(0, 2, shape)  # 0 and 1: valid ids everywhere
    return rng.standard_normal(shape).astype("float32")


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """True if two outputs are the same but for rounding, in half precision too."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-3, atol=1e-4))
