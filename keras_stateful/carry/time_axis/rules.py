"""Where the rules are kept: of each operation of `keras.ops`, and of each layer of Keras.

The modules beside this one write them, each for a family, and this holds what they have in common.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from keras import tree

from keras_stateful.carry.graph import Call
from keras_stateful.carry.time_axis.along import Along, Hold, Refused
from keras_stateful.carry.time_axis.derivation import Axes, Derivation, Rule
from keras_stateful.carry.time_axis.tracing import activated
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

# The rule of each operation, by its name; and of each layer, by its class.
OPERATIONS: dict[str, Rule] = {}
LAYERS: dict[type, Rule] = {}


def operations(names: str) -> Callable[[Rule], Rule]:
    """Keeps a function as the rule of the operations of these names."""

    def register(rule: Rule) -> Rule:
        OPERATIONS.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def of_layers(*classes: type) -> Callable[[Rule], Rule]:
    """Keeps a function as the rule of the layers of these classes."""

    def register(rule: Rule) -> Rule:
        LAYERS.update(dict.fromkeys(classes, rule))
        return rule

    return register


def settings_of(call: Call) -> dict[str, Any]:
    return keras_internals.settings_of(call.operation)


def first(call: Call) -> Tensor:
    """The first argument, which is the tensor that most operations are about."""
    return tree.flatten((call.args, call.kwargs))[0]


def positive(axis: int | Iterable[int], rank: int) -> list[int]:
    """Axes as numbers from 0 on."""
    axes = [axis] if isinstance(axis, (int, np.integer)) else axis
    return [int(a) % rank for a in axes]


def stay(axis: int) -> int:
    """Axes of an output that has those of its input."""
    return axis


def broadcast(tensor: Tensor, rank: int) -> Callable[[int], int]:
    """Axes of a tensor where shapes are laid upon each other from the last axis on."""
    offset = rank - len(tensor.shape)
    return lambda axis: axis + offset


def reduced(axes: Sequence[int], keepdims: bool) -> Axes:
    """Axes where some are merged into one value."""

    def to(axis: int) -> int | None:
        if axis in axes:
            return None
        return axis if keepdims else axis - sum(a < axis for a in axes)

    return to


def input_of(call: Call) -> Tensor:
    """The first argument of a layer, which is a single tensor for most."""
    return tree.flatten(call.args[0] if call.args else next(iter(call.kwargs.values())))[0]


def with_activation(call: Call, time: Derivation, hold: Hold) -> Hold:
    """What is left of time behind a layer's activation."""
    activation = getattr(call.operation, "activation", None)
    if activation is None or not isinstance(hold, Along):
        return hold
    return activated(activation, hold, call.outputs[0], time)


def is_named(call: Call, name: str) -> bool:
    """True if a call is of the operation of this name."""
    return keras_internals.operation_name(call.operation) == name


def unknown(call: Call) -> Refused:
    """The refusal of what is not understood."""
    return Refused(
        f"whether `{type(call.operation).__name__}` mixes time steps cannot be derived",
        underivable=True,
    )


def misplaced(time: Derivation, tensor: Tensor) -> Refused:
    """The refusal of a tensor that has more or fewer steps than the window."""
    lead = time.along(tensor).lead
    if lead > 0:
        return Refused(
            f"it is given {lead} steps from before the window, which are no part of the stream "
            "again",
            f"Let what reads the padding use it up: pad {lead} steps fewer in front, or cut them "
            f"off (`[:, {lead}:]`).",
        )
    path = time.shortened[id(tensor)].path
    return Refused(
        f"`{path}` reads {-lead} steps in front of each window that are not there, and leaves them "
        "out",
        f"Put them there: `ZeroPadding1D(({-lead}, 0))` in front of `{path}`"
        ' (the padding holds the past), or `padding="causal"` for a `Conv1D`.',
    )
