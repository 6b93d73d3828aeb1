"""Whole documents, read from their first step to their last: metrics and predictions for each.

A twin of the model, sharing its variables, reads them at a batch size of its own, so nothing has to be cut
to fit the training batch, and neither the model's state nor its metrics are touched.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_stateful import compat, distribution
from keras_stateful.arguments import int_at_least
from keras_stateful.convert import recurrent_paths, twin_with_resets
from keras_stateful.fit_checks import is_sequence
from keras_stateful.sequence import StatefulSequence
from keras_stateful.time_axis import find_time_axis

_BYTES_AT_ONCE = 4 << 20  # outputs that wait to be scored, for each document being read


def evaluate_documents(
    model: keras.Model,
    documents: Any,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    **layout: Any,
) -> dict[str, np.ndarray]:
    """The compiled loss and metrics of each document, read whole, with the state carried from end to end.

    Args:
        model: a compiled model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        **layout: `targets`, `target_offset`, `label_at`, `sample_weight`, `burn_in`, as for `StatefulSequence`.

    Returns:
        `{"loss": (documents,), metric: (documents,), ...}`: means over each document's own time steps (weighted
        means, where `sample_weight` is given). Regularization penalties are not part of the loss.

    Raises:
        ValueError: a model that is not compiled, or has an output per window instead of per time step; documents
            that `StatefulSequence` refuses.

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
    scorer = _Scorer(model, sequence_length)
    reader = _Reader(model, documents, batch_size, sequence_length, layout)
    if reader.masked:  # a mask weighs in Keras's loss, and is known inside the model only
        return _evaluate_one_by_one(model, documents, sequence_length, layout)
    for document, _, batch, row in reader.windows(run=False):
        scorer.count(document, batch, row)
    for document, y_pred, batch, row in reader.windows():
        scorer.add(document, y_pred, batch, row)
    return scorer.results(reader.count)


def predict_documents(
    model: keras.Model,
    documents: Any,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    reduce: str | None = None,
) -> Any:
    """The model's outputs for each document, read whole, with the state carried from end to end.

    Args:
        model: a model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        reduce: None for the output at every step; "last" for that at the last; "mean" for their mean.

    Returns:
        One array `(timesteps, ...)` for each document, in the given order; with `reduce` one `(...)`, stacked to
        `(documents, ...)`. For a model with several outputs a structure of these, as the model's output.

    Raises:
        ValueError: an unknown `reduce`; a model with an output per window instead of per time step; documents
            that `StatefulSequence` refuses.

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
    # With a label for each document, every step is read, also the last; and a dict loses none of its inputs.
    labels = np.zeros(_count(documents), "int32")
    reader = _Reader(model, documents, batch_size, sequence_length, {"targets": labels})
    parts: list[list[list[np.ndarray]]] = [[] for _ in range(reader.count)]
    steps = np.zeros(reader.count)
    for document, y_pred, _, span in reader.windows(real_only=True):
        outputs = [
            np.array(o, "float64" if reduce == "mean" else o.dtype) for o in keras.tree.flatten(y_pred)
        ]
        if reduce == "last":
            parts[document] = [[o[-1] for o in outputs]]
        elif reduce == "mean":
            before = parts[document][0] if parts[document] else [0.0] * len(outputs)
            parts[document] = [[b + o.sum(axis=0) for b, o in zip(before, outputs, strict=True)]]
            steps[document] += span.steps
        else:
            parts[document].append(outputs)
    structure = compat.functional(model).output
    columns: list = []
    column: Any
    for k in range(len(model.outputs)):
        if reduce == "mean":
            column = np.stack([(p[0][k] / s).astype("float32") for p, s in zip(parts, steps, strict=True)])
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
    """Writes `val_loss` and `val_*` metrics of whole held-out documents into the logs of each epoch.

    Validation then needs neither the training batch size nor cut documents, and `EarlyStopping`,
    `ModelCheckpoint` and `CSVLogger` follow it: put it before them in `callbacks`, and leave out
    `validation_data`. Values are means over all real time steps of all documents.

    Args:
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call.
        every: epochs from one validation to the next.
        **layout: `targets`, `target_offset`, `label_at`, `sample_weight`, `burn_in`, as for `StatefulSequence`.

    Raises:
        ValueError: as `evaluate_documents`, when training begins.

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
        **layout: Any,
    ):
        super().__init__()
        self.every = int_at_least("every", every, 1, unit="epochs")
        self.documents, self.batch_size, self.sequence_length = documents, batch_size, sequence_length
        self.layout = layout
        self._reader: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._reader = _Reader(self.model, self.documents, self.batch_size, self.sequence_length, self.layout)
        self._reader.twin.compile(**_fresh_compile_arguments(self.model))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every or logs is None:
            return
        results = self._reader.twin.evaluate(self._reader.sequence, verbose=0, return_dict=True)
        logs.update({f"val_{name}": value for name, value in results.items()})


