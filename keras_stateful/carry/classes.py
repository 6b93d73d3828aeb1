"""The class that carries, for each class of layers that can."""

import keras

from keras_stateful.carry.adapters import adapted, adapter_of
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.recurrent import KERAS_CLASSES, CarryRNN

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
    if cls not in _CARRIED:
        _CARRIED[cls] = _make(cls)
    return _CARRIED[cls]


def _make(cls: type) -> type[Carry]:
    if issubclass(cls, keras.layers.RNN):
        documentation = {"__doc__": f"`{cls.__name__}` that carries its state."}
        made = type(cls.__name__, (CarryRNN, cls), documentation)
        return keras.saving.register_keras_serializable(package="keras_stateful")(made)
    adapter = adapter_of(cls)
    if adapter is None:
        raise TypeError(f"No adapter says how {cls.__name__} carries. Call `register_carry`.")
    return adapted(cls, adapter)
