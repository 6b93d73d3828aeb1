"""Law 7 for exported artifacts, and what `export_step_model` refuses."""

import inspect
import json
import warnings
from importlib.util import find_spec

import causal_models
import keras
import numpy as np
import pytest
import runtimes
from keras import layers, ops
from releases import needs_own_exporter

import keras_stateful as ks
from keras_stateful.carry.recurrent import CarryRNN
from keras_stateful.export import check, describe, formats, processes, quantized
from keras_stateful.session import manifest
from keras_stateful.session.manifest import Tensor
from keras_stateful.session.runtimes import RUNTIMES

STEPS = 1000
VOCABULARY = 11
# A format that a fresh process on TensorFlow writes, on JAX and torch.
FOREIGN = "litert" if keras.backend.backend() == "jax" else "tf_saved_model"
# LiteRT's of TensorFlow leaves matrices of fewer than 1,024 numbers alone; litert-torch's does not.
of_tensorflow = pytest.mark.skipif(
    keras.backend.backend() == "torch" and find_spec("litert_torch") is not None,
    reason="another quantizer",
)


def _sequential(*stack):
    return keras.Sequential([keras.Input((None, 3)), *stack])


def simple_rnn():
    return _sequential(layers.SimpleRNN(5, return_sequences=True))


def gru():
    return _sequential(layers.GRU(5, return_sequences=True), layers.Dense(2, activation="softmax"))


def lstm():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = layers.Embedding(VOCABULARY, 4)(ids)
    h = layers.LSTM(
        6, return_sequences=True, dropout=0.3, recurrent_dropout=0.2, kernel_regularizer="l2"
    )(h)
    h = layers.LSTM(5, return_sequences=True)(layers.Dropout(0.5)(h))
    return keras.Model(ids, layers.Dense(VOCABULARY)(layers.LayerNormalization()(h)))


def stacked_cells():
    cells = [layers.LSTMCell(4), layers.GRUCell(3, reset_after=False), layers.SimpleRNNCell(5)]
    return _sequential(layers.RNN(cells, return_sequences=True))


@keras.saving.register_keras_serializable(package="test_export")
class LeakyCell(layers.Layer):
    """A custom cell with two states that do not start at zero."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units], units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, inputs, states, training=False):
        slow, fast = states
        fast = ops.tanh(ops.matmul(inputs, self.kernel) + 0.5 * fast)
        slow = 0.9 * slow + 0.1 * fast
        return slow * fast, [slow, fast]

    def get_initial_state(self, batch_size=None):
        row = ops.arange(self.units, dtype="float32") / 7
        return [ops.tile(row[None], (batch_size, 1)), ops.full((batch_size, self.units), 0.25)]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def custom_cell():
    return _sequential(layers.RNN(LeakyCell(4), return_sequences=True), layers.Dense(2))


def nested():
    inner = keras.Sequential(
        [keras.Input((None, 3)), layers.LSTM(4, return_sequences=True, name="rnn")], name="encoder"
    )
    x = keras.Input((None, 3), name="signal")
    return keras.Model(x, layers.GRU(3, return_sequences=True, name="rnn")(inner(x)))


def shared():
    left, right = keras.Input((None, 3), name="left"), keras.Input((None, 3), name="right")
    both = layers.GRU(4, return_sequences=True, name="both")
    return keras.Model(
        [left, right], layers.Dense(2)(layers.Concatenate()([both(left), both(right)]))
    )


def several():
    """Two inputs, one of which has no time axis, and three outputs, one of which has none."""
    signal, who = keras.Input((None, 3), name="signal"), keras.Input((2,), name="who")
    h = layers.LSTM(4, return_sequences=True)(signal)
    last = layers.SimpleRNN(3)(h)
    return keras.Model(
        [signal, who],
        [layers.Dense(2, name="a")(h), last, layers.Add(name="sum")([last, layers.Dense(3)(who)])],
    )


def masked_ids():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = layers.Embedding(VOCABULARY, 4, mask_zero=True)(ids)
    return keras.Model(
        ids, layers.GRU(5, return_sequences=True)(layers.LSTM(4, return_sequences=True)(h))
    )


def masking():
    return _sequential(layers.Masking(0.0), layers.LSTM(4, return_sequences=True))


def conv_lstm():
    return keras.Sequential(
        [
            keras.Input((None, 6, 6, 1)),
            layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True),
        ]
    )


def conv_lstm_1d():
    return keras.Sequential(
        [keras.Input((None, 6, 1)), layers.ConvLSTM1D(2, 3, return_sequences=True)]
    )


keras_tcn, residual_depthwise, svdf, crnn, lags, lag_layer, in_submodel = (
    causal_models.MODELS[name]
    for name in (
        "keras_tcn", "residual_depthwise", "svdf", "crnn", "lags", "lag_layer", "in_submodel",
    )
)  # fmt: skip


ZOO = [
    simple_rnn,
    gru,
    lstm,
    stacked_cells,
    custom_cell,
    nested,
    shared,
    several,
    masked_ids,
    masking,
    conv_lstm,
    conv_lstm_1d,
    keras_tcn,
    residual_depthwise,
    svdf,
    crnn,
    lags,
    lag_layer,
    in_submodel,
]
EVERY_RUN = {
    "onnx": {
        lstm, stacked_cells, nested, shared, several, masked_ids, conv_lstm, keras_tcn, crnn, lags,
    },
    "openvino": {several},
    "litert": {lstm},
    "executorch": {crnn},
    "tf_saved_model": {gru, residual_depthwise},
}  # fmt: skip
COMBINATIONS = [
    pytest.param(build, *form.values, id=f"{build.__name__}-{name}", marks=form.marks)
    for name, now in EVERY_RUN.items()
    for build in ZOO
    for form in runtimes.each(name, slow=() if build in now else (name,))
]


def test_each_format_has_a_writer_and_a_runtime():
    assert set(formats.FORMATS) == set(RUNTIMES) == set(manifest.FORMATS)
    assert {name for name, each in formats.FORMATS.items() if each.int8} == set(quantized._SHAPES)


def _data(model, rows, steps, seed=0):
    """Random `(rows, steps, ...)` for each of the model's inputs, zeros where masks would be."""
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        shape = (rows, *(steps if size is None else size for size in tensor.shape[1:]))
        if tensor.dtype == "int32":
            arrays.append(rng.integers(0, VOCABULARY, shape).astype("int32"))
        else:
            x = rng.standard_normal(shape).astype("float32")
            whole_step = (*shape[:2], *[1] * (len(shape) - 2))
            arrays.append(np.where(rng.random(whole_step) < 0.2, np.float32(0), x))
    return arrays


