"""Attention with a bounded memory: windows equal one long pass with the banded mask."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from passes import close, read
from releases import since_keras

import keras_stateful as ks

pytestmark = since_keras("3.15")  # has `sliding_window`

ROWS, STEPS, WINDOW = 3, 18, 5
BANDED = {"use_causal_mask": True}


def self_attention(**options):
    return layers.MultiHeadAttention(2, 4, sliding_window=WINDOW, **options)


def grouped(**options):
    return layers.GroupQueryAttention(3, 4, 2, sliding_window=WINDOW, **options)


def stack(*attentions, masked=False):
    """A causal transformer without an RNN: two layers, which read 2 * (WINDOW - 1) steps back."""
    x = keras.Input((None, 4))
    h = layers.Masking()(x) if masked else x
    for attention in attentions or (self_attention(name="first"), grouped(use_gate=True)):
        h = layers.Add()([h, attention(h, h, **BANDED)])
        h = layers.LayerNormalization()(h)
    return keras.Model(x, layers.Dense(3)(h))


def streams():
    """Two streams: one asks the other, whose keys are a third tensor; behind it an RNN."""
    a, b = keras.Input((None, 4)), keras.Input((None, 4))
    h = self_attention(use_gate=True, output_shape=6, name="cross")(
        a, b, layers.Dense(5)(b), **BANDED
    )
    return keras.Model([a, b], layers.GRU(3, return_sequences=True, name="gru")(h))


def shared():
    """One layer for two streams, in a sub-model with an LSTM in front."""
    a, b = keras.Input((None, 4)), keras.Input((None, 4))
    attention = grouped(name="attention")
    u = keras.Input((None, 4))
    inner = keras.Model(u, self_attention(name="inside")(u, u, **BANDED), name="inner")
    h = layers.LSTM(4, return_sequences=True, name="lstm")(a)
    h = layers.Concatenate()([attention(inner(h), h, **BANDED), attention(b, b, **BANDED)])
    return keras.Model([a, b], layers.Dense(2)(h))


MODELS = {"stack": stack, "streams": streams, "shared": shared}


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(4)
    return MODELS[request.param]()


def test_windows_equal_one_long_pass(model, tmp_path):
    arrays = zoo.data(model, ROWS, STEPS)
    whole = read(model, arrays, [0, STEPS])
    training = ks.to_stateful(model, ROWS)
    close(read(training, arrays, [0, 2, 4, 11, 18]), whole)  # shorter and longer than the memory
    training.save(tmp_path / "training.keras")
    loaded = keras.models.load_model(tmp_path / "training.keras")
    ks.reset_states(loaded)
    close(read(loaded, arrays, [0, 9, 18]), whole)

    live = ks.to_inference(training, ROWS, share_weights=True)
    assert {id(w) for w in live.weights} == {id(w) for w in training.weights}
    assert ks.get_states(live).keys() == ks.get_states(training).keys()
    close(read(live, arrays, [0, *range(9, STEPS + 1)]), whole)
    live.save(tmp_path / "live.keras")
    again = keras.models.load_model(tmp_path / "live.keras")
    ks.reset_states(again)
    close(read(ks.to_stateful(again, ROWS), arrays, [0, 9, 18]), whole)
    close(read(ks.to_stateless(again), arrays, [0, STEPS]), whole)

    step = ks.to_step_model(model)
    states, parts = ks.initial_states(step, ROWS), []
    for part in (slice(0, 9), slice(9, 18)):
        y, *states = step([*(x[:, part] for x in arrays), *states])
        parts.append(zoo.outputs(y)[0])
    close(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("resets", ["window", "step"])
def test_resets_equal_each_document_alone(model, resets):
    arrays = zoo.data(model, ROWS, STEPS)
    starts = np.random.default_rng(1).random((ROWS, STEPS)) < 0.2
    starts[:, 0] = True
    if resets == "window":
        starts[:, [t for t in range(STEPS) if t % 6]] = False
        starts[1, 6] = starts[2, 12] = True
    mask = lambda a, b: starts[:, a] if resets == "window" else starts[:, a:b]  # noqa: E731
    got = read(ks.to_stateful(model, ROWS, resets=resets), arrays, [0, 6, 12, 18], mask)
    for row in range(ROWS):
        # What stands behind a document changes nothing in it, and one length is compiled once.
        for a, b in itertools.pairwise([*np.flatnonzero(starts[row]), STEPS]):
            alone = [np.roll(x[row : row + 1], -a, axis=1) for x in arrays]
            close(got[row, a:b], read(model, alone, [0, STEPS])[0, : b - a])


@pytest.mark.parametrize("resets", [None, "step"])
def test_masked_steps_are_read_by_nobody(resets):
    keras.utils.set_random_seed(4)
    model = stack(grouped(name="first"), grouped(use_gate=True), masked=True)
    (x,) = zoo.data(model, ROWS, STEPS)
    masked = np.random.default_rng(0).random((ROWS, STEPS)) < 0.4
    masked[0, :8] = True  # longer than the memory, from the start on, over the edge of a window
    masked[1, 5:13] = True
    x[masked] = 0
    whole = read(model, [x], [0, STEPS])
    none = None if resets is None else lambda a, b: np.zeros((ROWS, b - a), bool)
    got = read(ks.to_stateful(model, ROWS, resets=resets), [x], [0, 6, 12, 18], none)
    assert np.isfinite(got).all()
    close(got[~masked], whole[~masked])
    live = ks.to_inference(model, ROWS)
    close(read(live, [x], [0, 6, 12, 18])[~masked], whole[~masked])


def masked_reader(attention, reader, residual):
    x = keras.Input((None, 4))
    h = layers.Masking()(x)
    a = attention(h, h, **BANDED)
    return keras.Model(x, reader(layers.Add()([h, a]) if residual else layers.Dense(4)(a)))


def test_what_attention_puts_out_at_masked_steps_reaches_no_other_step():
    """Keras makes it of the whole window: whoever reads it must know the mask when it runs."""
    keras.utils.set_random_seed(4)
    model = masked_reader(self_attention(), layers.LSTM(3, return_sequences=True), False)
    (x,) = zoo.data(model, ROWS, STEPS)
    masked = np.random.default_rng(0).random((ROWS, STEPS)) < 0.4
    x[masked] = 0
    whole = read(model, [x], [0, STEPS])
    close(read(ks.to_inference(model, ROWS), [x], [0, 7, 18])[~masked], whole[~masked])
    rnn, conv = layers.GRU(3, return_sequences=True), layers.Conv1D(3, 2, padding="causal")
    for attention, reader, residual in [
        (self_attention(), rnn, True),  # the mask is lost at the sum
        (grouped(), conv, False),  # a convolution has no masks
        (self_attention(), lambda h: grouped()(h, h, **BANDED), True),
    ]:
        with pytest.raises(ValueError, match="give padding the sample weight 0"):
            ks.to_stateful(masked_reader(attention, reader, residual), 2)


def test_gradients_are_those_of_a_pass_in_which_the_past_is_constant():
    """Transformer-XL: the held inputs are read, and projected with the weights of today."""
    keras.utils.set_random_seed(4)
    x, h = keras.Input((None, 4)), keras.Input((None, 4))  # h: the past, held constant
    attention = self_attention(name="attention")
    model = keras.Model(x, attention(x, x, **BANDED))
    both = layers.Concatenate(axis=1)([h, x])
    banded = keras.Model([h, x], attention(both, both, **BANDED)[:, WINDOW - 1 :])
    (x,) = zoo.data(model, 2, 12)
    y = np.ones((2, 6, 4), "float32")
    training = ks.to_stateful(model, 2)
    for m in (training, banded):
        m.compile(keras.optimizers.SGD(0.5), "mse")
    training.predict_on_batch(x[:, :6])
    training.train_on_batch(x[:, 6:], y)
    banded.train_on_batch([x[:, 6 - WINDOW + 1 : 6], x[:, 6:]], y)
    for a, b in zip(training.get_weights(), banded.get_weights(), strict=True):
        close(a, b)


def test_a_stack_trains_through_a_sequence_without_any_rnn():
    keras.utils.set_random_seed(1)
    documents = [np.random.default_rng(i).integers(1, 9, 40 + 7 * i) for i in range(4)]
    ids = keras.Input((None,), dtype="int32")
    h = layers.Embedding(9, 8)(ids)
    h = layers.Add()([h, grouped(dropout=0.1)(h, h, **BANDED)])
    model = keras.Model(ids, layers.Dense(9)(h))
    sequence = ks.StatefulSequence(documents, 2, 8, boundary="pack", resets=True)
    training = ks.to_stateful(model, sequence)
    training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = training.fit(sequence, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.isfinite(ks.evaluate_documents(training, documents)["loss"]).all()
    prompt = documents[0][:10]
    written = ks.generate(training, prompt, 4, temperature=0.0, from_logits=True)
    plain, text = ks.to_stateless(training), list(prompt)
    for _ in range(4):
        text.append(int(np.argmax(plain.predict_on_batch(np.array([text]))[0, -1])))
    assert list(written) == text[10:]


def test_half_precision_keeps_its_past_in_float32():
    keras.utils.set_random_seed(1)
    x = keras.Input((None, 4))
    model = keras.Model(x, grouped(dtype="mixed_bfloat16", name="g")(x, x, **BANDED))
    (x,) = zoo.data(model, 2, 12)
    training = ks.to_stateful(model, 2)
    whole = np.asarray(read(model, [x], [0, 12]), "float32")
    close(np.asarray(read(training, [x], [0, 6, 12]), "float32"), whole, 0.05)
    assert {s.dtype.name for s in ks.get_states(training)["g"]} == {"float32"}


@pytest.mark.parametrize("form", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_an_artifact_equals_one_long_pass_over_1000_steps(form, tmp_path):
    """The memory of a step is full from the 9th on; a class of a user's own is among them."""
    keras.utils.set_random_seed(4)
    model = stack(Biases(name="first"), grouped(use_gate=True))
    (x,) = zoo.data(model, 1, 1000)
    whole = read(model, [x], [0, 1000])
    ks.export_step_model(model, tmp_path / "artifact", form)
    with ks.load_session(tmp_path / "artifact") as session:
        steps = [session.step(x[:, t]) for t in range(1000)]
        assert list(session.get_states()) == [key for key in ks.get_states(ks.to_inference(model))]
    close(np.stack(steps, axis=1), whole)


