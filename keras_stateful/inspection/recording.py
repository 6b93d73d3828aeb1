"""`record_states`: what a recurrent layer's state is after each step of a document."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import LayerState, find_states, sync
from keras_stateful.carry.vocabulary import input_vocabulary
from keras_stateful.conversion.convert import to_inference
from keras_stateful.conversion.step_model import has_time
from keras_stateful.foundation.arguments import fits, whole_number
from keras_stateful.foundation.progress import ProgressBar, Verbose, read_verbose
from keras_stateful.foundation.types import Structure


def record_states(
    model: keras.Model,
    ids: Structure,
    layer: str | None = None,
    *,
    state: int = 0,
    verbose: Verbose = "auto",
) -> np.ndarray:
    """The state of a recurrent layer after each time step of one document.

    A twin of the model over the same variables reads the document at batch 1, step by step, from
    the initial state: the model's own state, weights and compilation stay as they are. The first
    call for a model compiles; then a step takes about as long as `predict_on_batch`.

    Args:
        model: any model that `to_inference` accepts, converted or not.
        ids: the document: ids `(timesteps,)` or features `(timesteps, ...)`; for several inputs a
            list or dict of these, as the model's inputs are; one without a time axis, `(...)`, is
            the same at all steps.
        layer: name or path of the recurrent layer, as in `get_states`; None for the last one.
        state: which of its states, in the order of `get_states`: of an LSTM 0 is `h`, which it
            gives to the next layer, and 1 is `c`, its memory.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end; "auto" for 1 in a
            terminal or notebook, and 2 where output goes to a file.

    Returns:
        float32 `(timesteps, units)`; for a ConvLSTM `(timesteps, ..., channels)`.

    Raises:
        TypeError: ids that are text or no numbers; a state that is no int.
        ValueError: a layer or state that the model does not have, ids that it cannot read, a model
            that `to_inference` refuses (one without recurrent layers).

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.LSTM(16, return_sequences=True),
        keras.layers.Dense(9),
    ])
    memory = ks.record_states(model, [1, 2, 3, 4], state=1)
    assert memory.shape == (4, 16)
    ```
    """
    verbose = read_verbose(verbose)
    if isinstance(model, keras.Model):
        sync(model)  # in a callback the variables may be behind
    twin = to_inference(model, share_weights=True)
    variable = _state_variable(_layer_state(find_states(twin), layer), state)
    arrays = _arrays(twin, ids)
    timed = [has_time(tensor) for tensor in keras.tree.flatten(twin.input)]
    steps = next(len(array) for array, time in zip(arrays, timed, strict=True) if time)
    recorded = np.empty((steps, *variable.shape[1:]), "float32")
    with ProgressBar(verbose, steps) as shown:
        for t in range(steps):  # the twin carries its state from one step to the next
            pairs = zip(arrays, timed, strict=True)
            step = [a[None, t : t + 1] if time else a[None] for a, time in pairs]  # (1, 1, ...)
            twin.predict_on_batch(keras.tree.pack_sequence_as(twin.input, step))
            recorded[t] = ops.convert_to_numpy(variable)[0]
            shown.advance()
    return recorded


def _layer_state(layer_states: list[LayerState], layer: str | None) -> LayerState:
    """The state that `layer` names: the last one, a path, or a name that no other layer has."""
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


def _state_variable(layer_state: LayerState, state: int) -> keras.Variable:
    """The variable of the state that `state` names."""
    variables = layer_state.variables
    if layer_state.layer.initial_state_given:  # the last one marks rows that wait for theirs
        variables = variables[:-1]
    state = whole_number("state", state, 0)
    if state >= len(variables):
        raise ValueError(
            f"`state` must be the index of a state of `{layer_state.key}`. Received: "
            f"state={state!r}; it has {len(variables)}, of an LSTM 0 for `h` and 1 for `c`."
        )
    return variables[state]


# The document


def _arrays(twin: keras.Model, ids: Structure) -> list[np.ndarray]:
    """The document's inputs, in the order of the model's flattened inputs.

    Each is `(timesteps, ...)` or, where the input has no time axis, `(...)`.
    """
    tensors = keras.tree.flatten(twin.input)
    values = _in_order(twin, ids)
    graph = Graph(twin)
    vocabularies = [input_vocabulary(graph, tensor) for tensor in tensors]
    arrays = [_array(*each) for each in zip(values, tensors, vocabularies, strict=True)]
    lengths = [len(a) for a, tensor in zip(arrays, tensors, strict=True) if has_time(tensor)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"`ids` must be equally long for all inputs. Received: {lengths} time steps."
        )
    return arrays


def _in_order(twin: keras.Model, ids: Structure) -> list[Any]:
    """What `ids` gives for each input, in the order in which Keras flattens them."""
    tensors = keras.tree.flatten(twin.input)
    if len(tensors) == 1 and not isinstance(ids, dict):
        return [ids]
    if isinstance(twin.input, dict):
        if isinstance(ids, dict) and set(ids) == set(twin.input):
            return [ids[key] for key in sorted(ids)]
    elif isinstance(ids, (list, tuple)) and len(ids) == len(tensors):
        return list(ids)
    raise ValueError(
        f"`ids` must have the structure of the model's inputs, {[t.name for t in tensors]}. "
        f"Received: {sorted(ids) if isinstance(ids, dict) else type(ids).__name__}."
    )


def _array(value: Any, tensor: keras.KerasTensor, vocabulary: int | None) -> np.ndarray:
    """One input of the document as numbers that the model can read.

    Args:
        value: what was given for it.
        tensor: the model's input `(1, time, ...)`, or without a time axis `(1, ...)`.
        vocabulary: how many ids the model knows there; None for any number.
    """
    per_step = tuple(tensor.shape[2:])
    try:
        array = np.asarray(value)
    except ValueError as error:  # parts of different lengths
        raise ValueError(
            f"`ids` must be one document of shape {('timesteps', *per_step)}. Received: a list of "
            f"{len(value)} of different shapes. For several documents call `record_states` for "
            "each."
        ) from error
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and "int" in tensor.dtype):
        raise TypeError(
            f"`ids` must be what the model was trained on, {tensor.dtype}. Received: "
            f"{array.dtype}. Encode text first, for example `[characters.index(c) for c in text]`."
        )
    if not has_time(tensor):
        if not fits(array.shape, tuple(tensor.shape[1:])):
            raise ValueError(
                f"`ids` of the input {tensor.name!r}, which has no time axis, must have shape "
                f"{tuple(tensor.shape[1:])}. Received: shape {array.shape}. Give it once for the "
                "document."
            )
    elif not fits(array.shape, (None, *per_step)) or not len(array):
        raise ValueError(
            f"`ids` must be one document of shape {('timesteps', *per_step)}, without a batch "
            f"axis. Received: shape {array.shape}. For several documents call `record_states` for "
            "each."
        )
    if vocabulary is not None and (array.min() < 0 or array.max() >= vocabulary):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(
            f"`ids` must be ids that the model can read, 0 to {vocabulary - 1}. Received: id "
            f"{wrong}."
        )
    return array.astype(tensor.dtype)
