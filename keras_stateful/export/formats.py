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

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.version import pip_install


@dataclass(frozen=True)
class _Writer:
    """What a backend needs to write a format.

    Attributes:
        modules: that must be installed beside the backend itself.
        since: the release of Keras that brought it.
    """

    modules: tuple[str, ...] = ()
    since: str = "3.10"


# For each format the backends that write it, best first.
_WRITERS: dict[str, dict[str, _Writer]] = {
    "onnx": {
        "tensorflow": _Writer(("onnx", "tf2onnx")),
        # Before, Keras goes from JAX to ONNX by way of TensorFlow, as JAX no longer can.
        "jax": _Writer(("onnx", "jax2onnx"), since="3.14"),
        "torch": _Writer(("onnx", "onnxscript")),
    },
    "litert": {
        "tensorflow": _Writer(since="3.13"),
        "torch": _Writer(("litert_torch",), since="3.15"),
    },
    "tf_saved_model": {"tensorflow": _Writer(), "jax": _Writer(("tensorflow",))},
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
    ready = [b for b in writers if _are_installed(b, *writers[b].modules)]
    able = [b for b in ready if keras_internals.has_keras(writers[b].since)]
    if able:
        return running if running in able else able[0]
    beginning = f'The format "{artifact_format}" cannot be written here'
    if ready:
        since = min(writers[b].since for b in ready)
        raise ImportError(
            f"{beginning} with {' or '.join(ready)}: that "
            f"needs {keras_internals.keras_or_later(since)}"
        )
    reason = f"Keras on {running} cannot"
    if running in writers and keras_internals.has_keras(writers[running].since):
        reason = f"Keras on {running} writes it with {' and '.join(writers[running].modules)}"
    raise ImportError(
        f"{beginning}: {reason}; no other backend that could is installed. "
        f"{_install(artifact_format, running)}."
    )


def _are_installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def _install(artifact_format: str, running: str) -> str:
    """The command: ONNX is written with any backend, the others best with TensorFlow."""
    if artifact_format != "onnx":
        return pip_install("tensorflow")
    if running != "jax":
        return pip_install(running, "export")
    if keras_internals.has_keras(_WRITERS["onnx"]["jax"].since):
        return pip_install("jax", "export", "jax2onnx")
    return pip_install("tensorflow", "export")
