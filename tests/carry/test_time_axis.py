"""Time through whole graphs: what is carried, what is refused and with which remedy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from releases import SLIDING_WINDOW
from time_steps import assert_as_derived, derive

from keras_stateful import to_stateful
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.time_axis import Held, find_time_axis


def lstm(units=4, **options):
    return layers.LSTM(units, return_sequences=True, **options)


def find(model, **options):
    return find_time_axis(Graph(model), **options)


def of(function, shape=(3,), steps=None, dtype="float32"):
    """A model of one input."""
    x = keras.Input((steps, *shape), dtype=dtype)
    return keras.Model(x, function(x))


def refused(model, **options):
    with pytest.raises(ValueError, match="cannot carry") as caught:
        find(model, **options)
    return str(caught.value)


class Own(layers.Layer):
    """A custom layer that computes a function."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


# Silent faults of trying on random numbers


REACH_FAR = {
    "dilated": (layers.Conv1D(3, 2, dilation_rate=8, padding="causal"), 8),
    "long kernel": (layers.Conv1D(3, 30, padding="causal"), 29),
    "lag by a week": (Own(lambda x: x - ops.pad(x, ((0, 0), (168, 0), (0, 0)))[:, :-168]), 168),
    "several lags": (
        Own(lambda x: sum(ops.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :-n] for n in (1, 7, 24))),
        24,
    ),
    "padded pooling": (
        keras.Sequential([layers.ZeroPadding1D((9, 0), name="front"), layers.MaxPooling1D(10, 1)]),
        9,
    ),
}


@pytest.mark.parametrize("name", REACH_FAR)
@pytest.mark.parametrize("behind", [False, True])
def test_what_reaches_back_holds_so_many_steps(name, behind):
    layer, steps = REACH_FAR[name]
    order = [lstm(3), layer] if behind else [layer, lstm(3)]
    axis = find(keras.Sequential([keras.Input((None, 3)), *order]))
    assert list(axis.held.values()) == [Held(steps, 0)]
    assert axis.outputs == [True]
    assert set(axis.calls) == {*axis.held, *axis.recurrent}


@pytest.mark.parametrize("shift", [1, 6, 12, 24, 168])
def test_roll_is_refused_by_any_number(shift):
    for function in (lambda x: ops.roll(x, shift, axis=1), Own(lambda x: ops.roll(x, shift, 1))):
        assert "rolls out of the window" in refused(of(lambda x, f=function: lstm()(f(x))))


