"""Weights: missing targets are left out as the error says; weights under a key of the corpus."""

import re

import numpy as np
import pytest

import keras_stateful as ks

pytestmark = pytest.mark.backend_free

LENGTHS, WINDOW = (21, 34), 8
rng = np.random.default_rng(0)
READINGS = [rng.random((n, 2)) for n in LENGTHS]
LOAD = [np.where(rng.random(n) < 0.3, np.nan, rng.random(n)) for n in LENGTHS]
OFFSETS = [0, 1, 4, [0], [1, 4], [0, 2, 3]]
CASES = [(kind, o) for kind in ("sequence", "pack") for o in OFFSETS]
# Without offset 0 a stream's targets would be inputs, too, which may not be missing.
CASES += [("stream", o) for o in OFFSETS if 0 in np.atleast_1d(o)]


def sequence(offset, **arguments):
    return ks.StatefulSequence(READINGS, 2, WINDOW, targets=LOAD, target_offset=offset, **arguments)


def stream(offset, weights=None, **arguments):
    """Weights and targets are keys of the documents."""
    columns = {"x": READINGS, "y": LOAD, **({} if weights is None else {"w": weights})}
    documents = [
        dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)
    ]
    arguments |= {} if weights is None else {"sample_weight": "w"}
    return ks.StatefulStream(documents, 2, WINDOW, targets="y", target_offset=offset, **arguments)


def weights_that_the_error_names(offset, make):
    with pytest.raises(ValueError, match="NaN or infinite") as caught:
        list(make(offset))
    message = str(caught.value)
    whole = re.search(r"`sample_weight=(\[.*? for t in targets\])`", message)
    if whole is not None:
        return eval(whole[1], {"np": np, "targets": LOAD})
    made = re.search(r"`sample_weight=(np.append\(.*?\)\))`", message)[1]
    return [eval(made, {"np": np, "known": ~np.isnan(t)}) for t in LOAD]


@pytest.mark.parametrize(("kind", "offset"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_remedy_for_missing_targets_trains_on_all_that_are_there(kind, offset):
    make = stream if kind == "stream" else sequence
    boundary = {"boundary": "pack" if kind == "pack" else "align"}
    weights = weights_that_the_error_names(offset, make)
    arguments = {"weights" if kind == "stream" else "sample_weight": weights}
    data = make(offset, **arguments, **boundary)
    counted = 0
    for _, y, weight in data:
        assert np.isfinite(y).all()
        counted += int((weight > 0).sum())
    offsets = np.atleast_1d(offset)
    known = [
        np.all([~np.isnan(t[o : len(t) - offsets.max() + o]) for o in offsets], 0) for t in LOAD
    ]
    assert counted == sum(int(k.sum()) for k in known)


@pytest.mark.parametrize(("kind", "offset"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_weight_too_many_is_refused(kind, offset):
    make = stream if kind == "stream" else sequence
    weights = [w.astype("float32") for w in weights_that_the_error_names(offset, make)]
    step = next(t for t in range(len(LOAD[1]) - 4) if not weights[1][t])
    weights[1][step] = 1
    with pytest.raises(ValueError, match="Received: document 1, time step"):
        list(make(offset, weights) if make is stream else make(offset, sample_weight=weights))


def test_the_remedy_for_missing_targets_in_frames():
    pandas = pytest.importorskip("pandas")
    targets = [pandas.DataFrame({"load": t, "other": 1.0}) for t in LOAD]
    with pytest.raises(ValueError, match="column 'load'") as caught:
        ks.StatefulSequence(READINGS, 2, WINDOW, targets=targets)
    remedy = re.search(r"`sample_weight=(\[.*? for t in targets\])`", str(caught.value))[1]
    weights = eval(remedy, {"np": np, "targets": targets})
    data = ks.StatefulSequence(READINGS, 2, WINDOW, targets=targets, sample_weight=weights)
    counted = sum(int((weight > 0).sum()) for _, _, weight in data)
    assert counted == sum(int(np.isfinite(t).sum()) for t in LOAD)


@pytest.mark.parametrize("boundary", ["align", "pack", "ignore"])
def test_weights_under_a_key(boundary):
    weights = [rng.random(n) for n in LENGTHS]
    arguments = {"targets": "y", "boundary": boundary}
    load = [np.nan_to_num(t) for t in LOAD]
    by_key = ks.StatefulSequence(
        {"x": READINGS, "y": load, "w": weights}, 2, WINDOW, sample_weight="w", **arguments
    )
    apart = ks.StatefulSequence(
        {"x": READINGS, "y": load}, 2, WINDOW, sample_weight=weights, **arguments
    )
    assert len(by_key) == len(apart)
    for i in range(len(apart)):
        assert list(by_key[i][0]) == ["x"]
        np.testing.assert_array_equal(by_key[i][2], apart[i][2])


@pytest.mark.parametrize("read", [ks.StatefulSequence, ks.StatefulStream])
@pytest.mark.parametrize("keys", [("w", "x"), ("x", "w")])
def test_weights_under_a_key_are_not_what_is_predicted(read, keys):
    weights = [rng.integers(0, 3, n).astype("float32") for n in LENGTHS]
    parts = {"w": weights, "x": READINGS}
    documents = [{key: parts[key][i] for key in keys} for i in range(len(LENGTHS))]
    arguments = {"batch_size": 2, "sequence_length": WINDOW, "sample_weight": "w"}
    batches = list(read(documents, **arguments))
    expected = list(read(documents, **arguments, targets="x", target_offset=1))
    for (x, y, w), (same_x, same_y, same_w) in zip(batches, expected, strict=True):
        assert list(x) == ["x"]
        for a, b in ((x["x"], same_x["x"]), (y, same_y), (w, same_w)):
            np.testing.assert_array_equal(a, b)


def test_a_stream_divides_weights_by_the_share_of_steps_that_count():
    """To the last bit, so that a resumed training goes on with the numbers of the one before."""
    lengths, window = (9, 14, 6), 4
    rng = np.random.default_rng(0)
    documents = [{"x": np.arange(n), "w": rng.random(n).astype("float32")} for n in lengths]
    stream = ks.StatefulStream(
        documents, 1, window, targets="x", target_offset=1, sample_weight="w"
    )
    for _ in stream:  # the share of this pass is the one that the next is scaled by
        pass
    weights = np.concatenate([w.ravel() for _, _, w in stream])
    counted = sum(n - 1 for n in lengths)
    share = np.float32(counted / len(weights))
    expected = [
        np.append(document["w"][:-1] / share, np.zeros(-(len(document["w"]) - 1) % window))
        for document in documents
    ]
    np.testing.assert_array_equal(weights, np.concatenate(expected).astype("float32"))
