"""Targets that do not fit the outputs are refused before the first step.

Keras broadcasts shapes, and JAX takes any id.
"""

import keras
import numpy as np
import pytest
from step_callbacks import NoStep

import keras_stateful as ks

CLASSES = 5
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
IDS = [np.arange(60) % CLASSES, np.arange(1, 61) % CLASSES]
READINGS = [np.random.default_rng(0).random((60, 2), "float32")] * 2
LOAD = [r[:, :1] for r in READINGS]


def model_of(sequence, units=CLASSES, loss=SPARSE, ids=True, plain=False):
    entry = (
        [
            keras.Input((None,), batch_size=2 if plain else None, dtype="int32"),
            keras.layers.Embedding(9, 3),
        ]
        if ids
        else [keras.Input((None, 2), batch_size=2 if plain else None)]
    )
    network = keras.Sequential(
        [
            *entry,
            keras.layers.GRU(4, return_sequences=True, stateful=plain),
            keras.layers.Dense(units, name="out"),
        ]
    )
    model = network if plain else ks.to_stateful(network, sequence)
    model.compile("sgd", loss)
    return model


def fit(model, sequence, **arguments):
    plain = getattr(model, "resets", None) is None
    callbacks = [*arguments.pop("callbacks", []), *[ks.ResetStatesCallback()] * plain]
    return model.fit(sequence, verbose=0, callbacks=[*callbacks, NoStep()], **arguments)


def with_target(wrong, step=59):
    """Documents of which one ends with an id that is a target only."""
    return [IDS[0], np.where(np.arange(60) == step, wrong, IDS[1])]


MADE = {
    "arrays": lambda d, **k: ks.StatefulSequence(d, 2, 10, **k),
    "packed": lambda d, **k: ks.StatefulSequence(d, 2, 10, boundary="pack", **k),
    "a source": lambda d, **k: ks.StatefulSequence(Source(d), 2, 10, **k),
    "a stream": lambda d, **k: ks.StatefulStream(d, 2, 10, **k),
}


class Source(list):
    """Not a list of arrays to `StatefulSequence`: it is read by index."""


@pytest.mark.parametrize("wrong", [CLASSES, -1])
@pytest.mark.parametrize("made", MADE)
def test_a_target_that_is_no_class(made, wrong):
    sequence = MADE[made](with_target(wrong), resets=True)
    message = f"(?s)no class for. Received: id {wrong}.*0 to {CLASSES - 1}"
    with pytest.raises(
        Exception, match=message
    ):  # TensorFlow wraps what a stream raises as it is read
        model_of(sequence).fit(sequence, verbose=0)
    if made != "a stream":
        with pytest.raises(ValueError, match=message):
            fit(model_of(sequence), sequence)


def test_a_target_that_is_no_class_elsewhere():
    good, wrong = (ks.StatefulSequence(d, 2, 10, resets=True) for d in (IDS, with_target(8)))
    message = "Received: id 8, for document 1 at time step 58"
    with pytest.raises(ValueError, match=message):
        fit(model_of(good), good, validation_data=wrong)
    with pytest.raises(ValueError, match=message):
        model_of(good).evaluate(wrong, verbose=0)
    with pytest.raises(ValueError, match=message):
        ks.evaluate_documents(model_of(good), with_target(8))
    with pytest.raises(ValueError, match=message):
        fit(model_of(good), good, callbacks=[ks.ValidateDocuments(with_target(8))])
    labels = ks.StatefulSequence(IDS, 2, 10, targets=[1, CLASSES], resets=True)
    with pytest.raises(ValueError, match=f"id {CLASSES}, for document 1 at time step 0"):
        fit(model_of(labels), labels)


@pytest.mark.parametrize("made", ["arrays", "packed"])
@pytest.mark.parametrize("kind", ["only an input", "without weight", "ignored", "one's own loss"])
def test_ids_that_are_no_class_and_no_target_either(kind, made):
    loss, arguments, documents = SPARSE, {}, with_target(8, step=0)
    if kind == "without weight":
        documents = IDS
        arguments = {
            "targets": with_target(-1),
            "sample_weight": [np.ones(60), np.arange(60) != 59],
        }
    elif kind == "ignored":
        documents, arguments = IDS, {"targets": with_target(-1)}
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    elif kind == "one's own loss":
        documents = with_target(8)

        def loss(y, y_pred):
            return keras.ops.mean(y_pred, -1) * keras.ops.cast(y, "float32")

    sequence = MADE[made](documents, resets=True, **arguments)
    with pytest.raises(pytest.fail.Exception, match="a step was trained"):
        fit(model_of(sequence, loss=loss), sequence)


