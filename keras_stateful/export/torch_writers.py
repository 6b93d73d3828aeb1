"""Exporters on torch: of what `torch.export` records; see `writers`."""

import json
from pathlib import Path
from traceback import walk_tb
from typing import Any

import keras

from keras_stateful.export.onnx_files import in_one_type
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Tensor


def write_onnx(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By torch's new exporter.

    Keras 3.15 takes torch's old one where a size is unknown, and that fails on LayerNormalization.
    """
    import torch

    # Sizes of the example that are not to be constants must not be 1, which the exporter keeps.
    example = _example(model, rows or 2, any_size=3)
    unknown = tuple(
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate((rows, *t.shape[1:]))
            if size is None
        }
        for t in model.inputs
    )
    with torch.no_grad(), keras_internals.open_sizes():
        program = torch.onnx.export(
            _flat(model),
            example,
            dynamo=True,
            dynamic_shapes=(unknown,),  # `*inputs` is one parameter to the exporter
            input_names=[t.name for t in model.inputs],
            verbose=False,
        )
    program.save(path)
    in_one_type(path)


def write_litert(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By litert-torch, weights in int8 by the quantizer that comes with it.

    Keras calls it too, but gives the inputs no names.
    """
    import jax
    import torch

    x64 = jax.config.jax_enable_x64
    try:
        import litert_torch

        # It needs JAX to compute in 64 bits, which it asks for when it is imported, once.
        jax.config.update("jax_enable_x64", True)
        with torch.no_grad():
            named = dict(
                zip((t.name for t in model.inputs), _example(model, rows or 1), strict=True)
            )
            program = litert_torch.convert(_flat(model), sample_kwargs=named)
        program.export(str(path))
        if quantize:
            from ai_edge_quantizer import quantizer, recipe

            small = quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32()).quantize()
            small.export_model(str(path), overwrite=True)
    finally:
        jax.config.update("jax_enable_x64", x64)


def write_executorch(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By ExecuTorch, for XNNPACK, its kernels for processors of every kind."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        try:
            recorded = torch.export.export(_flat(model), _example(model, rows or 1))
        except Exception as error:
            raise RuntimeError(f"{_failed_at(model, error)}: {error}") from error
    _without_memory_formats(recorded.graph)
    program = to_edge_transform_and_lower(
        recorded,
        partitioner=[XnnpackPartitioner()],
        # A program has no names of its own: see `session.runtimes.ExecuTorch`.
        constant_methods={"inputs": json.dumps([t.name for t in model.inputs])},
    )
    path.write_bytes(program.to_executorch().buffer)


def _failed_at(model: keras.Model, error: Exception) -> str:
    """Says in which layer an error was raised: the innermost of the model's in its traceback."""
    layers = {id(layer): layer for layer in model.layers}
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        if layer := layers.get(id(frame.f_locals.get("self"))):
            return f"torch.export fails at the layer {layer.name!r} ({type(layer).__name__})"
    return "torch.export fails"


def _without_memory_formats(graph: Any) -> None:
    """Has a recorded graph keep tensors as NumPy does.

    Keras's convolutions ask for channels in the last place of memory, where ExecuTorch's copies
    find an axis order that they did not expect. The numbers are the same.
    """
    import torch

    for node in graph.nodes:
        if "memory_format" in node.kwargs:
            node.kwargs = {**node.kwargs, "memory_format": torch.contiguous_format}


def _flat(model: keras.Model) -> Any:
    """The model at inference as a torch module, inputs one by one or by name, as exporters do."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor, **named: Tensor) -> tuple:
            in_order = inputs or [named[t.name] for t in self.model.inputs]
            return tuple(self.model(list(in_order), training=False))

    return Flat().eval()


def _example(model: keras.Model, rows: int, any_size: int | None = None) -> tuple[Tensor, ...]:
    """Inputs that the exporter calls the model with.

    Args:
        model: from `single_step`.
        rows: of each.
        any_size: of an axis that the model leaves open; None for an artifact that fixes all sizes.
    """
    for tensor in model.inputs:
        if any_size is None and None in tensor.shape[1:]:
            raise ValueError(
                f"this format fixes every size, and the input {tensor.name!r} has shape "
                f'{tensor.shape}: say its sizes in `keras.Input`, or export as "onnx"'
            )
    sizes = [(rows, *(size or any_size for size in t.shape[1:])) for t in model.inputs]
    pairs = zip(sizes, model.inputs, strict=True)
    return tuple(keras.ops.ones(shape, tensor.dtype) for shape, tensor in pairs)
