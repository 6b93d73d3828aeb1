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

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from keras_stateful.resuming import packing
from keras_stateful.resuming.packing import Damaged

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

WEIGHTS, ARRAYS, RUN, SUMS = "model.weights.h5", "state.npz", "run.json", "SHA256SUMS"
_FILES = (WEIGHTS, ARRAYS, RUN)
_KEPT = 2  # of the newest checkpoints; the second serves where the newest is damaged
_NAME = re.compile(r"checkpoint-(\d{8,18})")
_UNFINISHED = "unfinished"
_LARGEST_RUN = 256 << 20  # bytes of JSON; a longer text is not read into memory
_locks: dict[Path, TextIO] = {}  # open lock files, by directory, that this process holds


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


def write(directory: Path, run: dict[str, Any], save_weights: Callable[[Path], None]) -> Path:
    """Writes a checkpoint; whenever this is interrupted, those before are whole.

    Args:
        directory: of all checkpoints.
        run: JSON values, NumPy arrays, tuples and sets, nested in dicts and lists.
        save_weights: writes Keras's file to a path.

    Returns:
        The new checkpoint's directory.
    """
    unfinished = directory / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir(parents=True)
    save_weights(unfinished / WEIGHTS)
    packing.dump(run, unfinished / RUN, unfinished / ARRAYS)
    sums = "".join(f"{_digest(unfinished / name)}  {name}\n" for name in _FILES)
    (unfinished / SUMS).write_text(sums, encoding="ascii")

    # A rename is all or nothing, but only of what has reached the disk: first the files, then the
    # directory that names them, and after the rename the one that names the checkpoint.
    for name in (*_FILES, SUMS):
        _to_disk(unfinished / name)
    _to_disk(unfinished)
    earlier = _checkpoints(directory)
    number = earlier[0][0] + 1 if earlier else 0
    path = directory / f"checkpoint-{number:08d}"
    unfinished.rename(path)
    _to_disk(directory)

    for _, old in earlier[_KEPT - 1 :]:  # `earlier` is without the new one
        shutil.rmtree(old)
    return path


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


def _check_sums(path: Path) -> None:
    """Refuses a file whose checksum is not the one that was written."""
    lines = (path / SUMS).read_text("ascii").splitlines()
    sums = dict(line.split("  ", 1)[::-1] for line in lines)
    for name in _FILES:
        if _digest(path / name) != sums.get(name):
            raise Damaged(f"{name} is not what was written.")


# One process at a time


def lock(directory: Path) -> None:
    """Makes this process the one that writes to a directory, until `unlock` or its end.

    The operating system gives the lock back however the process ends.

    Raises:
        ValueError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    # A `fit` of this process that ended by an error has not given the lock back.
    if fcntl is None or directory in _locks:
        return
    file = (directory / "lock").open("w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(
            "Another process trains in `backup_dir`, or its file system knows no locks. Received: "
            f"{directory} ({error}). Wait for that process to end, or give this one a directory of "
            "its own."
        ) from None
    _locks[directory] = file


def unlock(directory: Path) -> None:
    """Gives back what `lock` took."""
    file = _locks.pop(directory.resolve(), None)
    if file is not None:
        file.close()


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
