"""Layers that Keras does not have carry as its recurrent ones do, once an adapter says how."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from passes import close, read

import keras_stateful as ks

ROWS, STEPS = 3, 12


def no_resets(x):
    return ops.zeros_like(x[..., 0], "bool")


def reach(resets, dtype):
    """Which steps each step reads, by how many they lie behind, and which read what was carried."""
    document = ops.cumsum(ops.cast(resets, "int32"), axis=1)
    step = ops.cumsum(ops.ones_like(document), axis=1)
    lag = step[:, :, None] - step[:, None, :]
    reads = ops.logical_and(lag >= 0, document[:, :, None] == document[:, None, :])
    return ops.cast(reads, dtype), ops.cast(lag, dtype), ops.cast(document == 0, dtype)


class Leaky(layers.Layer):
    """h[t] = keep * h[t-1] + x[t]: no weights, no `build`, a shape that Keras finds by running."""

    keep = 0.9

    def advance(self, h, x, resets):
        reads, lag, carried = reach(resets, x.dtype)
        outputs = ops.matmul(reads * self.keep**lag, x)
        outputs = outputs + carried[..., None] * self.keep ** (lag[:, :, :1] + 1) * h[:, None]
        return outputs, outputs[:, -1]

    def call(self, x):
        return self.advance(ops.zeros_like(x[:, 0]), x, no_resets(x))[0]


class CarryLeaky:
    def initial_states(self, layer, batch_size, shape):
        return [ops.zeros((batch_size, shape[-1]))]

    def advance(self, layer, states, x, resets=None):
        outputs, h = layer.advance(states[0], x, no_resets(x) if resets is None else resets)
        return outputs, [h]


class Slower(Leaky):
    """A subclass without a `call` of its own, for which the adapter of `Leaky` stands too."""

    keep = 0.5


class Total(layers.Layer):
    """What was read so far and how often, from a start that is learned.

    Weights that a layer below builds as it is called, two states, two outputs, and a mask.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.supports_masking = units, True
        self.dense = layers.Dense(units, name="dense")
        self.start = self.add_weight(shape=(units,), initializer="ones", name="start")

    def advance(self, total, count, x, resets, mask):
        x = self.dense(x)
        weight = ops.ones_like(x[..., :1]) if mask is None else ops.cast(mask, x.dtype)[..., None]
        reads, _, carried = reach(resets, x.dtype)
        carried = carried[..., None]
        start = ops.broadcast_to(self.start, ops.shape(total))
        totals = ops.matmul(reads, x * weight)
        totals = totals + carried * total[:, None] + (1 - carried) * start[:, None]
        counts = ops.matmul(reads, weight) + carried * count[:, None]
        return totals, counts, [totals[:, -1], counts[:, -1]]

    def call(self, x, mask=None):
        start = ops.broadcast_to(self.start, (ops.shape(x)[0], self.units))
        count = ops.zeros_like(start[:, :1])
        return self.advance(start, count, x, no_resets(x), mask)[:2]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class CarryTotal:
    def initial_states(self, layer, batch_size, shape):
        start = ops.broadcast_to(layer.start, (batch_size, layer.units))
        return [start, ops.zeros((batch_size, 1))]

    def advance(self, layer, states, x, resets=None, mask=None):
        resets = no_resets(x) if resets is None else resets
        *outputs, states = layer.advance(*states, x, resets, mask)
        return outputs, states


class Gated(layers.Layer):
    """Adds up what a gate lets through, for two tensors, one of them given by name."""

    def build(self, x_shape, gate_shape):
        self.kernel = self.add_weight(shape=(gate_shape[-1], x_shape[-1]), name="kernel")

    def advance(self, h, x, gate, resets):
        reads, _, carried = reach(resets, x.dtype)
        outputs = ops.matmul(reads, ops.sigmoid(ops.matmul(gate, self.kernel)) * x)
        outputs = outputs + carried[..., None] * h[:, None]
        return outputs, outputs[:, -1]

    def call(self, x, gate):
        return self.advance(ops.zeros_like(x[:, 0]), x, gate, no_resets(x))[0]

    def compute_output_shape(self, x_shape, gate_shape):
        return x_shape


class CarryGated:
    def initial_states(self, layer, batch_size, x_shape, gate_shape):
        assert gate_shape[-1] == layer.kernel.shape[0]
        return [ops.zeros((batch_size, x_shape[-1]))]

    def advance(self, layer, states, x, gate, resets=None):
        outputs, h = layer.advance(states[0], x, gate, no_resets(x) if resets is None else resets)
        return outputs, [h]


ks.register_carry(Leaky, CarryLeaky())
ks.register_carry(Total, CarryTotal())
ks.register_carry(Gated, CarryGated())


