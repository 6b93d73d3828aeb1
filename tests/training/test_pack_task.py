"""A task that can be solved only with resets at exactly the right steps.

All inputs are alike, and the target is the time step.
"""

import keras
import numpy as np

import keras_stateful as ks

LONGEST = 6


def sequence(boundary):
    lengths = np.random.default_rng(0).integers(2, LONGEST + 1, 256)
    same, steps = [np.ones(n, "int32") for n in lengths], [np.arange(n) for n in lengths]
    return ks.StatefulSequence(
        same,
        8,
        16,
        targets=steps,
        boundary=boundary,
        resets=True,
        shuffle=boundary == "pack",
        seed=1,
    )


def accuracy(boundary):
    keras.utils.set_random_seed(1)
    data = sequence(boundary)
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(2, 4),
            keras.layers.GRU(16, return_sequences=True),
            keras.layers.Dense(LONGEST, activation="softmax"),
        ]
    )
    resets = "step" if boundary == "pack" else "window"
    model = ks.to_stateful(network, 8, resets=resets)
    model.compile(
        keras.optimizers.Adam(0.03),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    model.fit(data, epochs=30, verbose=0)
    return model.evaluate(data, verbose=0, return_dict=True)["accuracy"]


def test_pack_solves_what_no_network_without_resets_can():
    assert accuracy("pack") > 0.99
    assert accuracy("ignore") < 0.5
