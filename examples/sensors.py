"""Forecast the temperature of machines from their sensors, then watch them live, one reading at a
time.

    python examples/sensors.py                          # needs pip install ".[export]"
    python examples/sensors.py --figure sensors.png     # and ".[plots]"

A document is one session of one machine: a reading a minute of its load, of the air around it and
of its winding. The machines are simulated: two thermal masses, a load that switches on and off, and
constants (heat, cooling, the period of the load) that differ from session to session and are not
measured. Whoever has watched a session for an hour can tell them; whoever sees sixteen minutes
cannot.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import backend
import keras
import numpy as np

from keras_stateful import (
    StatefulSequence,
    export_step_model,
    load_session,
    predict_documents,
    to_stateful,
)

BATCH_SIZE, WINDOW = 16, 16  # windows of 16 minutes
HORIZONS = [1, 5, 20]  # minutes ahead
INPUTS = ("air", "load", "winding")
DEGREES = 20.0  # temperatures are fed as (Celsius - 60) / DEGREES
SETTLED = 90  # minutes after which a session's constants are known: about two periods of its load
MEMORY = 30  # minutes over which the monitor averages the error of its forecasts

Session = dict[str, np.ndarray]  # each input (minutes, 1)


def main() -> None:
    options = parse_options()
    backend.say()
    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    count, epochs = (20, 10) if options.smoke else (60, 30)
    training = [simulate(rng, minutes) for minutes in rng.integers(200, 700, count)]
    seeds = rng.integers(0, 2**32, 4 if options.smoke else 40)
    held_out = [simulate(np.random.default_rng(seed), 400) for seed in seeds]
    minutes = sum(len(session["winding"]) for session in training)
    print(f"training on {count} sessions, {minutes:,} minutes; {len(held_out)} sessions held out")

    # The state carried through each session, or reset at each window: one argument differs.
    carried = train(training, epochs, options.seed, max_document_length="auto")
    reset = train(training, epochs, options.seed, max_document_length=WINDOW)
    pieces = [
        {name: values[start : start + WINDOW] for name, values in session.items()}
        for session in held_out
        for start in range(0, len(session["winding"]), WINDOW)
    ]
    of_windows = np.concatenate(predict_documents(reset, pieces, verbose=0))
    forecasts = {
        "state carried": predict_documents(carried, held_out, verbose=0),
        f"state reset every {WINDOW} minutes": np.split(of_windows, len(held_out)),
        "as it is now (persistence)": [
            np.repeat(s["winding"], len(HORIZONS), axis=1) for s in held_out
        ],
    }
    print("\nroot mean square error of the forecast, degrees Celsius")
    print(f"  {'minutes ahead':<30}" + "".join(f"{horizon:8}" for horizon in HORIZONS))
    errors = {}
    for name, forecast in forecasts.items():
        errors[name] = DEGREES * np.array(
            [
                rms(
                    f[:-h, j] - s["winding"][h:, 0] for f, s in zip(forecast, held_out, strict=True)
                )
                for j, h in enumerate(HORIZONS)
            ]
        )
        print(f"  {name:<30}" + "".join(f"{error:8.2f}" for error in errors[name]))

    # The monitor has no Keras: an exported file, NumPy, a reading at a time. It gives what the
    # model gives.
    with tempfile.TemporaryDirectory() as folder:
        export_step_model(
            carried, Path(folder) / "monitor", metadata={"horizons": HORIZONS}, verbose=0
        )
        monitor = load_session(Path(folder) / "monitor")
        live = [watch(monitor, session) for session in held_out]
        apart = max(
            np.abs(a - b).max() for a, b in zip(live, forecasts["state carried"], strict=True)
        )
        print(
            "\nlive at batch 1, a reading at a time, against the training model: at most "
            f"{apart:.0e} apart"
        )

        # An alarm where the winding is hotter than forecast, by more than it ever was in training.
        limit = 1.25 * max(
            np.nanmax(score(session, watch(monitor, session))) for session in training
        )
        false = sum(
            alarm(score(session, forecast), limit) is not None
            for session, forecast in zip(held_out, live, strict=True)
        )
        fault = 250
        faulty = [simulate(np.random.default_rng(seed), 400, fault=fault) for seed in seeds]
        scores = [score(session, watch(monitor, session)) for session in faulty]
        alarms = [alarm(s, limit) for s in scores]
        monitor.close()
    hottest = max(session["winding"].max() for session in training)
    delays = [a - fault for a in alarms if a is not None and a >= fault]
    too_hot = [
        int((s["winding"][fault:, 0] > hottest).argmax())
        for s in faulty
        if (s["winding"][fault:] > hottest).any()
    ]
    print(f"alarms in {len(held_out)} healthy sessions: {false}")
    print(
        f"the coolant fails at minute {fault}: noticed in {len(delays)} of {len(faulty)} "
        f"sessions, after {median(delays)} minutes (median)"
    )
    print(
        f"  a limit at the highest temperature of training: in {len(too_hot)} of {len(faulty)}, "
        f"after {median(too_hot)} minutes (median)"
    )

    if options.figure:
        draw(options.figure, held_out[0], forecasts, faulty[0], scores[0], limit, fault)
        print(f"\nwrote {options.figure}")

    # The claims.
    with_carry, with_reset, persistence = errors.values()
    far = HORIZONS.index(20)
    assert (with_carry[1:] < persistence[1:]).all()
    assert with_carry[far] < with_reset[far]
    assert apart < 1e-5
    if not options.smoke:
        assert (with_carry < 0.75 * persistence).all()
        assert with_carry[far] < 0.8 * with_reset[far]
        assert len(delays) >= 0.75 * len(faulty)
        assert len(delays) >= len(too_hot)
        assert false <= 0.1 * len(held_out)


def simulate(rng: np.random.Generator, minutes: int, fault: int | None = None) -> Session:
    """One session. From minute `fault` on, hardly any heat gets from the winding to the casing."""
    period, share = rng.uniform(24, 48), rng.uniform(0.35, 0.65)  # minutes; of it with load
    high, low = rng.uniform(0.7, 1.0), rng.uniform(0.0, 0.3)
    heat, cooling = (
        rng.uniform(2.5, 3.5),
        rng.uniform(0.010, 0.015),
    )  # degrees a minute at full load; 1 / minute
    t = np.arange(minutes)
    load = np.where((t + rng.uniform(0, period)) % period < share * period, high, low)
    air = 22 + 4 * np.sin(2 * np.pi * (t / 1440 + rng.random()))
    winding = np.empty(minutes)
    inner = casing = air[0]
    for minute in t:
        failed = fault is not None and minute >= fault
        flow = (0.03 if failed else 0.10) * (inner - casing)
        inner += heat * load[minute] - flow
        casing += 0.25 * flow - cooling * (casing - air[minute])
        winding[minute] = inner
    readings = {"air": (air - 60) / DEGREES, "load": load, "winding": (winding - 60) / DEGREES}
    return {
        name: (values + rng.normal(0, 0.015, minutes)).astype("float32")[:, None]
        for name, values in readings.items()
    }


def train(
    sessions: list[Session], epochs: int, seed: int, max_document_length: int | str
) -> keras.Model:
    keras.utils.set_random_seed(seed)  # the same initial weights for both
    sequence = StatefulSequence(
        sessions,
        batch_size=BATCH_SIZE,
        sequence_length=WINDOW,
        targets=[session["winding"][:, 0] for session in sessions],
        target_offset=HORIZONS,  # y: (batch, time, horizons)
        max_document_length=max_document_length,
        shuffle=True,
        resets=True,
    )
    inputs = {name: keras.Input((None, 1), name=name) for name in INPUTS}
    x = keras.layers.Concatenate()([inputs[name] for name in INPUTS])
    x = keras.layers.GRU(48, return_sequences=True)(x)
    change = keras.layers.Dense(len(HORIZONS))(x)
    model = to_stateful(
        keras.Model(inputs, keras.layers.Add()([change, inputs["winding"]])), sequence
    )
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(sequence))
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), "mse")
    losses = model.fit(sequence, epochs=epochs, verbose=0).history["loss"]
    name = (
        "carried" if max_document_length == "auto" else f"reset every {max_document_length} minutes"
    )
    print(
        f"  state {name}: {epochs} epochs of {len(sequence)} steps, "
        f"loss {losses[0]:.4f} to {losses[-1]:.4f}"
    )
    return model


def watch(monitor, session: Session) -> np.ndarray:
    """Forecasts `(minutes, horizons)`, made live: each reading is forgotten once it was read."""
    monitor.reset()
    return np.concatenate(
        [
            monitor.step({name: session[name][minute][None] for name in INPUTS})
            for minute in range(len(session["winding"]))
        ]
    )


def score(session: Session, forecasts: np.ndarray) -> np.ndarray:
    """By how many degrees the last `MEMORY` minutes were hotter, on average, than forecast one
    minute before.

    `(minutes,)`; NaN until all of these minutes lie behind `SETTLED`: before, the forecasts are
    worse, and a limit that lets them pass would let a fault pass too. Further ahead most of the
    error is that nobody knows when the load will switch; within a minute it is that more heat stays
    in the winding than should.
    """
    error = np.zeros(len(forecasts))
    error[1:] = DEGREES * (session["winding"][1:, 0] - forecasts[:-1, HORIZONS.index(1)])
    total = np.cumsum(error)
    mean = np.full(len(error), np.nan)
    first = SETTLED + MEMORY
    mean[first:] = (total[first:] - total[SETTLED:-MEMORY]) / MEMORY
    return mean


def alarm(scores: np.ndarray, limit: float) -> int | None:
    """The first minute above the limit."""
    above = np.flatnonzero(scores > limit)
    return int(above[0]) if len(above) else None


def rms(errors) -> float:
    return float(np.sqrt(np.mean(np.concatenate(list(errors)) ** 2)))


def median(minutes: list[int]) -> str:
    return f"{np.median(minutes):.0f}" if minutes else "-"


def draw(
    path: Path, session: Session, forecasts: dict, faulty: Session, scores, limit: float, fault: int
) -> None:
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.4), layout="constrained")
    ahead = HORIZONS[-1]
    minutes = np.arange(100, 250)
    above.plot(minutes, 60 + DEGREES * session["winding"][minutes], "k", label="measured")
    for (name, forecast), style in zip(list(forecasts.items())[:2], ("C0", "C1--"), strict=True):
        above.plot(
            minutes,
            60 + DEGREES * forecast[0][minutes - ahead, -1],
            style,
            label=f"forecast, {name}",
        )
    above.set(
        title=f"a held-out session, and what was forecast {ahead} minutes before",
        ylabel="degrees Celsius",
    )
    above.legend(loc="lower right", fontsize=8)

    below.plot(60 + DEGREES * faulty["winding"], color="grey", linewidth=0.8)
    below.set(title="the coolant fails", xlabel="minute", ylabel="winding, degrees Celsius (grey)")
    error = below.twinx()
    error.plot(scores, "C3")
    error.axhline(limit, color="C3", linestyle=":")
    error.axvline(fault, color="k", linestyle="--")
    error.set_ylabel("degrees above the forecast (red)")
    figure.savefig(path, dpi=80)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="fewer sessions and epochs")
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw forecasts and the fault into this file"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    return options


if __name__ == "__main__":
    main()
