"""`evaluate_documents` and `predict_documents`: metrics and outputs of whole documents."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.data.inputs import KnownAhead, StaticInputs
from keras_stateful.evaluation.document_states import DocumentStates
from keras_stateful.evaluation.dynamic import DynamicEvaluation
from keras_stateful.evaluation.groups import ByDocument, ByPosition, Pooled
from keras_stateful.evaluation.reading import (
    DocumentReader,
    Layout,
    ResetEach,
    Unscored,
    Visitor,
    count_documents,
)
from keras_stateful.evaluation.scoring import Scorer
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import one_of, true_or_false, whole_number
from keras_stateful.foundation.progress import Verbose, read_verbose
from keras_stateful.foundation.types import Structure
from keras_stateful.training.as_trained import as_remembered
from keras_stateful.training.check_targets import check_scored, check_targets
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.model_memory import trained_on
from keras_stateful.training.static_inputs import taken_once


def evaluate_documents(
    model: keras.Model,
    documents: Structure,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    targets: Structure = None,
    target_offset: int | Sequence[int] | None = None,
    label_at: str = "every",
    sample_weight: Structure = None,
    burn_in: int | Sequence[int] = 0,
    start: Any = None,
    encode: Callable | None = None,
    known_ahead: KnownAhead = None,
    static: StaticInputs = None,
    pooled: bool = False,
    by: str | None = None,
    reset_every: int | None = None,
    dynamic: float | keras.optimizers.Optimizer | None = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray] | dict[str, float]:
    """The compiled loss and metrics of each document, read from its first step to its last.

    Args:
        model: a compiled model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        targets, target_offset, label_at, sample_weight, burn_in, encode: as for `StatefulSequence`.
            Where the targets are an input of the model, a `target_offset` of None is that of its
            training; others may be shifted, and have to say it where the training's was above 0.
        start: the first time step of each document that counts; what stands before it is read. An
            int, or a fraction of each document's length; where documents are frames with a time
            index, also a time in it; or a list with one of these for each document. So a
            validation goes on from what a training has read. It says which steps of the input
            count, as weights do.
        known_ahead, static: likewise. A model remembers which inputs were known ahead when it was
            trained on a sequence; None reads them as far ahead.
        pooled: True for one result over the steps of all documents together, as `val_*` of
            `ValidateDocuments`. Take it for metrics that are no means over steps, as AUC, recall
            and precision: a document without a positive step has none, for which Keras gives 0,
            and the mean over documents is not that over all.
        by: "position" for a result by the time steps since a document's start, of all documents
            together, in bins that each are twice as long as the last: does the network hold on a
            stream that goes on for long after the windows that it was trained on? `plot_positions`
            draws it.
        reset_every: time steps after which the state starts anew, for example those of a training
            window: what carrying it is worth. Windows are of that length.
        dynamic: a learning rate or an optimizer, with which the model learns while it reads, from
            each window of `sequence_length` steps after it was scored on it (dynamic evaluation).
            Each document begins with the trained weights, which are put back afterwards; documents
            are read one by one. Steps that do not count are not learned from.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end; "auto" for 1 in a
            terminal or notebook, and 2 where output goes to a file. A step is a call of the model.

    Returns:
        `{"loss": (documents,), metric: (documents,), ...}`: means over each document's own time
        steps (weighted means, where `sample_weight` is given; masked steps do not count). NaN for a
        document of which no step is scored, and where the model gives NaN, as one does that a
        large `dynamic` has diverge. With `pooled` `{"loss": float, ...}`. With
        `by="position"` `{"position": (bins,), "steps": (bins,), "loss": (bins,), ...}`: the first
        position of each bin (0, 1, 2, 4, 8, ...) and how many steps in it count. Regularization
        penalties are not part of the loss.

    Raises:
        ValueError: a model that is not compiled, or has an output per window instead of per time
            step; documents that `StatefulSequence` refuses.
        TypeError: a sequence or generator in place of the documents.

    Source: of dynamic evaluation, Krause et al. 2017 (arXiv:1709.07432).

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.GRU(8, return_sequences=True),
        keras.layers.Dense(9, activation="softmax"),
    ])
    model.compile(loss="sparse_categorical_crossentropy")
    scores = ks.evaluate_documents(model, [np.arange(40) % 9, np.arange(300) % 9])
    assert scores["loss"].shape == (2,)

    curve = ks.evaluate_documents(model, [np.arange(300) % 9], by="position")
    assert curve["position"].tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    ```
    """
    verbose = read_verbose(verbose)
    if by is not None:
        one_of("by", by, ("position",), "Leave it out for a result for each document.")
        if pooled:
            raise ValueError(
                '`by="position"` and `pooled=True` are two ways to take documents together. '
                "Received: both. Leave one of them out."
            )
    if reset_every is not None:
        sequence_length = whole_number("reset_every", reset_every, 1, unit="time steps")
    if dynamic is not None and batch_size is None:
        batch_size = 1
    layout = Layout(
        targets=targets,
        target_offset=target_offset,
        label_at=label_at,
        sample_weight=sample_weight,
        burn_in=burn_in,
        start=start,
        encode=encode,
        known_ahead=known_ahead,
        static=static,
    )
    reader = DocumentReader(model, documents, batch_size, sequence_length, layout)
    check_scored(model, reader.sequence, "documents")
    classes = check_targets(model, "documents", reader.sequence, weighted=True)
    reader.sequence.check_classes(classes)
    if by is not None and facts_of(reader.twin).at_ends:
        raise ValueError(
            '`by="position"` needs an output at every time step. Received: a model with one for '
            "each window. Give its last recurrent layer `return_sequences=True`, or leave `by` out."
        )
    kind = ByPosition if by else Pooled if pooled else ByDocument
    groups = kind(reader.steps_of_documents(), sequence_length)
    scorer = Scorer(model, sequence_length, groups.windows())
    visitors: list[Visitor] = [] if reset_every is None else [ResetEach()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(reader)
        if dynamic is not None:
            learning = DynamicEvaluation(model, reader.twin, dynamic)
            visitors.append(stack.enter_context(learning.undone()))
        for window, outputs in reader.outputs(visitors, verbose):
            for group, weights in groups.split(window):
                scorer.add(group, outputs, window.targets, weights)
    return groups.results(scorer.results())


def predict_documents(
    model: keras.Model,
    documents: Structure,
    *,
    batch_size: int | None = None,
    sequence_length: int = 128,
    reduce: str | None = None,
    start: Any = None,
    states: dict[str, list[ArrayLike]] | None = None,
    return_states: bool = False,
    encode: Callable | None = None,
    known_ahead: KnownAhead = None,
    static: StaticInputs = None,
    verbose: Verbose = "auto",
) -> Structure:
    """The model's outputs for each document, read from its first step to its last.

    What was read once need not be read again: the states that one call returns, another goes on
    from, also after a restart (`save_states`, `load_states`).

    Args:
        model: a model that `to_stateful` accepts, converted or not. It is left as it was.
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call; it changes the speed, not the result.
        reduce: None for the output at every step; "last" for that at the last; "mean" for their
            mean.
        start: the first time step of each document that is returned, as for `evaluate_documents`.
        states: what each document goes on from, in place of the initial states:
            `{layer: [array (documents, ...), ...]}`, as `return_states` gives them, in the order of
            the documents.
        return_states: True for the states behind the last step of each document as well.
        encode: as for `StatefulSequence`.
        known_ahead: how many time steps ahead each known-ahead input is read, `{key: offset}`.
            None, or a list of keys, for what the model remembers of its training on a sequence.
        static: as for `StatefulSequence`.
        verbose: as for `evaluate_documents`.

    Returns:
        One array `(timesteps, ...)` for each document, in the given order, from its `start` on, up
        to its end or the last step whose known-ahead inputs it has; with `reduce` one
        `(...)`, stacked to `(documents, ...)`. For a model with several outputs a structure of
        these, as the model's output. With `return_states` a pair of this and the states, a dict as
        `get_states` gives it, with a row for each document. Their `steps`, `(documents,)`, are how
        many time steps were read of each since its beginning: what `states=` reads next are the
        documents from there on, in the same order. Nothing else says which documents those are.

    Raises:
        ValueError: an unknown `reduce`; a model with an output per window instead of per time step;
            documents that `StatefulSequence` refuses; states of other weights, layers or documents.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(8, return_sequences=True)])
    short, long = ks.predict_documents(model, [np.ones((5, 3)), np.ones((500, 3))])
    assert long.shape == (500, 8)

    _, states = ks.predict_documents(model, [np.ones((500, 3))], return_states=True)
    (on,) = ks.predict_documents(model, [np.ones((24, 3))], states=states)  # one more day
    ```
    """
    verbose = read_verbose(verbose)
    return_states = true_or_false("return_states", return_states)
    if reduce is not None:
        one_of("reduce", reduce, ("last", "mean"), "Leave it out for the output at every step.")
    # Labels that nobody uses: else the last step of a document would be a target only, and so would
    # one key of a dict.
    labels = np.zeros(count_documents(documents), "int32")
    ahead = as_remembered(trained_on(model), known_ahead)
    layout = Unscored(
        targets=labels,
        target_offset=0,
        encode=encode,
        start=start,
        known_ahead=ahead,
        static=static,
    )
    reader = DocumentReader(model, documents, batch_size, sequence_length, layout)
    collected = _REDUCTIONS[reduce](reader.count)
    carried = None
    if states is not None or return_states:
        lengths = reader.steps_of_documents()
        once = taken_once(reader.twin, reader.sequence.static_shapes)
        carried = DocumentStates(reader.twin, sequence_length, lengths, states, once)
    starts = reader.starts()
    with reader:
        for window, outputs in reader.outputs([] if carried is None else [carried], verbose):
            document, first, steps, _ = window.span
            # Behind the document's last step the outputs are those of padding.
            real = slice(max(0, int(starts[document]) - first), steps)
            collected.add(document, [o[real] for o in keras.tree.flatten(outputs)])
        result = _as_output(model, [collected.of_output(k) for k in range(len(model.outputs))])
        return (result, carried.last()) if return_states and carried is not None else result


def _as_output(model: keras.Model, columns: list) -> Structure:
    """What was collected for each output, in the structure of the model's output."""
    structure = keras_internals.functional(model).output
    if isinstance(structure, dict):  # whose outputs Keras has in the order of its sorted keys
        return dict(zip(sorted(structure), columns, strict=True))
    return columns[0] if len(columns) == 1 else columns


