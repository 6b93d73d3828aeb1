"""What outputs are was decided in training: which column, and how many time steps ahead.

Whatever scores or dates them later must mean the same. What may have been shifted beforehand, and
what says nothing of time, is read as before.
"""

import pickle

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

pytestmark = pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning")

HORIZONS = [1, 3]
rng = np.random.default_rng(0)
SERIES = [rng.normal(size=(n, 1)).astype("float32") for n in (21, 26, 17)]


def network(outputs=2):
    keras.utils.set_random_seed(1)
    hidden = layers.GRU(2, return_sequences=True)
    return keras.Sequential([keras.Input((None, 1)), hidden, layers.Dense(outputs)])


def fitted(data, outputs=2):
    model = ks.to_stateful(network(outputs), data)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(data, verbose=0)
    return model


def frame():
    pandas = pytest.importorskip("pandas")
    parts = [
        {"pump": k, "pressure": s[:, 0], "flow": s[::-1, 0], "time": np.arange(len(s))}
        for k, s in enumerate(SERIES)
    ]
    return pandas.concat(map(pandas.DataFrame, parts), ignore_index=True)


def of_frame(horizons=HORIZONS, targets="pressure"):
    return ks.StatefulSequence.from_frame(
        frame(),
        by="pump",
        time="time",
        inputs=["pressure"],
        targets=targets,
        horizons=horizons,
        split=0.5,
        batch_size=3,
        sequence_length=4,
        resets=True,
    )


def of_arrays(target_offset=HORIZONS, **arguments):
    arrays = [s[:, 0] for s in SERIES]
    arguments = {"targets": arrays, "target_offset": target_offset, **arguments}
    return ks.StatefulSequence(SERIES, 3, 4, resets=True, **arguments)


@pytest.fixture(scope="module")
def trained():
    """A model of 1 and 3 steps ahead; no test trains it."""
    return fitted(of_frame().training)


def documents(targets="pressure"):
    groups = [part for _, part in frame().groupby("pump")]
    return [part[["pressure"]] for part in groups], [part[targets] for part in groups]


def evaluated(model, offsets):
    x, y = documents()
    return ks.evaluate_documents(model, x, targets=y, target_offset=offsets)


def validated(model, offsets):
    x, y = documents()
    validate = ks.ValidateDocuments(x, targets=y, target_offset=offsets)
    model.fit(of_frame().training, verbose=0, callbacks=[validate])


SCORED = {
    "evaluate": lambda m, o: m.evaluate(of_frame(o).validation, verbose=0),
    "evaluate arrays": lambda m, o: m.evaluate(of_arrays(o), verbose=0),
    "predict": lambda m, o: m.predict(of_frame(o).validation, verbose=0),
    "evaluate_documents": evaluated,
}
OTHERS = {"farther": [1, 6], "in another order": [3, 1]}


def remembering(model, kind, tmp_path):
    if kind == "the model":
        return model
    if kind == "a file":
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
    elif kind == "a pickle":
        copy = pickle.loads(pickle.dumps(model))
    else:
        copy = ks.to_stateful(ks.to_stateless(model), of_frame().training)
    copy.compile(loss="mse")
    return copy


@pytest.mark.parametrize("way", SCORED)
@pytest.mark.parametrize("kind", ["the model", "a file", "a pickle", "a conversion"])
def test_other_time_steps_are_refused_and_the_remedy_is_read(trained, way, kind, tmp_path):
    model, score = remembering(trained, kind, tmp_path), SCORED[way]
    for other in OTHERS.values():
        with pytest.raises(ValueError, match=r"trained to give what stands 1 and 3 time") as caught:
            score(model, other)
        assert "Pass `target_offset=[1, 3]`" in str(caught.value)
    score(model, HORIZONS)


@pytest.mark.parametrize("targets", [None, "given"])
def test_single_steps_and_a_corpus_that_predicts_itself(targets):
    """Shapes agree whatever the offset, so that nothing else would tell."""
    targets = SERIES if targets is None else [s.copy() for s in SERIES]
    model = fitted(of_arrays(1, targets=targets), outputs=1)
    for later in (2, [6]):
        with pytest.raises(ValueError, match="Pass `target_offset=1`"):
            model.evaluate(of_arrays(later, targets=targets), verbose=0)
    model.evaluate(of_arrays([1], targets=targets), verbose=0)


def test_a_validation_in_a_training_goes_by_that_training(trained, tmp_path):
    model = remembering(trained, "a pickle", tmp_path)
    for ahead in ([1, 6], HORIZONS):
        with pytest.raises(ValueError, match="Give both the same `target_offset=`"):
            model.fit(of_frame(ahead).training, validation_data=of_frame([2, 4]).validation)
        # Trained on purpose, it gives other time steps from now on.
        parts = of_frame(ahead)
        model.fit(parts.training, validation_data=parts.validation, verbose=0)
        model.evaluate(parts.validation, verbose=0)
        validated(model, HORIZONS)
        model.evaluate(of_frame().validation, verbose=0)


