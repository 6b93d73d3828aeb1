"""To be added to `keras/src/trainers/trainer_test.py`, to `TestTrainer`."""

import numpy as np
from absl.testing import parameterized

from keras.src import backend
from keras.src import callbacks
from keras.src import initializers
from keras.src import layers
from keras.src import models
from keras.src import ops
from keras.src import testing
from keras.src import tree


class StatefulValidationTest(testing.TestCase):
    def _model(self, nested=False, **kwargs):
        kernels = {
            "kernel_initializer": initializers.GlorotUniform(seed=1),
            "recurrent_initializer": initializers.Orthogonal(seed=2),
        }
        cells = [layers.SimpleRNNCell(3, **kernels) for _ in range(2)]
        stack = [
            layers.SimpleRNN(
                3, stateful=True, return_sequences=True, **kernels
            ),
            layers.RNN(cells, stateful=True),
        ]
        if nested:
            stack = [models.Sequential(stack)]
        model = models.Sequential([layers.Input(batch_shape=(2, 4, 1))])
        for layer in stack:
            model.add(layer)
        model.compile("sgd", "mse", **kwargs)
        return model

    def _losses(self, validate, nested=False, callback=None, **kwargs):
        x = np.random.default_rng(0).normal(size=(4, 4, 1)).astype("float32")
        y = np.ones((4, 3), "float32")
        history = self._model(nested, **kwargs).fit(
            x,
            y,
            batch_size=2,
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=(10 * x, y) if validate else None,
            callbacks=[] if callback is None else [callback],
        )
        return history.history

    @parameterized.named_parameters(
        ("nested", True, {}),
        ("eager", False, {"run_eagerly": True}),
        ("two_steps", False, {"steps_per_execution": 2, "jit_compile": False}),
    )
    def test_validation_does_not_change_the_training(self, nested, kwargs):
        if backend.backend() == "torch" and "steps_per_execution" in kwargs:
            self.skipTest("The torch backend has no `steps_per_execution`.")
        without = self._losses(False, nested, **kwargs)
        self.assertAllClose(
            self._losses(True, nested, **kwargs)["loss"], without["loss"]
        )

    def test_states_survive_a_failing_validation(self):
        model = self._model(jit_compile=False)
        x, y = np.ones((2, 4, 1), "float32"), np.ones((2, 3), "float32")
        before, after = [], []

        def read(values):
            for layer in model.layers:
                for state in tree.flatten(layer.states):
                    values.append(np.array(ops.convert_to_numpy(state)))

        def fail(batch, logs=None):
            raise RuntimeError("validation failed")

        watch = callbacks.Callback()
        watch.on_test_begin = lambda logs=None: read(before)
        watch.on_test_batch_end = fail
        with self.assertRaisesRegex(RuntimeError, "validation failed"):
            model.fit(
                x, y, 2, verbose=0, callbacks=[watch], validation_data=(x, y)
            )
        read(after)
        self.assertAllClose(after, before)

    def test_validation_may_be_reset_by_a_callback(self):
        class Reset(callbacks.Callback):
            def on_test_begin(self, logs=None):
                for layer in self.model.layers:
                    for state in tree.flatten(layer.states):
                        state.assign(np.zeros(state.shape))

        with_reset = self._losses(True, callback=Reset(), jit_compile=False)
        continued = self._losses(True, jit_compile=False)
        self.assertAllClose(with_reset["loss"], continued["loss"])
        self.assertNotAllClose(with_reset["val_loss"], continued["val_loss"])