class Positions(layers.MultiHeadAttention):
    """Computes something else, of the place of a key in the window."""

    def _compute_attention(self, query, key, value, *args, **kwargs):
        place = ops.arange(ops.shape(key)[1], dtype=key.dtype)
        return super()._compute_attention(
            query, key + place[None, :, None, None], value, *args, **kwargs
        )


class Biases(layers.MultiHeadAttention):
    """A constructor of its own changes nothing."""

    def __init__(self, **kwargs):
        super().__init__(2, 4, sliding_window=3, **kwargs)

    def get_config(self):
        return {"name": self.name}


def attending(layer, steps=None, features=(4,), **options):
    x = keras.Input((steps, *features))
    outputs = layer(x, x, **{**BANDED, **options})
    return keras.Model(x, outputs)


def learned_positions():
    x = keras.Input((8, 4))
    position = layers.Embedding(8, 4)(ops.arange(8))
    h = x + position
    return keras.Model(x, self_attention()(h, h, **BANDED))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: attending(layers.MultiHeadAttention(2, 4)), "sliding_window="),
        (lambda: attending(layers.GroupQueryAttention(3, 4, 2)), "sliding_window="),
        (lambda: attending(self_attention(), use_causal_mask=False), "use_causal_mask=True"),
        (
            lambda: attending(self_attention(), 6, attention_mask=np.ones((1, 6, 6), bool)),
            "Leave it out: the masks of its inputs",
        ),
        (
            lambda: attending(self_attention(), return_attention_scores=True),
            "Leave `return_attention_scores` out",
        ),
        (lambda: attending(self_attention(), features=(2, 4)), "without `attention_axes`"),
        (
            lambda: attending(self_attention(activity_regularizer="l2")),
            "put `ActivityRegularization` behind it",
        ),
        (lambda: attending(Positions(2, 4, sliding_window=3)), "cannot be derived|window"),
        (learned_positions, "one value for each time step of a window"),
    ],
)
def test_refused(build, message):
    with pytest.raises(ValueError, match=message):
        ks.to_stateful(build(), 2)


def test_outputs_behind_attention_are_penalized_once():
    """The remedy of the refusal: the penalty of two windows is that of one long call."""
    x = keras.Input((None, 4))
    h = self_attention()(x, x, **BANDED)
    model = keras.Model(x, layers.ActivityRegularization(l2=0.1)(h))
    inference = ks.to_inference(model, ROWS)
    (data,) = zoo.data(model, ROWS, STEPS)

    def penalty(network, part):
        network(part)
        return float(ops.convert_to_numpy(sum(network.losses))) * ROWS

    parts = penalty(inference, data[:, :11]) + penalty(inference, data[:, 11:])
    np.testing.assert_allclose(parts, penalty(model, data), rtol=1e-5)


def test_a_subclass_that_computes_the_same_carries():
    model = attending(Biases())
    (x,) = zoo.data(model, ROWS, STEPS)
    close(read(ks.to_inference(model, ROWS), [x], [0, 11, 18]), read(model, [x], [0, STEPS]))
