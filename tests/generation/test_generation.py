"""generate, stream, SampleText: as the stateless model that reads all anew for every id."""

import functools
import gc
import itertools
import threading
import weakref

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks
from keras_stateful.generation import rollout

VOCABULARY = 11
PROMPTS = [np.arange(n) * 7 % VOCABULARY for n in (3, 1, 70, 140)]


def text_model(*stack, activation=None, mask_zero=False, dtype="int32", units=VOCABULARY):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype=dtype),
            layers.Embedding(VOCABULARY, 6, mask_zero=mask_zero),
            *(
                stack
                or [layers.LSTM(12, return_sequences=True), layers.GRU(8, return_sequences=True)]
            ),
            layers.Dense(units, activation=activation),
        ]
    )
    return lively(model)


def lively(model, scale=2.0):
    """Gives weights whose most likely id keeps changing, and whose rounding errors stay small."""
    numbers = np.random.default_rng(1)
    for w in model.weights:
        kind = 0.3 if "recurrent" in w.path else 0.0 if "bias" in w.path else scale
        w.assign(numbers.normal(size=w.shape) * kind)
    return model


def shared_embedding():
    x = keras.Input((None,), dtype="int32")
    table = layers.Embedding(VOCABULARY, 6)
    h = layers.SimpleRNN(6, return_sequences=True)(table(x))
    y = layers.Dense(6)(layers.Concatenate()([h, table(x)]))
    return lively(keras.Model(x, layers.Softmax()(layers.Dense(VOCABULARY)(y))))


def nested():
    x = keras.Input((None,), dtype="int32")
    body = keras.Sequential(
        [
            keras.Input((None,)),
            layers.Embedding(VOCABULARY, 6),
            layers.GRU(8, return_sequences=True),
        ],
        name="body",
    )
    return lively(keras.Model(x, layers.Activation("linear")(layers.Dense(VOCABULARY)(body(x)))))


MODELS = {
    "logits": text_model,
    "softmax": lambda: text_model(activation="softmax"),
    "last_step_only": lambda: text_model(layers.LSTM(9)),
    "float_input": lambda: text_model(dtype="float32"),
    "stacked_cells": lambda: text_model(
        layers.RNN([layers.LSTMCell(6), layers.GRUCell(5)], return_sequences=True),
        layers.Dropout(0.5),
    ),
    "mask_zero": lambda: text_model(layers.LSTM(9, return_sequences=True), mask_zero=True),
    "shared_embedding": shared_embedding,
    "nested": nested,
}


def one_pass(model, rows):
    """Outputs `(timesteps, ...)` of one sequence, read by the stateless model as a whole."""
    if model.outputs[0].shape[1:2] == (None,):
        return ops.convert_to_numpy(
            model(ops.convert_to_tensor(np.asarray(rows)[None]), training=False)
        )[0]
    prefixes = [ops.convert_to_tensor(np.asarray(rows[: n + 1])[None]) for n in range(len(rows))]
    return np.concatenate([ops.convert_to_numpy(model(p, training=False)) for p in prefixes])


def assert_greedy(model, prompt, ids):
    """Each id is the argmax of the pass over all before it; a causal model needs one pass."""
    outputs = one_pass(model, [*prompt, *ids[:-1]])[len(prompt) - 1 :]
    assert list(ids) == outputs.argmax(-1).tolist()


def assert_followed(model, prompt, outputs, next_input):
    """Each output is that of a pass over the prompt and what `next_input` made of the others."""
    fed = [np.asarray(next_input(y[None]))[0] for y in outputs[:-1]]
    np.testing.assert_allclose(
        outputs, one_pass(model, np.float32([*prompt, *fed]))[len(prompt) - 1 :], atol=1e-5
    )


@pytest.fixture(scope="module")
def model():
    return text_model()


