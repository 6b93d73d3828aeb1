"""Columns that a model was trained on: remembered by name, so that others are put in their order.

A model knows features by their place alone. Trained on frames it remembers their columns, and what
it reads later goes by name: `fit`, `evaluate`, `predict` of a sequence, `predict_documents`,
`evaluate_documents`, `ValidateDocuments` and the prompt of `generate`. Arrays have no names and go
by place. Copies and conversions remember, too; files hold it of models that carry their state.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_stateful.data.columns import ColumnOrder
from keras_stateful.data.kinds import Columns, as_array, columns_of
from keras_stateful.foundation.protocols import Key, Readable
from keras_stateful.foundation.types import Structure
from keras_stateful.training.model_ahead import check_ahead, learn_ahead, of_one_offset

# By "inputs" and "targets", then by name of the array, "" for a single one. Plain lists and text,
# as a file of the model has them; columns that are no text are remembered as what they print. What
# else is remembered has groups of its own, "offsets" and "series": see `model_ahead`.
KnownColumns: TypeAlias = dict[str, dict[str, list]]

_SLOT = "_keras_stateful_columns"  # the attribute of the model


def columns_known(model: keras.Model) -> KnownColumns:
    """The columns that a model was trained on; empty where it has seen no frame."""
    return getattr(model, _SLOT, {})


def remember_columns(model: keras.Model, columns: KnownColumns) -> None:
    """Has a model know these columns."""
    vars(model)[_SLOT] = columns  # not setattr: Keras would track it as a part of the model


def columns_after(model: keras.Model, sequence: Readable | None) -> KnownColumns:
    """What a model knows once it is trained on a sequence: the columns that it saw first."""
    if sequence is None:
        return columns_known(model)
    learned = {group: dict(named) for group, named in columns_known(model).items()}
    for group, arrays in sequence.columns._asdict().items():
        for key, columns in arrays.items():
            if columns is not None:
                named = learned.setdefault(group, {})
                named.setdefault(_name(key, arrays), _texts(columns))
    learn_ahead(learned, model, sequence)
    return learned


def order_columns(name: str, sequence: Readable, known: KnownColumns) -> None:
    """Has a sequence give its columns in the order of those that a model knows.

    What is known ahead is checked.

    Args:
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.
        known: the columns that it was trained on.

    Raises:
        ValueError: columns that are missing or that the model does not know.
    """
    check_ahead(name, sequence, known)
    order = ColumnOrder()
    for group, arrays in sequence.columns._asdict().items():
        for key, columns in arrays.items():
            expected = known.get(group, {}).get(_name(key, arrays))
            array = name if key is None else f"{name}[{key!r}]"
            where = f"`{array}`" if group == "inputs" else f"The targets of `{array}`"
            places = _places(where, columns, expected)
            if places is not None:
                getattr(order, group)[key] = places
    sequence.order_columns(order)


def prompt_in_order(model: Any, prompt: Structure, name: str = "prompt") -> Structure:
    """A prompt of `generate`, with the columns of frames in the order that a model knows.

    Args:
        model: the model.
        prompt: rows, or a dict of these; or what is known of the future.
        name: name of the argument, used in error messages.

    Raises:
        ValueError: as `order_columns`.
    """
    known = getattr(model, _SLOT, {})
    return _all_in_order(known, name, prompt, "") if known.get("inputs") else prompt


def _all_in_order(known: KnownColumns, name: str, value: Structure, key: str) -> Structure:
    """Frames in lists and dicts, in the order that is known of the input of a key."""
    if isinstance(value, dict):
        return {k: _all_in_order(known, f"{name}[{k!r}]", v, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        pairs = enumerate(value)
        return [_all_in_order(known, f"{name}[{i}]", row, key) for i, row in pairs]
    columns = known["inputs"].get(key, known["inputs"].get(""))
    if columns is None or columns_of(value) is None:
        return value
    return _in_order(name, value, of_one_offset(known, key, columns))


def _in_order(name: str, frame: Structure, expected: list[str]) -> Structure:
    columns = columns_of(frame)
    places = _places(f"`{name}`", columns, expected)
    if columns is None or places is None:
        return frame
    return as_array(name, frame, tuple(columns[i] for i in places))


def _places(where: str, columns: Columns, expected: list[str] | None) -> np.ndarray | None:
    """Where the expected columns stand; None where they are in order, or one of both is unknown."""
    if columns is None or expected is None:
        return None
    names = _texts(columns)
    if names == expected:
        return None
    missing = [name for name in expected if name not in names]
    unknown = [name for name in names if name not in expected]
    if missing or unknown or len(set(names)) < len(names) or len(names) != len(expected):
        raise ValueError(
            f"{where} must have the columns that the model was trained on. Received: "
            f"{_listed(names)}; it was trained on {_listed(expected)}"
            + (f"; missing {_listed(missing)}" if missing else "")
            + (f"; unknown {_listed(unknown)}" if unknown else "")
            + f". Choose them by name, `frame[{_listed(expected)}]`; where the names differ and "
            "the meaning does not, pass the numbers in that order: `frame.to_numpy()`."
        )
    return np.array([names.index(name) for name in expected])


def _name(key: Key, arrays: dict) -> str:
    """A single array has one name, whether the corpus is a dict or not."""
    return "" if key is None or len(arrays) == 1 else key


def _texts(columns: Iterable) -> list[str]:
    return [str(name) for name in columns]


def _listed(names: list[str]) -> str:
    text = str(names)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(names)} in all)"
