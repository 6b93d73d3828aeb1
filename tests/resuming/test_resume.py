"""A training that is stopped and started again is, bit for bit, one that was never stopped."""

import contextlib
import gc
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from resumed_trainings import (
    BACKEND,
    DATA,
    EPOCHS,
    IDS,
    ROWS,
    WINDOW,
    Copies,
    Losses,
    assert_same,
    documents,
    make,
    mostly_slow,
    sequence,
    stream,
    train,
)

import keras_stateful as ks
from keras_stateful.resuming import checkpoint


@pytest.mark.parametrize("kind", mostly_slow(*DATA, quick=("align", "pack", "stream", "plain")))
def test_a_stop_in_mid_epoch_leaves_no_trace(kind, tmp_path):
    made = make(kind)
    unbroken = train(made, tmp_path / "a", [Copies(tmp_path / "a", 5, 16)])
    for step in (5, 16):  # the model has gone on since, the data too
        assert_same(train(made, tmp_path / f"a-{step}"), unbroken)


def constant_rate(model):
    model.compile(keras.optimizers.Adam(0.01), model.loss, weighted_metrics=["accuracy"])


def many_callbacks(folder):
    """Each callback that remembers something.

    The rate falls, the best weights change, and training stops early.
    """
    held_out = documents()[:2]
    return [
        ks.ValidateDocuments(held_out, batch_size=ROWS, sequence_length=WINDOW),
        keras.callbacks.EarlyStopping(
            "val_loss", min_delta=10, patience=2, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, min_delta=10, patience=1),
        keras.callbacks.ModelCheckpoint(
            str(folder / "best.weights.h5"), "loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.ModelCheckpoint(
            str(folder / "{epoch}-{batch}.weights.h5"), save_freq=5, save_weights_only=True
        ),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        ks.SampleText(
            held_out[0][:3], 4, encode=np.array, decode=lambda ids: ids.tolist(), write=None
        ),
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
        _, stopping, *_ = callbacks = many_callbacks(folder)
        copies = [Copies(tmp_path / "a", 17)] if name == "unbroken" else []
        if name == "resumed":
            for file in (tmp_path / "unbroken").iterdir():  # what the first process had written
                if not file.name.startswith("3-"):
                    shutil.copy(file, folder)
        backup = tmp_path / ("a" if name == "unbroken" else "a-17")
        *result, _ = train(made, backup, [*callbacks, *copies], 4, 9)
        files = {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix == ".csv"}
        names = sorted(f.name for f in folder.iterdir())
        results[name] = (
            *result[:3],
            [stopping.stopped_epoch, stopping.best, files, names, callbacks[6].samples],
            *result[3:],
        )
    assert_same(results["resumed"], results["unbroken"])
    np.testing.assert_equal(results["resumed"][3], results["unbroken"][3])
    assert len(results["unbroken"][2]) == 3
    assert stopping.stopped_epoch == 2
    rates = results["unbroken"][1]["learning_rate"]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01 * 0.9**3


class Killed(Exception):
    pass


def killer(steps):
    """A callback that ends the training after so many steps."""
    remaining = iter(range(steps))

    def begin(batch, logs=None):
        if next(remaining, None) is None:
            raise Killed

    return keras.callbacks.LambdaCallback(on_train_batch_begin=begin)


@pytest.mark.parametrize("save_freq", mostly_slow(1, 4, "epoch", quick=(4,)))
def test_a_fresh_process_goes_on_where_an_error_struck(save_freq, tmp_path):
    with_nothing_saved = [Losses()]
    data, model, _ = make("align")
    history = model.fit(data, epochs=EPOCHS, verbose=0, callbacks=with_nothing_saved)
    for steps in (15, 3):  # of 36; those after the last save are done again
        with pytest.raises(Killed):
            train(make("align"), tmp_path, [killer(steps)], save_freq)
    result = train(make("align"), tmp_path, [killer(1000)], save_freq)
    assert_same(
        result,
        (
            with_nothing_saved[0].seen,
            history.history,
            history.epoch,
            model.get_weights(),
            ks.get_states(model),
        ),
    )


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution above 1 on torch")
@pytest.mark.parametrize(
    ("kind", "at_once", "save_freq", "saved"),
    [
        ("align", 5, 4, (2, 4)),
        ("stream", 2, 3, (3, 9)),
    ],  # executions; steps, no multiple of `at_once`
)
def test_executions_of_several_steps(kind, at_once, save_freq, saved, tmp_path):
    made = make(kind, steps_per_execution=at_once)
    unbroken = train(made, tmp_path / "a", [Copies(tmp_path / "a", *saved)], save_freq)
    for execution in saved:
        assert_same(train(made, tmp_path / f"a-{execution}", save_freq=save_freq), unbroken)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles nothing on torch by itself")
@pytest.mark.parametrize(
    "jit_compile", [pytest.param(False, marks=pytest.mark.slow) if BACKEND == "jax" else True]
)
def test_compiled_otherwise_than_by_default(jit_compile, tmp_path):
    assert make("align")[1].jit_compile is not jit_compile  # that of all other tests
    with pytest.raises(Killed):
        train(make("align", jit_compile=jit_compile), tmp_path, [killer(5)], 4)
    made = make("align", jit_compile=jit_compile)
    unbroken = train(made, tmp_path / "unbroken", epochs=1)
    assert_same(train(made, tmp_path, [killer(1000)], 4, epochs=1), unbroken)


@pytest.mark.parametrize("kind", mostly_slow("align", "plain", quick=("plain",)))
def test_epochs_that_are_no_passes(kind, tmp_path):
    made = make(kind)
    unbroken = train(made, tmp_path / "a", [Copies(tmp_path / "a", 6, 11)], 5, steps_per_epoch=5)
    for step in (6, 11):
        assert_same(train(made, tmp_path / f"a-{step}", save_freq=5, steps_per_epoch=5), unbroken)


def test_a_training_that_has_ended_is_not_begun_again(tmp_path):
    longer = train(make("align"), tmp_path / "longer", epochs=2)
    made = make("align")
    once = train(made, tmp_path / "a", epochs=1)
    assert_same(train(made, tmp_path / "a", epochs=1), once)
    assert_same(train(made, tmp_path / "a", epochs=2), longer)


def test_the_progress_bar_goes_on(tmp_path, capsys):
    made = make("align")
    with pytest.raises(Killed):
        train(made, tmp_path, [killer(5)], 3)
    data, model, _ = made
    model.fit(data, epochs=1, verbose=1, callbacks=[Losses(), ks.ResumeTraining(tmp_path, data)])
    out = capsys.readouterr().out
    assert "Training goes on at epoch 1, step 4" in out
    assert f"{len(data)}/{len(data)}" in out
    assert f" 1/{len(data)}" not in out


# What is refused


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """Two checkpoints."""
    path = tmp_path_factory.mktemp("resume") / "backup"
    train(make("align"), path, epochs=2, save_freq="epoch")
    return path


def align(**arguments):
    return lambda: ks.StatefulSequence(
        **{
            "corpus": documents(),
            "batch_size": ROWS,
            "sequence_length": WINDOW,
            "shuffle": True,
            "seed": 3,
            "resets": True,
            **arguments,
        }
    )


CHANGES = {
    "sequence.seed: 3 when saved, 4 now": {"data": align(seed=4)},
    "sequence.data: ": {"data": align(corpus=[np.where(d == 1, 2, d) for d in documents()])},
    "sequence.documents: 5 when saved, 4 now": {"data": align(corpus=documents()[1:])},
    "sequence.batch_size: 2 when saved, 4 now": {"data": align(batch_size=4)},
    "sequence.sequence_length: 4 when saved, 5 now": {"data": align(sequence_length=5)},
    "sequence.kind: 'StatefulSequence' when saved, 'StatefulStream' now": {"data": stream},
    "'dropout': 0.2, ": {"dropout": 0.5},
    "optimizer.class: 'Adam' when saved, 'SGD' now": {"optimizer": "sgd"},
    "fit.steps_per_epoch: None when saved, 3 now": {"steps_per_epoch": 3},
    "sequence.boundary: 'align' when saved, 'pack' now": {"data": align(boundary="pack")},
    "compile.loss: {'SparseCategoricalCrossentropy': ": {"loss": "sparse_categorical_crossentropy"},
}


@pytest.mark.parametrize("told", CHANGES)
@pytest.mark.filterwarnings("ignore:Only")
def test_another_training_is_refused_with_what_differs(told, backup, monkeypatch):
    change = dict(CHANGES[told])
    monkeypatch.setitem(DATA, "align", change.pop("data", DATA["align"]))
    made = make("align", change.pop("dropout", 0.2))
    if change.keys() & {"optimizer", "loss"}:
        model = made[1]
        new = change.pop("optimizer", model.optimizer), change.pop("loss", model.loss)
        model.compile(*new, weighted_metrics=["accuracy"])
    with pytest.raises(ValueError, match="The training in `backup_dir` was another one") as error:
        train(made, backup, epochs=2, **change)
    assert told in str(error.value)


DOCUMENT = {key: np.arange(9.0)[:, None] for key in ("read", "hour", "one", "other")}
DOCUMENT |= {key: np.arange(9) for key in ("some", "few")}
AS_SAVED = {
    "targets": "one",
    "target_offset": 1,
    "sample_weight": "some",
    "known_ahead": {"hour": 1},
    "label_at": "every",
}


@pytest.mark.parametrize(
    "change",
    [
        {"targets": "other"},
        {"target_offset": 2},
        {"sample_weight": "few"},
        {"sample_weight": None},
        {"known_ahead": {"hour": 2}},
        {"known_ahead": None},
        {"label_at": "window"},
    ],
    ids=str,
)
def test_a_stream_that_reads_the_same_documents_otherwise_is_another(change):
    saved, now, again = (
        ks.StatefulStream([DOCUMENT] * 2, ROWS, WINDOW, **{**AS_SAVED, **arguments}).fingerprint()
        for arguments in ({}, change, {})
    )
    assert saved == again
    assert saved != now


def custom_activation(sign):
    def act(x):
        return sign * ops.tanh(x)

    return act


def custom_layer(sign):
    class Custom(layers.Layer):
        def call(self, x):
            return sign * x

    return Custom(name="custom")


def custom_loss(scale):
    def my_loss(y, p):
        return scale * keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)

    return my_loss


