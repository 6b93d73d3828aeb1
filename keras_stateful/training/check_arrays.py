"""Checks of arrays in memory, which Keras cuts into batches itself: their rows, order and inputs.

A model that carries its state has a fixed number of rows, and row `i` of each batch goes on where
row `i` of the last ended. Keras knows neither: it cuts batches of 32 rows, gives the last what is
left over, and shuffles.
"""

import keras
import numpy as np

from keras_stateful.carry.states import find_states
from keras_stateful.data.arrays import refuse_masked
from keras_stateful.data.kinds import as_array, is_array
from keras_stateful.foundation import devices
from keras_stateful.foundation.protocols import resets_taken
from keras_stateful.foundation.types import Arguments, Structure, Tensor


def is_arrays(data: Structure) -> bool:
    """True for arrays in memory, alone or in lists and dicts: what Keras cuts into batches."""
    if isinstance(data, np.ndarray):  # what steps of one's own hand over, where microseconds count
        return True
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(map(_is_cut, leaves))


def leaves_of(arrays: Structure) -> list[Tensor]:
    """The arrays of a structure that `is_arrays` knows."""
    return [arrays] if isinstance(arrays, np.ndarray) else keras.tree.flatten(arrays)


def _is_cut(leaf: Structure) -> bool:
    # Keras cuts tensors as well that NumPy cannot hold: ragged and sparse ones.
    return is_array(leaf) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def in_numpy(name: str, data: Structure) -> Structure:
    """Arrays of other packages as NumPy's; tensors of the backend and all other data as they are.

    Args:
        name: name of the argument, used in error messages.
        data: anything that Keras takes; of a tuple, `(x, y)`, each part.

    Raises:
        TypeError: arrays of what is no number, such as times.
        ValueError: masked arrays with masked values.
    """
    if isinstance(data, tuple):
        return tuple(in_numpy(name, part) for part in data)
    if isinstance(data, np.ndarray):
        return _in_numpy(name, data)
    if not is_arrays(data):
        return data
    return keras.tree.map_structure(lambda array: _in_numpy(name, array), data)


def _in_numpy(name: str, array: Tensor) -> Tensor:
    if type(array) is np.ndarray and array.dtype.kind in "iufb":
        return array
    refuse_masked(name, array)
    if keras.ops.is_tensor(array):  # one of torch may be part of a graph, which a step would free
        return array.detach() if getattr(array, "requires_grad", False) else array
    text_or_number = isinstance(array, np.ndarray) and array.dtype.kind not in "OMm"
    if text_or_number or not is_array(array):
        return array
    return as_array(name, array)


def count_rows(arrays: Structure) -> int:
    """Rows of arrays `(rows, time, ...)`."""
    return int(np.shape(leaves_of(arrays)[0])[0])


def check_not_empty(name: str, data: Structure) -> None:
    """Refuses arrays `(rows, time, ...)` without a row or without a time step.

    Raises:
        ValueError: such an array; a compiled step would fail on it in its own words.
    """
    if not is_arrays(data):
        return
    for array in leaves_of(data):
        if 0 in np.shape(array)[:2]:
            raise ValueError(
                f"`{name}` must be windows `(rows, time, ...)` of at least one time step. "
                f"Received: an array of shape {tuple(np.shape(array))}. Leave empty windows out."
            )


def check_one_batch(method: str, x: Structure) -> None:
    """Refuses what is no array, nor arrays in a list or dict, for a method that takes one batch.

    Raises:
        TypeError: a sequence, an iterator, anything that gives batches; it would fail in Keras.
    """
    if not is_arrays(x):
        raise TypeError(
            f"`{method}` takes the arrays of one batch. Received: x of type {type(x).__name__}. "
            "`fit`, `evaluate` and `predict` read what gives batches; one of them is "
            f"`model.{method}(sequence[i][0], ...)`."
        )


def check_rows_of_batch(rows: int, x: Structure) -> None:
    """Checks that all arrays of one batch have the model's rows.

    Raises:
        ValueError: another number of rows; documents in the place of windows have such.
    """
    for array in leaves_of(x):
        shape = tuple(np.shape(array))
        if shape[:1] != (rows,):
            raise ValueError(
                f"`x` must have a window for each of the model's {rows} rows. Received: an array "
                f"of shape {shape}. Whole documents are read by `predict_documents(model, "
                "documents)`; for other rows there is `to_inference(model, batch_size)`."
            )


def model_batch_size(model: keras.Model) -> int:
    """Rows of a model that carries its state, on all devices."""
    return devices.rows(find_states(model)[0].variables[0])


