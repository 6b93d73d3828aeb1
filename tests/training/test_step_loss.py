"""Law 10: the loss of an epoch is the mean over the time steps that count, each by its weight."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from releases import needs_any_rows
from step_callbacks import StepLosses

import keras_stateful as ks

IDS, WINDOW = 7, 6
rng = np.random.default_rng(0)


def converted(network, data, loss, **arguments):
    """A converted model that learns nothing, so that its loss is that of the network."""
    model = ks.to_stateful(network, data)
    model.compile(keras.optimizers.SGD(0.0), loss, **arguments)
    return model


def outputs_of(network, documents):
    """Outputs `(time, ...)` of each document, read in one call."""
    return [ops.convert_to_numpy(network(d[None]))[0] for d in documents]


# Weights and losses of another rank


def nodes(shape):
    """A network of frames or nodes, `(batch, time, *shape)` in and out."""
    keras.utils.set_random_seed(1)
    x = keras.Input((None, *shape))
    h = layers.GRU(4, return_sequences=True)(layers.TimeDistributed(layers.Flatten())(x))
    return keras.Model(x, layers.Reshape((-1, *shape))(layers.Dense(int(np.prod(shape)))(h)))


# With 4 rows or windows of 6 steps, some sizes agree with those of the weights, from the right.
SHAPES = [(4, 2), (6, 2), (4, 6, 1), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_reach_losses_of_any_rank(shape):
    network = nodes(shape)
    documents = [rng.random((n, *shape)).astype("float32") for n in (13, 9, 6, 11)]
    data = ks.StatefulSequence(documents, 4, WINDOW, resets=True)
    model = converted(network, data, "mse", weighted_metrics=["mse"])
    errors = [
        np.square(p[:-1] - d[1:]).reshape(len(d) - 1, -1).mean(-1)
        for p, d in zip(outputs_of(network, documents), documents, strict=True)
    ]
    expected = np.concatenate(errors).mean()
    history = model.fit(data, verbose=0).history
    np.testing.assert_allclose([history["loss"][0], history["mse"][0]], expected, rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(data, verbose=0), expected, rtol=1e-5)
    scores = ks.evaluate_documents(model, documents, sequence_length=WINDOW)
    np.testing.assert_allclose(scores["loss"], [e.mean() for e in errors], rtol=1e-5)


def test_weights_reach_the_gradient_of_frames():
    """Padding changes no weight: what stands in it is nothing to the loss."""
    documents = [rng.random((n, 5, 5, 1)).astype("float32") for n in (13, 9, 6)]
    data = ks.StatefulSequence(documents, 3, 4)
    trained = []
    for padding in (0.0, 100.0):
        keras.utils.set_random_seed(1)
        network = keras.Sequential([
            keras.Input((None, 5, 5, 1)),
            layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True),
            layers.Dense(1),
        ])  # fmt: skip
        model = ks.to_stateful(network, 3)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(Filled(data, padding), verbose=0, shuffle=False)
        trained.append(model.get_weights())
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Filled(keras.utils.PyDataset):
    """Batches of a sequence with other numbers in the targets of padding."""

    def __init__(self, data, padding):
        super().__init__()
        self.data, self.padding = data, padding

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y, weight = self.data[index]
        return x, np.where(weight[..., None, None, None] > 0, y, self.padding), weight


# Losses and metrics that weights cannot reach


class InsideCall(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred))


class OwnCall(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.mean(ops.square(y_true - y_pred))


def root(y, p):
    return ops.sqrt(ops.mean(ops.square(y - p)))


def quantile_of_all(y, p):
    return ops.mean(ops.maximum(0.9 * (y - p), 0.1 * (p - y)))


def of_each_row(y, p):
    return ops.mean(ops.square(y - p), axis=(1, 2))


def of_each_feature(y, p):  # `(batch, features)`, as many features as the window has steps
    return ops.mean(ops.square(y - p), axis=1)


def padded(features=1):
    documents = [rng.random((n, 2)).astype("float32") for n in (24, 7, 9)]
    targets = [d.sum(1, keepdims=True).repeat(features, 1) for d in documents]
    data = ks.StatefulSequence(documents, 3, WINDOW, targets=targets, resets=True)
    network = keras.Sequential(
        [keras.Input((None, 2)), layers.GRU(4, return_sequences=True), layers.Dense(features)]
    )
    return network, data


def name_of(loss) -> str:
    """The same in each process, which tests that are shared out among several are found by."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


