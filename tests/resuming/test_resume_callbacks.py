"""Beside `ResumeTraining`, each callback is resumed right or refused at the start.

Each is one of Keras, of this package, or of a user's.
"""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from resumed_trainings import (
    BACKEND,
    DATA,
    ROWS,
    WINDOW,
    Copies,
    assert_same,
    documents,
    make,
    mostly_slow,
    train,
)

import keras_stateful as ks
from keras_stateful.resuming import packing

kc = keras.callbacks
EPOCHS = 2


class Counts(kc.Callback):
    """A user's own, which says what must be remembered."""

    def __init__(self):
        super().__init__()
        self.steps, self.of_epoch = 0, {}

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.of_epoch[epoch] = self.steps

    def get_state(self):
        return {"steps": self.steps, "of_epoch": self.of_epoch}

    def set_state(self, state):
        self.steps, self.of_epoch = state["steps"], state["of_epoch"]


class Writes(kc.Callback):
    """A user's own, which remembers nothing."""

    folder = None

    def on_train_batch_end(self, batch, logs=None):
        (self.folder / f"{batch}.txt").write_text(str(logs["loss"]))


class TurnsNaN(kc.Callback):
    """Makes the loss of the fifth step of the second epoch NaN."""

    epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        type(self).epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 4):
            logs["loss"] = np.nan


def writes(folder):
    Writes.folder = folder
    return Writes()


def appending(folder):
    file = folder / "log.csv"
    if not file.exists():
        file.write_text("epoch;of another training\n")
    return kc.CSVLogger(str(file), separator=";", append=True)


def each_step(folder):
    return kc.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (folder / f"{batch}").write_text(str(logs["loss"]))
    )


