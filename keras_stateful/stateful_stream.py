"""`StatefulStream`: documents that come one after the other, as the batches that stateful training reads."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.adapter import Batches, checksum, zeros
from keras_stateful.arguments import whole_number
from keras_stateful.arrays import as_document, is_array, is_tf_dataset, out_dtype, refuse_not_finite
from keras_stateful.targets import LABEL_AT, read_offsets

_PEEKED = 8  # batches that Keras may take from an iterator that it then leaves, to see their shape
_MASKS = 64  # masks that are kept behind the last batch given
_INT32 = np.iinfo("int32")


class _Output(NamedTuple):
    """Where an output's targets come from: a key of the documents, None where they are arrays."""

    key: str | None
    is_label: bool
    shape: tuple
    dtype: np.dtype
    lifted: bool  # single floats get an axis of length 1, as a `Dense(1)` gives


class _Document(NamedTuple):
    number: int
    steps: int  # that have all their targets
    arrays: dict[Any, np.ndarray]
    weights: np.ndarray | float
    checksum: int


class _Row:
    """What a row of the batch is reading."""

    def __init__(self) -> None:
        self.document: _Document | None = None
        self.at = 0


class StatefulStream(Batches):
    """Documents from a sequential source, of unknown number and larger than memory, as windows for stateful training.

    Each row of the batch reads a document from its first step to its last and then takes the next one of the source,
    so only `batch_size` documents are in memory. Where the source ends, rows run out one after the other and are padded
    with weight 0. Give it to `fit`, `evaluate` or `predict` as a `StatefulSequence`, which you should prefer where the
    corpus can be read by index: it wastes less at the end and can deal documents anew.

    Args:
        source: an iterable of documents that can be read again (a list, a `tf.data.Dataset`, an object with
            `__iter__`), or a function that gives a new iterator for each pass. A generator is read once. A document is an
            array `(timesteps,)` of ids or `(timesteps, ...)` of features, or a dict of such arrays, in which single values
            are labels of the document.
        batch_size: rows of a batch.
        sequence_length: time steps of a window.
        targets: None for the document itself; a key of documents that are dicts (with `target_offset=0` it is then
            no input); or a dict of keys, one for each output.
        target_offset: how many time steps later the target stands; 1 where `targets` is None, else 0. A sequence of ints
            gives targets an axis of that length.
        label_at: where labels are trained on: at "every" step, at each "window"'s last real step of the document, or
            at the document's "last".
        sample_weight: a key of documents that are dicts: one value per time step or per document. It is no input.
        boundary: "align": each document begins at the first step of a window. "pack": back to back, with resets inside
            windows.
        burn_in: time steps that are read and not trained on at the start of each document.
        resets: whether the reset mask rides along as the model's last input, `(x, mask)` or the key "resets".
        encode: a function from what the source gives to a document.
        steps_per_epoch: batches of an epoch; the next epoch goes on where it stopped, and the source begins again where it
            ends. None: an epoch is one pass over the source.

    Weights are scaled so that the loss is per real step. How much will be padding is known only after a pass: the first
    is scaled by the share so far, each later one by that of the pass before, so that its loss is exact if the source
    gives the same. (With `steps_per_epoch` it is the share so far throughout.) `weighted_metrics` are exact always.

    Attributes:
        num_batches: `steps_per_epoch`.
        utilization: real time steps / all time steps that were read so far, in (0, 1].

    Raises:
        TypeError: a source or argument of the wrong type.
        ValueError: an argument that cannot be right, or an empty source; while reading, with the number of the document:
            one that is empty, too short for `target_offset`, unlike the first or not finite, or a source that ends
            within the first window.

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

    def __init__(
        self,
        source: Iterable | Callable[[], Iterable],
        batch_size: int,
        sequence_length: int,
        *,
        targets: str | dict[str, str] | None = None,
        target_offset: Any = None,
        label_at: str = "every",
        sample_weight: str | None = None,
        boundary: str = "align",
        burn_in: int = 0,
        resets: bool = False,
        encode: Callable | None = None,
        steps_per_epoch: int | None = None,
    ):
        super().__init__(workers=1)
        self.global_batch_size = whole_number("batch_size", batch_size, 1)
        self.sequence_length = whole_number("sequence_length", sequence_length, 1)
        self.burn_in = whole_number("burn_in", burn_in, 0)
        if boundary not in ("align", "pack"):
            raise ValueError(
                f'`boundary` must be "align" or "pack". Received: boundary={boundary!r}. To ignore where documents end, let '
                "the source join them, or read a `StatefulSequence`."
            )
        if label_at not in LABEL_AT:
            raise ValueError(
                f'`label_at` must be "every", "window" or "last". Received: label_at={label_at!r}.'
            )
        if steps_per_epoch is not None:
            steps_per_epoch = whole_number("steps_per_epoch", steps_per_epoch, 1, "or None")
        self.boundary, self.resets, self.label_at = boundary, bool(resets), label_at
        self.steps_per_epoch, self.shard, self.epoch = steps_per_epoch, (0, 1), 0
        self._source, self._encode = _checked_source(source), encode
        self._weight_key = sample_weight

        items = self._open()
        first = _first(items, encode)
        self._like = {k: (v.shape[1:], v.dtype, v.ndim == 0) for k, v in first.items()}
        self._offsets, self._horizon = read_offsets(target_offset, 1 if targets is None else 0)
        self._outputs = self._open_outputs(targets, target_offset)
        answers = (
            {o.key for o in self._outputs.values() if o.key is not None} if 0 in self._offsets else set()
        )
        answers |= set() if sample_weight is None else {sample_weight}
        self._inputs = [k for k, (_, _, single) in self._like.items() if not single and k not in answers]
        self._check_inputs(targets)
        opening = self._prepared(0, first)
        self._opening = opening.checksum
        self._documents: Iterator[_Document] = itertools.chain([opening], self._read(items, 1))

        self._lock = threading.RLock()
        self._rows = [_Row() for _ in range(self.batch_size)]
        self._ready: deque[tuple] = deque()  # batches, with their masks, made for these or given back
        self._handed: list[tuple] = []  # the first ones given in this pass
        self._pass = self._made = self._given = 0  # its number, its batches
        self._finished = False
        self._masks: dict[int, np.ndarray] = {}
        self._positions: dict[int, dict] = {}  # after as many batches
        self._taken = 0  # documents of the source, since it was opened last
        self._sought = False
        self._counted = self._all = 0.0  # steps of this pass over the source
        self._share: float | None = None  # of the pass before
        self._real_steps = self._all_steps = 0

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
    def per_step_targets(self) -> bool:
        """Whether targets have a time axis: always."""
        return True

    @property
    def utilization(self) -> float:
        """Real time steps / all time steps that were read so far, in (0, 1]."""
        return self._real_steps / self._all_steps if self._all_steps else 1.0

    def __len__(self) -> int:
        if self.steps_per_epoch is None:
            raise TypeError(
                "A stream without `steps_per_epoch` has no length: nobody knows it before its end."
            )
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple:
        raise TypeError(
            "A stream has no batch by index. Received: stream[...]. Iterate over it, or read a `StatefulSequence`."
        )

    def reset_mask(self, i: int, epoch: int | None = None) -> np.ndarray:
        """Which rows start from the initial state in batch `i` of the pass that is being read.

        Args:
            i: index of the batch: not far behind the last one given, nor behind the next.
            epoch: not needed; a stream knows one pass, the present one.

        Returns:
            bool `(batch_size,)`, in "pack" `(batch_size, sequence_length)`: True where the state is set to the initial
            state before this step. All False behind the last batch.
        """
        with self._lock:
            if self._finished and i == 0:
                self._begin()
            while self._made <= i and not self._finished and (item := self._make()) is not None:
                self._ready.append(item)
            if i < self._made and i not in self._masks:
                raise ValueError(
                    f"A stream keeps the masks of its last {_MASKS} batches. Received: batch {i}; {self._made} were read."
                )
            return self._masks.get(i, self._no_resets())

    def read_pass(self) -> Iterator[tuple]:
        """The batches of one epoch. An iterator that is left after a few batches gives them back to the next one."""
        with self._lock:
            self._begin()
            number = self._pass
        while True:
            with self._lock:
                if self._finished or self._pass != number:
                    return
                item = self._ready.popleft() if self._ready else self._make()
                if item is None:
                    self._finished = True
                    return
                self._given += 1
                self._finished = self._given == self.steps_per_epoch
                if len(self._handed) <= _PEEKED:
                    self._handed.append(item)
            yield item[0]

    def signature(self) -> tuple:
        """A batch of `(shape, dtype)` pairs in place of arrays."""
        rows, window = self.batch_size, self.sequence_length
        inputs: dict = {
            k: ((rows, window, *self._like[k][0]), out_dtype("source", self._like[k][1]))
            for k in self._inputs
        }
        x: Any = inputs if self._is_dict else inputs[None]
        if self.resets:
            mask = (self._no_resets().shape, np.dtype(bool))
            x = {**inputs, "resets": mask} if self._is_dict else (x, mask)
        horizon = (len(self._offsets),) if self._horizon else ()
        y = {
            k: ((rows, window, *horizon, *o.shape, *(1,) * o.lifted), o.dtype)
            for k, o in self._outputs.items()
        }
        weights = {k: ((rows, window, *(1,) * self._horizon), np.dtype("float32")) for k in y}
        return (x, *(part[None] if None in y else part for part in (y, weights)))

    # Passes

    def _begin(self) -> None:
        """Begins an epoch, or goes on with one that was begun for its masks."""
        if self._sought or (not self._given and not self._finished):
            self._sought = False
            return
        if not self._finished and len(self._handed) <= _PEEKED:
            self._ready.extendleft(reversed(self._handed))
        elif self.steps_per_epoch is None and (self._finished or not self._once):
            self._restart()
        self._masks = {i: mask for i, (_, mask) in enumerate(self._ready)}
        self._made, self._given, self._finished = len(self._ready), 0, False
        self._pass += 1
        self._handed.clear()

    def _restart(self) -> None:
        self._ready.clear()
        self._rows = [_Row() for _ in range(self.batch_size)]
        self._documents, self._taken = self._read(self._open()), 0
        if self._finished and self._all:
            self._share = self._counted / self._all
        self._counted = self._all = 0.0

    @property
    def _once(self) -> bool:
        return isinstance(self._source, Iterator)

    def _open(self) -> Iterator:
        source = (
            self._source()
            if callable(self._source) and not isinstance(self._source, Iterable)
            else self._source
        )
        return iter(source.as_numpy_iterator() if is_tf_dataset(source) else source)

    def _read(self, items: Iterator, number: int = 0) -> Iterator[_Document]:
        for i, item in enumerate(items, number):
            yield self._prepared(i, as_document(f"source[{i}]", item, self._encode))

    def _next_document(self) -> _Document | None:
        document = next(self._documents, None)
        if document is None and self.steps_per_epoch is not None and not self._once:
            self._documents = self._read(self._open())
            document = next(self._documents, None)
        if document is not None:
            self._taken = document.number + 1
        return document

    # Where a training stands

    def ends_at(self, batches: int) -> bool:
        """Whether the present pass has no more than these batches; reads ahead to see it."""
        self.reset_mask(batches)
        with self._lock:
            return self._made <= batches

    def position(self, batches: int, epoch: int, *, over: bool = False) -> dict[str, Any]:
        """Where the present pass stands after some batches: which step of which document each row is at.

        Args:
            batches: not far behind the last one given.
            epoch: not needed.
            over: whether the next epoch begins a new pass.
        """
        with self._lock:
            batches = min(batches, self._made)
            return {**self._positions[batches], "batch": batches, "over": over, "finished": self._finished}

    def _here(self) -> dict[str, Any]:
        rows = [
            None if r.document is None else [r.document.number, r.at, r.document.checksum] for r in self._rows
        ]
        return {
            "taken": self._taken,
            "rows": rows,
            "share": self._share,
            "steps": [self._counted, self._all, self._real_steps, self._all_steps],
        }

    def seek(self, position: dict[str, Any]) -> None:
        """The next pass goes on from `position`; the source is read again from its start up to there.

        Raises:
            ValueError: a source that is read once, or that gives other documents than it did.
        """
        self.check_seekable()
        with self._lock:
            self._ready.clear()
            self._handed.clear()
            self._masks.clear()
            self._positions.clear()
            self._share, over = position["share"], bool(position["over"])
            self._counted, self._all, self._real_steps, self._all_steps = position["steps"]
            self._finished = bool(position["finished"])
            self._pass += 1
            if over and self.steps_per_epoch is None:
                self._restart()
            else:
                self._reread(position["rows"], position["taken"])
            self._sought = not over
            self._made = self._given = 0 if over else position["batch"]
            self._finished = False

    def check_seekable(self) -> None:
        """Raises a ValueError for a source that is read once."""
        if self._once:
            raise ValueError(
                "`source` cannot be repositioned: it is read once. Received: an iterator. Pass a function that makes one, "
                "`StatefulStream(lambda: read_documents(path), ...)`, or anything that can be read again."
            )

    def _reread(self, rows: list, taken: int) -> None:
        """Opens the source, and gives each row the document that it was reading."""
        numbers = {row[0] for row in rows if row is not None}
        found: dict[int, _Document] = {}
        items = self._open()
        for i in range(max(numbers, default=-1) + 1):
            item = self._skip(items, i)
            if i in numbers:
                found[i] = self._prepared(i, as_document(f"source[{i}]", item, self._encode))
        for row, here in zip(self._rows, rows, strict=True):
            row.document, row.at = None, 0
            if here is not None:
                number, row.at, wanted = here
                row.document = found[number]
                if row.document.checksum != wanted or not 0 < row.at < row.document.steps:
                    raise ValueError(
                        f"`source` gives other documents than when the training was saved. Received: another source[{number}]. "
                        "It must give the same documents in the same order each time it is read; a shuffle needs a fixed seed."
                    )
        begun = max(numbers, default=-1) + 1
        if begun > taken:  # those rows still read what the source gave before it began again
            items, begun = self._open(), 0
        for i in range(begun, taken):
            self._skip(items, i)
        self._documents, self._taken = self._read(items, taken), taken

    def _skip(self, items: Iterator, number: int) -> Any:
        for item in items:
            return item
        raise ValueError(
            "`source` gives fewer documents than when the training was saved. Received: an end after "
            f"{number} documents. It must give the same documents in the same order each time it is read."
        )

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
            "target_offset": list(self._offsets),
            "first document": self._opening,
        }

    # Batches

    def _make(self) -> tuple[tuple, np.ndarray] | None:
        """The next batch, and its mask; None where the source has ended and all rows have."""
        if self.steps_per_epoch is not None and self._made >= self.steps_per_epoch:
            return None
        filled = [self._fill(row) for row in self._rows]
        if not any(filled):
            if self._made == 0 and self._all_steps:
                raise ValueError(
                    "`source` was read to its end and gives nothing more. Received: an iterator, which is read once. Pass a "
                    "function that makes one for each epoch: `StatefulStream(lambda: read_documents(path), ...)`."
                )
            return None
        if not self._all_steps and all(row.document is None for row in self._rows) and self._next_is_none():
            steps = sum(n for spans in filled for _, _, _, n in spans)
            raise ValueError(
                f"`source` ends within the first window. Received: {steps} time steps, batch_size={self.batch_size}, "
                f"sequence_length={self.sequence_length}. Take fewer rows, a shorter window, or more text."
            )
        batch, mask, counted = self._gather(filled)
        real = sum(n for spans in filled for _, _, _, n in spans)
        everything = self.batch_size * self.sequence_length
        self._real_steps, self._all_steps = self._real_steps + real, self._all_steps + everything
        self._counted, self._all = self._counted + counted, self._all + everything
        share = self._share or (self._counted / self._all if self._counted else 1.0)
        for weights in batch[2].values() if isinstance(batch[2], dict) else [batch[2]]:
            weights /= np.float32(share)
        self._masks[self._made] = mask
        self._masks.pop(self._made - _MASKS, None)
        self._made += 1
        self._positions[self._made] = self._here()
        self._positions.pop(self._made - _MASKS, None)
        return batch, mask

    def _next_is_none(self) -> bool:
        taken, document = self._taken, self._next_document()
        if document is not None:
            self._documents = itertools.chain([document], self._documents)
            self._taken = taken
        return document is None

    def _fill(self, row: _Row) -> list[tuple[int, _Document, int, int]]:
        """What a row reads in the next window: column, document, first time step, steps."""
        spans, column, window = [], 0, self.sequence_length
        while column < window:
            if row.document is None:
                if column and self.boundary == "align":
                    break
                row.document, row.at = self._next_document(), 0
                if row.document is None:
                    break
            steps = min(window - column, row.document.steps - row.at)
            spans.append((column, row.document, row.at, steps))
            column, row.at = column + steps, row.at + steps
            if row.at == row.document.steps:
                row.document = None
        return spans

    def _gather(self, filled: list) -> tuple[tuple, np.ndarray, float]:
        x, y, w = zeros(self.signature())
        inputs = x if self._is_dict else {None: x[0] if self.resets else x}
        targets = y if isinstance(y, dict) else {None: y}
        mask, weights = self._no_resets(), np.zeros((self.batch_size, self.sequence_length), "float32")
        for row, spans in enumerate(filled):
            for column, document, start, steps in spans:
                stop, end = column + steps, start + steps
                for key in self._inputs:
                    inputs[key][row, column:stop] = document.arrays[key][start:end]
                for key, output in self._outputs.items():
                    self._put(targets[key][row, column:stop], output, document.arrays[output.key], start, end)
                skip = min(max(self.burn_in - start, 0), steps)
                if self.label_at == "every":
                    weights[row, column + skip : stop] = 1
                elif skip < steps and (self.label_at == "window" or end == document.steps):
                    weights[row, stop - 1] = 1
                if start == 0:
                    mask[(row, column) if mask.ndim == 2 else row] = True
        counts = float(weights.sum())
        if self._weight_key is not None:
            for row, spans in enumerate(filled):
                for column, document, start, steps in spans:
                    given = document.weights
                    weights[row, column : column + steps] *= (
                        given[start : start + steps] if np.ndim(given) else given
                    )
        if self.resets:
            if self._is_dict:
                x["resets"] = mask
            else:
                x = (inputs[None], mask)
        if self._horizon:  # a loss `(batch, time, offsets)` broadcasts them
            weights = weights[..., None]
        weighted = {k: weights.copy() for k in w} if isinstance(w, dict) else weights
        return (x, y, weighted), mask, counts

    def _put(self, into: np.ndarray, output: _Output, values: np.ndarray, start: int, end: int) -> None:
        into = into[..., 0] if output.lifted else into
        if output.is_label:
            into[:] = values
        elif self._horizon:
            for k, offset in enumerate(self._offsets):
                into[:, k] = values[start + offset : end + offset]
        else:
            into[:] = values[start + self._offsets[0] : end + self._offsets[0]]

    def _no_resets(self) -> np.ndarray:
        shape = (self.batch_size, self.sequence_length) if self.boundary == "pack" else (self.batch_size,)
        return np.zeros(shape, bool)

    # Documents

    @property
    def _is_dict(self) -> bool:
        return None not in self._like

    def _prepared(self, number: int, arrays: dict[Any, np.ndarray]) -> _Document:
        """Checks a document."""
        name = f"source[{number}]"
        found = {k: (v.shape[1:], v.dtype, v.ndim == 0) for k, v in arrays.items()}
        if found != self._like:
            raise ValueError(
                f"The documents of `source` must be alike but for their length. Received: source[0] with {self._like}, "
                f"{name} with {found} (shape of a time step, dtype, whether a single value)."
            )
        lengths = {k: len(v) for k, v in arrays.items() if v.ndim}
        steps = max(lengths.values())
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"The arrays of a document must have the same time steps. Received: {name} with {lengths}."
            )
        reach = max(self._offsets)
        if steps <= reach:
            raise ValueError(
                f"A document needs at least one time step with its target. Received: {name} of {steps} time steps, "
                f"target_offset up to {reach}. Leave such documents out of the source."
            )
        weights = self._weights(number, arrays)
        targets = {o.key for o in self._outputs.values()}
        for key, values in arrays.items():
            if key not in (*self._inputs, *targets):
                continue
            if values.dtype.kind not in "iub" and not np.isfinite(values).all():
                bad = (
                    ~np.isfinite(values).reshape(len(values), -1).all(1) if values.ndim else np.array([True])
                )
                if key not in self._inputs and self._weight_key is not None:
                    bad &= np.broadcast_to(weights, bad.shape) > 0
                    arrays[key] = np.nan_to_num(values, posinf=0, neginf=0)
                if bad.any():
                    refuse_not_finite(
                        "targets" if key not in self._inputs else "source", number, int(bad.argmax())
                    )
            elif (
                values.dtype.kind in "iu"
                and values.size
                and not _INT32.min <= values.min() <= values.max() <= _INT32.max
            ):
                raise ValueError(
                    f"`{name}` has integers that do not fit int32, which batches have. Received: {values.min()} to "
                    f"{values.max()}. Number the ids from 0, or store the values as floating point."
                )
        return _Document(number, steps - reach, arrays, weights, checksum(arrays))

    def _weights(self, number: int, arrays: dict) -> np.ndarray | float:
        if self._weight_key is None:
            return 1.0
        if self._weight_key not in arrays:
            raise ValueError(
                f"`sample_weight` names a key that documents lack. Received: {self._weight_key!r}; they have "
                f"{sorted(arrays, key=str)}."
            )
        weights = np.asarray(arrays[self._weight_key], "float32")
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.ndim < 2):
            raise ValueError(
                f"`sample_weight` must be one number of 0 or more per time step or document. Received: source[{number}] of "
                f"shape {weights.shape}, from {weights.min()} to {weights.max()}."
            )
        return weights

    def _open_outputs(self, targets: Any, target_offset: Any) -> dict[Any, _Output]:
        several = targets if isinstance(targets, dict) else {None: targets}
        if not several:
            raise ValueError(
                "`targets` holds nothing. Received: {}. Leave it out, or name at least one output."
            )
        outputs = {}
        for name, key in several.items():
            if key is None and None in self._like:
                if self._offsets == (0,):
                    raise ValueError(
                        "`target_offset=0` without `targets` asks for the input itself. Received: target_offset=0. Pass "
                        "`target_offset=1` for the next time step, or documents that are dicts with a key for `targets`."
                    )
            elif not isinstance(key, str) or key not in self._like:
                raise ValueError(
                    f"`targets` must name a key of the documents. Received: {key!r}; they have "
                    f"{sorted(self._like, key=str) if self._is_dict else 'no keys: each is one array'}."
                )
            shape, dtype, is_label = self._like[key]
            if is_label and self._offsets != (0,):
                raise ValueError(
                    f"One label per document cannot be shifted. Received: target_offset={target_offset!r}, targets={key!r}."
                )
            if not is_label and self.label_at != "every":
                raise ValueError(
                    f"`label_at` says where one label per document is trained on. Received: label_at={self.label_at!r} with "
                    "targets for every time step. Leave it out."
                )
            dtype = out_dtype("targets", dtype)
            lifted = dtype.kind == "f" and not shape and not self._horizon
            outputs[name] = _Output(key, is_label, () if is_label else shape, dtype, lifted)
        return outputs

    def _check_inputs(self, targets: Any) -> None:
        if not self._inputs:
            raise ValueError(f"`targets` takes the only input. Received: targets={targets!r}.")
        for key in self._inputs:
            shape, dtype, _ = self._like[key]
            if key == "resets":
                raise ValueError('The key "resets" is kept for the mask. Rename that array of the documents.')
            if not shape and out_dtype("source", dtype).kind == "f":
                raise ValueError(
                    f"An array `(timesteps,)` holds ids, which are integers. Received: documents of {dtype}. For a single "
                    "feature give `x[:, None]`, `(timesteps, 1)`."
                )


def _first(items: Iterator, encode: Callable | None) -> dict[Any, np.ndarray]:
    for item in items:
        document = as_document("source[0]", item, encode)
        if all(v.ndim == 0 for v in document.values()):
            raise ValueError(
                "A document must be an array `(timesteps, ...)`. Received: source[0], a single value. If the source gives "
                "time steps one by one, group them: `itertools.batched`, or `encode=`."
            )
        return document
    raise ValueError(
        "`source` gives no document. Received: an empty source. Is its path right, or was it read before?"
    )


def _checked_source(source: Any) -> Any:
    if isinstance(source, (str, bytes, dict)) or is_array(source):
        raise TypeError(
            f"`source` must give documents one after the other. Received: {type(source).__name__}. Pass a list or other "
            "iterable of arrays, or a function that gives an iterator; one array is read by `StatefulSequence`."
        )
    if not isinstance(source, Iterable) and not callable(source):
        raise TypeError(
            f"`source` must be an iterable of documents, or a function that gives one. Received: {type(source).__name__}."
        )
    return source
