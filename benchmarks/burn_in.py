"""What cutting documents costs in held-out loss, and how much of it `burn_in` gives back.

The same network, the same number of training steps, three layouts: whole documents, documents cut
into pieces, and pieces with a burn-in. Held-out addresses are read whole. Means over three seeds.
"""

import keras
import numpy as np
from harness import row
from layout import addresses

from keras_stateful import StatefulSequence, evaluate_documents, to_stateful

BACKENDS = ("jax",)
ROWS, WINDOW, CUT, STEPS, SEEDS = 16, 64, 128, 800, (0, 1, 2)
LAYOUTS = {
    "whole documents": {},
    f"cut every {CUT} steps": {"max_document_length": CUT},
    f"cut every {CUT} steps, burn_in=32": {"max_document_length": CUT, "burn_in": 32},
}


def held_out_loss(layout: dict, training: list, held_out: list, seed: int) -> float:
    keras.utils.set_random_seed(seed)
    sequence = StatefulSequence(
        training, ROWS, WINDOW, resets=True, shuffle=True, seed=seed, **layout
    )
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(256, 32),
            keras.layers.LSTM(128, return_sequences=True),
            keras.layers.Dense(256),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile(
        keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(sequence, steps_per_epoch=STEPS, epochs=1, verbose=0)
    losses = evaluate_documents(model, held_out, verbose=0)["loss"]
    return float(np.average(losses, weights=[len(d) - 1 for d in held_out]) / np.log(2))


def measure() -> tuple:
    texts = [np.fromfile(path, "uint8") for path in addresses()]
    held_out = [text[:20_000] for text in texts[::25]]
    training = [text for i, text in enumerate(texts) if i % 25]
    spread = {
        name: [held_out_loss(layout, training, held_out, seed) for seed in SEEDS]
        for name, layout in LAYOUTS.items()
    }
    return (
        [
            row(
                name,
                float(np.mean(bits)),
                "bits per byte",
                ours=f"{min(bits):.3f} to {max(bits):.3f}",
            )
            for name, bits in spread.items()
        ],
        f"{STEPS} steps of {ROWS} x {WINDOW} with each of {len(SEEDS)} seeds; the range is over "
        "the seeds.",
    )
