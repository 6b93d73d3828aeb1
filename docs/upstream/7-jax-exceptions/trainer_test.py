"""To be added to `keras/src/backend/jax/trainer_test.py`."""

import numpy as np
import pytest
from absl.testing import parameterized

from keras.src import backend
from keras.src import callbacks
from keras.src import layers
from keras.src import models
from keras.src import testing
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDataset


class Data(PyDataset):
    """Three batches, of which one is of the wrong size, or raises."""

    def __init__(self, bad, error, **kwargs):
        super().__init__(**kwargs)
        self.bad = bad
        self.error = error

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == self.bad and self.error is not None:
            raise self.error
        features = 2 if index == self.bad else 3
        return np.ones((2, features), "float32"), np.ones((2, 1), "float32")


@pytest.mark.skipif(
    backend.backend() != "jax", reason="Specific to the JAX trainer"
)
class FailingStepTest(testing.TestCase):
    def _model(self, **kwargs):
        model = models.Sequential([layers.Input((None,), batch_size=2)])

        class Sum(layers.Layer):
            """Has weights, and fails on two features when it is traced."""

            def build(self, input_shape):
                self.scale = self.add_weight(initializer="ones")
                self.calls = self.add_weight(
                    initializer="zeros", trainable=False
                )

            def call(self, x):
                if x.shape[-1] == 2:
                    raise ValueError("two features")
                self.calls.assign_add(1.0)
                return self.scale * x[:, :1]

            def compute_output_shape(self, input_shape):
                return (*input_shape[:-1], 1)

        model.add(Sum())
        model.compile("sgd", "mse", metrics=["mae"], **kwargs)
        return model

    @parameterized.product(
        method=["fit", "evaluate", "predict"],
        bad=[0, 2],
        error=[None, KeyboardInterrupt()],
    )
    def test_variables_survive(self, method, bad, error):
        model = self._model()
        kwargs = {"shuffle": False} if method == "fit" else {}
        with self.assertRaises(BaseException):
            getattr(model, method)(Data(bad, error), verbose=0, **kwargs)
        self.assertEqual([w.shape for w in model.get_weights()], [(), ()])
        for variable in (
            model.variables
            + model.optimizer.variables
            + model.metrics_variables
        ):
            self.assertEqual(variable.numpy().shape, variable.shape)
        # The model can be used as if nothing had happened.
        good = Data(None, None)
        self.assertTrue(np.isfinite(model.evaluate(good, verbose=0)[0]))
        model.fit(good, verbose=0, shuffle=False)

    @parameterized.product(
        method=["fit", "evaluate", "predict"],
        kwargs=[{}, {"run_eagerly": True}],
    )
    def test_values_are_those_of_the_last_step(self, method, kwargs):
        model = self._model(**kwargs)
        arguments = {"shuffle": False} if method == "fit" else {}
        model.predict(Data(None, None), verbose=0)
        before = float(model.layers[0].calls.numpy())
        with self.assertRaises(ValueError):
            getattr(model, method)(Data(2, None), verbose=0, **arguments)
        # Two steps were finished before the third one failed.
        self.assertEqual(float(model.layers[0].calls.numpy()) - before, 2)

    def test_a_callback_that_fails(self):
        model = self._model()

        def fail(batch, logs=None):
            raise ValueError("callback failed")

        for method, hook in (
            ("fit", "on_train_batch_end"),
            ("evaluate", "on_test_batch_end"),
            ("predict", "on_predict_batch_end"),
        ):
            callback = callbacks.Callback()
            setattr(callback, hook, fail)
            with self.assertRaisesRegex(ValueError, "callback failed"):
                getattr(model, method)(
                    Data(None, None), verbose=0, callbacks=[callback]
                )
            self.assertEqual(model.layers[0].scale.numpy().shape, ())
