"""`fit` on a `StatefulStream` loses nothing to what Keras reads ahead, and resets at starts."""

import keras
import numpy as np
import pytest
from recording_models import ROWS, WINDOW, numbered_documents, recording_model
from small_trainings import documents, loss_by_hand, network

import keras_stateful as ks

LENGTHS = (21, 30, 9, 14, 33)


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.usefixtures("readers_without_state")
def test_fit_loses_and_repeats_no_batch(steps):
    docs = numbered_documents(*LENGTHS)
    both = [{"x": d, "y": d + 1.0} for d in docs]
    data = ks.StatefulStream(lambda: iter(both), ROWS, WINDOW, targets="y", steps_per_epoch=steps)
    model, recorder = recording_model()
    model.fit(data, epochs=3, verbose=0)
    again = ks.StatefulStream(both, ROWS, WINDOW, targets="y", steps_per_epoch=steps)
    assert recorder.take() == [batch[0]["x"][:, 0].tolist() for _ in range(3) for batch in again]


class Count(keras.layers.Layer):
    """A cell whose state is the number of steps since the row was reset."""

    state_size = output_size = 1

    def build(self, shape):
        self.nothing = self.add_weight(shape=(1,), initializer="zeros")

    def call(self, x, states):
        count = states[0] + 1.0
        return count + 0.0 * self.nothing * x, [count]


class StopAfter(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == self.batch


@pytest.mark.parametrize("last", [0, 2, 10])
def test_a_fit_that_was_stopped_goes_on_where_it_was(last):
    """What was trained on is not read again, what was only read ahead is."""
    # The value of each step is its number in its document, which `Count` gives too.
    steps = [
        np.arange(n, dtype="float32")[:, None] for n in (23, 9, 15, 4, 30, 1, 8, 12, 17, 3, 3, 40)
    ]
    source = [{"x": s, "y": s + 1} for s in steps]
    stream = ks.StatefulStream(source, 3, 7, targets="y", resets=True, steps_per_epoch=12)
    x = keras.Input((None, 1), name="x")
    outputs = keras.layers.RNN(Count(), return_sequences=True)(x)
    model = ks.to_stateful(keras.Model({"x": x}, outputs), stream)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for callbacks in ([], [StopAfter(last)], [StopAfter(last)], []):
        history = model.fit(stream, epochs=1, verbose=0, callbacks=callbacks).history
        assert history["loss"] == [0.0]


class RaiseAfter(StopAfter):
    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_stream_stands_behind_the_step_at_which_a_fit_was_interrupted(last):
    """Behind the first step of an epoch, too: its window was read by the state."""
    docs, steps = documents([40, 25, 31, 60, 80]), 5
    stream = ks.StatefulStream(docs, 2, 4, resets=True, steps_per_epoch=steps)
    whole = [x for (x, _), *_ in ks.StatefulStream(docs, 2, 4, resets=True)]
    model = ks.to_stateful(network(), stream)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.fit(stream, epochs=1, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(stream, epochs=1, verbose=0, callbacks=[RaiseAfter(last)])
    (x, _), *_ = next(stream.read_pass())
    np.testing.assert_array_equal(x, whole[steps + last + 1])


@pytest.mark.parametrize("kind", ["window", "step", "callback"])
def test_the_loss_of_each_later_pass_is_the_mean_over_real_steps(kind):
    keras.utils.set_random_seed(3)
    docs = documents([23, 31, 9, 17, 28])
    data = ks.StatefulStream(
        docs, 3, 8, boundary="pack" if kind == "step" else "align", resets=kind != "callback"
    )
    model = network(3, stateful=True) if kind == "callback" else ks.to_stateful(network(), data)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    callbacks = [ks.ResetStatesCallback(data)] if kind == "callback" else []
    history = model.fit(data, epochs=3, verbose=0, callbacks=callbacks).history
    expected = np.concatenate(loss_by_hand(model, docs)).mean()
    np.testing.assert_allclose(history["loss"][1:], expected, atol=1e-5)
