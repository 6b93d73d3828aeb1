"""`manifest.json`: what an exported directory says about itself, enough to run it from any
language.

JSON only, read with bounds on every size: a file from a stranger gives a `Manifest` or a
`ValueError`. NumPy only, as all that a `Session` imports but its runtime.
"""

import base64
import binascii
import hashlib
import json
import math
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

FILE_NAME = "manifest.json"
KIND = "keras_stateful step model"
FORMAT_VERSION = 1
FORMATS = ("onnx", "litert", "tf_saved_model")

# NumPy has no bfloat16.
_DTYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]
)
_LARGEST_MANIFEST = 16 << 20  # bytes; as Python objects up to thirty times that
_LARGEST_STATE = 1 << 26  # numbers in all states of one row
_MOST_TENSORS, _MOST_FILES, _LONGEST_NAME, _HIGHEST_RANK = 1024, 4096, 1024, 16
_INLINE = 64  # numbers of an initial state written out as lists


@dataclass(frozen=True)
class Tensor:
    """An input or output of one time step.

    Attributes:
        name: as in the Keras model.
        tensor: as in the artifact.
        shape: `(batch, ...)` or, with `time`, `(batch, 1, ...)`; None where any size goes.
        dtype: NumPy's name.
        time: whether axis 1 is time.
        vocabulary: for ids that an `Embedding` reads, how many there are; else None.
        from_logits: for scores, whether they are logits (True) or probabilities (False); None where
            unknown.
    """

    name: str
    tensor: str
    shape: tuple[int | None, ...]
    dtype: str
    time: bool
    vocabulary: int | None = None
    from_logits: bool | None = None

    @property
    def step_shape(self) -> tuple[int | None, ...]:
        """Shape of one row at one time step."""
        return self.shape[2 if self.time else 1 :]


@dataclass(frozen=True)
class State:
    """A state, which goes into the artifact as `input` and comes out as `output`.

    Attributes:
        name: as in the step model.
        layer: its key in `get_states`.
        input: name in the artifact.
        output: name in the artifact.
        shape: `(batch, ...)`.
        dtype: NumPy's name.
        initial: one row's value to start from, without the batch axis.
    """

    name: str
    layer: str
    input: str
    output: str
    shape: tuple[int | None, ...]
    dtype: str
    initial: np.ndarray


