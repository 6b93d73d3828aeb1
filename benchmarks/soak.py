"""A million time steps, one after the other, against a float64 reference: does the error grow, does
the memory?

    KERAS_BACKEND=jax python benchmarks/soak.py            # jax, tensorflow or torch; some minutes
    KERAS_BACKEND=jax python benchmarks/soak.py --steps 50000

The same random signal goes through an LSTM in three ways: one step at a time through a `Session`
(ONNX Runtime), in windows through the compiled step of `to_inference`, whose state is carried from
call to call, and through the LSTM's equations in NumPy with float64. The state is never reset.
Prints a table; exits with an error where an output is off by more than 1e-5, where the last tenth
is off by more than three times the first, or where memory grows by 4 MB after the first tenth.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_stateful as ks

FEATURES, UNITS, OUTPUTS, WINDOW = 8, 32, 4, 1000
LARGEST_ERROR, MOST_GROWTH, MEMORY_GROWTH = 1e-5, 3.0, 4.0


def network() -> keras.Model:
    """An LSTM with weights large enough that its state says something about many steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            keras.layers.LSTM(UNITS, return_sequences=True),
            keras.layers.Dense(OUTPUTS),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.weights])
    return model


def windows(steps: int) -> Iterator[np.ndarray]:
    """The signal, `(1, WINDOW, FEATURES)` at a time."""
    rng = np.random.default_rng(1)
    for _ in range(steps // WINDOW):
        yield rng.standard_normal((1, WINDOW, FEATURES), dtype="float32")


class Reference:
    """The LSTM's equations, one step after the other, in float64."""

    def __init__(self, weights: list[np.ndarray]):
        self.kernel, self.recurrent, self.bias, self.head, self.head_bias = (
            w.astype("float64") for w in weights
        )
        self.h = self.c = np.zeros(UNITS)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        hidden = np.empty((WINDOW, UNITS))
        for t, given in enumerate(x[0].astype("float64") @ self.kernel + self.bias):
            gates = given + self.h @ self.recurrent
            i, f, o = 1 / (1 + np.exp(-gates.reshape(4, UNITS)[[0, 1, 3]]))
            self.c = f * self.c + i * np.tanh(gates[2 * UNITS : 3 * UNITS])
            self.h = hidden[t] = o * np.tanh(self.c)
        return hidden @ self.head + self.head_bias


def resident() -> float:
    """Memory of this process now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(
    name: str, run: Callable[[np.ndarray], np.ndarray], model: keras.Model, steps: int
) -> bool:
    """Runs all windows; prints a row of the table; whether errors and memory stayed in bounds."""
    reference, count = Reference(model.get_weights()), steps // WINDOW
    errors, memory, seconds = np.empty(count), np.empty(count), 0.0
    for k, x in enumerate(windows(steps)):
        begin = time.perf_counter()
        got = run(x)
        seconds += time.perf_counter() - begin
        errors[k] = np.abs(got - reference(x)).max()
        memory[k] = resident()
    tenth = max(1, count // 10)
    first, last = errors[:tenth].max(), errors[-tenth:].max()
    grown = memory[-tenth:].max() - memory[tenth - 1]
    print(
        f"| {name} | {count * WINDOW:,} | {errors.max():.1e} | {first:.1e} | {last:.1e} | "
        f"{memory[tenth - 1]:.0f} | {grown:+.1f} | {1e6 * seconds / (count * WINDOW):.1f} |",
        flush=True,
    )
    return bool(
        errors.max() < LARGEST_ERROR and last < MOST_GROWTH * first and grown < MEMORY_GROWTH
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=1_000_000, help=f"time steps, a multiple of {WINDOW}"
    )
    steps = parser.parse_args().steps
    model = network()
    live = ks.to_inference(model)
    print(
        f"LSTM({UNITS}), batch 1, never reset; Keras {keras.__version__} on "
        f"{keras.backend.backend()}\n"
    )
    print(
        "| through | steps | largest error | in the first tenth | in the last | MB after the first "
        "tenth | MB grown since | µs a step |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        ks.export_step_model(model, Path(folder, "exported"), verbose=0)
        session = ks.load_session(Path(folder, "exported"))

    def one_by_one(x: np.ndarray) -> np.ndarray:
        return np.concatenate([session.step(x[:, t]) for t in range(WINDOW)])

    def in_windows(x: np.ndarray) -> np.ndarray:
        return live.predict_on_batch(x)[0]

    good = [
        soak("`Session.step`", one_by_one, model, steps),
        soak(
            f"`to_inference`, {keras.backend.backend()}, windows of {WINDOW}",
            in_windows,
            model,
            steps,
        ),
    ]
    if not all(good):
        raise SystemExit("soak.py: an error or the memory grew beyond its bound")


if __name__ == "__main__":
    main()
