"""What each format of an artifact costs: its size and the time of a step.

    KERAS_BACKEND=torch python benchmarks/formats.py        # all that can be written here
    KERAS_BACKEND=torch python benchmarks/formats.py onnx openvino

A network of two LSTM layers of 512 units over characters is exported in each format, and `Session`
runs it in a process that imports neither Keras nor another format's runtime, one step at a time
for one row. Prints a table; what cannot be written here is left out, with the reason.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHARACTERS, UNITS, STEPS = 28, 512, 2000
FORMATS = ("onnx", "openvino", "litert", "executorch", "tf_saved_model")


def main() -> None:
    import keras

    import keras_stateful as ks

    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = keras.layers.Embedding(CHARACTERS, 64)(ids)
    h = keras.layers.LSTM(UNITS, return_sequences=True)(h)
    h = keras.layers.LSTM(UNITS, return_sequences=True)(h)
    model = keras.Model(ids, keras.layers.Dense(CHARACTERS)(h))
    print("| format | MB of files | ms of a step |\n|---|---|---|", flush=True)
    for name in sys.argv[1:] or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / name
            try:
                ks.export_step_model(model, directory, name, verbose=0)
            except ImportError as error:
                print(error, file=sys.stderr)
                continue
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            run = [sys.executable, __file__, "--run", str(directory)]
            done = subprocess.run(run, capture_output=True, text=True, check=True)
            step = float(done.stdout.splitlines()[-1])
            print(f'| `"{name}"` | {size / 1e6:.1f} | {step:.2f} |', flush=True)


def run(directory: str) -> None:
    """Steps through an artifact and prints the median in ms."""
    import numpy as np

    import keras_stateful as ks

    session = ks.load_session(directory)
    x = np.random.default_rng(0).integers(0, CHARACTERS, (STEPS, 1))
    times = []
    for step in x:
        start = time.perf_counter()
        session.step(step)
        times.append(time.perf_counter() - start)
    print(1e3 * statistics.median(times))


if __name__ == "__main__":
    run(sys.argv[2]) if sys.argv[1:2] == ["--run"] else main()
