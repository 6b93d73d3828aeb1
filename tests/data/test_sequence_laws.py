"""Laws 3 and 10 of the batches themselves: every step once, and the loss is per real step.

Layouts are drawn by Hypothesis. Every value tells where it comes from: it is
`1000 * (document + 1) + time step`, so that a failure reads itself. What the batches should be is
read off the values, not computed by the code under test.
"""

import itertools
import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence

pytestmark = pytest.mark.backend_free

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=24)


def corpus(lengths):
    return [1000 * (d + 1) + np.arange(n) for d, n in enumerate(lengths)]


@st.composite
def layouts(draw):
    """Arguments of a sequence that deals documents."""
    rows, window = draw(st.integers(1, 6)), draw(st.integers(1, 10))
    boundary = draw(st.sampled_from(["align", "pack"]))
    offset = draw(st.sampled_from([1, 2, 5, [1, 3]]))
    reach = max(offset) if isinstance(offset, list) else offset
    lengths = [n + reach for n in draw(LENGTHS)]
    limit = draw(st.none() | st.just("auto") | st.integers(window, 40))
    burn_in = draw(st.sampled_from([0, 0, 1, 3]) | st.lists(st.integers(0, 60), min_size=24))
    shortest = limit if isinstance(limit, int) else None  # "auto" cuts where burn-ins leave it
    if shortest is not None and boundary == "align":
        shortest = limit // window * window
    if isinstance(burn_in, int):
        if burn_in > (shortest or burn_in) or burn_in >= max(lengths) - reach:
            burn_in = 0
    else:  # no longer than its document, nor than the pieces of one that is cut
        most = [min(n, shortest or n) if n - reach > (shortest or n) else n for n in lengths]
        burn_in = [min(b, m) for b, m in zip(burn_in, most, strict=False)]
        if all(b >= n - reach for b, n in zip(burn_in, lengths, strict=True)):
            burn_in[0] = 0
    arguments = {
        "boundary": boundary,
        "target_offset": offset,
        "max_document_length": limit,
        "burn_in": burn_in,
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 9)),
        "shift_windows": boundary == "pack" and draw(st.booleans()),
        "resets": True,
    }
    return lengths, rows, window, reach, arguments


def parts(batch):
    (x, mask), y, *weights = batch
    weights = weights[0].reshape(x.shape[:2]) if weights else np.ones(x.shape, "float32")
    return x, mask, y, weights


def steps_of(sequence, epoch):
    """For each row of the batch the steps it reads: (value, starts here, targets, weight)."""
    sequence.epoch = epoch
    rows = [[] for _ in range(sequence.batch_size)]
    for i in range(len(sequence)):
        x, mask, y, w = parts(sequence[i])
        for r, t in itertools.product(range(x.shape[0]), range(x.shape[1])):
            start = bool(mask[r, t]) if mask.ndim == 2 else bool(mask[r]) and t == 0
            rows[r].append((int(x[r, t]), start, np.atleast_1d(y[r, t]).tolist(), float(w[r, t])))
    return rows


def filled(arguments):
    return {k: v for k, v in arguments.items() if k != "resets"}


@settings(max_examples=600)
@given(layouts(), st.integers(0, 3))
def test_every_step_once_in_order_in_one_row_with_its_own_targets(layout, epoch):
    lengths, rows, window, reach, arguments = layout
    sequence = StatefulSequence(corpus(lengths), rows, window, **arguments)
    offsets = np.atleast_1d(arguments["target_offset"]).tolist()
    trained, starts, weights = [], [], []
    for row in steps_of(sequence, epoch):
        before = None
        for value, start, targets, weight in row:
            weights.append(weight)
            if not value:  # padding
                assert not start
                assert weight == 0
                before = None
                continue
            if not start:  # goes on where the row was
                assert before is not None
                assert value == before + 1
            else:
                starts.append(value)
            if weight:
                assert targets == [value + o for o in offsets]
                trained.append(value)
            before = value
    limit = sequence.max_document_length
    burn_in = np.broadcast_to(arguments["burn_in"], len(lengths))
    whole = zip(corpus(lengths), burn_in, strict=True)
    expected = [v for d, b in whole for v in d[b : len(d) - reach]]
    assert sorted(trained) == expected  # each time step of each document once
    if limit is None:
        assert sorted(starts) == [d[0] for d in corpus(lengths)]
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)  # the loss is per real step
    assert sorted({w for w in weights if w})[0] == max(weights)  # and every step counts alike


