"""What is Keras's own, told by the module that it was written in.

Functions and classes name the module where they are written (`keras.src.ops.numpy`), not the public
one (`keras.ops`), so these prefixes are private.
"""

from collections.abc import Callable
from typing import Any


def is_of_keras(thing: Any) -> bool:
    """True if an object's class was written in Keras."""
    return type(thing).__module__.partition(".")[0] == "keras"


def is_written_in_keras(function: Callable) -> bool:
    """True if a class or a function, or the one behind a method, was written in Keras."""
    return function.__module__.partition(".")[0] == "keras"


def is_keras_rnn(part: Any) -> bool:
    """True if a layer or cell is one of Keras's own recurrent ones."""
    return type(part).__module__.startswith("keras.src.layers.rnn.")
