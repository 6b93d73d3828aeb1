"""Where an artifact is written: in this process, or in a fresh one that runs another backend.

A process that runs one backend of Keras cannot run another. The fresh one gets the model as a
`.keras` file in a folder of its own, beside a job in JSON, and `KERAS_BACKEND` set:

    write_artifact ─▶ model.keras, job.json ─▶ python -c "...main()" ─▶ formats.write ─▶ artifact
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from keras_stateful.carry.classes import step_class
from keras_stateful.carry.copying import functions_of, parts_of
from keras_stateful.carry.layers import Carry, plain_class
from keras_stateful.export.formats import Target, write

_CODE = "from keras_stateful.export.processes import main; main()"
_MOST_OF_AN_ERROR = 1400  # characters of what an exporter says


def write_artifact(
    model: keras.Model, target: Target, path: Path, *, quantize: bool = False
) -> None:
    """Writes the artifact of a `single_step` model.

    Args:
        model: from `single_step`.
        target: what to write.
        path: the file to write, for "tf_saved_model" the directory.
        quantize: as in `formats.write`.

    Raises:
        RuntimeError: the exporter fails; quotes it.
        ValueError: a fresh process could not import the model's layers.
    """
    elsewhere = target.backend != keras.backend.backend()
    if elsewhere or (target.writer.on_cpu and _torch_has_accelerator()):
        _write_in_fresh_process(model, target, path, quantize)
        return
    try:
        write(model, target, path, quantize=quantize)
    except Exception as error:
        raise _failed(target, str(error)) from error


def _torch_has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _failed(target: Target, said: str) -> RuntimeError:
    """The error for an exporter that failed; `said` is its own message, shortened if it is long."""
    said = said.strip()
    if len(said) > _MOST_OF_AN_ERROR:  # the cause stands at the beginning or at the end
        half = _MOST_OF_AN_ERROR // 2
        said = f"{said[:half]} ... {said[-half:]}"
    return RuntimeError(
        f'Keras could not write the format "{target.format}" with the backend {target.backend}: '
        f"{said}. The usual cause is an operation that the exporter does not know: try another "
        "`format`, or write the layer with simpler operations."
    )


@dataclass(frozen=True)
class _Job:
    """What the fresh process is to do, as JSON carries it.

    Attributes:
        target: fields of a `Target`.
        path: of the artifact.
        quantize: as in `write_artifact`.
        modules: to be imported, since they register the user's classes with Keras.
        objects: `[module, qualified name]` of the user's classes and functions, registered or not.
        carried: those of them whose layers carry: the class that does it is made of each.
    """

    target: dict[str, Any]
    path: str
    quantize: bool
    modules: list[str]
    objects: list[list[str]]
    carried: list[list[str]]


def _write_in_fresh_process(model: keras.Model, target: Target, path: Path, quantize: bool) -> None:
    objects = _users_objects(model, target)
    modules = sorted({module for module, _ in objects})
    carrying = [plain_class(type(layer)) for layer in model.layers if isinstance(layer, Carry)]
    carried = [[c.__module__, c.__qualname__] for c in carrying]
    job = _Job(asdict(target), str(path.absolute()), quantize, modules, objects, carried)
    with tempfile.TemporaryDirectory(prefix="keras_stateful.") as folder:
        try:
            model.save(Path(folder, "model.keras"))
        except Exception as error:
            raise RuntimeError(
                f'The format "{target.format}" is written in a fresh process on {target.backend}, '
                f"which gets the model as a file, and Keras could not write that: {error} Run this "
                f"export with KERAS_BACKEND={target.backend}."
            ) from error
        Path(folder, "job.json").write_text(json.dumps(asdict(job)))
        child = subprocess.run(
            [sys.executable, "-c", _CODE, folder],
            env=_environment(target.backend),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    if child.returncode != 0:
        said = child.stderr.strip()[-_MOST_OF_AN_ERROR:]  # a traceback's end says most
        raise _failed(target, said or f"exit status {child.returncode}")


def _environment(backend: str) -> dict[str, str]:
    return os.environ | {
        "KERAS_BACKEND": backend,
        # The user's modules must be found as here; an empty entry means the current folder.
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Converting needs no accelerator, and this process may hold it.
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }


def _users_objects(model: keras.Model, target: Target) -> list[list[str]]:
    """The user's own classes and functions in a model, as `[module, qualified name]`."""
    objects = []
    for layer in model.layers:
        for each in _classes_and_functions(layer):
            if each.__module__.split(".")[0] in ("keras", "keras_stateful"):
                continue
            _check_importable(each, target)
            objects.append([each.__module__, each.__qualname__])
    return objects


def _classes_and_functions(layer: keras.layers.Layer) -> list[type | Callable]:
    classes = [plain_class(type(part)) for part in parts_of(layer)]
    functions = list(functions_of(layer).values())
    if isinstance(layer, keras.layers.Lambda):
        functions.append(layer.function)
    return [*classes, *functions]


def _check_importable(each: type | Callable, target: Target) -> None:
    in_function = "<l" in each.__qualname__  # `f.<locals>.g` or `<lambda>`
    if each.__module__ == "__main__" or in_function:
        raise ValueError(
            f'The format "{target.format}" is written in a fresh process on {target.backend}, '
            "which must be able to import the model's layers. Received: "
            f"{each.__qualname__}, defined in {each.__module__}. Move it, under a name, to the top "
            f"level of a module, or run this export with KERAS_BACKEND={target.backend}"
            f"{' and CUDA_VISIBLE_DEVICES=' if target.writer.on_cpu else ''}."
        )


def main() -> None:
    """The fresh process: reads the job that `write_artifact` left in a folder and runs it."""
    folder = Path(sys.argv[-1])
    job = _Job(**json.loads((folder / "job.json").read_text()))
    # Importing registers classes with Keras: this package's, and the user's.
    for module in ["keras_stateful.conversion.convert", *job.modules]:
        importlib.import_module(module)
    # Keras looks up classes and functions that are not registered by their bare names.
    custom = {name.split(".")[-1]: _located(module, name) for module, name in job.objects}
    for module, name in job.carried:
        if [module, name] in job.objects:
            step_class(_located(module, name))
    with keras.saving.custom_object_scope(custom):
        model = keras.saving.load_model(folder / "model.keras", compile=False)
    write(model, Target(**job.target), Path(job.path), quantize=job.quantize)


def _located(module: str, qualified_name: str) -> Any:
    located: Any = sys.modules[module]
    for name in qualified_name.split("."):
        located = getattr(located, name)
    return located
