"""generate(future=): as the hand-written loop that reads the whole growing series for every step.

The series is written; the hour is known one step, or several, ahead; the machine is constant. What
the loop reads is laid out here, in NumPy, with no code of the package.
"""

import functools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_stateful as ks

pytestmark = pytest.mark.filterwarnings("ignore:Only .* of all time steps:UserWarning")

LENGTHS = (70, 9, 23)
rng = np.random.default_rng(0)
LOAD = [rng.normal(size=(n, 2)).astype("float32") for n in LENGTHS]
HOUR = [rng.integers(0, 24, n + 40).astype("int32") for n in LENGTHS]
SUN = [rng.normal(size=(n + 40, 3)).astype("float32") for n in LENGTHS]
MACHINE = rng.normal(size=(3, 4)).astype("float32")
DOCUMENTS = {"load": LOAD, "hour": HOUR, "sun": SUN}
AHEAD = {"hour": [1], "sun": [1, 3]}


def network(timed, outputs=2):
    keras.utils.set_random_seed(1)
    load, sun = keras.Input((None, 2), name="load"), keras.Input((None, 6), name="sun")
    hour = keras.Input((None,), dtype="int32", name="hour")
    read = [load, layers.Embedding(24, 3)(hour), sun]
    machine = keras.Input((None, 4) if timed else (4,), name="machine")
    if timed:
        read.append(machine)
    read = layers.GRU(5, return_sequences=True)(layers.Concatenate()(read))
    if not timed:
        read = read + layers.Reshape((1, 5))(layers.Dense(5)(machine))
    return keras.Model([sun, load, machine, hour], layers.Dense(outputs)(read))


def training(boundary="align"):
    """The hour and the sun are known ahead alike in a training: of the sun, two steps are read."""
    sequence = ks.StatefulSequence(
        DOCUMENTS,
        3,
        8,
        targets="load",
        target_offset=1,
        known_ahead=AHEAD,
        static={"machine": MACHINE},
        boundary=boundary,
        resets=True,
    )
    return sequence


def trained(timed):
    sequence = training()
    model = ks.to_stateful(network(timed), sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0)
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["repeated", "once"])
def model(request):
    return trained(request.param)


def prompts(rows=(0, 1, 2)):
    """The past of each row."""
    past = {k: [DOCUMENTS[k][r][: LENGTHS[r]] for r in rows] for k in DOCUMENTS}
    return {**past, "machine": MACHINE[list(rows)]}


def futures(length, rows=(0, 1, 2)):
    """What is known of the steps to come, as far as each input is read ahead."""
    steps = {"hour": length, "sun": length + 2}
    return {k: [DOCUMENTS[k][r][LENGTHS[r] :][:n] for r in rows] for k, n in steps.items()}


@functools.lru_cache(1)
def whole_series(model):
    """The stateless model as a function of all inputs of one row, read at the last step.

    Padded to one length behind that step, which a causal model does not see: else each length would
    be compiled anew. For the last model that was asked of, as it was then.
    """
    plain = ks.to_stateless(model)
    timed = {t.name: len(t.shape) > 1 and t.shape[1] is None for t in plain.inputs}

    def last_output(read):
        n = len(read["load"])
        for name in timed:
            if timed[name]:
                values = np.repeat(read[name][None], n, 0) if name == "machine" else read[name]
                padding = np.zeros((120 - n, *values.shape[1:]), values.dtype)
                read[name] = np.concatenate([values, padding])
        output = plain.predict_on_batch([read[tensor.name][None] for tensor in plain.inputs])
        return output[0, n - 1]

    return last_output


def by_hand(read_whole, row, length, next_input=lambda output: output, start=None):
    """Reads the whole series anew for each step that is written."""
    load, written = LOAD[row][:start], []
    for _ in range(length):
        n = len(load)
        sun = np.concatenate([SUN[row][1 : n + 1], SUN[row][3 : n + 3]], axis=-1)
        read = {"load": load, "hour": HOUR[row][1 : n + 1], "sun": sun, "machine": MACHINE[row]}
        written.append(read_whole(read))
        load = np.concatenate([load, np.asarray(next_input(written[-1][None]))])
    return np.stack(written)


def test_forecasts_are_those_of_the_loop_over_the_whole_series(model):
    got = ks.generate(model, prompts(), 7, future=futures(7))
    assert got.shape == (3, 7, 2)
    read = whole_series(model)
    for row in range(3):
        np.testing.assert_allclose(got[row], by_hand(read, row, 7), atol=1e-5)


