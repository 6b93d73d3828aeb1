"""Which functions may be compiled into a loop, and which must be called at every step."""

import functools
import itertools
import random

import keras
import numpy as np
import pytest
from keras import ops

from keras_stateful.generation.purity import pure_key

pytestmark = pytest.mark.backend_free

SCALE = 2.0
MEAN = np.array([1.0, 2.0])
COUNTED = []
LAYER = keras.layers.Dense(2)
NOISE = itertools.count()


def scaled(y):
    return y * SCALE


def with_mean(y):
    return ops.concatenate([scaled(y), y - MEAN], axis=-1)


def counting(y):
    global SCALE
    SCALE = SCALE + 1
    return y * SCALE


def remembering(y):
    COUNTED.append(y)
    return y


def importing(y):
    import secrets

    return y * secrets.randbelow(3)


def attribute(y):
    scaled.calls = 1
    return y


def generator(y):
    yield y


class Callable:
    def __call__(self, y):
        return y


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y,
        lambda y: y[:, :1],
        lambda y: ops.where(y > 0, y, 0.0),
        lambda y: keras.ops.tanh(y),
        scaled,
        with_mean,
        ops.tanh,
        keras.activations.relu,
        None,
    ],
)
def test_pure(function):
    assert pure_key(function) is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y + np.random.default_rng().normal(),
        lambda y: y + random.random(),
        lambda y: y + keras.random.normal((2,)),
        lambda y: y + next(NOISE),
        lambda y: LAYER(y),
        lambda y: keras.layers.Dense(2)(y),
        lambda y: print(y) or y,
        lambda y: (lambda: y)(),
        functools.partial(scaled),
        counting,
        remembering,
        importing,
        attribute,
        generator,
        Callable(),
        Callable().__call__,
        np.tanh,
    ],
)
def test_not_certain_to_be_pure(function):
    assert pure_key(function) is None


def test_closed_over_counter_is_not_pure():
    count = 0

    def step(y):
        nonlocal count
        count += 1
        return y + count

    assert pure_key(step) is None


def test_key_follows_code_and_values():
    def make(factor):
        return lambda y: y * factor

    assert pure_key(make(2)) == pure_key(make(2))
    assert pure_key(make(2)) != pure_key(make(3))
    assert pure_key(make(np.ones(2))) == pure_key(make(np.ones(2)))
    assert pure_key(make(np.ones(2))) != pure_key(make(np.zeros(2)))


def test_key_follows_a_global_that_changes(monkeypatch):
    before = pure_key(scaled)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert pure_key(scaled) != before


def test_recursion_ends():
    def again(y):
        return again(y)

    assert pure_key(again) is None
