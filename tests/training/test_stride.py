"""Windows that overlap: every `stride` steps an update, through all of a window.

The hand loop runs a model without a stride. It starts each window from given states, trains on it,
and takes as the states for the next one those that the same weights give behind `stride` steps.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from releases import SLIDING_WINDOW
from small_trainings import of_this_batch

import keras_stateful as ks

ROWS, WINDOW, STRIDE, IDS = 2, 7, 3, 6
RATE = 0.3


class Sum(layers.Layer):
    """The sum of all steps since a document's start, an activation behind it."""

    def added_up(self, x, before, resets):
        document = ops.cumsum(ops.cast(resets, "int32"), axis=1)
        step = ops.cumsum(ops.ones_like(x[..., 0]), axis=1)
        reads = (step[:, :, None] >= step[:, None, :]) & (
            document[:, :, None] == document[:, None, :]
        )
        total = ops.matmul(ops.cast(reads, x.dtype), x)
        goes_on = ops.cast(document == 0, x.dtype)[..., None]
        return total + goes_on * before[:, None]

    def call(self, x):
        nothing = ops.zeros_like(x[:, 0])
        return ops.tanh(self.added_up(x, nothing, ops.zeros_like(x[..., 0], "bool")))


class CarrySum:
    def initial_states(self, layer, batch_size, shape):
        return [ops.zeros((batch_size, shape[-1]))]

    def advance(self, layer, states, x, resets=None):
        resets = ops.zeros_like(x[..., 0], "bool") if resets is None else resets
        total = layer.added_up(x, states[0], resets)
        return ops.tanh(total), [total[:, -1]]


class Weighed(layers.Layer):
    """Adds up what each row weighs by the mean of a vector of its own; all sums, the last one."""

    def advance(self, total, x, weights):
        weight = ops.mean(weights, axis=-1)[:, None, None]
        totals = total[:, None] + ops.cumsum(x * weight, axis=1)
        return (totals, totals[:, -1]), [totals[:, -1]]

    def call(self, x, weights):
        return self.advance(ops.zeros_like(x[:, 0]), x, weights)[0]

    def compute_output_shape(self, x_shape, weights_shape):
        return x_shape, (x_shape[0], x_shape[-1])


class CarryWeighed:
    def initial_states(self, layer, batch_size, x_shape, weights_shape):
        return [ops.zeros((batch_size, x_shape[-1]))]

    def advance(self, layer, states, x, weights, resets=None):
        return layer.advance(states[0], x, weights)


@pytest.fixture(autouse=True)
def adapter():
    ks.register_carry(Sum, CarrySum())
    ks.register_carry(Weighed, CarryWeighed())


def recurrent(h):
    h = layers.LSTM(4, return_sequences=True)(h)
    h = layers.GRU(4, return_sequences=True)(h)
    cells = [layers.SimpleRNNCell(3), layers.LSTMCell(4)]
    return layers.RNN(cells, return_sequences=True)(h)


def past(h):
    h = layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="tanh")(h)
    h = layers.Conv1D(4, 2, activation="tanh")(layers.ZeroPadding1D((1, 0))(h))
    h = Sum()(layers.Dense(3)(h))
    return layers.Add()([layers.Dense(4)(h), layers.GRU(4, return_sequences=True)(h)])


def attention(h):
    attend = layers.MultiHeadAttention(2, 2, sliding_window=5)
    return layers.Add()([h, attend(h, h, use_causal_mask=True)])


def state_too(h):
    """What is returned of the state is that of the window's end."""
    h, last = layers.GRU(4, return_sequences=True, return_state=True)(h)
    _, end = layers.SimpleRNN(3, return_state=True)(h)
    return layers.Concatenate()([last, end])


KINDS = {"recurrent": recurrent, "past": past, "attention": attention, "ends": state_too}
if not SLIDING_WINDOW:
    del KINDS["attention"]


