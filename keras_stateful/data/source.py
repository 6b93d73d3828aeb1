"""Documents that come one after the other: a source is opened, and each document checked against
the first.

Where a training goes on, the source is read again from its start up to there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.arrays import (
    as_document,
    check_int32,
    is_array,
    is_tf_dataset,
    out_dtype,
    refuse_not_finite,
)
from keras_stateful.data.batch import checksum
from keras_stateful.data.targets import lifted, read_offsets


class Output(NamedTuple):
    """Where an output's targets come from: a key of the documents, None where they are arrays."""

    key: str | None
    is_label: bool
    shape: tuple
    dtype: np.dtype
    lifted: bool  # see `targets.lifted`


class Document(NamedTuple):
    """One document, checked."""

    number: int
    steps: int  # that have all their targets
    arrays: dict[Any, np.ndarray]
    weights: np.ndarray | float
    checksum: int


class Source:
    """The documents of a source, one after the other.

    Args:
        given: what the user gave as source, and so are `encode`, `targets`, `target_offset`,
            `label_at`, `sample_weight`.
        again: whether it begins again where it ends.

    Attributes:
        like: shape of a time step, dtype and whether it is a single value, by key; of every
            document.
        inputs: keys of the arrays that a model reads.
        outputs: by name; the name is None for a single one.
        offsets: how many steps later the target stands.
        horizon: whether targets have an axis for the offsets.
        opening: checksum of the first document.
        taken: documents taken since the source was opened last.

    Raises:
        TypeError: as `StatefulStream`.
        ValueError: as `StatefulStream`.
    """

    def __init__(
        self,
        given: Any,
        encode: Callable | None,
        targets: Any,
        target_offset: Any,
        label_at: str,
        sample_weight: str | None,
        *,
        again: bool,
    ):
        self._given, self._encode, self._again = _checked_source(given), encode, again
        self._weight_key = sample_weight
        items = self._open()
        first = _first(items, encode)
        self.like = {k: (v.shape[1:], v.dtype, v.ndim == 0) for k, v in first.items()}
        self.offsets, self.horizon = read_offsets(target_offset, 1 if targets is None else 0)
        self.outputs = self._open_outputs(targets, target_offset, label_at)
        answers = (
            {o.key for o in self.outputs.values() if o.key is not None}
            if 0 in self.offsets
            else set()
        )
        answers |= set() if sample_weight is None else {sample_weight}
        self.inputs = [
            k for k, (_, _, single) in self.like.items() if not single and k not in answers
        ]
        self._check_inputs(targets)
        opening = self._prepared(0, first)
        self.opening, self.taken = opening.checksum, 0
        self._documents: Iterator[Document] = itertools.chain([opening], self._read(items, 1))

    @property
    def is_dict(self) -> bool:
        """Whether documents are dicts of arrays."""
        return None not in self.like

    @property
    def once(self) -> bool:
        """Whether it is read once: an iterator."""
        return isinstance(self._given, Iterator)

    @property
    def weighted(self) -> bool:
        """Whether documents have weights of their own."""
        return self._weight_key is not None

    # Reading

    def restart(self) -> None:
        """The next document is the first again."""
        self._documents, self.taken = self._read(self._open()), 0

    def take(self) -> Document | None:
        """The next document, or None where the source has ended."""
        document = next(self._documents, None)
        if document is None and self._again and not self.once:
            self._documents = self._read(self._open())
            document = next(self._documents, None)
        if document is not None:
            self.taken = document.number + 1
        return document

    def at_end(self) -> bool:
        """Whether there is no next document; looks ahead."""
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

    def reread(self, reading: list, taken: int) -> list[Document | None]:
        """Opens the source again, and goes on where it was.

        Args:
            reading: for each row, the number, the time step reached and the checksum of the
                document that it was reading; or None.
            taken: documents that had been taken.

        Returns:
            For each row the document, or None.

        Raises:
            ValueError: a source that gives other documents than it did.
        """
        numbers = {row[0] for row in reading if row is not None}
        found: dict[int, Document] = {}
        items = self._open()
        for i in range(max(numbers, default=-1) + 1):
            item = self._skip(items, i)
            if i in numbers:
                found[i] = self._prepared(i, as_document(f"source[{i}]", item, self._encode))
        for number, at, wanted in filter(None, reading):
            if found[number].checksum != wanted or not 0 < at < found[number].steps:
                raise ValueError(
                    "`source` gives other documents than when the training was saved. Received: "
                    f"another source[{number}]. It must give the same documents in the same order "
                    "each time it is read; a shuffle needs a fixed seed."
                )
        begun = max(numbers, default=-1) + 1
        if begun > taken:  # those rows still read what the source gave before it began again
            items, begun = self._open(), 0
        for i in range(begun, taken):
            self._skip(items, i)
        self._documents, self.taken = self._read(items, taken), taken
        return [None if row is None else found[row[0]] for row in reading]

    def _open(self) -> Iterator:
        source = (
            self._given()
            if callable(self._given) and not isinstance(self._given, Iterable)
            else self._given
        )
        return iter(source.as_numpy_iterator() if is_tf_dataset(source) else source)

    def _read(self, items: Iterator, number: int = 0) -> Iterator[Document]:
        for i, item in enumerate(items, number):
            yield self._prepared(i, as_document(f"source[{i}]", item, self._encode))

    def _skip(self, items: Iterator, number: int) -> Any:
        for item in items:
            return item
        raise ValueError(
            "`source` gives fewer documents than when the training was saved. Received: an end "
            f"after {number} documents. It must give the same documents in the same order each "
            "time it is read."
        )

    # What documents hold

    def _prepared(self, number: int, arrays: dict[Any, np.ndarray]) -> Document:
        """Checks a document."""
        name = f"source[{number}]"
        found = {k: (v.shape[1:], v.dtype, v.ndim == 0) for k, v in arrays.items()}
        if found != self.like:
            raise ValueError(
                "The documents of `source` must be alike but for their length. Received: source[0] "
                f"with {self.like}, {name} with {found} (shape of a time step, dtype, whether a "
                "single value)."
            )
        lengths = {k: len(v) for k, v in arrays.items() if v.ndim}
        steps = max(lengths.values())
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"The arrays of a document must have the same time steps. Received: {name} with "
                f"{lengths}."
            )
        reach = max(self.offsets)
        if steps <= reach:
            raise ValueError(
                f"A document needs at least one time step with its target. Received: {name} of "
                f"{steps} time steps, target_offset up to {reach}. Leave such documents out of the "
                "source."
            )
        weights = self._weights(number, arrays)
        targets = {o.key for o in self.outputs.values()}
        for key, values in arrays.items():
            if key not in (*self.inputs, *targets):
                continue
            if values.dtype.kind not in "iub" and not np.isfinite(values).all():
                bad = (
                    ~np.isfinite(values).reshape(len(values), -1).all(1)
                    if values.ndim
                    else np.array([True])
                )
                if key not in self.inputs and self._weight_key is not None:
                    bad = self._counted(bad, weights)
                    arrays[key] = np.nan_to_num(values, posinf=0, neginf=0)
                if bad.any():
                    place = number, int(bad.argmax())
                    if key in self.inputs:
                        refuse_not_finite("source", *place)
                    refuse_not_finite("targets", *place, self.offsets)
            else:
                check_int32(name, values)
        return Document(number, steps - reach, arrays, weights, checksum(arrays))

    def _counted(self, bad: np.ndarray, weights: np.ndarray | float) -> np.ndarray:
        """Of the marks on targets those whose step, up to some offset before, has a weight."""
        if len(bad) == 1:  # a label
            return bad & np.any(np.asarray(weights) > 0)
        counted = np.broadcast_to(weights, bad.shape)[: len(bad) - max(self.offsets)] > 0
        found = np.zeros_like(bad)
        for offset in self.offsets:
            found[offset : offset + len(counted)] |= counted
        return bad & found

    def _weights(self, number: int, arrays: dict) -> np.ndarray | float:
        if self._weight_key is None:
            return 1.0
        if self._weight_key not in arrays:
            raise ValueError(
                f"`sample_weight` names a key that documents lack. Received: {self._weight_key!r}; "
                f"they have {sorted(arrays, key=str)}."
            )
        weights = np.asarray(arrays[self._weight_key], "float32")
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.ndim < 2):
            raise ValueError(
                "`sample_weight` must be one number of 0 or more per time step or document. "
                f"Received: source[{number}] of shape {weights.shape}, from {weights.min()} to "
                f"{weights.max()}."
            )
        return weights

    def _open_outputs(self, targets: Any, target_offset: Any, label_at: str) -> dict[Any, Output]:
        several = targets if isinstance(targets, dict) else {None: targets}
        if not several:
            raise ValueError(
                "`targets` holds nothing. Received: {}. Leave it out, or name at least one output."
            )
        outputs = {}
        for name, key in several.items():
            if key is None and None in self.like:
                if self.offsets == (0,):
                    raise ValueError(
                        "`target_offset=0` without `targets` asks for the input itself. Received: "
                        "target_offset=0. Pass `target_offset=1` for the next time step, or "
                        "documents that are dicts with a key for `targets`."
                    )
            elif not isinstance(key, str) or key not in self.like:
                raise ValueError(
                    f"`targets` must name a key of the documents. Received: {key!r}; they have "
                    f"{sorted(self.like, key=str) if self.is_dict else 'no keys: each is one array'}."
                )
            shape, dtype, is_label = self.like[key]
            if is_label and self.offsets != (0,):
                raise ValueError(
                    "One label per document cannot be shifted. Received: "
                    f"target_offset={target_offset!r}, targets={key!r}."
                )
            if not is_label and label_at != "every":
                raise ValueError(
                    "`label_at` says where one label per document is trained on. Received: "
                    f"label_at={label_at!r} with targets for every time step. Leave it out."
                )
            dtype = out_dtype("targets", dtype)
            outputs[name] = Output(key, is_label, shape, dtype, lifted(dtype, shape, self.horizon))
        return outputs

    def _check_inputs(self, targets: Any) -> None:
        if not self.inputs:
            raise ValueError(f"`targets` takes the only input. Received: targets={targets!r}.")
        for key in self.inputs:
            shape, dtype, _ = self.like[key]
            if key == "resets":
                raise ValueError(
                    'The key "resets" is kept for the mask. Rename that array of the documents.'
                )
            if not shape and out_dtype("source", dtype).kind == "f":
                raise ValueError(
                    "An array `(timesteps,)` holds ids, which are integers. Received: documents of "
                    f"{dtype}. For a single feature give `x[:, None]`, `(timesteps, 1)`."
                )


def _first(items: Iterator, encode: Callable | None) -> dict[Any, np.ndarray]:
    for item in items:
        document = as_document("source[0]", item, encode)
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
