"""Law 6: each argument of fit is right, or refused with the remedy before the first step."""

import itertools
import re

import keras
import numpy as np
import pytest
from small_trainings import HELD_OUT, IDS, TRAIN, documents, model_for, network, sequence
from step_callbacks import NoStep

import keras_stateful as ks
from keras_stateful.foundation import keras_internals
from keras_stateful.training import check_fit


def arrays(rows=9):
    rng = np.random.default_rng(0)
    return rng.integers(1, IDS, (rows, 8)), rng.integers(1, IDS, (rows, 8))


class Plain(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        x, y = arrays()
        return x[3 * i : 3 * i + 3], y[3 * i : 3 * i + 3]


def many_to_one():
    return keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(IDS, 8), keras.layers.LSTM(8)]
    )


CASES = {
    "shuffled arrays": (dict(x=arrays()[0], y=arrays()[1]), "shuffle=False"),
    "shuffled dataset": (dict(x=Plain()), "shuffle=False"),
    "dataset with workers": (dict(x=Plain(workers=2), shuffle=False), "workers=1"),
    "batch size": (dict(x=arrays()[0], y=arrays()[1], shuffle=False, batch_size=4), "batch_size=4"),
    "last partial batch": (
        dict(x=arrays(10)[0], y=arrays(10)[1], shuffle=False, batch_size=3),
        "10 rows",
    ),
    "validation split": (
        dict(x=sequence(resets=False), validation_split=0.5),
        "validation_split=0.5",
    ),
    "class weight": (
        dict(x=sequence(resets=False), class_weight={1: 2.0}),
        "(?s)class_weight.*sample_weight=",
    ),
    "targets beside a sequence": (dict(x=sequence(resets=False), y=arrays()[1]), "targets="),
    "sequence of another batch size": (
        dict(x=ks.StatefulSequence(TRAIN, 2, 8)),
        r"batch_size=2, model 3",
    ),
    "validation of another batch size": (
        dict(x=sequence(resets=False), validation_data=ks.StatefulSequence(HELD_OUT, 2, 8)),
        "validation_data",
    ),
    "validation that ends in the middle": (
        dict(
            x=sequence(resets=False),
            validation_data=sequence(HELD_OUT, resets=False),
            validation_steps=1,
        ),
        "validation_steps=1",
    ),
    "validation of other documents each time": (
        dict(
            x=sequence(resets=False),
            validation_data=ks.StatefulStream(HELD_OUT, 3, 8, steps_per_epoch=2),
        ),
        "steps_per_epoch=2",
    ),
    "steps of fit beside a stream": (
        dict(x=ks.StatefulStream(TRAIN, 3, 8), epochs=4, steps_per_epoch=2),
        r"StatefulStream\(..., steps_per_epoch=2",
    ),
    "epochs of an iterator": (
        dict(x=ks.StatefulStream(iter(TRAIN), 3, 8), epochs=2),
        "(?s)an iterator, epochs=2.*lambda",
    ),
    "validations of an iterator": (
        dict(
            x=sequence(resets=False),
            validation_data=ks.StatefulStream(iter(HELD_OUT), 3, 8),
            epochs=2,
        ),
        "(?s)an iterator, epochs=2.*lambda",
    ),
    "validation that ends in the middle of a stream": (
        dict(
            x=sequence(resets=False),
            validation_data=ks.StatefulStream(HELD_OUT, 3, 8),
            validation_steps=1,
        ),
        "validation_steps=1",
    ),
    "batch size beside a sequence": (
        dict(x=sequence(resets=False), batch_size=32),
        "batch_size=32 beside a sequence of 3",
    ),
    "batch size beside a validation sequence": (
        dict(
            x=sequence(resets=False),
            validation_data=sequence(HELD_OUT, resets=False),
            validation_batch_size=32,
        ),
        "validation_batch_size=32 beside",
    ),
    "pack without resets": (dict(x=sequence(boundary="pack", resets=False)), "pack"),
}


