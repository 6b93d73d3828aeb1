"""Initial states in JSON: one number where all are alike, a few as lists, else base64."""

import base64
import binascii

import numpy as np

from keras_stateful.session.json_fields import JsonObject, ManifestError

_INLINE = 64  # the most numbers of one state that are written out as lists


def row_shape(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Shape of one row's state; sizes that are unknown, which `manifest` refuses, count as 0."""
    return tuple(size or 0 for size in shape[1:])


def write_initial(array: np.ndarray) -> JsonObject:
    """One row's initial state as a JSON object.

    Args:
        array: `(...)`, without the batch axis.

    Returns:
        `{"fill": number}` where all numbers are alike, as the zeros of Keras's cells; `{"values":
        lists}` for a few; else `{"base64": text}` of the little-endian bytes.

    Raises:
        ValueError: NaN or infinite values.
    """
    if array.size and not np.isfinite(array).all():
        raise ManifestError("An initial state holds NaN or infinite values, which JSON cannot.")
    if array.size and (array == array.flat[0]).all():
        return {"fill": array.flat[0].item()}
    if array.size <= _INLINE:
        return {"values": array.tolist()}
    # Little-endian whatever machine this is: the file goes to others.
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"base64": base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()}


def read_initial(source: JsonObject, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Reads what `write_initial` gave.

    Args:
        source: the JSON object.
        shape: of one row's state; the caller has seen to it that it fits into memory.
        dtype: NumPy's name.

    Raises:
        ManifestError: anything but finite numbers of that shape and dtype.
    """
    try:
        array = _array(source, shape, dtype)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise ManifestError(f"An initial state cannot be read ({error}).") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ManifestError("An initial state holds NaN or infinite values.")
    if array.shape != shape:
        raise ManifestError(f"An initial state has shape {array.shape}; the state is {shape}.")
    return array


def _array(source: JsonObject, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if "fill" in source:
        if type(source["fill"]) not in (int, float, bool):
            raise ValueError("fill is not a number")
        # A view of one number: a large state costs no memory before a session has rows of it.
        return np.broadcast_to(np.array(source["fill"], dtype), shape)
    if "values" in source:
        return np.array(source["values"], dtype)
    encoded = source.get("base64")
    if not isinstance(encoded, str):
        raise ValueError("it has neither fill nor values nor base64")
    data = base64.b64decode(encoded, validate=True)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
