"""Frames, nullable numbers and other packages' tensors are arrays to `fit` and its like, too."""

import keras
import numpy as np
import pytest
from array_likes import FORMS
from keras import layers
from small_trainings import of_this_batch

import keras_stateful as ks

ROWS = 4
rng = np.random.default_rng(0)
X = rng.integers(-8, 8, (3 * ROWS, 3)) / 2  # three batches of windows of three steps, halves


def network(**batch):
    model = keras.Sequential([
        keras.Input((None, 1), **batch),
        layers.LSTM(4, return_sequences=True, stateful=bool(batch)),
        layers.Dense(1),
    ])  # fmt: skip
    if not batch:
        model = ks.to_stateful(model, ROWS)
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module")
def trained():
    """A model and its first weights and states: it is compiled once for all tests."""
    model = network()
    return model, model.get_weights(), ks.get_states(model)


@pytest.fixture
def model(trained):
    model, weights, states = trained
    model.set_weights(weights)
    ks.set_states(model, states)
    return model


def fit(model, x):
    return model.fit(x, x, epochs=2, shuffle=False, validation_data=(x, x), verbose=0).history


CALLS = {
    "fit": fit,
    "evaluate": lambda model, x: model.evaluate(x, x, verbose=0),
    "predict": lambda model, x: model.predict(x, batch_size=ROWS, verbose=0),
    "train_on_batch": lambda model, x: of_this_batch(model, x, x),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_same_numbers_have_the_same_result(form, call, trained):
    x = X[:ROWS] if "batch" in call else X
    model, weights, states = trained
    results = []
    for f in (form, "NumPy"):
        model.set_weights(weights)
        ks.set_states(model, states)
        results.append(CALLS[call](model, FORMS[f](x)))
    got, expected = results
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), b, rtol=1e-6)


# What Keras reads itself; `fit` of a plain model refuses the others in its own words.
PLAIN = ["NumPy", "in Fortran's order", "a frame", "torch", "the backend's tensor"]
SHUFFLED = [(form, {}) for form in sorted(FORMS)]
SHUFFLED += [(form, {"batch_size": ROWS}) for form in PLAIN]


@pytest.mark.parametrize(("form", "batch"), SHUFFLED, ids=str)
def test_none_of_them_is_shuffled_or_cut_otherwise(form, batch):
    model, x = network(**batch), FORMS[form](X)
    arguments = {"callbacks": [ks.ResetStatesCallback()]} if batch else {}
    with pytest.raises(ValueError, match="would shuffle the windows"):
        model.fit(x, FORMS[form](X), verbose=0, batch_size=ROWS, **arguments)
    with pytest.raises(ValueError, match="Received: batch_size=3"):
        model.fit(x, FORMS[form](X), verbose=0, batch_size=3, shuffle=False, **arguments)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(ROWS, 0, 1), (0, 3, 1)])
def test_windows_without_a_step_or_a_row_are_refused(shape, call, model):
    with pytest.raises(ValueError, match="at least one time step. Received: an array of shape"):
        CALLS[call](model, np.ones(shape, "float32"))


@pytest.mark.parametrize("call", CALLS)
def test_what_a_mask_hides_and_times_are_refused(call, model):
    x = X[:ROWS] if "batch" in call else X
    with pytest.raises(ValueError, match="`x` is a masked array"):
        CALLS[call](model, np.ma.masked_greater(x, 0))
    with pytest.raises(TypeError, match="Make numbers of times"):
        CALLS[call](model, x.astype("int64").astype("datetime64[s]"))