def signal_model(features=3):
    stack = [layers.LSTM(6, return_sequences=True), layers.Dense(features)]
    return lively(keras.Sequential([keras.Input((None, features)), *stack]), 0.4)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_argmax_of_full_prefix_passes(name):
    model = MODELS[name]()
    prompts = np.random.default_rng(0).integers(1, VOCABULARY, (6, 3))
    if name == "mask_zero":
        prompts[:3, 1] = 0
        # Never the padding id: what a masked step says differs by backend.
        model.layers[-1].bias.assign([-1e9] + [0] * (VOCABULARY - 1))
    rows = ks.generate(model, prompts, 3 if name == "last_step_only" else 8, temperature=0)
    for prompt, row in zip(prompts, rows, strict=True):
        assert_greedy(model, prompt, row)
    alone = ks.generate(model, prompts[0], rows.shape[1], temperature=0)
    np.testing.assert_array_equal(alone, rows[0])
    assert len(np.unique(rows)) > 3, "this model says too little to tell"


def to_a_sine(model):
    model.layers[-1].activation = ops.sin


def to_a_cell_of_relu(model):
    model.layers[1].cell.activation = ops.relu


def to_other_statistics(model, mean=2):
    model.layers[2].adapt(np.random.default_rng(0).normal(mean, 3, (1, 50, 8)))


@pytest.mark.parametrize("change", [to_a_sine, to_a_cell_of_relu, to_other_statistics])
def test_a_changed_layer_writes_as_it_is_now(change):
    model = text_model(layers.GRU(8, return_sequences=True), layers.Normalization())
    to_other_statistics(model, 0)
    prompts = [PROMPTS[0], PROMPTS[2]]
    before = ks.generate(model, prompts, 12, temperature=0)
    change(model)
    after = ks.generate(model, prompts, 12, temperature=0)
    for prompt, row in zip(prompts, after, strict=True):
        assert_greedy(model, prompt, row)
    assert (after != before).any()


def test_rows_of_any_lengths_are_as_each_alone(model):
    together = ks.generate(model, PROMPTS, 9, temperature=0)
    assert together.shape == (4, 9)
    assert together.dtype == np.int32
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert_greedy(model, prompt, row)
        np.testing.assert_array_equal(ks.generate(model, prompt, 9, temperature=0), row)


def test_drawn_rows_are_as_each_alone(model):
    for prompt in PROMPTS:
        alone = ks.generate(model, prompt, 8, seed=4)
        others = [p for p in PROMPTS if p is not prompt]
        np.testing.assert_array_equal(ks.generate(model, [prompt, *others], 8, seed=4)[0], alone)


@pytest.mark.parametrize("coldest", [1e-38, 1e-46, 5e-324])
def test_the_coldest_temperatures_take_the_most_likely_id(model, coldest):
    for options in ({}, {"top_k": 3}, {"top_p": 1e-46}):
        ids = ks.generate(model, [1, 2], 20, temperature=coldest, seed=0, **options)
        assert_greedy(model, [1, 2], ids)


def test_at_the_hottest_temperatures_all_possible_ids_are_alike():
    model = text_model()
    model.layers[-1].bias.assign([-np.inf, *[0] * (VOCABULARY - 1)])  # id 0 cannot come
    texts = [ks.generate(model, [1], 300, temperature=t, seed=0) for t in (1e25, 1e300, 10**400)]
    for text in texts:
        np.testing.assert_array_equal(text, texts[0])
    assert set(texts[0]) == set(range(1, VOCABULARY))


def test_same_prompt_in_several_rows_is_continued_differently(model):
    rows = ks.generate(model, [PROMPTS[0]] * 3, 30, seed=0)
    assert len({tuple(r) for r in rows}) == 3
    np.testing.assert_array_equal(ks.generate(model, np.stack([PROMPTS[0]] * 3), 30, seed=0), rows)


@pytest.mark.parametrize("name", ["logits", "softmax"])
def test_drawn_ids_are_those_of_a_plain_loop(name):
    """The plain loop: passes over whole prefixes, filters by sorting, draws by `searchsorted`."""
    model = MODELS[name]()
    got = ks.generate(model, [1, 2], 25, temperature=0.8, top_k=7, top_p=0.85, seed=5).tolist()
    uniforms = 1 - np.random.Generator(np.random.PCG64([5, 0])).random(25, dtype="float32")
    outputs = one_pass(model, [1, 2, *got[:-1]])[1:].astype("float64")
    for p, uniform, id_ in zip(outputs, uniforms, got, strict=True):
        p = p ** (1 / 0.8) if name == "softmax" else np.exp((p - p.max()) / 0.8)
        order = np.argsort(-p)[:7]
        order = order[: 1 + int(np.searchsorted(np.cumsum(p[order] / p[order].sum()), 0.85))]
        kept = np.zeros_like(p)
        kept[order] = p[order] / p[order].sum()
        assert id_ == np.searchsorted(np.cumsum(kept), uniform)


