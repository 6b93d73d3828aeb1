"""The windows of a corpus: batches of inputs, targets and weights, where the layout of an epoch
says they stand.
"""

from collections.abc import Iterator
from operator import methodcaller
from typing import Any

import numpy as np

from keras_stateful.data.batch import Spec, assemble, no_resets, rows_of
from keras_stateful.data.corpus import Corpus
from keras_stateful.data.fields import place
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.layout import Dealt, Spans, Streams
from keras_stateful.data.plan import Plan
from keras_stateful.data.targets import Target, Weights


def choose_inputs(
    corpus: Corpus, given: Any, targets: dict[Any, Target], weights: Any = None
) -> list:
    """Keys of the fields that a model reads: all that are neither targets at the same step nor
    weights.

    Args:
        corpus: the corpus.
        given: what the user gave as targets.
        targets: what was read from it.
        weights: what the user gave as weights.

    Raises:
        ValueError: no field is left, or one that is neither ids nor features.
    """
    named = given.values() if isinstance(given, dict) else [given]
    answers = (
        {t for t in named if isinstance(t, str)}
        if all(0 in t.offsets for t in targets.values())
        else set()
    )
    answers |= {weights} if isinstance(weights, str) else set()
    chosen = [k for k in corpus.fields if k not in answers]
    if not chosen:
        raise ValueError(
            f"`targets` takes the only input. Received: targets={given!r} with a corpus of "
            f"{sorted(corpus.fields)}. Pass `target_offset=1` to predict the next time step from "
            "the last."
        )
    for key in chosen:
        field = corpus.fields[key]
        if not field.shape and field.out_dtype.kind == "f":
            raise ValueError(
                f"An array `(timesteps,)` holds ids, which are integers. Received: `{field.name}` "
                f"of {field.dtype}, one number at each time step. For a single feature pass `x[:, "
                "None]`, `(timesteps, 1)`; for ids, "
                '`x.astype("int32")`.'
            )
    return chosen


