"""Whole documents, read from their first step to their last: metrics and predictions for each.

A twin of the model, sharing its variables, reads them at a batch size of its own, so nothing has to
be cut to fit the training batch, and neither the model's state nor its metrics are touched.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.time_axis import find_time_axis
from keras_stateful.conversion.convert import recurrent_paths, twin_with_resets
from keras_stateful.data.sequence import Span, StatefulSequence
from keras_stateful.evaluation.scoring import Scorer, fresh_compile_arguments
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.protocols import is_sequence, sequence_or_none
from keras_stateful.training.callbacks import check_readers_come_after
from keras_stateful.training.check_inputs import check_ids, check_inputs
from keras_stateful.training.check_targets import check_labels, check_targets


def evaluate_documents(
    model: keras.Model,
    documents: Any,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    targets: Any = None,
    target_offset: Any = None,
    label_at: str = "every",
    sample_weight: Any = None,
    burn_in: int = 0,
    encode: Callable | None = None,
) -> dict[str, np.ndarray]:
    """The compiled loss and metrics of each document, read whole, with the state carried from end
    to end.

    Args:
        model: a compiled model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        targets, target_offset, label_at, sample_weight, burn_in, encode: as for `StatefulSequence`.

    Returns:
        `{"loss": (documents,), metric: (documents,), ...}`: means over each document's own time
        steps (weighted means, where `sample_weight` is given). Regularization penalties are not
        part of the loss.

    Raises:
        ValueError: a model that is not compiled, or has an output per window instead of per time
            step; documents that `StatefulSequence` refuses.
        TypeError: a sequence or generator in place of the documents.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4),
                              keras.layers.GRU(8, return_sequences=True), keras.layers.Dense(9, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    scores = ks.evaluate_documents(model, [np.arange(40) % 9, np.arange(300) % 9])
    assert scores["loss"].shape == (2,)
    ```
    """
    layout = _layout(targets, target_offset, label_at, sample_weight, burn_in, encode)
    scorer = Scorer(model, sequence_length)
    reader = _Reader(model, documents, batch_size, sequence_length, layout)
    classes = check_targets(model, "documents", reader.sequence, weighted=True)
    reader.sequence.check_classes(classes)
    if reader.masked:  # a mask weighs in Keras's loss, and is known inside the model only
        return _evaluate_one_by_one(model, documents, sequence_length, layout)
    for document, batch, row in reader.batches():
        scorer.count(document, batch, row)
    for document, y_pred, batch, row, _ in reader.windows():
        scorer.add(document, y_pred, batch, row)
    return scorer.results(reader.count)


def predict_documents(
    model: keras.Model,
    documents: Any,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    reduce: str | None = None,
    encode: Callable | None = None,
) -> Any:
    """The model's outputs for each document, read whole, with the state carried from end to end.

    Args:
        model: a model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        reduce: None for the output at every step; "last" for that at the last; "mean" for their
            mean.
        encode: as for `StatefulSequence`.

    Returns:
        One array `(timesteps, ...)` for each document, in the given order; with `reduce` one
        `(...)`, stacked to `(documents, ...)`. For a model with several outputs a structure of
        these, as the model's output.

    Raises:
        ValueError: an unknown `reduce`; a model with an output per window instead of per time step;
            documents that `StatefulSequence` refuses.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(8, return_sequences=True)])
    short, long = ks.predict_documents(model, [np.ones((5, 3)), np.ones((500, 3))])
    assert long.shape == (500, 8)
    ```
    """
    if reduce not in (None, "last", "mean"):
        raise ValueError(f'`reduce` must be None, "last" or "mean". Received: reduce={reduce!r}.')
    # With a label for each document, every step is read, also the last; and a dict loses none of
    # its inputs.
    labels = np.zeros(_count(documents), "int32")
    reader = _Reader(
        model, documents, batch_size, sequence_length, {"targets": labels, "encode": encode}
    )
    parts: list[list[list[np.ndarray]]] = [[] for _ in range(reader.count)]
    steps = np.zeros(reader.count)
    for document, y_pred, _, _, span in reader.windows():
        outputs = [
            np.array(o[: span.steps], "float64" if reduce == "mean" else o.dtype)
            for o in keras.tree.flatten(y_pred)
        ]
        if reduce == "last":
            parts[document] = [[o[-1] for o in outputs]]
        elif reduce == "mean":
            before = parts[document][0] if parts[document] else [0.0] * len(outputs)
            parts[document] = [[b + o.sum(axis=0) for b, o in zip(before, outputs, strict=True)]]
            steps[document] += span.steps
        else:
            parts[document].append(outputs)
    structure = keras_internals.functional(model).output
    columns: list = []
    column: Any
    for k in range(len(model.outputs)):
        if reduce == "mean":
            column = np.stack(
                [(p[0][k] / s).astype("float32") for p, s in zip(parts, steps, strict=True)]
            )
        elif reduce == "last":
            column = np.stack([p[0][k] for p in parts])
        else:
            column = [np.concatenate([piece[k] for piece in p]) for p in parts]
        columns.append(column)
    if len(columns) == 1 and not isinstance(structure, dict):
        return columns[0]
    if isinstance(structure, dict):
        return dict(zip(sorted(structure), columns, strict=True))
    return columns


class ValidateDocuments(keras.callbacks.Callback):
    """Writes `val_loss` and `val_*` metrics of whole held-out documents into the logs of each
    epoch.

    Validation then needs neither the training batch size nor cut documents, and `EarlyStopping`,
    `ModelCheckpoint` and `CSVLogger` follow it: put it before them in `callbacks`, and leave out
    `validation_data`. Values are means over all real time steps of all documents; under
    `sample_weight`, `val_loss` still counts steps of weight 0, as the loss of `fit` does, and
    weighted metrics do not.

    Args:
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call.
        every: epochs from one validation to the next.
        targets, target_offset, label_at, sample_weight, burn_in, encode: as for `StatefulSequence`.

    Raises:
        ValueError: as `evaluate_documents`, when training begins; likewise documents without
            `targets` where training has them, `validation_data` beside it, and a callback that
            reads `val_*` or the logs and stands before it.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    documents = [np.arange(60) % 9, np.arange(100) % 9]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=10, resets=True)
    model = ks.to_stateful(
        keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4),
                          keras.layers.GRU(8, return_sequences=True), keras.layers.Dense(9, activation="softmax")]),
        sequence)
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(sequence, verbose=0, callbacks=[ks.ValidateDocuments([np.arange(30) % 9])])
    assert "val_loss" in history.history
    ```
    """

    def __init__(
        self,
        documents: Any,
        *,
        batch_size: int | None = None,
        sequence_length: int = 128,
        every: int = 1,
        targets: Any = None,
        target_offset: Any = None,
        label_at: str = "every",
        sample_weight: Any = None,
        burn_in: int = 0,
        encode: Callable | None = None,
    ):
        super().__init__()
        self.every = whole_number("every", every, 1, unit="epochs")
        self.documents, self.batch_size, self.sequence_length = (
            documents,
            batch_size,
            sequence_length,
        )
        self.layout = _layout(targets, target_offset, label_at, sample_weight, burn_in, encode)
        self._reader: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        arguments = keras_internals.fit_arguments(self.model)
        self._check_fit(arguments)
        self._reader = _Reader(
            self.model, self.documents, self.batch_size, self.sequence_length, self.layout
        )
        check_labels(
            sequence_or_none(arguments.get("x")), self._reader.sequence, "ValidateDocuments(...)"
        )
        classes = check_targets(self.model, "documents", self._reader.sequence)
        self._reader.sequence.check_classes(classes)
        self._reader.twin.compile(**fresh_compile_arguments(self.model))

    def get_state(self) -> dict[str, Any]:
        """What `ResumeTraining` saves: nothing, since each validation starts afresh."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave."""

    def _check_fit(self, arguments: dict) -> None:
        """Nobody else writes `val_loss`, and who reads it comes later."""
        if arguments.get("validation_data") is not None:
            raise ValueError(
                "`ValidateDocuments` and `validation_data` both write `val_loss`. Received: both. "
                "Leave one of them out."
            )
        check_readers_come_after(self, arguments, prefix="val_")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every or logs is None:
            return
        results = self._reader.twin.evaluate(self._reader.sequence, verbose=0, return_dict=True)
        logs.update({f"val_{name}": value for name, value in results.items()})


class _Reader:
    """Reads documents through a twin of the model, window by window."""

    def __init__(
        self,
        model: keras.Model,
        documents: Any,
        batch_size: int | None,
        sequence_length: int,
        layout: dict,
    ):
        if is_sequence(documents):
            raise TypeError(
                "`documents` must be the documents themselves. Received: a "
                f"{type(documents).__name__}. Pass the list of arrays that it was made of."
            )
        columns = documents.values() if isinstance(documents, dict) else [documents]
        for array in (column for column in columns if hasattr(column, "ndim")):
            raise ValueError(
                "`documents` must be a sequence of arrays, one for each document. Received: one "
                f"array of shape {tuple(array.shape)}. For one document pass `[x]`, for many of "
                "equal length `list(x)`."
            )
        self.count = _count(documents)
        rows = (
            batch_size
            if batch_size is not None
            else devices.whole_rows(max(1, min(32, self.count)))
        )
        self.sequence = _sequence(documents, rows, sequence_length, layout)
        self.twin = twin_with_resets(model, rows)
        if not all(find_time_axis(self.twin, recurrent_paths(self.twin)).outputs):
            raise ValueError(
                "Whole documents are read window by window and need an output at every time step. "
                f"Received: model outputs of shape {[tuple(o.shape) for o in model.outputs]}. Give "
                "the last recurrent layer `return_sequences=True`; `predict_documents(..., "
                "reduce='last')` then takes the last."
            )
        check_inputs(self.twin, "documents", self.sequence)
        check_ids(self.twin, self.sequence)
        self.masked = any(keras_internals.mask_of(o) is not None for o in self.twin.outputs)

    def batches(self) -> Iterator[tuple[int, tuple, int]]:
        """Gives (document, batch, row) of each window, without running the model."""
        for batch, placed in self._placed():
            for row, span in placed:
                yield span.document, batch, row

    def windows(self) -> Iterator[tuple[int, Any, tuple, int, Span]]:
        """Gives (document, outputs (time, ...), batch, row, span) of each window."""
        for batch, placed in self._placed():
            y_pred = self.twin.predict_on_batch(batch[0])
            for row, span in placed:
                outputs = keras.tree.map_structure(lambda o, r=row: o[r], y_pred)
                yield span.document, outputs, batch, row, span

    def _placed(self) -> Iterator[tuple[tuple, list[tuple[int, Span]]]]:
        """Each batch, and row and span of what stands in it."""
        for i in range(len(self.sequence)):
            rows = self.sequence.locate(i)
            yield (
                self.sequence[i],
                [(row, span) for row, spans in enumerate(rows) for span in spans],
            )