def test_a_training_on_arrays_leaves_it_unknown(trained, tmp_path):
    model = remembering(trained, "a pickle", tmp_path)
    x = np.zeros((3, 4, 1), "float32")
    model.fit((x, np.zeros(3, bool)), np.zeros((3, 4, 2)), batch_size=3, shuffle=False, verbose=0)
    model.evaluate(of_frame([1, 6]).validation, verbose=0)


def test_what_may_be_shifted_beforehand_is_read_as_before():
    texts = [rng.integers(0, 5, n) for n in (14, 20, 9)]
    data = ks.StatefulSequence(texts, 3, 4, resets=True)
    net = keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(5, 3)])
    net.add(layers.GRU(3, return_sequences=True))
    net.add(layers.Dense(5, activation="softmax"))
    model = ks.to_stateful(net, data)
    model.compile(loss="sparse_categorical_crossentropy")
    model.fit(data, verbose=0)
    x, y = [t[:-1] for t in texts], [t[1:] for t in texts]
    expected = ks.evaluate_documents(model, texts)["loss"]
    for offset in (None, 0):
        scores = ks.evaluate_documents(model, x, targets=y, target_offset=offset)
        np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)
    shifted = ks.StatefulSequence(x, 3, 4, targets=y, resets=True)
    np.testing.assert_allclose(
        model.evaluate(shifted, verbose=0), model.evaluate(data, verbose=0), rtol=1e-5
    )


def test_predictions_that_have_no_targets_are_of_no_time(trained):
    plain = ks.StatefulSequence(SERIES, 3, 4, resets=True)
    predicted = plain.restore(trained.predict(plain, verbose=0))
    whole = ks.predict_documents(trained, SERIES)
    for one, other in zip(predicted, whole, strict=True):
        np.testing.assert_allclose(one[:-1], other[:-1], atol=1e-6)


@pytest.mark.parametrize("way", ["evaluate", "predict", "fit", "evaluate_documents"])
def test_another_single_column_is_refused_by_its_name(trained, way):
    flow = of_frame(targets="flow")
    with pytest.raises(ValueError, match=r"missing \['pressure'\]; unknown \['flow'\]"):
        if way == "evaluate_documents":
            x, y = documents(["flow"])
            ks.evaluate_documents(trained, x, targets=y, target_offset=HORIZONS)
        else:
            getattr(trained, way)(flow.validation, verbose=0)


# Where a call does not say how far ahead


def test_a_key_that_the_model_reads_is_scored_as_in_training():
    corpus = {"load": SERIES, "shifted": [np.roll(s, -2) for s in SERIES]}
    read = {"load": SERIES}
    data = ks.StatefulSequence(read, 3, 4, targets="load", target_offset=2, resets=True)
    load = keras.Input((None, 1), name="load")
    hidden = layers.GRU(2, return_sequences=True)(load)
    model = ks.to_stateful(keras.Model({"load": load}, layers.Dense(1)(hidden)), data)
    model.compile(loss="mse")
    model.fit(data, verbose=0)
    expected = ks.evaluate_documents(model, read, targets="load", target_offset=2)["loss"]
    scores = ks.evaluate_documents(model, read, targets="load")["loss"]
    np.testing.assert_array_equal(scores, expected)
    with pytest.raises(ValueError, match="`target_offset=2`, or `target_offset=0`"):
        ks.evaluate_documents(model, corpus, targets="shifted")
    ends = {key: [part[:-2] for part in parts] for key, parts in corpus.items()}
    scores = ks.evaluate_documents(model, ends, targets="shifted", target_offset=0)["loss"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_corpus_that_predicts_itself_is_scored_as_far_ahead_as_in_training():
    model = fitted(of_arrays(targets=None), outputs=2)
    by_hand = ks.evaluate_documents(model, SERIES, target_offset=HORIZONS)["loss"]
    np.testing.assert_array_equal(ks.evaluate_documents(model, SERIES)["loss"], by_hand)
    validate = ks.ValidateDocuments(SERIES)
    model.fit(of_arrays(targets=None), verbose=0, callbacks=[validate])


def test_arrays_may_be_shifted_or_not_so_that_it_has_to_be_said(trained):
    x, y = documents()
    with pytest.raises(ValueError, match=r"Pass `target_offset=\[1, 3\]`, or `target_offset=0`"):
        ks.evaluate_documents(trained, x, targets=y)
    expected = evaluated(trained, HORIZONS)["loss"]
    shifted = [np.stack([part[1:-2], part[3:]], axis=1) for part in map(np.asarray, y)]
    read = [part[:-3] for part in x]
    scores = ks.evaluate_documents(trained, read, targets=shifted, target_offset=0)
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)


def test_artifacts_remember_as_well(trained, tmp_path):
    """A horizon that is fed back as it is would be taken for the next step."""
    pytest.importorskip("onnxruntime")
    ks.export_step_model(trained, tmp_path / "exported")
    with ks.load_session(tmp_path / "exported") as session:
        assert session.manifest.outputs[0].offsets == (1, 3)
        for model in (session, ks.to_step_model(trained)):
            with pytest.raises(ValueError, match="are not the next time step"):
                ks.generate(model, SERIES[0], 3, next_input=lambda output: output)
            ks.generate(model, SERIES[0], 3, next_input=lambda output: output[:, :1])
