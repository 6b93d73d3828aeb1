"""The nodes and tensors of a Functional model, which Keras shows nobody.

`keras.models.clone_model` is the public way to rebuild a model. It cannot enter sub-models, add
inputs or outputs, or say which tensor runs along time, so the nodes themselves are read.
"""

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask

from keras_stateful.foundation.types import Structure, Tensor


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph behind a built `Sequential`; any other model itself.

    Private: `Sequential._functional`. A `Sequential` has no public way to its graph.
    """
    return model._functional if isinstance(model, keras.Sequential) and model.built else model


def is_graph(operation: Any) -> bool:
    """True if an operation is a model whose graph can be read.

    Private: `Function._nodes_by_depth`. Subclassed models are `keras.Model` too, and have none.
    """
    return isinstance(operation, keras.Model) and hasattr(functional(operation), "_nodes_by_depth")


def is_submodel(operation: Any) -> bool:
    """True if a call of an operation may be read as the calls of the layers of its graph.

    Not if its class has a `call` of its own, which may do anything else.

    Private: the module in which Keras's `call` is written, see `names`.
    """
    return is_graph(operation) and type(operation).call.__module__.startswith("keras.src.")


def nodes(model: keras.Model) -> Iterator[Any]:
    """The nodes of a model's graph in an order in which they can run, without input nodes.

    Each has an `operation` (mostly a layer) and its `outputs`, a list of tensors.

    Private: `Function._nodes_by_depth`, which counts depths from the outputs, 0, to the inputs.
    """
    by_depth = functional(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation and not node.is_input:
                yield node


def fill_in(node: Any, tensors: dict[int, Tensor]) -> tuple[tuple, dict[str, Any]]:
    """What a node's operation is called with, `(args, kwargs)`, other tensors in place of its own.

    Private: `SymbolicArguments.fill_in`.

    Args:
        node: from `nodes`.
        tensors: what stands for each tensor of the node's graph, by that tensor's id; None stands
            for one that is left out.
    """
    return node.arguments.fill_in(tensors)


def arguments_of(
    model: keras.Model, args: tuple, kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """What each input tensor of a sub-model is given in a call of it, and the mask for it, or None.

    Private: `Functional._standardize_inputs`, whose rules these are. A dict goes by its keys: to
    inputs in a dict as both are flattened, sorted; to any others by the names of the tensors.
    """
    inputs = args[0] if args else kwargs["inputs"]
    if isinstance(inputs, dict) and not isinstance(model.input, dict):
        inputs = [inputs[tensor.name] for tensor in model.inputs]
    arguments = keras.tree.flatten(inputs)
    mask = args[2] if len(args) > 2 else kwargs.get("mask")
    masks = [None] * len(arguments) if mask is None else keras.tree.flatten(mask)
    return arguments, [*masks, *[None] * (len(arguments) - len(masks))]


def mask_of(tensor: Tensor) -> Structure:
    """The mask that Keras attached to a tensor, symbolic or not, or None.

    Private: `keras.src.backend.common.masking.get_keras_mask`. Keras drops the implicit mask of a
    call with several tensors, and scales sample weights by it.
    """
    return get_keras_mask(tensor)


def named_pad(
    x: keras.KerasTensor, pad_width: tuple, constant_values: float | None, name: str
) -> keras.KerasTensor:
    """`keras.ops.pad` in a graph, under a name.

    Private: `KerasTensor._keras_history`. Functions of `keras.ops` take no name.
    """
    padded = keras.ops.pad(x, pad_width, constant_values=constant_values)
    padded._keras_history.operation.name = name
    return padded
