"""Arrays of documents, read span by span: slices of one array, arrays of their own, or a source
that reads them.

Nothing is copied whole: a batch gathers its own steps and converts only those (`int32` for
integers, `float32` for floating point and bool).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_stateful.data.arrays import (
    all_finite,
    as_document,
    check_int32,
    finite,
    fits_int32,
    out_dtype,
    refuse_not_finite,
)
from keras_stateful.data.ids import IdRange, Vocabulary
from keras_stateful.data.layout import Spans

# Features in memory up to this size are searched for NaN at once, others as they are read.
_SCAN_BYTES = 1 << 29
# Likewise ids, of arrays in memory or mapped.
_SCAN_IDS = 100_000_000
_SCAN_DOCUMENTS = 50_000


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
        self._id_range: tuple[int, int] | None = None
        self._sizes: set[int] = set()  # that `check_ids` has found to be enough

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Time steps `start` to `stop` of a document, as stored."""
        raise NotImplementedError

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, zeros elsewhere, as stored."""
        out = np.zeros((rows, window, *self.shape), self.dtype)
        for row, column, document, start, steps in zip(
            *(a.tolist() for a in spans[:5]), strict=True
        ):
            out[row, column : column + steps] = self.read(document, start, start + steps)
        return out

    def batch(
        self,
        spans: Spans,
        rows: int,
        window: int,
        keep: np.ndarray | None = None,
        offsets: tuple[int, ...] = (0,),
    ) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, converted and checked.

        Args:
            keep: bool `(rows, window)`; where it is False, values that are no numbers become 0.
            offsets: of targets, for the remedy that an error names.
        """
        found = self.gather(spans, rows, window)
        if not self.searched and not all_finite(found):
            bad = ~finite(found).reshape(rows, window, -1).all(-1)
            self._refuse(spans, bad if keep is None else bad & keep, offsets)
            found[bad] = 0
        check_int32(self.name, found)
        return found.astype(self.out_dtype, copy=False)

    def _refuse(self, spans: Spans, bad: np.ndarray, offsets: tuple[int, ...]) -> None:
        if bad.any():
            refuse_not_finite(self.name, *place(spans, bad), offsets)

    def _search_ids(self) -> tuple[int, int] | None:
        """The smallest and the largest id, or ones beyond these; None where a search would take
        long.
        """
        return None

    def ids_within(self, allowed: IdRange) -> bool | None:
        """True if all ids are allowed; None where a search would take long."""
        if self._id_range is None:
            self._id_range = self._search_ids()
        return None if self._id_range is None else allowed.holds(*self._id_range)

    def check_ids(self, vocabulary: Vocabulary, lengths: np.ndarray) -> bool:
        """Refuses ids that a model does not know, in the first `lengths` steps of each document.

        Returns:
            True if the documents were searched; False where that would take long.
        """
        within = self.ids_within(vocabulary)
        if within is None:
            return False
        if within or vocabulary.size in self._sizes:
            return True
        for document, steps in enumerate(lengths.tolist()):
            ids = self.read(document, 0, steps)
            if not vocabulary.holds_all(ids):
                step = int(vocabulary.wrong_steps(ids[None])[0].argmax())
                vocabulary.refuse(self.name, ids, (document, step))
        self._sizes.add(vocabulary.size)
        return True

    @property
    def immediate(self) -> bool:
        """Whether a read waits for neither a disk nor somebody's code."""
        return False

    @property
    def plain(self) -> bool:
        """Whether documents are parts of one array with nothing left to check, so that batches may
        be copies of its parts.
        """
        return False

    @property
    def in_memory(self) -> bool:
        """Whether all documents are in memory and can be searched quickly."""
        return False

    def search(self, offsets: tuple[int, ...] = (0,)) -> None:
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
        parts, whole = (spans.row, spans.column, begin, spans.steps), spans.steps == window
        out = np.zeros((rows, window, *self.shape), self.dtype)
        if whole.any():
            out[spans.row[whole]] = self._strided(window)[begin[whole]]
            parts = tuple(a[~whole] for a in parts)
        row, column, begin, steps = parts
        if len(row) <= rows or int(np.prod(self.shape)) > 8:
            for r, c, b, n in zip(*(a.tolist() for a in parts), strict=True):
                out[r, c : c + n] = self.flat[b : b + n]
            return out
        before, total = np.cumsum(steps) - steps, int(steps.sum())
        counter = np.arange(total)
        values = self.flat[counter + np.repeat(begin - before, steps)]
        if total == rows * window:
            return values.reshape(out.shape)
        out.reshape(rows * window, *self.shape)[
            counter + np.repeat(row * window + column - before, steps)
        ] = values
        return out

    @property
    def plain(self) -> bool:
        fits = self.dtype.kind not in "iu" or self.dtype.itemsize < 4 or self.dtype == np.int32
        return self.searched and (
            fits or (self._id_range is not None and fits_int32(*self._id_range))
        )

    def streams(self, begin: int, rows: int, batches: int, window: int) -> np.ndarray:
        """From `begin` on in the first document, windows of streams of equal length: a view
        `(batches, rows, window, ...)`.
        """
        begin += int(self.offsets[0])
        steps = self.flat.view(np.ndarray)[begin : begin + rows * batches * window]
        return steps.reshape(rows, batches, window, *self.shape).swapaxes(0, 1)

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
    def immediate(self) -> bool:
        return not _mapped(self.flat)

    @property
    def in_memory(self) -> bool:
        return self.immediate and self.flat.nbytes <= _SCAN_BYTES

    def search(self, offsets: tuple[int, ...] = (0,)) -> None:
        if self.searched or not self.in_memory:
            return
        if not all_finite(self.flat):
            bad = np.flatnonzero(~finite(self.flat).reshape(len(self.flat), -1).all(1))
            for document, (at, steps) in enumerate(zip(self.offsets, self.lengths, strict=True)):
                inside = bad[(bad >= at) & (bad < at + steps)]
                if len(inside):
                    refuse_not_finite(self.name, document, int(inside[0] - at), offsets)
        self.searched = True

    def _search_ids(self) -> tuple[int, int] | None:
        return (int(self.flat.min()), int(self.flat.max())) if self.flat.size <= _SCAN_IDS else None

    def document_name(self, document: int) -> str:
        return super().document_name(document) if len(self.lengths) > 1 else self.name


