"""What `fit(sequence, callbacks=[ResetStatesCallback(sequence)])` costs over the bare compiled train step.

    python benchmarks/fit_overhead.py                          # the backends that are installed, one after the other
    python benchmarks/fit_overhead.py --backends jax --json out.json

Three ways to run the same training steps of the same model are timed in turn, epoch by epoch, in one process:

- bare: the compiled train step in a Python loop, over batches that lie on the device already; no `fit`
- fit, batches in place: Keras's `fit` over the same batches, kept as NumPy arrays in a PyDataset
- fit, sequence: `fit` over a `StatefulSequence` with `ResetStatesCallback`

Printed are medians over the epochs in milliseconds a step, and the ratio of the third to the first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CASES = {"LSTM 64": (64, 32, 32), "LSTM 256": (256, 32, 64)}  # units, batch, window
VOCABULARY = 100
BACKENDS = ("tensorflow", "jax", "torch")


def bare_epoch(model, batches: Sequence) -> Callable[[], None]:
    """A function that trains once on every batch, with as little around the step as the backend allows."""
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
        placed = [tuple(tf.constant(part) for part in batch) for batch in batches]

        def epoch() -> None:
            for batch in placed:
                logs = step(batch)
            float(logs["loss"])

    else:
        import torch

        placed = [tuple(torch.as_tensor(part) for part in batch) for batch in batches]
        step = torch.compile(model.train_step) if model.jit_compile else model.train_step

        def epoch() -> None:
            for batch in placed:
                logs = step(batch)
            float(logs["loss"])

    return epoch


def measure(name: str, rounds: int, seconds: float) -> dict:
    """Time one case on the backend of this process."""
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

    units, rows, window = CASES[name]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((window,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, 64)(inputs)
    x = keras.layers.LSTM(units, return_sequences=True)(x)
    model = to_stateful(keras.Model(inputs, keras.layers.Dense(VOCABULARY)(x)), batch_size=rows)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def data(steps: int) -> StatefulSequence:
        ids = np.random.default_rng(0).integers(0, VOCABULARY, rows * window * steps + 1, dtype="int32")
        return StatefulSequence(ids, rows, window, boundary="ignore")

    # As many steps in an epoch as take about the time asked for.
    sequence = data(10)
    model.fit(sequence, verbose=0)
    trial = bare_epoch(model, [sequence[i] for i in range(10)])
    trial()
    start = time.perf_counter()
    trial()
    steps = int(min(max(10 * seconds / (time.perf_counter() - start), 20), 400))

    sequence = data(steps)
    batches = [sequence[i] for i in range(len(sequence))]
    in_place, callback = InPlace(batches), ResetStatesCallback(sequence)
    ways = {
        "bare": bare_epoch(model, batches),
        "fit_in_place": lambda: model.fit(in_place, verbose=0, shuffle=False),
        "fit_sequence": lambda: model.fit(sequence, verbose=0, callbacks=[callback]),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if round:  # the first compiles
                times[way].append((time.perf_counter() - start) / len(batches) * 1000)
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        "case": name,
        "backend": keras.backend.backend(),
        "batch_size": rows,
        "sequence_length": window,
        "steps": len(batches),
        "rounds": rounds,
        "milliseconds_a_step": medians,
        "ratio": medians["fit_sequence"] / medians["bare"],
        "ratio_in_place": medians["fit_in_place"] / medians["bare"],
        "all_milliseconds": times,
    }


def surroundings() -> dict:
    versions = {}
    for package in ("keras", "numpy", *BACKENDS):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def installed(backend: str) -> bool:
    try:
        version(backend)
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=[b for b in BACKENDS if installed(b)]
    )
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs of each way")
    parser.add_argument("--seconds", type=float, default=1.5, help="about how long one epoch takes")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.in_this_process:
        results = [measure(case, options.rounds, options.seconds) for case in options.cases]
        options.json.write_text(json.dumps(results))
        return

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends:
            answer = Path(folder) / f"{backend}.json"
            command = [sys.executable, __file__, "--in-this-process", "--json", answer, "--cases", *options.cases,
                       "--rounds", str(options.rounds), "--seconds", str(options.seconds)]  # fmt: skip
            environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
            subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
            results += json.loads(answer.read_text())

    where = surroundings()
    names = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    print(f"{where['date']}; {where['cpu']}, {where['cores']} cores; Python {where['python']}, {names}\n")
    print("| model | backend | bare step, ms | fit, batches in place | fit, sequence | ratio |")
    print("|---|---|---|---|---|---|")
    for result in results:
        ms = result["milliseconds_a_step"]
        print(
            f"| {result['case']}, batch {result['batch_size']}, window {result['sequence_length']} "
            f"| {result['backend']} | {ms['bare']:.2f} | {ms['fit_in_place']:.2f} | {ms['fit_sequence']:.2f} "
            f"| {result['ratio']:.3f} |"
        )
    if options.json:
        options.json.write_text(json.dumps({**where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
