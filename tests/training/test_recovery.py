"""Law 11: a call that fails loses nothing, on any backend, whatever fails in it.

The weights are those of the last step that was finished, told by a twin that was given no more than
the steps before; the states are those from before the call, or of that step. And the model goes on.
"""

import itertools
import os
import signal
import threading

import keras
import numpy as np
import pytest
from keras import layers, ops
from releases import READS_AHEAD, needs_any_rows

import keras_stateful as ks
from keras_stateful.foundation import interrupts

BACKEND = keras.backend.backend()
ROWS, TIME = 2, 4
WHOLE = 3  # batches that are read before one fails


class Struck(Exception):
    """Stands for whatever may go wrong."""


def batches(count=WHOLE, fails=None, seed=0):
    """Batches `(x, y)`, and then what fails: an exception, or a batch that does."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = rng.normal(size=(ROWS, TIME, 3)).astype("float32")
        yield x, x[..., :2]
    if isinstance(fails, tuple):
        yield fails
    elif fails is not None:
        raise fails


WRONG = np.ones((ROWS, TIME, 5), "float32")  # features of another number than the model's
FAILURES = {
    "a source that raises": Struck("no such file"),
    "Ctrl-C in the source": KeyboardInterrupt(),
    "the end of the process": SystemExit(),
    "a batch of another shape": (WRONG, WRONG[..., :2]),
}


class Trained:
    """A model in the middle of its training, which a test may rewind to there.

    Compiled once for all tests, which also shows that a model goes on after whatever failed.
    """

    def __init__(self, kind):
        keras.utils.set_random_seed(1)
        plain = kind == "plain"
        recurrent = layers.LSTM(2, return_sequences=True, stateful=plain)
        rows = ROWS if plain else None
        model = keras.Sequential(
            [keras.Input((TIME, 3), batch_size=rows), recurrent, layers.Dense(2)]
        )
        self.model = model if plain else ks.to_stateful(model, ROWS)
        self.model.compile(keras.optimizers.Adam(0.1), "mse")
        self.plain = plain
        self.call("fit", batches())
        self.values, self.states = self.everything(), ks.get_states(self.model)

    @property
    def callbacks(self):
        return [ks.ResetStatesCallback()] if self.plain else []

    def everything(self):
        """Weights, optimizer and states."""
        states = [np.array(v) for states in ks.get_states(self.model).values() for v in states]
        optimizer = [ops.convert_to_numpy(v) for v in self.model.optimizer.variables]
        return self.model.get_weights(), optimizer, states

    def rewind(self):
        self.model.set_weights(self.values[0])
        for variable, value in zip(self.model.optimizer.variables, self.values[1], strict=True):
            variable.assign(value)
        ks.set_states(self.model, self.states)

    def call(self, method, data):
        """A call of `fit`, `evaluate` or `predict` on an iterator."""
        if method == "predict":
            data = (x for x, _ in data)
        return getattr(self.model, method)(data, verbose=0, callbacks=self.callbacks)


@pytest.fixture(scope="module", params=["converted", pytest.param("plain", marks=needs_any_rows)])
def twins(request):
    return Trained(request.param), Trained(request.param)


@pytest.fixture
def pair(twins):
    """The model that fails, and its twin, which never does."""
    for each in twins:
        each.rewind()
    return twins


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def holds(states, *allowed):
    return any(all(map(np.array_equal, states, each)) for each in allowed)


@pytest.mark.parametrize("whole", [0, WHOLE])
@pytest.mark.parametrize("fails", FAILURES)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_what_fails_costs_neither_weights_nor_states(pair, method, fails, whole):
    trained, twin = pair
    before = trained.everything()
    error = FAILURES[fails]
    expected = (Exception, type(error)) if isinstance(error, BaseException) else Exception
    with pytest.raises(expected):
        trained.call(method, batches(whole, error, seed=1))
    if READS_AHEAD and isinstance(error, BaseException):
        whole -= 1  # the last one is never trained on
    if method == "fit" and whole > 0:
        twin.call("fit", batches(whole, seed=1))
    weights, optimizer, states = trained.everything()
    assert_equal(weights, twin.everything()[0])
    assert_equal(optimizer, twin.everything()[1])
    assert holds(states, before[2], twin.everything()[2])
    # It goes on as the twin does, which never failed.
    for each in pair:
        each.call("fit", batches(seed=2))
    assert_equal(trained.everything()[0], twin.everything()[0])


class Strikes(keras.callbacks.Callback):
    """Raises in one hook, once."""

    def __init__(self, hook, at=1):
        super().__init__()
        counter = itertools.count()

        def strike(*_, **__):
            if next(counter) == at:
                raise Struck(hook)

        setattr(self, hook, strike)


HOOKS = [
    *(f"on_{m}_{e}" for m in ("train", "test") for e in ("begin", "batch_begin", "batch_end")),
    *("on_epoch_begin", "on_epoch_end", "on_test_end", "on_train_end"),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_fails_in_a_fit_with_validation(pair, hook):
    trained = pair[0]
    x, y = next(batches(seed=3))
    before = trained.everything()
    strikes = Strikes(hook, at=0 if hook in ("on_train_begin", "on_train_end") else 1)
    with pytest.raises(Struck):
        trained.model.fit(
            x,
            y,
            ROWS,
            3,
            0,
            callbacks=[*trained.callbacks, strikes],
            shuffle=False,
            steps_per_epoch=1,
            validation_data=(x, y),
            validation_batch_size=ROWS,
        )
    weights, optimizer, states = trained.everything()
    assert all(np.isfinite(w).all() for w in (*weights, *optimizer, *states))
    assert holds(states, before[2])
    loss = trained.model.evaluate(x, y, batch_size=ROWS, verbose=0, callbacks=trained.callbacks)
    assert np.isfinite(loss)


# A Ctrl-C while a step computes


class Interrupts(layers.Layer):
    """Sends Ctrl-C to the process from within a step, once it is armed."""

    armed = False

    def send(self, x):
        if self.armed:
            type(self).armed = False
            os.kill(os.getpid(), signal.SIGINT)
        return x

    def call(self, x):
        if BACKEND == "jax":
            import jax

            @jax.custom_jvp
            def through(x):
                return jax.pure_callback(self.send, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

            through.defjvp(lambda primals, tangents: (through(*primals), *tangents))
            return through(x)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            seen = tf.numpy_function(self.send, [x], tf.float32, stateful=True)
            return x + 0 * tf.stop_gradient(tf.reshape(seen, tf.shape(x)))
        self.send(x)
        return x


def interrupted_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((TIME, 3), batch_size=ROWS),
            layers.LSTM(4, return_sequences=True, stateful=True),
            Interrupts(),
            layers.Dense(2),
        ]
    )
    # A TensorFlow step that calls Python cannot be compiled with XLA.
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=BACKEND == "jax")
    return model


@pytest.fixture
def _interruptible():
    """Ctrl-C raises, also where a shell in the background has had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C")
