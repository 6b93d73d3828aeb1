"""The class that carries, for each class of layers that can."""

import keras

from keras_stateful.carry.attention import ATTENTION, attention_class
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.past import past_class
from keras_stateful.carry.recurrent import KERAS_CLASSES, CarryRNN
from keras_stateful.carry.register import is_registered, registered_class

_CARRIED: dict[type, type[Carry]] = dict(KERAS_CLASSES)


def carried_class(cls: type) -> type[Carry]:
    """The class that carries, for a recurrent layer's class or one that has an adapter.

    A class of the user's own is paired with `Carry` on the spot; to load a `.keras` file that
    holds one, call this first with the class.

    Raises:
        TypeError: a class that nobody said how to carry.
    """
    if issubclass(cls, Carry):
        return cls
    if not issubclass(cls, keras.layers.RNN):
        return registered_class(cls)
    if cls not in _CARRIED:
        documentation = {"__doc__": f"`{cls.__name__}` that carries its state."}
        made = type(cls.__name__, (CarryRNN, cls), documentation)
        _CARRIED[cls] = keras.saving.register_keras_serializable("keras_stateful")(made)
    return _CARRIED[cls]


def step_class(cls: type) -> type[Carry]:
    """The class that carries in a step model, for its plain class."""
    if is_registered(cls) or issubclass(cls, keras.layers.RNN):
        return carried_class(cls)
    return attention_class(cls, trains=False) if issubclass(cls, ATTENTION) else past_class(cls)
