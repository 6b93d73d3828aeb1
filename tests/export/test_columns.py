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
