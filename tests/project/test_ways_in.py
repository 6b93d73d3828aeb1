"""Law 12: no way in is weaker than another, as one table.

    what is called  x  what data are given as  x  what is scored

Each cell is right, as a hand's sum over one long call of the network says, or it is refused before
anything is read, with what was received and a remedy. A cell that is in no row fails.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks

ROWS, WINDOW, FEATURES, LENGTHS = 2, 4, 2, (11, 6)
RIGHT, REFUSED = "right", "refused"


# What is scored: targets and weights of the same documents, by each kind


@dataclass
class Scored:
    """A corpus, and what the network makes of it.

    Attributes:
        model: converted, compiled, learns nothing.
        documents: `(timesteps, FEATURES)` each.
        arguments: of `StatefulSequence`.
        outputs: of the network for each document in one call, `(timesteps, 1)`.
        loss: the mean over the steps that count, by hand.
    """

    model: keras.Model
    documents: list[np.ndarray]
    arguments: dict[str, Any]
    outputs: list[np.ndarray]
    loss: float

    @property
    def sequence(self) -> ks.StatefulSequence:
        return ks.StatefulSequence(self.documents, ROWS, WINDOW, resets=True, **self.arguments)


def scored(kind: str) -> Scored:
    rng = np.random.default_rng(0)
    documents = [rng.random((n, FEATURES)).astype("float32") for n in LENGTHS]
    targets = [rng.random((n, 1)).astype("float32") for n in LENGTHS]
    weights = [np.ones(n, "float32") for n in LENGTHS]
    arguments = {"targets": targets}
    if kind == "weights":
        weights = [rng.integers(0, 3, n).astype("float32") for n in LENGTHS]
        arguments["sample_weight"] = weights
    elif kind == "labels":
        labels = rng.random(len(LENGTHS)).astype("float32")
        targets = [np.full((n, 1), label) for label, n in zip(labels, LENGTHS, strict=True)]
        arguments["targets"] = labels
    elif kind == "masks":
        for document, weight in zip(documents, weights, strict=True):
            document[1::3] = 0.0  # what `Masking` masks
            weight[1::3] = 0.0
    keras.utils.set_random_seed(1)
    network = keras.Sequential([
        keras.Input((None, FEATURES), name="x"),
        *([layers.Masking()] if kind == "masks" else []),
        layers.GRU(3, return_sequences=True),
        layers.Dense(1),
    ])  # fmt: skip
    outputs = [ops.convert_to_numpy(network(d[None]))[0] for d in documents]
    errors = np.concatenate([np.square(p - t)[:, 0] for p, t in zip(outputs, targets, strict=True)])
    loss = float(np.average(errors, weights=np.concatenate(weights)))
    made = Scored(network, documents, arguments, outputs, loss)
    made.model = ks.to_stateful(network, made.sequence)
    made.model.compile(keras.optimizers.SGD(0.0), "mse", weighted_metrics=["mse"])
    return made


FLAT = Path(__file__).resolve().parents[1] / "fixtures" / "flat"  # an artifact, and its outputs
KINDS = ["targets", "weights", "labels", "masks"]


@pytest.fixture(scope="module")
def corpora() -> Iterator[dict[str, Scored]]:
    if keras.backend.backend() != "tensorflow":
        yield {kind: scored(kind) for kind in KINDS}
        return
    import tensorflow as tf

    # What is compiled is read once, and most of the time would go into it.
    tf.config.run_functions_eagerly(True)
    yield {kind: scored(kind) for kind in KINDS}
    tf.config.run_functions_eagerly(False)


# What data are given as


def stream_of(corpus: Scored) -> ks.StatefulStream:
    arguments = {**corpus.arguments}
    columns = {"targets": arguments.pop("targets"), **arguments}
    documents = [
        {"x": d, **{k: v[i] for k, v in columns.items()}} for i, d in enumerate(corpus.documents)
    ]
    weight = {"sample_weight": "sample_weight"} if "sample_weight" in columns else {}
    return ks.StatefulStream(documents, ROWS, WINDOW, targets="targets", resets=True, **weight)


def frames_of(corpus: Scored) -> list:
    pandas = pytest.importorskip("pandas")
    return [pandas.DataFrame(d, columns=["a", "b"]) for d in corpus.documents]


def windows_of(corpus: Scored) -> tuple:
    """All batches one after the other: inputs, targets and weights, as Keras takes arrays."""
    sequence = corpus.sequence
    batches = [sequence[i] for i in range(len(sequence))]
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


class Windows(keras.utils.PyDataset):
    """Batches as a user's own dataset gives them."""

    def __init__(self, sequence):
        super().__init__()
        self.batches = [sequence[i] for i in range(len(sequence))]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


