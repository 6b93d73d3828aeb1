"""Reads, writes and resets the state of a model, also in the middle of an epoch on JAX."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_stateful.carry.graph import main_path
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.steps import rows_like
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.rows import row_indices
from keras_stateful.foundation.states import (
    States,
    check_arrays,
    check_owner,
    fingerprint,
    sampled,
)
from keras_stateful.foundation.types import Tensor

keras_internals.look_into(States)


class LayerState(NamedTuple):
    """The state variables of one call of one recurrent layer.

    Attributes:
        key: the layer's path below the model; of later calls of a shared layer `path#1`, `path#2`.
        layer: the layer, one of `Carry` or a plain one with `stateful=True`.
        variables: its states, `(batch, ...)` each, for an LSTM h and c; and behind them, where the
            graph gives an initial state, `(batch,)` flags of fresh rows.
    """

    key: str
    layer: keras.layers.RNN
    variables: list[keras.Variable]


def find_states(model: keras.Model) -> list[LayerState]:
    """All state variables of a model, layer by layer; none of a model that carries nothing."""
    layers: dict[int, keras.layers.Layer] = {}
    paths: dict[int, list[str]] = {}  # a shared layer lies in several places

    def walk(layer: keras.layers.Layer, prefix: str, above: frozenset[int]) -> None:
        below = layer.layers if isinstance(layer, keras.Model) else keras_internals.sublayers(layer)
        for part in below:
            path = f"{prefix}{part.name}"
            if isinstance(part, (Carry, keras.layers.RNN)):
                layers[id(part)] = part
                paths.setdefault(id(part), []).append(path)
            elif id(part) not in above:  # a user's layers may hold each other
                walk(part, f"{path}/", above | {id(part)})

    walk(model, "", frozenset())
    states: list[LayerState] = []
    for key, layer in layers.items():
        path = main_path(paths[key])
        if isinstance(layer, Carry):
            states.extend(_states_of_slots(layer, path))
        elif layer.stateful and layer.states is not None:
            states.append(LayerState(path, layer, keras.tree.flatten(layer.states)))
    return states


def _states_of_slots(layer: Carry, path: str) -> Iterator[LayerState]:
    for slot, variables in enumerate(layer.slot_states):
        fresh = [layer.fresh_rows[slot]] if layer.fresh_rows else []
        yield LayerState(path + (f"#{slot}" if slot else ""), layer, [*variables, *fresh])


def _states_that_must_be(model: keras.Model) -> list[LayerState]:
    """The states of a model that must carry some."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    states = find_states(model)
    if not states:
        raise ValueError(f"The model carries no state. Received: {without_state(model)}")
    return states


def without_state(model: keras.Model) -> str:
    """A model that carries no state, and what to do about it, for an error message."""
    if keras_internals.is_graph(model) or isinstance(model, keras.Sequential):
        return (
            f"{model.name!r}, which carries none. Convert it with `to_stateful(model, sequence)` "
            "or `to_stateful(model, batch_size)`, or give its recurrent layers `stateful=True` and "
            "its input a fixed batch size."
        )
    return (
        f"{model.name!r}, a subclassed model that has none yet: its layers get theirs when it is "
        "called. Give its recurrent layers `stateful=True` and call it on one batch, `model(x)`, "
        "before (`model.build` is not enough)."
    )


def sync(model: keras.Model) -> None:
    """Brings the values back into the variables, where JAX's `fit` holds them meanwhile."""
    keras_internals.sync_from_jax(model)


