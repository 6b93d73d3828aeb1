"""Models with one output for each window: `return_sequences=False`, under `label_at="window"`.

The reference reads each document from its start to the end of a window in one call of the plain
model: what the stateful one gives there, whatever windows it has read before.
"""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

ROWS, WINDOW = 2, 6
LENGTHS = (24, 31, 18, 4, 13)


def documents(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, 3)).astype("float32") for n in LENGTHS]


DOCUMENTS = documents()
LABELS, WEIGHTS = np.array([0, 2, 1, 1, 0]), np.array([1, 2, 0.5, 3, 1.5])


def lstm(units, stateful=False, rows=None):
    return [
        keras.Input((None, 3), batch_size=rows),
        layers.GRU(5, return_sequences=True, stateful=stateful),
        layers.LSTM(4, stateful=stateful),
        layers.Dense(units),
    ]


def classifier(**kwargs):
    keras.utils.set_random_seed(1)
    return keras.Sequential(lstm(3, **kwargs))


def convolution(units=3):
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Conv1D(4, 3, padding="causal"),
            layers.SimpleRNN(4),
            layers.Dense(units),
        ]
    )


def states_too(units=3):
    """Ends with what a layer gives of its states."""
    keras.utils.set_random_seed(3)
    x = keras.Input((None, 3))
    _, h, c = layers.LSTM(4, return_state=True)(x)
    return keras.Model(x, layers.Dense(units)(layers.Concatenate()([h, c])))


NETWORKS = {"stacked": classifier, "convolution": convolution, "states": states_too}


def compiled(model, loss=None, rate=0.1):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, weighted_metrics=["accuracy"])
    return model


def cross_entropy(logits, label):
    return float(np.log(np.exp(logits).sum()) - logits[label])


def by_hand(sequence, plain, losses, weights, docs=DOCUMENTS, burn_in=0):
    """The mean over all windows that end in a real step.

    Args:
        losses: a function of the plain model's output, the document and the step that it is of.
        weights: of each document.
    """
    total = weight = 0.0
    for i in range(len(sequence)):
        for spans in sequence.locate(i):
            for document, start, steps, column in spans:
                end = start + steps
                if column + steps == WINDOW and end > burn_in:
                    output = plain(docs[document][None, :end])
                    value = losses(keras.ops.convert_to_numpy(output)[0], document, end - 1)
                    total, weight = total + weights[document] * value, weight + weights[document]
    return total / weight


