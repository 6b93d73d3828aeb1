"""Rebuilds a Functional graph: other recurrent layers, another batch size, more inputs and outputs.

One engine serves `to_stateful`, `to_stateless`, `to_inference` and `to_step_model`: it replays the
nodes of the given model on new input tensors, calls the twin of each layer (`twins`), and hands
each recurrent call to a policy, also those in sub-models. What the policy needs from outside (a
reset mask, a state) it asks of its `Level`; a sub-model passes such wishes on to the level above,
and new states up the same way:

    top level      x ───────────▶ ┌ encoder ┐ ──▶ head ──▶ y
                   resets ──────▶ │  LSTM   │                      asked for below, made here
                                  └─────────┘ ──▶ new state        handed out below, and here

What an exporter takes has no sub-models left: `single_step` makes it, of twins as well.
"""

from collections import Counter
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, TypeAlias

import keras

from keras_stateful.carry import time_distributed
from keras_stateful.carry.copying import Layer, parts_of
from keras_stateful.carry.each_step import ForEachStep
from keras_stateful.carry.graph import Call, Graph, Unconvertible
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.twins import Twins
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


# Builds one recurrent call anew: policy(level, call, index of the call among those of its layer,
# along whatever path), where the call has the old layer and the new arguments. Returns the new
# outputs.
Policy: TypeAlias = Callable[[Level, Call, int], Structure]


class Repeated(Enum):
    """What becomes of a sub-model with recurrent layers that is called several times."""

    SHARED = "it is called as often, unless it has states, which are those of one stream"
    COPIED = "each call is of a sub-model of its own, of the same layers"


