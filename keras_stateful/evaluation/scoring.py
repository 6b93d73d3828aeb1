"""Loss and metrics of outputs that come from many documents side by side, for each document by
itself.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.rewrite import functions_of
from keras_stateful.conversion.convert import OF_THE_LOSS, check_methods
from keras_stateful.foundation import keras_internals

_BYTES_AT_ONCE = 4 << 20  # outputs that wait to be scored, for each document being read


class Scorer:
    """A model of nothing but the loss and the metrics, fed with outputs and targets, document by
    document.

    Rows hold different documents at a time, so the metrics' variables are put away and taken out
    again with the document. Weights are scaled so that the mean that Keras takes over everything it
    is fed is the mean over the document.
    """

    def __init__(self, model: keras.Model, sequence_length: int):
        arguments = fresh_compile_arguments(model)
        arguments["weighted_metrics"] = _joined(
            arguments.pop("metrics", None), arguments.get("weighted_metrics")
        )
        inputs = [keras.Input((None, *o.shape[2:]), dtype=o.dtype) for o in model.outputs]
        outputs = [
            keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor)
            for name, tensor in zip(
                keras_internals.functional(model).output_names, inputs, strict=True
            )
        ]
        self.model = _Metrics(
            inputs
            if len(inputs) > 1
            else inputs[0],  # a list of one, fed with an array, makes Keras warn
            keras.tree.pack_sequence_as(keras_internals.functional(model).output, outputs),
            name="scorer",
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
        if (
            len(self.waiting[document]) == self.group
            or self.seen[document] == self.windows[document]
        ):
            self._score(document, self.waiting.pop(document))

    def results(self, documents: int) -> dict[str, np.ndarray]:
        """Every score of every document."""
        return {
            name: np.array([self.scores[d][name] for d in range(documents)])
            for name in self.scores[0]
        }

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


def fresh_compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Loss and metrics of a compiled model, with metric objects of their own; no optimizer."""
    if not model.compiled:
        raise ValueError(
            f"The model must be compiled, for its loss and metrics. Received: {model.name!r}, not "
            "compiled. Call `model.compile(loss=..., weighted_metrics=[...])` first."
        )
    check_methods(model, "evaluate_documents", OF_THE_LOSS)
    arguments = keras_internals.compile_arguments(model)
    for loss in keras.tree.flatten(arguments.get("loss")):
        if getattr(loss, "reduction", None) in ("sum", "mean_with_sample_weight"):
            raise ValueError(
                "The loss of a document is the mean over its time steps. Received: "
                f"{type(loss).__name__} with reduction={loss.reduction!r}, whose value depends on "
                "how a document is cut. Compile the model with "
                'reduction="sum_over_batch_size", the default.'
            )
    kept = ("loss", "loss_weights", "metrics", "weighted_metrics")
    return {k: _cloned(arguments[k]) for k in kept if arguments.get(k) is not None}


def _cloned(value: Any) -> Any:
    if isinstance(value, keras.metrics.Metric):
        return _cloned_metric(value)
    if isinstance(value, (list, tuple)):
        return [_cloned(v) for v in value]
    if isinstance(value, dict):
        return {k: _cloned(v) for k, v in value.items()}
    return value


def _cloned_metric(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    """A metric of its own made from a metric's config, which must say all that it was made with."""
    try:
        with keras.saving.custom_object_scope(functions_of(metric)):
            clone = type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ValueError(
            f"The metric {metric.name!r} ({type(metric).__name__}) cannot be made anew from its "
            f"config: {error}. Give the class a `get_config` that returns every argument of its "
            "constructor, and a function a name (`def`) in place of a lambda; a function can be a "
            "metric itself: `weighted_metrics=[function]`."
        ) from error
    plain = (bool, int, float, str, type(None))
    lost = [
        name
        for name, value in vars(metric).items()
        if not name.startswith("_")
        and isinstance(value, plain)
        and vars(clone).get(name, value) != value
    ]
    if lost:
        raise ValueError(
            f"The metric {metric.name!r} ({type(metric).__name__}) is another when it is made anew "
            f"from its config. Received: {lost[0]}={getattr(metric, lost[0])!r}, made anew with "
            f"{getattr(clone, lost[0])!r}. Give the class a `get_config` that returns every "
            "argument of its constructor."
        )
    return clone


def _joined(metrics: Any, weighted: Any) -> Any:
    """Unweighted metrics count padding; so all are taken with weights."""
    if not metrics or not weighted:
        return metrics or weighted or None
    if isinstance(metrics, dict):
        return {
            k: [*_listed(metrics.get(k)), *_listed(weighted.get(k))] for k in {*metrics, *weighted}
        }
    if any(isinstance(m, (list, tuple)) for m in metrics):
        return [[*_listed(a), *_listed(b)] for a, b in zip(metrics, weighted, strict=True)]
    return [*_listed(metrics), *_listed(weighted)]


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
