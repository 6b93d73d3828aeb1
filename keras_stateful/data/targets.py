"""What a batch is trained on: targets, and where they count. NumPy only.

A target is what an output shall give at a time step: the corpus some steps later, an array laid out
as the corpus, or one label for the whole document. A batch has weights that say where it counts;
they are scaled so that the mean that Keras takes over all steps of a batch is, over an epoch, the
mean over the steps that count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_stateful.data.arrays import check_int32, out_dtype
from keras_stateful.data.batch import Spec
from keras_stateful.data.corpus import Corpus, all_scalars, open_field, unknown_key
from keras_stateful.data.fields import Field, check_laid_out
from keras_stateful.data.ids import IdRange
from keras_stateful.data.kinds import as_array, is_array
from keras_stateful.data.offsets import Offsets, read_offsets
from keras_stateful.data.spans import Spans, repeated, weighted
from keras_stateful.data.weights import Weights
from keras_stateful.foundation.arguments import one_of
from keras_stateful.foundation.frames import Columns, columns_of

LABEL_AT = ("every", "window", "last")  # where one label per document is trained on


@dataclass(frozen=True)
class Target:
    """One output's target.

    Attributes:
        name: name used in error messages.
        field: values for every time step, or None.
        labels: one value per document, `(documents, ...)`, or None.
        offsets: how many steps later the target stands.
        horizon: True if targets have an axis for the offsets, `(batch, time, offsets, ...)`.
        label_at: which steps of a document are trained on: "every", "window" or "last".
        columns: of frames; None of what was none.
    """

    name: str
    field: Field | None
    labels: np.ndarray | None
    offsets: tuple[int, ...]
    horizon: bool
    label_at: str
    columns: Columns = None

    @property
    def reach(self) -> int:
        """How many steps later the latest target stands."""
        return max(self.offsets)

    @property
    def lifted(self) -> bool:
        """True if single values get an axis; see the function of this name."""
        return lifted(self.dtype, self.shape, self.horizon)

    @property
    def shape(self) -> tuple:
        """Of the values at one time step, before an axis is added."""
        return self._labels.shape[1:] if self.field is None else self.field.shape

    @property
    def dtype(self) -> np.dtype:
        """As batches have it."""
        return self._labels.dtype if self.field is None else self.field.out_dtype

    @property
    def _labels(self) -> np.ndarray:
        assert self.labels is not None  # where there is no field
        return self.labels

    def ids_within(self, allowed: IdRange) -> bool | None:
        """True if all ids are allowed; None where a search would take long."""
        if self.field is not None:
            return self.field.ids_within(allowed)
        return allowed.holds_all(self._labels)

    def specs(self, rows: int, window: int) -> tuple[Spec, Spec]:
        """What a batch has as this target, and as its weights."""
        # The loss of a horizon is `(batch, time, offsets)`, to which weights with a last axis of 1
        # are broadcast.
        axis, weights_axis = ((len(self.offsets),), (1,)) if self.horizon else ((), ())
        targets = (rows, window, *axis, *self.shape, *(1,) * self.lifted)
        return Spec(targets, self.dtype), Spec((rows, window, *weights_axis), np.dtype("float32"))

    def weights(self, spans: Spans, rows: int, window: int, scale: float) -> np.ndarray:
        """`scale` at the steps that count, 0 elsewhere: float32 `(rows, window)`."""
        if self.label_at == "every":
            return weighted(spans, rows, window, scale)
        weights = np.zeros((rows, window), "float32")
        chosen = self._labelled(spans)
        # At the last step of each chosen run.
        weights[spans.row[chosen], (spans.column + spans.steps - 1)[chosen]] = scale
        return weights

    def counted(self, spans: Spans, window: int, *, at_ends: bool) -> int:
        """How many steps of the spans are trained on; with `at_ends` of windows' last ones."""
        if at_ends:
            return int((self._labelled(spans) & (spans.column + spans.steps == window)).sum())
        if self.label_at == "every":
            return int((spans.steps - spans.skip).sum())
        return int(self._labelled(spans).sum())

    def _labelled(self, spans: Spans) -> np.ndarray:
        """Marks the spans at whose last step the label is trained on."""
        real = spans.skip < spans.steps
        return real & spans.closes if self.label_at == "last" else real

    def batch(
        self, spans: list[Spans], rows: int, window: int, weights: np.ndarray | None
    ) -> np.ndarray:
        """Targets `(rows, window, ...)`.

        Args:
            spans: for each offset, the steps that many later.
            weights: where they are 0, missing targets become 0. None where all count.
        """
        if self.field is not None:
            keep = None if weights is None or self.field.searched else weights > 0
            later = [self.field.batch(s, rows, window, keep, self.offsets) for s in spans]
            values = np.stack(later, axis=2) if self.horizon else later[0]
        else:
            values = repeated(self._labels, spans[0], rows, window)
        return values[..., None] if self.lifted else values


def lifted(dtype: np.dtype, shape: tuple, horizon: bool) -> bool:
    """True if single floating-point targets get an axis of length 1, as a `Dense(1)` gives.

    Without it Keras's losses would take the time axis for it, and weights `(batch, time)` would not
    fit.
    """
    return dtype.kind == "f" and not shape and not horizon


