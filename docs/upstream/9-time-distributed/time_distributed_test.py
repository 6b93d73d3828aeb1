"""To be added to `keras/src/layers/rnn/time_distributed_test.py`."""

import numpy as np
from absl.testing import parameterized

from keras.src import layers
from keras.src import models
from keras.src import ops
from keras.src import testing


class UnknownLengthTest(testing.TestCase):
    @parameterized.parameters((4, 7), (4, 3))
    def test_more_and_fewer_steps_than_rows(self, rows, length):
        dense = layers.Dense(2)
        model = models.Sequential(
            [layers.Input((None, 3)), layers.TimeDistributed(dense)]
        )
        x = np.random.default_rng(0).normal(size=(rows, length, 3))
        # A second length: from now on TensorFlow traces with an unknown one.
        model.predict_on_batch(x[:, :2])
        actual = model.predict_on_batch(x)
        self.assertAllClose(
            actual, ops.convert_to_numpy(dense(x)), atol=1e-5, rtol=1e-5
        )

    def test_mask(self):
        class Zero(layers.Layer):
            def call(self, x, mask=None):
                return x * ops.cast(ops.expand_dims(mask, -1), x.dtype)

            def compute_output_shape(self, input_shape):
                return input_shape

        layer = layers.TimeDistributed(Zero())
        inputs = layers.Input((None, 2))
        outputs = layer(layers.Masking()(inputs))
        model = models.Model(inputs, outputs)
        x = np.ones((4, 7, 2), "float32")
        x[:, 5:] = 0
        model.predict_on_batch(x[:, :2])
        self.assertAllClose(model.predict_on_batch(x), x)
