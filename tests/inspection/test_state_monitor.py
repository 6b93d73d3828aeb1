"""What `StateMonitor` writes is what NumPy finds in the states; training is as without it."""

import csv
import importlib.util
import re
import time
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks
from keras_stateful.foundation import keras_internals

ROWS, WINDOW, STEPS = 4, 5, 6


def data(steps=STEPS):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * ROWS, WINDOW, 3)).astype("float32")
    return x, rng.standard_normal((steps * ROWS, WINDOW, 2)).astype("float32")


def network(*stack, converted=True, rate=0.0, **compile_arguments):
    """Stack and a Dense on top; plain Keras layers with `stateful=True`, or converted."""
    model = keras.Sequential([keras.Input((WINDOW, 3), batch_size=ROWS), *stack, layers.Dense(2)])
    model = ks.to_stateful(model, ROWS) if converted else model
    model.compile(keras.optimizers.SGD(rate), "mse", **compile_arguments)
    return model


def two_layers():
    """With kernels so wide that some units saturate."""
    keras.utils.set_random_seed(3)
    wide = keras.initializers.RandomNormal(stddev=8.0, seed=0)
    options = {"return_sequences": True, "stateful": True, "kernel_initializer": wide}
    return layers.LSTM(5, name="lstm", **options), layers.GRU(4, name="gru", **options)


def fit(model, *callbacks, epochs=1, steps=STEPS, **arguments):
    x, y = data(steps)
    model.fit(
        x,
        y,
        batch_size=ROWS,
        shuffle=False,
        verbose=0,
        epochs=epochs,
        callbacks=[ks.ResetStatesCallback(), *callbacks],
        **arguments,
    )
    return model.history.history


class Logs(keras.callbacks.Callback):
    """Keeps what stands in the logs of each batch."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append({k: v for k, v in logs.items() if k != "loss"})


def by_hand(old, new, squashed):
    """The three measures of a layer, from its states at two looks and what can saturate of them."""
    norms, changes = [], []
    for row in range(ROWS):
        before = np.concatenate([s[row] for s in old])
        after = np.concatenate([s[row] for s in new])
        size = [np.sqrt((v**2).sum()) for v in (before, after)]
        norms.append(size[1])
        changes.append(np.sqrt(((after - before) ** 2).sum()) / max(size))
    return {
        "norm": np.mean(norms),
        "saturation": (np.abs(squashed) > 0.99).mean(),
        "drift": np.mean(changes),
    }


@pytest.mark.parametrize("converted", [True, False])
def test_values_are_those_of_the_states_in_the_middle_of_an_epoch(converted):
    model, seen = network(*two_layers(), converted=converted), Logs()
    history = fit(model, ks.StateMonitor(every=2), seen)
    twin = ks.to_inference(model, ROWS)
    x, _ = data()
    states = [ks.get_states(twin)]
    for i in range(STEPS):
        twin.predict_on_batch(x[i * ROWS : (i + 1) * ROWS])
        states.append(ks.get_states(twin))
    assert seen.batches[0] == {}  # no look yet
    looks = []
    for step in (2, 4, 6):
        old, new = states[step - 2], states[step]
        expected = {
            **{
                f"lstm/{k}": v
                for k, v in by_hand(old["lstm"], new["lstm"], np.tanh(new["lstm"][1])).items()
            },
            **{f"gru/{k}": v for k, v in by_hand(old["gru"], new["gru"], new["gru"][0]).items()},
        }
        assert seen.batches[step - 1] == pytest.approx(expected, abs=1e-5)
        looks.append(expected)
    assert seen.batches[2] == seen.batches[1]  # the last look, until the next
    assert any(look["gru/saturation"] > 0 for look in looks)
    for name in looks[0]:
        assert history[name] == [pytest.approx(np.mean([look[name] for look in looks]), abs=1e-5)]


@pytest.mark.parametrize("converted", [True, False])
def test_training_is_the_same_with_and_without_it(converted):
    arguments = {"converted": converted, "rate": 0.1}
    plain, watched = network(*two_layers(), **arguments), network(*two_layers(), **arguments)
    assert fit(plain, epochs=2)["loss"] == fit(watched, ks.StateMonitor(every=1), epochs=2)["loss"]
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_reads_the_logs_finds_every_layer_in_every_epoch(tmp_path):
    """Also where an epoch is shorter than `every`, beside validation, and for some layers."""
    model = network(*two_layers(), rate=0.1)
    x, y = data(1)
    stop = keras.callbacks.EarlyStopping(monitor="gru/norm", mode="min", patience=9)
    callbacks = [
        ks.StateMonitor(every=100, layers=["gru"]),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        stop,
    ]
    history = fit(model, *callbacks, epochs=2, validation_data=(x, y))
    names = {"gru/norm", "gru/saturation", "gru/drift"}
    assert set(history) == names | {"loss", "val_loss"}
    assert stop.best in history["gru/norm"]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in names:
        assert [float(row[name]) for row in rows] == pytest.approx(history[name])


def scalars(folder):
    """`{tag: [(step, value), ...]}` of the event files in a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), {"tensors": 0})
    events.Reload()
    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")),
    reason="Keras's callback writes with tensorflow and tensorboard",
)
@pytest.mark.parametrize("update_freq", ["epoch", 1])
def test_tensorboard_event_files_hold_the_numbers(update_freq, tmp_path):
    seen = Logs()
    board = keras.callbacks.TensorBoard(tmp_path, update_freq=update_freq, write_graph=False)
    history = fit(network(*two_layers(), rate=0.1), ks.StateMonitor(every=2), board, seen, epochs=2)
    written = scalars(tmp_path / "train")
    names = {
        f"{layer}/{measure}"
        for layer in ("lstm", "gru")
        for measure in ("norm", "saturation", "drift")
    }
    for name in names:
        expected = list(enumerate(history[name]))
        assert written.pop(f"epoch_{name}") == [
            (step, pytest.approx(v, rel=1e-6)) for step, v in expected
        ]
    if update_freq == "epoch":
        assert not any(name in tag for name in names for tag in written)
        return
    for name in names:
        expected = [(step, logs[name]) for step, logs in enumerate(seen.batches) if name in logs]
        steps, values = zip(*written[f"batch_{name}"], strict=True)
        assert list(np.subtract(steps, steps[0])) == [step - expected[0][0] for step, _ in expected]
        assert values == pytest.approx([v for _, v in expected], rel=1e-6)


