"""A model remembers what it was trained on: see `data.trained_on`.

It is kept in one attribute of the model. Copies, conversions and artifacts have it too, and so do
the files of models that carry their state, in their config.
"""

from dataclasses import replace

import keras

from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.frames import Columns, column_texts
from keras_stateful.foundation.protocols import Key, Readable

_SLOT = "_keras_stateful_trained_on"  # the attribute of the model

# Losses, by class and function, whose smallest value is at a value of the series itself: what such
# a model gives out can be read again. The output of others may be a logarithm, a probability or a
# quantile.
_OF_VALUES = {
    "MeanSquaredError": "mse",
    "MeanAbsoluteError": "mae",
    "MeanAbsolutePercentageError": "mape",
    "MeanSquaredLogarithmicError": "msle",
    "Huber": "huber",
    "LogCosh": "log_cosh",
}


def trained_on(model: keras.Model) -> TrainedOn:
    """What a model remembers."""
    return vars(model).get(_SLOT, TrainedOn())


def remember(model: keras.Model, known: TrainedOn) -> None:
    """Has a model remember this, and nothing else."""
    vars(model)[_SLOT] = known  # not setattr: Keras would track it as a part of the model


def same_training(source: keras.Model, copy: keras.Model) -> keras.Model:
    """A copy of a model, which was trained on what the model was."""
    remember(copy, trained_on(source))
    return copy


def after_training(model: keras.Model, sequence: Readable | None) -> TrainedOn:
    """What a model will remember of this training and those before.

    Args:
        model: the model, compiled.
        sequence: what it is trained on; None for other data, of which nothing is known.
    """
    before = trained_on(model)
    if sequence is None:
        return replace(before, target_offset=None, has_targets=False, series=None)
    columns = sequence.columns
    offsets = {key: list(offsets) for key, offsets in sequence.input_offsets.items()}
    return TrainedOn(
        inputs=_texts(columns.inputs) | before.inputs,
        targets=_texts(columns.targets) | before.targets,
        offsets=offsets | before.offsets,
        target_offset=sequence.target_offset,
        has_targets=sequence.has_targets,
        series=sequence.series if _gives_values(model) else None,
    )


def remembered_name(key: Key, arrays: dict[Key, Columns]) -> str:
    """The name of an array: a single one has one name, whether the corpus is a dict or not."""
    return "" if key is None or len(arrays) == 1 else key


def _texts(arrays: dict[Key, Columns]) -> dict[str, list[str]]:
    """The columns of those arrays that were frames."""
    return {
        remembered_name(key, arrays): column_texts(columns)
        for key, columns in arrays.items()
        if columns is not None
    }


def _gives_values(model: keras.Model) -> bool:
    """True if the model's one loss makes its output a value of what it predicts."""
    arguments = keras_internals.compile_arguments(model) if model.compiled else {}
    losses = keras.tree.flatten(arguments.get("loss"))
    if len(losses) != 1 or losses[0] is None:
        return False
    loss = keras.losses.get(losses[0])
    return any(
        type(loss) is getattr(keras.losses, name) or loss is keras.losses.get(function)
        for name, function in _OF_VALUES.items()
    )
