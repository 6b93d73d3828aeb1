"""The private parts of Keras that `keras_internals` names: a test fails when one of them moves.

What the parts are for is tested elsewhere; here a failure says which of them a new Keras has
changed.
"""

import importlib
import inspect
import sys

import keras
import numpy as np
import pytest
import zoo
from keras.src.utils import module_utils

from keras_stateful import StatefulSequence, to_inference, to_stateful, to_step_model
from keras_stateful.conversion.model import symbolic_batch
from keras_stateful.foundation import keras_internals


def two_levels():
    inner = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.Dense(2, name="a")], name="inner"
    )
    x = keras.Input((None, 3))
    return keras.Model(x, keras.layers.Dense(1, name="b")(inner(x)))


def test_nodes_come_in_an_order_in_which_they_can_run():
    model = two_levels()
    inner, head = keras_internals.nodes(model)
    assert [inner.operation.name, head.operation.name] == ["inner", "b"]
    other = keras.Input((None, 3))
    (argument,), _ = keras_internals.fill_in(inner, {id(model.inputs[0]): other})
    assert argument is other


def test_graphs_are_told_from_layers():
    class Own(keras.Model):
        def call(self, x):
            return x

    assert keras_internals.is_graph(two_levels())
    assert keras_internals.is_graph(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    assert not keras_internals.is_graph(Own())
    assert not keras_internals.is_graph(keras.layers.Dense(1))


def test_the_graph_of_a_sequential():
    model = keras.Sequential([keras.layers.Dense(1)])
    assert keras_internals.functional(model) is model  # there is none yet
    model.build((None, 3))
    graph = keras_internals.functional(model)
    assert graph is not model
    assert [tuple(t.shape) for t in (*graph.inputs, *graph.outputs)] == [(None, 3), (None, 1)]
    assert keras_internals.functional(graph) is graph


def test_sublayers_enter_wrappers_and_lists():
    dense = keras.layers.Dense(2)
    assert keras_internals.sublayers(keras.layers.TimeDistributed(dense)) == [dense]

    class Holds(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.several = [dense]

    assert keras_internals.sublayers(Holds()) == [dense]


def test_mask_of_symbolic_and_of_real_tensors():
    embedding = keras.layers.Embedding(5, 2, mask_zero=True)
    assert keras_internals.mask_of(embedding(keras.Input((None,), dtype="int32"))) is not None
    mask = keras_internals.mask_of(embedding(np.array([[1, 0]])))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, False]])
    assert keras_internals.mask_of(keras.Input((3,))) is None


def test_compile_arguments_are_the_objects_themselves():
    def loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p), axis=-1)

    model = two_levels()
    model.compile(loss=loss, weighted_metrics=["mae"])
    arguments = keras_internals.compile_arguments(model)
    assert arguments["loss"] is loss
    assert arguments["weighted_metrics"] == ["mae"]


def test_fit_arguments_are_seen_by_a_callback():
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.update(keras_internals.fit_arguments(self.model))

    model = two_levels()
    model.compile("sgd", "mse")
    x, y = np.ones((4, 5, 3)), np.ones((4, 5, 1))
    model.fit(x, y, batch_size=2, shuffle=False, class_weight=None, verbose=0, callbacks=[Look()])
    assert seen["x"] is x
    assert seen["batch_size"] == 2
    assert seen["shuffle"] is False
    assert {
        "validation_data",
        "validation_steps",
        "class_weight",
        "sample_weight",
        "steps_per_epoch",
    } <= seen.keys()
    assert keras_internals.fit_arguments(model) == {}


