"""The arguments of `export_step_model`, checked before anything is computed."""

import json
from pathlib import Path
from typing import Any

from keras_stateful.export.formats import FORMATS
from keras_stateful.foundation.arguments import check_in_directory, one_of
from keras_stateful.foundation.types import Structure


def check_arguments(
    directory: Path, artifact_format: str, quantize: str | None, data: Structure, metadata: Any
) -> None:
    """Checks the arguments, each as in `export_step_model`.

    Raises:
        ValueError: a directory that exists, or would lie in a file; an unknown word;
            arguments that do not go together.
        TypeError: metadata that JSON cannot hold.
    """
    one_of("format", artifact_format, list(FORMATS))
    check_absent(directory)
    check_in_directory("directory", directory)
    if quantize is not None:
        one_of("quantize", quantize, ["int8"], "Leave it out for weights in float32.")
        if FORMATS[artifact_format].int8 is None:
            able = [f'"{name}"' for name, each in FORMATS.items() if each.int8]
            raise ValueError(
                f'The format "{artifact_format}" has no quantizer of its own. Received: '
                f'quantize="int8". Export as {", ".join(able[:-1])} or {able[-1]}.'
            )
    if (quantize is None) != (data is None):
        raise ValueError(
            '`quantize="int8"` and `representative_data` go together: real input `(rows, time, '
            "...)`, as `Session.read` takes it, on which the manifest says how far the outputs "
            f"moved. Received: quantize={quantize!r}, "
            f"representative_data={'None' if data is None else 'given'}."
        )
    check_json(metadata, "metadata")


def check_absent(directory: Path) -> None:
    """Refuses a directory that exists, or a link that leads nowhere."""
    if directory.exists() or directory.is_symlink():
        raise ValueError(
            "`directory` must not exist yet, so that nothing is overwritten. Received: "
            f"{str(directory)!r}. Remove it, or export beside it."
        )


def check_json(value: Any, name: str) -> None:
    """Checks that JSON gives a value back as it is, but for tuples, which come back as lists.

    Args:
        value: any value; dicts, lists and tuples are looked through to the bottom.
        name: name of the value, used in error messages, for example "metadata['sizes'][0]".

    Raises:
        TypeError: anything that JSON cannot hold, or turns into something else.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):  # `json` would write the number 0 as the text "0"
                raise TypeError(
                    f"`{name}` must be what JSON holds, whose keys are strings. Received: the key "
                    f"{key!r}. For a vocabulary, a list of its tokens in the order of their ids "
                    "does."
                )
            check_json(inner, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            check_json(inner, f"{name}[{i}]")
    else:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`{name}` must be what JSON holds: dicts, lists, strings, finite numbers, "
                f"booleans, None. Received: {value!r} of type {type(value).__name__}."
            ) from error
