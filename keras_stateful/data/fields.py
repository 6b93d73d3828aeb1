"""Fields: one array per document, read span by span.

    Flat      documents are slices of one array, in memory or mapped
    Separate  documents are arrays of their own
    Lazy      documents are read by a source when asked (`lazy`)

Nothing is copied whole: a batch gathers its own steps and converts only those (`int32` for
integers, `float32` for floating point and bool).
"""

from abc import ABC, abstractmethod
from typing import Any, NoReturn

import numpy as np

from keras_stateful.data.arrays import (
    all_finite,
    check_int32,
    finite,
    fits_int32,
    is_wide_integer,
    missing_column,
    missing_steps,
    out_dtype,
    refuse_not_finite,
)
from keras_stateful.data.ids import IdRange, Vocabulary
from keras_stateful.data.kinds import is_mapped
from keras_stateful.data.spans import Spans, counted_up, joined, padded, place
from keras_stateful.foundation.frames import Columns

# What is larger is not searched at once for NaN and unknown ids, but as it is read.
_SCAN_BYTES = 1 << 29  # of features in memory
_SCAN_IDS = 100_000_000  # ids, in memory or mapped
_SCAN_DOCUMENTS = 50_000  # documents that are arrays of their own
_WIDE = 8  # values at a time step beyond which runs are copied one by one


