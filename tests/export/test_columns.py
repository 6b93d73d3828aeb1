"""An artifact knows the columns of its model's training, and reads frames by their names."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks

pandas = pytest.importorskip("pandas")

NAMES, ROTATED = ["load", "heat", "speed"], ["speed", "load", "heat"]
ROWS = 2
rng = np.random.default_rng(0)
READINGS = [rng.normal(size=(9, 3)).astype("float32") for _ in range(ROWS)]


def frames(columns):
    return [pandas.DataFrame(a, columns=NAMES)[columns] for a in READINGS]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model trained on frames, and the directory that it was exported to."""
    keras.utils.set_random_seed(0)
    recurrent = layers.SimpleRNN(2, return_sequences=True)
    network = keras.Sequential([keras.Input((None, 3)), recurrent, layers.Dense(3)])
    sequence = ks.StatefulSequence(frames(NAMES), ROWS, 4, resets=True)
    model = ks.to_stateful(network, sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0)
    folder = tmp_path_factory.mktemp("columns") / "exported"
    ks.export_step_model(model, folder, verbose=0)
    return model, folder


def test_sessions_read_frames_by_the_names_of_columns(exported):
    _, folder = exported
    with ks.load_session(folder, batch_size=ROWS) as session:
        assert session.manifest.inputs[0].columns == tuple(NAMES)
        expected = session.read(np.stack(READINGS))
        for columns in (NAMES, ROTATED):
            session.reset()
            np.testing.assert_array_equal(session.read(frames(columns)), expected)
        session.reset()
        of_first_step = pandas.DataFrame([a[0] for a in READINGS], columns=NAMES)
        step = session.step(of_first_step[ROTATED])
        np.testing.assert_allclose(step, expected[:, 0], rtol=1e-5)
        flags = of_first_step.assign(speed=[True, False])
        by_place = session.fork().step(flags.to_numpy("float32"))
        for columns in (NAMES, ROTATED):
            np.testing.assert_array_equal(session.fork().step(flags[columns]), by_place)
        with pytest.raises(ValueError, match=r"missing \['heat'\]; unknown \['cold'\]") as error:
            session.step(of_first_step.rename(columns={"heat": "cold"}))
        assert str(error.value).startswith("Input ")
        by_place = session.fork()
        np.testing.assert_array_equal(
            by_place.step(np.ones((ROWS, 3))), session.step(np.ones((ROWS, 3)).tolist())
        )


def test_prompts_of_sessions_go_by_name_as_those_of_the_model(exported):
    model, folder = exported
    steps = {"length": 3, "next_input": lambda output: output}
    expected = ks.generate(model, frames(NAMES), **steps)
    with ks.load_session(folder) as session:
        for columns in (NAMES, ROTATED):
            written = ks.generate(session, frames(columns), **steps)
            np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match=r"`prompt\[0\]` must have .*unknown \['extra'\]"):
            ks.generate(session, [f.assign(extra=0.0) for f in frames(NAMES)], **steps)


def test_streams_of_a_pool_read_rows_of_a_frame_by_the_names_of_columns(exported):
    _, folder = exported
    machines = ["b", "a"]
    rows = pandas.DataFrame([a[0] for a in READINGS], columns=NAMES, index=machines)
    with ks.load_session(folder) as session:
        pools = [session.pool() for _ in range(3)]
        expected = pools[0].step({m: rows.loc[m].to_numpy() for m in machines})
        for pool, columns in zip(pools[1:], (NAMES, ROTATED), strict=True):
            given = pool.step({m: rows[columns].loc[m] for m in machines})
            for machine in machines:
                np.testing.assert_array_equal(given[machine], expected[machine])
        mixed = {"b": rows[ROTATED].loc["b"], "a": rows.loc["a"].tolist()}
        given = session.pool().step(mixed)
        np.testing.assert_array_equal(given["a"], expected["a"])
        np.testing.assert_array_equal(given["b"], expected["b"])
        with pytest.raises(ValueError, match=r"`x\['a'\]` .*unknown \['cold'\]"):
            session.pool().step({"a": rows.rename(columns={"heat": "cold"}).loc["a"]})


ONE_ROW = {
    "a row": lambda row: row,
    "a frame of one row": lambda row: row.to_frame().T,
    "a dict": lambda row: row.to_dict(),
    "a dict by input": lambda row: row.to_dict(),  # under the input's name
    "polars": lambda row: pytest.importorskip("polars").DataFrame([row.to_dict()]),
}


