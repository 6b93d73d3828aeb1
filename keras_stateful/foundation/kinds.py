"""What a model, data or a callback is. This package's classes carry marks, since the modules that
ask are imported by theirs.
"""

from typing import Any

import keras


def is_sequence(data: Any) -> bool:
    """Whether data are a `StatefulSequence` or `StatefulStream`."""
    return getattr(type(data), "_keras_stateful_sequence", False)


def sequence_or_none(data: Any) -> Any:
    """The data if they are a sequence, else None."""
    return data if is_sequence(data) else None


def is_arrays(data: Any) -> bool:
    """Whether data are arrays in memory, which Keras cuts into batches itself."""
    leaves = keras.tree.flatten(data)
    return bool(leaves) and all(hasattr(a, "shape") and hasattr(a, "dtype") for a in leaves)


def is_converted(model: Any) -> bool:
    """Whether a model is one of `to_stateful` or `to_inference`: a `StatefulModel`."""
    return getattr(type(model), "_keras_stateful_model", False)


def resets_of(model: Any) -> str | None:
    """The kind of a model's `"resets"` input: None, "window" `(batch,)` or "step" `(batch, time)`."""
    return model.resets if is_converted(model) else None


def resets_wanted(sequence: Any) -> str | None:
    """The kind of resets that a sequence gives, likewise."""
    return None if not sequence.resets else "step" if sequence.boundary == "pack" else "window"


def is_reset_callback(callback: Any) -> bool:
    """Whether a callback is a `ResetStatesCallback`."""
    return getattr(type(callback), "_keras_stateful_resets", False)
