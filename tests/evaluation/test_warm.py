"""Warm validation: documents are read from their beginning and scored from a later step on.

Whatever says where that step is, the result is that of one long pass of the plain model, of which
the earlier steps are left out.
"""

import keras
import numpy as np
import pytest
from small_trainings import HELD_OUT, in_one_call, loss_by_hand, model_for, sequence

import keras_stateful as ks

# By what a user gives: the first step that counts in documents of 12, 33 and 21 steps.
STARTS = {
    "an int for all": (7, [7, 7, 7]),
    "a list": ([5, 20, 8], [5, 20, 8]),
    "an array": (np.array([0, 32, 20]), [0, 32, 20]),  # the last step has no target
    "a fraction": (0.75, [9, 24, 15]),
    "one of each kind": ([0.5, 20, np.int64(3)], [6, 20, 3]),
    "the first document whole, the last one not": ([0, 4, 21], [0, 4, 21]),
}


def counted(model, starts):
    """The losses of the steps that count, one array for each document."""
    return [loss[s:] for loss, s in zip(loss_by_hand(model, HELD_OUT), starts, strict=True)]


@pytest.mark.parametrize("kind", STARTS)
def test_each_document_is_scored_from_its_start_on(kind):
    start, steps = STARTS[kind]
    model = model_for("mask")
    expected = counted(model, steps)
    scores = ks.evaluate_documents(model, HELD_OUT, start=start, batch_size=2, sequence_length=5)
    by_hand = [losses.mean() if len(losses) else np.nan for losses in expected]
    np.testing.assert_allclose(scores["loss"], by_hand, atol=1e-6)
    pooled = ks.evaluate_documents(model, HELD_OUT, start=start, sequence_length=9, pooled=True)
    np.testing.assert_allclose(pooled["loss"], np.concatenate(expected).mean(), atol=1e-6)


def test_burn_in_of_an_evaluation_is_a_start():
    model = model_for("mask")
    by_name = [
        ks.evaluate_documents(model, HELD_OUT, sequence_length=5, **{name: [5, 20, 8]})["loss"]
        for name in ("start", "burn_in")
    ]
    np.testing.assert_array_equal(*by_name)


@pytest.mark.parametrize("boundary", ["align", "pack"])
def test_validation_goes_on_from_what_was_read(boundary):
    """Both ways to validate in `fit`, whose sequence trains on the part in front."""
    starts = [5, 20, 8]
    data = sequence([d[:s] for d, s in zip(HELD_OUT, starts, strict=True)], boundary=boundary)
    held_out = sequence(HELD_OUT, boundary=boundary, burn_in=starts)
    losses = []
    for documents in (False, True):
        keras.utils.set_random_seed(3)
        model = ks.to_stateful(ks.to_stateless(model_for("mask")), data)
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        how = (
            {"callbacks": [ks.ValidateDocuments(HELD_OUT, start=starts, sequence_length=7)]}
            if documents
            else {"validation_data": held_out}
        )
        history = model.fit(data, epochs=2, verbose=0, **how).history
        losses.append(history["val_loss"])
        np.testing.assert_allclose(
            history["val_loss"][-1], np.concatenate(counted(model, starts)).mean(), atol=1e-6
        )
    np.testing.assert_allclose(*losses, atol=1e-6)


def test_a_piece_of_a_cut_document_has_the_burn_in_of_its_document():
    model, burn_in = model_for("mask"), [2, 8, 0]
    data = sequence(HELD_OUT, max_document_length=16, burn_in=burn_in)
    pieces = [
        (document, spans.start)
        for i in range(len(data))
        for spans, mask in zip(data.locate(i), data.reset_mask(i), strict=True)
        if mask
        for document, spans in [(spans[0].document, spans[0])]
    ]
    # A document's first piece has 16 steps; the next of document 1 fill windows of 8 with theirs.
    assert sorted(pieces) == [(0, 0), (1, 0), (1, 8), (2, 0), (2, 16)]
    losses = []
    for document, first in pieces:
        d, skip = HELD_OUT[document], burn_in[document]
        end = 16 if first == 0 else first + (24 if document == 1 else 16)
        losses.append(loss_by_hand(model, [d[first : end + 1]])[0][skip:])
    loss = model.evaluate(data, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, np.concatenate(losses).mean(), atol=1e-6)


@pytest.mark.parametrize("reduce", [None, "last", "mean"])
def test_outputs_are_returned_from_the_start_on(reduce):
    model, starts = model_for("mask"), [5, 20, 21]
    got = ks.predict_documents(
        model, HELD_OUT, start=starts, batch_size=2, sequence_length=6, reduce=reduce
    )
    plain = ks.to_stateless(model)
    whole = [in_one_call(plain, d)[s:] for d, s in zip(HELD_OUT, starts, strict=True)]
    nothing = np.full(whole[0].shape[1], np.nan)
    for g, p in zip(got, whole, strict=True):
        expected = {
            None: p,
            "last": p[-1] if len(p) else nothing,
            "mean": p.mean(0) if len(p) else nothing,
        }
        assert np.shape(g) == expected[reduce].shape
        np.testing.assert_allclose(g, expected[reduce], atol=1e-6)


# Frames


