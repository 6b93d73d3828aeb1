"""Directories of checkpoints: written beside and renamed, and checked before they are believed.

backup_dir/
    lock                    held while a process trains
    checkpoint-00000041/    the one before
    checkpoint-00000042/
        model.weights.h5    Keras's file: weights and optimizer
        state.npz           NumPy's file: every other array; see `packing`
        run.json            the rest
        SHA256SUMS          written last; `sha256sum -c SHA256SUMS` reads it too
"""

import errno
import hashlib
import os
import re
import shutil
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from keras_stateful.foundation.arguments import check_in_directory, existing_part
from keras_stateful.resuming import packing
from keras_stateful.resuming.packing import Damaged

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

WEIGHTS, ARRAYS, RUN, SUMS = "model.weights.h5", "state.npz", "run.json", "SHA256SUMS"
_FILES = (WEIGHTS, ARRAYS, RUN)
_KEPT = 2  # whole checkpoints; the second serves where the newest is damaged later
_NAME = re.compile(r"checkpoint-(\d{8,18})")
_UNFINISHED = "unfinished"
_LARGEST_RUN = 256 << 20  # bytes of JSON; a longer text is not read into memory


class Checkpoint(NamedTuple):
    """What was read of a checkpoint.

    Attributes:
        path: its directory.
        run: what was given to `write`.
    """

    path: Path
    run: dict[str, Any]

    @property
    def weights(self) -> Path:
        """Keras's file of weights and optimizer."""
        return self.path / WEIGHTS


# Writing


