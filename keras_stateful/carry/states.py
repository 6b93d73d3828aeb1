"""Reading, writing and resetting the recurrent state of a model, also in the middle of a JAX epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_stateful.carry.layers import Carry
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.rows import row_indices


class LayerState(NamedTuple):
    """The state variables of one call of one recurrent layer."""

    key: str
    layer: Any
    variables: list


def find_states(model: keras.Model) -> list[LayerState]:
    """All state variables of a model, by layer path; a shared layer's later calls are `path#1`,
    `path#2`.
    """
    found: list[LayerState] = []
    seen: set[int] = set()

    def walk(layer: Any, prefix: str) -> None:
        below = layer.layers if isinstance(layer, keras.Model) else keras_internals.sublayers(layer)
        for part in below:
            if id(part) in seen:
                continue
            seen.add(id(part))
            path = f"{prefix}{part.name}"
            if isinstance(part, Carry):
                for slot, states in enumerate(part._slot_states):
                    fresh = [part._fresh[slot]] if part._fresh else []
                    found.append(
                        LayerState(path + (f"#{slot}" if slot else ""), part, [*states, *fresh])
                    )
            elif isinstance(part, keras.layers.RNN):
                if part.stateful and part.states is not None:
                    found.append(LayerState(path, part, keras.tree.flatten(part.states)))
            else:
                walk(part, f"{path}/")

    walk(model, "")
    return found


def _found(model: keras.Model) -> list[LayerState]:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    states = find_states(model)
    if not states:
        raise ValueError(
            f"The model carries no state. Received: {model.name!r}. Convert it with "
            "`to_stateful(model, batch_size)`, or give its recurrent layers `stateful=True` and "
            "build it with a fixed batch size."
        )
    return states


def sync(model: keras.Model) -> None:
    """On JAX `fit` holds the values; this brings them back into the variables, where they can be
    read and written.
    """
    keras_internals.sync_from_jax(model)


def get_states(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """The recurrent states of a model.

    Args:
        model: from `to_stateful` or `to_inference`, or with `stateful=True` layers.

    Returns:
        `{layer path below the model: [array (batch, ...), ...]}`, for an LSTM `[h, c]`. A layer
        called several times has `path`, `path#1`, ... A layer whose `initial_state` comes from the
        model's graph has one array more, `(batch,)`: 1 where the row will start from that initial
        state at the next call.

    Raises:
        ValueError: a model that carries no state.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4, name="lstm")]), 2)
    h, c = ks.get_states(model)["lstm"]                     # (2, 4) each
    ```
    """
    sync(model)
    return {c.key: [devices.to_numpy(v) for v in c.variables] for c in _found(model)}


def set_states(model: keras.Model, states: dict[str, list[Any]]) -> None:
    """Writes what `get_states` gave, into the same model or one of the same layers and batch size.

    Args:
        model: as for `get_states`.
        states: `{layer path: [array (batch, ...), ...]}`, every layer's.

    Raises:
        TypeError: not a dict.
        ValueError: other layers, or arrays of another shape.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]), 2)
    before = ks.get_states(model)
    ks.set_states(model, before)
    ```
    """
    layer_states = _found(model)
    if not isinstance(states, dict):
        raise TypeError(
            f"`states` must be a dict as `get_states` gives. Received: {type(states).__name__}."
        )
    if set(states) != {s.key for s in layer_states}:
        raise ValueError(
            "`states` must have an entry for each recurrent layer. Received: "
            f"{sorted(map(str, states))}; the model has {sorted(s.key for s in layer_states)}."
        )
    for layer_state in layer_states:
        shapes = [tuple(np.shape(a)) for a in states[layer_state.key]]
        wanted = [(devices.rows(v), *v.shape[1:]) for v in layer_state.variables]
        if shapes != wanted:
            raise ValueError(
                f"`states[{layer_state.key!r}]` has arrays of other shapes than the model's "
                f"states. Received: {shapes}; the model has {wanted}. States can only be set at "
                "the batch size they were read at."
            )
    sync(model)
    for layer_state in layer_states:
        for variable, array in zip(layer_state.variables, states[layer_state.key], strict=True):
            devices.write(variable, ops.cast(ops.convert_to_tensor(array), variable.dtype))


def reset_states(model: keras.Model, rows: ArrayLike | None = None) -> None:
    """Sets the recurrent states to the initial state: all rows, or the given ones.

    The initial state is the cell's own `get_initial_state`, zeros for Keras's cells; where the
    model's graph passes `initial_state`, it is computed at the next call.

    Args:
        model: as for `get_states`.
        rows: None for all; a bool mask `(batch,)`; or a list of row indices.

    Raises:
        ValueError: a model that carries no state, a mask of another length, an index out of range.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = ks.to_stateful(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]), 2)
    ks.reset_states(model, rows=[1])
    ```
    """
    layer_states = _found(model)
    mask = None if rows is None else _row_mask(rows, devices.rows(layer_states[0].variables[0]))
    sync(model)
    write_initial(layer_states, mask)


def write_initial(layer_states: list[LayerState], mask: np.ndarray | None) -> None:
    """Sets rows to the initial state; values must have been synced on JAX."""
    rows = None if mask is None else ops.convert_to_tensor(mask)
    for layer in {id(s.layer): s.layer for s in layer_states}.values():
        if isinstance(layer, Carry):
            layer.reset_state(rows)
            continue
        variables = keras.tree.flatten(layer.states)
        initial = keras.tree.flatten(layer.get_initial_state(variables[0].shape[0]))
        for variable, value in zip(variables, initial, strict=True):
            value = ops.copy(ops.cast(value, variable.dtype))
            if rows is not None:
                flags = ops.reshape(rows, (-1,) + (1,) * (len(variable.shape) - 1))
                value = ops.where(flags, value, ops.convert_to_tensor(variable))
            variable.assign(value)


def _row_mask(rows: ArrayLike, batch_size: int) -> np.ndarray:
    mask = np.zeros(batch_size, bool)
    mask[row_indices(rows, batch_size)] = True
    return mask


def snapshot(model: keras.Model) -> list[Any]:
    """Copies of all states, left on the device."""
    sync(model)
    return [ops.copy(devices.read(v)) for c in find_states(model) for v in c.variables]


def restore(model: keras.Model, values: list[Any]) -> None:
    """Writes a snapshot back."""
    sync(model)
    variables = [v for c in find_states(model) for v in c.variables]
    for variable, value in zip(variables, values, strict=True):
        devices.write(variable, value)


@contextmanager
def preserve_states(model: keras.Model) -> Iterator[None]:
    """Whatever happens to the states inside, afterwards they are as before.

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
    _found(model)
    values = snapshot(model)
    try:
        yield
    finally:
        restore(model, values)