class Rewriter:
    """Rebuilds one model.

    Args:
        graph: of the model.
        recurrent: which layers go to the policy, by path below the model.
        policy: builds their calls.
        share: use the old layers themselves (same variables) where the policy does not make its
            own.
        repeated: what becomes of sub-models with such layers that are called several times.
        batch_size: batch size of new input tensors; None for any.
        temporal: ids of the input tensors that run along time.
        any_length: whether new inputs that run along time get an unknown number of time steps.
        plain: whether copies are of Keras's own classes alone.
    """

    def __init__(
        self,
        graph: Graph,
        recurrent: set[str],
        policy: Policy,
        *,
        share: bool = False,
        repeated: Repeated,
        batch_size: int | None,
        temporal: Collection[int] = (),
        any_length: bool = False,
        plain: bool = False,
    ):
        self.graph, self.recurrent, self.policy = graph, recurrent, policy
        self.repeated, self.batch_size = repeated, batch_size
        self.temporal, self.any_length, self.plain = temporal, any_length, plain
        # A model that carries may get windows of a second length; a plain one is Keras's own.
        finish = time_distributed.plain if plain else time_distributed.for_any_length
        self.twins = Twins(graph.layers, share=share, finish=finish)
        self._calls: Counter[int] = Counter()  # of each layer and sub-model, by its id
        # By the id of the old ones: what the policy made of layers, the last copy of sub-models.
        self._made: dict[int, keras.Operation] = {}

    def run(self) -> tuple[dict | list, list, Level]:
        """Rebuilds the model, without the resets input of an earlier conversion.

        Returns:
            The new input tensors, by key where the old ones are in a dict; the new output tensors;
            and what was asked for and handed out beside them.
        """
        level = Level()
        inputs = list(map(self._input, self.graph.input_names, self.graph.inputs))
        outputs = self._replay(self.graph.functional, inputs, "", level)
        self.twins.hand_over_weights()
        for twin in self.twins.made:
            if isinstance(twin, Carry):
                twin.reset_state()  # a cell's initial state may be a weight
        present = [i for i in inputs if i is not None]
        in_dict = isinstance(self.graph.functional.input, dict)
        return {i.name: i for i in present} if in_dict else present, outputs, level

    def _input(self, name: str, tensor: keras.KerasTensor) -> keras.KerasTensor | None:
        if tensor is self.graph.resets:
            return None
        shape = list(tensor.shape)
        shape[0] = self.batch_size
        if self.any_length and id(tensor) in self.temporal and len(shape) > 1:
            shape[1] = None
        return keras.Input(
            batch_shape=tuple(shape), dtype=tensor.dtype, name=name, sparse=tensor.sparse
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
        index = self._calls[id(call.operation)]
        self._calls[id(call.operation)] += 1
        if keras_internals.is_submodel(call.operation) and self._has_recurrent(call.path):
            return self._call_submodel(call, index, level)
        if call.path not in self.recurrent:
            return self.twins.call(call.operation, call.args, call.kwargs)
        if isinstance(call.operation, Carry):  # a conversion has numbered the calls already
            index = call.kwargs.get("slot", 0)
        args, kwargs = self.twins.arguments((call.args, call.kwargs))
        return self.policy(level, call._replace(args=args, kwargs=kwargs), index)

    def layer(
        self, layer: Layer, cls: type[Layer] | None = None, /, **config: Any
    ) -> keras.Operation:
        """The twin of a layer for the policy; see `Twins.of`."""
        self._made[id(layer)] = twin = self.twins.of(layer, cls, **config)
        return twin

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

    # Sub-models in which something goes to the policy

    def _has_recurrent(self, submodel: str) -> bool:
        """True if a layer below the sub-model of this path goes to the policy."""
        return any(path.startswith(f"{submodel}/") for path in self.recurrent)

    def _call_submodel(self, call: Call, index: int, level: Level) -> list:
        """Calls the copy of a sub-model, which takes what its own level asks of `level`."""
        inner = keras_internals.functional(call.operation)
        arguments, masks = keras_internals.arguments_of(inner, call.args, call.kwargs)
        below = Level()
        if index and self.repeated is not Repeated.COPIED:
            copy = self._made[id(call.operation)]
            self._check_shareable(call, index, copy)
        else:
            name = f"{call.operation.name}_call{index}" if index else call.operation.name
            copy = self._copy_submodel(call, name, arguments, below)
            self._made[id(call.operation)] = copy

        asked_for = [level.input(name, t.shape, t.dtype) for name, t in below.inputs.items()]
        options = {k: v for k, v in call.kwargs.items() if k == "training"}
        present = [i for i, a in enumerate(arguments) if a is not None]
        if any(mask is not None for mask in masks):
            options["mask"] = [masks[i] for i in present]
        tensors = [*(arguments[i] for i in present), *asked_for]
        outputs = keras.tree.flatten(copy(tensors, **options))
        count = len(inner.outputs)
        for name, tensor in zip(below.outputs, outputs[count:], strict=True):
            level.output(name, tensor)
        return outputs[:count]

    def _check_shareable(self, call: Call, index: int, copy: keras.Model) -> None:
        """Checks that the copy of a sub-model may be called again."""
        if any(isinstance(part, Carry) for part in parts_of(copy)):
            raise Unconvertible(
                f"`{call.path}` is a sub-model with recurrent layers that is called {index + 1} "
                "times. Received: one state to carry for several streams. Call its layers one by "
                "one in the outer model (a shared layer gets a state for each call), or build one "
                "sub-model for each call."
            )

    def _copy_submodel(self, call: Call, name: str, arguments: list, below: Level) -> keras.Model:
        """Rebuilds a sub-model for arguments shaped as those given; None is left out."""
        model = call.operation
        inner = keras_internals.functional(model)
        inputs = [
            None if a is None else _input_like(t, a)
            for a, t in zip(arguments, inner.inputs, strict=True)
        ]
        outputs = self._replay(inner, inputs, f"{call.path}/", below)
        present = [i for i in inputs if i is not None]
        # Weight files name a sub-model by its class. A `Sequential` has one input and one output;
        # with resets or states beside them the copy is a Functional model of the same name.
        sequential = isinstance(model, (keras.Sequential, Sequential))
        if sequential and self.plain:
            left_out = (keras.layers.InputLayer, ForEachStep)
            stack = [layer for layer in inner.layers if not isinstance(layer, left_out)]
            return keras.Sequential([*present, *map(self._made_of, stack)], name=name)
        cls = Sequential if sequential else keras_internals.class_to_rebuild(model)
        outputs = [*outputs, *below.outputs.values()]
        return cls([*present, *below.inputs.values()], outputs, name=name)

    def _made_of(self, old: Layer) -> keras.Operation:
        """What stands for an old layer or sub-model that was called."""
        return self._made[id(old)] if id(old) in self._made else self.twins.within(old)


def _input_like(tensor: keras.KerasTensor, argument: keras.KerasTensor) -> keras.KerasTensor:
    """A new input for one of a sub-model that is given an argument."""
    same = len(argument.shape) == len(tensor.shape)  # else Keras adds or drops an axis
    shape = argument.shape if same else (argument.shape[0], *tensor.shape[1:])
    return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)
