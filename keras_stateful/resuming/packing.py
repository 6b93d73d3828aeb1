"""Values of Python as JSON text, with the arrays among them in a file of NumPy's beside it.

    {"step": 3, "states": [array, array]}

    run.json     {"dict": [["step", 3], ["states", [{"array": "a0"}, {"array": "a1"}]]]}
    state.npz    a0, a1

JSON has no arrays, tuples or sets, and its keys are text. So each of these, and each dict, is
written as an object with one key, which says what it is. Everything else is JSON's own.

Nothing here can run code: the arrays are read without pickle, and no more memory is taken than the
files are long.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Damaged(ValueError):
    """A file that was not written to its end, or was changed since."""


def check_packable(value: Any) -> None:
    """Checks that a value is one that `dump` can write.

    Raises:
        TypeError: anything but numbers, text, arrays and collections of these.
    """
    _packed(value, {})


def dump(value: Any, json_file: Path, arrays_file: Path) -> None:
    """Writes a value to two files.

    Args:
        value: JSON values, NumPy arrays, tuples and sets, nested in dicts and lists.
        json_file: where the JSON text goes.
        arrays_file: where the arrays go.

    Raises:
        TypeError: a value of any other type.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_packed(value, arrays))
    np.savez(arrays_file, allow_pickle=False, **arrays)
    json_file.write_text(text, encoding="utf-8")


def load(json_file: Path, arrays_file: Path) -> Any:
    """Reads what `dump` wrote.

    Raises:
        ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile: anything else.
    """
    packed = json.loads(json_file.read_text("utf-8"))
    return _unpacked(packed, dict(_read_arrays(arrays_file)))


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON; the arrays in it are added to `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if isinstance(value, (list, tuple, set)):
        parts = [_packed(v, arrays) for v in value]
        return parts if isinstance(value, list) else {type(value).__name__: parts}
    raise TypeError(
        "A checkpoint holds numbers, text, arrays and collections of these. Received: "
        f"{type(value).__name__}."
    )


def _unpacked(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value that was packed so."""
    if isinstance(value, list):
        return [_unpacked(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()  # any other number of keys is nothing that `_packed` writes
    if kind == "array":
        return arrays[parts]
    if kind == "dict":
        return {_unpacked(k, arrays): _unpacked(v, arrays) for k, v in parts}
    return {"tuple": tuple, "set": set}[kind](_unpacked(v, arrays) for v in parts)


def _read_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file of `np.savez`, by name, none larger than its part of the file.

    `np.load` would take a header's word for the size of an array, and unpack a compressed one to
    whatever length it has.
    """
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                raise Damaged(f"{path.name} is compressed.")
            with archive.open(part) as file:
                _check_size(path, part, *_read_header(file))
            with archive.open(part) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            yield part.filename.removesuffix(".npy"), array


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, as its file says at its beginning."""
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
    return shape, dtype


def _check_size(path: Path, part: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses objects, which only pickle reads, and arrays that claim more than is there."""
    claimed = dtype.itemsize * int(np.prod(shape, dtype=object))  # of any size, without overflow
    if dtype.hasobject or claimed > part.file_size:
        raise Damaged(f"{path.name} holds no array at {part.filename}.")