SCALARS = [root, quantile_of_all, of_each_row, of_each_feature, "dice"]
UNREACHED = [*SCALARS, InsideCall(), keras.losses.Tversky(), OwnCall()]
REDUCTIONS = ["sum", "mean_with_sample_weight", None]


@pytest.mark.parametrize("loss", UNREACHED, ids=name_of)
def test_losses_that_weights_cannot_reach_are_refused_before_the_first_step(loss):
    network, data = padded(WINDOW)
    model = converted(network, data, loss)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"keras\.ops\.mean\(\.\.\., axis=-1\)"):
        model.fit(data, verbose=0)
    with pytest.raises(ValueError, match=r"keras\.ops\.mean\(\.\.\., axis=-1\)"):
        model.fit(padded(WINDOW)[1], validation_data=data, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_reductions_that_are_no_mean_over_steps_are_refused(reduction):
    network, data = padded()
    model = converted(network, data, keras.losses.Huber(reduction=reduction))
    with pytest.raises(ValueError, match='reduction="sum_over_batch_size", the default'):
        model.fit(data, verbose=0)


@pytest.mark.parametrize("metric", SCALARS[:4])
def test_metrics_that_weights_cannot_reach_are_refused(metric):
    network, data = padded(WINDOW)
    model = converted(network, data, "mse", weighted_metrics=[metric])
    with pytest.raises(ValueError, match=f"weighted metric '{metric.__name__}'"):
        model.fit(data, verbose=0)


def pinball(y, p):
    return ops.mean(ops.maximum(0.9 * (y - p), 0.1 * (p - y)), axis=-1)


def of_each_value(y, p):
    return ops.abs(y - p)


@pytest.mark.parametrize("loss", [pinball, of_each_value, "log_cosh", keras.losses.Huber(0.1)])
def test_losses_of_each_step_are_means_over_what_counts(loss):
    network, data = padded()
    model = converted(network, data, loss, weighted_metrics=[model_metric(loss)])
    history = model.fit(data, verbose=0).history
    [metric] = history.keys() - {"loss"}
    np.testing.assert_allclose(history["loss"], history[metric], rtol=1e-5)


def model_metric(loss):
    function = loss if callable(loss) else keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        return keras.metrics.MeanMetricWrapper(function.call, name="same")
    return function


def test_without_weights_a_loss_may_return_one_number():
    documents = [rng.random((n, 1)).astype("float32") for n in (13, 13)]
    data = ks.StatefulSequence(documents, 2, WINDOW, resets=True)
    assert len(data.signature()) == 2
    network = keras.Sequential([keras.Input((None, 1)), layers.GRU(1, return_sequences=True)])
    assert np.isfinite(converted(network, data, root).fit(data, verbose=0).history["loss"][0])


# Masks


def masked_network(rows=None):
    keras.utils.set_random_seed(2)
    return keras.Sequential([
        keras.Input((None,), batch_size=rows, dtype="int32"),
        layers.Embedding(IDS, 4, mask_zero=True),
        layers.GRU(4, return_sequences=True, stateful=rows is not None),
        layers.Dense(IDS, activation="softmax"),
    ])  # fmt: skip


def masked_documents(lengths):
    return [np.where(rng.random(n) < 0.3, 0, rng.integers(1, IDS, n)) for n in lengths]


def masked_losses(network, documents):
    """Cross-entropy of the next id at each step that is not masked, of each document."""
    plain = masked_network()
    plain.set_weights(network.get_weights())
    losses = []
    for p, d in zip(outputs_of(plain, documents), documents, strict=True):
        unmasked = d[:-1] != 0
        losses.append(-np.log(p[:-1][unmasked, d[1:][unmasked]]))
    return losses


CROSSENTROPY = "sparse_categorical_crossentropy"


# In windows of 5 steps nothing is padded, so that no weights are given; in others there are.
@pytest.mark.parametrize("window", [5, 7, 128])
@pytest.mark.parametrize("kind", ["converted", "plain"])
def test_masked_steps_count_nowhere(kind, window):
    documents = masked_documents((21, 31))
    data = ks.StatefulSequence(documents, 2, window, resets=kind == "converted")
    model = masked_network(2) if kind == "plain" else ks.to_stateful(masked_network(), data)
    model.compile(keras.optimizers.SGD(0.0), CROSSENTROPY, weighted_metrics=[CROSSENTROPY])
    callbacks = [ks.ResetStatesCallback()] if kind == "plain" else []
    history = model.fit(data, validation_data=data, verbose=0, callbacks=callbacks).history
    losses = masked_losses(model, documents)
    for values in history.values():
        np.testing.assert_allclose(values, np.concatenate(losses).mean(), rtol=1e-5)
    scores = ks.evaluate_documents(model, documents, sequence_length=window)
    np.testing.assert_allclose(scores["loss"], [x.mean() for x in losses], rtol=1e-5)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", ["converted", "plain"])
def test_a_loss_that_a_later_compile_keeps_is_weighed_as_before(kind, trained):
    """Keras keeps what `compile` is not given, but not in the config, which says there is none."""
    documents = masked_documents((21, 31))
    data = ks.StatefulSequence(documents, 2, 7, resets=kind == "converted")
    model = masked_network(2) if kind == "plain" else ks.to_stateful(masked_network(), data)
    callbacks = [ks.ResetStatesCallback()] if kind == "plain" else []
    model.compile(keras.optimizers.SGD(0.0), CROSSENTROPY, weighted_metrics=[CROSSENTROPY])
    if trained:
        model.fit(data, verbose=0, callbacks=callbacks)
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(data, validation_data=data, verbose=0, callbacks=callbacks).history
    assert len(history) == 4
    for values in history.values():
        expected = np.concatenate(masked_losses(model, documents)).mean()
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"compiled without a loss.*model.compile\(loss="):
        ks.evaluate_documents(model, documents)


