"""Exporters, each on the backend that runs: from a model of `single_step` to an artifact's file.

An exporter is a function `(model, path, rows, quantize)`: a model; the file to write, for a
SavedModel the directory; how many rows the artifact takes, None for any; whether weights are to be
in int8, where the exporter does that. `formats` says which one writes what.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import keras

from keras_stateful.export.onnx_files import into_one_file, quantize_onnx
from keras_stateful.session.runtimes import import_openvino, openvino_core

Exporter: TypeAlias = Callable[[keras.Model, Path, int | None, bool], None]


def write_onnx(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By Keras, on TensorFlow and JAX."""
    _write_with_keras(model, path, rows, "onnx")
    into_one_file(path)


def write_saved_model(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By Keras, on TensorFlow and JAX."""
    _write_with_keras(model, path, rows, "tf_saved_model")


def write_litert(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
    """By Keras, on TensorFlow."""
    options = {}
    if quantize:
        import tensorflow as tf

        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    _write_with_keras(model, path, rows, "litert", **options)


def _write_with_keras(
    model: keras.Model, path: Path, rows: int | None, artifact_format: str, **options: Any
) -> None:
    specs = [
        keras.InputSpec(shape=(rows, *t.shape[1:]), dtype=t.dtype, name=t.name)
        for t in model.inputs
    ]
    model.export(
        str(path), format=artifact_format, input_signature=[specs], verbose=False, **options
    )


def through_onnx(write: Exporter) -> Exporter:
    """An exporter to OpenVINO, which reads what an exporter to ONNX writes.

    OpenVINO's converters of models themselves fail on JAX, and keep TensorFlow's loops.
    """

    def write_openvino(model: keras.Model, path: Path, rows: int | None, quantize: bool) -> None:
        openvino = import_openvino()
        with tempfile.TemporaryDirectory() as folder:
            exact, small = Path(folder, "exact.onnx"), Path(folder, "small.onnx")
            write(model, exact, rows, False)
            if quantize:
                quantize_onnx(exact, small)
            graph = openvino_core().read_model(small if quantize else exact)
            # Half precision is its default. The weights go beside the graph, into a `.bin`.
            openvino.save_model(graph, path, compress_to_fp16=False)

    return write_openvino
