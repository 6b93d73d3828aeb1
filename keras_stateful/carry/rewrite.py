"""Rebuilds a Functional graph: other recurrent layers, another batch size, more inputs and outputs.

One engine serves `to_stateful`, `to_stateless`, `to_inference` and `to_step_model`: it replays the
nodes of the given model on new input tensors, copies the layers, enters sub-models, and hands each
recurrent call to a policy. What the policy needs from outside (a reset mask, a state) it asks of
its `Level`; a sub-model passes such wishes on to the level above, and new states up the same way:

    top level      x ───────────▶ ┌ encoder ┐ ──▶ head ──▶ y
                   resets ──────▶ │  LSTM   │                      asked for below, made here
                                  └─────────┘ ──▶ new state        handed out below, and here

What an exporter takes has no sub-models left: `single_step` makes it with the parts of `copying`.
"""

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import keras

from keras_stateful.carry import time_distributed
from keras_stateful.carry.copying import (
    Layer,
    copy_layer,
    copy_variables,
    share_variables,
    skip_initializers,
)
from keras_stateful.carry.each_step import ForEachStep
from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.layers import Carry
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure


@keras.saving.register_keras_serializable(package="keras_stateful")
class Sequential(keras.Model):
    """A sub-model that was `Sequential` and now has more inputs; weight files know the name."""


