"""What `fit(sequence, callbacks=[ResetStatesCallback(sequence)])` costs over the bare compiled
train step.

Three ways to run the same training steps of the same model are timed in turn, epoch by epoch, in
one process:

- bare: the compiled train step in a Python loop, over batches that lie on the device already; no
  `fit`
- fit, batches in place: Keras's `fit` over the same batches, kept as NumPy arrays in a PyDataset
- fit, sequence: `fit` over a `StatefulSequence` with `ResetStatesCallback`

What of the difference is this package's own is timed by itself: making the batches, and the
callback's work.
"""

import time
from collections.abc import Callable, Sequence

from harness import BACKENDS, interleaved, row, surroundings

__all__ = ["BACKENDS", "bare_epoch", "build", "measure", "surroundings"]

CASES = {"LSTM 64": (64, 32, 32), "LSTM 256": (256, 32, 64)}  # units, batch, window
REACH = {
    "LSTM 64": {"jax": 1.05, "tensorflow": 1.10, "torch": 1.05},
    "LSTM 256": {"jax": 1.02, "tensorflow": 1.05, "torch": 1.02},
}
VOCABULARY = 100
ROUNDS, SECONDS, STEPS = 9, 1.2, 400  # of an epoch: about so long, at most so many


def bare_epoch(model, batches: Sequence) -> Callable[[], None]:
    """A function that trains once on every batch, with as little around the step as the backend
    allows.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        step = jax.jit(model.train_step, donate_argnums=0)
        placed = [jax.device_put(batch) for batch in batches]

        def epoch() -> None:
            variables = (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
            state = [[v.value for v in group] for group in variables]
            for batch in placed:
                logs, state = step(state, batch)
            jax.block_until_ready((logs, state))
            for group, values in zip(variables, state, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)

    elif backend == "tensorflow":
        import tensorflow as tf

        step = tf.function(model.train_step, jit_compile=model.jit_compile)
        placed = keras.tree.map_structure(tf.constant, list(batches))

        def epoch() -> None:
            for batch in placed:
                logs = step(batch)
            float(logs["loss"])

    else:
        import torch

        placed = keras.tree.map_structure(keras.ops.convert_to_tensor, list(batches))
        step = torch.compile(model.train_step) if model.jit_compile else model.train_step

        def epoch() -> None:
            for batch in placed:
                logs = step(batch)
            float(logs["loss"])

    return epoch


def build(units: int, window: int, vocabulary: int = VOCABULARY):
    """The network of these benchmarks, not yet stateful."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((window,), dtype="int32")
    x = keras.layers.Embedding(vocabulary, 64)(inputs)
    x = keras.layers.LSTM(units, return_sequences=True)(x)
    return keras.Model(inputs, keras.layers.Dense(vocabulary)(x))


def compiled(model):
    import keras

    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure() -> tuple:
    """Time both cases on the backend of this process."""
    import keras
    import numpy as np

    from keras_stateful import ResetStatesCallback, StatefulSequence, to_stateful

    class InPlace(keras.utils.PyDataset):
        def __init__(self, batches: list) -> None:
            super().__init__()
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, index: int) -> tuple:
            return self.batches[index]

    backend, rows_found = keras.backend.backend(), []
    for name, (units, rows, window) in CASES.items():
        model = compiled(to_stateful(build(units, window), batch_size=rows))

        def data(steps: int, rows: int = rows, window: int = window) -> StatefulSequence:
            ids = np.random.default_rng(0).integers(
                0, VOCABULARY, rows * window * steps + 1, dtype="int32"
            )
            return StatefulSequence(ids, rows, window, boundary="ignore")

        sequence = data(10)
        model.fit(sequence, verbose=0)
        trial = bare_epoch(model, [sequence[i] for i in range(10)])
        trial()
        start = time.perf_counter()
        trial()
        steps = int(min(max(10 * SECONDS / (time.perf_counter() - start), 20), STEPS))

        sequence = data(steps)
        batches = [sequence[i] for i in range(len(sequence))]
        in_place, callback = InPlace(batches), ResetStatesCallback(sequence)
        bare = bare_epoch(model, batches)
        fits = {
            "fit, sequence and callback": lambda m=model, s=sequence, c=callback: m.fit(
                s, verbose=0, callbacks=[c]
            ),
            "fit, arrays in a PyDataset, no callback": lambda m=model, d=in_place: m.fit(
                d, verbose=0, shuffle=False
            ),
        }

        def callback_alone(c=callback, s=sequence, m=model, steps: int = steps) -> None:
            c.set_model(m)
            c.set_params({"steps": None})
            c.on_train_begin()
            c.on_epoch_begin(0)
            s.on_epoch_begin()
            for i in range(steps):
                c.on_train_batch_begin(i)

        own = {
            "batches": lambda s=sequence: sum(1 for _ in s.read_pass()),
            "callback": callback_alone,
        }
        took = interleaved({"bare": bare, **fits, **own}, ROUNDS)
        for way in fits:
            rows_found.append(
                row(
                    f"{name}, {rows} x {window}, {way}",
                    took[way] / took["bare"],
                    at_most=REACH[name][backend] if "sequence" in way else None,
                    against="the bare compiled step",
                    ours=f"{took[way] / steps * 1e3:.2f} ms",
                    theirs=f"{took['bare'] / steps * 1e3:.2f} ms",
                    backend=backend,
                )
            )
        for way, what in (("batches", "making the batches"), ("callback", "`ResetStatesCallback`")):
            rows_found.append(
                row(
                    f"{name}, {rows} x {window}, of which {what}",
                    took[way] / took["bare"],
                    against="the bare compiled step",
                    ours=f"{took[way] / steps * 1e3:.3f} ms",
                    theirs=f"{took['bare'] / steps * 1e3:.2f} ms",
                    backend=backend,
                    higher_is_better=False,
                )
            )
    return (rows_found,)
