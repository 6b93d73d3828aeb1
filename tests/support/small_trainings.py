"""A small network on short documents of ids, and its losses step by step."""

import keras
import numpy as np

import keras_stateful as ks

IDS = 7


def documents(lengths, seed=0) -> list[np.ndarray]:
    """Random ids from 1 to 6: id 0 is padding."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, IDS, n) for n in lengths]


TRAIN, HELD_OUT = documents([23, 40, 31, 9, 17, 28]), documents([12, 33, 21], seed=1)


def network(rows=None, stateful=False, mask_zero=False) -> keras.Model:
    """Probabilities `(batch, time, IDS)` of the next id."""
    return keras.Sequential(
        [
            keras.Input((None,), batch_size=rows, dtype="int32"),
            keras.layers.Embedding(IDS, 4, mask_zero=mask_zero),
            keras.layers.LSTM(5, return_sequences=True, stateful=stateful),
            keras.layers.Dense(IDS, activation="softmax"),
        ]
    )


def sequence(docs=TRAIN, resets=True, **kwargs) -> ks.StatefulSequence:
    """Windows of 8 steps in 3 rows."""
    return ks.StatefulSequence(docs, 3, 8, resets=resets, **kwargs)


def model_for(kind: str, resets: bool = True, mask_zero: bool = False) -> keras.Model:
    """A compiled model: a plain `stateful=True` layer for "plain", otherwise a converted one."""
    keras.utils.set_random_seed(3)
    if kind == "plain":
        model = network(3, stateful=True, mask_zero=mask_zero)
    else:
        model = ks.to_stateful(network(mask_zero=mask_zero), sequence(resets=resets))
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"]
    )
    return model


def of_this_batch(model, x, y, sample_weight=None, **kwargs):
    """What `train_on_batch` gives of a batch; before Keras 3.15 it is the mean of all so far."""
    model.reset_metrics()
    return model.train_on_batch(x, y, sample_weight, **kwargs)


def in_one_call(plain, document):
    """Outputs `(time, IDS)` of a stateless model for one whole document."""
    # What stands behind a document changes nothing before it, and one shape is compiled once.
    padded = np.pad(document, (0, 40 - len(document)), mode="wrap")
    return plain.predict_on_batch(padded[None])[0][: len(document)]


def loss_by_hand(model, docs):
    """Cross-entropy of each step of each document, read in one long call of the plain model."""
    plain = ks.to_stateless(model)
    losses = []
    for d in docs:
        p = in_one_call(plain, d)
        losses.append(-np.log(p[np.arange(len(d) - 1), d[1:]]))
    return losses
