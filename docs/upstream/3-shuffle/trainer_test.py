"""To be added to `keras/src/trainers/trainer_test.py`, to `TestTrainer`."""

import numpy as np
from absl.testing import parameterized

from keras.src import layers
from keras.src import models
from keras.src import testing
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDataset


class Numbered(PyDataset):
    def __init__(self, batches, **kwargs):
        super().__init__(**kwargs)
        self.batches = batches
        self.order = []

    def __len__(self):
        return self.batches

    def __getitem__(self, index):
        self.order.append(index)
        return np.full((1, 2, 1), index, "float32"), np.zeros((1, 1))


class StatefulShuffleTest(testing.TestCase):
    def _train(self, stateful, nested=False, workers=1, **kwargs):
        stack = [
            # Unrolled: a loop of TensorFlow needs to know the batch size.
            layers.SimpleRNN(1, stateful=stateful, unroll=True),
            layers.Dense(1),
        ]
        if nested:
            stack = [models.Sequential(stack)]
        model = models.Sequential([layers.Input(batch_shape=(1, 2, 1))])
        for layer in stack:
            model.add(layer)
        model.compile("sgd", "mse")
        data = Numbered(10, workers=workers)
        model.fit(data, epochs=2, verbose=0, **kwargs)
        return data.order

    @parameterized.parameters(
        (False, {}), (True, {}), (False, {"shuffle": "batch"})
    )
    def test_stateful_model_reads_a_py_dataset_in_order(self, nested, kwargs):
        order = self._train(stateful=True, nested=nested, **kwargs)
        # Before the first epoch, `fit()` reads a few batches to build.
        self.assertEqual(order[-20:], [*range(10), *range(10)])

    def test_workers_are_sent_in_order(self):
        order = self._train(stateful=True, workers=2)
        # Threads take turns, but those that follow are not far away.
        self.assertAllClose(order[-10:], np.arange(10), atol=3)

    def test_stateless_model_reads_a_py_dataset_shuffled(self):
        order = self._train(stateful=False)
        self.assertNotEqual(order[-10:], list(range(10)))
        self.assertEqual(sorted(order[-10:]), list(range(10)))
        order = self._train(stateful=False, shuffle=False)
        self.assertEqual(order[-10:], list(range(10)))