class Field(ABC):
    """One array `(timesteps, ...)` per document.

    Attributes:
        name: name used in error messages.
        lengths: time steps of each document, `(documents,)`.
        shape: of one time step.
        dtype: as stored.
        out_dtype: as batches have it.
        searched: True if it is known that no value is NaN or infinite: batches need no look.
        fits: True if it is known that all values fit `out_dtype`, likewise.
        columns: names of the features, where the documents are frames; else None.
    """

    columns: Columns = None

    def __init__(self, name: str, lengths: np.ndarray, shape: tuple, dtype: np.dtype):
        self.name, self.lengths, self.shape, self.dtype = name, lengths, tuple(shape), dtype
        self.out_dtype = out_dtype(name, dtype)
        self.searched = self.out_dtype == np.int32
        self.fits = not is_wide_integer(self.dtype)
        self._id_range: tuple[int, int] | None = None  # from `_search_ids`
        self._sizes: set[int] = set()  # of vocabularies that `check_ids` found large enough

    @abstractmethod
    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        """Time steps `start` to `stop` of a document, as stored."""

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, 0 elsewhere; as stored or converted."""
        out = np.zeros((rows, window, *self.shape), self._gathered_dtype)
        # A document is read once for all the windows of its row: one call costs more than the copy.
        for row, column, document, start, stop, windows in joined(spans, window):
            steps = self.read(document, start, stop)
            if windows == 1:
                out[row, column : column + stop - start] = steps
            else:
                below = out[row : row + windows * spans.batch : spans.batch]
                below[:] = steps.reshape(below.shape)
        return out

    @property
    def _gathered_dtype(self) -> np.dtype:
        # Where nothing is left to check, values are converted as they are copied.
        return self.out_dtype if self.searched and self.fits else self.dtype

    def batch(
        self,
        spans: Spans,
        rows: int,
        window: int,
        keep: np.ndarray | None = None,
        offsets: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """The steps of all spans, `(rows, window, ...)`, converted and checked.

        Args:
            keep: bool `(rows, window)`; where it is False, missing values become 0. None where
                none may be missing.
            offsets: of targets, for the remedy that an error names; None of inputs.

        Raises:
            ValueError: values that are NaN or infinite, integers that do not fit int32.
        """
        values = self.gather(spans, rows, window)
        if not self.searched and not all_finite(values):
            missing = ~np.asarray(finite(values).reshape(rows, window, -1).all(-1))
            refused = missing if keep is None else missing & keep
            if refused.any():
                self.refuse_missing(*place(spans, refused), offsets)
            values[missing] = 0
        if not self.fits:
            check_int32(self.name, values)
        return values.astype(self.out_dtype, copy=False)

    def _search_ids(self) -> tuple[int, int] | None:
        """The smallest and the largest id, or bounds of them; None where a search would be slow."""
        return None

    def ids_within(self, allowed: IdRange) -> bool | None:
        """True if all ids are allowed; None where a search would take long."""
        self._find_range()
        return None if self._id_range is None else allowed.holds(*self._id_range)

    def _find_range(self) -> None:
        """Searches for the smallest and the largest id, where that is quick."""
        if self._id_range is None:
            self._id_range = self._search_ids()
        self.fits = self.fits or (self._id_range is not None and fits_int32(*self._id_range))

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
        # The wrong id may stand where nothing is read: between documents, or in their last steps.
        for document, steps in enumerate(lengths.tolist()):
            ids = self.read(document, 0, steps)
            if not vocabulary.holds_all(ids):
                step = int(vocabulary.wrong_steps(ids[None])[0].argmax())
                vocabulary.refuse(self.name, ids, (document, step))
        self._sizes.add(vocabulary.size)
        return True

    @property
    def immediate(self) -> bool:
        """True if documents are in memory, so that reading waits for no disk and no source."""
        return False

    @property
    def sound(self) -> bool:
        """True if it is known that no value is missing or out of range."""
        return self.searched and self.fits

    @property
    def plain(self) -> bool:
        """True if batches may be copies of parts of one array, with nothing left to check."""
        return False

    @property
    def in_memory(self) -> bool:
        """True if all documents are in memory and can be searched quickly."""
        return False

    def search(self, offsets: tuple[int, ...] | None = None) -> None:
        """Refuses values that are NaN or infinite, where looking is quick; ids are only looked at.

        Args:
            offsets: of targets, for the remedy that an error names; None of inputs.
        """
        if not self.fits and self.in_memory:
            self._find_range()
        if not self.searched and self.in_memory:
            self._refuse_any(offsets)
            self.searched = True

    def _refuse_any(self, offsets: tuple[int, ...] | None) -> None:
        """Refuses values that are NaN or infinite, of a field in memory."""
        raise NotImplementedError

    def refuse_missing(
        self, document: int, step: int, offsets: tuple[int, ...] | None = None
    ) -> NoReturn:
        """Raises the error for a value that is NaN or infinite; see `refuse_not_finite`."""
        column = missing_column(self.columns, self.read(document, step, step + 1)[0])
        refuse_not_finite(self.name, document, step, offsets, column)

    def document_name(self, document: int) -> str:
        """Name of a document, used in error messages."""
        return f"{self.name}[{document}]"

    def __deepcopy__(self, memo: dict) -> "Field":
        return self  # documents are only read: copies of a sequence share them


class Flat(Field):
    """Documents that are slices of one array.

    Attributes:
        flat: the array, `(timesteps, ...)`.
        offsets: where each document begins in it.
    """

    def __init__(self, name: str, flat: np.ndarray, offsets: np.ndarray, lengths: np.ndarray):
        super().__init__(name, lengths, flat.shape[1:], flat.dtype)
        self.flat, self.offsets = flat, offsets
        self._windows: tuple[int, np.ndarray] | None = None  # a length, and the view of `_strided`

    def __getstate__(self) -> dict[str, Any]:
        # Pickled, a view of all windows would be a copy of each.
        return {**self.__dict__, "_windows": None}

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        at = self.offsets[document]
        return self.flat[at + start : at + stop]

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        begin = self.offsets[spans.document] + spans.start  # counted in `flat`
        runs = (spans.row, spans.column, begin, spans.steps)
        # One copy for each run costs the same whatever it copies, an index for each step does not.
        many = len(begin) > 2 * rows
        wide = int(np.prod(self.shape)) > _WIDE
        if many and not wide:
            out = np.zeros((rows, window, *self.shape), self.dtype)
            self._copy_steps(out, runs)
            return out
        # From the first run of each row on a whole window is copied, unless the array ends inside
        # of it. What a shorter run has behind its end becomes 0, and is that of the others then.
        first = (spans.column == 0) & (begin + window <= len(self.flat))
        if first.all():
            return padded(self._windows_at(begin, window), spans.row, spans.steps, rows)
        windows = self._windows_at(begin[first], window)
        out = padded(windows, spans.row[first], spans.steps[first], rows)
        self._copy_runs(out, tuple(a[~first] for a in runs))
        return out

    def _windows_at(self, begin: np.ndarray, window: int) -> np.ndarray:
        """Whole windows from these steps of `flat` on, copied: `(len(begin), window, ...)`."""
        if not len(begin):  # there may be no window of that length at all
            return np.empty((0, window, *self.shape), self.dtype)
        return self._strided(window)[begin]

    def _copy_runs(self, out: np.ndarray, runs: tuple[np.ndarray, ...]) -> None:
        """Copies runs of steps into `out`, one slice after the other.

        Args:
            runs: row, column, first step in `flat`, and number of steps of each.
        """
        for row, column, begin, steps in zip(*(a.tolist() for a in runs), strict=True):
            out[row, column : column + steps] = self.flat[begin : begin + steps]

    def _copy_steps(self, out: np.ndarray, runs: tuple[np.ndarray, ...]) -> None:
        """Copies the same runs, all at once by the index of each step."""
        row, column, begin, steps = runs
        rows, window, *shape = out.shape
        values, line = self.flat[counted_up(begin, steps)], out.reshape(rows * window, *shape)
        if len(values) == len(line):  # nothing is padding: the runs are in their order already
            line[:] = values
        else:
            line[counted_up(row * window + column, steps)] = values

    @property
    def plain(self) -> bool:
        return self.sound

    def streams(self, begin: int, rows: int, batches: int, window: int) -> np.ndarray:
        """Windows of streams of equal length, a view `(batches, rows, window, ...)`.

        Args:
            begin: the step of the first document at which the first stream begins.
            rows: how many streams there are.
            batches: windows of a stream.
            window: time steps of a window.
        """
        begin += int(self.offsets[0])
        steps = self.flat.view(np.ndarray)[begin : begin + rows * batches * window]
        return steps.reshape(rows, batches, window, *self.shape).swapaxes(0, 1)

    def _strided(self, window: int) -> np.ndarray:
        """Every window of the array, `(timesteps - window + 1, window, ...)`, without a copy."""
        kept = self._windows
        if kept is None or kept[0] != window:
            shape = (len(self.flat) - window + 1, window, *self.shape)
            # Two axes that both go on by a time step: window k begins at step k.
            strides = (self.flat.strides[0], *self.flat.strides)
            plain = self.flat.view(np.ndarray)  # whose index does not run the Python of a memmap's
            kept = (window, np.lib.stride_tricks.as_strided(plain, shape, strides, writeable=False))
            self._windows = kept
        return kept[1]

    @property
    def immediate(self) -> bool:
        return not is_mapped(self.flat)

    @property
    def in_memory(self) -> bool:
        return self.immediate and self.flat.nbytes <= _SCAN_BYTES

    def _refuse_any(self, offsets: tuple[int, ...] | None) -> None:
        missing = np.flatnonzero(missing_steps(self.flat))
        if len(missing):  # perhaps between documents, where nothing is read
            for document, (at, steps) in enumerate(zip(self.offsets, self.lengths, strict=True)):
                inside = missing[(missing >= at) & (missing < at + steps)]
                if len(inside):
                    self.refuse_missing(document, int(inside[0] - at), offsets)

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

    def gather(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        if rows > spans.batch or int(spans.steps.sum()) < rows * window:
            return super().gather(spans, rows, window)
        # One batch without padding: the runs, which are in order, make it up, and one call copies
        # all. (A `Lazy` field copies each by itself: it may not hold so many documents at once.)
        stop = spans.start + spans.steps
        places = zip(spans.document.tolist(), spans.start.tolist(), stop.tolist(), strict=True)
        runs = [self.documents[document][begin:end] for document, begin, end in places]
        steps = np.concatenate(runs, dtype=self._gathered_dtype, casting="unsafe")
        return steps.reshape(rows, window, *self.shape)

    @property
    def immediate(self) -> bool:
        return not any(map(is_mapped, self.documents[:8]))

    @property
    def in_memory(self) -> bool:
        size = int(self.lengths.sum()) * int(np.prod(self.shape)) * self.dtype.itemsize
        return self.immediate and size <= _SCAN_BYTES and len(self.documents) <= _SCAN_DOCUMENTS

    def _refuse_any(self, offsets: tuple[int, ...] | None) -> None:
        for i, document in enumerate(self.documents):
            missing = missing_steps(document)
            if missing.any():
                self.refuse_missing(i, int(missing.argmax()), offsets)

    def _search_ids(self) -> tuple[int, int] | None:
        count = int(self.lengths.sum()) * int(np.prod(self.shape))
        if count > _SCAN_IDS or len(self.documents) > _SCAN_DOCUMENTS:
            return None
        return min(int(d.min()) for d in self.documents), max(int(d.max()) for d in self.documents)


def same_values(one: Field, other: Field) -> bool:
    """True if two fields are the same data, also if one is a copy of the other.

    One number at each step is a feature alone: `(timesteps,)` may be the same as `(timesteps, 1)`.
    """
    if one is other:
        return True
    if len(one.lengths) != len(other.lengths) or (one.shape or (1,)) != (other.shape or (1,)):
        return False
    if not (one.in_memory and other.in_memory):
        return False
    varies = False  # what is constant tells nothing of what is predicted
    for document, steps in enumerate(np.minimum(one.lengths, other.lengths).tolist()):
        first, second = one.read(document, 0, steps), other.read(document, 0, steps)
        if not np.array_equal(first.reshape(second.shape), second):
            return False
        varies = varies or np.shares_memory(first, second) or bool((first != first[0]).any())
    return varies


AHEAD_FROM_THE_FIRST_STEP = (
    "What is known ahead begins with the document, not behind it: give its values from the first "
    "step on, and those behind the last step that are known."
)


def check_laid_out(part: Field, whole: Field, *, longer: bool = False) -> None:
    """Checks that two fields have the same documents and time steps.

    Args:
        part: one of them.
        whole: the other.
        longer: True if documents of `part` may go on behind the end of those of `whole`.
    """
    if len(part.lengths) != len(whole.lengths):
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same documents. Received: "
            f"{len(part.lengths)} and {len(whole.lengths)}."
        )
    wrong = part.lengths < whole.lengths if longer else part.lengths != whole.lengths
    different = np.flatnonzero(wrong)
    if len(different):
        i, argument = int(different[0]), whole.name.partition("[")[0]
        received = (
            f"Received: {part.document_name(i)} of {part.lengths[i]}, {whole.document_name(i)} of "
            f"{whole.lengths[i]}"
            + (f" (and {len(different) - 1} more)" if len(different) > 1 else "")
        )
        if longer:
            raise ValueError(
                f"`{part.name}` is known ahead, and must have at least the time steps of "
                f"`{whole.name}`. {received}. {AHEAD_FROM_THE_FIRST_STEP}"
            )
        raise ValueError(
            f"`{part.name}` and `{whole.name}` must have the same time steps. {received}"
            + ". Lay it out as the corpus, one value for each time step"
            + (
                ": a weight belongs to the time step that is read."
                if part.name.startswith("sample_weight")
                else f"; if each key is a document, pass `list({argument}.values())`."
                if part.name.startswith(argument)
                else "; `target_offset` does the shifting."
            )
        )
