"""`StateMonitor`: what the recurrent states do while a network trains."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.states import LayerState, find_states, get_states
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.training.callbacks import ModelCallback, check_readers_come_after

_MEASURES = ("norm", "saturation", "drift")
_FLAT = 0.99  # |tanh| from which it passes on less than a fiftieth of the gradient
_HUGE = 1e3  # a state value beyond it is a warning; a healthy cell state has values of a few units
_NOTHING = 1e-4  # a state without a larger value is dead
_STILL = 1e-6  # a state that changes by a smaller share of its norm stands still

_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
# Where on a tanh a value lies, -1 and 1 being its flat ends: a value that goes into the activation,
# and one that came out.
_INTO: dict[str, Callable] = {"tanh": np.tanh, "sigmoid": lambda s: np.tanh(s / 2)}
_OUT_OF: dict[str, Callable] = {"tanh": lambda s: s, "sigmoid": lambda s: 2 * s - 1}


class StateMonitor(ModelCallback):
    """Writes norm, saturation and drift of each recurrent layer's state into the logs.

    It warns of states that are NaN, explode, are all zero or stop changing.

    The states are those after the most recent measured step, in all rows, before any row is reset
    for the next one.

    - `"<layer>/norm"`: L2 norm of a row's state, mean over rows; for an LSTM of `h` and `c`
      together.
    - `"<layer>/saturation"`: share of the values at which the layer's squashing is flat and passes
      on under a fiftieth of the gradient: `|h| > 0.99`, and for an LSTM `|tanh(c)| > 0.99`, since
      its `h` is a gated `tanh(c)`. Not there for cells whose activation is neither tanh nor
      sigmoid.
    - `"<layer>/drift"`: how much a row's state changed since the last look,
      `|new - old| / max(|new|, |old|)`, mean over rows. 0: it stands still; 1: it came from nothing
      or went to nothing; about 1.4: two states that have nothing in common; at most 2. The first
      look compares with the state that training began with.

    The logs of each batch hold the last look, so the progress bar shows it; the logs of an epoch
    hold the mean over its looks, at least one. Put it before `CSVLogger`, `TensorBoard` and
    whatever else reads the logs. It changes nothing in the training.

    It warns, once for each layer and cause, of a state that is NaN or infinite, has values beyond
    1,000, is zero in all rows, or no longer changes.

    Args:
        every: training steps from one look to the next. A look waits for the step and, on JAX,
            brings all variables back from it.
        layers: paths of the recurrent layers to look at, as in `get_states`; None for all.

    Raises:
        TypeError: `every` that is no int.
        ValueError: `every` under 1; when training begins: a model that carries no state, a layer
            that it does not have, a `CSVLogger` or `TensorBoard` that stands before it.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    sequence = ks.StatefulSequence(np.arange(2000) % 9, batch_size=4, sequence_length=10, resets=True)
    model = ks.to_stateful(
        keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4),
                          keras.layers.LSTM(8, return_sequences=True, name="lstm"), keras.layers.Dense(9)]),
        sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(sequence, epochs=2, verbose=0, callbacks=[ks.StateMonitor(every=10)])
    assert len(history.history["lstm/norm"]) == 2
    ```

    References:
        Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks",
        https://arxiv.org/abs/1211.5063
    """

    def __init__(self, every: int = 100, *, layers: list[str] | None = None):
        super().__init__()
        self.every = whole_number("every", every, 1)
        self.layers = [layers] if isinstance(layers, str) else layers

    def on_train_begin(self, logs: Any = None) -> None:
        self._layer_states = self._chosen()
        check_readers_come_after(self, keras_internals.fit_arguments(self._network))
        self._steps = self._looked_at = 0
        self._warned: set[tuple[str, str]] = set()
        self._previous = self._read()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._batch = epoch, 0
        self._looks: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += self._network.steps_per_execution
        self._batch = batch
        if self._steps - self._looked_at >= self.every:
            self._look()
        if self._looks and logs is not None:
            logs.update(self._looks[-1])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._looks:
            self._look()
        if logs is not None:
            logs.update(
                {
                    name: float(np.mean([look[name] for look in self._looks]))
                    for name in self._looks[0]
                }
            )

    def get_state(self) -> dict[str, Any]:
        """What `ResumeTraining` saves: by position, since layers without a name get other ones in
        the same process.
        """
        keys = [s.key for s in self._layer_states]
        return {
            "steps": self._steps,
            "looked_at": self._looked_at,
            "warned": [[keys.index(key), cause] for key, cause in sorted(self._warned)],
            "previous": [self._previous[key] for key in keys],
            "looks": [
                [{m: look[f"{key}/{m}"] for m in _MEASURES if f"{key}/{m}" in look} for key in keys]
                for look in getattr(self, "_looks", [])
            ],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave, when training has begun."""
        keys = [s.key for s in self._layer_states]
        if len(state["previous"]) != len(keys):
            raise ValueError(
                f"`StateMonitor` looked at {len(state['previous'])} layers when the training was "
                f"saved. Received: {keys}. Give it the same `layers` and the same model, or "
                "another `backup_dir`."
            )
        self._steps, self._looked_at = state["steps"], state["looked_at"]
        self._warned = {(keys[i], cause) for i, cause in state["warned"]}
        self._previous = dict(zip(keys, state["previous"], strict=True))
        self._looks = [
            {f"{key}/{m}": v for key, told in zip(keys, look, strict=True) for m, v in told.items()}
            for look in state["looks"]
        ]

    # A look

    def _look(self) -> None:
        self._looked_at = self._steps
        values: dict[str, float] = {}
        previous, self._previous = self._previous, self._read()
        for layer_state in self._layer_states:
            states = self._previous[layer_state.key]
            rows, before = _rows(states), _rows(previous[layer_state.key])
            with np.errstate(all="ignore"):  # what is not finite gets a warning of its own
                norms = np.linalg.norm(rows, axis=1)
                size = np.maximum(norms, np.linalg.norm(before, axis=1))
                change = np.linalg.norm(rows - before, axis=1)
                drift = np.divide(change, size, out=np.zeros_like(size), where=size != 0)
                shares = (norms.mean(), _saturation(layer_state.layer, states), drift.mean())
            values |= {
                f"{layer_state.key}/{name}": float(share)
                for name, share in zip(_MEASURES, shares, strict=True)
                if share is not None
            }
            self._warn(layer_state, rows, drift)
        self._looks.append(values)

    def _read(self) -> dict[str, list[np.ndarray]]:
        """The states of each layer, without the mark of rows that wait for an `initial_state` of
        the model's graph.
        """
        found = get_states(self._network)
        marks = {s.key: getattr(s.layer, "initial_state_given", False) for s in self._layer_states}
        return {
            key: [a.astype("float32") for a in found[key][: -1 if marks[key] else None]]
            for key in marks
        }

    def _warn(self, layer_state: LayerState, rows: np.ndarray, drift: np.ndarray) -> None:
        finite = np.isfinite(rows).all(axis=1)
        largest = np.abs(rows[finite]).max(initial=0)
        if not finite.all():
            cause = "is not finite"
            found = (
                f"NaN or infinite values in rows {_some(np.flatnonzero(~finite))} of {len(rows)}"
            )
            advice = (
                "All that follows is lost: the weights become NaN too. Look for NaN in those rows' "
                "inputs, lower the learning rate, or clip gradients (`clipnorm=1.0` in the "
                "optimizer), and start from weights saved before."
            )
        elif largest > _HUGE:
            cause = "blows up"
            found = f"a value of {largest:.3g}"
            advice = (
                "A cell state grows so where it adds up and never forgets, an unbounded activation "
                "(relu, linear) where the recurrent weights amplify. Reset rows where documents "
                "start, use tanh, lower the learning rate, or clip gradients (`clipnorm=1.0` in "
                "the optimizer)."
            )
        elif finite.all() and largest < _NOTHING:
            cause = "is dead"
            found = f"no value above {_NOTHING:g} in any of {len(rows)} rows"
            advice = (
                "Either the layer passes nothing on (a relu below zero for every input), or the "
                "state never arrives: a plain `stateful=True` layer needs `ResetStatesCallback` in "
                "`fit`, see `docs/keras-defects.md`."
            )
        elif finite.all() and drift.max() < _STILL:
            cause = "stands still"
            found = f"no row changed by more than {_STILL:g} of its norm since the last look"
            advice = (
                "It no longer depends on what is read. Saturated gates are the usual cause: lower "
                "the learning rate, scale the inputs, or clip gradients (`clipnorm=1.0` in the "
                "optimizer)."
            )
        else:
            return
        if (layer_state.key, cause) not in self._warned:
            self._warned.add((layer_state.key, cause))
            where = f"epoch {self._epoch + 1}, batch {self._batch + 1}"
            warnings.warn(
                f"The state of `{layer_state.key}` {cause}: {found} at {where}. {advice}",
                stacklevel=2,
            )

    # Arguments

    def _chosen(self) -> list[LayerState]:
        layer_states = find_states(self._network)
        if not layer_states:
            raise ValueError(
                "`StateMonitor` needs a model that carries its state. Received: "
                f"{self._network.name!r}, which carries none. Convert it with `to_stateful(model, "
                "sequence)`, or give its recurrent layers `stateful=True`."
            )
        known = [s.key for s in layer_states]
        for wanted in known if self.layers is None else self.layers:
            if wanted not in known:
                raise ValueError(
                    "`layers` must name recurrent layers that carry a state. Received: "
                    f"{wanted!r}; the model has {known}."
                )
        return [s for s in layer_states if self.layers is None or s.key in self.layers]


def _rows(states: list[np.ndarray]) -> np.ndarray:
    """All values of each row's state, `(batch, values)`."""
    return np.concatenate([s.reshape(len(s), -1) for s in states], axis=1)


def _saturation(layer: Any, states: list[np.ndarray]) -> float | None:
    """The share of saturated values; None where no activation of the layer's cells is known to be
    bounded.
    """
    places: list[np.ndarray] = []
    left = list(states)
    cells = getattr(layer.cell, "cells", [layer.cell])
    for cell in cells:
        own = (
            left if len(cells) == 1 else [left.pop(0) for _ in keras.tree.flatten(cell.state_size)]
        )
        name = getattr(getattr(cell, "activation", None), "__name__", None)
        if name not in _INTO:
            continue
        if isinstance(cell, keras.layers.LSTMCell) or isinstance(layer, _CONV_LSTM):
            places.append(_INTO[name](own[1]).ravel())
        elif isinstance(cell, (keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
            places.append(_OUT_OF[name](own[0]).ravel())
    if not places:
        return None
    values = np.abs(np.concatenate(places))
    return float(np.nan if np.isnan(values).any() else (values > _FLAT).mean())


def _some(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:5].tolist())) + (", ..." if len(rows) > 5 else "")