@st.composite
def strided(draw):
    """Arguments of a sequence whose windows overlap, and how long they are."""
    lengths, rows, window, reach, arguments = draw(layouts())
    if window == 1:
        window = 2
        arguments["max_document_length"] = None
    return lengths, rows, window, reach, {**arguments, "stride": draw(st.integers(1, window - 1))}


@settings(max_examples=80)
@given(strided(), st.integers(0, 3), st.integers(1, 3))
def test_windows_that_overlap_train_on_every_step_once(layout, epoch, count):
    """A row goes on `stride` steps behind the start of the window before, or starts anew."""
    lengths, rows, window, reach, arguments = layout
    stride, offsets = arguments["stride"], np.atleast_1d(arguments["target_offset"]).tolist()
    whole = StatefulSequence(corpus(lengths), rows * count, window, **arguments)
    shards = [
        StatefulSequence(corpus(lengths), rows * count, window, shard=(k, count), **arguments)
        for k in range(count)
    ]
    trained, weights, before = [], [], np.zeros((rows * count, window), int)
    for s in (whole, *shards):
        s.epoch = epoch
    for i in range(len(whole)):
        for joined, *own in zip(parts(whole[i]), *(parts(s[i]) for s in shards), strict=True):
            np.testing.assert_array_equal(np.concatenate(own), joined)
        x, mask, y, weight = parts(whole[i])
        np.testing.assert_array_equal(whole.reset_mask(i), mask)
        weights.append(weight)
        for r in range(len(x)):
            if i > 0 and (
                mask.ndim == 2 or not mask[r]
            ):  # what it has in common with the window before
                overlap = x[r, : window - stride]
                real = overlap > 0 if mask.ndim == 1 else slice(None)
                np.testing.assert_array_equal(overlap[real], before[r, stride:][real])
            for t in np.flatnonzero(weight[r]):
                assert np.atleast_1d(y[r, t]).tolist() == [x[r, t] + o for o in offsets]
                trained.append(int(x[r, t]))
            starts = np.flatnonzero(mask[r]) if mask.ndim == 2 else [0] if mask[r] else []
            limit = whole.max_document_length
            assert all(x[r, t] % 1000 == 0 or limit is not None for t in starts)
            for document, start, steps, column in whole.locate(i)[r]:
                values = 1000 * (document + 1) + start + np.arange(steps)
                np.testing.assert_array_equal(x[r, column : column + steps], values)
        before = x
    burnt_in = np.broadcast_to(arguments["burn_in"], len(lengths))
    pairs = zip(corpus(lengths), burnt_in, strict=True)
    assert sorted(trained) == [v for d, n in pairs for v in d[n : len(d) - reach]]
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)
    assert len({w for w in np.ravel(weights) if w}) == 1


@settings(max_examples=100)
@given(strided(), st.sampled_from(["every", "window", "last", "end"]), st.booleans())
def test_labels_of_windows_that_overlap_count_once(layout, label_at, ignores):
    """As many weights as `Layout.counted` says, so that their mean is 1; none in an overlap."""
    lengths, rows, window, _, arguments = layout
    if ignores:
        burnt_in = int(np.max(arguments["burn_in"]))
        lengths = [*lengths, rows * (window + burnt_in)]
        arguments = {"stride": arguments["stride"], "burn_in": burnt_in, "resets": True}
        arguments["boundary"] = "ignore"
    arguments = {**arguments, "target_offset": None}
    sequence = StatefulSequence(
        corpus(lengths),
        rows,
        window,
        targets=np.arange(len(lengths)),
        label_at="window" if label_at == "end" else label_at,
        **arguments,
    )
    if label_at == "end":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sequence.give_targets(at_ends=True)
        except ValueError:
            return
    seen, weights = set(), []
    for i in range(len(sequence)):
        (x, _), y, *weight = sequence[i]
        weight = weight[0] if weight else np.ones(x.shape)
        weights.append(weight)
        x, y = (x[:, -1:], y[:, None]) if label_at == "end" else (x, y)
        marked = weight.reshape(x.shape) > 0
        assert (x[marked] // 1000 - 1 == y[marked]).all()
        fresh = {int(v) for v in x[marked]}
        assert len(fresh) == marked.sum()
        assert not fresh & seen
        seen |= fresh
    if seen:
        np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-4)


