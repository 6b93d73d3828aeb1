"""`StatefulSequence`: a corpus as the batches that stateful training reads."""

import operator
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.batch import checksum, in_order, spec_bytes
from keras_stateful.data.burn_in import as_json, open_burn_in, received
from keras_stateful.data.corpus import open_corpus
from keras_stateful.data.feed import RESETS_REMEDY
from keras_stateful.data.frames import FromFrame
from keras_stateful.data.inputs import KnownAhead, StaticInputs, uneven
from keras_stateful.data.layout import Dealt
from keras_stateful.data.lazy import Lazy
from keras_stateful.data.model_facing import ModelFacing
from keras_stateful.data.parts import open_parts
from keras_stateful.data.plan import Plan, Settings, piece_limit, remedies
from keras_stateful.data.restoring import Grid
from keras_stateful.data.sequence_checks import (
    check_cutting,
    check_drawing,
    check_ends,
    check_plan,
    checked_shard,
    checked_stride,
    readable_lengths,
)
from keras_stateful.data.windows import Windows
from keras_stateful.foundation.arguments import one_of, true_or_false, whole_number
from keras_stateful.foundation.types import Structure

BOUNDARIES = ("align", "pack", "ignore")
_WASTEFUL = 0.8  # utilization below which the user is warned
_CHECKED = 1 << 28  # bytes of a corpus in memory that a fingerprint reads
_SAMPLED = 32  # batches that a fingerprint reads at least


class Span(NamedTuple):
    """Consecutive time steps of one document in one row of a batch.

    Attributes:
        document: its index in the corpus.
        start: its first time step here.
        steps: how many, from there on; padding is not counted.
        column: where in the window they begin.
    """

    document: int
    start: int
    steps: int
    column: int


