"""What resets and an isolated validation cost.

- inside the step: the bare compiled step of a model whose resets are an input, against one without
  that input
- by callback: `fit` with `ResetStatesCallback` where rows are reset at 5 % of the steps, against a
  corpus without any
- validation: `evaluate` of this package's model, fresh state in, training state back, against
  Keras's own
"""

from fit_overhead import bare_epoch, build, compiled
from harness import BACKENDS, interleaved, row

__all__ = ["BACKENDS", "measure"]

UNITS, ROWS, WINDOW, STEPS, ROUNDS = 256, 32, 64, 20, 15
SMALL_UNITS, SMALL_WINDOW, SMALL_STEPS = 64, 32, 200
EVERY = 20  # steps from one reset by callback to the next: 5 %


def measure() -> tuple:
    import keras
    import numpy as np

    from keras_stateful import ResetStatesCallback, StatefulSequence, to_stateful

    backend, found = keras.backend.backend(), []
    rng = np.random.default_rng(0)

    def add(what: str, took: dict, ours: str, theirs: str, steps: int, reach: float) -> None:
        found.append(
            row(
                what,
                took[ours] / took[theirs],
                at_most=reach,
                against=theirs,
                ours=f"{took[ours] / steps * 1e3:.2f} ms",
                theirs=f"{took[theirs] / steps * 1e3:.2f} ms",
                backend=backend,
            )
        )

    x = rng.integers(0, 100, (ROWS, WINDOW), dtype="int32")
    mask = rng.random(ROWS) < 0.1
    plain = compiled(to_stateful(build(UNITS, WINDOW), ROWS))
    inside = compiled(to_stateful(build(UNITS, WINDOW), ROWS, resets="window"))
    plain.train_on_batch(x, x)
    inside.train_on_batch([x, mask], x)
    steps = {
        "without resets": bare_epoch(plain, [(x, x)] * STEPS),
        "inside": bare_epoch(inside, [([x, mask], x)] * STEPS),
    }
    add(
        "resets inside the step, LSTM 256",
        interleaved(steps, ROUNDS),
        "inside",
        "without resets",
        STEPS,
        1.02,
    )

    # One document a row that is as long as the epoch, or one for each 20 windows: all rows begin
    # anew together.
    def sequence(length: int) -> StatefulSequence:
        ids = rng.integers(0, 100, length * SMALL_WINDOW + 1, dtype="int32")
        return StatefulSequence([ids] * (ROWS * SMALL_STEPS // length), ROWS, SMALL_WINDOW)

    model = compiled(to_stateful(build(SMALL_UNITS, SMALL_WINDOW), ROWS))
    none, some = sequence(SMALL_STEPS), sequence(EVERY)
    callbacks = {id(s): ResetStatesCallback(s) for s in (none, some)}
    fits = {
        name: lambda s=s: model.fit(s, verbose=0, callbacks=[callbacks[id(s)]])
        for name, s in (("no reset", none), ("resets", some))
    }
    reach = 1.10 if backend == "jax" else 1.03
    took = interleaved(fits, ROUNDS)
    add(
        "callback resets at 5 % of the steps, LSTM 64",
        took,
        "resets",
        "no reset",
        SMALL_STEPS,
        reach,
    )

    ways = {
        "isolated": lambda: model.evaluate(none, verbose=0),
        "`keras.Model.evaluate`": lambda: keras.Model.evaluate(model, none, verbose=0),
    }
    took = interleaved(ways, ROUNDS)
    add("validation, LSTM 64", took, "isolated", "`keras.Model.evaluate`", SMALL_STEPS, 1.02)
    return (found,)
