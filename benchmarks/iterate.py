"""What reading costs: batches of a `StatefulSequence` against Keras's own windows and against copying them.

    python benchmarks/iterate.py

8 M ids, batch 64, window 128, medians of several rounds in one process. `timeseries_dataset_from_array` gives the same
windows in another order; the NumPy copy is what copying the same bytes costs, the floor. Then building over a million
documents and over a 20 GB file, and a stream of a million short documents with the memory it takes.
"""

import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # for timeseries_dataset_from_array
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from fit_overhead import surroundings

from keras_stateful import StatefulSequence, StatefulStream

IDS, ROWS, WINDOW, ROUNDS = 8_000_000, 64, 128, 5


def seconds(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read(batches) -> None:
    for _ in batches:
        pass


def copies(ids: np.ndarray, count: int) -> None:
    """The same windows, x and y, copied row by row of the grid with one NumPy call a batch."""
    streams = ids[: ROWS * count * WINDOW].reshape(ROWS, count * WINDOW)
    later = ids[1 : 1 + ROWS * count * WINDOW].reshape(ROWS, count * WINDOW)
    for i in range(count):
        streams[:, i * WINDOW : (i + 1) * WINDOW].copy(), later[:, i * WINDOW : (i + 1) * WINDOW].copy()


def memory() -> float:
    """Most memory this process had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    import keras

    where = surroundings()
    print(f"{where['date']}; {where['cpu']}, {where['cores']} cores; keras {where['versions']['keras']}, numpy "
          f"{where['versions']['numpy']}\n")  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 100, IDS, dtype="int32")

    def theirs() -> object:
        return keras.utils.timeseries_dataset_from_array(
            ids[:-1], ids[WINDOW:], WINDOW, sequence_stride=WINDOW, batch_size=ROWS
        )

    ours = StatefulSequence(ids, ROWS, WINDOW, boundary="ignore")
    cuts = np.sort(np.random.default_rng(1).choice(np.arange(1, IDS), 1999, replace=False))
    documents = [d for d in np.split(ids, cuts) if len(d) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligned = StatefulSequence(documents, ROWS, WINDOW, resets=True)
    batches = len(ours)
    times = {
        "timeseries_dataset_from_array": (seconds(lambda: read(theirs()), 3), -(-(IDS // WINDOW) // ROWS)),
        'StatefulSequence, "ignore"': (seconds(lambda: read(ours)), batches),
        'StatefulSequence, 2,000 documents, "align", weights and masks': (
            seconds(lambda: read(aligned)),
            len(aligned),
        ),
        "NumPy copy of the same windows": (seconds(lambda: copies(ids, batches)), batches),
    }
    slowest = times["timeseries_dataset_from_array"][0] / times["timeseries_dataset_from_array"][1]
    print("| 8 M ids, 64 x 128 | microseconds a batch | times faster than Keras's |")
    print("|---|---|---|")
    for name, (took, count) in times.items():
        print(f"| {name} | {took / count * 1e6:.1f} | {slowest / (took / count):.0f} |")

    lengths = np.random.default_rng(2).integers(2, 100, 1_000_000)
    text = np.zeros(lengths.sum(), "uint8")
    million = np.split(text, np.cumsum(lengths)[:-1])
    print("\n| build | seconds | memory added, MB |\n|---|---|---|")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for boundary in ("align", "pack"):
            before, took = (
                memory(),
                seconds(lambda b=boundary: StatefulSequence(million, ROWS, WINDOW, boundary=b), 1),
            )
            print(f'| 1,000,000 documents, "{boundary}" | {took:.2f} | {memory() - before:.0f} |')
    with tempfile.TemporaryDirectory() as folder:
        size = 20_000_000_000
        with open(Path(folder) / "sparse", "wb") as file:
            file.truncate(size)
        mapped = np.memmap(Path(folder) / "sparse", "uint8", "r")
        before = memory()
        took = seconds(lambda: StatefulSequence(mapped, ROWS, WINDOW)[0], 1)
        print(f"| a file of 20 GB, and its first batch | {took:.3f} | {memory() - before:.0f} |")

    def source():
        rng = np.random.default_rng(3)
        for _ in range(1_000_000):
            yield rng.integers(0, 100, rng.integers(2, 60), dtype="int32")

    before, start = memory(), time.perf_counter()
    read(StatefulStream(source, ROWS, WINDOW, boundary="pack", resets=True))
    took = time.perf_counter() - start
    print(
        f'| stream of 1,000,000 documents, "pack", read to its end | {took:.1f} | {memory() - before:.0f} |'
    )


if __name__ == "__main__":
    main()