def machines(keys=None):
    """Hourly frames of three machines that begin at other times; dicts of them with `keys`."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            rng.standard_normal((n, 2)).astype("float32"),
            columns=["load", "heat"],
            index=pd.date_range(f"2026-03-0{day}", periods=n, freq="h"),
        )
        for day, n in ((1, 60), (2, 40), (4, 10))
    ]
    return frames if keys is None else [dict.fromkeys(keys, f) for f in frames]


def forecaster(inputs=("x",)):
    keras.utils.set_random_seed(1)
    given = {name: keras.Input((None, 2), name=name) for name in inputs}
    x = keras.layers.Concatenate()(list(given.values())) if len(given) > 1 else given["x"]
    x = keras.layers.GRU(4, return_sequences=True)(x)
    model = keras.Model(given if len(given) > 1 else given["x"], keras.layers.Dense(2)(x))
    model.compile(loss="mse")
    return model


# Step 36 of the first frame, 12 of the second; the third begins later, all of it counts.
NOON = [36, 12, 0]


@pytest.mark.parametrize(
    "time", ["text", "timestamp", "datetime64", "datetime", "one for each", "NaT"]
)
def test_a_time_is_looked_up_in_the_index_of_each_frame(time):
    pd = pytest.importorskip("pandas")
    noon = pd.Timestamp("2026-03-02 12:00")
    start = {
        "text": "2026-03-02 12:00",
        "timestamp": noon,
        "datetime64": noon.to_datetime64(),
        "datetime": noon.to_pydatetime(),
        "one for each": [noon, "2026-03-02 12:00", 0],
        "NaT": pd.NaT,
    }[time]
    model, frames = forecaster(), machines()
    if time == "NaT":
        with pytest.raises(TypeError, match="no time"):
            ks.evaluate_documents(model, frames, start=start)
        return
    by_time = ks.evaluate_documents(model, frames, start=start, sequence_length=16)["loss"]
    by_step = ks.evaluate_documents(model, frames, start=NOON, sequence_length=16)["loss"]
    np.testing.assert_array_equal(by_time, by_step)
    parts = ks.predict_documents(model, frames, start=start)
    assert [len(part) for part in parts] == [24, 28, 10]


@pytest.mark.parametrize("layout", ["dicts", "dict", "encode", "a column"])
def test_a_time_is_looked_up_however_the_frames_are_given(layout):
    both = machines(keys=("x", "z"))
    encode = None
    if layout == "dict":
        both = {key: [d[key] for d in both] for key in ("x", "z")}
    elif layout == "encode":
        encode = dict  # of the pairs that the source gives
        both = [list(d.items()) for d in both]
    elif layout == "a column":  # with labels of its own
        both = pytest.importorskip("pandas").Series(both, index=[2, 0, 1])
    parts = ks.predict_documents(
        forecaster(("x", "z")), both, start="2026-03-02 12:00", encode=encode
    )
    assert [len(part) for part in parts] == [24, 28, 10]


LABELS = {
    "row numbers": lambda pd, n: pd.RangeIndex(n),
    "ints": lambda pd, n: pd.Index(range(20260301, 20260301 + n)),
    "floats": lambda pd, n: pd.Index([float(k) for k in range(n)]),
    "times as text": lambda pd, n: pd.date_range("2026-03-01", periods=n, freq="h").astype(str),
    "objects": lambda pd, n: pd.date_range("2026-03-01", periods=n).astype(object),
    "categories": lambda pd, n: pd.CategoricalIndex([f"{k:03}" for k in range(n)], ordered=True),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("start", ["2026-03-02 12:00", "20260303", "timestamp"])
def test_only_an_index_of_times_has_a_time(labels, start):
    pd = pytest.importorskip("pandas")
    start = pd.Timestamp("2026-03-02 12:00") if start == "timestamp" else start
    frames = [f.set_axis(LABELS[labels](pd, len(f)), axis=0) for f in machines()]
    for read in (ks.evaluate_documents, ks.predict_documents):
        with pytest.raises(TypeError, match="`start` is a time only where") as refused:
            read(forecaster(), frames, start=start)
        assert f"start={start!r}, document 0 with an index of" in str(refused.value)


@pytest.mark.parametrize("labels", ["periods", "zoned", "arrow", "since the start"])
def test_any_index_of_times_will_do(labels):
    pd = pytest.importorskip("pandas")
    if labels == "arrow":
        pytest.importorskip("pyarrow")
    of_times = {
        "periods": lambda f: f.index.to_period("h"),
        "zoned": lambda f: f.index.tz_localize("Asia/Tokyo"),
        "arrow": lambda f: f.index.astype("timestamp[ns][pyarrow]"),
        "since the start": lambda f: f.index - pd.Timestamp("2026-03-01"),
    }[labels]
    frames = [f.set_axis(of_times(f), axis=0) for f in machines()]
    noon = pd.Timestamp("2026-03-02 12:00")
    start = {
        "periods": pd.Period(noon, "h"),
        "zoned": noon.tz_localize("Asia/Tokyo"),
        "arrow": noon,
        "since the start": pd.Timedelta(36, "h"),
    }[labels]
    parts = ks.predict_documents(forecaster(), frames, start=start)
    assert [len(part) for part in parts] == [24, 28, 10]


def test_an_index_of_times_goes_before_others_of_the_document():
    both = machines(keys=("x", "z"))
    both = [{"x": d["x"].reset_index(drop=True), "z": d["z"]} for d in both]
    parts = ks.predict_documents(forecaster(("x", "z")), both, start="2026-03-02 12:00")
    assert [len(part) for part in parts] == [24, 28, 10]


def test_errors_of_start_name_start_and_the_value_that_was_passed():
    documents = [np.ones((n, 2), "float32") for n in (8, 5)]
    for start in (50, [8, 5], np.array([8, 5])):
        with pytest.raises(ValueError, match="Take a smaller `start`") as refused:
            ks.evaluate_documents(forecaster(), documents, targets=documents, start=start)
        assert f"start={start!r}" in str(refused.value)
        assert "burn_in" not in str(refused.value)
        with pytest.raises(ValueError, match="Take a smaller `burn_in`") as refused:
            ks.evaluate_documents(forecaster(), documents, targets=documents, burn_in=start)
        assert f"burn_in={start!r}" in str(refused.value)
