"""From a model of `single_step` to an artifact's file, in this process or a fresh one.

| format | written with | by |
|---|---|---|
| onnx | the running backend, else another one that is installed | tf2onnx, jax2onnx, torch's exporter |
| litert | TensorFlow, or torch with litert-torch | their converters |
| tf_saved_model | TensorFlow, or JAX where TensorFlow is installed too | Keras |

A fresh process gets the model as a `.keras` file in a folder of its own and `KERAS_BACKEND` set: a
process that runs one backend of Keras cannot run another.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from keras_stateful.carry.copying import functions_of, parts_of

# For each format the backends that write it, best first, with the modules they need beside
# themselves.
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "onnx": {
        "tensorflow": ("onnx", "tf2onnx"),
        "jax": ("onnx", "jax2onnx"),
        "torch": ("onnx", "onnxscript"),
    },
    "litert": {"tensorflow": (), "torch": ("litert_torch",)},
    "tf_saved_model": {"tensorflow": (), "jax": ("tensorflow",)},
}
ENTRY = {"onnx": "model.onnx", "litert": "model.tflite", "tf_saved_model": "saved_model"}
_INSTALL: dict[str, dict[str, str]] = {
    "onnx": {
        "tensorflow": 'pip install "keras-stateful[tensorflow,export]"',
        "jax": 'pip install "keras-stateful[jax,export]"',
        "torch": 'pip install "keras-stateful[torch,export]"',
    },
    "litert": {"": 'pip install "keras-stateful[tensorflow]"'},
    "tf_saved_model": {"": 'pip install "keras-stateful[tensorflow]"'},
}


def backend_for(artifact_format: str) -> str:
    """The backend that is to write a format: the running one if it can, else one that is installed.

    Raises:
        ImportError: none can; says what to install.
    """
    running = keras.backend.backend()
    ways = WAYS[artifact_format]
    for backend in [running, *(b for b in ways if b != running)]:
        if backend in ways and all(find_spec(m) is not None for m in (backend, *ways[backend])):
            return backend
    install = _INSTALL[artifact_format]
    needed = ways.get(running)
    what = (
        f"Keras on {running} writes it with {' and '.join(needed)}"
        if needed
        else f"Keras on {running} cannot"
    )
    raise ImportError(
        f'The format "{artifact_format}" cannot be written here: {what}; no other backend that '
        f"could is installed. `{install.get(running, next(iter(install.values())))}`."
    )


def write_artifact(
    model: keras.Model,
    artifact_format: str,
    path: Path,
    backend: str,
    *,
    batch_size: int | None,
    quantize: bool = False,
) -> None:
    """Writes the artifact of a `single_step` model.

    Args:
        model: from `single_step`.
        artifact_format: "onnx", "litert" or "tf_saved_model".
        path: the file to write, for "tf_saved_model" the directory.
        backend: from `backend_for`.
        batch_size: rows that the artifact takes; None for any.
        quantize: LiteRT only: weights in int8.

    Raises:
        RuntimeError: the exporter fails; quotes it.
    """
    if backend == keras.backend.backend():
        try:
            write(model, artifact_format, path, batch_size=batch_size, quantize=quantize)
        except Exception as error:
            raise _failed(artifact_format, backend, error) from error
        return
    modules, classes = _custom_classes(model, artifact_format, backend)
    job = {
        "format": artifact_format,
        "path": str(path.absolute()),
        "batch_size": batch_size,
        "quantize": quantize,
    }
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # converting needs no accelerator, and the parent process may hold it
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    with tempfile.TemporaryDirectory(prefix="keras_stateful.") as folder:
        model.save(Path(folder, "model.keras"))
        Path(folder, "job.json").write_text(
            json.dumps(job | {"modules": modules, "classes": classes})
        )
        child = subprocess.run(
            [sys.executable, "-c", "from keras_stateful.export.writers import main; main()", folder],
            env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    if child.returncode != 0:
        raise _failed(
            artifact_format,
            backend,
            child.stderr.strip()[-1400:] or f"exit status {child.returncode}",
        )


def _failed(artifact_format: str, backend: str, error: Any) -> RuntimeError:
    text = str(error).strip()
    text = text if len(text) <= 1500 else f"{text[:700]} ... {text[-700:]}"
    return RuntimeError(
        f'Keras could not write the format "{artifact_format}" with the backend {backend}: {text}. '
        "The usual cause is an operation that the exporter does not know: try another `format`, or "
        "write the layer with simpler operations."
    )


def _custom_classes(
    model: keras.Model, artifact_format: str, backend: str
) -> tuple[list[str], list[list[str]]]:
    """Modules that a fresh process must import, and classes and functions nobody registered, of the
    user's own.
    """
    modules, classes = [], []
    for layer in model.layers:
        own: list[Any] = [type(part) for part in parts_of(layer)] + list(
            functions_of(layer).values()
        )
        if isinstance(layer, keras.layers.Lambda):
            own.append(layer.function)
        for cls in own:
            if cls.__module__.split(".")[0] in ("keras", "keras_stateful"):
                continue
            if cls.__module__ == "__main__" or "<l" in cls.__qualname__:  # <locals>, <lambda>
                raise ValueError(
                    f'The format "{artifact_format}" is written in a fresh process on {backend}, '
                    "which must be able to import the model's layers. Received: "
                    f"{cls.__qualname__}, defined in {cls.__module__}. Move it, under a name, to "
                    f"the top level of a module, or run this export with KERAS_BACKEND={backend}."
                )
            modules.append(cls.__module__)
            classes.append([cls.__module__, cls.__qualname__])
    return sorted(set(modules)), classes


def write(
    model: keras.Model, artifact_format: str, path: Path, *, batch_size: int | None, quantize: bool
) -> None:
    """Writes the artifact with the running backend."""
    for layer in model.layers:
        for part in parts_of(layer):
            if isinstance(part, keras.layers.Normalization):
                # Tensors made outside of the graph are taken for inputs by tf2onnx.
                part.mean, part.variance = map(
                    keras.ops.convert_to_numpy, (part.mean, part.variance)
                )
    signature = [
        [
            keras.InputSpec(shape=(batch_size, *t.shape[1:]), dtype=t.dtype, name=t.name)
            for t in model.inputs
        ]
    ]
    with quiet():
        if artifact_format == "onnx" and keras.backend.backend() == "torch":
            _write_onnx_with_torch(model, path, batch_size)
        elif artifact_format == "onnx":
            model.export(str(path), format="onnx", input_signature=signature, verbose=False)
            _one_file(path)
        elif artifact_format == "tf_saved_model":
            model.export(
                str(path), format="tf_saved_model", input_signature=signature, verbose=False
            )
        else:
            options = {}
            if quantize:
                import tensorflow as tf

                options["optimizations"] = [tf.lite.Optimize.DEFAULT]
            model.export(
                str(path), format="litert", input_signature=signature, verbose=False, **options
            )


def _write_onnx_with_torch(model: keras.Model, path: Path, batch_size: int | None) -> None:
    """Keras 3.15 takes torch's old exporter where a size is unknown, and that one fails on
    LayerNormalization.
    """
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> tuple:
            return tuple(self.model(list(inputs), training=False))

    rows = batch_size or 2  # the exporter takes a 1 for a constant
    example = tuple(
        keras.ops.ones((rows, *(d or 3 for d in t.shape[1:])), t.dtype) for t in model.inputs
    )
    unknown = torch.export.Dim.DYNAMIC
    sizes = tuple(
        {i: unknown for i, d in enumerate((batch_size, *t.shape[1:])) if d is None}
        for t in model.inputs
    )
    with torch.no_grad():
        program = torch.onnx.export(
            Flat().eval(), example, dynamo=True, dynamic_shapes=(sizes,), input_names=[t.name for t in model.inputs],
            verbose=False,
        )  # fmt: skip
    program.save(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what exporters print, log and warn of."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _one_file(path: Path) -> None:
    """Takes weights that the exporter put beside the file into it: a browser then loads one file."""
    import onnx

    beside = path.with_name(f"{path.name}.data")
    if beside.exists():
        model = onnx.load(path)
        onnx.save(model, path)
        beside.unlink()


def rename_outputs(path: Path, old: list[str], new: list[str]) -> None:
    """Names the outputs of an ONNX file; one that stands for two gets a second name."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    told = {o.name: o for o in graph.output}
    outputs = []
    for before, after in zip(old, new, strict=True):
        graph.node.append(onnx.helper.make_node("Identity", [before], [after]))
        outputs.append(onnx.ValueInfoProto())
        outputs[-1].CopyFrom(told[before])
        outputs[-1].name = after
    del graph.output[:]
    graph.output.extend(outputs)
    onnx.save(model, path)


def main() -> None:
    """The fresh process: reads the job that `write_artifact` left in a folder and runs it."""
    folder = Path(sys.argv[-1])
    job = json.loads((folder / "job.json").read_text())
    # They register this package's classes, and the user's.
    for module in ["keras_stateful.conversion.convert", *job["modules"]]:
        importlib.import_module(module)
    custom = {}
    for module, name in job["classes"]:
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
        custom[name.split(".")[-1]] = found
    with keras.saving.custom_object_scope(custom):
        model = keras.saving.load_model(folder / "model.keras", compile=False)
    write(
        model,
        job["format"],
        Path(job["path"]),
        batch_size=job["batch_size"],
        quantize=job["quantize"],
    )
