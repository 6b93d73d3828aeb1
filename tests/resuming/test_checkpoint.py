"""Checkpoints: what is written comes back; what is damaged or hostile gives an error, no more."""

import contextlib
import errno
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_stateful.resuming import checkpoint

pytestmark = pytest.mark.backend_free

QUIET = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    return checkpoint.write(folder, run, b"weights")


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


def test_a_writing_that_was_killed_leaves_those_before(tmp_path, monkeypatch):
    whole = write(tmp_path, {"n": 1})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.packing, "dump", killed)
        write(tmp_path, {"n": 2})
    assert (tmp_path / "unfinished" / checkpoint.WEIGHTS).exists()
    assert checkpoint.newest(tmp_path).path == whole
    assert checkpoint.newest(tmp_path).run == {"n": 1}
    assert write(tmp_path, {"n": 3}).name > whole.name


@QUIET
@given(damaged=st.lists(st.booleans(), min_size=1, max_size=6))
def test_damaged_ones_are_not_counted_among_the_two_kept(damaged, tmp_path):
    shutil.rmtree(tmp_path, ignore_errors=True)  # of the example before
    whole = []
    for n, breaks in enumerate(damaged):
        path = write(tmp_path, {"n": n})
        if breaks:
            file = path / checkpoint.ARRAYS
            file.write_bytes(file.read_bytes()[:-1])
        else:
            whole.append(path)
    newest = write(tmp_path, {"n": -1})
    left = [path for path in sorted(tmp_path.glob("checkpoint-*")) if checkpoint._is_whole(path)]
    assert left == [*whole[-1:], newest]
    assert len(list(tmp_path.iterdir())) <= 2 + len(damaged)


class Full:
    """A disk with so many bytes left."""

    def __init__(self, free):
        self.total, self.free = 1 << 40, free


@pytest.mark.parametrize("at", ["before", "weights", "arrays", "sums", "rename"])
def test_a_full_disk_is_an_error_that_leaves_those_before(at, tmp_path, monkeypatch):
    whole = write(tmp_path, {"n": 1})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    where = {
        "before": (checkpoint.shutil, "disk_usage", lambda _: Full(3)),
        "weights": (Path, "write_bytes", full),
        "arrays": (np, "savez", full),
        "sums": (checkpoint, "_digest", full),
        "rename": (Path, "rename", full),
    }
    with (
        monkeypatch.context() as patch,
        pytest.raises(
            OSError, match="No space left.*those before are as they were.*Make room"
        ) as e,
    ):
        patch.setattr(*where[at])
        write(tmp_path, {"n": 2})
    assert e.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]
    assert checkpoint.newest(tmp_path).run == {"n": 1}
    assert write(tmp_path, {"n": 3}) > whole


def test_another_thread_is_refused_while_the_first_lives(tmp_path):
    taken, end, locks = threading.Event(), threading.Event(), []

    def train():
        locks.append(checkpoint.Lock(tmp_path))
        taken.set()
        end.wait()

    thread = threading.Thread(target=train, name="first")
    thread.start()
    taken.wait()
    with pytest.raises(ValueError, match="Another thread of this process.*in thread 'first'"):
        checkpoint.Lock(tmp_path)
    end.set()
    thread.join()
    lock = checkpoint.Lock(tmp_path)  # what it left when it ended is no hindrance
    assert not locks[0].release()
    assert lock.release()


@pytest.mark.parametrize("below", ["file", "file/deeper", "file/deeper/still"])
def test_a_directory_below_a_file_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("notes")
    with pytest.raises(ValueError, match=r"`backup_dir` must be.*file is a file\. Name another"):
        checkpoint.check_directory(tmp_path / below)


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "access", lambda *_: False)  # whatever root may do
        with pytest.raises(ValueError, match=r"`backup_dir` cannot be written to\..*read-only"):
            checkpoint.check_directory(tmp_path / "new")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"`backup_dir` cannot be written to\..*Permission denied"):
        checkpoint.Lock(tmp_path / "new")
    monkeypatch.undo()
    checkpoint.check_directory(tmp_path / "new" / "deeper")


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
    first = checkpoint.Lock(tmp_path)
    second = checkpoint.Lock(tmp_path)  # the same thread may: its `fit` before has failed
    assert not first.release()
    code = (
        "from pathlib import Path; from keras_stateful.resuming import checkpoint; "
        f"checkpoint.Lock(Path({str(tmp_path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: Another process trains in `backup_dir`" in other.stderr
    assert second.release()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
