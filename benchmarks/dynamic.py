"""How much a held-out address is worth to a network that learns while it reads it.

Dynamic evaluation (Krause et al. 2017, arXiv:1709.07432) beside reading with the trained weights.
Learning rates are chosen on some held-out addresses and measured on others.
"""

import keras
import numpy as np
from harness import row
from layout import addresses

from keras_stateful import StatefulSequence, evaluate_documents, to_stateful

BACKENDS = ("jax",)
ROWS, WINDOW, STEPS, READ = 16, 64, 2500, 20_000
OPTIMIZERS = {
    "SGD": (keras.optimizers.SGD, (0.1, 0.3, 1.0)),
    "RMSprop": (keras.optimizers.RMSprop, (0.0003, 0.001, 0.003)),
}


def trained(training: list) -> keras.Model:
    keras.utils.set_random_seed(0)
    sequence = StatefulSequence(training, ROWS, WINDOW, resets=True, shuffle=True, seed=0)
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
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.005, STEPS)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(sequence, steps_per_epoch=STEPS, epochs=1, verbose=0)
    return model


def perplexity(model: keras.Model, documents: list, **arguments: object) -> float:
    scores = evaluate_documents(
        model, documents, sequence_length=WINDOW, pooled=True, verbose=0, **arguments
    )
    return float(np.exp(scores["loss"]))


def measure() -> tuple:
    texts = [np.fromfile(path, "uint8") for path in addresses()]
    held_out = [text[:READ] for text in texts[::25]]
    model = trained([text for i, text in enumerate(texts) if i % 25])
    choosing, measured = held_out[::2], held_out[1::2]
    before = perplexity(model, measured)
    rows = [row("the trained weights", before, "perplexity of a byte")]
    for name, (optimizer, rates) in OPTIMIZERS.items():
        rate = min(rates, key=lambda r: perplexity(model, choosing, dynamic=optimizer(r)))
        after = perplexity(model, measured, dynamic=optimizer(rate))
        rows.append(
            row(
                f"learning while reading, {name}({rate})",
                after,
                "perplexity of a byte",
                ours=f"{100 * (1 - after / before):.1f} % less",
            )
        )
    return (
        rows,
        f"LSTM({128}), {STEPS} training steps of {ROWS} x {WINDOW} bytes; {len(measured)} held-out "
        f"addresses of up to {READ:,} bytes, each read from the trained weights.",
    )
