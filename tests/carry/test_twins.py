"""What layers of a model share, those of its copy share; and it has nothing of the model's own."""

import keras
import numpy as np
import passes
import pytest
from keras import layers, ops
from releases import EXPORTS_ITSELF

import keras_stateful as ks

ROWS, STEPS = 2, 12


def ids_input():
    return keras.Input((None,), dtype="int32", name="ids")


def signal_input():
    return keras.Input((None, 3), name="signal")


def lstm(units=3, **options):
    return layers.LSTM(units, return_sequences=True, **options)


def embedding_in_and_out_of_a_sub_model():
    ids, table = ids_input(), layers.Embedding(7, 3)
    inner = ids_input()
    embed = keras.Model(inner, layers.Dense(3)(table(inner)), name="embed")
    return keras.Model(ids, lstm()(layers.Add()([table(ids), embed(ids)])))


def dense_in_and_out_of_time_distributed():
    x, dense = signal_input(), layers.Dense(3)
    return keras.Model(x, lstm()(layers.Add()([layers.TimeDistributed(dense)(x), dense(x)])))


def dense_in_time_distributed_first():
    x, dense = signal_input(), layers.Dense(3)
    return keras.Model(x, dense(lstm()(layers.TimeDistributed(dense)(x))))


def one_cell_in_two_layers():
    x, cell = signal_input(), layers.GRUCell(3)
    first, second = (layers.RNN(cell, return_sequences=True) for _ in "ab")
    return keras.Model(x, second(first(x)))


def one_cell_in_a_stack_and_alone():
    x, cell = signal_input(), layers.SimpleRNNCell(3)
    stack = layers.RNN([cell, layers.GRUCell(3)], return_sequences=True)
    return keras.Model(x, layers.RNN(cell, return_sequences=True)(stack(x)))


def lstm_along_time_and_in_each_step():
    """The same layer reads the stream, and a fixed vector at each step of it."""
    x, shared = signal_input(), lstm()
    pairs = layers.TimeDistributed(layers.RepeatVector(2))(x)
    last = layers.TimeDistributed(keras.Sequential([keras.Input((2, 3)), shared, layers.Flatten()]))
    return keras.Model(x, layers.Concatenate()([shared(x), last(pairs)]))