class Separate(Field):
    """Documents in arrays of their own."""

    def __init__(
        self, name: str, documents: list[np.ndarray], lengths: np.ndarray, dtype: np.dtype
    ):
        super().__init__(name, lengths, documents[0].shape[1:], dtype)
        self.documents = documents

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        return self.documents[document][start:stop]

    @property
    def immediate(self) -> bool:
        return not any(map(_mapped, self.documents[:8]))

    @property
    def in_memory(self) -> bool:
        size = int(self.lengths.sum()) * int(np.prod(self.shape)) * self.dtype.itemsize
        return self.immediate and size <= _SCAN_BYTES and len(self.documents) <= _SCAN_DOCUMENTS

    def search(self, offsets: tuple[int, ...] = (0,)) -> None:
        if self.searched or not self.in_memory:
            return
        for i, document in enumerate(self.documents):
            if not all_finite(document):
                bad = ~finite(document).reshape(len(document), -1).all(1)
                refuse_not_finite(self.name, i, int(bad.argmax()), offsets)
        self.searched = True

    def _search_ids(self) -> tuple[int, int] | None:
        count = int(self.lengths.sum()) * int(np.prod(self.shape))
        if count > _SCAN_IDS or len(self.documents) > _SCAN_DOCUMENTS:
            return None
        return min(int(d.min()) for d in self.documents), max(int(d.max()) for d in self.documents)


class Lazy(Field):
    """Documents that a source reads when asked; a few are kept."""

    def __init__(
        self,
        name: str,
        key: str | None,
        source: "LazySource",
        lengths: np.ndarray,
        like: np.ndarray,
    ):
        super().__init__(name, lengths, like.shape[1:], like.dtype)
        self.key, self.source = key, source

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        found = self.source.get(document)[self.key]
        if len(found) != self.lengths[document]:
            raise ValueError(
                f"`{self.name}` gives another document than before. Received: document {document} "
                f"of {len(found)} time steps, at first {self.lengths[document]}. A source must "
                "give the same document for an index each time; where it cannot, read it with "
                "`StatefulStream`."
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


def _mapped(array: Any) -> bool:
    """Whether an array is, or is a view of, a memory map."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def check_laid_out(part: Field, whole: Field) -> None:
    """Raises unless both have the same documents and time steps."""
    if len(part.lengths) != len(whole.lengths):
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same documents. Received: "
            f"{len(part.lengths)} and {len(whole.lengths)}."
        )
    different = np.flatnonzero(part.lengths != whole.lengths)
    if len(different):
        i = int(different[0])
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same time steps. Received: "
            f"{part.document_name(i)} of {part.lengths[i]}, {whole.document_name(i)} of "
            f"{whole.lengths[i]}"
            + (f" (and {len(different) - 1} more)" if len(different) > 1 else "")
            + ". Lay it out as the corpus, one value for each time step"
            + (
                ": a weight belongs to the time step that is read."
                if part.name.startswith("sample_weight")
                else "; `target_offset` does the shifting."
            )
        )


def place(spans: Spans, bad: np.ndarray) -> tuple[int, int]:
    """Document and time step of the first mark in `(rows, window)`."""
    row, column = np.argwhere(bad)[0]
    k = np.flatnonzero((spans.row == row) & (spans.column <= column))[-1]
    return int(spans.document[k]), int(spans.start[k] + column - spans.column[k])


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
