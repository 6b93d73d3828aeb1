"""Every callback of a `fit` hears what it hears under Keras's own list of callbacks.

That is so whether it has hooks for the end of a batch or not.
"""

import keras
import numpy as np
import pytest

import keras_stateful as ks

HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
]
ENDS = ["on_train_batch_end", "on_batch_end", "on_test_batch_end"]


def heard_by(hooks):
    """A callback with these hooks, and the list of what it hears.

    Of each call: hook, number, logs, whether it knows its model, and params.
    """
    heard = []

    def hook(name):
        def hear(self, *args, logs=None):
            number = args[0] if args and not isinstance(args[0], dict) else None
            logs = {
                k: float(v)
                for k, v in (
                    args[-1] if args and isinstance(args[-1], dict) else logs or {}
                ).items()
            }
            heard.append((name, number, logs, self.model is not None, self.params))

        return hear

    return type("Hears", (keras.callbacks.Callback,), {name: hook(name) for name in hooks})(), heard


def sequence_and_model():
    sequence = ks.StatefulSequence([np.arange(n) % 7 for n in (21, 30, 9)], 2, 4, resets=True)
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(7, 3),
        keras.layers.SimpleRNN(3, return_sequences=True),
        keras.layers.Dense(7),
    ]
    model = ks.to_stateful(keras.Sequential(layers), sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return sequence, model


def run(hooks, keras_list, monkeypatch, **arguments):
    """Runs a `fit` with a callback of these hooks.

    Returns:
        What the callback hears, the batches whose end Keras's list tells of, and the history.
    """
    batch_ends = []
    on_train_batch_end = keras.callbacks.CallbackList.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(
            keras.callbacks.CallbackList,
            "on_train_batch_end",
            lambda self, *args: (batch_ends.append(args[0]), on_train_batch_end(self, *args))[1],
        )
        if keras_list:
            patch.setattr(
                "keras_stateful.conversion.model.lightest", lambda callbacks, *_: callbacks
            )
        sequence, model = sequence_and_model()
        callback, heard = heard_by(hooks)
        history = model.fit(
            sequence, validation_data=sequence, epochs=2, callbacks=[callback], **arguments
        )
    return heard, batch_ends, history


CASES = {
    **{hook: [hook] for hook in ENDS},
    "all but ends": sorted(set(HOOKS) - {*ENDS}),
    "all": HOOKS,
}


@pytest.mark.parametrize("hooks", CASES.values(), ids=CASES)
def test_callbacks_hear_what_keras_tells_them(hooks, monkeypatch):
    heard, batch_ends, history = run(hooks, False, monkeypatch, verbose=0)
    expected, told_by_keras, theirs = run(hooks, True, monkeypatch, verbose=0)
    assert heard == expected
    assert heard
    assert bool(batch_ends) == bool({*ENDS} & {*hooks})
    assert told_by_keras
    assert history.history == theirs.history
    assert (history.epoch, history.params) == (theirs.epoch, theirs.params)


def test_a_lambda_is_heard():
    sequence, model = sequence_and_model()
    numbers = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: numbers.append(batch)
    )
    model.fit(sequence, verbose=0, callbacks=[count])
    assert numbers == list(range(len(sequence)))


@pytest.mark.parametrize("when", ["set_model", "on_train_begin", "on_epoch_begin"])
def test_a_hook_that_comes_late_is_heard(when):
    sequence, model = sequence_and_model()
    numbers = []

    class Late(keras.callbacks.Callback):
        pass

    def begin(self, *args):
        getattr(keras.callbacks.Callback, when)(self, *args)
        self.on_train_batch_end = lambda batch, logs=None: numbers.append(batch)

    setattr(Late, when, begin)
    model.fit(sequence, verbose=0, callbacks=[Late()])
    assert sorted(numbers) == list(range(len(sequence)))  # Keras calls it from threads


def test_a_callback_may_ask_for_a_new_step():
    """As `ResetStatesCallback` does where `layers=` leaves a plain stateful layer as it is."""
    layers = [
        keras.Input((None, 2), batch_size=2),
        keras.layers.LSTM(3, stateful=True, return_sequences=True, name="a"),
        keras.layers.LSTM(3, stateful=True, return_sequences=True, name="b"),
    ]
    model = ks.to_stateful(keras.Sequential(layers), 2, layers=["a"])
    model.compile("sgd", "mse")
    x = np.ones((50, 2), "float32")
    sequence = ks.StatefulSequence(x, 2, 5, targets=np.ones((50, 3), "float32"))
    assert len(model.fit(sequence, verbose=0).history["loss"]) == 1


@pytest.mark.parametrize("arguments", [{"steps_per_epoch": 3}, {"verbose": 2}])
def test_arguments_that_choose_the_list(arguments, monkeypatch, capsys):
    hooks = sorted(set(HOOKS) - {*ENDS})
    arguments = {"verbose": 0, **arguments}
    heard, batch_ends, _ = run(hooks, False, monkeypatch, **arguments)
    expected, _, _ = run(hooks, True, monkeypatch, **arguments)
    assert heard == expected
    assert bool(batch_ends) == (arguments["verbose"] != 0)
    assert bool(capsys.readouterr().out) == (arguments["verbose"] != 0)


def test_a_cap_on_epochs_is_kept(monkeypatch):
    keras.config.set_max_epochs(1)
    try:
        with pytest.warns(UserWarning, match="Limiting epochs"):
            heard, _, history = run(["on_epoch_end"], False, monkeypatch, verbose=0)
    finally:
        keras.config.set_max_epochs(None)
    assert len(heard) == len(history.epoch) == history.params["epochs"] == 1
