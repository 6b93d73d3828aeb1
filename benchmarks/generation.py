"""What a generated id costs: `generate` against the loops that people write.

    python benchmarks/generation.py                            # the backends that are installed, one after the other
    python benchmarks/generation.py --backends jax --json out.json

The model is Embedding(64), LSTM(512), LSTM(512), Dense, batch 1. Ways to the next id, timed in turn in one process:

- predict: `model.predict` of a `stateful=True` model of batch 1, and NumPy's argmax, in a Python loop
- predict_on_batch: the same loop with `predict_on_batch`
- generate, stream: this package's, on the trained model itself, greedy; `drawn` with temperature, top-k and top-p
- onnxruntime: the exported step model called by hand, `session.run` with states passed on (if it is installed)
- Session.step, generate(Session): the same artifact through this package

Printed are medians over the rounds in milliseconds an id, and how many times longer the first loop takes. On JAX a
`stateful=True` model does not carry its state in `predict`; the loop is timed all the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fit_overhead import BACKENDS, installed, surroundings

UNITS, EMBEDDING, VOCABULARY = 512, 64, 65
SLOW = ("predict", "predict_on_batch")


def build(stateful: bool):
    import keras
    from keras import layers

    shape = {"batch_shape": (1, 1)} if stateful else {"shape": (None,)}
    return keras.Sequential(
        [
            keras.Input(dtype="int32", **shape),
            layers.Embedding(VOCABULARY, EMBEDDING),
            layers.LSTM(UNITS, return_sequences=True, stateful=stateful),
            layers.LSTM(UNITS, return_sequences=True, stateful=stateful),
            layers.Dense(VOCABULARY),
        ]
    )


def ways(folder: Path) -> dict[str, Callable[[int], object]]:
    """Functions that generate so many ids."""
    import numpy as np

    import keras_stateful as ks

    model, stateful = build(False), build(True)
    stateful.set_weights(model.get_weights())

    def called(call: Callable) -> Callable[[int], int]:
        def loop(count: int) -> int:
            last = 1
            for _ in range(count):
                last = int(call(np.array([[last]], "int32"))[0, -1].argmax())
            return last

        return loop

    drawn = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 0}
    found = {
        "predict": called(lambda x: stateful.predict(x, verbose=0)),
        "predict_on_batch": called(stateful.predict_on_batch),
        "generate": lambda count: ks.generate(model, [1], count, temperature=0),
        "generate, drawn": lambda count: ks.generate(model, [1], count, **drawn),
        "stream": lambda count: list(ks.stream(model, [1], count, temperature=0)),
    }
    if not installed("onnxruntime"):
        return found
    import onnxruntime

    ks.export_step_model(model, folder / "model")
    session = ks.load_session(folder / "model")
    about = session.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    raw = onnxruntime.InferenceSession(
        folder / "model" / about.entry, options, providers=["CPUExecutionProvider"]
    )
    inputs = [about.inputs[0].tensor, *(s.input for s in about.states)]
    outputs = [about.outputs[0].tensor, *(s.output for s in about.states)]

    def run(count: int) -> int:
        last, states = 1, [s.initial[None] for s in about.states]
        for _ in range(count):
            feed = dict(zip(inputs, [np.array([[last]], "int32"), *states], strict=True))
            scores, *states = raw.run(outputs, feed)
            last = int(scores[0, -1].argmax())
        return last

    def step(count: int) -> int:
        last = 1
        for _ in range(count):
            last = int(session.step(np.array([last], "int32"))[0].argmax())
        return last

    found["onnxruntime"] = run
    found["Session.step"] = step
    found["generate(Session)"] = lambda count: ks.generate(session, [1], count, temperature=0)
    return found


def measure(rounds: int, ids: int, slow_ids: int) -> dict:
    """Time every way on the backend of this process, in turn."""
    import keras

    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        functions = ways(Path(folder))
        for function in functions.values():
            function(5)
            function(5)
        for _ in range(rounds):
            for name, function in functions.items():
                count = slow_ids if name in SLOW else ids
                start = time.perf_counter()
                function(count)
                times.setdefault(name, []).append((time.perf_counter() - start) / count * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "backend": keras.backend.backend(),
        "units": [UNITS, UNITS],
        "ids_a_round": ids,
        "milliseconds_an_id": medians,
        "times_faster_than_predict": {name: medians["predict"] / ms for name, ms in medians.items()},
        "all_milliseconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=[b for b in BACKENDS if installed(b)]
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    parser.add_argument("--ids", type=int, default=1000, help="ids a round")
    parser.add_argument("--slow-ids", type=int, default=100, help="ids a round of the loops over predict")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.in_this_process:
        options.json.write_text(json.dumps(measure(options.rounds, options.ids, options.slow_ids)))
        return

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends:
            answer = Path(folder) / f"{backend}.json"
            command = [sys.executable, __file__, "--in-this-process", "--json", answer, "--rounds", str(options.rounds),
                       "--ids", str(options.ids), "--slow-ids", str(options.slow_ids)]  # fmt: skip
            environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
            subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
            results.append(json.loads(answer.read_text()))

    where = surroundings()
    names = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    print(f"{where['date']}; {where['cpu']}, {where['cores']} cores; Python {where['python']}, {names}\n")
    print("Milliseconds an id (times faster than the loop over `predict`)\n")
    rows = list(dict.fromkeys(name for result in results for name in result["milliseconds_an_id"]))
    print("| |", " | ".join(result["backend"] for result in results), "|")
    print("|---" * (len(results) + 1) + "|")
    for row in rows:
        cells = [
            f"{result['milliseconds_an_id'][row]:.3f} ({result['times_faster_than_predict'][row]:.1f}x)"
            if row in result["milliseconds_an_id"]
            else ""
            for result in results
        ]
        print(f"| {row} |", " | ".join(cells), "|")
    if options.json:
        options.json.write_text(json.dumps({**where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