FORMS: dict[str, Callable[[Scored], Any]] = {
    "array": lambda corpus: corpus.documents[0],
    "arrays": windows_of,
    "frame": lambda corpus: frames_of(corpus)[0],
    "frames": frames_of,
    "list": lambda corpus: corpus.documents,
    "dict": lambda corpus: {"x": corpus.documents},
    "records": lambda corpus: [{"x": d} for d in corpus.documents],
    "dataset": lambda corpus: Windows(corpus.sequence),
    "sequence": lambda corpus: corpus.sequence,
    "stream": stream_of,
    "iterator": lambda corpus: (corpus.sequence[i] for i in range(len(corpus.sequence))),
}


# What is called; each gives its numbers, and those that are right


def as_arguments(data: Any) -> tuple[tuple, dict]:
    """Data as `fit` and `evaluate` take them: windows in three arguments, others in one."""
    if isinstance(data, tuple):
        x, y, weight = data
        return (x, y), {"sample_weight": weight}
    return (data,), {}


def fit(corpus, data):
    arguments, more = as_arguments(data)
    if hasattr(data, "__next__"):
        more["steps_per_epoch"] = len(corpus.sequence)
    if not isinstance(data, (ks.StatefulSequence, ks.StatefulStream)):
        more["shuffle"] = False
    history = corpus.model.fit(*arguments, verbose=0, **more).history
    return [history["loss"][0], history["mse"][0]], corpus.loss


def evaluate(corpus, data):
    arguments, more = as_arguments(data)
    return corpus.model.evaluate(*arguments, verbose=0, **more), corpus.loss


def validation_data(corpus, data):
    history = corpus.model.fit(corpus.sequence, validation_data=data, verbose=0).history
    return [history["val_loss"][0], history["val_mse"][0]], corpus.loss


def validate_documents(corpus, data):
    watch = ks.ValidateDocuments(data, **corpus.arguments)
    history = corpus.model.fit(corpus.sequence, verbose=0, callbacks=[watch]).history
    return [history["val_loss"][0], history["val_mse"][0]], corpus.loss


def evaluate_documents(corpus, data):
    scores = ks.evaluate_documents(corpus.model, data, pooled=True, **corpus.arguments)
    return list(scores.values()), corpus.loss


def predict(corpus, data):
    ks.reset_states(corpus.model)
    if isinstance(data, tuple):
        predicted = corpus.model.predict(data[0], batch_size=ROWS, verbose=0)
    else:
        predicted = corpus.model.predict(data, verbose=0)
    counts = windows_of(corpus)[2] > 0
    expected = corpus.model.predict(corpus.sequence, verbose=0)
    restored = corpus.sequence.restore(expected)
    for given, output in zip(restored, corpus.outputs, strict=True):
        np.testing.assert_allclose(given, output, atol=1e-5)
    if isinstance(data, ks.StatefulStream):  # which deals documents to rows as it meets them
        values = np.sort(predicted.ravel())
        assert np.isin(np.round(np.concatenate(corpus.outputs), 4), np.round(values, 4)).all()
        return [0.0], 0.0
    return predicted[counts], expected[counts]


