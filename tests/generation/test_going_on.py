"""`generate(states=)`: from what was read before, as if all had been read at once."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

LENGTHS = (90, 131, 70)
NEW = (1, 30, 7)  # time steps of each row that have come since
rng = np.random.default_rng(0)
SERIES = [rng.normal(size=(n, 2)).astype("float32") for n in LENGTHS]
HOUR = [rng.normal(size=(n + 20, 1)).astype("float32") for n in LENGTHS]
TEXTS = [rng.integers(0, 7, n) for n in LENGTHS]
BEFORE = [n - new for n, new in zip(LENGTHS, NEW, strict=True)]


def stacked(features=2, outputs=2):
    """Layers with one state and with two, a convolution, and one layer that is called twice."""
    keras.utils.set_random_seed(1)
    read = keras.Input((None, features))
    h = layers.Conv1D(3, 3, padding="causal")(read)
    shared = layers.GRU(3, return_sequences=True)
    h = shared(shared(layers.LSTM(3, return_sequences=True)(h)))
    return keras.Model(read, layers.Dense(outputs)(h))


def of_ids():
    keras.utils.set_random_seed(1)
    hidden = [layers.Embedding(7, 3), layers.LSTM(4, return_sequences=True, name="recurrent")]
    return keras.Sequential([keras.Input((None,), dtype="int32"), *hidden, layers.Dense(7)])


def read(model, documents):
    """The states behind what came before, and the time steps that have come since."""
    before = [d[:n] for d, n in zip(documents, BEFORE, strict=True)]
    states = ks.predict_documents(model, before, return_states=True)[1]
    return states, [d[n:] for d, n in zip(documents, BEFORE, strict=True)]


def as_it_is(output):
    return output


SIGNALS = {
    "compiled": {"next_input": as_it_is, "compile_next_input": True},
    "called": {"next_input": as_it_is},
}


@pytest.mark.parametrize("how", SIGNALS)
@pytest.mark.parametrize("convert", [None, ks.to_inference, ks.to_step_model])
def test_signals_go_on_as_if_all_had_been_read(how, convert):
    model = stacked()
    states, since = read(model, SERIES)
    model = model if convert is None else convert(model)
    expected = ks.generate(model, SERIES, 9, **SIGNALS[how])
    got = ks.generate(model, since, 9, states=states, **SIGNALS[how])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    streamed = ks.stream(model, since, 9, states=states, **SIGNALS[how])
    np.testing.assert_allclose(np.stack(list(streamed), axis=1), expected, atol=1e-5)


def test_ids_go_on_as_if_all_had_been_read_and_files_keep_states(tmp_path):
    model = of_ids()
    states, since = read(model, TEXTS)
    ks.save_states(tmp_path / "read.npz", states)
    loaded = ks.load_states(tmp_path / "read.npz")
    for options in ({"temperature": 0}, {"seed": 3}):
        expected = ks.generate(model, TEXTS, 12, **options)
        np.testing.assert_array_equal(
            ks.generate(model, since, 12, states=loaded, **options), expected
        )
    one = {key: [array[1:2] for array in arrays] for key, arrays in states.items()}
    alone = ks.generate(model, since[1], 12, temperature=0, states=one)
    np.testing.assert_array_equal(alone, ks.generate(model, TEXTS[1], 12, temperature=0))


def test_states_and_model_are_left_as_they_were():
    model = ks.to_stateful(of_ids(), 3)
    states, since = read(model, TEXTS)
    kept = {key: [np.array(a) for a in arrays] for key, arrays in states.items()}
    before = ks.get_states(model)
    ks.generate(model, since, 4, temperature=0, states=states)
    for key, arrays in states.items():
        for one, other in zip(arrays, kept[key], strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(before[key], ks.get_states(model)[key], strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_known_ahead_goes_on_beside():
    documents = {"load": SERIES, "hour": HOUR}
    data = ks.StatefulSequence(
        documents, 3, 8, targets="load", target_offset=1, known_ahead=["hour"], resets=True
    )
    load, hour = keras.Input((None, 2), name="load"), keras.Input((None, 1), name="hour")
    h = layers.GRU(3, return_sequences=True)(layers.Concatenate()([load, hour]))
    model = ks.to_stateful(keras.Model([load, hour], layers.Dense(2)(h)), data)
    model.compile("sgd", "mse")
    model.fit(data, verbose=0)
    # The last step that is read looks one step ahead.
    before = {
        "load": [d[:n] for d, n in zip(SERIES, BEFORE, strict=True)],
        "hour": [d[: n + 1] for d, n in zip(HOUR, BEFORE, strict=True)],
    }
    states = ks.predict_documents(model, before, return_states=True)[1]
    whole = {"load": SERIES, "hour": [d[:n] for d, n in zip(HOUR, LENGTHS, strict=True)]}
    since = {k: [d[n:] for d, n in zip(whole[k], BEFORE, strict=True)] for k in whole}
    future = {"hour": [d[n:][:6] for d, n in zip(HOUR, LENGTHS, strict=True)]}
    expected = ks.generate(model, whole, 6, future=future)
    got = ks.generate(model, since, 6, future=future, states=states)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_session_goes_on_and_stays_where_it_is(tmp_path):
    pytest.importorskip("onnxruntime")
    model = of_ids()
    states, since = read(model, TEXTS)
    ks.export_step_model(model, tmp_path / "exported")
    with ks.load_session(tmp_path / "exported") as session:
        before = session.get_states()
        got = ks.generate(session, since, 9, temperature=0, states=states)
        np.testing.assert_array_equal(got, ks.generate(model, TEXTS, 9, temperature=0))
        for key, arrays in session.get_states().items():
            np.testing.assert_array_equal(arrays[0], before[key][0])
        with pytest.raises(ValueError, match="made by other weights"):
            ks.generate(session, since, 9, states=other_weights(states))
        with pytest.raises(ValueError, match="a row for each prompt"):
            ks.stream(session, since[:2], 9, states=states)


def other_weights(states):
    model = of_ids()
    model.set_weights([w + 0.1 for w in model.get_weights()])
    return read(model, TEXTS)[0]


def test_states_of_others_are_refused_when_called():
    model = of_ids()
    states, since = read(model, TEXTS)
    key = next(iter(states))
    spoiled = {key: [np.full_like(a, np.nan) for a in states[key]]}
    refused = [
        (since, other_weights(states), "made by other weights"),
        (since[:2], states, "states of 3 rows for 2 prompts"),
        (since, {"gru": states[key]}, "an entry for each recurrent layer"),
        (since, spoiled, "must be finite"),
        ([*since[:2], []], states, "prompt"),
    ]
    for prompt, of, says in refused:
        for call in (ks.generate, ks.stream):
            with pytest.raises((ValueError, TypeError), match=says):
                call(model, prompt, 3, states=of)
    with pytest.raises(TypeError, match="as `get_states` gives"):
        ks.generate(model, since, 3, states=[states])
