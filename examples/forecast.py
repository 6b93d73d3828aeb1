"""Forecast the weather at two stations, or the temperature of the sea: from a data frame to a
service that restarts.

    python examples/forecast.py                            # needs pip install ".[examples,export]"
    python examples/forecast.py --series sea --figure sea.png    # and ".[plots]"

A frame with a column of times becomes sequences, split by time: what comes later is validated, what
comes last is tested, and each time the network has read all that came before. It forecasts
quantiles for several hours ahead, knows the calendar of the hours that it forecasts, and goes on
from its own forecasts. Beside it stand the value of the day before and a ridge regression on the
last readings. Then the network is exported, reads hour by hour, is stopped, and goes on in another
process.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np
from keras import layers, ops

from keras_stateful import (
    StatefulSequence,
    export_step_model,
    generate,
    load_session,
    save_states,
    to_stateful,
)

try:
    import pandas as pd
except ModuleNotFoundError:
    sys.exit('forecast.py: pandas is not installed: pip install ".[examples]".')

QUANTILES = np.array([0.1, 0.5, 0.9], "float32")
MIDDLE = 1  # of them is the forecast, the others are a band
NETWORK, RIDGE = "network", "ridge on the readings of two days"
DAY_BEFORE, MEASURED = "the day before (seasonal naive)", "measured"


class Series(NamedTuple):
    """What is forecast, and what is known of it.

    `frame` has the columns "station" and "time", in regular steps, one station after the other;
    "reading", and "measured", which is the same but missing where nothing was measured.
    """

    frame: pd.DataFrame
    known_ahead: list[str]  # columns that are known as far ahead as anybody asks
    static: list[str]  # columns that are constant at a station
    day: int  # time steps
    horizons: list[int]  # time steps ahead
    split: tuple[pd.Timestamp, pd.Timestamp]  # training ends, the test begins

    def later(self, columns: str | list[str], steps: int) -> np.ndarray:
        """What stands so many steps later at the same station, NaN where its series has ended."""
        return self.frame.groupby("station")[columns].shift(-steps).to_numpy("float32")


def main() -> None:
    options = parse_options()
    backend.say()
    keras.utils.set_random_seed(options.seed)
    series = {"weather": read_weather, "sea": read_sea}[options.series](options.smoke)
    # On a scale of about 1, and back: by numbers of the training part alone.
    known = series.frame["reading"][series.frame["time"] < series.split[0]]
    mean, spread = known.mean(), known.std()
    columns = ["reading", "measured"]
    series.frame[columns] = (series.frame[columns] - mean) / spread

    stations = series.frame["station"].nunique()
    x = StatefulSequence.from_frame(
        series.frame,
        by="station",
        time="time",
        inputs=["reading"],
        known_ahead=series.known_ahead,
        static=series.static,
        targets="measured",
        horizons=series.horizons,
        split=series.split,
        missing_targets="skip",
        batch_size=stations,
        sequence_length=options.window,
        resets=True,
    )
    print(f"{options.series}: {x}")
    model = train(x, series, options)

    # Every forecast of the test part, `(steps, horizons, quantiles)`, beside what others say and
    # what came; these are arrays with a row for each row of the frame.
    forecasts = x.forecasts(model.predict(x.test, verbose=0), x.test)
    rows = np.concatenate([f.rows_read for f in forecasts.values()])
    truth = np.stack([series.later("measured", h) for h in series.horizons], axis=1)
    answers = {
        NETWORK: np.concatenate([f.values for f in forecasts.values()]),
        RIDGE: with_band(ridge(series), truth, series)[rows],
        DAY_BEFORE: with_band(day_before(series), truth, series)[rows],
    }
    losses = of_horizons(answers, truth[rows], series.horizons, spread)
    paths = iterated(model, series)
    of_days(paths, spread)

    apart = live(model, series, forecasts)
    print(
        "\nexported, one step at a time, stopped and gone on with in another process: "
        f"{apart:.0e} apart from the model's own forecasts"
    )
    if options.figure:
        draw(options.figure, series, answers, rows, paths, lambda values: mean + spread * values)
        print(f"wrote {options.figure}")

    # The claims.
    assert apart < 1e-5
    assert losses[NETWORK][0] < losses[DAY_BEFORE][0]
    if not options.smoke:
        best = np.minimum(losses[RIDGE], losses[DAY_BEFORE])
        assert (losses[NETWORK] < 1.1 * best).all()
        assert losses[NETWORK][1] < best[1]


def of_horizons(answers: dict, truth: np.ndarray, horizons: list[int], spread: float) -> dict:
    """Prints and returns the loss of each method at each horizon."""
    print("\ntest part: pinball loss, degrees Celsius, and what lies in the band of 80 %")
    print(f"  {'time steps ahead':<36}" + "".join(f"{h:>14}" for h in horizons))
    losses = {}
    for name, answer in answers.items():
        pairs = list(zip(truth.T, answer.swapaxes(0, 1), strict=True))
        losses[name] = np.array([spread * np.nanmean(pinball_of(y, f)) for y, f in pairs])
        inside = [share_inside(y, f) for y, f in pairs]
        columns = [f"{a:8.3f} {b:5.0%}" for a, b in zip(losses[name], inside, strict=True)]
        print(f"  {name:<36}" + "".join(columns))
    return losses


def of_days(paths: dict[str, np.ndarray], spread: float) -> None:
    """Prints how far each method's path is off, on average, on each of two days."""
    moments = len(paths[MEASURED])
    print(f"\ntest part: mean absolute error of two days from each of {moments} moments, each step")
    print(f"  {'read from the forecast before; day':<36}" + "".join(f"{d:>14}" for d in (1, 2)))
    for name, path in paths.items():
        if name != MEASURED:
            apart = spread * np.abs(path - paths[MEASURED])
            errors = [np.nanmean(day) for day in np.split(apart, 2, axis=1)]
            print(f"  {name:<36}" + "".join(f"{error:>14.2f}" for error in errors))


