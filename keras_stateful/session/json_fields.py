"""JSON objects as dataclasses: each field says how its value is read, checked and written.

    @dataclass(frozen=True)
    class File:                                                 {
        path: str = field(metadata=in_json(path_below))  ◀──▶     "path": "model.onnx",
        size: int = field(metadata=in_json(whole(0)))    ◀──▶     "size": 8192
                                                                }

`decode` goes from right to left and trusts nothing: what it gives has passed every field's reader,
and whatever else a file may hold is a `ManifestError`. `encode` goes from left to right.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from keras_stateful.foundation.arguments import one_of

LONGEST_TEXT = 1024  # characters of a name or a path
_READING = "json"  # the key of a `_Reading` in the metadata of a dataclass field

Record = TypeVar("Record")
Kind = TypeVar("Kind")
Json: TypeAlias = Any  # what `json.loads` gives, and nobody has looked at yet
JsonObject: TypeAlias = dict[str, Json]
# Reads the value of a JSON key: `read(key, value, *fields that were read before)`.
Reader: TypeAlias = Callable[..., Any]
Metadata: TypeAlias = dict[str, Any]  # of a dataclass field


class ManifestError(ValueError):
    """A directory that is not, or no longer, what `export_step_model` wrote."""


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How a field of a dataclass stands in JSON; see `in_json`."""

    read: Reader
    write: Callable[[Any], Json]
    key: str | None
    inside: str | None
    after: tuple[str, ...]
    omit_none: bool


def in_json(
    read: Reader,
    *,
    write: Callable[[Any], Json] = lambda value: value,
    key: str | None = None,
    inside: str | None = None,
    after: tuple[str, ...] = (),
    omit_none: bool = False,
) -> Metadata:
    """Metadata of a dataclass field that stands in JSON.

    A field with a default takes null, too, and may be missing: both give the default.

    Args:
        read: turns the JSON value into the field's, or raises a `ManifestError`.
        write: turns the field's value into one that `json.dump` takes.
        key: its key in JSON; None for the name of the field.
        inside: the key of a JSON object that holds the field, which other fields may share.
        after: names of earlier fields, whose values `read` takes behind the field's own.
        omit_none: True to leave the key out where the field is None, rather than write null.
    """
    return {_READING: _Reading(read, write, key, inside, after, omit_none)}


def decode(cls: type[Record], source: JsonObject) -> Record:
    """Reads a JSON object as a dataclass whose fields are `in_json`.

    Raises:
        ManifestError: a key that is missing, or a value that its field does not take.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        reading: _Reading = field.metadata[_READING]
        key = reading.key or field.name
        holder = source
        if reading.inside is not None:
            holder = record(reading.inside, source.get(reading.inside))
        value = holder.get(key)
        if value is None and field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        else:
            # Fields are read in their order, so those that this one looks at are there.
            before = (values[name] for name in reading.after)
            values[field.name] = reading.read(key, value, *before)
    return cls(**values)


def encode(instance: Any) -> JsonObject:
    """What `decode` reads and `json.dump` takes, keys in the order of the fields."""
    source: JsonObject = {}
    for field in dataclasses.fields(instance):
        reading: _Reading = field.metadata[_READING]
        value = getattr(instance, field.name)
        if value is None and reading.omit_none:
            continue
        holder = source if reading.inside is None else source.setdefault(reading.inside, {})
        holder[reading.key or field.name] = None if value is None else reading.write(value)
    return source


def anything(key: str, value: Json) -> Json:
    """Reads whatever JSON holds."""
    return value


def record(key: str, value: Json) -> JsonObject:
    """Reads an object."""
    return _of_type(key, value, dict)


def text(key: str, value: Json) -> str:
    """Reads a string of a length that a name or a path may have."""
    value = _of_type(key, value, str)
    if len(value) > LONGEST_TEXT:
        raise ManifestError(f"`{key}` is too long. Received: {len(value)} characters.")
    return value


def flag(key: str, value: Json) -> bool:
    """Reads true or false."""
    return _of_type(key, value, bool)


def any_whole(key: str, value: Json) -> int:
    """Reads a whole number."""
    return _of_type(key, value, int)


def whole(least: int, below: int | None = None) -> Reader:
    """A reader of whole numbers from `least` on, below `below`."""

    def read(key: str, value: Json) -> int:
        number = any_whole(key, value)
        if number < least or (below is not None and number >= below):
            bounds = f"{least} or more" if below is None else f"from {least} to {below - 1}"
            raise ManifestError(f"`{key}` must be {bounds}. Received: {_shortened(number)}.")
        return number

    return read


def word(choices: tuple[str, ...]) -> Reader:
    """A reader of one of a few words."""

    def read(key: str, value: Json) -> str:
        value = text(key, value)
        try:
            return one_of(key, value, choices)
        except ValueError as error:
            raise ManifestError(str(error)) from None

    return read


def list_in_json(cls: type[Record], most: int, *, inside: str | None = None) -> Metadata:
    """Metadata of a field of dataclasses: in JSON a list of at most `most` objects."""

    def read(key: str, value: Json) -> tuple[Record, ...]:
        entries = _of_type(key, value, list)
        if len(entries) > most:
            raise ManifestError(
                f"`{key}` has too many entries. Received: {len(entries)}; at most {most}."
            )
        if not all(isinstance(entry, dict) for entry in entries):
            raise ManifestError(f"`{key}` must hold objects.")
        return tuple(decode(cls, entry) for entry in entries)

    return in_json(read, write=lambda instances: [encode(i) for i in instances], inside=inside)


def _of_type(key: str, value: Json, kind: type[Kind]) -> Kind:
    # To Python, true and false are whole numbers; to JSON they are not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(
            f"`{key}` is missing or of a wrong type. Received: {_shortened(value)}."
        )
    return value


def _shortened(value: Json) -> str:
    """The beginning of a value: a file's errors must not be as long as the file."""
    return repr(value)[:60]
