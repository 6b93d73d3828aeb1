"""A model's graph, read once: every call of every layer, those inside sub-models included.

A Functional model is a graph of calls, and a sub-model is one call of it that stands for a graph of
its own. Here they are joined into one list, in an order in which they can run, whose tensors are
those of the outermost graph:

    model     x ──▶ encoder ──▶ h ──▶ head ──▶ y       head is a Sequential of a and b
    Graph     x ──▶ encoder ──▶ h ──▶ head/a ──▶ · ──▶ head/b ──▶ y

A `Graph` is made once for each conversion and handed to whoever asks something of the model. The
graph of a Functional model does not change after it was made; a `Sequential` gets another one when
a layer is added, so who keeps a `Graph` must look whether `functional` is still the model's.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import keras

from keras_stateful.carry.adapters import data_tensors
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.register import is_registered
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

RESETS = "resets"  # name of the input, and key of a batch, that says which rows start anew


class Unconvertible(ValueError):
    """A model that cannot be converted, with the layer's path and the remedy."""


@keras.saving.register_keras_serializable(package="keras_stateful")
class Masked(keras.layers.Layer):
    """A tensor with another mask: what a graph says by `submodel(x, mask=...)`."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor) -> Tensor:
        return inputs

    def compute_output_spec(self, inputs: Tensor, mask: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype, sparse=inputs.sparse)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor) -> Tensor:
        return previous_mask


class Call(NamedTuple):
    """One call of a layer or operation in a graph, its tensors as in the outermost graph."""

    path: str
    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    @property
    def tensors(self) -> list[keras.KerasTensor]:
        """Every tensor among the arguments."""
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [t for t in flat if isinstance(t, keras.KerasTensor)]

    def argument(self, position: int, name: str) -> Structure:
        """The argument that was given at a position or by name; None where it was not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)

    @property
    def is_recurrent(self) -> bool:
        """True if a layer with an unbounded past is called: Keras's or by `register_carry`."""
        return self.is_rnn or is_registered(type(self.operation))

    @property
    def is_rnn(self) -> bool:
        """True if a recurrent layer of Keras is called, or a subclass."""
        return isinstance(self.operation, keras.layers.RNN)

    @property
    def sequences(self) -> keras.KerasTensor:
        """What a recurrent layer reads, `(batch, time, ...)`; of several tensors the first."""
        if self.is_rnn:
            return self.argument(0, "sequences")
        return self.data[0]

    @property
    def data(self) -> list[keras.KerasTensor]:
        """What a layer reads: its tensors, but no masks and nothing of an earlier conversion."""
        return data_tensors(self.args, self.kwargs)

    @property
    def initial_state(self) -> Structure | None:
        """The state that the graph starts a recurrent layer from; None where it gives none."""
        return self.argument(1, "initial_state") if self.is_rnn else None

    @property
    def users_arguments(self) -> dict[str, Any]:
        """The keyword arguments that the user gave, not an earlier conversion."""
        return users_arguments(self.operation, self.kwargs)


