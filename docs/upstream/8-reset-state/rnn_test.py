"""To be added to `keras/src/layers/rnn/rnn_test.py`, to `RNNTest`."""

import numpy as np
from absl.testing import parameterized

from keras.src import layers
from keras.src import models
from keras.src import ops
from keras.src import testing
from keras.src import tree


class ResetNestedStatesTest(testing.TestCase):
    @parameterized.parameters(1, 2, 3)
    def test_reset_state(self, count):
        cells = [layers.LSTMCell(2), layers.GRUCell(3), layers.LSTMCell(2)]
        rnn = layers.RNN(
            cells[0] if count == 1 else cells[:count], stateful=True
        )
        layer = models.Sequential([layers.Input(batch_shape=(2, 4, 1)), rnn])
        x = np.ones((2, 4, 1), "float32")
        first = ops.convert_to_numpy(layer(x))
        self.assertNotAllClose(layer(x), first)
        rnn.reset_state()
        for state in tree.flatten(rnn.states):
            self.assertAllClose(state, np.zeros(state.shape))
        self.assertAllClose(layer(x), first)