class Summary:
    """Stands for `tf.summary`: writes text files, and checks that a repeated step repeats them."""

    def __init__(self):
        self.writers, self.conditions = [], []

    def create_file_writer(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        as_default = lambda step=None: self._within(self.writers, Path(folder))  # noqa: E731
        return SimpleNamespace(as_default=as_default, close=lambda: None)

    def record_if(self, condition):
        return self._within(self.conditions, condition)

    @contextlib.contextmanager
    def _within(self, stack, value):
        stack.append(value)
        yield
        stack.remove(value)

    def scalar(self, name, value, step):
        if "per_second" in name or not all(condition() for condition in self.conditions):
            return
        file = self.writers[-1] / f"{name}-{int(step)}"
        assert not file.exists() or file.read_text() == str(float(value)), file
        file.write_text(str(float(value)))


def tensorboard(folder):
    callback = kc.TensorBoard(
        str(folder / "events"), write_graph=False, update_freq=2, write_steps_per_second=True
    )
    callback._summary_module = Summary()  # the suite does not install TensorBoard
    return callback


def subclassed(callback):
    """The callback as one of a user's subclass that adds no attribute."""
    callback.__class__ = type("Subclass", (type(callback),), {"__module__": "script"})
    return callback


# How a script makes each callback, in a directory of its own.
RESUMED = {
    "CSVLogger": lambda f: kc.CSVLogger(str(f / "log.csv")),
    "CSVLogger, append": appending,
    "EarlyStopping": lambda f: kc.EarlyStopping(
        "val_loss", patience=2, baseline=0.0, restore_best_weights=True
    ),
    "History": lambda f: kc.History(),
    "LambdaCallback": each_step,
    "LearningRateScheduler": lambda f: kc.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
    "ModelCheckpoint": lambda f: kc.ModelCheckpoint(
        str(f / "{epoch}-{batch}.weights.h5"), save_freq=5, save_weights_only=True
    ),
    "ModelCheckpoint, best": lambda f: kc.ModelCheckpoint(
        str(f / "{epoch}.keras"), "loss", save_best_only=True
    ),
    "ProgbarLogger": lambda f: kc.ProgbarLogger(),
    "ReduceLROnPlateau": lambda f: kc.ReduceLROnPlateau(
        "loss", 0.5, patience=1, min_delta=9, cooldown=1
    ),
    "RemoteMonitor": lambda f: kc.RemoteMonitor(str(f), send_as_json=True),
    "SwapEMAWeights": lambda f: kc.SwapEMAWeights(),
    "SwapEMAWeights, swap_on_epoch": lambda f: kc.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": tensorboard,
    "TerminateOnNaN": lambda f: [TurnsNaN(), kc.TerminateOnNaN()],
    "ResetStatesCallback": lambda f: [],  # `make` brings it
    "SampleText": lambda f: ks.SampleText([1, 2], 4, encode=np.array, decode=str, write=None),
    "StateMonitor": lambda f: ks.StateMonitor(4),
    "ValidateDocuments": lambda f: ks.ValidateDocuments(
        documents()[:2], batch_size=ROWS, sequence_length=WINDOW
    ),
    "a user's own with get_state": lambda f: Counts(),
    "a user's own without attributes": writes,
}
OF_THIS_PACKAGE = ("ResetStatesCallback", "SampleText", "StateMonitor", "ValidateDocuments")


class Remembers(kc.Callback):
    """A user's own, which says nothing."""

    def __init__(self):
        super().__init__()
        self.count = 0


class RemembersLate(kc.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.last = batch


class Patient(kc.EarlyStopping):
    """A subclass, which may remember anything."""


class MonitorsMore(ks.StateMonitor):
    """A subclass of one of ours, whose methods know nothing of what it adds."""

    def __init__(self):
        super().__init__(4)
        self.worst = 0.0


class CountsDocuments(ks.ValidateDocuments):
    """Another, which adds an attribute while it trains."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.count = getattr(self, "count", 0) + 1


class SavesObjects(kc.Callback):
    def get_state(self):
        return {"model": self.model}

    def set_state(self, state):
        pass


REFUSED = {
    "BackupAndRestore": (lambda f: kc.BackupAndRestore(str(f / "restore")), "Leave it out"),
    "OrbaxCheckpoint": (lambda f: kc.OrbaxCheckpoint(str(f / "orbax")), "Use `ModelCheckpoint`"),
    "Remembers": (lambda f: Remembers(), "a callback with count. Give it two methods: `get_state"),
    "Patient": (lambda f: Patient(), "Give it two methods: `get_state"),
    "MonitorsMore": (
        lambda f: MonitorsMore(),
        "a callback with __init__(). Give it two methods: `get_state(self)`",
    ),
    "CountsDocuments": (
        lambda f: CountsDocuments([np.arange(6)]),
        "a callback with on_epoch_end(). Give it two methods: `get_state(self)`",
    ),
}
if not hasattr(kc, "OrbaxCheckpoint"):  # an older Keras
    del REFUSED["OrbaxCheckpoint"]


def test_every_callback_has_a_row():
    found = {
        name
        for module in (kc, ks)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kc.Callback)
    }
    rows = {name.partition(",")[0] for name in (*RESUMED, *REFUSED)}
    assert found - rows == {"Callback", "CallbackList", "ResumeTraining"} & found


def training(name):
    """Data, model and `ResetStatesCallback` of a script; validation swaps averages in and out."""
    _, model, _ = made = make("plain" if name == "ResetStatesCallback" else "align", dropout=0.0)
    adam = keras.optimizers.Adam(0.01, use_ema=name.startswith("SwapEMA"), ema_momentum=0.9)
    model.compile(adam, model.loss, weighted_metrics=["accuracy"])
    return made


# How the file was opened; when an epoch began.
PASSING = ("append_header", "_epoch_start_time", "_batch_start_time")


def left(folder, callbacks):
    """All that callbacks leave: what they know, and their files."""
    known = [
        {k: v for k, v in vars(c).items() if is_data(v) and k not in PASSING} for c in callbacks
    ]
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    files = {name: p for name, p in files.items() if not name.startswith("backup")}
    contents = {
        name: p.read_bytes() for name, p in files.items() if p.suffix not in (".h5", ".keras")
    }
    return known, sorted(files), contents


def is_data(value):
    try:
        packing.check_packable(value)
    except TypeError:
        return False
    return not isinstance(value, str)  # paths differ


def run(name, made, work, *more, epochs=EPOCHS, change=lambda callback: callback):
    callbacks = RESUMED[name](work)
    callbacks = callbacks if isinstance(callbacks, list) else [change(callbacks)]
    result = train(
        made,
        work / "backup",
        [*callbacks, *more],
        epochs=epochs,
        validation_data=None if name == "ValidateDocuments" else validation(name),
    )
    return *result, left(work, callbacks)


def validation(name):
    return None if name in ("ResetStatesCallback", "ValidateDocuments") else DATA["align"]()


OF_THE_BACKEND = ("SwapEMAWeights", "SwapEMAWeights, swap_on_epoch", "TensorBoard", "StateMonitor")


# All of them where nothing is compiled and so a training takes no time.
@pytest.mark.parametrize(
    "name", mostly_slow(*RESUMED, quick=RESUMED if BACKEND == "torch" else OF_THE_BACKEND)
)
def test_resumed_it_leaves_what_it_would_have_left(name, tmp_path, monkeypatch):
    def post(root, json, **_):
        (Path(root) / f"{json['epoch']}.json").write_text(str(json))

    import requests

    monkeypatch.setattr(
        requests, "post", lambda path, json, **_: post(path.partition("/publish")[0], json)
    )
    made, work = training(name), tmp_path / "work"
    work.mkdir()
    steps = len(made[0])
    unbroken = run(name, made, work, Copies(work, 5, steps))
    assert len(unbroken[0]) > steps
    for step in (5, steps):  # in the middle of an epoch, at the start of one
        resumed = run(name, made, tmp_path / f"work-{step}")
        for one, other in zip(resumed, unbroken, strict=True):
            np.testing.assert_equal(one, other)


@pytest.mark.parametrize("name", mostly_slow(*OF_THIS_PACKAGE, quick=("StateMonitor",)))
def test_a_subclass_that_adds_no_attribute_is_resumed_as_its_parent(name, tmp_path):
    made, work = training(name), tmp_path / "work"
    work.mkdir()
    for callback in made[2]:  # a `ResetStatesCallback`
        subclassed(callback)
    unbroken = run(name, made, work, Copies(work, 5), change=subclassed)
    resumed = run(name, made, tmp_path / "work-5", change=subclassed)
    for one, other in zip(resumed, unbroken, strict=True):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_step(name, tmp_path):
    make_it, remedy = REFUSED[name]
    made = make("align")
    before = made[1].get_weights()
    with pytest.raises(
        ValueError, match=f"`ResumeTraining` cannot save what `{name}` remembers"
    ) as error:
        train(made, tmp_path / "backup", [make_it(tmp_path)])
    assert remedy in str(error.value)
    assert not (tmp_path / "backup").exists()
    keras.tree.map_structure(np.testing.assert_array_equal, made[1].get_weights(), before)


def test_what_shows_itself_late_is_refused_at_the_first_save(tmp_path):
    with pytest.raises(
        ValueError, match=r"what `RemembersLate` remembers\. Received: a callback with last\."
    ):
        train(make("align"), tmp_path, [RemembersLate()], save_freq=1, epochs=1)
    with pytest.raises(
        TypeError, match=r"`SavesObjects.get_state` gives what .* Received: StatefulModel\."
    ):
        train(make("align"), tmp_path, [SavesObjects()], save_freq=1, epochs=1)
    assert not list(tmp_path.glob("checkpoint-*"))


class CopiesAtEpochEnd(kc.Callback):
    """What a kill between the last step and the end of its epoch leaves."""

    backup = None

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training:
            shutil.copytree(self.backup, f"{self.backup}-end")


def test_killed_between_a_stop_in_mid_epoch_and_the_end_of_its_epoch(tmp_path):
    CopiesAtEpochEnd.backup = tmp_path / "a"
    stopping = [TurnsNaN(), kc.TerminateOnNaN()]
    made = training("align")
    unbroken = train(
        made, tmp_path / "a", [*stopping, CopiesAtEpochEnd()], 1, validation_data=DATA["align"]()
    )
    assert len(unbroken[2]) == 2
    assert len(unbroken[0]) == len(made[0]) + 5
    CopiesAtEpochEnd.backup = tmp_path / "a-end"
    resumed = [*stopping, CopiesAtEpochEnd()]
    assert_same(
        train(made, tmp_path / "a-end", resumed, 1, validation_data=DATA["align"]()), unbroken
    )


def test_averaged_weights_go_on_with_more_epochs_or_are_refused(tmp_path):
    def once(folder, epochs, **arguments):
        swap, held_out = kc.SwapEMAWeights(**arguments), DATA["align"]()
        return train(made, tmp_path / folder, [swap], epochs=epochs, validation_data=held_out)

    made = training("SwapEMAWeights")
    longer = once("longer", 2)
    made = training("SwapEMAWeights")
    short = once("short", 1)
    assert_same(once("short", 1), short)
    assert_same(once("short", 2), longer)
    made = training(
        "SwapEMAWeights"
    )  # on JAX, averages that became the weights cannot be trained again
    ended = once("swapped", 1, swap_on_epoch=True)
    assert_same(once("swapped", 1, swap_on_epoch=True), ended)
    with pytest.raises(
        ValueError, match=r"Received: epochs=2 for a training that ended after 1\. Train anew"
    ):
        once("swapped", 2, swap_on_epoch=True)
