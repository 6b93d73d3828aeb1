"""What the units of a recurrent layer do while the network reads: recorded step by step, and
ranked.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import LayerState, find_states, sync
from keras_stateful.carry.vocabulary import input_vocabulary
from keras_stateful.conversion.convert import to_inference
from keras_stateful.foundation.arguments import fits


def record_states(
    model: keras.Model, ids: Any, layer: str | None = None, *, state: int = 0
) -> np.ndarray:
    """The state of a recurrent layer after each time step of one document, read from the initial
    state.

    A twin of the model over the same variables reads the document at batch 1, step by step: the
    model's own state, weights and compilation stay as they are. The first call for a model
    compiles; then a step takes about as long as `predict_on_batch`.

    Args:
        model: any model that `to_inference` accepts, converted or not.
        ids: the document: ids `(timesteps,)` or features `(timesteps, ...)`; for several inputs a
            list or dict of these, as the model's inputs are.
        layer: name or path of the recurrent layer, as in `get_states`; None for the last one.
        state: which of its states, in the order of `get_states`: of an LSTM 0 is `h`, which it
            gives to the next layer, and 1 is `c`, its memory.

    Returns:
        float32 `(timesteps, units)`; for a ConvLSTM `(timesteps, ..., channels)`.

    Raises:
        TypeError: ids that are text or no numbers.
        ValueError: a layer or state that the model does not have, ids that it cannot read, a model
            that `to_inference` refuses (one without recurrent layers).

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4),
                              keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(9)])
    memory = ks.record_states(model, [1, 2, 3, 4], state=1)
    assert memory.shape == (4, 16)
    ```
    """
    if isinstance(model, keras.Model):
        sync(model)  # in a callback the variables may be behind
    twin = to_inference(model, share_weights=True)
    layer_state = _find(find_states(twin), layer)
    if not isinstance(state, int) or not 0 <= state < len(layer_state.layer._slot_states[0]):
        raise ValueError(
            f"`state` must be the index of a state of `{layer_state.key}`. Received: "
            f"state={state!r}; it has {len(layer_state.layer._slot_states[0])}, of an LSTM 0 for "
            "`h` and 1 for `c`."
        )
    variable, arrays = layer_state.variables[state], _arrays(twin, ids)
    recorded = np.empty((len(arrays[0]), *variable.shape[1:]), "float32")
    for t in range(len(recorded)):
        twin.predict_on_batch(
            keras.tree.pack_sequence_as(twin.input, [a[None, t : t + 1] for a in arrays])
        )
        recorded[t] = ops.convert_to_numpy(variable)[0]
    return recorded


def rank_units(activations: Any, feature: Any) -> tuple[np.ndarray, np.ndarray]:
    """The units that follow something that is known of each time step, best first.

    Args:
        activations: from `record_states`, `(timesteps, units)`.
        feature: bool or float `(timesteps,)`: whether the step is inside quotes, its position in
            the line, ... Steps with NaN are left out.

    Returns:
        Units int `(units,)` and their correlations with the feature, float `(units,)` in [-1, 1],
        by falling absolute value (Pearson's; 0 for a unit that never changes). Among many units
        some correlate by chance: look at the best ones on another text.

    Raises:
        ValueError: activations of another shape, a feature of another length, or one that is the
            same at every step.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    activations = np.random.default_rng(0).normal(size=(200, 16))
    in_quotes = activations[:, 3] > 0
    units, correlations = ks.rank_units(activations, in_quotes)
    assert units[0] == 3 and correlations[0] > 0.7
    ```
    """
    values = checked_activations(activations).astype("float64")
    wanted = np.asarray(feature)
    if wanted.dtype.kind not in "biuf" or wanted.shape != (len(values),):
        raise ValueError(
            f"`feature` must have one bool or number for each of the {len(values)} time steps. "
            f"Received: shape {wanted.shape}, {wanted.dtype}."
        )
    wanted = wanted.astype("float64")
    values, wanted = values[~np.isnan(wanted)], wanted[~np.isnan(wanted)]
    if not len(wanted) or np.ptp(wanted) == 0:
        raise ValueError(
            f"`feature` must differ between time steps. Received: {len(wanted)} steps that are not "
            f"NaN, all {wanted[0] if len(wanted) else 'left out'}. Record a text in which it "
            "changes."
        )
    values, wanted = values - values.mean(axis=0), wanted - wanted.mean()
    size = np.linalg.norm(values, axis=0) * np.linalg.norm(wanted)
    correlations = np.divide(wanted @ values, size, out=np.zeros(len(size)), where=size > 0)
    units = np.argsort(-np.abs(correlations), kind="stable")
    return units, correlations[units]


def checked_activations(activations: Any) -> np.ndarray:
    """An array `(timesteps, units)` of finite numbers."""
    values = np.asarray(activations)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            "`activations` must be numbers of shape (timesteps, units), as `record_states` gives. "
            f"Received: shape {values.shape}, {values.dtype}. For a ConvLSTM's, "
            "`activations.reshape(len(activations), -1)`."
        )
    if not np.isfinite(values).all():
        step, unit = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"`activations` must be finite. Received: {values[step, unit]} in unit {unit} at time "
            f"step {step}. A network whose weights became NaN in training gives these: load "
            "weights saved before."
        )
    return values


def _find(layer_states: list[LayerState], layer: str | None) -> LayerState:
    if layer is None:
        return layer_states[-1]
    hits = [s for s in layer_states if layer == s.key] or [
        s for s in layer_states if layer == s.key.split("/")[-1]
    ]
    if len(hits) != 1:
        raise ValueError(
            f"`layer` must name a recurrent layer of the model. Received: {layer!r}, which fits "
            f"{[s.key for s in hits] or 'none'}; there are {[s.key for s in layer_states]}."
        )
    return hits[0]


def _arrays(twin: keras.Model, ids: Any) -> list[np.ndarray]:
    """The document's inputs, `(timesteps, ...)` each, in the order of the model's flattened input
    structure.
    """
    tensors = keras.tree.flatten(twin.input)
    if len(tensors) == 1 and not isinstance(ids, dict):
        given = [ids]
    elif isinstance(ids, dict) and isinstance(twin.input, dict) and set(ids) == set(twin.input):
        given = [ids[key] for key in sorted(ids)]
    elif (
        isinstance(ids, (list, tuple))
        and not isinstance(twin.input, dict)
        and len(ids) == len(tensors)
    ):
        given = list(ids)
    else:
        names = [t.name for t in tensors]
        raise ValueError(
            f"`ids` must have the structure of the model's inputs, {names}. Received: "
            f"{sorted(ids) if isinstance(ids, dict) else type(ids).__name__}."
        )
    arrays = [_array(twin, tensor, array) for tensor, array in zip(tensors, given, strict=True)]
    if len({len(a) for a in arrays}) > 1:
        raise ValueError(
            f"`ids` must be equally long for all inputs. Received: {[len(a) for a in arrays]} time "
            "steps."
        )
    return arrays


def _array(twin: keras.Model, tensor: Any, given: Any) -> np.ndarray:
    array, wanted = np.asarray(given), tuple(tensor.shape[2:])
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and "int" in tensor.dtype):
        raise TypeError(
            f"`ids` must be what the model was trained on, {tensor.dtype}. Received: "
            f"{array.dtype}. Encode text first, for example `[characters.index(c) for c in text]`."
        )
    if not fits(array.shape, (None, *wanted)) or not len(array):
        raise ValueError(
            f"`ids` must be one document of shape {('timesteps', *wanted)}, without a batch axis. "
            f"Received: shape {array.shape}."
        )
    vocabulary = input_vocabulary(Graph(twin), tensor)
    if vocabulary is not None and (array.min() < 0 or array.max() >= vocabulary):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(
            f"`ids` must be ids that the model can read, 0 to {vocabulary - 1}. Received: id "
            f"{wrong}."
        )
    return array.astype(tensor.dtype)
