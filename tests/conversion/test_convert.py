"""What conversions keep, what they refuse, and that the given model is left as it was."""

import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import zoo
from keras import layers

import keras_stateful as ks


def sequential(*stack, shape=(None, 3), **kwargs):
    return keras.Sequential([keras.Input(shape, **kwargs), *stack])


def lstm(**kwargs):
    return layers.LSTM(4, return_sequences=True, **kwargs)


def weights(model):
    return [keras.ops.convert_to_numpy(w).copy() for w in model.weights]


@pytest.mark.parametrize(
    "convert", [lambda m: ks.to_stateful(m, 3), ks.to_inference, ks.to_step_model, ks.to_stateless]
)
@pytest.mark.parametrize("name", ["two_lstm", "nested", "stacked_cells", "shared", "custom_cell"])
def test_weights_are_copied_and_the_given_model_is_left_alone(name, convert):
    model = zoo.build(name)
    before, config = weights(model), model.get_config()
    converted = convert(model)
    for a, b in zip(before, weights(converted), strict=True):
        np.testing.assert_array_equal(a, b)
    for w in converted.weights:
        w.assign(w + 1.0)
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.get_config() == config
    assert not converted.compiled


@pytest.mark.parametrize("convert", [ks.to_inference, ks.to_step_model])
@pytest.mark.parametrize("name", ["two_lstm", "nested", "shared"])
def test_shared_weights_are_the_same_variables(name, convert):
    model = zoo.build(name)
    twin = convert(model, share_weights=True)
    assert [id(w) for w in twin.weights] == [id(w) for w in model.weights]


