"""A model that keeps what its compiled steps were given, and documents that it can tell apart."""

import keras
import numpy as np

ROWS, WINDOW = 2, 4


@keras.saving.register_keras_serializable(package="tests")
class Recorder(keras.layers.Layer):
    """Keeps the first id of each row, in the order in which the compiled steps saw them."""

    def __init__(self, room=64, **kwargs):
        super().__init__(**kwargs)
        self.room = room

    def build(self, shape):
        self.seen = self.add_weight(
            (self.room, ROWS), "zeros", "int32", trainable=False, name="seen"
        )
        self.count = self.add_weight((), "zeros", "int32", trainable=False, name="count")
        self.scale = self.add_weight((), "ones", name="scale")

    def call(self, x):
        here = keras.ops.arange(self.room)[:, None] == keras.ops.convert_to_tensor(self.count)
        seen = keras.ops.convert_to_tensor(self.seen)
        self.seen.assign(keras.ops.where(here, keras.ops.cast(x[:, 0], "int32")[None], seen))
        # The term with `x` ties the count to the batch: without one, nothing may be counted.
        self.count.assign(self.count + 1 + 0 * keras.ops.cast(x[0, 0], "int32"))
        return keras.ops.cast(x, "float32")[..., None] * self.scale

    def take(self):
        """Returns what was seen since the last call, `(steps, ROWS)`."""
        count = int(keras.ops.convert_to_numpy(self.count))
        seen = keras.ops.convert_to_numpy(self.seen)[:count]
        self.count.assign(0)
        return seen.tolist()


def recording_model(**compile_arguments) -> tuple[keras.Model, Recorder]:
    """A compiled model of ids `(ROWS, WINDOW)` that gives them back, and its recorder."""
    inputs = keras.Input((WINDOW,), batch_size=ROWS, dtype="int32", name="x")
    recorder = Recorder()
    model = keras.Model(inputs, recorder(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse", **compile_arguments)
    recorder.take()
    return model, recorder


def numbered_documents(*lengths: int) -> list[np.ndarray]:
    """Ids that tell where they came from: 1000, 1001, ... in the first, 2000, ... in the second."""
    return [np.arange(n) + 1000 * (d + 1) for d, n in enumerate(lengths)]