def test_calls_of_the_trainer_are_seen_and_a_validation_told_from_an_evaluation():
    seen = []

    class Look(keras.callbacks.Callback):
        def note(self, logs=None):
            call = keras_internals.trainer_call()
            assert call.model is self.model
            assert call.arguments == keras_internals.trainer_arguments(self.model)
            seen.append((call.method, call.arguments["x"] is x))
            assert call.epoch_iterator is not None

        on_train_begin = on_test_begin = on_predict_begin = note

    class Tells(keras.Model):
        def evaluate(self, *args, **kwargs):
            seen.append(keras_internals.is_validation(kwargs))
            return super().evaluate(*args, **kwargs)

    inputs = keras.Input((None, 3))
    model = Tells(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, y, other = np.ones((4, 5, 3)), np.ones((4, 5, 1)), np.zeros((4, 5, 3))
    model.fit(x, y, validation_data=(other, y), verbose=0, callbacks=[Look()])
    model.evaluate(x, y, verbose=0, callbacks=[Look()])
    model.predict(x, verbose=0, callbacks=[Look()])
    assert seen == [
        ("fit", True),
        True,
        ("evaluate", False),
        False,
        ("evaluate", True),
        ("predict", True),
    ]
    assert keras_internals.trainer_call() is None


@pytest.mark.parametrize(
    "kind", sorted(keras_internals.CALLBACK_MEMORY, key=str), ids=lambda kind: kind.__name__
)
def test_callbacks_keep_what_they_remember_under_these_names(kind):
    source = "".join(
        inspect.getsource(c) for c in kind.__mro__ if c.__module__.startswith("keras.")
    )
    for name in keras_internals.CALLBACK_MEMORY[kind]:
        assert f"self.{name} = " in source


def test_what_is_of_keras_itself_is_known_by_its_module():
    lstm = keras.layers.LSTM(2)
    assert keras_internals.is_keras_rnn(lstm)
    assert keras_internals.is_keras_rnn(lstm.cell)
    assert not keras_internals.is_keras_rnn(keras.layers.Dense(2))
    assert keras_internals.is_of_keras(lstm)
    assert not keras_internals.is_of_keras(np.ones(1))


def test_rnn_loop_reads_several_inputs_side_by_side():
    x, flags = np.arange(6, dtype="float32").reshape(1, 6, 1), np.zeros((1, 6, 1), bool)
    flags[0, 3] = True

    def step(inputs, states):
        value, reset = inputs
        total = keras.ops.where(reset, keras.ops.zeros_like(states[0]), states[0]) + value
        return total, [total]

    inputs = (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(flags))
    start = [keras.ops.zeros((1, 1))]
    last, outputs, states = keras_internals.rnn_loop(
        step, inputs, start, input_length=6, return_all_outputs=True
    )
    np.testing.assert_allclose(zoo.outputs(outputs)[0][0, :, 0], [0, 1, 3, 3, 7, 12])
    assert float(last[0, 0]) == float(states[0][0, 0]) == 12


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX variables have layouts")
def test_variables_have_a_layout():  # what it does needs several devices: once/test_devices.py
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    variable = keras.Variable(np.ones((4, 2)), trainable=False)
    assert variable._layout is None
    keras_internals.lay_out(variable, by_rows)
    np.testing.assert_array_equal(variable.numpy(), np.ones((4, 2)))
    assert variable.value.sharding.is_equivalent_to(by_rows, ndim=2)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch's kernels are called as such")
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_fused_call_has_these_arguments(kind):
    call = getattr(importlib.import_module("keras.src.backend"), kind)
    parameters = list(inspect.signature(call).parameters)
    if parameters == ["args", "kwargs"]:  # there is none
        lacks = ["gru"] if keras_internals.has_keras("3.14") else ["lstm", "gru"]
        assert keras.backend.backend() == "jax"
        assert kind in lacks
        return
    states = ["initial_state_h", "initial_state_c"] if kind == "lstm" else ["initial_state"]
    assert parameters[: 2 + len(states)] == ["inputs", *states, "mask"]
    named = {"kernel", "recurrent_kernel", "bias", "activation", "recurrent_activation"}
    assert named | {"return_sequences"} <= set(parameters)
    layer = getattr(keras.layers, kind.upper())(2)
    assert keras_internals.has_fused_call(layer) is False  # no GPU


def test_a_batch_to_build_from_is_not_read():
    class Unread(StatefulSequence):
        def read_pass(self):
            raise AssertionError

    sequence = Unread(np.arange(200), 4, 8, resets=True)
    (x, resets), y = symbolic_batch(sequence, replicas=2)
    assert (x.shape, resets.shape, y.shape) == ((2, 8), (2,), (2, 8))
    assert (x.dtype, resets.dtype, y.dtype) == ("int32", "bool", "int32")
    if keras.backend.backend() == "tensorflow":
        parameters = inspect.signature(keras.Model._maybe_symbolic_build).parameters
        assert list(parameters) == ["self", "iterator", "data_batch"]


def test_an_epoch_is_counted_from_a_later_step():
    """What `ResumeTraining` needs of the epoch iterators, and of `_initial_epoch`."""
    seen = []

    class Skips(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            keras_internals.begin_at(self.model, 2)

        def on_epoch_begin(self, epoch, logs=None):
            keras_internals.begin_at(self.model, None)
            seen.append(epoch)
            iterator = keras_internals.epoch_iterator(self.model)
            assert keras_internals.known_batches(iterator) == 3
            if epoch == 2:
                assert keras_internals.data_adapter(iterator).num_batches == 3
                keras_internals.skip_steps(iterator, 2, 2, 3)

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("step", batch))

    model = two_levels()
    model.compile("sgd", "mse")
    x, y = np.ones((6, 5, 3)), np.ones((6, 5, 1))
    model.fit(x, y, batch_size=2, epochs=4, verbose=0, callbacks=[Skips()])
    assert seen == [2, ("step", 2), 3, ("step", 0), ("step", 1), ("step", 2)]
    assert keras_internals.epoch_iterator(model) is None


def test_metrics_and_optimizer_have_variables_before_the_first_step():
    model = two_levels()
    model.compile("adam", "mse", weighted_metrics=["mae"])
    keras_internals.build_for_training(
        model, (np.ones((2, 5, 3)), np.ones((2, 5, 1)), np.ones((2, 5)))
    )
    assert len(model.metrics_variables) == 4  # total and count of loss and mae
    assert len(model.optimizer.variables) == 2 + 2 * len(model.trainable_variables)


def test_the_global_seed_generator_is_found():
    keras.utils.clear_session(free_memory=False)
    assert not keras_internals.has_global_seed()
    keras.random.uniform((1,))
    assert keras_internals.has_global_seed()
    state = keras_internals.global_seed_state()
    before = keras.ops.convert_to_numpy(state).tolist()
    keras.random.uniform((1,))
    assert keras.ops.convert_to_numpy(state).tolist() != before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow only")
def test_steps_run_on_what_any_iterator_gives():
    import tensorflow as tf

    model = two_levels()
    model.compile("sgd", "mse")
    model.make_train_function()
    batches = iter([(tf.ones((1, 2, 3)), tf.ones((1, 2, 1)))] * 2)
    first, second = (float(model.train_function(batches)["loss"]) for _ in range(2))
    assert first != second
    assert next(batches, None) is None


def test_a_built_layer_takes_another_layer_or_variable_in_the_place_of_its_own():
    def built():
        layer = keras.layers.LSTM(2)
        layer.gain = layer.add_weight(shape=(3,), name="gain")
        layer.build((None, None, 3))
        return layer

    one, other = built(), built()
    keras_internals.replace_attribute(one, "cell", other.cell)
    keras_internals.replace_attribute(one, "gain", other.gain)
    assert one.gain is other.gain
    assert one.cell is other.cell
    assert [id(v) for v in one.variables] == [id(v) for v in other.variables]


def test_functional_models_are_told_by_the_name_of_their_class():
    class Mine(keras.Model):
        pass

    x = keras.Input((3,))
    y = keras.layers.Dense(1)(x)
    assert keras_internals.class_to_rebuild(keras.Model(x, y)) is keras.Model
    assert keras_internals.class_to_rebuild(Mine(x, y)) is Mine


def test_a_layer_that_was_kept_from_cudnn_has_a_copy_that_is():
    layer, kept = keras.layers.LSTM(2), keras.layers.LSTM(2, use_cudnn=False)
    copies = [keras.layers.LSTM.from_config(one.get_config()) for one in (layer, kept)]
    for one, copy in zip((layer, kept), copies, strict=True):
        assert copy.use_cudnn == "auto"  # which the config leaves out
        keras_internals.copy_cudnn_choice(one, copy)
        assert copy.use_cudnn == one.use_cudnn


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_cells_have_one_dropout_mask_and_one_seed(kind):
    layer = getattr(keras.layers, kind)(2, dropout=0.5, recurrent_dropout=0.5)
    layer.build((None, None, 8))
    seed = keras_internals.dropout_seed(layer.cell)
    before = keras.ops.convert_to_numpy(seed).tolist()
    mask = keras_internals.dropout_mask(layer.cell, keras.ops.ones((4, 8)))
    assert set(keras.ops.convert_to_numpy(mask).ravel().tolist()) == {0.0, 2.0}
    if keras.backend.backend() != "torch":  # where Keras draws from torch's own generator
        assert keras.ops.convert_to_numpy(seed).tolist() != before
    keras_internals.without_dropout(layer.cell)
    assert (layer.cell.dropout, layer.cell.recurrent_dropout) == (0, 0)
    dropout = keras.layers.Dropout(0.5)
    keras_internals.without_dropout(dropout)
    assert dropout.rate == 0.5
    assert keras_internals.dropout_seed(keras.layers.Dense(2)) is None


def test_a_stateless_scope_tells_what_was_written():
    known, unknown = (keras.Variable(0.0, trainable=False) for _ in range(2))
    with keras.StatelessScope([(known, keras.ops.ones(()))]) as scope:
        before = keras_internals.values_by_id(scope)
        unknown.assign(2.0)
        after = keras_internals.values_by_id(scope)
    assert set(before) == {id(known)}
    assert set(after) == {id(known), id(unknown)}
    assert after[id(known)] is before[id(known)]
    assert float(after[id(unknown)]) == 2


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX holds variables back in `fit`")
def test_values_come_back_from_a_running_fit():
    weights = []

    class Look(keras.callbacks.Callback):
        def set_model(self, model):
            self._network = model  # `Callback.model` would bring them back, too

        def on_train_batch_end(self, batch, logs=None):
            kernel = self._network.trainable_variables[0]
            with pytest.raises(TypeError):  # it is empty
                keras.ops.convert_to_numpy(kernel)
            keras_internals.sync_from_jax(self._network)
            weights.append(keras.ops.convert_to_numpy(kernel))

    model = two_levels()
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 5, 3)), np.ones((2, 5, 1)), verbose=0, callbacks=[Look()])
    assert weights[0].shape == (3, 2)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only: others write in place")
