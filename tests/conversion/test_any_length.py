"""Windows of a fixed length, whose number of steps stands in the graph, at any other length."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_stateful as ks

STEPS = 6


def lstm(units=4):
    return layers.LSTM(units, return_sequences=True)


def single_values():
    x = keras.Input((STEPS,))
    return keras.Model(x, lstm()(layers.Reshape((STEPS, 1))(x)))


def images():
    x = keras.Input((STEPS, 12))
    h = layers.TimeDistributed(layers.Conv1D(2, 2))(ops.reshape(x, (-1, STEPS, 4, 3)))
    return keras.Model(x, layers.Reshape((STEPS, 6))(lstm(6)(layers.Reshape((STEPS, -1))(h))))


def flat_outputs():
    x = keras.Input((STEPS, 3))
    return keras.Model(x, layers.Flatten()(layers.Dense(1)(lstm()(x))))


def in_a_sub_model():
    inner = keras.Sequential([keras.Input((STEPS,)), layers.Reshape((STEPS, 1)), lstm()])
    x = keras.Input((STEPS, 1))
    return keras.Model(x, inner(layers.Reshape((STEPS,))(x)))


def conditioned(join):
    """Static features, repeated along the window and joined to the stream: the classic one."""

    def model():
        x, static = keras.Input((STEPS, 3)), keras.Input((2,))
        return keras.Model([x, static], layers.Dense(2)(join(x, static)))

    model.__name__ = join.__name__
    return model


def before(x, static):
    return lstm()(layers.Concatenate()([x, layers.RepeatVector(STEPS)(static)]))


def behind(x, static):
    repeated = layers.Dense(3, activation="tanh")(layers.RepeatVector(STEPS)(static))
    return ops.concatenate([repeated, lstm()(x), repeated], axis=-1)


def added(x, static):
    return lstm()(layers.Add()([x, layers.Dense(3)(layers.RepeatVector(STEPS)(static))]))


def tiled(x, static):
    return lstm()(layers.Concatenate()([x, ops.tile(static[:, None], (1, STEPS, 1))]))


def repeated_twice(x, static):
    once = layers.RepeatVector(STEPS)(layers.Dense(4)(static))
    both = layers.Concatenate()([once, ops.repeat(static[:, None], STEPS, axis=1)])
    return layers.Concatenate()([lstm()(x), layers.Dropout(0.1)(both)])


def second_input():
    """Known values that meet the stream behind the last recurrent layer."""
    x, plan = keras.Input((STEPS, 3)), keras.Input((STEPS, 2))
    joined = layers.Concatenate()([lstm()(x), layers.Dense(2)(plan)])
    return keras.Model([x, plan], layers.Dense(2)(joined))


def second_of_single_values():
    x, plan = keras.Input((STEPS, 3)), keras.Input((STEPS,))
    return keras.Model([x, plan], lstm()(x) * layers.Reshape((STEPS, 1))(plan))


MODELS = [
    single_values, images, flat_outputs, in_a_sub_model, second_input, second_of_single_values,
    *map(conditioned, (before, behind, added, tiled, repeated_twice)),
]  # fmt: skip


def data(model, steps, rng):
    """Numbers for each input, which has time where its windows have `STEPS` steps."""
    flat = []
    for tensor in model.inputs:
        shape = [steps if size == STEPS else size for size in tensor.shape[1:]]
        flat.append(rng.standard_normal((2, *shape)).astype("float32"))
    return flat


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_window_of_any_length_is_a_part_of_the_fixed_one(make):
    model = make()
    rng = np.random.default_rng(0)
    x = data(model, STEPS, rng)
    expected = model.predict_on_batch(x)
    time = [tensor.shape[1] == STEPS for tensor in model.inputs]

    def window(a, b):
        return [part[:, a:b] if has else part for part, has in zip(x, time, strict=True)]

    step = ks.to_step_model(model)
    for sizes in ([1] * 6, [2, 1, 3]):
        live, states = ks.to_inference(model, 2), ks.initial_states(step, 2)
        again = ks.to_inference(live, 2)
        ends = np.cumsum(sizes)
        parts = {"live": [], "again": [], "step": []}
        for begin, end in zip([0, *ends], ends, strict=False):
            parts["live"].append(live.predict_on_batch(window(begin, end)))
            parts["again"].append(again.predict_on_batch(window(begin, end)))
            y, *states = step.predict_on_batch([*window(begin, end), *states])
            parts["step"].append(y)
        for got in parts.values():
            np.testing.assert_allclose(np.concatenate(got, axis=1), expected, atol=1e-5)
    training = ks.to_stateful(model, 2)
    np.testing.assert_allclose(training.predict_on_batch(x), expected, atol=1e-5)


def test_what_is_repeated_for_something_else_as_well_is_refused():
    x, static = keras.Input((STEPS, 3)), keras.Input((2,))
    repeated = layers.RepeatVector(STEPS)(static)
    decoded = layers.GRU(4, name="decoder")(repeated)
    joined = lstm()(layers.Concatenate()([x, repeated]))
    model = keras.Model([x, static], [joined, decoded])
    ks.to_stateful(model, 2)
    with pytest.raises(ValueError, match="`decoder` reads what is repeated"):
        ks.to_inference(model)


def test_an_exported_step_of_a_conditioned_stream(tmp_path):
    model = conditioned(before)()
    x, static = data(model, STEPS, np.random.default_rng(0))
    expected = model.predict_on_batch([x, static])
    ks.export_step_model(model, tmp_path / "out")
    session = ks.load_session(tmp_path / "out", batch_size=2)
    got = [session.step((x[:, t], static)) for t in range(STEPS)]
    np.testing.assert_allclose(np.stack(got, axis=1), expected, atol=1e-5)
