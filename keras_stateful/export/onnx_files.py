"""What is done to an ONNX file after its exporter: types, one file for all, names, int8."""

from pathlib import Path
from typing import Any

from keras_stateful.export.quiet import quiet

_OF_ONE_TYPE = (
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"),
)


def in_one_type(path: Path) -> None:
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


def into_one_file(path: Path) -> None:
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