@settings(max_examples=50)
@given(strided(), st.booleans(), st.integers(0, 2))
def test_one_text_in_windows_that_overlap(layout, shift, epoch):
    _, rows, window, _, arguments = layout
    stride, burn_in = arguments["stride"], min(4, int(np.max(arguments["burn_in"])))
    text = np.arange(1, rows * (window + 5 * stride) + 7)
    sequence = StatefulSequence(
        text,
        rows,
        window,
        stride=stride,
        burn_in=burn_in,
        shift_windows=shift,
        seed=1,
        resets=True,
    )
    sequence.epoch = epoch
    batches = [parts(sequence[i]) for i in range(len(sequence))]
    length = window + (len(batches) - 1) * stride
    assert sequence.dropped == len(text) - rows * length
    first = int(batches[0][0][0, 0])
    assert 1 <= first <= (stride if shift else 1)
    for i, (x, mask, y, weight) in enumerate(batches):
        begin = first + np.arange(rows)[:, None] * length + i * stride
        np.testing.assert_array_equal(x, begin + np.arange(window))
        np.testing.assert_array_equal(y, x + 1)
        assert (mask == (i == 0)).all()
        at = i * stride + np.arange(window)
        new = (at >= burn_in) & ((i == 0) | (at >= (i - 1) * stride + window))
        np.testing.assert_array_equal(weight > 0, np.tile(new, (rows, 1)))
    np.testing.assert_allclose(np.mean([b[3] for b in batches]), 1, rtol=1e-5)