class StatefulSequence(FromFrame, ModelFacing):
    """A corpus as windows: row `i` of each batch goes on where row `i` of the last ended.

    Give it to `fit`, `evaluate` or `predict` of a model that carries its state (`to_stateful`). The
    order of batches is kept whatever `shuffle` and `workers` say.

    Args:
        corpus: an array `(timesteps,)` of ids or `(timesteps, ...)` of features: one continuous
            text, split into `batch_size` streams of equal length. Or documents: a list of such
            arrays, or anything with `len` and `[]` (a `tfds` data source, for example), or a finite
            `tf.data.Dataset`. Or a dict of either, or documents that are dicts, for several inputs.
            Arrays on disk (`np.memmap`) are never copied whole. An array may be a frame or a tensor
            of another package; columns of frames go by their names.
        batch_size: rows of a batch, in all shards together.
        sequence_length: time steps of a window.
        stride: time steps from the start of a window to that of the next in its row, up to
            `sequence_length`, the default. Windows that begin sooner overlap: weights count each
            step in the first window that reads it, and gradients flow back through all of it
            (truncated backpropagation every `stride` steps through `sequence_length`). For a model
            from `to_stateful(model, sequence)`, which carries the state behind `stride` steps.
        targets: None for the corpus itself; an array or list laid out as the corpus; the key of a
            dict corpus (with `target_offset=0` it is then no input); one label per document,
            `(documents, ...)`; or a dict of these, one for each output.
        target_offset: how many time steps ahead of the input the target is; 1 where `targets` is
            None, else 0. A sequence of ints gives targets an axis of that length,
            `(batch_size, sequence_length, offsets, ...)`.
        label_at: where targets are trained on: at "every" step; at the last real step of the
            document in each "window"; or, of labels of documents, at the document's "last" (with
            cut documents: each piece's). A model that ends with `return_sequences=False` is trained
            with "window": once it is known (`to_stateful`, `fit`), targets are `(batch_size, ...)`
            and weights `(batch_size,)`, 0 for windows whose last step is padding.
        sample_weight: laid out as the corpus, or one value per document; or the key of a dict
            corpus, which is then no input. A weight belongs to the time step that is read, whatever
            the `target_offset`.
        boundary: "align": each document begins at the first step of a window. "pack": back to back,
            with resets inside windows. "ignore": documents joined to one continuous text. A single
            array is one text with either.
        max_document_length: time steps after which a document is cut; each piece starts from the
            initial state. "auto": the longest that leaves under 3 % of the rows idle. None: never.
        burn_in: time steps that are read and not trained on after each start, and read again before
            each cut piece; one int, or one for each document. A validation that begins where a
            training ended reads its documents from their beginning, with as many steps burnt in as
            the training had.
        shuffle: True if documents are assigned to rows anew in each epoch.
        seed: for `shuffle` and `shift_windows`; None follows `keras.utils.set_random_seed`.
        resets: True if each batch has the reset mask as the model's last input, `(x, mask)` or the
            key "resets".
        shard: `(index, count)`: gives rows `index * batch_size / count` and following of the one
            layout.
        encode: a function from a document as the source gives it to its array or dict of arrays.
            Called when it is read.
        shift_windows: True if the edges of windows lie elsewhere in each epoch, so that
            backpropagation is not always cut at the same places (the purpose of varying window
            lengths in Merity et al. 2017, arXiv:1708.02182). For "pack" and "ignore"; costs at most
            one window per row.
        known_ahead: keys of a dict corpus that are known ahead, as a calendar or a tariff is: the
            model reads them at the step that it predicts, `target_offset` later; with several
            offsets one value for each, side by side on the last axis. Their arrays may go on behind
            the end of the others. A dict gives each key offsets of its own.
        static: `{name: (documents, ...)}`, inputs that are constant in a document: a vector for
            each, or ids `(documents,)`. Repeated along time; handed once, `(batch_size, ...)`, to a
            model whose input of that name has no time axis.
        workers: threads that read batches ahead.
        use_multiprocessing: as in `keras.utils.PyDataset`; threads are used all the same.
        max_queue_size: batches read ahead, with several workers.

    Attributes:
        epoch: the pass that is read; settable. The layout is a function of it and of `seed`.
        batch_size: rows of the batches given: those of this shard.
        global_batch_size: rows of all shards.
        num_batches: batches of an epoch, `len(sequence)`; the same in every epoch.
        utilization: real time steps / all time steps of the rows, in (0, 1].
        dropped: time steps that "ignore" leaves out.
        most_resets: in "pack", of a row behind a window's first step; else None.
        has_targets: True if there are `targets` other than the corpus.
        max_document_length: time steps, also where "auto" was given.

    Raises:
        TypeError: a corpus or argument of the wrong type.
        ValueError: one that cannot be right, with the remedy.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    documents = [np.arange(30), np.arange(50), np.arange(20)]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=8)
    x, y, sample_weight = sequence[0]
    assert x.shape == y.shape == sample_weight.shape == (2, 8)
    assert (y == x + 1).all()
    assert sequence.reset_mask(0).all()
    ```
    """

    _argument = "corpus"  # what errors call it
    _windows: Windows

    def __init__(
        self,
        corpus: Any,
        batch_size: int,
        sequence_length: int,
        *,
        stride: int | None = None,
        targets: Any = None,
        target_offset: int | Sequence[int] | None = None,
        label_at: str = "every",
        sample_weight: Any = None,
        boundary: str = "align",
        max_document_length: int | str | None = None,
        burn_in: int | Sequence[int] = 0,
        shuffle: bool = False,
        seed: int | None = None,
        resets: bool = False,
        shard: tuple[int, int] = (0, 1),
        encode: Callable | None = None,
        shift_windows: bool = False,
        known_ahead: KnownAhead = None,
        static: StaticInputs = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ):
        super().__init__(workers, use_multiprocessing, max_queue_size)
        self.global_batch_size = whole_number("batch_size", batch_size, 1)
        self.sequence_length = whole_number("sequence_length", sequence_length, 1)
        self.stride = checked_stride(stride, self.sequence_length)
        self.boundary = one_of("boundary", boundary, BOUNDARIES)
        self.resets = true_or_false("resets", resets, RESETS_REMEDY)
        self.shuffle = true_or_false("shuffle", shuffle)
        self.shift_windows = true_or_false("shift_windows", shift_windows)
        self.shard = checked_shard(shard, self.global_batch_size)
        self._rows = self.global_batch_size // self.shard[1]

        self._corpus = open_corpus(self._argument, corpus, encode, uneven(known_ahead, static))
        # One array is one text, unless it is to be cut: then it is a single document.
        self._continuous = self._corpus.continuous and max_document_length is None
        self._parts = open_parts(
            self._corpus,
            corpus,
            targets,
            target_offset,
            label_at,
            sample_weight,
            known_ahead,
            static,
        )
        self.has_targets, self.label_at = targets is not None and targets is not corpus, label_at
        self._reach = self._parts.reach
        whole = self._corpus.lengths
        self.burn_in = open_burn_in(burn_in, whole, of_rows=self._ignores)
        self._left_out = received(burn_in)
        self._lengths = whole if self._ignores else readable_lengths(self._parts, self._corpus)
        if self.boundary == "ignore":
            check_cutting(max_document_length, self._corpus)
        effective = "ignore" if self._ignores else boundary
        check_drawing(
            self.shuffle,
            self.shift_windows,
            boundary=effective,
            text=int(whole[0]) if self._continuous else None,
            seed=seed,
            shard=self.shard,
        )
        if seed is None:  # without a use for one, the global generator is left as it is
            seed = random.randint(1, 10**9) if self.shuffle or self.shift_windows else 0
        self.seed = whole_number("seed", seed, 0)
        settings = Settings(
            rows=self.global_batch_size,
            window=self.sequence_length,
            stride=self.stride or self.sequence_length,
            boundary=effective,
            limit=None,
            burn_in=self.burn_in,
            shuffle=self.shuffle,
            shift_windows=self.shift_windows,
            seed=self.seed,
        )
        self.max_document_length = piece_limit(max_document_length, self._lengths, settings)
        settings = replace(settings, limit=self.max_document_length)
        self._plan = Plan(self._lengths, settings, self._reach if self._ignores else 0)
        self.dropped = self._plan.dropped
        check_plan(self._plan, self._parts, self._corpus, settings, self._lengths, self._left_out)
        low = self.shard[0] * self._rows
        self._windows = Windows(
            self._parts, self._plan, boundary, self.resets, range(low, low + self._rows)
        )
        # A source keeps the documents that the rows are reading, and some that come next. All
        # fields of a corpus of dicts have the same one.
        for source in {f.source for f in self._corpus.fields.values() if isinstance(f, Lazy)}:
            source.capacity = max(source.capacity, 4 * self._rows)
        self.epoch = self._begin_at = 0
        self._epoch_read = 0  # of the batch that was read last
        if self.utilization < _WASTEFUL:
            warnings.warn(remedies(self._plan, boundary), UserWarning, stacklevel=2)

    # What a batch holds

    def __len__(self) -> int:
        return self._plan.num_batches

    def __getitem__(self, index: int) -> tuple:
        """Batch `index` of the present epoch: `(x, y)`, or `(x, y, sample_weight)` if any pads."""
        i = self._checked_index(index)
        self._epoch_read = self.epoch
        return self._windows.batch(i, self.epoch)

    def reset_mask(self, i: int, epoch: int | None = None) -> np.ndarray:
        """Which rows start from the initial state in batch `i`.

        Args:
            i: index of the batch.
            epoch: None for the present one.

        Returns:
            bool `(batch_size,)`, in "pack" `(batch_size, sequence_length)`: True where the state is
            set to the initial state before this step.
        """
        i = self._checked_index(i)
        return self._windows.reset_mask(i, self.epoch if epoch is None else epoch)

    @property
    def most_resets(self) -> int | None:
        """In "pack", the most resets of a row behind a window's first step, in the present epoch.

        A shuffle may bring more or fewer of them into one window. None in "align" and "ignore".
        """
        if self.boundary != "pack":
            return None
        layout = self._plan.layout(self.epoch)
        return layout.most_begun() if isinstance(layout, Dealt) else 0  # one text

    def locate(self, i: int) -> list[list[Span]]:
        """Where the time steps of batch `i` come from.

        Returns:
            For each row its spans in order: none where it is idle, one in "align", any number in
            "pack", and in "ignore" one for each document that the window touches.
        """
        i = self._checked_index(i)
        spans = self._windows.spans(i, self.epoch)
        rows: list[list[Span]] = [[] for _ in range(self._rows)]
        columns = (spans.row, spans.document, spans.start, spans.steps, spans.column)
        for row, *span in zip(*(a.tolist() for a in columns), strict=True):
            rows[row].append(Span(*span))
        return rows

    def restore(self, predictions: Structure, epoch: int | None = None) -> Structure:
        """Puts predictions, which `predict` gives in the order of batches, back into documents.

        Args:
            predictions: what `model.predict(sequence)` gave: `(batches * batch_size,
                sequence_length, ...)`, or a list or dict of these. Of a model with one output for
                each window, `(batches * batch_size, ...)`.
            epoch: the pass that was predicted; None for that of the batch that was read last.
                Passes differ under `shuffle` and `shift_windows` only.

        Returns:
            One array `(timesteps, ...)` for each document, in the corpus's order, NaN at steps that
            were not read: the last ones, whose targets lie behind the end, those that "ignore"
            drops, and those of other shards; with one output for each window at all steps but the
            last ones of windows. For several outputs the same of each, in a list or dict.

        Raises:
            ValueError: predictions of another shape, such as those of a part of a pass.

        Example:

        ```python
        import keras, numpy as np
        import keras_stateful as ks

        series = [np.random.rand(n, 2) for n in (30, 50)]
        sequence = ks.StatefulSequence(series, batch_size=2, sequence_length=8, resets=True)
        network = keras.Sequential([
            keras.Input((None, 2)), keras.layers.GRU(4, return_sequences=True)
        ])
        model = ks.to_stateful(network, sequence)
        short, long = sequence.restore(model.predict(sequence, verbose=0))
        assert long.shape == (50, 4)
        ```
        """
        epoch = self._epoch_read if epoch is None else whole_number("epoch", epoch, 0)
        low = self.shard[0] * self._rows
        return Grid(
            self._plan.layout(epoch),
            self._corpus.lengths,
            range(low, low + self._rows),
            self.sequence_length,
            self.num_batches,
            at_ends=self._windows.at_ends,
        ).restore(predictions)

    def __repr__(self) -> str:
        return (
            f"<StatefulSequence: {len(self._lengths)} documents of "
            f"{int(self._corpus.lengths.sum())} time steps in {self.num_batches} batches of "
            f"{self.batch_size} x {self.sequence_length}, "
            + (f"stride={self.stride}, " if self.stride else "")
            + f"boundary={self.boundary!r}, resets={self.resets}, epoch={self.epoch}>"
        )

    @property
    def utilization(self) -> float:
        """Real time steps / all time steps, in (0, 1]."""
        return self._plan.utilization

    @property
    def batch_size(self) -> int:
        """Rows of the batches given: those of this shard."""
        return self._rows

    def check_ids(self, known: dict[str | None, int]) -> None:
        """Refuses ids that a model does not know.

        At once, or as they are read: of sources on disk and very long texts.

        Args:
            known: how many ids the model's `Embedding` knows, by key of the input; the key is None
                for a single one.
        """
        lengths = self._lengths
        # The last steps of one text are targets only. A shuffle ends it with another document.
        if self._ignores and not self.shuffle:
            lengths = lengths.copy()
            lengths[-1] = max(0, lengths[-1] - self._reach)
        self._windows.check_ids(known, lengths)

    @property
    def at_ends(self) -> bool:
        """True where targets stand at the last step of each window alone; see `label_at`."""
        return self._windows.at_ends

    def give_targets(self, *, at_ends: bool) -> None:
        """Has batches give targets and weights as a model has outputs; see `Batches`.

        Raises:
            ValueError: no window whose last step counts.
        """
        if at_ends and not self._windows.at_ends:
            check_ends(self._plan, self._left_out)
        self._windows.at_ends = at_ends

    # How it is read

    def read_pass(self, *, looks: bool = False) -> Iterator[tuple]:
        """The batches of the epoch that is present when the first is asked for.

        With the last one the next epoch begins.
        """
        epoch, total = self.epoch, self.num_batches
        first, self._begin_at = self._begin_at, 0
        at_once = self._windows.at_once

        def read(begin: int) -> Iterable[tuple]:
            batches = self._windows.read(begin, min(begin + at_once, total), epoch)
            # A worker reads them here, in its thread; without one they are read as they are asked.
            return batches if self.workers < 2 else list(batches)

        done, ahead = first, -(-self.max_queue_size // at_once)
        for batches in in_order(read, range(first, total, at_once), self.workers, ahead):
            for batch in batches:
                done += 1
                self._epoch_read = epoch
                if done == total and self.epoch == epoch:  # unless somebody set another
                    self.epoch = epoch + 1
                yield batch

    @property
    def immediate(self) -> bool:
        return self._windows.immediate

    def position(self, batches: int, epoch: int, *, over: bool = False) -> dict[str, Any]:
        """Where pass `epoch` stands after some batches; see `Batches.position`."""
        return {"epoch": epoch + 1, "batch": 0} if over else {"epoch": epoch, "batch": batches}

    def seek(self, position: dict[str, Any]) -> None:
        """The pass that is read next is that of `position`, from there on."""
        epoch = whole_number("epoch", position["epoch"], 0)
        self.epoch, self._begin_at = epoch, self._checked_index(position["batch"])

    def fingerprint(self) -> dict[str, Any]:
        """Arguments, and checksums of data.

        The checksum is of all batches if they are in memory and no more than 256 MB, else of some
        that are spread over the epoch.
        """
        in_memory = all(f.in_memory for f in self._corpus.fields.values())
        fitting = _CHECKED // spec_bytes(self.signature()) if in_memory else 0
        count = min(self.num_batches, max(_SAMPLED, fitting))
        data = 0
        for i in sorted({round(i) for i in np.linspace(0, self.num_batches - 1, count)}):
            for batch in self._windows.read(i, i + 1, 0):
                data = checksum(batch, data)
        drawn = self.shuffle or self.shift_windows
        return {
            "kind": type(self).__name__,
            "batch_size": self.global_batch_size,
            "sequence_length": self.sequence_length,
            "stride": self.stride,
            "boundary": self.boundary,
            "max_document_length": self.max_document_length,
            "burn_in": as_json(self.burn_in),
            "shuffle": self.shuffle,
            "shift_windows": self.shift_windows,
            "seed": self.seed if drawn else None,
            "resets": self.resets,
            "shard": list(self.shard),
            "documents": len(self._lengths),
            "time steps": int(self._lengths.sum()),
            "lengths": checksum(self._lengths),
            "data": data,
        }

    # Arguments

    def _checked_index(self, index: int) -> int:
        """A batch's index counted from the front; IndexError where there is no such batch."""
        index = operator.index(index)
        if not -self.num_batches <= index < self.num_batches:
            raise IndexError(
                f"The sequence has {self.num_batches} batches. Received: index {index}."
            )
        return index % self.num_batches

    @property
    def _ignores(self) -> bool:
        """True if the corpus is read as one text, in which nothing is reset but at the start."""
        return self._continuous or self.boundary == "ignore"
