"""NumPy's whole numbers are taken wherever Python's are, and bools nowhere."""

import keras
import numpy as np
import pytest

import keras_stateful as ks

pytestmark = pytest.mark.backend_free

IDS = 9
DOCUMENTS = [np.arange(30) % IDS, np.arange(50) % IDS]


def network():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(IDS, 4),
            keras.layers.GRU(6, return_sequences=True),
            keras.layers.Dense(IDS, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def model():
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "text"
    ks.export_step_model(model, directory)
    return directory


def sample(model, every):
    return ks.SampleText(
        "a", 2, encode=lambda s: np.array([1]), decode=str, every=every, write=None
    )


# What takes a number, and what it does with 2.
TAKES = {
    "StatefulSequence(batch_size)": lambda n, m, d: ks.StatefulSequence(DOCUMENTS, n, 8).batch_size,
    "StatefulSequence(sequence_length)": lambda n, m, d: ks.StatefulSequence(DOCUMENTS, 2, n)[0][
        0
    ].shape[1],
    "StatefulStream(batch_size)": lambda n, m, d: ks.StatefulStream(DOCUMENTS, n, 8).batch_size,
    "to_stateful(batch_size)": lambda n, m, d: ks.to_stateful(m, n).batch_size,
    "to_inference(batch_size)": lambda n, m, d: ks.to_inference(m, batch_size=n).batch_size,
    "initial_states(batch_size)": lambda n, m, d: len(ks.initial_states(ks.to_step_model(m), n)[0]),
    "evaluate_documents(batch_size)": lambda n, m, d: len(
        ks.evaluate_documents(m, DOCUMENTS, batch_size=n)["loss"]
    ),
    "predict_documents(sequence_length)": lambda n, m, d: len(
        ks.predict_documents(m, DOCUMENTS, sequence_length=n)
    ),
    "load_session(batch_size)": lambda n, m, d: ks.load_session(d, batch_size=n).batch_size,
    "generate(length)": lambda n, m, d: len(ks.generate(m, [1, 2], n)),
    "generate(top_k)": lambda n, m, d: len(ks.generate(m, [1, 2], 2, top_k=n)),
    "generate(seed)": lambda n, m, d: len(ks.generate(m, [1, 2], 2, seed=n)),
    "SampleText(every)": lambda n, m, d: sample(m, n).every,
    "ValidateDocuments(every)": lambda n, m, d: ks.ValidateDocuments(DOCUMENTS, every=n).every,
    "StateMonitor(every)": lambda n, m, d: ks.StateMonitor(every=n).every,
}


@pytest.mark.parametrize(
    "number", [2, np.int64(2), np.uint8(2), np.array(2)], ids=lambda n: type(n).__name__
)
@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_a_whole_number_of_any_kind(take, number, model, exported):
    found = take(number, model, exported)
    assert found == 2
    assert type(found) is int


WRONG = [
    pytest.param(take, wrong, id=f"{name}-{wrong!r}")
    for name, take in TAKES.items()
    for wrong in (True, np.True_, 2.0, np.float64(2), "2", None)
    if wrong is not None or not any(optional in name for optional in ("evaluate", "top_k", "seed"))
]


@pytest.mark.parametrize(("take", "wrong"), WRONG)
def test_anything_else_is_refused(take, wrong, model, exported):
    with pytest.raises(TypeError, match="must be an int") as error:
        take(wrong, model, exported)
    assert repr(wrong) in str(error.value)


def test_a_model_made_for_a_numpy_number_is_saved(tmp_path):
    ks.to_stateful(network(), np.int64(2)).save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").batch_size == 2


def test_an_export_of_a_numpy_number_of_rows(model, tmp_path):
    ks.export_step_model(model, tmp_path / "text", batch_size=np.int64(2))
    assert ks.load_session(tmp_path / "text", batch_size=2).read([[1, 2], [3, 4]]).shape == (
        2,
        2,
        IDS,
    )


def test_an_error_shows_the_beginning_of_a_long_value():
    """Mixed-up arguments are the usual cause, and then the value is a whole corpus."""
    documents = [np.arange(900)] * 300
    with pytest.raises(TypeError, match=r"`batch_size` must be an int") as error:
        ks.StatefulSequence(2, documents, 16)
    assert len(str(error.value)) < 300
    assert "of type list" in str(error.value)