class Gate(layers.Layer):
    """A branch that a weight of zero shuts until it is trained."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def build(self, shape):
        self.gain = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        return x + self.gain * self.branch(x)


ZERO = {
    "convolution": layers.Conv1D(3, 3, padding="same", kernel_initializer="zeros"),
    "gate": Gate(lambda x: ops.cumsum(x, axis=1)),
    "gated attention": Gate(lambda x: ops.softmax(x @ ops.swapaxes(x, 1, 2)) @ x),
    "gated average": Gate(lambda x: ops.mean(x, axis=1, keepdims=True)),
    "attention": Own(lambda x: x),
}


@pytest.mark.parametrize("name", ["convolution", "gate", "gated attention", "gated average"])
def test_weights_of_zero_hide_nothing(name):
    refused(of(lambda x: lstm()(layers.Add()([x, ZERO[name](x)]))))


def softmax_over_time(x):
    return keras.activations.softmax(x, axis=1)


def total(x):
    return x / (1 + ops.max(x, axis=1, keepdims=True))


ACTIVATIONS = {
    "Activation": lambda x: layers.Activation(softmax_over_time)(x),
    "Dense": lambda x: layers.Dense(3, activation=total)(x),
    "EinsumDense": lambda x: layers.EinsumDense(
        "btf,fg->btg", (None, 3), activation=softmax_over_time
    )(x),
    "Conv1D": lambda x: layers.Conv1D(3, 1, activation=total)(x),
    "softmax of values alone": lambda x: layers.Activation("softmax")(x[..., 0])[..., None],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_time_are_refused(name):
    refused(of(lambda x: lstm()(ACTIVATIONS[name](x))))
    refused(of(lambda x: ACTIVATIONS[name](lstm(3)(x))))


RARE = {
    "sum of a rare id": lambda x: ops.cumsum(ops.cast(ops.equal(x, 5), "int32"), axis=1),
    "large values": lambda x: ops.cumsum(ops.cast(x > 6, "int32"), axis=1),
    "the largest so far": lambda x: ops.max(x, axis=1, keepdims=True) + 0 * x,
    "place of the largest": lambda x: (
        x + ops.expand_dims(ops.cast(ops.argmax(x, axis=1), "int32"), 1)
    ),
    "sorted": lambda x: ops.sort(x, axis=1),
}


@pytest.mark.parametrize("name", RARE)
def test_what_random_numbers_do_not_set_off_is_refused(name):
    def model(function):
        return of(lambda x: lstm()(layers.Embedding(9, 2)(function(x))), (), 8, dtype="int32")

    refused(model(RARE[name]))
    refused(model(Own(RARE[name])))
    if (name, keras.backend.backend()) != ("place of the largest", "tensorflow"):
        # Keras cannot tell the shape of that one there.
        refused(model(layers.Lambda(RARE[name])))


EACH_STEP = {
    "PReLU": layers.PReLU(),
    "positions": Own(lambda x: x + np.arange(8, dtype="float32")[:, None]),
    "BatchNormalization": layers.BatchNormalization(axis=1),
    "a mask of steps": Own(lambda x: ops.where(np.arange(8)[:, None] > 2, x, 0)),
}


@pytest.mark.parametrize("name", EACH_STEP)
def test_a_weight_for_each_step_of_a_window_is_refused(name):
    words = refused(of(lambda x: lstm()(EACH_STEP[name](x)), steps=8))
    assert "for each time step of a window" in words


MIXERS = {
    "convolution": layers.Conv1D(4, 3, padding="same"),
    "attention": lambda x: layers.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True),
    "average": layers.GlobalAveragePooling1D(),
    "sum": Own(lambda x: ops.cumsum(x, axis=1)),
    "both ways": layers.Bidirectional(layers.GRU(2, return_sequences=True)),
}


@pytest.mark.parametrize("name", MIXERS)
def test_layers_chosen_by_name_let_nothing_through_that_mixes(name):
    refused(of(lambda x: MIXERS[name](lstm(name="lstm")(x))), chosen=["lstm"])


def test_a_causal_layer_behind_a_chosen_one_is_held():
    model = of(lambda x: layers.Conv1D(4, 9, padding="causal", name="conv")(lstm(name="lstm")(x)))
    assert find(model, chosen=["lstm"]).held == {"conv": Held(8, 0)}


# Right, and refused before


def test_a_second_input_that_meets_the_stream_behind_the_last_recurrent_layer():
    for steps in (None, 5):
        x, plan = keras.Input((steps, 3)), keras.Input((steps, 2))
        for join in (
            lambda h, p: layers.Concatenate()([h, p]),
            lambda h, p: h + layers.Dense(4)(p),
            lambda h, p: h * layers.Dense(4, activation="sigmoid")(layers.Dense(3)(p)),
            lambda h, p: Pair()(h, p),
        ):
            axis = find(keras.Model([x, plan], join(lstm()(x), plan)))
            assert axis.inputs == {id(x), id(plan)}
            assert axis.outputs == [True]


class Pair(layers.Layer):
    def call(self, a, b):
        return ops.concatenate([a, ops.relu(b)], axis=-1)

    def compute_output_shape(self, a_shape, b_shape):
        return (*a_shape[:-1], a_shape[-1] + b_shape[-1])


def test_inputs_that_meet_one_after_the_other():
    tensors = [keras.Input((None, n)) for n in (2, 3, 4)]
    last = layers.Concatenate()(tensors[1:])
    model = keras.Model(tensors, layers.Concatenate()([lstm()(tensors[0]), last]))
    assert find(model).inputs == set(map(id, tensors))


def test_a_context_that_is_read_once_and_for_all_has_no_time():
    x, context = keras.Input((None, 3)), keras.Input((10, 3))
    h = layers.Conv1D(4, 3, padding="causal")(context)
    start = layers.GlobalMaxPooling1D()(h)
    attended = layers.MultiHeadAttention(2, 2)(layers.Dense(4)(x), h)
    outputs = layers.GRU(4, return_sequences=True)(attended, initial_state=start)
    axis = find(keras.Model([x, context], outputs))
    assert axis.inputs == {id(x)}
    assert not axis.held


def test_a_model_needs_no_recurrent_layer():
    def block(x, rate):
        h = layers.Conv1D(4, 2, padding="causal", dilation_rate=rate, activation="relu")(x)
        return layers.Add()([layers.Conv1D(4, 1)(x), layers.SpatialDropout1D(0.1)(h)])

    def network(x):
        for rate in (1, 2, 4):
            x = block(x, rate)
        return layers.Dense(2)(x)

    axis = find(of(network))
    assert sorted(axis.held.values()) == [Held(1, 0), Held(2, 0), Held(4, 0)]
    assert axis.recurrent == []
    assert [axis.along[id(t)].past for t in Graph(of(network)).outputs if id(t) in axis.along] == []
    end = find(of(lambda x: layers.Dense(1)(network(x)[:, -1])))
    assert end.outputs == [False]
    assert len(end.held) == 3


def test_steps_from_before_the_window_are_used_up():
    def network(x):
        h = layers.ZeroPadding1D((6, 0), name="front")(x)
        h = layers.DepthwiseConv1D(3, activation="relu")(layers.Dense(4)(h))
        h = layers.SeparableConv1D(4, 3)(layers.ZeroPadding1D((1, 0), name="more")(h))
        return lstm()(layers.AveragePooling1D(4, 1)(h))

    assert find(of(network)).held == {"front": Held(6, 0), "more": Held(1, 4)}


# Remedies


FRAMES = layers.TimeDistributed


def middle(x):
    return layers.Conv1D(4, 3, padding="same", name="it")(x)


REMEDIES = {
    "same": (middle, 'padding="causal"', layers.Conv1D(4, 3, padding="causal")),
    "same, depthwise": (
        layers.DepthwiseConv1D(3, padding="same"),
        "`ZeroPadding1D((2, 0))` in front",
        lambda x: layers.DepthwiseConv1D(3)(layers.ZeroPadding1D((2, 0))(x)),
    ),
    "valid": (
        layers.Conv1D(4, 3, name="it"),
        "`ZeroPadding1D((2, 0))` in front of `it`",
        lambda x: layers.Conv1D(4, 3)(layers.ZeroPadding1D((2, 0))(x)),
    ),
    "too little in front": (
        lambda x: layers.Conv1D(4, 6, name="it")(layers.ZeroPadding1D((2, 0))(x)),
        "`ZeroPadding1D((3, 0))` in front of `it`",
        lambda x: layers.Conv1D(4, 6)(
            layers.ZeroPadding1D((3, 0))(layers.ZeroPadding1D((2, 0))(x))
        ),
    ),
    "too much in front": (
        lambda x: layers.Conv1D(4, 3)(layers.ZeroPadding1D((5, 0))(x)),
        "pad 3 steps fewer in front",
        lambda x: layers.Conv1D(4, 3)(layers.ZeroPadding1D((2, 0))(x)),
    ),
    "cut, then padded": (
        lambda x: ops.pad(x[:, :-4], ((0, 0), (4, 0), (0, 0))),
        "Pad first and cut afterwards",
        lambda x: ops.pad(x, ((0, 0), (4, 0), (0, 0)))[:, :-4],
    ),
    "roll": (
        lambda x: ops.roll(x, 2, axis=1),
        "`ops.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :-n]`",
        lambda x: ops.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :-2],
    ),
    "differences": (
        lambda x: layers.Add()([x[:, 1:] - x[:, :-1], x[:, 1:]]),
        "`ZeroPadding1D((1, 0))` in front of",
        lambda x: x - ops.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1],
    ),
    "lags that do not lie alike": (
        lambda x: layers.Concatenate()([x, x[:, 3:]]),
        "Cut the longer one in front (`[:, 3:]`)",
        lambda x: layers.Concatenate()([x, ops.pad(x, ((0, 0), (3, 0), (0, 0)))[:, 3:]]),
    ),
    "ahead": (
        lambda x: ops.pad(x, ((0, 0), (0, 2), (0, 0)))[:, 2:],
        "Cut the last 2 steps off",
        lambda x: ops.pad(x, ((0, 0), (0, 2), (0, 0)))[:, 2:][:, :-2],
    ),
    "attention": (
        lambda x: layers.MultiHeadAttention(2, 2)(x, x),
        "`sliding_window=` of the layer and `use_causal_mask=True` of its call",
        lambda x: layers.MultiHeadAttention(2, 2, sliding_window=4)(x, x, use_causal_mask=True),
    ),
    "two dimensions": (
        lambda x: FRAMES(layers.Flatten())(layers.Conv2D(2, (3, 1), padding="same")(x[..., None])),
        "`ZeroPadding2D(((2, 0), (before, after)))`",
        lambda x: FRAMES(layers.Flatten())(
            layers.Conv2D(2, (3, 1))(layers.ZeroPadding2D(((2, 0), (0, 0)))(x[..., None]))
        ),
    ),
    "group norm": (
        layers.GroupNormalization(3),
        "`LayerNormalization`",
        layers.LayerNormalization(),
    ),
    "norm over time": (layers.Softmax(axis=1), "`axis=-1`", layers.Softmax(axis=-1)),
    "both ways": (
        layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        "Use its forward layer alone",
        layers.GRU(2, return_sequences=True),
    ),
    "backwards": (
        lstm(3, go_backwards=True, name="it"),
        "`go_backwards=False`",
        lstm(3, name="it"),
    ),
}
if not SLIDING_WINDOW:
    del REMEDIES["attention"]


@pytest.mark.parametrize("name", REMEDIES)
def test_the_remedy_of_a_refusal_is_accepted(name):
    wrong, words, right = REMEDIES[name]
    assert words in refused(of(lambda x: lstm()(wrong(x))))
    if name != "ahead":  # what is cut off there is missing in front: the output is too short
        find(of(lambda x: lstm()(right(x))))
    assert "move it behind" not in refused(of(lambda x: wrong(lstm(3)(x)))).lower()


def test_strides_become_frames():
    words = refused(of(lambda x: lstm()(layers.Conv1D(4, 5, strides=5)(x))))
    assert "frames of 5 steps in `encode=`" in words
    framed = of(lambda x: lstm()(FRAMES(layers.Flatten())(FRAMES(layers.Conv1D(4, 5))(x))), (5, 3))
    assert find(framed).outputs == [True]


def test_an_average_over_time_has_label_at_and_reduce():
    for pool in (layers.GlobalAveragePooling1D(), lambda x: ops.mean(x, axis=1)):
        words = refused(of(lambda x, pool=pool: pool(lstm()(x))))
        assert 'label_at="last"' in words
        assert 'reduce="mean"' in words


# Custom layers


class Block(layers.Layer):
    """What custom layers have: sub-layers, weights, numbers of the shape, training."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="gelu")
        self.inner = keras.Sequential(
            [keras.Input((None, 3)), layers.Dense(5, activation="relu"), layers.Dense(3)]
        )
        self.norm, self.dropout = layers.LayerNormalization(), layers.Dropout(0.1)

    def build(self, shape):
        self.gain = self.add_weight(shape=(3,), initializer="ones")

    def call(self, x, mask=None, training=None):
        rows, steps, features = ops.shape(x)
        h = ops.reshape(self.dense(x), (rows, steps, features))
        if training:
            h = h + 0.1 * keras.random.normal((rows, steps, features))
        if mask is not None:
            h = ops.where(ops.expand_dims(mask, -1), h, 0.0)
        return self.norm(x + self.gain * self.dropout(self.inner(h)))


