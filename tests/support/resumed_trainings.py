"""Trainings that are stopped and resumed: their data, their model, and what they end with."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

EPOCHS, ROWS, WINDOW, IDS = 3, 2, 4, 7
LENGTHS = (21, 30, 9, 14, 17)
BACKEND = keras.backend.backend()


def documents() -> list[np.ndarray]:
    """Ids from 1 to 6, the same at each call, as a script that is started again reads them."""
    rng = np.random.default_rng(5)
    return [rng.integers(1, IDS, n) for n in LENGTHS]


def stream(**arguments) -> ks.StatefulStream:
    return ks.StatefulStream(lambda: iter(documents()), ROWS, WINDOW, resets=True, **arguments)


def sequence(**arguments) -> ks.StatefulSequence:
    return ks.StatefulSequence(documents(), ROWS, WINDOW, seed=3, **arguments)


# Each kind of data that `fit` reads. The plain ones go with a plain `stateful=True` layer.
DATA = {
    "align": lambda: sequence(shuffle=True, resets=True),
    "pack": lambda: sequence(shuffle=True, boundary="pack", resets=True, shift_windows=True),
    "ignore": lambda: sequence(boundary="ignore", resets=True),
    "stride": lambda: sequence(shuffle=True, resets=True, stride=3),
    "stream": lambda: stream(),
    "stream_pack": lambda: stream(boundary="pack", burn_in=1),
    "stream_steps": lambda: stream(steps_per_epoch=7),
    "plain": lambda: sequence(shuffle=True),
    "plain_stream": lambda: ks.StatefulStream(documents(), ROWS, WINDOW),
}


def network(stateful: bool = False, dropout: float = 0.2) -> keras.Model:
    """A network with two kinds of dropout, whose random numbers must go on as well."""
    return keras.Sequential(
        [
            keras.Input((None,), batch_size=ROWS, dtype="int32"),
            layers.Embedding(IDS, 3),
            layers.LSTM(4, return_sequences=True, stateful=stateful, dropout=dropout),
            layers.Dropout(0.3),
            layers.Dense(IDS),
        ]
    )


def make(kind: str, dropout: float = 0.2, **compile_arguments):
    """Makes data, model and callbacks as a script does each time it is started."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    data = DATA[kind]()
    plain = kind.startswith("plain")
    model = network(True, dropout) if plain else ks.to_stateful(network(False, dropout), data)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.9)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        **compile_arguments,
    )
    return data, model, [ks.ResetStatesCallback(data)] if plain else []


class Losses(keras.callbacks.Callback):
    """Keeps the logs of every step, and remembers them in a backup."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, *logs.values()))

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = [tuple(row) for row in state["seen"]]


class Copies(keras.callbacks.Callback):
    """Copies the backup directory as a kill after each of these steps would leave it."""

    def __init__(self, backup, *steps):
        super().__init__()
        self.backup, self.steps, self.done = backup, steps, 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.done in self.steps:
            shutil.copytree(self.backup, f"{self.backup}-{self.done}")
        self.done += 1

    get_state = dict

    def set_state(self, state):
        pass


def train(made, backup, callbacks=(), save_freq=3, epochs=EPOCHS, **arguments):
    """Trains what `make` made beside `ResumeTraining`; returns all that may depend on a stop."""
    data, model, made_callbacks = made
    losses = Losses()
    history = model.fit(
        data,
        epochs=epochs,
        verbose=0,
        callbacks=[*made_callbacks, losses, *callbacks, ks.ResumeTraining(backup, data, save_freq)],
        **arguments,
    )
    return losses.seen, history.history, history.epoch, model.get_weights(), ks.get_states(model)


def assert_same(one, other):
    """Two results of `train` are equal, bit for bit."""
    np.testing.assert_equal(one[:3], other[:3])
    keras.tree.map_structure(np.testing.assert_array_equal, one[3:], other[3:])


def mostly_slow(*values, quick):
    """Parameters for `parametrize`: the quick ones in every run, the others marked `slow`."""
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]