def check_room(directory: Path, size: int) -> None:
    """Checks that a disk has room for a checkpoint beside those that are there.

    Args:
        directory: of all checkpoints.
        size: of the new one, in bytes.

    Raises:
        OSError: the disk is too full (`ENOSPC`).
    """
    disk = shutil.disk_usage(directory)
    if disk.total and disk.free < size:  # some file systems do not say
        raise _not_written(directory, size, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def write(directory: Path, run: dict[str, Any], weights: bytes | memoryview) -> Path:
    """Writes a checkpoint; whenever this fails or is interrupted, those before are whole.

    Args:
        directory: of all checkpoints.
        run: JSON values, NumPy arrays, tuples and sets, nested in dicts and lists.
        weights: Keras's file.

    Returns:
        The new checkpoint's directory.

    Raises:
        OSError: it cannot be written; a full disk (`ENOSPC`), for example.
    """
    unfinished = directory / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    try:
        unfinished.mkdir(parents=True)
        check_room(directory, len(weights))
        _write_files(unfinished, run, weights)
        earlier = _checkpoints(directory)
        number = earlier[0][0] + 1 if earlier else 0
        path = directory / f"checkpoint-{number:08d}"
        unfinished.rename(path)
        _to_disk(directory)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # the room may be needed
        raise _not_written(directory, len(weights), error) from None
    for old in _superfluous(earlier):
        shutil.rmtree(old)
    return path


def _write_files(folder: Path, run: dict[str, Any], weights: bytes | memoryview) -> None:
    (folder / WEIGHTS).write_bytes(weights)
    packing.dump(run, folder / RUN, folder / ARRAYS)
    sums = "".join(f"{_digest(folder / name)}  {name}\n" for name in _FILES)
    (folder / SUMS).write_text(sums, encoding="ascii")
    # A rename is all or nothing, but only of what has reached the disk: first the files, then the
    # directory that names them, and after the rename the one that names the checkpoint.
    for name in (*_FILES, SUMS):
        _to_disk(folder / name)
    _to_disk(folder)


def _superfluous(earlier: list[tuple[int, Path]]) -> list[Path]:
    """Those of earlier checkpoints, the newest first, that nobody will need beside a new one."""
    kept = 1  # the new one
    for i, (_, path) in enumerate(earlier):
        if kept == _KEPT:
            return [old for _, old in earlier[i:]]
        kept += _is_whole(path)  # a damaged one serves nobody
    return []


def _not_written(directory: Path, size: int, error: OSError) -> OSError:
    """The error for a checkpoint that could not be written, of the kind that the system gave."""
    return OSError(
        error.errno,
        f"{error.strerror}. A checkpoint could not be written to {directory}; those before are as "
        f"they were. Received: {size / 1e6:.3g} MB of weights, "
        f"{shutil.disk_usage(directory).free / 1e6:.3g} MB free. Make room (a checkpoint is "
        f"written before an older one is deleted, so there must be room for {_KEPT + 1}) and start "
        "the training again: it goes on from the last",
    )


# Reading


def newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Raises:
        ValueError: none of those that are there is whole.
    """
    checkpoints = _checkpoints(directory)
    for _, path in checkpoints:
        try:
            return read(path)
        except Damaged as error:
            warnings.warn(
                f"{path} is left out: {error} The checkpoint before is taken.", stacklevel=2
            )
    if checkpoints:
        raise ValueError(
            f"No checkpoint in {directory} can be read. Received: "
            f"{', '.join(p.name for _, p in checkpoints)}, each damaged. Bring them back from a "
            "copy, or delete the directory to train anew."
        )
    return None


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        Damaged: a file that is missing, cut short, changed, or is not what this module writes.
    """
    try:
        _check_sums(path)
        if (path / RUN).stat().st_size > _LARGEST_RUN:
            raise Damaged(f"{RUN} is too long.")
        run = packing.load(path / RUN, path / ARRAYS)
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise Damaged(f"{type(error).__name__}: {error}.") from None
    if not isinstance(run, dict):
        raise Damaged(f"{RUN} holds no object.")
    return Checkpoint(path, run)


def _is_whole(path: Path) -> bool:
    """True if the files of a checkpoint are those that were written."""
    try:
        _check_sums(path)
    except (Damaged, OSError, ValueError):
        return False
    return True


def _check_sums(path: Path) -> None:
    """Refuses a file whose checksum is not the one that was written."""
    lines = (path / SUMS).read_text("ascii").splitlines()
    sums = dict(line.split("  ", 1)[::-1] for line in lines)
    for name in _FILES:
        if _digest(path / name) != sums.get(name):
            raise Damaged(f"{name} is not what was written.")


# One training at a time


class Lock:
    """Makes one `fit` the one that writes to a directory, until `release` or the process's end.

    The operating system gives the lock back however the process ends. Within a process, a `fit`
    that ended by an error may be followed by another one in its thread.

    Args:
        directory: of all checkpoints; made if it is not there.

    Raises:
        ValueError: another process or thread trains there; a directory that cannot be made, or
            written to.
    """

    def __init__(self, directory: Path):
        with _guard:
            self._file = _lock_file(directory)
            self._directory, self._thread = directory.resolve(), threading.current_thread()
            _held[self._directory] = self

    def release(self) -> bool:
        """Gives the directory back; False if it was, or if a later `fit` has taken it over."""
        with _guard:
            if _held.get(self._directory) is not self:
                return False
            del _held[self._directory]
            self._file.close()
            return True

    def check_thread(self) -> None:
        """Refuses another thread than the one that trains."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            raise ValueError(
                "Another thread of this process trains in `backup_dir`. Received: "
                f"{self._directory}, in thread {self._thread.name!r}. Give each training a "
                "directory of its own."
            )


_held: dict[Path, Lock] = {}  # by directory, those of this process
_guard = threading.RLock()  # reentrant: garbage may be collected, and release, at any moment


def check_directory(directory: Path) -> None:
    """Checks that checkpoints can be written to a directory, whether it is there or not.

    Raises:
        ValueError: a file in its place or above it, or a place that may not be written to.
    """
    check_in_directory("backup_dir", directory)
    there = existing_part(directory)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _not_writable(directory, f"{there} is read-only")


def _lock_file(directory: Path) -> TextIO:
    """The open and locked file of a directory; the one that a `fit` before has left open."""
    check_directory(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _held.get(directory.resolve())
        if before is not None:
            before.check_thread()
            return before._file
        file = (directory / "lock").open("w")
    except OSError as error:
        raise _not_writable(directory, str(error)) from None
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(
            "Another process trains in `backup_dir`, or its file system knows no locks. Received: "
            f"{directory} ({error}). Wait for that process to end, or give this one a directory of "
            "its own."
        ) from None
    return file


def _not_writable(directory: Path, why: str) -> ValueError:
    return ValueError(
        f"`backup_dir` cannot be written to. Received: {str(directory)!r} ({why}). Name a "
        "directory that this process may make and write to."
    )


# Files


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Number and path of all checkpoints, the newest first."""
    if not directory.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir() if path.is_dir())
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a directory, would survive a power failure."""
    if os.name == "nt" and path.is_dir():  # Windows cannot sync directories
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
