"""Columns that a model was trained on: remembered by name, so that others are put in their order.

A model knows features by their place alone. Trained on frames it remembers their columns, and what
it reads later goes by name: `fit`, `evaluate`, `predict` of a sequence, `predict_documents`,
`evaluate_documents`, `ValidateDocuments` and the prompt of `generate`. Arrays have no names and go
by place. Copies, conversions and artifacts remember, too; files hold it of models that carry their
state.
"""

from typing import TypeAlias

import keras

from keras_stateful.data.columns import ColumnOrder
from keras_stateful.foundation.frames import column_places, column_texts
from keras_stateful.foundation.protocols import Key, Readable
from keras_stateful.training.model_ahead import check_ahead, learn_ahead

# By "inputs" and "targets", then by name of the array, "" for a single one. Plain lists and text,
# as a file of the model has them; columns that are no text are remembered as what they print. What
# else is remembered has groups of its own, of time: see `model_ahead`.
KnownColumns: TypeAlias = dict[str, dict[str, list]]

_SLOT = "_keras_stateful_columns"  # the attribute of the model


def columns_known(model: keras.Model) -> KnownColumns:
    """The columns that a model was trained on; empty where it has seen no frame."""
    return getattr(model, _SLOT, {})


def remember_columns(model: keras.Model, columns: KnownColumns) -> None:
    """Has a model know these columns."""
    vars(model)[_SLOT] = columns  # not setattr: Keras would track it as a part of the model


def columns_after(model: keras.Model, sequence: Readable | None) -> KnownColumns:
    """What a model knows once it is trained: the columns that it saw first, and what is of time.

    Args:
        model: the model, compiled.
        sequence: what it is trained on; None for other data.
    """
    learned = {group: dict(named) for group, named in columns_known(model).items()}
    groups = {} if sequence is None else sequence.columns._asdict()
    for group, arrays in groups.items():
        for key, columns in arrays.items():
            if columns is not None:
                named = learned.setdefault(group, {})
                named.setdefault(_name(key, arrays), column_texts(columns))
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
            places = column_places(where, columns, expected)
            if places is not None:
                getattr(order, group)[key] = places
    sequence.order_columns(order)


def _name(key: Key, arrays: dict) -> str:
    """A single array has one name, whether the corpus is a dict or not."""
    return "" if key is None or len(arrays) == 1 else key