def train(x, series: Series, options: argparse.Namespace) -> keras.Model:
    model = to_stateful(network(series, options.units), x.training)
    schedule = keras.optimizers.schedules.CosineDecay(
        options.rate, options.epochs * len(x.training)
    )
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), pinball)
    best = keras.callbacks.EarlyStopping(patience=options.epochs, restore_best_weights=True)
    history = model.fit(
        x.training, epochs=options.epochs, validation_data=x.validation, callbacks=[best], verbose=0
    ).history
    print(
        f"  {options.epochs} epochs of {len(x.training)} steps, loss {history['loss'][0]:.4f} to "
        f"{history['loss'][-1]:.4f}; best val_loss {min(history['val_loss']):.4f}"
    )
    return model


def network(series: Series, units: int) -> keras.Model:
    """Forecasts `(batch, time, horizons, quantiles)`, as changes from the present reading."""
    horizons = len(series.horizons)
    features = {
        "inputs": 1,
        "known_ahead": horizons * len(series.known_ahead),  # those of all horizons, side by side
        "static": len(series.static),
    }
    inputs = {name: keras.Input((None, count), name=name) for name, count in features.items()}
    h = layers.Concatenate()(list(inputs.values()))
    h = layers.GRU(units, return_sequences=True)(h)
    h = layers.Concatenate()([h, *inputs.values()])
    h = layers.Dense(units, activation="relu")(h)
    change = layers.Dense(horizons * len(QUANTILES))(h)
    change = layers.TimeDistributed(layers.Reshape((horizons, len(QUANTILES))))(change)
    present = layers.TimeDistributed(layers.Reshape((1, 1)))(inputs["inputs"])
    return keras.Model(inputs, layers.Add()([change, present]))


def pinball(y_true, y_pred):
    """The loss that quantiles minimise: `(batch, time, horizons)`, a mean over the quantiles."""
    error = ops.expand_dims(y_true, -1) - y_pred  # (..., horizons, quantiles)
    q = ops.convert_to_tensor(QUANTILES)
    return ops.mean(ops.maximum(q * error, (q - 1) * error), axis=-1)


