"""Laws 5 and 10: validation leaves no trace, and losses mean what they say.

The result of a validation depends on the weights alone.
"""

import keras
import numpy as np
import pytest
from small_trainings import (
    HELD_OUT,
    IDS,
    TRAIN,
    documents,
    in_one_call,
    loss_by_hand,
    model_for,
    network,
    sequence,
)
from step_callbacks import StepLosses

import keras_stateful as ks


def run(kind, validation, epochs=3, **fit):
    """Losses of every step, and the history, with or without validation data."""
    resets = kind == "mask"
    model, losses = model_for(kind, resets), StepLosses()
    data = sequence(resets=resets, shuffle=True, seed=4)
    callbacks = [losses]
    if kind == "plain":
        callbacks.insert(0, ks.ResetStatesCallback(data))
    held_out = sequence(HELD_OUT, resets=resets) if validation else None
    history = model.fit(
        data, epochs=epochs, verbose=0, validation_data=held_out, callbacks=callbacks, **fit
    )
    return model, losses.losses, history.history


KINDS = ["mask", "callback", "plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_with_and_without_validation(kind):
    _, with_validation, _ = run(kind, True)
    _, without, _ = run(kind, False)
    assert with_validation == without


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_when_keras_validates_in_mid_pass(kind):
    steps = 3
    assert len(sequence()) % steps
    assert len(sequence()) > steps
    _, with_validation, _ = run(kind, True, epochs=5, steps_per_epoch=steps)
    _, without, _ = run(kind, False, epochs=5, steps_per_epoch=steps)
    assert with_validation == without


@pytest.mark.parametrize("kind", ["mask", "callback"])
def test_evaluate_is_the_validation_of_fit(kind):
    """Also where nobody passes the callback that resets the rows."""
    resets = kind == "mask"
    model, held_out = model_for(kind, resets), sequence(HELD_OUT, resets=resets)
    model.optimizer.learning_rate.assign(0.0)
    history = model.fit(sequence(resets=resets), verbose=0, validation_data=held_out).history
    by_document = ks.evaluate_documents(model, HELD_OUT)["loss"]
    steps = [len(d) - 1 for d in HELD_OUT]
    for callbacks in (None, keras.callbacks.CallbackList(model=model)):
        loss, _ = model.evaluate(held_out, verbose=0, callbacks=callbacks)
        loss = float(loss)  # a tensor, before Keras 3.15 on TensorFlow
        assert loss == pytest.approx(history["val_loss"][0], rel=1e-6)
        assert loss == pytest.approx(np.average(by_document, weights=steps), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_depends_on_the_weights_alone(kind):
    model, _, history = run(kind, True)
    fresh = model_for(kind, kind == "mask")
    fresh.set_weights(model.get_weights())
    held_out = sequence(HELD_OUT, resets=kind == "mask")
    given = [(None, held_out), (held_out,), ()]  # it takes the sequence that `evaluate` reads
    for trained, sequences in zip((model, fresh, model), given, strict=True):
        callbacks = [ks.ResetStatesCallback(*sequences)] if kind != "mask" else []
        result = trained.evaluate(held_out, verbose=0, return_dict=True, callbacks=callbacks)
        np.testing.assert_allclose(result["loss"], history["val_loss"][-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["callback", "plain"])
def test_the_callback_takes_the_sequence_that_fit_reads(kind):
    def losses(give):
        model, steps, data = model_for(kind, resets=False), StepLosses(), sequence(resets=False)
        model.fit(
            data, epochs=2, verbose=0, callbacks=[ks.ResetStatesCallback(*[data] * give), steps]
        )
        return steps.losses

    assert losses(give=False) == losses(give=True)


@pytest.mark.parametrize("kind", KINDS)
def test_val_loss_is_the_mean_over_real_steps(kind):
    model, _, history = run(kind, True)
    losses = np.concatenate(loss_by_hand(model, HELD_OUT))
    np.testing.assert_allclose(history["val_loss"][-1], losses.mean(), atol=1e-5)


@pytest.mark.parametrize(
    "mask_zero", [False, True]
)  # padding is id 0: with `mask_zero`, Keras weighs it once more
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_mean_over_real_steps(kind, mask_zero):
    resets = kind == "mask"
    model, data = model_for(kind, resets, mask_zero), sequence(resets=resets)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    callbacks = [ks.ResetStatesCallback(data)] if kind == "plain" else []
    history = model.fit(data, verbose=0, callbacks=callbacks).history
    losses = np.concatenate(loss_by_hand(model, TRAIN))
    np.testing.assert_allclose(history["loss"][0], losses.mean(), atol=1e-5)


def test_pack_resets_exactly_where_documents_start():
    packed = sequence(boundary="pack")
    model = ks.to_stateful(network(), packed)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    history = model.fit(packed, verbose=0).history
    losses = np.concatenate(loss_by_hand(model, TRAIN))
    np.testing.assert_allclose(history["loss"][0], losses.mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "sequence_length"), [(None, 128), (2, 5), (1, 7), (5, 16), (3, 1)]
)
def test_evaluate_documents_equals_each_document_in_one_call(batch_size, sequence_length):
    model = model_for("mask")
    model.predict_on_batch([np.ones((3, 8), "int32"), np.zeros(3, bool)])
    before = ks.get_states(model)
    docs = documents([12, 33, 2, 21, 5], seed=2)
    scores = ks.evaluate_documents(
        model, docs, batch_size=batch_size, sequence_length=sequence_length
    )
    by_hand = loss_by_hand(model, docs)
    np.testing.assert_allclose(scores["loss"], [x.mean() for x in by_hand], atol=1e-5)
    plain = ks.to_stateless(model)
    hits = [(np.argmax(in_one_call(plain, d)[:-1], -1) == d[1:]).mean() for d in docs]
    np.testing.assert_allclose(scores["accuracy"], hits, atol=1e-6)
    for a, b in zip(ks.get_states(model).values(), before.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_are_read_without_a_warning(recwarn):
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    ks.evaluate_documents(model, [np.arange(12) % 5, np.arange(30) % 5], sequence_length=8)
    ks.predict_documents(model, [np.arange(12) % 5])
    assert not [w for w in recwarn if "structure" in str(w.message)]


def test_evaluate_documents_of_a_masked_model():
    model = network(mask_zero=True)
    model.compile(loss="sparse_categorical_crossentropy")
    docs = documents([9, 14], seed=3)
    scores = ks.evaluate_documents(model, docs, sequence_length=4)
    np.testing.assert_allclose(
        scores["loss"], [x.mean() for x in loss_by_hand(model, docs)], atol=1e-5
    )


@pytest.mark.parametrize("reduce", [None, "last", "mean"])
def test_predict_documents_equals_each_document_in_one_call(reduce):
    model = model_for("mask")
    docs = documents([12, 33, 1, 21, 5], seed=2)
    got = ks.predict_documents(model, docs, batch_size=2, sequence_length=6, reduce=reduce)
    plain = ks.to_stateless(model)
    for g, d in zip(got, docs, strict=True):
        p = in_one_call(plain, d)
        np.testing.assert_allclose(
            g, p if reduce is None else p[-1] if reduce == "last" else p.mean(0), atol=1e-5
        )


def test_predict_documents_of_several_inputs():
    a, b = (keras.Input((None, 2), name=name) for name in "ab")
    x = keras.layers.GRU(4, return_sequences=True)(keras.layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, x)
    rng = np.random.default_rng(0)
    docs = [{name: rng.random((n, 2)).astype("float32") for name in "ab"} for n in (7, 12)]
    columns = {name: [d[name] for d in docs] for name in "ab"}
    for given in (docs, columns):
        for got, d in zip(ks.predict_documents(model, given, sequence_length=5), docs, strict=True):
            whole = keras.ops.convert_to_numpy(model({name: d[name][None] for name in "ab"}))[0]
            np.testing.assert_allclose(got, whole, atol=1e-5)


def test_validate_documents_writes_the_logs_that_early_stopping_follows(tmp_path):
    data, model = sequence(), model_for("mask")
    saved = tmp_path / "best.weights.h5"
    history = model.fit(
        data,
        epochs=3,
        verbose=0,
        callbacks=[
            ks.ValidateDocuments(HELD_OUT, sequence_length=16),
            keras.callbacks.ModelCheckpoint(
                saved, monitor="val_loss", save_best_only=True, save_weights_only=True
            ),
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=5, restore_best_weights=True
            ),
        ],
    ).history
    assert saved.exists()
    assert {"val_loss", "val_accuracy"} <= set(history)
    np.testing.assert_allclose(
        min(history["val_loss"]), np.concatenate(loss_by_hand(model, HELD_OUT)).mean(), atol=1e-5
    )


def test_validate_documents_leaves_training_as_it_is():
    losses = []
    for callbacks in ([], [ks.ValidateDocuments(HELD_OUT, sequence_length=16)]):
        seen = StepLosses()
        model_for("mask").fit(sequence(), epochs=2, verbose=0, callbacks=[*callbacks, seen])
        losses.append(seen.losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("read", [ks.evaluate_documents, ks.predict_documents])
def test_a_callback_may_read_documents_in_mid_epoch_with_the_model_it_knows(read):
    """Not with `self.model`, at which Keras brings the values back from a step on JAX."""
    losses = []
    for reads in (False, True):
        model, here = model_for("mask", True), StepLosses()

        def during(batch, logs, model=model, reads=reads):
            if reads and batch % 2:
                read(model, HELD_OUT, sequence_length=5, verbose=0)

        reading = keras.callbacks.LambdaCallback(on_train_batch_end=during)
        data = sequence(resets=True)
        model.fit(data, epochs=2, verbose=0, callbacks=[here, reading])
        losses.append(here.losses)
    assert losses[0] == losses[1]


def test_several_offsets_of_ids_weigh_each_step_once():
    """Keras's losses are then `(batch, time, offsets)`, and weights must broadcast against them."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(IDS, 4)(inputs)
    x = keras.layers.GRU(4, return_sequences=True)(x)
    x = keras.layers.Dense(2 * IDS)(x)
    model = keras.Model(inputs, keras.layers.Reshape((-1, 2, IDS))(x))
    data = ks.StatefulSequence(TRAIN, 3, 8, target_offset=[1, 3], resets=True)
    model = ks.to_stateful(model, data)
    model.compile(
        keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    loss = model.fit(data, verbose=0).history["loss"][0]
    steps = []
    for document, logits in zip(TRAIN, ks.predict_documents(model, TRAIN), strict=True):
        last = len(document) - 3
        y = np.stack([document[1 : 1 + last], document[3 : 3 + last]], axis=-1)
        log_p = logits[:last] - np.log(np.exp(logits[:last]).sum(-1, keepdims=True))
        steps.append(-np.take_along_axis(log_p, y[..., None], -1).mean((-2, -1)))
    np.testing.assert_allclose(loss, np.concatenate(steps).mean(), rtol=1e-5)
    scores = ks.evaluate_documents(model, TRAIN, target_offset=[1, 3])["loss"]
    np.testing.assert_allclose(scores, [s.mean() for s in steps], rtol=1e-5)


class Above(keras.metrics.Metric):
    """The share of targets above a limit; its config does not tell the limit."""

    def __init__(self, limit=2, **kwargs):
        super().__init__(**kwargs)
        self.limit = limit
        self.total, self.count = (
            self.add_variable((), "zeros", name=n) for n in ("total", "count")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        weights = keras.ops.convert_to_tensor(sample_weight)
        above = keras.ops.cast(keras.ops.convert_to_tensor(y_true) > self.limit, "float32")
        self.total.assign_add(keras.ops.sum(weights * above))
        self.count.assign_add(keras.ops.sum(weights))

    def result(self):
        return self.total / self.count


class TellsLimit(Above):
    def get_config(self):
        return {**super().get_config(), "limit": self.limit}


def is_above(y_true, y_pred):
    return keras.ops.cast(y_true > 4, "float32")


@pytest.mark.parametrize(
    "metric",
    [
        lambda: TellsLimit(4, name="above"),
        lambda: keras.metrics.MeanMetricWrapper(is_above, name="above"),
        lambda: TellsLimit(4, name="above", dtype="float32"),
    ],
)
def test_metrics_keep_their_arguments_for_documents(metric):
    model = network()
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=[metric()])
    scores = ks.evaluate_documents(model, HELD_OUT, batch_size=2, sequence_length=8)
    np.testing.assert_allclose(scores["above"], [np.mean(d[1:] > 4) for d in HELD_OUT], atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda: Above(4, name="above"), r"Received: limit=4, made anew with 2.*get_config"),
        (
            lambda: keras.metrics.MeanMetricWrapper(lambda y, p: y, name="m"),
            r"weighted_metrics=\[function\]",
        ),
    ],
)
def test_metrics_that_lose_their_arguments_are_refused(metric, says):
    model = network()
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=[metric()])
    with pytest.raises(ValueError, match=says):
        ks.evaluate_documents(model, HELD_OUT)


@pytest.mark.parametrize(
    ("metrics", "weighted"),
    [
        (["mae", "mse"], ["mae", "mse"]),
        ({"a": "mae"}, [["mae"], ["mse", "mape"]]),
        ([None, ["mae"]], {"a": "mae"}),
    ],
)
@pytest.mark.parametrize("names", ["ab", "yz"])
def test_metrics_of_several_outputs_may_be_given_in_two_ways(metrics, weighted, names):
    x = keras.Input((None, 2))
    hidden = keras.layers.GRU(3, return_sequences=True)(x)
    first, second = (keras.layers.Dense(1, name=name)(hidden) for name in names)
    model = keras.Model(x, {"b": second, "a": first})
    model.compile(loss="mse", metrics=metrics, weighted_metrics=weighted)
    values = np.random.default_rng(0).normal(size=(4, 9, 1)).astype("float32")
    document, targets = (
        np.concatenate(values[:2], axis=-1),
        dict(zip("ab", values[2:], strict=True)),
    )
    scores = ks.evaluate_documents(
        model, [document], targets={k: [v] for k, v in targets.items()}, sequence_length=4
    )
    expected = model.evaluate(
        document[None], {k: v[None] for k, v in targets.items()}, return_dict=True, verbose=0
    )
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], [value], rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_a_loss_that_is_no_mean_over_a_document_is_refused(reduction):
    model = network()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(reduction=reduction))
    with pytest.raises(ValueError, match=r'reduction="sum_over_batch_size", the default'):
        ks.evaluate_documents(model, HELD_OUT)
