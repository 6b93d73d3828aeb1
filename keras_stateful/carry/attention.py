"""Attention with a bounded memory: `MultiHeadAttention` and `GroupQueryAttention` that carry.

With `use_causal_mask=True` and `sliding_window=w` a step attends to itself and the w - 1 steps
before it. These are held from window to window, with a flag for each that says whether there is
such a step (none at a document's start, none where it was masked):

    held (batch, w - 1, ...) ──┐
    window (batch, time, ...) ─┴▶ extended ──▶ keys, values ──▶ banded attention ──▶ outputs
                                    └── its last w - 1 steps ──▶ held

In training the inputs of keys and values are held, as in Transformer-XL (Dai et al. 2019,
arXiv:1901.02860): they are projected with the weights of today and train them; gradients stop at
the window. Where nothing is trained, keys and values themselves are held, so that a step projects
one step and not all.
"""

from typing import Any

import keras
from keras import ops

from keras_stateful.carry.adapters import CarryAdapted, adapted, name_in_files
from keras_stateful.carry.each_step import segments
from keras_stateful.carry.layers import plain_class
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


class HoldsInputs:
    """The adapter for training: what keys and values are made of is held."""

    def initial_states(
        self,
        layer: Any,
        batch_size: int,
        query_shape: tuple,
        value_shape: tuple,
        key_shape: tuple | None = None,
    ) -> list[Tensor]:
        """Zeros for value and key, `(batch, steps, ...)`, and for the flags, `(batch, steps)`."""
        steps = _steps_back(layer)
        held = self.shapes(layer, [s for s in (value_shape, key_shape) if s is not None])
        return [ops.zeros((batch_size, steps, *shape)) for shape in [*held, ()]]

    def shapes(self, layer: Any, inputs: list[tuple]) -> list[tuple]:
        """The shapes of one step of what is held, for inputs of these shapes."""
        return [tuple(shape[2:]) for shape in inputs]

    def advance(
        self,
        layer: Any,
        states: list[Tensor],
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        *,
        resets: Tensor | None = None,
        training: bool | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, list[Tensor]]:
        *held, seen = states
        masks = [mask for mask in (value_mask, key_mask) if mask is not None]
        here = ops.ones_like(value[:, :, 0])
        for mask in masks:
            here = here * ops.cast(mask, here.dtype)
        keras_internals.forget_masks(layer, [query, value, value if key is None else key])

        steps = _steps_back(layer)
        read = self.read(layer, [value] if key is None else [value, key])
        extended = [_behind(past, now) for past, now in zip(held, read, strict=True)]
        there = _behind(seen, here)
        documents = None if resets is None else segments(resets, steps)
        mask = _readable(query, there, documents, steps, masked=bool(masks))
        values, keys = self.projected(layer, extended)
        outputs = keras_internals.attend(layer, query, keys, values, mask, training)

        last = there[:, -steps:]
        if documents is not None:  # the next window's documents are not those that are over
            same = ops.equal(documents[:, -steps:], documents[:, -1:])
            last = last * ops.cast(same, last.dtype)
        return outputs, [*(steps_of[:, -steps:] for steps_of in extended), last]

    def read(self, layer: Any, inputs: list[Tensor]) -> list[Tensor]:
        """What is held of the steps of a window: its value, and its key if that is another."""
        return inputs

    def projected(self, layer: Any, held: list[Tensor]) -> list[Tensor]:
        """Values and keys `(batch, steps, heads, size)` of what is held."""
        return keras_internals.project(layer, held[0], held[-1])


class HoldsKeysAndValues(HoldsInputs):
    """The adapter for inference: keys and values are held."""

    def shapes(self, layer: Any, inputs: list[tuple]) -> list[tuple]:
        return keras_internals.projected_shapes(layer)

    def read(self, layer: Any, inputs: list[Tensor]) -> list[Tensor]:
        return keras_internals.project(layer, inputs[0], inputs[-1])

    def projected(self, layer: Any, held: list[Tensor]) -> list[Tensor]:
        return held


def _steps_back(layer: Any) -> int:
    """How many steps before its own a step attends to."""
    return (keras_internals.sliding_window(layer) or 1) - 1


def _behind(past: Tensor, now: Tensor) -> Tensor:
    """A window with its past in front."""
    return ops.concatenate([ops.cast(past, now.dtype), now], axis=1)


def _readable(
    query: Tensor, there: Tensor, documents: Tensor | None, steps: int, *, masked: bool
) -> Tensor:
    """Which steps each step may attend to, bool `(batch or 1, time, steps + time)`.

    Args:
        query: `(batch, time, ...)`.
        there: 1 for each step that exists, `(batch, steps + time)`.
        documents: which document each step is of, likewise; None: of one.
        steps: how many steps back.
        masked: whether some of the window's own steps may not exist.
    """
    time = ops.shape(query)[1]
    # jax2onnx reads `arange(0, time)`, not `arange(time)`.
    now = ops.arange(0, time, dtype="int32")[:, None] + steps
    then = ops.arange(0, time + steps, dtype="int32")[None]
    readable = ops.logical_and(now >= then, now - then <= steps)[None]
    readable = ops.logical_and(readable, ops.expand_dims(there > 0.5, 1))
    if documents is not None:
        same = ops.equal(documents[:, steps:, None], documents[:, None, :])
        readable = ops.logical_and(readable, same)
    if masked:
        # A step that has nothing to attend to reads itself. Keras gives it the mean of a window,
        # which is another one for each window.
        nothing = ops.logical_not(ops.any(readable, axis=-1, keepdims=True))
        readable = ops.logical_or(readable, ops.logical_and(nothing, ops.equal(now, then)[None]))
    return readable


_MADE: dict[tuple[type, bool], type[CarryAdapted]] = {}


def attention_class(cls: type[keras.layers.Layer], *, trains: bool) -> type[CarryAdapted]:
    """The class that carries, for a class of attention layers.

    Args:
        cls: one of `ATTENTION`, or a subclass whose calls compute the same.
        trains: whether inputs are held, and not what the weights made of them.
    """
    cls = plain_class(cls)
    if (cls, trains) not in _MADE:
        adapter = HoldsInputs() if trains else HoldsKeysAndValues()
        name = name_in_files(cls) + ("" if trains else "WithCache")
        _MADE[cls, trains] = adapted(cls, adapter, name=name)
    return _MADE[cls, trains]


for _cls in ATTENTION:  # which Keras must know to load a file
    for _trains in (True, False):
        attention_class(_cls, trains=_trains)