def test_a_custom_layer_is_read_and_left_without_a_trace():
    block = Block()
    model = of(lambda x: lstm()(block(layers.Masking()(x))))
    parts = [block, block.dense, block.inner, block.norm, block.dropout]
    before = [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts]
    values = [np.array(v) for v in map(ops.convert_to_numpy, block.variables)]
    for _ in range(2):
        assert find(model).outputs == [True]
    assert [(len(p._inbound_nodes), len(p._outbound_nodes)) for p in parts] == before
    for variable, value in zip(block.variables, values, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


class Mixing(layers.Layer):
    """Mixes in one mode alone."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def call(self, x, training=False):
        return ops.cumsum(x, axis=1) if bool(training) is self.mode else x


@pytest.mark.parametrize("mode", [False, True])
def test_both_modes_are_read(mode):
    assert "cumsum" in refused(of(lambda x: lstm()(Mixing(mode)(x))))


class Counting(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x * self.count


class Noisy(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal((1, 1, 3), seed=self.seed)


@pytest.mark.parametrize("layer", [Counting, Noisy])
def test_what_depends_on_the_number_of_calls_is_refused(layer):
    assert "how often it was called" in refused(of(lambda x: lstm()(layer()(x))))


def of_each_step(x):
    return ops.stack([x[:, t] for t in range(x.shape[1])], axis=1)


FIRST_STEPS = {
    "a loop over steps": of_each_step,
    "half of the window": lambda x: ops.pad(x[:, : x.shape[1] // 2], ((0, 0), (0, 1), (0, 0))),
    "places": lambda x: x + ops.reshape(ops.arange(x.shape[1], dtype="float32"), (1, -1, 1)),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_what_depends_on_the_number_of_steps_is_refused(name):
    layer = Own(FIRST_STEPS[name])
    layer.compute_output_shape = lambda shape: shape
    refused(of(lambda x: lstm()(layer(x))))


def test_steps_that_are_counted_from_the_front_may_be_so_from_the_end():
    """`x[:, : steps - 3]` is `x[:, :-3]` whatever the window is."""
    lag = Own(lambda x: ops.pad(x, ((0, 0), (3, 0), (0, 0)))[:, : x.shape[1] + 0])
    lag.compute_output_shape = lambda shape: shape
    assert find(of(lambda x: lstm()(lag(x)))).held == {lag.name: Held(3, 0)}


def test_code_that_does_something_else_where_nobody_knows_the_number_of_steps_is_refused():
    """`x[:, :None]` is all of it."""
    lag = Own(lambda x: ops.pad(x, ((0, 0), (3, 0), (0, 0)))[:, : x.shape[1]])
    lag.compute_output_shape = lambda shape: shape
    refused(of(lambda x: lstm()(lag(x))))


class Convolved(layers.Layer):
    """Pads what it is given, or what it made of it."""

    def __init__(self, before):
        super().__init__()
        self.dense, self.conv = layers.Dense(3), layers.Conv1D(3, 4, padding="causal")
        self.before = before

    def call(self, x):
        return self.dense(x) + self.conv(self.dense(x) if self.before else x)


def test_a_custom_layer_that_pads_its_input_holds_it_and_no_other_does():
    layer = Convolved(False)
    assert find(of(lambda x: lstm()(layer(x)))).held == {layer.name: Held(3, 0)}
    words = refused(of(lambda x: lstm()(Convolved(True)(x))))
    assert "one by one in the Functional graph" in words


class Recurring(layers.Layer):
    def __init__(self):
        super().__init__()
        self.lstm = lstm(3)

    def call(self, x):
        return self.lstm(x)


def test_a_state_inside_a_custom_layer_is_refused():
    words = refused(of(lambda x: lstm()(Recurring()(x))))
    assert "a state that nothing outside can reach" in words


def test_a_subclass_of_keras_layers_is_what_it_computes():
    class Padded(layers.DepthwiseConv1D):
        def call(self, x):
            return super().call(ops.pad(x, ((0, 0), (2, 0), (0, 0))))

    layer = Padded(3)
    assert find(of(lambda x: lstm()(layer(x)))).held == {layer.name: Held(2, 0)}


# Compositions


STEPS_OF_A_CHAIN = 40

links = st.one_of(
    st.tuples(st.just("pad"), st.integers(0, 6), st.integers(0, 4)),
    st.tuples(st.just("cut"), st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("taps"), st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.just("pool"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("causal"), st.integers(1, 4), st.integers(1, 3)),
)


def chained(x, chain):
    for kind, a, b in chain:
        if kind == "pad":
            x = layers.ZeroPadding1D((a, b))(x)
        elif kind == "cut":
            x = x[:, a : -b or None]
        elif kind == "pool":
            x = layers.AveragePooling1D(a, 1)(x)
        else:
            padding = "valid" if kind == "taps" else "causal"
            x = layers.Conv1D(
                1, a, dilation_rate=b, padding=padding, kernel_initializer="ones", use_bias=False
            )(x)
    return x


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="compiles nothing for one call")
@settings(max_examples=60, deadline=None)
@given(st.lists(links, min_size=1, max_size=5))
def test_pads_cuts_and_taps_compose(chain):
    """What is derived is what a matrix of dependencies shows, for the windows inside a stream."""
    model = of(lambda x: chained(x, chain), (1,), STEPS_OF_A_CHAIN)
    hold = derive(model)
    if isinstance(hold, str):
        assert "left" in hold or "steps ahead" in hold
        return
    assert_as_derived(model, STEPS_OF_A_CHAIN)


# Time that it takes


@pytest.mark.parametrize("blocks", [2, 6])
def test_a_call_of_a_custom_layer_is_traced_a_few_times_whatever_the_size_of_the_graph(
    blocks, monkeypatch
):
    x = h = keras.Input((None, 3))
    for _ in range(blocks):
        h = layers.Add()([h, Block()(layers.LayerNormalization()(layers.Dense(3)(h)))])
    graph = Graph(keras.Model(x, lstm()(h)))
    traces, call = [], Block.call
    monkeypatch.setattr(Block, "call", lambda *a, **k: traces.append(a) or call(*a, **k))
    find_time_axis(graph)
    # For training and not, with an unknown number of steps and with a number.
    assert 0 < len(traces) <= 4 * blocks


@pytest.mark.parametrize("layer", [layers.MultiHeadAttention, layers.Attention])
def test_old_versions_of_keras_are_told_what_they_lack(layer, monkeypatch):
    x = keras.Input((None, 3))
    arguments = {"num_heads": 1, "key_dim": 2} if layer is layers.MultiHeadAttention else {}
    inputs = (x, x) if arguments else ([x, x],)
    model = keras.Model(x, layer(**arguments)(*inputs))
    monkeypatch.setattr(keras, "version", lambda: "3.14.1")
    with pytest.raises(ValueError, match=r"needs Keras 3\.15 or later.*Received: Keras 3\.14\.1"):
        to_stateful(model, 2)
