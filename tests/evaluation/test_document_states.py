"""Going on: to read A, and then B from the states behind it, is to read A and B.

Documents of different lengths are read side by side, so that the state of each is that at its own
last step: before padding, and before the next document of its row.
"""

import copy
import pickle

import keras
import numpy as np
import pytest
import zoo
from releases import SLIDING_WINDOW

import keras_stateful as ks

# Where the windows of 10 steps end: before the end, at it, before the first one, and in between.
LENGTHS, CUTS = [37, 23, 5, 30, 12, 20], [21, 20, 3, 10, 11, 9]


def documents(model, lengths, seed=0):
    """Documents for a model of the zoo: arrays, or dicts of these."""
    whole = zoo.data(model, len(lengths), max(lengths), seed)
    names = [t.name for t in model.inputs]
    if len(names) == 1:
        return [whole[0][k, :n] for k, n in enumerate(lengths)]
    return [
        {name: a[k, :n] for name, a in zip(names, whole, strict=True)}
        for k, n in enumerate(lengths)
    ]


def part(document, steps):
    return keras.tree.map_structure(lambda a: a[steps], document)


def assert_close(got, expected, atol=1e-6):
    """The arrays of two structures."""
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_goes_on(model, docs, cuts, rows, window, **arguments):
    before = [part(d, slice(c)) for d, c in zip(docs, cuts, strict=True)]
    after = [part(d, slice(c, None)) for d, c in zip(docs, cuts, strict=True)]
    sizes = {"batch_size": rows, "sequence_length": window, **arguments}
    whole, at_end = ks.predict_documents(model, docs, return_states=True, **sizes)
    first, states = ks.predict_documents(model, before, return_states=True, **sizes)
    then, end = ks.predict_documents(model, after, states=states, return_states=True, **sizes)
    outputs = (keras.tree.flatten(each) for each in (whole, first, then))
    for one_pass, *parts in zip(*outputs, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), one_pass, rtol=0, atol=1e-6)
    assert list(end) == list(at_end) == list(states)
    lengths = [len(keras.tree.flatten(d)[0]) for d in docs]
    assert states.steps.tolist() == list(cuts)
    assert end.steps.tolist() == at_end.steps.tolist() == lengths
    assert_close(dict(end), dict(at_end))
    return at_end


def causal():
    """Layers that hold their last inputs, and what they attend to."""
    keras.utils.set_random_seed(7)
    x = keras.Input((None, zoo.FEATURES))
    h = keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2)(x)
    if SLIDING_WINDOW:
        attention = keras.layers.MultiHeadAttention(2, 4, sliding_window=5)
        h = attention(h, h, use_causal_mask=True)
    return keras.Model(x, keras.layers.GRU(3, return_sequences=True)(h))


class Learned(keras.layers.Layer):
    """An initial state: a vector, one copy for each row of the input."""

    def build(self, shape):
        self.start = self.add_weight(shape=(4,), initializer="ones", name="start")

    def call(self, x):
        start = keras.ops.convert_to_tensor(self.start)
        return keras.ops.broadcast_to(start, (keras.ops.shape(x)[0], 4))


def learned():
    """A graph that gives the initial state."""
    keras.utils.set_random_seed(7)
    x = keras.Input((None, zoo.FEATURES))
    gru = keras.layers.GRU(4, return_sequences=True)
    return keras.Model(x, gru(x, initial_state=Learned()(x)))


OTHERS = {"causal": causal, "learned": learned}
MODELS = ["gru", "stacked_cells", "custom_cell", "shared", "two_outputs", "masking", "mask_two"]


@pytest.mark.parametrize("name", [*MODELS, "conv_lstm", "nested", "causal", "learned"])
def test_reading_on_is_reading_in_one_pass(name):
    model = OTHERS[name]() if name in OTHERS else zoo.build(name)
    docs = documents(model, LENGTHS)
    if name == "masking":
        for d in docs:
            d[::3] = 0
    assert_goes_on(model, docs, CUTS, rows=2, window=10)


def test_an_input_without_time_is_read_with_each_part():
    keras.utils.set_random_seed(7)
    x = keras.Input((None, zoo.FEATURES), name="x")
    kind = keras.Input((10,), name="kind")  # as many features as a window has steps
    h = keras.layers.GRU(4, return_sequences=True)(x)
    scaled = keras.layers.Dense(4)(kind)[:, None] * h
    model = keras.Model({"x": x, "kind": kind}, keras.layers.GRU(3, return_sequences=True)(scaled))
    rng = np.random.default_rng(0)
    docs = [{"x": rng.standard_normal((n, zoo.FEATURES)).astype("float32")} for n in LENGTHS]
    kinds = rng.standard_normal((len(docs), 10)).astype("float32")
    assert_goes_on(model, docs, CUTS, rows=2, window=10, static={"kind": kinds})


@pytest.mark.parametrize(("rows", "window"), [(None, 128), (6, 4), (1, 1), (4, 9)])
def test_states_are_those_of_each_document_by_itself(rows, window):
    model = zoo.build("lstm")
    docs = documents(model, LENGTHS)
    _, states = ks.predict_documents(
        model, docs, batch_size=rows, sequence_length=window, return_states=True
    )
    live = ks.to_inference(model)
    for k, d in enumerate(docs):
        ks.reset_states(live)
        for steps in (slice(0, 3), slice(3, None)):  # two shapes for most, to compile little
            if len(d[steps]):
                for x in d[steps] if steps.stop is None else [d[steps]]:
                    live.predict_on_batch(x.reshape(1, -1, zoo.FEATURES))
        for key, arrays in ks.get_states(live).items():
            assert_close([a[k : k + 1] for a in states[key]], arrays)


