"""The formats of an artifact: which backend of Keras writes which, and with what.

| format | written with | by |
|---|---|---|
| onnx | the running backend, else another that is installed | tf2onnx, jax2onnx, torch's exporter |
| litert | TensorFlow, or torch with litert-torch | their converters |
| tf_saved_model | TensorFlow, or JAX where TensorFlow is installed too | Keras |
"""

from dataclasses import dataclass
from importlib.util import find_spec

import keras

from keras_stateful.foundation.version import pip_install

# For each format the backends that write it, best first, with the modules that they need beside
# themselves.
_WRITERS: dict[str, dict[str, tuple[str, ...]]] = {
    "onnx": {
        "tensorflow": ("onnx", "tf2onnx"),
        "jax": ("onnx", "jax2onnx"),
        "torch": ("onnx", "onnxscript"),
    },
    "litert": {"tensorflow": (), "torch": ("litert_torch",)},
    "tf_saved_model": {"tensorflow": (), "jax": ("tensorflow",)},
}
# The file, or for a SavedModel the directory, that the runtime opens.
_ENTRIES = {"onnx": "model.onnx", "litert": "model.tflite", "tf_saved_model": "saved_model"}


@dataclass(frozen=True)
class Target:
    """What is to be written.

    Attributes:
        format: "onnx", "litert" or "tf_saved_model".
        backend: the backend of Keras that writes it, the running one or another.
        rows: how many the artifact takes at once; None for any.
    """

    format: str
    backend: str
    rows: int | None

    @property
    def entry(self) -> str:
        """Name of what the runtime opens."""
        return _ENTRIES[self.format]


def backend_for(artifact_format: str) -> str:
    """The backend that writes a format: the running one if it can, else another installed one.

    Raises:
        ImportError: none can; says what to install.
    """
    running = keras.backend.backend()
    writers = _WRITERS[artifact_format]
    for backend in [running, *(b for b in writers if b != running)]:
        if backend in writers and _are_installed(backend, *writers[backend]):
            return backend
    needed = writers.get(running)
    if needed:
        reason = f"Keras on {running} writes it with {' and '.join(needed)}"
    else:
        reason = f"Keras on {running} cannot"
    raise ImportError(
        f'The format "{artifact_format}" cannot be written here: {reason}; no other backend that '
        f"could is installed. {_install(artifact_format, running)}."
    )


def _are_installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def _install(artifact_format: str, running: str) -> str:
    """The command: ONNX is written with any backend, the others best with TensorFlow."""
    if artifact_format == "onnx":
        return pip_install(running, "export")
    return pip_install("tensorflow")