@pytest.mark.parametrize("kind", ["callback", "plain"])
@pytest.mark.parametrize("case", CASES)
def test_what_would_train_on_the_wrong_thing_is_refused(case, kind):
    arguments, message = CASES[case]
    x = arguments["x"]
    resets = ks.ResetStatesCallback(x if hasattr(x, "reset_mask") else None)
    callbacks = [resets, NoStep()] if kind == "plain" else [NoStep()]
    if kind == "plain":  # some of it Keras refuses by itself, before any callback is asked
        message += "|the batch size of the input sequences must be|only supported for tensors"
    errors = (ValueError,)
    if not keras_internals.has_keras("3.14"):  # which makes a RuntimeError of what a layer refuses
        errors = (ValueError, RuntimeError, ImportError)
        message += "|a `StatefulStream` under layers .* needs Keras 3.14"
    with pytest.raises(errors, match=message):
        model_for(kind, resets=False).fit(**arguments, verbose=0, callbacks=callbacks)


def refused(model, message, **arguments):
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message):
        model.fit(
            **{**arguments, "callbacks": [NoStep(), *arguments.get("callbacks", [])]}, verbose=0
        )


def test_model_and_sequence_must_agree_about_resets():
    refused(ks.to_stateful(network(), 3, resets="window"), "resets=True", x=sequence(resets=False))
    refused(
        ks.to_stateful(network(), 3), r"to_stateful\(model, sequence\)", x=sequence(resets=True)
    )
    refused(ks.to_stateful(network(), 3, resets="window"), '"align"', x=sequence(boundary="pack"))
    with pytest.raises(ValueError, match="contradicts"):
        ks.to_stateful(network(), sequence(), resets="step")


def test_one_output_a_window_under_targets_for_every_step():
    refused(
        ks.to_stateful(many_to_one(), 3),
        "return_sequences=True",
        x=ks.StatefulSequence(TRAIN, 3, 8),
    )


@pytest.mark.parametrize("kind", ["callback", "plain"])
def test_two_reset_callbacks_and_another_validation_sequence(kind):
    data = sequence(resets=False)
    right, wrong = (
        ks.ResetStatesCallback(data),
        ks.ResetStatesCallback(data, sequence(resets=False)),
    )
    refused(
        model_for(kind, resets=False),
        "Received: callbacks with 2",
        x=data,
        callbacks=[right, ks.ResetStatesCallback()],
    )
    held_out = sequence(resets=False)
    refused(
        model_for(kind, resets=False),
        "Leave it out",
        x=data,
        callbacks=[wrong],
        validation_data=held_out,
    )


def test_the_batch_size_of_the_sequence_may_be_given():
    history = model_for("mask").fit(
        sequence(), batch_size=3, validation_data=sequence(HELD_OUT), verbose=0
    )
    assert np.isfinite(history.history["val_loss"][0])


def test_what_an_iterator_and_a_stream_can_give():
    whole = len(list(ks.StatefulStream(TRAIN, 3, 8)))
    for epochs, data in (
        (1, ks.StatefulStream(iter(TRAIN), 3, 8, resets=True)),
        (2, ks.StatefulStream(iter(TRAIN), 3, 8, resets=True, steps_per_epoch=2)),
        (4, ks.StatefulStream(TRAIN, 3, 8, resets=True, steps_per_epoch=5)),
    ):
        steps = itertools.count()
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, s=steps: next(s)
        )
        history = model_for("mask").fit(data, epochs=epochs, verbose=0, callbacks=[callback])
        assert len(history.history["loss"]) == epochs
        assert next(steps) == epochs * (data.steps_per_epoch or whole)


def two_inputs(structure):
    """A model with inputs "a" and "b", or "a" alone."""
    inputs = {k: keras.Input((None,), dtype="int32", name=k) for k in structure}
    parts = [keras.layers.Embedding(IDS, 4)(i) for i in inputs.values()]
    h = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    y = keras.layers.Dense(IDS, activation="softmax")(keras.layers.GRU(5, return_sequences=True)(h))
    return keras.Model(inputs, y)


@pytest.mark.parametrize(("given", "taken"), [("ab", "a"), ("a", "ab")])
def test_inputs_of_other_names(given, taken):
    data = ks.StatefulSequence(
        {k: TRAIN for k in given}, 3, 8, targets=given[-1], target_offset=1, resets=True
    )
    model = ks.to_stateful(two_inputs(taken), data)
    received = [str(sorted([*keys, "resets"])) for keys in (given, taken)]
    refused(
        model,
        f"different inputs(.|\n)*{re.escape(received[0])}(.|\n)*{re.escape(received[1])}",
        x=data,
    )


