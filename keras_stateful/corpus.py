"""What data may be: arrays, memory maps, lists, random-access sources and dicts of these, read span by span.

A corpus has fields, one array per document each. Nothing is copied whole: a batch gathers its own steps and converts only
those (`int32` for integers, `float32` for floating point and bool).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_stateful.layout import Spans

_SCAN_BYTES = (
    1 << 29
)  # in-memory features up to this size are searched for NaN at once, others as they are read
_SCAN_DOCUMENTS = 50_000
_INT32 = np.iinfo("int32")


class Field:
    """One array `(timesteps, ...)` per document.

    Attributes:
        name: how errors call it.
        lengths: time steps of each document, `(documents,)`.
        shape: of one time step.
        dtype: as stored.
        out_dtype: as batches have it.
    """

    def __init__(self, name: str, lengths: np.ndarray, shape: tuple, dtype: np.dtype):
        self.name, self.lengths, self.shape, self.dtype = name, lengths, tuple(shape), dtype
        self.out_dtype = out_dtype(name, dtype)
        self.searched = self.out_dtype == np.int32

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Time steps `start` to `stop` of a document, as stored."""
        raise NotImplementedError

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, zeros elsewhere, as stored."""
        out = np.zeros((rows, window, *self.shape), self.dtype)
        for row, column, document, start, steps in zip(*(a.tolist() for a in spans[:5]), strict=True):
            out[row, column : column + steps] = self.read(document, start, start + steps)
        return out

    def batch(self, spans: Spans, rows: int, window: int, keep: np.ndarray | None = None) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, converted and checked.

        Args:
            keep: bool `(rows, window)`; where it is False, values that are no numbers become 0.
        """
        found = self.gather(spans, rows, window)
        if not self.searched and not _finite(found):
            bad = ~np.isfinite(found).reshape(rows, window, -1).all(-1)
            self._refuse(spans, bad if keep is None else bad & keep)
            found[bad] = 0
        return self._converted(found)

    def _converted(self, found: np.ndarray) -> np.ndarray:
        if found.dtype.itemsize > 3 and found.dtype.kind in "iu" and found.dtype != np.int32 and found.size:
            low, high = int(found.min()), int(found.max())
            if low < _INT32.min or high > _INT32.max:
                raise ValueError(
                    f"`{self.name}` has integers that do not fit int32, which batches have. Received: "
                    f"{low if low < _INT32.min else high}. Number the ids from 0, or store the values as floating point."
                )
        return found.astype(self.out_dtype, copy=False)

    def _refuse(self, spans: Spans, bad: np.ndarray) -> None:
        if not bad.any():
            return
        row, column = np.argwhere(bad)[0]
        k = np.flatnonzero((spans.row == row) & (spans.column <= column))[-1]
        step = int(spans.start[k] + column - spans.column[k])
        not_finite(self.name, int(spans.document[k]), step)

    @property
    def in_memory(self) -> bool:
        """Whether all documents are in memory and can be searched quickly."""
        return False

    def search(self) -> None:
        """Looks for NaN, where all documents are in memory and this is quick."""

    def document_name(self, document: int) -> str:
        return f"{self.name}[{document}]"


