"""Copies of a sequence: by `copy`, by `deepcopy`, through a pickle."""

import copy
import pickle

import keras
import numpy as np
import pytest

from keras_stateful import StatefulSequence, StatefulStream

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore::UserWarning")]

DOCUMENTS = [np.arange(n) for n in (40, 25, 33, 18)]


def length(text):
    return np.arange(len(text))


SEQUENCES = {
    "a list": lambda: StatefulSequence(DOCUMENTS, 2, 5, shuffle=True, seed=1),
    "one text": lambda: StatefulSequence(np.arange(90)[:, None] / 2, 2, 5),
    "slices of one array": lambda: StatefulSequence(
        np.split(np.arange(200), [40, 90]), 2, 5, boundary="pack", resets=True
    ),
    "dicts": lambda: StatefulSequence([{"x": d, "y": d} for d in DOCUMENTS], 2, 5, targets="y"),
    "encoded": lambda: StatefulSequence(["a" * 20, "b" * 30], 2, 5, encode=length, workers=2),
}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda sequence: pickle.loads(pickle.dumps(sequence)),
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_copy_reads_the_same_and_stands_alone(kind, copied):
    sequence = SEQUENCES[kind]()
    for _ in zip(sequence, range(3), strict=False):  # in the middle of a pass
        sequence.reset_mask(1)
    sequence.epoch = 2
    other = COPIES[copied](sequence)
    assert other.epoch == 2
    expected = list(sequence)
    assert (sequence.epoch, other.epoch) == (3, 2)
    for got, like in zip(other, expected, strict=True):
        for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(like), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_pickle_holds_the_corpus_once():
    corpus = np.random.default_rng(0).random((10_000, 4)).astype("float32")
    sequence = StatefulSequence([corpus, corpus[:500]], 4, 64)
    list(sequence)
    assert len(pickle.dumps(sequence)) < 1.5 * corpus.nbytes


def test_a_deep_copy_shares_the_corpus():
    corpus = np.arange(90)
    assert copy.deepcopy(StatefulSequence(corpus, 2, 5))._corpus.fields[None].flat is corpus


@pytest.mark.parametrize("copied", COPIES)
def test_a_stream_cannot_be_copied(copied):
    stream = StatefulStream(DOCUMENTS, 2, 5)
    with pytest.raises(TypeError, match=r"Received: <StatefulStream.*Make another"):
        COPIES[copied](stream)


def test_what_a_sequence_and_a_stream_show():
    sequence = StatefulSequence(DOCUMENTS, 2, 5, resets=True)
    assert repr(sequence) == (
        "<StatefulSequence: 4 documents of 116 time steps in 12 batches of 2 x 5, "
        "boundary='align', resets=True, epoch=0>"
    )
    assert "batches of 2 x 5" in repr(StatefulStream(DOCUMENTS, 2, 5))