@settings(max_examples=250)
@given(layouts(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_batch_depends_on_index_and_epoch_alone(layout, epoch, random):
    lengths, rows, window, _, arguments = layout
    sequence = StatefulSequence(
        corpus(lengths), rows, window, workers=random.choice([1, 3]), **arguments
    )
    again = StatefulSequence(corpus(lengths), rows, window, **arguments)
    sequence.epoch = again.epoch = epoch
    read = list(sequence)
    assert sequence.epoch == epoch + 1  # the last batch begins the next epoch
    assert len(read) == len(sequence) == len(again)  # the same in every epoch
    sequence.epoch = epoch
    order = list(range(len(again)))
    random.shuffle(order)
    for i in order:
        # What was read before makes no difference.
        _ = again[random.choice(order)]
        again.reset_mask(random.choice(order), epoch=random.choice([0, 5]))
        for a, b in zip(parts(again[i]), parts(read[i]), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(again.reset_mask(i), parts(read[i])[1])
        assert again.locate(i) == sequence.locate(i)
        for r, spans in enumerate(again.locate(i)):
            for document, start, steps, column in spans:
                values = 1000 * (document + 1) + start + np.arange(steps)
                np.testing.assert_array_equal(parts(read[i])[0][r, column : column + steps], values)
            assert sum(s.steps for s in spans) == np.count_nonzero(parts(read[i])[0][r])


@settings(max_examples=150)
@given(layouts(), st.integers(0, 3))
def test_the_most_resets_of_a_window_are_known(layout, epoch):
    """Never fewer than there are, and no more than a window could have that lay anywhere."""
    lengths, rows, window, _, arguments = layout
    sequence = StatefulSequence(corpus(lengths), rows, window, **arguments)
    sequence.epoch = epoch
    if arguments["boundary"] != "pack":
        assert sequence.most_resets is None
        return
    masks = np.stack([sequence.reset_mask(i) for i in range(len(sequence))])
    assert masks[:, :, 1:].sum(2).max(initial=0) <= sequence.most_resets
    starts = np.flatnonzero(masks.transpose(1, 0, 2))  # of all rows, one behind the other
    anywhere = (np.abs(starts[:, None] - starts) < window - 1) & (starts <= starts[:, None])
    assert sequence.most_resets <= anywhere.sum(1).max(initial=0)


@settings(max_examples=150)
@given(layouts(), st.integers(1, 4), st.integers(0, 3))
def test_shards_are_the_rows_of_one_layout(layout, count, epoch):
    lengths, rows, window, _, arguments = layout
    whole = StatefulSequence(corpus(lengths), rows * count, window, **arguments)
    shards = [
        StatefulSequence(corpus(lengths), rows * count, window, shard=(k, count), **arguments)
        for k in range(count)
    ]
    assert {len(s) for s in shards} == {len(whole)}
    assert {s.utilization for s in shards} == {whole.utilization}
    for s in (whole, *shards):
        s.epoch = epoch
    for i in range(len(whole)):
        for joined, *own in zip(parts(whole[i]), *(parts(s[i]) for s in shards), strict=True):
            np.testing.assert_array_equal(np.concatenate(own), joined)


@settings(max_examples=50)
@given(
    LENGTHS,
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2),
)
def test_shards_of_one_continuous_text(lengths, rows, window, count, shuffle, epoch):
    lengths = [*lengths, 2 * rows * count * window + 1]
    arguments = {
        "boundary": "ignore",
        "shuffle": shuffle,
        "shift_windows": shuffle,
        "seed": 1,
        "resets": True,
    }
    whole, *shards = (
        StatefulSequence(corpus(lengths), rows * count, window, shard=shard, **arguments)
        for shard in [(0, 1), *((k, count) for k in range(count))]
    )
    for s in (whole, *shards):
        s.epoch = epoch
    assert {len(s) for s in shards} == {len(whole)}
    for i in range(len(whole)):
        for joined, *own in zip(parts(whole[i]), *(parts(s[i]) for s in shards), strict=True):
            np.testing.assert_array_equal(np.concatenate(own), joined)


@settings(max_examples=200)
@given(
    LENGTHS,
    st.integers(1, 5),
    st.integers(1, 8),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_ignore_is_one_continuous_text(lengths, rows, window, offset, shuffle, shift, epoch):
    lengths = [*lengths, 2 * rows * window + offset + window]
    arguments = {
        "boundary": "ignore",
        "target_offset": offset,
        "shuffle": shuffle,
        "shift_windows": shift,
        "seed": 1,
    }
    sequence = StatefulSequence(corpus(lengths), rows, window, resets=True, **arguments)
    sequence.epoch = epoch
    batches = [parts(sequence[i]) for i in range(len(sequence))]
    x = np.concatenate([b[0] for b in batches], axis=1)
    y = np.concatenate([b[2] for b in batches], axis=1)
    for i, (_, mask, _, weights) in enumerate(batches):
        assert (mask == (i == 0)).all()
        assert (weights == 1).all()
    text = x.ravel()
    edges = np.flatnonzero(np.diff(text) != 1) + 1  # only where a document ends does the text jump
    assert all(v % 1000 == 0 for v in text[edges])
    ends = {1000 * (d + 1) + n - 1 for d, n in enumerate(lengths)}
    assert {int(v) for v in text[edges - 1]} <= ends
    np.testing.assert_array_equal(y[:, :-offset], x[:, offset:])
    assert sequence.dropped == sum(lengths) - x.size
    begin = int(text[0] % 1000) if not shuffle else None
    assert begin is None or begin < window
    if not shift and not shuffle:
        assert text[0] == 1000


@settings(max_examples=150)
@given(layouts(), st.sampled_from(["every", "window", "last"]), st.integers(0, 2))
def test_labels_stand_where_label_at_says(layout, label_at, epoch):
    lengths, rows, window, _, arguments = layout
    arguments = {**arguments, "target_offset": None, "burn_in": 0}
    labels = np.arange(len(lengths)) + 5
    sequence = StatefulSequence(
        corpus(lengths), rows, window, targets=labels, label_at=label_at, **arguments
    )
    marked = []
    for row in steps_of(sequence, epoch):
        for t, (value, _, (label,), weight) in enumerate(row):
            if not value:
                assert weight == 0
                continue
            assert label == value // 1000 + 4
            following = row[t + 1] if t + 1 < len(row) else (0, True, None, 0)
            last = following[1] or not following[0]
            expected = {"every": True, "last": last, "window": last or (t + 1) % window == 0}[
                label_at
            ]
            assert (weight > 0) == expected
            marked.append(weight)
    np.testing.assert_allclose(np.sum(marked), len(sequence) * rows * window, rtol=1e-4)


@settings(max_examples=150)
@given(layouts(), st.sampled_from([True, False, None]), st.integers(0, 2))
def test_one_target_for_each_window_that_ends_in_a_step_that_counts(layout, of_documents, epoch):
    lengths, rows, window, _, arguments = layout
    docs, burn_in = corpus(lengths), arguments["burn_in"]
    targets = {True: np.arange(len(lengths)) + 5, False: [-d for d in docs], None: None}[
        of_documents
    ]
    if of_documents:
        arguments = {**arguments, "target_offset": None}
    arguments = {**arguments, "targets": targets, "label_at": "window"}
    steps = StatefulSequence(docs, rows, window, **arguments)
    ends = StatefulSequence(docs, rows, window, **arguments)
    steps.epoch = ends.epoch = epoch
    counting = [parts(steps[i])[3][:, -1].any() for i in range(len(steps))]
    refused = nullcontext() if any(counting) else pytest.raises(ValueError, match="none is")
    with warnings.catch_warnings(), refused:
        warnings.simplefilter("ignore")
        ends.give_targets(at_ends=True)
    if not any(counting):
        return
    weights = []
    for i in range(len(ends)):
        x, mask, y, at_each = parts(steps[i])
        (last_x, last_mask), last_y, weight = ends[i]
        np.testing.assert_array_equal(last_x, x)
        np.testing.assert_array_equal(last_mask, mask)
        np.testing.assert_array_equal(last_y, y[:, -1])
        assert (
            weight.shape == (rows, 1) if isinstance(arguments["target_offset"], list) else (rows,)
        )
        np.testing.assert_array_equal(weight.ravel() > 0, at_each[:, -1] > 0)
        weights += weight.ravel().tolist()
        if burn_in == 0:
            assert ((weight.ravel() > 0) == (x[:, -1] > 0)).all()
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)
    assert len({w for w in weights if w}) == 1
    assert ends.signature()[1].shape == last_y.shape
    assert ends.signature()[2].shape == weight.shape


def test_an_epoch_of_ignore_in_which_no_label_is_read():
    """What is left out of the text differs between epochs; in one it is both documents' ends."""
    sequence = StatefulSequence(
        [np.arange(35), np.arange(13)],
        4,
        8,
        targets=np.array([0, 1]),
        label_at="last",
        boundary="ignore",
        shuffle=True,
        seed=3,
    )
    counts = []
    for sequence.epoch in range(4):
        counts.append(sum(np.count_nonzero(w) for _, _, w in sequence))
    assert 0 in counts
    assert max(counts) > 0


def test_a_shuffle_may_read_the_last_step_of_any_document():
    documents = [np.arange(20), np.append(np.arange(19), 50)]  # 50 ends the text, as a target
    StatefulSequence(documents, 1, 5, boundary="ignore").check_ids({None: 20})
    shuffled = StatefulSequence(documents, 1, 5, boundary="ignore", shuffle=True, seed=0)
    with pytest.raises(ValueError, match="id 50; the first such in document 1 at time step 19"):
        shuffled.check_ids({None: 20})


def test_documents_of_signed_and_unsigned_integers():
    mixed = [np.arange(20, dtype="uint64"), np.arange(20, dtype="int64")]
    for (x, _, _), (expected, _, _) in zip(
        make_both(mixed), make_both([d.astype("int32") for d in mixed]), strict=True
    ):
        assert x.dtype == np.int32
        np.testing.assert_array_equal(x, expected)
    for large in (2**40, 2**64 - 1):
        with pytest.raises(ValueError, match="do not fit int32"):
            list(make_both([np.array([0, large] * 9, "uint64"), np.arange(20, dtype="int64")]))


@pytest.mark.parametrize("labels", [np.array([2**40, 1]), [10**30, 1]], ids=["int64", "of Python"])
@pytest.mark.parametrize("of_dicts", [False, True])
def test_labels_that_no_batch_could_hold_are_refused(labels, of_dicts):
    documents = corpus([20, 30])
    with pytest.raises(ValueError, match="do not fit int32"):
        if of_dicts:
            documents = [{"x": d, "y": label} for d, label in zip(documents, labels, strict=True)]
            StatefulSequence(documents, 2, 6, targets="y")
        else:
            StatefulSequence(documents, 2, 6, targets=labels)


def make_both(documents):
    return StatefulSequence(documents, 2, 8)


def test_more_rows_than_documents_are_idle():
    sequence = StatefulSequence(corpus([20, 30]), 5, 6, resets=True)
    assert sum(any(v for v, *_ in row) for row in steps_of(sequence, 0)) == 2
    np.testing.assert_allclose(sequence.utilization, (19 + 29) / (len(sequence) * 30))


def test_the_global_generator_is_drawn_from_for_a_shuffle_without_a_seed_alone():
    def drawn(**arguments):
        random.seed(0)
        before = random.getstate()
        StatefulSequence(corpus([13, 20, 7, 31]), 2, 5, boundary="pack", resets=True, **arguments)
        return random.getstate() != before

    assert not drawn()  # what is built behind it has the weights that it would have had
    assert not drawn(shuffle=True, shift_windows=True, seed=0)
    assert drawn(shuffle=True)
    assert drawn(shift_windows=True)


def test_epochs_differ_and_seeds_decide():
    def order(seed, epoch):
        sequence = StatefulSequence(
            corpus([13, 20, 7, 31, 9, 22, 17]), 2, 5, shuffle=True, seed=seed
        )
        sequence.epoch = epoch
        return [sequence[i][0].tolist() for i in range(len(sequence))]

    assert order(3, 0) == order(3, 0)
    assert order(3, 0) != order(3, 1)
    assert order(3, 0) != order(4, 0)


@settings(max_examples=400)
@given(st.data())
def test_one_text_is_its_windows_side_by_side(data):
    draw = data.draw
    rows, count, window, batches = (draw(st.integers(1, n)) for n in (4, 3, 9, 7))
    dtype = draw(st.sampled_from(["uint16", "int32", "int64", "float32", "float64"]))
    several, reset, shift = (draw(st.booleans()) for _ in range(3))
    boundary = draw(st.sampled_from(["ignore", "align", "pack"]))
    kind = draw(st.sampled_from(["own", "ids", "numbers"]))
    offset = draw(st.integers(1 if kind == "own" else 0, 3))
    steps = rows * count * batches * window
    steps += draw(st.integers(0, rows * count * window - 1)) + offset + (window - 1 if shift else 0)
    text = (
        np.arange(steps).astype(dtype)
        if dtype[0] in "iu"
        else np.arange(2.0 * steps, dtype=dtype).reshape(-1, 2)
    )
    answers = {"own": text, "ids": 3 * np.arange(steps), "numbers": np.arange(steps) / 4}[kind]
    corpus = {"a": text, "b": -np.arange(steps)} if several else text
    targets = {"own": "a" if several else None}.get(kind, answers)
    if boundary == "ignore" and draw(st.booleans()):
        # A single document, which is a part of a longer array.
        def part(array):
            return [np.concatenate([array[::-1], array])[len(array) :]]

        corpus = {k: part(v) for k, v in corpus.items()} if several else part(corpus)
        targets = part(answers) if kind != "own" else targets
    arguments = {
        "boundary": boundary,
        "resets": reset,
        "shift_windows": shift,
        "seed": 1,
        "targets": targets,
        "target_offset": offset,
        "workers": draw(st.sampled_from([1, 2])),
    }
    shard = draw(st.integers(0, count - 1))
    sequence = StatefulSequence(corpus, rows * count, window, shard=(shard, count), **arguments)
    if dtype == "int64" and draw(st.booleans()):
        # As `fit` does: then it need not look at each batch.
        sequence.check_ids({("a" if several else None): steps})
    before = text.copy()
    read = list(sequence)
    assert len(read) == batches
    first = _place(read[0][0], several, reset, text) - shard * rows * batches * window
    assert 0 <= first < (window if shift else 1)
    sequence.epoch = 0
    for i, (x, y) in enumerate(read):
        assert [span.start for (span,) in sequence.locate(i)] == [
            first + ((shard * rows + r) * batches + i) * window for r in range(rows)
        ]
        mask = None
        if several:
            a, b, mask = x["a"], x["b"], x.get("resets")
        else:
            a, mask = x if reset else (x, None)
        for r in range(rows):
            begin = first + ((shard * rows + r) * batches + i) * window
            np.testing.assert_array_equal(a[r], text[begin : begin + window])
            later = answers[begin + offset : begin + offset + window]
            np.testing.assert_array_equal(y[r], later if kind != "numbers" else later[:, None])
            if several:
                np.testing.assert_array_equal(b[r], -np.arange(begin, begin + window))
        if reset:
            expected = np.zeros((rows, window) if boundary == "pack" else (rows,), bool)
            expected[(slice(None), 0) if boundary == "pack" else slice(None)] = i == 0
            np.testing.assert_array_equal(mask, expected)
        assert a.dtype == ("int32" if dtype[0] in "iu" else "float32")
        a[:], y[:] = 0, 0  # a batch is the reader's own
    np.testing.assert_array_equal(text, before)


def _place(x, several, reset, text):
    """Where the first step of the first batch stands in the text."""
    first = (x["a"] if several else x[0] if reset else x)[0, 0]
    return int(np.flatnonzero((text == first).reshape(len(text), -1).all(1))[0])
