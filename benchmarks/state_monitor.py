"""What a look of `StateMonitor` costs: `fit` with one every 100 steps, and every 10, against `fit`
without.
"""

from fit_overhead import build, compiled
from harness import BACKENDS, interleaved, row

__all__ = ["BACKENDS", "measure"]

UNITS, ROWS, WINDOW, STEPS, ROUNDS = 128, 32, 32, 100, 5
ALONE = "no monitor"


def measure() -> tuple:
    import keras
    import numpy as np

    from keras_stateful import StatefulSequence, StateMonitor, to_stateful

    ids = np.random.default_rng(0).integers(0, 100, ROWS * STEPS * WINDOW + 1, dtype="int32")
    sequence = StatefulSequence(ids, ROWS, WINDOW)
    model = compiled(to_stateful(build(UNITS, WINDOW), ROWS))
    fits = {ALONE: lambda: model.fit(sequence, verbose=0)}
    for every in (100, 10):
        fits[f"every {every}"] = lambda e=every: model.fit(
            sequence, verbose=0, callbacks=[StateMonitor(every=e)]
        )
    took = interleaved(fits, ROUNDS)
    return (
        [
            row(
                f"`StateMonitor`, measuring every {every} steps, LSTM {UNITS}",
                took[f"every {every}"] / took[ALONE],
                against=ALONE,
                ours=f"{took[f'every {every}'] / STEPS * 1e3:.2f} ms",
                theirs=f"{took[ALONE] / STEPS * 1e3:.2f} ms",
                backend=keras.backend.backend(),
            )
            for every in (100, 10)
        ],
    )
