"""The exporters of the running backend: from a model of `single_step` to an artifact's file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.export.formats import Target
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor


def write(model: keras.Model, target: Target, path: Path, *, quantize: bool = False) -> None:
    """Writes an artifact with the running backend.

    Args:
        model: from `single_step`.
        target: what to write.
        path: the file to write, for "tf_saved_model" the directory.
        quantize: LiteRT only: weights in int8.
    """
    _fix_statistics(model)
    keras_internals.add_as_numpy_does()  # in a fresh process no model of ours has run
    with quiet():
        if target.format == "onnx" and keras.backend.backend() == "torch":
            _write_onnx_with_torch(model, path, target.rows)
        else:
            _write_with_keras(model, target, path, quantize)


def _fix_statistics(model: keras.Model) -> None:
    """Makes NumPy arrays of what `Normalization` learned.

    It holds tensors that were made outside of the graph, which tf2onnx takes for inputs.
    """
    for layer in model.layers:
        for part in parts_of(layer):
            if isinstance(part, keras.layers.Normalization):
                part.mean = keras.ops.convert_to_numpy(part.mean)
                part.variance = keras.ops.convert_to_numpy(part.variance)


def _write_with_keras(model: keras.Model, target: Target, path: Path, quantize: bool) -> None:
    """Writes by Keras's `Model.export`, with as many rows as the target says."""
    options = {}
    if quantize:
        import tensorflow as tf

        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    specs = [
        keras.InputSpec(shape=(target.rows, *t.shape[1:]), dtype=t.dtype, name=t.name)
        for t in model.inputs
    ]
    model.export(str(path), format=target.format, input_signature=[specs], verbose=False, **options)
    if target.format == "onnx":
        _into_one_file(path)


def _write_onnx_with_torch(model: keras.Model, path: Path, rows: int | None) -> None:
    """Writes by torch's new exporter.

    Keras 3.15 takes torch's old one where a size is unknown, and that fails on LayerNormalization.
    """
    import torch

    class Flat(torch.nn.Module):
        """Takes inputs one by one, as the exporter names them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> tuple:
            return tuple(self.model(list(inputs), training=False))

    # Sizes of the example that are not to be constants must not be 1, which the exporter keeps.
    example = tuple(
        keras.ops.ones((rows or 2, *(size or 3 for size in t.shape[1:])), t.dtype)
        for t in model.inputs
    )
    unknown = tuple(
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate((rows, *t.shape[1:]))
            if size is None
        }
        for t in model.inputs
    )
    with torch.no_grad():
        program = torch.onnx.export(
            Flat().eval(),
            example,
            dynamo=True,
            dynamic_shapes=(unknown,),  # `*inputs` is one parameter to the exporter
            input_names=[t.name for t in model.inputs],
            verbose=False,
        )
    program.save(path)
    _in_one_type(path)


_OF_ONE_TYPE = (
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"),
)


def _in_one_type(path: Path) -> None:
    """Casts operands to one type: ONNX knows no sum and no comparison of a float and an integer.

    Keras makes an integer tensor of the 0 in `h > 0`, which torch compares and writes as it is.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        of_inputs = [types.get(name) for name in node.input]
        if node.op_type in _OF_ONE_TYPE and len(set(of_inputs)) == 2 and None not in of_inputs:
            place = int(of_inputs[0] in floats)  # of the one that is not a float
            name, target = f"{node.name}_in_one_type", of_inputs[1 - place]
            cast = onnx.helper.make_node("Cast", [node.input[place]], [name], to=target)
            node.input[place] = name
            nodes.append(cast)
        nodes.append(node)
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        onnx.save(model, path)


def _into_one_file(path: Path) -> None:
    """Moves weights from beside the file into it, so that a browser has one file to load."""
    import onnx

    beside = path.with_name(f"{path.name}.data")
    if beside.exists():
        model = onnx.load(path)
        onnx.save(model, path)
        beside.unlink()


def rename_outputs(path: Path, old: list[str], new: list[str]) -> None:
    """Names the outputs of an ONNX file; one that stands for two in `old` gets both names."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    _free_names(graph, set(new))
    old = [_inside(name) if name in new else name for name in old]
    outputs_before = {output.name: output for output in graph.output}
    outputs = []
    for before, after in zip(old, new, strict=True):
        # A node that copies, rather than another name for the tensor: other nodes may read it.
        graph.node.append(onnx.helper.make_node("Identity", [before], [after]))
        output = onnx.ValueInfoProto()
        output.CopyFrom(outputs_before[before])
        output.name = after
        outputs.append(output)
    del graph.output[:]
    graph.output.extend(outputs)
    onnx.save(model, path)


def _free_names(graph: Any, names: set[str]) -> None:
    """Calls what is inside of an ONNX graph, outputs included, by other names than these.

    torch names what an operation gives by the operation, as Keras names an output.
    """
    for node in graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                if value in names:
                    values[i] = _inside(value)
        for attribute in node.attribute:
            _free_names(attribute.g, names)  # of a loop; empty for all others
    for value in (*graph.value_info, *graph.output):
        if value.name in names:
            value.name = _inside(value.name)


def _inside(name: str) -> str:
    return f"{name}_inside"


def quantize_onnx(exact: Path, path: Path) -> None:
    """Writes an ONNX file with weights in int8, by ONNX Runtime's own quantizer."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():  # it recommends a preprocessing meant for vision models
        quantize_dynamic(
            exact, path, weight_type=QuantType.QInt8, extra_options={"EnableSubgraph": True}
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses what exporters print, log and warn of."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
