"""The alphabet puzzle: a stateful network that answers B whatever letter it starts from, and what
cures it.

    python examples/alphabet.py
    python examples/alphabet.py --figure alphabet.png   # needs pip install ".[plots]"
    python examples/alphabet.py --one-hot               # letters as 26 values instead of one number

A network reads a letter and names the next one. Trained the way many tutorials do it (batches of
one, one letter a window, the alphabet in order, the state carried from A to Z and reset before each
epoch), it is right at every step. Then it is started from M and answers B; from the next letter,
whatever that is, C. It has learned to count steps.

Every training here has windows of one letter, so no gradient ever flows from one letter to the
next: all that the networks differ in is the documents. For the puzzle itself see Jason Brownlee,
"Understanding Stateful LSTM Recurrent Neural Networks in Python with Keras" (2016), whose input,
the letter's number as a single value, is kept.
"""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np

from keras_stateful import StatefulSequence, get_states, to_inference, to_stateful

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNITS = 32


class Probe(NamedTuple):
    """Answers and states after each step, started from each letter: `(letters, steps, ...)`."""

    answers: np.ndarray
    states: np.ndarray
    letters: np.ndarray  # the letter read at that step
    steps: np.ndarray  # the number of that step


def main() -> None:
    options = parse_options()
    backend.say()
    keras.utils.set_random_seed(options.seed)
    count = 8 if options.smoke else 26  # letters of the alphabet
    alphabet = np.arange(count)
    table = (np.eye(count) if options.one_hot else alphabet[:, None] / count).astype(
        "float32"
    )  # (letters, values)

    print("1. The alphabet, in order: batches of one, the state reset before each epoch")
    in_order, _ = train([alphabet], 1, epochs=200, rate=0.005, table=table)
    puzzle = probe(in_order, table)
    show(puzzle, count)

    print("\n2. Every rotation of the alphabet, each a document, side by side in one batch")
    rotations = [np.append(np.roll(alphabet, -start), start) for start in alphabet]
    schedule = keras.optimizers.schedules.CosineDecay(0.03, 500 * count)
    rotated, recurrent_seconds = train(rotations, count, epochs=500, rate=schedule, table=table)
    cure = probe(rotated, table)
    show(cure, count)

    print("\n3. No state at all: a feed-forward network on the pairs (A, B), (B, C), ...")
    pairs = keras.Sequential(
        [keras.Input(table.shape[1:]), keras.layers.Dense(UNITS, "tanh"), keras.layers.Dense(count)]
    )
    pairs.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 600)), loss())
    began = time.perf_counter()
    for _ in range(600):
        pairs.train_on_batch(table, next_letter(alphabet, count))
    seconds = time.perf_counter() - began
    answers = pairs.predict_on_batch(table).argmax(-1)
    right = (answers == next_letter(alphabet, count)).sum()
    print(f"  right: {right} of {count}")
    print(f"  parameters: {pairs.count_params():,}, the LSTM network has {trainable(rotated):,}")
    print(f"  trained in {seconds:.1f} s, the LSTM network of part 2 in {recurrent_seconds:.1f} s")

    if options.figure:
        draw(options.figure, puzzle, cure, count)
        print(f"\nwrote {options.figure}")

    # The claims. Part 1 counts steps: it knows neither the letter it starts from nor any that it
    # reads later.
    if not options.one_hot:
        assert (puzzle.answers[:, 0] == 1).all(), "some letter at the start is not answered with B"
        assert by_step(puzzle, count) > (0.6 if options.smoke else 0.8)
        assert by_letter(puzzle, count) < (0.4 if options.smoke else 0.2)
        assert explained(puzzle.states, puzzle.steps) > explained(puzzle.states, puzzle.letters)
    # Part 2 knows every letter, from any start, at once and at every later step; so does part 3.
    assert (cure.answers == next_letter(cure.letters, count)).all()
    assert explained(cure.states, cure.letters) > explained(cure.states, cure.steps)
    assert right == count


