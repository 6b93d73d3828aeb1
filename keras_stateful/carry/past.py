"""Layers that read a bounded past: their last inputs are their state.

A layer that pads the front of its input with zeros has the last inputs of the window before put in
their place; whatever reads on without padding is then computed as in one long pass, exactly:

    past (batch, n, ...) ───┐
    x (batch, time, ...) ───┴▶ extended (batch, n + time, ...) ──▶ the layer without its zeros
                                  └── its last n steps ──▶ past

`Conv1D(padding="causal")` reads the extended window itself. `ZeroPadding1D((n, 0))`,
`ZeroPadding2D(((n, 0), ...))` and `ops.pad` put it out, n steps longer than the window, for what
stands behind them. Of any other layer only how far it reads back is known, and that it pads its own
input: it reads the extended window and its first n outputs are dropped.

With resets inside windows nothing may reach over the start of a document. What a layer computes
here does not; for what reads a longer window behind it, see `each_step`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_stateful.carry.adapters import CarryAdapted, adapted
from keras_stateful.carry.each_step import is_same_document, of_each_step, segments
from keras_stateful.carry.layers import plain_class
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor


class HeldPast(NamedTuple):
    """What a layer holds of its input.

    Attributes:
        steps: how many steps.
        lead: how many steps from before the window the input has in front already; what is held
            are the steps in front of those.
        axis: which axis of the input is time.
    """

    steps: int
    lead: int = 0
    axis: int = 1


class Past(CarryAdapted):
    """Mixin in front of a layer that holds its last inputs; see `past_class`.

    Args:
        held_past: what it holds, a `HeldPast` or its values.
    """

    def __init__(self, *args: Any, held_past: tuple, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._keras_stateful_held = HeldPast(*held_past)

    def advance_window(
        self, states: list[Tensor], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Structure, list[Tensor]]:
        """Computed as one, since the window that is put out may be longer; see `_last`."""
        _, lead, axis = self._keras_stateful_held
        steps = args[0].shape[axis]
        self.parts_of_window(None if steps is None else steps - lead)  # which checks them
        return self.adapter.advance(self, states, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "held_past": list(self._keras_stateful_held)}


class Pad(keras.layers.Layer):
    """`keras.ops.pad` as a layer.

    Args:
        pad_width: steps in front of and behind each axis, a pair for each.
        constant_values: what is put there; None for zeros.
    """

    def __init__(self, pad_width: list, constant_values: float | None = None, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # an operation casts nothing
        self.pad_width = tuple(tuple(pair) for pair in pad_width)
        self.mode, self.constant_values = "constant", constant_values

    def call(self, inputs: Tensor) -> Tensor:
        return ops.pad(inputs, self.pad_width, constant_values=self.constant_values)

    def compute_output_spec(self, inputs: Tensor, **kwargs: Any) -> keras.KerasTensor:
        sizes = zip(inputs.shape, self.pad_width, strict=True)
        shape = tuple(None if size is None else size + sum(pair) for size, pair in sizes)
        return keras.KerasTensor(shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        more = {"pad_width": self.pad_width, "constant_values": self.constant_values}
        return {**super().get_config(), **more}


class InPlaceOfPadding:
    """The adapter of layers that pad in front: the past takes the place of what they pad with."""

    def initial_states(self, layer: Any, batch_size: int, *shapes: tuple) -> list[Tensor]:
        held = layer._keras_stateful_held
        shape = (batch_size, *shapes[0][1:])
        shape = (*shape[: held.axis], held.steps, *shape[held.axis + 1 :])
        return [ops.full(shape, fill_of(layer), layer.variable_dtype)]

    def advance(
        self,
        layer: Any,
        states: list[Tensor],
        *args: Tensor,
        resets: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Structure, list[Tensor]]:
        extended = _extended(layer, states[0], *args)
        return self.read(layer, extended, resets, kwargs), [_last(layer, extended, resets)]

    def read(self, layer: Any, extended: Tensor, resets: Tensor | None, kwargs: dict) -> Structure:
        """The layer's outputs for a window that has its past in front."""
        with _without_front_padding(layer):
            return _plain_call(layer, extended, **kwargs)


class CausalConvolution(InPlaceOfPadding):
    """The adapter of `Conv1D(padding="causal")`."""

    def read(self, layer: Any, extended: Tensor, resets: Tensor | None, kwargs: dict) -> Structure:
        if resets is None:
            return super().read(layer, extended, resets, kwargs)
        # What the taps read, with zeros where that is another document's.
        (taps,), (dilation,), rows = layer.kernel_size, layer.dilation_rate, extended.shape[0]
        read = of_each_step(extended, resets, range(0, taps * dilation, dilation), fill=0)
        if layer.groups == 1:  # one product of all taps; a fifth faster than the strides below
            read = ops.reshape(read, (rows, -1, taps * extended.shape[-1]))
            outputs = ops.matmul(read, ops.reshape(layer.kernel, (-1, layer.filters)))
            outputs = ops.add(outputs, layer.bias) if layer.use_bias else outputs
            return outputs if layer.activation is None else layer.activation(outputs)
        # One behind the other, (batch, time * taps, features), the kernel goes through in strides.
        read = ops.reshape(read, (rows, -1, extended.shape[-1]))
        with _changed(layer, padding="valid", dilation_rate=(1,), strides=(taps,)):
            return _plain_call(layer, read, **kwargs)