def check_rows(model: keras.Model, name: str, data: Structure, batch_size: int | None) -> None:
    """Checks that arrays fill batches of exactly the model's rows.

    Keras would broadcast a batch of another size or crash at it, after the steps before.

    Args:
        model: the model that reads them.
        name: name of the argument, used in error messages.
        data: anything; what is not arrays is left alone.
        batch_size: the one that Keras would cut them by; None for the model's own.

    Raises:
        ValueError: a batch size other than the model's, or rows left over.
    """
    if not is_arrays(data):
        return
    check_not_empty(name, data)
    rows = model_batch_size(model)
    if (batch_size or rows) != rows:
        raise ValueError(
            f"The model carries the state of {rows} rows. Received: batch_size={batch_size}. Leave "
            "`batch_size` out, or convert the model to that size: `to_stateful(model, "
            "batch_size)`, `to_inference(model, batch_size)`."
        )
    count = count_rows(data)
    left_over = count % rows
    if left_over:
        raise ValueError(
            f"`{name}` does not fill whole batches: the last would have {left_over} rows where "
            f"the model carries {rows}. Received: {count} rows. Leave out the last {left_over}, "
            "or use `StatefulSequence`, which pads."
        )


def check_validation_rows(model: keras.Model, data: Structure, arguments: Arguments) -> None:
    """Checks the batch size of validation arrays: Keras would train an epoch before it fails.

    Args:
        model: the model that is trained.
        data: the inputs of `validation_data`; what is not arrays is left alone.
        arguments: of `fit`, by name.

    Raises:
        ValueError: batches of other rows than the model's.
    """
    if not is_arrays(data):
        return
    rows = model_batch_size(model)
    # Where neither is given, Keras takes 32.
    size = arguments.get("validation_batch_size") or arguments.get("batch_size") or 32
    if size != rows:
        raise ValueError(
            f"Keras would cut `validation_data` into batches of {size} rows, and the model carries "
            f"the state of {rows}. Received: "
            f"validation_batch_size={arguments.get('validation_batch_size')}. Pass "
            f"`validation_batch_size={rows}`, or a `StatefulSequence`."
        )


def check_resets_given(model: keras.Model, name: str, data: Structure) -> None:
    """Checks that arrays have rows, and the resets among them where the model takes these.

    The compiled step would fail without them, in Keras's words.

    Raises:
        ValueError: fewer arrays than the model has inputs, empty ones, or one without rows.
    """
    check_not_empty(name, data)
    if not is_arrays(data):
        return
    if np.ndim(leaves_of(data)[0]) > 1:  # to others Keras adds an axis, but for `predict`
        _check_row_axis(model, name, data)
    if resets_taken(model) is None:
        return
    count = len(leaves_of(data))
    if count < len(model.inputs):
        raise ValueError(
            f"The model has {len(model.inputs)} inputs, the last of them the resets. Received: "
            f"`{name}` with {count}. Pass `StatefulSequence(documents, ..., resets=True)`; `(x, "
            "resets)` with a bool for each row, True where it starts afresh; or use a copy without "
            "that input: `to_inference(model, batch_size)`."
        )


def check_rows_of_predict(model: keras.Model, data: Structure, batch_size: int | None) -> None:
    """Checks that `predict` is given one window for each row of the model.

    More windows would be read one batch after the other, each with the state of those before; only
    who gives `batch_size` can mean that.

    Raises:
        ValueError: a window without its row axis, or other rows than the model's.
    """
    if not is_arrays(data):
        return
    check_resets_given(model, "x", data)
    rows, count = model_batch_size(model), count_rows(data)
    _check_row_axis(model, "x", data)
    if count != rows and batch_size is None:
        raise ValueError(
            f"`predict` takes one window for each of the model's {rows} rows. Received: {count} "
            "rows. For rows that are separate: "
            f"`to_inference(model{'' if count == 1 else f', {count}'}).predict(x)`; for whole "
            "documents `predict_documents(model, documents)`; for windows that follow each other, "
            f"`predict(x, batch_size={rows})`."
        )
    check_rows(model, "x", data, batch_size)


def _check_row_axis(model: keras.Model, name: str, data: Structure) -> None:
    """Refuses one window in place of a batch of windows: its steps would be taken for rows."""
    inputs = getattr(model, "inputs", None)  # none of a subclassed model
    if not inputs or len(inputs) > 1 or isinstance(data, dict):
        return  # of several inputs, each may have another number of axes
    expected, shape = tuple(inputs[0].shape), np.shape(leaves_of(data)[0])
    # An input with a last axis of length 1 may be given without it: Keras adds it.
    if len(shape) == len(expected) - 1 and expected[-1] != 1:
        raise ValueError(
            f"`{name}` must have a window for each of the model's {model_batch_size(model)} rows. "
            f"Received: an array of shape {shape}; the model's input has shape {expected}. If it "
            "is one window, its row axis is missing: `np.asarray(x)[None]`; if it is a series, "
            "pass it to `StatefulSequence`, or `predict_documents(model, [x])`."
        )