def custom_metric(scale):
    def my_metric(y, p):
        return scale * ops.mean(p, -1)

    return my_metric


def custom_optimizer(inner):
    class Wrapped(keras.optimizers.SGD):
        def __init__(self):
            super().__init__(0.1, momentum=0.5)

        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate * inner)

    return Wrapped()


def custom_schedule(power):
    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 / (1.0 + ops.cast(step, "float32")) ** power

        def get_config(self):
            return {}

    return Schedule()


def wired(x, swap=False, constant=1.0, act="tanh", layer=lambda x: x):
    h = layers.Embedding(IDS, 4)(x)
    a = layers.LSTM(4, return_sequences=True)(h)
    b = layers.Dense(4, activation=act)(h)
    both = layers.Multiply()([layers.Add()([a, b]), b if swap else a])
    return layers.Dense(IDS)(layer(both) * constant)


# What the first training is made with, and the second; of the same configuration.
COMPUTES = {
    "the wiring": ({}, {"swap": True}),
    "a constant in the graph": ({}, {"constant": 0.5}),
    "a function's body": ({"act": custom_activation(1)}, {"act": custom_activation(-1)}),
    "a layer's call": ({"layer": custom_layer(1)}, {"layer": custom_layer(-1)}),
    "the loss": ({"loss": custom_loss(1)}, {"loss": custom_loss(3)}),
    "a metric": ({"metric": custom_metric(1)}, {"metric": custom_metric(2)}),
    "the optimizer": (
        {"optimizer": lambda: custom_optimizer(1.0)},
        {"optimizer": lambda: custom_optimizer(-1.0)},
    ),
    "the schedule": (
        {"optimizer": lambda: keras.optimizers.SGD(custom_schedule(1))},
        {"optimizer": lambda: keras.optimizers.SGD(custom_schedule(2))},
    ),
}


