"""Subclassed models: trained once they were called, and used through a graph of their layers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks

ROWS, WINDOW = 2, 4


class Plain(keras.Model):
    def __init__(self, layer=layers.GRU):
        super().__init__()
        self.memory = layer(3, return_sequences=True, stateful=True)
        self.head = layers.Dense(1)

    def call(self, x, training=False):
        return self.head(self.memory(x, training=training)) + ops.tanh(x[..., :1])


class TwoLayers(Plain):
    def __init__(self):
        super().__init__(layers.LSTM)
        self.second = layers.SimpleRNN(3, return_sequences=True, stateful=True)

    def call(self, x, training=False):
        return self.head(ops.concatenate([self.second(self.memory(x)), x], axis=-1))


def sequence():
    text = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    return ks.StatefulSequence(text, ROWS, WINDOW, targets=text[:, :1])


def fit(model):
    read = sequence()
    model.compile("sgd", "mse")
    return model.fit(read, verbose=0, callbacks=[ks.ResetStatesCallback(read)])


@pytest.mark.parametrize("make", [Plain, TwoLayers, lambda: Plain(layers.LSTM)])
@pytest.mark.parametrize("build", [False, True])
@pytest.mark.filterwarnings("ignore:`build()` was called")
def test_one_that_was_not_called_is_told_to_be_called(make, build):
    model = make()
    if build:
        model.build((ROWS, WINDOW, 2))
    uses = {
        "fit": lambda: fit(model),
        "reset_states": lambda: ks.reset_states(model),
        "get_states": lambda: ks.get_states(model),
    }
    for use in uses.values():
        with pytest.raises(ValueError, match=r"a subclassed model that has none yet.*`model\(x\)`"):
            use()
    model(np.zeros((ROWS, WINDOW, 2), "float32"))  # the remedy
    assert np.isfinite(fit(model).history["loss"][0])
    for use in uses.values():
        use()


@pytest.mark.parametrize("make", [Plain, TwoLayers])
def test_a_graph_of_its_layers_is_what_it_is(make, tmp_path):
    model = make()
    model(np.zeros((ROWS, WINDOW, 2), "float32"))
    uses = {
        "to_stateful": lambda m: ks.to_stateful(m, ROWS),
        "to_inference": ks.to_inference,
        "export": lambda m: ks.export_step_model(m, tmp_path / "exported"),
        "predict": lambda m: ks.predict_documents(m, [np.ones((9, 2), "float32")]),
        "record": lambda m: ks.record_states(m, np.ones((9, 2), "float32")),
    }
    for use in uses.values():
        with pytest.raises(
            ValueError, match=r"keras.Model\(x, model.call\(x\)\)`.*once on a batch"
        ):
            use(model)
    x = keras.Input(batch_shape=(ROWS, None, 2))
    graph = keras.Model(x, model.call(x))
    for use in uses.values():
        use(graph)
    document = np.random.default_rng(1).normal(size=(9, 2)).astype("float32")
    live = ks.to_inference(graph).predict_on_batch(document[None])[0]
    ks.reset_states(model)
    np.testing.assert_allclose(
        live, ops.convert_to_numpy(model(np.stack([document] * ROWS)))[0], atol=1e-6
    )


# Outputs without a time axis, where targets have one


def states_out(x):
    h, *state = layers.LSTM(3, return_sequences=True, return_state=True, name="memory")(x)
    return [layers.Dense(1)(h), state[1]]


def last_step(x):
    return layers.Dense(1)(layers.GRU(3, name="last")(x))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (states_out, r"'memory' of shape \(2, 3\).*`keras.Model\(model.inputs, model.outputs\[0\]"),
        (lambda x: states_out(x)[::-1], r"`keras.Model\(model.inputs, model.outputs\[1\]\)`"),
        (last_step, r"Give `last` `return_sequences=True`"),
    ],
)
def test_the_output_that_is_meant_is_named(outputs, message):
    x = keras.Input((None, 2))
    read = sequence()
    model = ks.to_stateful(keras.Model(x, outputs(x)), read)
    model.compile("sgd", "mse" if len(model.outputs) == 1 else ["mse", "mse"])
    with pytest.raises(ValueError, match=message):
        model.fit(read, verbose=0)
    along = [o for o in model.outputs if len(o.shape) == 3]
    if along:  # the remedy
        model = ks.to_stateful(keras.Model(model.inputs, along[0]), read)
        model.compile("sgd", "mse")
        model.fit(read, verbose=0)
