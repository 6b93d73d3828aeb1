"""Why carry the state: a question whose answer lies several windows back.

    python examples/carry_matters.py
    python examples/carry_matters.py --figure carry_matters.png   # needs pip install ".[plots]"

Each document shows one of four keys at its first step, then noise; wherever a question mark stands,
the network has to name the key. Training reads windows of eight steps. The same network is trained

1. with its state carried along each document, 32 documents side by side,
2. with its state reset at each window, all else equal,
3. with its state carried, in batches of one.

Gradients never cross a window's edge. That a key must be kept at all is taught by the questions
inside the first window of each document; the carried value then reaches the questions in all the
others.
"""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np

from keras_stateful import StatefulSequence, predict_documents, to_stateful

WINDOW = 8
KEYS, NOISE = 4, 4  # ids 0 to 3 are keys, 4 to 7 noise
QUESTION = KEYS + NOISE
BATCH_SIZE = 32
FAR = 3  # windows from the key on that count as several


class Documents(NamedTuple):
    ids: list[np.ndarray]  # (timesteps,) each
    keys: list[np.ndarray]  # (timesteps,): the document's key at every step
    asked: list[np.ndarray]  # (timesteps,): 1 where a question stands, else 0


class Seconds(keras.callbacks.Callback):
    """How long each epoch takes, in `seconds`."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    options = parse_options()
    backend.say()
    keras.utils.set_random_seed(options.seed)
    windows = 6 if options.smoke else 20
    rng = np.random.default_rng(options.seed)
    count = 256 if options.smoke else 512
    training = make_documents(rng, rng.integers(WINDOW, windows * WINDOW, count))
    held_out = make_documents(rng, np.full(64, windows * WINDOW))
    epochs = 15 if options.smoke else 6

    print(f"{count} documents of {WINDOW} to {windows * WINDOW} steps, windows of {WINDOW}")
    carried, seconds = train(training, BATCH_SIZE, epochs, options.seed)
    reset, _ = train(training, BATCH_SIZE, epochs, options.seed, max_document_length=WINDOW)
    single, single_seconds = train(training, 1, 2, options.seed)

    # Held-out documents: read whole, or, for the network that is reset, cut into its windows.
    answers = predict_documents(carried, held_out.ids, verbose=0)
    pieces = [piece for ids in held_out.ids for piece in np.split(ids, windows)]
    results = {
        f"state carried, batch {BATCH_SIZE}": by_window(answers, held_out),
        f"state reset at each window, batch {BATCH_SIZE}": by_window(
            predict_documents(reset, pieces, verbose=0), held_out
        ),
        "state carried, batch 1": by_window(
            predict_documents(single, held_out.ids, verbose=0), held_out
        ),
    }
    print(f"\naccuracy on questions of 64 held-out documents (chance: {1 / KEYS:.2f})")
    print(f"  {'':<38} window 1   2 to {FAR}   {FAR + 1} to {windows}")
    far = {}
    for name, (right, asked) in results.items():
        near, middle, far[name] = (
            right[part].sum() / asked[part].sum() for part in np.split(np.arange(windows), [1, FAR])
        )
        print(f"  {name:<38} {near:8.3f} {middle:8.3f} {far[name]:8.3f}")
        assert near > 0.99, f"{name}: not even the questions inside the first window are answered"

    alone = predict_documents(carried, held_out.ids[:4], batch_size=1, verbose=0)
    apart = max(np.abs(a - b).max() for a, b in zip(alone, answers[:4], strict=True))
    print(
        f"\nthe network of batch {BATCH_SIZE} read at batch 1: outputs differ by at most "
        f"{apart:.0e}"
    )
    print(
        f"a pass over the training documents: {seconds:.2f} s at batch {BATCH_SIZE}, "
        f"{single_seconds:.2f} s at batch 1, {single_seconds / seconds:.0f} times as "
        "long"
    )

    if options.figure:
        draw(options.figure, results, seconds, single_seconds)
        print(f"wrote {options.figure}")

    # The claims: what is carried is known many windows later, at any batch size; what is reset is
    # not.
    with_carry, with_reset, with_single = far.values()
    assert with_carry > 0.99
    assert with_single > 0.99
    assert abs(with_reset - 1 / KEYS) < (0.15 if options.smoke else 0.08)
    assert apart < 1e-4


def make_documents(rng: np.random.Generator, lengths: np.ndarray) -> Documents:
    """A key, then noise, and a question at every fifth step or so; as many documents of one key as
    of another.
    """
    documents = Documents([], [], [])
    for i, length in enumerate(lengths):
        asked = rng.random(length) < 0.2
        asked[0] = False
        ids = np.where(asked, QUESTION, rng.integers(KEYS, KEYS + NOISE, length))
        ids[0] = i % KEYS
        documents.ids.append(ids)
        documents.keys.append(np.full(length, ids[0]))
        documents.asked.append(asked.astype("float32"))
    return documents


def train(
    documents: Documents,
    batch_size: int,
    epochs: int,
    seed: int,
    max_document_length: int | None = None,
) -> tuple[keras.Model, float]:
    """The trained network, and the seconds of its last epoch (the first one compiles)."""
    keras.utils.set_random_seed(seed)  # the same initial weights for all
    sequence = StatefulSequence(
        documents.ids,
        batch_size=batch_size,
        sequence_length=WINDOW,
        targets=documents.keys,
        sample_weight=documents.asked,
        # a document cut at each window starts anew at each window
        max_document_length=max_document_length,
        shuffle=True,
        resets=True,
    )
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(QUESTION + 1, 8),
            keras.layers.GRU(32, return_sequences=True),
            keras.layers.Dense(KEYS),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile(
        keras.optimizers.Adam(0.005),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    timer = Seconds()
    history = model.fit(sequence, epochs=epochs, verbose=0, callbacks=[timer]).history
    cut = "reset at each window" if max_document_length else "carried"
    print(
        f"  state {cut}, batch {batch_size}: {epochs} epochs of {len(sequence):,} steps, "
        f"accuracy in training {history['accuracy'][-1]:.3f}"
    )
    return model, timer.seconds[-1]


def by_window(logits: list[np.ndarray], held_out: Documents) -> tuple[np.ndarray, np.ndarray]:
    """Questions answered rightly, and all questions, by the window they stand in: two arrays
    `(windows,)`.
    """
    asked = np.stack(held_out.asked).astype(bool)
    right = (
        np.concatenate(logits).argmax(-1).reshape(asked.shape) == np.stack(held_out.keys)
    ) & asked
    return tuple(a.reshape(len(a), -1, WINDOW).sum((0, 2)) for a in (right, asked))


def draw(path: Path, results: dict, seconds: float, single_seconds: float) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.6), width_ratios=(3, 1), layout="constrained"
    )
    for (name, (correct, asked)), style in zip(results.items(), ("o-", "s-", "x:"), strict=True):
        left.plot(np.arange(1, len(asked) + 1), correct / asked, style, label=name)
    left.set_xticks(range(1, len(asked) + 1, 2))
    left.axhline(1 / KEYS, color="grey", linestyle="--", label="chance")
    left.set(
        xlabel=f"window of {WINDOW} steps; the key stands in the first",
        ylabel="accuracy on questions",
        ylim=(0, 1.05),
    )
    left.legend(loc="center right")
    bars = right.bar(
        [f"batch {BATCH_SIZE}", "batch 1"], [seconds, single_seconds], color=["C0", "C2"]
    )
    right.bar_label(bars, fmt="%.2f")
    right.set(title="a training epoch", ylabel="seconds", ylim=(0, 1.1 * single_seconds))
    figure.savefig(path, dpi=80)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="fewer and shorter documents")
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw the accuracies into this file"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    return options


if __name__ == "__main__":
    main()