class Windows:
    """Batches by index and epoch.

    Args:
        corpus: the data.
        inputs: keys of the fields that a model reads.
        targets: by name of the output.
        weights: the user's own, or None.
        plan: the layouts of all epochs.
        boundary: as in `StatefulSequence`.
        resets: whether the reset mask rides along.
        rows: which rows of the layout are read, all consecutive.
    """

    def __init__(
        self,
        corpus: Corpus,
        inputs: list,
        targets: dict[Any, Target],
        weights: Weights | None,
        plan: Plan,
        boundary: str,
        resets: bool,
        rows: range,
    ):
        self._corpus, self._inputs, self._targets, self._weights = corpus, inputs, targets, weights
        self._plan, self._boundary, self._resets, self._rows = plan, boundary, resets, rows
        self._masks: tuple[Any, Any] = (None, None)  # reset masks of some batches: which, and they
        self._vocabulary: dict[
            Any, Vocabulary
        ] = {}  # of fields whose ids are checked as they are read
        self._classes: dict[Any, Classes] = {}  # of outputs whose targets are
        self._found_known: dict[Any, Classes] = {}  # to which the targets of a whole epoch kept
        every = {t.label_at for t in targets.values()} == {"every"}
        self._weighted = plan.padded or weights is not None or not every

    @property
    def immediate(self) -> bool:
        """Whether reading waits for neither a disk nor somebody's code."""
        fields = [*self._corpus.fields.values(), *(t.field for t in self._targets.values())]
        fields.append(None if self._weights is None else self._weights.field)
        return all(f.immediate for f in fields if f is not None)

    def signature(self) -> tuple:
        """A batch with a `Spec` in place of each array."""
        shape, fields = (len(self._rows), self._plan.settings.window), self._corpus.fields
        inputs = {k: Spec((*shape, *fields[k].shape), fields[k].out_dtype) for k in self._inputs}
        flags = no_resets(*shape, self._boundary)
        mask = Spec(flags.shape, flags.dtype) if self._resets else None
        y, weights = {}, {}
        for key, target in self._targets.items():
            y[key], weights[key] = target.specs(*shape)
        return assemble(inputs, mask, y, weights if self._weighted else None)

    def check_ids(self, known: dict[Any, int], lengths: np.ndarray) -> None:
        """Refuses ids that a model does not know: now, or as they are read where a search would
        take long.

        Args:
            known: how many ids the model knows, by key of the field.
            lengths: time steps of each document that are read.
        """
        fields = {
            k: self._corpus.fields[k] for k in known if self._corpus.fields[k].out_dtype == np.int32
        }
        vocabulary = {k: Vocabulary(known[k]) for k in fields}
        self._vocabulary = {
            k: vocabulary[k] for k, f in fields.items() if not f.check_ids(vocabulary[k], lengths)
        }

    def check_classes(self, known: dict[Any, Classes]) -> None:
        """Refuses target ids that a model's output has no class for: now, or as they are read
        likewise.

        Args:
            known: the classes of each output.
        """
        within = {k: self._targets[k].ids_within(c) for k, c in known.items()}
        self._classes = {k: known[k] for k, inside in within.items() if not inside}
        if False in within.values() and self._classes != self._found_known:
            for i in range(self._plan.num_batches):
                next(self.read(i, i + 1, 0))
            self._found_known = dict(self._classes)

    def spans(self, i: int, epoch: int) -> Spans:
        """What batch `i` of an epoch reads."""
        return self._plan.layout(epoch).spans(i, i + 1, self._rows.start, self._rows.stop)

    def mask(self, spans: Spans, batches: int = 1) -> np.ndarray:
        """The reset mask of so many batches, one after the other."""
        mask = no_resets(batches * len(self._rows), self._plan.settings.window, self._boundary)
        row, column = spans.row[spans.opens], spans.column[spans.opens]
        mask[(row, column) if mask.ndim == 2 else row] = True
        return mask

    def reset_mask(self, i: int, epoch: int) -> np.ndarray:
        """The reset mask of one batch. Those of the batches around it are made with it, since a fit
        asks for all.
        """
        rows = len(self._rows)
        several = max(
            1, min(64, 2**16 // no_resets(rows, self._plan.settings.window, self._boundary).size)
        )
        key = (epoch, i // several)
        known, masks = self._masks
        if known != key:
            begin = i - i % several
            end = min(begin + several, self._plan.num_batches)
            spans = self._plan.layout(epoch).spans(begin, end, self._rows.start, self._rows.stop)
            mask = self.mask(spans, end - begin)
            masks = mask.reshape(end - begin, rows, *mask.shape[1:])
            self._masks = (key, masks)
        return masks[i % several].copy()

    def read(self, begin: int, end: int, epoch: int) -> Iterator[tuple]:
        """Batches `begin` to `end` of an epoch."""
        layout = self._plan.layout(epoch)
        if isinstance(layout, Streams) and layout.one_text and self._plain:
            return self._copied(layout, begin, end)
        return self._gathered(layout, begin, end)

    @property
    def _plain(self) -> bool:
        """Whether batches are parts of arrays, converted at most."""
        targets = self._targets.values()
        fields = [self._corpus.fields[k] for k in self._inputs] + [t.field for t in targets]
        return (
            not (self._weighted or self._vocabulary or self._classes)
            and all(f is not None and f.plain for f in fields)
            and not any(t.horizon for t in targets)
        )

    def _copied(self, layout: Streams, begin: int, end: int) -> Iterator[tuple]:
        """Batches of one text: every one is the same part of each stream, and copied from there."""
        settings, low, high = self._plan.settings, self._rows.start, self._rows.stop

        def batches(field: Any, shift: int, lifted: bool = False) -> Iterator[np.ndarray]:
            whole = field.streams(
                layout.begin + shift, settings.rows, layout.num_batches, settings.window
            )
            parts = whole[begin:end, low:high]
            return map(
                methodcaller("astype", field.out_dtype, "C"), parts[..., None] if lifted else parts
            )

        inputs = {k: batches(self._corpus.fields[k], 0) for k in self._inputs}
        masks = None
        if self._resets:
            tall = self.mask(layout.spans(begin, end, low, high), end - begin)
            masks = iter(tall.reshape(end - begin, high - low, *tall.shape[1:]))
        y = {k: batches(t.field, t.offsets[0], t.lifted) for k, t in self._targets.items()}
        return zip(*map(_together, assemble(inputs, masks, y, None)), strict=True)

    def _gathered(self, layout: Dealt | Streams, begin: int, end: int) -> Iterator[tuple]:
        """Batches read span by span, together as one tall batch."""
        window = self._plan.settings.window
        low, high = self._rows.start, self._rows.stop
        count, rows = end - begin, (end - begin) * (high - low)
        spans = layout.spans(begin, end, low, high)
        inputs = {k: self._corpus.fields[k].batch(spans, rows, window) for k in self._inputs}
        for key, vocabulary in self._vocabulary.items():
            if not vocabulary.holds_all(inputs[key]):
                bad = vocabulary.wrong_steps(inputs[key])
                name = self._corpus.fields[key].name
                vocabulary.refuse(name, inputs[key], place(spans, bad))
        mask = self.mask(spans, count) if self._resets else None
        y, weights = {}, {}
        for key, target in self._targets.items():
            if self._weighted:
                weights[key] = target.weights(spans, rows, window, self._scale(target, layout))
                if self._weights is not None:
                    weights[key] *= self._weights.batch(spans, rows, window)
            later = [spans if shift == 0 or target.field is None else
                     layout.spans(begin, end, low, high, shift) for shift in target.offsets]  # fmt: skip
            y[key] = target.batch(later, rows, window, weights.get(key))
            if key in self._classes:
                bad = self._classes[key].wrong_steps(y[key], weights.get(key))
                if bad.any():
                    self._classes[key].refuse(target.name, y[key][bad], place(spans, bad))
            if target.horizon and self._weighted:  # a loss `(batch, time, offsets)` broadcasts them
                weights[key] = weights[key][..., None]
        tall = assemble(inputs, mask, y, weights if self._weighted else None)
        if count == 1:
            yield tall
            return
        for k in range(count):
            one = slice(k * (high - low), (k + 1) * (high - low))
            yield tuple(rows_of(part, one) for part in tall)

    def _scale(self, target: Target, layout: Dealt | Streams) -> float:
        """All steps / counted steps of the epoch, in all shards."""
        settings = self._plan.settings
        counted = max(
            1, layout.counted(target.label_at)
        )  # in "ignore" the end of no document may be read
        return self._plan.num_batches * settings.rows * settings.window / counted


def _together(parts: Any) -> Iterator:
    """Iterators over batches, alone, in a dict or in a tuple, as one over such structures of
    arrays.
    """
    if isinstance(parts, dict):
        return (
            dict(zip(parts, arrays, strict=True)) for arrays in zip(*parts.values(), strict=True)
        )
    return zip(*parts, strict=True) if isinstance(parts, tuple) else parts