def test_masks_of_one_output_of_two_with_a_penalty():
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.Input((None, 2), name="x")
    masked = layers.GRU(4, return_sequences=True)(layers.Embedding(IDS, 3, mask_zero=True)(ids))
    other = layers.GRU(3, return_sequences=True)(x)
    outputs = {
        "a": layers.Dense(1, name="a", kernel_regularizer="l2")(masked),
        "b": layers.Dense(1, name="b")(other),
    }
    network = keras.Model({"ids": ids, "x": x}, outputs)
    documents = [
        {"ids": d, "x": rng.random((len(d), 2)).astype("float32")}
        for d in masked_documents((9, 14))
    ]
    columns = {key: [d[key] for d in documents] for key in ("ids", "x")}
    targets = {k: [rng.random((len(d["ids"]), 1)) for d in documents] for k in "ab"}
    data = ks.StatefulSequence(columns, 2, 4, targets=targets, resets=True)
    shares = {"a": 1.0, "b": 0.25}
    model = converted(network, data, {"a": "mse", "b": "mse"}, loss_weights=shares)
    history = model.fit(data, verbose=0).history
    errors = {"a": [], "b": []}
    for d, a, b in zip(documents, targets["a"], targets["b"], strict=True):
        p = network({k: v[None] for k, v in d.items()})
        p = {k: ops.convert_to_numpy(v)[0] for k, v in p.items()}
        errors["a"].append(np.square(p["a"] - a)[d["ids"] != 0])
        errors["b"].append(np.square(p["b"] - b))
    means = {k: np.concatenate(e).mean() for k, e in errors.items()}
    penalty = float(sum(network.losses))
    np.testing.assert_allclose(history["a_loss"], means["a"], rtol=1e-5)
    np.testing.assert_allclose(history["b_loss"], means["b"], rtol=1e-5)
    expected = means["a"] + 0.25 * means["b"] + penalty
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


# Parts of a pass, and what a user leaves out


def counting_network():
    """Its outputs are its inputs, so that errors are known; the state is carried beside."""
    x = keras.Input((None, 1))
    carried = layers.GRU(1, return_sequences=True)(x)
    return keras.Model(x, layers.Lambda(lambda pair: pair[0] + 0.0 * pair[1])([x, carried]))


def test_the_loss_of_a_part_of_a_pass():
    documents = [np.full((n, 1), float(n)) for n in (3, 17, 9)]
    targets = [np.zeros_like(d) for d in documents]
    data = ks.StatefulSequence(documents, 2, 4, targets=targets, resets=True)
    model = converted(counting_network(), data, "mse")
    steps = 2
    history = model.fit(data, epochs=3, steps_per_epoch=steps, verbose=0).history
    expected = []
    for begin in range(0, len(data), steps):
        batches = [data[i] for i in range(begin, min(begin + steps, len(data)))]
        read = np.concatenate([x[0][w > 0].ravel() for x, _, w in batches])
        expected.append(np.square(read).mean())
    np.testing.assert_allclose(history["loss"][: len(expected)], expected, rtol=1e-5)
    whole = np.concatenate([d.ravel() for d in documents])
    # Numbers of Keras; before 3.15 they are tensors on TensorFlow.
    of_all, of_part = (float(model.evaluate(data, steps=s, verbose=0)) for s in (None, steps))
    assert of_all == pytest.approx(np.square(whole).mean(), rel=1e-5)
    assert of_part == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("way", ["validation_data", "evaluate", "arrays", "documents", "pooled"])
