"""What a `Session` is fed, checked: rows, inputs and states, as NumPy arrays of the artifact's
dtypes. NumPy only.
"""

from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import fits
from keras_stateful.session.manifest import State, Tensor


def by_input(x: Any, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, Any]]:
    """What the user gave as `x`, beside the input that it is for."""
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
        given = (
            f"{type(x).__name__} of {len(x)}" if isinstance(x, (tuple, list)) else type(x).__name__
        )
        raise ValueError(
            f"`x` must be a tuple or a dict for a model of several inputs. Received: {given}; the "
            f"inputs are {names}."
        )
    return list(zip(inputs, x, strict=True))


def checked(
    tensor: Tensor, array: Any, leading: tuple[int | None, ...], batch_size: int
) -> np.ndarray:
    """One input in the artifact's dtype and, for one step, with a time axis of length 1.

    Args:
        tensor: the input.
        array: what the user gave for it.
        leading: sizes of its rows and, for `read`, of its time axis; None where any goes.
        batch_size: the session's.
    """
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"Input {tensor.name!r} is not an array: {error}.") from None
    wanted = leading + tensor.step_shape
    if not fits(array.shape, wanted):
        raise ValueError(_wrong_shape(tensor, array, wanted, leading, batch_size))
    if array.dtype != tensor.dtype:
        _check_kind(tensor, array)
    _check_range(tensor, array)
    array = array.astype(tensor.dtype, copy=False)
    return array[:, None] if tensor.time and len(leading) == 1 else array


def _wrong_shape(
    tensor: Tensor,
    array: np.ndarray,
    wanted: tuple[int | None, ...],
    leading: tuple[int | None, ...],
    batch_size: int,
) -> str:
    axes = ["rows", "time"][: len(leading)]
    words = ", ".join([*axes, *("any" if d is None else str(d) for d in tensor.step_shape)])
    words = f"({words},)" if len(wanted) == 1 else f"({words})"
    message = f"Input {tensor.name!r} must have shape {words}. Received: shape {array.shape}"
    if array.ndim == len(wanted) and array.shape[0] != wanted[0]:
        return (
            f"{message}, {array.shape[0]} rows for {wanted[0]}. The session has "
            f"batch_size={batch_size}; `rows=` advances some of them, `load_session(directory, "
            "batch_size=...)` sets how many there are."
        )
    if len(leading) == 1 and array.ndim == len(wanted) + 1:
        return f"{message}. `step` takes one time step without a time axis; `read` takes many."
    if array.ndim == len(wanted) - 1:
        missing = (
            "time axis; `step` takes one step" if len(leading) == 2 else "row axis: write `x[None]`"
        )
        return f"{message}. It may lack the {missing}."
    return f"{message}."


def _check_kind(tensor: Tensor, array: np.ndarray) -> None:
    from_kind, to_kind = array.dtype.kind, np.dtype(tensor.dtype).kind
    if (
        from_kind not in "biuf"
        or (to_kind in "iu" and from_kind == "f")
        or (to_kind == "b" and from_kind != "b")
    ):
        remedy = f'Convert it first, e.g. `x.astype("{tensor.dtype}")`, if that loses nothing.'
        if from_kind not in "biuf":
            remedy = f"Encode it first: pass {'ids' if to_kind in 'iu' else 'numbers'}, as the model was trained on."
        raise TypeError(
            f"Input {tensor.name!r} is {tensor.dtype}. Received: dtype {array.dtype}. {remedy}"
        )


def _check_range(tensor: Tensor, array: np.ndarray) -> None:
    """Ids must be in the vocabulary, other integers in the range of the input's dtype."""
    if not array.size:
        return
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"Input {tensor.name!r} is NaN or infinite, which its row would carry in its state "
            f"from then on. Received: {np.count_nonzero(~np.isfinite(array))} such values. Fill in "
            "missing readings as for training, or leave that row out: `rows=`."
        )
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
            raise ValueError(
                f"Input {tensor.name!r} is {tensor.dtype}. Received: values beyond its range."
            )


def as_state(state: State, array: Any, rows: int) -> np.ndarray:
    """What the user gave for a state, `(rows, ...)`, a copy."""
    array = np.asarray(array)
    wanted = (rows, *state.shape[1:])
    if array.shape != wanted:
        raise ValueError(
            f"`states[{state.layer!r}]` has an array of another shape than the session's state. "
            f"Received: {array.shape}; it must be {wanted}. `rows=` says which rows to write."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"`states[{state.layer!r}]` must hold numbers. Received: dtype {array.dtype}."
        )
    return array.astype(state.dtype)
