"""The operations behind `keras.ops`, and the record that Keras makes of calls on symbolic tensors.

`keras.ops` called on `KerasTensor`s computes nothing: it makes an object of the operation, which
has the arguments as attributes (axes, paddings), and a node that knows what went in and came out.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src import backend
from keras.src.activations.activations import Mish
from keras.src.backend.common.variables import Variable
from keras.src.ops.node import Node

from keras_stateful.foundation.types import Structure


def operation_name(operation: Any) -> str | None:
    """The name of an operation of `keras.ops` or `keras.activations` (`"Softmax"`); else None.

    Private: the classes of operations, which are named after their functions.
    """
    cls = type(operation)
    ours = cls.__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    return cls.__name__ if ours else None


def settings_of(operation: Any) -> dict[str, Any]:
    """What an operation of `keras.ops` was made with, by name (`{"axis": 1}`).

    Private: the attributes of operations.
    """
    return {k: v for k, v in vars(operation).items() if not k.startswith("_")}


class Record(NamedTuple):
    """Calls that a function made on symbolic tensors.

    Attributes:
        nodes: of the calls that the outputs were made by, in order; see `graph.nodes`.
        outputs: what the function returned.
    """

    nodes: list[Any]
    outputs: Structure


def record(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Record:
    """Calls a function on symbolic tensors and reads what it did, which leaves no trace in layers.

    Private: `Node`, and the lists of nodes that operations keep. A `keras.Function` would show the
    nodes as well, but refuses two layers of one name, and the layers would keep the nodes.
    """
    made: list[Any] = []
    try:
        with _nodes_into(made), _variables_meet_symbols(), _symbols_meet_the_backend():
            outputs = function(*args, **kwargs)
    finally:
        _forget(made)
    producers = {id(t): node for node in made for t in node.outputs}
    needed: set[int] = set()
    remaining = keras.tree.flatten(outputs)
    while remaining:
        node = producers.get(id(remaining.pop()))
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            remaining += node.arguments.keras_tensors
    return Record([node for node in made if id(node) in needed], outputs)


@contextlib.contextmanager
def _nodes_into(made: list[Any]) -> Iterator[None]:
    """Appends every node that this thread makes to a list, for as long as this lasts."""
    initialize, here = Node.__init__, threading.get_ident()

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() == here:
            made.append(self)
        initialize(self, *args, **kwargs)

    Node.__init__ = noted
    try:
        yield
    finally:
        Node.__init__ = initialize


def _forget(nodes: list[Any]) -> None:
    """Has the operations around some nodes know nothing of them."""
    ids = {id(node) for node in nodes}
    for node in nodes:
        sources = [t._keras_history.operation for t in node.arguments.keras_tensors]
        for operation in (node.operation, *sources):
            if operation is not None:
                for kept in (operation._inbound_nodes, operation._outbound_nodes):
                    kept[:] = [n for n in kept if id(n) not in ids]


_ARITHMETIC = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul", "rand", "ror"),
    *("rxor", "lt", "le", "gt", "ge"),
]


@contextlib.contextmanager
def _variables_meet_symbols() -> Iterator[None]:
    """Has `variable * tensor` recorded like `tensor * variable`, for as long as this lasts.

    Private: the arithmetic of `Variable`, which asks the backend at once and fails on symbolic
    tensors. Told that it cannot, Python asks the tensor.
    """

    def declining(method: Callable) -> Callable:
        def wrapped(self: Any, other: Any) -> Any:
            return NotImplemented if isinstance(other, keras.KerasTensor) else method(self, other)

        return wrapped

    names = [f"__{name}__" for name in _ARITHMETIC]
    kept = {name: vars(Variable)[name] for name in names}
    for name, method in kept.items():
        setattr(Variable, name, declining(method))
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Variable, name, method)


@contextlib.contextmanager
def _symbols_meet_the_backend() -> Iterator[None]:
    """Has what asks the backend at once take symbolic tensors, too, for as long as this lasts.

    Private: `backend.convert_to_tensor` (`keras.activations.sparsemax`, `hard_silu`), which lies in
    `backend.ops` since Keras 3.16; `Mish.static_call`, `backend.random.dropout`, and
    `Layer.add_loss`, which takes none.
    """
    functions = getattr(backend, "ops", backend)
    convert, mish, dropout = functions.convert_to_tensor, Mish.static_call, backend.random.dropout
    add_loss = keras.layers.Layer.add_loss

    def converted(x: Any, *args: Any, **kwargs: Any) -> Any:
        return x if isinstance(x, keras.KerasTensor) else convert(x, *args, **kwargs)

    def dropped_out(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if not isinstance(inputs, keras.KerasTensor):
            return dropout(inputs, rate, noise_shape, seed)
        if rate > 0:  # it draws: whoever looks for what is written finds the seed
            keras.random.uniform((), seed=seed)
        return keras.ops.copy(inputs)  # each value alone

    def add_values(self: keras.layers.Layer, loss: Structure) -> None:
        losses = keras.tree.flatten(loss)
        add_loss(self, [x for x in losses if not isinstance(x, keras.KerasTensor)])

    functions.convert_to_tensor, backend.random.dropout = converted, dropped_out
    Mish.static_call = staticmethod(
        lambda x: Mish()(x) if isinstance(x, keras.KerasTensor) else mish(x)
    )
    keras.layers.Layer.add_loss = add_values
    try:
        yield
    finally:
        functions.convert_to_tensor, backend.random.dropout = convert, dropout
        Mish.static_call = staticmethod(mish)
        keras.layers.Layer.add_loss = add_loss