def test_drawn_ids_follow_the_filtered_distribution():
    model = text_model(layers.GRU(4, return_sequences=True))
    model.layers[-1].kernel.assign(np.zeros((4, VOCABULARY)))  # the same distribution at every step
    logits = np.linspace(-2, 2, VOCABULARY)
    model.layers[-1].bias.assign(logits)
    ids = ks.generate(model, [[0]] * 8, 1000, temperature=1.5, top_k=9, top_p=0.9, seed=2).ravel()
    p = np.exp(logits / 1.5) * (np.arange(VOCABULARY) >= 2)
    p /= p.sum()
    from_top = np.cumsum(p[::-1])[::-1]
    p = np.where(from_top - p < 0.9, p, 0)
    p /= p.sum()
    counts = np.bincount(ids, minlength=VOCABULARY)
    assert 0 < (p == 0).sum() < VOCABULARY - 2
    assert counts[p == 0].sum() == 0
    chi_square = ((counts - 8000 * p)[p > 0] ** 2 / (8000 * p[p > 0])).sum()
    assert chi_square < 30


def test_seed(model):
    a, b = (ks.generate(model, [1], 40, seed=s) for s in (1, 2))
    assert a.tolist() != b.tolist()
    np.testing.assert_array_equal(ks.generate(model, [1], 40, seed=1), a)
    np.testing.assert_array_equal(ks.generate(model, [1], 400, seed=1)[:40], a)
    keras.utils.set_random_seed(3)
    c, d = ks.generate(model, [1], 40), ks.generate(model, [1], 40)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(ks.generate(model, [1], 40), c)
    assert c.tolist() != d.tolist()


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[3], PROMPTS])
def test_stream_is_generate(model, prompt):
    options = {"temperature": 1.3, "top_k": 8, "seed": 6}
    streamed = list(ks.stream(model, prompt, 20, **options))
    if prompt is PROMPTS:
        assert {(i.shape, i.dtype) for i in streamed} == {((4,), np.dtype("int32"))}
    else:
        assert {type(i) for i in streamed} == {int}
    np.testing.assert_array_equal(
        np.stack(streamed, axis=-1), ks.generate(model, prompt, 20, **options)
    )


@pytest.mark.parametrize("stop", [4, [4, 9], np.array([9])])
def test_stop_ends_each_row_at_its_first_stop_id(model, stop):
    whole = ks.generate(model, PROMPTS, 60, temperature=1.5, seed=0)
    stops = np.atleast_1d(stop)
    expected = []
    for row in whole.tolist():
        ends = [i for i, id_ in enumerate(row) if id_ in stops]
        expected.append(row[: ends[0] + 1] if ends else row)
    assert len({len(w) for w in expected}) > 1
    assert ks.generate(model, PROMPTS, 60, temperature=1.5, seed=0, stop=stop) == expected
    assert ks.generate(model, PROMPTS[0], 60, temperature=1.5, seed=0, stop=stop) == expected[0]
    assert list(ks.stream(model, PROMPTS[0], 60, temperature=1.5, seed=0, stop=stop)) == expected[0]
    streamed = np.stack(
        list(ks.stream(model, PROMPTS, 60, temperature=1.5, seed=0, stop=stop)), axis=1
    )
    assert streamed.shape == (4, max(len(w) for w in expected))
    for row, w in zip(streamed.tolist(), expected, strict=True):
        assert row == w + [-1] * (len(row) - len(w))


def test_stop_ids_in_the_prompt_do_not_stop(model):
    assert len(ks.generate(model, [4, 4, 4], 5, temperature=0, stop=4)) > 0
    short, long = ks.generate(model, [[1], [4] * 9], 30, seed=0, stop=4)
    assert short == ks.generate(model, [1], 30, seed=0, stop=4)
    assert long


