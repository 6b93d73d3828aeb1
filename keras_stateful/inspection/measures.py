"""What a look at a layer's state tells: three measures, and whether the state is ill.

A row holds all states of a layer side by side, those of an LSTM `h` and `c`: `(batch, values)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

_FLAT = 0.99  # |tanh| beyond which under a fiftieth of the gradient passes: 1 - tanh**2 < 0.02
_HUGE = 1e3  # a larger value gets a warning; a healthy cell state has values of a few units
_NOTHING = 1e-4  # a state without a larger value is dead
_STILL = 1e-6  # a state that changes by a smaller share of its norm stands still

_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
# Where on a tanh a value lies, -1 and 1 being its flat ends: a value that goes into an activation,
# and one that came out. A sigmoid is a tanh of half the value, moved to [0, 1].
_INTO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda s: np.tanh(s / 2),
}
_OUT_OF: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda s: s,
    "sigmoid": lambda s: 2 * s - 1,
}


# Measures


def rows_of(states: list[np.ndarray]) -> np.ndarray:
    """All values of each row's state, `(batch, values)`."""
    return np.concatenate([s.reshape(len(s), -1) for s in states], axis=1)


def drift(rows: np.ndarray, before: np.ndarray) -> np.ndarray:
    """How much each row changed, as a share of the larger of its two norms, `(batch,)`."""
    size = np.maximum(np.linalg.norm(rows, axis=1), np.linalg.norm(before, axis=1))
    change = np.linalg.norm(rows - before, axis=1)
    return np.divide(change, size, out=np.zeros_like(size), where=size != 0)


def saturation(layer: keras.layers.Layer, states: list[np.ndarray]) -> float | None:
    """The share of values at a flat end of the layer's squashing.

    Args:
        layer: one that carries; of those that are not recurrent nothing is known to be bounded.
        states: arrays `(batch, ...)`, those of stacked cells one after the other.

    Returns:
        The share; NaN for states that hold NaN; None if no cell is known to be bounded.
    """
    places: list[np.ndarray] = []
    rest = list(states)
    cell = getattr(layer, "cell", None)
    cells = [] if cell is None else getattr(cell, "cells", [cell])
    for cell in cells:
        count = len(rest) if len(cells) == 1 else len(keras.tree.flatten(cell.state_size))
        of_cell, rest = rest[:count], rest[count:]
        name = getattr(getattr(cell, "activation", None), "__name__", None)
        if name not in _INTO:
            continue
        if isinstance(cell, keras.layers.LSTMCell) or isinstance(layer, _CONV_LSTM):
            # Of its c, which goes into the activation: h is that of c times a gate, which may be
            # small where c is at a flat end. (The cell of a ConvLSTM has no public class.)
            places.append(_INTO[name](of_cell[1]).ravel())
        elif isinstance(cell, (keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
            # A SimpleRNN's state came out of the activation, a GRU's is a weighted mean of such.
            places.append(_OUT_OF[name](of_cell[0]).ravel())
    if not places:
        return None
    values = np.abs(np.concatenate(places))
    return float(np.nan if np.isnan(values).any() else (values > _FLAT).mean())


# Illnesses


class Illness(NamedTuple):
    """What is wrong with a state: `The state of <layer> <name>: <evidence>. <advice>`."""

    name: str
    evidence: str
    advice: str


def illness(rows: np.ndarray, row_drift: np.ndarray) -> Illness | None:
    """What is wrong with a layer's state; None if nothing is.

    Args:
        rows: `(batch, values)`.
        row_drift: `(batch,)`, from `drift`.
    """
    finite = np.isfinite(rows).all(axis=1)
    largest = np.abs(rows[finite]).max(initial=0)
    if not finite.all():
        return Illness(
            "is not finite",
            f"NaN or infinite values in rows {_some(np.flatnonzero(~finite))} of {len(rows)}",
            "All that follows is lost: the weights become NaN too. Look for NaN in those rows' "
            "inputs, lower the learning rate, or clip gradients (`clipnorm=1.0` in the "
            "optimizer), and start from weights saved before.",
        )
    if largest > _HUGE:
        return Illness(
            "blows up",
            f"a value of {largest:.3g}",
            "A cell state grows so where it adds up and never forgets, an unbounded activation "
            "(relu, linear) where the recurrent weights amplify. Reset rows where documents "
            "start, use tanh, lower the learning rate, or clip gradients (`clipnorm=1.0` in "
            "the optimizer).",
        )
    if largest < _NOTHING:
        return Illness(
            "is dead",
            f"no value above {_NOTHING:g} in any of {len(rows)} rows",
            "Either the layer passes nothing on (a relu below zero for every input), or the "
            "state never arrives: a plain `stateful=True` layer needs `ResetStatesCallback` in "
            "`fit`, see `docs/keras-defects.md`.",
        )
    if row_drift.max() < _STILL:
        return Illness(
            "stands still",
            f"no row changed by more than {_STILL:g} of its norm since the last look",
            "It no longer depends on what is read. Saturated gates are the usual cause: lower "
            "the learning rate, scale the inputs, or clip gradients (`clipnorm=1.0` in the "
            "optimizer).",
        )
    return None


def _some(rows: np.ndarray) -> str:
    """The first five of some row numbers, in words."""
    return ", ".join(map(str, rows[:5].tolist())) + (", ..." if len(rows) > 5 else "")