def test_a_jax_step_carries_what_is_listed_among_the_seeds():
    class Counts(keras.layers.Layer):
        def build(self, shape):
            self.built = True

        def call(self, x):
            counter.assign(counter + 1.0)
            return x

    counter = keras.Variable(0.0, trainable=False)
    x = keras.Input((3,))
    layer = Counts()
    model = keras.Model(x, keras.layers.Dense(1)(layer(x)))
    counter.assign(0.0)
    keras_internals.carry_through_jax_steps(layer, [counter])
    model.compile("sgd", "mse")
    model.fit(np.ones((6, 3)), np.ones((6, 1)), batch_size=2, verbose=0)
    assert float(counter) == 3


def test_a_variable_is_kept_out_of_autocast():
    class Reads(keras.layers.Layer):
        def build(self, shape):
            self.total = self.add_weight(shape=(), trainable=False)

        def call(self, x):
            dtypes.append(keras.backend.standardize_dtype(self.total.value.dtype))
            return x

    dtypes = []
    layer = Reads(dtype="mixed_bfloat16")
    layer(np.ones((1, 1), "float32"))
    keras_internals.keep_out_of_autocast(layer.total)
    layer(np.ones((1, 1), "float32"))
    assert dtypes[-2:] == ["bfloat16", "float32"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow only")
def test_a_model_knows_its_strategy():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = two_levels()
    assert isinstance(keras_internals.strategy(model), tf.distribute.OneDeviceStrategy)
    assert keras_internals.strategy(two_levels()) is tf.distribute.get_strategy()


def test_a_csv_log_is_what_it_was(tmp_path):
    """What was written after `get_memory` is gone, and the next line follows what is left."""
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 1.0})
    memory = keras_internals.get_memory(logger)
    logger.on_epoch_end(1, {"loss": 9.0})
    keras_internals.set_memory(logger, memory)
    logger.on_epoch_end(1, {"loss": 2.0})
    logger.on_train_end()
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [
        ["epoch", "loss"],
        ["0", "1.0"],
        ["1", "2.0"],
    ]


@pytest.fixture
def tensorflow_not_imported(monkeypatch):
    """Keras as it is where nobody has imported TensorFlow; importing it is an error."""
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow is the backend")

    def refuse():
        raise AssertionError("TensorFlow is imported")

    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module_utils.tensorflow, "_available", None)
    monkeypatch.setattr(module_utils.tensorflow, "initialize", refuse)


@pytest.mark.usefixtures("tensorflow_not_imported")
def test_a_conversion_leaves_tensorflow_out():
    """Seconds of the first conversion in a process, where it is installed beside the backend."""
    with pytest.raises(AssertionError, match="TensorFlow is imported"):
        keras.layers.Dense(1).get_config()  # Keras's own
    plain = keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(5, 3),
            keras.layers.RNN([keras.layers.LSTMCell(2)], return_sequences=True),
            keras.layers.TimeDistributed(keras.layers.Dense(3, activation="relu")),
        ]
    )
    model = to_stateful(plain, 2, resets="window")
    to_step_model(to_inference(model))
