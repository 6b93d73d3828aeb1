"""The formats of an artifact: which backend of Keras writes which, and with what.

| format | written on | by |
|---|---|---|
| onnx | the running backend, else another that is installed | tf2onnx, jax2onnx, torch's exporter |
| openvino | as onnx | OpenVINO, from ONNX |
| litert | TensorFlow, or torch with litert-torch | their converters |
| executorch | torch | ExecuTorch |
| tf_saved_model | TensorFlow, or JAX where TensorFlow is installed too | Keras |
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.export import torch_writers, writers
from keras_stateful.export.onnx_files import rename_outputs
from keras_stateful.export.quiet import quiet
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.version import pip_install


@dataclass(frozen=True)
class Writer:
    """How a backend writes a format.

    Attributes:
        write: the exporter.
        modules: what it needs beside the backend.
        extras: of pyproject.toml, which bring the backend and these.
        since: the release of Keras that brought it, or the oldest that it was tried with.
        on_cpu: True if it fails where torch computes on an accelerator.
    """

    write: writers.Exporter
    modules: tuple[str, ...]
    extras: tuple[str, ...]
    since: str = "3.10"
    on_cpu: bool = False


@dataclass(frozen=True)
class Format:
    """What is written of a format, and how.

    Attributes:
        entry: the file, or for a SavedModel the directory, that the runtime opens.
        writers: for each backend that writes it, best first.
        fixes_rows: True if an artifact takes as many rows as it was written for, no more and no
            less.
        int8: which weights its quantizer takes, and what to do where it takes none; None where
            there is no quantizer.
        rename_outputs: gives the outputs of the file other names; None where they stay.
    """

    entry: str
    writers: dict[str, Writer]
    fixes_rows: bool = False
    int8: str | None = None
    rename_outputs: Callable[[Path, list[str], list[str]], None] | None = None


_LEAVE_OUT = "Leave `quantize` out"
_ONNX = {
    "tensorflow": Writer(writers.write_onnx, ("onnx", "tf2onnx"), ("tensorflow", "export")),
    # Before, Keras goes from JAX to ONNX by way of TensorFlow, as JAX no longer can.
    "jax": Writer(
        writers.write_onnx, ("onnx", "jax2onnx"), ("jax", "export", "jax2onnx"), since="3.14"
    ),
    "torch": Writer(torch_writers.write_onnx, ("onnx", "onnxscript"), ("torch", "export")),
}
FORMATS = {
    "onnx": Format(
        "model.onnx",
        _ONNX,
        int8=f"matrix products only. {_LEAVE_OUT}.",
        rename_outputs=rename_outputs,
    ),
    "openvino": Format(
        "model.xml",
        {
            backend: Writer(
                writers.through_onnx(onnx.write),
                (*onnx.modules, "openvino"),
                (*onnx.extras, "openvino"),
                since=onnx.since,
            )
            for backend, onnx in _ONNX.items()
        },
        int8=f"matrix products only. {_LEAVE_OUT}.",
    ),
    "litert": Format(
        "model.tflite",
        {
            "tensorflow": Writer(writers.write_litert, (), ("tensorflow",), since="3.13"),
            "torch": Writer(
                torch_writers.write_litert,
                ("litert_torch",),
                ("torch", "litert"),
                since="3.15",
                on_cpu=True,
            ),
        },
        fixes_rows=True,
        int8=(
            f'those of 1,024 or more. {_LEAVE_OUT}, or try `format="onnx"`, whose quantizer takes '
            "small ones."
        ),
    ),
    "executorch": Format(
        "model.pte",
        {
            "torch": Writer(
                torch_writers.write_executorch,
                ("executorch",),
                ("torch", "executorch"),
                since="3.15",
                on_cpu=True,
            )
        },
        fixes_rows=True,
    ),
    "tf_saved_model": Format(
        "saved_model",
        {
            "tensorflow": Writer(writers.write_saved_model, (), ("tensorflow",)),
            "jax": Writer(writers.write_saved_model, ("tensorflow",), ("jax", "tensorflow")),
        },
    ),
}


@dataclass(frozen=True)
class Target:
    """What is to be written.

    Attributes:
        format: a key of `FORMATS`.
        backend: the backend of Keras that writes it, the running one or another.
        rows: how many the artifact takes at once; None for any.
    """

    format: str
    backend: str
    rows: int | None

    @property
    def entry(self) -> str:
        """Name of what the runtime opens."""
        return FORMATS[self.format].entry

    @property
    def writer(self) -> Writer:
        """What writes it."""
        return FORMATS[self.format].writers[self.backend]


def target_of(artifact_format: str, batch_size: int) -> Target:
    """What `export_step_model` writes.

    Raises:
        ImportError: as `backend_for`.
    """
    rows = batch_size if FORMATS[artifact_format].fixes_rows else None
    return Target(artifact_format, backend_for(artifact_format), rows)


def backend_for(artifact_format: str) -> str:
    """The backend that writes a format: the running one if it can, else another installed one.

    Raises:
        ImportError: none can; says what to install, or which Keras.
    """
    running = keras.backend.backend()
    able = FORMATS[artifact_format].writers
    ready = [b for b in able if _are_installed(b, *able[b].modules)]
    recent = [b for b in able if keras_internals.has_keras(able[b].since)]
    if both := [b for b in ready if b in recent]:
        return running if running in both else both[0]
    beginning = f'The format "{artifact_format}" cannot be written here'
    if ready:
        since = min(able[b].since for b in ready)
        raise ImportError(
            f"{beginning} with {' or '.join(ready)}: that "
            f"needs {keras_internals.keras_or_later(since)}"
        )
    reason = f"Keras on {running} cannot"
    if running in recent and able[running].modules:
        reason = f"Keras on {running} writes it with {' and '.join(able[running].modules)}"
    rest = "no other backend that could is installed"
    others = [b for b in recent if b != running and _are_installed(b)]
    if others:  # with what it needs it would have been ready
        rest = f"Keras on {others[0]} could, with {' and '.join(able[others[0]].modules)}"
    nearest = able[running if running in recent else (others or recent or list(able))[0]]
    raise ImportError(f"{beginning}: {reason}; {rest}. {pip_install(*nearest.extras)}.")


def _are_installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def write(model: keras.Model, target: Target, path: Path, *, quantize: bool = False) -> None:
    """Writes an artifact with the running backend.

    Args:
        model: from `single_step`.
        target: what to write.
        path: the file to write, for "tf_saved_model" the directory.
        quantize: weights in int8; not for "onnx", whose file is quantized once it is written.
    """
    _fix_statistics(model)
    keras_internals.add_as_numpy_does()  # in a fresh process no model of ours has run
    with quiet():
        target.writer.write(model, path, target.rows, quantize)


def _fix_statistics(model: keras.Model) -> None:
    """Makes NumPy arrays of what `Normalization` learned.

    It holds tensors that were made outside of the graph, which tf2onnx takes for inputs.
    """
    for layer in model.layers:
        for part in parts_of(layer):
            if isinstance(part, keras.layers.Normalization):
                part.mean = keras.ops.convert_to_numpy(part.mean)
                part.variance = keras.ops.convert_to_numpy(part.variance)