def test_states_go_through_files_into_models_and_sessions(tmp_path):
    model = zoo.build("gru")
    docs = documents(model, [9, 14, 6])
    whole = ks.predict_documents(model, docs)
    _, states = ks.predict_documents(
        model, [d[:5] for d in docs], sequence_length=4, return_states=True
    )
    ks.save_states(tmp_path / "states.npz", states)
    loaded = ks.load_states(tmp_path / "states.npz")
    after = ks.predict_documents(model, [d[5:] for d in docs], states=loaded, start=1)
    for got, expected in zip(after, whole, strict=True):
        np.testing.assert_allclose(got, expected[6:], atol=1e-6)
    live = ks.to_inference(model, 3)
    ks.set_states(live, loaded)
    step = live.predict_on_batch(np.stack([d[5:6] for d in docs]))
    np.testing.assert_allclose(step[:, 0], [w[5] for w in whole], atol=1e-6)
    # And the other way round: the states of a model that was fed are those of documents.
    states = ks.get_states(live)
    two = [np.resize(d[6:8], (2, zoo.FEATURES)) if len(d) > 6 else d[:2] for d in docs]
    after = ks.predict_documents(model, two, states=states)
    np.testing.assert_allclose(after[1], whole[1][6:8], atol=1e-6)


def test_states_say_how_many_steps_of_each_document_were_read(tmp_path):
    """Also where what is known ahead ends early, and through files, copies and pickles."""
    keras.utils.set_random_seed(7)
    x = {name: keras.Input((None, 1), name=name) for name in ("load", "hour")}
    h = keras.layers.GRU(3, return_sequences=True)(keras.layers.Concatenate()(list(x.values())))
    model = keras.Model(x, h)
    given = {name: [np.ones((n, 1), "float32") for n in LENGTHS] for name in x}
    read, states = ks.predict_documents(
        model, given, known_ahead={"hour": 3}, return_states=True, sequence_length=8
    )
    steps = [n - 3 for n in LENGTHS]
    assert [len(r) for r in read] == steps
    ks.save_states(tmp_path / "states.npz", states)
    loaded = ks.load_states(tmp_path / "states.npz")
    again = pickle.loads(pickle.dumps(loaded))
    for same in (states, loaded, states.copy(), copy.deepcopy(loaded), again):
        assert same.steps.tolist() == steps
        assert same.steps.dtype == "int64"
        assert f"steps read {steps}".replace(",", "") in repr(same).replace("  ", " ")
        assert same.fingerprint[:12] in repr(same)
    more = {name: [np.ones((9, 1), "float32")] * len(LENGTHS) for name in x}
    on = {"known_ahead": {"hour": 3}, "return_states": True}
    _, twice = ks.predict_documents(model, more, states=loaded, **on)
    assert twice.steps.tolist() == [n + 6 for n in steps]
    for uncounted in (dict(loaded), {k: list(v) for k, v in loaded.items()}):
        _, unknown = ks.predict_documents(model, more, states=uncounted, **on)
        assert unknown.steps is None
        assert "steps" not in repr(unknown)
    assert ks.get_states(ks.to_inference(model)).steps is None
    fewer = keras.tree.map_structure(lambda a: a[:2], dict(states))
    loaded.clear()
    loaded.update(fewer)  # the rows of others: their steps are not written
    ks.save_states(tmp_path / "states.npz", loaded)
    assert ks.load_states(tmp_path / "states.npz").steps is None


def test_states_leave_no_trace_and_are_left_alone():
    model = ks.to_stateful(zoo.build("gru"), 2)
    docs = documents(zoo.build("gru"), [9, 14])
    model.predict_on_batch(np.stack([d[:3] for d in docs]))
    before = ks.get_states(model)
    _, states = ks.predict_documents(model, docs, return_states=True)
    kept = {key: [a.copy() for a in arrays] for key, arrays in states.items()}
    ks.predict_documents(model, docs, states=states, reduce="last")
    assert_close(dict(ks.get_states(model)), dict(before), atol=0)
    assert_close(dict(states), kept, atol=0)


def test_states_of_other_weights_layers_or_documents_are_refused():
    model = ks.to_stateful(zoo.build("gru"), 2)
    docs = documents(zoo.build("gru"), [9, 14])
    _, states = ks.predict_documents(model, docs, return_states=True)
    with pytest.raises(ValueError, match=r"(3, 4).*row for each document, here 3"):
        ks.predict_documents(model, [*docs, docs[0]], states=states)
    _, others = ks.predict_documents(zoo.build("lstm"), docs, return_states=True)
    with pytest.raises(ValueError, match=r"entry for each recurrent layer.*lstm"):
        ks.predict_documents(model, docs, states=others)
    with pytest.raises(TypeError, match=r"`return_states` must be True or False"):
        ks.predict_documents(model, docs, return_states="no")
    model.set_weights([w + 0.1 for w in model.get_weights()])  # as a training does
    with pytest.raises(ValueError, match=r"made by other weights"):
        ks.predict_documents(model, docs, states=states)
    assert len(ks.predict_documents(model, docs, states=dict(states))) == 2
