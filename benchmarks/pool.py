"""What names cost: `Pool.step` of many streams by name against one `Session.step` of that batch.

All streams advance, in the order in which they began and in another, and a tenth of them. On one
core in processor time, which other processes do not stretch.
"""

import os
import tempfile
import time
from pathlib import Path

from harness import interleaved, row

__all__ = ["BACKENDS", "measure"]

BACKENDS = ("jax",)  # that writes the artifact
STREAMS, FEATURES, ROUNDS = 10_000, 8, 25


def measure() -> tuple:
    import keras
    import numpy as np

    import keras_stateful as ks

    if hasattr(os, "sched_setaffinity"):  # on Linux
        os.sched_setaffinity(0, {0})
    rng = np.random.default_rng(0)
    names = [f"machine {i}" for i in range(STREAMS)]
    x = rng.standard_normal((STREAMS, FEATURES)).astype("float32")
    by_name = dict(zip(names, x, strict=True))
    found = []
    for layer, units in ((keras.layers.GRU, 64), (keras.layers.LSTM, 128)):
        model = keras.Sequential(
            [
                keras.Input((None, FEATURES)),
                layer(units, return_sequences=True),
                keras.layers.Dense(1),
            ]
        )
        with tempfile.TemporaryDirectory() as folder:
            ks.export_step_model(model, Path(folder) / "model", verbose=0)
            session = ks.load_session(Path(folder) / "model", STREAMS)
            tenth = ks.load_session(Path(folder) / "model", STREAMS // 10)
            pool = session.pool()
            pool.step(by_name)
            order = rng.permutation(STREAMS)
            shuffled = {names[i]: x[i] for i in order}
            some = {names[i]: x[i] for i in order[: STREAMS // 10]}
            took = interleaved(
                {
                    "session": lambda session=session: session.step(x),
                    "all": lambda pool=pool: pool.step(by_name),
                    "shuffled": lambda pool=pool, s=shuffled: pool.step(s),
                    "session of a tenth": lambda tenth=tenth: tenth.step(x[: STREAMS // 10]),
                    "some": lambda pool=pool, some=some: pool.step(some),
                },
                ROUNDS,
                warm_up=3,
                clock=time.thread_time,
            )
        sides = (
            (f"all of {STREAMS:,} streams", "all", "session", 1.3),
            (f"all of {STREAMS:,} streams in another order", "shuffled", "session", None),
            (f"{STREAMS // 10:,} of {STREAMS:,} streams", "some", "session of a tenth", None),
        )
        found += [
            row(
                f"`Pool.step` of {what}, {layer.__name__} {units}",
                took[ours] / took[theirs],
                at_most=at_most,
                against="`Session.step` of as many rows",
                ours=f"{took[ours] * 1e3:.1f} ms",
                theirs=f"{took[theirs] * 1e3:.1f} ms",
            )
            for what, ours, theirs, at_most in sides
        ]
    return (found,)