def users_arguments(operation: keras.Operation, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call that its user gave, not an earlier conversion."""
    if not isinstance(operation, Carry):
        return kwargs
    return {k: v for k, v in kwargs.items() if k not in (RESETS, "slot")}


class Graph:
    """The graph of a `Sequential` or Functional model.

    Attributes:
        model: the model.
        functional: the Functional behind it, the model itself unless that is a `Sequential`.
        inputs: its input tensors.
        outputs: its output tensors, as the calls name them.
        calls: every call, in an order in which they can run.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.functional = keras_internals.functional(model)
        self.inputs: list[keras.KerasTensor] = list(self.functional.inputs)
        tensors = {id(t): t for t in self.inputs}
        self.calls = list(_calls(model, "", tensors, set()))
        self.outputs: list[keras.KerasTensor] = [tensors[id(t)] for t in self.functional.outputs]

    @cached_property
    def producers(self) -> dict[int, Call]:
        """The call that each tensor comes from, by the tensor's id; inputs come from none."""
        return {id(t): call for call in self.calls for t in call.outputs}

    @property
    def input_names(self) -> list[str]:
        """What data call the inputs: by the keys of a dict, or by the tensors' own names."""
        structure = self.functional.input
        # Keras sorts the tensors by the keys, which need not be their names.
        return sorted(structure) if isinstance(structure, dict) else [t.name for t in self.inputs]

    @cached_property
    def layers(self) -> list[keras.layers.Layer]:
        """Every layer that is called, once."""
        operations = {id(call.operation): call.operation for call in self.calls}
        return [op for op in operations.values() if isinstance(op, keras.layers.Layer)]

    @property
    def recurrent(self) -> list[Call]:
        """The calls of recurrent layers."""
        return [call for call in self.calls if call.is_recurrent]

    @property
    def converted(self) -> bool:
        """True if an earlier conversion put in layers that carry their state."""
        return any(map(_carries, self.calls))

    @property
    def carrying(self) -> list[str]:
        """Paths of recurrent layers that carry already, by conversion or by `stateful=True`."""
        if self.converted:
            paths = [c.path for c in self.recurrent if _carries(c)]
        else:
            paths = [c.path for c in self.recurrent if getattr(c.operation, "stateful", False)]
        return list(dict.fromkeys(paths))  # a shared layer is called several times

    @cached_property
    def slots(self) -> dict[int, int]:
        """How often each layer or operation is called, along whatever path, by its id."""
        return dict(Counter(id(call.operation) for call in self.calls))

    @cached_property
    def keys(self) -> dict[int, str]:
        """The path that stands for each layer or operation, by its id; see `main_path`."""
        paths: dict[int, list[str]] = {}
        for call in self.calls:
            paths.setdefault(id(call.operation), []).append(call.path)
        return {operation: main_path(several) for operation, several in paths.items()}

    @cached_property
    def masked(self) -> set[int]:
        """Ids of the tensors that may have a mask when the model runs.

        The mask that Keras attaches to a tensor of the graph does not tell: it stops at the border
        of a sub-model, whose graph was made of inputs without one.
        """
        masked: set[int] = set()
        for call in self.calls:
            passes_on = getattr(call.operation, "supports_masking", True)
            gets_one = call.kwargs.get("mask") is not None or any(
                id(t) in masked for t in call.tensors
            )
            for tensor in call.outputs:
                if keras_internals.mask_of(tensor) is not None or (passes_on and gets_one):
                    masked.add(id(tensor))
        return masked

    def gets_mask(self, operation: keras.Operation) -> bool:
        """True if some call of a recurrent layer may have a mask."""
        return any(
            id(call.sequences) in self.masked or call.argument(2, "mask") is not None
            for call in self.recurrent
            if call.operation is operation
        )

    @property
    def chosen(self) -> list[str] | None:
        """The recurrent layers that are to carry, where the model says which; else None."""
        return self.carrying if self.converted else self.carrying or None

    @property
    def resets(self) -> keras.KerasTensor | None:
        """The resets input, where an earlier conversion added one."""
        named = next((t for t in self.inputs if t.name == RESETS), None)
        return named if self.converted or self.carrying else None


def _carries(call: Call) -> bool:
    """True if a layer is called that has states of its own; that of a step model has none."""
    return isinstance(call.operation, Carry) and call.operation.slots > 0


def main_path(paths: Iterable[str]) -> str:
    """Of several paths to one layer the one that its states are called by: the shortest."""
    return min(paths, key=lambda path: (path.count("/"), path))


def _calls(
    model: keras.Model, prefix: str, tensors: dict[int, Tensor], seen: set[int]
) -> Iterator[Call]:
    """Reads the calls of a model and of the sub-models in it.

    Args:
        model: whose nodes are read.
        prefix: of the paths, with a slash behind it.
        tensors: what stands for the model's own tensors, by their id. The inputs must be there;
            every other tensor is added.
        seen: ids of the output tensors of calls before; added to.
    """
    for node in keras_internals.nodes(model):
        args, kwargs = keras_internals.fill_in(node, tensors)
        path = f"{prefix}{node.operation.name}"
        if keras_internals.is_submodel(node.operation):
            inner = keras_internals.functional(node.operation)
            arguments, masks = keras_internals.arguments_of(inner, args, kwargs)
            inside: dict[int, Tensor] = {}
            for tensor, argument, mask in zip(inner.inputs, arguments, masks, strict=True):
                if mask is not None:
                    call = Call(f"{path}/mask", Masked(), (argument,), {"mask": mask}, [])
                    argument = call.operation(argument, mask=mask)
                    yield call._replace(outputs=[argument])
                inside[id(tensor)] = argument
            yield from _calls(node.operation, f"{path}/", inside, seen)
            outputs = [inside[id(t)] for t in inner.outputs]
        else:
            # A sub-model that is called again has the same nodes, whose output tensors stand for
            # other values now. A copy keeps shape, dtype and mask, and has an id of its own.
            outputs = [copy.copy(t) if id(t) in seen else t for t in node.outputs]
            seen.update(map(id, node.outputs))
            yield Call(path, node.operation, args, users_arguments(node.operation, kwargs), outputs)
        tensors.update({id(t): new for t, new in zip(node.outputs, outputs, strict=True)})


def replay(
    model: keras.Model,
    inputs: list[Tensor],
    call: Callable[[keras.Operation, tuple, dict[str, Any]], Structure],
) -> list[Tensor]:
    """Calls what a model calls anew, in order, from other inputs on; returns the other outputs.

    Args:
        model: whose nodes are read; its sub-models are called as one.
        inputs: what stands for its input tensors.
        call: calls one operation, with these positional arguments and those by name.
    """
    inner = keras_internals.functional(model)
    tensors = {id(t): new for t, new in zip(inner.inputs, inputs, strict=True)}
    for node in keras_internals.nodes(model):
        args, kwargs = keras_internals.fill_in(node, tensors)
        outputs = keras.tree.flatten(call(node.operation, args, kwargs))
        tensors.update({id(t): new for t, new in zip(node.outputs, outputs, strict=True)})
    return [tensors[id(t)] for t in inner.outputs]
