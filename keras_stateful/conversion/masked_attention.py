"""Where what attention puts out at masked steps could reach steps that are not masked.

A masked query has nothing to attend to, and Keras gives it the mean of the whole window: another
value for each window, made of later steps too. That does no harm as long as nobody reads it. What
reads other steps than its own must therefore know the mask, and know it when the model runs:
`MultiHeadAttention` takes the masks from its inputs there, so that whoever else reads them (a
residual connection) finds none.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import keras

from keras_stateful.carry.attention import ATTENTION
from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.time_axis import TimeAxis
from keras_stateful.foundation import keras_internals


def check_masked_attention(graph: Graph, time: TimeAxis) -> None:
    """Checks that what attention puts out at masked steps is read by nobody.

    Raises:
        Unconvertible: a call that reads it without knowing the mask.
    """
    undefined: dict[int, str] = {}  # by id of a tensor, the attention whose masked steps are in it
    taken: set[int] = set()  # ids of tensors whose masks are taken from them
    unsure: set[int] = set()  # ids of tensors whose masks may be lost
    for call in graph.calls:
        reads = {id(t): t for t in call.data}
        sources = [undefined[i] for i in reads if i in undefined]
        reads_other_steps = call.path in time.held or call.path in time.recurrent
        if sources and reads_other_steps:
            masks = [keras_internals.mask_of(t) for i, t in reads.items() if i not in unsure]
            if not _honours_masks(call) or len(masks) < len(reads) or None in masks:
                raise _refusal(call, sources[0])
        attends = call.path in time.held and isinstance(call.operation, ATTENTION)
        if attends and keras_internals.mask_of(call.data[0]) is not None:
            sources = [call.path]
        _mark(undefined, call.outputs, sources)
        if any(i in taken or i in unsure for i in reads):
            unsure.update(map(id, call.outputs))
        if attends and isinstance(call.operation, keras.layers.MultiHeadAttention):
            taken.update(reads)


def _mark(undefined: dict[int, str], outputs: Iterable, sources: list[str]) -> None:
    if sources:
        undefined.update({id(t): sources[0] for t in outputs})


def _honours_masks(call: Call) -> bool:
    """True if a call leaves masked steps alone, where it is given a mask."""
    cls: Any = plain_class(type(call.operation))
    parameters = inspect.signature(cls.call).parameters
    return "mask" in parameters or "value_mask" in parameters


def _refusal(call: Call, attention: str) -> Unconvertible:
    return Unconvertible(
        f"`{call.path}` reads what `{attention}` puts out at masked steps, and may not know the "
        "mask. Received: a mask, of which Keras's attention gives masked steps the mean of the "
        "whole window, and of which a residual connection around `MultiHeadAttention` leaves "
        "nothing. Leave the mask out and give padding the sample weight 0, as `StatefulSequence` "
        "does; or use `GroupQueryAttention`, which leaves the masks of its inputs alone."
    )