def test_the_progress_bar_prints_the_numbers(capsys):
    """Those of the last look while the epoch goes on, and in its last line those of the epoch."""
    seen, (x, y) = Logs(), data()
    model = network(*two_layers(), rate=0.1)
    # The bar skips fast steps.
    slow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.07))
    callbacks = [ks.ResetStatesCallback(), ks.StateMonitor(every=2), seen, slow]
    model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=1, callbacks=callbacks)

    def shown(name, printed):
        return [float(v) for v in re.findall(rf"{name}: ([\d.e+-]+)", printed)]

    printed = capsys.readouterr().out
    end = printed.rindex(f"{STEPS}/{STEPS}")
    assert len(model.history.history) == 7  # of two layers three measures, and the loss
    for name, (value,) in model.history.history.items():
        assert shown(name, printed[end:]) == [pytest.approx(value, abs=5e-5, rel=5e-4)]
    norms = [float(logs["lstm/norm"]) for logs in seen.batches[1:]]
    if not keras_internals.has_keras(
        "3.15"
    ):  # whose bar shows the mean of what it was given so far
        norms = [float(np.mean(norms[: i + 1])) for i in range(len(norms))]
    for norm in norms:
        assert any(
            value == pytest.approx(norm, abs=5e-5) for value in shown("lstm/norm", printed[:end])
        )


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch takes one step at a time")
def test_several_steps_in_one_execution():
    seen = Logs()
    fit(network(*two_layers(), steps_per_execution=2), ks.StateMonitor(every=3), seen)
    assert [len(logs) > 0 for logs in seen.batches] == [False, True, True]  # after 2, 4 and 6 steps


# Warnings


def rnn(activation, recurrent, bias, kernel=0.0):
    """A SimpleRNN of 4 units, each for itself."""
    return layers.SimpleRNN(
        4,
        activation,
        return_sequences=True,
        name="rnn",
        kernel_initializer=keras.initializers.Constant(kernel),
        recurrent_initializer=keras.initializers.Identity(recurrent),
        bias_initializer=keras.initializers.Constant(bias),
    )


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (
            lambda: rnn("linear", 1.5, 1.0),
            "`rnn` blows up: a value of .* at epoch 1, batch 4.*tanh",
        ),
        (
            lambda: rnn("relu", 0.5, -1.0),
            "`rnn` is dead: no value above 0.0001 in any of 4 rows at epoch 1, batch 2",
        ),
        (
            lambda: rnn("tanh", 0.0, 1.0),
            "`rnn` stands still: no row changed .* at epoch 1, batch 4",
        ),
    ],
    ids=["blows up", "dead", "stands still"],
)
def test_sick_states_are_told_once(layer, says):
    with pytest.warns(UserWarning, match=says) as caught:
        fit(network(layer()), ks.StateMonitor(every=2), epochs=2)
    assert len([w for w in caught if "The state of" in str(w.message)]) == 1


