"""Static inputs: a model takes the vector of a document at each time step, or once."""

import keras

from keras_stateful.carry.vocabulary import entries
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable


def hand_static(model: keras.Model, sequence: Readable) -> None:
    """Has a sequence hand static inputs as a model takes them: repeated along time, or once.

    Of a subclassed model nothing is known: it gets them repeated.

    Raises:
        ValueError: an input without a time axis, and windows that hold several documents.
    """
    sequence.hand_once(taken_once(model, sequence.static_shapes))


def taken_once(model: keras.Model, shapes: dict[str, tuple]) -> frozenset[str]:
    """The keys of static inputs for which a model has an input without a time axis.

    Args:
        model: a model.
        shapes: of what they have for one document, by key.
    """
    if not shapes or not keras_internals.is_graph(model):
        return frozenset()
    tensors = entries(model, list(shapes))
    once = (key for key in shapes if key in tensors)
    return frozenset(key for key in once if len(tensors[key].shape) == 1 + len(shapes[key]))
