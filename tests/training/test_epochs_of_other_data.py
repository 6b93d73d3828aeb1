"""`steps_per_epoch` on data that are no sequence: the state begins anew where the data do."""

import functools
import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from releases import ANY_ROWS

import keras_stateful as ks

ROWS, WINDOW, BATCHES = 2, 3, 6
X = np.random.default_rng(0).normal(size=(BATCHES, ROWS, WINDOW, 1)).astype("float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return BATCHES

    def __getitem__(self, i):
        return X[i], X[i]


def generator():
    return ((x, x) for x in itertools.cycle(X))


def masked():
    """Batches whose first input says where rows begin anew: at the start of each pass."""
    for i in itertools.cycle(range(BATCHES)):
        yield (X[i], np.full(ROWS, i == 0)), X[i]


def tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, X))


def loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.tensor, (X, X)))
    return torch.utils.data.DataLoader(data, batch_size=None)


KNOWN = {
    "arrays": lambda: {"x": X.reshape(-1, WINDOW, 1), "y": X.reshape(-1, WINDOW, 1)},
    "a PyDataset": lambda: {"x": Batches()},
    "a tf.data.Dataset": lambda: {"x": tensorflow_dataset()},
    "a DataLoader": lambda: {"x": loader()},
}
UNKNOWN = {
    "a generator": lambda: {"x": generator()},
    "an endless tf.data.Dataset": lambda: {"x": tensorflow_dataset().repeat()},
}


class Fresh(keras.callbacks.Callback):
    """Notes the steps before which all states are the initial one."""

    def __init__(self):
        super().__init__()
        self.steps, self.seen = [], 0

    def on_train_batch_begin(self, batch, logs=None):
        if not next(iter(ks.get_states(self.model).values()))[0].any():
            self.steps.append(self.seen)
        self.seen += 1


@functools.cache  # compiled once: it learns nothing
def model_of(kind):
    network = keras.Sequential([
        keras.Input((None, 1), batch_size=ROWS if kind == "plain" else None),
        layers.GRU(4, return_sequences=True, stateful=kind == "plain"), layers.Dense(1),
    ])  # fmt: skip
    if kind != "plain":
        network = ks.to_stateful(network, ROWS, resets="window" if kind == "masked" else None)
    network.compile(keras.optimizers.SGD(0.0), "mse")
    return network


def fresh_steps(data, steps, epochs, kind="converted", **callback):
    """At which steps the state was the initial one, and what `fit` said of it."""
    if kind == "plain" and not (ANY_ROWS or isinstance(data["x"], np.ndarray)):
        pytest.skip("needs Keras 3.14 or later")
    fresh, model = Fresh(), model_of(kind)
    ks.reset_states(model)
    callbacks = [ks.ResetStatesCallback(**callback)] if callback or kind == "plain" else []
    arguments = {"batch_size": ROWS} if isinstance(data["x"], np.ndarray) else {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(
            **data, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False,
            callbacks=[*callbacks, fresh], **arguments,
        )  # fmt: skip
    return fresh.steps, [str(w.message) for w in said if "state" in str(w.message)]


@pytest.mark.parametrize("kind", ["converted", "plain"])
@pytest.mark.parametrize("data", KNOWN)
@pytest.mark.parametrize(("steps", "epochs"), [(2, 4), (6, 2), (None, 2)])
def test_data_of_known_length_go_on_until_their_pass_is_over(data, steps, epochs, kind):
    fresh, said = fresh_steps(KNOWN[data](), steps, epochs, kind)
    assert fresh == list(range(0, (steps or BATCHES) * epochs, BATCHES))
    assert not said


def test_a_pass_that_ends_within_an_epoch():
    """Keras then ends the epoch there, and begins the next one with a new pass."""
    fresh, _ = fresh_steps(KNOWN["a PyDataset"](), 4, 4)
    assert fresh == [0, 6]


@pytest.mark.parametrize("kind", ["converted", "plain"])
@pytest.mark.parametrize("data", UNKNOWN)
def test_of_data_of_unknown_length_it_is_said_what_is_done(data, kind):
    fresh, said = fresh_steps(UNKNOWN[data](), 2, 3, kind)
    assert fresh == [0, 2, 4]
    assert "ResetStatesCallback(at_epoch_begin=False)" in said[0]
    for at_epoch_begin, expected in ((True, [0, 2, 4]), (False, [0])):
        fresh, said = fresh_steps(UNKNOWN[data](), 2, 3, kind, at_epoch_begin=at_epoch_begin)
        assert fresh == expected
        assert not said


def test_masks_that_ride_along_say_it_themselves():
    """Before step 6 the state is not the initial one yet: the mask sets it inside the step."""
    fresh, said = fresh_steps({"x": masked()}, 2, 5, "masked")
    assert fresh == [0]
    assert not said


@pytest.mark.parametrize("data", UNKNOWN)
def test_one_epoch_needs_no_word(data):
    assert fresh_steps(UNKNOWN[data](), 4, 1) == ([0], [])