def _stack(*parts, shape=(None, 3), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def _total():
    x = keras.Input((None, 3))
    totals, counts = Total(4, name="total")(x)
    return keras.Model(x, layers.Dense(2)(layers.Concatenate()([totals, counts])))


def _gated():
    x, gate = keras.Input((None, 3)), keras.Input((None, 2))
    h = Gated(name="gated")(x, gate=layers.Dense(5)(gate))
    return keras.Model([x, gate], layers.Dense(2)(h))


def _among_others():
    """Behind an LSTM, in a sub-model, and called twice."""
    a, b = keras.Input((None, 3)), keras.Input((None, 3))
    inner = _stack(layers.Dense(3), Slower(name="slower"))
    inner.name = "inner"
    leaky = Leaky(name="leaky")
    h = layers.LSTM(3, return_sequences=True, name="lstm")(leaky(a))
    return keras.Model([a, b], layers.Concatenate()([inner(h), leaky(b)]))


MODELS = {
    "total": _total,
    "gated": _gated,
    "among_others": _among_others,
}


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(5)
    return MODELS[request.param]()


@pytest.mark.parametrize("resets", ["window", "step"])
def test_windows_with_resets_equal_each_document_alone(model, resets, tmp_path):
    """Documents that go on over the edge of a window, and a model that comes from a file."""
    arrays = zoo.data(model, ROWS, STEPS)
    starts = np.random.default_rng(1).random((ROWS, STEPS)) < 0.3
    starts[:, 0] = True
    if resets == "window":
        starts[:, 1:] = False
        starts[1, 6] = True
    stateful = ks.to_stateful(model, ROWS, resets=resets)
    stateful.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [w.path for w in stateful.weights] == [w.path for w in loaded.weights]
    mask = lambda a, b: starts[:, a] if resets == "window" else starts[:, a:b]  # noqa: E731
    got = read(loaded, arrays, [0, 6, 12], mask)
    for row in range(ROWS):
        # What stands behind a document changes nothing in it, and one length is compiled once.
        for a, b in itertools.pairwise([*np.flatnonzero(starts[row]), STEPS]):
            alone = read(model, [np.roll(x[row : row + 1], -a, axis=1) for x in arrays], [0, STEPS])
            close(got[row, a:b], alone[0, : b - a])


def test_converted_back_shared_step_by_step_and_as_a_step_model(model):
    arrays = zoo.data(model, ROWS, STEPS)
    whole = read(model, arrays, [0, STEPS])
    stateful = ks.to_stateful(model, ROWS, resets="window")
    plain = ks.to_stateless(stateful)
    with pytest.raises(ValueError, match="carries no state"):
        ks.get_states(plain)
    close(read(plain, arrays, [0, STEPS]), whole)

    live = ks.to_inference(model, ROWS, share_weights=True)
    assert {id(w) for w in live.weights} == {id(w) for w in model.weights}
    close(read(live, arrays, [0, *range(6, STEPS + 1)]), whole)
    assert ks.get_states(live).keys() == ks.get_states(stateful).keys()

    step = ks.to_step_model(stateful)
    assert set(step.state_paths) == set(ks.get_states(stateful))
    states, parts = ks.initial_states(step, ROWS), []
    for part in (slice(0, 7), slice(7, 12)):
        y, *states = step([*(x[:, part] for x in arrays), *states])
        parts.append(zoo.outputs(y)[0])
    close(np.concatenate(parts, axis=1), whole)


def test_states_are_those_of_a_loop_by_hand():
    model = _stack(Leaky(name="leaky"))
    (x,) = zoo.data(model, ROWS, STEPS)
    stateful = ks.to_stateful(model, ROWS)
    read(stateful, [x], [0, 5, 7])
    h = np.zeros((ROWS, 3))
    for t in range(7):
        h = 0.9 * h + x[:, t]
    close(ks.get_states(stateful)["leaky"][0], h)
    ks.set_states(stateful, {"leaky": [2 * h]})
    ks.reset_states(stateful, rows=[1])
    h[1] = 0
    h[[0, 2]] *= 2
    close(ks.get_states(stateful)["leaky"][0], h)


def test_a_mask_reaches_the_adapter():
    keras.utils.set_random_seed(0)
    embedding = layers.Embedding(7, 3, mask_zero=True)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), embedding, Total(4)])
    ids = np.random.default_rng(0).integers(0, 3, (ROWS, STEPS))
    totals, counts = model.predict_on_batch(ids)
    close(counts[..., 0], np.cumsum(ids > 0, axis=1))
    stateful = ks.to_stateful(model, ROWS, resets="step")
    windows = [
        stateful.predict_on_batch([ids[:, part], np.zeros((ROWS, 6), bool)])
        for part in (slice(0, 6), slice(6, 12))
    ]
    close(np.concatenate([w[0] for w in windows], axis=1), totals)
    close(np.concatenate([w[1] for w in windows], axis=1), counts)
    step = ks.to_step_model(model)
    *outputs, _, count = step([ids, *ks.initial_states(step, ROWS)])
    close(zoo.outputs(outputs[0])[0], totals)
    close(zoo.outputs(count)[0], counts[:, -1])