class _Reader:
    """Reads documents through a twin of the model, window by window."""

    def __init__(
        self, model: keras.Model, documents: Any, batch_size: int | None, sequence_length: int, layout: dict
    ):
        if is_sequence(documents):
            raise TypeError(
                f"`documents` must be the documents themselves. Received: a {type(documents).__name__}. Pass the list "
                "of arrays that it was made of."
            )
        if hasattr(documents, "ndim"):
            raise ValueError(
                f"`documents` must be a sequence of arrays, one for each document. Received: one array of shape "
                f"{tuple(documents.shape)}. For one document pass `[x]`, for many of equal length `list(x)`."
            )
        self.count = _count(documents)
        rows = batch_size if batch_size is not None else distribution.whole_rows(max(1, min(32, self.count)))
        self.sequence = _sequence(documents, rows, sequence_length, layout)
        self.twin = twin_with_resets(model, rows)
        if not all(find_time_axis(self.twin, recurrent_paths(self.twin)).outputs):
            raise ValueError(
                "Whole documents are read window by window and need an output at every time step. Received: model "
                f"outputs of shape {[tuple(o.shape) for o in model.outputs]}. Give the last recurrent layer "
                "`return_sequences=True`; `predict_documents(..., reduce='last')` then takes the last."
            )
        self.masked = any(compat.mask_of(o) is not None for o in self.twin.outputs)

    def windows(self, *, run: bool = True, real_only: bool = False) -> Iterator[tuple[int, Any, tuple, Any]]:
        """Gives (document, outputs (time, ...), batch, row) for each window, or with the span for the row."""
        for i in range(len(self.sequence)):
            batch = self.sequence[i]
            y_pred = self.twin.predict_on_batch(batch[0]) if run else None
            for row, spans in enumerate(self.sequence.locate(i)):
                for span in spans:
                    stop = span.steps if real_only else None
                    outputs = (
                        keras.tree.map_structure(lambda o, r=row, s=stop: o[r, :s], y_pred) if run else None
                    )
                    yield span.document, outputs, batch, span if real_only else row


def _sequence(documents: Any, rows: int, sequence_length: int, layout: dict) -> StatefulSequence:
    with warnings.catch_warnings():  # rows without a document are no waste here
        warnings.simplefilter("ignore", UserWarning)
        return StatefulSequence(documents, rows, sequence_length, resets=True, **layout)


def _count(documents: Any) -> int:
    column = next(iter(documents.values()), ()) if isinstance(documents, dict) else documents
    if not hasattr(column, "__len__"):
        raise TypeError(
            "`documents` must be a sequence of arrays, one for each document. Received: "
            f"{type(column).__name__}. Pass a list; `list(documents)` reads an iterator or generator."
        )
    return len(column)


