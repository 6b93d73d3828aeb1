"""The windows of a corpus: batches by index and epoch, as the layout of the epoch says."""

from collections import deque
from collections.abc import Callable, Iterator
from operator import methodcaller

import numpy as np

from keras_stateful.data.batch import assemble, mark_resets, no_resets, spec_bytes
from keras_stateful.data.columns import ColumnOrder
from keras_stateful.data.fields import Field, Flat
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.inputs import Read
from keras_stateful.data.layout import AT_ENDS, Layout, Streams
from keras_stateful.data.parts import IdChecks, Parts
from keras_stateful.data.plan import Plan
from keras_stateful.data.spans import Spans
from keras_stateful.data.targets import Target
from keras_stateful.foundation.locks import Lock
from keras_stateful.foundation.types import Structure

_TALL = 1 << 22  # bytes of batches that are gathered together, at most
_AT_ONCE = 32  # such batches, at most
_MASKS = 64  # batches whose reset masks are made together, at most
_MASK_FLAGS = 1 << 16  # flags of these masks, at most


class Windows:
    """Batches by index and epoch.

    Args:
        parts: what batches are made of.
        plan: the layouts of all epochs.
        boundary: as in `StatefulSequence`.
        resets: True if the reset mask rides along.
        rows: which rows of the layout are read, all consecutive.

    Attributes:
        order: of the columns of frames; settable.
        once: keys of inputs that are handed once for each row; settable.
        at_ends: True where targets and weights stand at the last step of each window alone;
            settable.
    """

    def __init__(self, parts: Parts, plan: Plan, boundary: str, resets: bool, rows: range):
        self._parts, self._plan, self._rows = parts, plan, rows
        self._boundary, self._resets = boundary, resets
        self._checks = IdChecks()  # of ids that are checked as they are read
        # As the model that reads wants it
        self.order, self.at_ends = ColumnOrder(), False
        self.once: frozenset[str] = frozenset()
        self._checked_classes: dict[str | None, Classes] = {}  # that a whole epoch was read for
        # Epoch and number of the batches whose masks were made last, and these masks.
        self._masks: tuple[tuple[int, int] | None, np.ndarray] = (None, np.empty(0))
        # What would follow the batch asked for last, and batches read ahead from there on.
        self._next: tuple | None = None
        self._ahead: deque[tuple] = deque()
        self._lock = Lock()
        # Without padding, weights of the user's own and steps that do not count, all would be 1.
        every = {t.label_at for t in parts.targets.values()} == {"every"}
        self._weighted = plan.padded or parts.weights is not None or not every

    @property
    def immediate(self) -> bool:
        """True if batches come straight from memory."""
        return all(values.immediate for values in self._parts.read)

    @property
    def at_once(self) -> int:
        """How many batches are gathered together, as one tall batch, where they follow each other.

        Most of the time that a small batch takes is NumPy's calls, not its bytes.
        """
        fitting = _TALL // spec_bytes(self.signature())
        return max(1, min(_AT_ONCE, fitting, self._plan.num_batches))

    def signature(self) -> tuple:
        """A batch with a `Spec` in place of each array."""
        return self._parts.signature(
            len(self._rows),
            self._plan.settings.window,
            self._boundary,
            resets=self._resets,
            weighted=self._weighted,
            once=self.once,
            at_ends=self.at_ends,
        )

    def check_ids(self, known: dict[str | None, int], lengths: np.ndarray) -> None:
        """Refuses ids that a model does not know: now, or as they are read where a search is slow.

        Args:
            known: how many ids the model knows, by key of the input.
            lengths: time steps of each document that are read.
        """
        later = {}
        for key, size in known.items():
            vocabulary, values = Vocabulary(size), self._parts.inputs[key]
            if values.out_dtype == np.int32 and not values.check_ids(vocabulary, lengths):
                later[key] = vocabulary
        self._checks.vocabularies = later

    def check_classes(self, classes: dict[str | None, Classes]) -> None:
        """Refuses target ids that an output has no class for: now, or as they are read, likewise.

        Args:
            classes: by name of the output.
        """
        within = {name: self._parts.targets[name].ids_within(c) for name, c in classes.items()}
        self._checks.classes = {n: classes[n] for n, inside in within.items() if not inside}
        # Ids beyond the classes are no error where their weight is 0: reading an epoch tells.
        if False in within.values() and self._checks.classes != self._checked_classes:
            for i in range(self._plan.num_batches):
                next(self.read(i, i + 1, 0))
            self._checked_classes = dict(self._checks.classes)

    def spans(self, i: int, epoch: int) -> Spans:
        """What batch `i` of an epoch reads."""
        return self._plan.layout(epoch).spans(i, i + 1, self._rows.start, self._rows.stop)

    def mask(self, spans: Spans, batches: int = 1) -> np.ndarray:
        """The reset mask of so many batches, one after the other."""
        rows, window = batches * len(self._rows), self._plan.settings.window
        return mark_resets(no_resets(rows, window, self._boundary), spans)

    def reset_mask(self, i: int, epoch: int) -> np.ndarray:
        """The reset mask of one batch; those around it are made with it, as a fit asks for all."""
        rows = len(self._rows)
        flags = no_resets(rows, self._plan.settings.window, self._boundary).size
        several = max(1, min(_MASKS, _MASK_FLAGS // flags))
        key = (epoch, i // several)
        made, masks = self._masks
        if made != key:
            begin = i - i % several
            end = min(begin + several, self._plan.num_batches)
            spans = self._plan.layout(epoch).spans(begin, end, self._rows.start, self._rows.stop)
            tall = self.mask(spans, end - begin)
            masks = tall.reshape(end - begin, rows, *tall.shape[1:])
            self._masks = (key, masks)
        return masks[i % several].copy()

    def batch(self, i: int, epoch: int) -> tuple:
        """Batch `i` of an epoch; if it follows the last one asked for, some are read ahead."""
        # Only where nothing can be wrong with those that nobody asked for.
        if self.order or self._checks or not all(v.immediate and v.sound for v in self._parts.read):
            return next(self.read(i, i + 1, epoch))
        for_model = (self.at_ends, self.once)
        with self._lock:
            follows = self._next == (epoch, i, for_model)
            self._next = None  # until it is told again: what was read in part is not gone on with
            if not (follows and self._ahead):
                count = self.at_once if follows else 1
                self._ahead.clear()
                self._ahead.extend(self.read(i, min(i + count, self._plan.num_batches), epoch))
            batch = self._ahead.popleft()
            self._next = (epoch, i + 1, for_model)
            return batch

    def read(self, begin: int, end: int, epoch: int) -> Iterator[tuple]:
        """Batches `begin` to `end` of an epoch."""
        layout = self._plan.layout(epoch)
        if isinstance(layout, Streams) and layout.one_text and self._plain:
            return self._copied(layout, begin, end)
        return self._gathered(layout, begin, end)

    @property
    def _plain(self) -> bool:
        """True if batches are parts of arrays, converted at most."""
        targets = self._parts.targets.values()
        return (
            not (self._weighted or self.at_ends or self._checks or self.order)
            and all(values.plain for values in self._parts.inputs.values())
            and all(t.field is not None and t.field.plain for t in targets)
            and not any(t.horizon for t in targets)
        )

    def _copied(self, layout: Streams, begin: int, end: int) -> Iterator[tuple]:
        """Batches of one text: every one is the same part of each stream, and copied from there."""
        settings, low, high = self._plan.settings, self._rows.start, self._rows.stop

        def batches(field: Field | None, shift: int, lifted: bool = False) -> Iterator[np.ndarray]:
            assert isinstance(field, Flat)  # as all plain fields are
            whole = field.streams(  # (batches, rows, window, ...)
                layout.begin + shift, settings.rows, layout.num_batches, settings.window
            )
            parts = whole[begin:end, low:high]
            parts = parts[..., None] if lifted else parts
            return map(methodcaller("astype", field.out_dtype, "C"), parts)  # copied when asked for

        read = [(k, v) for k, v in self._parts.inputs.items() if isinstance(v, Read)]  # all are
        inputs = {key: batches(values.field, values.offsets[0]) for key, values in read}
        masks = None
        if self._resets:
            tall = self.mask(layout.spans(begin, end, low, high), end - begin)
            masks = iter(tall.reshape(end - begin, high - low, *tall.shape[1:]))
        targets = self._parts.targets.items()
        y = {name: batches(t.field, t.offsets[0], t.lifted) for name, t in targets}
        return zip(*map(_together, assemble(inputs, masks, y, None)), strict=True)

    def _gathered(self, layout: Layout, begin: int, end: int) -> Iterator[tuple]:
        """Batches read span by span, together as one tall batch."""
        window, low, high = self._plan.settings.window, self._rows.start, self._rows.stop
        count, rows = end - begin, high - low
        spans = layout.spans(begin, end, low, high)
        scale = self._scale(layout) if self._weighted else None

        def later(steps: int) -> Spans:
            return layout.later(spans, steps, begin, end, low, high)

        gathered = self._parts.gather(spans, later, count * rows, window, scale)
        self._checks.check(gathered, self._parts, spans)
        gathered = self.order.arrange(gathered).handed_once(self.once)
        mask = self.mask(spans, count) if self._resets else None
        tall = gathered.assemble(mask, at_ends=self.at_ends)
        if count == 1:
            return iter([tall])
        return zip(*(_together(_batches(part, count)) for part in tall), strict=True)

    def _scale(self, layout: Layout) -> Callable[[Target], float]:
        """All steps (or windows) / those that count, of the epoch, in all shards, by target."""
        settings = self._plan.settings
        windows = self._plan.num_batches * settings.rows
        if self.at_ends:
            return lambda _: windows / max(1, layout.counted(AT_ENDS))
        # In "ignore" the end of no document may be read, so that none of its labels counts.
        return lambda target: windows * settings.window / max(1, layout.counted(target.label_at))


def _batches(part: Structure, count: int) -> Structure:
    """An iterator over the batches in each array of a tall batch."""
    if isinstance(part, dict):
        return {k: _batches(v, count) for k, v in part.items()}
    if isinstance(part, tuple):
        return tuple(_batches(v, count) for v in part)
    return iter(part.reshape(count, -1, *part.shape[1:]))


def _together(parts: Structure) -> Iterator[Structure]:
    """Makes one iterator over structures of arrays from a structure of iterators over arrays."""
    if isinstance(parts, dict):
        return (
            dict(zip(parts, arrays, strict=True)) for arrays in zip(*parts.values(), strict=True)
        )
    return zip(*parts, strict=True) if isinstance(parts, tuple) else parts