def get_states(model: keras.Model, rows: ArrayLike | None = None) -> States:
    """The recurrent states of a model.

    Args:
        model: from `to_stateful` or `to_inference`, or with `stateful=True` layers.
        rows: None for all; a bool mask `(batch,)`; or a list of row indices.

    Returns:
        `{layer path below the model: [array (rows, ...), ...]}`, for an LSTM `[h, c]`; a dict that
        remembers which weights made them. A layer called several times has `path`, `path#1`, ... A
        layer whose `initial_state` comes from the model's graph has one array more, `(rows,)`: 1
        where the row will start from that initial state at the next call. A layer under a mask
        whose cell puts out something else than a state has the output of the last step as well.

    Raises:
        ValueError: a model that carries no state, a row that does not exist.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    lstm = keras.layers.LSTM(4, name="lstm")
    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), lstm]), 2)
    h, c = ks.get_states(model)["lstm"]                     # (2, 4) each
    ```
    """
    layer_states = _states_that_must_be(model)
    index = None if rows is None else _indices(rows, layer_states)
    sync(model)
    return States(read_states(layer_states, index), fingerprint_of(model, layer_states), model)


def read_states(
    layer_states: list[LayerState], index: np.ndarray | None = None
) -> dict[str, list[np.ndarray]]:
    """The states by layer, of a model whose values are in its variables (`sync`).

    Args:
        layer_states: of the model.
        index: int `(rows,)`, the rows; None for all.
    """
    arrays = {state.key: list(map(devices.to_numpy, state.variables)) for state in layer_states}
    if index is None:
        return arrays
    return {key: [array[index] for array in of_layer] for key, of_layer in arrays.items()}


def fingerprint_of(model: keras.Model, layer_states: list[LayerState]) -> str | None:
    """The fingerprint of a model's weights; None where several processes hold parts of them."""
    if devices.processes() > 1:
        return None
    carried = {id(variable) for state in layer_states for variable in state.variables}
    weights = {id(weight): weight for weight in model.weights if id(weight) not in carried}
    # Replicas hold the same weights, so that the first one's will do.
    parts = (devices.parts(weight)[0] for weight in weights.values())
    return fingerprint(map(sample, parts))


def sample(weight: keras.Variable) -> tuple[tuple, np.ndarray]:
    """What a fingerprint reads of a weight: its shape, and some of its values."""
    shape = tuple(weight.shape)
    values = ops.reshape(weight, (-1,))[sampled(math.prod(shape))]
    return shape, np.asarray(ops.convert_to_numpy(values))


def set_states(
    model: keras.Model, states: dict[str, list[ArrayLike]], rows: ArrayLike | None = None
) -> None:
    """Writes what `get_states` gave, into the same model or one of the same layers and weights.

    Args:
        model: as for `get_states`.
        states: `{layer path: [array (rows, ...), ...]}`, every layer's.
        rows: the rows to write, as for `get_states`.

    Raises:
        TypeError: not a dict, arrays that are no numbers.
        ValueError: other layers, or arrays of another shape; states that another model's weights
            made, as before a training; NaN or infinite values; a row that does not exist.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]), 2)
    before = ks.get_states(model)
    ks.set_states(model, before)
    ```
    """
    layer_states = _states_that_must_be(model)
    index = None if rows is None else _indices(rows, layer_states, repeats=False)
    check_states(
        states,
        layer_states,
        None if index is None else len(index),
        "States can only be set at the batch size they were read at; `rows=` says which rows to "
        "write.",
    )
    sync(model)
    if isinstance(states, States) and not states.read_from(model):
        check_owner(states, fingerprint_of(model, layer_states), f"{model.name!r}")
    write_states(layer_states, states, index)


def write_states(
    layer_states: list[LayerState],
    states: Mapping[str, Sequence[ArrayLike]],
    index: np.ndarray | None = None,
) -> None:
    """Writes states that are known to fit, into a model whose values are in its variables (`sync`).

    Args:
        layer_states: of the model.
        states: by layer, `(rows, ...)` each.
        index: int `(rows,)`, the rows to write, each once; None for all.
    """
    for layer_state in layer_states:
        for variable, array in zip(layer_state.variables, states[layer_state.key], strict=True):
            value = ops.cast(ops.convert_to_tensor(array), variable.dtype)
            if index is not None:
                value = ops.scatter_update(devices.read(variable), index[:, None], value)
            devices.write(variable, value)