def test_rows_are_as_each_alone_and_dicts_in_a_list_are_the_same(model):
    together = ks.generate(model, prompts(), 6, future=futures(6))
    listed = [{k: v[0] for k, v in prompts([r]).items()} for r in range(3)]
    np.testing.assert_array_equal(ks.generate(model, listed, 6, future=futures(6)), together)
    for row, prompt in enumerate(listed):
        future = {k: v[0] for k, v in futures(6, [row]).items()}
        alone = ks.generate(model, prompt, 6, future=future)
        assert alone.shape == (6, 2)
        np.testing.assert_allclose(alone, together[row], atol=1e-6)


def test_the_series_that_is_written_is_no_future(model):
    """Said of what is too much, for one row and for several, and not of another input."""
    for rows in ([0], [0, 1, 2]):
        single = len(rows) == 1
        past, ahead = prompts(rows), futures(4, rows)
        past = {k: v[0] for k, v in past.items()} if single else past
        ahead = {k: v[0] for k, v in ahead.items()} if single else ahead
        load = [LOAD[r][:4] for r in rows]
        with pytest.raises(ValueError, match="is to be written out of `future`"):
            ks.generate(model, past, 4, future={**ahead, "load": load[0] if single else load})
        assert len(ks.generate(model, past, 4, future=ahead)) == (4 if single else 3)


def test_what_is_known_ahead_may_stand_behind_the_prompt(model):
    """A document that goes on behind its last step needs no `future`."""
    past, future = prompts(), futures(5)
    longer = {k: [np.concatenate(p) for p in zip(past[k], future[k], strict=True)] for k in future}
    got = ks.generate(model, {**past, **longer}, 5)
    np.testing.assert_array_equal(got, ks.generate(model, past, 5, future=future))


def test_one_future_is_that_of_all_rows(model):
    one = {k: v[0] for k, v in futures(4).items()}
    got = ks.generate(model, prompts(), 4, future=one)
    each = {k: [v] * 3 for k, v in one.items()}
    np.testing.assert_array_equal(got, ks.generate(model, prompts(), 4, future=each))


@pytest.mark.parametrize("compiled", [True, False])
def test_next_input_makes_the_next_step(model, compiled):
    def following(output):
        return output * 0.5 + 0.1

    arguments = {"next_input": following, "compile_next_input": compiled, "future": futures(6)}
    got = ks.generate(model, prompts(), 6, **arguments)
    read = whole_series(model)
    for row in range(3):
        np.testing.assert_allclose(got[row], by_hand(read, row, 6, following), atol=1e-5)


def test_stream_is_generate(model):
    expected = ks.generate(model, prompts(), 6, future=futures(6))
    streamed = np.stack(list(ks.stream(model, prompts(), 6, future=futures(6))), axis=1)
    np.testing.assert_allclose(streamed, expected, atol=1e-6)


@pytest.mark.parametrize("convert", [ks.to_inference, ks.to_step_model, "file", "stateless"])
def test_conversions_and_files_remember_what_is_known_ahead(model, convert, tmp_path):
    expected = ks.generate(model, prompts(), 5, future=futures(5))
    if convert == "file":
        model.save(tmp_path / "model.keras")
        other = keras.saving.load_model(tmp_path / "model.keras")
    else:
        other = ks.to_stateless(model) if convert == "stateless" else convert(model)
    got = ks.generate(other, prompts(), 5, future=futures(5))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_session_forecasts_what_the_model_does(model, tmp_path):
    pytest.importorskip("onnxruntime")
    ks.export_step_model(model, tmp_path / "exported")
    expected = ks.generate(model, prompts(), 5, future=futures(5))
    with ks.load_session(tmp_path / "exported", batch_size=2) as session:
        got = ks.generate(session, prompts(), 5, future=futures(5))
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_model_that_nobody_trained_on_a_sequence_must_be_told(model):
    fresh = network(timed=True)
    with pytest.raises(ValueError, match="Nobody knows at which time step"):
        ks.generate(fresh, prompts(), 4, future=futures(4), next_input=lambda output: output)
    arguments = {"next_input": lambda output: output, "known_ahead": AHEAD}
    got = ks.generate(fresh, prompts(), 4, future=futures(4), **arguments)
    read = whole_series(fresh)
    for row in range(3):
        np.testing.assert_allclose(got[row], by_hand(read, row, 4), atol=1e-5)
    with pytest.raises(ValueError, match="trained to read 'hour' at another step"):
        ks.generate(model, prompts(), 4, future=futures(4), known_ahead={"hour": 2})


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanAbsoluteError(), "huber"])
def test_a_forecast_of_the_series_is_fed_back_as_it_is(loss):
    series = [d[:, :1] for d in LOAD]
    data = ks.StatefulSequence(series, 3, 8, resets=True)
    network = keras.Sequential(
        [keras.Input((None, 1)), layers.GRU(3, return_sequences=True), layers.Dense(1)]
    )
    model = ks.to_stateful(network, data)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match="Pass `next_input`"):
        ks.generate(model, series, 5)
    model.fit(data, verbose=0)
    got = ks.generate(model, series, 5)
    expected = ks.generate(model, series, 5, next_input=lambda output: output)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def readings():
    """The load of each machine as a frame, with columns that are something else."""
    pandas = pytest.importorskip("pandas")
    parts = [
        {"load": d[:, 0], "scaled": 2 * d[:, 0], "hour": np.arange(len(d)) % 5.0, "machine": k}
        for k, d in enumerate(LOAD)
    ]
    return pandas.concat(map(pandas.DataFrame, parts), ignore_index=True)


