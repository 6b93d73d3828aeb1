"""Loss and metrics of each of many documents that are read side by side.

Keras keeps one value of each metric, and the rows of a batch hold different documents. So outputs
are scored apart from the model that gave them, document by document, and the variables of the
metrics are put away and taken out again with the document.

    windows:   a0 b0 c0 | a1 b1 c1 | a2 ..        as they are read
    scored:    a0 a1 .. a15 | b0 b1 .. b15 | ..   in groups of one document's
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_stateful.evaluation.compiled import fresh_compile_arguments
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.step_scores import ScoresByStep, score_by_step

_WAITING_BYTES = 4 << 20  # of outputs that wait to be scored, for each document being read
_GROUP = 16  # windows scored together, at most


class _Scored(NamedTuple):
    """A window as it is scored, each part with the structure of the outputs."""

    outputs: Structure  # (time, ...)
    targets: Structure  # (time, ...)
    weights: Structure  # (time,)


@dataclass
class _Document:
    """What is known of one document while it is scored.

    Attributes:
        windows: how many there are still to come.
        waiting: windows that were read and not scored.
        counts: True once a step had a weight.
        metrics: values of the metrics' variables after the windows scored.
        scores: loss and metrics after the windows scored.
    """

    windows: int
    waiting: list[_Scored] = field(default_factory=list)
    counts: bool = False
    metrics: list[np.ndarray] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Scores documents window by window.

    Args:
        model: a compiled model; its loss and metrics score.
        sequence_length: time steps of a window.
        windows: how many each document has.
    """

    def __init__(self, model: keras.Model, sequence_length: int, windows: np.ndarray):
        self._model = _scoring_model(model)
        # Windows of a document are scored together: a call costs more than what it computes. They
        # are as many as `_WAITING_BYTES` hold of the largest output, in float32.
        values = max(int(np.prod([d or 1 for d in o.shape[2:]])) for o in model.outputs)
        window_bytes = 4 * values * sequence_length
        self._group = max(1, min(_GROUP, _WAITING_BYTES // window_bytes))
        self._documents = [_Document(count) for count in windows.tolist()]

    def add(
        self, document: int, outputs: Structure, targets: Structure, weights: Structure
    ) -> None:
        """Scores the next window of a document, together with others of it.

        Args:
            document: its index; or that of whatever is scored as one.
            outputs: the model's, `(time, ...)`.
            targets: `(time, ...)` for each output.
            weights: `(time,)` for each output.
        """
        scored = _Scored(outputs, targets, weights)
        here = self._documents[document]
        here.waiting.append(scored)
        here.counts |= any(np.any(weights > 0) for weights in keras.tree.flatten(scored.weights))
        here.windows -= 1
        if len(here.waiting) == self._group or not here.windows:
            self._score(here)
            here.waiting = []

    def results(self) -> dict[str, np.ndarray]:
        """Every score, `(documents,)`, by name; NaN for a document of which no step counts."""
        names = self._documents[0].scores
        return {
            name: np.array([d.scores[name] if d.counts else np.nan for d in self._documents])
            for name in names
        }

    def _score(self, document: _Document) -> None:
        """Feeds the waiting windows to the metrics, which go on from where the document stood."""
        # Filled up with copies of weight 0: a group has always the same shape, compiled once.
        real = len(document.waiting)
        filling = self._group - real
        outputs, targets, weights = (
            keras.tree.map_structure(lambda *a: np.stack(a + a[:1] * filling), *parts)
            for parts in zip(*document.waiting, strict=True)
        )
        for array in keras.tree.flatten(weights):
            array[real:] = 0  # in place: `np.stack` has made a copy
        inputs = keras.tree.flatten(outputs)
        # A reset puts the document's own values back; `test_on_batch` begins with one more.
        self._model.put_away = document.metrics
        self._model.reset_metrics()
        self._model.test_on_batch(
            inputs if len(inputs) > 1 else inputs[0], targets, sample_weight=weights
        )
        document.metrics = [
            np.array(keras.ops.convert_to_numpy(v)) for v in self._model.metrics_variables
        ]
        scores = self._model.get_metrics_result()  # of all batches, not of the last
        document.scores = {name: float(value) for name, value in scores.items()}


class _Metrics(ScoresByStep, keras.Model):
    """Resets its metrics, as Keras does at each `test_on_batch`, to the values put away."""

    put_away: Sequence[np.ndarray] = ()

    def reset_metrics(self) -> None:
        super().reset_metrics()
        # Not strict: a document that begins has none, and metrics have no variables before the
        # first call.
        for variable, value in zip(self.metrics_variables, self.put_away, strict=False):
            variable.assign(value)


def _scoring_model(model: keras.Model) -> _Metrics:
    """A model of nothing but loss and metrics: its inputs are the outputs of another."""
    graph = keras_internals.functional(model)
    time = () if facts_of(model).at_ends else (None,)
    inputs = [keras.Input((*time, *o.shape[1 + len(time) :]), dtype=o.dtype) for o in model.outputs]
    outputs = [
        # Named as the other's outputs, since losses and metrics go by those names.
        keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor)
        for name, tensor in zip(graph.output_names, inputs, strict=True)
    ]
    scoring = _Metrics(
        inputs if len(inputs) > 1 else inputs[0],  # fed with one array, a list makes Keras warn
        keras.tree.pack_sequence_as(graph.output, outputs),
        name="scorer",
    )
    arguments = fresh_compile_arguments(model)
    # Keras gives `metrics` no weights, and they would count padding: so all are weighted here.
    metrics, weighted = arguments.pop("metrics", None), arguments.get("weighted_metrics")
    arguments["weighted_metrics"] = _joined(metrics, weighted, _names_of_outputs(graph))
    scoring.compile(**arguments)
    score_by_step(scoring)
    return scoring


def _names_of_outputs(graph: keras.Model) -> list[str]:
    """The outputs by the names and in the order in which Keras reads arguments of `compile`."""
    keys = sorted(graph.output) if isinstance(graph.output, dict) else graph.output_names
    return graph.output_names if set(keys) == set(graph.output_names) else keys


def _joined(metrics: Structure, weighted: Structure, outputs: list[str]) -> Structure:
    """Two arguments of metrics as one: each a dict, or a list with a part for each output."""
    if not metrics or not weighted:
        return metrics or weighted or None
    if len(outputs) == 1:
        return [m for m in keras.tree.flatten([metrics, weighted]) if m is not None]
    by_name = [
        part if isinstance(part, dict) else dict(zip(outputs, part, strict=True))
        for part in (metrics, weighted)
    ]
    return {name: [m for part in by_name for m in _listed(part.get(name))] for name in outputs}


def _listed(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