def test_a_stateful_bidirectional():
    both = keras.layers.Bidirectional(
        keras.layers.LSTM(5, return_sequences=True, stateful=True), name="both"
    )
    model = keras.Sequential(
        [
            keras.Input((8,), batch_size=3, dtype="int32"),
            keras.layers.Embedding(IDS, 4),
            both,
            keras.layers.Dense(IDS, activation="softmax"),
        ]
    )
    data = sequence(resets=False)
    refused(
        model, "(?s)from its end.*forward layer", x=data, callbacks=[ks.ResetStatesCallback(data)]
    )


@pytest.mark.parametrize(("rows", "count"), [(3, 1), (1, 2), (3, 6)])
def test_predict_of_other_rows(rows, count):
    """Keras would read the second row with the state that the first one left."""
    model, x = ks.to_inference(model_for("mask"), rows), arrays()[0]
    expected = np.concatenate(
        [ks.to_inference(model, 1).predict(x[i : i + 1], verbose=0) for i in range(count)]
    )
    with pytest.raises(
        ValueError, match=f"(?s){rows} rows. Received: {count} rows.*to_inference"
    ) as caught:
        model.predict(x[:count], verbose=0)
    remedy = re.search(r"`(to_inference\(.*?\))\.predict", str(caught.value))[1]
    there = eval(remedy, {"to_inference": ks.to_inference, "model": model})
    np.testing.assert_allclose(there.predict(x[:count], verbose=0), expected, atol=1e-6)


def test_a_list_of_callbacks_made_by_the_user_gets_the_resets_too():
    """Keras takes a `CallbackList` as it is."""
    data, losses = sequence(resets=False), []
    for ready in (False, True):
        keras.utils.set_random_seed(1)
        model = ks.to_stateful(network(), 3)
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        callbacks = (
            keras.callbacks.CallbackList([], add_history=True, model=model, epochs=1)
            if ready
            else []
        )
        for _ in range(2):  # the second time with the same list
            losses += model.fit(data, verbose=0, callbacks=callbacks).history["loss"][-1:]
    np.testing.assert_allclose(losses[2:], losses[:2], rtol=1e-6)
    assert sum(isinstance(c, ks.ResetStatesCallback) for c in callbacks.callbacks) == 1
    other = sequence(resets=True)
    refused(model, r"to_stateful\(model, sequence\)", x=other)


def test_validation_arrays_in_batches_of_the_models_rows():
    x, y = arrays()
    data, callback = sequence(resets=False), ks.ResetStatesCallback
    plain = keras.Sequential(
        [
            keras.Input((None,), batch_size=3, dtype="int32"),
            keras.layers.Embedding(IDS, 4),
            keras.layers.GRU(5, return_sequences=True, stateful=True),
            keras.layers.Dense(IDS, activation="softmax"),
        ]
    )
    refused(
        plain,
        "32 rows.*`validation_batch_size=3`",
        x=data,
        validation_data=(x, y),
        callbacks=[callback(data)],
    )
    carried = ks.to_stateful(plain, 3)
    carried.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    plain.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    histories = [
        carried.fit(data, validation_data=(x, y), verbose=0),
        plain.fit(
            data,
            validation_data=(x, y),
            validation_batch_size=3,
            verbose=0,
            callbacks=[callback(data)],
        ),
    ]
    np.testing.assert_allclose(*(h.history["val_loss"] for h in histories), rtol=1e-6)
    with_resets = ks.to_stateful(network(), sequence())
    refused(with_resets, "resets=True", x=sequence(), validation_data=(x, y))


def test_predict_of_a_window_without_rows():
    model, x = ks.to_inference(network()), np.random.default_rng(0).integers(1, IDS, 5)
    with pytest.raises(ValueError, match=r"(?s)shape \(5,\).*`np.asarray\(x\)\[None\]`"):
        model.predict(x, verbose=0)
    assert model.predict(x[None], verbose=0).shape[:2] == (1, 5)