class Flat(Field):
    """Documents that are slices of one array."""

    def __init__(self, name: str, flat: np.ndarray, offsets: np.ndarray, lengths: np.ndarray):
        super().__init__(name, lengths, flat.shape[1:], flat.dtype)
        self.flat, self.offsets = flat, offsets
        self._windows: tuple[int, np.ndarray] | None = None

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        at = self.offsets[document]
        return self.flat[at + start : at + stop]

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        begin = self.offsets[spans.document] + spans.start
        if spans.single and len(begin) and begin.max() + window <= len(self.flat):
            return _padded(self._strided(window)[begin], spans, rows, window)
        if len(begin) <= 3 * rows or int(np.prod(self.shape)) > 8:
            return super().gather(spans, rows, window)
        ends = np.cumsum(spans.steps)
        before = ends - spans.steps
        total = int(ends[-1])
        counter = np.arange(total)
        values = self.flat[counter + np.repeat(begin - before, spans.steps)]
        if total == rows * window:
            return values.reshape(rows, window, *self.shape)
        out = np.zeros((rows * window, *self.shape), self.dtype)
        out[counter + np.repeat(spans.row * window + spans.column - before, spans.steps)] = values
        return out.reshape(rows, window, *self.shape)

    def _strided(self, window: int) -> np.ndarray:
        """Every window of the array, `(timesteps - window + 1, window, ...)`, without a copy."""
        kept = self._windows
        if kept is None or kept[0] != window:
            shape = (len(self.flat) - window + 1, window, *self.shape)
            strides = (self.flat.strides[0], *self.flat.strides)
            plain = self.flat.view(np.ndarray)
            kept = (window, np.lib.stride_tricks.as_strided(plain, shape, strides, writeable=False))
            self._windows = kept
        return kept[1]

    @property
    def in_memory(self) -> bool:
        return not isinstance(self.flat, np.memmap) and self.flat.nbytes <= _SCAN_BYTES

    def search(self) -> None:
        if self.searched or not self.in_memory:
            return
        if not _finite(self.flat):
            bad = np.flatnonzero(~np.isfinite(self.flat).reshape(len(self.flat), -1).all(1))
            for document, (at, steps) in enumerate(zip(self.offsets, self.lengths, strict=True)):
                inside = bad[(bad >= at) & (bad < at + steps)]
                if len(inside):
                    not_finite(self.name, document, int(inside[0] - at))
        self.searched = True

    def document_name(self, document: int) -> str:
        return super().document_name(document) if len(self.lengths) > 1 else self.name


class Separate(Field):
    """Documents in arrays of their own."""

    def __init__(self, name: str, documents: list[np.ndarray], lengths: np.ndarray, dtype: np.dtype):
        super().__init__(name, lengths, documents[0].shape[1:], dtype)
        self.documents = documents

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        return self.documents[document][start:stop]

    @property
    def in_memory(self) -> bool:
        size = int(self.lengths.sum()) * int(np.prod(self.shape)) * self.dtype.itemsize
        mapped = any(isinstance(d, np.memmap) for d in self.documents[:8])
        return size <= _SCAN_BYTES and len(self.documents) <= _SCAN_DOCUMENTS and not mapped

    def search(self) -> None:
        if self.searched or not self.in_memory:
            return
        for i, document in enumerate(self.documents):
            if not _finite(document):
                bad = ~np.isfinite(document).reshape(len(document), -1).all(1)
                not_finite(self.name, i, int(bad.argmax()))
        self.searched = True


class Lazy(Field):
    """Documents that a source reads when asked; a few are kept."""

    def __init__(
        self, name: str, key: str | None, source: "LazySource", lengths: np.ndarray, like: np.ndarray
    ):
        super().__init__(name, lengths, like.shape[1:], like.dtype)
        self.key, self.source = key, source

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        found = self.source.get(document)[self.key]
        if len(found) != self.lengths[document]:
            raise ValueError(
                f"`{self.name}` gives another document than before. Received: document {document} of {len(found)} "
                f"time steps, at first {self.lengths[document]}. A source must give the same document for an index "
                "each time; where it cannot, read it with `StatefulStream`."
            )
        return found[start:stop]


class LazySource:
    """Reads documents by index and keeps the last ones."""

    def __init__(self, name: str, source: Any, encode: Callable | None):
        self.name, self.source, self.encode = name, source, encode
        self.capacity = 16
        self._kept: OrderedDict[int, dict] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def get(self, index: int) -> dict[str | None, np.ndarray]:
        """The arrays of a document; the key is None where it is a single one."""
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        document = self.load(index)
        with self._lock:
            self._kept[index] = document
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        return document

    def load(self, index: int) -> dict[str | None, np.ndarray]:
        return as_document(f"{self.name}[{index}]", self.source[index], self.encode)


@dataclass
class Corpus:
    """All the data.

    Attributes:
        fields: by name; the name is None where the corpus is no dict.
        labels: values that documents of a dict have once, not per time step, each `(documents, ...)`.
        lengths: time steps of each document.
        continuous: whether it is one text without documents.
    """

    fields: dict[Any, Field]
    lengths: np.ndarray
    continuous: bool
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_dict(self) -> bool:
        return None not in self.fields


