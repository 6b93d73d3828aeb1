"""`manifest.json`: what an exported directory says of itself, enough to run it from any language.

JSON only, read with bounds on every size: a file from a stranger gives a `Manifest` or a
`ValueError`. NumPy only, as all that a `Session` imports but its runtime.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_stateful.session.artifact import File, bytes_of, path_below, sha256
from keras_stateful.session.initial_states import read_initial, row_shape, write_initial
from keras_stateful.session.json_fields import (
    Json,
    JsonObject,
    ManifestError,
    any_whole,
    anything,
    decode,
    encode,
    flag,
    in_json,
    list_in_json,
    record,
    text,
    whole,
    word,
)

FILE_NAME = "manifest.json"
KIND = "keras_stateful step model"
FORMAT_VERSION = 1
FORMATS = ("onnx", "openvino", "litert", "executorch", "tf_saved_model")
# Formats whose int8 operations scale what they read by the largest number of all rows.
_SCALED_BY_ALL_ROWS = ("onnx", "openvino")

# NumPy has no bfloat16.
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
# Bounds for a file from a stranger, which must not fill the memory of whoever reads it.
_LARGEST_MANIFEST = 16 << 20  # bytes; as Python objects up to thirty times that
_LARGEST_STATE = 1 << 26  # numbers in all states of one row
_MOST_TENSORS, _MOST_FILES, _HIGHEST_RANK = 1024, 4096, 16
_MOST_COLUMNS = 1 << 16  # features of a time step, or the time steps of a horizon
_SIZE_BOUND = 2**31  # every size of an axis lies below

Shape = tuple[int | None, ...]


def _shape(key: str, value: Json) -> Shape:
    sizes = value if isinstance(value, list) else []
    if not 1 <= len(sizes) <= _HIGHEST_RANK or not all(_is_size(size) for size in sizes):
        raise ManifestError(
            f"`{key}` must list 1 to {_HIGHEST_RANK} sizes, null for any. "
            f"Received: {repr(value)[:80]}."
        )
    return tuple(sizes)


def _is_size(size: Json) -> bool:
    # `type`, since to Python true and false are integers, too.
    return size is None or (type(size) is int and 0 <= size < _SIZE_BOUND)


def _offsets(key: str, value: Json) -> tuple[int, ...]:
    steps = value if isinstance(value, list) else []
    # `type`, since to Python true and false are integers, too.
    whole_steps = all(type(step) is int and 0 <= step < _SIZE_BOUND for step in steps)
    if not 1 <= len(steps) <= _MOST_COLUMNS or not whole_steps:
        raise ManifestError(
            f"`{key}` must list time steps, 0 or more. Received: {repr(value)[:80]}."
        )
    return tuple(steps)


def _column_names(key: str, value: Json) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    if not 1 <= len(names) <= _MOST_COLUMNS:
        raise ManifestError(
            f"`{key}` must list 1 to {_MOST_COLUMNS} names. Received: {repr(value)[:80]}."
        )
    return tuple(text(key, name) for name in names)


def _time(key: str, value: Json, shape: Shape) -> bool:
    has_time = flag(key, value)
    if has_time and (len(shape) < 2 or shape[1] not in (1, None)):
        raise ManifestError(
            f"A tensor with a time axis has 1 as its second size. Received: {list(shape)}."
        )
    return has_time


def _initial(key: str, value: Json, shape: Shape, dtype: str) -> np.ndarray:
    # The sizes first: `read_initial` makes an array of them.
    if None in shape[1:] or math.prod(row_shape(shape)) > _LARGEST_STATE:
        raise ManifestError(
            f"A state's sizes must be known and in bounds. Received: {list(shape)}."
        )
    return read_initial(record(key, value), row_shape(shape), dtype)


def _versions(key: str, value: Json) -> dict[str, str]:
    versions = record(key, value)
    if not all(isinstance(version, str) for version in versions.values()):
        raise ManifestError(f"`{key}` must map names to strings.")
    return versions


@dataclass(frozen=True)
class Tensor:
    """An input or output of one time step.

    Attributes:
        name: as in the Keras model.
        tensor: as in the artifact.
        shape: `(batch, ...)` or, with `time`, `(batch, 1, ...)`; None where any size goes.
        dtype: NumPy's name.
        time: True if axis 1 is time.
        vocabulary: for ids that an `Embedding` reads, how many there are; else None.
        from_logits: for scores, True if they are logits, False if they are probabilities; None
            where unknown.
        offsets: for inputs, how many time steps later the model was trained to read each; more
            than 0 for what is known ahead. For outputs, how many time steps later than what is read
            stands what they were trained to give. None where unknown.
        series: for inputs, True if the output is known to be the input's next value; else None.
        columns: for inputs, names of the features where the model was trained on frames; else None.
    """

    name: str = field(metadata=in_json(text))
    tensor: str = field(metadata=in_json(text))
    shape: Shape = field(metadata=in_json(_shape, write=list))
    dtype: str = field(metadata=in_json(word(_DTYPES)))
    time: bool = field(metadata=in_json(_time, after=("shape",)))
    vocabulary: int | None = field(default=None, metadata=in_json(any_whole, omit_none=True))
    from_logits: bool | None = field(default=None, metadata=in_json(flag, omit_none=True))
    offsets: tuple[int, ...] | None = field(
        default=None, metadata=in_json(_offsets, write=list, omit_none=True)
    )
    series: bool | None = field(default=None, metadata=in_json(flag, omit_none=True))
    columns: tuple[str, ...] | None = field(
        default=None, metadata=in_json(_column_names, write=list, omit_none=True)
    )

    @property
    def step_shape(self) -> Shape:
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

    name: str = field(metadata=in_json(text))
    layer: str = field(metadata=in_json(text))
    input: str = field(metadata=in_json(text))
    output: str = field(metadata=in_json(text))
    shape: Shape = field(metadata=in_json(_shape, write=list))
    dtype: str = field(metadata=in_json(word(_DTYPES)))
    initial: np.ndarray = field(
        metadata=in_json(_initial, write=write_initial, after=("shape", "dtype"))
    )


# Fields stand in the order in which JSON has them, those with a default among the others: kw_only.
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that `manifest.json` holds, but for its kind and the version of its format.

    Attributes:
        versions: of this library, Keras and the backend that wrote the artifact.
        artifact_format: one of `FORMATS`.
        entry: the file, or for a SavedModel the directory, that the runtime opens.
        batch_size: rows of every run, where the artifact fixes them; else None.
        files: all files of the artifact.
        inputs: of the step model, in its order, without the states.
        outputs: of the step model, in its order, without the states.
        states: in the order of the step model.
        fingerprint: of the weights (`foundation.states`); None in artifacts of earlier releases.
        quantization: how far quantized outputs moved, or None.
        metadata: the user's own.
    """

    versions: dict[str, str] = field(metadata=in_json(_versions))
    artifact_format: str = field(metadata=in_json(word(FORMATS), key="format", inside="artifact"))
    entry: str = field(metadata=in_json(path_below, inside="artifact"))
    batch_size: int | None = field(
        default=None, metadata=in_json(whole(1, _SIZE_BOUND), inside="artifact")
    )
    files: tuple[File, ...] = field(metadata=list_in_json(File, _MOST_FILES, inside="artifact"))
    inputs: tuple[Tensor, ...] = field(metadata=list_in_json(Tensor, _MOST_TENSORS))
    outputs: tuple[Tensor, ...] = field(metadata=list_in_json(Tensor, _MOST_TENSORS))
    states: tuple[State, ...] = field(metadata=list_in_json(State, _MOST_TENSORS))
    fingerprint: str | None = field(default=None, metadata=in_json(sha256, omit_none=True))
    quantization: JsonObject | None = field(default=None, metadata=in_json(record))
    metadata: Json = field(default=None, metadata=in_json(anything))

    @property
    def owner(self) -> str:
        """Whose states these are: the fingerprint, or where there is none, the files' digests."""
        digests = "".join(file.sha256 for file in self.files)
        return self.fingerprint or hashlib.sha256(digests.encode()).hexdigest()

    @property
    def rows_of_a_run(self) -> int | None:
        """How many rows the artifact is run with; None for any number.

        An int8 artifact by ONNX Runtime's quantizer scales what it reads by the largest number of
        all rows: beside a row of large numbers the others would be rounded away, so each runs by
        itself.
        """
        in_int8 = (self.quantization or {"weights": "float32"}).get("weights") != "float32"
        alone = in_int8 and self.artifact_format in _SCALED_BY_ALL_ROWS
        return 1 if alone else self.batch_size


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Writes `manifest.json`."""
    content = {"kind": KIND, "format_version": FORMAT_VERSION, **encode(manifest)}
    written = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (directory / FILE_NAME).write_text(written + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks `manifest.json`, not yet the files that it lists.

    Raises:
        ValueError: there is none, or it is not one that this version can read; says why.
    """
    path = Path(directory) / FILE_NAME
    try:
        data = bytes_of(path, _check_manifest_size)
    except OSError as error:
        raise ManifestError(
            "`directory` must be one that `export_step_model` wrote. Received: "
            f"{str(directory)!r}, in which {FILE_NAME} cannot be read ({error.strerror or error})."
        ) from error
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def _check_manifest_size(path: Path, size: int) -> None:
    if size > _LARGEST_MANIFEST:
        raise ManifestError(f"{path} is too large to be a manifest. Received: {size} bytes.")


