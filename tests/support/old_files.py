"""Writes the files of `tests/fixtures/flat/`: what users of an earlier version have on their disks.

Commit 6a65e60 wrote them, the last one whose modules lay in one folder. They are not written again:
files of a later version would test nothing. `tests/project/test_old_files.py` reads them.

    KERAS_BACKEND=jax python tests/support/old_files.py FOLDER      # models, an artifact, a backup
    KERAS_BACKEND=torch python tests/support/old_files.py FOLDER    # a backup; so tensorflow

Deleted afterwards: `lock`, and the older checkpoint of each backup.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
from keras import layers

import keras_stateful as ks

ROWS, WINDOW, IDS, EPOCHS = 2, 4, 7, 3
# Steps of 36, 12 to an epoch. The newest checkpoint is that of step 20: in the middle of the second
# epoch, when every callback has something to remember.
STOPPED_AFTER, SAVE_FREQ = 22, 5


class Stopped(Exception):
    """Stands for a killed process."""


class Steps(keras.callbacks.Callback):
    """Keeps the loss of every step, and stops the training after some of them."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.losses: list[float] = []
        self.stop_after = stop_after

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        if len(self.losses) == self.stop_after:
            raise Stopped

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(1, IDS, n) for n in (21, 30, 9, 14, 17)]


def network() -> keras.Model:
    """Two recurrent layers, one of stacked cells, behind a sub-model: ids in, scores out."""
    embed = keras.Sequential(
        [keras.Input((None,), dtype="int32"), layers.Embedding(IDS, 3)], name="embed"
    )
    cells = [layers.GRUCell(3), layers.GRUCell(2)]
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = layers.LSTM(4, return_sequences=True, name="lstm")(embed(inputs))
    x = layers.RNN(cells, return_sequences=True, name="stack")(x)
    x = layers.Dropout(0.2, seed=3, name="dropout")(x)
    x = layers.TimeDistributed(layers.Dense(IDS, name="scores"), name="along_time")(x)
    return keras.Model(inputs, x, name="old")


def network_of_all_kinds() -> keras.Model:
    """Each recurrent layer of Keras, two of them in a `Sequential`: readings `(time, 3)` in."""
    pair = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.GRU(4, return_sequences=True),
            layers.SimpleRNN(6, return_sequences=True),
        ],
        name="pair",
    )
    inputs = keras.Input((None, 3), name="readings")
    x = layers.LSTM(6, return_sequences=True, name="lstm")(pair(inputs))
    x = layers.TimeDistributed(layers.Reshape((3, 2)), name="image")(x)
    x = layers.ConvLSTM1D(2, 3, padding="same", return_sequences=True, name="conv")(x)
    return keras.Model(inputs, x, name="kinds")


def training() -> tuple[ks.StatefulSequence, keras.Model]:
    """The data and the compiled model of a user's script."""
    keras.utils.set_random_seed(1)
    sequence = ks.StatefulSequence(documents(), ROWS, WINDOW, seed=3, shuffle=True, resets=True)
    model = ks.to_stateful(network(), sequence)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return sequence, model


def callbacks(
    folder: Path, sequence: ks.StatefulSequence, steps: Steps
) -> list[keras.callbacks.Callback]:
    """Callbacks that each remember something; what they write lies in `folder`."""
    return [
        ks.ValidateDocuments(documents()[:2], sequence_length=WINDOW),
        ks.StateMonitor(every=4),
        ks.SampleText(
            "ab",
            5,
            encode=lambda text: np.array([1, 2]),
            decode=lambda ids: " ".join(str(int(i)) for i in ids),
            write=None,
        ),
        keras.callbacks.EarlyStopping("loss", patience=9),
        keras.callbacks.CSVLogger(str(folder / "log.csv")),
        ks.ResumeTraining(folder / "backup", sequence, save_freq=SAVE_FREQ),
        steps,
    ]


def results(steps: Steps, used: list, history: keras.callbacks.History, log: Path) -> dict:
    """What a training ends with, as JSON values."""
    sample_text = next(callback for callback in used if isinstance(callback, ks.SampleText))
    return {
        "losses": steps.losses,
        "history": {key: [float(v) for v in column] for key, column in history.history.items()},
        "samples": sample_text.samples,
        "log": log.read_text().splitlines(),
    }


def write_backup(folder: Path) -> None:
    """A training that was stopped, and beside it the results of one that was not."""
    folder.mkdir(parents=True)
    with TemporaryDirectory() as whole:
        sequence, model = training()
        steps = Steps()
        used = callbacks(Path(whole), sequence, steps)
        history = model.fit(sequence, epochs=EPOCHS, verbose=0, callbacks=used)
        expected = results(steps, used, history, Path(whole) / "log.csv")
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    sequence, model = training()
    used = callbacks(folder, sequence, Steps(STOPPED_AFTER))
    try:
        model.fit(sequence, epochs=EPOCHS, verbose=0, callbacks=used)
    except Stopped:
        return
    raise AssertionError("it was not stopped")


def write_models(folder: Path) -> None:
    """Models, weights and an artifact, and what each gives for the same inputs."""
    sequence, model = training()
    model.fit(sequence, epochs=1, verbose=0)
    model.save(folder / "training.keras")
    model.save_weights(folder / "training.weights.h5")
    inference = ks.to_inference(model)
    inference.save(folder / "inference.keras")
    ks.to_step_model(model).save(folder / "step.keras")
    ks.export_step_model(model, folder / "onnx", "onnx", metadata={"alphabet": list("abcdefg")})
    ids = documents()[0][None]

    kinds = ks.to_stateful(network_of_all_kinds(), ROWS, resets="step")
    kinds.compile("sgd", "mse")
    kinds.save(folder / "kinds.keras")
    rng = np.random.default_rng(6)
    readings = rng.standard_normal((ROWS, 9, 3)).astype("float32")
    resets = rng.random((ROWS, 9)) < 0.3
    np.savez(
        folder / "expected.npz",
        ids=ids,
        scores=inference.predict(ids, verbose=0),
        readings=readings,
        resets=resets,
        images=kinds.predict_on_batch([readings, resets]),
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_backup(target / f"backup-{keras.backend.backend()}")
    if keras.backend.backend() == "jax":
        write_models(target)
