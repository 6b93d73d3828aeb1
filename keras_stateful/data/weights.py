"""The user's own weights, and the missing targets that they leave out. NumPy only.

A weight belongs to the time step that is read, whatever `target_offset` says: the targets of step t
stand at t + offset, and may be missing where the weight of t is 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_stateful.data.arrays import is_finite, missing_steps
from keras_stateful.data.corpus import Corpus, all_scalars, open_field, unknown_key
from keras_stateful.data.fields import Field, check_laid_out
from keras_stateful.data.kinds import as_array, is_array
from keras_stateful.data.spans import Spans, spread

_NAME = "sample_weight"  # of the argument, in error messages
_CHUNK = 1 << 24  # time steps of a document whose weights are read and checked at a time


@dataclass(frozen=True)
class Weights:
    """One weight per time step or per document.

    Attributes:
        field: one number for every time step; None where documents have one each.
        documents: one number for every document, float32 `(documents,)`; None where there is a
            field.
    """

    field: Field | None
    documents: np.ndarray | None

    def of_document(self, document: int, steps: int) -> np.ndarray:
        """The weights of a document, `(steps,)`."""
        if self.documents is not None:
            return np.full(steps, self.documents[document])
        assert self.field is not None
        return self.field.read(document, 0, steps)

    def search(self, targets: Field, offsets: tuple[int, ...]) -> None:
        """Refuses missing targets that count, where looking is quick; others are found when read.

        Args:
            targets: values for every time step.
            offsets: how many steps after a weight its targets stand.
        """
        if targets.searched or not targets.in_memory:
            return
        for document, steps in enumerate(targets.lengths.tolist()):
            missing = missing_steps(targets.read(document, 0, steps))
            if missing.any():
                missing &= trained_steps(self.of_document(document, steps), offsets)
            if missing.any():
                targets.refuse_missing(document, int(missing.argmax()), offsets)

    def batch(self, spans: Spans, rows: int, window: int) -> np.ndarray:
        """Weights of a batch, float32 `(rows, window)`."""
        if self.field is not None:
            return self.field.batch(spans, rows, window).astype("float32", copy=False)
        assert self.documents is not None
        out = np.zeros((rows, window), "float32")
        spread(out, spans, self.documents[spans.document])
        return out


def trained_steps(weights: np.ndarray, offsets: tuple[int, ...]) -> np.ndarray:
    """Marks the targets of a document that are trained on, bool `(steps,)`.

    Args:
        weights: of the document's steps, `(steps,)`.
        offsets: how many steps after a weight its targets stand.
    """
    # The last steps have no target for the largest offset and are not read.
    counts = weights[: max(0, len(weights) - max(offsets))] > 0
    marks = np.zeros(len(weights), bool)
    for offset in offsets:
        marks[offset : offset + len(counts)] |= counts
    return marks


def open_weights(corpus: Corpus, argument: Any) -> Weights:
    """Reads `sample_weight`.

    Args:
        corpus: the corpus.
        argument: what the user gave: laid out as the corpus, one value per document, or a key.

    Raises:
        TypeError: what holds no numbers.
        ValueError: negative, NaN or infinite weights, or ones that do not fit the corpus.
    """
    weights = _opened(corpus, argument)
    if weights.documents is not None:
        _check_of_documents(weights.documents, len(corpus.lengths))
    elif weights.field is not None:
        _check_of_steps(weights.field, corpus.lengths)
    return weights


def _opened(corpus: Corpus, argument: Any) -> Weights:
    """Weights as they were given; their values are not looked at."""
    if isinstance(argument, dict):
        raise TypeError(
            f"`sample_weight` is one for all outputs: a number for each time step, or for each "
            f"document. Received: a dict of {sorted(map(str, argument))}. To weigh whole outputs "
            "there is `compile(loss_weights=...)`."
        )
    if isinstance(argument, str):
        if argument in corpus.labels:
            return Weights(None, corpus.labels[argument].astype("float32"))
        if argument in corpus.fields:
            return Weights(corpus.fields[argument], None)
        raise unknown_key(corpus, _NAME, argument)
    if not corpus.continuous and (is_array(argument) or all_scalars(argument)):
        return Weights(None, as_array(_NAME, argument).astype("float32"))
    field = open_field(_NAME, argument, None)
    if isinstance(field, Corpus):
        raise TypeError(
            "`sample_weight` must be numbers. Received: documents that are dicts. Pass a list with "
            "one array for each document."
        )
    check_laid_out(field, next(iter(corpus.fields.values())))
    return Weights(field, None)


def _check_of_documents(weights: np.ndarray, count: int) -> None:
    if weights.shape != (count,):
        raise ValueError(
            f"`sample_weight` as one array means one weight per document. Received: shape "
            f"{weights.shape} for {count} documents. Give one for each, or a list "
            "with one array per document."
        )
    check_values(_NAME, weights)


def _check_of_steps(field: Field, lengths: np.ndarray) -> None:
    if field.shape:
        raise ValueError(
            f"`sample_weight` must be one number per time step. Received: {field.shape} at "
            "each. Sum or average them."
        )
    # Memory maps are read, too: a wrong weight would train on the wrong thing, without an error.
    for document, steps in enumerate(lengths.tolist()):
        for start in range(0, steps, _CHUNK):
            values = field.read(document, start, min(start + _CHUNK, steps))
            check_values(field.document_name(document), values)
    field.searched = True


def check_values(name: str, weights: np.ndarray, where: str = "") -> None:
    """Checks that weights are finite and 0 or more.

    Args:
        name: name of the weights, used in the error message.
        where: where they stand, in words.
    """
    # Where one is NaN, so are both of these, and no comparison with NaN is true.
    low, high = weights.min(), weights.max()
    if not (low >= 0 and is_finite(high)):
        raise ValueError(
            f"`{name}` must be 0 or more everywhere. Received: "
            f"{low if not low >= 0 else high}{where}. Use 0 for what shall not be trained on."
        )
