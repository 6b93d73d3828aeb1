"""A sum inside a model is NumPy's, whatever sizes agree: rows, features, time steps."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_stateful as ks
from keras_stateful.foundation import keras_internals


class AroundMean(layers.Layer):
    def call(self, x):
        return ops.add(x, ops.mean(x, axis=-1, keepdims=True))


ADDITIONS = {
    "operation": lambda h: h + ops.mean(h, axis=-1, keepdims=True),
    "layer": lambda h: layers.Add()([h, ops.max(h, axis=-1, keepdims=True)]),
    "users layer": lambda h: AroundMean()(h),
    "swapped": lambda h: ops.mean(h, axis=-1, keepdims=True) + h,
}


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_window_of_one_step_is_part_of_a_long_one(addition, rows):
    x = keras.Input((None, 2))
    h = layers.GRU(rows, return_sequences=True)(x)  # as many features as rows
    model = keras.Model(x, layers.Dense(2)(ADDITIONS[addition](h)))
    data = np.random.default_rng(0).normal(size=(rows, 4, 2)).astype("float32")
    # One row more, so that no sizes agree in the long pass.
    more = np.concatenate([data, data[:1], data[:1]])
    expected = ops.convert_to_numpy(ks.to_inference(model, rows + 2)(more))[:rows]
    readers = {
        "call": lambda live, x: ops.convert_to_numpy(live(x)),
        "predict_on_batch": lambda live, x: live.predict_on_batch(x),
    }
    for read in readers.values():
        live = ks.to_inference(model, rows)
        steps = [read(live, data[:, t : t + 1]) for t in range(4)]
        np.testing.assert_allclose(np.concatenate(steps, axis=1), expected, atol=1e-5)
    step = ks.to_step_model(model)
    states = ks.initial_states(step, rows)
    for t in range(4):
        y, *states = step([data[:, t : t + 1], *states])
        np.testing.assert_allclose(ops.convert_to_numpy(y), expected[:, t : t + 1], atol=1e-5)


SIZES = st.sampled_from([1, 2, 3])


@settings(max_examples=150, deadline=None)
@given(
    first=st.lists(SIZES, min_size=0, max_size=4),
    ones=st.lists(st.booleans(), min_size=4, max_size=4),
    skipped=st.integers(0, 4),
    dtypes=st.sampled_from([("float32", "float32"), ("int32", "float32"), ("bool", "int32")]),
)
def test_every_sum_broadcasts_as_numpys(first, ones, skipped, dtypes):
    keras_internals.add_as_numpy_does()
    second = [1 if one else size for one, size in zip(ones, first, strict=False)][skipped:]
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2, s).astype(d) for s, d in zip((first, second), dtypes, strict=True))
    for x, y in ((a, b), (b, a)):
        added = ops.add(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
        np.testing.assert_array_equal(ops.convert_to_numpy(added), x + y)


def test_what_is_added_to_each_feature_and_to_numbers_is_kept():
    keras_internals.add_as_numpy_does()
    x = ops.ones((2, 3, 4), "float16")
    for other in (1, 1.5, np.arange(4, dtype="float16"), ops.ones((1, 1, 4), "float16")):
        added = ops.add(x, other)
        assert keras.backend.standardize_dtype(added.dtype) == "float16"
        expected = np.ones((2, 3, 4)) + np.asarray(ops.convert_to_numpy(other))
        np.testing.assert_array_equal(ops.convert_to_numpy(added), expected)