@pytest.mark.parametrize("name", [*zoo.MODELS, *zoo.MASKED])
def test_there_and_back(name):
    model = zoo.build(name)
    back = ks.to_stateless(ks.to_stateful(model, 4, resets="window"))
    assert [t.name for t in back.inputs] == [t.name for t in model.inputs]
    arrays = zoo.data(model, 2, 5)
    x = zoo.window(model, arrays, slice(None))
    for a, b in zip(
        zoo.outputs(model.predict_on_batch(x)), zoo.outputs(back.predict_on_batch(x)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    own = [
        part
        for part in back._flatten_layers()
        if type(part).__module__.startswith("keras_stateful")
    ]
    assert not own


@pytest.mark.parametrize("name", [*zoo.MODELS, *zoo.MASKED])
def test_inference_step_by_step_equals_the_training_model_on_that_row(name):
    """Law 7, inside Keras."""
    model = zoo.build(name)
    training = ks.to_stateful(model, 4, resets="window")
    arrays = zoo.data(model, 4, 8)
    keep = np.zeros(4, bool)
    wanted = zoo.outputs(training.predict_on_batch(zoo.window(training, arrays, slice(None), keep)))
    live = ks.to_inference(training)
    row = [a[2:3] for a in arrays]
    steps = [
        zoo.outputs(live.predict_on_batch(zoo.window(live, row, slice(t, t + 1)))) for t in range(8)
    ]
    mask = np.all(row[0][0] != 0, axis=tuple(range(1, row[0][0].ndim)))
    for got, want in zip(zip(*steps, strict=True), wanted, strict=True):
        np.testing.assert_allclose(np.concatenate(got, axis=1)[0][mask], want[2][mask], atol=1e-5)


@pytest.mark.parametrize("name", [*zoo.MODELS, *zoo.MASKED])
def test_step_models_chain(name):
    model = zoo.build(name)
    step = ks.to_step_model(ks.to_stateful(model, 4, resets="step"))
    arrays = zoo.data(model, 2, 6)
    wanted = zoo.outputs(model.predict_on_batch(zoo.window(model, arrays, slice(None))))
    states, parts = ks.initial_states(step, batch_size=2), []
    for window in (slice(0, 1), slice(1, 2), slice(2, 6)):
        result = step([*(a[:, window] for a in arrays), *states])
        parts.append(zoo.outputs(result[: len(step.data_outputs)]))
        states = result[len(step.data_outputs) :]
    for got, want in zip(zip(*parts, strict=True), wanted, strict=True):
        np.testing.assert_allclose(np.concatenate(got, axis=1), want, atol=1e-5)


class Slow(layers.GRUCell):
    """Takes so long that another thread is inside of the layer, too."""

    def call(self, inputs, states, training=False):
        time.sleep(0.02)
        return super().call(inputs, states, training=training)


def test_threads_may_step_one_model():
    """It holds no state of a stream. (Its layers are told by attributes what a call is to do.)"""
    rnn = layers.RNN(Slow(4), return_sequences=True)
    step = ks.to_step_model(keras.Sequential([keras.Input((None, 3)), rnn]))
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 1, 3)).astype("float32")

    def outputs(n):
        states, read = ks.initial_states(step), []
        for each in x[n]:
            output, *states = step([each, *states])
            read.append(keras.ops.convert_to_numpy(output))
        return read

    expected = [outputs(n) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for got, alone in zip(pool.map(outputs, range(2)), expected, strict=True):
            np.testing.assert_array_equal(got, alone)
    np.testing.assert_array_equal(outputs(0), expected[0])


def test_a_step_model_survives_saving(tmp_path):
    step = ks.to_step_model(zoo.build("nested"))
    step.save(tmp_path / "step.keras")
    again = keras.saving.load_model(tmp_path / "step.keras")
    assert (
        again.state_names
        == step.state_names
        == ["encoder_lstm_state_0", "encoder_lstm_state_1", "decoder_gru_state_0"]
    )
    assert again.state_paths == ["encoder/lstm", "encoder/lstm", "decoder/gru"]


@pytest.mark.parametrize("resets", [None, "window"])
@pytest.mark.parametrize("name", ["two_lstm", "nested", "shared", "custom_cell", "dict_inputs"])
def test_a_saved_and_reloaded_model_trains_on_the_same(tmp_path, name, resets):
    stateful = ks.to_stateful(zoo.build(name), 4, resets=resets)
    arrays = zoo.data(stateful, 4, 4)
    x = zoo.window(stateful, arrays, slice(None), None if resets is None else np.ones(4, bool))
    y = [np.zeros((*tuple(o.shape[:1]), 4, *o.shape[2:]), "float32") for o in stateful.outputs]
    stateful.compile(keras.optimizers.Adam(0.05), "mse")
    stateful.train_on_batch(x, y[0])
    stateful.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    ks.reset_states(stateful)
    stateful.reset_metrics()  # before Keras 3.15 `train_on_batch` returns the mean so far
    for _ in range(3):
        np.testing.assert_allclose(
            again.train_on_batch(x, y[0]), stateful.train_on_batch(x, y[0]), atol=1e-5
        )
    for a, b in zip(ks.get_states(again).values(), ks.get_states(stateful).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_layers_chooses_who_carries():
    model = sequential(lstm(name="first"), lstm(name="second"))
    stateful = ks.to_stateful(model, 2, layers=["second"])
    assert list(ks.get_states(stateful)) == ["second"]
    assert list(ks.get_states(ks.to_stateful(stateful, 3, layers=["second"]))) == ["second"]


def test_layers_inside_time_distributed_are_left_alone():
    model = sequential(
        layers.TimeDistributed(layers.GRU(3)), lstm(name="outer"), shape=(None, 5, 2)
    )
    assert list(ks.get_states(ks.to_stateful(model, 2))) == ["outer"]


def test_a_recurrent_layer_that_runs_along_another_axis_is_left_alone():
    """The decoder of an autoencoder runs along the time that `RepeatVector` makes."""
    model = sequential(layers.LSTM(4, name="encoder"), layers.RepeatVector(6), lstm(name="decoder"))
    assert list(ks.get_states(ks.to_stateful(model, 2))) == ["encoder"]


def test_a_last_step_taken_by_hand_is_return_sequences_false():
    x = keras.Input((None, 3))
    model = keras.Model(x, layers.Dense(1)(lstm()(x)[:, -1]))
    assert ks.to_stateful(model, 2).output_shape == (2, 1)


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.dense = layers.BatchNormalization(), layers.Dense(3)

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x, training=False):
        return self.dense(self.norm(x, training=training))


@pytest.mark.parametrize(
    "freeze",
    [
        lambda block, rnn: rnn,
        lambda block, rnn: rnn.cell,
        lambda block, rnn: block.norm,
        lambda block, rnn: block.dense.kernel,
    ],
    ids=["layer", "cell", "layer in a layer", "weight"],
)
def test_what_is_frozen_stays_frozen(freeze):
    block, rnn = Block(), lstm()
    model = sequential(block, rnn, layers.Dense(1))
    freeze(block, rnn).trainable = False
    stateful = ks.to_stateful(model, 2)
    wanted = [w.trainable for w in model.weights]
    assert not all(wanted[:2] + wanted[4:])
    for copy in (stateful, ks.to_inference(stateful), ks.to_stateless(stateful)):
        assert [w.trainable for w in copy.weights] == wanted
        assert copy.layers[-3].norm.trainable == block.norm.trainable


class Start(layers.Layer):
    """A trainable vector, one copy for each row of the input."""

    def build(self, shape):
        self.start = self.add_weight(shape=(4,), initializer="ones", name="start")

    def call(self, x):
        return keras.ops.broadcast_to(
            keras.ops.convert_to_tensor(self.start), (keras.ops.shape(x)[0], 4)
        )


@pytest.mark.parametrize("ids", [False, True])
def test_what_a_layer_makes_of_the_windows_shape_alone_may_be_given_to_its_steps(ids):
    """A learned initial state is one; the window's last step is not."""
    x = keras.Input((None,), dtype="int32") if ids else keras.Input((None, 3))
    h = layers.Embedding(9, 3)(x) if ids else x
    ks.to_stateful(
        keras.Model(x, layers.GRU(4, return_sequences=True)(h, initial_state=Start()(x))), 2
    )
    last = layers.Embedding(9, 4)(x[:, -1]) if ids else layers.Dense(4)(x[:, -1])
    with pytest.raises(ValueError, match="end of the window"):
        ks.to_stateful(
            keras.Model(x, layers.GRU(4, return_sequences=True)(h, initial_state=last)), 2
        )


def test_kernel_size_one_mixes_nothing():
    ks.to_stateful(sequential(layers.Conv1D(3, 1), lstm()), 2)


@pytest.mark.parametrize(
    "mixes",
    [
        lambda: layers.Conv1D(4, 3, padding="same"),
        lambda: layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        lambda: layers.UnitNormalization(axis=1),
        lambda: layers.Lambda(lambda x: keras.ops.cumsum(x, axis=1)),
    ],
    ids=["Conv1D", "Bidirectional", "norm over time", "Lambda"],
)
def test_what_mixes_time_steps_is_refused_whatever_layers_says(mixes):
    def beside(x):
        return layers.Add()([lstm(name="carried")(x), mixes()(x)])

    def behind(x):
        return mixes()(lstm(name="carried")(x))

    def before(x):
        return lstm(name="carried")(mixes()(x))

    x = keras.Input((None, 4))
    for place in (beside, behind, before):
        with pytest.raises(ValueError, match="cannot carry"):
            ks.to_stateful(keras.Model(x, place(x)), 2, layers=["carried"])


@pytest.mark.parametrize("go_backwards", [False, True])
def test_a_layer_kept_out_by_name_starts_anew_in_each_window_of_the_training_alone(
    go_backwards, tmp_path
):
    """What it puts out depends on a window's length: nothing that takes another one may have it."""
    documents = [np.ones((30, 2)), np.ones((21, 2))]
    data = ks.StatefulSequence(
        documents, 2, 7, targets=[np.ones((30, 1)), np.ones((21, 1))], resets=True
    )
    anew = layers.GRU(1, return_sequences=True, go_backwards=go_backwards, name="anew")
    plain = keras.Sequential(
        [keras.Input((None, 2)), layers.GRU(4, return_sequences=True, name="carried"), anew]
    )
    model = ks.to_stateful(plain, data, layers=["carried"])
    model.compile("sgd", "mse")
    model.fit(data, verbose=0)
    assert list(ks.get_states(model)) == ["carried"]
    for convert in (
        ks.to_inference,
        ks.to_step_model,
        lambda m: ks.export_step_model(m, tmp_path / "out"),
        lambda m: ks.predict_documents(m, documents),
        lambda m: ks.evaluate_documents(m, documents, targets=[d[:, :1] for d in documents]),
    ):
        with pytest.raises(ValueError, match=r"\['anew'\] start anew in each window"):
            convert(model)


def test_a_batch_of_another_size_is_an_error_not_a_broadcast():
    stateful = ks.to_stateful(sequential(lstm()), 4)
    with pytest.raises(Exception, match="(?i)rows|shape|batch|incompatible"):
        stateful.predict_on_batch(np.ones((1, 5, 3), "float32"))
    stateful.predict_on_batch(np.ones((4, 5, 3), "float32"))
    with pytest.raises(Exception, match="(?i)rows|shape|batch|incompatible"):
        stateful.predict_on_batch(np.ones((1, 5, 3), "float32"))


def test_plain_weights_and_files_fit_at_any_batch_size(tmp_path):
    """Law 8: no state in weights or files."""
    plain, four = zoo.build("nested"), ks.to_stateful(zoo.build("nested"), 4, resets="window")
    assert four.count_params() == plain.count_params()
    four.predict_on_batch(zoo.window(four, zoo.data(four, 4, 3), slice(None), np.zeros(4, bool)))
    for w in four.weights:
        w.assign(w + 1.0)
    four.save_weights(tmp_path / "four.weights.h5")
    seven = ks.to_stateful(zoo.build("nested"), 7)
    for model in (plain, seven):
        model.load_weights(tmp_path / "four.weights.h5")
        for a, b in zip(weights(model), weights(four), strict=True):
            np.testing.assert_array_equal(a, b)
    plain.save_weights(tmp_path / "plain.weights.h5")
    four.load_weights(tmp_path / "plain.weights.h5")
    plain.set_weights(four.get_weights())
    for states in ks.get_states(seven).values():
        assert all(np.all(s == 0) for s in states)


def trained_on_random_windows(model, callbacks=()):
    rng = np.random.default_rng(0)
    model.compile("adam", "mse")
    x, y = (
        rng.standard_normal((8, 5, 3)).astype("float32"),
        rng.standard_normal((8, 5, 4)).astype("float32"),
    )
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.parametrize("plain", [True, False], ids=["plain stateful=True", "to_stateful"])
def test_a_checkpoint_that_fit_wrote_loads_at_any_batch_size_and_into_plain_keras(plain, tmp_path):
    stateful = keras.Sequential([keras.Input((5, 3), batch_size=4), lstm(stateful=True)])
    model = stateful if plain else ks.to_stateful(sequential(lstm()), 4)
    files = [
        keras.callbacks.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"),
    ]
    trained_on_random_windows(model, [ks.ResetStatesCallback(), *files])
    whole = keras.saving.load_model(tmp_path / "m.keras")
    others = [sequential(lstm()), ks.to_stateful(sequential(lstm()), 7)]
    for other in others:
        other.load_weights(tmp_path / "m.weights.h5")
    for other in (whole, *others):
        for a, b in zip(weights(other), weights(model), strict=True):
            np.testing.assert_array_equal(a, b)
    for other in (whole, others[1]):
        assert not any(np.any(s) for states in ks.get_states(other).values() for s in states)


def test_a_model_outlives_the_training_of_its_copies():
    """On JAX `fit` gives away the buffers of its model; no other model may hold them."""
    model = sequential(lstm())
    training = trained_on_random_windows(ks.to_stateful(model, 4))
    live, shared = ks.to_inference(training), ks.to_inference(training, share_weights=True)
    x = np.ones((1, 2, 3), "float32")
    before = shared.predict_on_batch(x)
    trained_on_random_windows(training)
    for m in (model, live):
        assert np.isfinite(m.predict_on_batch(x)).all()
    ks.reset_states(shared)
    assert np.abs(shared.predict_on_batch(x) - before).max() > 1e-4


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("convert", [lambda m: ks.to_stateful(m, 4), ks.to_stateless])
def test_what_trains_changes_no_other_models_weights(convert, jit_compile):
    """A copy is given its values on the device, maybe in the same memory until one is written."""
    model = ks.to_stateful(sequential(lstm()), 4)
    copy = convert(model)
    for trained, other in ((copy, model), (model, copy)):
        before, own = weights(other), weights(trained)
        trained.compile(
            "adam", "mse", jit_compile=jit_compile and keras.backend.backend() != "torch"
        )
        trained.train_on_batch(np.ones((4, 5, 3)), np.ones((4, 5, 4)))
        assert all(np.any(a != b) for a, b in zip(own, weights(trained), strict=True))
        for a, b in zip(before, weights(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_step_models_are_differentiable():
    step = ks.to_step_model(sequential(lstm()))
    x, states = np.ones((2, 3, 3), "float32"), ks.initial_states(step, 2)

    def total(x, states):
        return keras.ops.sum(step([x, *states])[0])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        states = [tf.constant(s) for s in states]
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = total(x, states)
        gradients = tape.gradient(loss, states)
    elif keras.backend.backend() == "torch":
        import torch

        states = [torch.tensor(s, requires_grad=True) for s in states]
        gradients = torch.autograd.grad(total(torch.tensor(x), states), states)
    else:
        import jax

        gradients = jax.grad(total, argnums=1)(x, states)
    assert all(np.abs(keras.ops.convert_to_numpy(g)).max() > 0 for g in gradients)


def test_conv_lstm_3d_at_inference():
    layer = layers.ConvLSTM3D(1, 2, padding="same", return_sequences=True)
    model = sequential(layer, shape=(None, 3, 3, 3, 1))
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 3, 3, 1)).astype("float32")
    live = ks.to_inference(model)
    parts = [live.predict_on_batch(x[:, t : t + 1]) for t in range(4)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model.predict_on_batch(x), atol=1e-5)


def test_conversion_runs_no_initializer(monkeypatch):
    """Three LSTM(1840) would spend seconds on orthogonal matrices that are thrown away."""
    model = zoo.build("two_lstm")
    monkeypatch.setattr(
        keras.initializers.Orthogonal, "__call__", lambda *a, **k: pytest.fail("initializer ran")
    )
    monkeypatch.setattr(
        keras.initializers.GlorotUniform, "__call__", lambda *a, **k: pytest.fail("initializer ran")
    )
    for converted in (
        ks.to_stateful(model, 2),
        ks.to_inference(model),
        ks.to_step_model(model),
        ks.to_stateless(model),
    ):
        recurrent = next(layer for layer in converted.layers if isinstance(layer, layers.LSTM))
        assert isinstance(recurrent.cell.recurrent_initializer, keras.initializers.Orthogonal)


def test_a_users_own_recurrent_layer_class():
    class Mine(layers.GRU):
        pass

    stateful = ks.to_stateful(sequential(Mine(4, return_sequences=True, name="mine")), 2)
    assert list(ks.get_states(stateful)) == ["mine"]
    assert isinstance(stateful.get_layer("mine"), Mine)


@keras.saving.register_keras_serializable(package="test_convert")
class GainLSTM(layers.LSTM):
    """Weights of its own beside the cell's, in a variable and in a layer."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.shift = layers.Dense(3)

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)
        self.shift.build(sequences_shape)
        self.gain = self.add_weight(shape=(sequences_shape[-1],), initializer="ones", name="gain")

    def call(self, sequences, initial_state=None, mask=None, training=False):
        scaled = self.shift(sequences * self.gain)
        return super().call(scaled, initial_state=initial_state, mask=mask, training=training)


def test_weights_that_a_recurrent_layer_has_beside_its_cell_are_shared_and_copied(tmp_path):
    layer = GainLSTM(3, return_sequences=True)
    model = sequential(layer)
    layer.gain.assign([1.0, -2.0, 0.5])
    layer.shift.bias.assign([1.0, 0.0, -1.0])
    x = np.random.default_rng(0).standard_normal((1, 9, 3)).astype("float32")
    shared, twice = ks.to_inference(model, share_weights=True), None
    twice = ks.to_inference(shared, share_weights=True)
    step = ks.to_step_model(model, share_weights=True)
    for _ in range(2):
        want = model.predict(x, verbose=0)
        got = [shared, twice, ks.to_inference(model), ks.to_inference(shared)]
        for live in got:
            ks.reset_states(live)
            np.testing.assert_allclose(live.predict_on_batch(x), want, atol=1e-6)
            assert len(live.weights) == len(model.weights)
        y = step.predict_on_batch([x, *ks.initial_states(step)])[0]
        np.testing.assert_allclose(y, want, atol=1e-6)
        np.testing.assert_allclose(ks.predict_documents(model, [x[0]])[0], want[0], atol=1e-6)
        layer.gain.assign([3.0, 1.0, -1.5])  # what shares it follows
    assert all(
        a is b
        for a, b in zip(
            shared.layers[-1].trainable_variables, layer.trainable_variables, strict=True
        )
    )
    ks.export_step_model(model, tmp_path / "out")
    want = model.predict(x, verbose=0)
    np.testing.assert_allclose(ks.load_session(tmp_path / "out").read(x), want, atol=1e-5)


def test_weights_that_cannot_be_shared_are_refused():
    class Listed(layers.GRU):
        def build(self, sequences_shape, initial_state_shape=None):
            super().build(sequences_shape)
            self.gains = [self.add_weight(shape=(3,), initializer="ones", name="gain")]

        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(sequences * self.gains[0], initial_state, mask, training)

    model = sequential(Listed(4, return_sequences=True, name="mine"))
    ks.to_inference(model)
    with pytest.raises(
        ValueError, match=r"`mine` \(Listed\) has weights that no other model can share"
    ):
        ks.to_inference(model, share_weights=True)


CONVERSIONS = [
    lambda m: ks.to_stateful(m, 2),
    lambda m: ks.to_inference(m, 2),
    lambda m: ks.to_inference(m, 2, share_weights=True),
    ks.to_stateless,
]


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_an_adapted_normalization_normalizes_in_copies(convert):
    x = (np.random.default_rng(0).standard_normal((2, 12, 3)) * 5 + 20).astype("float32")
    inner = layers.Normalization()
    inner.adapt(x)
    model = sequential(inner, lstm())
    got = convert(model).predict(x, batch_size=2, verbose=0)
    np.testing.assert_allclose(got, model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="lookups run in TensorFlow's graphs alone"
)
@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize("mode", ["int", "one_hot"])
def test_an_adapted_lookup_knows_its_vocabulary_in_copies(mode, convert):
    lookup = layers.IntegerLookup(output_mode=mode)
    lookup.adapt(np.array([[5, 7, 7, 9]]))
    ids = keras.Input((None,), dtype="int64")
    h = layers.Embedding(8, 4)(lookup(ids)) if mode == "int" else lookup(ids[..., None])
    if len(h.shape) != 3:
        pytest.skip("an older Keras drops the axis of time")
    model = keras.Model(ids, lstm()(h))
    x = np.array([[5, 7, 9, 2], [9, 9, 1, 7]])
    got = convert(model).predict(x, batch_size=2, verbose=0)
    np.testing.assert_allclose(got, model.predict(x, verbose=0), atol=1e-6)


def test_what_a_layer_writes_into_files_in_its_own_way_is_copied():
    @keras.saving.register_keras_serializable(package="test_convert")
    class Scale(layers.Layer):
        factor = np.float32(1)

        def call(self, x):
            return x * self.factor

        def save_own_variables(self, store):
            store["factor"] = self.factor

        def load_own_variables(self, store):
            self.factor = np.float32(store["factor"])

    class Checked(layers.LSTM):  # its weights are copied in any case
        def load_own_variables(self, store):
            super().load_own_variables(store)

    scale = Scale()
    scale.factor = np.float32(3)
    model = sequential(scale, Checked(4, return_sequences=True))
    x = np.ones((1, 4, 3), "float32")
    np.testing.assert_allclose(
        ks.to_inference(model).predict_on_batch(x), model.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.parametrize(
    "layer",
    [
        lambda: lstm(),
        lambda: lstm(unroll=True),
        lambda: layers.GRU(4, return_sequences=True),
        lambda: layers.SimpleRNN(4, return_sequences=True),
        lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], return_sequences=True),
        lambda: lstm(zero_output_for_mask=True),
    ],
    ids=["lstm", "unrolled", "gru", "simple_rnn", "stacked", "zero_output"],
)
def test_masked_steps_that_open_a_window_repeat_the_output_before_it(layer):
    """A residual connection drops the mask, so what masked steps put out goes on."""
    layer = layer()
    ids = keras.Input((8 if layer.unroll else None,), dtype="int32")
    h = layer(layers.Embedding(7, 4, mask_zero=True)(ids))
    h = keras.ops.add(h, layers.Dense(4)(h))
    model = keras.Model(ids, [h, layers.GRU(4, return_sequences=True)(h), layers.LSTM(3)(h)])
    model.set_weights([3 * w for w in model.get_weights()])
    x = np.array([[3, 0, 0, 5, 2, 0, 1, 6], [0, 0, 4, 0, 0, 0, 0, 5]])
    want = model.predict(x, verbose=0)
    live, step = ks.to_inference(model, 2), ks.to_step_model(model)
    for size in (4, 1):
        ks.reset_states(live)
        states = ks.initial_states(step, 2)
        carried, stepped = [], []
        for t in range(0, 8, size):
            carried.append(live.predict_on_batch(x[:, t : t + size]))
            (*y,) = step.predict_on_batch([x[:, t : t + size], *states])
            states = y[3:]
            stepped.append(y[:3])
        for parts in (carried, stepped):
            for i in range(2):
                np.testing.assert_allclose(
                    np.concatenate([p[i] for p in parts], axis=1), want[i], atol=1e-5
                )
            np.testing.assert_allclose(parts[-1][2], want[2], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras's ConvLSTM takes no mask there")
def test_masked_steps_that_open_a_window_in_images():
    x = keras.Input((None, 4, 2))
    h = layers.ConvLSTM1D(2, 3, padding="same", return_sequences=True)(
        x, mask=keras.ops.any(keras.ops.any(x != 0, axis=3), axis=2)
    )
    model = keras.Model(x, keras.ops.add(h, x))
    data = np.random.default_rng(0).standard_normal((2, 6, 4, 2)).astype("float32")
    data[:, [0, 2, 3, 5]] = 0
    live = ks.to_inference(model, 2)
    parts = [live.predict_on_batch(data[:, t : t + 1]) for t in range(6)]
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1), model.predict(data, verbose=0), atol=1e-5
    )


@keras.saving.register_keras_serializable(package="test_convert")
class LearnedStart(layers.GRUCell):
    def build(self, input_shape):
        super().build(input_shape)
        self.start = self.add_weight(shape=(self.units,), initializer="zeros", name="start")

    def get_initial_state(self, batch_size=None):
        row = keras.ops.convert_to_tensor(self.start)
        return [keras.ops.broadcast_to(row, (batch_size, self.units))]


def test_a_copy_begins_with_the_learned_initial_state():
    cell = LearnedStart(3)
    inner = sequential(layers.RNN(cell, return_sequences=True, name="rnn"))
    x = keras.Input((None, 3))
    model = keras.Model(x, lstm()(inner(x)))
    cell.start.assign([1.0, -2.0, 0.5])
    data = np.ones((2, 5, 3), "float32")
    want = model.predict(data, verbose=0)
    for live in (
        ks.to_stateful(model, 2),
        ks.to_inference(model, 2),
        ks.to_inference(model, 2, share_weights=True),
    ):
        (states,) = next(v for k, v in ks.get_states(live).items() if k.endswith("rnn"))
        np.testing.assert_allclose(states, [[1, -2, 0.5]] * 2)
        np.testing.assert_allclose(live.predict(data, batch_size=2, verbose=0), want, atol=1e-6)


def test_time_does_not_pass_from_one_call_of_a_sub_model_to_another():
    mlp = keras.Sequential([keras.Input((None, 3)), layers.Dense(3)], name="mlp")
    x, pair = keras.Input((None, 3), name="x"), keras.Input((2, 3), name="pair")
    h = lstm()(mlp(x))
    last = layers.GRU(4)(h)
    model = keras.Model([x, pair], [h, layers.Concatenate()([last, layers.Flatten()(mlp(pair))])])
    live = ks.to_inference(model)
    data = [np.ones((1, 5, 3), "float32"), np.arange(6, dtype="float32").reshape(1, 2, 3)]
    for got, want in zip(live.predict_on_batch(data), model.predict(data, verbose=0), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def told_who_speaks(kind):
    """What is the same at all time steps: an id that is looked up, or numbers."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    if kind == "id":
        who = keras.Input((1,), dtype="int32", name="who")
        told = layers.Embedding(3, 4)(who)
    else:
        who = keras.Input((2,), name="who")
        told = keras.ops.expand_dims(layers.Dense(4)(who), 1)
    h = (
        layers.Add()([layers.Embedding(7, 4)(ids), told])
        if kind != "sum"
        else layers.Embedding(7, 4)(ids) + told
    )
    model = keras.Model([ids, who], layers.GRU(4, return_sequences=True)(h))
    x = np.random.default_rng(0).integers(0, 7, (2, 6))
    return (
        model,
        x,
        np.array([[2], [1]]) if kind == "id" else np.array([[1, -1], [0.5, 2]], "float32"),
    )


@pytest.mark.parametrize("kind", ["id", "numbers", "sum"])
def test_inputs_that_are_the_same_at_all_steps_have_no_time_axis(kind, tmp_path):
    model, x, who = told_who_speaks(kind)
    want = model.predict([x, who], verbose=0)
    assert ks.to_stateful(model, 2).input_shape == [(2, None), (2, *who.shape[1:])]
    live = ks.to_inference(model, 2)
    parts = [live.predict_on_batch([x[:, t : t + 2], who]) for t in range(0, 6, 2)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), want, atol=1e-6)
    if kind != "sum":
        ks.export_step_model(model, tmp_path / "out")
        session = ks.load_session(tmp_path / "out", batch_size=2)
        np.testing.assert_allclose(session.read((x, who)), want, atol=1e-5)


