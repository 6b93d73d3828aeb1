"""The layers and variables of a new model, by the old ones that they stand for.

A copy of a model is made of the whole set of its layers, with one map from old to new:

    old     Embedding ◀── head (a layer that holds it)      TimeDistributed(dense), dense
    new     Embedding'◀── head'                             TimeDistributed'(dense'), dense'

What several layers of the old model share (a layer inside a wrapper, a cell, a variable) has one
twin, which those of the new model share: they train as one, and a weight file has one place for it.
Where weights are shared with the old model, an old layer or variable is its own twin, but for the
layers that become another class.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_stateful.carry import time_distributed
from keras_stateful.carry.copying import (
    Layer,
    copy_layer,
    copy_variables,
    parts_of,
    share_variables,
    skip_initializers,
)
from keras_stateful.carry.graph import replay
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

_WRAPPERS = (keras.layers.TimeDistributed, time_distributed.TimeDistributed)

# What these hold, their `build` leaves alone where it is built already. That of a user's layer may
# not, so it is built with parts of its own, which are replaced afterwards.
_BUILT_ONCE = {
    keras.layers.RNN: "cell",
    keras.layers.StackedRNNCells: "cells",
    keras.layers.Wrapper: "layer",
}


class Twins:
    """Makes twins, each when it is first asked for, and gives them their weights in the end.

    Args:
        layers: the layers of the old model.
        share: use the old layers themselves where they do not become another class.
        finish: what is done to each copy before it is used.
    """

    def __init__(
        self,
        layers: list[Layer],
        *,
        share: bool = False,
        finish: Callable[[Layer], Layer] = lambda layer: layer,
    ):
        self._old, self._share, self._finish = layers, share, finish
        # By the id of the old one, which is alive as long as its model is: layers that are called,
        # with the class of the twin; every layer, those within others too; variables.
        self._called: dict[tuple[int, type], keras.Operation] = {}
        self._parts: dict[int, Layer] = {}
        self._variables: dict[int, keras.Variable] = {}
        # What is to be given its weights: (old, new, way back to initializers)
        self._unfinished: list[tuple[Layer, Layer, Callable[[], None]]] = []

    # Layers

    def of(
        self, old: keras.Operation, cls: type[Layer] | None = None, /, **config: Any
    ) -> keras.Operation:
        """The twin of a layer or operation.

        Args:
            old: the layer, or an operation without weights, which is its own twin.
            cls: class of the twin; by default the layer's own.
            config: entries that differ from the old layer's config.
        """
        if not isinstance(old, keras.layers.Layer):
            return old
        key = (id(old), cls or type(old))
        if key not in self._called:
            self._called[key] = self._make(old, cls, config)
        return self._called[key]

    def _make(self, old: Layer, cls: type[Layer] | None, config: dict[str, Any]) -> Layer:
        if cls is None and self._share:
            return time_distributed.shared(old)
        if cls is None and not config and id(old) in self._parts:
            return self._parts[id(old)]
        if type(old) in _WRAPPERS:
            options = {"name": old.name, "dtype": old.dtype_policy, "trainable": old.trainable}
            new = type(old)(self.within(old.layer), **options)
        else:
            new = copy_layer(old, cls, **config)
            self._join(old, new)
        new = self._finish(new)
        if cls is None:
            self._parts.setdefault(id(old), new)
        restore = (lambda: None) if self._share else skip_initializers(old, new)
        self._unfinished.append((old, new, restore))
        return new

    def _join(self, old: Layer, new: Layer) -> None:
        """Has a copy hold the twins of what the old layer holds, as far as it can at present."""
        known = [name for cls, name in _BUILT_ONCE.items() if isinstance(old, cls)]
        for name, (old_parts, new_parts) in _layers_held(old, new).items():
            if not new.built and name not in known:
                continue
            twins = list(map(self._twin_of_part, old_parts, new_parts))
            pairs = list(zip(twins, new_parts, strict=True))
            for twin, part in pairs:
                if twin is not part:
                    keras_internals.replace_tracked(new, part, twin)
            if any(twin is not part for twin, part in pairs):
                several = isinstance(keras_internals.attributes(new)[name], (list, tuple))
                setattr(new, name, twins if several else twins[0])

    def _twin_of_part(self, old: Layer, new: Layer) -> Layer:
        """What a copy is to hold: the twin of what the old layer holds, or its own copy of that."""
        if self._share:
            return old
        twin = self._parts.setdefault(id(old), new)
        if twin is new and not keras_internals.is_graph(new):  # the nodes of one name its layers
            self._join(old, new)
        return twin

    def submodel(self, old: keras.Model, arguments: list[Tensor] | None = None) -> Layer:
        """The twin of a sub-model as a layer, which is made of the twins of its layers.

        Args:
            old: the sub-model.
            arguments: what it is called with first, if it is called; an axis that has another size
                there than in the sub-model's own inputs gets any size.
        """
        key = (id(old), type(old))
        if key not in self._called:
            inner = keras_internals.functional(old)
            arguments = inner.inputs if arguments is None else arguments
            inputs = list(map(_input_for, inner.inputs, arguments))
            if isinstance(old, keras.Sequential):
                stack = [self.within(layer) for layer in old.layers]
                self._called[key] = rebuilt(old, stack=[*inputs, *stack])
            else:
                outputs = replay(old, inputs, self.call)
                self._called[key] = rebuilt(
                    old,
                    keras.tree.pack_sequence_as(inner.input, inputs),
                    keras.tree.pack_sequence_as(inner.output, outputs),
                )
        return self._called[key]

    def within(self, old: Layer) -> Layer:
        """The twin of a layer that another one holds, or that is a sub-model."""
        return self.submodel(old) if keras_internals.is_rebuildable(old) else self.of(old)

    def call(self, operation: keras.Operation, args: tuple, kwargs: dict[str, Any]) -> Structure:
        """Calls the twin of a layer, sub-model or operation with new arguments."""
        args, kwargs = self.arguments((args, kwargs))
        if keras_internals.is_rebuildable(operation):
            inner = keras_internals.functional(operation)
            tensors, _ = keras_internals.arguments_of(inner, args, kwargs)
            return self.submodel(operation, tensors)(*args, **kwargs)
        return self.of(operation)(*args, **kwargs)

    # Variables

    def arguments(self, arguments: Structure) -> Structure:
        """What a call is given, with the twin of each variable that stands in the graph itself."""
        return keras.tree.map_structure(
            lambda a: self._variable(a) if isinstance(a, keras.Variable) else a, arguments
        )

    def _variable(self, old: keras.Variable) -> keras.Variable:
        if self._share:
            return old
        if id(old) not in self._variables:
            self._variables[id(old)] = self._find(old)
        return self._variables[id(old)]

    def _find(self, old: keras.Variable) -> keras.Variable:
        """The variable of a twin that stands for an old one; a new one if no layer has that."""
        holders = [
            (len(part.variables), part, layer)
            for layer in self._old
            for part in parts_of(layer)
            if any(v is old for v in part.variables)
        ]
        if not holders:
            value = keras.ops.convert_to_numpy(old)
            return keras.Variable(value, dtype=old.dtype, trainable=old.trainable, name=old.name)
        _, part, layer = min(holders, key=lambda holder: holder[0])
        if id(part) not in self._parts:
            self.within(layer)
        twin = self._parts[id(part)]
        if not twin.built:
            twin.build_from_config(part.get_build_config() or {})
        return next(n for o, n in zip(part.variables, twin.variables, strict=True) if o is old)

    # Weights

    @property
    def made(self) -> list[Layer]:
        """The twins that are not the old layers themselves."""
        return [new for _, new, _ in self._unfinished]

    def hand_over_weights(self) -> None:
        """Fills every twin, now that all are built, and gives the initializers back."""
        for _, _, restore_initializers in self._unfinished:
            restore_initializers()
        for old, new, _ in self._unfinished:
            if not new.built:
                continue  # it was needed for a part of it alone
            if self._share:
                share_variables(old, new)
            else:
                self._join(old, new)
                copy_variables(old, new, self._variables)


def _layers_held(old: Layer, new: Layer) -> dict[str, tuple[list[Layer], list[Layer]]]:
    """The layers that two layers hold in attributes of the same name, alone or in a list."""
    attributes = keras_internals.attributes(new)
    held = {}
    for name, value in keras_internals.attributes(old).items():
        pair = [value, attributes.get(name)]
        if not all(isinstance(v, (list, tuple)) for v in pair):
            pair = [[v] for v in pair]
        olds, news = map(list, pair)
        layers = all(isinstance(v, keras.layers.Layer) for v in (*olds, *news))
        if olds and layers and len(olds) == len(news) and not keras_internals.is_store(name):
            held[name] = (olds, news)
    return held


def _input_for(tensor: keras.KerasTensor, argument: Tensor) -> keras.KerasTensor:
    """A new input for one of a sub-model that will be given an argument like this one."""
    shape = list(tensor.shape)
    if len(argument.shape) == len(shape):  # else Keras adds or drops an axis
        shape = [
            old if old == now else None for old, now in zip(shape, argument.shape, strict=True)
        ]
    return keras.Input(
        batch_shape=(None, *shape[1:]), dtype=tensor.dtype, name=tensor.name, sparse=tensor.sparse
    )


def rebuilt(
    old: keras.Model, *inputs_and_outputs: Structure, stack: list | None = None
) -> keras.Model:
    """A model like another one, of new inputs and outputs or, a `Sequential`, a stack of layers."""
    options = {"name": old.name, "trainable": old.trainable}
    if stack is not None:
        return keras.Sequential(stack, **options)
    return keras_internals.class_to_rebuild(old)(*inputs_and_outputs, **options)
