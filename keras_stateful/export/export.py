"""`export_step_model`: from a trained model to a directory that a `Session`, or any other language,
runs.

model ─▶ step model ─▶ one time step, flat ─▶ artifact ─▶ compared with Keras ─▶ manifest ─▶ renamed into place
         (states are inputs: no live state is ever exported)   └─ int8: deviation measured ─┘
"""

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.vocabulary import input_vocabulary, reads_as_logits
from keras_stateful.conversion.step_model import StepModel, initial_states, to_step_model
from keras_stateful.export import check, writers
from keras_stateful.export.single_step import has_time, is_mixed, single_step
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.version import __version__
from keras_stateful.session import manifest
from keras_stateful.session.artifact import list_files
from keras_stateful.session.manifest import FORMATS, Manifest, State, Tensor
from keras_stateful.session.runtimes import Runtime, open_runtime


def export_step_model(
    model: keras.Model,
    directory: str | os.PathLike,
    format: str = "onnx",
    *,
    batch_size: int = 1,
    quantize: str | None = None,
    representative_data: Any = None,
    metadata: Any = None,
) -> None:
    """Writes a model for use one time step at a time, where Keras is not installed.

    The directory holds the artifact and `manifest.json`. The artifact takes one time step and the
    states, and gives the output and the new states. It computes in float32 and starts from the
    initial state, whatever state the model is in. It is loaded back, run for 16 chained steps and
    compared with Keras before it appears under its name; if anything fails there is no directory.

    Args:
        model: any model that `to_step_model` accepts, trained on any backend, or a `StepModel`.
            Left as it is.
        directory: where to write; must not exist. Its parents are made.
        format: "onnx", "litert" or "tf_saved_model". Where Keras cannot write it on the running
            backend, a fresh process with another installed backend does.
        batch_size: rows that the artifact runs at once, where the format fixes them (LiteRT); ONNX
            and SavedModel take any. A `Session` serves any number of rows with each.
        quantize: "int8" for weights in 8 bits, states in float32, by ONNX Runtime's or LiteRT's own
            quantizer.
        representative_data: with `quantize`, real input as `Session.read` takes it,
            `(rows, time, ...)`: how far outputs move on it is written into the manifest.
        metadata: anything that JSON holds, a vocabulary, say; `Session.metadata` gives it back.

    Raises:
        ValueError: a directory that exists, an unknown format, as `to_step_model`.
        TypeError: metadata that JSON cannot hold; a batch size that is not a whole number.
        ImportError: a package that this format needs is missing; names the command that installs
            it.
        RuntimeError: the exporter fails, or the artifact computes something else than Keras.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    ks.export_step_model(model, "exported", metadata={"units": "m/s"})
    session = ks.load_session("exported")
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: {type(model).__name__}, and a directory of "
            f"type {type(directory).__name__}. The order is `export_step_model(model, directory)`."
        )
    directory = Path(directory)
    batch_size = whole_number("batch_size", batch_size, 1)
    _check(directory, format, quantize, representative_data, metadata)
    backend = writers.backend_for(format)
    step = model if isinstance(model, StepModel) else to_step_model(model, share_weights=True)
    start = [s[0] for s in initial_states(step)]
    single = single_step(step)
    rows = batch_size if format == "litert" else None
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(
        tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".partial")
    )
    try:
        exact = staging / "exact"
        exact.mkdir()
        entry = exact / writers.ENTRY[format]
        writers.write_artifact(single, format, entry, backend, batch_size=rows)
        told = _describe(step, single, start, format, entry, rows, backend)
        told = _finish(replace(told, metadata=metadata), exact)
        if not _computes_in_float32(step):
            check.compare(single, exact, told, batch_size)
        elif _has_masks(step):
            # What a masked step puts out differs between Keras's loop and its unrolled form.
            check.compare(single, exact, told, batch_size)
            check.compare(step, exact, told, batch_size, states_only=True)
        else:
            check.compare(step, exact, told, batch_size)
        written = exact
        if quantize is not None:
            written = staging / "int8"
            written.mkdir()
            _quantize(single, format, entry, written / entry.name, backend, rows)
            record = check.deviation(exact, _finish(told, written), written, representative_data)
            _finish(replace(told, quantization=record), written)
        os.chmod(written, 0o777 & ~_umask())
        _refuse_existing(directory)
        os.rename(written, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(
    directory: Path, artifact_format: str, quantize: str | None, data: Any, metadata: Any
) -> None:
    if artifact_format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(FORMATS)}. Received: format={artifact_format!r}."
        )
    _refuse_existing(directory)
    if quantize not in (None, "int8"):
        raise ValueError(f'`quantize` must be None or "int8". Received: quantize={quantize!r}.')
    if quantize is not None and artifact_format == "tf_saved_model":
        raise ValueError(
            'The format "tf_saved_model" has no quantizer of its own. Received: quantize="int8". '
            'Export as "onnx" or "litert".'
        )
    if (quantize is None) != (data is None):
        raise ValueError(
            '`quantize="int8"` and `representative_data` go together: real input `(rows, time, '
            "...)`, as `Session.read` takes it, on which the manifest says how far the outputs "
            f"moved. Received: quantize={quantize!r}, "
            f"representative_data={'None' if data is None else 'given'}."
        )
    _check_json(metadata, "metadata")


def _refuse_existing(directory: Path) -> None:
    if directory.exists() or directory.is_symlink():
        raise ValueError(
            "`directory` must not exist yet, so that nothing is overwritten. Received: "
            f"{str(directory)!r}. Remove it, or export beside it."
        )


def _check_json(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"`{where}` must be what JSON holds, whose keys are strings. Received: the key "
                    f"{key!r}. For a vocabulary, a list of its tokens in the order of their ids "
                    "does."
                )
            _check_json(inner, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _check_json(inner, f"{where}[{i}]")
    else:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`{where}` must be what JSON holds: dicts, lists, strings, finite numbers, "
                f"booleans, None. Received: {value!r} of type {type(value).__name__}."
            ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _computes_in_float32(step: StepModel) -> bool:
    return not any(is_mixed(part) for layer in step.layers for part in parts_of(layer))


def _has_masks(step: StepModel) -> bool:
    return any(
        keras_internals.mask_of(t) is not None for call in Graph(step).calls for t in call.outputs
    )


def _describe(
    step: StepModel,
    single: keras.Model,
    start: list,
    artifact_format: str,
    entry: Path,
    rows: int | None,
    backend: str,
) -> Manifest:
    """The manifest of an artifact, but for its files: finds its tensors by name and by their
    numbers.
    """
    runtime = open_runtime(artifact_format, entry.read_bytes() if entry.is_file() else b"", entry)
    graph = Graph(step)
    inputs = []
    for given, tensor in zip(step.data_inputs, single.inputs, strict=False):
        vocabulary = input_vocabulary(graph, given)
        name = _input_tensor(runtime, tensor.name)
        inputs.append(
            Tensor(tensor.name, name, _shape(tensor), tensor.dtype, has_time(given), vocabulary)
        )
    states = [_input_tensor(runtime, name) for name in step.state_names]
    found = check.output_tensors(single, runtime, inputs, states, start, rows)
    names = _output_names(step)
    if artifact_format == "onnx":
        writers.rename_outputs(entry, found, names)
        found = names
    count = len(step.data_outputs)
    outputs = [
        Tensor(
            names[i], found[i], _shape(single.outputs[i]), single.outputs[i].dtype, has_time(given),
            from_logits=reads_as_logits(graph, graph.outputs[i])[0],
        )
        for i, given in enumerate(step.data_outputs)
    ]  # fmt: skip
    described = [
        State(
            name,
            path,
            states[i],
            found[count + i],
            (None, *start[i].shape),
            str(start[i].dtype),
            start[i],
        )
        for i, (name, path) in enumerate(zip(step.state_names, step.state_paths, strict=True))
    ]
    versions = {"keras_stateful": __version__, "keras": keras.__version__}
    versions |= {"trained_with": keras.backend.backend(), "exported_with": backend}
    return Manifest(
        artifact_format=artifact_format,
        entry=entry.name,
        files=(),
        batch_size=rows,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(described),
        versions=versions,
    )


def _finish(told: Manifest, directory: Path) -> Manifest:
    """Adds the files' checksums and writes the manifest."""
    files = tuple(f for f in list_files(directory) if f.path != manifest.FILE_NAME)
    told = replace(told, files=files)
    manifest.write_manifest(told, directory)
    return told


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return (None, *tensor.shape[1:])


