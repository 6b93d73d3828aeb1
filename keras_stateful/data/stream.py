"""`StatefulStream`: documents that come one after the other, as batches for stateful training."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_stateful.data.burn_in import burn_in_of_stream
from keras_stateful.data.feed import RESETS_REMEDY
from keras_stateful.data.inputs import KnownAhead
from keras_stateful.data.model_facing import ModelFacing
from keras_stateful.data.passes import KEPT, MadeBatch, Pass, StepCounts
from keras_stateful.data.source import Source
from keras_stateful.data.stream_windows import StreamWindows
from keras_stateful.data.targets import LABEL_AT
from keras_stateful.foundation.arguments import one_of, true_or_false, whole_number


class StatefulStream(ModelFacing):
    """Windows for stateful training, of documents that come one by one and need not fit memory.

    Each row of the batch reads a document from its first step to its last and then takes the next
    one of the source, so only `batch_size` documents are in memory. Where the source ends, rows run
    out one after the other and are padded with weight 0. Give it to `fit`, `evaluate` or `predict`
    as a `StatefulSequence`, which you should prefer where the corpus can be read by index: it
    wastes less at the end and can deal documents anew.

    Args:
        source: an iterable of documents that can be read again (a list, a `tf.data.Dataset`, an
            object with `__iter__`), or a function that gives a new iterator for each pass. A
            generator is read once. A document is an array `(timesteps,)` of ids or
            `(timesteps, ...)` of features, or a dict of such arrays, in which single values are
            labels of the document.
        batch_size: rows of a batch.
        sequence_length: time steps of a window.
        targets: None for the document itself; a key of documents that are dicts (with
            `target_offset=0` it is then no input); or a dict of keys, one for each output.
        target_offset: how many time steps later the target stands; 1 where `targets` is None, else
            0. A sequence of ints gives targets an axis of that length.
        label_at: where targets are trained on: at "every" step; at the last real step of the
            document in each "window"; or, of labels, at the document's "last". See
            `StatefulSequence` for models that end with `return_sequences=False`.
        sample_weight: a key of documents that are dicts: one value per time step or per document.
            It is no input.
        boundary: "align": each document begins at the first step of a window. "pack": back to back,
            with resets inside windows.
        burn_in: time steps that are read and not trained on at the start of each document.
        resets: True if each batch has the reset mask as the model's last input, `(x, mask)` or the
            key "resets".
        encode: a function from what the source gives to a document.
        known_ahead: keys of documents that are dicts, as for `StatefulSequence`: their arrays may
            go on behind the end of the others.
        static: keys of documents that are dicts: a vector, or an id, that each document has once.
        steps_per_epoch: batches of an epoch; the next epoch goes on where it stopped, and the
            source begins again where it ends. None: an epoch is one pass over the source.

    If the source fails while it is read, the next pass begins anew; of an iterator it is refused.

    Weights are scaled so that the loss that the optimizer sees is per real step. How much will be
    padding is known only after a pass: the first is not scaled, each later one by the share of the
    pass before (with `steps_per_epoch`, of all epochs before). The `loss` of an epoch and
    `weighted_metrics` divide by the weights, so that the scale is not in them.

    Attributes:
        num_batches: `steps_per_epoch`.
        has_targets: True if there are `targets`.
        once: True if the source is read once: an iterator.
        utilization: real time steps / all time steps that were read so far, in (0, 1].

    Raises:
        TypeError: a source or argument of the wrong type.
        ValueError: an argument that cannot be right, or an empty source; while reading, with the
            number of the document: one that is empty, too short for `target_offset`, unlike the
            first or not finite, or a source that ends within the first window.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    def speeches():
        for n in (30, 50, 20, 70):
            yield np.arange(n)

    stream = ks.StatefulStream(speeches, batch_size=2, sequence_length=8, resets=True)
    (x, resets), y, sample_weight = next(iter(stream))
    assert x.shape == y.shape == (2, 8)
    assert resets.all()
    ```
    """

    _windows: StreamWindows

    def __init__(
        self,
        source: Iterable | Callable[[], Iterable],
        batch_size: int,
        sequence_length: int,
        *,
        targets: str | dict[str, str] | None = None,
        target_offset: int | Sequence[int] | None = None,
        label_at: str = "every",
        sample_weight: str | None = None,
        boundary: str = "align",
        burn_in: int = 0,
        resets: bool = False,
        encode: Callable | None = None,
        known_ahead: KnownAhead = None,
        static: Sequence[str] | None = None,
        steps_per_epoch: int | None = None,
    ):
        super().__init__(workers=1)
        self.global_batch_size = whole_number("batch_size", batch_size, 1)
        self.sequence_length = whole_number("sequence_length", sequence_length, 1)
        self.burn_in = burn_in_of_stream(burn_in)
        self.boundary = one_of(
            "boundary",
            boundary,
            ("align", "pack"),
            "To ignore where documents end, let the source join them, or read a "
            "`StatefulSequence`.",
        )
        self.label_at = one_of("label_at", label_at, LABEL_AT)
        if steps_per_epoch is not None:
            steps_per_epoch = whole_number(
                "steps_per_epoch", steps_per_epoch, 1, alternative="or None"
            )
        self.resets = true_or_false("resets", resets, RESETS_REMEDY)
        self.steps_per_epoch = steps_per_epoch
        self.shard, self.epoch = (0, 1), 0
        if isinstance(static, Mapping):
            raise TypeError(
                "`static` names keys of documents, which a stream reads one after the other. "
                f"Received: a dict of {sorted(map(str, static))}. Give each document its own "
                f"vector, and pass `static={sorted(map(str, static))}`."
            )
        self._source = Source(
            source,
            encode,
            targets,
            target_offset,
            label_at,
            sample_weight,
            known_ahead,
            static,
            again=steps_per_epoch is not None,
        )
        self._parts = self._source.parts
        self._windows = StreamWindows(
            self._source,
            self.batch_size,
            self.sequence_length,
            boundary,
            self.burn_in,
            self.resets,
        )
        self.has_targets = targets is not None
        self._lock = threading.RLock()
        self._steps = StepCounts()
        self._pass = Pass(positions={0: self._here()})
        self._back_to: dict[str, Any] | None = None  # where a call began that failed
        self._trained_early = (0, 0)  # an epoch of Keras's, and batches trained on; see `trained`

    # What it gives

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        return self.global_batch_size

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch, where `steps_per_epoch` tells."""
        return self.steps_per_epoch

    @property
    def utilization(self) -> float:
        """Real time steps / all time steps that were read so far, in (0, 1]."""
        return self._steps.real / self._steps.ever if self._steps.ever else 1.0

    @property
    def most_resets(self) -> None:
        """Nobody knows how many documents will start in one window."""
        return None

    @property
    def once(self) -> bool:
        """True if the source is read once: an iterator."""
        return self._source.once

    def __len__(self) -> int:
        if self.steps_per_epoch is None:
            raise TypeError(
                "A stream without `steps_per_epoch` has no length: nobody knows it before its end. "
                "Received: len(stream). `fit` needs none; to fix one, make it with "
                "`StatefulStream(..., steps_per_epoch=...)`."
            )
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple:
        raise TypeError(
            "A stream has no batch by index. Received: stream[...]. Iterate over it, or read a "
            "`StatefulSequence`."
        )

    def __repr__(self) -> str:
        return (
            f"<StatefulStream: batches of {self.batch_size} x {self.sequence_length}, "
            f"boundary={self.boundary!r}, resets={self.resets}, "
            f"steps_per_epoch={self.steps_per_epoch}>"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "A stream stands in the middle of its source, and can neither be copied nor pickled. "
            f"Received: {self!r}. Make another: `StatefulStream(source, ...)`."
        )

    def reset_mask(self, i: int, epoch: int | None = None) -> np.ndarray:
        """Which rows start from the initial state in batch `i` of the pass that is being read.

        Args:
            i: index of the batch: not far behind the last one given, nor behind the next.
            epoch: not needed; a stream knows one pass, the present one.

        Returns:
            bool `(batch_size,)`, in "pack" `(batch_size, sequence_length)`: True where the state is
            set to the initial state before this step. All False behind the last batch.
        """
        with self._lock:
            if i == 0 and self._is_left:
                self._begin()
            # Masks may be asked for ahead of their batches, which are then made and wait.
            while self._pass.made <= i and not self._pass.finished and self._make():
                pass
            if i < self._pass.made and i not in self._pass.masks:
                raise ValueError(
                    f"A stream keeps the masks of its last {KEPT} batches. Received: batch {i}; "
                    f"{self._pass.made} were read."
                )
            return self._pass.masks.get(i, self._windows.no_resets()).copy()

    def check_ids(self, known: dict[str | None, int]) -> None:
        """Refuses ids that a model does not know, as they are read.

        Args:
            known: how many ids the model's `Embedding` knows, by key of the input; the key is None
                for a single one.
        """
        self._windows.check_ids(known)

    def give_targets(self, *, at_ends: bool) -> None:
        """Has batches give targets and weights as a model has outputs; see `Batches`."""
        with self._lock:
            if self._windows.at_ends != at_ends:
                self._windows.at_ends = at_ends
                self._steps.count_anew()

    def trained(self, batches: int) -> None:
        """Says that so many batches of the epoch's pass were trained on; the next goes on there.

        It may be said before the first is read: Keras calls hooks, and on JAX reads only then.
        """
        with self._lock:
            if self._pass.keras_epoch == self.epochs_begun:
                self._pass.trained = batches
            else:  # the pass that is about to begin
                self._trained_early = (self.epochs_begun, batches)

    def __iter__(self) -> Iterator[tuple]:
        """The batches of one epoch, for a loop of one's own: each counts as trained on."""
        for batches, batch in enumerate(self.read_pass(), 1):
            self.trained(batches)
            yield batch

    def read_pass(self, *, looks: bool = False) -> Iterator[tuple]:
        """The batches of one epoch; what was read ahead and not trained on is given again later."""
        with self._lock:
            self._begin()
            this = self._pass
            this.looked_at = looks
        while True:
            with self._lock:
                if this.finished or self._pass is not this:  # over, or another pass has begun
                    return
                if not this.waiting and not self._make():
                    this.finished = True
                    return
                batch = this.give(self.steps_per_epoch)
            yield self._windows.give(batch.made, self._steps.divisor)

    # Passes

    def _begin(self) -> None:
        """Begins a pass, unless the present one was begun for its masks or by `seek`."""
        before = self._pass
        if self._back_to is not None:
            self._check_readable_again()
            self.seek(self._back_to)
        elif before.broken:
            self._check_readable_again()
            self._reopen(whole=False)
            self._pass = Pass(positions={0: self._here()})
        elif before.resumed or before.untouched:
            before.resumed = False
        else:
            self._pass = self._pass_after(before)
        self._pass.keras_epoch = self.epochs_begun
        epoch, batches = self._trained_early
        if epoch == self.epochs_begun:
            self._pass.trained = max(self._pass.trained, batches)

    @property
    def _is_left(self) -> bool:
        """True if the present pass is that of an earlier epoch: the next has not begun."""
        this = self._pass
        failed = this.broken or self._back_to is not None
        earlier = this.given > 0 and this.keras_epoch != self.epochs_begun
        # One of a single batch is read to its end before its first step.
        return failed or earlier or (this.finished and this.trained > 0)

    def _pass_after(self, before: Pass) -> Pass:
        """The pass that follows another: it goes on behind it, or the source begins anew."""
        back = before.given_back(goes_on=self.steps_per_epoch is not None, once=self.once)
        if back is None:
            self._reopen(whole=before.finished)
            return Pass(positions={0: self._here()})
        after = before.followed(back, self._here())
        self._settle(after.positions[0])
        return after

    def _settle(self, position: dict[str, Any]) -> None:
        """Scales the pass that begins there by what came before, if passes are parts of a source.

        What was read ahead does not count: whether it was, depends on who reads.
        """
        if self.steps_per_epoch is not None:
            counted, read, *_ = position["steps"]
            self._steps.settle(counted, read)

    def _check_readable_again(self) -> None:
        """Refuses to go on with a source that is read once, behind a call that failed."""
        if self.once:
            raise ValueError(
                "`source`, or the call that read it, failed, and what was read cannot be read "
                "again. Received: an iterator, which is read once. Pass a function that makes one, "
                "`StatefulStream(lambda: read_documents(path), ...)`."
            )

    def _reopen(self, whole: bool) -> None:
        """The source and all rows begin anew; `whole` says that the pass was read to its end."""
        self._windows.restart()
        self._steps.reopen(whole)

    # Where a training stands

    def ends_at(self, batches: int) -> bool:
        """True if the present pass has no more than these batches; reads ahead to see it."""
        self.reset_mask(batches)
        with self._lock:
            return self._pass.made <= batches

    def position(self, batches: int, epoch: int, *, over: bool = False) -> dict[str, Any]:
        """Where the present pass stands after some batches, as JSON.

        Args:
            batches: not far behind the last one given.
            epoch: not needed.
            over: True if the next epoch begins a new pass.

        Returns:
            Which step of which document each row is at, and how many steps were read.
        """
        with self._lock:
            batches = min(batches, self._pass.made)
            return {
                **self._pass.positions[batches],
                "share": self._steps.share,  # also where the pass before has made the batch
                "batch": batches,
                "over": over,
                "finished": self._pass.finished,
            }

    def _here(self) -> dict[str, Any]:
        """Where the stream stands behind the last batch made. Saved in checkpoints."""
        steps = self._steps
        return {
            "taken": self._source.taken,
            "rows": self._windows.progress(),
            "share": steps.share,
            "steps": [steps.counted, steps.read, steps.real, steps.ever],
        }

    def seek(self, position: dict[str, Any]) -> None:
        """The next pass goes on from `position`; the source is read again up to there.

        Raises:
            ValueError: a source that is read once, or that gives other documents than it did.
        """
        self.check_seekable()
        with self._lock:
            over = bool(position["over"])
            counted, read, real, ever = position["steps"]
            self._steps = StepCounts(counted, read, real, ever, position["share"])
            if over:
                self._settle(position)
            if over and self.steps_per_epoch is None:
                self._reopen(whole=bool(position["finished"]))
            else:
                self._windows.go_on(position["rows"], position["taken"])
            done = 0 if over else position["batch"]
            self._pass = Pass(
                made=done,
                given=done,
                trained=done,
                resumed=not over,
                positions={done: self._here()},
            )
            self._back_to = None

    def bookmark(self) -> dict[str, Any]:
        """Where the next pass begins, as `seek` takes it."""
        with self._lock:
            this = self._pass
            if self._back_to is not None:
                return self._back_to
            back: int | None = 0
            if not (this.resumed or this.untouched):
                back = this.given_back(goes_on=self.steps_per_epoch is not None, once=self.once)
            here = self._here()
            position = here if back is None else this.positions.get(this.given - back, here)
            return {**position, "batch": 0, "over": True, "finished": this.finished}

    def go_back(self, bookmark: dict[str, Any] | None) -> None:
        """The next pass begins at a bookmark: the call that has read from there on failed."""
        with self._lock:
            if bookmark is not None and (self._pass.broken or self.bookmark() != bookmark):
                self._back_to = bookmark

    def check_seekable(self) -> None:
        """Raises a ValueError for a source that is read once."""
        self._source.check_seekable()

    def fingerprint(self) -> dict[str, Any]:
        """Arguments, and a checksum of the first document."""
        return {
            "kind": type(self).__name__,
            "batch_size": self.global_batch_size,
            "sequence_length": self.sequence_length,
            "boundary": self.boundary,
            "burn_in": self.burn_in,
            "resets": self.resets,
            "steps_per_epoch": self.steps_per_epoch,
            "label_at": self.label_at,
            "targets": self._source.target_keys,
            "target_offset": list(self._source.offsets),
            "sample_weight": self._source.weight_key,
            "input_offsets": self.input_offsets,
            "static": list(self.static_shapes),
            "first document": self._source.opening,
        }

    # Batches

    def _make(self) -> bool:
        """Makes the next batch of the pass; False if there is none."""
        if self.steps_per_epoch is not None and self._pass.made >= self.steps_per_epoch:
            return False
        try:
            reading = self._windows.read()
        except BaseException:  # an interruption, too: rows stand in the middle of a window
            self._pass.broken = True
            raise
        if not reading.documents:
            if self._pass.made == 0 and self._steps.ever:  # an earlier pass read the source
                raise ValueError(
                    "`source` was read to its end and gives nothing more. Received: an iterator, "
                    "which is read once. Pass a function that makes one for each epoch: "
                    "`StatefulStream(lambda: read_documents(path), ...)`."
                )
            return False
        # A whole source within one window is rather a mistake than something to train on.
        if not self._steps.ever and self._windows.idle and self._source.at_end():
            raise ValueError(
                f"`source` ends within the first window. Received: {reading.steps} time steps, "
                f"batch_size={self.batch_size}, sequence_length={self.sequence_length}. Take fewer "
                "rows, a shorter window, or more data."
            )
        everything = self.batch_size * self.sequence_length
        self._steps.add(*self._windows.counted(reading), reading.steps, everything)
        self._pass.add(MadeBatch(self._windows.make(reading), self._here()))
        return True
