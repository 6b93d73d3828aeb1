"""Directories of checkpoints: written beside and renamed, the last two kept, checked before they
are believed.

    backup_dir/
        lock                    held while a process trains
        checkpoint-00000041/    the one before
        checkpoint-00000042/
            model.weights.h5    Keras's file: weights and optimizer
            state.npz           NumPy's file: every other array
            run.json            the rest
            SHA256SUMS          written last; `sha256sum -c SHA256SUMS` reads it too

Nothing here can run code: the arrays are read without pickle, and no more memory is taken than the
files are long.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

WEIGHTS, ARRAYS, RUN, SUMS = "model.weights.h5", "state.npz", "run.json", "SHA256SUMS"
_FILES = (WEIGHTS, ARRAYS, RUN)
_KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{8,18})")
_UNFINISHED = "unfinished"
_LARGEST_RUN = 256 << 20  # bytes
_locks: dict[Path, Any] = {}  # by directory, those that this process holds


class Damaged(ValueError):
    """A checkpoint that was not written to its end, or was changed since."""


class Checkpoint(NamedTuple):
    """What was read of a checkpoint.

    Attributes:
        path: its directory.
        run: what `run.json` holds, with the arrays in their places.
    """

    path: Path
    run: dict[str, Any]

    @property
    def weights(self) -> Path:
        """Keras's file of weights and optimizer."""
        return self.path / WEIGHTS


def write(directory: Path, run: dict[str, Any], save_weights: Callable[[Path], Any]) -> Path:
    """Writes a checkpoint; whenever this is interrupted, those before are whole.

    Args:
        directory: of all checkpoints.
        run: JSON values, NumPy arrays, tuples and sets, nested in dicts and lists.
        save_weights: writes Keras's file to a path.
    """
    beside = directory / _UNFINISHED
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_weights(beside / WEIGHTS)
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_packed(run, arrays))
    np.savez(beside / ARRAYS, allow_pickle=False, **arrays)
    (beside / RUN).write_text(text, encoding="utf-8")
    sums = "".join(f"{_digest(beside / name)}  {name}\n" for name in _FILES)
    (beside / SUMS).write_text(sums, encoding="ascii")
    for name in (*_FILES, SUMS):
        _to_disk(beside / name)
    _to_disk(beside)
    found = _found(directory)
    path = directory / f"checkpoint-{found[0][0] + 1 if found else 0:08d}"
    beside.rename(path)
    _to_disk(directory)
    for _, old in found[_KEPT - 1 :]:
        shutil.rmtree(old)
    return path


def newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    Raises:
        ValueError: none of those that are there is whole.
    """
    found = _found(directory)
    for _, path in found:
        try:
            return read(path)
        except Damaged as error:
            warnings.warn(
                f"{path} is left out: {error} The checkpoint before is taken.", stacklevel=2
            )
    if found:
        raise ValueError(
            f"No checkpoint in {directory} can be read. Received: "
            f"{', '.join(p.name for _, p in found)}, each damaged. Bring them back from a copy, or "
            "delete the directory to train anew."
        )
    return None


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        Damaged: a file that is missing, cut short, changed, or is not what this module writes.
    """
    try:
        sums = dict(
            line.split("  ", 1)[::-1] for line in (path / SUMS).read_text("ascii").splitlines()
        )
        for name in _FILES:
            if _digest(path / name) != sums.get(name):
                raise Damaged(f"{name} is not what was written.")
        if (path / RUN).stat().st_size > _LARGEST_RUN:
            raise Damaged(f"{RUN} is too long.")
        packed = json.loads((path / RUN).read_text("utf-8"))
        run = _unpacked(packed, dict(_arrays(path / ARRAYS)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise (
            error if isinstance(error, Damaged) else Damaged(f"{type(error).__name__}: {error}.")
        ) from None
    if not isinstance(run, dict):
        raise Damaged(f"{RUN} holds no object.")
    return Checkpoint(path, run)


def check(value: Any) -> None:
    """Raises a TypeError for what `write` cannot write."""
    _packed(value, {})


def lock(directory: Path) -> None:
    """Makes this process the one that writes to a directory, until `unlock` or its end, however it
    ends.

    Raises:
        ValueError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
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


def _found(directory: Path) -> list[tuple[int, Path]]:
    """Number and path of all checkpoints, the newest first."""
    if not directory.is_dir():
        return []
    names = ((_NAME.fullmatch(p.name), p) for p in directory.iterdir() if p.is_dir())
    return sorted(((int(m[1]), p) for m, p in names if m), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot sync directories
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# JSON with arrays beside it


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if isinstance(value, (list, tuple, set)):
        parts = [_packed(v, arrays) for v in value]
        return parts if isinstance(value, list) else {type(value).__name__: parts}
    raise TypeError(
        "A checkpoint holds numbers, text, arrays and collections of these. Received: "
        f"{type(value).__name__}."
    )


def _unpacked(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "array":
        return arrays[parts]
    if kind == "dict":
        return {_unpacked(k, arrays): _unpacked(v, arrays) for k, v in parts}
    return {"tuple": tuple, "set": set}[kind](_unpacked(v, arrays) for v in parts)


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file of `np.savez`, none larger than its part of the file."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                raise Damaged(f"{path.name} is compressed.")
            with archive.open(part) as file:
                version = np.lib.format.read_magic(file)
                header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = header[version](file)
                if (
                    dtype.hasobject
                    or dtype.itemsize * int(np.prod(shape, dtype=object)) > part.file_size
                ):
                    raise Damaged(f"{path.name} holds no array at {part.filename}.")
            with archive.open(part) as file:
                yield (
                    part.filename.removesuffix(".npy"),
                    np.lib.format.read_array(file, allow_pickle=False),
                )