@pytest.mark.parametrize("made", ["array", "list", "frame"])
def test_a_series_in_the_place_of_windows(made):
    gru = keras.layers.GRU(3, return_sequences=True)
    model = ks.to_inference(keras.Sequential([keras.Input((None, 3)), gru]))
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    if made == "list":
        x = [x]
    elif made == "frame":
        x = pytest.importorskip("pandas").DataFrame(x, columns=list("abc"))
    for use in (
        lambda: model.predict(x, verbose=0),
        lambda: model.predict_on_batch(x),
        lambda: model.train_on_batch(x, x),
        lambda: model.test_on_batch(x, x),
        lambda: model.evaluate(x, x, verbose=0),
        lambda: model.fit(x, x, shuffle=False, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"(?s)shape \(4, 3\).*`np.asarray\(x\)\[None\]`"):
            use()
    if made != "list":
        assert model.predict(np.asarray(x)[None], verbose=0).shape == (1, 4, 3)


def test_predict_of_windows_that_follow_each_other():
    model = ks.to_inference(network(), 2)
    x = np.random.default_rng(0).integers(1, IDS, (6, 5))
    expected = [model.predict_on_batch(x[i : i + 2]) for i in (0, 2, 4)]
    ks.reset_states(model)
    np.testing.assert_allclose(
        model.predict(x, batch_size=2, verbose=0), np.concatenate(expected), atol=1e-6
    )


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_predict_of_ids_that_the_embedding_does_not_know(method):
    model, x = ks.to_inference(model_for("mask"), 2), arrays(2)[0]
    getattr(model, method)(x)
    x[1, 3] = IDS
    with pytest.raises(ValueError, match=f"Received: id {IDS}"):
        getattr(model, method)(x)


@pytest.mark.parametrize("kind", ["mask", "plain"])
def test_validate_documents_comes_first_and_alone(kind, tmp_path):
    model, validate = model_for(kind, kind == "mask"), ks.ValidateDocuments(HELD_OUT)
    data, held_out = (sequence(d, resets=kind == "mask") for d in (TRAIN, HELD_OUT))
    resets = [ks.ResetStatesCallback()] * (kind == "plain")
    for early in (
        keras.callbacks.EarlyStopping(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_accuracy"),
    ):
        name = type(early).__name__
        refused(
            model,
            rf"(?s){name}.*ValidateDocuments\(...\), {name}",
            x=data,
            callbacks=[*resets, early, validate],
        )
    refused(
        model,
        "both write `val_loss`",
        x=data,
        callbacks=[*resets, validate],
        validation_data=held_out,
    )
    late = [
        *resets,
        keras.callbacks.EarlyStopping("loss"),
        validate,
        keras.callbacks.EarlyStopping(),
    ]
    assert "val_loss" in model.fit(data, verbose=0, callbacks=late).history


@pytest.mark.parametrize("callback", [True, False])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_model_that_carries_nothing(method, callback):
    model = network(3)
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = sequence(resets=False)
    callbacks = [ks.ResetStatesCallback(data), NoStep()] if callback else [NoStep()]
    with pytest.raises(ValueError, match=r"to_stateful\(model, sequence\)"):
        getattr(model, method)(data, verbose=0, callbacks=callbacks)


class Reader(keras.Model):
    """A model of the user's own, whose names are its own affair."""

    resets = None

    def __init__(self):
        super().__init__()
        self.network = network(3, stateful=True)

    def call(self, x):
        return self.network(x)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("kind", ["functional", "subclassed", "not built"])
def test_plain_layers_without_the_callback(method, kind):
    model, data = model_for("plain") if kind == "functional" else Reader(), sequence(resets=False)
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    if kind == "subclassed":
        model(np.zeros((3, 8), "int32"))
    remedy = "predict_documents" if method == "predict" else "callbacks=.ResetStatesCallback"
    with pytest.raises(ValueError, match=remedy):
        getattr(model, method)(data, verbose=0, callbacks=[NoStep()])


@pytest.mark.parametrize("kind", ["mask", "plain"])
def test_a_validation_is_called_one(kind):
    resets = kind == "mask"
    model, data = model_for(kind, resets), sequence(resets=resets)
    callbacks = [ks.ResetStatesCallback()] * (kind == "plain")
    held_out, names = sequence(HELD_OUT, resets=resets), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            check_fit,
            "check_sequence",
            lambda model, name, data, **_: names.append((data is held_out, name)),
        )
        model.fit(data, verbose=0, callbacks=callbacks, validation_data=held_out)
    assert set(names) == {(False, "x"), (True, "validation_data")}


@pytest.mark.parametrize("masked", [False, True])
def test_padding_in_batch_statistics_is_told(masked, recwarn):
    stack = [
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(IDS, 4, mask_zero=masked),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.LSTM(5, return_sequences=True),
        keras.layers.Dense(IDS, activation="softmax"),
    ]
    model = ks.to_stateful(keras.Sequential(stack), sequence())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(sequence(), verbose=0)
    assert any("`norm` counts padded steps" in str(w.message) for w in recwarn) != masked


def test_windows_without_the_resets_input():
    """Refused before a step that would fail: on JAX the weights would be gone."""
    model = model_for("mask")
    (x, y), before = arrays(3), model.get_weights()
    for call in (
        lambda: model.fit(x, y, shuffle=False, verbose=0),
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x, verbose=0),
        lambda: model.train_on_batch(x, y),
        lambda: model.test_on_batch(x, y),
        lambda: model.predict_on_batch(x),
    ):
        with pytest.raises(
            ValueError, match="(?s)2 inputs, the last of them the resets.*to_inference"
        ):
            call()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    model.train_on_batch((x, np.ones(3, bool)), y)


