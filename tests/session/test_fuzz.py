"""Files from strangers: an error or success, and no crash, no code run, no memory without bound.

What this package reads from a file is `manifest.json` and the artifact beside it. (A vocabulary
travels in the manifest's metadata; `.keras` files are Keras's to read; checkpoints are fuzzed where
they are tested.)
"""

import ast
import base64
import contextlib
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_stateful as ks
from keras_stateful.session.manifest import Manifest, ManifestError, parse_manifest

pytestmark = pytest.mark.backend_free

MEMORY = 64 << 20  # bytes that reading a hostile manifest of this test's size may take
shared_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            keras.layers.Embedding(11, 4),
            keras.layers.LSTM(6, return_sequences=True),
            keras.layers.Dense(11),
        ]
    )
    directory = tmp_path_factory.mktemp("exports") / "text"
    ks.export_step_model(
        model, directory, metadata={"characters": "abc", "nested": [{"a": [1, 2.5, None]}]}
    )
    return directory


@pytest.fixture(scope="module")
def content(exported):
    return (exported / "manifest.json").read_bytes()


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def parsed(data: bytes) -> Manifest | None:
    """A manifest, or None for a `ManifestError`; whatever else is raised fails the test."""
    try:
        return parse_manifest(data)
    except ManifestError:
        return None


NUMBERS = (
    st.integers()
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 10**30, -1, 0])
    | st.floats()
    | st.sampled_from([1e308, -0.0, float("inf")])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def mutated(manifest, data):
    """One value somewhere in the manifest is another JSON value, or gone."""
    place, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 3)):
        place = place[key]
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
    if data.draw(st.integers(0, 4)):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    return json.dumps(manifest).encode()


@settings(max_examples=400)
@given(st.data())
def test_a_value_changed(content, data):
    parsed(mutated(json.loads(content), data))


@settings(shared_directory, max_examples=100)
@given(st.data())
def test_a_value_changed_and_run(copy, content, data):
    """Where it still is a manifest, the session takes a step, or says what does not fit."""
    (copy / "manifest.json").write_bytes(mutated(json.loads(content), data))
    with (
        contextlib.suppress(ValueError),
        ks.load_session(copy) as session,
        contextlib.suppress(Exception),
    ):
        session.step([1])  # ONNX Runtime has errors of its own, for a dtype that it does not take


@settings(max_examples=200)
@given(st.data())
def test_bits_flipped(content, data):
    manifest = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parsed(bytes(manifest))


@settings(max_examples=100)
@given(st.data())
def test_cut_off_and_joined(content, data):
    whole = len(content.rstrip())
    cut = data.draw(st.integers(0, whole - 1))
    assert parsed(content[:cut]) is None
    parsed(content[:cut] + content[data.draw(st.integers(0, whole)) :])


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes(noise):
    assert parsed(noise) is None


def with_state(content, **changes):
    manifest = json.loads(content)
    manifest["states"][0].update(changes)
    return json.dumps(manifest).encode()


def with_version(content, digits):
    return content.replace(b'"format_version": 1', b'"format_version": ' + b"9" * digits, 1)


def with_nested_metadata(content):
    return content.replace(b'"metadata": {', b'"metadata": ' + b"[" * 100_000 + b"{", 1)


def with_a_large_exponent(content):
    return with_state(content, initial={"fill": 1}).replace(b'"fill": 1', b'"fill": 1e999999')


def with_many_states(content):
    return json.dumps(json.loads(content) | {"states": [{}] * 100_000}).encode()


HUGE = [None, 2**31 - 1, 2**31 - 1]
DEEP = json.loads("[" * 500 + "]" * 500)
BYTES = base64.b64encode(b"x" * 4_000_000).decode()

HOSTILE = {
    "nested lists": lambda c: b"[" * 1_000_000,
    "nested objects": lambda c: b'{"a":' * 1_000_000,
    "nested metadata": with_nested_metadata,
    "many digits": lambda c: with_version(c, 1_000_000),
    "a version far ahead": lambda c: with_version(c, 4000),
    "a large exponent": with_a_large_exponent,
    "a number beyond float32": lambda c: with_state(c, initial={"fill": 10**300}),
    "a state of 2**62 numbers": lambda c: with_state(c, shape=HUGE, initial={"fill": 0}),
    "a state of 2**27 numbers": lambda c: with_state(c, shape=[None, 2**27], initial={"fill": 0}),
    "a state of 500 axes": lambda c: with_state(c, shape=[None] + [1] * 500, initial={"fill": 0}),
    "values in deep lists": lambda c: with_state(c, initial={"values": DEEP}),
    "a hundred thousand states": with_many_states,
    "another state's bytes": lambda c: with_state(c, initial={"base64": BYTES}),
    "no base64": lambda c: with_state(c, initial={"base64": "é" * 1000}),
    "strings where names go": lambda c: with_state(c, name="n" * 2_000_000),
    "lone surrogates": lambda c: with_state(c, dtype="\ud800"),
    "UTF-16": lambda c: c.decode().encode("utf-16"),
    "NaN": lambda c: with_state(c, initial={"fill": float("nan")}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_made_to_do_harm(name, content):
    data = HOSTILE[name](content)
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError) as caught:
            parse_manifest(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 5000


def test_more_bytes_than_a_manifest_may_have_are_not_read(copy):
    with open(copy / "manifest.json", "r+b") as file:
        file.truncate(10 << 30)  # a hole of 10 GB
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match="too large"):
            ks.load_session(copy)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
@pytest.mark.parametrize(
    "kind", ["a directory", "a pipe", "a link to a device", "a link to itself"]
)
def test_no_file_at_all(copy, name, kind):
    path = copy / name
    path.unlink()
    {
        "a directory": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a link to a device": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path),
    }[kind]()
    if name == "model.onnx":  # a size that a pipe or a device would pass for
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["artifact"]["files"][0]["size"] = (
            path.stat().st_size if kind != "a link to itself" else 0
        )
        (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=name):
        ks.load_session(copy)


@settings(shared_directory, max_examples=60)
@given(st.data())
def test_no_changed_artifact_reaches_its_runtime(copy, exported, data):
    content = bytearray((exported / "model.onnx").read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (copy / "model.onnx").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "keras_stateful.session.session.open_runtime", lambda *a: pytest.fail("it was opened")
        )
        with pytest.raises(ManifestError, match=r"model\.onnx"):
            ks.load_session(copy)


RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "eval()", "exec()"}


def names_used(node):
    """What a syntax node imports, calls or allows, as in `RUNS_CODE`."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module or "", *(alias.name for alias in node.names)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {f"{node.func.id}()"}
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        refused = isinstance(node.value, ast.Constant) and node.value.value is False
        return set() if refused else {"pickle"}
    return set()


def test_nothing_in_the_package_runs_code_from_a_file():
    """No pickle, no eval: a file can at most be wrong."""
    places = []
    for path in Path(ks.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if names_used(node) & RUNS_CODE:
                places.append(f"{path.name}:{node.lineno}")
    assert not places


def test_arrays_with_objects_inside_are_not_states():
    """What `get_states` gave may come back from a database, or from a stranger."""
    model = ks.to_stateful(
        keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, name="gru")]), 2
    )
    with pytest.raises((ValueError, TypeError)):
        ks.set_states(model, {"gru": [np.full((2, 4), object())]})