def predict_on_batch(corpus, data):
    """One batch after the other, where the data are windows."""
    ks.reset_states(corpus.model)
    if isinstance(data, tuple):
        starts = range(0, len(data[1]), ROWS)
        batches = [
            keras.tree.map_structure(lambda a, i=i: a[i : i + ROWS], data[0]) for i in starts
        ]
    else:
        batches = [data]
    predicted = np.concatenate([corpus.model.predict_on_batch(x) for x in batches])
    counts = windows_of(corpus)[2] > 0
    return predicted[counts], corpus.model.predict(corpus.sequence, verbose=0)[counts]


def predict_documents(corpus, data):
    predicted = ks.predict_documents(corpus.model, data, sequence_length=WINDOW)
    return np.concatenate(predicted), np.concatenate(corpus.outputs)


def generate(corpus, data):
    """The next output of a network that reads what `next_input` makes of the last."""

    def zeros(output):
        return np.zeros((*np.shape(output)[:-1], FEATURES), "float32")

    made = ks.generate(corpus.model, data, 1, next_input=zeros)
    return np.ravel(made), np.ravel([o[-1] for o in corpus.outputs][: len(np.ravel(made))])


# The table: for each call, the forms that are right; every other is refused.
WINDOWS = {"arrays", "dataset", "sequence", "stream", "iterator"}
DOCUMENTS = {"frames", "list", "dict", "records"}
TABLE: dict[Callable, set[str]] = {
    fit: WINDOWS,
    evaluate: WINDOWS,
    validation_data: WINDOWS,
    validate_documents: DOCUMENTS,
    evaluate_documents: DOCUMENTS,
    predict: WINDOWS,
    predict_on_batch: {"arrays"},
    predict_documents: DOCUMENTS,
    generate: {"array", "frame", "frames", "list", "dict"},
}
CELLS = list(itertools.product(TABLE, FORMS, KINDS))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("call", "form", "kind"), CELLS, ids=lambda part: getattr(part, "__name__", part)
)
def test_each_way_in_is_right_or_refused(corpora, call, form, kind):
    corpus = corpora[kind]
    data = FORMS[form](corpus)
    before = corpus.model.get_weights()
    try:
        values, expected = call(corpus, data)
        outcome = RIGHT
    except (ValueError, TypeError) as error:
        outcome, message = REFUSED, str(error)
    assert outcome == (RIGHT if form in TABLE[call] else REFUSED), locals().get("message")
    if outcome == RIGHT:
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    else:
        assert "Received:" in message, message
    for a, b in zip(corpus.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


# A session imports no Keras, and reads arrays and what NumPy makes of lists.


def ids_as(form: str, ids: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return {
        "array": ids[0],
        "arrays": ids,
        "frame": pandas.DataFrame({"ids": ids[0]}),
        "frames": [pandas.DataFrame({"ids": ids[0]})],
        "list": [list(map(int, ids[0]))],
        "dict": {"ids": ids},
        "records": [{"ids": ids[0]}],
        "dataset": Windows(ks.StatefulSequence([ids[0], ids[0]], 1, 4)),
        "sequence": ks.StatefulSequence([ids[0], ids[0]], 1, 4),
        "stream": ks.StatefulStream([ids[0]], 1, 4),
        "iterator": (row for row in ids),
    }[form]


@pytest.mark.backend_free
@pytest.mark.parametrize("form", FORMS)
def test_each_way_into_a_session_is_right_or_refused(form):
    with np.load(FLAT / "expected.npz") as arrays:
        ids, scores = arrays["ids"], arrays["scores"]
    with ks.load_session(FLAT / "onnx") as session:
        if form in ("arrays", "list", "dict"):
            np.testing.assert_allclose(session.read(ids_as(form, ids)), scores, atol=1e-5)
            return
        with pytest.raises(ValueError, match="must have shape .* Received: "):
            session.read(ids_as(form, ids))
