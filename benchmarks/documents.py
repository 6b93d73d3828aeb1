"""Reading documents: passes and single batches against a copy of x, y and weights, and how long a
million documents take to the first batch.

In processor time. Documents are read from the array that they were cut from (`np.split`) or are
arrays of their own (`[encode(text) for text in texts]`).
"""

import time
import warnings

import numpy as np
from harness import interleaved, row

BACKENDS = ("jax",)  # none is needed; one is named so that it runs once
DOCUMENTS, STEPS, ROWS, WINDOW, ROUNDS = 2_000, 4_000, 64, 128, 7
COPY = "a NumPy copy of x, y and weights"
REACH = {
    ("align", "a pass"): 2,
    ("pack", "a pass"): 4,
    ("align", "by index"): 3,
    ("pack", "by index"): 6,
}


def read(batches) -> None:
    for _ in batches:
        pass


def copies(ids: np.ndarray) -> int:
    """As many windows of one text, x, y and weights; one NumPy call an array and batch."""
    count = len(ids) // (ROWS * WINDOW) - 1
    whole = [ids, ids[1:], np.ones(len(ids), "float32")]
    streams = [a[: ROWS * count * WINDOW].reshape(ROWS, count * WINDOW) for a in whole]
    for i in range(count):
        [a[:, i * WINDOW : (i + 1) * WINDOW].copy() for a in streams]
    return count


def reading() -> list:
    from keras_stateful import StatefulSequence

    ids = np.random.default_rng(0).integers(0, 100, DOCUMENTS * STEPS, dtype="int32")
    cut = np.split(ids, DOCUMENTS)
    ways, counts, reach = {COPY: lambda: copies(ids)}, {COPY: copies(ids)}, {}
    for kind, documents in (
        ("cut from one array", cut),
        ("in arrays of their own", [d.copy() for d in cut]),
    ):
        for boundary in ("align", "pack"):
            sequence = StatefulSequence(documents, ROWS, WINDOW, boundary=boundary, resets=True)
            for way, run in (
                ("a pass", lambda s=sequence: read(s)),
                ("by index", lambda s=sequence: read(s[i] for i in range(len(s)))),
            ):
                name = f'documents {kind}, "{boundary}", {way}'
                ways[name], counts[name] = run, len(sequence)
                reach[name] = REACH[boundary, way]
    took = interleaved(ways, ROUNDS, clock=time.process_time)
    each = {name: took[name] / counts[name] for name in ways}
    return [
        row(
            name,
            each[name] / each[COPY],
            at_most=most,
            against=COPY,
            ours=f"{each[name] * 1e6:.1f} µs",
            theirs=f"{each[COPY] * 1e6:.1f} µs",
        )
        for name, most in reach.items()
    ]


def first_batches() -> list:
    from keras_stateful import StatefulSequence

    lengths = np.random.default_rng(2).integers(2, 100, 1_000_000)
    cut = np.split(np.zeros(lengths.sum(), "uint8"), np.cumsum(lengths)[:-1])
    took = interleaved(
        {
            f'1,000,000 documents {kind}, "{boundary}", to the first batch': (
                lambda d=documents, b=boundary: StatefulSequence(d, ROWS, WINDOW, boundary=b)[0]
            )
            for kind, documents in (
                ("cut from one array", cut),
                ("in arrays of their own", [document.copy() for document in cut]),
            )
            for boundary in ("align", "pack")
        },
        3,
        clock=time.process_time,
    )
    return [row(name, seconds, "s", at_most=0.5) for name, seconds in took.items()]


def measure() -> tuple:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of padding
        return reading() + first_batches(), "2,000 documents of 4,000 ids, batch 64 x 128."
