"""Layers that read a bounded past: law 1, resets by window and by step, and everything that
recurrent layers can.
"""

import itertools

import causal_models
import keras
import numpy as np
import pytest
from causal_models import FEATURES, MODELS, ONES
from keras import layers, ops
from passes import close

import keras_stateful as ks

ROWS, STEPS = 3, 12
EDGES = [0, 1, 5, 6, 12]  # one step, and fewer than most of them read
NOT_BY_STEP = ("twice_in_front",)
# In each run; the others are for the slow tests.
QUICK = (
    "causal_then_lstm", "grouped", "shared", "keras_tcn", "residual_depthwise", "crnn",
    "padded_in_between", "highest", "lags", "lag_lambda", "in_submodel", "across_submodels",
)  # fmt: skip
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]


def data(rows=ROWS, steps=STEPS):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, steps, FEATURES)).astype("float32")


def pass_over(model, x, edges=EDGES, resets=None):
    """Outputs of a model that is called window by window, joined along time."""
    parts = []
    for a, b in itertools.pairwise(edges):
        parts.append(model.predict_on_batch(x[:, a:b] if resets is None else resets(x, a, b)))
    return np.concatenate(parts, axis=1)


def alone(model, x, starts):
    """What each document puts out that is read alone, put together again."""
    outputs = np.zeros_like(model.predict_on_batch(x))
    for row in range(len(x)):
        edges = sorted({0, *np.flatnonzero(starts[row]), x.shape[1]})
        for a, b in itertools.pairwise(edges):
            # Steps behind the document change nothing.
            read = np.roll(x[row : row + 1], -a, axis=1)
            outputs[row, a:b] = model.predict_on_batch(np.repeat(read, len(x), 0))[0, : b - a]
    return outputs


@pytest.mark.parametrize("name", EVERY)
def test_windows_equal_one_long_pass_also_step_by_step_and_after_a_round_trip(name):
    model, x = MODELS[name](), data()
    whole = model.predict_on_batch(x)
    kind = "window" if name in NOT_BY_STEP else "step"
    stateful = ks.to_stateful(model, ROWS, resets=kind)

    def no_resets(x, a, b):
        return [x[:, a:b], np.zeros((ROWS,) if kind == "window" else (ROWS, b - a), bool)]

    close(pass_over(stateful, x, resets=no_resets), whole)
    cold = stateful.predict_on_batch(no_resets(x[:, 6:], 0, 6))
    assert np.abs(cold - whole[:, 6:]).max() > 1e-3  # the state counts
    # The live model is made of the one with resets, whose graph has other layers in between.
    live = ks.to_inference(stateful, ROWS, share_weights=True)
    close(pass_over(live, x, range(STEPS + 1)), whole)
    plain = ks.to_stateless(stateful)
    names = [[layer.name for layer in m.layers[1:]] for m in (plain, model)]
    assert names[0] == names[1]
    close(plain.predict_on_batch(x), whole)


@pytest.mark.parametrize("name", EVERY)
def test_resets_equal_each_document_alone(name):
    model, x = MODELS[name](), data()
    starts = np.random.default_rng(3).random((ROWS, STEPS)) < 0.3
    starts[:, 0], starts[0, 1:3] = True, True
    if name not in NOT_BY_STEP:
        packed = ks.to_stateful(model, ROWS, resets="step")
        packed.predict_on_batch([data()[:, :6], starts[:, :6]])  # a past that counts for nothing
        outputs = pass_over(packed, x, [0, 6, 12], lambda x, a, b: [x[:, a:b], starts[:, a:b]])
        close(outputs, alone(model, x, starts))
    by_window = np.zeros_like(starts)
    by_window[:, 0] = by_window[[0, 2], 6] = True
    aligned = ks.to_stateful(model, ROWS, resets="window")
    outputs = pass_over(aligned, x, [0, 6, 12], lambda x, a, b: [x[:, a:b], by_window[:, a]])
    close(outputs, alone(model, x, by_window))


@pytest.mark.parametrize("name", ["keras_tcn", "lags", "in_submodel", "crnn", "lag_lambda"])
def test_a_step_model_and_its_states(name):
    model, x = MODELS[name](), data()
    whole = model.predict_on_batch(x)
    live = ks.to_inference(model, ROWS)
    live.predict_on_batch(x)
    step = ks.to_step_model(live)
    assert list(dict.fromkeys(step.state_paths)) == list(ks.get_states(live))
    states = ks.initial_states(step, ROWS)
    outputs = []
    for t in range(STEPS):
        y, *states = step([x[:, t : t + 1], *states])
        outputs.append(ops.convert_to_numpy(y))
    close(np.concatenate(outputs, 1), whole)
    for state, expected in zip(
        states, [s for several in ks.get_states(live).values() for s in several], strict=True
    ):
        close(ops.convert_to_numpy(state), expected)


