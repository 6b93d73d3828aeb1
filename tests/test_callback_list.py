"""Every callback of a `fit` hears what it hears under Keras's own list of callbacks, whether it has hooks for batches or not."""

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful.callback_list import Unheard

HOOKS = [
    "on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_batch_end",
    "on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end", "on_epoch_end", "on_train_end",
]  # fmt: skip
ENDS = ["on_train_batch_end", "on_batch_end", "on_test_batch_end"]


def heard_by(hooks):
    """A callback with these hooks, and the list of what it hears: hook, number, logs, and whether it knows its model."""
    heard = []

    def hook(name):
        def hear(self, *given, logs=None):
            number = given[0] if given and not isinstance(given[0], dict) else None
            logs = {
                k: float(v)
                for k, v in (given[-1] if given and isinstance(given[-1], dict) else logs or {}).items()
            }
            heard.append((name, number, logs, self.model is not None, self.params))

        return hear

    return type("Hears", (keras.callbacks.Callback,), {name: hook(name) for name in hooks})(), heard


def sequence_and_model():
    sequence = ks.StatefulSequence([np.arange(n) % 7 for n in (21, 30, 9)], 2, 4, resets=True)
    keras.utils.set_random_seed(0)
    layers = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(7, 3),
              keras.layers.SimpleRNN(3, return_sequences=True), keras.layers.Dense(7)]  # fmt: skip
    model = ks.to_stateful(keras.Sequential(layers), sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return sequence, model


def run(hooks, keras_list, monkeypatch, **arguments):
    """What a callback hears, the list that told it, and what `fit` gives back."""
    told = []
    on_train_begin = keras.callbacks.CallbackList.on_train_begin
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CallbackList, "on_train_begin",
                      lambda self, logs=None: (told.append(type(self)), on_train_begin(self, logs))[1])  # fmt: skip
        if keras_list:
            patch.setattr("keras_stateful.model.lightest", lambda callbacks, *_: callbacks)
        sequence, model = sequence_and_model()
        callback, heard = heard_by(hooks)
        history = model.fit(sequence, validation_data=sequence, epochs=2, callbacks=[callback], **arguments)
    return heard, told[0], history


CASES = {**{hook: [hook] for hook in ENDS}, "all but ends": sorted(set(HOOKS) - {*ENDS}), "all": HOOKS}


@pytest.mark.parametrize("hooks", CASES.values(), ids=CASES)
def test_callbacks_hear_what_keras_tells_them(hooks, monkeypatch):
    heard, told_by, history = run(hooks, False, monkeypatch, verbose=0)
    expected, keras_list, theirs = run(hooks, True, monkeypatch, verbose=0)
    assert heard == expected
    assert heard
    assert told_by is (keras.callbacks.CallbackList if {*ENDS} & {*hooks} else Unheard)
    assert keras_list is keras.callbacks.CallbackList
    assert history.history == theirs.history
    assert (history.epoch, history.params) == (theirs.epoch, theirs.params)


def test_a_lambda_is_heard():
    sequence, model = sequence_and_model()
    numbers = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: numbers.append(batch))
    model.fit(sequence, verbose=0, callbacks=[count])
    assert numbers == list(range(len(sequence)))


@pytest.mark.parametrize("arguments", [{"steps_per_epoch": 3}, {"verbose": 2}])
def test_other_arguments(arguments, monkeypatch, capsys):
    hooks = sorted(set(HOOKS) - {*ENDS})
    arguments = {"verbose": 0, **arguments}
    heard, told_by, _ = run(hooks, False, monkeypatch, **arguments)
    expected, _, _ = run(hooks, True, monkeypatch, **arguments)
    assert heard == expected
    assert told_by is (Unheard if arguments["verbose"] == 0 else keras.callbacks.CallbackList)
    assert bool(capsys.readouterr().out) == (arguments["verbose"] != 0)


def test_a_cap_on_epochs_is_kept(monkeypatch):
    keras.config.set_max_epochs(1)
    try:
        with pytest.warns(UserWarning, match="Limiting epochs"):
            heard, _, history = run(["on_epoch_end"], False, monkeypatch, verbose=0)
    finally:
        keras.config.set_max_epochs(None)
    assert len(heard) == len(history.epoch) == history.params["epochs"] == 1
