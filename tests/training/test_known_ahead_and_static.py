"""Training, validation and predictions with inputs that are known ahead or static, by hand.

The loop by hand reads each whole document with the stateless model; nothing of the package lays
anything out there.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks

pytestmark = pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning")

LENGTHS = (13, 30, 21)
rng = np.random.default_rng(2)
LOAD = [rng.normal(size=(n, 1)).astype("float32") for n in LENGTHS]
HOUR = [rng.normal(size=(n + 3, 2)).astype("float32") for n in LENGTHS]
CORPUS = {"load": LOAD, "hour": HOUR}
VECTORS = rng.normal(size=(3, 4)).astype("float32")
IDS = np.array([2, 0, 1])


def repeated(hour, machine):
    return layers.Concatenate()([hour, machine]), None


def as_state(hour, machine):
    return hour, layers.Dense(3)(machine)


def added(hour, machine):
    return hour + layers.Reshape((1, 2))(layers.Dense(2)(machine)), None


def scaled_by_ids(hour, machine):
    return hour * ops.expand_dims(layers.Embedding(3, 2)(machine), 1), None


# What the model makes of the static input, its shape, and what each document has.
KINDS = {
    "repeated": (repeated, (None, 4), VECTORS),
    "initial state": (as_state, (4,), VECTORS),
    "added": (added, (4,), VECTORS),
    "ids": (scaled_by_ids, (), IDS),
}


def network(kind, offsets=1):
    keras.utils.set_random_seed(1)
    join, shape, values = KINDS[kind]
    load = keras.Input((None, 1), name="load")
    hour = keras.Input((None, 2 * offsets), name="hour")
    machine = keras.Input(shape, dtype=values.dtype.name, name="machine")
    first = hour if offsets == 1 else layers.Dense(2)(hour)
    read, state = join(first, machine)
    read = layers.Concatenate()([load, read])
    read = layers.GRU(3, return_sequences=True)(read, initial_state=state)
    return keras.Model([hour, machine, load], layers.Dense(1)(read))


def sequence(kind, boundary="align", **kwargs):
    arguments = {"targets": "load", "target_offset": 1, "known_ahead": ["hour"], **kwargs}
    static = {"machine": KINDS[kind][2]}
    return ks.StatefulSequence(
        CORPUS, 2, 6, static=static, boundary=boundary, resets=True, **arguments
    )


def whole(model, kind, steps):
    """Outputs `(steps, 1)` of each document, read as a whole."""
    shape, values = KINDS[kind][1:]
    outputs = []
    for d, n in enumerate(steps):
        machine = values[d : d + 1]
        if shape[:1] == (None,):
            machine = np.repeat(machine[:, None], n, axis=1)
        read = {"load": LOAD[d][None, :n], "hour": HOUR[d][None, 1 : n + 1], "machine": machine}
        output = model([ops.convert_to_tensor(read[tensor.name]) for tensor in model.inputs])
        outputs.append(ops.convert_to_numpy(output)[0])
    return outputs


def mean_loss(model, kind):
    """Over all steps that have a target, of all documents."""
    steps = [n - 1 for n in LENGTHS]
    pairs = zip(whole(model, kind, steps), LOAD, strict=True)
    return np.concatenate([(output - load[1:]) ** 2 for output, load in pairs]).mean()


def compiled(model, rate=0.0):
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_predictions_are_those_of_whole_documents(kind):
    data, plain = sequence(kind), network(kind)
    model = compiled(ks.to_stateful(plain, data))
    static = {"machine": KINDS[kind][2]}
    arguments = {"targets": "load", "target_offset": 1, "known_ahead": ["hour"], "static": static}
    validate = ks.ValidateDocuments(CORPUS, batch_size=2, sequence_length=9, **arguments)
    history = model.fit(data, verbose=0, callbacks=[validate]).history
    expected = mean_loss(plain, kind)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-5)
    # From now on the model remembers what is known ahead.
    del arguments["known_ahead"]
    scores = ks.evaluate_documents(model, CORPUS, sequence_length=7, pooled=True, **arguments)
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)
    predicted = ks.predict_documents(model, CORPUS, sequence_length=7, static=static)
    for one, other in zip(predicted, whole(plain, kind, LENGTHS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("boundary", ["pack", "align"])
def test_training_steps_in_every_layout_and_on_streams(boundary):
    """The gradient of an epoch is that of all steps, whichever window they stand in."""
    data = sequence("repeated", boundary)
    documents = [
        {"load": LOAD[d], "hour": HOUR[d], "machine": VECTORS[d]} for d in range(len(LENGTHS))
    ]
    stream = ks.StatefulStream(
        documents,
        2,
        6,
        targets="load",
        target_offset=1,
        known_ahead=["hour"],
        static=["machine"],
        boundary=boundary,
        resets=True,
    )
    plain = network("repeated")
    for reader in (data, stream):
        model = compiled(ks.to_stateful(plain, reader))
        history = model.fit(reader, epochs=2, verbose=0).history
        expected = mean_loss(plain, "repeated")
        np.testing.assert_allclose(history["loss"], [expected] * 2, rtol=1e-5)


def test_a_stream_hands_vectors_once():
    documents = [
        {"load": LOAD[d], "hour": HOUR[d], "machine": VECTORS[d]} for d in range(len(LENGTHS))
    ]
    arguments = {"targets": "load", "target_offset": 1, "known_ahead": ["hour"]}
    stream = ks.StatefulStream(documents, 2, 6, static=["machine"], resets=True, **arguments)
    plain = network("initial state")
    model = compiled(ks.to_stateful(plain, stream))
    history = model.fit(stream, verbose=0).history
    np.testing.assert_allclose(history["loss"], mean_loss(plain, "initial state"), rtol=1e-5)


def test_one_series_has_one_vector():
    corpus = {"load": LOAD[1], "hour": HOUR[1]}
    data = ks.StatefulSequence(
        corpus,
        1,
        6,
        targets="load",
        target_offset=1,
        known_ahead=["hour"],
        static={"machine": VECTORS[:1]},
        resets=True,
    )
    model = compiled(ks.to_stateful(network("added"), data))
    model.fit(data, verbose=0)
    assert data[0][0]["machine"].shape == (1, 4)


def test_windows_of_several_documents_have_no_vector_of_their_own():
    for boundary in ("pack", "ignore"):
        data = sequence("added", boundary)
        model = compiled(ks.to_stateful(network("added"), data))
        with pytest.raises(ValueError, match=r"`keras.Input\(\(None, ...\), name='machine'\)`"):
            model.fit(data, verbose=0)
        assert int(model.optimizer.iterations) == 0
    data = sequence("repeated", "pack")  # the remedy
    compiled(ks.to_stateful(network("repeated"), data)).fit(data, verbose=0)


def test_an_input_of_another_width_or_along_time_is_no_static_one():
    data = sequence("added")
    model = compiled(ks.to_stateful(network("added"), data))
    for static, says in (
        (VECTORS[:, :3], r"of \(3,\) for each document"),
        (np.arange(12).reshape(3, 4) % 3, None),
    ):
        other = ks.StatefulSequence(
            CORPUS,
            2,
            6,
            targets="load",
            target_offset=1,
            known_ahead=["hour"],
            static={"machine": static},
            resets=True,
        )
        if says is not None:
            with pytest.raises(ValueError, match=says):
                model.fit(other, verbose=0)
    ids = keras.Input((4,), dtype="int32", name="machine")
    read = layers.GRU(3, return_sequences=True)(layers.Embedding(12, 2)(ids))
    load = keras.Input((4, 1), name="load")
    hour = keras.Input((4, 2), name="hour")
    read = layers.Concatenate()([read, layers.GRU(2, return_sequences=True)(load), hour])
    along = keras.Model([ids, load, hour], layers.Dense(1)(read))
    data = ks.StatefulSequence(
        CORPUS,
        2,
        4,
        targets="load",
        target_offset=1,
        known_ahead=["hour"],
        static={"machine": np.arange(12).reshape(3, 4)},
        resets=True,
    )
    with pytest.raises(ValueError, match="reads a static input along time"):
        compiled(ks.to_stateful(along, data)).fit(data, verbose=0)


@pytest.mark.parametrize("kind", ["initial state", "added"])
def test_step_models_and_artifacts_take_the_vector_at_each_step(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    plain = network(kind)
    expected = whole(plain, kind, LENGTHS)[1]
    if kind == "initial state":  # which the graph computes: it is no constant of the artifact
        with pytest.raises(ValueError, match="initial"):
            ks.export_step_model(plain, tmp_path / "exported")
        return
    ks.export_step_model(plain, tmp_path / "exported")
    with ks.load_session(tmp_path / "exported") as session:
        read = {"load": LOAD[1], "hour": HOUR[1][1:-2], "machine": VECTORS[1]}
        once = {key: value[None] for key, value in read.items()}
        np.testing.assert_allclose(session.read(once)[0], expected, atol=1e-5)
    live = ks.to_inference(plain)
    for t in range(5):
        step = [read[tensor.name] for tensor in live.inputs]
        step = [v[None] if v.ndim == 1 else v[None, t : t + 1] for v in step]
        np.testing.assert_allclose(live.predict_on_batch(step)[0, 0], expected[t], atol=1e-5)


# What a model remembers


@pytest.fixture(scope="module")
def trained():
    """A model that reads the hour one step ahead; no test trains it."""
    data = sequence("repeated")
    model = compiled(ks.to_stateful(network("repeated"), data))
    model.fit(data, verbose=0)
    return model


STATIC = {"machine": VECTORS}
AS_READ = {"targets": "load", "target_offset": 1, "static": STATIC}


def misread(known_ahead):
    return ks.StatefulSequence(CORPUS_CUT, 2, 6, known_ahead=known_ahead, resets=True, **AS_READ)


CORPUS_CUT = {"load": LOAD, "hour": [h[:-3] for h in HOUR]}
MISREAD = {
    "fit": lambda m, k: m.fit(misread(k), verbose=0),
    "validation": lambda m, k: m.fit(sequence("repeated"), validation_data=misread(k), verbose=0),
    "evaluate": lambda m, k: m.evaluate(misread(k), verbose=0),
    "predict": lambda m, k: m.predict(misread(k), verbose=0),
    "evaluate_documents": lambda m, k: ks.evaluate_documents(
        m, CORPUS_CUT, known_ahead=k, **AS_READ
    ),
    "predict_documents": lambda m, k: ks.predict_documents(
        m, CORPUS_CUT, known_ahead=k, static=STATIC
    ),
    "ValidateDocuments": lambda m, k: m.fit(
        sequence("repeated"),
        verbose=0,
        callbacks=[ks.ValidateDocuments(CORPUS_CUT, known_ahead=k, **AS_READ)],
    ),
}


@pytest.mark.parametrize("way", MISREAD)
@pytest.mark.parametrize("offsets", [{}, {"hour": 2}], ids=["not ahead", "too far"])
def test_another_step_than_in_training_is_refused(trained, way, offsets):
    steps = int(trained.optimizer.iterations)
    with pytest.raises(ValueError, match=r"The input 'hour' .* is read") as caught:
        MISREAD[way](trained, offsets)
    assert "`known_ahead={'hour': [1]}`" in str(caught.value)
    assert int(trained.optimizer.iterations) == steps


def test_the_remedies_for_another_alignment(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = ks.predict_documents(trained, CORPUS, static=STATIC)
    for arguments in ({}, {"known_ahead": ["hour"]}, {"known_ahead": {"hour": 1}}):
        again = ks.predict_documents(loaded, CORPUS, static=STATIC, **arguments)
        for one, other in zip(again, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"`known_ahead=\{'hour': 1\}`"):
        ks.predict_documents(network("repeated"), CORPUS, known_ahead=["hour"], static=STATIC)
    new = compiled(ks.to_stateful(network("repeated"), misread({})), 0.1)
    new.set_weights(trained.get_weights())
    new.fit(misread({}), verbose=0)


@pytest.mark.parametrize("width", [2, 1, 3])
def test_an_input_that_is_read_at_several_steps_has_columns_times_offsets(width):
    """Two columns at two steps are four; the remedy says what to make, or what to pass."""
    arguments = {"target_offset": [1, 3], "known_ahead": ["hour"], "targets": "load"}
    data = ks.StatefulSequence(CORPUS, 2, 6, resets=True, **arguments)
    load, hour = keras.Input((None, 1), name="load"), keras.Input((None, width), name="hour")
    hidden = layers.GRU(3, return_sequences=True)(layers.Concatenate()([load, hour]))
    model = compiled(ks.to_stateful(keras.Model([load, hour], layers.Dense(2)(hidden)), data))
    with pytest.raises(ValueError, match="columns x offsets = 2 x 2 = 4") as caught:
        model.fit(data, verbose=0)
    assert "`keras.Input((None, 4), name='hour')`" in str(caught.value)
    assert ("pass what is known of each step alone, `(timesteps, 1)`" in str(caught.value)) == (
        width == 2
    )
    hour = keras.Input((None, 4), name="hour")
    hidden = layers.GRU(3, return_sequences=True)(layers.Concatenate()([load, hour]))
    model = compiled(ks.to_stateful(keras.Model([load, hour], layers.Dense(2)(hidden)), data))
    model.fit(data, verbose=0)
    # What is laid out already would be laid out twice; the remedy is what is known of each step.
    twice = {"load": LOAD, "hour": [np.tile(h, 2) for h in HOUR]}
    with pytest.raises(ValueError, match=r"each step alone, `\(timesteps, 2\)`"):
        ks.predict_documents(model, twice)
    assert len(ks.predict_documents(model, CORPUS)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_recorded_beside_a_vector_without_time(kind):
    plain = network(kind)
    machine = KINDS[kind][2][1]
    once = KINDS[kind][1][:1] != (None,)
    n = LENGTHS[1]
    read = {
        "load": LOAD[1],
        "hour": HOUR[1][1 : n + 1],
        "machine": machine if once else np.repeat(machine[None], n, axis=0),
    }
    states = ks.record_states(plain, [read[tensor.name] for tensor in plain.inputs])
    last = next(layer for layer in plain.layers if isinstance(layer, layers.GRU))
    inner = keras.Model(plain.inputs, last.output)
    whole = [read[tensor.name][None] for tensor in plain.inputs]
    expected = inner([ops.convert_to_tensor(part) for part in whole])
    np.testing.assert_allclose(states, ops.convert_to_numpy(expected)[0], atol=1e-5)
    if once and machine.shape:
        with pytest.raises(ValueError, match="has no time axis"):
            read["machine"] = np.repeat(machine[None], n, axis=0)
            ks.record_states(plain, [read[tensor.name] for tensor in plain.inputs])


@pytest.mark.parametrize("kind", ["repeated", "added"])
def test_documents_may_hold_their_own_vectors(kind):
    parts = {"load": LOAD, "hour": HOUR, "machine": KINDS[kind][2]}
    documents = [{key: values[d] for key, values in parts.items()} for d in range(3)]
    arguments = {"known_ahead": {"hour": 1}, "static": ["machine"]}
    got = ks.predict_documents(network(kind), documents, sequence_length=7, **arguments)
    arguments["static"] = {"machine": KINDS[kind][2]}
    expected = ks.predict_documents(network(kind), CORPUS, sequence_length=7, **arguments)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