@pytest.mark.parametrize("what", COMPUTES)
def test_a_step_that_computes_something_else_is_refused(what, tmp_path):
    def run(epochs, loss=None, metric=None, optimizer="adam", **change):
        keras.utils.set_random_seed(1)
        data = sequence(resets=True)
        x = keras.Input((None,), dtype="int32")
        model = ks.to_stateful(keras.Model(x, wired(x, **change)), data, local=local)
        model.compile(
            optimizer() if callable(optimizer) else optimizer,
            loss or custom_loss(1),
            weighted_metrics=[metric or custom_metric(1)],
        )
        resume = ks.ResumeTraining(tmp_path, data)
        return model.fit(data, epochs=epochs, verbose=0, callbacks=[resume]).epoch

    before, after = COMPUTES[what]
    local = ["custom"] if "layer" in before else []
    run(1, **before)
    with pytest.raises(ValueError, match=r"another one.*step\..*when saved.*on made-up values"):
        run(2, **after)
    assert run(2, **before) == [0, 1]


def test_a_damaged_checkpoint_is_left_out(backup, tmp_path):
    wanted = train(make("align"), tmp_path / "unbroken")
    copy = tmp_path / "copy"
    shutil.copytree(backup, copy)
    before, newest = sorted(copy.glob("checkpoint-*"))
    for name in ("model.weights.h5", "state.npz", "run.json"):
        file = newest / name
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(
        UserWarning, match=f"{newest.name} is left out: model.weights.h5 is not what was written"
    ):
        assert_same(train(make("align"), copy), wanted)
    shutil.rmtree(copy)
    shutil.copytree(backup, copy)
    for path in (before, newest):
        (path / "SHA256SUMS").write_text("")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="No checkpoint in .* can be read"),
    ):
        train(make("align"), copy)


