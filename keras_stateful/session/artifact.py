"""The files of an exported directory: size and SHA-256, read only where both agree."""

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from keras_stateful.session.json_fields import Json, ManifestError, in_json, text, whole

_HEXADECIMAL = frozenset("0123456789abcdef")


def path_below(key: str, value: Json) -> str:
    """Reads a path; on no system can it lead out of the directory."""
    path = text(key, value)
    # A backslash separates folders, and a colon names a drive or a stream, on Windows alone; a file
    # that was exported on Linux must mean the same there.
    parts = path.split("/")
    if "\\" in path or "\0" in path or ":" in path or any(p in ("", ".", "..") for p in parts):
        raise ManifestError(
            f"A file of the artifact must lie below the directory. Received: {path[:80]!r}."
        )
    return path


def sha256(key: str, value: Json) -> str:
    """Reads a digest."""
    digest = text(key, value)
    if len(digest) != 64 or set(digest) - _HEXADECIMAL:
        raise ManifestError(f"`{key}` must be 64 hexadecimal digits. Received: {digest[:80]!r}.")
    return digest


@dataclass(frozen=True)
class File:
    """A file of the artifact.

    Attributes:
        path: below the directory, with `/`.
        size: bytes.
        sha256: in hexadecimal.
    """

    path: str = field(metadata=in_json(path_below))
    size: int = field(metadata=in_json(whole(0)))
    sha256: str = field(metadata=in_json(sha256))


def list_files(directory: Path) -> tuple[File, ...]:
    """All files below a directory, with size and SHA-256."""
    files = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        data = path.read_bytes()
        relative = PurePosixPath(path.relative_to(directory)).as_posix()
        files.append(File(relative, len(data), hashlib.sha256(data).hexdigest()))
    return tuple(files)


@dataclass(frozen=True)
class Artifact:
    """What a runtime opens.

    Attributes:
        directory: where it lies.
        entry: path below the directory of the file that the runtime opens, or of a SavedModel's
            directory.
        contents: bytes of its files, by path below the directory; none of a SavedModel's, which
            TensorFlow reads itself.
    """

    directory: Path
    entry: str
    contents: dict[str, bytes]

    @property
    def path(self) -> Path:
        """Of the entry."""
        return Path(self.directory, *self.entry.split("/"))

    @property
    def content(self) -> bytes:
        """Bytes of the entry."""
        return self.contents[self.entry]

    def beside(self, suffix: str) -> bytes:
        """Bytes of the file that has the entry's name but for its suffix."""
        return self.contents[str(PurePosixPath(self.entry).with_suffix(suffix))]


def read_artifact(directory: Path, files: tuple[File, ...], entry: str) -> Artifact:
    """Reads an artifact, and checks size and SHA-256 of each file.

    Args:
        directory: where it lies.
        files: what the manifest says of its files.
        entry: path of the file that the runtime opens, or of a directory.

    Returns:
        The artifact, with the very bytes that were checked.

    Raises:
        ValueError: a file that is missing, truncated or altered.
    """
    contents = {}
    for file in files:
        data = _checked_bytes(Path(directory, *file.path.split("/")), file)
        if not file.path.startswith(f"{entry}/"):
            contents[file.path] = data
    return Artifact(directory, entry, contents)


def written_artifact(entry: Path) -> Artifact:
    """An artifact that was written right now, and has no manifest yet.

    Args:
        entry: the file that the runtime opens, or a SavedModel's directory.
    """
    files = [path for path in entry.parent.iterdir() if path.is_file()]
    return Artifact(entry.parent, entry.name, {path.name: path.read_bytes() for path in files})


def _checked_bytes(path: Path, file: File) -> bytes:
    def check_size(path: Path, size: int) -> None:
        if size != file.size:
            raise ManifestError(
                f"{path} is not the file that was exported. Received: {size} bytes; the manifest "
                f"says {file.size}. It was truncated or replaced: copy the whole directory again."
            )

    try:
        data = bytes_of(path, check_size)
    except OSError as error:
        raise ManifestError(
            f"{path} is listed in the manifest and cannot be read ({error.strerror or error}). "
            "Copy the whole directory, not the manifest alone."
        ) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ManifestError(
            f"{path} is not the file that was exported: its SHA-256 differs from the manifest's. "
            "It was altered, or belongs to another model: copy the whole directory again, or "
            "export again."
        )
    return data


def bytes_of(path: Path, check_size: Callable[[Path, int], None]) -> bytes:
    """Reads a regular file: a pipe or a device might never end.

    Args:
        path: the file.
        check_size: called with the path and its size in bytes before a byte is read.

    Raises:
        OSError: no file, no regular one, or one that cannot be read.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(f"not a regular file: {stat.filemode(info.st_mode)}")
    check_size(path, info.st_size)
    return path.read_bytes()
