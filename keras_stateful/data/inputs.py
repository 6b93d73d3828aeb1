"""What a model reads under one name: values of each time step, or one vector for a document.

    load      known up to now     step t reads   load[t]
    hour      known ahead         step t reads   hour[t + 1], of the step that it predicts
    hour      ahead by 1 and 6    step t reads   hour[t + 1] and hour[t + 6], side by side
    machine   static              step t reads   machine[document]

NumPy only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from keras_stateful.data.arrays import check_int32, missing_steps, out_dtype, refuse_not_finite
from keras_stateful.data.batch import Spec
from keras_stateful.data.corpus import Corpus, Uneven, unknown_key
from keras_stateful.data.fields import Field
from keras_stateful.data.ids import Vocabulary
from keras_stateful.data.kinds import Items, as_array
from keras_stateful.data.offsets import at_all_offsets, read_offsets
from keras_stateful.data.spans import Spans, repeated
from keras_stateful.foundation.frames import Columns, columns_of, row_names

# Keys that are known as far ahead as the targets stand, or keys with offsets of their own.
KnownAhead: TypeAlias = Sequence[str] | Mapping[str, int | Sequence[int]] | None
# Arrays `(documents, ...)` by key; or keys of documents that are dicts.
StaticInputs: TypeAlias = Mapping[str, Any] | Sequence[str] | None
Later: TypeAlias = Callable[[int], Spans]  # the spans that stand so many steps later


@dataclass(frozen=True)
class Read:
    """Values of each time step, read at the step itself or, where they are known ahead, later.

    Attributes:
        field: the values.
        offsets: how many steps later; what stands at several is side by side.
    """

    field: Field
    offsets: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """Name used in error messages."""
        return self.field.name

    @property
    def shape(self) -> tuple:
        """Of one time step."""
        count, shape = len(self.offsets), self.field.shape
        if count == 1:
            return shape
        return (*shape[:-1], count * shape[-1]) if shape else (count,)

    @property
    def out_dtype(self) -> np.dtype:
        """As batches have it."""
        return self.field.out_dtype

    @property
    def columns(self) -> Columns:
        """Names of the features, where the documents are frames; else None."""
        columns = self.field.columns
        if columns is None or len(self.offsets) == 1:
            return columns
        return tuple(f"{column}+{offset}" for offset in self.offsets for column in columns)

    @property
    def immediate(self) -> bool:
        """True if reading waits for no disk and no source."""
        return self.field.immediate

    @property
    def sound(self) -> bool:
        """True if it is known that no value is missing or out of range."""
        return self.field.sound

    @property
    def plain(self) -> bool:
        """True if batches may be copies of parts of one array, with nothing left to check."""
        return self.field.plain and len(self.offsets) == 1

    def spec(self, rows: int, window: int) -> Spec:
        """What a batch has as this input."""
        return Spec((rows, window, *self.shape), self.out_dtype)

    def batch(self, later: Later, rows: int, window: int) -> np.ndarray:
        """What the steps of a batch read, `(rows, window, ...)`, 0 where there is none."""
        parts = [self.field.batch(later(offset), rows, window) for offset in self.offsets]
        return at_all_offsets(parts, of_features=self.field.shape != ())

    def readable(self, lengths: np.ndarray) -> np.ndarray:
        """How many of the first `lengths` time steps of each document can be read."""
        return np.minimum(lengths, self.field.lengths - max(self.offsets))

    def check_ids(self, vocabulary: Vocabulary, lengths: np.ndarray) -> bool:
        """Refuses ids that a model does not know; False where a search would take long.

        Args:
            vocabulary: what it knows.
            lengths: time steps of each document that are read.
        """
        return self.field.check_ids(vocabulary, lengths + max(self.offsets))

    def search(self) -> None:
        """Refuses values that are NaN or infinite, where looking is quick."""
        self.field.search()


@dataclass(frozen=True)
class Static:
    """One vector for each document, read at each of its steps; the same methods as `Read`.

    Attributes:
        name: name used in error messages.
        values: `(documents, ...)`, as batches have them.
        columns: names of the features, where these are a frame; else None.
    """

    name: str
    values: np.ndarray
    columns: Columns = None

    offsets = (0,)
    immediate = True
    sound = True
    plain = False

    @property
    def shape(self) -> tuple:
        return self.values.shape[1:]

    @property
    def out_dtype(self) -> np.dtype:
        return self.values.dtype

    def spec(self, rows: int, window: int) -> Spec:
        return Spec((rows, window, *self.shape), self.out_dtype)

    def batch(self, later: Later, rows: int, window: int) -> np.ndarray:
        return repeated(self.values, later(0), rows, window)

    def readable(self, lengths: np.ndarray) -> np.ndarray:
        return lengths

    def check_ids(self, vocabulary: Vocabulary, lengths: np.ndarray) -> bool:
        if not vocabulary.holds_all(self.values):
            vocabulary.refuse(self.name, self.values)
        return True

    def search(self) -> None:
        """Nothing: they were searched when they were opened."""


Input: TypeAlias = Read | Static


def uneven(known_ahead: KnownAhead, static: StaticInputs) -> Uneven:
    """The keys of a corpus whose arrays are longer than a document, or have no time axis.

    Raises:
        TypeError: text in place of a list, keys that are no text.
    """
    in_corpus = None if isinstance(static, Mapping) else static
    return Uneven(_keys("known_ahead", known_ahead), _keys("static", in_corpus))


def _keys(name: str, keys: Any) -> frozenset[str]:
    if keys is None:
        return frozenset()
    if isinstance(keys, Iterable) and not isinstance(keys, str):
        listed = list(keys)
        if all(isinstance(key, str) for key in listed):
            return frozenset(listed)
    example = f"[{keys!r}]" if isinstance(keys, str) else "['hour']"
    raise TypeError(
        f"`{name}` must be a list of keys of the corpus. Received: {name}={str(keys)[:60]} of type "
        f"{type(keys).__name__}. Pass `{name}={example}`."
    )


def offsets_ahead(
    known_ahead: KnownAhead, corpus: Corpus, target_offsets: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """How many steps later each known-ahead input is read, by its key.

    Args:
        known_ahead: as `StatefulSequence` takes it.
        corpus: the corpus.
        target_offsets: how many steps later the targets stand.

    Raises:
        ValueError: a key that the corpus lacks, offsets of 0.
    """
    offsets: dict[str, tuple[int, ...]] = {}
    for key in known_ahead or ():
        if key not in corpus.fields:
            raise unknown_key(corpus, "known_ahead", key)
        of_key = known_ahead[key] if isinstance(known_ahead, Mapping) else target_offsets
        offsets[key], _ = read_offsets(of_key, 0, f"known_ahead[{key!r}]")
        if max(offsets[key]) == 0:
            received, remedy = (
                (f"known_ahead={{{key!r}: {of_key!r}}}", f"`known_ahead={{{key!r}: 1}}`")
                if isinstance(known_ahead, Mapping)
                else (f"known_ahead of {key!r} with target_offset=0", "`target_offset=1`")
            )
            raise ValueError(
                "`known_ahead` inputs are read at the step that is predicted, `target_offset` "
                f"later, and that is the step itself. Received: {received}. Pass the offset of the "
                f"targets, {remedy}; or leave {key!r} out of `known_ahead`, so that it is read at "
                "its own step."
            )
    return offsets


def open_static(static: StaticInputs, corpus: Corpus) -> dict[str | None, Input]:
    """Reads `static`: for each key an array `(documents, ...)`, one vector for each document.

    Args:
        static: the arrays by key; or keys of documents that are dicts, each with its own vector.
        corpus: the corpus.

    Raises:
        ValueError: a key that the corpus has, another number of documents, values that are missing.
    """
    opened: dict[str | None, Input] = {}
    if static is None:
        return opened
    named = (
        {key: _named(f"static[{key!r}]", values) for key, values in static.items()}
        if isinstance(static, Mapping)
        else {key: _of_documents(corpus, key) for key in static}
    )
    if named and not corpus.is_dict:
        raise ValueError(
            "`static` inputs go by name, and the corpus is one array without one. Received: "
            f"static={sorted(map(str, named))}. Give the corpus as a dict, `{{'x': corpus}}`, "
            "where 'x' is the name of the model's input."
        )
    for key, (columns, values) in named.items():
        if not isinstance(key, str) or key == "resets" or key in corpus.fields:
            raise ValueError(
                "The keys of `static` name inputs of the model that the corpus does not have. "
                f"Received: key {key!r}, the corpus with {sorted(map(str, corpus.fields))}. "
                "Rename it."
            )
        vectors = _vectors(key, values, len(corpus.lengths))
        opened[key] = Static(f"static[{key!r}]", vectors, columns)
    return opened


def _named(name: str, values: Any) -> tuple[Columns, Any]:
    """The columns of vectors that are a frame, or a list of its rows, and the vectors."""
    if not isinstance(values, (list, tuple)):
        return columns_of(values), values
    if not any(map(row_names, values)):
        return None, values
    rows = Items(name, once=(None,))
    vectors = [rows.array(f"{name}[{k}]", row) for k, row in enumerate(values)]
    return rows.columns[None], vectors


def _of_documents(corpus: Corpus, key: str) -> tuple[Columns, np.ndarray]:
    """The columns and the vectors of documents that are dicts, each with its own."""
    if key in corpus.labels:
        return corpus.columns.get(key), corpus.labels[key]
    raise ValueError(
        f"`static` names a key of documents that are dicts. Received: {key!r}; the documents have "
        f"{sorted(map(str, corpus.labels))} once. Give each document one under "
        "that key; or, to a `StatefulSequence`, the vectors of all of them, "
        f"`static={{{key!r}: array}}` of shape (documents, ...)."
    )


def _vectors(key: str, values: Any, documents: int) -> np.ndarray:
    """One vector for each document, in the dtype that batches have."""
    name = f"static[{key!r}]"
    array = as_array(name, values)
    if array.ndim == 0 or len(array) != documents:
        raise ValueError(
            f"`{name}` must have one vector for each document. Received: shape {array.shape} for "
            f"{documents} documents. Pass an array `({documents}, features)`, or ids "
            f"`({documents},)`."
        )
    if array.ndim == 1 and out_dtype(name, array.dtype).kind == "f":
        raise ValueError(
            f"`{name}` has one number for each document, and no axis for features. Received: "
            f"shape {array.shape} of {array.dtype}. Give it one, `x[:, None]`; ids are integers, "
            '`x.astype("int32")`.'
        )
    missing = missing_steps(array)
    if missing.any():
        refuse_not_finite(name, int(missing.argmax()), 0)
    check_int32(name, array)
    return array.astype(out_dtype(name, array.dtype))