@dataclass(frozen=True)
class File:
    """A file of the artifact: path below the directory with `/`, size in bytes, SHA-256 in
    hexadecimal.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that `manifest.json` holds.

    Attributes:
        artifact_format: "onnx", "litert" or "tf_saved_model".
        entry: the file, or for a SavedModel the directory, that the runtime opens.
        batch_size: rows of every run, where the artifact fixes them; else None.
        versions: of this library, Keras and the backend that wrote the artifact.
        metadata: the user's own.
        quantization: how far quantized outputs moved, or None.
    """

    artifact_format: str
    entry: str
    files: tuple[File, ...]
    batch_size: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...]
    versions: dict[str, str]
    metadata: Any = None
    quantization: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What `json.dump` takes."""

        def tensor(t: Tensor) -> dict[str, Any]:
            told = {
                "name": t.name,
                "tensor": t.tensor,
                "shape": list(t.shape),
                "dtype": t.dtype,
                "time": t.time,
            }
            told |= {} if t.vocabulary is None else {"vocabulary": t.vocabulary}
            return told | ({} if t.from_logits is None else {"from_logits": t.from_logits})

        def state(s: State) -> dict[str, Any]:
            told = {"name": s.name, "layer": s.layer, "input": s.input, "output": s.output}
            return told | {
                "shape": list(s.shape),
                "dtype": s.dtype,
                "initial": _write_array(s.initial),
            }

        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "versions": self.versions,
            "artifact": {
                "format": self.artifact_format,
                "entry": self.entry,
                "batch_size": self.batch_size,
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files],
            },
            "inputs": [tensor(t) for t in self.inputs],
            "outputs": [tensor(t) for t in self.outputs],
            "states": [state(s) for s in self.states],
            "quantization": self.quantization,
            "metadata": self.metadata,
        }


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Writes `manifest.json`."""
    text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks `manifest.json`, not yet the files that it lists.

    Raises:
        ValueError: there is none, or it is not one that this version can read; says why.
    """
    path = Path(directory) / FILE_NAME
    try:
        size = _size(path)
        if size > _LARGEST_MANIFEST:
            raise ManifestError(f"{path} is too large to be a manifest. Received: {size} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            "`directory` must be one that `export_step_model` wrote. Received: "
            f"{str(directory)!r}, in which {FILE_NAME} cannot be read ({error.strerror or error})."
        ) from error
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def parse_manifest(data: bytes) -> Manifest:
    """A manifest from the bytes of `manifest.json`; a `ValueError` for anything else."""
    try:
        told = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"This is not JSON ({error}). The file was truncated or altered: export again."
        ) from None
    if not isinstance(told, dict) or told.get("kind") != KIND:
        raise ManifestError(f'This is not a manifest of keras_stateful: it lacks "kind": "{KIND}".')
    version = _get(told, "format_version", int)
    if version > FORMAT_VERSION:
        raise ManifestError(
            f"It was written by a newer keras_stateful. Received: format_version={version}; this "
            f"release reads up to {FORMAT_VERSION}. `pip install -U keras-stateful`."
        )
    if version < 1:
        raise ManifestError(f"Received: format_version={version}, which never existed.")
    artifact = _get(told, "artifact", dict)
    artifact_format = _get(artifact, "format", str)
    if artifact_format not in FORMATS:
        raise ManifestError(
            f"`format` must be one of {FORMATS}. Received: {artifact_format[:40]!r}."
        )
    batch_size = _get(artifact, "batch_size", int, optional=True)
    if batch_size is not None and not 1 <= batch_size < 2**31:
        raise ManifestError(f"`batch_size` must be at least 1, or null. Received: {batch_size}.")
    files = tuple(_list(artifact, "files", _file, _MOST_FILES))
    entry = _safe_path(_get(artifact, "entry", str))
    if not any(f.path == entry or f.path.startswith(f"{entry}/") for f in files):
        raise ManifestError(f"`entry` is not among the files. Received: {entry[:80]!r}.")
    versions = _get(told, "versions", dict)
    if not all(isinstance(v, str) for v in versions.values()):
        raise ManifestError("`versions` must map names to strings.")
    states = tuple(_list(told, "states", _state, _MOST_TENSORS))
    if sum(math.prod(_row_shape(s.shape)) for s in states) > _LARGEST_STATE:
        raise ManifestError(f"The states of one row have more than {_LARGEST_STATE} numbers.")
    manifest = Manifest(
        artifact_format=artifact_format,
        entry=entry,
        files=files,
        batch_size=batch_size,
        inputs=tuple(_list(told, "inputs", _tensor, _MOST_TENSORS)),
        outputs=tuple(_list(told, "outputs", _tensor, _MOST_TENSORS)),
        states=states,
        versions=versions,
        metadata=told.get("metadata"),
        quantization=_get(told, "quantization", dict, optional=True),
    )
    for what, names in (
        ("inputs", [t.tensor for t in manifest.inputs] + [s.input for s in states]),
        ("input names", [t.name for t in manifest.inputs]),
        ("outputs", [t.name for t in manifest.outputs]),
        ("states", [s.name for s in states]),
        ("files", [f.path for f in files]),
    ):
        if len(set(names)) != len(names):
            raise ManifestError(f"The {what} have two entries of one name.")
    if not manifest.inputs or not manifest.outputs:
        raise ManifestError("A step model has at least one input and one output.")
    return manifest


def read_artifact(directory: Path, manifest: Manifest) -> bytes:
    """Checks size and SHA-256 of every file of the artifact; gives the bytes of the entry (of a
    directory: none).

    Raises:
        ValueError: a file that is missing, truncated or altered.
    """
    content = b""
    for file in manifest.files:
        path = Path(directory, *file.path.split("/"))
        try:
            size = _size(path)
            if size != file.size:
                raise ManifestError(
                    f"{path} is not the file that was exported. Received: {size} bytes; the "
                    f"manifest says {file.size}. It was truncated or replaced: copy the whole "
                    "directory again."
                )
            data = path.read_bytes()
        except OSError as error:
            raise ManifestError(
                f"{path} is listed in the manifest and cannot be read ({error.strerror or error}). "
                "Copy the whole directory, not the manifest alone."
            ) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ManifestError(
                f"{path} is not the file that was exported: its SHA-256 differs from the "
                "manifest's. It was altered, or belongs to another model: copy the whole directory "
                "again, or export again."
            )
        if file.path == manifest.entry:
            content = data
    return content


def list_files(directory: Path) -> tuple[File, ...]:
    """All files below a directory, with size and SHA-256."""
    found = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        data = path.read_bytes()
        relative = PurePosixPath(path.relative_to(directory)).as_posix()
        found.append(File(relative, len(data), hashlib.sha256(data).hexdigest()))
    return tuple(found)


class ManifestError(ValueError):
    """A directory that is not, or no longer, what `export_step_model` wrote."""


def _size(path: Path) -> int:
    """Bytes of a regular file; reading a pipe or a device might never end."""
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(f"not a regular file: {stat.filemode(info.st_mode)}")
    return info.st_size


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _get(told: dict, key: str, kind: Any, *, optional: bool = False) -> Any:
    value = told.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(f"`{key}` is missing or of a wrong type. Received: {repr(value)[:60]}.")
    if kind is str and len(value) > _LONGEST_NAME:
        raise ManifestError(f"`{key}` is too long. Received: {len(value)} characters.")
    return value


def _list(told: dict, key: str, read: Callable[[dict], Any], most: int) -> list:
    entries = _get(told, key, list)
    if len(entries) > most:
        raise ManifestError(
            f"`{key}` has too many entries. Received: {len(entries)}; at most {most}."
        )
    if not all(isinstance(e, dict) for e in entries):
        raise ManifestError(f"`{key}` must hold objects.")
    return [read(e) for e in entries]


def _safe_path(path: str) -> str:
    parts = path.split("/")
    if "\\" in path or "\0" in path or ":" in path or any(p in ("", ".", "..") for p in parts):
        raise ManifestError(
            f"A file of the artifact must lie below the directory. Received: {path[:80]!r}."
        )
    return path


def _file(told: dict) -> File:
    sha256 = _get(told, "sha256", str)
    size = _get(told, "size", int)
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef") or size < 0:
        raise ManifestError(
            "A file's `size` and `sha256` must be a length and 64 hexadecimal digits."
        )
    return File(_safe_path(_get(told, "path", str)), size, sha256)


def _shape_and_dtype(told: dict) -> tuple[tuple[int | None, ...], str]:
    shape = _get(told, "shape", list)
    sizes = [d for d in shape if d is not None]
    if not 1 <= len(shape) <= _HIGHEST_RANK or not all(
        type(d) is int and 0 <= d < 2**31 for d in sizes
    ):
        raise ManifestError(f"`shape` must list sizes, null for any. Received: {repr(shape)[:80]}.")
    dtype = _get(told, "dtype", str)
    if dtype not in _DTYPES:
        raise ManifestError(f"`dtype` must be one of {sorted(_DTYPES)}. Received: {dtype[:40]!r}.")
    return tuple(shape), dtype


def _tensor(told: dict) -> Tensor:
    shape, dtype = _shape_and_dtype(told)
    time = _get(told, "time", bool)
    if time and (len(shape) < 2 or shape[1] not in (1, None)):
        raise ManifestError(
            f"A tensor with a time axis has 1 as its second size. Received: {list(shape)}."
        )
    return Tensor(
        _get(told, "name", str),
        _get(told, "tensor", str),
        shape,
        dtype,
        time,
        vocabulary=_get(told, "vocabulary", int, optional=True),
        from_logits=_get(told, "from_logits", bool, optional=True),
    )


def _state(told: dict) -> State:
    shape, dtype = _shape_and_dtype(told)
    if None in shape[1:] or math.prod(_row_shape(shape)) > _LARGEST_STATE:
        raise ManifestError(
            f"A state's sizes must be known and in bounds. Received: {list(shape)}."
        )
    initial = _read_array(_get(told, "initial", dict), _row_shape(shape), dtype)
    name, layer, given, new = (_get(told, key, str) for key in ("name", "layer", "input", "output"))
    return State(name, layer, given, new, shape, dtype, initial)


def _row_shape(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(d or 0 for d in shape[1:])


def _write_array(array: np.ndarray) -> dict[str, Any]:
    """`fill` where all numbers are one, `values` for a few, else `base64` of the little-endian
    bytes.
    """
    if array.size and not np.isfinite(array).all():
        raise ManifestError("An initial state holds NaN or infinite values, which JSON cannot.")
    if array.size and (array == array.flat[0]).all():
        return {"fill": array.flat[0].item()}
    if array.size <= _INLINE:
        return {"values": array.tolist()}
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"base64": base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()}


def _read_array(told: dict, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        if "fill" in told:
            if type(told["fill"]) not in (int, float, bool):
                raise ValueError("fill is not a number")
            array = np.broadcast_to(np.array(told["fill"], dtype), shape)
        elif "values" in told:
            array = np.array(told["values"], dtype)
        else:
            data = base64.b64decode(_get(told, "base64", object), validate=True)
            array = (
                np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
            )
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise ManifestError(f"An initial state cannot be read ({error}).") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ManifestError("An initial state holds NaN or infinite values.")
    if array.shape != shape:
        raise ManifestError(f"An initial state has shape {array.shape}; the state is {shape}.")
    return array
