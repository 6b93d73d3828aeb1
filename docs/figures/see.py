"""The pictures of docs/see.md: units of a character network that was trained on Python's help
topics, and two layouts.

    python docs/figures/see.py               # a minute; writes to docs/images
    python docs/figures/see.py --smoke /tmp  # seconds; the units know nothing yet

The units are chosen on one document that was held out of training, and shown and measured on
another.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import keras
import numpy as np

from keras_stateful import (
    StatefulSequence,
    evaluate_documents,
    plot_activations,
    plot_layout,
    rank_units,
    record_states,
    to_stateful,
)

HELD_OUT = ("specialnames", "strings")


def position_in_line(text: str) -> np.ndarray:
    """Characters since the line began."""
    starts = np.maximum.accumulate([i + 1 if c == "\n" else 0 for i, c in enumerate(text)])
    return np.maximum(np.arange(len(text)) - starts + 1, 0)


def between_quotes(text: str) -> np.ndarray:
    """Whether a step is between an opening double quote and the next one of the same line."""
    inside, flags = False, []
    for character in text:
        inside = (inside != (character == '"')) and character != "\n"
        flags.append(inside)
    return np.array(flags)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--units", type=int, default=192)
    parser.add_argument("--smoke", action="store_true", help="a small network, hardly trained")
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.units = 1, 16
    keras.utils.set_random_seed(0)

    names = HELD_OUT
    training = [text for name, text in topics.items() if name not in names]
    if options.smoke:
        training = [text[:500] for text in training]
    characters = sorted(set("".join(training)))
    ids = {
        character: i for i, character in enumerate(characters, start=1)
    }  # 0: not seen in training

    def encode(text: str) -> np.ndarray:
        return np.array([ids.get(character, 0) for character in text], "int32")

    sequence = StatefulSequence(
        [encode(text) for text in training],
        16,
        64,
        max_document_length="auto",
        shuffle=True,
        resets=True,
    )
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(len(ids) + 1, 32),
            keras.layers.LSTM(options.units, return_sequences=True, name="lstm"),
            keras.layers.Dense(len(ids) + 1),
        ]
    )
    model = to_stateful(network, sequence)
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, options.epochs * len(sequence))
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(sequence, epochs=options.epochs, verbose=2)

    first, second = (topics[name][:8000] for name in names)
    for name, text in zip(names, (first, second), strict=True):
        loss = evaluate_documents(model, [encode(text)])["loss"][0]
        print(f"{name}: {loss / np.log(2):.2f} bits per character")
    chosen_on, shown = (record_states(model, encode(text), state=1) for text in (first, second))
    best = []
    for feature in (position_in_line, between_quotes):
        units, correlations = rank_units(chosen_on, feature(first))
        ranked, there = rank_units(shown, feature(second))
        again = there[list(ranked).index(units[0])]
        print(
            f"{feature.__name__}: unit {units[0]}, {correlations[0]:+.2f}; on the other document "
            f"{again:+.2f}"
        )
        best.append(units[0])

    start = second.index("\n", 900) + 1
    stop = second.index("\n", start + 700) + 1
    passage = slice(start, stop)
    figure = plot_activations(
        second[passage],
        shown[passage],
        best,
        title="Cell states of an LSTM that reads a held-out document",
    )
    figure.savefig(options.folder / "activations.png", dpi=80)
    # The page: the best units of both kinds and the first ones of the layer.
    others = [unit for unit in range(12) if unit not in best]
    plot_activations(
        second[:3000], shown[:3000], [*best, *others], path=options.folder / "activations.html",
        title="Cell states of an LSTM that reads a held-out document",
    )  # fmt: skip

    lengths = (90, 30, 140, 45, 60, 25, 110, 35, 50, 20)
    documents = [np.zeros(length, "int32") for length in lengths]
    for boundary in ("align", "pack"):
        layout = StatefulSequence(documents, 4, 32, boundary=boundary)
        plot_layout(layout).savefig(options.folder / f"layout-{boundary}.png", dpi=80)


if __name__ == "__main__":
    main()