@keras.saving.register_keras_serializable(package="test_twins")
class Scores(layers.Layer):
    """Scores by the table of an `Embedding` that it holds, with a bias of its own."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def build(self, shape):
        self.bias = self.add_weight(shape=(self.table.input_dim,), name="bias")

    def call(self, h):
        return ops.matmul(h, ops.transpose(self.table.embeddings)) + self.bias

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.table.input_dim)

    def get_config(self):
        table = keras.saving.serialize_keras_object(self.table)
        return {**super().get_config(), "table": table}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("table")), **config)


def table_held_by_another_layer():
    ids, table = ids_input(), layers.Embedding(7, 3)
    return keras.Model(ids, Scores(table)(lstm()(table(ids))))


@keras.saving.register_keras_serializable(package="test_twins")
class Stack(layers.Layer):
    """Layers in a list, built without a look at whether they are."""

    def __init__(self, stack, **kwargs):
        super().__init__(**kwargs)
        self.stack = list(stack)

    def build(self, shape):
        for layer in self.stack:
            if not layer.built:
                layer.build(shape)

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x

    def get_config(self):
        stack = [keras.saving.serialize_keras_object(layer) for layer in self.stack]
        return {**super().get_config(), "stack": stack}

    @classmethod
    def from_config(cls, config):
        stack = [keras.saving.deserialize_keras_object(c) for c in config.pop("stack")]
        return cls(stack, **config)


def dense_in_a_list_of_another_layer():
    x, dense = signal_input(), layers.Dense(3)
    return keras.Model(x, dense(lstm()(Stack([dense, layers.Dense(3)])(x))))


def variable_in_the_graph():
    ids, table = ids_input(), layers.Embedding(7, 3)
    return keras.Model(ids, ops.einsum("btd,vd->btv", lstm()(table(ids)), table.embeddings))


def variable_in_the_graph_of_a_sub_model():
    ids, table = ids_input(), layers.Embedding(7, 3)
    table.build()
    h = keras.Input((None, 3))
    scores = keras.Model(h, ops.einsum("btd,vd->btv", h, table.embeddings), name="scores")
    return keras.Model(ids, scores(lstm()(table(ids))))


def variable_before_its_layer():
    """The variable is needed before the layer is called."""
    x, dense = signal_input(), layers.Dense(3)
    dense.build((None, 3))
    return keras.Model(x, dense(lstm()(ops.einsum("btd,de->bte", x, dense.kernel))))


SHARING = [
    embedding_in_and_out_of_a_sub_model,
    dense_in_and_out_of_time_distributed,
    dense_in_time_distributed_first,
    one_cell_in_two_layers,
    one_cell_in_a_stack_and_alone,
    lstm_along_time_and_in_each_step,
    table_held_by_another_layer,
    dense_in_a_list_of_another_layer,
    variable_in_the_graph,
    variable_in_the_graph_of_a_sub_model,
    variable_before_its_layer,
]


def data(model, rows=ROWS):
    rng = np.random.default_rng(0)
    if "int" in model.inputs[0].dtype:
        return rng.integers(0, 7, (rows, STEPS)).astype("int32")
    return rng.standard_normal((rows, STEPS, 3)).astype("float32")


def built(make):
    keras.utils.set_random_seed(3)
    return make()


@pytest.mark.parametrize("make", SHARING)
def test_a_plain_copy_and_a_step_model_compute_what_the_model_does(make):
    model = built(make)
    x = data(model)
    expected = model.predict_on_batch(x)
    plain = ks.to_stateless(ks.to_stateful(model, ROWS))
    np.testing.assert_allclose(plain.predict_on_batch(x), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(passes.steps(model, x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", SHARING)
def test_a_copy_trains_as_the_model_does_and_leaves_it_alone(make, tmp_path):
    """One step of SGD over the whole stream: the shared weight gets the sum of its gradients."""
    model = built(make)
    x = data(model)
    before = [w.copy() for w in model.get_weights()]
    y = np.ones(model.predict_on_batch(x).shape, "float32")
    copy = ks.to_stateful(model, ROWS)
    assert [tuple(w.shape) for w in copy.weights] == [tuple(w.shape) for w in model.weights]
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    copy.compile(keras.optimizers.SGD(0.5), "mse")
    copy.train_on_batch(x, y)
    trained = copy.get_weights()
    copy.save_weights(tmp_path / "w.weights.h5")
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)

    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(x, y)
    for a, b in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

    # The file of the copy computes in the model what it did in the copy, and the other way round.
    expected = passes.windows(copy, x)
    model.set_weights(before)
    model.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(model.predict_on_batch(x), expected[0], rtol=0, atol=1e-5)
    model.save_weights(tmp_path / "m.weights.h5")
    again = ks.to_stateful(built(make), ROWS)
    again.set_weights([0 * w for w in again.get_weights()])
    again.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(passes.windows(again, x)[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", SHARING)
def test_a_twin_with_shared_weights_follows_the_model(make):
    model = built(make)
    x = data(model)
    twin = ks.to_inference(model, ROWS, share_weights=True)
    model.set_weights([0.5 * w for w in model.get_weights()])
    expected = model.predict_on_batch(x)
    np.testing.assert_allclose(passes.windows(twin, x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [table_held_by_another_layer, variable_in_the_graph, dense_in_and_out_of_time_distributed],
)
def test_an_artifact_has_the_shared_weight_too(make, tmp_path):
    if make is not table_held_by_another_layer and not EXPORTS_ITSELF:
        pytest.skip("the process that writes ONNX gets the model as a file, which cannot hold it")
    model = built(make)
    x = data(model)
    expected = model.predict_on_batch(x)
    ks.export_step_model(model, tmp_path / "out")
    got = ks.load_session(tmp_path / "out", batch_size=ROWS).read(x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_variable_of_no_layer_is_copied():
    x, gain = signal_input(), keras.Variable([2.0, -1.0, 0.5])
    model = keras.Model(x, lstm()(ops.multiply(x, gain)))
    arrays = data(model)
    expected = model.predict_on_batch(arrays)
    copy = ks.to_inference(model, ROWS)
    gain.assign([0.0, 0.0, 0.0])
    np.testing.assert_allclose(passes.windows(copy, arrays)[0], expected, rtol=0, atol=1e-5)


def test_a_lambda_is_copied_wherever_it_stands():
    factor = 2.0

    def scaled():
        return layers.Lambda(lambda x: x * factor, output_shape=(None, 3))

    def head(name, *stack):
        return keras.Sequential([keras.Input((None, 3)), *stack], name=name)

    x = signal_input()
    h = head("before", scaled())(x)
    h = head("around", scaled(), lstm(), scaled())(h)
    h = head("outer", layers.Dense(3), head("inner", scaled()))(h)
    wrapped = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x + factor)])
    model = keras.Model(x, layers.TimeDistributed(wrapped)(h))
    passes.assert_one_pass(model, data(model))