def parse_manifest(data: bytes) -> Manifest:
    """A manifest from the bytes of `manifest.json`; a `ValueError` for anything else."""
    try:
        source = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"This is not JSON ({error}). The file was truncated or altered: export again."
        ) from None
    if not isinstance(source, dict) or source.get("kind") != KIND:
        raise ManifestError(f'This is not a manifest of keras_stateful: it lacks "kind": "{KIND}".')
    _check_version(any_whole("format_version", source.get("format_version")))
    manifest = decode(Manifest, source)
    _check_together(manifest)
    return manifest


def _no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which Python's `json` reads though JSON does not have them."""
    raise ValueError(f"{name} is not JSON")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise ManifestError(
            f"It was written by a newer keras_stateful. Received: format_version={version}; this "
            f"release reads up to {FORMAT_VERSION}. Upgrade keras_stateful."
        )
    if version < 1:
        raise ManifestError(f"Received: format_version={version}, which never existed.")


def _check_together(manifest: Manifest) -> None:
    """Checks what no field shows by itself."""
    entry, states = manifest.entry, manifest.states
    # What a runtime opens must be listed, as a file or as a folder of files: SHA-256 is checked for
    # listed files alone.
    if not any(file.path == entry or file.path.startswith(f"{entry}/") for file in manifest.files):
        raise ManifestError(f"`entry` is not among the files. Received: {entry[:80]!r}.")
    if sum(math.prod(row_shape(state.shape)) for state in states) > _LARGEST_STATE:
        raise ManifestError(f"The states of one row have more than {_LARGEST_STATE} numbers.")
    if not manifest.inputs or not manifest.outputs:
        raise ManifestError("A step model has at least one input and one output.")
    _check_distinct("inputs", [t.tensor for t in manifest.inputs] + [s.input for s in states])
    _check_distinct("input names", [t.name for t in manifest.inputs])
    _check_distinct("outputs", [t.name for t in manifest.outputs])
    _check_distinct("states", [s.name for s in states])
    _check_distinct("files", [file.path for file in manifest.files])


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ManifestError(f"The {kind} have two entries of one name.")
