"""What a quantizer did: how many weights of an artifact are in int8.

Quantizers leave alone what would not gain, or what they do not know, and say nothing: LiteRT's
takes no matrix of fewer than 1,024 numbers, ONNX Runtime's those of matrix products and
convolutions alone.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_stateful.export.formats import FORMATS, Target
from keras_stateful.foundation.types import Tensor
from keras_stateful.session.runtimes import litert_interpreter, openvino_core


def count_int8(entry: Path, target: Target) -> int:
    """How many numbers an artifact holds in int8, scales and zero points left out.

    Args:
        entry: the file.
        target: what it is, of a format that has a quantizer.
    """
    shapes = _SHAPES[target.format](entry)
    return sum(math.prod(shape) for shape in shapes if math.prod(shape) > 1)


def _shapes_litert(entry: Path) -> Iterator[tuple[int, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's copy warns that it will be removed
        # Nothing is allocated: the tensors are those of the file.
        interpreter = litert_interpreter()(model_content=entry.read_bytes())
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] == np.int8:
            yield tuple(map(int, tensor["shape"]))


def _shapes_onnx(entry: Path) -> Iterator[tuple[int, ...]]:
    import onnx

    def walk(graph: Any) -> Iterator[Tensor]:
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from walk(attribute.g) if attribute.HasField("g") else ()

    for tensor in walk(onnx.load(entry).graph):
        if tensor.data_type == onnx.TensorProto.INT8:
            yield tuple(tensor.dims)


def _shapes_openvino(entry: Path) -> Iterator[tuple[int, ...]]:
    for node in openvino_core().read_model(entry).get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().to_dtype() == np.int8:
            yield tuple(node.get_output_shape(0))


# The shapes of an artifact's constants that are in int8.
_SHAPES = {"onnx": _shapes_onnx, "openvino": _shapes_openvino, "litert": _shapes_litert}


def describe_weights(single: keras.Model, entry: Path, target: Target) -> dict[str, Any]:
    """What the manifest says of the weights; warns where none is in int8.

    Args:
        single: from `single_step`.
        entry: the quantized file.
        target: what was written.

    Returns:
        `{"weights": "int8" or "float32", "weights_in_int8": numbers, "weights_in_all": numbers}`.
    """
    quantized, in_all = count_int8(entry, target), int(single.count_params())
    if not quantized:
        warnings.warn(
            f"No weight was quantized, and the artifact is as it would be without. Received: "
            f'quantize="int8" for a model of {in_all} weights; the largest has '
            f"{max((math.prod(w.shape) for w in single.weights), default=0)} numbers, where "
            f"{target.format}'s quantizer takes {FORMATS[target.format].int8}",
            stacklevel=5,
        )
    return {
        "weights": "int8" if quantized else "float32",
        "weights_in_int8": quantized,
        "weights_in_all": in_all,
    }
