"""Batches that are read together, and documents that are dealt together, are those read alone."""

import copy
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence
from keras_stateful.data import dealing, slices

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning"),
]


def cut(lengths, shape=(), dtype="int64"):
    """Documents cut from one array, each value another."""
    total = sum(lengths) * int(np.prod(shape))
    steps = np.arange(1, total + 1, dtype=dtype).reshape(-1, *shape)
    return np.split(steps, np.cumsum(lengths)[:-1])


class Source:
    """Documents that are read when asked for."""

    def __init__(self, documents):
        self.documents, self.lengths = documents, [len(document) for document in documents]

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, i):
        return self.documents[i]


KINDS = {
    "cut from one array": lambda documents: documents,
    "arrays of their own": lambda documents: [d.copy() for d in documents],
    "read when asked for": Source,
    "some twice, and in another order": lambda documents: documents[::-1] + documents[:1],
}


@st.composite
def sequences(draw):
    boundary = draw(st.sampled_from(["align", "pack", "ignore"]))
    lengths = draw(st.lists(st.integers(2, 70), min_size=1, max_size=12))
    window = draw(st.integers(1, 9))
    documents = cut(lengths, *draw(st.sampled_from([((), "int64"), ((3,), "float32")])))
    return (
        KINDS[draw(st.sampled_from([*KINDS]))](documents),
        draw(st.integers(1, 5)) if boundary != "ignore" else 1,
        window if boundary != "ignore" else 1,
        {
            "boundary": boundary,
            "stride": draw(st.none() | st.integers(1, window)) if boundary != "ignore" else None,
            "max_document_length": draw(st.sampled_from([None, window, 2 * window]))
            if boundary != "ignore"
            else None,
            "shuffle": draw(st.booleans()),
            "seed": 1,
            "resets": True,
        },
    )


def same(one, other):
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=200)
@given(sequences(), st.randoms())
def test_however_batches_are_asked_for_they_are_the_same(arguments, random):
    documents, rows, window, options = arguments
    sequence = StatefulSequence(documents, rows, window, **options)
    backwards = range(len(sequence) - 1, -1, -1)  # no batch follows the last one asked for
    alone = {i: copy.deepcopy(sequence[i]) for i in backwards}
    for i in range(len(sequence)):
        batch = sequence[i]
        same(batch, alone[i])
        for array in keras.tree.flatten(batch):  # they are the reader's own
            array[...] = 0
    for _ in range(20):
        i = random.randrange(len(sequence))
        for k in range(i, min(i + random.randint(1, 3), len(sequence))):
            same(sequence[k], alone[k])
    for i, batch in enumerate(sequence):
        same(batch, alone[i])


def test_what_is_read_ahead_is_of_the_epoch_and_for_the_model_that_asks():
    def made():
        documents = [{"x": d} for d in cut([40, 30, 50, 20])]
        static = {"kind": np.arange(4)}
        return StatefulSequence(
            documents, 2, 4, targets="x", target_offset=1, shuffle=True, seed=1, static=static
        )

    sequence, fresh = made(), made()
    for i in range(3):
        sequence[i]
    sequence.epoch = fresh.epoch = 1
    same(sequence[3], fresh[3])
    sequence[4]
    for each in (sequence, fresh):
        each.give_targets(at_ends=True)
    same(sequence[5], fresh[5])
    sequence[6]
    for each in (sequence, fresh):
        each.hand_once(frozenset({"kind"}))
    same(sequence[7], fresh[7])
    assert sequence[8][0]["kind"].shape == (2,)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_goes_on_with_what_was_read_ahead(again):
    sequence = StatefulSequence(cut([40, 30, 50, 20]), 2, 4)
    sequence[0], sequence[1]
    other = again(sequence)
    same(other[2], sequence[2])
    same(other[3], sequence[3])


def test_a_reading_that_was_interrupted_leaves_nothing_behind(monkeypatch):
    sequence = StatefulSequence(cut([40, 30, 50, 20]), 2, 4)
    expected, _, read = sequence[2], sequence[0], sequence._windows.read

    def interrupted(*batches):
        yield next(read(*batches))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sequence._windows, "read", interrupted)
        sequence[1]
    same(sequence[2], expected)


def one_by_one(sizes, order, rows):
    load, taken = np.zeros(rows, "int64"), np.empty(len(sizes), "int64")
    for piece in order:
        taken[piece] = load.argmin()  # the first of several
        load[taken[piece]] += sizes[piece]
    return taken


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 900]), min_size=1, max_size=60),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from([0, 1000]),
)
def test_pieces_go_to_the_row_with_the_least_also_where_many_are_alike(sizes, rows, sort, alike):
    sizes = np.array(sizes)
    order = np.argsort(-sizes, kind="stable") if sort else np.arange(len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "_ALIKE", alike)
        dealt = dealing.greedy(sizes, order, rows)
    assert dealt.tolist() == one_by_one(sizes, order, rows).tolist()


@settings(max_examples=100)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.permutations(range(12)),
    st.sampled_from([(), (2,)]),
)
def test_very_many_documents_are_read_where_they_lie(lengths, many, order, shape):
    documents = [d % 3 for d in cut(lengths, shape)]
    parts = np.split(np.concatenate(documents), np.cumsum(lengths)[:-1])
    listed = [i for i in order if i < len(parts)]
    for chosen in (range(len(parts)), listed, listed[1:] or listed):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slices, "_MANY", many)
            quick = StatefulSequence([parts[i] for i in chosen], 1, 3, boundary="pack")
        whole = StatefulSequence([parts[i].copy() for i in chosen], 1, 3, boundary="pack")
        for batch, other in zip(quick, whole, strict=True):
            same(batch, other)
