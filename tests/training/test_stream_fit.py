"""`fit` on a `StatefulStream` loses nothing to what Keras reads ahead, and resets at starts."""

import contextlib

import keras
import numpy as np
import pytest
from recording_models import ROWS, WINDOW, numbered_documents, recording_model
from releases import needs_any_rows
from small_trainings import documents, loss_by_hand, network

import keras_stateful as ks

LENGTHS = (21, 30, 9, 14, 33)


@pytest.mark.parametrize("steps", [None, 1, 4])
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


def counted_stream(steps_per_epoch, once=False):
    """The value of each step is its number in its document, which `Count` gives too."""
    steps = [
        np.arange(n, dtype="float32")[:, None] for n in (23, 9, 15, 4, 30, 1, 8, 12, 17, 3, 3, 40)
    ]
    source = [{"x": s, "y": s + 1} for s in steps]
    return ks.StatefulStream(
        iter(source) if once else source, 3, 7, targets="y", resets=True,
        steps_per_epoch=steps_per_epoch,
    )  # fmt: skip


def counting_model(stream):
    x = keras.Input((None, 1), name="x")
    outputs = keras.layers.RNN(Count(), return_sequences=True)(x)
    model = ks.to_stateful(keras.Model({"x": x}, outputs), stream)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others know the rows")
def test_plain_layers_of_an_older_keras_are_refused(monkeypatch):
    """It would say of a symbolic tensor that it is no bool."""
    data = ks.StatefulStream(documents([23, 31]), 2, 8)
    model = network(2, stateful=True)
    model.compile("sgd", "sparse_categorical_crossentropy")
    monkeypatch.setattr("keras_stateful.foundation.keras_internals.has_keras", lambda since: False)
    with pytest.raises(ImportError, match="Keras 3.14 or later.*`to_stateful"):
        model.fit(data, verbose=0, callbacks=[ks.ResetStatesCallback(data)])


def test_an_epoch_of_a_single_step_begins_with_the_first():
    stream = counted_stream(1)
    model = counting_model(stream)
    assert model.fit(stream, epochs=9, verbose=0).history["loss"] == [0.0] * 9


@pytest.mark.parametrize("last", [0, 1, 3])
@pytest.mark.parametrize("epochs", [1, 2])
def test_after_a_fit_that_failed_states_and_stream_stand_at_the_same_step(last, epochs):
    """Where the call began: its states are those of before, and the stream goes back there."""
    stream = counted_stream(4)
    model = counting_model(stream)
    before = next(iter(ks.get_states(model).values()))[0]
    for callbacks in ([], [RaiseAfter(last)], [RaiseAfter(last)], []):
        if not callbacks:
            assert model.fit(stream, epochs=1, verbose=0).history["loss"] == [0.0]
            before = next(iter(ks.get_states(model).values()))[0]
            continue
        with pytest.raises(KeyboardInterrupt):
            model.fit(stream, epochs=epochs, verbose=0, callbacks=callbacks)
        np.testing.assert_array_equal(next(iter(ks.get_states(model).values()))[0], before)


def test_a_source_that_is_read_once_is_not_read_on_after_a_fit_that_failed():
    stream = counted_stream(4, once=True)
    model = counting_model(stream)
    with pytest.raises(KeyboardInterrupt):
        model.fit(stream, epochs=1, verbose=0, callbacks=[RaiseAfter(2)])
    with pytest.raises(Exception, match="Pass a function that makes one"):
        model.fit(stream, epochs=1, verbose=0)


@pytest.mark.parametrize("last", [0, 2])
def test_a_plain_model_stands_where_its_stream_stands(last):
    """In its first `fit`, which leaves the states of the last step, and in later ones."""
    stream = ks.StatefulStream(documents([41, 25, 33, 61, 81]), 2, 4, steps_per_epoch=5)
    model = network(2, stateful=True)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")

    def losses(stream, model, stops):
        for stop in stops:
            callbacks = [ks.ResetStatesCallback(stream, at_epoch_begin=True)]
            with contextlib.suppress(KeyboardInterrupt):
                yield model.fit(
                    stream, verbose=0, callbacks=callbacks + ([RaiseAfter(last)] if stop else [])
                ).history["loss"]

    first, second = losses(stream, model, [True, False, True, True, False])
    ks.reset_states(model)
    again = ks.StatefulStream(documents([41, 25, 33, 61, 81]), 2, 4, steps_per_epoch=1)
    each = [
        model.fit(again, verbose=0, callbacks=[ks.ResetStatesCallback(again)]).history["loss"][0]
        for _ in range(last + 11)
    ]
    np.testing.assert_allclose(first, np.mean(each[last + 1 : last + 6]), rtol=1e-5)
    np.testing.assert_allclose(second, np.mean(each[last + 6 : last + 11]), rtol=1e-5)


@pytest.mark.parametrize("kind", ["window", "step", pytest.param("callback", marks=needs_any_rows)])
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


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("plain", [False, pytest.param(True, marks=needs_any_rows)])
def test_evaluate_reads_a_stream_from_its_start_or_refuses(plain, steps):
    """It starts from the initial state, and must not do so in the middle of a document."""
    docs = documents([23, 40, 31])
    endless = ks.StatefulStream(docs, ROWS, WINDOW, resets=not plain, steps_per_epoch=steps)
    whole = ks.StatefulStream(docs, ROWS, WINDOW, resets=not plain)
    model = network(ROWS, stateful=True) if plain else ks.to_stateful(network(), whole)
    callbacks = [ks.ResetStatesCallback()] if plain else []
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=rf"evaluate\(stream, steps={steps}\)"):
        model.evaluate(endless, verbose=0, callbacks=callbacks)
    losses = [model.evaluate(whole, steps=steps, verbose=0, callbacks=callbacks) for _ in range(3)]
    assert losses == losses[:1] * 3
    model.fit(endless, verbose=0, callbacks=callbacks)  # which begins at the start