@pytest.mark.parametrize(
    ("kind", "boundary"), [*((kind, "align") for kind in NETWORKS), ("stacked", "pack")]
)
def test_the_loss_is_the_mean_over_the_ends_of_windows(kind, boundary):
    sequence = ks.StatefulSequence(
        DOCUMENTS,
        ROWS,
        WINDOW,
        targets=LABELS,
        label_at="window",
        sample_weight=WEIGHTS,
        boundary=boundary,
        burn_in=7,
        resets=True,
    )
    network = NETWORKS[kind]()
    model = compiled(ks.to_stateful(network, sequence), rate=0.0)
    expected = by_hand(
        sequence, network, lambda y, d, _: cross_entropy(y, LABELS[d]), WEIGHTS, burn_in=7
    )
    loss, _ = model.evaluate(sequence, verbose=0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    history = model.fit(sequence, epochs=2, validation_data=sequence, verbose=0).history
    np.testing.assert_allclose(history["loss"] + history["val_loss"], expected, rtol=1e-5)
    # What the optimizer sees are Keras's means over batches of loss times weight.
    scale = np.mean([batch[2] for batch in sequence])
    counted = [
        WEIGHTS[s[-1].document]
        for i in range(len(sequence))
        for s in sequence.locate(i)
        if s and s[-1].column + s[-1].steps == WINDOW and s[-1].start + s[-1].steps > 7
    ]
    np.testing.assert_allclose(scale, np.mean(counted), rtol=1e-5)
    assert model.predict(sequence, verbose=0).shape == (len(sequence) * ROWS, 3)


@pytest.mark.parametrize("offset", [0, 2])
def test_targets_of_each_step_are_those_of_the_last(offset):
    """A regression target at the step that a window ends with, or some steps later."""
    answers = [np.cumsum(d[:, 0]) for d in DOCUMENTS]
    sequence = ks.StatefulSequence(
        DOCUMENTS,
        ROWS,
        WINDOW,
        targets=answers,
        target_offset=offset,
        label_at="window",
        resets=True,
    )
    network = keras.Sequential(lstm(1))
    model = ks.to_stateful(network, sequence)
    model.compile(loss="mse")
    _, y, weight = sequence[0]
    assert (y.shape, weight.shape) == ((ROWS, 1), (ROWS,))
    expected = by_hand(
        sequence,
        network,
        lambda output, d, step: (output[0] - answers[d][step + offset]) ** 2,
        np.ones(len(LENGTHS)),
    )
    np.testing.assert_allclose(model.evaluate(sequence, verbose=0), expected, rtol=1e-5)


def test_one_text_and_its_next_step():
    text = np.arange(101) % 7
    sequence = ks.StatefulSequence(text, ROWS, WINDOW, label_at="window", resets=True)
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(7, 3),
            layers.GRU(4),
            layers.Dense(7),
        ]
    )
    model = compiled(ks.to_stateful(network, sequence))
    streams = text[: len(sequence) * ROWS * WINDOW].reshape(ROWS, -1)
    losses = [
        cross_entropy(keras.ops.convert_to_numpy(network(s[None, :end]))[0], (s[0] + end) % 7)
        for s in streams
        for end in range(WINDOW, streams.shape[1] + 1, WINDOW)
    ]
    loss, _ = model.evaluate(sequence, verbose=0)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_every_way_to_read_documents_gives_the_same_loss():
    """A plain `stateful=True` model, a stream, and whole documents, beside a converted model."""
    arguments = {"targets": LABELS, "label_at": "window"}
    sequence = ks.StatefulSequence(DOCUMENTS, ROWS, WINDOW, resets=True, **arguments)
    model = compiled(ks.to_stateful(classifier(), sequence), rate=0.0)
    expected, accuracy = model.evaluate(sequence, verbose=0)

    source = [
        {"x": d, "label": np.array(label)} for d, label in zip(DOCUMENTS, LABELS, strict=True)
    ]
    x = keras.Input((None, 3), name="x")
    stream = ks.StatefulStream(
        source, ROWS, WINDOW, targets="label", label_at="window", resets=True
    )
    of_stream = compiled(ks.to_stateful(keras.Model(x, classifier()(x)), stream), rate=0.0)
    losses = of_stream.fit(stream, epochs=3, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)

    plain = compiled(classifier(stateful=True, rows=ROWS), rate=0.0)
    without = ks.StatefulSequence(DOCUMENTS, ROWS, WINDOW, **arguments)
    history = plain.fit(without, verbose=0, callbacks=[ks.ResetStatesCallback(without)]).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)

    watch = ks.ValidateDocuments(DOCUMENTS, sequence_length=WINDOW, **arguments)
    history = model.fit(sequence, verbose=0, callbacks=[watch]).history
    np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["val_accuracy"], accuracy, rtol=1e-5)
    pooled = ks.evaluate_documents(
        model, DOCUMENTS, sequence_length=WINDOW, pooled=True, **arguments
    )
    np.testing.assert_allclose(
        [pooled["loss"], pooled["accuracy"]], [expected, accuracy], rtol=1e-5
    )
    each = ks.evaluate_documents(model, DOCUMENTS, sequence_length=WINDOW, **arguments)
    assert np.isnan(each["loss"]).tolist() == [n < WINDOW for n in LENGTHS]


@pytest.mark.parametrize("boundary", ["align", "pack"])
def test_predictions_are_put_back_at_the_ends_of_windows(boundary):
    sequence = ks.StatefulSequence(
        DOCUMENTS,
        ROWS,
        WINDOW,
        stride=4,
        targets=LABELS,
        label_at="window",
        boundary=boundary,
        resets=True,
    )
    network = classifier()
    model = ks.to_stateful(network, sequence)
    predictions = model.predict(sequence, verbose=0)
    restored = sequence.restore(predictions)
    given = 0
    for document, outputs in zip(DOCUMENTS, restored, strict=True):
        assert outputs.shape == (len(document), 3)
        ends = np.flatnonzero(~np.isnan(outputs[:, 0]))
        if boundary == "align":
            assert ends.tolist() == list(range(WINDOW - 1, len(document), 4))
        for end in ends[[0, -1]] if len(ends) else []:
            expected = keras.ops.convert_to_numpy(network(document[None, : end + 1]))[0]
            np.testing.assert_allclose(outputs[end], expected, atol=1e-5)
        given += len(ends)
    assert given == sum((w > 0).sum() for *_, w in sequence)
    with pytest.raises(ValueError, match="a value for each window.*without `steps=`"):
        sequence.restore(predictions[:-1])


def test_a_stream_is_scaled_by_its_windows():
    """From the second pass on; also where it was read by hand, step by step, before."""
    source = [{"x": d, "label": np.array(0)} for d in DOCUMENTS]
    stream = ks.StatefulStream(source, ROWS, WINDOW, targets="label", label_at="window")
    list(stream)
    stream.give_targets(at_ends=True)
    list(stream)
    weights = np.concatenate([w for _, _, w in stream])
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)