def test_predict_without_resets():
    model = model_for("callback", resets=False)
    with pytest.raises(ValueError, match="predict_documents"):
        model.predict(sequence(resets=False), verbose=0)
    model.predict(ks.StatefulSequence(np.arange(60) % IDS, 3, 8, boundary="ignore"), verbose=0)


def test_metrics_without_weights_are_told_to_count_padding():
    model, data = model_for("mask"), sequence()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with pytest.warns(UserWarning, match="weighted_metrics"):
        model.fit(data, verbose=0)


def test_a_list_is_no_validation_data():
    refused(model_for("mask"), "ValidateDocuments", x=sequence(), validation_data=HELD_OUT)


def test_keras_exports_are_refused(tmp_path):
    with pytest.raises(ValueError, match="export_step_model"):
        model_for("mask").export(tmp_path / "exported")


def test_single_windows_on_purpose():
    """What the error about a model that carries nothing names as the way to a baseline."""
    model, data = network(3), sequence(resets=False)
    model.compile("sgd", "sparse_categorical_crossentropy")
    windows = (batch for _ in itertools.count() for batch in data)
    history = model.fit(windows, epochs=2, steps_per_epoch=len(data), verbose=0)
    assert len(history.epoch) == 2


@pytest.mark.parametrize("kind", ["callback", "plain"])
def test_a_callback_with_another_sequence_than_fit_reads(kind):
    with pytest.raises(ValueError, match="another sequence|other data"):
        model_for(kind, resets=False).fit(
            sequence(resets=False),
            verbose=0,
            callbacks=[ks.ResetStatesCallback(sequence(resets=False)), NoStep()],
        )


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses steps_per_execution > 1 on torch"
)
@pytest.mark.parametrize("kind", ["callback", "plain"])
def test_a_reset_that_steps_per_execution_would_lose(kind):
    model, data = model_for(kind, resets=False), sequence(resets=False)
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=3)
    with pytest.raises(ValueError, match="(?s)steps_per_execution=3.*resets=True"):
        model.fit(data, verbose=0, callbacks=[ks.ResetStatesCallback(data), NoStep()])


def test_the_callback_takes_sequences_only():
    with pytest.raises(TypeError, match="ndarray"):
        ks.ResetStatesCallback(np.zeros(3))


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_are_reset_where_documents_start(shuffle):
    """The plain layer with the callback trains as the model with resets inside the step."""
    weights = []
    for kind, resets in (("mask", True), ("callback", False), ("plain", False)):
        model, data = model_for(kind, resets), sequence(resets=resets, shuffle=shuffle, seed=1)
        model.fit(
            data,
            epochs=3,
            verbose=0,
            callbacks=[ks.ResetStatesCallback(data)] if kind == "plain" else [],
        )
        weights.append(model.get_weights())
    for a, b, c in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a, c, atol=1e-5)


def test_the_callback_syncs_jax_at_resets_only(monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("JAX only")
    data = ks.StatefulSequence(documents([200, 200, 200]), 3, 8)
    model = model_for("callback", resets=False)
    synced = []
    original = type(model).jax_state_sync
    monkeypatch.setattr(
        type(model), "jax_state_sync", lambda self: (synced.append(1), original(self))
    )
    model.fit(data, verbose=0)
    assert len(data) > 20 > 6 > len(synced)


def test_epochs_go_on_where_keras_says():
    """`initial_epoch` gives the layout of that epoch."""
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                seen.append([s.document for row in data.locate(0) for s in row])

    data = sequence(shuffle=True, seed=5)
    model = model_for("mask")
    model.fit(data, epochs=3, verbose=0, callbacks=[Look()])
    whole, seen[:] = list(seen), []
    model.fit(data, epochs=3, initial_epoch=1, verbose=0, callbacks=[Look()])
    assert seen == whole[1:]
    assert whole[0] != whole[1]
