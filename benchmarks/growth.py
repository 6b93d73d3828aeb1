"""How the cost of reading a batch grows: with the corpus, its documents, the rows and the window.

One of the four is varied at a time, the others stay at 1e6 ids, one document, 64 rows, windows of
128. Corpora are sparse memory maps, so that 1e9 ids need no memory. Reading is what `fit` does, for
at most 400 batches.
"""

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from harness import FOLDER, row

BACKENDS = ("jax",)
IDS, ROWS, WINDOW, BATCHES, ROUNDS = 1_000_000, 64, 128, 400, 5
PLOT = FOLDER.parent / "docs" / "images" / "growth.png"
VARIED = {
    "ids": (10**5, 10**6, 10**7, 10**8, 10**9),
    "documents": (1, 10, 100, 1000, 10**4, 10**5, 10**6),
    "rows": (1, 4, 16, 64, 256, 1024, 4096),
    "window": (8, 32, 128, 512, 2048, 4096),
}


def seconds_a_batch(folder: Path, ids: int, documents: int, rows: int, window: int) -> float:
    from keras_stateful import StatefulSequence

    ids = max(
        ids, 20 * rows * window, 20 * documents
    )  # enough for batches, and documents of 20 steps
    path = folder / f"{ids}"
    with open(path, "wb") as file:
        file.truncate(ids + 1)
    corpus = np.memmap(path, "uint8", "r")
    if documents > 1:
        cuts = np.linspace(0, ids, documents + 1).astype("int64")[1:-1]
        corpus = np.split(np.asarray(corpus), cuts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = StatefulSequence(
            corpus, rows, window, boundary="ignore" if documents == 1 else "pack"
        )
    times = []
    for _ in range(ROUNDS):
        reader, start = sequence.read_pass(), time.perf_counter()
        count = sum(1 for _, _ in zip(range(BATCHES), reader, strict=False))
        times.append((time.perf_counter() - start) / count)
    return statistics.median(times)


def plot(points: dict[str, dict[int, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True, layout="constrained")
    for axis, (name, found) in zip(axes, points.items(), strict=True):
        axis.loglog(list(found), [t * 1e6 for t in found.values()], marker="o", color="tab:blue")
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("µs per batch")
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=90)


def measure() -> tuple:
    usual = {"ids": IDS, "documents": 1, "rows": ROWS, "window": WINDOW}
    points: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in VARIED.items():
            points[name] = {v: seconds_a_batch(Path(folder), **{**usual, name: v}) for v in values}
    plot(points)
    return (
        [
            row(
                f"window of {value:,}"
                if name == "window"
                else f"{value:,} {name if value > 1 else name.removesuffix('s')}",
                took * 1e6,
                "µs per batch",
            )
            for name, found in points.items()
            for value, took in found.items()
        ],
    )
