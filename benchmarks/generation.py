"""What a generated id costs: `generate` against the loops that people write.

The model is Embedding(64), LSTM(512), LSTM(512), Dense, batch 1. Ways to the next id, timed in turn
in one process:

- predict: `model.predict` of a `stateful=True` model of batch 1, and NumPy's argmax, in a Python
  loop
- predict_on_batch: the same loop with `predict_on_batch`
- generate, stream: this package's, on the trained model itself, greedy; `drawn` with temperature,
  top-k and top-p
- onnxruntime: the exported step model called by hand, `session.run` with states passed on (if it is
  installed)
- Session.step, generate(Session): the same artifact through this package

On JAX a `stateful=True` model does not carry its state in `predict`; the loop is timed all the
same.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import BACKENDS, installed, row

__all__ = ["BACKENDS", "measure"]

ROUNDS, IDS, SLOW_IDS = 7, 1000, 60  # ids a round
REACH = {"tensorflow": 150, "jax": 7}  # times faster than the loop over `predict`
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

    drawn = {"verbose": 0, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 0}
    found = {
        "predict": called(lambda x: stateful.predict(x, verbose=0)),
        "predict_on_batch": called(stateful.predict_on_batch),
        "generate": lambda count: ks.generate(model, [1], count, temperature=0, verbose=0),
        "generate, drawn": lambda count: ks.generate(model, [1], count, **drawn),
        "stream": lambda count: list(ks.stream(model, [1], count, temperature=0)),
    }
    if not installed("onnxruntime"):
        return found
    ks.export_step_model(model, folder / "model", verbose=0)
    session = ks.load_session(folder / "model")
    about = session.manifest
    # One inference session for both sides: two of the same file differ by up to 20 % with where
    # threads and weights lie.
    raw = session._stepper.runtime._session
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
    found["generate(Session)"] = lambda count: ks.generate(
        session, [1], count, temperature=0, verbose=0
    )
    return found


def measure() -> tuple:
    """Time every way on the backend of this process, in turn."""
    import keras

    backend = keras.backend.backend()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        functions = ways(Path(folder))
        for function in functions.values():
            function(5)
            function(5)
        for _ in range(ROUNDS):
            for name, function in functions.items():
                count = SLOW_IDS if name in SLOW else IDS
                start = time.perf_counter()
                function(count)
                times.setdefault(name, []).append((time.perf_counter() - start) / count * 1e3)
    took = {name: statistics.median(values) for name, values in times.items()}

    def against(ours: str, theirs: str, faster: bool, **reach: float) -> dict:
        value = took[theirs] / took[ours] if faster else took[ours] / took[theirs]
        return row(
            f"{ours}, {'times faster' if faster else 'time'}",
            value,
            against=theirs,
            ours=f"{took[ours]:.3f} ms",
            theirs=f"{took[theirs]:.3f} ms",
            backend=backend,
            higher_is_better=faster,
            **reach,
        )

    reach = {"at_least": REACH[backend]} if backend in REACH else {}
    rows = [against("generate", "predict", True, **reach)]
    rows += [against(n, "predict", True) for n in ("generate, drawn", "stream", "predict_on_batch")]
    if "Session.step" in took:
        rows.append(against("Session.step", "onnxruntime", False, at_most=1.15))
        rows += [against(n, "onnxruntime", False) for n in ("generate(Session)", "generate")]
    return (rows,)
