"""Layers that are told how to carry: any class, by an adapter that says what its state is.

A recurrent layer of Keras knows its state. Of any other layer an adapter says what the state is at
first, and how a call goes on from it:

    class CarrySum:                                     # of a layer that adds up what it reads
        def initial_states(self, layer, batch_size, *shapes):
            return [ops.zeros((batch_size, layer.units))]

        def advance(self, layer, states, x, resets=None):
            outputs, last = layer.total(x, states[0], resets)
            return outputs, [last]

    register_carry(RunningSum, CarrySum())

`adapted` makes the class that carries, whose call is the plain layer's with `resets` and `slot` in
addition. With `slots=0` it has no variables: the states are an argument, and come back behind the
outputs, which is what a step model is made of.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import keras
from keras import ops

from keras_stateful.carry.layers import Carry, split_resets
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor


class CarryAdapter(Protocol):
    """How layers of one class go on from where the window before ended."""

    # `*Any, **Any`: a method that names what it takes, as `shape` or `training`, is one of these.

    def initial_states(
        self, layer: Any, batch_size: int, *shapes: Any, **kwargs: Any
    ) -> list[Tensor]:
        """What a document starts from.

        Args:
            layer: a built layer of the class.
            batch_size: rows.
            shapes: of the tensors that the layer is called with, `(batch, time, ...)` each; time is
                None where any number of steps will do.
            kwargs: never any.

        Returns:
            Tensors `(batch_size, ...)`, one for each state.
        """
        ...

    def advance(
        self,
        layer: Any,
        states: list[Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Structure, list[Tensor]]:
        """One call of the layer, from given states. Pure: it must not write variables.

        Args:
            layer: a built layer of the class.
            states: `(batch, ...)` each, in `layer.variable_dtype`.
            args: what the layer is called with, `(batch, time, ...)` each.
            kwargs: those of the call (`training`, `mask`) that the layer's `call` takes; and, where
                documents start inside the window, `resets`, bool `(batch, time)`: before that step
                the row starts from the initial states.

        Returns:
            What the layer's call returns, and the new states.
        """
        ...


# What the call of a layer that carries takes beside the arguments of the plain one
_OF_CARRY = ("resets", "slot", "states")


def data_tensors(args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """What a layer reads in a call: its tensors, but no masks, resets or states."""
    data = {k: v for k, v in kwargs.items() if k not in _OF_CARRY and not k.endswith("mask")}
    return [t for t in keras.tree.flatten((args, data)) if hasattr(t, "shape")]


class CarryAdapted(Carry):
    """Mixin in front of a layer that carries by an adapter; see `adapted`.

    Attributes:
        input_shapes: of the tensors that the layer was first called with.
    """

    adapter: CarryAdapter
    input_shapes: list[tuple]

    def __call__(self, *args: Any, **kwargs: Any) -> Structure:
        if not self.built:
            self.input_shapes = [tuple(t.shape) for t in data_tensors(args, kwargs)]
        return super().__call__(*args, **kwargs)

    def get_build_config(self) -> dict[str, Any]:
        return {"carried": self.input_shapes, "plain": super().get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.input_shapes = [tuple(shape) for shape in config["carried"]]
        super().build_from_config(config["plain"])

    def initial_states(self, batch_size: int) -> list[Tensor]:
        return self.adapter.initial_states(self, batch_size, *self.input_shapes)

    def advance_from(
        self,
        args: tuple,
        kwargs: dict[str, Any],
        resets: Tensor | None,
        slot: int,
        states: list[Tensor] | None,
    ) -> Structure:
        """The layer's call; see `adapted`."""
        if states is not None:
            outputs, new_states = self.adapter.advance(self, states, *args, **kwargs)
            self._check_states(new_states, states)
            new_states = [
                ops.cast(new, old.dtype) for new, old in zip(new_states, states, strict=True)
            ]
            return (*_as_list(outputs), *new_states)
        args = (self.with_its_rows(args[0]), *args[1:])
        by_window, by_step = split_resets(resets)
        initial = [
            ops.cast(value, state.dtype)
            for value, state in zip(
                self.initial_states(self.batch_size), self.slot_states[slot], strict=True
            )
        ]
        start = self.starting_states(slot, initial, by_window)
        if by_step is not None:
            kwargs = {**kwargs, "resets": by_step}
        outputs, new_states = self.advance_window(start, args, kwargs)
        self._check_states(new_states, start)
        self.store_states(slot, new_states)
        return outputs

    def advance_window(
        self, states: list[Tensor], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Structure, list[Tensor]]:
        """What the adapter gives for a window, and the states that the next one starts from."""
        parts = self.parts_of_window(args[0].shape[1])
        if len(parts) == 1:
            return self.adapter.advance(self, states, *args, **kwargs)
        lengths, all_outputs, after_each = [], [], []
        for part in parts:
            part_args, part_kwargs = self._cut(args, kwargs, part)
            outputs, new_states = self.adapter.advance(self, states, *part_args, **part_kwargs)
            self._check_states(new_states, states)
            pairs = zip(new_states, states, strict=True)
            states = [ops.cast(new, old.dtype) for new, old in pairs]
            lengths.append(part_args[0].shape[1])
            all_outputs.append(outputs)
            after_each.append(states)

        def joined(*of_parts: Tensor) -> Tensor:
            pairs = zip(of_parts, lengths, strict=True)
            along = all(len(y.shape) > 1 and y.shape[1] == length for y, length in pairs)
            return ops.concatenate(of_parts, axis=1) if along else of_parts[-1]

        return keras.tree.map_structure(joined, *all_outputs), after_each[0]

    def _cut(self, args: tuple, kwargs: dict[str, Any], steps: slice) -> tuple[tuple, dict]:
        """Some time steps of a call's arguments; what has no time axis is left whole."""
        time = self.input_shapes[0][1:2]
        data = zip(data_tensors(args, kwargs), self.input_shapes, strict=False)
        whole = {id(tensor) for tensor, shape in data if tuple(shape[1:2]) != tuple(time)}

        def cut(value: Any) -> Any:
            has_time = len(getattr(value, "shape", ())) > 1 and id(value) not in whole
            return value[:, steps] if has_time else value

        return keras.tree.map_structure(cut, (args, kwargs))

    def _check_states(self, new_states: list[Tensor], states: list[Tensor]) -> None:
        """Checks that an adapter gave as many states, of the same shapes, as it was given."""
        shapes = [[tuple(s.shape[1:]) for s in values] for values in (new_states, states)]
        alike = len(shapes[0]) == len(shapes[1]) and all(
            len(a) == len(b) and all(m == n or m is None for m, n in zip(a, b, strict=True))
            for a, b in zip(*shapes, strict=True)  # TensorFlow does not know each size: None
        )
        if not alike:
            raise ValueError(
                f"`{type(self.adapter).__name__}.advance` must return the new states, of the "
                f"shapes that `initial_states` gives. Received: {shapes[0]} for `{self.name}`, "
                f"whose states have {shapes[1]} (without the batch axis)."
            )


