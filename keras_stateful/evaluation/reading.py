"""Whole documents as windows: read side by side by a twin of the model, from first step to last.

The twin shares the model's variables and has states of its own at a batch size of its own, so
nothing has to be cut to fit the training batch, and neither the model's state nor its metrics are
touched.

Documents a (5 time steps), b (2) and c (4) in windows of 2 steps, where -- is padding:

    row 0   | a0 a1 | a2 a3 | a4 -- |
    row 1   | b0 b1 | c0 c1 | c2 c3 |
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_stateful.carry.graph import RESETS
from keras_stateful.carry.states import sync
from keras_stateful.data.burn_in import Start
from keras_stateful.data.inputs import KnownAhead, StaticInputs
from keras_stateful.data.kinds import holds_documents, refuse_groups
from keras_stateful.data.sequence import Span, StatefulSequence
from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.evaluation import kept_twins
from keras_stateful.foundation import devices
from keras_stateful.foundation.progress import ProgressBar, Verbose
from keras_stateful.foundation.protocols import is_sequence
from keras_stateful.foundation.types import Structure
from keras_stateful.training.as_trained import offset_as_trained, read_as_trained
from keras_stateful.training.check_inputs import check_ids, check_inputs
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.model_memory import trained_on
from keras_stateful.training.static_inputs import hand_static

_SIDE_BY_SIDE = 32  # documents, where no batch size is given


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Arguments of `StatefulSequence` that say what each document is scored on."""

    targets: Structure = None
    target_offset: int | Sequence[int] | None = None
    label_at: str = "every"
    sample_weight: Structure = None
    burn_in: int | Sequence[int] = 0
    start: Any = None
    encode: Callable | None = None
    known_ahead: KnownAhead = None
    static: StaticInputs = None

    # What else can be done with a model that has one output for each window.
    at_ends: ClassVar[str] = (
        'To score what a model gives at the end of each window, pass `label_at="window"` and the '
        "`sequence_length` of its training."
    )

    def sequence(self, documents: Structure, rows: int, sequence_length: int) -> StatefulSequence:
        """The documents as a sequence; rows without one are no waste here, so nothing is said."""
        arguments = dict(vars(self))
        start = arguments.pop("start")
        if start is not None:  # what is read in front of it is burnt in
            if np.any(self.burn_in):
                raise ValueError(
                    "`start` and `burn_in` both say from which step on a document counts. "
                    f"Received: start={start!r}, burn_in={self.burn_in!r}. Leave one out."
                )
            arguments["burn_in"] = Start(start, documents, self.encode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return _Documents(documents, rows, sequence_length, resets=True, **arguments)


@dataclass(frozen=True, kw_only=True)
class Unscored(Layout):
    """What documents are read with that are predicted only: labels that nobody uses."""

    at_ends = (
        "A network made so takes the weights of this one: "
        "`network.set_weights(ks.to_stateless(model).get_weights())`."
    )


class _Documents(StatefulSequence):
    """Documents as a sequence, whose errors name the argument that they came in."""

    _argument = "documents"


def count_documents(documents: Structure) -> int:
    """How many documents there are; of several inputs, as the first says.

    Raises:
        TypeError: a sequence; an iterator or generator, which does not say.
        ValueError: one array, which a sequence would read as one continuous text.
    """
    if is_sequence(documents):
        raise TypeError(
            "`documents` must be the documents themselves. Received: a "
            f"{type(documents).__name__}. Pass the list of arrays that it was made of."
        )
    # A dict holds the documents of each input, and each of these may be one array by mistake.
    columns = list(documents.values()) if isinstance(documents, dict) else [documents]
    for column in columns:
        refuse_groups("documents", column)
        if hasattr(column, "ndim") and not holds_documents(column):
            raise ValueError(
                "`documents` must be a sequence of arrays, one for each document. Received: one "
                f"array of shape {tuple(column.shape)}. For one document pass `[x]`, for many of "
                "equal length `list(x)`."
            )
    column = next(iter(columns), ())
    if not hasattr(column, "__len__"):
        raise TypeError(
            "`documents` must be a sequence of arrays, one for each document. Received: "
            f"{type(column).__name__}. Pass a list; `list(documents)` reads an iterator or "
            "generator."
        )
    return len(column)


class Window(NamedTuple):
    """Consecutive time steps of one document, in one row of a batch.

    Attributes:
        span: document, first time step and number of real steps.
        row: of the batch.
        batch: `(x, y)` or `(x, y, sample_weight)`.
        masks: of the batch, for each output; None where the model masks nothing.
    """

    span: Span
    row: int
    batch: tuple
    masks: Structure = None

    @property
    def targets(self) -> Structure:
        """`(time, ...)` for each output, or `(...)` at the window's end."""
        return keras.tree.map_structure(lambda a: a[self.row], self.batch[1])

    @property
    def weights(self) -> Structure:
        """`(time,)` for each output, or `()`: 0 where padded or masked, ones where nothing is."""
        of_batch = self.batch[2] if len(self.batch) > 2 else self._ones
        of_row = keras.tree.map_structure(lambda a: a[self.row], of_batch)
        if self.masks is None:
            return of_row
        return keras.tree.map_structure(self._masked, of_row, self.masks)

    @property
    def _ones(self) -> Structure:
        """Weights of a batch that has none, in the structure of its targets."""
        return keras.tree.map_structure(lambda a: np.ones(a.shape[:2], "float32"), self.batch[1])

    def _masked(self, weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Weights `(time,)`, or with a horizon `(time, 1)`, under the mask of a batch."""
        return weights * mask[self.row].reshape(-1, *[1] * (weights.ndim - 1))


class Reading(NamedTuple):
    """A batch that was read.

    Attributes:
        x: its inputs, with the resets among them.
        batch: `(x, y)` or `(x, y, sample_weight)`, as the sequence gave it.
        masks: for each output; None where the model masks nothing.
        spans: of each row, one at most.
    """

    x: Structure
    batch: tuple
    masks: Structure
    spans: list[list[Span]]


class Visitor:
    """Something that is done around the reading of each batch; by default nothing."""

    def begin(self, x: Structure, spans: list[list[Span]]) -> Structure:
        """Takes the inputs of the batch that is read next; gives what the twin is to read."""
        return x

    def end(self, reading: Reading) -> None:
        """Takes the batch that the twin has just read."""


class ResetEach(Visitor):
    """Has each window start from the initial state."""

    def begin(self, x: Structure, spans: list[list[Span]]) -> Structure:
        return with_resets(inputs_of(x), np.ones(len(spans), bool))


def inputs_of(x: Structure) -> dict[str | None, np.ndarray]:
    """The inputs of a batch by their names, without the resets; see `batch.assemble`."""
    return {k: a for k, a in x.items() if k != RESETS} if isinstance(x, dict) else {None: x[0]}


def with_resets(inputs: dict, resets: np.ndarray) -> Structure:
    """The same inputs with resets, bool `(rows,)`."""
    return (inputs[None], resets) if None in inputs else {**inputs, RESETS: resets}


class DocumentReader:
    """Reads documents through a twin of the model, window by window.

    As a context manager it leaves the twin to later readers of the model; else it keeps it.

    Args:
        model: a model that `to_stateful` accepts, converted or not.
        documents: a sequence of arrays, one for each document.
        batch_size: documents read side by side; None for up to 32.
        sequence_length: time steps of a window.
        layout: what they are scored on; inputs that the model knows to be known ahead need no
            mention, and neither do the offsets of targets in the corpus.
        known: what the model remembers of its training; by default what it remembers now.

    Attributes:
        count: how many documents there are.
        sequence: the documents as windows.
        twin: the model that reads them.

    Raises:
        TypeError, ValueError: documents or a model that cannot be read so, with the remedy.
    """

    def __init__(
        self,
        model: keras.Model,
        documents: Structure,
        batch_size: int | None,
        sequence_length: int,
        layout: Layout,
        known: TrainedOn | None = None,
    ):
        self.count = count_documents(documents)
        if batch_size is None:  # no rows that would stand idle, and as many as the devices need
            batch_size = devices.whole_rows(max(1, min(_SIDE_BY_SIDE, self.count)))
        known = trained_on(model) if known is None else known
        ahead = layout.known_ahead
        if ahead is None:
            keys = _keys(documents) if layout.encode is None else None
            ahead = {k: v for k, v in known.known_ahead.items() if keys is None or k in keys}
        targets = None if layout.targets is documents else layout.targets
        offset = offset_as_trained(known, targets, layout.target_offset)
        layout = replace(layout, known_ahead=ahead, target_offset=offset)
        self.sequence = layout.sequence(documents, batch_size, sequence_length)
        self._model, self._rows = model, self.sequence.batch_size  # an int, whatever was passed
        sync(model)  # which a callback may read with, in the middle of a `fit`
        self._twin = kept_twins.take(model, self._rows)
        self.twin = self._twin.model
        facts = facts_of(self.twin)
        if not all(facts.along_time) and not (facts.at_ends and layout.label_at == "window"):
            raise ValueError(
                "Whole documents are read window by window and need an output at every time step. "
                f"Received: model outputs of shape {[tuple(o.shape) for o in model.outputs]}. Give "
                "the last recurrent layer `return_sequences=True`; `predict_documents(..., "
                f"reduce='last')` then takes the last. {layout.at_ends}"
            )
        self.sequence.give_targets(at_ends=facts.at_ends)
        read_as_trained("documents", self.sequence, known)
        hand_static(self.twin, self.sequence)
        check_inputs(self.twin, "documents", self.sequence)
        check_ids(self.twin, self.sequence)

    def __enter__(self) -> "DocumentReader":
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the twin to the next reader of the model; after an error it is not used again."""
        if error[0] is None:
            kept_twins.put_back(self._model, self._rows, self._twin)

    def starts(self) -> np.ndarray:
        """The first step of each document that counts, `(documents,)`."""
        return np.broadcast_to(self.sequence.burn_in, self.count)

    def steps_of_documents(self) -> np.ndarray:
        """How many time steps of each document are read; none is read for it."""
        steps = np.zeros(self.count, int)
        for i in range(len(self.sequence)):
            for spans in self.sequence.locate(i):
                for span in spans:
                    steps[span.document] += span.steps
        return steps

    def outputs(
        self, visitors: Sequence[Visitor] = (), verbose: Verbose = 0
    ) -> Iterator[tuple[Window, Structure]]:
        """All windows with the model's outputs `(time, ...)` (or `(...)`), padding included.

        Args:
            visitors: what stands around the reading of each batch.
            verbose: as for `evaluate_documents`.
        """
        with ProgressBar(verbose, len(self.sequence)) as shown:
            for i in range(len(self.sequence)):
                yield from self._outputs_of_batch(i, visitors)
                shown.advance()

    def _outputs_of_batch(
        self, i: int, visitors: Sequence[Visitor]
    ) -> Iterator[tuple[Window, Structure]]:
        """As `outputs`, of one batch."""
        batch, located = self.sequence[i], self.sequence.locate(i)
        x = batch[0]
        for visitor in visitors:
            x = visitor.begin(x, located)
        # One batch after the other: the twin's state goes on from each to the next, and the
        # resets among the inputs start a document from the initial state.
        y_pred, masks = self._twin.read(x)
        for visitor in visitors:
            visitor.end(Reading(x, batch, masks, located))
        for row, spans in enumerate(located):
            outputs = keras.tree.map_structure(lambda o, row=row: o[row], y_pred)
            for span in spans:
                yield Window(span, row, batch, masks), outputs


def _keys(documents: Structure) -> Collection[str] | None:
    """The names of the documents' inputs; None where they are known when documents are read."""
    if isinstance(documents, dict):
        return documents.keys()
    if isinstance(documents, (list, tuple)) and documents:
        return documents[0].keys() if isinstance(documents[0], dict) else ()
    return None
