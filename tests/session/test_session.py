"""`Session`: NumPy in and out, rows alone, threads apart, and nothing run that was not exported."""

import os
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import runtimes

import keras_stateful as ks
from keras_stateful.session.artifact import Artifact
from keras_stateful.session.runtimes import open_runtime, openvino_core

pytestmark = pytest.mark.backend_free

VOCABULARY = 11


def network():
    keras.utils.set_random_seed(1)
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = keras.layers.Embedding(VOCABULARY, 4)(ids)
    h = keras.layers.LSTM(6, return_sequences=True, name="lower")(h)
    h = keras.layers.GRU(5, return_sequences=True, name="upper")(h)
    return keras.Model(ids, keras.layers.Dense(VOCABULARY, activation="softmax")(h))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(
    scope="module",
    params=runtimes.each("onnx", "openvino", "litert", "executorch", slow=("litert", "executorch")),
)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def exported(model, form, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "text"
    ks.export_step_model(model, directory, form, metadata={"characters": "abc"})
    return directory


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape)


def test_step_and_read_are_one_pass_of_the_model(model, exported):
    x = ids(3, 40)
    expected = model.predict_on_batch(x)
    with ks.load_session(exported, batch_size=3) as session:
        np.testing.assert_allclose(session.read(x[:, :25]), expected[:, :25], atol=1e-5)
        for t in range(25, 40):
            np.testing.assert_allclose(session.step(x[:, t]), expected[:, t], atol=1e-5)
        assert session.metadata == {"characters": "abc"}


def test_only_the_rows_named_advance(exported):
    x = ids(4, 12)
    alone = [ks.load_session(exported).read(x[r : r + 1])[0] for r in range(4)]
    session, at = ks.load_session(exported, batch_size=4), [0] * 4
    order = np.random.default_rng(1)
    while min(at) < 12:
        rows = [r for r in order.permutation(4)[: order.integers(1, 5)].tolist() if at[r] < 12]
        if not rows:
            continue
        out = session.step(x[rows, [at[r] for r in rows]], rows=rows)
        for r, o in zip(rows, out, strict=True):
            np.testing.assert_array_equal(o, alone[r][at[r]])  # bit for bit, whoever else advanced
            at[r] += 1
    mask = np.array([True, False, True, False])
    session.reset(mask)
    after = session.read(x[mask, :3], rows=mask)
    np.testing.assert_array_equal(after, np.stack([alone[0][:3], alone[2][:3]]))


@pytest.mark.parametrize(
    "small", runtimes.each("onnx", "openvino", "litert", slow=("openvino", "litert"))
)
@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
def test_rows_are_alone_in_int8_too(small, layer, tmp_path):
    """What others read is a hundred times larger; who quantizes all together loses the rest."""
    stack = [layer(32, return_sequences=True), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((None, 32)), *stack])
    x = np.random.default_rng(0).normal(size=(4, 6, 32)).astype("float32")
    options = {"quantize": "int8", "representative_data": x, "verbose": 0}
    ks.export_step_model(model, tmp_path / "small", small, batch_size=4, **options)
    root = ks.load_session(tmp_path / "small", batch_size=4)
    assert root.manifest.quantization["weights"] == "int8"
    louder = np.concatenate([x[:1], 100 * x[1:]])
    expected = root.fork().read(x)
    np.testing.assert_array_equal(root.fork().read(louder)[0], expected[0])
    np.testing.assert_array_equal(root.fork().read(x[:1], rows=[0])[0], expected[0])
    pool = root.pool()
    for t in range(6):
        y = pool.step({f"m{i}": louder[i, t] for i in range(4)})
        np.testing.assert_array_equal(y["m0"], expected[0, t])


def test_a_parked_conversation_goes_on(exported):
    x = ids(1, 20)
    whole = ks.load_session(exported).read(x)
    session = ks.load_session(exported, batch_size=2)
    session.read(x[:, :8], rows=[1])
    parked = session.get_states(rows=[1])
    assert {k: [a.shape for a in v] for k, v in parked.items()} == {
        "lower": [(1, 6), (1, 6)],
        "upper": [(1, 5)],
    }
    session.read(ids(2, 5, seed=3))
    session.set_states(parked, rows=[0])
    np.testing.assert_array_equal(session.read(x[:, 8:], rows=[0]), whole[:, 8:])
    for arrays in parked.values():  # a copy: what its owner does to it changes nothing
        for a in arrays:
            a[:] = 7
    session.set_states(session.get_states())
    assert all(np.abs(a).max() < 7 for v in session.get_states(rows=[0]).values() for a in v)