def test_a_window_of_one_step_is_a_time_axis():
    signal, more = keras.Input((1, 3)), keras.Input((1, 3))
    live = ks.to_inference(keras.Model([signal, more], lstm()(layers.Add()([signal, more]))))
    assert live.input_shape == [(1, None, 3), (1, None, 3)]


def test_a_first_step_that_is_put_in_front_of_a_window_is_refused():
    x, first = keras.Input((None, 3)), keras.Input((1, 3))
    model = keras.Model([x, first], lstm()(layers.Concatenate(axis=1, name="join")([first, x])))
    with pytest.raises(ValueError, match="cannot carry `join`"):
        ks.to_stateful(model, 2)


GAIN = 2.0


def squash(x):
    return keras.ops.tanh(x) * GAIN


def squashes():
    """Another function of the same name."""

    def squash(x):
        return keras.ops.sigmoid(x)

    return squash


def test_functions_that_nobody_registered_are_copied_as_they_are():
    shift = 0.5
    model = sequential(
        layers.Lambda(lambda x: x * GAIN + shift, output_shape=(None, 3)),
        lstm(activation=squash),
        layers.TimeDistributed(layers.Dense(4, activation=squash)),
        layers.TimeDistributed(layers.Lambda(lambda x: x * GAIN + shift)),
        layers.RNN(
            [layers.GRUCell(3), layers.GRUCell(4, activation=squash)], return_sequences=True
        ),
        layers.Dense(2, activation=squashes()),
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    want = model.predict(x, verbose=0)
    step = ks.to_step_model(model)
    for got in (
        ks.to_stateful(model, 2).predict(x, batch_size=2, verbose=0),
        ks.to_stateless(ks.to_inference(model, 2)).predict(x, verbose=0),
        step.predict_on_batch([x, *ks.initial_states(step, 2)])[0],
    ):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "remedy"),
    [
        (lambda: lstm(activation=lambda x: x), "Give it a function with a name"),
        (lambda: lstm(activation=squash, recurrent_activation=squashes()), "a name of its own"),
    ],
)
def test_functions_that_cannot_be_told_are_refused(layer, remedy):
    with pytest.raises(ValueError, match=remedy):
        ks.to_stateful(sequential(layer(), lstm()), 2)


def test_a_layer_that_clones_its_initializers_is_copied():
    """As attention does; what it attends to has no time."""
    x, memory = keras.Input((None, 3)), keras.Input((4, 3))
    h = layers.LSTM(4, return_sequences=True)(x)
    model = keras.Model([x, memory], layers.MultiHeadAttention(2, 2)(h, memory))
    stateful = ks.to_stateful(model, 2)
    rng = np.random.default_rng(0)
    window = [rng.random((2, 5, 3), "float32"), rng.random((2, 4, 3), "float32")]
    expected = model.predict(window, verbose=0)
    np.testing.assert_allclose(stateful.predict(window, verbose=0), expected, atol=1e-5)