class _EveryStep:
    """Collects outputs `(timesteps, ...)` of each document.

    Outputs are views of a whole batch, so what is kept of them is copied.
    """

    def __init__(self, documents: int):
        self.parts: list[list[list[np.ndarray]]] = [[] for _ in range(documents)]

    def add(self, document: int, outputs: list[np.ndarray]) -> None:
        """Takes the next window's outputs `(time, ...)`, one for each output of the model."""
        self.parts[document].append([np.array(o) for o in outputs])

    def of_output(self, k: int) -> list[np.ndarray]:
        """Output `k` of all documents."""
        return [np.concatenate([part[k] for part in parts]) for parts in self.parts]


class _LastStep:
    """Keeps the output `(...)` at the last step of each document."""

    def __init__(self, documents: int):
        self.last: list[list[np.ndarray]] = [[] for _ in range(documents)]

    def add(self, document: int, outputs: list[np.ndarray]) -> None:
        # NaN where nothing is returned, as where `start` is the end of the document.
        self.last[document] = [
            np.array(o[-1]) if len(o) else np.full(o.shape[1:], np.nan, o.dtype) for o in outputs
        ]

    def of_output(self, k: int) -> np.ndarray:
        return np.stack([last[k] for last in self.last])


class _MeanOfSteps:
    """Takes the mean of the outputs over the steps of each document, in float64."""

    def __init__(self, documents: int):
        self.sums: list[list[np.ndarray]] = [[] for _ in range(documents)]
        self.steps = np.zeros(documents)

    def add(self, document: int, outputs: list[np.ndarray]) -> None:
        # In float32 a long document would lose its last steps.
        sums = [np.array(o, "float64").sum(axis=0) for o in outputs]
        before = self.sums[document] or [np.zeros(())] * len(sums)
        self.sums[document] = [b + s for b, s in zip(before, sums, strict=True)]
        self.steps[document] += len(outputs[0])

    def of_output(self, k: int) -> np.ndarray:
        pairs = zip(self.sums, self.steps, strict=True)
        with np.errstate(invalid="ignore"):  # 0 / 0, NaN where nothing is returned
            return np.stack([(sums[k] / steps).astype("float32") for sums, steps in pairs])


_REDUCTIONS: dict[str | None, type[_EveryStep | _LastStep | _MeanOfSteps]] = {
    None: _EveryStep,
    "last": _LastStep,
    "mean": _MeanOfSteps,
}