class _Scorer:
    """A model of nothing but the loss and the metrics, fed with outputs and targets, document by document.

    Rows hold different documents at a time, so the metrics' variables are put away and taken out again with
    the document. Weights are scaled so that the mean that Keras takes over everything it is fed is the mean
    over the document.
    """

    def __init__(self, model: keras.Model, sequence_length: int):
        arguments = _fresh_compile_arguments(model)
        arguments["weighted_metrics"] = _joined(
            arguments.pop("metrics", None), arguments.get("weighted_metrics")
        )
        inputs = [keras.Input((None, *o.shape[2:]), dtype=o.dtype) for o in model.outputs]
        outputs = [
            keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor)
            for name, tensor in zip(compat.functional(model).output_names, inputs, strict=True)
        ]
        self.model = _Metrics(
            inputs, keras.tree.pack_sequence_as(compat.functional(model).output, outputs), name="scorer"
        )
        self.model.compile(**arguments)
        step_bytes = max(4 * int(np.prod([d or 1 for d in o.shape[2:]])) for o in model.outputs)
        self.group = max(1, min(16, _BYTES_AT_ONCE // (step_bytes * sequence_length)))
        self.windows: dict[int, int] = {}  # of a document, in all
        self.weights: dict[int, list[float]] = {}  # their sum, for each output
        self.seen: dict[int, int] = {}
        self.waiting: dict[int, list] = {}
        self.put_away: dict[int, list[np.ndarray]] = {}
        self.scores: dict[int, dict[str, float]] = {}

    def count(self, document: int, batch: tuple, row: int) -> None:
        """Takes note of a window that will come, and of its weights."""
        sums = [float(w.sum()) for w in keras.tree.flatten(self._weights(batch, row))]
        before = self.weights.get(document, [0.0] * len(sums))
        self.weights[document] = [a + b for a, b in zip(before, sums, strict=True)]
        self.windows[document] = self.windows.get(document, 0) + 1

    def _weights(self, batch: tuple, row: int) -> Any:
        if len(batch) > 2:
            return keras.tree.map_structure(lambda a: a[row], batch[2])
        return np.ones(keras.tree.flatten(batch[1])[0].shape[1:2], "float32")

    def add(self, document: int, y_pred: Any, batch: tuple, row: int) -> None:
        """Scores a window of a document, together with others of it."""
        y = keras.tree.map_structure(lambda a: a[row], batch[1])
        fed = -(-self.windows[document] // self.group) * self.group
        weights = self._weights(batch, row)
        scaled = [
            w * np.float32(fed * w.size / total) if total else w
            for w, total in zip(keras.tree.flatten(weights), self.weights[document], strict=True)
        ]
        weights = keras.tree.pack_sequence_as(weights, scaled)
        self.waiting.setdefault(document, []).append((y_pred, y, weights))
        self.seen[document] = self.seen.get(document, 0) + 1
        if len(self.waiting[document]) == self.group or self.seen[document] == self.windows[document]:
            self._score(document, self.waiting.pop(document))

    def results(self, documents: int) -> dict[str, np.ndarray]:
        """Every score of every document."""
        return {name: np.array([self.scores[d][name] for d in range(documents)]) for name in self.scores[0]}

    def _score(self, document: int, windows: list) -> None:
        missing = self.group - len(windows)  # always the same shape: compiled once
        y_pred, y, weight = (
            keras.tree.map_structure(lambda *a: np.stack(a + a[:1] * missing), *parts)
            for parts in zip(*windows, strict=True)
        )
        for w in keras.tree.flatten(weight):
            w[len(windows) :] = 0
        y_pred = keras.tree.flatten(y_pred)
        self.model.put_away = self.put_away.get(document, [])
        self.model.reset_metrics()
        scores = self.model.test_on_batch(
            y_pred if len(y_pred) > 1 else y_pred[0], y, sample_weight=weight, return_dict=True
        )
        self.put_away[document] = [
            np.array(keras.ops.convert_to_numpy(v)) for v in self.model.metrics_variables
        ]
        self.scores[document] = {name: float(value) for name, value in scores.items()}


class _Metrics(keras.Model):
    """Resets its metrics, which Keras does at each `test_on_batch`, to the values put away."""

    put_away: Sequence[np.ndarray] = ()

    def reset_metrics(self) -> None:
        super().reset_metrics()
        for variable, value in zip(self.metrics_variables, self.put_away, strict=False):
            variable.assign(value)


def _evaluate_one_by_one(model: keras.Model, documents: Any, sequence_length: int, layout: dict) -> dict:
    twin = twin_with_resets(model, 1)
    twin.compile(**_fresh_compile_arguments(model))
    rows = []
    for d in range(_count(documents)):
        own = {k: _only(v, d) if k in ("targets", "sample_weight") else v for k, v in layout.items()}
        sequence = _sequence(_only(documents, d), 1, sequence_length, own)
        rows.append(twin.evaluate(sequence, verbose=0, return_dict=True))
    return {name: np.array([r[name] for r in rows]) for name in rows[0]}


def _only(value: Any, document: int) -> Any:
    """What belongs to one document, of a list, an array with a value for each, or a dict of these."""
    if isinstance(value, dict):
        return {k: _only(v, document) for k, v in value.items()}
    return value if value is None or isinstance(value, str) else [value[document]]


def _fresh_compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Loss and metrics of a compiled model, with metric objects of their own; no optimizer."""
    if not model.compiled:
        raise ValueError(
            f"The model must be compiled, for its loss and metrics. Received: {model.name!r}, not compiled. Call "
            "`model.compile(loss=..., weighted_metrics=[...])` first."
        )
    arguments = compat.compile_arguments(model)
    kept = ("loss", "loss_weights", "metrics", "weighted_metrics")
    return {k: _cloned(arguments[k]) for k in kept if arguments.get(k) is not None}


def _cloned(value: Any) -> Any:
    if isinstance(value, keras.metrics.Metric):
        return type(value).from_config(value.get_config())
    if isinstance(value, (list, tuple)):
        return [_cloned(v) for v in value]
    if isinstance(value, dict):
        return {k: _cloned(v) for k, v in value.items()}
    return value


def _joined(metrics: Any, weighted: Any) -> Any:
    """Unweighted metrics count padding; so all are taken with weights."""
    if not metrics or not weighted:
        return metrics or weighted or None
    if isinstance(metrics, dict):
        return {k: [*_listed(metrics.get(k)), *_listed(weighted.get(k))] for k in {*metrics, *weighted}}
    if any(isinstance(m, (list, tuple)) for m in metrics):
        return [[*_listed(a), *_listed(b)] for a, b in zip(metrics, weighted, strict=True)]
    return [*_listed(metrics), *_listed(weighted)]


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