def forecaster(inputs=("load",), targets="load", horizons=1, known_ahead=()):
    series = ks.StatefulSequence.from_frame(
        readings(),
        by="machine",
        inputs=list(inputs),
        targets=targets,
        horizons=horizons,
        known_ahead=list(known_ahead),
        split=0.7,
        batch_size=3,
        sequence_length=8,
        resets=True,
    )
    read = [keras.Input((None, len(inputs)), name="inputs")]
    read += [keras.Input((None, 1), name="known_ahead")] * len(known_ahead)
    joined = layers.Concatenate()(read) if known_ahead else read[0]
    outputs = layers.Dense(len(inputs))(layers.GRU(3, return_sequences=True)(joined))
    model = ks.to_stateful(keras.Model(read if known_ahead else read[0], outputs), series.training)
    model.compile("sgd", "mse")
    model.fit(series.training, validation_data=series.validation, verbose=0)
    return model


@pytest.mark.parametrize(
    ("targets", "horizons"), [("load", 1), (["load"], 1), ("load", [1])], ids=str
)
def test_a_column_that_predicts_itself_is_fed_back_as_it_is(targets, horizons):
    model = forecaster(targets=targets, horizons=horizons)
    past = [d[:, :1] for d in LOAD]
    expected = ks.generate(model, past, 5, next_input=lambda output: output)
    for copy in (model, ks.to_inference(model)):
        np.testing.assert_allclose(ks.generate(copy, past, 5), expected, atol=1e-6)


def test_a_column_that_predicts_itself_beside_what_is_known_ahead():
    model = forecaster(known_ahead=["hour"])
    prompt = {"inputs": LOAD[0][:, :1], "known_ahead": np.arange(len(LOAD[0]))[:, None] % 5.0}
    future = {"known_ahead": np.ones((4, 1))}
    expected = ks.generate(model, prompt, 4, future=future, next_input=lambda output: output)
    np.testing.assert_allclose(ks.generate(model, prompt, 4, future=future), expected, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"targets": "scaled"},
        {"horizons": 2},
        {"inputs": ["load", "scaled"], "targets": ["scaled", "load"]},
    ],
    ids=str,
)
def test_another_column_or_step_is_not_fed_back(arguments):
    model = forecaster(**arguments)
    width = len(arguments.get("inputs", ["load"]))
    with pytest.raises(ValueError, match="Pass `next_input`"):
        ks.generate(model, [d[:, :1].repeat(width, 1) for d in LOAD], 5)


def test_targets_given_as_a_copy_of_the_input_are_the_input():
    """Values prove it, whatever the arrays are called."""
    data = ks.StatefulSequence(
        [d[:, :1] for d in LOAD], 3, 8, targets=[d[:, 0].copy() for d in LOAD], target_offset=1
    )
    assert data.series == ""
    data = ks.StatefulSequence(
        [d[:, :1] for d in LOAD], 3, 8, targets=[2 * d[:, 0] for d in LOAD], target_offset=1
    )
    assert data.series is None


def log_rate(y_true, y_pred):
    return ops.mean(ops.exp(y_pred) - y_true * y_pred, axis=-1)