class Batches(keras.utils.PyDataset):
    """A user's own data, in which nobody searches for NaN."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_states_that_are_no_numbers_are_told_once_with_their_rows():
    x, y = data()
    x[ROWS + 2] = np.nan  # row 2 in batch 1
    parts = [slice(i * ROWS, (i + 1) * ROWS) for i in range(STEPS)]
    batches = Batches([(x[part], y[part]) for part in parts])  # of arrays they are refused
    model, seen = network(*two_layers()), Logs()
    monitor = ks.StateMonitor(every=1, layers=["lstm"])
    with pytest.warns(
        UserWarning, match=r"`lstm` is not finite: .*rows 2 of 4 at epoch 1, batch 2"
    ) as caught:
        model.fit(
            batches, shuffle=False, verbose=0, callbacks=[ks.ResetStatesCallback(), monitor, seen]
        )
    assert len([w for w in caught if "not finite" in str(w.message)]) == 1
    assert all(np.isnan(v) for v in seen.batches[1].values())
    assert all(np.isfinite(v) for v in seen.batches[0].values())


def test_healthy_states_are_no_warning():
    model = network(*two_layers(), rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, ks.StateMonitor(every=1), epochs=2)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others carry, or crash")
def test_a_state_that_never_arrives_is_told():
    model = network(*two_layers(), converted=False)
    x, y = data()
    with pytest.warns(UserWarning, match="`gru` is dead.*ResetStatesCallback"):
        model.fit(
            x, y, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[ks.StateMonitor(every=2)]
        )


# Bad input


@pytest.mark.parametrize(
    ("every", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_every_must_be_a_number_of_steps(every, error):
    with pytest.raises(error, match=rf"`every`.*Received: every={every}"):
        ks.StateMonitor(every=every)


def test_refused_before_the_first_step(tmp_path):
    model = network(*two_layers(), rate=0.1)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`layers` .*'lsmt'; the model has \['lstm', 'gru'\]"):
        fit(model, ks.StateMonitor(layers=["lsmt"]))
    with pytest.raises(ValueError, match=r"`CSVLogger` would not see.*\[StateMonitor"):
        fit(model, keras.callbacks.CSVLogger(tmp_path / "log.csv"), ks.StateMonitor())
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_model_without_states():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`StateMonitor` needs a model that carries.*to_stateful"):
        model.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0, callbacks=[ks.StateMonitor()])


def test_resumed_in_the_same_process_with_layers_that_have_no_names(tmp_path):
    """Keras counts names on, so the second model's layers have other ones."""
    sequence = ks.StatefulSequence(np.arange(400) % 9, batch_size=2, sequence_length=8, resets=True)

    def run(directory, epochs, stop_at=None):
        keras.utils.set_random_seed(2)
        stack = [
            layers.Embedding(9, 4),
            layers.LSTM(6, return_sequences=True),
            layers.GRU(3, return_sequences=True),
        ]
        model = keras.Sequential(
            [keras.Input((None,), dtype="int32"), *stack, layers.Dense(9, activation="softmax")]
        )
        model = ks.to_stateful(model, sequence)
        model.compile("adam", "sparse_categorical_crossentropy")
        monitor, step = ks.StateMonitor(every=3), 0

        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                nonlocal step
                step += 1
                if step == stop_at:
                    raise KeyboardInterrupt

            def get_state(self):
                return {}

            def set_state(self, state):
                pass

        callbacks = [monitor, ks.ResumeTraining(directory, sequence, save_freq=5), Stop()]
        try:
            history = model.fit(sequence, epochs=epochs, verbose=0, callbacks=callbacks).history
        except KeyboardInterrupt:
            return None
        return [
            [history[f"{c.key}/{m}"][-1] for m in ("norm", "drift")] for c in monitor._layer_states
        ]

    whole = run(tmp_path / "whole", 2)
    run(tmp_path / "broken", 2, stop_at=37)  # in the middle of the second epoch
    np.testing.assert_allclose(run(tmp_path / "broken", 2), whole, rtol=1e-6)
