"""What holds the same numbers is the same data: arrays, frames, tensors, lists of these, dicts."""

import keras
import numpy as np
import pytest
from array_likes import FORMS, NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_stateful import StatefulSequence, StatefulStream
from keras_stateful.data.columns import ColumnOrder

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore::UserWarning")]

LENGTHS = (30, 41, 26)
rng = np.random.default_rng(0)
# Small halves, which bfloat16 holds exactly.
DOCUMENTS = [rng.integers(-8, 8, (n, 3)) / 2 for n in LENGTHS]


LAYOUTS = {
    "one text": lambda form: StatefulSequence(form(DOCUMENTS[0]), 2, 5),
    "a list": lambda form: StatefulSequence([form(d) for d in DOCUMENTS], 2, 5),
    "a dict of texts": lambda form: StatefulSequence(
        {"x": form(DOCUMENTS[0])}, 2, 5, targets="x", target_offset=1
    ),
    "a dict of lists": lambda form: StatefulSequence(
        {"x": [form(d) for d in DOCUMENTS]}, 2, 5, targets="x", target_offset=1
    ),
    "a list of dicts": lambda form: StatefulSequence(
        [{"x": form(d)} for d in DOCUMENTS], 2, 5, targets="x", target_offset=1
    ),
    "encoded": lambda form: StatefulSequence(range(3), 2, 5, encode=lambda i: form(DOCUMENTS[i])),
    "targets": lambda form: StatefulSequence(DOCUMENTS, 2, 5, targets=[form(d) for d in DOCUMENTS]),
    "labels": lambda form: StatefulSequence(DOCUMENTS, 2, 5, targets=form(DOCUMENTS[0][:3])),
    "a stream": lambda form: StatefulStream([form(d) for d in DOCUMENTS], 2, 5),
    "a stream of dicts": lambda form: StatefulStream(
        ({"x": form(d), "y": form(d)} for d in DOCUMENTS), 2, 5, targets="y"
    ),
}


def assert_same(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        flat, expected = keras.tree.flatten(a), keras.tree.flatten(b)
        assert len(flat) == len(expected)
        for part, like in zip(flat, expected, strict=True):
            assert part.dtype == like.dtype
            np.testing.assert_array_equal(part, like)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers_are_the_same_batches(form, layout):
    assert_same(LAYOUTS[layout](FORMS[form]), LAYOUTS[layout](np.asarray))


@pytest.mark.parametrize("kind", ["int", "Int64", "uint8", "object", "Index", "polars"])
def test_a_column_of_ids_is_ids(kind):
    pandas, ids = pytest.importorskip("pandas"), np.arange(40) % 9
    if kind == "polars":
        column = pytest.importorskip("polars").Series(ids)
    else:
        column = pandas.Index(ids) if kind == "Index" else pandas.Series(ids).astype(kind)
    assert_same(StatefulSequence(column, 2, 5), StatefulSequence(ids, 2, 5))
    assert_same(StatefulSequence([column] * 2, 2, 5), StatefulSequence([ids] * 2, 2, 5))


def test_documents_in_a_column_are_read_by_place_whatever_its_labels():
    pandas = pytest.importorskip("pandas")
    column = pandas.Series([d for d in DOCUMENTS], index=[7, 5, 6])
    assert_same(StatefulSequence(column, 2, 5), StatefulSequence(DOCUMENTS, 2, 5))
    texts = pandas.Series(["ab" * 20, "cd" * 30], index=["x", "y"])

    def encode(text):
        return np.frombuffer(text.encode(), "uint8")

    assert_same(
        StatefulSequence(texts, 2, 5, encode=encode),
        StatefulSequence(list(texts), 2, 5, encode=encode),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(NAMES), min_size=3, max_size=3), st.sampled_from(sorted(LAYOUTS)))
@pytest.mark.parametrize("package", ["pandas.DataFrame", "polars.DataFrame", "pyarrow.table"])
def test_columns_belong_together_by_name(package, orders, layout):
    """Those of every frame stand in the order of the first one's."""
    module, make = package.split(".")
    make, wanted = getattr(pytest.importorskip(module), make), orders[0]
    left = list(orders)

    def one_after_the_other(x):
        table = dict(zip(NAMES, x.T, strict=True))
        return make({name: table[name] for name in left.pop(0)})

    if layout == "encoded":  # which is read more than once
        frames = [one_after_the_other(d) for d in DOCUMENTS]
        sequence = StatefulSequence(range(3), 2, 5, encode=lambda i: frames[i])
    elif layout == "a stream of dicts":
        frames = [one_after_the_other(d) for d in DOCUMENTS]
        items = [{"x": f, "y": d} for f, d in zip(frames, DOCUMENTS, strict=True)]
        sequence = StatefulStream(items, 2, 5, targets="y")
        like = [{"x": d[:, [NAMES.index(n) for n in wanted]], "y": d} for d in DOCUMENTS]
        assert_same(sequence, StatefulStream(like, 2, 5, targets="y"))
        return
    else:
        sequence = LAYOUTS[layout](one_after_the_other)
    assert_same(sequence, LAYOUTS[layout](lambda x: x[:, [NAMES.index(n) for n in wanted]]))


