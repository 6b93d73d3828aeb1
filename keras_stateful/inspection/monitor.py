"""`StateMonitor`: what the recurrent states do while a network trains."""

import warnings

import numpy as np

from keras_stateful.carry.states import LayerState, find_states, read_states, sync, without_state
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.types import CallbackState, Logs
from keras_stateful.inspection.measures import drift, illness, rows_of, saturation
from keras_stateful.training.callbacks import ModelCallback, check_readers_come_after

_MEASURES = ("norm", "saturation", "drift")
# The states of each layer, by its path in `get_states`.
States = dict[str, list[np.ndarray]]


class StateMonitor(ModelCallback):
    """Writes norm, saturation and drift of each recurrent layer's state into the logs, and warns.

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

    text = np.arange(2000) % 9
    sequence = ks.StatefulSequence(text, batch_size=4, sequence_length=10, resets=True)
    model = keras.Sequential([
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.LSTM(8, return_sequences=True, name="lstm"),
        keras.layers.Dense(9),
    ])
    model = ks.to_stateful(model, sequence)
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

    def on_train_begin(self, logs: Logs = None) -> None:
        self._layer_states = self._chosen()
        check_readers_come_after(self, keras_internals.fit_arguments(self._network))
        self._steps = self._looked_at = 0  # training steps so far, and at the last look
        self._warned: set[tuple[str, str]] = set()  # layer and illness
        self._previous = self._read()  # the states at the last look

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch, self._batch = epoch, 0
        self._looks: list[dict[str, float]] = []  # of this epoch, what each wrote into the logs

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._steps += self._network.steps_per_execution  # Keras calls this once for all of them
        self._batch = batch
        if self._steps - self._looked_at >= self.every:
            self._look()
        if self._looks and logs is not None:
            logs.update(self._looks[-1])

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if not self._looks:
            self._look()
        if logs is not None:
            for name in self._looks[0]:
                logs[name] = float(np.mean([look[name] for look in self._looks]))

    def get_state(self) -> CallbackState:
        """What `ResumeTraining` saves, by the position of each layer.

        Not by its name: Keras numbers layers without one on, each time the model is made.
        """
        keys = [s.key for s in self._layer_states]
        return {
            "steps": self._steps,
            "looked_at": self._looked_at,
            "warned": [[keys.index(key), name] for key, name in sorted(self._warned)],
            "previous": [self._previous[key] for key in keys],
            "looks": [
                [{m: look[f"{key}/{m}"] for m in _MEASURES if f"{key}/{m}" in look} for key in keys]
                for look in getattr(self, "_looks", [])
            ],
        }

    def set_state(self, state: CallbackState) -> None:
        """Takes back what `get_state` gave, when training has begun."""
        keys = [s.key for s in self._layer_states]
        if len(state["previous"]) != len(keys):
            raise ValueError(
                f"`StateMonitor` looked at {len(state['previous'])} layers when the training was "
                f"saved. Received: {keys}. Give it the same `layers` and the same model, or "
                "another `backup_dir`."
            )
        self._steps, self._looked_at = state["steps"], state["looked_at"]
        self._warned = {(keys[i], name) for i, name in state["warned"]}
        self._previous = dict(zip(keys, state["previous"], strict=True))
        self._looks = [
            {
                f"{key}/{measure}": value
                for key, measures in zip(keys, look, strict=True)
                for measure, value in measures.items()
            }
            for look in state["looks"]
        ]

    # A look

    def _look(self) -> None:
        """Reads the states, keeps their measures, and warns."""
        self._looked_at = self._steps
        values: dict[str, float] = {}
        previous, self._previous = self._previous, self._read()
        for layer_state in self._layer_states:
            key, states = layer_state.key, self._previous[layer_state.key]
            rows, before = rows_of(states), rows_of(previous[key])
            with np.errstate(all="ignore"):  # what is not finite gets a warning of its own
                norm = np.linalg.norm(rows, axis=1).mean()
                row_drift = drift(rows, before)
                measures = (norm, saturation(layer_state.layer, states), row_drift.mean())
            for name, value in zip(_MEASURES, measures, strict=True):
                if value is not None:  # saturation is not known of every cell
                    values[f"{key}/{name}"] = float(value)
            self._warn(key, rows, row_drift)
        self._looks.append(values)

    def _read(self) -> States:
        """The states of each layer, float32 `(batch, ...)`."""
        sync(self._network)
        states = read_states(self._layer_states)
        read: States = {}
        for layer_state in self._layer_states:
            arrays = states[layer_state.key]
            # The last one marks rows that wait for an `initial_state` of the graph. (A plain
            # Keras layer has no such attribute.)
            if getattr(layer_state.layer, "initial_state_given", False):
                arrays = arrays[:-1]
            read[layer_state.key] = [a.astype("float32") for a in arrays]
        return read

    def _warn(self, key: str, rows: np.ndarray, row_drift: np.ndarray) -> None:
        """Warns of an ill state, once for each layer and illness."""
        ill = illness(rows, row_drift)
        if ill is None or (key, ill.name) in self._warned:
            return
        self._warned.add((key, ill.name))
        place = f"epoch {self._epoch + 1}, batch {self._batch + 1}"
        warnings.warn(
            f"The state of `{key}` {ill.name}: {ill.evidence} at {place}. {ill.advice}",
            stacklevel=2,
        )

    # Arguments

    def _chosen(self) -> list[LayerState]:
        """The states of the layers that `layers` names."""
        layer_states = find_states(self._network)
        if not layer_states:
            raise ValueError(
                "`StateMonitor` needs a model that carries its state. Received: "
                f"{without_state(self._network)}"
            )
        if self.layers is None:
            return layer_states
        known = [s.key for s in layer_states]
        for name in self.layers:
            if name not in known:
                raise ValueError(
                    "`layers` must name recurrent layers that carry a state. Received: "
                    f"{name!r}; the model has {known}."
                )
        return [s for s in layer_states if s.key in self.layers]
