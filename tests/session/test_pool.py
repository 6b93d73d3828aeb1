"""`Pool`: a stream is what a session of its own would be, whoever comes, goes and steps."""

import dataclasses
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import runtimes
from damage import rewrite_head, with_a_byte_inverted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from keras import layers

import keras_stateful as ks
from keras_stateful.session.pool import Pool, _run_sizes
from keras_stateful.session.stepper import Stepper

pytestmark = pytest.mark.backend_free

FEATURES = 3
FORMATS = {
    "onnx": 1,
    "openvino": 1,
    "tf_saved_model": 1,
    "litert": 1,
    "litert, 4 rows": 4,
    "executorch": 1,
}


def network(seed=1):
    keras.utils.set_random_seed(seed)
    x = keras.Input((None, FEATURES), name="x")
    h = layers.LSTM(6, return_sequences=True, name="lower")(x)
    h = layers.GRU(5, return_sequences=True, name="upper")(h)
    return keras.Model(x, layers.Dense(2)(h))


def readings(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, FEATURES)).astype("float32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A session of one row; its forks and pools share the weights."""
    directory = tmp_path_factory.mktemp("exports") / "network"
    ks.export_step_model(network(), directory)
    return ks.load_session(directory)


def fresh(root):
    """One more session of one row, at the initial state."""
    session = root.fork([0])
    session.reset()
    return session


def arrays(states):
    return [array for of_layer in states.values() for array in of_layer]


def assert_same_states(pool, before):
    """The pool has these streams, with these states, and no others."""
    assert pool.names == before["names"]
    for array, expected in zip(arrays(pool.get_states()), before["states"], strict=True):
        np.testing.assert_array_equal(array, expected)


def snapshot(pool):
    return {"names": pool.names, "states": [a.copy() for a in arrays(pool.get_states())]}


class PoolBesideSessions(RuleBasedStateMachine):
    """Names begin, step, end, begin anew, are reset, copied, saved and loaded, in any order."""

    root: ks.Session
    folder: str
    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.pool = self.root.pool()
        self.alone: dict[str, ks.Session] = {}
        self.step = 0

    @rule(target=names, name=st.text(max_size=4))
    def name(self, name):
        return name

    def _step(self, names):
        self.step += 1
        x = dict(zip(names, readings(len(names), seed=self.step), strict=True))
        y = self.pool.step(x)
        assert list(y) == list(x)
        for name, row in x.items():
            session = self.alone.setdefault(name, None) or fresh(self.root)
            self.alone[name] = session
            np.testing.assert_array_equal(y[name], session.step(row[None])[0])

    @rule(chosen=st.lists(names, max_size=6, unique=True))
    def some(self, chosen):
        self._step(chosen)

    @rule(count=st.integers(1, 40), first=st.integers(0, 60))
    def many(self, count, first):
        self._step([f"machine {i}" for i in range(first, first + count)])

    @rule(name=consumes(names))
    def end(self, name):
        if name in self.alone:
            self.pool.drop(name)
            del self.alone[name]
        else:
            with pytest.raises(ValueError, match="must name streams of the pool"):
                self.pool.drop(name)

    @rule(share=st.floats(0, 1))
    def end_many(self, share):
        gone = list(self.alone)[: int(share * len(self.alone))]
        self.pool.drop(gone)
        for name in gone:
            del self.alone[name]

    @rule(name=names)
    def begin_anew(self, name):
        if name in self.alone:
            self.pool.reset(name)
            self.alone[name].reset()

    @rule(source=names, copy=names)
    def copy(self, source, copy):
        if source in self.alone:
            self.pool.set_states(self.pool.get_states(source), copy)
            self.alone[copy] = self.alone[source].fork()

    @rule()
    def restart(self):
        self.pool.save(self.folder / "pool.npz")
        self.pool = self.root.pool(self.folder / "pool.npz")

    @invariant()
    def holds_what_began_and_did_not_end(self):
        assert set(self.pool) == set(self.alone)
        assert len(self.pool) == len(self.alone)
        assert all(name in self.pool for name in self.alone)
        assert self.pool._capacity <= max(16, 4 * len(self.alone))


def test_streams_are_sessions_of_their_own_in_any_order(root, tmp_path):
    PoolBesideSessions.root, PoolBesideSessions.folder = root, tmp_path
    test = PoolBesideSessions.TestCase()
    test.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
    test.runTest()


@pytest.mark.parametrize(
    "form", runtimes.each(*FORMATS, slow=("litert", "litert, 4 rows", "executorch"))
)
def test_each_format_and_a_restart_in_another_process(form, tmp_path):
    """Streams come and go at random; a new process goes on from the file."""
    ks.export_step_model(
        network(), tmp_path / "network", form.partition(",")[0], batch_size=FORMATS[form]
    )
    pool = ks.load_session(tmp_path / "network").pool()
    # Sessions whose runs have as many rows as the pool's, so that nothing is rounded otherwise.
    wide = ks.load_session(tmp_path / "network", batch_size=16)
    names, x = [f"m{i}" for i in range(16)], readings(12, 16)
    rng, began = np.random.default_rng(3), np.zeros(16, int)
    for t in range(6):
        rows = rng.permutation(16)[: rng.integers(1, 17)]
        y = pool.step({names[r]: x[began[r], r] for r in rows})
        expected = wide.step(x[began[rows], rows], rows=rows)
        np.testing.assert_allclose([y[names[r]] for r in rows], expected, atol=1e-6)
        began[rows] += 1
        if t == 3:
            gone = rows[: len(rows) // 2]
            pool.drop([names[r] for r in gone])
            if len(gone):
                wide.reset(rows=gone)
    pool.save(tmp_path / "pool.npz")
    following = readings(16, seed=9)
    np.save(tmp_path / "x.npy", following)
    code = f"""
import numpy as np
import keras_stateful as ks
pool = ks.load_session({str(tmp_path / "network")!r}).pool({str(tmp_path / "pool.npz")!r})
x = np.load({str(tmp_path / "x.npy")!r})
y = pool.step(dict(zip({names!r}, x)))
np.save({str(tmp_path / "y.npy")!r}, np.stack(list(y.values())))
"""
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wide.step(following), atol=1e-6)


def test_an_artifact_of_a_fixed_number_of_rows(root):
    """Every run has as many, so a stream's numbers do not depend on anybody, bit for bit."""
    rows_of_runs = []

    class Runtime:
        """That of `root`, as if it were exported for 4 rows."""

        def run(self, feeds, names):
            rows_of_runs.append({len(array) for array in feeds.values()})
            return root._stepper.runtime.run(feeds, names)

    manifest = dataclasses.replace(root.manifest, batch_size=4)
    pool = Pool(Stepper(manifest, Runtime()))
    alone, x = {f"m{i}": fresh(root) for i in range(30)}, readings(5, 30)
    rng = np.random.default_rng(0)
    for t in range(5):
        names = [f"m{i}" for i in rng.permutation(30)[: rng.integers(1, 31)]]
        y = pool.step({name: x[t, int(name[1:])] for name in names})
        for name in names:
            np.testing.assert_array_equal(y[name], alone[name].step(x[t, int(name[1:])][None])[0])
    assert all(rows == {4} for rows in rows_of_runs)


def two_by_two():
    """Two inputs, one of ids, and two outputs, one of them a vector for each stream."""
    keras.utils.set_random_seed(2)
    x = keras.Input((None, FEATURES), name="x")
    hour = keras.Input((None,), dtype="int32", name="hour")
    h = layers.Concatenate()([x, layers.Embedding(24, 2)(hour)])
    h = layers.LSTM(4, return_sequences=True)(h)
    return keras.Model([x, hour], [layers.Dense(2, name="mean")(h), layers.Dense(1)(h)])


def test_several_inputs_and_outputs(tmp_path):
    ks.export_step_model(two_by_two(), tmp_path / "network")
    session = ks.load_session(tmp_path / "network", batch_size=3)
    names, x, hours = ["a", "b", "c"], readings(4, 3), np.arange(12).reshape(4, 3)
    forms = {
        "dicts": lambda t: {n: {"hour": hours[t, i], "x": x[t, i]} for i, n in enumerate(names)},
        "tuples": lambda t: {n: (x[t, i], int(hours[t, i])) for i, n in enumerate(names)},
        "mixed": lambda t: {
            "a": [x[t, 0], hours[t, 0]],
            "b": {"x": x[t, 1].tolist(), "hour": hours[t, 1]},
            "c": (x[t, 2].astype("float64"), np.uint8(hours[t, 2])),
        },
    }
    pools = {form: session.pool() for form in forms}
    for t in range(4):
        expected = session.step((x[t], hours[t]))
        for form, of_step in forms.items():
            y = pools[form].step(of_step(t))
            for i, name in enumerate(names):
                assert isinstance(y[name], tuple)
                for array, whole in zip(y[name], expected, strict=True):
                    np.testing.assert_array_equal(array, whole[i])
    pool = pools["dicts"]
    before = snapshot(pool)
    good = forms["dicts"](0)
    for wrong in (
        {"x": x[0, 0]},
        {"x": x[0, 0], "hour": 3, "minute": 1},
        {"x": x[0, 0], "minute": 1},
        (x[0, 0],),
        np.zeros(2),
        {"x": x[0, 0], "hour": 24},
        {"x": x[0, 0], "hour": 1.5},
        (3, x[0, 0]),
    ):
        with pytest.raises((ValueError, TypeError), match=r"`x\['b'\]` cannot be read"):
            pool.step({**good, "b": wrong, "new": good["a"]})
        assert_same_states(pool, before)


def ids_network():
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = layers.GRU(4, return_sequences=True)(layers.Embedding(11, 3)(ids))
    return keras.Model(ids, layers.Dense(11)(h))


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        [np.int64(1), 2, np.uint8(3)],
        [np.array(1), np.array(2), np.array(3)],
        [np.uint64(1), np.int64(2), True],
    ],
)
def test_ids_of_every_kind(tmp_path, values):
    ks.export_step_model(ids_network(), tmp_path / "network")
    session = ks.load_session(tmp_path / "network", batch_size=3)
    y = session.pool().step(dict(zip("abc", values, strict=True)))
    np.testing.assert_array_equal(list(y.values()), session.step([int(v) for v in values]))