def open_corpus(corpus: Any, encode: Callable | None = None) -> Corpus:
    """Opens whatever a corpus may be.

    Raises:
        TypeError: something else, text that is not encoded, an iterator.
        ValueError: nothing in it, an empty document, ragged or unequal parts, NaN.
    """
    if isinstance(corpus, dict) and encode is None:
        return _open_dict(corpus)
    documents = open_field("corpus", corpus, encode)
    if isinstance(documents, Corpus):
        return documents
    documents.search()
    continuous = is_array(corpus) and corpus_array(corpus).dtype != object and encode is None
    return Corpus({None: documents}, documents.lengths, continuous)


def _open_dict(corpus: dict) -> Corpus:
    if not corpus:
        raise ValueError(
            "`corpus` holds nothing. Received: {}. Give at least one array or list of documents."
        )
    fields = {}
    for name, value in corpus.items():
        if not isinstance(name, str) or name == "resets":
            raise ValueError(
                f'The keys of a dict `corpus` name the model\'s inputs, and "resets" is kept for the mask. Received: '
                f"key {name!r}. Rename it."
            )
        found = open_field(f"corpus[{name!r}]", value, None)
        if isinstance(found, Corpus):
            raise TypeError(
                f"`corpus[{name!r}]` has documents that are dicts themselves. Give one dict of lists, or one list of dicts."
            )
        fields[name] = found
    kinds = {is_array(v) for v in corpus.values()}
    if len(kinds) > 1:
        raise ValueError(
            "The arrays of a dict `corpus` must be laid out alike. Received: "
            + ", ".join(f"{k!r}: {'an array' if is_array(v) else 'documents'}" for k, v in corpus.items())
            + ". Give every key one array, or every key a list with one array per document."
        )
    names = list(fields)
    for name in names[1:]:
        check_laid_out(fields[name], fields[names[0]])
    for value in fields.values():
        value.search()
    return Corpus(fields, fields[names[0]].lengths, kinds == {True})


def check_laid_out(part: Field, whole: Field) -> None:
    """Raises unless both have the same documents and time steps."""
    if len(part.lengths) != len(whole.lengths):
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same documents. Received: {len(part.lengths)} and "
            f"{len(whole.lengths)}."
        )
    different = np.flatnonzero(part.lengths != whole.lengths)
    if len(different):
        i = int(different[0])
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same time steps. Received: {part.document_name(i)} of "
            f"{part.lengths[i]}, {whole.document_name(i)} of {whole.lengths[i]}"
            + (f" (and {len(different) - 1} more)" if len(different) > 1 else "")
            + ". Lay it out as the corpus, one value for each time step; `target_offset` does the shifting."
        )


