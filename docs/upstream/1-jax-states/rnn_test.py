"""To be added to `keras/src/layers/rnn/rnn_test.py`, beside `RNNTest`."""

import os

import numpy as np
from absl.testing import parameterized

from keras.src import backend
from keras.src import layers
from keras.src import models
from keras.src import ops
from keras.src import testing
from keras.src import tree

MAKE_LAYERS = {
    "simple_rnn": lambda **kwargs: layers.SimpleRNN(3, **kwargs),
    "gru": lambda **kwargs: layers.GRU(3, **kwargs),
    "lstm": lambda **kwargs: layers.LSTM(3, **kwargs),
    "stacked": lambda **kwargs: layers.RNN(
        [layers.LSTMCell(2), layers.GRUCell(3)], **kwargs
    ),
}


class StatefulRNNTest(testing.TestCase):
    def _windows_and_whole(self, make_layer, nested=False, dtype=None):
        """A stateful model of windows, and a stateless one of the whole."""
        built = []
        for stateful, length in ((True, 4), (False, 12)):
            layer = make_layer(
                stateful=stateful, return_sequences=True, dtype=dtype
            )
            stack = [layer, layers.Dense(1, dtype=dtype)]
            if nested:
                stack = [models.Sequential(stack)]
            inputs = layers.Input(batch_shape=(2, length, 2))
            outputs = inputs
            for layer in stack:
                outputs = layer(outputs)
            built.append(models.Model(inputs, outputs))
        windows, whole = built
        whole.set_weights(windows.get_weights())
        return windows, whole

    def _data(self):
        """Three windows of two rows, and the two rows in one piece."""
        x = np.random.default_rng(0).normal(size=(2, 12, 2)).astype("float32")
        return np.concatenate(np.split(x, 3, axis=1)), x

    @parameterized.named_parameters(
        (f"{name}{suffix}", name, nested, kwargs)
        for name, suffix, nested, kwargs in (
            ("simple_rnn", "", False, {}),
            ("gru", "_nested", True, {}),
            ("lstm", "", False, {}),
            ("stacked", "", False, {}),
            ("lstm", "_eager", False, {"run_eagerly": True}),
            ("lstm", "_no_jit", False, {"jit_compile": False}),
            ("lstm", "_two_steps", True, {"steps_per_execution": 2}),
        )
    )
    def test_states_outlive_compiled_steps(self, name, nested, kwargs):
        if backend.backend() == "torch" and "steps_per_execution" in kwargs:
            self.skipTest("The torch backend has no `steps_per_execution`.")
        windows, whole = self._windows_and_whole(MAKE_LAYERS[name], nested)
        windows.compile("sgd", "mse", **kwargs)
        x, x_whole = self._data()
        expected = ops.convert_to_numpy(whole(x_whole))
        actual = windows.predict(x, batch_size=2, verbose=0)
        self.assertAllClose(
            np.concatenate(np.split(actual, 3), axis=1),
            expected,
            atol=1e-5,
            rtol=1e-5,
        )

        # `fit()` and `evaluate()` go on from where the step before ended.
        for layer in windows._flatten_layers():
            if isinstance(layer, layers.RNN):
                for state in tree.flatten(layer.states):
                    state.assign(ops.zeros(state.shape))
        loss = windows.evaluate(x, np.zeros((6, 4, 1)), batch_size=2, verbose=0)
        self.assertAllClose(
            loss, np.mean(np.square(expected)), atol=1e-5, rtol=1e-5
        )

    def test_training_starts_each_batch_from_the_states(self):
        windows, whole = self._windows_and_whole(MAKE_LAYERS["simple_rnn"])
        windows.compile("sgd", "mse")
        windows.optimizer.learning_rate = 0.0
        x, x_whole = self._data()
        history = windows.fit(
            x, np.zeros((6, 4, 1)), batch_size=2, shuffle=False, verbose=0
        )
        expected = np.mean(np.square(ops.convert_to_numpy(whole(x_whole))))
        self.assertAllClose(
            history.history["loss"][0], expected, atol=1e-5, rtol=1e-5
        )

    def test_states_in_mixed_precision(self):
        if backend.backend() == "torch":
            self.skipTest("Autocast on torch is another defect.")
        windows, whole = self._windows_and_whole(
            MAKE_LAYERS["gru"], dtype="mixed_bfloat16"
        )
        x, x_whole = self._data()
        actual = windows.predict(x, batch_size=2, verbose=0)
        expected = ops.convert_to_numpy(ops.cast(whole(x_whole), "float32"))
        self.assertAllClose(
            np.concatenate(np.split(actual, 3), axis=1).astype("float32"),
            expected,
            atol=2e-2,
            rtol=2e-2,
        )
        self.assertEqual(windows.layers[1].states[0].dtype, "float32")

    def test_reset_state_after_the_first_trace(self):
        windows, _ = self._windows_and_whole(MAKE_LAYERS["lstm"])
        x = self._data()[0][:2]
        windows(x)  # Whatever is there when the step is traced ...
        windows.predict(x, verbose=0)
        windows.layers[1].reset_state()
        first = windows.predict(x, verbose=0)
        windows.layers[1].reset_state()  # ... is not what it starts from.
        self.assertAllClose(windows.predict(x, verbose=0), first)

    def test_states_are_variables_but_not_weights(self):
        windows, whole = self._windows_and_whole(MAKE_LAYERS["lstm"], True)
        self.assertLen(windows.weights, len(whole.weights))
        self.assertLen(
            windows.non_trainable_variables,
            len(whole.non_trainable_variables) + 2,
        )
        self.assertEqual(windows.count_params(), whole.count_params())
        windows.compile("sgd", "mse")
        windows.get_state_tree()  # Raises if a path occurs twice.

        path = os.path.join(self.get_temp_dir(), "model.weights.h5")
        windows.save_weights(path)
        whole.load_weights(path)
