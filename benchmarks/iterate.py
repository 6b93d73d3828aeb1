"""What reading costs: batches of a `StatefulSequence` against the loaders that people use, and
against copying.

8 M ids, batch 64, window 128. Keras's `timeseries_dataset_from_array` and fastai's `LMDataLoader`
give the same windows (Keras in another order); the NumPy copy is what copying the same bytes costs,
the floor. Then building over a 20 GB file, and a stream of a million short documents with the
memory it takes.

fastai is installed into a scratch environment beside this Python (several gigabytes: it brings its
own torch), at `$FASTAI_ENVIRONMENT` or a temporary folder; where that fails, its row is left out
and the note says so.
"""

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from pathlib import Path

import numpy as np
from harness import interleaved, row

BACKENDS = ("tensorflow",)  # for timeseries_dataset_from_array
IDS, ROWS, WINDOW, ROUNDS = 8_000_000, 64, 128, 5
KERAS, NUMPY, FASTAI = (
    "keras `timeseries_dataset_from_array`",
    "a NumPy copy of the same windows",
    "fastai `LMDataLoader`",
)


def read(batches) -> None:
    for _ in batches:
        pass


def copies(ids: np.ndarray, count: int) -> None:
    """The same windows, x and y, copied row by row of the grid with one NumPy call a batch."""
    streams = ids[: ROWS * count * WINDOW].reshape(ROWS, count * WINDOW)
    later = ids[1 : 1 + ROWS * count * WINDOW].reshape(ROWS, count * WINDOW)
    for i in range(count):
        (
            streams[:, i * WINDOW : (i + 1) * WINDOW].copy(),
            later[:, i * WINDOW : (i + 1) * WINDOW].copy(),
        )


def memory() -> float:
    """Most memory this process had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


FASTAI_PROGRAM = """
import statistics, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from fastai.text.data import LMDataLoader
ids, rows, window = (int(a) for a in sys.argv[1:])
text = [torch.as_tensor(np.random.default_rng(0).integers(0, 100, ids, dtype="int32")).long()]
times = []
for _ in range(3):
    loader, start = LMDataLoader(text, bs=rows, seq_len=window, num_workers=0), time.perf_counter()
    for count, _ in enumerate(loader, 1): pass
    times.append((time.perf_counter() - start) / count)
print(statistics.median(times))
"""


def fastai_seconds() -> float | str:
    """Seconds a batch of fastai's loader, in its own environment; or why there is no figure."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("FASTAI_ENVIRONMENT", scratch))
        python = folder / "bin" / "python"
        try:
            if not python.exists():
                venv.create(folder, with_pip=True)
                install = [python, "-m", "pip", "install", "-q", "fastai>=2.8,<2.9"]
                subprocess.run(install, check=True, capture_output=True, timeout=900)
            command = [python, "-c", FASTAI_PROGRAM, *map(str, (IDS // 4, ROWS, WINDOW))]
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run(
                command, check=True, capture_output=True, timeout=300, env=environment, text=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            return (
                "fastai could not be installed or run here, so `LMDataLoader` is left out "
                f"({type(error).__name__})."
            )
        return float(done.stdout.split()[-1])


def iteration() -> tuple[list, str]:
    import keras

    from keras_stateful import StatefulSequence

    ids = np.random.default_rng(0).integers(0, 100, IDS, dtype="int32")

    def theirs() -> None:
        read(
            keras.utils.timeseries_dataset_from_array(
                ids[:-1], ids[WINDOW:], WINDOW, sequence_stride=WINDOW, batch_size=ROWS
            ).take(300)
        )

    ignoring = StatefulSequence(ids, ROWS, WINDOW, boundary="ignore")
    cuts = np.sort(np.random.default_rng(1).choice(np.arange(1, IDS), 1999, replace=False))
    documents = [d for d in np.split(ids, cuts) if len(d) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligned = StatefulSequence(documents, ROWS, WINDOW, resets=True)
    batches = len(ignoring)
    ways = {
        KERAS: theirs,
        NUMPY: lambda: copies(ids, batches),
        "ignore": lambda: read(ignoring),
        "align": lambda: read(aligned),
    }
    took = interleaved(ways, ROUNDS)
    each = {
        KERAS: took[KERAS] / 300,
        NUMPY: took[NUMPY] / batches,
        "ignore": took["ignore"] / batches,
        "align": took["align"] / len(aligned),
    }
    lmloader, note = fastai_seconds(), ""
    if isinstance(lmloader, str):
        note = lmloader
    else:
        each[FASTAI] = lmloader
    names = {"ignore": 'one text, "ignore"', "align": '2,000 documents, "align", weights and masks'}
    wanted = [
        ("ignore", KERAS, 200),
        ("ignore", NUMPY, 0.4),
        ("ignore", FASTAI, 200),
        ("align", KERAS, 100),
    ]
    return [
        row(
            names[ours],
            each[against] / each[ours],
            at_least=reach,
            against=against,
            ours=f"{each[ours] * 1e6:.1f} µs",
            theirs=f"{each[against] * 1e6:.1f} µs",
        )
        for ours, against, reach in wanted
        if against in each
    ], note


def building() -> list:
    from keras_stateful import StatefulSequence, StatefulStream

    rows = []

    def add(what: str, build, seconds: float | None, megabytes: float | None) -> None:
        gc.collect()
        before, start = memory(), time.perf_counter()
        build()
        rows.append(row(f"{what}: time", time.perf_counter() - start, "s", at_most=seconds))
        rows.append(row(f"{what}: memory added", memory() - before, "MB", at_most=megabytes))

    with tempfile.TemporaryDirectory() as folder:
        size = 20_000_000_000
        with open(Path(folder) / "sparse", "wb") as file:
            file.truncate(size)
        mapped = np.memmap(Path(folder) / "sparse", "uint8", "r")
        add(
            "a file of 20 GB, and its first batch",
            lambda: StatefulSequence(mapped, ROWS, WINDOW)[0],
            1,
            100,
        )

    def source():
        rng = np.random.default_rng(3)
        for _ in range(1_000_000):
            yield rng.integers(0, 100, rng.integers(2, 60), dtype="int32")

    stream = StatefulStream(source, ROWS, WINDOW, boundary="pack", resets=True)
    add('a stream of 1,000,000 documents, "pack", read to its end', lambda: read(stream), None, 100)

    return rows


def measure() -> tuple:
    built = _in_a_fresh_process()
    rows, note = iteration()
    return (rows + built, *([note] if note else []))


def _in_a_fresh_process() -> list:
    """`building()` where the most memory so far is small, so that what is added shows."""
    import json

    program = "import json, iterate; print(json.dumps(iterate.building()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
