"""Resets inside a window on torch's CPU kernel: one call, against one from reset to reset, and
against a window without resets inside.

Training steps of LSTM 256 at 32 x 128 on documents of different lengths, timed by what the
processor spends. "no resets inside" reads the same steps: what one call costs anyway.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from fit_overhead import bare_epoch, build, compiled
from harness import interleaved, row

BACKENDS = ("torch",)
UNITS, ROWS, WINDOW, STEPS, ROUNDS = 256, 32, 128, 4, 7
DOCUMENTS = {"2,000 to 9,000": (2_000, 9_000), "60 to 300": (60, 300), "10 to 60": (10, 60)}


def measure() -> tuple:
    from keras_stateful import StatefulSequence, to_stateful
    from keras_stateful.carry import torch_kernels

    found = []
    for name, (shortest, longest) in DOCUMENTS.items():
        rng = np.random.default_rng(0)
        count = 4 * ROWS * STEPS * WINDOW // (shortest + longest) + ROWS
        documents = [rng.integers(0, 100, n) for n in rng.integers(shortest, longest, count)]
        pack = StatefulSequence(documents, ROWS, WINDOW, boundary="pack", resets=True, seed=0)

        def epoch(kind: str, pack: StatefulSequence = pack) -> Callable[[], None]:
            packed = kind != "align"
            model = compiled(to_stateful(build(UNITS, WINDOW), pack if packed else ROWS))
            batches = [(list(x), *rest) for x, *rest in (pack[i] for i in range(STEPS))]
            if not packed:
                batches = [(x[0], *rest) for x, *rest in batches]
            run = bare_epoch(model, batches)
            if kind != "from reset to reset":
                return run

            def without() -> None:
                with patch.object(torch_kernels, "many_calls", lambda flags: False):
                    run()

            return without

        kinds = ("one call", "from reset to reset", "align")
        took = interleaved({kind: epoch(kind) for kind in kinds}, ROUNDS, clock=time.process_time)
        for against in kinds[1:]:
            found.append(
                row(
                    f'a training step in "pack", documents of {name} steps',
                    took["one call"] / took[against],
                    against={"align": "no resets inside"}.get(against, "a call " + against),
                    at_most=1.0 if against != "align" else None,
                    ours=f"{took['one call'] / STEPS * 1e3:.1f} ms",
                    theirs=f"{took[against] / STEPS * 1e3:.1f} ms",
                    backend="torch",
                )
            )
    return (found,)