def _at(x, t):
    now = [a[:, t] if a.shape[1:2] == (STEPS,) else a for a in x]
    return now[0] if len(now) == 1 else tuple(now)


def _real_steps(model, x):
    """Which steps a mask leaves in; the outputs of the others are nobody's business."""
    kinds = {type(layer) for layer in model.layers}
    if layers.Masking in kinds:
        return (x[0] != 0).any(-1)
    embedding = next((layer for layer in model.layers if isinstance(layer, layers.Embedding)), None)
    return x[0] != 0 if embedding is not None and embedding.mask_zero else None


def _close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("build", "form"), COMBINATIONS)
def test_a_thousand_chained_steps_are_one_pass_of_the_model(build, form, tmp_path):
    model = build()
    ks.export_step_model(model, tmp_path / "out", form)
    session = ks.load_session(tmp_path / "out")
    x = _data(model, 1, STEPS)
    expected = [
        np.asarray(o)
        for o in keras.tree.flatten(model.predict(x if len(x) > 1 else x[0], verbose=0))
    ]
    outputs = []
    for t in range(STEPS):
        result = session.step(_at(x, t))
        outputs.append(result if isinstance(result, tuple) else (result,))
    real = _real_steps(model, x)
    for i, whole in enumerate(expected):
        if model.outputs[i].shape[1] is None:
            got = np.stack([o[i] for o in outputs], axis=1)
            _close(*((got, whole) if real is None else (got[real], whole[real])))
        else:
            _close(outputs[-1][i], whole)

    step = ks.to_step_model(model)
    results = keras.tree.flatten(step.predict_on_batch([*x, *ks.initial_states(step)]))
    after = results[len(expected) :]
    kept = session.get_states()
    assert list(kept) == list(dict.fromkeys(step.state_paths))
    for array, path in zip(after, step.state_paths, strict=True):
        _close(kept[path].pop(0), np.asarray(array))


def _dirty(model):
    """A carrying twin of `model` in the middle of a stream, and the same without a past."""
    clean, dirty = ks.to_stateful(model, 4), ks.to_stateful(model, 4)  # copies of the same weights
    dirty.predict(_data(model, 4, 9)[0], verbose=0)
    ks.set_states(
        dirty, {k: [np.full_like(a, 7) for a in v] for k, v in ks.get_states(dirty).items()}
    )
    return clean, dirty


