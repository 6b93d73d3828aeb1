"""Checkpoints: what is written comes back; what is damaged or hostile gives an error, no more."""

import contextlib
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_stateful.resuming import checkpoint

pytestmark = pytest.mark.backend_free

QUIET = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.integers() | st.tuples(st.text(), st.integers())
ARRAYS = arrays.arrays(
    st.sampled_from(["float32", "int64", "uint8", "bool"]),
    arrays.array_shapes(min_dims=0, max_side=3),
)
VALUES = st.recursive(
    LEAVES | ARRAYS | st.sets(st.integers()),
    lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(KEYS, part),
    max_leaves=20,
)


def write(folder, run):
    return checkpoint.write(folder, run, lambda path: path.write_bytes(b"weights"))


def rewrite(path, name, content):
    """A file changed by somebody who knows how to make up the sums."""
    (path / name).write_bytes(content)
    names = (checkpoint.WEIGHTS, checkpoint.ARRAYS, checkpoint.RUN)
    (path / checkpoint.SUMS).write_text(
        "".join(f"{checkpoint._digest(path / n)}  {n}\n" for n in names)
    )


@QUIET
@given(run=st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_comes_back(run, tmp_path):
    path = write(tmp_path, run)
    found = checkpoint.newest(tmp_path)
    assert found.path == path
    np.testing.assert_equal(found.run, run)
    np.testing.assert_equal(type(found.run), dict)


def test_the_last_two_are_kept_and_sums_are_those_of_sha256sum(tmp_path):
    paths = [write(tmp_path, {"n": n}) for n in range(4)]
    assert sorted(tmp_path.iterdir()) == paths[2:]
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--strict", checkpoint.SUMS],
            cwd=paths[-1],
            check=True,
            capture_output=True,
        )


def test_a_writing_that_was_killed_leaves_those_before(tmp_path):
    whole = write(tmp_path, {"n": 1})

    def killed(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, {"n": 2}, killed)
    assert checkpoint.newest(tmp_path).path == whole
    assert checkpoint.newest(tmp_path).run == {"n": 1}
    assert write(tmp_path, {"n": 3}).name > whole.name


@QUIET
@given(data=st.data())
def test_any_change_of_any_file_is_noticed(data, tmp_path):
    path = write(tmp_path, {"a": np.arange(5), "b": 1})
    file = path / data.draw(st.sampled_from(sorted(p.name for p in path.iterdir())))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content = content[:at]
    file.write_bytes(bytes(content))
    try:
        found = checkpoint.read(path)
    except checkpoint.Damaged:
        return
    assert found.run["b"] == 1  # only a line end of the sums may change
    assert file.name == checkpoint.SUMS


@QUIET
@given(
    content=st.binary(max_size=200)
    | st.recursive(LEAVES, lambda p: st.lists(p) | st.dictionaries(st.text(), p)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_a_made_up_run_is_an_error_or_a_dict(content, tmp_path):
    path = write(tmp_path, {"a": np.arange(5)})
    rewrite(path, checkpoint.RUN, content)
    with contextlib.suppress(checkpoint.Damaged):
        assert isinstance(checkpoint.read(path).run, dict)


def test_deep_and_hostile_files(tmp_path):
    path = write(tmp_path, {"a": np.arange(5)})
    rewrite(path, checkpoint.RUN, b"[" * 100_000)
    with pytest.raises(checkpoint.Damaged):
        checkpoint.read(path)
    rewrite(path, checkpoint.RUN, b'{"dict": []}')

    class Runs:
        def __reduce__(self):
            return (sys.exit, ("code was run",))

    def archive(compression, header=None, array=None):
        with (
            zipfile.ZipFile(tmp_path / "made.npz", "w", compression) as made,
            made.open("a.npy", "w") as file,
        ):
            if array is not None:
                np.lib.format.write_array(file, array, allow_pickle=True)
            else:
                np.lib.format.write_array_header_1_0(file, header)
        return (tmp_path / "made.npz").read_bytes()

    huge = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    for content in (
        archive(zipfile.ZIP_STORED, array=np.array([Runs()], dtype=object)),
        archive(zipfile.ZIP_STORED, header=huge),
        archive(zipfile.ZIP_DEFLATED, array=np.zeros(1 << 20)),
    ):
        rewrite(path, checkpoint.ARRAYS, content)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read(path)


@pytest.mark.skipif(checkpoint.fcntl is None, reason="no locks on Windows")
def test_a_second_process_is_refused(tmp_path):
    checkpoint.lock(tmp_path)
    checkpoint.lock(tmp_path)  # the same process may
    code = (
        "from pathlib import Path; from keras_stateful.resuming import checkpoint; "
        f"checkpoint.lock(Path({str(tmp_path)!r}))"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: Another process trains in `backup_dir`" in second.stderr
    checkpoint.unlock(tmp_path)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