def is_array(value: Any) -> bool:
    """Whether a value is one array, not a list of them."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__array__")


def corpus_array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def open_field(name: str, value: Any, encode: Callable | None) -> Field | Corpus:
    """Opens one array, or documents; a `Corpus` where the documents are dicts."""
    if is_tf_dataset(value):
        value, encode = _read_tf_dataset(name, value, encode), None
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"`{name}` must be numbers. Received: text of type {type(value).__name__}, {value[:20]!r}... Encode it: "
            "`np.frombuffer(text.encode(), 'uint8')` for bytes as ids, or pass `encode=` with a list of texts."
        )
    if is_array(value):
        array = corpus_array(value)
        if array.dtype == object:
            value = list(array)
        elif encode is None:
            return _one_array(name, array)
    if not hasattr(value, "__len__") or not hasattr(value, "__getitem__") or isinstance(value, (dict, set)):
        raise TypeError(
            f"`{name}` must be an array, a list of arrays, a source with `len` and `[]`, or a dict of these. Received: "
            f"{type(value).__name__}. An iterator or generator is read by `StatefulStream`, or `list(...)` of it here."
        )
    if len(value) == 0:
        raise ValueError(
            f"`{name}` has no documents. Received: {type(value).__name__} of length 0. Is its path right?"
        )
    if encode is None and isinstance(value, (list, tuple)) and not isinstance(value[0], dict):
        return _in_memory(name, value)
    return _lazy(name, value, encode)


def _one_array(name: str, array: np.ndarray) -> Field:
    if array.ndim == 0:
        raise ValueError(f"`{name}` must have a time axis, `(timesteps, ...)`. Received: a scalar, {array}.")
    if len(array) == 0:
        raise ValueError(
            f"`{name}` has no time steps. Received: an array of shape {array.shape}. Is its path right?"
        )
    return Flat(name, array, np.zeros(1, "int64"), np.array([len(array)], "int64"))


def _in_memory(name: str, values: Iterable) -> Field:
    documents = [v if type(v) is np.ndarray else _as_array(f"{name}[{i}]", v) for i, v in enumerate(values)]
    lengths = np.fromiter((len(d) if d.ndim else -1 for d in documents), "int64", len(documents))
    _check_documents(name, lengths)
    kinds = {(d.dtype, d.shape[1:]) for d in documents}
    shapes = {shape for _, shape in kinds}
    if len(shapes) > 1:
        first = documents[0].shape[1:]
        i = next(i for i, d in enumerate(documents) if d.shape[1:] != first)
        raise ValueError(
            f"The documents of `{name}` must have the same features at every time step. Received: {name}[0] of shape "
            f"{documents[0].shape}, {name}[{i}] of shape {documents[i].shape}. Only the first axis, time, may differ."
        )
    if len({out_dtype(name, dtype) for dtype, _ in kinds}) > 1:
        raise ValueError(
            f"The documents of `{name}` must be all integers or all floating point. Received: "
            f"{', '.join(sorted(str(d) for d, _ in kinds))}. Convert them to one."
        )
    dtype = np.result_type(*(dtype for dtype, _ in kinds))
    return _slices(name, documents, lengths) or Separate(name, documents, lengths, dtype)


def _slices(name: str, documents: list[np.ndarray], lengths: np.ndarray) -> Flat | None:
    """Documents cut from one array, as `np.split` does, read from that array."""
    base = documents[0].base
    if not isinstance(base, np.ndarray) or any(d.base is not base for d in documents):
        return None
    first = documents[0]
    if (
        base.dtype != first.dtype
        or base.ndim < 1
        or not base.flags.c_contiguous
        or not first.flags.c_contiguous
    ):
        return None
    step = first[0].nbytes
    if not step or any(d.dtype != base.dtype or not d.flags.c_contiguous for d in documents):
        return None
    address = base.__array_interface__["data"][0]
    places = (
        np.fromiter((d.__array_interface__["data"][0] for d in documents), "int64", len(documents)) - address
    )
    if (places % step).any() or base.nbytes % step:
        return None
    return Flat(name, base.reshape(-1, *first.shape[1:]), places // step, lengths)


def _lazy(name: str, source: Any, encode: Callable | None) -> Field | Corpus:
    reader = LazySource(name, source, encode)
    known = None if encode is not None else getattr(source, "lengths", None)
    first = reader.get(0)
    labels: dict[Any, list] = {k: [] for k, v in first.items() if v.ndim == 0}
    lengths = np.empty(len(source), "int64")
    for i in range(len(source) if known is None or labels else 1):
        document = reader.get(i) if i < 2 else reader.load(i)
        lengths[i] = _length(name, i, document, first)
        for k, found in labels.items():
            found.append(document[k])
    if known is not None and not labels:
        lengths = np.asarray(known, "int64")
        if lengths.shape != (len(source),):
            raise ValueError(
                f"`{name}.lengths` must have one number for each of {len(source)} documents. Received: shape {lengths.shape}."
            )
    _check_documents(name, lengths)
    if None in first:
        return Lazy(name, None, reader, lengths, first[None])
    fields: dict[Any, Field] = {
        k: Lazy(f"{name}[...][{k!r}]", k, reader, lengths, v) for k, v in first.items() if k not in labels
    }
    return Corpus(fields, lengths, False, {k: np.stack(v) for k, v in labels.items()})


def _length(name: str, i: int, document: dict, first: dict) -> int:
    if set(document) != set(first):
        raise ValueError(
            f"The documents of `{name}` must have the same keys. Received: {name}[0] with {sorted(first, key=str)}, "
            f"{name}[{i}] with {sorted(document, key=str)}."
        )
    for k, value in document.items():
        if (
            value.shape[1:] != first[k].shape[1:]
            or value.ndim != first[k].ndim
            or value.dtype != first[k].dtype
        ):
            raise ValueError(
                f"The documents of `{name}` must be alike but for their length. Received: {name}[0] of shape "
                f"{first[k].shape}, {first[k].dtype}; {name}[{i}] of shape {value.shape}, {value.dtype}."
            )
    found = {k: len(v) for k, v in document.items() if v.ndim}
    if len(set(found.values())) != 1:
        raise ValueError(
            f"The arrays of a document must have the same time steps. Received: {name}[{i}] with "
            + (", ".join(f"{k!r}: {v}" for k, v in found.items()) or "no array")
            + "."
        )
    return next(iter(found.values()))


def _check_documents(name: str, lengths: np.ndarray) -> None:
    if (lengths < 0).any():
        i = int((lengths < 0).argmax())
        raise ValueError(
            f"`{name}` must hold one array `(timesteps, ...)` per document. Received: {name}[{i}], a single number. For "
            f"one continuous text pass an array, `np.asarray({name})`; for one document `[{name}]`."
        )
    if not lengths.all():
        empty = np.flatnonzero(lengths == 0)
        raise ValueError(
            f"`{name}` has empty documents. Received: {len(empty)} of length 0, the first at index {empty[0]}. Leave "
            f"them out: `[d for d in documents if len(d)]`."
        )


def as_document(name: str, item: Any, encode: Callable | None) -> dict[str | None, np.ndarray]:
    """One document of a source as arrays by name; the name is None where it is a single array."""
    if encode is not None:
        item = encode(item)
    if isinstance(item, dict):
        found: dict[str | None, np.ndarray] = {k: _as_array(f"{name}[{k!r}]", v) for k, v in item.items()}
    else:
        found = {None: _as_array(name, item)}
    for k, value in found.items():
        out_dtype(name if k is None else f"{name}[{k!r}]", value.dtype)
    return found


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, (str, bytes)):
        raise TypeError(
            f"`{name}` must be numbers. Received: text, {value[:20]!r}... Pass `encode=`, a function from a document to "
            "its ids, or encode the documents first."
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be an array `(timesteps, ...)`. Received: {str(value)[:60]}... ({error})"
        ) from None


def out_dtype(name: str, dtype: np.dtype) -> np.dtype:
    """The dtype that batches have of values stored as `dtype`."""
    if dtype.kind in "iu":
        return np.dtype("int32")
    if dtype.kind in "fb" or dtype.name == "bfloat16":
        return np.dtype("float32")
    raise TypeError(
        f"`{name}` must be numbers. Received: dtype {dtype}. "
        + (
            "Encode text as ids, with `encode=` or beforehand."
            if dtype.kind in "USO"
            else "Convert it to float32 or int32."
        )
    )


def not_finite(name: str, document: int, step: int) -> None:
    """Raises for a value that is NaN or infinite."""
    remedy = (
        "Give missing targets weight 0: `sample_weight=~np.isnan(targets)`, laid out as the corpus; their value then "
        "does not matter."
        if name.startswith("targets")
        else "A network passes it on to every later state. Fill in or leave out missing readings."
    )
    raise ValueError(
        f"`{name}` is NaN or infinite. Received: document {document}, time step {step}. {remedy}"
    )


def _finite(values: np.ndarray) -> bool:
    if values.dtype.kind != "f":
        return values.dtype.kind in "iub" or bool(np.isfinite(values.astype("float32")).all())
    return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def _padded(found: np.ndarray, spans: Spans, rows: int, window: int) -> np.ndarray:
    """Puts windows into their rows, with zeros behind what is shorter."""
    short = np.flatnonzero(spans.steps < window)
    for k, steps in zip(short.tolist(), spans.steps[short].tolist(), strict=True):
        found[k, steps:] = 0
    if len(found) == rows:
        return found
    out = np.zeros((rows, *found.shape[1:]), found.dtype)
    out[spans.row] = found
    return out


def is_tf_dataset(value: Any) -> bool:
    return type(value).__module__.startswith("tensorflow") and hasattr(value, "as_numpy_iterator")


def _read_tf_dataset(name: str, dataset: Any, encode: Callable | None) -> list:
    """A finite `tf.data.Dataset` of documents, read into memory: it cannot be read by index."""
    if int(dataset.cardinality()) == -1:
        raise ValueError(
            f"`{name}` is a tf.data.Dataset without an end. Received: {dataset}. Give a finite one, `.take(n)`, or read "
            "it with `StatefulStream(..., steps_per_epoch=...)`."
        )
    items = dataset.as_numpy_iterator()
    return [encode(i) for i in items] if encode is not None else list(items)