def test_the_model_that_reads_says_what_a_batch_has():
    """The same sequence for a model of windows and one of steps, in turn."""
    sequence = ks.StatefulSequence(
        DOCUMENTS, ROWS, WINDOW, targets=LABELS, label_at="window", resets=True
    )
    ends = compiled(ks.to_stateful(classifier(), sequence))
    assert sequence[0][1].shape == (ROWS,)
    steps = compiled(
        ks.to_stateful(
            keras.Sequential(
                [keras.Input((None, 3)), layers.GRU(4, return_sequences=True), layers.Dense(3)]
            ),
            sequence,
        )
    )
    assert sequence[0][1].shape == (ROWS, WINDOW)
    for model in (ends, steps, ends):
        assert model.fit(sequence, verbose=0).history["loss"][0] > 0


def test_predict_asks_for_no_labels():
    """And knows afterwards where in the text predictions stand."""
    text = np.arange(50) % 7
    sequence = ks.StatefulSequence(text, ROWS, WINDOW, resets=True)
    network = keras.Sequential(
        [keras.Input((None,), dtype="int32"), layers.Embedding(7, 3), layers.GRU(4)]
    )
    model = ks.to_stateful(network, sequence)
    predictions = model.predict(sequence, verbose=0)
    assert sequence[0][1].shape == sequence.signature()[1].shape == (ROWS,)
    (restored,) = sequence.restore(predictions)
    expected = network.predict_on_batch(text[None, : 2 * WINDOW])
    np.testing.assert_allclose(restored[2 * WINDOW - 1], expected[0], atol=1e-5)
    with pytest.raises(ValueError, match='label_at="window"'):
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(sequence, verbose=0)


@pytest.mark.parametrize("converted", [False, True])
def test_whole_documents_are_predicted_with_the_weights_as_the_error_says(converted):
    def network(every_step):
        stack = [layers.GRU(4, return_sequences=every_step), layers.Dense(2)]
        return keras.Sequential([keras.Input((None, 3)), *stack])

    ends = network(every_step=False)
    model = ks.to_stateful(ends, ROWS) if converted else ends
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"reduce='last'.*`network.set_weights\(") as caught:
        ks.predict_documents(model, [x])
    assert "label_at" not in str(caught.value)  # which it does not have
    with pytest.raises(ValueError, match='pass `label_at="window"`'):
        ks.evaluate_documents(model, [x], targets=[1])
    every = network(every_step=True)
    every.set_weights(ks.to_stateless(model).get_weights())
    (y,) = ks.predict_documents(every, [x], reduce="last")
    np.testing.assert_allclose(y, ends.predict_on_batch(x[None])[0], atol=1e-5)


def test_documents_that_fill_no_window_are_told():
    sequence = ks.StatefulSequence(
        DOCUMENTS, ROWS, WINDOW, targets=LABELS, label_at="window", resets=True
    )
    with pytest.warns(UserWarning, match="1 of 5 documents.*document 3"):
        ks.to_stateful(classifier(), sequence)


def mean_of_all(y, p):
    return keras.ops.mean(keras.ops.square(y - p))


def mean_of_each(y, p):
    return keras.ops.mean(keras.ops.square(y - p), axis=-1)


def of_numbers(units=1, targets=None, **kwargs):
    targets = [d[:, :units] for d in DOCUMENTS] if targets is None else targets
    read = ks.StatefulSequence(
        DOCUMENTS, ROWS, WINDOW, targets=targets, label_at="window", resets=True, **kwargs
    )
    return ks.to_stateful(keras.Sequential(lstm(units)), read), read


@pytest.mark.parametrize(
    ("loss", "targets", "words"),
    [
        (mean_of_all, None, "takes a mean over time steps itself"),
        ("mse", LABELS, "mean over the windows.*astype"),
        ("mse", [d[:, :2] for d in DOCUMENTS], r"targets of shape \(2, 2\).*`Dense\(2\)`"),
        (keras.losses.MeanSquaredError(reduction="sum"), None, "sum_over_batch_size"),
    ],
)
def test_losses_that_weights_of_windows_do_not_reach_are_refused(loss, targets, words):
    model, read = of_numbers(targets=targets)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=words):
        model.fit(read, verbose=0)


