"""How many steps of each document are read before any counts: `burn_in`, and `start`.

    burn_in    one number, or one for each document
    start      likewise, in an evaluation; or a fraction of the length, or a time of a frame's index

Both become one number of time steps, or one for each document. NumPy only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from keras_stateful.data.kinds import is_tf_dataset
from keras_stateful.foundation.arguments import whole_number

BurnIn: TypeAlias = int | np.ndarray  # of all documents, or int64 `(documents,)`

_OF_EACH = "or a list with one int for each document"


@dataclass(frozen=True)
class Start:
    """The argument `start` of an evaluation: the time step of a document that counts first.

    Attributes:
        value: an int, a fraction in (0, 1), a time, or a list with one of these for each document.
        documents: what the user gave, for the time index of its frames.
        encode: as in `StatefulSequence`; the frames are what it gives.
    """

    value: Any
    documents: Any
    encode: Callable | None = None

    def __str__(self) -> str:
        return f"start={self.value!r}"

    def steps(self, lengths: np.ndarray) -> BurnIn:
        """Time steps in front of it, in documents of these lengths."""
        name, value = "start", self.value
        if not _is_listed(value):
            if _is_whole(value):
                return whole_number(name, value, 0, unit="time steps")
            value = [value] * len(lengths)
        _check_count(name, value, lengths)
        steps = np.zeros(len(lengths), "int64")
        for k, (one, length) in enumerate(zip(value, lengths.tolist(), strict=True)):
            if _is_whole(one):
                steps[k] = _steps_within(name, k, one, length)
            elif isinstance(one, (float, np.floating)):
                steps[k] = int(_fraction(one) * length)
            else:
                steps[k] = _steps_before(one, self._index(k, length), k)
        return steps

    def _index(self, k: int, length: int) -> Any:
        """The index of a frame in document `k`; None where none has one of so many time steps.

        One of times goes before others. What is known ahead may be a longer frame.
        """
        documents = self.documents
        if isinstance(documents, dict):
            document = {key: _by_place(column, k) for key, column in documents.items()}
        else:
            document = _by_place(documents, k)
            if self.encode is not None and document is not None:
                document = self.encode(document)
        parts = document.values() if isinstance(document, dict) else [document]
        indices: list[Any] = [getattr(part, "index", None) for part in parts]
        indices = [index for index in indices if hasattr(index, "searchsorted")]
        indices = [index for index in indices if len(index) == length]
        return next(iter(sorted(indices, key=_is_of_times, reverse=True)), None)


def open_burn_in(argument: Any, lengths: np.ndarray, *, of_rows: bool) -> BurnIn:
    """Reads `burn_in`.

    Args:
        argument: what the user gave; or a `Start`.
        lengths: time steps of each document.
        of_rows: True where one text is read, in which no document starts.

    Raises:
        TypeError: neither an int nor a list of these.
        ValueError: a negative number, more steps than a document has, not one for each.
    """
    if isinstance(argument, Start):
        return argument.steps(lengths)
    if not _is_listed(argument):
        return whole_number("burn_in", argument, 0, alternative=_OF_EACH)
    if of_rows:
        raise ValueError(
            "`burn_in` with one int for each document counts from where each starts, and one "
            f"continuous text is read without a start. Received: {len(argument)} ints with one "
            'array or boundary="ignore". Pass one int, for each row of the batch, or documents '
            'with boundary="align".'
        )
    _check_count("burn_in", argument, lengths)
    pairs = enumerate(zip(argument, lengths.tolist(), strict=True))
    return np.array([_steps_within("burn_in", k, one, length) for k, (one, length) in pairs])


def received(argument: Any) -> str:
    """`burn_in` or `start` as the user passed it, for error messages."""
    return str(argument) if isinstance(argument, Start) else f"burn_in={argument!r}"


def burn_in_of_stream(argument: Any) -> int:
    """Reads `burn_in` of a stream, which does not know how many documents will come."""
    if _is_listed(argument):
        raise TypeError(
            "`burn_in` of a stream is one int, as nobody knows how many documents will come. "
            f"Received: burn_in={argument!r}. Weights of 0 do the same: give each document an "
            "array of them under a key, and the stream `sample_weight=key`; or read a "
            "`StatefulSequence`."
        )
    return whole_number("burn_in", argument, 0)


def as_json(burn_in: BurnIn) -> int | list[int]:
    """`burn_in` as a fingerprint holds it."""
    return burn_in if isinstance(burn_in, int) else burn_in.tolist()


def _by_place(documents: Any, k: int) -> Any:
    """Document `k`, as a corpus reads it; None of a dataset, which gives no frames."""
    if is_tf_dataset(documents):
        return None
    return documents.iloc[k] if hasattr(documents, "iloc") else documents[k]


def _is_listed(value: Any) -> bool:
    """True for one value for each document: a list, tuple, array or column."""
    return hasattr(value, "__len__") and not isinstance(value, str) and np.ndim(value) > 0


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__")


def _check_count(name: str, values: Any, lengths: np.ndarray) -> None:
    if len(values) != len(lengths):
        raise ValueError(
            f"`{name}` must be one for all documents, or one for each. Received: {len(values)} for "
            f"{len(lengths)} documents."
        )


def _steps_within(name: str, document: int, value: Any, length: int) -> int:
    """A number of steps that is no longer than its document."""
    steps = whole_number(f"{name}[{document}]", value, 0, unit="time steps")
    if steps > length:
        raise ValueError(
            f"`{name}[{document}]` lies behind the end of its document. Received: {steps}, "
            f"document {document} of {length} time steps. `{name}` has the order of the documents; "
            "the length of a document leaves all of it out."
        )
    return steps


def _fraction(value: Any) -> float:
    if not 0 < value < 1:
        raise ValueError(
            "`start` as a float is a fraction of each document's length, between 0 and 1. "
            f"Received: start={value!r}. Time steps are an int."
        )
    return float(value)


def _is_of_times(index: Any) -> bool:
    """True if the labels of a frame's index are times; row numbers and text only look like them."""
    dtype = index.dtype
    return dtype.kind in "mM" or str(dtype).startswith("period")