@pytest.mark.parametrize(
    "convert", [ks.to_inference, ks.to_step_model, lambda m: ks.to_stateful(m, batch_size=3)]
)
def test_any_conversion_says_the_same(model, convert):
    np.testing.assert_array_equal(
        ks.generate(convert(model), PROMPTS, 15, seed=1), ks.generate(model, PROMPTS, 15, seed=1)
    )


def test_plain_stateful_model_says_the_same(model):
    stateful = keras.Sequential(
        [
            keras.Input((5,), batch_size=2, dtype="int32"),
            layers.Embedding(VOCABULARY, 6),
            layers.LSTM(12, return_sequences=True, stateful=True),
            layers.GRU(8, return_sequences=True, stateful=True),
            layers.Dense(VOCABULARY),
        ]
    )
    stateful.set_weights(model.get_weights())
    assert_greedy(model, [1, 2], ks.generate(stateful, [1, 2], 30, temperature=0))


def test_states_weights_and_compilation_are_left_alone(model):
    dirty = ks.to_stateful(model, batch_size=2, resets="window")
    dirty.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    window = np.ones((2, 4), "int32")
    dirty.train_on_batch((window, np.array([True, True])), window)
    optimizer = dirty.optimizer
    before, weights = ks.get_states(dirty), dirty.get_weights()
    assert any(np.any(s) for states in before.values() for s in states)
    ks.generate(dirty, PROMPTS, 5, seed=0)
    next(ks.stream(dirty, [1], 5))
    assert dirty.optimizer is optimizer
    for path, states in ks.get_states(dirty).items():
        for state, old in zip(states, before[path], strict=True):
            np.testing.assert_array_equal(state, old)
    for weight, old in zip(dirty.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_weights_that_changed_are_used_without_tracing_again(monkeypatch):
    model = text_model()
    ks.generate(model, [1, 2, 3], 5, temperature=0.5, seed=0)
    engine, calls = rollout.rollout(model), []
    monkeypatch.setattr(engine.step, "call", lambda *a, **k: calls.append(1))
    for w in model.weights:
        w.assign(np.random.default_rng(9).normal(size=w.shape))
    got = ks.generate(model, [1], 30, temperature=0.001, seed=1)
    monkeypatch.undo()
    assert_greedy(model, [1], got)
    assert not calls


class Folded(layers.Embedding):
    """Takes any id: folds it into the rows that it has."""

    def call(self, inputs):
        return super().call(ops.mod(inputs, self.input_dim))


def test_an_embedding_that_takes_any_id_reads_what_the_model_emits():
    stack = [Folded(5, 6), layers.GRU(8, return_sequences=True), layers.Dense(VOCABULARY)]
    model = lively(keras.Sequential([keras.Input((None,), dtype="int32"), *stack]))
    ids = ks.generate(model, [10, 7], 20, temperature=0)
    assert_greedy(model, [10, 7], ids)
    assert ids.max() > 5


def test_threads_write_side_by_side():
    model = text_model()
    expected = [ks.generate(model, [n], 30, seed=n) for n in range(4)]
    for _ in range(3):
        del vars(model)[rollout._SLOT]  # what was made for the first call is made again
        texts, barrier = {}, threading.Barrier(4)

        def write(n, texts=texts, barrier=barrier):
            barrier.wait()
            for k in range(3):
                texts[n, k] = ks.generate(model, [n], 30, seed=n)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts) == 12
        for (n, _), text in texts.items():
            np.testing.assert_array_equal(text, expected[n])