@pytest.mark.parametrize("weights", ["end", "none of a document", "any"])
def test_what_has_weight_0_is_not_in_the_loss(way, weights):
    documents = [rng.random((n, 1)).astype("float32") for n in (40, 24)]
    weight = {
        "end": [(np.arange(len(d)) >= 0.9 * len(d)).astype("float32") for d in documents],
        "none of a document": [np.zeros(40, "float32"), np.ones(24, "float32")],
        "any": [rng.random(len(d)).astype("float32") for d in documents],
    }[weights]
    targets = [np.zeros_like(d) for d in documents]
    arguments = {"targets": targets, "sample_weight": weight}
    train = ks.StatefulSequence(documents, 2, 8, targets=targets, resets=True)
    held_out = ks.StatefulSequence(documents, 2, 8, resets=True, **arguments)
    model = converted(counting_network(), train, "mse")
    if way == "validation_data":
        loss = model.fit(train, validation_data=held_out, verbose=0).history["val_loss"][0]
    elif way == "evaluate":
        loss = model.evaluate(held_out, verbose=0)
    elif way == "documents":
        watch = ks.ValidateDocuments(documents, **arguments)
        loss = model.fit(train, verbose=0, callbacks=[watch]).history["val_loss"][0]
    elif way == "pooled":
        loss = ks.evaluate_documents(model, documents, pooled=True, **arguments)["loss"]
    else:
        inference = ks.to_inference(model, 2)
        inference.compile(loss="mse")
        x = [np.pad(d, ((0, 40 - len(d)), (0, 0))) for d in documents]
        w = [np.pad(v, (0, 40 - len(v))) for v in weight]
        x, y, w = np.stack(x), np.zeros((2, 40, 1)), np.stack(w)
        loss = inference.evaluate(x, y, sample_weight=w, verbose=0)
    values = np.concatenate([np.square(d[:, 0]) for d in documents])
    expected = np.average(values, weights=np.concatenate(weight))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_steps_are_logged_with_the_loss_that_the_optimizer_has():
    network, data = padded()
    model = converted(network, data, "mse")
    x, y, weight = data[len(data) - 1]
    p = ops.convert_to_numpy(model(x))
    expected = np.mean(np.square(p - y)[..., 0] * weight)
    ks.reset_states(model)
    assert model.train_on_batch(x, y, weight) == pytest.approx(expected, rel=1e-5)
    ks.reset_states(model)
    assert model.test_on_batch(x, y, weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("boundary", ["align", "pack"])
@pytest.mark.parametrize("steps", [None, 3])
def test_the_loss_of_a_stream_is_exact_from_the_first_pass(steps, boundary):
    """Whatever is padding: the share is known only when a pass is over."""
    documents = [{"x": np.full((n, 1), float(n)), "y": np.zeros((n, 1))} for n in (3, 17, 9, 5)]
    arguments = {"targets": "y", "boundary": boundary, "resets": True}
    stream = ks.StatefulStream(documents, 2, 4, steps_per_epoch=steps, **arguments)
    x = keras.Input((None, 1), name="x")
    network = keras.Model({"x": x}, counting_network()(x))
    model = converted(network, stream, "mse")
    losses = model.fit(stream, epochs=2, verbose=0).history["loss"]
    again = ks.StatefulStream(documents, 2, 4, steps_per_epoch=steps, **arguments)
    for loss in losses:
        read = np.concatenate([x["x"][w > 0].ravel() for x, _, w in again])
        assert loss == pytest.approx(np.square(read).mean(), rel=1e-5)
    if steps is None:
        fresh = ks.StatefulStream(documents, 2, 4, **arguments)
        history = model.fit(stream, epochs=2, validation_data=fresh, verbose=0).history
        np.testing.assert_allclose(history["val_loss"], losses[0], rtol=1e-5)


@pytest.mark.parametrize("when", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"])
def test_evaluate_within_fit_changes_no_number(when):
    network, data = padded()

    def history(evaluates):
        keras.utils.set_random_seed(4)
        model = ks.to_stateful(keras.models.clone_model(network), data)
        model.compile("sgd", "mse", weighted_metrics=["mae"])
        callback = keras.callbacks.Callback()
        if evaluates:
            setattr(callback, when, lambda *_, **__: model.evaluate(data, verbose=0))
        steps = StepLosses()
        result = model.fit(data, epochs=2, verbose=0, callbacks=[callback, steps]).history
        return steps.losses, result

    assert history(True) == history(False)


@needs_any_rows
@pytest.mark.parametrize("when", ["on_train_batch_end", "on_epoch_end"])
def test_evaluate_of_a_plain_model_within_fit_changes_no_number(when):
    x = rng.random((4, WINDOW, 2)).astype("float32")
    scores = []

    def history(evaluates):
        keras.utils.set_random_seed(4)
        model = keras.Sequential(
            [
                keras.Input((None, 2), batch_size=2),
                layers.RNN(layers.GRUCell(3), return_sequences=True, stateful=True),
                layers.Dense(2),
            ]
        )
        model.compile("sgd", "mse", weighted_metrics=["mae"])
        callback = keras.callbacks.Callback()
        if evaluates:
            setattr(
                callback,
                when,
                lambda *_, **__: scores.append(model.evaluate(x[:2], x[:2], verbose=0)[0]),
            )
        steps, resets = StepLosses(), ks.ResetStatesCallback()
        fitted = model.fit(
            x,
            x,
            batch_size=2,
            shuffle=False,
            epochs=2,
            verbose=0,
            callbacks=[resets, callback, steps],
        )
        whole = ks.to_stateless(model)(x[:2])
        return steps.losses, fitted.history, np.square(ops.convert_to_numpy(whole) - x[:2]).mean()

    evaluated = history(True)
    assert evaluated == history(False)
    assert scores[-1] == pytest.approx(evaluated[-1], rel=1e-5)  # from the initial state


def test_a_model_trained_with_targets_is_scored_with_targets():
    documents = [rng.random((n, 1)).astype("float32") for n in (20, 14)]
    targets = [1 - d for d in documents]
    arguments = {"targets": targets, "resets": True}
    data = ks.StatefulSequence(documents, 2, WINDOW, **arguments)
    own_next_steps = ks.StatefulSequence(documents, 2, WINDOW, resets=True)
    model = converted(counting_network(), data, "mse")
    ks.evaluate_documents(model, documents)  # before a training nobody knows
    model.fit(data, verbose=0)
    for score in (
        lambda: ks.evaluate_documents(model, documents),
        lambda: model.evaluate(own_next_steps, verbose=0),
        lambda: model.fit(data, verbose=0, callbacks=[ks.ValidateDocuments(documents)]),
    ):
        with pytest.raises(ValueError, match=r"where training has `targets`.*Give it the same"):
            score()
    assert np.isfinite(ks.evaluate_documents(model, documents, targets=targets)["loss"]).all()
    with pytest.raises(ValueError, match="`evaluate` would ignore `sample_weight`"):
        model.evaluate(data, sample_weight=np.ones(2), verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow alone traces twice")
@pytest.mark.parametrize("outputs", [["a"], ["a", "b"]])
@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate"])
def test_a_step_makes_no_variables_and_is_traced_once(method, outputs):
    """Optimizer, sums and metrics have theirs before; a step that makes some is traced again."""
    x = keras.Input((None, 2))
    h = layers.GRU(3, return_sequences=True)(x)
    network = keras.Model(x, {name: layers.Dense(1, name=name)(h) for name in outputs})
    traced = []

    def loss(y, p):
        if not p.graph.name.startswith("scratch_graph"):  # in which Keras finds out shapes
            traced.append(p.graph.name)
        return ops.square(y - p)

    documents = [rng.random((n, 2)).astype("float32") for n in (9, 13)]
    targets = {name: [d[:, :1] for d in documents] for name in outputs}
    data = ks.StatefulSequence(documents, 2, 4, targets=targets, resets=True)
    model = ks.to_stateful(network, data)
    model.compile("adam", {name: loss for name in outputs}, weighted_metrics={"a": ["mae", "mse"]})
    if method == "train_on_batch":
        model.train_on_batch(*data[0])
    else:
        getattr(model, method)(data, verbose=0)
    assert len(traced) == len(outputs), traced