SHAPES = {
    "three outputs for one column": (
        3,
        "mse",
        {"targets": LOAD},
        r"a `Dense\(1\)`\. Where its 3 values are those of .* `target_offset=` a list of 3",
    ),
    "one output for a horizon": (
        1,
        "mse",
        {"targets": LOAD, "target_offset": [1, 4]},
        r"a `Dense\(2\)`",
    ),
    "one output for two columns": (1, "mae", {"targets": READINGS}, r"a `Dense\(2\)`"),
    "a loss object": (3, keras.losses.Huber(), {"targets": LOAD}, r"a `Dense\(1\)`"),
    "a loss in a dict": (3, {"out": "mse"}, {"targets": LOAD}, r"a `Dense\(1\)`"),
    "ids for categorical": (
        CLASSES,
        "categorical_crossentropy",
        {"targets": IDS},
        "SparseCategorical",
    ),
}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("case", SHAPES)
def test_targets_of_another_shape_than_the_output(case, plain):
    units, loss, arguments, message = SHAPES[case]
    sequence = ks.StatefulSequence(READINGS, 2, 10, resets=not plain, **arguments)
    with pytest.raises(ValueError, match=f"(?s)broadcast.*{message}"):
        fit(model_of(sequence, units, loss, ids=False, plain=plain), sequence)


@pytest.mark.parametrize("columns", [1, None])
def test_horizons_that_a_call_leaves_out_are_asked_for(columns):
    """Of a model that remembers no training; with as many offsets it is scored."""
    model = model_of(None, 3, "mse", ids=False, plain=True)
    targets = LOAD if columns else [part[:, 0] for part in LOAD]
    with pytest.raises(ValueError, match="`target_offset=` a list of 3"):
        ks.evaluate_documents(model, READINGS, targets=targets)
    loss = ks.evaluate_documents(model, READINGS, targets=targets, target_offset=[1, 6, 24])["loss"]
    assert np.isfinite(loss).all()


