"""Sub-models: how their inputs are wired, masks at their borders, names, one layer on two paths."""

import keras
import numpy as np
import passes
import pytest
from keras import layers, ops

import keras_stateful as ks

ROWS, STEPS = 2, 12


def signal(name=None):
    return keras.Input((None, 3), name=name)


def lstm(units=3, **options):
    return layers.LSTM(units, return_sequences=True, **options)


def data(*names):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((ROWS, STEPS, 3)).astype("float32") for _ in names or "x"]
    return dict(zip(names, arrays, strict=True)) if names else arrays[0]


# Inputs in a dict


def _difference(x, y):
    return layers.Subtract()([lstm()(x), layers.Dense(3)(y)])


def dict_sub_model(outer_first, inner_first, *, recurrent=True):
    """A sub-model called with a dict, whose inputs are a dict or a list."""
    keras.utils.set_random_seed(1)
    p, q = signal("p"), signal("q")
    inner = {"left": signal("left"), "right": signal("right")}
    body = _difference if recurrent else (lambda x, y: layers.Subtract()([x, layers.Dense(3)(y)]))
    order = ["left", "right"] if inner_first == "left" else ["right", "left"]
    inputs = inner if inner_first == "dict" else [inner[name] for name in order]
    sub = keras.Model(inputs, body(inner["left"], inner["right"]), name="sub")
    call = {"left": p, "right": q} if outer_first == "left" else {"right": q, "left": p}
    return keras.Model([p, q], lstm()(sub(call)))


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("inner", ["dict", "left", "right"])
def test_a_sub_model_called_with_a_dict_is_wired_by_its_keys(inner, recurrent):
    model = dict_sub_model("right", inner, recurrent=recurrent)
    passes.assert_one_pass(model, list(data("p", "q").values()))


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("names", [("b", "a"), ("a", "b"), (None, None)])
def test_a_dict_of_inputs_is_fed_by_its_keys_whatever_the_tensors_are_called(names, tmp_path):
    keras.utils.set_random_seed(1)
    inputs = {"x": signal(names[0]), "y": signal(names[1])}
    model = keras.Model(inputs, _difference(inputs["x"], inputs["y"]))
    x = data("x", "y")
    passes.assert_one_pass(model, x)
    expected = model.predict_on_batch(x)
    training = ks.to_stateful(model, ROWS, resets="window")
    y = training.predict_on_batch({**x, "resets": np.ones(ROWS, bool)})
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    ks.export_step_model(training, tmp_path / "out")
    session = ks.load_session(tmp_path / "out", batch_size=ROWS)
    np.testing.assert_allclose(session.read(x), expected, rtol=0, atol=1e-5)
    documents = {key: list(arrays) for key, arrays in x.items()}
    predicted = ks.predict_documents(model, documents, sequence_length=5)
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_a_sub_model_in_a_sub_model_is_wired_by_its_keys():
    keras.utils.set_random_seed(1)
    keys = {"u": signal("second"), "v": signal("first")}
    core = keras.Model(keys, _difference(keys["u"], keys["v"]), name="core")
    a, b = signal(), signal()
    shell = keras.Model([a, b], core({"v": b, "u": a}), name="shell")
    p, q = signal("p"), signal("q")
    passes.assert_one_pass(keras.Model([p, q], shell([p, q])), list(data("p", "q").values()))


# Masks


def _mask(x):
    return ops.greater(x[:, :, 0], 0.0)


def mask_given_to_a_sub_model():
    x, i = signal(), signal()
    sub = keras.Model(i, layers.GRU(3, return_sequences=True)(i), name="sub")
    return keras.Model(x, sub(x, mask=_mask(x)))


def mask_given_to_a_sub_model_of_two_inputs():
    x, i, j = signal(), signal(), signal()
    both = layers.Concatenate()([lstm()(i), layers.GRU(3, return_sequences=True)(j)])
    sub = keras.Model([i, j], both, name="sub")
    return keras.Model(x, sub([x, x * 2.0], mask=[_mask(x), _mask(-x)]))


def mask_given_to_a_sequential_in_a_sub_model():
    x, i = signal(), signal()
    inner = keras.Sequential([signal(), lstm(), layers.Dense(3)], name="inner")
    outer = keras.Model(i, inner(i), name="outer")
    return keras.Model(x, lstm()(outer(x, mask=_mask(x))))


def mask_that_leaves_a_sub_model():
    x = signal()
    masked = keras.Sequential([signal(), layers.Masking(), layers.Dense(3)], name="masked")
    return keras.Model(x, lstm()(masked(x)))


def mask_that_enters_a_sub_model():
    x, i = signal(), signal()
    sub = keras.Model(i, layers.Dense(2)(lstm()(i)), name="sub")
    return keras.Model(x, sub(layers.Masking()(x)))


