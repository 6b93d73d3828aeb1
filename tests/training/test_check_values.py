"""Values that would spoil a carried state are refused by every way in, before anything is read."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks

ROWS, WINDOW, VOCABULARY = 2, 3, 7


def readings():
    x = keras.Input((None, 3))
    h = layers.GRU(4, return_sequences=True)(x)
    return keras.Model(x, layers.Dense(3)(h))


def ids():
    x = keras.Input((None,), dtype="int32")
    h = layers.GRU(4, return_sequences=True)(layers.Embedding(VOCABULARY, 3)(x))
    return keras.Model(x, layers.Dense(3)(h))


def both(as_dict):
    """An input of ids and one of readings, as a list or a dict."""
    parts = {
        "word": keras.Input((None,), dtype="int32", name="word"),
        "pitch": keras.Input((None, 3), name="pitch"),
    }
    h = layers.Concatenate()([layers.Embedding(VOCABULARY, 3)(parts["word"]), parts["pitch"]])
    h = layers.LSTM(4, return_sequences=True)(h)
    return keras.Model(parts if as_dict else list(parts.values()), layers.Dense(3)(h))


SOUND = np.full((ROWS, WINDOW, 3), 0.5, "float32"), np.full((ROWS, WINDOW), 2, "int32")


def spoilt(value):
    array = SOUND[isinstance(value, int)].copy()
    array.flat[-1] = value
    return array


def in_dict(**parts):
    return {"word": SOUND[1], "pitch": SOUND[0], **parts}


CASES = {
    "NaN": (readings, spoilt(np.nan), "NaN or infinite"),
    "infinite": (readings, spoilt(-np.inf), "NaN or infinite"),
    "too large": (readings, np.where(SOUND[0] == 0.5, 1e300, 0.0), "too large for float32"),
    "an id too high": (ids, spoilt(VOCABULARY), "Received: id 7"),
    "an id below 0": (ids, spoilt(-1), "Received: id -1"),
    "NaN among several": (lambda: both(True), in_dict(pitch=spoilt(np.nan)), "'pitch'"),
    "an id among several": (lambda: both(True), in_dict(word=spoilt(8)), "Received: id 8"),
    "NaN in a list": (lambda: both(False), [SOUND[1], spoilt(np.inf)], "'pitch'"),
    "an id in a list": (lambda: both(False), [spoilt(-3), SOUND[0]], "Received: id -3"),
}
TARGETS = np.zeros((ROWS, WINDOW, 3), "float32")


def tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def batches(x):
    """Windows one after the other, as a generator gives them: the last is `x`."""
    yield keras.tree.map_structure(np.zeros_like, x), TARGETS
    yield x, TARGETS


WAYS_IN = {
    "call": lambda m, x: m(x),
    "call on tensors": lambda m, x: m(tensors(x)),
    "predict": lambda m, x: m.predict(x, verbose=0),
    "predict_on_batch": lambda m, x: m.predict_on_batch(x),
    "train_on_batch": lambda m, x: m.train_on_batch(x, TARGETS),
    "test_on_batch": lambda m, x: m.test_on_batch(x, TARGETS),
    "evaluate": lambda m, x: m.evaluate(x, TARGETS, verbose=0),
    "fit": lambda m, x: m.fit(x, TARGETS, shuffle=False, verbose=0),
    "fit on a generator": lambda m, x: m.fit(batches(x), verbose=0),
    "evaluate of a generator": lambda m, x: m.evaluate(batches(x), verbose=0),
    "predict of a generator": lambda m, x: m.predict(batches(x), verbose=0),
    "validation by a generator": lambda m, x: m.fit(
        keras.tree.map_structure(np.zeros_like, x),
        TARGETS,
        shuffle=False,
        verbose=0,
        validation_data=batches(x),
    ),
    "validation": lambda m, x: m.fit(
        keras.tree.map_structure(np.zeros_like, x),
        TARGETS,
        shuffle=False,
        verbose=0,
        validation_data=(x, TARGETS),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_way_in_refuses_them_and_the_state_stays(case):
    make, x, message = CASES[case]
    model = ks.to_stateful(make(), ROWS)
    model.compile("sgd", "mse")
    model.predict_on_batch(keras.tree.map_structure(np.ones_like, x))
    before = ks.get_states(model)
    for name, use in WAYS_IN.items():
        with pytest.raises(ValueError, match=message):
            use(model, x)
            pytest.fail(name)
        for a, b in zip(ks.get_states(model).values(), before.values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_sound_passes():
    for make, x in ((readings, SOUND[0]), (ids, SOUND[1]), (lambda: both(True), in_dict())):
        model = ks.to_stateful(make(), ROWS)
        model.compile("sgd", "mse")
        for use in WAYS_IN.values():
            use(model, x)
