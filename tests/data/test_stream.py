"""`StatefulStream`: every step of every document once, in order, in one row.

Whatever the source is, and whoever looks at batches before they are trained on.
"""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence, StatefulStream

pytestmark = pytest.mark.backend_free

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=20)


def documents(lengths):
    """Values that tell document and position: 1000 * (document + 1) + step."""
    return [1000 * (d + 1) + np.arange(n) for d, n in enumerate(lengths)]


def make(lengths, rows=2, window=4, **kwargs):
    return StatefulStream(documents(lengths), rows, window, resets=True, **kwargs)


def read(batches, boundary):
    """What each row read from each of its resets on: lists of inputs and targets that count."""
    rows: dict[int, list] = {}
    for (x, mask), y, w in batches:
        for r in range(len(x)):
            for t in range(x.shape[1]):
                if mask[r, t] if boundary == "pack" else (mask[r] and t == 0):
                    rows.setdefault(r, []).append(([], []))
                if w[r, t]:
                    rows[r][-1][0].append(int(x[r, t]))
                    rows[r][-1][1].append(int(y[r, t]))
    return [run for r in sorted(rows) for run in rows[r]]


def runs_of(lengths, offset=1):
    return [(d[:-offset].tolist(), d[offset:].tolist()) for d in documents(lengths)]


@settings(max_examples=300)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 9), st.sampled_from(["align", "pack"]))
def test_every_step_once_in_order_in_one_row(lengths, rows, window, boundary):
    if sum(lengths) - len(lengths) <= rows * window:
        lengths = [*lengths, rows * window + 40]
    stream = make(lengths, rows, window, boundary=boundary)
    for _ in range(2):  # the second pass is as the first
        assert sorted(read(stream, boundary)) == sorted(runs_of(lengths))


@settings(max_examples=100)
@given(
    LENGTHS,
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from(["align", "pack"]),
    st.integers(1, 7),
)
def test_epochs_of_some_steps_go_on_where_the_last_stopped(lengths, rows, window, boundary, steps):
    lengths = [*lengths, rows * window + 40]
    stream = make(lengths, rows, window, boundary=boundary, steps_per_epoch=steps)
    endless = make(lengths * 400, rows, window, boundary=boundary)
    got = [batch for _ in range(6) for batch in stream]
    assert len(got) == 6 * steps
    for ((x, mask), y, _), ((x2, mask2), y2, _) in zip(got, endless, strict=False):
        # The source begins again: other documents' numbers, the same steps.
        np.testing.assert_array_equal(x % 1000, x2 % 1000)
        np.testing.assert_array_equal(y % 1000, y2 % 1000)
        np.testing.assert_array_equal(mask, mask2)


@pytest.mark.parametrize("boundary", ["align", "pack"])
@pytest.mark.parametrize("peeked", [1, 3, 8])
def test_an_iterator_that_is_left_gives_its_batches_back(boundary, peeked):
    lengths = [30, 25, 44, 61]
    for source in (documents(lengths), (d for d in documents(lengths))):
        stream = StatefulStream(source, 2, 4, resets=True, boundary=boundary)
        for _ in range(2):
            list(itertools.islice(iter(stream), peeked))
        assert sorted(read(stream, boundary)) == sorted(runs_of(lengths))


def test_a_loop_of_ones_own_that_is_left_goes_on_behind_it():
    lengths = [30, 25, 44, 61, 70]
    whole = [x for (x, _), _, _ in make(lengths)]
    stream = make(lengths, steps_per_epoch=6)
    left = [x for (x, _), _, _ in itertools.islice(stream, 4)]
    rest = [x for (x, _), _, _ in stream]
    assert len(rest) == 6
    np.testing.assert_array_equal([*left, *rest], whole[:10])


@pytest.mark.parametrize("boundary", ["align", "pack"])
def test_masks_may_be_asked_before_and_after_their_batch(boundary):
    stream = make([30, 5, 25, 3, 44], boundary=boundary)
    masks = [mask for (_, mask), _, _ in stream]
    batches = 0
    for i, ((_, mask), _, _) in enumerate(stream):
        for j in (i, max(0, i - 3), i + 1):
            expected = masks[j] if j < len(masks) else np.zeros_like(masks[0])
            np.testing.assert_array_equal(stream.reset_mask(j), expected)
        np.testing.assert_array_equal(mask, masks[i])
        batches += 1
    assert batches == len(masks)
    np.testing.assert_array_equal(stream.reset_mask(0), masks[0])  # of the pass to come
    assert sorted(read(stream, boundary)) == sorted(runs_of([30, 5, 25, 3, 44]))
    with pytest.raises(ValueError, match="keeps the masks of its last"):
        many = make([4000])
        list(many)
        many.reset_mask(1)