def check_states(
    states: dict[str, list[ArrayLike]],
    layer_states: list[LayerState],
    rows: int | None,
    remedy: str,
) -> None:
    """Checks that there is an array of the right shape for each state of a model.

    Args:
        states: as for `set_states`.
        layer_states: of the model.
        rows: how many rows are written; None for all.
        remedy: what to do about another number of rows, a sentence.
    """
    shapes = {
        s.key: [(devices.rows(v) if rows is None else rows, *v.shape[1:]) for v in s.variables]
        for s in layer_states
    }
    check_arrays(states, shapes, "model", remedy, ops.convert_to_numpy)


def reset_states(model: keras.Model, rows: ArrayLike | None = None) -> None:
    """Sets the recurrent states to the initial state: all rows, or the given ones.

    The initial state is the cell's own `get_initial_state`, zeros for Keras's cells; where the
    model's graph passes `initial_state`, it is computed at the next call.

    Args:
        model: as for `get_states`.
        rows: None for all; a bool mask `(batch,)`, which may be False for all; or a list of row
            indices, at least one.

    Raises:
        ValueError: a model that carries no state, a mask of another length, an index out of range,
            an empty list.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]), 2)
    ks.reset_states(model, rows=[1])
    ```
    """
    layer_states = _states_that_must_be(model)
    mask = None
    if rows is not None:
        mask = np.zeros(devices.rows(layer_states[0].variables[0]), bool)
        mask[_indices(rows, layer_states)] = True
    sync(model)
    write_initial(layer_states, mask)


def write_initial(layer_states: list[LayerState], mask: np.ndarray | None) -> None:
    """Sets rows to the initial state.

    Args:
        layer_states: of a model whose values are in its variables (`sync`).
        mask: bool `(batch,)`, the rows; None for all.
    """
    rows = None if mask is None else ops.convert_to_tensor(mask)
    for layer in {id(s.layer): s.layer for s in layer_states}.values():
        if isinstance(layer, Carry):
            layer.reset_state(rows)
            continue
        # Keras's own layer; its `reset_state` knows neither rows nor a cell's initial state.
        variables = keras.tree.flatten(layer.states)
        initial = keras.tree.flatten(layer.get_initial_state(variables[0].shape[0]))
        for variable, value in zip(variables, initial, strict=True):
            value = ops.copy(ops.cast(value, variable.dtype))
            if rows is not None:
                value = ops.where(rows_like(rows, value), value, ops.convert_to_tensor(variable))
            variable.assign(value)


def _indices(
    rows: ArrayLike, layer_states: list[LayerState], *, repeats: bool = True
) -> np.ndarray:
    """`rows` as row indices of a model that carries these states."""
    return row_indices(rows, devices.rows(layer_states[0].variables[0]), repeats=repeats)


def snapshot(model: keras.Model) -> list[Tensor]:
    """Copies of all states, left on the device."""
    sync(model)
    return [ops.copy(devices.read(v)) for state in find_states(model) for v in state.variables]


def restore(model: keras.Model, values: list[Tensor]) -> None:
    """Writes back what `snapshot` gave."""
    sync(model)
    variables = [v for state in find_states(model) for v in state.variables]
    for variable, value in zip(variables, values, strict=True):
        devices.write(variable, value)


@contextmanager
def preserve_states(model: keras.Model) -> Iterator[None]:
    """Puts the states back afterwards, whatever happens to them inside.

    Args:
        model: as for `get_states`.

    Raises:
        ValueError: a model that carries no state.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]), 2)
    with ks.preserve_states(model):
        model.predict(np.ones((2, 5, 3)), verbose=0)
    ```
    """
    _states_that_must_be(model)
    values = snapshot(model)
    try:
        yield
    finally:
        restore(model, values)
