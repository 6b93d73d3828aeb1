"""`restore` is the inverse of the grid: what was read at a step comes back to that step."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_stateful as ks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ARGUMENTS = st.fixed_dictionaries({
    "boundary": st.sampled_from(["align", "pack", "ignore"]),
    "shuffle": st.booleans(),
    "shift_windows": st.booleans(),
    "max_document_length": st.none() | st.integers(9, 30),
    "burn_in": st.integers(0, 8),
    "target_offset": st.integers(0, 3),
})  # fmt: skip


def documents(lengths):
    """Values that tell document and step."""
    return [100.0 * (d + 1) + np.arange(n)[:, None] for d, n in enumerate(lengths)]


def sequence_or_none(lengths, rows, window, arguments):
    corpus = documents(lengths)
    try:
        return ks.StatefulSequence(corpus, rows, window, targets=corpus, seed=1, **arguments)
    except ValueError:  # arguments that mean nothing together
        return None


def read_of(sequence, epoch):
    """Where `locate` says that steps were read, bool for each document."""
    sequence.epoch = epoch
    read = [np.zeros(n, bool) for n in sequence._corpus.lengths]
    for i in range(len(sequence)):
        for spans in sequence.locate(i):
            for span in spans:
                read[span.document][span.start : span.start + span.steps] = True
    return read


@pytest.mark.backend_free
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(4, 60), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 9),
    ARGUMENTS,
    st.integers(0, 2),
)
def test_what_was_read_comes_back_to_its_step(lengths, rows, window, arguments, epoch):
    sequence = sequence_or_none(lengths, rows, window, arguments)
    if sequence is None:
        return
    sequence.epoch = epoch
    grid = np.concatenate([batch[0] for batch in sequence])
    restored = sequence.restore({"a": grid, "b": [grid[..., 0].astype("int64")]})
    for name, part in (("a", restored["a"]), ("b", restored["b"][0])):
        assert len(part) == len(lengths)
        for got, document, read in zip(
            part, documents(lengths), read_of(sequence, epoch), strict=True
        ):
            expected = document if name == "a" else document[:, 0]
            np.testing.assert_array_equal(got[read], expected[read])
            assert np.isnan(got[~read]).all()


@pytest.mark.backend_free
def test_a_step_that_is_read_twice_has_the_value_of_its_own_piece():
    """Steps that are burnt in before a cut were read before it with the state of the document."""
    corpus = [np.arange(24)[:, None]]
    sequence = ks.StatefulSequence(corpus, 2, 4, targets=corpus, max_document_length=12, burn_in=4)
    grid = np.concatenate([np.where(w[..., None] > 0, x, -1) for x, _, w in sequence])
    (restored,) = sequence.restore(grid)
    np.testing.assert_array_equal(restored[:4], -1)  # of the first piece, which nobody else reads
    np.testing.assert_array_equal(restored[4:], corpus[0][4:])


@pytest.mark.backend_free
def test_shards_restore_their_parts():
    corpus = documents((30, 41, 26, 18))
    whole = np.zeros(4, int)
    for index in range(2):
        shard = ks.StatefulSequence(corpus, 4, 5, shard=(index, 2))
        for d, part in enumerate(shard.restore(np.concatenate([b[0] for b in shard]))):
            read = ~np.isnan(part[:, 0])
            np.testing.assert_array_equal(part[read], corpus[d][read])
            whole[d] += read.sum()
    np.testing.assert_array_equal(whole, [29, 40, 25, 17])


@pytest.mark.backend_free
@pytest.mark.parametrize("wrong", [
    lambda grid: grid[:4], lambda grid: grid[:, -1], lambda grid: grid[:, :-1], lambda grid: 0.5,
])  # fmt: skip
def test_what_is_no_whole_pass_is_refused(wrong):
    sequence = ks.StatefulSequence(documents((30, 41)), 2, 5)
    grid = np.concatenate([batch[0] for batch in sequence])
    with pytest.raises(ValueError, match=r"whole pass.*Received: shape"):
        sequence.restore(wrong(grid))
    sequence.give_targets(at_ends=True)
    with pytest.raises(ValueError, match=r"a value for each window.*Received: shape"):
        sequence.restore(0.5)


@pytest.mark.parametrize("boundary", ["align", "pack"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_predictions_of_a_sequence_are_those_of_its_documents(boundary, shuffle):
    rng = np.random.default_rng(0)
    corpus = [rng.normal(size=(n, 2)).astype("float32") for n in (33, 20, 27)]
    inputs = keras.Input((None, 2))
    h = keras.layers.GRU(4, return_sequences=True)(inputs)
    outputs = {"a": keras.layers.Dense(1)(h), "b": keras.layers.Dense(3)(h)}
    network = keras.Model(inputs, outputs)
    sequence = ks.StatefulSequence(
        corpus, 2, 8, targets={"a": corpus, "b": corpus}, boundary=boundary, resets=True,
        shuffle=shuffle, seed=3,
    )  # fmt: skip
    model = ks.to_stateful(network, sequence)
    for _ in range(2):  # the second pass of a shuffled sequence is laid out otherwise
        restored = sequence.restore(model.predict(sequence, verbose=0))
        for name, expected in ks.predict_documents(network, corpus, sequence_length=8).items():
            for got, document in zip(restored[name], expected, strict=True):
                np.testing.assert_allclose(got, document, atol=1e-5)
