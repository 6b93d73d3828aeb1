"""States of whole documents that are read side by side: given where each begins, kept at its end.

A window in which a document ends is padded, and padding changes a state; and the next document of
the row begins anew. So a document's state is kept behind its last whole window, and its last steps,
fewer than a window, are read once more behind all others, of many documents together:

    row 0   | a0 a1 a2 a3 | a4 a5 -- -- |         kept behind a3, then read: a4, a5
    row 1   | b0 b1 b2 -- | c0 c1 c2 c3 |         kept at the start: b0, b1, b2; behind c3: nothing

They are read in pieces of few lengths, since a compiled step is made for each. While some rows go
on, the others are put back to where they stood.
"""

from collections.abc import Iterator
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.carry.states import (
    check_states,
    find_states,
    fingerprint_of,
    read_states,
    sync,
    write_states,
)
from keras_stateful.data.sequence import Span
from keras_stateful.evaluation.reading import Reading, Visitor, inputs_of, with_resets
from keras_stateful.foundation.states import States, check_owner
from keras_stateful.foundation.types import Structure

_PIECES = 8  # one length of pieces is as many times the next
_States: TypeAlias = dict[str, list[np.ndarray]]


class DocumentStates(Visitor):
    """States at the beginnings and ends of documents, for a reader that goes from window to window.

    Args:
        twin: the model that reads them, with resets by window.
        window: time steps of a window.
        steps: time steps of each document.
        given: the states that documents go on from, `{layer: [array (documents, ...), ...]}`; None
            for the initial ones.
        once: the keys of inputs that have no time axis.

    Raises:
        TypeError, ValueError: given states of other layers, documents or weights.
    """

    def __init__(
        self,
        twin: keras.Model,
        window: int,
        steps: np.ndarray,
        given: dict[str, list[ArrayLike]] | None,
        once: frozenset[str] = frozenset(),
    ):
        self._twin, self._window = twin, window
        self._whole = steps // window * window  # time steps of each document in whole windows
        self._rest_steps = steps - self._whole
        self._read_steps: np.ndarray | None = steps  # since the documents' beginnings
        self._layers = find_states(twin)
        sync(twin)
        self._fingerprint = fingerprint_of(twin, self._layers)
        self._given: _States | None = None
        if given is not None:
            check_states(
                given,
                self._layers,
                len(steps),
                f"There must be a row for each document, here {len(steps)}, as `predict_documents("
                "..., return_states=True)` gives them.",
            )
            check_owner(given, self._fingerprint, f"{twin.name!r}")
            before = getattr(given, "steps", None)
            counted = before is not None and len(before) == len(steps)
            self._read_steps = before + steps if counted else None
            self._given = {
                key: [np.asarray(keras.ops.convert_to_numpy(a)) for a in arrays]
                for key, arrays in given.items()
            }
        self._kept: dict[int, _States] = {}  # of each document, behind what was read of it
        self._rests: dict[int, dict] = {}  # the inputs of its last steps
        self._once = once

    def begin(self, x: Structure, spans: list[list[Span]]) -> Structure:
        """Writes the given states into the rows in which documents begin."""
        inputs = inputs_of(x)
        for row, span in _each(spans):
            if span.steps < self._window:
                self._rests[span.document] = {
                    key: np.array(a[row] if key in self._once else a[row, : span.steps])
                    for key, a in inputs.items()
                }
        if self._given is None:
            return x
        opening = [(row, span.document) for row, span in _each(spans) if span.start == 0]
        if opening:
            rows, documents = np.array(opening).T
            self._write(_rows_of(self._given, documents), rows)
        return with_resets(inputs, np.zeros(len(spans), bool))

    def end(self, reading: Reading) -> None:
        """Keeps the states of documents of which the twin has just read the last whole window."""
        behind = [
            (row, span.document)
            for row, span in _each(reading.spans)
            if span.start + self._window == self._whole[span.document]
        ]
        if behind:
            rows, documents = np.array(behind).T
            self._keep(self._read(rows), documents)

    def last(self) -> States:
        """The states behind the last step of each document, `(documents, ...)`."""
        unread, rows = sorted(self._rests), self._twin.batch_size
        for k in range(0, len(unread), rows):
            documents = np.array(unread[k : k + rows])
            self._keep(self._read_rests(documents), documents)
        each = [self._kept[document] for document in range(len(self._whole))]
        joined = {
            key: [np.concatenate(a) for a in zip(*(kept[key] for kept in each), strict=True)]
            for key in each[0]
        }
        return States(joined, self._fingerprint, steps=self._read_steps)

    def _read_rests(self, documents: np.ndarray) -> _States:
        """The states behind the last steps of some documents, which the twin reads in its rows."""
        rests = [self._rests[d] for d in documents.tolist()]
        fresh = self._begin_rests(documents)
        left = np.zeros(len(fresh), int)
        left[: len(rests)] = self._rest_steps[documents]
        steps, done = _PIECES ** int(np.log(self._window) / np.log(_PIECES)), np.zeros_like(left)
        while left.any():
            going = left >= steps
            if not going.any():
                steps //= _PIECES
                continue
            standing = np.flatnonzero(~going)
            held = self._read(standing)
            inputs = {key: self._piece(key, rests, done, going, steps) for key in rests[0]}
            self._twin.predict_on_batch(with_resets(inputs, fresh & going))
            self._write(held, standing)
            fresh &= ~going
            done[going] += steps
            left[going] -= steps
        return self._read(np.arange(len(documents)))

    def _begin_rests(self, documents: np.ndarray) -> np.ndarray:
        """Puts documents back behind their last whole windows; gives the rows that begin anew."""
        fresh = np.ones(self._twin.batch_size, bool)
        for row, document in enumerate(documents.tolist()):
            states = self._kept.get(document)
            if states is None and self._given is not None:
                states = _rows_of(self._given, np.array([document]))
            if states is not None:
                self._write(states, np.array([row]))
                fresh[row] = False
        return fresh

    def _piece(
        self, key: str | None, rests: list, done: np.ndarray, going: np.ndarray, steps: int
    ) -> np.ndarray:
        """An input of the rows that go on, zeros in the others."""
        timed, like = key not in self._once, rests[0][key]
        shape = (steps, *like.shape[1:]) if timed else like.shape
        piece = np.zeros((len(going), *shape), like.dtype)
        for row in np.flatnonzero(going).tolist():
            values = rests[row][key]
            piece[row] = values[done[row] : done[row] + steps] if timed else values
        return piece

    # The twin's variables

    def _keep(self, states: _States, documents: np.ndarray) -> None:
        for k, document in enumerate(documents.tolist()):
            self._kept[document] = _rows_of(states, np.array([k]))

    def _read(self, rows: np.ndarray) -> _States:
        sync(self._twin)
        return read_states(self._layers, rows)

    def _write(self, states: _States, rows: np.ndarray) -> None:
        if len(rows):
            sync(self._twin)
            write_states(self._layers, states, rows)


def _each(spans: list[list[Span]]) -> Iterator[tuple[int, Span]]:
    """The rows that read something, and what."""
    return ((row, span) for row, of_row in enumerate(spans) for span in of_row)


def _rows_of(states: _States, rows: np.ndarray) -> _States:
    return {key: [array[rows] for array in arrays] for key, arrays in states.items()}