def mask_that_crosses_two_sub_models():
    x = signal()
    first = keras.Sequential([signal(), layers.Masking(), lstm()], name="first")
    second = keras.Sequential([signal(), layers.GRU(3, return_sequences=True)], name="second")
    return keras.Model(x, second(first(x)))


MASKS = [
    mask_given_to_a_sub_model,
    mask_given_to_a_sub_model_of_two_inputs,
    mask_given_to_a_sequential_in_a_sub_model,
    mask_that_leaves_a_sub_model,
    mask_that_enters_a_sub_model,
    mask_that_crosses_two_sub_models,
]


def masked_data():
    x = data()
    x[:, [0, 4, 5, 9]] = 0  # steps that open a stream and a window, and some inside
    x[1, 6] = 0
    return x


@pytest.mark.parametrize("make", MASKS)
def test_masks_cross_the_borders_of_sub_models(make, tmp_path):
    keras.utils.set_random_seed(1)
    model, x = make(), masked_data()
    passes.assert_one_pass(model, x)
    expected = model.predict_on_batch(x)
    ks.export_step_model(model, tmp_path / "out")
    session = ks.load_session(tmp_path / "out", batch_size=ROWS)
    np.testing.assert_allclose(session.read(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("within", [False, True])
def test_a_mask_that_is_an_input_has_time_as_well(within):
    keras.utils.set_random_seed(1)
    x, mask = signal("x"), keras.Input((None,), dtype="bool", name="mask")
    sub = keras.Sequential([signal(), lstm()], name="sub") if within else lstm()
    model = keras.Model([x, mask], layers.Dense(2)(sub(x, mask=mask)))
    passes.assert_one_pass(model, [data(), masked_data().any(axis=-1)])


# Names


def same_names():
    """Two layers named `rnn`, and two named `head`, one of each in a sub-model."""
    x, i = signal("x"), signal()
    sub = keras.Model(i, layers.Dense(3, name="head")(lstm(name="rnn")(i)), name="sub")
    return keras.Model(x, layers.Dense(2, name="head")(lstm(name="rnn")(sub(x))))


def test_a_layer_may_have_the_name_of_one_in_a_sub_model(tmp_path):
    keras.utils.set_random_seed(1)
    model, x = same_names(), data()
    passes.assert_one_pass(model, x)
    expected = model.predict_on_batch(x)
    training = ks.to_stateful(model, ROWS, layers=["rnn", "sub/rnn"])
    assert sorted(ks.get_states(training)) == ["rnn", "sub/rnn"]
    predicted = ks.predict_documents(training, list(x), sequence_length=5)
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5)
    ks.export_step_model(training, tmp_path / "out")
    session = ks.load_session(tmp_path / "out", batch_size=ROWS)
    np.testing.assert_allclose(session.read(x), expected, rtol=0, atol=1e-5)
    assert sorted(session.get_states()) == ["rnn", "sub/rnn"]


def test_a_name_that_several_layers_of_sub_models_have_is_refused():
    x = signal()
    subs = [keras.Sequential([signal(), lstm(name="rnn")], name=name) for name in ("one", "two")]
    model = keras.Model(x, subs[1](subs[0](x)))
    with pytest.raises(ValueError, match=r"'rnn', which fits \['one/rnn', 'two/rnn'\]"):
        ks.to_stateful(model, ROWS, layers=["rnn"])


# One recurrent layer along two paths


def outside_and_in_a_sub_model():
    a, b, i = signal("a"), signal("b"), signal()
    shared = lstm()
    sub = keras.Model(i, shared(i), name="sub")
    return keras.Model([a, b], layers.Concatenate()([shared(a), sub(b)]))


def in_a_sub_model_and_outside():
    a, b, i = signal("a"), signal("b"), signal()
    shared = lstm()
    sub = keras.Model(i, layers.Dense(3)(shared(i)), name="sub")
    return keras.Model([a, b], layers.Concatenate()([shared(sub(a)), shared(b)]))


def in_two_sub_models():
    a, b = signal("a"), signal("b")
    shared = layers.GRU(3, return_sequences=True)
    subs = [keras.Sequential([signal(), shared, layers.Dense(2)], name=name) for name in "st"]
    return keras.Model([a, b], layers.Concatenate()([subs[0](a), subs[1](b)]))


def in_two_layers_of_sub_models():
    a, b, i, j = signal("a"), signal("b"), signal(), signal()
    shared = layers.SimpleRNN(3, return_sequences=True)
    deep = keras.Model(i, shared(i), name="deep")
    outer = keras.Model(j, layers.Dense(3)(deep(j)), name="outer")
    return keras.Model([a, b], layers.Concatenate()([outer(a), shared(b)]))


TWO_PATHS = [
    outside_and_in_a_sub_model,
    in_a_sub_model_and_outside,
    in_two_sub_models,
    in_two_layers_of_sub_models,
]


@pytest.mark.parametrize("make", TWO_PATHS)
def test_a_layer_on_two_paths_has_a_state_for_each_of_its_calls(make):
    keras.utils.set_random_seed(1)
    model, x = make(), list(data("a", "b").values())
    passes.assert_one_pass(model, x)
    training, live = ks.to_stateful(model, ROWS), ks.to_inference(model, ROWS)
    step = ks.to_step_model(model)
    keys = list(ks.get_states(training))
    assert len(keys) >= 2
    assert sorted(ks.get_states(live)) == sorted(set(step.state_paths)) == sorted(keys)
    # What one model has read goes on in the other, under the same keys.
    passes.windows(training, passes.cut(x, slice(0, 8)), (0, 4, 8))
    ks.set_states(live, ks.get_states(training))
    got = live.predict_on_batch(passes.cut(x, slice(8, 12)))
    expected = model.predict_on_batch(x)[:, 8:]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_sub_model_called_twice_has_states_for_each_call_in_a_step_model():
    keras.utils.set_random_seed(1)
    a, b = signal("a"), signal("b")
    core = keras.Sequential([signal(), lstm(name="rnn")], name="core")
    model = keras.Model([a, b], layers.Concatenate()([core(a), core(b)]))
    x = list(data("a", "b").values())
    (got,) = passes.steps(model, x)
    np.testing.assert_allclose(got, model.predict_on_batch(x), rtol=0, atol=1e-5)
    step = ks.to_step_model(model)
    assert sorted(set(step.state_paths)) == ["core/rnn", "core/rnn#1"]
    with pytest.raises(ValueError, match=r"`core` is a sub-model .* called 2 times"):
        ks.to_stateful(model, ROWS)


def test_one_sub_model_in_two_others_is_refused():
    a, b = signal("a"), signal("b")
    core = keras.Sequential([signal(), lstm()], name="core")
    subs = []
    for name in "st":
        i = signal()
        subs.append(keras.Model(i, core(i), name=name))
    model = keras.Model([a, b], layers.Concatenate()([subs[0](a), subs[1](b)]))
    for convert in (ks.to_stateful, ks.to_inference):
        with pytest.raises(ValueError, match="one state to carry for several streams"):
            convert(model, ROWS)
    x = list(data("a", "b").values())
    (got,) = passes.steps(model, x)
    np.testing.assert_allclose(got, model.predict_on_batch(x), rtol=0, atol=1e-5)


def test_a_layer_that_reads_the_stream_and_a_vector_is_refused():
    x, vector = signal("x"), keras.Input((3,), name="vector")
    shared = lstm(name="shared")
    fixed = shared(layers.RepeatVector(2)(vector))
    model = keras.Model([x, vector], [shared(x), fixed])
    with pytest.raises(ValueError, match="`shared`"):
        ks.to_stateful(model, ROWS)


# A state that nobody would reset


def hidden(inner):
    x = keras.Input((4, 5, 3), batch_size=2)
    return keras.Model(x, lstm(name="outer")(layers.TimeDistributed(inner)(x)))


def fixed(shape):
    return keras.Input(shape, batch_size=2)


@pytest.mark.parametrize("convert", [ks.to_stateful, ks.to_inference, None])
@pytest.mark.parametrize(
    "inner",
    [
        lambda: layers.LSTM(3, stateful=True),
        lambda: keras.Sequential([fixed((5, 3)), layers.LSTM(3, stateful=True)]),
        lambda: keras.Sequential(
            [fixed((5, 3)), keras.Sequential([fixed((5, 3)), layers.GRU(3, stateful=True)])]
        ),
        lambda: (lambda i: keras.Model(i, layers.SimpleRNN(3, stateful=True)(i)))(fixed((5, 3))),
    ],
)
def test_a_stateful_layer_within_another_layer_is_refused(inner, convert):
    model = hidden(inner())
    with pytest.raises(ValueError, match="would carry state from slice to slice"):
        ks.to_step_model(model) if convert is None else convert(model, 2)


def test_a_stateless_sub_model_in_time_distributed_starts_anew_with_each_slice():
    keras.utils.set_random_seed(1)
    x = keras.Input((None, 5, 3))
    inner = keras.Sequential([keras.Input((5, 3), batch_size=2), layers.LSTM(3)])
    model = keras.Model(x, lstm()(layers.TimeDistributed(inner)(x)))
    arrays = np.random.default_rng(0).standard_normal((2, STEPS, 5, 3)).astype("float32")
    passes.assert_one_pass(model, arrays)
