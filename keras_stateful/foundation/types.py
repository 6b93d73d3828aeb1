"""Names for what passes from room to room and has no type of its own in Python. Imports nothing."""

from typing import Any, TypeAlias

# A tensor of the backend, or a `keras.KerasTensor` that stands for one in a graph.
Tensor: TypeAlias = Any
# Arrays or tensors in tuples, lists and dicts, as Keras takes inputs, targets and weights.
Structure: TypeAlias = Any
# The arguments of Keras's `fit`, `evaluate` or `predict`, by name.
Arguments: TypeAlias = dict[str, Any]
# What callbacks are told of a step or an epoch, and may add to.
Logs: TypeAlias = dict[str, float] | None
# What a callback remembers from step to step: numbers, text, arrays, and collections of these.
CallbackState: TypeAlias = dict[str, Any]
