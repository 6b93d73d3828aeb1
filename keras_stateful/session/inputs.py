"""What a `Session` is fed, checked: inputs and states as arrays of the artifact's dtypes.

NumPy only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import fits
from keras_stateful.foundation.frames import column_places, columns_of, named_row, row_names
from keras_stateful.foundation.states import check_arrays
from keras_stateful.foundation.types import Structure
from keras_stateful.session.manifest import State, Tensor

_NUMBERS = "biuf"  # NumPy's kinds: bool, int, unsigned int, float
_LEAVE_OUT = "or leave that row out, `rows=`; of a pool, that name"


def by_input(x: Structure, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ArrayLike]]:
    """Pairs each input of the model with the array that is meant for it.

    Args:
        x: one array for a model of one input, else a tuple or list of them in the model's order, or
            a dict by input name.
        inputs: the model's inputs.

    Raises:
        ValueError: other names, or another number of arrays.
    """
    names = [t.name for t in inputs]
    if isinstance(x, dict):
        if set(x) != set(names):
            raise ValueError(
                f"`x` must have one entry for each input. Received: {sorted(map(str, x))}; the "
                f"model has {names}."
            )
        return [(t, x[t.name]) for t in inputs]
    if len(inputs) == 1:
        return [(inputs[0], x)]
    if not isinstance(x, (tuple, list)) or len(x) != len(inputs):
        size = f" of {len(x)}" if isinstance(x, (tuple, list)) else ""
        raise ValueError(
            "`x` must be a tuple or a dict for a model of several inputs. Received: "
            f"{type(x).__name__}{size}; the inputs are {names}."
        )
    return list(zip(inputs, x, strict=True))


def read_step(x: Structure, inputs: tuple[Tensor, ...], rows: int, batch_size: int) -> list:
    """Checks what `Session.step` was given.

    Args:
        x: as in `Session.step`.
        inputs: the model's inputs.
        rows: how many rows advance.
        batch_size: rows of the session, for error messages.

    Returns:
        One array for each input, `(rows, ...)` or, where it has a time axis, `(rows, 1, ...)`.

    Raises:
        ValueError: other inputs, a wrong shape, an id outside the vocabulary, missing values.
        TypeError: a dtype that would lose what it says.
    """
    arrays = [(t, _checked(t, a, (rows,), batch_size)) for t, a in by_input(x, inputs)]
    return [array[:, None] if tensor.time else array for tensor, array in arrays]


def read_steps(
    x: Structure, inputs: tuple[Tensor, ...], rows: int, batch_size: int
) -> tuple[list[np.ndarray], int]:
    """Checks what `Session.read` was given.

    Args:
        x: as in `Session.read`.
        inputs: the model's inputs.
        rows: how many rows advance.
        batch_size: rows of the session, for error messages.

    Returns:
        One array for each input, `(rows, time, ...)` or, where it has no time axis, `(rows, ...)`;
        and the number of time steps.

    Raises:
        ValueError: as `read_step`; no time steps; inputs of different lengths.
        TypeError: as `read_step`.
    """
    arrays, length = [], None  # `length` is that of the first input with a time axis
    for tensor, value in by_input(x, inputs):
        axes = (rows, None) if tensor.time else (rows,)
        array = _checked(tensor, value, axes, batch_size)
        if tensor.time and length not in (None, array.shape[1]):
            raise ValueError(
                "All inputs of one `read` must have the same number of time steps. "
                f"Received: {array.shape[1]} for {tensor.name!r}, {length} for another."
            )
        length = array.shape[1] if tensor.time else length
        arrays.append(array)
    if not length:
        raise ValueError(
            "`x` must have at least one time step, axis 1 of `(rows, time, ...)`. "
            "Received: no time steps."
        )
    return arrays, length


def read_streams(x: Mapping[str, Structure], inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    """Checks what `Pool.step` was given.

    Args:
        x: what each stream reads, by name; not empty.
        inputs: the model's inputs.

    Returns:
        As `read_step`, a row for each stream in the order of `x`.

    Raises:
        ValueError, TypeError: as `read_step`; says which stream.
    """
    try:
        # All at once, which is many times faster than one by one, and right where they are alike.
        columns = _columns(list(x.values()), inputs)
        named = [(t, [_row_in_order(t, v) for v in c] if t.columns else c) for t, c in columns]
        arrays = [(t, _checked(t, _together(c), (len(x),), len(x))) for t, c in named]
    except (ValueError, TypeError, LookupError):
        rows = [_read_stream(name, value, inputs) for name, value in x.items()]
        stacked = map(_stacked, inputs, zip(*rows, strict=True))
        arrays = list(zip(inputs, stacked, strict=True))
    return [array[:, None] if tensor.time else array for tensor, array in arrays]


def _columns(values: list, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, list]]:
    """Pairs each input with what the streams read there.

    Raises:
        ValueError, TypeError, LookupError: streams that differ in their form; read one by one, they
            may be right.
    """
    if isinstance(values[0], dict) and not _of_columns(values[0], inputs):
        if any(len(value) != len(inputs) for value in values):
            raise LookupError
        return [(t, [value[t.name] for value in values]) for t in inputs]
    if len(inputs) == 1:
        return [(inputs[0], values)]
    if any(not isinstance(v, (tuple, list)) or len(v) != len(inputs) for v in values):
        raise LookupError
    return [(t, [value[i] for value in values]) for i, t in enumerate(inputs)]


def _of_columns(value: Structure, inputs: tuple[Tensor, ...]) -> bool:
    """True for a dict of the columns of a model's only input, rather than of its inputs."""
    return (
        isinstance(value, dict)
        and len(inputs) == 1
        and inputs[0].columns is not None
        and inputs[0].name not in value
    )