def test_losses_of_ones_own_and_horizons():
    """A loss that gives a value for each window is Keras's; several horizons are its mean."""
    ours, read = of_numbers(2)
    ours.compile("sgd", mean_of_each)
    expected = by_hand(
        read,
        ks.to_stateless(ours),
        lambda y, d, step: np.mean((y - DOCUMENTS[d][step, :2]) ** 2),
        np.ones(len(LENGTHS)),
    )
    np.testing.assert_allclose(ours.evaluate(read, verbose=0), expected, rtol=1e-5)
    series = [d[:, 0] for d in DOCUMENTS]
    ahead, read = of_numbers(2, targets=series, target_offset=[1, 3])
    ahead.compile("sgd", "mse")
    expected = by_hand(
        read,
        ks.to_stateless(ahead),
        lambda y, d, step: np.mean((y - series[d][[step + 1, step + 3]]) ** 2),
        np.ones(len(LENGTHS)),
    )
    np.testing.assert_allclose(ahead.evaluate(read, verbose=0), expected, rtol=1e-5)
    ids = ks.StatefulSequence(
        DOCUMENTS, ROWS, WINDOW, targets=LABELS + 7, label_at="window", resets=True
    )
    model = compiled(ks.to_stateful(classifier(), ids))
    with pytest.raises(ValueError, match="id 9.*3 classes"):
        model.fit(ids, verbose=0)


def test_a_frame_is_forecast_at_the_ends_of_windows_that_overlap():
    pandas = pytest.importorskip("pandas")
    hours = pandas.date_range("2026-01-01", periods=30, freq="h")
    values = np.random.default_rng(3).normal(size=(2, 30)).astype("float32")
    frame = pandas.concat(
        [
            pandas.DataFrame({"machine": name, "time": hours, "load": series})
            for name, series in zip("ab", values, strict=True)
        ],
        ignore_index=True,
    )
    data = ks.StatefulSequence.from_frame(
        frame,
        by="machine",
        time="time",
        inputs=["load"],
        targets="load",
        horizons=2,
        split=hours[17],
        batch_size=2,
        sequence_length=6,
        stride=2,
        label_at="window",
        resets=True,
    )
    keras.utils.set_random_seed(4)
    network = keras.Sequential([keras.Input((None, 1)), layers.GRU(4), layers.Dense(1)])
    model = ks.to_stateful(network, data.training)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(data.training, verbose=0)
    predictions = model.predict(data.validation, verbose=0)  # read for the first time
    forecasts = data.forecasts(predictions, data.validation)
    plain, errors = ks.to_stateless(model), []
    for series, group in zip(values, data.groups, strict=True):
        _, rows, read, predicted = forecasts[group]
        steps = read % 30
        # Windows end with steps 5, 7, ...; those count that read from the split on.
        assert steps.tolist() == [s for s in range(5, 28, 2) if s >= 17]
        assert (rows - read == 2).all()
        for step, value in zip(steps, predicted, strict=True):
            expected = keras.ops.convert_to_numpy(plain(series[None, : step + 1, None]))[0]
            np.testing.assert_allclose(value, expected, atol=1e-5)
            errors.append((expected[0] - series[step + 2]) ** 2)
    loss = model.evaluate(data.validation, verbose=0)
    np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-4)
    for forecast in data.forecasts(model.predict(data.future, verbose=0), data.future).items():
        check_last_forecast(plain, dict(zip(data.groups, values, strict=True)), *forecast)
    assert (
        data.table(model.predict(data.future, verbose=0), data.future)["row"].tolist() == [60] * 2
    )


def check_last_forecast(plain, series, group, forecast):
    """A window of 6 steps that begin 2 apart ends with the last of 30 readings."""
    assert forecast.rows_read.tolist() == [30 * list(series).index(group) + 29]
    assert forecast.times[0] == np.datetime64("2026-01-02T07")
    expected = keras.ops.convert_to_numpy(plain(series[group][None, :, None]))
    np.testing.assert_allclose(forecast.values, expected, atol=1e-5)


@pytest.mark.parametrize("rows", range(27, 32))
@pytest.mark.parametrize("stride", [None, 2, 3])
def test_a_window_ends_with_the_last_reading(rows, stride):
    """However many there are: fewer than a stride of the first ones are left out."""
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(3).normal(size=rows).astype("float32")
    frame = pandas.DataFrame({"load": values})
    data = ks.StatefulSequence.from_frame(
        frame,
        inputs=["load"],
        targets="load",
        horizons=[1, 5],
        batch_size=1,
        sequence_length=6,
        stride=stride,
        label_at="window",
        resets=True,
    )
    network = keras.Sequential([keras.Input((None, 1)), layers.GRU(4), layers.Dense(2)])
    model = ks.to_stateful(network, data.training)
    forecast = data.forecasts(model.predict(data.future, verbose=0), data.future)[None]
    assert forecast.rows_read[-1] == rows - 1
    assert forecast.times[-1].tolist() == [rows, rows + 4]
    left_out = (rows - 6) % (stride or 6)
    expected = keras.ops.convert_to_numpy(network(values[None, left_out:, None]))
    np.testing.assert_allclose(forecast.values[-1:], expected, atol=1e-5)