def test_the_state_is_the_last_inputs():
    x = data()
    conv = layers.Conv1D(3, 3, dilation_rate=2, padding="causal", name="conv")
    model = ks.to_stateful(keras.Sequential([keras.Input((None, FEATURES)), conv]), ROWS)
    model.predict_on_batch(x)
    (state,) = ks.get_states(model)["conv"]
    np.testing.assert_array_equal(state, x[:, -4:])
    model.predict_on_batch(x[:, :1])
    np.testing.assert_array_equal(
        ks.get_states(model)["conv"][0], np.concatenate([x[:, -3:], x[:, :1]], 1)
    )
    ks.reset_states(model, rows=[1])
    (state,) = ks.get_states(model)["conv"]
    assert not state[1].any()
    assert state[0].all()


def numpy_stack(x, stack):
    """Dilated causal convolutions and ReLUs, tap by tap in NumPy."""
    for kernel, bias, dilation in stack:
        outputs = np.repeat(np.zeros_like(x[..., :1]), kernel.shape[-1], -1) + bias
        for tap in range(len(kernel)):
            ago = (len(kernel) - 1 - tap) * dilation
            for t in range(ago, x.shape[1]):
                outputs[:, t] += x[:, t - ago] @ kernel[tap]
        x = np.maximum(outputs, 0)
    return x


def dilated_stack():
    stack = [keras.Input((None, FEATURES))]
    for dilation in (1, 2, 4):
        stack.append(
            layers.Conv1D(5, 2, padding="causal", dilation_rate=dilation, activation="relu", **ONES)
        )
    return keras.Sequential(stack)


def test_a_dilated_stack_equals_numpy_also_after_training():
    x, y = data(), np.random.default_rng(1).standard_normal((ROWS, STEPS, 5))
    stateful = ks.to_stateful(dilated_stack(), ROWS, resets="step")
    starts = np.random.default_rng(2).random((ROWS, STEPS)) < 0.25
    stateful.compile(keras.optimizers.SGD(0.5), "mse")
    for a, b in itertools.pairwise([0, 4, 8, 12]):
        stateful.train_on_batch([x[:, a:b], starts[:, a:b]], y[:, a:b])
    ks.reset_states(stateful)
    outputs = pass_over(stateful, x, [0, 4, 8, 12], lambda x, a, b: [x[:, a:b], starts[:, a:b]])
    weights = [np.asarray(w, "float64") for w in stateful.get_weights()]
    stack = [(weights[i], weights[i + 1], d) for i, d in ((0, 1), (2, 2), (4, 4))]
    for row in range(ROWS):
        for a, b in itertools.pairwise(sorted({0, *np.flatnonzero(starts[row]), STEPS})):
            close(outputs[row, a:b], numpy_stack(x[row : row + 1, a:b], stack)[0])