def test_forks_go_their_own_ways(exported):
    x, y = ids(1, 10), ids(1, 10, seed=5)
    session = ks.load_session(exported)
    session.read(x)
    other = session.fork()
    first, second = session.read(x), other.read(y)
    assert np.abs(first - second).max() > 1e-4
    again = ks.load_session(exported)
    again.read(x)
    np.testing.assert_array_equal(again.fork().read(y), second)
    np.testing.assert_array_equal(again.read(x), first)
    session.close()
    other.read(x)  # a fork outlives what it was made from


def test_threads_with_a_session_each_mix_nothing(exported):
    steps, threads = 2_000, 8
    root = ks.load_session(exported)
    expected, failures = {}, []

    def run(k, into):
        session, state = root.fork(), np.random.default_rng(k)
        total = np.zeros(VOCABULARY)
        try:
            for i in range(steps):
                out = session.step([int(state.integers(VOCABULARY))])
                if i % 100 == 0:
                    total += out[0]
            into[k] = total
        except Exception as error:
            failures.append(error)

    got: dict = {}
    together = [threading.Thread(target=run, args=(k, got)) for k in range(threads)]
    for t in together:
        t.start()
    for t in together:
        t.join()
    assert not failures
    for k in (0, threads - 1):
        run(k, expected)
        np.testing.assert_array_equal(got[k], expected[k])


def test_one_session_used_by_several_threads_takes_one_call_after_the_other(exported):
    session = ks.load_session(exported, batch_size=4)
    x = ids(4, 200)

    def run(r):
        for t in range(200):
            session.step(x[r : r + 1, t], rows=[r])

    threads = [threading.Thread(target=run, args=(r,)) for r in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    alone = ks.load_session(exported, batch_size=4)
    alone.read(x)
    for a, b in zip(session.get_states().values(), alone.get_states().values(), strict=True):
        for one, two in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, two)


def test_no_framework_is_imported(form, exported):
    """But that which a runtime stands on."""
    frameworks = {"keras", "tensorflow", "jax", "torch", "onnx"}
    if form == "executorch":  # torch asks where the others are, without importing them all
        frameworks = {"keras"}
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {frameworks!r}:
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Block())
from keras_stateful import generate, load_session
session = load_session({str(exported)!r})
assert session.step([1]).shape == (1, {VOCABULARY})
assert len(generate(session, [1, 2], 5, temperature=0)) == 5
try:
    generate("a model", [1, 2], 5)
except TypeError as error:
    assert "Keras is not installed" in str(error)
import keras_stateful
for name in ("to_stateful", "StatefulSequence", "export_step_model"):
    try:
        getattr(keras_stateful, name)
    except ModuleNotFoundError as error:
        assert f"`keras_stateful.{{name}}` needs Keras" in str(error)
        assert "pip install" in str(error)
    else:
        raise AssertionError(name)
assert not {frameworks!r} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr


def test_a_session_reports_to_nobody(exported, tmp_path):
    """OpenVINO's package would on import, by a process that it forks."""
    code = f"""
import sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork"):
        print("not alone:", event, file=sys.stderr)
sys.addaudithook(note)
from keras_stateful import load_session
load_session({str(exported)!r}).step([1])
"""
    # Where there are tests of every change, as on GitHub, it reports nothing by itself.
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": ".", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "not alone" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C")
def test_ctrl_c_is_still_one_behind_the_last_session(exported):
    """OpenVINO's plugin takes the stack with it on which signals are handled."""
    code = f"""
import gc, os, signal
from keras_stateful import load_session
signal.signal(signal.SIGINT, signal.default_int_handler)
sessions = [load_session({str(exported)!r}) for _ in range(2)]
while sessions:
    sessions.pop(0)
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout.strip().endswith("interrupted"), (done.returncode, done.stderr)


def test_no_changed_file_beside_the_entry_reaches_its_runtime(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    for path in sorted(copy.glob("model.*")):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{path.name} is not the file that was exported"):
            ks.load_session(copy)
        path.write_bytes(content)
    ks.load_session(copy)


@pytest.mark.parametrize(
    ("artifact_format", "command"),
    [
        ("onnx", "pip install onnxruntime"),
        ("openvino", "pip install openvino"),
        ("executorch", "pip install executorch torch"),
        ("tf_saved_model", "pip install tensorflow"),
    ],
)
def test_a_runtime_that_is_missing_is_named_with_its_command(
    artifact_format, command, monkeypatch, tmp_path
):
    def none(module):
        raise ModuleNotFoundError(module)

    at_first = openvino_core.__wrapped__  # before it keeps what it has imported
    monkeypatch.setattr("keras_stateful.session.runtimes.import_module", none)
    monkeypatch.setattr("keras_stateful.session.runtimes.openvino_core", at_first)
    with pytest.raises(ImportError, match=f'"{artifact_format}".*not installed: `{command}`'):
        open_runtime(artifact_format, Artifact(tmp_path, "model", {"model": b"", "model.bin": b""}))