def _input_tensor(runtime: Runtime, name: str) -> str:
    """The artifact's name for a Keras input: exporters keep it, but for characters they do not
    allow.
    """

    def plain(text: str) -> str:
        return "".join(c if c.isalnum() else "_" for c in text.split(":")[0]).lower()

    hits = [n for n in runtime.input_names() if n == name] or [
        n for n in runtime.input_names() if plain(n) == plain(name)
    ]
    if len(hits) != 1:
        raise RuntimeError(
            f"The artifact has no input for {name!r}: {runtime.input_names()}. The outputs of the "
            "model may not depend on it; leave it out of the model. Otherwise give the input a "
            "plain name."
        )
    return hits[0]


def _output_names(step: StepModel) -> list[str]:
    """Names for the outputs: the layers that they come from, and the states' with `_new`."""
    taken = {t.name for t in step.inputs}
    names = []
    for name in [
        *step.output_names[: len(step.data_outputs)],
        *(f"{n}_new" for n in step.state_names),
    ]:
        unique, i = name, 1
        while unique in taken:
            unique, i = f"{name}_{i}", i + 1
        taken.add(unique)
        names.append(unique)
    return names


def _quantize(
    single: keras.Model,
    artifact_format: str,
    exact: Path,
    path: Path,
    backend: str,
    rows: int | None,
) -> None:
    if artifact_format == "litert":
        writers.write_artifact(
            single, artifact_format, path, backend, batch_size=rows, quantize=True
        )
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with writers.quiet():  # it recommends a preprocessing meant for vision models
        quantize_dynamic(
            exact, path, weight_type=QuantType.QInt8, extra_options={"EnableSubgraph": True}
        )