WEIGHTED = {
    "binary ids": (
        1,
        "binary_crossentropy",
        {"targets": [i[:55] % 2 for i in IDS]},
        r"t.astype\('float32'\)",
    ),
    "a label for each document": (
        1,
        "binary_crossentropy",
        {"targets": [0, 1]},
        r"t.astype\('float32'\)",
    ),
    "ignored ids": (
        CLASSES,
        keras.losses.SparseCategoricalCrossentropy(ignore_class=-1),
        {"targets": [i[:55] for i in IDS]},
        "t != -1",
    ),
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_losses_that_weights_would_make_wrong(case):
    """Keras takes the mean over time before it weighs, or makes up for steps a second time."""
    units, loss, arguments, message = WEIGHTED[case]
    documents = [r[:55] for r in READINGS]
    sequence = ks.StatefulSequence(documents, 2, 10, resets=True, **arguments)
    with pytest.raises(ValueError, match=message):
        fit(model_of(sequence, units, loss, ids=False), sequence)
    with pytest.raises(ValueError, match=message):
        ks.evaluate_documents(model_of(sequence, units, loss, ids=False), documents, **arguments)


OUTPUTS = {
    "a dict for one output": (lambda a, b: a, {"a": LOAD}, "not a dict"),
    "a dict for a list": (
        lambda a, b: [a, b],
        {"a": LOAD, "b": LOAD},
        r'keras.Model\(inputs, {"a": ..., "b": ...}\)',
    ),
    "one target for a list": (
        lambda a, b: [a, b],
        LOAD,
        r'keras.Model\(inputs, {"a": ..., "b": ...}\)',
    ),
    "one target for a dict": (
        lambda a, b: {"a": a, "b": b},
        LOAD,
        r'`targets={"a": ..., "b": ...}`',
    ),
    "a key that no output has": (
        lambda a, b: {"a": a, "b": b},
        {"a": LOAD, "c": LOAD},
        r"outputs \['a', 'b'\]",
    ),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_targets_of_other_outputs(case):
    outputs, targets, message = OUTPUTS[case]
    sequence = ks.StatefulSequence(READINGS, 2, 10, resets=True, targets=targets)
    x = keras.Input((None, 2))
    h = keras.layers.GRU(4, return_sequences=True)(x)
    a, b = (keras.layers.Dense(1, name=name)(h) for name in "ab")
    model = ks.to_stateful(keras.Model(x, outputs(a, b)), sequence)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=f"not those of the model's outputs(?s:.*){message}"):
        fit(model, sequence)


def two_outputs(loss, **targets):
    """A model whose outputs are a dict, not in the order of its keys; and its data."""
    sequence = ks.StatefulSequence(READINGS, 2, 10, resets=True, targets=targets)
    x = keras.Input((None, 2))
    h = keras.layers.GRU(4, return_sequences=True)(x)
    outputs = {"ids": keras.layers.Dense(CLASSES)(h), "columns": keras.layers.Dense(2)(h)}
    model = ks.to_stateful(keras.Model(x, outputs), sequence)
    model.compile("sgd", loss)
    return model, sequence


def test_one_loss_for_several_outputs_broadcasts_none_of_them():
    model, sequence = two_outputs("mse", ids=LOAD, columns=READINGS)
    with pytest.raises(ValueError, match="would broadcast the targets of `x` against .* 'ids'"):
        fit(model, sequence)


def test_a_list_of_losses_goes_by_the_order_of_the_keys():
    fitting, sequence = two_outputs(["mse", SPARSE], ids=IDS, columns=READINGS)
    history = fitting.fit(sequence, verbose=0).history
    assert {"ids_loss", "columns_loss"} < set(history)
    swapped, sequence = two_outputs([SPARSE, "mse"], ids=IDS, columns=READINGS)
    with pytest.raises(ValueError, match="would broadcast the targets of `x` against .* 'ids'"):
        fit(swapped, sequence)


FITTING = {
    "one column": (1, "mse", {"targets": LOAD}),
    "a scalar target": (1, "mse", {"targets": [r[:, 0] for r in READINGS]}),
    "binary ids": (
        1,
        keras.losses.BinaryCrossentropy(from_logits=True),
        {"targets": [i % 2 for i in IDS]},
    ),
    "a horizon of one column": (2, "mse", {"targets": LOAD, "target_offset": [1, 4]}),
    "two columns": (2, "mse", {"targets": READINGS}),
    "ids": (CLASSES, SPARSE, {"targets": IDS}),
    "ids of one column": (CLASSES, SPARSE, {"targets": [i[:, None] for i in IDS]}),
    "one's own loss": (
        3,
        lambda y, p: keras.ops.mean(keras.ops.square(p - y), -1),
        {"targets": LOAD},
    ),
}


@pytest.mark.parametrize("case", FITTING)
def test_targets_that_fit(case):
    units, loss, arguments = FITTING[case]
    sequence = ks.StatefulSequence(READINGS, 2, 10, resets=True, **arguments)
    history = model_of(sequence, units, loss, ids=False).fit(sequence, verbose=0)
    assert np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize("plain", [False, True])
def test_a_classifier_is_not_validated_on_its_next_ids(plain):
    sequence = ks.StatefulSequence(IDS, 2, 10, targets=[0, 1], resets=not plain)
    model, message = model_of(sequence, plain=plain), "(?s)without `targets`.*Give it the same kind"
    with pytest.raises(ValueError, match=message):
        fit(model, sequence, callbacks=[ks.ValidateDocuments(IDS)])
    with pytest.raises(ValueError, match=message):
        fit(model, sequence, validation_data=ks.StatefulSequence(IDS, 2, 10, resets=not plain))
    labelled = [ks.ValidateDocuments(IDS, targets=[0, 1])]
    with pytest.raises(pytest.fail.Exception, match="a step was trained"):
        fit(model, sequence, callbacks=labelled)


@pytest.mark.parametrize("plain", [False, True])
def test_a_forecaster_is_not_validated_on_other_steps(plain):
    sequence = ks.StatefulSequence(READINGS, 2, 10, target_offset=5, resets=not plain)
    model = model_of(sequence, 2, "mse", ids=False, plain=plain)
    message = r"(?s)targets \[1\] steps ahead, training \[5\]"
    with pytest.raises(ValueError, match=message):
        fit(model, sequence, callbacks=[ks.ValidateDocuments(READINGS, target_offset=1)])
    with pytest.raises(ValueError, match=message):
        fit(model, sequence, validation_data=ks.StatefulSequence(READINGS, 2, 10, resets=not plain))
    with pytest.raises(ValueError, match=message):
        fit(model, sequence, validation_data=ks.StatefulStream(READINGS, 2, 10, resets=not plain))
    for arguments in ({"target_offset": 5}, {}):  # which is the training's
        with pytest.raises(pytest.fail.Exception, match="a step was trained"):
            fit(model, sequence, callbacks=[ks.ValidateDocuments(READINGS, **arguments)])


@pytest.mark.parametrize("method", ["fit", "evaluate", "validate"])
@pytest.mark.parametrize("plain", [False, True])
def test_metrics_without_weights_count_padding(plain, method):
    even = ks.StatefulSequence(np.tile(IDS[0], 2), 2, 10, resets=not plain)
    padded = ks.StatefulSequence(IDS, 2, 9, resets=not plain)
    model = model_of(even, plain=plain)
    model.compile("sgd", SPARSE, metrics=["accuracy"])
    arguments = {"x": even, "validation_data": padded} if method == "validate" else {"x": padded}
    method = getattr(model, "evaluate" if method == "evaluate" else "fit")
    with pytest.warns(UserWarning, match="`metrics` count padded steps"):
        method(**arguments, verbose=0, callbacks=[ks.ResetStatesCallback()] * plain)