def pinball_of(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """The same in NumPy: `(steps,)` of `(steps,)` and `(steps, quantiles)`."""
    error = truth[:, None] - forecast
    return np.maximum(QUANTILES * error, (QUANTILES - 1) * error).mean(-1)


def share_inside(truth: np.ndarray, forecast: np.ndarray) -> float:
    known = np.isfinite(truth)
    return np.mean((forecast[known, 0] <= truth[known]) & (truth[known] <= forecast[known, -1]))


def day_before(series: Series) -> np.ndarray:
    """For each row of the frame and each horizon the last reading at that time of the day."""
    days = [-(-h // series.day) for h in series.horizons]  # rounded up
    shifts = [h - n * series.day for h, n in zip(series.horizons, days, strict=True)]
    return np.stack([series.later("reading", shift) for shift in shifts], axis=1)


def ridge(series: Series) -> np.ndarray:
    """`(rows, horizons)`: linear in the readings of two days, the calendar at the horizon, and what
    is constant.
    """
    lags, rows = last_readings(series), np.arange(len(series.frame))
    forecasts = [
        ridge_features(series, rows, lags, h) @ ridge_weights(series, lags, h)
        for h in series.horizons
    ]
    return np.stack(forecasts, axis=1)


def last_readings(series: Series) -> np.ndarray:
    """`(rows, time steps)`: those of two days, the latest in front."""
    return np.stack([series.later("reading", -k) for k in range(2 * series.day)], axis=1)


def ridge_features(series: Series, rows: np.ndarray, lags: np.ndarray, steps: int) -> np.ndarray:
    constant = series.frame[series.static].to_numpy("float32")[rows]
    ahead = series.later(series.known_ahead, steps)[rows]
    return np.concatenate([lags, ahead, constant, np.ones((len(rows), 1), "float32")], axis=1)


def ridge_weights(series: Series, lags: np.ndarray, steps: int) -> np.ndarray:
    """Of the ridge regression so many steps ahead, from the training part."""
    x = ridge_features(series, np.arange(len(series.frame)), lags, steps)
    y = series.later("measured", steps)
    use = before_split(series, steps) & np.isfinite(x).all(1) & np.isfinite(y)
    a = x[use].astype("float64")
    return np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ y[use])


def iterated(model: keras.Model, series: Series) -> dict[str, np.ndarray]:
    """Two days from one moment of each day of the test, each step read from the forecast before:
    `(moments, time steps)`.
    """
    steps, past = 2 * series.day, 28 * series.day  # the network has read four weeks
    needed = steps - 1 + series.horizons[-1]  # it knows the calendar as far as it forecasts
    frame = series.frame
    moments = np.flatnonzero(
        (frame["time"] >= series.split[1])
        & (np.arange(len(frame)) % series.day == 0)
        & np.isfinite(series.later("reading", needed))
    )
    reading, calendar, constant = (
        frame[columns].to_numpy("float32")
        for columns in (["reading"], series.known_ahead, series.static)
    )
    now = [slice(row + 1 - past, row + 1) for row in moments]
    written = generate(
        model,
        {
            "inputs": [reading[read] for read in now],
            "known_ahead": [calendar[read] for read in now],
            "static": [*constant[moments]],
        },
        steps,
        future={"known_ahead": [calendar[row + 1 : row + 1 + needed] for row in moments]},
        next_input=lambda forecast: forecast[:, 0, MIDDLE : MIDDLE + 1],
        compile_next_input=True,
        verbose=0,
    )

    lags = last_readings(series)
    step_ahead, path, lags = ridge_weights(series, lags, 1), [], lags[moments]
    for k in range(1, steps + 1):
        path.append(ridge_features(series, moments, lags, k) @ step_ahead)
        lags = np.concatenate([path[-1][:, None], lags[:, :-1]], axis=1)
    ahead = np.arange(1, steps + 1)
    before = moments[:, None] + (ahead - 1) % series.day + 1 - series.day
    return {
        MEASURED: frame["measured"].to_numpy("float32")[moments[:, None] + ahead],
        NETWORK: written[:, :, 0, MIDDLE],
        RIDGE: np.stack(path, axis=1),
        DAY_BEFORE: reading[before, 0],
    }


def with_band(forecast: np.ndarray, truth: np.ndarray, series: Series) -> np.ndarray:
    """`(rows, horizons, quantiles)`: a forecast, and the quantiles of its errors in training, at
    each station apart.
    """
    band = np.empty((*forecast.shape, len(QUANTILES)), "float32")
    for rows in series.frame.groupby("station").indices.values():
        for j, h in enumerate(series.horizons):
            errors = (truth - forecast)[rows, j][before_split(series, h)[rows]]
            band[rows, j] = forecast[rows, j, None] + np.nanquantile(errors, QUANTILES)
    return band


def before_split(series: Series, steps: int) -> np.ndarray:
    """The rows whose target, so many steps later, still belongs to training."""
    step = pd.Timedelta(days=1) / series.day
    return (series.frame["time"] + steps * step < series.split[0]).to_numpy()


def live(model: keras.Model, series: Series, forecasts: dict) -> float:
    """Serves the test part without Keras, in two processes; the largest difference to `forecasts`.

    All stations are rows of one session. It reads what lies before the test at once, then step by
    step; halfway it is stopped, its states are saved, and a new process goes on from them.
    """
    stations = len(forecasts)
    ahead = [series.later(series.known_ahead, h) for h in series.horizons]
    inputs = {
        "inputs": series.frame[["reading"]].to_numpy("float32"),
        "known_ahead": np.concatenate(ahead, axis=1),  # of all horizons, side by side
        "static": series.frame[series.static].to_numpy("float32"),
    }
    inputs = {key: v.reshape(stations, -1, v.shape[-1]) for key, v in inputs.items()}
    steps = len(next(iter(forecasts.values())).values)
    end = inputs["inputs"].shape[1] - series.horizons[-1]  # what is forecast there is the last row
    start, restart = end - steps, end - steps // 2

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_step_model(model, folder / "exported", verbose=0)
        with load_session(folder / "exported", batch_size=stations) as session:
            session.read({key: v[:, :start] for key, v in inputs.items()})
            before = [
                session.step({key: v[:, t] for key, v in inputs.items()})
                for t in range(start, restart)
            ]
            save_states(folder / "states.npz", session.get_states())
        np.savez(folder / "readings.npz", **{k: v[:, restart:end] for k, v in inputs.items()})
        subprocess.run([sys.executable, "-c", AFTER_THE_RESTART], cwd=folder, check=True)
        after = np.load(folder / "forecasts.npy")
    served = np.concatenate([np.stack(before, axis=1), after], axis=1)
    return max(
        np.abs(row - f.values).max() for row, f in zip(served, forecasts.values(), strict=True)
    )


AFTER_THE_RESTART = """
import sys
import numpy as np
from keras_stateful import load_session, load_states

readings = dict(np.load("readings.npz"))
stations, steps, _ = readings["inputs"].shape
with load_session("exported", batch_size=stations) as session:
    session.set_states(load_states("states.npz"))
    forecasts = [session.step({k: v[:, t] for k, v in readings.items()}) for t in range(steps)]
np.save("forecasts.npy", np.stack(forecasts, axis=1))
assert not {"keras", "jax", "tensorflow", "torch"} & set(sys.modules)
"""


def draw(path: Path, series: Series, answers: dict, rows: np.ndarray, paths: dict, back) -> None:
    """Above, ten days of forecasts with their bands; below, what was forecast from one moment."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.4), layout="constrained")
    shown, ahead = rows[: 10 * series.day], series.horizons[-1]
    days = np.arange(len(shown)) / series.day
    above.plot(days, back(series.later("measured", ahead)[shown]), "k", label="measured")
    for (name, answer), color in zip(list(answers.items())[:2], ("C0", "C1"), strict=True):
        low, middle, high = back(answer[: len(shown), -1].T)
        above.plot(days, middle, color, label=name)
        above.fill_between(days, low, high, color=color, alpha=0.2, linewidth=0)
    station = series.frame["station"][rows[0]]
    above.set(
        title=f"{station}, forecast {ahead} time steps before, and the band of 80 %",
        xlabel="days of the test",
        ylabel="degrees Celsius",
    )
    above.legend(loc="upper right", fontsize=8)
    for name, style in zip(paths, ("k", "C0", "C1", "C2:"), strict=True):
        below.plot(np.arange(1, 2 * series.day + 1), back(paths[name][0]), style, label=name)
    below.set(
        title="two days from one moment, each step read from the forecast before",
        xlabel="time steps ahead",
        ylabel="degrees Celsius",
    )
    below.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=80)


def read_weather(smoke: bool) -> Series:
    """Hourly temperatures of a typical year at two stations of the USA, from the package pvlib.

    Each month of such a year is one that was measured, of another year than the month before.
    """
    frames = []
    for name in ("723170TYA.CSV", "703165TY.csv"):
        path = package_file("pvlib", f"data/{name}")
        _, station, _, _, latitude, *_ = pd.read_csv(path, nrows=0).columns
        table = pd.read_csv(path, skiprows=1)
        times = pd.date_range("2001-01-01 01:00", periods=len(table), freq="h")
        frame = pd.DataFrame({"station": station.title(), "time": times})
        frame["reading"] = frame["measured"] = table["Dry-bulb (C)"]
        frame["sun"] = table["ETR (W/m^2)"] / 500  # above the atmosphere, so it is known beforehand
        frame["latitude"] = float(latitude) / 50
        frames.append(with_calendar(frame))
    frame = pd.concat(frames, ignore_index=True)
    if smoke:
        frame = frame[frame["time"] >= "2001-09-15"].reset_index(drop=True)
    split = pd.Timestamp("2001-10-15"), pd.Timestamp("2001-11-15")
    return Series(frame, ["sun", "hour_sin", "hour_cos"], ["latitude"], 24, [1, 6, 24], split)


def read_sea(smoke: bool) -> Series:
    """Half-hourly temperatures of the sea off Maine, from the package bokeh-sampledata."""
    path = package_file("bokeh_sampledata", "_data/sea_surface_temperature.csv.gz")
    table = pd.read_csv(path, names=["time", "measured"], skiprows=1, parse_dates=["time"])
    # Of the half-hours 24 are missing and one is there twice: on a regular grid these are gaps,
    # whose readings are filled in, but never a target.
    table["time"] = table["time"].dt.tz_localize(None)
    frame = table.set_index("time").resample("30min").mean().reset_index()
    frame["reading"] = frame["measured"].interpolate()
    frame["station"], frame["latitude"] = "B01", 0.0
    tide = 2 * np.pi * (frame["time"] - frame["time"][0]) / pd.Timedelta(hours=12.4206)
    frame["tide_sin"], frame["tide_cos"] = np.sin(tide), np.cos(tide)
    frame = with_calendar(frame)
    if smoke:
        frame = frame[frame["time"] >= "2016-12-01"].reset_index(drop=True)
    split = pd.Timestamp("2017-01-01"), pd.Timestamp("2017-02-10")
    known_ahead = ["tide_sin", "tide_cos", "hour_sin", "hour_cos"]
    return Series(frame, known_ahead, ["latitude"], 48, [1, 12, 48], split)


def with_calendar(frame: pd.DataFrame) -> pd.DataFrame:
    hour = 2 * np.pi * (frame["time"].dt.hour + frame["time"].dt.minute / 60) / 24
    return frame.assign(hour_sin=np.sin(hour), hour_cos=np.cos(hour))


def package_file(package: str, name: str) -> Path:
    """The path of a file in a package, which is found without being imported."""
    found = importlib.util.find_spec(package)
    if found is None:
        sys.exit(f'forecast.py: this reads the package {package}: pip install ".[examples]".')
    return Path(found.submodule_search_locations[0]) / name


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--series", choices=["weather", "sea"], default="weather")
    parser.add_argument("--smoke", action="store_true", help="the last months, few epochs")
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw forecasts with bands into this file"
    )
    parser.add_argument(
        "--window", type=int, default=96, help="time steps that gradients flow back"
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--units", type=int, default=48, help="width of the GRU")
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    if options.smoke:
        options.epochs, options.units = 8, 16
    return options


if __name__ == "__main__":
    main()