def _steps_before(time: Any, index: Any, document: int) -> int:
    """How many steps of a frame lie before a time.

    Args:
        time: what pandas takes for one.
        index: of the frame; None where there is none.
        document: its number, used in error messages.
    """
    received = f"Received: start={time!r}, document {document}"
    if index is None:
        raise TypeError(
            "`start` must be an int, a fraction, a time where documents are frames with a time "
            f"index, or a list of these. {received} without such an index. Count the steps before "
            "it: `[int((t < start).sum()) for t in times]`."
        )
    if not _is_of_times(index):  # in which a date as text would be compared with row numbers
        raise TypeError(
            "`start` is a time only where the index of the frames is one of times. "
            f"{received} with an index of {index.dtype}. Give the frame one, "
            '`frame.set_index("time")`, made of text by `pd.to_datetime`; or count the steps '
            "before it: `[int((t < start).sum()) for t in times]`."
        )
    if not index.is_monotonic_increasing:
        raise ValueError(
            f"`start` is a time, and the index of a frame must rise. {received} whose index does "
            "not. Sort it: `frame.sort_index()`."
        )
    try:
        if time != time:  # pandas's `NaT`, before which nothing lies
            raise ValueError("no time")
        _check_zone(time, index)
        return int(index.searchsorted(time))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`start` is no time of the frames' index. {received} with an index of "
            f"{getattr(index, 'dtype', None)} ({error}). Pass an int, a fraction, or a time as the "
            "index has it, for example `frame.index[700]`."
        ) from error


def _check_zone(time: Any, index: Any) -> None:
    """Refuses a time without a zone where those of the index have one; pandas would add it."""
    if getattr(index, "tz", None) is None or type(index)([time]).tz is not None:
        return
    raise TypeError(
        f"the times of the frames have a zone, {index.tz}; give `start` one, as in "
        "'2026-03-01T12:00+01:00', or `pandas.Timestamp(..., tz=...)`"
    )
