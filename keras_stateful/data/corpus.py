"""A corpus: arrays, memory maps, lists, sources with `[]` or dicts of these, opened as fields.

    np.arange(90)             one text: a field `Flat`, one document
    [d0, d1, ...]             `Separate`; `Flat` where they are slices of one array
    source[i], encode(...)    `Lazy`
    {"a": ..., "b": ...}      a field for each key
    [{"a": ..., "b": 3}, ...] likewise; single values are labels of documents

What is an array and what is documents, `kinds` says. NumPy only.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.arrays import check_int32, out_dtype
from keras_stateful.data.fields import (
    AHEAD_FROM_THE_FIRST_STEP,
    Field,
    Flat,
    Separate,
    check_laid_out,
)
from keras_stateful.data.kinds import (
    Items,
    as_array,
    is_array,
    is_tf_dataset,
    refuse_others,
    refuse_pair,
)
from keras_stateful.data.lazy import Lazy, LazySource
from keras_stateful.data.slices import dtypes_of, slices
from keras_stateful.foundation.frames import Columns, columns_of
from keras_stateful.foundation.progress import ProgressBar

_LONG = 2  # seconds of reading documents, after which a progress bar says how far it has come


class Uneven(NamedTuple):
    """Keys whose arrays have more or fewer values than the document has time steps.

    Attributes:
        longer: may go on behind the end of the others: what is known ahead.
        once: have no time axis: what is static.
    """

    longer: Collection[str] = ()
    once: Collection[str] = ()


EVEN = Uneven()


@dataclass
class Corpus:
    """An opened corpus.

    Attributes:
        fields: one array per document, by key; the key is None where the corpus is no dict.
        lengths: time steps of each document, `(documents,)`.
        continuous: True if it is one text without documents.
        labels: values that documents have once, not per time step, each `(documents, ...)`.
        columns: names of the numbers of those labels that are rows of a frame, by key.
    """

    fields: dict[str | None, Field]
    lengths: np.ndarray
    continuous: bool
    labels: dict[str | None, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str | None, Columns] = field(default_factory=dict)

    @property
    def is_dict(self) -> bool:
        """True if fields have keys."""
        return None not in self.fields


def open_corpus(
    name: str, corpus: Any, encode: Callable | None = None, uneven: Uneven = EVEN
) -> Corpus:
    """Opens whatever a corpus may be.

    Args:
        name: name of the argument that gives it, used in error messages.
        corpus: as `StatefulSequence` takes it.
        encode: a function from an item to a document, or None.
        uneven: keys whose arrays have more or fewer values than the document has time steps.

    Raises:
        TypeError: something else, text that is not encoded, an iterator.
        ValueError: nothing in it, an empty document, ragged or unequal parts.
    """
    if isinstance(corpus, dict) and encode is None:
        return _open_dict(name, corpus, uneven)
    refuse_pair(name, corpus)
    documents = open_field(name, corpus, encode, uneven)
    if isinstance(documents, Corpus):
        return documents
    return Corpus({None: documents}, documents.lengths, is_array(corpus) and encode is None)


def _open_dict(argument: str, corpus: dict, uneven: Uneven) -> Corpus:
    if not corpus:
        raise ValueError(
            f"`{argument}` holds nothing. Received: {{}}. Give at least one array or list of "
            "documents."
        )
    fields: dict[str | None, Field] = {}
    for name, value in corpus.items():
        if not isinstance(name, str) or name == "resets":
            raise ValueError(
                f'The keys of a dict `{argument}` name the model\'s inputs, and "resets" is kept '
                f"for the mask. Received: key {name!r}. {_rename(argument, name)}"
            )
        refuse_pair(f"{argument}[{name!r}]", value)
        opened = open_field(f"{argument}[{name!r}]", value, None)
        if isinstance(opened, Corpus):
            raise TypeError(
                f"`{argument}[{name!r}]` has documents that are dicts themselves. Give one dict of "
                "lists, or one list of dicts."
            )
        fields[name] = opened
    kinds = {is_array(v) for v in corpus.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"The arrays of a dict `{argument}` must be laid out alike. Received: "
            + ", ".join(
                f"{k!r}: {'an array' if is_array(v) else 'documents'}" for k, v in corpus.items()
            )
            + ". Give every key one array, or every key a list with one array per document; one "
            "vector for each document is given apart, `static={name: vectors}`."
        )
    whole = fields[next((name for name in fields if name not in uneven.longer), next(iter(fields)))]
    for name, values in fields.items():
        check_laid_out(values, whole, longer=name in uneven.longer)
    return Corpus(fields, whole.lengths, kinds == {True})


def _rename(argument: str, name: Any) -> str:
    """What to do about a key that cannot name an input."""
    if name == "resets":
        return "Rename it."
    return (
        f"If there is a document for each key, pass `list({argument}.values())`; else name the "
        "inputs by text."
    )


def open_field(
    name: str, value: Any, encode: Callable | None, uneven: Uneven = EVEN
) -> Field | Corpus:
    """Opens one array, or documents.

    Args:
        name: name used in error messages.
        value: what the user gave.
        encode: a function from an item to a document, or None.
        uneven: as for `open_corpus`.

    Returns:
        A field; a `Corpus` where the documents are dicts.
    """
    if is_tf_dataset(value):
        value, encode = _read_tf_dataset(name, value, encode), None
    refuse_others(name, value)
    if encode is not None:
        # A column of texts is read by place; its own `[i]` is by label.
        return _lazy(name, np.asarray(value) if hasattr(value, "iloc") else value, encode, uneven)
    if is_array(value):
        return _one_array(name, value)
    if hasattr(value, "__array__"):  # of objects, a document in each place
        value = list(np.asarray(value))
    if isinstance(value, (list, tuple)):
        if isinstance(value[0], dict):
            return _of_dicts(name, value, uneven)
        return _in_memory(name, value)
    return _lazy(name, value, None, uneven)


def _one_array(name: str, value: Any) -> Field:
    array = as_array(name, value)
    if array.ndim == 0:
        raise ValueError(
            f"`{name}` must have a time axis, `(timesteps, ...)`. Received: a scalar, {array}."
        )
    if len(array) == 0:
        raise ValueError(
            f"`{name}` has no time steps. Received: an array of shape {array.shape}. Is its path "
            "right?"
        )
    field = Flat(name, array, np.zeros(1, "int64"), np.array([len(array)], "int64"))
    field.columns = columns_of(value)
    return field


def _in_memory(name: str, values: list | tuple) -> Field:
    """Documents in a list."""
    items = Items(name)
    # There may be very many, and most are arrays already. (`map` runs no Python for each.)
    plain = {*map(type, values)} == {np.ndarray} and all(
        d.kind in "iufb" for d in dtypes_of(values)
    )
    documents = (
        list(values) if plain else [items.array(f"{name}[{i}]", v) for i, v in enumerate(values)]
    )
    field = _of_arrays(name, documents)
    field.columns = items.columns.get(None)
    return field


def _of_dicts(name: str, values: list | tuple, uneven: Uneven) -> Corpus:
    """Documents in a list that are dicts; single values are labels."""
    items = Items(name, once=uneven.once)
    documents = [items.arrays(f"{name}[{i}]", item) for i, item in enumerate(values)]
    first = documents[0]
    lengths = [document_length(name, i, d, first, uneven) for i, d in enumerate(documents)]
    fields: dict[str | None, Field] = {}
    labels: dict[str | None, np.ndarray] = {}
    for key, like in first.items():
        arrays = [document[key] for document in documents]
        if like.ndim and key not in uneven.once:
            fields[key] = _of_arrays(f"{name}[...][{key!r}]", arrays)
            fields[key].columns = items.columns[key]
        else:
            labels[key] = np.stack(arrays)
    return Corpus(fields, np.array(lengths, "int64"), False, labels, items.columns)


def _of_arrays(name: str, documents: list[np.ndarray]) -> Field:
    """Documents that are arrays of numbers."""
    if 0 in {*map(attrgetter("ndim"), documents)}:
        i = next(i for i, document in enumerate(documents) if not document.ndim)
        raise _no_document(name, i, documents[i])
    lengths = np.fromiter(map(len, documents), "int64", len(documents))
    _check_documents(name, lengths)
    dtypes = dtypes_of(documents)
    if len({d.shape[1:] for d in documents}) > 1:
        first = documents[0].shape[1:]
        i = next(i for i, d in enumerate(documents) if d.shape[1:] != first)
        raise ValueError(
            f"The documents of `{name}` must have the same features at every time step. Received: "
            f"{name}[0] of shape {documents[0].shape}, {name}[{i}] of shape {documents[i].shape}. "
            "Only the first axis, time, may differ."
        )
    if len({out_dtype(name, dtype) for dtype in dtypes}) > 1:
        raise ValueError(
            f"The documents of `{name}` must be all integers or all floating point. Received: "
            f"{', '.join(sorted(map(str, dtypes)))}. Convert them to one."
        )
    dtype = np.result_type(*dtypes)
    if all(d.kind in "iu" for d in dtypes) and dtype.kind == "f":
        dtype = np.dtype("int64")  # of int64 and uint64, in which the largest would be negative
        for i, document in enumerate(documents):
            check_int32(f"{name}[{i}]", document)
    return slices(name, documents, lengths) or Separate(name, documents, lengths, dtype)


def _lazy(name: str, source: Any, encode: Callable | None, uneven: Uneven) -> Field | Corpus:
    """Documents that a source reads when asked.

    Their lengths and labels must be known: all are read once, unless the source has `lengths`. Of
    files that may take minutes, so it shows how far it has come.
    """
    reader = LazySource(source, Items(name, encode, uneven.once))
    listed = None if encode is not None else getattr(source, "lengths", None)
    first = reader.get(0)
    labels: dict[str | None, list] = {
        k: [] for k, v in first.items() if v.ndim == 0 or k in uneven.once
    }
    ahead: dict[str | None, list[int]] = {k: [] for k in first if k in uneven.longer}
    every = listed is None or labels or ahead
    lengths = np.empty(len(source), "int64")
    count = len(source) if every else 1
    with ProgressBar("auto", count, "document", after=_LONG) as shown:
        for i in range(count):
            document = reader.get(i) if i < 2 else reader.load(i)  # the first are kept
            lengths[i] = document_length(name, i, document, first, uneven)
            for k, values in labels.items():
                values.append(document[k])
            for k, steps in ahead.items():
                steps.append(len(document[k]))
            shown.advance()
    if listed is not None and not every:
        lengths = np.asarray(listed, "int64")
        if lengths.shape != (len(source),):
            raise ValueError(
                f"`{name}.lengths` must have one number for each of {len(source)} documents. "
                f"Received: shape {lengths.shape}."
            )
    _check_documents(name, lengths)
    if None in first:
        return Lazy(name, None, reader, lengths, first[None])
    fields: dict[str | None, Field] = {
        k: Lazy(f"{name}[...][{k!r}]", k, reader, np.array(ahead.get(k, lengths), "int64"), v)
        for k, v in first.items()
        if k not in labels
    }
    stacked = {k: np.stack(v) for k, v in labels.items()}
    return Corpus(fields, lengths, False, stacked, reader.items.columns)


def document_length(
    name: str,
    i: int,
    document: dict[str | None, np.ndarray],
    first: dict[str | None, np.ndarray],
    uneven: Uneven = EVEN,
) -> int:
    """Time steps of document `i`, which must be like the first in all but that.

    Args:
        name: name of the source, used in error messages.
        i: number of the document.
        document: its arrays.
        first: those of the first document.
        uneven: as for `open_corpus`.

    Raises:
        ValueError: other keys, shapes or dtypes, or arrays of different length.
    """
    if document.keys() != first.keys():
        raise ValueError(
            f"The documents of `{name}` must have the same keys. Received: {name}[0] with "
            f"{sorted(first, key=str)}, {name}[{i}] with {sorted(document, key=str)}. Give each "
            "document all that the model reads, and nothing else."
        )
    for k, value in document.items():
        if (
            value.shape[1:] != first[k].shape[1:]
            or (k in uneven.once and value.shape != first[k].shape)
            or value.ndim != first[k].ndim  # a label has the shape[1:] of ids, ()
            or value.dtype != first[k].dtype
        ):
            key = "" if k is None else f"[{k!r}]"
            raise ValueError(
                f"The documents of `{name}` must be alike but for their length. Received: "
                f"{name}[0]{key} of shape {first[k].shape}, {first[k].dtype}; {name}[{i}]{key} of "
                f"shape {value.shape}, {value.dtype}. Only the first axis, time, may differ; of "
                "another dtype, convert them to one."
            )
    steps = {k: len(v) for k, v in document.items() if v.ndim and k not in uneven.once}
    lengths = {n for k, n in steps.items() if k not in uneven.longer} or set(steps.values())
    if len(lengths) != 1 or min(steps.values()) < min(lengths):
        listed = ", ".join(f"{k!r}: {n}" for k, n in steps.items())
        raise ValueError(
            f"The arrays of a document must have the same time steps. Received: {name}[{i}] with "
            f"{listed or 'no array'}."
            + (f" {AHEAD_FROM_THE_FIRST_STEP}" if any(k in uneven.longer for k in steps) else "")
        )
    return lengths.pop()


def _check_documents(name: str, lengths: np.ndarray) -> None:
    """Checks that documents are not empty."""
    if not lengths.all():
        empty = np.flatnonzero(lengths == 0)
        raise ValueError(
            f"`{name}` has empty documents. Received: {len(empty)} of length 0, the first at index "
            f"{empty[0]}. Leave them out: `[d for d in documents if len(d)]`."
        )


def _no_document(name: str, i: int, value: np.ndarray) -> ValueError:
    """The error for a single number, or None, where a document should be."""
    if np.isnan(value):  # as `as_array` reads None
        received = "None or NaN"
        remedy = (
            "Leave such documents out, and what belongs to them: "
            "`[d for d in documents if np.ndim(d)]`."
        )
    else:
        text = name == "corpus"  # elsewhere an array is no text
        received = "a single number"
        series = f"; for one continuous series an array, `np.asarray({name})`" if text else ""
        remedy = f"For one document pass `[{name}]`{series}."
    return ValueError(
        f"`{name}` must hold one array `(timesteps, ...)` per document. Received: {name}[{i}], "
        f"{received}. {remedy}"
    )


def unknown_key(corpus: Corpus, name: str, key: str) -> ValueError:
    """The error for an argument that names a key that the corpus lacks."""
    known = sorted([*corpus.fields, *corpus.labels], key=str) if corpus.is_dict else "no keys"
    return ValueError(
        f"`{name}` names a key that the corpus lacks. Received: {key!r}; the corpus has {known}. "
        "Pass one of its keys, or an array."
    )


def all_scalars(value: Any) -> bool:
    """True if a value is a list of single values, not of arrays."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and not any(isinstance(v, (list, tuple)) or np.ndim(v) for v in value)
    )


def _read_tf_dataset(name: str, dataset: Any, encode: Callable | None) -> list:
    """A finite `tf.data.Dataset` of documents, read into memory: it cannot be read by index."""
    if int(dataset.cardinality()) == -1:
        raise ValueError(
            f"`{name}` is a tf.data.Dataset without an end. Received: {dataset}. Give a finite "
            "one, `.take(n)`, or read it with `StatefulStream(..., steps_per_epoch=...)`."
        )
    items = dataset.as_numpy_iterator()
    return [encode(i) for i in items] if encode is not None else list(items)