def test_a_live_state_is_never_exported(tmp_path):
    clean, dirty = _dirty(custom_cell())
    before = ks.get_states(dirty)
    ks.export_step_model(clean, tmp_path / "clean")
    ks.export_step_model(dirty, tmp_path / "dirty")
    read = [
        json.loads((tmp_path / d / "manifest.json").read_text())["states"]
        for d in ("clean", "dirty")
    ]
    assert read[0] == read[1]
    assert read[0][1]["initial"] == {"fill": 0.25}
    np.testing.assert_allclose(read[0][0]["initial"]["values"], np.arange(4, dtype="float32") / 7)
    x = _data(clean, 1, 3)[0]
    np.testing.assert_array_equal(
        ks.load_session(tmp_path / "clean").read(x), ks.load_session(tmp_path / "dirty").read(x)
    )
    for key, arrays in ks.get_states(dirty).items():
        for a, b in zip(arrays, before[key], strict=True):
            np.testing.assert_array_equal(a, b)  # and exporting changed nothing


def test_a_step_model_can_be_given(tmp_path):
    model = lstm()
    ks.export_step_model(ks.to_step_model(model), tmp_path / "step")
    ks.export_step_model(model, tmp_path / "model")
    x = _data(model, 1, 5)[0]
    np.testing.assert_array_equal(
        ks.load_session(tmp_path / "step").read(x), ks.load_session(tmp_path / "model").read(x)
    )


def _two_layers():
    cells = [layers.GRUCell(3), layers.LSTMCell(2)]
    return _sequential(
        layers.LSTM(4, return_sequences=True), layers.RNN(cells, return_sequences=True)
    )


def test_mixed_precision_is_exported_in_float32(tmp_path):
    exact = _two_layers()
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = _two_layers()
    keras.config.set_dtype_policy("float32")
    exact.set_weights(model.get_weights())
    ks.export_step_model(model, tmp_path / "out")
    x = _data(model, 2, 20)[0]
    session = ks.load_session(tmp_path / "out", batch_size=2)
    assert session.manifest.outputs[0].dtype == "float32"
    _close(session.read(x), exact.predict(x, verbose=0))


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # JAX has none
@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_double_precision_is_exported_in_float32(tmp_path, floatx):
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx(floatx)
    try:
        model = keras.Sequential([keras.Input((None, 3)), *_two_layers().layers, layers.Dense(3)])
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert model.variables[0].dtype == "float64"
    ks.export_step_model(model, tmp_path / "out")
    x = _data(model, 2, 20)[0]
    session = ks.load_session(tmp_path / "out", batch_size=2)
    assert {t.dtype for t in (*session.manifest.inputs, *session.manifest.outputs)} == {"float32"}
    _close(session.read(x), model.predict(x, verbose=0))


