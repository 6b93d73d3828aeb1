"""Everything of Keras that is not public API and that this package needs, in one place.

| what | why no public API will do | Keras read |
|---|---|---|
| `graph_calls` reads `Function._nodes_by_depth` | `clone_model` cannot enter sub-models, add inputs or outputs, or say which tensor runs along time | 3.12 to 3.15 |
| `sublayers` reads `Layer._layers` | `Model.layers` does not enter wrappers and custom layers | 3.12 to 3.15 |
| `mask_of` is `keras.src.backend.common.masking.get_keras_mask` | Keras drops the implicit mask of a call with several tensors, and scales sample weights by it | 3.12 to 3.15 |
| `compile_arguments` reads `Trainer._compile_config` | `get_compile_config` cannot serialize every loss | 3.12 to 3.15 |
| `fit_arguments` looks at the frame of `fit` | callbacks are not told data, shuffle or weights | 3.12 to 3.15 |
| `rnn_loop` is `keras.src.backend.rnn` | `keras.ops.scan` wants outputs shaped like the states on TensorFlow | 3.12 to 3.15 |
| `ensure_batch` | nothing in `keras.ops` checks a shape at run time; TensorFlow broadcasts one row silently | 3.12 to 3.15 |

`tests/test_compat.py` fails when one of them moves. The adapter that `fit` reads a sequence through is in
`adapter.py`; the repairs of plain `stateful=True` layers are in `repairs.py`.
"""  # noqa: E501

import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras.src import backend as _keras_backend
from keras.src.backend.common import masking as _keras_masking

rnn_loop = _keras_backend.rnn


class Call(NamedTuple):
    """One call of an operation in a Functional graph, its tensors as in the outermost graph."""

    path: str
    operation: Any
    args: tuple
    kwargs: dict
    outputs: list


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph behind a built `Sequential`; any other model itself."""
    return model._functional if isinstance(model, keras.Sequential) and model.built else model


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model whose graph can be read."""
    return isinstance(operation, keras.Model) and hasattr(functional(operation), "_nodes_by_depth")


def mask_of(tensor: Any) -> Any:
    """The mask that Keras attached to a tensor, symbolic or not, or None."""
    return _keras_masking.get_keras_mask(tensor)


def nodes(model: keras.Model) -> Iterator[Any]:
    """The nodes of a model's graph, inputs first, input nodes left out."""
    by_depth = functional(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.operation and not node.is_input:
                yield node


def graph_calls(
    model: keras.Model, prefix: str = "", tensors: dict[int, Any] | None = None
) -> Iterator[Call]:
    """All calls of a model's graph in an order in which they can run, those inside sub-models included."""
    if tensors is None:
        tensors = {id(t): t for t in functional(model).inputs}
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        path = f"{prefix}{operation.name}"
        if is_graph(operation):
            inner = functional(operation)
            given = keras.tree.flatten(args[0] if args else kwargs["inputs"])
            inside = {id(t): g for t, g in zip(inner.inputs, given, strict=True)}
            yield from graph_calls(operation, f"{path}/", inside)
            results = [inside[id(t)] for t in inner.outputs]
        else:
            results = node.outputs
            yield Call(path, operation, args, kwargs, results)
        for tensor, result in zip(node.outputs, results, strict=True):
            tensors[id(tensor)] = result


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, whatever the attribute."""
    return list(layer._layers)


def ensure_batch(x: Any, batch_size: int) -> Any:
    """Fails in the compiled step where a batch has another number of rows (TensorFlow knows it only then)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not isinstance(x, keras.KerasTensor):
            return tf.ensure_shape(x, (batch_size, *x.shape[1:]))
    return x


def fit_arguments(model: keras.Model) -> dict[str, Any]:
    """The arguments of the `fit` that is running, by name; empty outside of one.

    Keras tells callbacks nothing of the data, the shuffle or the weights that `fit` was given, and all three can
    make a stateful training silently wrong. So the frames above are looked through for Keras's own `fit`.
    """
    frame: Any = sys._getframe()
    while frame is not None:
        local = frame.f_locals
        if frame.f_code.co_name == "fit" and local.get("self") is model and "epoch_iterator" in local:
            return {
                k: local[k]
                for k in inspect.signature(keras.Model.fit).parameters
                if k in local and k != "self"
            }
        frame = frame.f_back
    return {}


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What a model was compiled with (loss, metrics, ...), as the objects themselves.

    `get_compile_config` is public but serializes, which fails for a loss that is a local function.
    """
    return dict(model._compile_config.config)