class FromItsPast(InPlaceOfPadding):
    """The adapter of layers of which only how far they read back is known."""

    def read(self, layer: Any, extended: Tensor, resets: Tensor | None, kwargs: dict) -> Structure:
        held = layer._keras_stateful_held
        if resets is None:
            outputs = _plain_call(layer, extended, **kwargs)
            return keras.tree.map_structure(
                lambda y: _cut(y, held.axis, slice(held.steps, None)), outputs
            )
        # Each step by itself with the past of its document, and of that what the step gives.
        rows, features = extended.shape[0], extended.shape[2:]
        read = of_each_step(extended, resets, range(held.steps + 1), fill=0)
        read = ops.reshape(read, (-1, held.steps + 1, *features))
        outputs = _plain_call(layer, read, **kwargs)
        return keras.tree.map_structure(
            lambda y: ops.reshape(y[:, held.steps :], (rows, -1, *y.shape[2:])), outputs
        )


def _plain_call(layer: Any, *args: Any, **kwargs: Any) -> Structure:
    plain: Any = plain_class(type(layer))
    return plain.call(layer, *args, **kwargs)


def fill_of(layer: keras.layers.Layer) -> float:
    """What a layer pads with."""
    value = layer.constant_values if isinstance(layer, Pad) else None
    return 0 if value is None else value


def _cut(tensor: Tensor, axis: int, steps: slice) -> Tensor:
    return tensor[(slice(None),) * axis + (steps,)]


def _extended(layer: Any, past: Tensor, inputs: Tensor) -> Tensor:
    """The past and the window."""
    return ops.concatenate(
        [ops.cast(past, inputs.dtype), inputs], axis=layer._keras_stateful_held.axis
    )


def _last(layer: Any, extended: Tensor, resets: Tensor | None) -> Tensor:
    """The past of the next window: of an input without steps from before it, the last inputs.

    Of those that are carried on, where windows overlap: the next one begins earlier.
    """
    (steps, lead, axis), after = layer._keras_stateful_held, layer.carry_after
    past = slice(-steps - lead, -lead or None) if after is None else slice(after, after + steps)
    last = _cut(extended, axis, past)
    if resets is None:
        return last
    documents = segments(resets, steps)[:, past]
    same = is_same_document(documents, documents[:, -1:], last)
    return ops.where(same, last, ops.cast(fill_of(layer), last.dtype))


@contextmanager
def _changed(layer: Any, **attributes: Any) -> Iterator[None]:
    """Sets attributes of a layer for as long as this lasts; past Keras, which would track them."""
    before = {name: vars(layer)[name] for name in attributes}
    vars(layer).update(attributes)
    try:
        yield
    finally:
        vars(layer).update(before)


def _without_front_padding(layer: Any) -> Any:
    """Has a layer leave out what it pads with in front of time."""
    if isinstance(layer, keras.layers.Conv1D):
        return _changed(layer, padding="valid")
    axis = layer._keras_stateful_held.axis
    if isinstance(layer, Pad):
        return _changed(layer, pad_width=_without_front(layer.pad_width, axis))
    if isinstance(layer, keras.layers.ZeroPadding1D):
        return _changed(layer, padding=(0, layer.padding[1]))
    spatial = axis - (2 if layer.data_format == "channels_first" else 1)
    return _changed(layer, padding=_without_front(layer.padding, spatial))


def _without_front(pairs: tuple, axis: int) -> tuple:
    """Widths of a padding, without what is put in front of one axis."""
    return (*pairs[:axis], (0, pairs[axis][1]), *pairs[axis + 1 :])


_ADAPTERS: dict[Any, InPlaceOfPadding] = {
    keras.layers.Conv1D: CausalConvolution(),
    keras.layers.ZeroPadding1D: InPlaceOfPadding(),
    keras.layers.ZeroPadding2D: InPlaceOfPadding(),
    keras.layers.ZeroPadding3D: InPlaceOfPadding(),
    Pad: InPlaceOfPadding(),
}
_MADE: dict[type, Any] = {}


def past_class(cls: Any) -> type[Past]:
    """The class that holds its last inputs, for a class of layers whose calls read a bounded past.

    A class of the user's own is paired with `Past` on the spot; to load a `.keras` file that holds
    one, call this first with the class.
    """
    if issubclass(cls, Past):
        return cls
    if cls not in _MADE:
        known = next((k for k in _ADAPTERS if issubclass(cls, k) and cls.call is k.call), None)
        adapter = FromItsPast() if known is None else _ADAPTERS[known]
        # A user's class may have a name of Keras's, or one that another package has too.
        name = keras.saving.get_registered_name(cls)
        ours = keras_internals.is_written_in_keras(cls) or cls is Pad
        _MADE[cls] = adapted(
            cls, adapter, Past, None if ours else name if ">" in name else f"Custom>{name}"
        )
    return _MADE[cls]


for _cls in _ADAPTERS:  # which Keras must know to load a file
    past_class(_cls)