@pytest.mark.filterwarnings("ignore:.*interrupted:RuntimeWarning")
@needs_any_rows
def test_an_interrupt_strikes_between_two_steps():
    model, twin = interrupted_model(), interrupted_model()
    resets = [ks.ResetStatesCallback()]

    def arm():
        for i, batch in enumerate(batches()):
            Interrupts.armed = i == WHOLE - 1
            yield batch

    with pytest.raises(KeyboardInterrupt):
        model.fit(arm(), verbose=0, callbacks=resets)
    finished = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: finished.append(twin.get_weights())
    )
    twin.fit(batches(), verbose=0, callbacks=[ks.ResetStatesCallback(), keep])
    weights = model.get_weights()
    assert any(all(map(np.array_equal, weights, step)) for step in finished[-2:])
    assert np.isfinite(model.fit(batches(), verbose=0, callbacks=resets).history["loss"])


@pytest.mark.backend_free
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C")
def test_an_interrupt_is_held_back_to_the_end_of_its_block():
    done = []

    def block():
        with interrupts.held_back():
            os.kill(os.getpid(), signal.SIGINT)
            done.extend(range(1000))

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        block()
    assert len(done) == 1000
    assert signal.getsignal(signal.SIGINT) is handler
    # Other threads are not interrupted, and may not set handlers.
    with interrupts.held_back():
        pass
    errors = []

    def elsewhere():
        try:
            with interrupts.held_back():
                done.append("elsewhere")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not errors
    assert done[-1] == "elsewhere"


@pytest.mark.skipif(BACKEND != "jax", reason="others keep the values in their variables")
def test_values_that_a_step_has_eaten_are_told():
    import jax

    class Breaks(layers.Layer):
        armed = False

        def compute(self, x):
            if self.armed:
                raise Struck("in the middle of a computation")
            return x

        def call(self, x):
            return jax.pure_callback(self.compute, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    breaks = Breaks()
    recurrent = layers.GRU(3, return_sequences=True, stateful=True)
    model = keras.Sequential([keras.Input((TIME, 3), batch_size=ROWS), recurrent, breaks])
    model.compile(loss="mse")
    x = np.ones((ROWS, TIME, 3), "float32")
    arguments = {"batch_size": ROWS, "verbose": 0, "callbacks": [ks.ResetStatesCallback()]}
    model.evaluate(x, x, **arguments)
    breaks.armed = True
    with pytest.raises(Exception, match="in the middle") as caught:
        model.evaluate(x, x, **arguments)
    assert "The weights of 'sequential" in "".join(caught.value.__notes__)
