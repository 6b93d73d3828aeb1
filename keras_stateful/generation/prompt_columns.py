"""Frames in what `generate` reads: columns in the order of the model's training. NumPy only."""

from typing import Any

from keras_stateful.data.kinds import as_array
from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation.frames import column_places, columns_of, row_names
from keras_stateful.foundation.types import Structure


def known_of_artifact(manifest: Any) -> TrainedOn:
    """What an artifact says of the columns that its model was trained on."""
    inputs = {i.name: list(i.columns) for i in manifest.inputs if i.columns is not None}
    if len(manifest.inputs) == 1 and inputs:  # whose prompt goes by no name
        inputs[""] = inputs[manifest.inputs[0].name]
    offsets = {i.name: list(i.offsets) for i in manifest.inputs if i.offsets is not None}
    return TrainedOn(inputs=inputs, offsets=offsets)


def in_order(known: TrainedOn, name: str, value: Structure, key: str = "") -> Structure:
    """Frames in lists and dicts, in the order that is known of the input of a key.

    Args:
        known: what the model remembers.
        name: name of the argument, used in error messages.
        value: rows, or a dict of these; or what is known of the future.
        key: of the input that reads it; "" of a single one.

    Raises:
        ValueError: columns that are missing or that the model does not know.
    """
    if isinstance(value, dict):
        return {k: in_order(known, f"{name}[{k!r}]", v, k) for k, v in value.items()}
    columns = columns_of(value)
    named = known.inputs
    expected = named.get(key, named.get(""))
    if isinstance(value, (list, tuple)) and named:
        return [in_order(known, f"{name}[{i}]", row, key) for i, row in enumerate(value)]
    if expected is not None and row_names(value) is not None:  # a vector of what is constant
        places = column_places(f"`{name}`", row_names(value), expected)
        return value if places is None else as_array(name, value)[places]
    if columns is None or expected is None:
        return value
    places = column_places(f"`{name}`", columns, of_one_offset(known, key, expected))
    return value if places is None else as_array(name, value, tuple(columns[i] for i in places))


def of_one_offset(known: TrainedOn, key: str, columns: list[str]) -> list[str]:
    """The columns of a frame, of which a model reads those of several offsets side by side."""
    offsets = known.offsets.get(key, [0])
    if len(offsets) == 1:
        return columns
    first = columns[: len(columns) // len(offsets)]  # such as "hour+1"
    return [name.removesuffix(f"+{offsets[0]}") for name in first]
