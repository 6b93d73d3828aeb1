"""A forecaster trained on a frame: losses and forecasts are those of whole series, read by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

pandas = pytest.importorskip("pandas")

LENGTHS = {"b": 31, "a": 27}  # rows of each machine
SPLIT, END = 15, 22  # hours at which the training and the validation end
HORIZONS = [1, 3]
HOURS = pandas.date_range("2026-01-01", periods=40, freq="h")


def frame():
    rng = np.random.default_rng(0)
    parts = [
        pandas.DataFrame(
            {
                "machine": machine,
                "time": HOURS[:n],
                "temp": rng.normal(size=n),
                "load": rng.normal(size=n),
                "hour": np.sin(np.arange(n) / 4),
                "age": float(n % 5),
                "size": n / 30,
                "place": 1.0,
            }
        )
        for machine, n in LENGTHS.items()
    ]
    return pandas.concat(parts, ignore_index=True).sample(frac=1, random_state=0)


def sequences(readings=None, inputs=("temp", "load"), static=("age", "size"), **options):
    return ks.StatefulSequence.from_frame(
        frame() if readings is None else readings,
        by="machine",
        time="time",
        inputs=list(inputs),
        known_ahead=["hour"],
        static=list(static),
        targets="temp",
        horizons=HORIZONS,
        split=(HOURS[SPLIT], HOURS[END]),
        batch_size=2,
        sequence_length=6,
        resets=True,
        **options,
    )


def network():
    keras.utils.set_random_seed(0)
    read = {
        "inputs": keras.Input((None, 2), name="inputs"),
        "known_ahead": keras.Input((None, 2), name="known_ahead"),
        "static": keras.Input((None, 2), name="static"),
    }
    hidden = layers.GRU(3, return_sequences=True)(layers.Concatenate()([*read.values()]))
    return keras.Model(read, layers.Dense(2)(hidden))


@pytest.fixture(scope="module", params=[{}, {"stride": 2}], ids=["windows", "overlapping windows"])
def trained(request):
    """A model and what it was fitted on; a rate of 0, so that each loss is of the same weights."""
    data, plain = sequences(**request.param), network()
    model = ks.to_stateful(plain, data.training)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(data.training, validation_data=data.validation, epochs=2, verbose=0)
    return data, plain, model, history.history


def by_hand(plain, machine):
    """Outputs of one whole series in one call, `(steps, horizons)`, and its targets."""
    rows = frame()
    rows = rows[rows["machine"] == machine].sort_values("time")
    steps = len(rows) - max(HORIZONS)
    hour = rows["hour"].to_numpy()
    x = {
        "inputs": rows[["temp", "load"]].to_numpy()[:steps],
        "known_ahead": np.stack([hour[h : h + steps] for h in HORIZONS], axis=1),
        "static": rows[["age", "size"]].to_numpy()[:steps],
    }
    output = plain.predict({k: v[None].astype("float32") for k, v in x.items()}, verbose=0)[0]
    temp = rows["temp"].to_numpy()
    return output, np.stack([temp[h : h + steps] for h in HORIZONS], axis=1)


def mean_by_hand(plain, start, stop):
    """The mean squared error of the forecasts made from `start` on of what comes before `stop`."""
    errors = []
    for machine, length in LENGTHS.items():
        output, target = by_hand(plain, machine)
        last = min(stop, length) - max(HORIZONS)
        errors.append((output - target)[start:last].ravel() ** 2)
    return np.concatenate(errors).mean()


def test_losses_are_means_over_the_steps_of_each_part(trained):
    data, plain, model, history = trained
    np.testing.assert_allclose(history["loss"], [mean_by_hand(plain, 0, SPLIT)] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        history["val_loss"], [mean_by_hand(plain, SPLIT, END)] * 2, rtol=1e-5
    )
    test = model.evaluate(data.test, verbose=0)
    np.testing.assert_allclose(test, mean_by_hand(plain, END, 99), rtol=1e-5)


@pytest.mark.parametrize(("part", "start", "stop"), [("validation", SPLIT, END), ("test", END, 99)])
def test_forecasts_are_those_of_one_long_pass(trained, part, start, stop):
    data, plain, model, _ = trained
    ks.reset_states(model)
    forecasts = data.forecasts(model.predict(getattr(data, part), verbose=0), part)
    assert list(forecasts) == ["a", "b"]
    for machine, length in LENGTHS.items():
        output, _ = by_hand(plain, machine)
        last = min(stop, length) - max(HORIZONS)
        expected = output[start:last]
        np.testing.assert_allclose(forecasts[machine].values, expected, rtol=1e-4, atol=1e-6)
        known = frame().iloc[forecasts[machine].rows[:, 1]]
        assert (known["machine"] == machine).all()
        assert (known["time"] == HOURS[start + 3 : last + 3]).all()


def test_the_forecasts_that_matter_are_those_of_one_long_pass(trained):
    """Behind the last reading, where rows to come hold what is known ahead."""
    data, plain, model, _ = trained
    readings = frame().assign(come=True)
    later = [
        readings[readings["machine"] == machine].iloc[:1].loc[lambda r: r.index.repeat(3)].assign(
            time=HOURS[n : n + 3], temp=np.nan, load=np.nan, come=False,
            hour=np.sin(np.arange(n, n + 3) / 4),
        )
        for machine, n in LENGTHS.items()
    ]  # fmt: skip
    whole = pandas.concat([readings, *later], ignore_index=True).sample(frac=1, random_state=1)
    made = sequences(whole, stride=data.training.stride)
    ks.reset_states(model)
    predictions = model.predict(made.future, verbose=0)
    forecasts = made.forecasts(predictions, made.future)
    table = pandas.DataFrame(made.table(predictions, made.future))
    assert np.isnan(model.evaluate(made.future, verbose=0))
    for machine, length in LENGTHS.items():
        rows = whole[whole["machine"] == machine].sort_values("time")
        hour = rows["hour"].to_numpy()
        x = {
            "inputs": rows[["temp", "load"]].to_numpy()[:length],
            "known_ahead": np.stack([hour[h : h + length] for h in HORIZONS], axis=1),
            "static": rows[["age", "size"]].to_numpy()[:length],
        }
        x = {key: value[None].astype("float32") for key, value in x.items()}
        expected = plain.predict(x, verbose=0)[0][-3:]
        np.testing.assert_allclose(forecasts[machine].values, expected, rtol=1e-4, atol=1e-6)
        last = table[(table["machine"] == machine) & (table["time"] == HOURS[length + 2])]
        np.testing.assert_allclose(last["forecast"], expected[-1:, 1], rtol=1e-4, atol=1e-6)
        assert last["horizon"].tolist() == [3]


def test_labels_of_windows_come_from_a_column():
    """An alarm, at the last step of windows that overlap: no horizon, one output for each."""
    alarms = frame().assign(alarm=lambda f: (f["temp"] > 0.5).astype("float32"))
    data = ks.StatefulSequence.from_frame(
        alarms,
        by="machine",
        time="time",
        inputs=["temp", "load"],
        targets="alarm",
        horizons=0,
        label_at="window",
        stride=2,
        split=HOURS[SPLIT],
        batch_size=2,
        sequence_length=6,
        resets=True,
    )
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [keras.Input((None, 2)), layers.GRU(3), layers.Dense(1, activation="sigmoid")]
    )
    model = ks.to_stateful(plain, data.training)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(data.training, validation_data=data.validation, verbose=0).history
    forecasts = data.forecasts(model.predict(data.validation, verbose=0), data.validation)
    errors = {"loss": [], "val_loss": []}
    for machine, length in LENGTHS.items():
        rows = alarms[alarms["machine"] == machine].sort_values("time")
        x = rows[["temp", "load"]].to_numpy("float32")
        ends = range(5, length, 2)
        output = {t: plain.predict_on_batch(x[None, : t + 1])[0, 0] for t in ends}
        for t in ends:
            part = "loss" if t < SPLIT else "val_loss"
            errors[part].append((output[t] - rows["alarm"].iloc[t]) ** 2)
        of_one = forecasts[machine]
        assert (of_one.times == HOURS[[t for t in ends if t >= SPLIT]]).all()
        expected = [output[t] for t in ends if t >= SPLIT]
        np.testing.assert_allclose(of_one.values[:, 0], expected, rtol=1e-4)
        assert (of_one.rows == of_one.rows_read).all()
    for part, values in errors.items():
        np.testing.assert_allclose(history[part], np.mean(values), rtol=1e-5)


def test_columns_in_another_order_are_those_of_the_training(trained):
    data, _, model, history = trained
    stride = {"stride": data.training.stride}
    other = sequences(inputs=["load", "temp"], static=["size", "age"], **stride)
    names = {"inputs": ("load", "temp"), "static": ("size", "age")}
    assert other.validation.columns.inputs == {**names, "known_ahead": ("hour+1", "hour+3")}
    np.testing.assert_allclose(model.evaluate(other.validation, verbose=0), history["val_loss"][0])
    with pytest.raises(ValueError, match=r"missing \['load'\]; unknown \['age'\]"):
        model.evaluate(sequences(inputs=["temp", "age"], **stride).validation, verbose=0)
    with pytest.raises(ValueError, match=r"missing \['size'\]; unknown \['place'\]"):
        model.evaluate(sequences(static=["age", "place"], **stride).validation, verbose=0)


def test_rows_that_are_inserted_and_masked_are_as_if_they_were_not_there():
    """The remedy for a gap: every forecast is that of the readings that there are."""
    readings = frame()[frame()["machine"] == "b"].sort_values("time", ignore_index=True)
    gap = readings.drop(index=[9, 10, 11])
    arguments = {"time": "time", "inputs": ["temp"], "batch_size": 1, "sequence_length": 6}
    with pytest.raises(ValueError, match="Masking"):
        ks.StatefulSequence.from_frame(gap, targets="temp", **arguments)
    filled = gap.set_index("time").resample("1h").asfreq().reset_index()
    filled = filled.assign(came=filled["temp"], temp=filled["temp"].fillna(-9.0))
    data = ks.StatefulSequence.from_frame(
        filled, targets="came", missing_targets="skip", resets=True, **arguments
    )
    keras.utils.set_random_seed(0)
    recurrent = layers.GRU(3, return_sequences=True)
    plain = keras.Sequential(
        [keras.Input((None, 1)), layers.Masking(-9.0), recurrent, layers.Dense(1)]
    )
    model = ks.to_stateful(plain, data.training)
    model.compile("sgd", "mse")
    assert np.isfinite(model.evaluate(data.training, verbose=0))
    ks.reset_states(model)
    forecasts = data.forecasts(model.predict(data.training, verbose=0), "training")[None]
    there = filled["came"].notna().to_numpy()[forecasts.rows_read]
    expected = plain.predict(gap["temp"].to_numpy("float32")[None, :-1, None], verbose=0)[0]
    np.testing.assert_allclose(forecasts.values[there], expected, rtol=1e-4, atol=1e-6)