def test_streams_that_cannot_be_repositioned(tmp_path, monkeypatch):
    monkeypatch.setitem(
        DATA, "once", lambda: ks.StatefulStream(iter(documents()), ROWS, WINDOW, resets=True)
    )
    with pytest.raises(ValueError, match="source of the stream is read once"):
        train(make("once"), tmp_path)
    with pytest.raises(Killed):
        train(make("stream"), tmp_path, [killer(5)])
    first, *others = documents()
    changed = [first, *(d[::-1] for d in others)]
    monkeypatch.setitem(
        DATA, "changed", lambda: ks.StatefulStream(changed, ROWS, WINDOW, resets=True)
    )
    with pytest.raises(ValueError, match=r"gives other documents than when .* source\[1\]"):
        train(make("changed"), tmp_path)


def test_what_cannot_be_saved_is_refused_by_name(tmp_path):
    class Counts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.count = 0

    data, model, _ = made = make("align")
    with pytest.raises(
        ValueError,
        match=r"cannot save what `Counts` remembers.* with count\. Give it two methods: `get_state",
    ):
        train(made, tmp_path, [Counts()])
    with pytest.raises(
        ValueError, match="cannot save what `BackupAndRestore` remembers.*Leave it out"
    ):
        train(made, tmp_path, [keras.callbacks.BackupAndRestore(tmp_path)])
    with pytest.raises(ValueError, match="`fit` reads other data"):
        model.fit(sequence(resets=True), verbose=0, callbacks=[ks.ResumeTraining(tmp_path, data)])
    with pytest.raises(ValueError, match="several `ResumeTraining`"):
        train(made, tmp_path, [ks.ResumeTraining(tmp_path, data)])
    with pytest.raises(TypeError, match="`sequence` must be a StatefulSequence"):
        ks.ResumeTraining(tmp_path, [data])
    with pytest.raises(ValueError, match="`save_freq` must be 1 or more"):
        ks.ResumeTraining(tmp_path, data, 0)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_another_layer_is_refused(backup, monkeypatch):
    monkeypatch.setattr(layers, "LSTM", lambda _, **arguments: layers.GRU(5, **arguments))
    with pytest.raises(ValueError, match="The training in `backup_dir` was another one") as error:
        train(make("align"), backup, epochs=2)
    for told in ("LSTM: {", "GRU: None when saved, "):
        assert told in str(error.value), error.value


def test_another_backend_is_refused(backup, tmp_path):
    found = checkpoint.newest(backup)
    found.run["fingerprint"]["fit.backend"] = "another"
    checkpoint.write(tmp_path, found.run, found.weights.read_bytes())
    with pytest.raises(ValueError, match=f"fit.backend: 'another' when saved, '{BACKEND}' now"):
        train(make("align"), tmp_path, epochs=2)


@pytest.mark.skipif(BACKEND != "torch", reason="on JAX and TensorFlow: tests/support/devices")
def test_several_processes_of_torch_are_refused(tmp_path, monkeypatch):
    import torch.distributed as group

    for name, value in (("is_available", True), ("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(group, name, lambda value=value: value)
    with pytest.raises(
        ValueError, match=r"Received: 2 processes of torch\.distributed\. Train in one process"
    ):
        train(make("align"), tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "backup").write_text("notes")
    sequence = ks.StatefulSequence([np.arange(40) % 5, np.arange(30) % 5], 2, 8, resets=True)
    with pytest.raises(
        ValueError, match=r"`backup_dir` must be.*Received: .*backup.*a file.*Name another"
    ):
        ks.ResumeTraining(tmp_path / "backup", sequence)


# A fit that fails gives its directory back


def is_free(directory):
    """True if another process could train in a directory."""
    if checkpoint.fcntl is None:
        return directory.resolve() not in checkpoint._held
    # What `checkpoint.Lock` asks for, in a process that need not import Keras for it.
    code = (
        f"import fcntl; file = open({str(directory / 'lock')!r}, 'w'); "
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    return not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


class Refuses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise Killed


@pytest.mark.parametrize("kind", ["align", "plain"])
@pytest.mark.parametrize("why", ["another training", "another callback", "in mid-epoch"])
def test_a_fit_that_failed_lets_another_process_train(why, kind, tmp_path):
    train(make(kind), tmp_path, epochs=1)
    made = make(kind)
    more = {
        "another training": {"steps_per_epoch": 3},
        "another callback": {"callbacks": [Refuses()]},
        "in mid-epoch": {"callbacks": [killer(2)]},
    }
    with contextlib.suppress(Killed, ValueError):
        train(made, tmp_path, epochs=2, **more[why])
        pytest.fail("not refused")
    gc.collect()
    assert is_free(tmp_path)
    # Nor does a later `fit` begin where the one that failed would have begun.
    data, model, callbacks = made
    history = model.fit(data, epochs=1, verbose=0, callbacks=callbacks)
    assert history.epoch == [0]