def test_fit_learns_and_gradients_stop_at_the_window():
    keras.utils.set_random_seed(0)
    model = _total()
    (x,) = zoo.data(model, 2, 40)
    y = np.cumsum(x[..., :2], axis=1).astype("float32")
    sequence = ks.StatefulSequence(
        list(x), 2, 8, targets=list(y), target_offset=0, resets=True, boundary="align"
    )
    training = ks.to_stateful(model, sequence)
    training.compile("adam", "mse")
    losses = training.fit(sequence, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]

    reference = _total()
    reference.set_weights(model.get_weights())
    by_hand = ks.to_stateful(reference, 2, resets="window")  # so that the learned start learns
    for m in (by_hand, reference):
        m.compile(keras.optimizers.SGD(0.1), "mse")
    by_hand.train_on_batch([x[:, :8], np.ones((2,), bool)], y[:, :8])
    reference.train_on_batch(x[:, :8], y[:, :8])
    for a, b in zip(by_hand.get_weights(), reference.get_weights(), strict=True):
        close(a, b)


@pytest.mark.parametrize("form", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_exported_and_generating(form, tmp_path):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(11, 4),
            Slower(name="leaky"),
            layers.Dense(11),
        ]
    )
    written = ks.generate(model, np.array([1, 2, 3]), 6, temperature=0.0, from_logits=True)
    ids = [1, 2, 3]
    for _ in range(6):
        ids.append(int(np.argmax(model.predict_on_batch(np.array([ids]))[0, -1])))
    assert list(written) == ids[3:]
    ks.export_step_model(model, tmp_path / "artifact", form)
    with ks.load_session(tmp_path / "artifact") as session:
        whole = model.predict_on_batch(np.array([ids]))
        close(session.read(np.array([ids])), whole)
        assert list(session.get_states()) == ["leaky"]


class Last(Leaky):
    def call(self, x):
        return super().call(x)[:, -1]


class WrongStates(CarryLeaky):
    def advance(self, layer, states, x, resets=None):
        return x, [x]


class NoResets(CarryLeaky):
    def advance(self, layer, states, x):
        return x, states


@pytest.mark.parametrize(
    ("layer_class", "adapter", "error", "message"),
    [
        (Leaky(), CarryLeaky(), TypeError, "Pass its class, Leaky"),
        (CarryLeaky, CarryLeaky(), TypeError, "must be a class of Keras layers"),
        (layers.LSTM, CarryLeaky(), ValueError, "It carries by itself"),
        (keras.Sequential, CarryLeaky(), ValueError, "Its layers are entered"),
        (layers.Layer, CarryLeaky(), ValueError, "must have a `call`"),
        (Leaky, CarryLeaky, TypeError, r"Pass `CarryLeaky\(\)`"),
        (Leaky, object(), TypeError, "without `initial_states` and `advance`"),
        (Leaky, NoResets(), TypeError, "Add `resets=None`"),
    ],
)
def test_refused_when_registered(layer_class, adapter, error, message):
    with pytest.raises(error, match=message):
        ks.register_carry(layer_class, adapter)
    assert ks.to_inference(_stack(Leaky())).predict_on_batch(np.ones((1, 2, 3))).shape == (1, 2, 3)


def test_refused_when_converted():
    with pytest.raises(ValueError, match="already"):
        ks.register_carry(type(ks.to_inference(_stack(Leaky())).layers[-1]), CarryLeaky())
    # A subclass with a `call` of its own computes something that the adapter does not know.
    with pytest.raises(ValueError, match="last"):
        ks.to_inference(_stack(Last()))
    ks.register_carry(Last, CarryLeaky())
    with pytest.raises(ValueError, match="must return what the layer's `call` returns"):
        ks.to_inference(_stack(Last()))
    ks.register_carry(Slower, WrongStates())
    with pytest.raises(ValueError, match="of the shapes that `initial_states` gives"):
        ks.to_inference(_stack(Slower()))
    ks.register_carry(Slower, CarryLeaky())  # whoever corrects an adapter registers again
    ks.to_inference(_stack(Slower()))
