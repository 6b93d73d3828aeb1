"""What it costs to carry the last inputs of convolutions and attention, and what it saves.

- training: the bare compiled step of a TCN, and of a stack of attention with a bounded memory, that
  carry their past, without resets, with resets by window and by step, against the same step of the
  plain model; attention projects and reads half as many steps more, those that it holds
- streaming: one step of the exported TCN, whose convolutions hold their inputs, against what one
  does without them: the plain model computes its whole receptive field again, in ONNX Runtime too
"""

import tempfile
from pathlib import Path

from fit_overhead import bare_epoch
from harness import BACKENDS, interleaved, row

__all__ = ["BACKENDS", "measure"]

ROWS, WINDOW, FEATURES, FILTERS, STEPS, ROUNDS = 16, 128, 64, 64, 8, 9
DILATIONS, TAPS = (1, 2, 4, 8, 16, 32, 64), 3
FIELD = 1 + (TAPS - 1) * sum(DILATIONS)  # 255 steps
MEMORY, HEADS = 65, 4  # attention that holds 64 steps beside the 128 of a window
CALLS, CALL_ROUNDS = 200, 21


def tcn(window: int | None):
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((window, FEATURES))
    h = x
    for dilation in DILATIONS:
        convolved = keras.layers.Conv1D(
            FILTERS, TAPS, padding="causal", dilation_rate=dilation, activation="relu"
        )(h)
        h = keras.layers.Add()([h, convolved])
    return keras.Model(x, keras.layers.Dense(1)(h))


def transformer(window: int | None):
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((window, FEATURES))
    h = keras.layers.Dense(4 * FILTERS)(x)
    for _ in range(2):
        attention = keras.layers.MultiHeadAttention(HEADS, FILTERS, sliding_window=MEMORY)
        h = keras.layers.Add()([h, attention(h, h, use_causal_mask=True)])
        h = keras.layers.LayerNormalization()(h)
        h = keras.layers.Add()([h, keras.layers.Dense(4 * FILTERS, activation="relu")(h)])
    return keras.Model(x, keras.layers.Dense(1)(h))


def measure() -> tuple:
    import keras
    import numpy as np

    from keras_stateful import to_stateful

    backend, found = keras.backend.backend(), []
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, WINDOW, FEATURES)).astype("float32")
    y = rng.standard_normal((ROWS, WINDOW, 1)).astype("float32")

    def epoch(model, inputs):
        model.compile("adam", "mse")
        model.train_on_batch(inputs, y)
        return bare_epoch(model, [(inputs, y)] * STEPS)

    starts = rng.random((ROWS, WINDOW)) < 0.02
    for name, build, reaches in (
        ("a TCN", tcn, (1.10, 1.10, 1.5)),
        ("an attention stack", transformer, (1.6, 1.6, 1.6)),
    ):
        ways = {
            "the plain model": epoch(build(WINDOW), x),
            "no resets": epoch(to_stateful(build(WINDOW), ROWS), x),
            "by window": epoch(
                to_stateful(build(WINDOW), ROWS, resets="window"), [x, starts[:, 0]]
            ),
            "by step": epoch(to_stateful(build(WINDOW), ROWS, resets="step"), [x, starts]),
        }
        took = interleaved(ways, ROUNDS)
        for way, reach in zip(("no resets", "by window", "by step"), reaches, strict=True):
            found.append(
                row(
                    f"a training step of {name}, {way}",
                    took[way] / took["the plain model"],
                    at_most=reach,
                    against="the plain model",
                    ours=f"{took[way] / STEPS * 1e3:.2f} ms",
                    theirs=f"{took['the plain model'] / STEPS * 1e3:.2f} ms",
                    backend=backend,
                )
            )
    if backend == "jax":  # ONNX Runtime runs the same file, whoever wrote it
        found.append(_streamed(rng))
    return (found,)


def _streamed(rng) -> dict:
    """One step of the exported TCN against its receptive field, both in ONNX Runtime by hand."""
    import numpy as np
    import onnxruntime as ort

    import keras_stateful as ks

    model = tcn(None)
    x = rng.standard_normal((1, FIELD, FEATURES)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        ks.export_step_model(model, Path(folder) / "step", verbose=0)
        session = ks.load_session(Path(folder) / "step")
        plain = tcn(FIELD)
        plain.set_weights(model.get_weights())
        plain(x)  # Keras exports what was called
        plain.export(str(Path(folder) / "field.onnx"), format="onnx", verbose=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        field = ort.InferenceSession(str(Path(folder) / "field.onnx"), options)
        name = field.get_inputs()[0].name

        def whole() -> None:
            for _ in range(CALLS):
                field.run(None, {name: x})

        manifest = session.manifest
        raw = session._stepper.runtime._session  # neither side pays for anything but its own run
        outputs = [manifest.outputs[0].tensor, *(state.output for state in manifest.states)]
        start = {s.input: s.initial[None] for s in manifest.states}
        steps = [np.ascontiguousarray(x[:, t : t + 1]) for t in range(CALLS)]

        def streamed() -> None:
            states = start
            for step in steps:
                _, *new = raw.run(outputs, {manifest.inputs[0].tensor: step, **states})
                states = dict(zip(states, new, strict=True))

        last = field.run(None, {name: x})[0][:, -1]
        assert abs(session.read(x)[:, -1] - last).max() < 1e-4  # both compute the same
        took = interleaved({"streamed": streamed, "field": whole}, CALL_ROUNDS)
        session.close()
    return row(
        f"one streamed step of a TCN that reads {FIELD} steps, ONNX Runtime",
        took["streamed"] / took["field"],
        at_most=1 / 8,
        against="its receptive field read again, ONNX Runtime",
        ours=f"{took['streamed'] / CALLS * 1e6:.0f} µs",
        theirs=f"{took['field'] / CALLS * 1e6:.0f} µs",
    )