def _stacked(tensor: Tensor, column: tuple[np.ndarray, ...]) -> np.ndarray:
    """What streams read at an input, `(streams, ...)`; its size may be left open by the model."""
    shapes = sorted({array.shape for array in column})
    if len(shapes) > 1:
        raise ValueError(
            f"The streams of one `step` must have one shape at input {tensor.name!r}. Received: "
            f"shapes {shapes}. Step those of each shape by themselves."
        )
    return np.stack(column)


def _together(column: list) -> np.ndarray:
    """What streams read at an input as one array, of which NumPy would leave out the masks."""
    if any(issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, column))):
        raise LookupError
    return np.array(column)


def _read_stream(name: str, value: Structure, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    """What one stream reads, `(...)` for each input."""
    try:
        value = {inputs[0].name: value} if _of_columns(value, inputs) else value
        pairs = by_input(value, inputs)
        return [_checked(tensor, _row_in_order(tensor, v), (), 1) for tensor, v in pairs]
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`x[{name!r}]` cannot be read. {error}") from None


def _checked(
    tensor: Tensor, value: ArrayLike, axes: tuple[int | None, ...], batch_size: int
) -> np.ndarray:
    """One input in the artifact's dtype.

    Args:
        tensor: the input.
        value: what the user gave for it.
        axes: sizes of the row axis and, for `read`, of the time axis; None for any size; empty for
            one stream of a pool.
        batch_size: the session's.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"Input {tensor.name!r} is a masked array, and what its mask hides would be read. "
            f"Received: {np.ma.count_masked(value)} masked values. Fill in missing readings as for "
            f"training, {_LEAVE_OUT}."
        )
    value = _in_order(tensor, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"Input {tensor.name!r} is not an array: {error}.") from None
    if not fits(array.shape, axes + tensor.step_shape):
        raise ValueError(_wrong_shape(tensor, array, axes, batch_size))
    # Checked before it is cast: a cast would turn 0.5 into id 0 and 300 into a uint8 of 44.
    if array.dtype != tensor.dtype:
        _check_kind(tensor, array)
    if array.size:
        _check_range(tensor, array)
    with np.errstate(over="ignore"):
        cast = array.astype(tensor.dtype, copy=False)
    if cast is not array and cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise _beyond_range(tensor)
    return cast


def _in_order(tensor: Tensor, value: Any) -> Any:
    """Frames with their columns in the order of the training, where the artifact knows it."""
    if tensor.columns is None or isinstance(value, np.ndarray):
        return value
    columns = columns_of(value)
    if isinstance(value, (list, tuple)) and any(columns_of(row) or row_names(row) for row in value):
        # A frame for each row, or what a row reads at one step.
        return [_in_order(tensor, row) for row in value]
    if row_names(value) is not None:
        return _row_in_order(tensor, value)
    if columns is None:
        return value
    places = column_places(f"Input {tensor.name!r}", columns, list(tensor.columns))
    names = columns if places is None else [columns[place] for place in places]
    # One by one: of numbers and flags together a frame makes an array of objects.
    return np.stack([np.asarray(value[name]) for name in names], axis=-1)


def _row_in_order(tensor: Tensor, value: Any) -> Any:
    """What one stream reads, likewise: a row of a frame, a frame of one row, a dict."""
    if isinstance(value, np.ndarray):
        return value
    if tensor.columns is None:
        if isinstance(value, Mapping):
            raise TypeError(
                f"Input {tensor.name!r} is a dict, and the artifact knows no names of columns. "
                f"Received: {sorted(map(str, value))}. Pass the numbers in the order of the "
                "training, `list(x.values())` where it is that; or train on frames, and export "
                "anew."
            )
        return value
    names, numbers = named_row(value)
    places = column_places(f"Input {tensor.name!r}", names, list(tensor.columns))
    return numbers if places is None else np.asarray(numbers)[places]


def _wrong_shape(
    tensor: Tensor, array: np.ndarray, axes: tuple[int | None, ...], batch_size: int
) -> str:
    """The message for a wrong shape: what it should be, and the likely cause."""
    names = ["rows", "time"][: len(axes)]
    sizes = [*names, *("any" if d is None else str(d) for d in tensor.step_shape)]
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
    message = f"Input {tensor.name!r} must have shape {shape}. Received: "
    if array.dtype == object and not array.ndim:
        return f"{message}{array.item()!r}."
    message += f"shape {array.shape}"
    if not axes:
        return f"{message}. A stream of a pool reads one time step, without row and time axes."
    if array.ndim == len(sizes) and array.shape[0] != axes[0]:
        return (
            f"{message}, {array.shape[0]} rows for {axes[0]}. The session has "
            f"batch_size={batch_size}; `rows=` advances some of them, `load_session(directory, "
            "batch_size=...)` sets how many there are."
        )
    if len(axes) == 1 and array.ndim == len(sizes) + 1:
        return f"{message}. `step` takes one time step without a time axis; `read` takes many."
    if array.ndim == len(sizes) - 1:
        time, rows = "time axis; `step` takes one step", "row axis: write `[x]`"
        return f"{message}. It may lack the {time if len(axes) == 2 else rows}."
    return f"{message}."


def _check_kind(tensor: Tensor, array: np.ndarray) -> None:
    """Refuses dtypes that would lose what they say: text, floats for ids, numbers for flags."""
    kind, expected = array.dtype.kind, np.dtype(tensor.dtype).kind
    if kind not in _NUMBERS:
        what = "ids" if expected in "iu" else "numbers"
        remedy = f"Encode it first: pass {what}, as the model was trained on."
    elif (expected in "iu" and kind == "f") or (expected == "b" and kind != "b"):
        remedy = f'Convert it first, e.g. `x.astype("{tensor.dtype}")`, if that loses nothing.'
    else:
        return
    raise TypeError(
        f"Input {tensor.name!r} is {tensor.dtype}. Received: dtype {array.dtype}. {remedy}"
    )


def _check_range(tensor: Tensor, array: np.ndarray) -> None:
    """Checks that numbers are finite, ids in the vocabulary, integers in the input's range."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"Input {tensor.name!r} is NaN or infinite, which its row would carry in its state "
            f"from then on. Received: {np.count_nonzero(~np.isfinite(array))} such values. Fill in "
            f"missing readings as for training, {_LEAVE_OUT}."
        )
    # A gather reads -1 as the last row of a table; what lies beyond depends on the runtime.
    if tensor.vocabulary is not None:
        low, high = array.min(), array.max()
        if low < 0 or high >= tensor.vocabulary:
            raise ValueError(
                f"Input {tensor.name!r} takes ids from 0 to {tensor.vocabulary - 1}, what the "
                f"model's Embedding knows. Received: {low if low < 0 else high}. Encode with the "
                "vocabulary that the model was trained with."
            )
    elif array.dtype != tensor.dtype and np.dtype(tensor.dtype).kind in "iu":
        bounds = np.iinfo(tensor.dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise _beyond_range(tensor)


def _beyond_range(tensor: Tensor) -> ValueError:
    return ValueError(
        f"Input {tensor.name!r} is {tensor.dtype}. Received: values beyond its range. Scale them "
        "as for training."
    )


def read_states(
    states: Any, expected: tuple[State, ...], rows: int, argument: str = "rows"
) -> list[np.ndarray]:
    """Checks what `set_states` of a session or pool was given.

    Args:
        states: as in `Session.set_states`.
        expected: the states of the model.
        rows: how many rows are written.
        argument: what says which.

    Returns:
        Copies `(rows, ...)` in the order of `expected`.

    Raises:
        ValueError: other layers, shapes or numbers of rows; NaN or infinite values.
        TypeError: not a dict of lists of numbers.
    """
    shapes: dict[str, list[tuple]] = {}
    for state in expected:
        shapes.setdefault(state.layer, []).append((rows, *state.shape[1:]))
    check_arrays(states, shapes, "artifact", f"`{argument}=` says which rows to write.")
    left = {layer: iter(arrays) for layer, arrays in states.items()}
    # Copies: what the user does to theirs changes no session.
    return [np.array(next(left[state.layer]), state.dtype) for state in expected]