def train(
    documents: list, batch_size: int, *, epochs: int, rate, table: np.ndarray
) -> tuple[keras.Model, float]:
    """An LSTM trained letter by letter, its state carried along each document; and the seconds it
    took.
    """
    sequence = StatefulSequence(
        [table[document[:-1]] for document in documents],
        batch_size=batch_size,
        sequence_length=1,
        targets=[document[1:] for document in documents],
        resets=True,
    )
    network = keras.Sequential(
        [
            keras.Input((None, table.shape[1])),
            keras.layers.LSTM(UNITS, return_sequences=True),
            keras.layers.Dense(len(table)),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile(keras.optimizers.Adam(rate), loss(), metrics=["accuracy"])
    began = time.perf_counter()
    history = model.fit(sequence, epochs=epochs, verbose=0).history
    seconds = time.perf_counter() - began
    print(
        f"  accuracy in training: {history['accuracy'][-1]:.3f} after {epochs} epochs, "
        f"{seconds:.1f} s"
    )
    return model, seconds


def probe(model: keras.Model, table: np.ndarray) -> Probe:
    """Starts the network from every letter at once, in rows of one batch, and reads on
    alphabetically.
    """
    count = len(table)
    reader = to_inference(model, batch_size=count)
    letters = (np.arange(count)[:, None] + np.arange(count - 1)) % count  # (start, step)
    answers, states = [], []
    for column in letters.T:
        answers.append(reader.predict_on_batch(table[column][:, None])[:, 0].argmax(-1))
        ((h, _),) = get_states(reader).values()  # one LSTM of two states, each (rows, units)
        states.append(h)
    steps = np.broadcast_to(np.arange(count - 1), letters.shape)
    return Probe(np.stack(answers, axis=1), np.stack(states, axis=1), letters, steps)


def show(probe: Probe, count: int) -> None:
    start = 12 % count
    asked = "".join(ALPHABET[i] for i in probe.letters[start])
    said = "".join(ALPHABET[i] for i in probe.answers[start])
    print(f"  from {asked[0]}: asked  {asked}")
    print(f"          says   {said}")
    first = (probe.answers[:, 0] == next_letter(np.arange(count), count)).sum()
    print(f"  right at the first step: {first} of {count}")
    print(
        f"  at all steps: {by_letter(probe, count):.0%} the letter after the one read, "
        f"{by_step(probe, count):.0%} the letter that the alphabet has at that step"
    )
    print(
        "  variance of the state explained by the step: "
        f"{explained(probe.states, probe.steps):.1%}, by the letter: "
        f"{explained(probe.states, probe.letters):.1%}"
    )
    same = np.linalg.norm(probe.states[0, 3] - probe.states[start, 3])
    other = np.linalg.norm(probe.states[0, 3] - probe.states[0, 5])
    print(
        f"  distance of the states after step 4 from A and from {asked[0]}: {same:.2f}; "
        f"from A after steps 4 and 6: {other:.2f}"
    )


def by_letter(probe: Probe, count: int) -> float:
    """Share of answers, from every start but A, that follow from the letter read."""
    return float((probe.answers == next_letter(probe.letters, count))[1:].mean())


def by_step(probe: Probe, count: int) -> float:
    """Share of answers, from every start but A, that follow from the number of the step."""
    return float((probe.answers == next_letter(probe.steps, count))[1:].mean())


def explained(states: np.ndarray, groups: np.ndarray) -> float:
    """Share of the states' variance that lies between the groups: 1 where a group's states are all
    the same.
    """
    mean = states.mean((0, 1))
    between = sum(
        (groups == group).sum() * ((states[groups == group].mean(0) - mean) ** 2).sum()
        for group in np.unique(groups)
    )
    return float(between / ((states - mean) ** 2).sum())


def next_letter(letters: np.ndarray, count: int) -> np.ndarray:
    return (letters + 1) % count


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def draw(path: Path, puzzle: Probe, cure: Probe, count: int) -> None:
    """Above, what the two networks answer; below, their states in the plane of their two principal
    components.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 8.2), layout="constrained")
    titles = ("1. trained on the alphabet in order", "2. trained on its rotations")
    for (above, below), title, probe, groups in zip(
        axes.T, titles, (puzzle, cure), ("steps", "letters"), strict=True
    ):
        colors = above.imshow(probe.answers, cmap="hsv", vmin=0, vmax=count)
        above.set_title(title)
        above.set_xlabel("letters read before this one")
        above.set_ylabel("started from")
        above.set_yticks(range(count), ALPHABET[:count], fontsize=7)

        states = probe.states.reshape(-1, UNITS)
        centred = states - states.mean(0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        group = getattr(probe, groups).ravel()
        below.scatter(*plane.T, c=group, cmap="hsv", vmin=0, vmax=count, s=6, alpha=0.6)
        for g in np.unique(group):
            label = ALPHABET[g] if groups == "letters" else str(g + 1)
            below.annotate(label, plane[group == g].mean(0), fontsize=9, weight="bold")
        below.set_title(
            f"state, labelled with the {'letter read' if groups == 'letters' else 'step'}"
        )
        below.set_xticks([])
        below.set_yticks([])
    bar = figure.colorbar(colors, ax=axes[0], label="answer", ticks=range(0, count, 2))
    bar.ax.set_yticklabels(ALPHABET[:count:2])
    figure.savefig(path, dpi=80)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--smoke", action="store_true", help="an alphabet of eight letters, in seconds"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw answers and states into this file"
    )
    parser.add_argument(
        "--one-hot", action="store_true", help="letters as vectors instead of one number"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    return options


if __name__ == "__main__":
    main()