def open_targets(
    corpus: Corpus,
    raw: Any,
    targets: Any,
    target_offset: Offsets,
    label_at: str,
    weights: Weights | None = None,
) -> dict[str | None, Target]:
    """Reads `targets`, `target_offset` and `label_at`: a target for each output, by its name.

    The name is None for a single output.

    Args:
        corpus: the corpus.
        raw: what the user gave as corpus.
        targets: what the user gave as targets.
        target_offset: how many steps later they stand; an int, several, or None.
        label_at: where labels of documents are trained on.
        weights: the user's own; where they are 0, targets may be missing.

    Raises:
        TypeError: something that cannot be a target.
        ValueError: targets that do not fit the corpus, offsets that mean nothing.
    """
    one_of("label_at", label_at, LABEL_AT)
    if isinstance(targets, dict) and not targets:
        raise ValueError(
            "`targets` holds nothing. Received: {}. Leave it out, or name at least one output."
        )
    several = targets if isinstance(targets, dict) else {None: targets}
    opened: dict[str | None, Target] = {}
    for key, value in several.items():
        name = "targets" if key is None else f"targets[{key!r}]"
        opened[key] = _open(corpus, raw, name, value, target_offset, label_at, weights)
    return opened


def _open(
    corpus: Corpus,
    raw: Any,
    name: str,
    value: Any,
    target_offset: Offsets,
    label_at: str,
    weights: Weights | None,
) -> Target:
    field, labels = _values(corpus, raw, name, value, weights)
    if labels is None and label_at == "last":
        raise ValueError(
            "`label_at` says where one label per document is trained on. Received: "
            f"label_at={label_at!r} with targets for every time step. Leave it out, give one label "
            'per document, (documents,), or train on the target at the end of each "window".'
        )
    offsets, horizon = read_offsets(target_offset, 1 if value is None else 0)
    if value is None and offsets == (0,):
        raise ValueError(
            "`target_offset=0` without `targets` asks for the input itself. Received: "
            "target_offset=0, targets=None. Pass `target_offset=1` for the next time step, or "
            "`targets`."
        )
    if labels is not None and offsets != (0,):
        raise ValueError(
            f"One label per document cannot be shifted. Received: target_offset={target_offset!r} "
            f"with one label per document in `{name}`. Leave `target_offset` out."
        )
    of_corpus = value is None or value is raw  # then it is an input, too, and searched as one
    if field is not None and not of_corpus:
        if weights is None:
            field.search(offsets)
        else:
            weights.search(field, offsets)
    if labels is not None and labels.dtype.kind == "f" and not np.isfinite(labels).all():
        i = int((~np.isfinite(labels)).reshape(len(labels), -1).any(1).argmax())
        raise ValueError(
            f"`{name}` is NaN or infinite. Received: document {i}. Give documents without a label "
            "weight 0: `targets=np.nan_to_num(labels), sample_weight=~np.isnan(labels)`."
        )
    columns = columns_of(value) if field is None else field.columns
    return Target(name, field, labels, offsets, horizon, label_at, columns)


def _values(
    corpus: Corpus, raw: Any, name: str, value: Any, weights: Weights | None
) -> tuple[Field | None, np.ndarray | None]:
    """Values for every step as a field, or one label per document as an array."""
    if value is None:
        return _only_field(corpus, weights), None
    if isinstance(value, str):
        if value in corpus.labels:
            return None, _labels(name, corpus.labels[value])
        if value in corpus.fields:
            return corpus.fields[value], None
        raise unknown_key(corpus, name, value)
    if value is raw and not corpus.is_dict:
        return corpus.fields[None], None
    # Beside documents, one array or a list of single values has one for each document.
    if not corpus.continuous and (is_array(value) or all_scalars(value)):
        return None, _labels_of_all(corpus, name, value)
    return _laid_out(corpus, name, value), None


def _only_field(corpus: Corpus, weights: Weights | None) -> Field:
    """The field that `targets=None` means: there must be no other but weights."""
    fields = {k: f for k, f in corpus.fields.items() if weights is None or f is not weights.field}
    if len(fields) != 1:
        keys = list(map(str, fields or corpus.fields))
        argument = next(iter(corpus.fields.values())).name.partition("[")[0]
        raise ValueError(
            "`targets` must say which of several inputs is to be predicted. Received: "
            f"targets=None with a corpus of {sorted(keys)}. Pass the key, e.g. "
            f"`targets={min(keys)!r}, target_offset=1`; if each key is a document, "
            f"`list({argument}.values())`."
        )
    return next(iter(fields.values()))


def _laid_out(corpus: Corpus, name: str, value: Any) -> Field:
    """Values laid out as the corpus: one array for one text, else an array for each document."""
    field = open_field(name, value, None)
    if corpus.continuous and not is_array(value):
        raise ValueError(
            f"`{name}` must be laid out as the corpus, which is one array. Received: "
            f"{type(value).__name__} of length {len(value)}. Pass one array "
            f"`({corpus.lengths[0]}, ...)`; for labels of documents, pass the corpus as a list "
            "of documents."
        )
    if isinstance(field, Corpus):
        raise TypeError(
            f"`{name}` must be numbers. Received: documents that are dicts. Pass "
            "`targets={output: [...]}`."
        )
    check_laid_out(field, next(iter(corpus.fields.values())))
    return field


def _labels_of_all(corpus: Corpus, name: str, value: Any) -> np.ndarray:
    """One label for each document."""
    labels = _labels(name, as_array(name, value))
    count = len(corpus.lengths)
    if len(labels) != count:
        remedy = (
            "Split it like the documents: a list with one array per document, `np.split(...)`."
            if len(labels) == int(corpus.lengths.sum())
            else "Give one label for each, or a list with one array per document."
        )
        raise ValueError(
            f"`{name}` as one array means one label per document. Received: shape "
            f"{labels.shape} for {count} documents. {remedy}"
        )
    return labels


def _labels(name: str, labels: np.ndarray) -> np.ndarray:
    """Labels `(documents, ...)` in the dtype that batches have."""
    if labels.ndim == 0:
        raise ValueError(
            f"`{name}` must have one label per document. Received: a single value, {labels}."
        )
    check_int32(name, labels)
    return labels.astype(out_dtype(name, labels.dtype))