ORDER = np.array([2, 0, 1])
LAID_OUT = {
    **LAYOUTS,
    "a horizon": lambda form: StatefulSequence(
        [form(d) for d in DOCUMENTS], 2, 5, target_offset=[1, 2]
    ),
    "packed": lambda form: StatefulSequence([form(d) for d in DOCUMENTS], 2, 5, boundary="pack"),
    "ignored": lambda form: StatefulSequence([form(d) for d in DOCUMENTS], 2, 5, boundary="ignore"),
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_batches_in_another_order_are_those_of_documents_in_it(layout):
    data, like = LAID_OUT[layout](np.asarray), list(LAID_OUT[layout](np.asarray))
    inputs, targets = data.columns
    order = ColumnOrder(dict.fromkeys(inputs, ORDER), dict.fromkeys(targets, ORDER))
    labels = layout == "labels"  # of documents; these have no columns
    data.order_columns(ColumnOrder(order.inputs) if labels else order)
    for batch, plain in zip(data, like, strict=True):
        x, y = batch[:2]
        for key in [None] if not isinstance(x, dict) else x:
            one, other = (x, plain[0]) if key is None else (x[key], plain[0][key])
            np.testing.assert_array_equal(one, other[..., ORDER])
        np.testing.assert_array_equal(y, plain[1] if labels else plain[1][..., ORDER])
    # Another reader knows no order: it gets the columns as they stand.
    data = LAID_OUT[layout](np.asarray)
    data.order_columns(order)
    data.order_columns(ColumnOrder())
    assert_same(data, like)


def refilled(documents):
    """One buffer for all documents, as readers of audio and sensors have."""
    buffer = np.zeros((60, *documents[0].shape[1:]), documents[0].dtype)
    for document in documents:
        buffer[: len(document)] = document
        yield buffer[: len(document)]


IDS = [np.arange(n) + 100 * k for k, n in enumerate((20, 12, 17, 9, 25))]


@pytest.mark.parametrize("boundary", ["align", "pack"])
@pytest.mark.parametrize("kind", ["array", "dict", "frame", "encode", "sequence"])
def test_a_buffer_that_is_filled_again(kind, boundary):
    def source():
        for part in refilled(IDS):
            if kind == "frame":
                yield pytest.importorskip("pandas").Series(part, copy=False)
            else:
                yield {"x": part} if kind == "dict" else part

    arguments = {"targets": "x", "target_offset": 1} if kind == "dict" else {}
    like = [{"x": d} for d in IDS] if kind == "dict" else IDS
    arguments["boundary"] = boundary
    if kind == "sequence":
        buffer = np.zeros(60, "int64")

        def encode(k):
            buffer[: len(IDS[k])] = IDS[k]
            return buffer[: len(IDS[k])]

        data = StatefulSequence(range(len(IDS)), 2, 5, encode=encode, **arguments)
        assert_same(data, StatefulSequence(IDS, 2, 5, **arguments))
        return
    encode = (lambda item: item) if kind == "encode" else None
    data = StatefulStream(source, 2, 5, encode=encode, **arguments)
    assert_same(data, StatefulStream(like, 2, 5, **arguments))


def test_documents_written_to_after_a_stream_took_them():
    documents = [d.copy() for d in IDS]
    stream, read = StatefulStream(documents, 2, 5), []
    for batch in stream:
        read.append(batch)
        for document in documents[:2]:  # which the rows have taken
            document[:] = -1
    assert_same(read, StatefulStream(IDS, 2, 5))


@pytest.mark.parametrize("missing", [np.nan, None])
def test_missing_targets_with_weight_0_in_every_layout(missing):
    """A list of dicts and a dict of lists are the same, here too."""
    x = [np.ones((n, 2)) for n in LENGTHS]
    known = [np.arange(n) % 3 > 0 for n in LENGTHS]
    y = [np.where(k, 1.0, missing).astype(object if missing is None else float) for k in known]
    w = [k.astype("float32") for k in known]
    rows = [dict(zip("xyw", parts, strict=True)) for parts in zip(x, y, w, strict=True)]
    arguments = {"targets": "y", "sample_weight": "w"}
    plain = StatefulSequence(x, 2, 5, targets=y, sample_weight=w)
    columns = StatefulSequence({"x": x, "y": y, "w": w}, 2, 5, **arguments)
    for data in (columns, StatefulSequence(rows, 2, 5, **arguments)):
        assert_same([(x["x"], y, w) for x, y, w in data], plain)
    one = {"x": x[0], "y": y[0], "w": w[0]}
    assert_same(
        [(x["x"], y, w) for x, y, w in StatefulSequence(one, 2, 5, **arguments)],
        StatefulSequence(x[0], 2, 5, targets=y[0], sample_weight=w[0]),
    )