def test_memory_is_the_rows_in_flight():
    alive = 0

    class Text(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def source():
        nonlocal alive
        for n in range(300):
            alive += 1
            yield (np.arange(20) + n).view(Text)

    stream, most = StatefulStream(source, 4, 8), 0
    for _ in stream:
        most = max(most, alive)
    assert most <= 4 + 8 + 3  # rows, the batches kept for a peek hold none of it, one being read


def test_scaled_weights_make_the_loss_per_real_step():
    stream = make([9, 14, 30, 5, 22], rows=3, window=4)
    for _ in range(2):
        batches = list(stream)
    real = sum(n - 1 for n in (9, 14, 30, 5, 22))
    total = sum((w > 0).sum() for _, _, w in batches)
    assert total == real
    np.testing.assert_allclose(np.mean([w for _, _, w in batches]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(stream.utilization, real / (len(batches) * 12))


def test_dicts_labels_horizons_and_weights():
    docs = [
        {
            "ids": np.arange(n, dtype="uint8"),
            "x": np.full((n, 2), n, "float16"),
            "kind": n % 3,
            "w": np.float32(n),
        }
        for n in (7, 12, 9)
    ]
    stream = StatefulStream(
        docs, 2, 5, targets={"kind": "kind"}, label_at="last", sample_weight="w", resets=True
    )
    x, y, w = next(iter(stream))
    assert sorted(x) == ["ids", "resets", "x"]
    assert x["ids"].dtype == np.int32
    assert x["x"].dtype == np.float32
    seen = [
        (int(a), float(b))
        for _, y, w in stream
        for a, b in zip(y["kind"].ravel(), w["kind"].ravel(), strict=True)
        if b
    ]
    assert sorted(a for a, _ in seen) == sorted([7 % 3, 12 % 3, 9 % 3])
    ahead = StatefulStream(docs, 2, 5, targets="ids", target_offset=[1, 3])
    x, y, w = next(iter(ahead))
    assert y.shape == (2, 5, 2)
    np.testing.assert_array_equal(y[0, :4], np.stack([np.arange(4) + 1, np.arange(4) + 3], 1))
    np.testing.assert_array_equal(w[0, :, 0] > 0, [True] * 4 + [False])
    floats = StatefulStream([{"x": np.ones((9, 2)), "y": np.ones(9)}], 1, 4, targets="y")
    assert next(iter(floats))[1].shape == (1, 4, 1)


def test_burn_in_is_read_and_not_trained_on():
    stream = make([12, 12], rows=2, window=4, burn_in=6)
    weights = np.concatenate([w for _, _, w in stream], axis=1)
    np.testing.assert_array_equal(weights[0] > 0, [False] * 6 + [True] * 5 + [False])


def one_shot():
    return (d for d in documents([30, 30]))


def test_a_generator_is_read_once():
    stream = StatefulStream(one_shot(), 2, 4)
    assert len(list(stream)) == 8
    with pytest.raises(ValueError, match="Pass a function that makes one for each epoch"):
        list(stream)
    again = StatefulStream(one_shot, 2, 4)
    assert len(list(again)) == len(list(again)) == 8


def test_missing_targets_have_weight_0():
    y = np.array([[1.0], [np.nan], [3.0], [4.0]])
    doc = {"x": np.ones((4, 1)), "y": y, "w": np.array([1.0, 0, 1, 1])}
    _, targets, weights = next(
        iter(StatefulStream([doc, doc], 1, 4, targets="y", sample_weight="w"))
    )
    np.testing.assert_array_equal(targets[0, :, 0], [1, 0, 3, 4])
    np.testing.assert_array_equal(weights[0] > 0, [True, False, True, True])
    with pytest.raises(ValueError, match="document 0, time step 1"):
        StatefulStream([{"x": doc["x"], "y": y}], 1, 4, targets="y")


@pytest.mark.parametrize("make", [StatefulSequence, StatefulStream])
@pytest.mark.parametrize("part", ["x", "y", "w", "x later"])
def test_what_float32_cannot_hold_is_refused_however_it_is_read(make, part):
    """Batches are float32, where 1e300 would be infinite."""
    documents = [
        {"x": np.ones((9, 2)), "y": np.ones((9, 1)), "w": np.ones(9), "label": 1.0}
        for _ in range(2)
    ]
    documents[1][part[0]][5] = 1e300
    if part == "x later":
        documents = [documents[0]] * 3 + documents[1:]
    with pytest.raises(ValueError, match=r"float32|0 or more everywhere"):
        list(make(documents, 2, 4, targets="y", sample_weight="w"))


def test_a_huge_target_with_weight_0_does_not_matter():
    document = {"x": np.ones((9, 2)), "y": np.ones((9, 1)), "w": np.ones(9)}
    document["y"][5], document["w"][5] = 1e300, 0
    for _, y, w in StatefulStream([document] * 2, 2, 4, targets="y", sample_weight="w"):
        assert np.isfinite(y * w[..., None]).all()


@pytest.mark.parametrize("trained", [4, 6, 7])
@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_position_in_a_pass_that_gives_batches_back(trained, after):
    """Batches that were read ahead belong to the next pass, and so do the positions behind them."""
    stream, again = (make([40, 25, 31, 60, 80], steps_per_epoch=7) for _ in range(2))
    list(stream.read_pass())
    stream.trained(trained)
    batches = stream.read_pass()
    for _ in range(after + 1):
        next(batches)
    again.seek(json.loads(json.dumps(stream.position(after, 0))))
    whole = [x for (x, _), _, _ in make([40, 25, 31, 60, 80] * 9)]
    got = [x for (x, _), _, _ in again.read_pass()]
    np.testing.assert_array_equal(
        np.array(got) % 1000, np.array(whole[trained + after : trained + 7]) % 1000
    )


def scales(batches):
    """The largest weight of each batch: what its weights are scaled by."""
    return [w.max() for _, _, w in batches]


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_stream_that_is_repositioned_scales_as_one_that_goes_on(steps, passes):
    stream, again = (make([5, 8, 9, 6, 13], steps_per_epoch=steps, burn_in=2) for _ in range(2))
    for _ in range(passes):
        list(stream)
    again.seek(json.loads(json.dumps(stream.position(steps, 0, over=True))))
    # Into the pass, whose first batches were made in the one before.
    list(stream.read_pass())
    stream.trained(1)
    list(again.read_pass())
    again.trained(1)
    batches = stream.read_pass()
    first = next(batches)
    middle = make([5, 8, 9, 6, 13], steps_per_epoch=steps, burn_in=2)
    middle.seek(json.loads(json.dumps(stream.position(1, 0))))
    rest = scales(batches)
    assert scales(again.read_pass()) == scales([first]) + rest
    if steps > 1:
        assert scales(middle.read_pass()) == rest


@pytest.mark.parametrize("steps", [1, 3, None])
def test_a_look_at_a_batch_scales_nothing(steps):
    """Keras looks at one to build a model, on some backends."""
    stream, fresh = (make([5, 8, 9, 6, 13], steps_per_epoch=steps, burn_in=2) for _ in range(2))
    next(stream.read_pass(looks=True))
    for _ in range(3):
        for batch, expected in zip(stream, fresh, strict=True):
            np.testing.assert_array_equal(batch[0][0], expected[0][0])
            np.testing.assert_array_equal(batch[2], expected[2])


def test_positions_saved_before_are_read():
    """As they lie in checkpoints; checksums are of documents whose missing targets are 0."""
    lengths = [40, 25, 31, 60, 80]
    saved = {
        "taken": 3, "rows": [[0, 36, 4135549437], [2, 12, 2959098432]], "share": None,
        "steps": [72.0, 72.0, 72, 72], "batch": 9, "over": False, "finished": False,
    }  # fmt: skip
    stream = make(lengths)
    stream.seek(saved)
    rest = [x for (x, _), _, _ in stream]
    np.testing.assert_array_equal(rest, [x for (x, _), _, _ in make(lengths)][9:])

    known = [np.arange(n) % 3 > 0 for n in (20, 31)]
    documents = [
        {"x": np.ones((len(k), 2), "float32"), "y": np.where(k, 1.0, np.nan)[:, None], "w": 1.0 * k}
        for k in known
    ]
    saved = {
        "taken": 2, "rows": [None, [1, 20, 4200276362]], "share": None,
        "steps": [40.0, 40.0, 40, 40], "batch": 5, "over": True, "finished": True,
    }  # fmt: skip
    missing = StatefulStream(
        documents, 2, 4, targets="y", sample_weight="w", boundary="pack", steps_per_epoch=5
    )
    missing.seek(saved)
    np.testing.assert_array_equal(next(missing.read_pass())[2][1] > 0, known[1][20:24])


@pytest.mark.parametrize("make", [StatefulSequence, StatefulStream])
def test_the_key_that_is_kept_for_the_mask_is_no_input(make):
    documents = [{"x": np.arange(9), "resets": np.arange(9)}] * 2
    with pytest.raises(ValueError, match="kept for the mask"):
        make(documents, 2, 4, targets="x", target_offset=1)


class BrokenSource:
    """Documents of which one cannot be read, the first time."""

    def __init__(self, lengths, broken, error):
        self.lengths, self.broken, self.error, self.opened = lengths, broken, error, 0

    def __call__(self):
        self.opened += 1
        for i, document in enumerate(documents(self.lengths)):
            if self.opened == 1 and i == self.broken:
                raise self.error
            yield document


@pytest.mark.parametrize("boundary", ["align", "pack"])
@pytest.mark.parametrize("broken", [2, 3, 7, 8])
@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("error", [OSError("down"), KeyboardInterrupt()])
def test_after_an_error_of_its_source_a_stream_begins_anew(boundary, broken, steps, error):
    lengths = [12, 12, 20, 9, 31, 14, 12, 25, 12]
    arguments = {"boundary": boundary, "resets": True, "steps_per_epoch": steps}
    stream = StatefulStream(BrokenSource(lengths, broken, error), 2, 5, **arguments)
    with pytest.raises(type(error)):
        for _ in range(30):
            list(stream)
    fresh = StatefulStream(documents(lengths), 2, 5, **arguments)
    for ((x, mask), y, w), ((x2, mask2), y2, w2) in zip(stream, fresh, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(mask, mask2)
        np.testing.assert_array_equal(y, y2)
        np.testing.assert_array_equal(w > 0, w2 > 0)


def test_a_document_that_is_refused_breaks_a_pass_off_as_an_error_does():
    lengths = [12, 12, 20, 9, 31]
    texts = [d[:, None] / 2 for d in documents(lengths)]
    stream = StatefulStream(texts, 2, 5)
    texts[3][4] = np.nan
    for _ in range(2):
        with pytest.raises(ValueError, match="document 3, time step 4"):
            list(stream)
    texts[3][4] = 0
    assert sum(int((w > 0).sum()) for *_, w in stream) == sum(lengths) - len(lengths)


@pytest.mark.parametrize("steps", [None, 3])
def test_a_source_that_is_read_once_and_failed_is_refused(steps):
    source = BrokenSource([12, 12, 20, 9, 31], 3, OSError("down"))()
    stream = StatefulStream(source, 2, 5, steps_per_epoch=steps)
    with pytest.raises(OSError, match="down"):
        for _ in range(9):
            list(stream)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"`source`.*failed.*Pass a function that makes one"):
            list(stream)


@pytest.mark.parametrize("resets", [False, True])
def test_a_batch_that_its_reader_changed_is_given_again_as_it_was(resets):
    arguments = {"resets": resets}
    plain = list(StatefulStream(documents([30, 25, 44]), 2, 4, **arguments))
    stream = StatefulStream(documents([30, 25, 44]), 2, 4, **arguments)
    for _ in range(2):  # as Keras does to see the shape of a batch
        for batch in itertools.islice(stream.read_pass(), 3):
            x, *rest = batch
            for part in [*(x if resets else [x]), *rest]:
                part[:] = 0
    for mask in (stream.reset_mask(0), stream.reset_mask(1)):
        mask[:] = True
    assert not stream.reset_mask(1).any()
    for batch, like in zip(stream, plain, strict=True):
        np.testing.assert_array_equal(batch[1], like[1])
        got, expected = (b[0] if resets else (b[0],) for b in (batch, like))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def keras_reads(stream, batches, on_demand):
    """An epoch of `fit` that ends after some steps, in the order of Keras's calls."""
    stream.on_epoch_begin()
    reading, read = stream.read_pass(), []
    for i in range(batches):
        if not on_demand:  # torch and TensorFlow read before the hook, JAX behind it
            read.append(next(reading))
        stream.trained(i + 1)
        if on_demand:
            read.append(next(reading))
    return read


@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize("peeked", [0, 1])
@pytest.mark.parametrize("stops", [(1, 1, 1), (1, 3, 2), (5, 1, 5), (2, 5, 1)])
@pytest.mark.parametrize("once", [False, True])
def test_an_interrupted_epoch_goes_on_behind_the_last_step(stops, peeked, once, on_demand):
    """From the first step on, and whether or not batches were read ahead."""
    lengths = [40, 25, 31, 60, 80]
    source = (d for d in documents(lengths)) if once else documents(lengths)
    stream = StatefulStream(source, 2, 4, steps_per_epoch=5)
    whole = [x for x, *_ in StatefulStream(documents(lengths), 2, 4)]
    read = []
    for batches in stops:
        stream.on_epoch_begin()
        list(itertools.islice(stream.read_pass(), peeked))
        read += [x for x, *_ in keras_reads(stream, batches, on_demand)]
    np.testing.assert_array_equal(read, whole[: sum(stops)])
