"""Copies of a model in the middle of a stream go on as it does."""

import copy
import pickle

import keras
import numpy as np
import pytest
import zoo

import keras_stateful as ks

ROWS = 2


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("name", ["lstm", "nested", "shared", "stacked_cells", "dict_inputs"])
def test_a_copy_goes_on_where_the_model_stands(name, copied):
    live = ks.to_inference(zoo.build(name), ROWS)
    live.predict_on_batch(zoo.window(live, zoo.data(live, ROWS, 6), slice(None)))
    before, twin = ks.get_states(live), copied(live)
    assert type(twin) is type(live)
    x = zoo.window(live, zoo.data(live, ROWS, 3, seed=1), slice(None))
    expected = zoo.outputs(live.predict_on_batch(x))
    for a, b in zip(zoo.outputs(twin.predict_on_batch(x)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    again = copied(live)  # and each has a state of its own from now on
    ks.reset_states(live)
    after = ks.get_states(again)
    assert any(np.abs(a).max() > 0 for arrays in after.values() for a in arrays)
    assert any(np.abs(a).max() > 0 for arrays in before.values() for a in arrays)


def test_a_copy_in_the_middle_of_an_epoch_has_the_states_and_weights_of_that_step():
    copies, states = [], []

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            copies.append(pickle.dumps(self.model))
            states.append(ks.get_states(self.model))

    sequence = ks.StatefulSequence(np.sin(np.arange(60))[:, None], 2, 5, resets=True)
    model = keras.Sequential(
        [keras.Input((None, 1)), keras.layers.GRU(3, return_sequences=True), keras.layers.Dense(1)]
    )
    model = ks.to_stateful(model, sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0, callbacks=[Copy()])
    for stored, of_step in zip(copies, states, strict=True):
        # `set_states` compares the fingerprint: the weights are those of that step, too.
        twin = pickle.loads(stored)
        for a, b in zip(ks.get_states(twin).values(), of_step.values(), strict=True):
            np.testing.assert_array_equal(a, b)
        ks.set_states(twin, of_step)