@pytest.mark.parametrize(
    ("loss", "offset", "outputs"),
    [(log_rate, 1, 1), ("poisson", 1, 1), ("mse", 2, 1), ("mse", [1], 1), ("mse", [1, 2], 2)],
)
def test_what_is_not_known_to_be_the_next_value_is_not_fed_back(loss, offset, outputs):
    series = [np.abs(d[:, :1]) for d in LOAD]
    arguments = {"target_offset": offset, "resets": True}
    data = ks.StatefulSequence(series, 3, 8, **arguments)
    several = [layers.Reshape((-1, outputs, 1))] if isinstance(offset, list) else []
    network = keras.Sequential(
        [
            keras.Input((None, 1)),
            layers.GRU(3, return_sequences=True),
            layers.Dense(outputs, activation="softplus"),
            *several,
        ]
    )
    model = ks.to_stateful(network, data)
    model.compile("sgd", loss)
    model.fit(data, verbose=0)
    with pytest.raises(ValueError, match="Pass `next_input`"):
        ks.generate(model, series, 5)


def test_ids_are_drawn_beside_what_is_known_ahead():
    """A text with a style for each step: the ids are written, the styles are read."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    style = keras.Input((None,), dtype="int32", name="style")
    read = layers.Concatenate()([layers.Embedding(7, 4)(ids), layers.Embedding(3, 2)(style)])
    read = layers.LSTM(8, return_sequences=True)(read)
    keras.utils.set_random_seed(3)
    model = keras.Model([ids, style], layers.Dense(7, kernel_initializer="random_normal")(read))
    prompt, future = {"ids": [1, 2, 3], "style": [0, 1, 2]}, {"style": [2, 2, 0, 1]}
    arguments = {"temperature": 0, "known_ahead": {"style": 1}}
    got = ks.generate(model, prompt, 4, future=future, **arguments)
    written = [1, 2, 3]
    for k in range(4):
        styles = np.array([1, 2, 2, 2, 0, 1])[None, : 3 + k]
        output = model([ops.convert_to_tensor(np.array([written])), ops.convert_to_tensor(styles)])
        written.append(int(ops.convert_to_numpy(output)[0, -1].argmax()))
    assert got.tolist() == written[3:]


def test_a_future_of_what_is_constant_is_refused(model):
    future = {**futures(4), "machine": MACHINE + 1}
    with pytest.raises(ValueError, match="machine"):
        ks.generate(model, prompts(), 4, future=future)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 80), min_size=3, max_size=3))
def test_prompts_of_any_lengths(model, lengths):
    """Row by row the loop's, whatever the lengths: within a window, of one, or of several."""
    cut = [min(n, longest) for n, longest in zip(lengths, LENGTHS, strict=True)]
    past = {k: [DOCUMENTS[k][r][:n] for r, n in enumerate(cut)] for k in DOCUMENTS}
    steps = {"hour": 4, "sun": 6}
    future = {k: [DOCUMENTS[k][r][n : n + m] for r, n in enumerate(cut)] for k, m in steps.items()}
    got = ks.generate(model, {**past, "machine": MACHINE}, 4, future=future)
    read = whole_series(model)
    for row, n in enumerate(cut):
        np.testing.assert_allclose(got[row], by_hand(read, row, 4, start=n), atol=1e-5)


def test_a_document_that_goes_on_is_predicted_as_far_as_it_is_known(model):
    """`predict_documents` aligns as `generate` does: its last step is the first that is written."""
    known = {
        k: [DOCUMENTS[k][r][: n + m] for r, n in enumerate(LENGTHS)]
        for k, m in (("load", 0), ("hour", 1), ("sun", 3))
    }
    last = ks.predict_documents(model, known, static={"machine": MACHINE}, reduce="last")
    first = ks.generate(model, prompts(), 1, future=futures(1))[:, 0]
    np.testing.assert_allclose(last, first, atol=1e-5)


def test_of_several_outputs_next_input_takes_one(model):
    """The remedy that the refusal names: the outputs side by side, taken apart in `next_input`."""
    plain = ks.to_stateless(model)
    several = keras.Model(plain.inputs, [plain.outputs[0] * 2, plain.outputs[0]])
    arguments = {"future": futures(4), "known_ahead": AHEAD}
    with pytest.raises(ValueError, match="Concatenate"):
        ks.generate(several, prompts(), 4, next_input=lambda output: output, **arguments)
    joined = keras.Model(several.inputs, layers.Concatenate(name="side_by_side")(several.outputs))
    got = ks.generate(joined, prompts(), 4, next_input=lambda output: output[:, 2:], **arguments)
    expected = ks.generate(model, prompts(), 4, future=futures(4))
    np.testing.assert_allclose(got[..., 2:], expected, atol=1e-5)
    np.testing.assert_allclose(got[..., :2], 2 * expected, atol=1e-5)