def test_the_manifest_says_what_a_client_needs(tmp_path):
    ks.export_step_model(
        lstm(),
        tmp_path / "out",
        metadata={"vocabulary": list("abcdefghijk"), "pi": 3.25, "none": None},
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["artifact"]["entry"] == "model.onnx"
    assert manifest["versions"]["trained_with"] == keras.backend.backend()
    assert manifest["versions"]["keras"] == keras.__version__
    assert manifest["inputs"] == [
        {
            "name": "ids",
            "tensor": "ids",
            "shape": [None, 1],
            "dtype": "int32",
            "time": True,
            "vocabulary": VOCABULARY,
        }
    ]
    (output,) = manifest["outputs"]
    assert (output["shape"], output["from_logits"]) == ([None, 1, VOCABULARY], True)
    assert manifest["metadata"] == {"vocabulary": list("abcdefghijk"), "pi": 3.25, "none": None}
    assert [s["shape"] for s in manifest["states"]] == [[None, 6]] * 2 + [[None, 5]] * 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize(
    "compare",
    [
        lambda h: h > 0,
        lambda h: ops.where(h <= 0, 0.5 * h, h) >= 1,
        lambda h: ops.logical_or(h == 0, h < -1),
        lambda h: ops.sum(h, axis=-1, keepdims=True) > ops.shape(h)[-1],
        lambda h: ops.cast(3 * h, "int32") > 0.5,
        pytest.param(
            lambda h: 2 - h > 1 + 0 * h,
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax", reason="jax2onnx mixes types: refused"
            ),
        ),
    ],
)
@needs_own_exporter
def test_comparisons_with_whole_numbers_are_exported(compare, tmp_path):
    x = keras.Input((None, 3))
    h = layers.GRU(4, return_sequences=True)(x)
    same = layers.Lambda(lambda flags: ops.cast(flags, "float32"))
    model = keras.Model(x, [h, same(compare(h))])
    ks.export_step_model(model, tmp_path / "out")
    data = np.random.default_rng(0).normal(size=(1, 9, 3)).astype("float32")
    with ks.load_session(tmp_path / "out") as session:
        for a, b in zip(session.read(data), model.predict_on_batch(data), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_artifact_that_its_runtime_refuses_is_the_exporters_fault(tmp_path, monkeypatch):
    def refuse(*arguments):
        try:
            raise RuntimeError("Type (T) of Foo")
        except RuntimeError as error:
            raise ValueError("It may need a newer runtime") from error

    monkeypatch.setattr(describe, "open_runtime", refuse)
    with pytest.raises(RuntimeError, match=r"Received: Type \(T\) of Foo.*another `format`"):
        ks.export_step_model(gru(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "form", runtimes.each("onnx", "openvino", "litert", slow=("openvino", "litert"))
)
def test_int8_says_how_far_it_moved(form, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    h = layers.LSTM(64, return_sequences=True)(layers.Embedding(VOCABULARY, 64)(ids))
    model = keras.Model(ids, layers.Dense(VOCABULARY)(layers.LSTM(64, return_sequences=True)(h)))
    data = np.random.default_rng(0).integers(0, VOCABULARY, (2, 30))
    ks.export_step_model(model, tmp_path / "exact", form)
    ks.export_step_model(model, tmp_path / "int8", form, quantize="int8", representative_data=data)
    exact, small = (ks.load_session(tmp_path / d, batch_size=2) for d in ("exact", "int8"))
    assert all(s.dtype == "float32" for s in small.manifest.states)
    sizes = [sum(file.size for file in s.manifest.files) for s in (small, exact)]
    assert sizes[0] < 0.5 * sizes[1]
    moved = np.abs(exact.read(data).astype("float64") - small.read(data))
    (record,) = small.manifest.quantization["outputs"].values()
    np.testing.assert_allclose(
        [record["max_deviation"], record["mean_deviation"]], [moved.max(), moved.mean()], rtol=1e-6
    )
    assert 0 < record["max_deviation"] < 0.1 * record["largest_output"]
    quantization = small.manifest.quantization
    assert (quantization["rows"], quantization["time_steps"]) == (2, 30)
    # The two kernels of each LSTM at least; no biases.
    assert 2 * 2 * 64 * 256 <= quantization["weights_in_int8"] < quantization["weights_in_all"]
    assert (quantization["weights"], quantization["weights_in_all"]) == (
        "int8",
        model.count_params(),
    )


def small(units, layer=layers.LSTM):
    return keras.Sequential(
        [keras.Input((None, 3)), layer(units, return_sequences=True), layers.Dense(2)]
    )


@pytest.mark.parametrize(
    ("form", "layer", "units", "quantized"),
    [
        ("onnx", layers.LSTM, 5, 3 * 20 + 5 * 20 + 5 * 2),
        ("onnx", layers.SimpleRNN, 4, 3 * 4 + 4 * 4 + 4 * 2),
        pytest.param(
            *("openvino", layers.LSTM, 5, 3 * 20 + 5 * 20 + 5 * 2),
            marks=runtimes.installed("openvino"),
        ),
        pytest.param("litert", layers.LSTM, 5, 0, marks=[pytest.mark.slow, of_tensorflow]),
        pytest.param("litert", layers.GRU, 9, 0, marks=[pytest.mark.slow, of_tensorflow]),
        pytest.param(
            "litert", layers.SimpleRNN, 40, 40 * 40, marks=[pytest.mark.slow, of_tensorflow]
        ),
    ],
)
def test_a_manifest_counts_the_weights_that_are_in_int8(form, layer, units, quantized, tmp_path):
    model = small(units, layer)
    data = {"quantize": "int8", "representative_data": np.ones((1, 4, 3), "float32")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ks.export_step_model(model, tmp_path / "small", form, **data)
    told = [str(w.message) for w in caught if "No weight was quantized" in str(w.message)]
    record = ks.load_session(tmp_path / "small").manifest.quantization
    assert record["weights_in_int8"] == quantized
    assert record["weights_in_all"] == model.count_params()
    assert (record["weights"], len(told)) == (("int8", 0) if quantized else ("float32", 1))


def test_data_of_several_inputs_for_int8_are_a_tuple_a_list_or_a_dict(tmp_path):
    inputs = [keras.Input((None, 3), name="a"), keras.Input((None, 2), name="b")]
    h = layers.GRU(4, return_sequences=True)(layers.Concatenate()(inputs))
    a, b = np.ones((5, 7, 3), "float32"), np.ones((5, 7, 2), "float32")
    for i, data in enumerate([(a, b), [a, b], {"b": b, "a": a}]):
        options = {"quantize": "int8", "representative_data": data}
        ks.export_step_model(keras.Model(inputs, h), tmp_path / str(i), **options)
        quantization = ks.load_session(tmp_path / str(i)).manifest.quantization
        assert (quantization["rows"], quantization["time_steps"]) == (5, 7)


@keras.saving.register_keras_serializable(package="test_export")
class Forbid(layers.Layer):
    """Masks a score."""

    def call(self, x):
        return ops.concatenate([ops.full_like(x[..., :1], -float("inf")), x[..., 1:]], axis=-1)


@pytest.mark.parametrize("last", [layers.Identity, Forbid])
def test_other_weights_do_not_pass_the_check(last, tmp_path):
    x, scores = keras.Input((None, 3)), layers.Dense(5)
    model = keras.Model(x, last()(scores(layers.GRU(3, return_sequences=True)(x))))
    ks.export_step_model(model, tmp_path / "out")
    manifest = ks.load_session(tmp_path / "out").manifest
    check.compare(ks.to_step_model(model), tmp_path / "out", manifest, 1)
    scores.set_weights([w + 1 for w in scores.get_weights()])
    with pytest.raises(RuntimeError, match="something else than Keras"):
        check.compare(ks.to_step_model(model), tmp_path / "out", manifest, 1)


def masked_behind_a_border():
    """The mask of id 0 leaves a sub-model."""
    ids = keras.Input((None,), dtype="int32")
    embed = layers.Embedding(VOCABULARY, 4, mask_zero=True)
    inner = keras.Sequential([keras.Input((None,), dtype="int32"), embed], name="inner")
    return keras.Model(ids, layers.GRU(5, return_sequences=True)(inner(ids)))


def masked_numbers():
    """Steps of -1 are masked, which random numbers never are."""
    return _sequential(layers.Masking(-1.0), layers.LSTM(4, return_sequences=True))


@pytest.mark.parametrize("carries", [False, True])
@pytest.mark.parametrize("build", [masked_ids, masked_behind_a_border, masked_numbers])
@needs_own_exporter
def test_a_mask_that_the_step_model_drops_is_found_out(build, carries, tmp_path, monkeypatch):
    model = ks.to_stateful(build(), 3, resets="step") if carries else build()
    ks.export_step_model(model, tmp_path / "right")
    call = CarryRNN.call

    def without_mask(self, sequences, *args, states=None, **kwargs):
        if states is not None:
            kwargs = {name: v for name, v in kwargs.items() if "mask" not in name}
        return call(self, sequences, *args, states=states, **kwargs)

    without_mask.__signature__ = inspect.signature(call)
    monkeypatch.setattr(CarryRNN, "call", without_mask)
    with pytest.raises(RuntimeError, match="differs by .* from the model at step"):
        ks.export_step_model(model, tmp_path / "wrong")
    assert [p.name for p in tmp_path.iterdir()] == ["right"]


def test_a_model_is_compared_with_as_it_is_and_left_so(tmp_path):
    """Its own rows, window, state and random numbers."""
    x = keras.Input((5, 3), batch_size=2, name="x")
    h = layers.LSTM(4, return_sequences=True, stateful=True, dropout=0.5)(x)
    model = keras.Model({"x": x}, {"h": layers.Dense(2)(layers.Dropout(0.5)(h))})
    data = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")}
    model.predict_on_batch(data)
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    states = ks.get_states(model)
    ks.export_step_model(model, tmp_path / "out")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    for key, arrays in ks.get_states(model).items():
        for a, b in zip(arrays, states[key], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_stateful.export.check.TOLERANCE", 1e-30)
    with pytest.raises(RuntimeError, match=r"something else than Keras|no output that computes"):
        ks.export_step_model(lstm(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "around"),
    [
        ("onnx", lambda noise: noise),
        ("tf_saved_model", lambda noise: keras.Sequential([layers.Dense(3), noise])),
    ],
)
def test_a_layer_that_is_random_at_inference_is_found_out(around, form, tmp_path):
    class Noise(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed_generator = keras.random.SeedGenerator(1)

        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            return x + keras.random.normal(ops.shape(x), seed=self.seed_generator)

    x = keras.Input((None, 3))
    h = layers.GRU(3, return_sequences=True)(x)
    model = keras.Model(x, layers.TimeDistributed(around(Noise()))(h))
    with pytest.raises((RuntimeError, ValueError)):
        ks.export_step_model(model, tmp_path / "out", form)
    assert not list(tmp_path.iterdir())


def _steps_that_lead_to_an_export(model, tmp_path):
    """What a user may export: the network, a converted one, a step model, one of a file."""
    step = ks.to_step_model(model)
    step.save(tmp_path / "step.keras")
    loaded = keras.models.load_model(tmp_path / "step.keras")
    return {"plain": model, "stateful": ks.to_stateful(model, 2), "step": step, "loaded": loaded}


@pytest.mark.parametrize("kind", ["plain", "stateful", "step", "loaded"])
def test_outputs_of_a_dict_are_called_by_its_keys(kind, tmp_path):
    x = keras.Input((None, 3), name="x")
    h = layers.GRU(4, return_sequences=True)(x)
    network = keras.Model(
        x, {"load": layers.Dense(1)(h), "alarm": layers.Dense(2)(h), "a/b c": layers.Dense(3)(h)}
    )
    model = _steps_that_lead_to_an_export(network, tmp_path)[kind]
    ks.export_step_model(model, tmp_path / "out")
    data = np.random.default_rng(0).normal(size=(1, 5, 3)).astype("float32")
    expected = network.predict_on_batch(data)
    with ks.load_session(tmp_path / "out") as session:
        names = [output.name for output in session.manifest.outputs]
        assert names == sorted(expected)
        for name, value in zip(names, session.read(data), strict=True):
            np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_a_key_that_an_input_has_gets_a_number_and_lists_have_the_names_of_layers(tmp_path):
    x = keras.Input((None, 3), name="load")
    h = layers.GRU(4, return_sequences=True, name="gru")(x)
    ends = layers.Dense(1, name="one")(h), layers.Dense(2, name="two")(h)
    for i, (outputs, names) in enumerate(
        [
            ({"load": ends[0]}, ["load_1"]),
            (list(ends), ["one", "two"]),
            ({"b": list(ends), "a": h}, ["gru", "one", "two"]),
        ]
    ):
        ks.export_step_model(keras.Model(x, outputs), tmp_path / str(i))
        with ks.load_session(tmp_path / str(i)) as session:
            assert [output.name for output in session.manifest.outputs] == names


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_missing_extra_is_named_with_its_command(form, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_stateful.export.formats.find_spec", lambda name: None)
    with pytest.raises(
        ImportError,
        match=r'The format ".*" cannot be written here: .*pip install "(\.|keras-stateful)\[',
    ):
        ks.export_step_model(gru(), tmp_path / "out", form)


@pytest.mark.parametrize(
    ("form", "running", "lacking", "reason"),
    [
        ("executorch", "tensorflow", "executorch", "Keras on torch could, with executorch"),
        ("executorch", "jax", "torch", "no other backend that could is installed"),
        ("litert", "jax", "tensorflow litert_torch", "Keras on torch could, with litert_torch"),
        ("tf_saved_model", "torch", "tensorflow", "Keras on jax could, with tensorflow"),
    ],
)
def test_a_backend_that_lacks_a_package_only_is_named_with_it(
    form, running, lacking, reason, monkeypatch
):
    find = lambda name: None if name in lacking.split() else name  # noqa: E731
    monkeypatch.setattr("keras_stateful.export.formats.find_spec", find)
    monkeypatch.setattr("keras.backend.backend", lambda: running)
    monkeypatch.setattr("keras_stateful.foundation.keras_internals.has_keras", lambda since: True)
    with pytest.raises(ImportError, match=f"Keras on {running} cannot; {reason}"):
        formats.backend_for(form)


def test_a_class_that_another_process_cannot_import_is_refused(tmp_path):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow writes every format itself")

    class Scale(layers.Layer):
        def call(self, x):
            return 2 * x

    x = keras.Input((None, 3))
    model = keras.Model(x, layers.GRU(2, return_sequences=True)(Scale()(x)))
    with pytest.raises(ValueError, match=r"fresh process on tensorflow.*Scale"):
        ks.export_step_model(model, tmp_path / "out", FOREIGN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("adapted", "form"), [(True, "onnx"), (False, "tf_saved_model")])
def test_normalization_is_exported(adapted, form, tmp_path):
    x = (np.random.default_rng(0).standard_normal((2, 12, 3)) * 5 + 20).astype("float32")
    statistics = {} if adapted else {"mean": x.mean((0, 1)), "variance": x.var((0, 1))}
    normalization = layers.Normalization(**statistics)
    if adapted:
        normalization.adapt(x)
    model = _sequential(normalization, layers.LSTM(4, return_sequences=True))
    ks.export_step_model(model, tmp_path / "out", form)
    _close(ks.load_session(tmp_path / "out", batch_size=2).read(x), model.predict(x, verbose=0))


def colliding():
    """The paths `encoder/rnn` and `encoder_rnn`, and operations of one name in two sub-models."""
    x = keras.Input((None, 3), name="x")
    y = keras.Input((None, 3))
    halves = ops.add(layers.LSTM(3, return_sequences=True, name="rnn")(y), y)
    halves._keras_history.operation.name = "plus"
    inner = keras.Model(y, halves, name="encoder")
    h = layers.LSTM(3, return_sequences=True, name="encoder_rnn")(inner(x))
    h = ops.add(h, x)
    h._keras_history.operation.name = "plus"
    return keras.Model(x, layers.Dense(2, name="rnn_state_0")(h))


def test_names_that_are_one_without_their_slashes(tmp_path):
    model = colliding()
    x = _data(model, 1, 6)[0]
    expected = model.predict(x, verbose=0)
    step = ks.to_step_model(model)
    assert step.state_names == [f"encoder_rnn{i}_state_{k}" for i in ("", "_1") for k in range(2)]
    assert step.state_paths == ["encoder/rnn"] * 2 + ["encoder_rnn"] * 2
    states, parts = ks.initial_states(step), []
    for t in range(6):
        y, *states = step.predict_on_batch([x[:, t : t + 1], *states])
        parts.append(np.asarray(y))
    _close(np.concatenate(parts, axis=1), expected)
    ks.export_step_model(model, tmp_path / "out")
    _close(ks.load_session(tmp_path / "out").read(x), expected)


def test_a_layer_named_as_the_second_call_of_another():
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="rnn_state_0")
    rnn, other = (layers.GRU(3, return_sequences=True, name=n) for n in ("rnn", "rnn_call1"))
    step = ks.to_step_model(keras.Model([a, b], [rnn(a), rnn(b), other(a)]))
    assert len(set(step.state_names)) == 3
    assert sorted(step.state_paths) == ["rnn", "rnn#1", "rnn_call1"]


@pytest.mark.parametrize(
    "form",
    runtimes.each(
        *("onnx", "openvino", "tf_saved_model", "litert", "executorch"),
        slow=("openvino", "tf_saved_model", "litert", "executorch"),
    ),
)
def test_outputs_that_differ_for_rare_inputs_only_keep_their_names(form, tmp_path):
    x = keras.Input((None, 3))
    rare = [layers.ReLU(threshold=10.0 * i, name=f"above_{i}0")(x) for i in range(3, 9)]
    model = keras.Model(x, [*rare, layers.GRU(2, return_sequences=True)(x)])
    ks.export_step_model(model, tmp_path / "out", form)
    session = ks.load_session(tmp_path / "out")
    data = np.full((1, 1, 3), 55, "float32")
    expected = model.predict(data, verbose=0)
    outputs = zip(session.manifest.outputs, session.read(data), expected, strict=True)
    for tensor, array, expected_array in outputs:
        np.testing.assert_allclose(array, expected_array, atol=1e-5, err_msg=tensor.name)


@pytest.mark.parametrize("form", ["onnx", "tf_saved_model"])
def test_an_output_that_the_next_layer_reads(form, tmp_path):
    x = keras.Input((None, 3))
    lower = layers.GRU(4, return_sequences=True)(x)
    upper = layers.LSTM(3, return_sequences=True)(lower)
    model = keras.Model(x, [lower, upper, layers.GRU(2)(upper)])
    ks.export_step_model(model, tmp_path / "out", form)
    (data,) = _data(model, 2, 9)
    results = ks.load_session(tmp_path / "out", batch_size=2).read(data)
    for got, expected in zip(results, model.predict(data, verbose=0), strict=True):
        _close(got, expected)


def test_outputs_that_cannot_be_told_apart_are_refused():
    class Shuffled:
        def output_names(self):
            return ["b", "a", "c"]

        def run(self, feeds, expected):
            x = feeds["x"]
            return [{"a": 2 * x, "b": 0 * x, "c": 0 * x}[n] for n in expected]

    x = keras.Input((1, 3), name="x")
    outputs = [2 * x, layers.ReLU(threshold=30.0, name="high")(x), layers.ReLU(threshold=60.0)(x)]
    entry = Tensor("x", "x", (None, 1, 3), "float32", True)
    with pytest.raises(RuntimeError, match=r"Which output of the artifact .* cannot be told"):
        describe.output_tensors(keras.Model(x, outputs), Shuffled(), [entry], [], [], None)


@keras.saving.register_keras_serializable(package="test_export")
class Block(layers.Layer):
    """A layer in an attribute that cells have a number in."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense, self.dropout = layers.Dense(units), layers.Dropout(0.2)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, training=False):
        return self.dropout(self.dense(x), training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_users_layer_keeps_its_dropout(tmp_path):
    model = _sequential(
        layers.LSTM(4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True), Block(3)
    )
    ks.export_step_model(model, tmp_path / "out")
    x = _data(model, 1, 5)[0]
    _close(ks.load_session(tmp_path / "out").read(x), model.predict(x, verbose=0))


def twice():
    """A sub-model called twice, and two outputs of a head called twice."""
    mlp = keras.Sequential(
        [keras.Input((None, 3)), layers.Dense(4, activation="tanh"), layers.Dense(2)], name="mlp"
    )
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    h = layers.GRU(3, return_sequences=True)(layers.Concatenate()([mlp(a), mlp(b)]))
    return keras.Model([a, b], [h, mlp(h), mlp(layers.Dense(3)(h))])


def test_a_sub_model_that_is_called_several_times_is_exported(tmp_path):
    model = twice()
    ks.export_step_model(model, tmp_path / "out")
    x = _data(model, 1, 6)
    got = ks.load_session(tmp_path / "out").read(tuple(x))
    for g, w in zip(got, model.predict(x, verbose=0), strict=True):
        _close(g, w)


def test_ids_of_64_bits_are_exported(tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    model = keras.Model(
        ids, layers.GRU(4, return_sequences=True)(layers.Embedding(VOCABULARY, 4)(ids))
    )
    ks.export_step_model(model, tmp_path / "out")
    session = ks.load_session(tmp_path / "out")
    assert session.manifest.inputs[0].dtype == (
        "int32" if keras.backend.backend() == "jax" else "int64"
    )
    x = np.arange(9)[None]
    _close(session.read(x), model.predict(x, verbose=0))


def squash(x):
    return 0.9 * ops.tanh(x)


@keras.saving.register_keras_serializable(package="test_export")
def squeeze(x):
    return 0.8 * ops.tanh(x)


def double(x):
    return 2 * x


@keras.saving.register_keras_serializable(package="test_export")
class DoublingLSTM(layers.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(2 * sequences, initial_state, mask, training)


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_what_an_importable_module_defines_is_exported(form, tmp_path):
    """In a fresh process on TensorFlow, too."""
    model = _sequential(
        layers.Lambda(double),
        DoublingLSTM(3, return_sequences=True),
        layers.GRU(4, activation=squash, return_sequences=True),
        layers.Dense(4, activation=squeeze),
    )
    ks.export_step_model(model, tmp_path / "out", form)
    x = _data(model, 1, 6)[0]
    _close(ks.load_session(tmp_path / "out").read(x), model.predict(x, verbose=0))


def test_a_function_that_another_process_cannot_import_is_refused(tmp_path):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow writes every format itself")
    model = _sequential(layers.Lambda(lambda x: 2 * x), layers.GRU(4, return_sequences=True))
    with pytest.raises(ValueError, match=r"fresh process on tensorflow.*lambda"):
        ks.export_step_model(model, tmp_path / "out", FOREIGN)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="how torch writes LiteRT")
@runtimes.installed("litert on torch")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_torch_writes_litert_without_tensorflow(quantize, tmp_path, monkeypatch):
    """One after the other; JAX, which the converter calls, keeps the precision that it had."""
    import jax

    monkeypatch.setattr(processes, "_write_in_fresh_process", None)
    model = lstm()
    x = _data(model, 3, 20)[0]
    data = {"quantize": quantize, "representative_data": x if quantize else None}
    ks.export_step_model(model, tmp_path / "out", "litert", **data)
    session = ks.load_session(tmp_path / "out", batch_size=3)
    assert session.manifest.versions["exported_with"] == "torch"
    assert not jax.config.jax_enable_x64
    if quantize:
        assert session.manifest.quantization["weights_in_int8"] > 0
    else:
        _close(session.read(x), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("form", "elsewhere"),
    [("onnx", False), ("openvino", False), ("litert", True), ("executorch", True)],
)
def test_what_torch_writes_on_the_cpu_alone(form, elsewhere, tmp_path, monkeypatch):
    here, there = [], []
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setattr(processes, "_torch_has_accelerator", lambda: True)
    monkeypatch.setattr(processes, "write", lambda *_, **options: here.append(options))
    monkeypatch.setattr(processes, "_write_in_fresh_process", lambda *_: there.append(_))
    processes.write_artifact(None, formats.Target(form, "torch", 1), tmp_path / "out")
    assert (len(here), len(there)) == ((0, 1) if elsewhere else (1, 0))


@keras.saving.register_keras_serializable(package="test_export")
class InNumpy(layers.Layer):
    """Leaves the graph."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return keras.KerasTensor(x.shape, x.dtype)
        return ops.convert_to_tensor(np.tanh(ops.convert_to_numpy(x)))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="an exporter of torch")
@runtimes.installed("executorch")
def test_executorch_says_which_layer_it_cannot_write(tmp_path):
    model = _sequential(layers.GRU(4, return_sequences=True), InNumpy(name="outside"))
    step = ks.to_step_model(model, local=["outside"])
    with pytest.raises(RuntimeError, match=r'"executorch".*the layer .outside. \(InNumpy\)'):
        ks.export_step_model(step, tmp_path / "out", "executorch")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="an exporter of torch")
@runtimes.installed("executorch")
def test_a_size_that_is_left_open_is_refused_where_the_format_fixes_it(tmp_path):
    x = keras.Input((None, None, 3), name="image")
    h = layers.TimeDistributed(layers.GlobalAveragePooling1D())(x)
    model = keras.Model(x, layers.GRU(4, return_sequences=True)(h))
    with pytest.raises(RuntimeError, match=r"fixes every size, and the input 'image'"):
        ks.export_step_model(model, tmp_path / "out", "executorch")
