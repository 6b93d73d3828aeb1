"""A training that is stopped at any step and started again has the losses of one that was not, bit for bit."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

EPOCHS, ROWS, WINDOW, IDS = 3, 2, 4, 7
LENGTHS = (21, 30, 9, 14, 17)
BACKEND = keras.backend.backend()


def documents():
    rng = np.random.default_rng(5)
    return [rng.integers(1, IDS, n) for n in LENGTHS]


def stream(**arguments):
    return ks.StatefulStream(lambda: iter(documents()), ROWS, WINDOW, resets=True, **arguments)


def sequence(**arguments):
    return ks.StatefulSequence(documents(), ROWS, WINDOW, seed=3, **arguments)


DATA = {
    "align": lambda: sequence(shuffle=True, resets=True),
    "pack": lambda: sequence(shuffle=True, boundary="pack", resets=True, shift_windows=True),
    "ignore": lambda: sequence(boundary="ignore", resets=True),
    "stream": lambda: stream(),
    "stream_pack": lambda: stream(boundary="pack", burn_in=1),
    "stream_steps": lambda: stream(steps_per_epoch=7),
    "plain": lambda: sequence(shuffle=True),
    "plain_stream": lambda: ks.StatefulStream(documents(), ROWS, WINDOW),
}


def network(stateful=False, dropout=0.2):
    return keras.Sequential(
        [
            keras.Input((None,), batch_size=ROWS, dtype="int32"),
            layers.Embedding(IDS, 3),
            layers.LSTM(4, return_sequences=True, stateful=stateful, dropout=dropout),
            layers.Dropout(0.3),
            layers.Dense(IDS),
        ]
    )


def make(kind, dropout=0.2, **compile_arguments):
    """Data, model and callbacks as a script makes them each time it is started."""
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
    """The logs of every step."""

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
    """Copies of the backup directory as a kill after these steps would leave it."""

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
    data, model, own = made
    losses = Losses()
    history = model.fit(
        data,
        epochs=epochs,
        verbose=0,
        callbacks=[*own, losses, *callbacks, ks.ResumeTraining(backup, data, save_freq)],
        **arguments,
    )
    return losses.seen, history.history, history.epoch, model.get_weights(), ks.get_states(model)


def assert_same(one, other):
    np.testing.assert_equal(one[:3], other[:3])
    keras.tree.map_structure(np.testing.assert_array_equal, one[3:], other[3:])


@pytest.mark.parametrize("kind", DATA)
def test_a_stop_in_mid_epoch_leaves_no_trace(kind, tmp_path):
    made = make(kind)
    unbroken = train(made, tmp_path / "a", [Copies(tmp_path / "a", 5, 16)])
    for step in (5, 16):  # the model has gone on since, the data too
        assert_same(train(made, tmp_path / f"a-{step}"), unbroken)


def constant_rate(model):
    model.compile(keras.optimizers.Adam(0.01), model.loss, weighted_metrics=["accuracy"])


def many_callbacks(folder):
    """Each callback that remembers something; the rate falls, the best weights change and training stops early."""
    held_out = documents()[:2]
    return [
        keras.callbacks.EarlyStopping("val_loss", min_delta=10, patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, min_delta=10, patience=1),
        keras.callbacks.ModelCheckpoint(
            str(folder / "best.weights.h5"), "loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.ModelCheckpoint(
            str(folder / "{epoch}-{batch}.weights.h5"), save_freq=5, save_weights_only=True
        ),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        ks.ValidateDocuments(held_out, batch_size=ROWS, sequence_length=WINDOW),
        ks.SampleText(held_out[0][:3], 4, encode=np.array, decode=lambda ids: ids.tolist(), write=None),
        ks.StateMonitor(4),
        keras.callbacks.CSVLogger(str(folder / "log.csv")),
    ]


def test_callbacks_remember(tmp_path):
    results = {}
    for name in ("unbroken", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        made = make("align", dropout=0.0)
        constant_rate(made[1])
        stopping, *_ = callbacks = many_callbacks(folder)
        copies = [Copies(tmp_path / "a", 17)] if name == "unbroken" else []
        if name == "resumed":
            for file in (tmp_path / "unbroken").iterdir():  # what the first process had written
                if not file.name.startswith("3-"):
                    shutil.copy(file, folder)
        backup = tmp_path / ("a" if name == "unbroken" else "a-17")
        *result, states = train(made, backup, [*callbacks, *copies], 4, 9, validation_data=DATA["align"]())
        files = {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix == ".csv"}
        names = sorted(f.name for f in folder.iterdir())
        results[name] = (
            *result[:3],
            [stopping.stopped_epoch, stopping.best, files, names, callbacks[6].samples],
            *result[3:],
        )
    assert_same(results["resumed"], results["unbroken"])
    np.testing.assert_equal(results["resumed"][3], results["unbroken"][3])
    assert len(results["unbroken"][2]) == 3 and stopping.stopped_epoch == 2
    rates = results["unbroken"][1]["learning_rate"]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.01 * 0.9**3