def network(kind, mask_zero=False):
    keras.utils.set_random_seed(5)
    ids = keras.Input((None,), dtype="int32")
    h = layers.Embedding(IDS, 4, mask_zero=mask_zero)(ids)
    return keras.Model(ids, layers.Dense(IDS)(KINDS[kind](h)))


def compiled(model, rate=RATE):
    model.compile(
        keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def documents(*lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(0, IDS, n) for n in lengths]


def sequence(corpus=None, rows=ROWS, stride=STRIDE, **kwargs):
    corpus = documents(25, 9, 16, 4, 11) if corpus is None else corpus
    return ks.StatefulSequence(corpus, rows, WINDOW, stride=stride, resets=True, **kwargs)


def by_hand(model, batches, epochs=1):
    """Trains a model without a stride on overlapping windows.

    Returns:
        For each epoch the mean loss over what counts, and the states that the next window has.
    """
    states, losses = ks.get_states(model), []
    for _ in range(epochs):
        total = weights = 0.0
        for (x, resets), y, *weight in batches:
            mask = resets[:, :STRIDE] if resets.ndim == 2 else resets
            ks.set_states(model, states)
            model.predict_on_batch((x[:, :STRIDE], mask))
            after = ks.get_states(model)
            ks.set_states(model, states)
            total += float(of_this_batch(model, (x, resets), y, *weight))
            weights += weight[0].mean()
            states = after
        losses.append(total / weights)
    return losses, states


def assert_same_states(got, expected):
    assert list(got) == list(expected)
    for path, arrays in expected.items():
        for a, b in zip(got[path], arrays, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=path)


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [*((kind, "align") for kind in KINDS), ("recurrent", "pack"), ("past", "pack")],
)
def test_fit_is_the_hand_loop(kind, boundary):
    read = sequence(boundary=boundary, label_at="window" if kind == "ends" else "every")
    plain = network(kind)
    model = compiled(ks.to_stateful(plain, read))
    reference = compiled(ks.to_stateful(plain, ROWS, resets=model.resets))
    start = model.get_weights()
    losses, states = by_hand(reference, list(read), epochs=2)
    read.epoch = 0
    history = model.fit(read, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    moved = 0.0
    for a, b, before in zip(model.get_weights(), reference.get_weights(), start, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        moved = max(moved, np.abs(b - before).max())
    assert moved > 0.01
    assert_same_states(ks.get_states(model), states)


@pytest.mark.parametrize("width", [3, 5])  # fewer than the steps that are carried on, and more
def test_what_has_no_time_is_not_cut_with_a_window(width):
    x, weights = keras.Input((None, 3)), keras.Input((width,), name="weights")
    plain = keras.Model([x, weights], Weighed()(x, weights))
    rng = np.random.default_rng(0)
    read = ks.StatefulSequence(rng.standard_normal((40, 3)), ROWS, WINDOW, stride=STRIDE)
    model = ks.to_stateful(plain, read)
    stream, of_rows = rng.standard_normal((ROWS, 20, 3)), rng.standard_normal((ROWS, width))
    whole, _ = plain.predict_on_batch([stream, of_rows])
    for start in range(0, 20 - WINDOW, STRIDE):
        window = slice(start, start + WINDOW)
        sums, last = model.predict_on_batch([stream[:, window], of_rows])
        np.testing.assert_allclose(sums, whole[:, window], atol=1e-5)
        np.testing.assert_allclose(last, sums[:, -1], atol=1e-6)


def test_plain_layers_of_keras_in_a_loop_of_windows():
    """Without anything of this package: states are inputs, windows are cut by hand."""
    text, units = np.random.default_rng(1).integers(0, IDS, 52), 4
    read = sequence(text, rows=2)
    model = compiled(ks.to_stateful(lstm(units), read))
    plain = lstm(units)
    embed, cell, dense = plain.layers
    ids = keras.Input((None,), dtype="int32")
    given = [keras.Input((units,)), keras.Input((units,))]
    h, *after = layers.LSTM(units, return_sequences=True, return_state=True, name="copy")(
        embed(ids), initial_state=given
    )
    trained = compiled(keras.Model([ids, *given], dense(h)))
    advanced = keras.Model([ids, *given], after)
    trained.get_layer("copy").set_weights(cell.get_weights())

    windows = 1 + ((len(text) - 1) // 2 - WINDOW) // STRIDE
    length = WINDOW + (windows - 1) * STRIDE
    streams = np.stack([text[:length], text[length : 2 * length]])
    following = np.stack([text[1 : length + 1], text[length + 1 : 2 * length + 1]])
    assert len(read) == windows
    states, losses, total = [np.zeros((2, units), "float32")] * 2, [], 0.0
    for i in range(windows):
        x, y = (a[:, i * STRIDE : i * STRIDE + WINDOW] for a in (streams, following))
        weight = np.ones((2, WINDOW), "float32")
        weight[:, : WINDOW - STRIDE] = i == 0  # each step once
        weight *= windows * WINDOW / length
        after = advanced.predict_on_batch([x[:, :STRIDE], *states])
        loss = of_this_batch(trained, [x, *states], y, sample_weight=weight)
        losses.append(float(loss))
        total += weight.mean()
        states = after

    history = model.fit(read, verbose=0).history
    np.testing.assert_allclose(history["loss"], np.sum(losses) / total, rtol=1e-5)
    for a, b in zip(ks.get_states(model)["lstm"], states, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    weights = [*embed.get_weights(), *trained.get_layer("copy").get_weights(), *dense.get_weights()]
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def lstm(units=4, mask_zero=False):
    keras.utils.set_random_seed(6)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(IDS, 3, mask_zero=mask_zero),
            layers.LSTM(units, return_sequences=True, name="lstm"),
            layers.Dense(IDS),
        ]
    )


@pytest.mark.parametrize(
    ("boundary", "mask_zero"), [("align", True), ("pack", True), ("ignore", False)]
)
def test_predictions_are_those_of_one_pass(boundary, mask_zero):
    """Each step in the window in which it is new, put back into documents."""
    docs = [np.maximum(d, 1) for d in documents(25, 9, 16, 4, 11)]
    docs[0][4:9] = 0  # masked steps in the middle
    read = sequence(docs, boundary=boundary, burn_in=4)
    plain = lstm(mask_zero=mask_zero)
    model = ks.to_stateful(plain, read)
    restored = read.restore(model.predict(read, verbose=0))
    text = np.concatenate(docs)
    if boundary == "ignore":
        length = WINDOW + (len(read) - 1) * STRIDE
        line = np.concatenate(restored)
        for r in range(ROWS):
            part = slice(r * length, (r + 1) * length)
            outputs = plain.predict_on_batch(text[None, part])[0]
            np.testing.assert_allclose(line[part], outputs, atol=1e-5)
        assert np.isnan(line[ROWS * length :]).all()
        return
    for document, outputs in zip(docs, restored, strict=True):
        expected = plain.predict_on_batch(document[None])[0]
        real = (document > 0)[:-1] if mask_zero else slice(None)
        np.testing.assert_allclose(outputs[:-1][real], expected[:-1][real], atol=1e-5)


def test_the_loss_is_the_mean_over_steps_whatever_the_stride():
    losses = []
    for stride in (None, 2, 6):
        read = sequence(stride=stride, burn_in=2)
        model = compiled(ks.to_stateful(lstm(), read), rate=0.0)
        losses += model.fit(read, validation_data=read, verbose=0).history["loss"]
        losses.append(model.evaluate(read, verbose=0))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_what_is_made_of_the_model_has_no_stride(tmp_path):
    read = sequence()
    model = compiled(ks.to_stateful(network("recurrent"), read))
    model.fit(read, verbose=0)
    assert model.stride == STRIDE
    x = documents(12)[0][None]
    whole = ks.to_stateless(model).predict_on_batch(x)
    live = ks.to_inference(model)
    assert live.stride is None
    by_steps = [live.predict_on_batch(x[:, t : t + 1]) for t in range(x.shape[1])]
    np.testing.assert_allclose(np.concatenate(by_steps, 1), whole, atol=1e-5)
    step = ks.to_step_model(model)
    outputs, *_ = step.predict_on_batch([x, *ks.initial_states(step)])
    np.testing.assert_allclose(outputs, whole, atol=1e-5)
    assert ks.to_stateful(model, ROWS).stride is None

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.stride == STRIDE
    watch = ks.ValidateDocuments(documents(20, 9))
    for each in (model, loaded):
        ks.reset_states(each)
    histories = [m.fit(read, verbose=0, callbacks=[watch]).history for m in (model, loaded)]
    np.testing.assert_allclose(*[h["loss"] for h in histories], rtol=1e-5)


def test_a_stride_of_a_whole_window_is_none():
    assert sequence(stride=WINDOW).stride is None
    assert ks.to_stateful(lstm(), sequence(stride=WINDOW)).stride is None


def refusals():
    """Calls that read windows which begin elsewhere than where the model's state is."""
    x, y = (np.zeros((ROWS, WINDOW), "int32") for _ in range(2))
    mask = np.zeros(ROWS, bool)
    overlaps, plain = sequence(), sequence(stride=None)
    strided = compiled(ks.to_stateful(lstm(), overlaps))
    whole = compiled(ks.to_stateful(lstm(), plain))
    to_stateful, make = "`to_stateful\\(model, sequence\\)`", r"ake the sequence with `stride=3`"
    return {
        "another stride": (lambda: strided.fit(sequence(stride=2)), f"stride=2.*3 steps.*{make}"),
        "no stride": (lambda: strided.fit(plain), f"stride=7.*{make}.*`ValidateDocuments`"),
        "a stride that the model has not": (
            lambda: whole.fit(overlaps),
            f"stride=3.*a whole window.*{to_stateful}, or make the sequence without `stride=`",
        ),
        "a validation without it": (lambda: strided.fit(overlaps, validation_data=plain), make),
        "an evaluation without it": (lambda: strided.evaluate(plain), make),
        "predictions without it": (lambda: strided.predict(plain), make),
        "arrays": (
            lambda: strided.fit((x, mask), y, shuffle=False),
            r"x of type tuple.*`StatefulSequence\(..., stride=3\)`",
        ),
        "arrays to evaluate": (lambda: strided.evaluate((x, mask), y), "stride=3"),
        "arrays to predict": (lambda: strided.predict((x, mask)), "to_inference"),
        "batches of a generator": (
            lambda: strided.fit((batch for batch in overlaps), steps_per_epoch=2),
            "type generator",
        ),
        "a window that ends before": (
            lambda: strided.predict_on_batch((x[:, :2], mask)),
            "a window of 2 time steps.*stride=3",
        ),
    }


def test_windows_that_begin_elsewhere_are_refused():
    for name, (call, words) in refusals().items():
        with pytest.raises(ValueError, match=words):
            call()
            pytest.fail(name)


def test_plain_stateful_layers_cannot_be_told():
    model = keras.Sequential(
        [
            keras.Input((None,), batch_size=ROWS, dtype="int32"),
            layers.Embedding(IDS, 3),
            layers.LSTM(4, return_sequences=True, stateful=True),
            layers.Dense(IDS),
        ]
    )
    read = ks.StatefulSequence(documents(25, 9), ROWS, WINDOW, stride=STRIDE)
    compiled(model)
    with pytest.raises(ValueError, match=r"stride=3.*`to_stateful\(model, sequence\)`\."):
        model.fit(read, callbacks=[ks.ResetStatesCallback(read)])
