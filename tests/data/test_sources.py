"""What a corpus may be, what it costs to read it, and what is refused."""

import importlib
import sys
import tracemalloc
import zlib

import keras
import numpy as np
import pytest

from keras_stateful import StatefulSequence, StatefulStream
from keras_stateful.data.batch import checksum

pytestmark = pytest.mark.backend_free


def make(corpus, rows=2, window=4, **kwargs):
    return StatefulSequence(corpus, rows, window, **kwargs)


def first(*args, **kwargs):
    return make(*args, **kwargs)[0]


@pytest.mark.parametrize(("stored", "given"), [
    ("uint8", "int32"), ("uint16", "int32"), ("int64", "int32"), ("int32", "int32"),
])  # fmt: skip
def test_ids_are_converted_window_by_window(stored, given):
    x, y = first(np.arange(100).astype(stored))
    assert x.dtype == y.dtype == given
    np.testing.assert_array_equal(x[0], np.arange(4))
    np.testing.assert_array_equal(y[0], np.arange(4) + 1)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 3)])
def test_features_of_any_rank(stored, shape):
    text = np.random.default_rng(0).random((60, *shape)).astype(stored)
    x, y = first(text)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(x[0], text[:4].astype("float32"))
    np.testing.assert_array_equal(y[0], text[1:5].astype("float32"))