def series(x):
    return [row for _, row in pytest.importorskip("pandas").DataFrame(x).iterrows()]


FORMS = {
    "float64": lambda x: list(x.astype("float64")),
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: [tuple(row) for row in x.tolist()],
    "of several kinds": lambda x: [x[0], x[1].tolist(), np.ma.array(x[2]), tuple(x[3])],
    "strided": lambda x: list(np.asfortranarray(x)),
    "series": series,
    "the backend's tensors": lambda x: [keras.ops.convert_to_tensor(row) for row in x],
    "torch": lambda x: list(pytest.importorskip("torch").tensor(x)),
    "dicts": lambda x: [{"x": row} for row in x],
}


@pytest.mark.parametrize("form", FORMS)
def test_readings_of_every_kind(root, form):
    x = readings(4)
    session = root.fork([0] * 4)
    session.reset()
    y = root.pool().step(dict(zip("abcd", FORMS[form](x), strict=True)))
    np.testing.assert_array_equal(list(y.values()), session.step(x))


BAD = {
    "a wrong shape": (np.zeros(2), ValueError, r"`x\['new'\]`.*must have shape \(3,\).*\(2,\)"),
    "a row axis": (np.zeros((1, 3)), ValueError, r"`x\['new'\]`.*without row and time axes"),
    "a scalar": (1.0, ValueError, r"`x\['new'\]`.*Received: shape \(\)"),
    "masked": (np.ma.masked_less([1.0, -1, 2], 0), ValueError, r"`x\['new'\]`.*1 masked values"),
    "beyond float32": ([1, 1e300, 2], ValueError, r"`x\['new'\]`.*beyond its range"),
    "NaN": (np.array([0, np.nan, 1]), ValueError, r"`x\['new'\]`.*1 such values.*that name"),
    "text": ("abc", ValueError, r"`x\['new'\]`.*must have shape"),
    "texts": (["a", "b", "c"], TypeError, r"`x\['new'\]`.*Encode it first"),
    "nothing": (None, (TypeError, ValueError), r"`x\['new'\]`"),
    "ragged": ([1, [2, 3]], ValueError, r"`x\['new'\]`.*is not an array"),
    "columns by name": (
        {"x": {"a": 1.0, "b": 2.0, "c": 3.0}},
        TypeError,
        r"`x\['new'\]`.*knows no names of columns. Received: \['a', 'b', 'c'\]",
    ),
    "another input": ({"y": np.zeros(3)}, ValueError, r"`x\['new'\]`.*one entry for each input"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("beside", [[], ["m1"], ["m1", "m2", "other"]])
def test_bad_input_advances_nobody(root, name, beside):
    pool = root.pool()
    pool.step({"m1": np.ones(3), "m2": np.zeros(3)})
    before = snapshot(pool)
    value, error, message = BAD[name]
    x = {n: np.ones(3) for n in beside}
    with pytest.raises(error, match=message):
        pool.step({**x, "new": value})
    with pytest.raises(error, match=message):
        pool.step({"new": value, **x})
    assert_same_states(pool, before)


def test_names_that_are_no_text_and_forms_that_are_no_dict(root):
    pool = root.pool()
    pool.step({"7": np.ones(3)})
    before = snapshot(pool)
    for wrong in (7, b"m1", None, ("a", 1)):
        with pytest.raises(TypeError, match=r"must be text\. Received.*Pass `str\(name\)`"):
            pool.step({"m1": np.ones(3), wrong: np.ones(3)})
        with pytest.raises(TypeError, match="must be text"):
            pool.set_states(pool.get_states("7"), [wrong])
    for wrong in (np.ones((2, 3)), [("m1", np.ones(3))], "m1", None):
        with pytest.raises(TypeError, match="`x` must be a dict"):
            pool.step(wrong)
    for use in (pool.drop, pool.reset, pool.get_states):
        with pytest.raises(ValueError, match="'m9', which has not begun or was dropped; there are"):
            use(["7", "m9"])
        with pytest.raises(TypeError, match="`names` must be a name"):
            use(7)
        for wrong in (7, ["7"], None):
            with pytest.raises(TypeError, match="must be text"):
                use(["7", wrong])
    with pytest.raises(ValueError, match=r"they must be \[\(2, 6\).*\]\. `names=` says which"):
        pool.set_states(pool.get_states("7"), ["a", "b"])
    with pytest.raises(ValueError, match="once"):
        pool.set_states(pool.get_states(["7", "7"]), ["a", "a"])
    assert pool.step({}) == {}
    assert_same_states(pool, before)


def test_a_name_that_has_not_begun_may_be_refused(root):
    """Beside names that are there, before any of them advances; and dropped ones begin anew."""
    pool, x = root.pool(), np.ones(3)
    with pytest.raises(ValueError, match="`x` must name streams of the pool. Received: 'm1'"):
        pool.step({"m1": x}, new=False)
    pool.step({"m1": x, "m2": x})
    before = snapshot(pool)
    for names in (["m3"], ["m1", "m3"], ["m3", "m1", "m4"], ["M1", "m2"], [1, "m1"]):
        with pytest.raises(ValueError, match="must name streams.* `new=True` has it begin"):
            pool.step(dict.fromkeys(names, x), new=False)
        assert_same_states(pool, before)
    with pytest.raises(TypeError, match="`new` must be"):
        pool.step({"m1": x}, new="m1")
    beside = root.pool()
    for _ in range(2):
        expected = beside.step({"m1": x, "m2": 2 * x})
    twice = root.pool()
    twice.step({"m1": x, "m2": 2 * x})
    y = twice.step({"m1": x, "m2": 2 * x}, new=False)
    for name in y:
        np.testing.assert_array_equal(y[name], expected[name])
    pool.drop("m1")
    with pytest.raises(ValueError, match="'m1', which has not begun or was dropped; there are 1 "):
        pool.step({"m1": x}, new=False)
    assert pool.step({}, new=False) == {}


def test_a_run_that_fails_changes_nothing(root, monkeypatch):
    """Not even where other rows of the same step ran before it."""
    pool = root.pool()
    x = {f"m{i}": row for i, row in enumerate(readings(40))}
    pool.step(x)
    before = snapshot(pool)
    run, calls = pool._stepper.step, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(pool._stepper, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        pool.step({**x, **{f"new {i}": row for i, row in enumerate(readings(7))}})
    assert len(calls) == 2
    assert_same_states(pool, before)


def test_states_come_from_models_sessions_and_pools_of_the_same_weights(tmp_path):
    """A network that has read months by `predict` goes on in a pool, by name."""
    model, x = network(), readings(3, 9)
    ks.export_step_model(model, tmp_path / "first")
    session = ks.load_session(tmp_path / "first", batch_size=3)
    live = ks.to_inference(model, 3)
    live.predict_on_batch(x[:, :5])
    pool = session.pool()
    pool.step({"b": np.ones(3)})
    pool.set_states(ks.get_states(live), ["a", "b", "c"])
    session.set_states(pool.get_states(["a", "b", "c"]))
    expected = live.predict_on_batch(x[:, 5:])
    np.testing.assert_allclose(session.read(x[:, 5:]), expected, atol=1e-5)
    for t in range(4):
        y = pool.step(dict(zip("cab", x[[2, 0, 1], 5 + t], strict=True)))
        np.testing.assert_allclose([y[n] for n in "abc"], expected[:, t], atol=1e-5)

    pool.save(tmp_path / "pool.npz")
    assert os.listdir(tmp_path).count("pool.npz") == 1
    loaded = ks.load_states(tmp_path / "pool.npz")  # a file of states, too
    session.set_states(loaded)
    for array, of_pool in zip(arrays(session.get_states()), arrays(pool.get_states()), strict=True):
        np.testing.assert_array_equal(array, of_pool)

    ks.export_step_model(network(seed=5), tmp_path / "second")
    other = ks.load_session(tmp_path / "second")
    with pytest.raises(ValueError, match="made by other weights"):
        other.pool(tmp_path / "pool.npz")
    mine = other.pool()
    with pytest.raises(ValueError, match="made by other weights"):
        mine.set_states(pool.get_states(), pool.names)
    assert len(mine) == 0
    ks.save_states(tmp_path / "states.npz", session.get_states())
    with pytest.raises(ValueError, match="states without names"):
        session.pool(tmp_path / "states.npz")
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.pool()
    pool.step({"a": np.ones(3)})  # it outlives what it was made from


@pytest.mark.parametrize("names", [[], [""], ["a\0", "a", "a\0\0"], ["é", "\ud800", "x" * 5000]])
def test_every_text_is_a_name_that_a_file_keeps(root, tmp_path, names):
    pool = root.pool()
    pool.step({name: readings(1, seed=i)[0] for i, name in enumerate(names)})
    pool.save(tmp_path / "pool.npz")
    assert_same_states(root.pool(tmp_path / "pool.npz"), snapshot(pool))


def test_a_damaged_file_is_no_pool(root, tmp_path):
    pool, path = root.pool(), tmp_path / "pool.npz"
    pool.step({"a": np.ones(3), "b": np.zeros(3)})
    pool.save(path)
    content, sound = path.read_bytes(), snapshot(pool)
    for damaged in with_a_byte_inverted(content, 150):
        path.write_bytes(damaged)
        try:  # a byte that says nothing, a date for example, may be any
            loaded = root.pool(path)
        except ValueError:
            continue
        assert_same_states(loaded, sound)
    for names in (["a"], ["a", "a"], ["a", 7], "ab", {"a": 1, "b": 2}, ["a", "b", "c"]):
        path.write_bytes(content)
        rewrite_head(path, names=names)
        with pytest.raises(ValueError, match="its names are not those of"):
            root.pool(path)
    with pytest.raises(FileNotFoundError):
        root.pool(tmp_path / "none.npz")


def test_a_file_takes_no_more_memory_than_its_size(root, tmp_path):
    """What is packed tightly may be a bomb."""
    path = tmp_path / "bomb.npz"
    pool = root.pool()
    pool.step({"a": np.ones(3)})
    pool.save(path)
    with np.load(path, allow_pickle=False) as archive:
        head = archive["states"]
    np.savez_compressed(path, states=head, **{str(i): np.zeros(1 << 20) for i in range(3)})
    with pytest.raises(ValueError, match="bytes of memory"):
        ks.load_states(path)


def test_one_pool_used_by_several_threads_takes_one_call_after_the_other(root):
    pool, x = root.pool(), readings(4, 60)

    def run(k):
        for t in range(60):
            pool.step({f"m{k}": x[k, t], f"short {k} {t}": x[k, t]})
            pool.drop(f"short {k} {t}")

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pool) == [f"m{k}" for k in range(4)]
    for k in range(4):
        session = fresh(root)
        session.read(x[k][None])
        for array, alone in zip(
            arrays(pool.get_states(f"m{k}")), arrays(session.get_states()), strict=True
        ):
            np.testing.assert_array_equal(array, alone)


def test_runs_are_few_and_of_few_sizes():
    all_sizes = set()
    for streams in [*range(1, 5000), 10_000, 12_345]:
        sizes = _run_sizes(streams, None)
        all_sizes |= set(sizes)
        idle = sum(sizes) - streams
        assert 0 <= idle <= max(4, streams // 7)
        assert len(sizes) <= streams // 2048 + 7
        assert _run_sizes(streams, 8) == [8] * -(-streams // 8)
    assert all_sizes <= {1 << k for k in range(12)}