def test_weights_trained_meanwhile_are_used():
    model = text_model()
    training = ks.to_stateful(model, batch_size=1)
    training.compile(
        keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = ks.generate(training, [1], 10, temperature=0)
    ids = np.tile([1, 2, 3, 4], 25)[None]
    training.fit(ids[:, :-1], ids[:, 1:], batch_size=1, epochs=60, shuffle=False, verbose=0)
    after = ks.generate(training, [1], 10, temperature=0)
    assert after.tolist() == [2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
    assert before.tolist() != after.tolist()


def test_layers_added_meanwhile_are_used(model):
    growing = keras.Sequential([keras.Input((None,), dtype="int32"), *model.layers[:-1]])
    growing.add(layers.Dense(VOCABULARY, name="first"))
    growing.layers[-1].set_weights(model.layers[-1].get_weights())
    before = ks.generate(growing, [1], 10, temperature=0)
    np.testing.assert_array_equal(before, ks.generate(model, [1], 10, temperature=0))
    growing.add(layers.Dense(VOCABULARY, name="second"))
    assert_greedy(growing, [1], ks.generate(growing, [1], 10, temperature=0))


@pytest.mark.parametrize("step", [False, True])
def test_compiled_loops_die_with_the_model(step):
    model = text_model(layers.GRU(3, return_sequences=True))
    model = ks.to_step_model(model) if step else model
    ks.generate(model, [1], 3, seed=0)
    gone = weakref.ref(model)
    del model
    keras.utils.clear_session()
    gc.collect()
    assert gone() is None


def test_mixed_precision_generates():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = text_model(activation="softmax")
    assert ks.generate(model, PROMPTS, 20, seed=0).shape == (4, 20)


# Signals: `next_input` says how an output becomes an input.


@pytest.mark.parametrize(
    "next_input",
    [
        lambda y: y,
        lambda y: y * 0.5,
        lambda y: ops.tanh(y),
        lambda y: np.asarray(ops.convert_to_numpy(y)) * 2,  # cannot be compiled
    ],
)
def test_signals_are_fed_back(next_input):
    model = signal_model()
    read = [
        np.random.default_rng(r).normal(size=(n, 3)).astype("float32")
        for r, n in enumerate((5, 1, 80))
    ]

    def in_numpy(y):
        return ops.convert_to_numpy(next_input(ops.convert_to_tensor(y)))

    got = ks.generate(model, read, 7, next_input=next_input)
    for prompt, outputs in zip(read, got, strict=True):
        assert_followed(model, prompt, outputs, in_numpy)
    alone = ks.generate(model, read[0], 7, next_input=next_input)
    assert alone.shape == (7, 3)
    np.testing.assert_allclose(alone, got[0], atol=1e-5)
    np.testing.assert_allclose(
        np.stack(list(ks.stream(model, read[0], 7, next_input=next_input))), got[0], atol=1e-5
    )
    rows = list(ks.stream(model, read, 7, next_input=next_input))
    np.testing.assert_allclose(np.stack(rows, axis=1), got, atol=1e-5)


def test_next_input_is_called_at_every_step_where_it_may_differ():
    model = signal_model()
    prompt = np.ones((2, 3), "float32")
    calls = []

    def noisy(y):
        calls.append(len(calls))
        return y + float(len(calls))

    seen = iter(range(1, 100))
    outputs = ks.generate(model, prompt, 6, next_input=noisy)
    assert_followed(model, prompt, outputs, lambda y: y + float(next(seen)))
    assert len(calls) == 5


def changing_an_array_in_place():
    clock = np.zeros(1, "float32")

    def next_input(y):
        clock.fill(clock[0] + 1)
        return y * clock[0]

    return next_input


def writing_through_a_ufunc():
    clock = np.ones(1, "float32")

    def next_input(y):
        np.multiply(clock, 0.5, out=clock)
        return y + float(clock[0])

    return next_input


def reading_an_iterator():
    feature = itertools.count()
    return lambda y: y * 0 + float(next(feature))


def drawing_noise():
    rng = np.random.default_rng(3)
    return lambda y: y + rng.normal()


class Filter:
    """Exponential smoothing, whose memory is an attribute."""

    def __init__(self):
        self.memory = 0.0

    def __call__(self, y):
        self.memory = 0.5 * self.memory + float(ops.convert_to_numpy(y).mean())
        return y + self.memory


def changing_a_list():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    return lambda y: y + values.pop()


@pytest.mark.parametrize(
    "make",
    [
        changing_an_array_in_place,
        writing_through_a_ufunc,
        reading_an_iterator,
        drawing_noise,
        Filter,
        changing_a_list,
    ],
)
def test_next_input_may_do_anything_at_every_step(make):
    model, prompt = signal_model(), np.ones((2, 3), "float32")
    outputs = ks.generate(model, prompt, 6, next_input=make())
    again = make()
    assert_followed(model, prompt, outputs, lambda y: ops.convert_to_numpy(again(y)))
    np.testing.assert_array_equal(list(ks.stream(model, prompt, 6, next_input=make())), outputs)


def test_what_was_emitted_stays_where_next_input_changes_its_argument(tmp_path):
    model, prompt = signal_model(), np.ones((2, 3), "float32")
    ks.export_step_model(model, tmp_path / "exported")

    def in_place(y):
        y *= 2  # another tensor on JAX and TensorFlow, the same on torch and in NumPy
        return y

    with ks.load_session(tmp_path / "exported") as session:
        for runs in (model, session):
            outputs = ks.generate(runs, prompt, 5, next_input=in_place)
            assert_followed(model, prompt, outputs, lambda y: y * 2)


SCALE = 1.0


@pytest.mark.parametrize(
    "next_input",
    [lambda y: y, lambda y: ops.tanh(y) * SCALE, ops.tanh, keras.layers.Dense(3, name="mixing")],
)
def test_compiling_next_input_changes_no_number(next_input, monkeypatch):
    model = signal_model()
    prompts = [np.ones((2, 3), "float32"), np.zeros((4, 3), "float32")]
    for scale in (1.0, -2.0):  # it follows what `next_input` reads, from one call to the next
        monkeypatch.setitem(globals(), "SCALE", scale)
        called = ks.generate(model, prompts, 6, next_input=next_input)
        compiled = ks.generate(model, prompts, 6, next_input=next_input, compile_next_input=True)
        np.testing.assert_allclose(compiled, called, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (changing_an_array_in_place, "something else"),
        (writing_through_a_ufunc, "something else"),
        (drawing_noise, "something else"),
        (Filter, "raises"),
    ],
)
def test_a_function_that_cannot_be_compiled_is_refused(make, cause):
    model, prompt = signal_model(), np.ones((2, 3), "float32")
    if keras.backend.backend() == "torch":  # nothing is compiled
        outputs = ks.generate(model, prompt, 4, next_input=make(), compile_next_input=True)
        assert outputs.shape == (4, 3)
        return
    for function in (ks.generate, ks.stream):
        with pytest.raises(ValueError, match=rf"(?s)`next_input`.*{cause}.*leave `compile_next"):
            function(model, prompt, 4, next_input=make(), compile_next_input=True)


def test_next_input_may_change_the_shape_and_frames_are_signals():
    x = keras.Input((None, 4, 2))
    model = keras.Model(x, layers.ConvLSTM1D(1, 3, padding="same", return_sequences=True)(x))
    prompt = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")

    def both(y):
        return ops.concatenate([y, y], axis=-1)

    got = ks.generate(model, prompt, 5, next_input=both)
    assert got.shape == (5, 4, 1)
    assert_followed(model, prompt, got, lambda y: np.concatenate([y, y], axis=-1))
    with pytest.raises(
        ValueError, match=r"`next_input` must turn an output.*\(1, 4, 1\).*\(1, 4, 2\)"
    ):
        ks.generate(model, prompt, 5, next_input=lambda y: y)


# Sessions


@pytest.fixture(scope="module")
def session(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    directory = tmp_path_factory.mktemp("exported") / "model"
    ks.export_step_model(model, directory)
    with ks.load_session(directory, batch_size=2) as session:
        yield session


def test_a_session_says_what_the_model_says(model, session):
    options = {"temperature": 0.9, "top_k": 9, "top_p": 0.95, "seed": 3}
    expected = ks.generate(model, PROMPTS, 20, **options)
    np.testing.assert_array_equal(ks.generate(session, PROMPTS, 20, **options), expected)
    np.testing.assert_array_equal(
        np.stack(list(ks.stream(session, PROMPTS, 20, **options)), axis=1), expected
    )
    assert ks.generate(session, PROMPTS, 20, stop=4, **options) == ks.generate(
        model, PROMPTS, 20, stop=4, **options
    )


def test_a_session_goes_on_where_it_was(session):
    session.step(np.array([1, 2]))
    before = session.get_states()
    ks.generate(session, [1, 2], 3, seed=0)
    for path, states in session.get_states().items():
        for state, old in zip(states, before[path], strict=True):
            np.testing.assert_array_equal(state, old)
            assert state.any()


def test_a_session_knows_its_vocabulary(session):
    with pytest.raises(ValueError, match="id 11; it reads 0 to 10"):
        ks.generate(session, [VOCABULARY], 3)


# `SampleText`


def training(dropout=0.3):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (8, 20))
    model = ks.to_stateful(
        text_model(layers.LSTM(6, return_sequences=True), layers.Dropout(dropout)),
        batch_size=4,
        resets=None,
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, (ids[:, :-1], ids[:, 1:])


def encode(text):
    return np.array([ord(c) - ord("a") for c in text])


def decode(ids):
    return "".join(chr(ord("a") + i) for i in ids)


def test_sample_text_changes_no_loss():
    histories, states = [], []
    for sampled in (False, True):
        keras.utils.set_random_seed(1)
        model, (x, y) = training()
        sample = ks.SampleText("abc", 8, encode=encode, decode=decode, write=None)
        options = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, callbacks=[sample] if sampled else [], **options)
        histories.append(history.history)
        states.append(ks.get_states(model))
    assert histories[0] == histories[1]
    for mine, others in zip(*(s.values() for s in states), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_sample_text_keeps_and_prints_what_generate_says(capsys):
    model, (x, y) = training()
    sample = ks.SampleText("abc", 8, encode=encode, decode=decode, every=2, temperature=0)
    model.fit(x, y, batch_size=4, epochs=4, shuffle=False, verbose=0, callbacks=[sample])
    assert list(sample.samples) == [2, 4]
    assert sample.samples[4] == "abc" + decode(ks.generate(model, encode("abc"), 8, temperature=0))
    assert f"Sample after epoch 4: {sample.samples[4]}" in capsys.readouterr().out


def test_sample_text_draws_anew_at_each_epoch_and_the_same_in_each_run():
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        model, (x, y) = training()
        model.optimizer.learning_rate = 0.0
        sample = ks.SampleText("a", 30, encode=encode, decode=decode, stop=None, write=None)
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[sample])
        runs.append(sample.samples)
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[0][2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": ""}, "is empty"),
        ({"prompt": "az"}, "id 25"),
        ({"length": 0}, "`length`"),
        ({"temperature": -1}, "`temperature`"),
        ({"encode": lambda text: encode(text)[None]}, "`encode`"),
    ],
)
def test_sample_text_refuses_before_the_first_step(arguments, says):
    model, (x, y) = training()
    before = model.get_weights()
    sample = ks.SampleText(
        **{"prompt": "abc", "length": 5, "encode": encode, "decode": decode, **arguments}
    )
    with pytest.raises(ValueError, match=says):
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[sample])
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


