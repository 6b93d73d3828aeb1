"""Documents that come one after the other: a source is opened, and each document is checked.

Where a training goes on, the source is read again from its start up to there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.arrays import (
    all_finite,
    check_int32,
    finite,
    missing_column,
    missing_steps,
    refuse_not_finite,
)
from keras_stateful.data.batch import checksum
from keras_stateful.data.corpus import Corpus, document_length
from keras_stateful.data.fields import Separate
from keras_stateful.data.inputs import Input, KnownAhead, Read, uneven
from keras_stateful.data.kinds import Items, is_array, is_tf_dataset
from keras_stateful.data.offsets import Offsets
from keras_stateful.data.parts import Parts, open_parts
from keras_stateful.data.targets import Target
from keras_stateful.data.weights import check_values, trained_steps


class Document(NamedTuple):
    """One document, checked.

    Attributes:
        number: its index in the source.
        steps: time steps that have all their targets.
        arrays: by key; the key is None where the document is a single array.
        checksum: of the arrays.
    """

    number: int
    steps: int
    arrays: dict[str | None, np.ndarray]
    checksum: int


class Source:
    """The documents of a source, one after the other.

    Args:
        raw: what the user gave as source; and so are `encode`, `targets`, `target_offset`,
            `label_at` and `sample_weight` what the user gave.
        again: True if the source begins again where it ends.

    Attributes:
        parts: what batches are made of, as the first document tells; holds no documents.
        offsets: how many steps later the targets of all outputs stand.
        target_keys: by name of the output, the key of documents that holds its targets.
        weight_key: the key that holds sample weights, or None.
        opening: checksum of the first document.
        taken: documents taken since the source was opened last.

    Raises:
        TypeError: as `StatefulStream`.
        ValueError: as `StatefulStream`.
    """

    def __init__(
        self,
        raw: Any,
        encode: Callable | None,
        targets: str | dict[str, str] | None,
        target_offset: Offsets,
        label_at: str,
        sample_weight: str | None,
        known_ahead: KnownAhead = None,
        static: Sequence[str] | None = None,
        *,
        again: bool,
    ):
        self._raw, self._again = _checked_source(raw), again
        self._uneven = uneven(known_ahead, static)
        self._items = Items("source", encode, self._uneven.once)
        items = self._open()
        first = _first(items, self._items)
        # Zeros that look like the first document and take no memory: all others must be like it.
        self._like = {k: np.broadcast_to(np.zeros((), v.dtype), v.shape) for k, v in first.items()}
        steps = document_length("source", 0, first, self._like, self._uneven)
        several = targets if isinstance(targets, dict) else {None: targets}
        for key in several.values():
            self._check_key("targets", key)
        self._check_key("sample_weight", sample_weight)
        corpus = self._corpus([Document(0, steps, self._like, 0)])
        self.parts = open_parts(
            corpus, None, targets, target_offset, label_at, sample_weight, known_ahead, static
        )
        keys = {id(values): key for key, values in corpus.fields.items()}
        self.target_keys = {
            name: keys[id(self.parts.targets[name].field)] if key is None else key
            for name, key in several.items()
        }
        self.weight_key = sample_weight
        self.offsets = next(iter(self.parts.targets.values())).offsets  # alike in all targets
        self._reach = max(self.offsets)
        opening = self._checked_document(0, first)
        self.opening, self.taken = opening.checksum, 0
        self._documents: Iterator[Document] = itertools.chain([opening], self._read(items, 1))

    @property
    def once(self) -> bool:
        """True if it is read once: an iterator."""
        return isinstance(self._raw, Iterator)

    # Reading

    def restart(self) -> None:
        """The next document is the first again."""
        self._documents, self.taken = self._read(self._open()), 0

    def take(self) -> Document | None:
        """The next document, or None where the source has ended."""
        document = next(self._documents, None)
        if document is None and self._again and not self.once:  # it begins again
            self._documents = self._read(self._open())
            document = next(self._documents, None)
        if document is not None:
            self.taken = document.number + 1
        return document

    def at_end(self) -> bool:
        """True if there is no next document; looks ahead."""
        taken, document = self.taken, self.take()
        if document is not None:
            self._documents = itertools.chain([document], self._documents)
            self.taken = taken
        return document is None

    def check_seekable(self) -> None:
        """Raises a ValueError for a source that is read once."""
        if self.once:
            raise ValueError(
                "`source` cannot be repositioned: it is read once. Received: an iterator. Pass a "
                "function that makes one, `StatefulStream(lambda: read_documents(path), ...)`, or "
                "anything that can be read again."
            )

    def reread(self, progress: list, taken: int) -> list[Document | None]:
        """Opens the source again, and goes on where it was.

        Args:
            progress: for each row, the number, the time step reached and the checksum of the
                document that it was reading; or None.
            taken: documents that had been taken.

        Returns:
            For each row the document, or None.

        Raises:
            ValueError: a source that gives other documents than it did.
        """
        numbers = {reached[0] for reached in progress if reached is not None}
        documents: dict[int, Document] = {}
        items = self._open()
        for i in range(max(numbers, default=-1) + 1):
            item = self._next_item(items, i)
            if i in numbers:
                documents[i] = self._checked_document(i, self._items.document(i, item))
        for number, at, expected in filter(None, progress):
            if documents[number].checksum != expected or not 0 < at < documents[number].steps:
                raise ValueError(
                    "`source` gives other documents than when the training was saved. Received: "
                    f"another source[{number}]. It must give the same documents in the same order "
                    "each time it is read; a shuffle needs a fixed seed."
                )
        # Documents are numbered anew each time the source begins. A row may still be reading one of
        # the time before, with a number beyond the `taken` ones of this time.
        begun = max(numbers, default=-1) + 1
        if begun > taken:
            items, begun = self._open(), 0
        for i in range(begun, taken):
            self._next_item(items, i)
        self._documents, self.taken = self._read(items, taken), taken
        return [None if reached is None else documents[reached[0]] for reached in progress]

    def _open(self) -> Iterator:
        """An iterator over what the source gives: a new one, unless the source is one itself."""
        makes_one = callable(self._raw) and not isinstance(self._raw, Iterable)
        source = self._raw() if makes_one else self._raw
        if not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
            raise TypeError(
                "`source` must give documents one after the other. Received: a function that "
                f"returned {type(source).__name__}. Have it return an iterator, or `yield` them."
            )
        return iter(source.as_numpy_iterator() if is_tf_dataset(source) else source)

    def _read(self, items: Iterator, number: int = 0) -> Iterator[Document]:
        """Documents of what the source gives, checked as they are taken; the first has `number`."""
        for i, item in enumerate(items, number):
            yield self._checked_document(i, self._items.document(i, item))

    def _next_item(self, items: Iterator, number: int) -> Any:
        """What the source gives next; an error if it has ended before document `number`."""
        for item in items:
            return item
        raise ValueError(
            "`source` gives fewer documents than when the training was saved. Received: an end "
            f"after {number} documents. It must give the same documents in the same order each "
            "time it is read."
        )

    # What documents hold

    def parts_of(self, documents: list[Document]) -> Parts:
        """What a batch of these documents is made of; its spans count them from 0."""
        corpus = self._corpus(documents)
        targets: dict[str | None, Target] = {}
        for name, target in self.parts.targets.items():
            key = self.target_keys[name]
            if target.field is None:
                labels = corpus.labels[key].astype(target.dtype)
                targets[name] = replace(target, labels=labels)
            else:
                targets[name] = replace(target, field=corpus.fields[key])
        weights, key = self.parts.weights, self.weight_key
        if weights is not None and key is not None:
            if weights.field is None:
                weights = replace(weights, documents=corpus.labels[key].astype("float32"))
            else:
                weights = replace(weights, field=corpus.fields[key])
        inputs = {k: self._input_of(k, values, corpus) for k, values in self.parts.inputs.items()}
        return Parts(inputs, targets, weights)

    def _input_of(self, key: str | None, values: Input, corpus: Corpus) -> Input:
        """An input of some documents; `values` is that of the first document of the source."""
        if isinstance(values, Read):
            return replace(values, field=corpus.fields[key])
        return replace(values, values=corpus.labels[key].astype(values.out_dtype))

    def _corpus(self, documents: list[Document]) -> Corpus:
        """Documents as a corpus in memory, without a look at what they hold."""
        # Without the last steps of the arrays, which are read as targets only.
        lengths = np.array([document.steps for document in documents], "int64")
        corpus = Corpus({}, lengths, continuous=False, columns=self._items.columns)
        for key, like in self._like.items():
            arrays = [document.arrays[key] for document in documents]
            if like.ndim and key not in self._uneven.once:
                name = "source" if key is None else f"source[...][{key!r}]"
                corpus.fields[key] = Separate(name, arrays, lengths, like.dtype)
                corpus.fields[key].columns = self._items.columns[key]
                # As `_checked_document` saw when the documents were taken.
                corpus.fields[key].searched = corpus.fields[key].fits = True
            else:
                corpus.labels[key] = np.array(arrays)
        return corpus

    def _checked_document(self, number: int, arrays: dict[str | None, np.ndarray]) -> Document:
        """Checks a document; targets that are missing, and do not count, become 0."""
        steps = document_length("source", number, arrays, self._like, self._uneven)
        readable = min(steps - self._reach, *self._inputs_reach(arrays))
        if readable < 1:
            raise ValueError(
                "A document needs at least one time step with its inputs and its target. Received: "
                f"source[{number}] of {steps} time steps, target_offset up to {self._reach}"
                f"{self._listed_ahead()}. Leave such documents out of the source."
            )
        weights = None if self.weight_key is None else arrays[self.weight_key]
        if weights is not None:
            check_values("sample_weight", weights, f" in source[{number}]")
        for key in self.parts.inputs:
            check_int32(f"source[{number}]", arrays[key])
            if not all_finite(arrays[key]):
                steps_of = np.atleast_1d(arrays[key])
                step = int(missing_steps(steps_of).argmax())
                column = missing_column(self._items.columns[key], steps_of[step])
                refuse_not_finite("source", number, step, column=column)
        # A target that is an input, too, was checked as that: none of its values may be missing.
        for key in self.target_keys.values():
            if key not in self.parts.inputs:
                check_int32(f"source[{number}]", arrays[key])
                arrays[key] = self._without_missing(number, arrays[key], weights)
        return Document(number, readable, arrays, checksum(arrays))

    def _inputs_reach(self, arrays: dict[str | None, np.ndarray]) -> Iterator[int]:
        """How many time steps of a document have each input that is read step by step."""
        for key, values in self.parts.inputs.items():
            if isinstance(values, Read):
                yield len(arrays[key]) - max(values.offsets)

    def _listed_ahead(self) -> str:
        """The inputs that are known ahead, in an error message."""
        ahead = {k: max(o) for k, o in self.parts.input_offsets.items() if max(o)}
        return f", known_ahead={ahead}" if ahead else ""

    def _without_missing(
        self, number: int, targets: np.ndarray, weights: np.ndarray | None
    ) -> np.ndarray:
        """Targets of a document with 0 for those that are missing and have weight 0."""
        if all_finite(targets):
            return targets
        missing = missing_steps(np.atleast_1d(targets))
        if weights is None:
            refused = missing
        elif targets.ndim:
            refused = missing & trained_steps(np.broadcast_to(weights, missing.shape), self.offsets)
        else:  # one label for all steps
            refused = missing & np.any(weights > 0)
        if refused.any():
            refuse_not_finite("targets", number, int(refused.argmax()), self.offsets)
        return np.where(finite(targets), targets, targets.dtype.type(0))

    def _check_key(self, name: str, key: Any) -> None:
        """Checks that an argument is None or names a key of the documents."""
        if key is not None and (not isinstance(key, str) or key not in self._like):
            keys = (
                "no keys: each is one array" if None in self._like else sorted(self._like, key=str)
            )
            raise ValueError(
                f"`{name}` must name a key of the documents. Received: {key!r}; they have {keys}."
            )


def _first(items: Iterator, made: Items) -> dict[str | None, np.ndarray]:
    """The first document of a source, which has one, and not of single values alone."""
    for item in items:
        document = made.document(0, item)
        if all(v.ndim == 0 for v in document.values()):
            raise ValueError(
                "A document must be an array `(timesteps, ...)`. Received: source[0], a single "
                "value. If the source gives time steps one by one, group them: "
                "`itertools.batched`, or `encode=`."
            )
        return document
    raise ValueError(
        "`source` gives no document. Received: an empty source. Is its path right, or was it read "
        "before?"
    )


def _checked_source(source: Any) -> Any:
    """Checks that a source gives documents, and is none itself."""
    if isinstance(source, (str, bytes, dict)) or is_array(source):
        raise TypeError(
            f"`source` must give documents one after the other. Received: {type(source).__name__}. "
            "Pass a list or other iterable of arrays, or a function that gives an iterator; one "
            "array is read by `StatefulSequence`."
        )
    if not isinstance(source, Iterable) and not callable(source):
        raise TypeError(
            "`source` must be an iterable of documents, or a function that gives one. Received: "
            f"{type(source).__name__}."
        )
    return source