@pytest.fixture(scope="module")
def with_constants(tmp_path_factory):
    """A model of readings and constants, all trained on frames; its artifact."""
    keras.utils.set_random_seed(0)
    x = {
        "readings": keras.Input((None, 3), name="readings"),
        "static": keras.Input((None, 3), name="static"),
    }
    h = layers.SimpleRNN(2, return_sequences=True)(layers.Concatenate()(list(x.values())))
    network = keras.Model(x, layers.Dense(3)(h))
    constants = pandas.DataFrame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], columns=NAMES)
    sequence = ks.StatefulSequence(
        {"readings": frames(NAMES)},
        ROWS,
        4,
        targets="readings",
        target_offset=1,
        static={"static": constants},
        resets=True,
    )
    model = ks.to_stateful(network, sequence)
    model.compile("sgd", "mse")
    model.fit(sequence, verbose=0)
    folder = tmp_path_factory.mktemp("constants") / "exported"
    ks.export_step_model(model, folder, verbose=0)
    return model, folder, constants


@pytest.mark.parametrize("kind", ONE_ROW)
def test_a_stream_reads_one_row_by_name_in_any_form(kind, exported):
    _, folder = exported
    given = ONE_ROW[kind]
    if kind == "a dict by input":
        name = ks.load_session(folder).manifest.inputs[0].name
        given = lambda row: {name: row.to_dict()}  # noqa: E731
    row = pandas.Series(READINGS[0][0], index=NAMES)
    with ks.load_session(folder) as session:
        expected = session.pool().step({"a": row.to_numpy(), "b": 2 * row.to_numpy()})
        for names in (NAMES, ROTATED):
            pool = session.pool()
            step = pool.step({"a": given(row[names]), "b": given(2 * row[names])})
            for stream in "ab":
                np.testing.assert_array_equal(step[stream], expected[stream])
        for wrong in (row.rename({"heat": "cold"}), row[NAMES[:2]]):
            with pytest.raises(ValueError, match=r"`x\['b'\]` .*missing"):
                pool.step({"a": given(row), "b": given(wrong)})


def test_what_is_constant_goes_by_name(with_constants):
    model, folder, constants = with_constants
    readings = {"readings": READINGS}
    rows = [row for _, row in constants.iterrows()]
    turned = [row[ROTATED] for row in rows]
    expected = ks.predict_documents(model, readings, static={"static": constants.to_numpy()})
    for static in (rows, turned, [rows[0], turned[1]], constants[ROTATED]):
        outputs = ks.predict_documents(model, readings, static={"static": static})
        np.testing.assert_array_equal(np.stack(outputs), np.stack(expected))
    wrong = [row.rename({"heat": "cold"}) for row in rows]
    with pytest.raises(ValueError, match=r"unknown \['cold'\]"):
        ks.predict_documents(model, readings, static={"static": wrong})
    for mixed in ([rows[0], wrong[1]], [rows[0], rows[1].to_numpy()]):
        with pytest.raises(ValueError, match="the same columns"):
            ks.predict_documents(model, readings, static={"static": mixed})

    steps = {"length": 3, "next_input": lambda output: output}
    with ks.load_session(folder) as session:
        for engine in (model, session):
            by_place = {**readings, "static": list(constants.to_numpy())}
            written = ks.generate(engine, by_place, **steps)
            for static in (rows, turned, constants[ROTATED]):
                again = ks.generate(engine, {**readings, "static": static}, **steps)
                np.testing.assert_array_equal(again, written)
            single = {"readings": READINGS[1], "static": turned[1]}
            np.testing.assert_allclose(
                ks.generate(engine, single, **steps), written[1], rtol=1e-5, atol=1e-6
            )
            with pytest.raises(ValueError, match=r"unknown \['cold'\]"):
                ks.generate(engine, {**readings, "static": wrong}, **steps)
    with ks.load_session(folder, batch_size=ROWS) as session:
        by_place = {"readings": np.stack([a[0] for a in READINGS]), "static": constants.to_numpy()}
        expected = session.step(by_place)
        session.reset()
        by_name = [pandas.Series(a[0], index=NAMES)[ROTATED] for a in READINGS]
        step = session.step({"readings": by_name, "static": turned})
        np.testing.assert_array_equal(step, expected)
        pool = session.pool()
        streams = {
            str(k): {"readings": by_name[k].to_dict(), "static": constants[ROTATED].iloc[[k]]}
            for k in range(ROWS)
        }
        np.testing.assert_array_equal(np.stack([*pool.step(streams).values()]), expected)