# What cannot be compiled, draws, or gives no scores


class Through(layers.Layer):
    """Doubles its input in NumPy, which no compiler sees through."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return x
        if keras.backend.backend() == "torch":
            return ops.convert_to_tensor(ops.convert_to_numpy(x) * 2)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.ensure_shape(tf.numpy_function(lambda a: a * 2, [x], x.dtype), x.shape)
        import jax

        return jax.pure_callback(
            lambda a: np.asarray(a) * 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x
        )

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_layers_that_no_compiler_sees_through_still_run():
    model = text_model(layers.GRU(6, return_sequences=True), Through())
    prompts = np.random.default_rng(0).integers(1, VOCABULARY, (4, 3))
    for prompt, row in zip(prompts, ks.generate(model, prompts, 6, temperature=0), strict=True):
        assert_greedy(model, prompt, row)


class Noise(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed_generator)


class AlwaysDropout(layers.Dropout):
    def call(self, x, training=False):
        return super().call(x, training=True)


@pytest.mark.parametrize("layer", [Noise, lambda: AlwaysDropout(0.5)], ids=["noise", "dropout"])
def test_models_with_noise_of_their_own_are_refused(layer):
    model = text_model(layers.GRU(6, return_sequences=True), layer())
    for function in (ks.generate, lambda *args: list(ks.stream(*args))):
        with pytest.raises(ValueError, match="draws random numbers|does not run on symbolic"):
            function(model, [1, 2], 3)


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_dropout_of_recurrent_layers_is_no_noise(kind):
    model = text_model(kind(6, return_sequences=True, dropout=0.5, recurrent_dropout=0.3))
    assert_greedy(model, [1, 2], ks.generate(model, [1, 2], 3, temperature=0))


def test_a_last_activation_that_is_neither_is_asked_for():
    model = text_model(activation="relu")
    assert ks.generate(model, [1], 3, from_logits=True).shape == (3,)
    assert_greedy(model, [1], ks.generate(model, [1], 3, temperature=0))


def test_scores_that_are_no_numbers_or_no_probabilities():
    model = text_model()
    with pytest.raises(ValueError, match=r"not probabilities that sum to 1.*from_logits=True"):
        ks.generate(model, [1], 3, from_logits=False)
    model.layers[-1].bias.assign(np.full(VOCABULARY, np.nan))
    for temperature in (0, 1.0):
        with pytest.raises(ValueError, match=r"`dense.*` .*not finite numbers.*diverged"):
            ks.generate(model, [1], 3, temperature=temperature)


# Models that were trained on other steps than the next


@functools.cache
def trained(offsets, wide, features=3):
    """A model with as many outputs as inputs, trained on steps that far ahead."""
    series = np.random.default_rng(0).normal(size=(60, features)).astype("float32")
    targets = series if wide else series[:, 0]
    sequence = ks.StatefulSequence(
        series, 2, 5, targets=targets, target_offset=offsets, resets=True
    )
    model = keras.Sequential(
        [
            keras.Input((None, features)),
            layers.GRU(4, return_sequences=True),
            layers.Dense(features),
        ]
    )
    model = ks.to_stateful(model, sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0)
    return model


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("convert", [lambda m: m, ks.to_inference, ks.to_step_model])
@pytest.mark.parametrize(
    ("offsets", "wide"),
    [((1, 2, 3), False), ((2, 4, 6), False), (5, True), (1, True), (0, True)],
)
def test_a_horizon_is_not_fed_back_as_features(offsets, wide, convert, compiled):
    model, prompt = convert(trained(offsets, wide)), np.ones((4, 3), "float32")
    options = {"compile_next_input": compiled}
    for identity in (lambda y: y, lambda y: y * 1.0):
        if offsets in (0, 1):
            assert ks.generate(model, prompt, 3, next_input=identity, **options).shape == (3, 3)
            continue
        with pytest.raises(ValueError, match=r"not the next time step.*target_offset="):
            ks.generate(model, prompt, 3, next_input=identity, **options)
    first = ks.generate(model, prompt, 3, next_input=lambda y: y[:, :1] + 0 * y, **options)
    assert first.shape == (3, 3)  # whoever says how one becomes the other is believed


def test_ids_further_ahead_are_not_fed_back():
    text = np.arange(60) % VOCABULARY
    for offset in (1, 3):
        sequence = ks.StatefulSequence(text, 2, 5, target_offset=offset, resets=True)
        model = ks.to_stateful(text_model(), sequence)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(sequence, verbose=0)
        if offset == 1:
            assert ks.generate(model, [1, 2], 3, temperature=0).shape == (3,)
            continue
        with pytest.raises(ValueError, match=r"target_offset=\[3\].*`target_offset=1`"):
            ks.generate(model, [1, 2], 3, temperature=0)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="steps are recorded on torch")
def test_python_replays_a_step_that_torch_cannot_trace(monkeypatch):
    import torch

    network = keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(11, 4),
            keras.layers.GRU(6, return_sequences=True),
            keras.layers.LSTM(5, return_sequences=True),
            keras.layers.Dense(11),
        ]
    )
    traced, trace = [], torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda *a, **k: traced.append(a) or trace(*a, **k))
    text = ks.generate(network, [np.array([1, 2, 3]), np.array([4])], 20, temperature=0)
    assert traced or torch.cuda.is_available()  # a GPU's step is replayed by Python in any case

    def gone(*args, **kwargs):
        raise RuntimeError("TorchScript is no longer there")

    monkeypatch.setattr(torch.jit, "trace", gone)
    other = keras.models.clone_model(network)
    other.set_weights(network.get_weights())
    again = ks.generate(other, [np.array([1, 2, 3]), np.array([4])], 20, temperature=0)
    np.testing.assert_array_equal(text, again)