@pytest.mark.parametrize("kind", ["memmap", "npy", "list of memmaps", "columns"])
def test_a_memory_map_is_never_copied_whole(tmp_path, kind):
    length = 50_000_000
    if kind == "npy":
        np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "uint8", (length,)).flush()
        text = np.load(tmp_path / "a.npy", mmap_mode="r")
    else:
        text = np.memmap(tmp_path / "a", "uint8", "w+", shape=(length,))
        if kind == "list of memmaps":
            text = [text[:20_000_000], text[20_000_000:]]
        elif kind == "columns":
            text = {"a": text, "b": text}
    tracemalloc.start()
    targets = {"targets": "a", "target_offset": 1} if kind == "columns" else {}
    sequence = make(text, 2, 64, **targets)
    assert not sequence.immediate  # so that TensorFlow reads ahead
    for i in (0, len(sequence) // 2, len(sequence) - 1):
        sequence[i]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_dict_of_arrays_and_a_list_of_dicts_are_the_same():
    rng = np.random.default_rng(0)
    docs = [
        {"id": rng.integers(0, 9, n), "x": rng.random((n, 2)), "y": rng.random((n, 1))}
        for n in (20, 33, 12)
    ]
    columns = {k: [d[k] for d in docs] for k in docs[0]}
    for i in range(len(make(docs, targets="y"))):
        (a, ya, wa), (b, yb, wb) = (
            make(docs, targets="y", resets=True)[i],
            make(columns, targets="y", resets=True)[i],
        )
        assert sorted(a) == sorted(b) == ["id", "resets", "x"]
        for k in a:
            np.testing.assert_array_equal(a[k], b[k])
        np.testing.assert_array_equal(ya, yb)
        np.testing.assert_array_equal(wa, wb)


def test_several_outputs_horizons_and_weights():
    docs = [np.arange(n) for n in (20, 33)]
    other = [d[:, None] * 2.0 for d in docs]
    weights = [np.where(d % 3, 1.0, 0.0) for d in docs]
    sequence = make(
        docs, targets={"next": docs, "twice": other}, target_offset=[0, 2], sample_weight=weights
    )
    x, y, w = sequence[0]
    assert y["next"].shape == (2, 4, 2)
    assert y["twice"].shape == (2, 4, 2, 1)
    np.testing.assert_array_equal(y["next"], np.stack([x, x + 2], axis=-1))
    np.testing.assert_array_equal(w["next"] > 0, (x % 3 > 0)[..., None])


def test_one_weight_per_document_balances_classes():
    docs = [np.full(9, d) for d in range(3)]
    total = {d: 0.0 for d in range(3)}
    sequence = make(docs, sample_weight=[1.0, 2.0, 4.0])
    for x, _, w in sequence:
        for d in total:
            total[d] += w[(x == d) & (w > 0)].sum()
    np.testing.assert_allclose([total[1] / total[0], total[2] / total[0]], [2, 4], rtol=1e-5)


def test_missing_targets_have_weight_0():
    x, y = [np.ones((8, 1))] * 2, [np.where(np.arange(8) == 3, np.nan, 1.0)[:, None]] * 2
    weights = [~np.isnan(v[:, 0]) for v in y]
    _, targets, w = make(x, targets=y, sample_weight=weights)[0]
    assert np.isfinite(targets).all()
    np.testing.assert_array_equal(w[0] > 0, [True, True, True, False])
    for wrong in (None, [np.ones(8)] * 2):
        with pytest.raises(
            ValueError, match="document 0, time step 3. Give missing targets weight 0"
        ):
            make(x, targets=y, sample_weight=wrong)


class Source:
    """Documents read when asked; counts how often."""

    def __init__(self, texts):
        self.texts, self.reads = texts, 0

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        self.reads += 1
        return self.texts[i]


def encode(text):
    return np.frombuffer(text.encode(), "uint8")


def test_a_source_is_read_lazily_and_its_lengths_once():
    texts = ["ab" * n for n in (10, 20, 15, 12)]
    source = Source(texts)
    sequence = make(source, encode=encode)
    lengths = source.reads
    assert lengths == len(texts)
    for _ in sequence:
        pass
    assert source.reads <= 2 * len(texts)
    lists = make([encode(t) for t in texts])
    for i in range(len(sequence)):
        for a, b in zip(sequence[i], lists[i], strict=True):
            np.testing.assert_array_equal(a, b)


def test_text_with_an_encoder():
    x, *_ = make(["hello world " * 4, "and so on " * 5], encode=encode)[0]
    assert bytes(x[0].astype("uint8")) == b"hell" or bytes(x[1].astype("uint8")) == b"hell"


BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

LENGTHS = [30, 12, 45, 21, 9]

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "kind": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, n in enumerate(LENGTHS):
            yield str(i), {"text": chr(97 + i) * n, "kind": i % 2}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds the documents in a file format, without a network."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    package = tmp_path_factory.mktemp("path") / "texts_built_here"
    package.mkdir()
    (package / "builder.py").write_text(BUILDER)
    (package / "__init__.py").write_text("")
    # TFDS looks for the files beside a builder's module by its name.
    sys.path.insert(0, str(package.parent))
    try:
        module = importlib.import_module("texts_built_here.builder")
    finally:
        sys.path.pop(0)

    def made(file_format):
        builder = module.Builder(data_dir=package / file_format, file_format=file_format)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        return builder

    return made


def decode(example):
    return {"ids": np.frombuffer(example["text"], "uint8"), "kind": np.asarray(example["kind"])}


def documents_of(rows):
    """`{letter: steps}` of the inputs that count."""
    steps: dict = {}
    for x, _, w in rows:
        ids = x["ids"] if isinstance(x, dict) else x
        for value in ids[w > 0]:
            steps[chr(value)] = steps.get(chr(value), 0) + 1
    return steps


STEPS = {"a": 29, "b": 11, "c": 44, "d": 20, "e": 8}


def test_a_tfds_data_source_of_array_records(build):
    source = build("array_record").as_data_source(split="train")
    sequence = make(source, encode=decode, targets="ids", target_offset=1, max_document_length=None)
    assert documents_of(sequence) == STEPS
    labelled = make(source, encode=decode, targets="kind", label_at="last")
    assert sorted(int(v) for _, y, w in labelled for v in y[w > 0]) == [0, 0, 0, 1, 1]


def test_a_tf_dataset_of_documents(build):
    ids = build("tfrecord").as_dataset(split="train", shuffle_files=False)
    sequence = make(ids, encode=decode, targets="ids", target_offset=1)
    assert documents_of(sequence) == STEPS
    stream = StatefulStream(ids, 2, 4, encode=decode, targets="ids", target_offset=1)
    for _ in range(2):
        assert documents_of(stream) == STEPS
    with pytest.raises(ValueError, match="without an end"):
        make(ids.repeat(), encode=decode)


def docs(*lengths):
    return [np.arange(n) for n in lengths]


def test_waste_is_told_with_its_remedies():
    with pytest.warns(
        UserWarning, match=r"Only 0\.\d\d of all time steps are real.*gives"
    ) as caught:
        make(docs(400, 20, 20, 20), 4, 8)
    assert 'max_document_length="auto"' in str(caught[0].message)


@pytest.mark.parametrize(("boundary", "least"), [("align", 0.98), ("pack", 0.999)])
def test_rows_are_filled_evenly(boundary, least):
    """249 documents of very different lengths, as the State of the Union addresses have."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(10.5, 0.7, 249), 5000, 170_000).astype(int)
    text = np.zeros(lengths.sum(), "uint8")
    sequence = make(np.split(text, np.cumsum(lengths)[:-1]), 32, 128, boundary=boundary)
    assert sequence.utilization >= least


@pytest.mark.parametrize("structure", [
    np.arange(3),
    (np.arange(3), np.ones(2)),
    {"b": np.arange(3), "a": np.ones(2), "Z": np.zeros(0)},
    {None: np.ones(2)},
    (
        {"b": np.arange(3), "a": (np.ones(2), np.float32(4))},
        {"y": np.arange(5)[::2], "x": np.eye(2)},
        0.5,
    ),
    {10: np.ones(1), 2: np.arange(3)},
])  # fmt: skip
def test_checksums_are_those_of_the_arrays_in_the_order_of_keras(structure):
    """Saved fingerprints hold them."""
    expected = 7
    for array in keras.tree.flatten(structure):
        expected = zlib.crc32(np.asarray(array).tobytes(), expected)
    assert checksum(structure, 7) == expected
