"""To be added to `keras/src/trainers/trainer_test.py`, to `TestTrainer`."""

import numpy as np
from absl.testing import parameterized

from keras.src import layers
from keras.src import losses
from keras.src import metrics
from keras.src import models
from keras.src import optimizers
from keras.src import testing


class MaskedMetricsTest(testing.TestCase):
    def _data(self):
        """Of four steps, the model masks the last, which is far off."""
        x = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
        y = np.array([[[0.0], [0.0], [0.0], [8.0]], [[0.0], [0.0], [8], [8]]])
        return x, y

    @parameterized.named_parameters(
        ("compiled", {}),
        ("eager", {"run_eagerly": True}),
        ("no_jit", {"jit_compile": False}),
    )
    def test_fit_masks_weighted_metrics_as_evaluate_does(self, kwargs):
        x, y = self._data()
        weight = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
        inputs = layers.Input((4,), batch_size=2)
        outputs = layers.Embedding(
            2, 1, mask_zero=True, embeddings_initializer="ones"
        )(inputs)
        model = models.Model(inputs, outputs)
        model.compile(
            optimizers.SGD(0.0),
            "mse",
            weighted_metrics=[metrics.MeanAbsoluteError(name="mae")],
            **kwargs,
        )
        trained = model.fit(x, y, 2, verbose=0, sample_weight=weight).history
        evaluated = model.evaluate(
            x, y, verbose=0, sample_weight=weight, return_dict=True
        )
        self.assertAllClose(evaluated["mae"], 1.0)
        self.assertAllClose(trained["mae"][0], 1.0)
        self.assertAllClose(trained["loss"][0], evaluated["loss"])
        on_batch = model.train_on_batch(
            x, y, sample_weight=weight, return_dict=True
        )
        self.assertAllClose(on_batch["mae"], 1.0)

    def test_several_outputs_of_which_one_has_a_mask(self):
        x, y = self._data()
        inputs = layers.Input((4,), batch_size=2)
        masked = layers.Embedding(
            2, 1, mask_zero=True, embeddings_initializer="ones", name="masked"
        )(inputs)
        plain = layers.Embedding(
            2, 1, embeddings_initializer="ones", name="plain"
        )(inputs)
        model = models.Model(inputs, {"masked": masked, "plain": plain})
        model.compile(
            optimizers.SGD(0.0),
            losses.MeanSquaredError(),
            weighted_metrics={
                name: [metrics.MeanAbsoluteError(name="mae")]
                for name in ("masked", "plain")
            },
        )
        targets = {"masked": y, "plain": y}
        trained = model.fit(x, targets, 2, verbose=0).history
        self.assertAllClose(trained["masked_mae"][0], 1.0)
        self.assertAllClose(trained["plain_mae"][0], (5 * 1 + 3 * 7) / 8)