def _as_list(outputs: Structure) -> list:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def adapted(
    cls: type[keras.layers.Layer],
    adapter: CarryAdapter,
    mixin: type[CarryAdapted] = CarryAdapted,
    name: str | None = None,
) -> type[CarryAdapted]:
    """The class that carries, for a class of layers, with a mixin in front of it.

    Its name is the plain one's, by which weight files are laid out; `.keras` files know it by
    `keras_stateful>name`.

    Its `call` has the plain layer's arguments and three more: `resets`, bool `(batch,)` or
    `(batch, time)`; `slot`, which of the layer's states; `states`, a list of them, where the layer
    was made with `slots=0`: then the new ones come behind the outputs.
    """

    def call(
        self: CarryAdapted,
        *args: Any,
        resets: Tensor | None = None,
        slot: int = 0,
        states: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> Structure:
        if takes_mask and kwargs.get("mask") is None:
            # Keras fills in the mask where a call has one tensor, and here the resets are another.
            kwargs["mask"] = keras_internals.mask_of(args[0])
        return self.advance_from(args, kwargs, resets, slot, states)

    def compute_output_spec(
        self: CarryAdapted,
        *args: Any,
        resets: Tensor | None = None,
        slot: int = 0,
        states: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> Structure:
        if by_running:  # Keras runs `call` on symbols
            more = {"resets": resets, "slot": slot, "states": states}
            # In one part: of a symbolic window nobody knows whether it is longer than the first.
            after, self.carry_after = self.carry_after, None
            try:
                return keras.Operation.compute_output_spec(self, *args, **more, **kwargs)
            finally:
                self.carry_after = after
        outputs = cls.compute_output_spec(self, *args, **kwargs)
        if states is None:
            return outputs
        return (*_as_list(outputs), *(keras.KerasTensor(s.shape, s.dtype) for s in states))

    plain = keras.layers.Layer
    by_running = issubclass(cls, keras.layers.Lambda) or (  # which would run `call` without a state
        (cls.compute_output_shape, cls.compute_output_spec)
        == (plain.compute_output_shape, plain.compute_output_spec)
    )
    takes_mask = "mask" in inspect.signature(cls.call).parameters
    # Keras reads from the signature what `call` takes.
    call.__signature__ = _with_more(inspect.signature(cls.call), call)
    members = {
        "__doc__": f"`{cls.__name__}` that carries its state.",
        "adapter": adapter,
        "build": _Build(cls.build),
        "call": call,
        "compute_output_spec": compute_output_spec,
    }
    made = type(cls.__name__, (mixin, cls), members)
    return keras.saving.register_keras_serializable("keras_stateful", name)(made)


def name_in_files(cls: type[keras.layers.Layer]) -> str:
    """What `.keras` files call the class that carries, behind `keras_stateful>`.

    A user's class may have a name of Keras's, or one that another package has too.
    """
    name: str = keras.saving.get_registered_name(cls)
    return name if ">" in name or cls.__module__.startswith("keras.") else f"Custom>{name}"


class _Build:
    """The `build` of a class that carries: the plain one, and then the states.

    Keras reads from the signature which shapes `build` is to be given, and wraps the method of each
    layer. A function that is made for the layer has the signature of the bound plain method; a
    method with a `__signature__` would show `self` once it is wrapped.
    """

    def __init__(self, plain: Callable):
        self._plain = plain

    def __get__(self, layer: CarryAdapted | None, cls: type) -> Callable:
        if layer is None:
            return self._plain
        plain = self._plain.__get__(layer)

        def build(*args: Any, **kwargs: Any) -> None:
            plain(*args, **kwargs)
            if layer.slots:
                keras_internals.unlock(layer)
                layer.make_states(layer.input_shapes[0])

        build.__signature__ = inspect.signature(plain)
        return build


def _with_more(plain: inspect.Signature, call: Callable) -> inspect.Signature:
    """The signature of a plain call, with the keyword arguments of one that carries."""
    more = [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
    parameters = list(plain.parameters.values())
    catch_all = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    first = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return plain.replace(parameters=[*first, *more, *catch_all])