def gradients(model, x, y):
    """Loss gradients of one SGD step at rate 1: the change of the weights."""
    before = [w.copy() for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(x, y)
    return [b - w for b, w in zip(before, model.get_weights(), strict=True)]


@pytest.mark.parametrize("name", ["grouped", "padded_in_between", "lags", "lag_layer"])
def test_resets_in_mid_window_have_the_gradients_of_each_document_alone(name):
    model = MODELS[name]()
    x = data(1, 8)
    y = np.random.default_rng(5).standard_normal(model.predict_on_batch(x).shape)
    starts = np.zeros((1, 8), bool)
    starts[0, [0, 3]] = True
    packed = gradients(ks.to_stateful(model, 1, resets="step"), [x, starts], y)
    first = gradients(ks.to_stateful(model, 1), x[:, :3], y[:, :3])
    second = gradients(ks.to_stateful(model, 1), x[:, 3:], y[:, 3:])
    for p, a, b in zip(packed, first, second, strict=True):
        close(p, 3 / 8 * a + 5 / 8 * b)


@pytest.mark.parametrize("name", ["causal_then_lstm", "residual_depthwise"])
def test_a_sequence_trains_and_the_files_are_the_plain_models(name, tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((n, FEATURES)).astype("float32") for n in (30, 17, 40, 9)]
    model = MODELS[name]()
    outputs = model.output_shape[-1]
    targets = [d[:, :1].repeat(outputs, 1) for d in documents]
    sequence = ks.StatefulSequence(documents, 2, 8, targets=targets, boundary="pack", resets=True)
    training = ks.to_stateful(model, sequence)
    training.compile("adam", "mse")
    training.fit(sequence, epochs=2, verbose=0)
    training.save(tmp_path / "training.keras")
    loaded = keras.models.load_model(tmp_path / "training.keras")
    x, starts = data(2, 8), np.zeros((2, 8), bool)
    ks.reset_states(training)
    close(loaded.predict_on_batch([x, starts]), training.predict_on_batch([x, starts]))
    training.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    close(pass_over(ks.to_inference(loaded, 2), x, range(9)), model.predict_on_batch(x))


def test_what_stands_around_a_training_knows_of_held_inputs(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((n, FEATURES)).astype("float32") for n in (30, 17, 40, 9)]
    targets = [d[:, :2] for d in documents]
    sequence = ks.StatefulSequence(documents, 2, 8, targets=targets, boundary="pack", resets=True)
    training = ks.to_stateful(MODELS["causal_then_lstm"](), sequence)
    training.compile("adam", "mse")
    monitor, resume = ks.StateMonitor(every=1), ks.ResumeTraining(tmp_path, sequence)
    training.fit(sequence, epochs=1, verbose=0, callbacks=[monitor, resume])
    plain = ks.to_stateless(training)
    for document, outputs in zip(documents, ks.predict_documents(training, documents), strict=True):
        close(outputs, plain.predict_on_batch(document[None])[0])


def test_mixed_precision_holds_its_inputs_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, x = MODELS["keras_tcn"](), data()
    whole = model.predict_on_batch(x).astype("float32")
    stateful = ks.to_stateful(model, ROWS)
    close(pass_over(stateful, x).astype("float32"), whole, 0.05)
    assert all(s.dtype == "float32" for (s,) in ks.get_states(stateful).values())


def test_mixed_precision_starts_documents_anew():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, x = MODELS["keras_tcn"](), data()
    starts = np.zeros((ROWS, STEPS), bool)
    starts[:, [0, 5]] = starts[0, 8] = True
    packed = ks.to_stateful(model, ROWS, resets="step")
    outputs = packed.predict_on_batch([x, starts])
    assert outputs.dtype == model.predict_on_batch(x).dtype
    close(outputs.astype("float32"), alone(model, x, starts).astype("float32"), 0.05)


@pytest.mark.parametrize(
    "options",
    [{"use_bias": False}, {"activation": "tanh"}, {"groups": 2}, {"lora_rank": 2}],
    ids=str,
)
def test_a_convolution_carries_with_all_its_settings(options):
    """With resets by step it is computed by other means than Keras's."""
    options = {"dilation_rate": 2, **options}
    model = one(layers.Conv1D(4, 3, padding="causal", **ONES, **options))
    for weight in model.weights:
        weight.assign(keras.random.normal(weight.shape))
    x, starts = data(), np.random.default_rng(3).random((ROWS, STEPS)) < 0.3
    close(pass_over(ks.to_stateful(model, ROWS), x), model.predict_on_batch(x))
    packed = ks.to_stateful(model, ROWS, resets="step")
    close(packed.predict_on_batch([x, starts]), alone(model, x, starts))


def test_a_context_without_time_meets_what_is_between_a_padding_and_its_reader():
    x, who = keras.Input((None, FEATURES)), keras.Input((FEATURES,))
    h = layers.ZeroPadding1D((2, 0))(x)
    h = layers.Add()([h, layers.Reshape((1, FEATURES))(who)])
    model = keras.Model([x, who], layers.Conv1D(3, 3, **ONES)(h))
    a, b = data(), data()[:, 0]
    starts = np.zeros((ROWS, STEPS), bool)
    starts[:, 5] = True
    packed = ks.to_stateful(model, ROWS, resets="step")
    outputs = packed.predict_on_batch([a, b, starts])
    close(outputs[:, :5], model.predict_on_batch([a, b])[:, :5])
    close(outputs[:, 5:], model.predict_on_batch([a[:, 5:], b]))


@pytest.mark.parametrize("name", ["keras_tcn", "causal_then_lstm"])
def test_a_thousand_steps_one_by_one(name):
    model, x = MODELS[name](), data(1, 1000)
    live = ks.to_inference(model)
    outputs = [live.predict_on_batch(x[:, t : t + 1]) for t in range(1000)]
    close(np.concatenate(outputs, 1), model.predict_on_batch(x))


def one(*stack):
    return keras.Sequential([keras.Input((None, FEATURES)), *stack])


@pytest.mark.parametrize(
    ("build", "resets", "parts"),
    [
        (lambda: one(layers.Conv1D(3, 3)), None, ["nothing that carries", 'padding="causal"']),
        (
            lambda: one(layers.Conv1D(3, 3), layers.GRU(2)),
            None,
            ["2 steps", "ZeroPadding1D((2, 0))"],
        ),
        (
            lambda: one(layers.ZeroPadding1D((1, 0)), layers.Conv1D(3, 3)),
            None,
            ["1 steps", "ZeroPadding1D((1, 0))"],
        ),
        (
            lambda: one(layers.ZeroPadding1D((4, 0)), layers.Conv1D(3, 3)),
            None,
            ["2 steps", "pad 2 steps fewer"],
        ),
        (lambda: one(layers.Conv1D(3, 3, padding="same")), None, ["ahead"]),
        (lambda: one(layers.MaxPooling1D(2)), None, ["encode="]),
        (
            lambda: causal_models.MODELS["twice_in_front"](),
            "step",
            ["1 steps from before", 'boundary="align"', "Pad once"],
        ),
        (
            lambda: one(
                layers.Permute((2, 1)),
                layers.Conv1D(3, 3, padding="causal", data_format="channels_first"),
                layers.Permute((2, 1)),
            ),
            "step",
            ["along axis [2]", "Keep time at axis 1"],
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_number(build, resets, parts):
    with pytest.raises(ValueError, match="carr|over a document's start") as error:
        ks.to_stateful(build(), 2, resets=resets)
    missing = [part for part in parts if part not in str(error.value)]
    assert not missing, str(error.value)
