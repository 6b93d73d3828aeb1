"""The runtimes behind a `Session`, each imported when an artifact of its format is loaded.

A runtime turns `{input name: array}` into arrays by output name. It holds the weights and no state.
`RUNTIMES` has one for each format.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from copy import copy
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from keras_stateful.session.artifact import Artifact
from keras_stateful.session.json_fields import ManifestError
from keras_stateful.session.manifest import Manifest

_MOST_STREAMS = 8  # runs of an OpenVINO graph at the same time; each has buffers of its own


class Runtime(Protocol):
    """Runs one artifact. A session calls it under a lock; a fork gets one by `for_session`."""

    def input_names(self) -> list[str]:
        """The artifact's names of all inputs, states among them."""
        ...

    def output_names(self) -> list[str]:
        """The artifact's names of all outputs, new states among them."""
        ...

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        """Runs once.

        Args:
            feeds: `{input name: array}`.
            names: which outputs to give.

        Returns:
            The outputs in the order of `names`, arrays that nobody else writes to.
        """
        ...

    def for_session(self) -> "Runtime":
        """A runtime of the same weights that one more session may use at the same time."""
        ...


class OnnxRuntime:
    """ONNX Runtime, from the bytes of the artifact; sessions share it, as its runs may overlap."""

    def __init__(self, artifact: Artifact):
        # From bytes, not from the path: they are those whose SHA-256 was checked.
        onnxruntime = _import("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; it warns of what exporters leave unused
        # The one provider that is in every build: an artifact gives the same numbers anywhere.
        self._session = onnxruntime.InferenceSession(
            artifact.content, options, providers=["CPUExecutionProvider"]
        )

    def input_names(self) -> list[str]:
        return [i.name for i in self._session.get_inputs()]

    def output_names(self) -> list[str]:
        return [o.name for o in self._session.get_outputs()]

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        return self._session.run(names, feeds)

    def for_session(self) -> "OnnxRuntime":
        return self


class LiteRT:
    """LiteRT, from the bytes of the artifact.

    Each session has an interpreter of its own, since inputs and outputs lie in its buffers.
    """

    def __init__(self, artifact: Artifact):
        self._artifact = artifact
        with warnings.catch_warnings():
            # TensorFlow's copy of the interpreter warns that it will be removed.
            warnings.simplefilter("ignore")
            # One thread: a step is too short to be shared among several.
            self._interpreter = litert_interpreter()(model_content=artifact.content, num_threads=1)
        self._interpreter.allocate_tensors()
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            raise ManifestError(
                f"The artifact must have one signature. Received: {sorted(signatures)}."
            )
        ((key, names),) = signatures.items()
        self._runner = self._interpreter.get_signature_runner(key)
        self._inputs, self._outputs = list(names["inputs"]), list(names["outputs"])

    def input_names(self) -> list[str]:
        return self._inputs

    def output_names(self) -> list[str]:
        return self._outputs

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        results = self._runner(**feeds)
        # Copies: the interpreter writes its next results into the same memory.
        return [np.array(results[name]) for name in names]

    def for_session(self) -> "LiteRT":
        return LiteRT(self._artifact)


class SavedModel:
    """TensorFlow's SavedModel; sessions share it."""

    def __init__(self, artifact: Artifact):
        self._tensorflow = _import("tensorflow", "tf_saved_model")
        # The model is kept: it owns the variables that its signature reads.
        self._model = self._tensorflow.saved_model.load(str(artifact.path))
        self._function = self._model.signatures["serving_default"]
        self._inputs = list(self._function.structured_input_signature[1])
        self._outputs = list(self._function.structured_outputs)

    def input_names(self) -> list[str]:
        return self._inputs

    def output_names(self) -> list[str]:
        return self._outputs

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        results = self._function(**{k: self._tensorflow.constant(v) for k, v in feeds.items()})
        return [np.array(results[name]) for name in names]

    def for_session(self) -> "SavedModel":
        return self


class OpenVino:
    """OpenVINO on the CPU, from the bytes of the graph and of the weights beside it.

    Sessions share the compiled graph and have a request each, which holds inputs and outputs.
    """

    def __init__(self, artifact: Artifact):
        core = openvino_core()
        graph = core.read_model(model=artifact.content, weights=artifact.beside(".bin"))
        # A step is too short to be shared among threads; sessions in parallel have one each.
        threads = min(os.cpu_count() or 1, _MOST_STREAMS)
        options: dict[str, Any] = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        # In float32 also where the processor could compute in half precision, the default there.
        options["INFERENCE_PRECISION_HINT"] = "f32"
        self._compiled = core.compile_model(graph, "CPU", options)
        self._inputs = [_one_name(port) for port in graph.inputs]
        self._outputs = [_one_name(port) for port in graph.outputs]
        self._begin()

    def _begin(self) -> None:
        self._request = self._compiled.create_infer_request()

    def input_names(self) -> list[str]:
        return self._inputs

    def output_names(self) -> list[str]:
        return self._outputs

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        inputs = [feeds[name] for name in self._inputs]
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # Copies: the request writes its next results into the same memory.
        return [np.array(results[self._outputs.index(name)]) for name in names]

    def for_session(self) -> "OpenVino":
        other = copy(self)
        other._begin()
        return other


def _one_name(port: Any) -> str:
    """The name of an input or output of an OpenVINO graph, which may have several."""
    own = port.get_node().get_friendly_name()
    return own if own in port.names else min(port.names)


class ExecuTorch:
    """ExecuTorch, from the bytes of the program.

    Each session has a program of its own, since what it computes lies in its buffers. A program
    knows its inputs by their order alone: their names are what its method "inputs" gives, which
    `export_step_model` adds.
    """

    def __init__(self, artifact: Artifact):
        self._artifact = artifact
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it is experimental
            runtime = _import("executorch.runtime", "executorch", "executorch torch").Runtime.get()
        self._tensor = import_module("torch").tensor
        program = runtime.load_program(artifact.content)
        self._inputs = json.loads(program.load_method("inputs").execute([])[0])
        self._method = program.load_method("forward")
        self._outputs = [f"output_{i}" for i in range(self._method.metadata.num_outputs())]

    def input_names(self) -> list[str]:
        return self._inputs

    def output_names(self) -> list[str]:
        return self._outputs

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        results = self._method.execute([self._tensor(feeds[name]) for name in self._inputs])
        return [results[self._outputs.index(name)].numpy().copy() for name in names]

    def for_session(self) -> "ExecuTorch":
        return ExecuTorch(self._artifact)


RUNTIMES: dict[str, Callable[[Artifact], Runtime]] = {
    "onnx": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRT,
    "executorch": ExecuTorch,
    "tf_saved_model": SavedModel,
}


def open_runtime(artifact_format: str, artifact: Artifact) -> Runtime:
    """Opens an artifact.

    Args:
        artifact_format: a key of `RUNTIMES`.
        artifact: its files.

    Raises:
        ImportError: the format's runtime is not installed; names the command.
        ValueError: the runtime refuses the artifact.
    """
    try:
        return RUNTIMES[artifact_format](artifact)
    except (ImportError, ManifestError):
        raise
    except Exception as error:
        raise ManifestError(
            f"The {artifact_format} runtime cannot open the artifact: {error}. It may need a newer "
            "runtime than the one installed here: upgrade it."
        ) from error


def check_names(manifest: Manifest, runtime: Runtime) -> None:
    """Refuses an artifact that lacks tensors which its manifest names."""
    inputs = {t.tensor for t in manifest.inputs} | {s.input for s in manifest.states}
    outputs = {t.tensor for t in manifest.outputs} | {s.output for s in manifest.states}
    has_inputs, has_outputs = set(runtime.input_names()), set(runtime.output_names())
    # An input that no output depends on is dropped by some exporters; `export_step_model` then
    # refuses the model. Outputs that nobody asks for do no harm.
    if inputs != has_inputs or not outputs <= has_outputs:
        raise ManifestError(
            "The manifest belongs to another artifact. Received: a manifest with inputs "
            f"{sorted(inputs)} and outputs {sorted(outputs)}; the artifact has "
            f"{sorted(has_inputs)} and {sorted(has_outputs)}. Copy the whole directory again."
        )


def _import(module: str, artifact_format: str, packages: str | None = None) -> Any:
    """Imports a runtime's module; `packages` are those of PyPI, where they have other names."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        packages = packages or module
        raise ImportError(
            f'To run the format "{artifact_format}", {packages.replace(" ", " with ")} is needed '
            f"and not installed: `pip install {packages}`."
        ) from error


def import_openvino() -> Any:
    """OpenVINO, without its telemetry.

    On import its package would fork a process that reports to Google Analytics, under the threads
    of this one; where it finds no `openvino_telemetry` it reports nothing.
    """
    telemetry = "openvino_telemetry"
    if telemetry in sys.modules:
        return _import("openvino", "openvino")
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return _import("openvino", "openvino")
    finally:
        del sys.modules[telemetry]


@cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the whole process and to its end.

    Its plugin for the CPU gives the thread that loads it a stack for signals, and takes it away
    with the core: where two cores end in the order in which they began, the first one's is put
    back when it is gone, and Ctrl-C ends the process with a segmentation fault (seen with 2026.4).
    """
    return import_openvino().Core()


def litert_interpreter() -> Any:
    """The interpreter's class: of the small package where there is one, else TensorFlow's copy."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    except ModuleNotFoundError:
        pass
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            'To run the format "litert", its interpreter is needed and not installed: `pip install '
            "ai-edge-litert` (TensorFlow has one too)."
        ) from error
    return tf.lite.Interpreter
