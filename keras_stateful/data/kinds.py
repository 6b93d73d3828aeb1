"""What data are, decided in one place: an array, documents, or inputs by name. NumPy only.

    an array    NumPy's, a memory map, a tensor, a frame or a column of one: `(timesteps, ...)`
    documents   a list of these, or anything with `len` and `[]`
    a dict      of either: its keys name the inputs of a model

Frames and tensors of other packages are known by what they have; none is imported.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from keras_stateful.data.arrays import out_dtype, refuse_masked, refuse_wide
from keras_stateful.foundation.frames import Columns, columns_of, row_names

_TEXT = (str, bytes)


def is_array(value: Any) -> bool:
    """True if a value is one array, whatever package it comes from, not a list of them."""
    return hasattr(value, "__array__") and not holds_documents(value)


def holds_documents(value: Any) -> bool:
    """True for an array of objects, or such a column, that has a document in each place."""
    if not _is_object(getattr(value, "dtype", None)) or len(np.shape(value)) != 1 or not len(value):
        return False
    first = np.asarray(value)[0]  # by place: a column's own `[0]` is by label
    return hasattr(first, "__array__") or isinstance(first, (*_TEXT, list, tuple, dict))


def _is_object(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def is_tf_dataset(value: Any) -> bool:
    """True if a value is a `tf.data.Dataset`; TensorFlow is not imported."""
    return type(value).__module__.startswith("tensorflow") and hasattr(value, "as_numpy_iterator")


def refuse_others(name: str, value: Any) -> None:
    """Refuses what is neither an array nor documents, or may be something else as well.

    Args:
        name: name of the argument, used in error messages.
        value: what the user gave.

    Raises:
        TypeError: text, groups of a frame, an iterator, a dict.
        ValueError: a tuple that may be `(x, y)`.
    """
    if isinstance(value, _TEXT):
        raise TypeError(
            f"`{name}` must be numbers. Received: text of type {type(value).__name__}, "
            f"{value[:20]!r}... Encode it: `np.frombuffer(text.encode(), 'uint8')` for bytes as "
            "ids, or pass `encode=` with a list of texts."
        )
    if is_array(value):
        return
    refuse_groups(name, value)
    if (
        not hasattr(value, "__len__")
        or not hasattr(value, "__getitem__")
        or isinstance(value, (dict, set))
    ):
        raise TypeError(
            f"`{name}` must be an array, a list of arrays, a source with `len` and `[]`, or a dict "
            f"of these. Received: {type(value).__name__}. An iterator or generator is read by "
            "`StatefulStream`, or `list(...)` of it here."
        )
    if len(value) == 0:
        raise ValueError(
            f"`{name}` has no documents. Received: {type(value).__name__} of length 0. Is its path "
            "right?"
        )


def refuse_groups(name: str, value: Any) -> None:
    """Refuses what packages of frames have beside frames: groups of rows, and plans to read one."""
    package = type(value).__module__.split(".")[0]
    of_frames = package in ("pandas", "polars", "pyarrow", "narwhals")
    if of_frames and not hasattr(value, "__array__"):
        remedy = (
            "Read it first: `.collect()`."
            if hasattr(value, "collect")
            else "Pass a list with a document for each group: `[part[columns] for _, part in "
            "frame.groupby(...)]`, or the frame to `StatefulSequence.from_frame(frame, by=...)`."
        )
        raise TypeError(
            f"`{name}` must be arrays. Received: a {package} {type(value).__name__}. {remedy}"
        )


def refuse_pair(name: str, value: Any) -> None:
    """Refuses a tuple that may be `(x, y)` or `(x, y, sample_weight)`, as `fit` takes it.

    Arrays of different length can only be documents.
    """
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        return
    if all(is_array(part) or isinstance(part, list) for part in value) and (
        len({np.shape(part)[:1] if is_array(part) else (len(part),) for part in value}) == 1
    ):
        raise ValueError(
            f"`{name}` is a tuple, and may be `(x, y)` or documents. Received: a tuple of "
            f"{len(value)} of length {len(value[0])} each. Give targets as `targets=`; for "
            "documents pass a list, `[x, y]`."
        )


def as_array(name: str, value: Any, columns: Columns = None) -> np.ndarray:
    """An array of numbers, or an error that says what is none.

    Nothing is copied that NumPy can read where it lies. Missing values become NaN.

    Args:
        name: name used in error messages.
        value: anything that is an array, and lists of numbers.
        columns: of a frame, those to read, in order; None for all.
    """
    refuse_masked(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return np.asarray(value)  # of a memory map, a view whose slices are made without Python
    if isinstance(value, _TEXT):
        raise TypeError(
            f"`{name}` must be numbers. Received: text, {value[:20]!r}... Pass `encode=`, a "
            "function from a document to its ids, or encode the documents first."
        )
    # A pair `(x, y)`, as `fit` takes it. NumPy would stack arrays of one shape to a single one.
    if isinstance(value, tuple) and any(np.ndim(part) for part in value if is_array(part)):
        raise ValueError(
            f"`{name}` must be an array `(timesteps, ...)`. Received: a tuple of {len(value)} "
            "arrays. Give a dict of arrays for several inputs, and targets as `targets=`."
        )
    names = columns_of(value)
    array = (
        _in_numpy(name, value)
        if names is None
        else _of_frame(name, value, names if columns is None else columns)
    )
    out_dtype(name, array.dtype)  # refuses what is no number
    return array


def _in_numpy(name: str, value: Any) -> np.ndarray:
    """What NumPy makes of a value; numbers that are objects of Python as numbers."""
    if hasattr(value, "detach"):  # a tensor of torch, which NumPy refuses while it has a gradient
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        several = isinstance(value, list) and any(np.ndim(p) for p in value if is_array(p))
        remedy = " For several inputs or outputs give a dict: `{'a': [...], 'b': [...]}`."
        raise ValueError(
            f"`{name}` must be an array `(timesteps, ...)`. Received: {str(value)[:60]}... "
            f"({error}){remedy if several else ''}"
        ) from None
    return _numbers(name, array) if _is_object(array.dtype) else array


def _of_frame(name: str, frame: Any, columns: tuple) -> np.ndarray:
    """Columns of a frame as one array `(timesteps, columns)`; an error names the column."""
    if columns == columns_of(frame):
        array = np.asarray(frame)
        if array.dtype.kind in "iufb" or len(set(columns)) < len(columns):
            return array
    # Of columns of several dtypes NumPy makes objects.
    try:
        return np.stack([_in_numpy_checked(f"{name}[{c!r}]", frame[c]) for c in columns], axis=1)
    except TypeError as error:
        raise TypeError(f"{error} Or leave the column out.") from None


def _in_numpy_checked(name: str, column: Any) -> np.ndarray:
    array = _in_numpy(name, column)
    out_dtype(name, array.dtype)
    return array


def _numbers(name: str, objects: np.ndarray) -> np.ndarray:
    """Numbers that are kept as objects of Python, with NaN for those that are missing."""
    missing = [value is None or type(value).__name__ == "NAType" for value in objects.flat]
    for value, lacks in zip(objects.flat, missing, strict=True):
        if not (lacks or (hasattr(value, "__float__") and not np.ndim(value))):
            raise TypeError(_no_number(name, value))
    if not any(missing) and all(hasattr(value, "__index__") for value in objects.flat):
        try:
            return objects.astype("int64")
        except OverflowError:
            refuse_wide(name, min(objects.flat), max(objects.flat))
    values = np.array(
        [np.nan if m else float(v) for v, m in zip(objects.flat, missing, strict=True)]
    )
    return values.reshape(objects.shape)


def _no_number(name: str, value: Any) -> str:
    """The error message for an object that is no number."""
    remedy = "Convert it to float32 or int32."
    if isinstance(value, _TEXT):
        remedy = "Encode text as ids, with `encode=` or beforehand."
    elif hasattr(value, "isoformat") or hasattr(value, "total_seconds"):
        remedy = "Make numbers of times, such as the hour: `times.dt.hour`."
    return (
        f"`{name}` must be numbers. Received: {str(value)[:40]!r} of type {type(value).__name__}. "
        f"{remedy}"
    )


class Items:
    """Makes documents of what a list or a source gives: encoded, in NumPy, with ordered columns.

    Columns belong together by their names: those of each frame are put in the order of the first.
    So do the numbers of a row of a frame, where a document has such a vector once.

    Args:
        name: name of the source, used in error messages.
        encode: a function from an item to a document, or None.
        once: keys of such vectors.

    Attributes:
        columns: of frames, by key of the document; the key is None where it is a single array.
    """

    def __init__(
        self, name: str, encode: Callable | None = None, once: Collection[str | None] = ()
    ):
        if encode is not None and not callable(encode):
            raise TypeError(
                "`encode` must be a function from an item to a document. Received: "
                f"encode={encode!r} of type {type(encode).__name__}. Pass the function, or None."
            )
        self.name, self.encode, self.once = name, encode, once
        self.columns: dict[str | None, Columns] = {}

    def document(self, number: int, item: Any) -> dict[str | None, np.ndarray]:
        """The arrays of a document, which are its own: a source may write its item again.

        Args:
            number: of the document, used in error messages.
            item: what the source gave.

        Returns:
            Arrays by key; the key is None where the document is a single array.
        """
        name = f"{self.name}[{number}]"
        if self.encode is not None:
            item = _encoded(name, item, self.encode)
        return {key: _owned(array) for key, array in self.arrays(name, item).items()}

    def arrays(self, name: str, item: Any) -> dict[str | None, np.ndarray]:
        """The same of an item that is encoded, read where it lies."""
        if not isinstance(item, dict):
            return {None: self.array(name, item)}
        return {key: self.array(f"{name}[{key!r}]", part, key) for key, part in item.items()}

    def array(self, name: str, value: Any, key: str | None = None) -> np.ndarray:
        """One array of a document, with its columns in the order of the first one's."""
        of_row = row_names(value) if key in self.once else None
        columns = of_row or columns_of(value)
        first = self.columns.setdefault(key, columns)
        if columns != first and not _same_names(columns, first):
            remedy = (
                "Pass rows of one frame; or numbers in one order, `row.to_numpy()` of each."
                if key in self.once
                else "Choose them by name, in each document alike: `frame[columns]`."
            )
            raise ValueError(
                f"The documents of `{self.name}` must have the same columns. Received: the first "
                f"with {_listed(first)}, `{name}` with {_listed(columns)}. {remedy}"
            )
        if of_row != first and of_row and first:
            value = value[list(first)]
        return as_array(name, value, first)


def _same_names(columns: Columns, first: Columns) -> bool:
    if columns is None or first is None:
        return False
    return len(columns) == len(first) == len(set(first)) and set(columns) == set(first)


def _listed(columns: Columns) -> str:
    return "no columns" if columns is None else str(list(columns))[:200]


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy of an array, but for a memory map, which nobody fills again like a buffer."""
    return array if is_mapped(array) else np.array(array)


def is_mapped(array: np.ndarray | None) -> bool:
    """True if an array is a memory map or a view of one."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _encoded(name: str, item: Any, encode: Callable) -> Any:
    """What `encode` makes of an item, which must be numbers."""
    try:
        document = encode(item)
    except Exception as error:
        error.add_note(f"`encode` failed for `{name}`.")
        raise
    # Text, or a list of tokens that are text. Other things that are no numbers, `as_array` finds.
    first = document[0] if isinstance(document, (list, tuple)) and document else document
    if first is None or isinstance(first, _TEXT):
        raise TypeError(
            "`encode` must return the ids of a document, an array of numbers. Received: "
            f"{str(document)[:40]!r} of type {type(document).__name__} for `{name}`. Look each "
            "token up in a vocabulary: `[index[t] for t in tokens]`."
        )
    return document
