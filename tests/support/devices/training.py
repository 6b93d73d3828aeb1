"""The training that every number of devices must agree on."""

import warnings

import keras
import numpy as np

import keras_stateful as ks

ROWS, WINDOW, IDS = 8, 8, 12
rng = np.random.default_rng(0)
DOCUMENTS = [rng.integers(0, IDS, n) for n in (40, 33, 21, 50, 17, 29, 44, 38, 25)]


def network(dropout: float = 0.0) -> keras.Model:
    x = keras.Input((None,), dtype="int32")
    h = keras.layers.Embedding(IDS, 8)(x)
    h = keras.layers.LSTM(8, return_sequences=True, dropout=dropout, name="first")(h)
    h = keras.layers.GRU(8, return_sequences=True, name="second")(h)
    return keras.Model(x, keras.layers.Dense(IDS)(h))


def sequence(documents=DOCUMENTS, **arguments) -> ks.StatefulSequence:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few documents: much padding
        return ks.StatefulSequence(documents, ROWS, WINDOW, **{"resets": True, **arguments})


def compiled(data, dropout: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = ks.to_stateful(network(dropout), data)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def trained(dropout: float = 0.0, shard=(0, 1), **arguments) -> tuple:
    """A model after two epochs with validation, and its history."""
    data = sequence(shuffle=True, seed=3, shard=shard, **arguments)
    model = compiled(data, dropout)
    held_out = sequence(DOCUMENTS[:4], shard=shard, **arguments)
    return model, model.fit(data, epochs=2, validation_data=held_out, verbose=0).history


def assert_same(got: tuple, expected: tuple) -> None:
    """Losses, metrics and states; these change from row to row, so a row in the wrong place would
    show.
    """
    for name, values in expected[1].items():
        np.testing.assert_allclose(got[1][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    a, b = ks.get_states(got[0]), ks.get_states(expected[0])
    for path in ("first", "second"):
        for mine, other in zip(a[path], b[path], strict=True):
            assert mine.shape == (ROWS, 8)
            np.testing.assert_allclose(mine, other, atol=1e-5)
    assert len(np.unique(np.round(b["second"][0], 4), axis=0)) > ROWS // 2
