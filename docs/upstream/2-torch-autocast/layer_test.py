"""To be added to `keras/src/layers/layer_test.py`, to `LayerTest`."""

import numpy as np
from absl.testing import parameterized

from keras.src import backend
from keras.src import layers
from keras.src import models
from keras.src import ops
from keras.src import testing
from keras.src.backend.common import standardize_dtype


class AutocastAssignTest(testing.TestCase):
    @parameterized.parameters("mixed_float16", "mixed_bfloat16")
    def test_assign_within_call_in_mixed_precision(self, dtype):
        class Memory(layers.Layer):
            def build(self, input_shape):
                self.last = self.add_weight(
                    shape=input_shape, initializer="zeros", trainable=False
                )
                self.calls = self.add_weight(
                    shape=(), initializer="zeros", trainable=False
                )

            def call(self, x):
                before = self.last + 0
                self.last.assign(x)
                self.calls.assign_add(1)
                return before

        layer = Memory(dtype=dtype)
        first, second = np.ones((2, 3)), np.full((2, 3), 2.0)
        self.assertAllClose(layer(first), np.zeros((2, 3)))
        before = layer(second)
        self.assertEqual(standardize_dtype(before.dtype), dtype[6:])
        self.assertAllClose(ops.cast(before, "float32"), first)
        self.assertAllClose(layer.last, second)
        self.assertAllClose(layer.calls, 2)
        self.assertEqual(layer.last.dtype, "float32")

    @parameterized.parameters("mixed_float16", "mixed_bfloat16")
    def test_stateful_rnn_in_mixed_precision(self, dtype):
        x = np.random.default_rng(0).normal(size=(2, 8, 3)).astype("float32")
        stateful = layers.LSTM(
            4, stateful=True, return_sequences=True, dtype=dtype
        )
        stateless = layers.LSTM(4, return_sequences=True, dtype=dtype)
        stateful.build((2, 4, 3))
        stateless.build((2, 8, 3))
        stateless.set_weights(stateful.get_weights())
        windows = [stateful(x[:, :4]), stateful(x[:, 4:])]
        self.assertAllClose(
            ops.cast(ops.concatenate(windows, axis=1), "float32"),
            ops.cast(stateless(x), "float32"),
            atol=2e-2,
            rtol=2e-2,
        )
        # Trained, the state is written as well.
        model = models.Sequential([layers.Input(batch_shape=(2, 4, 3))])
        model.add(layers.SimpleRNN(4, stateful=True, dtype=dtype))
        model.compile("sgd", "mse")
        model.train_on_batch(x[:, :4], np.zeros((2, 4)))
        if backend.backend() != "jax":  # There it is another defect.
            state = ops.convert_to_numpy(model.layers[0].states[0])
            self.assertTrue(np.all(state != 0))