def _layout(
    targets: Any,
    target_offset: Any,
    label_at: str,
    sample_weight: Any,
    burn_in: int,
    encode: Callable | None,
) -> dict[str, Any]:
    return {
        "targets": targets, "target_offset": target_offset, "label_at": label_at, "sample_weight": sample_weight,
        "burn_in": burn_in, "encode": encode,
    }  # fmt: skip


def _sequence(documents: Any, rows: int, sequence_length: int, layout: dict) -> StatefulSequence:
    with warnings.catch_warnings():  # rows without a document are no waste here
        warnings.simplefilter("ignore", UserWarning)
        return StatefulSequence(documents, rows, sequence_length, resets=True, **layout)


def _count(documents: Any) -> int:
    column = next(iter(documents.values()), ()) if isinstance(documents, dict) else documents
    if not hasattr(column, "__len__"):
        raise TypeError(
            "`documents` must be a sequence of arrays, one for each document. Received: "
            f"{type(column).__name__}. Pass a list; `list(documents)` reads an iterator or "
            "generator."
        )
    return len(column)


def _evaluate_one_by_one(
    model: keras.Model, documents: Any, sequence_length: int, layout: dict
) -> dict:
    twin = twin_with_resets(model, 1)
    twin.compile(**fresh_compile_arguments(model))
    rows = []
    for d in range(_count(documents)):
        own = {
            k: _only(v, d) if k in ("targets", "sample_weight") else v for k, v in layout.items()
        }
        sequence = _sequence(_only(documents, d), 1, sequence_length, own)
        rows.append(twin.evaluate(sequence, verbose=0, return_dict=True))
    return {name: np.array([r[name] for r in rows]) for name in rows[0]}


def _only(value: Any, document: int) -> Any:
    """What belongs to one document, of a list, an array with a value for each, or a dict of these."""
    if isinstance(value, dict):
        return {k: _only(v, document) for k, v in value.items()}
    return value if value is None or isinstance(value, str) else [value[document]]
