"""The states of a network as they leave it: arrays by layer, and whose they are. NumPy only.

    weights ─▶ fingerprint ─▶ States ─▶ set_states: of the same weights, finite, or refused

A state means something to the weights that made it and to no others. After a retraining it still
fits in shape, and every output would be another one.
"""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

ByLayer: TypeAlias = Mapping[str, list]


class States(dict[str, list]):
    """`{layer path: [array (batch, ...), ...]}`, as `get_states` gives it.

    A dict, which may be pickled and copied. One that is made of its arrays by hand has no
    fingerprint, and is taken by any network of the same layers. The very model that the states were
    read from takes them at any time: that states are older than the weights is how truncated
    backpropagation goes on from window to window.

    Attributes:
        fingerprint: of the weights that made the states (`fingerprint`); None where nobody knows.
        steps: int64 `(batch,)`, how many time steps of its document each row has read, so that the
            next to read is `document[steps]`; None where nobody counted, as in a model's own
            states. `predict_documents` counts.
    """

    def __init__(
        self,
        states: ByLayer = {},  # noqa: B006
        fingerprint: str | None = None,
        reader: Any = None,
        steps: np.ndarray | None = None,
    ):
        super().__init__(states)
        self.fingerprint, self.steps = fingerprint, steps
        self._reader = None if reader is None else weakref.ref(reader)

    def read_from(self, reader: Any) -> bool:
        """True if the states were read from this very model, and not taken through a file."""
        return self._reader is not None and self._reader() is reader

    def copy(self) -> "States":
        """A shallow copy, of the same fingerprint and steps."""
        return States(self, self.fingerprint, steps=self.steps)

    def __reduce__(self) -> tuple:
        return States, (dict(self), self.fingerprint, None, self.steps)

    def __repr__(self) -> str:
        shapes = {layer: [np.shape(array) for array in of] for layer, of in self.items()}
        read = "" if self.steps is None else f", steps read {np.array2string(self.steps, 60)}"
        return f"<States {shapes}{read}, fingerprint {str(self.fingerprint)[:12]}>"

    # Trees of arrays (`keras.tree`, `jax.tree`) look into a dict, and into a class that has these
    # two. What a function makes of the arrays is nobody's state any more.

    def tree_flatten(self) -> tuple[list, tuple]:
        """The lists in the order of the sorted keys, and these."""
        keys = tuple(sorted(self))
        return [self[key] for key in keys], keys

    @classmethod
    def tree_unflatten(cls, keys: tuple, lists: Iterable) -> "States":
        """What `tree_flatten` took apart, without a fingerprint."""
        return cls(dict(zip(keys, lists, strict=True)))


def sampled(size: int) -> slice:
    """Which of a weight's values a fingerprint reads: up to 512, at equal distances.

    A step of training changes nearly all values of nearly all weights, so that a few of each tell
    as much as all, and large weights need not leave their device whenever states are read.
    """
    return slice(None, None, -(-size // 512) or None)


def fingerprint(weights: Iterable[tuple[tuple, np.ndarray]]) -> str:
    """The SHA-256 of a sample of a network's weights, whatever their order, names and precision.

    So it stays through conversions, files and exports, and changes with every step of training.

    Args:
        weights: the shape and the `sampled` values of each weight, no states among them.
    """
    digests = []
    for shape, values in weights:
        # Weights in half precision are float32 in an artifact.
        array = np.ascontiguousarray(values, "<f4")
        digests.append(hashlib.sha256(str(tuple(shape)).encode() + array.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def check_owner(states: Any, fingerprint: str | None, owner: str) -> None:
    """Refuses states that other weights made.

    Args:
        states: what the user gives.
        fingerprint: of the weights that the states would go on with.
        owner: what has these weights, in words.

    Raises:
        ValueError: states of another fingerprint.
    """
    theirs = getattr(states, "fingerprint", None)
    if None not in (theirs, fingerprint) and theirs != fingerprint:
        raise ValueError(
            "`states` were made by other weights, and mean nothing to these. Received: states of "
            f"the weights {str(theirs)[:12]}; {owner} has {str(fingerprint)[:12]}. Use the weights "
            "that they come from, or have the new ones read the document anew. If they must be "
            "set all the same, `dict(states)` no longer says whose they are."
        )


def check_arrays(
    states: Any,
    shapes: dict[str, list[tuple]],
    owner: str,
    remedy: str,
    to_numpy: Callable[[Any], np.ndarray] = np.asarray,
) -> None:
    """Checks that there is an array of finite numbers, of the right shape, for each state.

    Args:
        states: what the user gives.
        shapes: of the states, by layer.
        owner: what has these, a word.
        remedy: what to do about another number of rows, a sentence.
        to_numpy: from an array of the user's, or a tensor, to NumPy.

    Raises:
        TypeError: no dict of lists, arrays that are no numbers.
        ValueError: other layers, or arrays of another shape; NaN or infinite values.
    """
    if not isinstance(states, dict):
        raise TypeError(
            f"`states` must be a dict as `get_states` gives. Received: {type(states).__name__}."
        )
    if set(states) != set(shapes):
        raise ValueError(
            "`states` must have an entry for each recurrent layer. Received: "
            f"{sorted(map(str, states))}; the {owner} has {sorted(shapes)}. States of another "
            "model cannot be used here."
        )
    for layer, expected in shapes.items():
        arrays = states[layer]
        if not isinstance(arrays, (list, tuple, np.ndarray)):
            raise TypeError(
                f"`states[{layer!r}]` must be a list of {len(expected)} arrays. Received: "
                f"{type(arrays).__name__}."
            )
        received = [tuple(np.shape(array)) for array in arrays]
        if received != expected:
            raise ValueError(
                f"`states[{layer!r}]` has arrays of other shapes than the {owner}'s states. "
                f"Received: {received}; they must be {expected}. {remedy}"
            )
        for array in arrays:
            _check_numbers(layer, to_numpy(array))


def _check_numbers(layer: str, values: np.ndarray) -> None:
    """Refuses what cannot be a state: anything but finite numbers."""
    if values.dtype.name == "bfloat16":  # to NumPy, whose dtype it is not, no number
        values = values.astype("float32")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"`states[{layer!r}]` must hold numbers. Received: dtype {values.dtype}.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(
            f"`states[{layer!r}]` must be finite: NaN stays in a state until it is reset. "
            f"Received: {np.count_nonzero(~np.isfinite(values))} values that are NaN or infinite. "
            "Reset those rows instead, and look for NaN in what they read."
        )