class Level:
    """One model being rebuilt: the inputs that were asked for, the outputs that are handed out.

    Attributes:
        inputs: the tensors asked for, by name; they come after the model's own inputs.
        outputs: the tensors handed out, by name; they come after the model's own outputs.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, keras.KerasTensor] = {}
        self.outputs: dict[str, keras.KerasTensor] = {}

    def input(self, name: str, shape: tuple, dtype: str) -> keras.KerasTensor:
        """The input of that name, made on the first call; `shape` includes the batch axis."""
        if name not in self.inputs:
            self.inputs[name] = keras.Input(batch_shape=shape, dtype=dtype, name=name)
        return self.inputs[name]

    def output(self, name: str, tensor: keras.KerasTensor) -> None:
        """Hands a tensor out of the model."""
        self.outputs[name] = tensor


# Builds one recurrent call anew: policy(level, call, index of the call among those of its layer),
# where the call has the old layer and the new arguments. Returns the new outputs.
Policy: TypeAlias = Callable[[Level, Call, int], Structure]


class Rewriter:
    """Rebuilds one model.

    Args:
        recurrent: which layers go to the policy, by path below the model.
        policy: builds their calls.
        share: use the old layers themselves (same variables) where the policy does not make its
            own.
        share_submodels: whether one sub-model may be called several times (not where it owns
            states).
        batch_size: batch size of new input tensors; None for any.
        temporal: ids of the input tensors that run along time.
        any_length: whether new inputs that run along time get an unknown number of time steps.
        plain: whether copies are of Keras's own classes alone.
    """

    def __init__(
        self,
        recurrent: set[str],
        policy: Policy,
        *,
        share: bool,
        share_submodels: bool,
        batch_size: int | None,
        temporal: Collection[int] = (),
        any_length: bool = False,
        plain: bool = False,
    ):
        self.recurrent, self.policy = recurrent, policy
        self.share, self.share_submodels, self.plain = share, share_submodels, plain
        self.batch_size, self.temporal, self.any_length = batch_size, temporal, any_length
        # The new layer or operation by the old one's id, and the level of a sub-model likewise. The
        # old model is alive as long as the rewriting lasts, so no id is given out twice.
        self._copies: dict[int, keras.Operation] = {}
        self._levels: dict[int, Level] = {}
        self._calls: dict[str, int] = {}  # how often each layer was called so far
        # What remains to be done for a copy once it is built: (old, new, way back to initializers)
        self._without_weights: list[tuple[Layer, Layer, Callable[[], None]]] = []
        self._without_shared: list[tuple[Layer, Layer]] = []

    def run(self, graph: Graph) -> tuple[list, list, Level]:
        """Rebuilds a model, without the resets input of an earlier conversion.

        Returns:
            The new input tensors, the new output tensors, and what was asked for and handed out
            beside them.
        """
        level = Level()
        inputs = [None if t is graph.resets else self._input(t) for t in graph.inputs]
        outputs = self._replay(graph.functional, inputs, "", level)
        self._hand_over_weights()
        return [i for i in inputs if i is not None], outputs, level

    def _input(self, tensor: keras.KerasTensor) -> keras.KerasTensor:
        shape = list(tensor.shape)
        shape[0] = self.batch_size
        if self.any_length and id(tensor) in self.temporal and len(shape) > 1:
            shape[1] = None
        return keras.Input(
            batch_shape=tuple(shape), dtype=tensor.dtype, name=tensor.name, sparse=tensor.sparse
        )

    def _replay(self, inner: keras.Model, inputs: list, prefix: str, level: Level) -> list:
        """Calls the layers of one model anew, in order; returns the new output tensors."""
        tensors = {id(t): new for t, new in zip(inner.inputs, inputs, strict=True)}
        for node in keras_internals.nodes(inner):
            args, kwargs = keras_internals.fill_in(node, tensors)
            if isinstance(node.operation, ForEachStep):  # of an earlier conversion
                tensors[id(node.outputs[0])] = args[0]
                continue
            path = f"{prefix}{node.operation.name}"
            call = Call(path, node.operation, args, kwargs, node.outputs)
            try:
                outputs = keras.tree.flatten(self._call(call, level))
            except Unconvertible:  # from a sub-model or a policy, with a remedy of its own
                raise
            except Exception as error:
                raise self._not_rebuilt(call, error) from error
            tensors.update({id(t): new for t, new in zip(node.outputs, outputs, strict=True)})
        return [tensors[id(t)] for t in inner.outputs]

    def _call(self, call: Call, level: Level) -> Structure:
        index = self._calls.get(call.path, 0)
        self._calls[call.path] = index + 1
        # A sub-model is copied as one layer, with all that is in it, unless something in it becomes
        # another layer: one that carries, or a `TimeDistributed` that is shared.
        if keras_internals.is_graph(call.operation) and (
            self._has_recurrent(call.path)
            or (self.share and time_distributed.is_within(call.operation))
        ):
            return self._call_submodel(call, index, level)
        if call.path in self.recurrent:
            return self.policy(level, call, index)
        return self.layer(call.operation)(*call.args, **call.kwargs)

    def _not_rebuilt(self, call: Call, error: Exception) -> Unconvertible:
        arguments = keras.tree.flatten((call.args, call.kwargs))
        shapes = [tuple(a.shape) for a in arguments if hasattr(a, "shape")]
        return Unconvertible(
            f"`{call.path}` ({type(call.operation).__name__}) cannot be rebuilt at batch size "
            f"{self.batch_size}. Received: inputs of shape {shapes}. A batch size or a number of "
            "time steps written into the graph is the usual cause: write -1 "
            "(`ops.reshape(h, (-1, units))`) or use `keras.layers.Reshape`, which leaves "
            f"the batch alone. Keras said: {error}"
        )

    # Sub-models

    def _has_recurrent(self, submodel: str) -> bool:
        """True if a layer below the sub-model of this path goes to the policy."""
        return any(path.startswith(f"{submodel}/") for path in self.recurrent)

    def _call_submodel(self, call: Call, index: int, level: Level) -> list:
        """Calls the copy of a sub-model, which takes what its own level asks of `level`."""
        if index and not self.share_submodels and self._has_recurrent(call.path):
            raise Unconvertible(
                f"`{call.path}` is a sub-model with recurrent layers that is called {index + 1} "
                "times. Received: one state to carry for several streams. Call its layers one by "
                "one in the outer model (a shared layer gets a state for each call), or build one "
                "sub-model for each call."
            )
        inner = keras_internals.functional(call.operation)
        inputs = keras.tree.flatten(call.argument(0, "inputs"))
        if id(call.operation) not in self._copies:
            self._copy_submodel(call.operation, inner, inputs, f"{call.path}/")
        copy, below = self._copies[id(call.operation)], self._levels[id(call.operation)]

        suffix = f"_call{index}" if index else ""  # each call has states of its own
        asked_for = [level.input(n + suffix, t.shape, t.dtype) for n, t in below.inputs.items()]
        options = {k: v for k, v in call.kwargs.items() if k == "training"}
        present = [i for i in inputs if i is not None]
        outputs = keras.tree.flatten(copy([*present, *asked_for], **options))

        count = len(inner.outputs)
        for name, tensor in zip(below.outputs, outputs[count:], strict=True):
            level.output(name + suffix, tensor)
        return outputs[:count]

    def _copy_submodel(
        self, model: keras.Model, inner: keras.Model, arguments: list, prefix: str
    ) -> None:
        """Rebuilds a sub-model for arguments shaped as those given; None is left out."""
        below = Level()
        inputs = [
            None if a is None else keras.Input(batch_shape=a.shape, dtype=a.dtype, name=t.name)
            for a, t in zip(arguments, inner.inputs, strict=True)
        ]
        outputs = self._replay(inner, inputs, prefix, below)
        present = [i for i in inputs if i is not None]
        # Weight files name a sub-model by its class. A `Sequential` has one input and one output;
        # with resets or states beside them the copy is a Functional model of the same name.
        sequential = isinstance(model, (keras.Sequential, Sequential))
        if sequential and self.plain:
            copies = [self._copies.get(id(layer)) for layer in inner.layers]  # none of an input
            copy = keras.Sequential(
                [*present, *(c for c in copies if c is not None)], name=model.name
            )
        else:
            cls = Sequential if sequential else keras_internals.class_to_rebuild(model)
            outputs = [*outputs, *below.outputs.values()]
            copy = cls([*present, *below.inputs.values()], outputs, name=model.name)
        self._copies[id(model)], self._levels[id(model)] = copy, below

    # Layers

    def layer(
        self, layer: keras.Operation, cls: type[Layer] | None = None, **config: Any
    ) -> keras.Operation:
        """The new layer for an old one: the same one when shared, else a copy with its weights.

        Args:
            layer: the old layer, or an operation without weights.
            cls: class of the copy; by default the layer's own.
            config: entries that differ from the old layer's config.
        """
        if id(layer) not in self._copies:
            if not isinstance(layer, keras.layers.Layer) or (self.share and cls is None):
                self._copies[id(layer)] = time_distributed.shared(layer)
            else:
                self._copies[id(layer)] = self._copy(layer, cls, config)
        return self._copies[id(layer)]

    def _copy(self, layer: Layer, cls: type[Layer] | None, config: dict[str, Any]) -> Layer:
        copy = copy_layer(layer, cls, **config)
        # A model that carries may get windows of a second length; a plain one is Keras's own.
        copy = time_distributed.plain(copy) if self.plain else time_distributed.for_any_length(copy)
        # A layer that carries is another object than the one it shares weights with. The cell of a
        # recurrent one, which holds nearly all of them, is the same.
        if self.share:
            if getattr(layer, "cell", None) is not None:
                keras_internals.replace_attribute(copy, "cell", layer.cell)
            self._without_shared.append((layer, copy))
        else:
            self._without_weights.append((layer, copy, skip_initializers(layer, copy)))
        return copy

    def _hand_over_weights(self) -> None:
        """Fills every copy, now that all are built, and gives the initializers back."""
        for old, new, restore_initializers in self._without_weights:
            restore_initializers()
            copy_variables(old, new)
        for old, new in self._without_shared:
            share_variables(old, new)
        for copy in self._copies.values():
            if isinstance(copy, Carry):
                copy.reset_state()  # a cell's initial state may be a weight
