"""`export_step_model`: from a trained model to a directory that runs without Keras.

model ─▶ step model ─▶ one time step, flat ─▶ artifact ─▶ compared with Keras ─▶ manifest
         └─ states are inputs: no live state    └─ int8 ─▶ deviation measured       │
            is ever exported                                   renamed into place ◀─┘
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import Graph
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.loops import keras_masks
from keras_stateful.conversion.convert import to_inference
from keras_stateful.conversion.step_model import StepModel, initial_states, to_step_model
from keras_stateful.export import check
from keras_stateful.export.arguments import check_absent, check_arguments
from keras_stateful.export.describe import describe
from keras_stateful.export.formats import Target, target_of
from keras_stateful.export.onnx_files import quantize_onnx
from keras_stateful.export.processes import write_artifact
from keras_stateful.export.quantized import describe_weights
from keras_stateful.export.single_step import is_mixed, single_step
from keras_stateful.foundation import devices
from keras_stateful.foundation.arguments import a_path, whole_number
from keras_stateful.foundation.progress import ProgressBar, Verbose, read_verbose
from keras_stateful.foundation.types import Structure
from keras_stateful.session.artifact import list_files
from keras_stateful.session.manifest import FILE_NAME, Manifest, write_manifest


def export_step_model(
    model: keras.Model,
    directory: str | os.PathLike,
    format: str = "onnx",
    *,
    batch_size: int = 1,
    quantize: str | None = None,
    representative_data: Structure = None,
    metadata: Any = None,
    verbose: Verbose = "auto",
) -> None:
    """Writes a model for use one time step at a time, where Keras is not installed.

    The directory holds the artifact and `manifest.json`. The artifact takes one time step and the
    states, and gives the output and the new states. It computes in float32 and starts from the
    initial state, whatever state the model is in. Before it appears under its name it is loaded
    back, and compared with the model itself on a stream of random input with masked steps; if
    anything fails there is no directory.

    Args:
        model: any model that `to_step_model` accepts, trained on any backend, or a `StepModel`.
            Left as it is.
        directory: where to write; must not exist. Its parents are made.
        format: "onnx", "openvino", "litert", "executorch" or "tf_saved_model". Where it cannot be
            written on the running backend, a fresh process with another installed backend does.
        batch_size: rows that the artifact runs at once, where the format fixes them (LiteRT and
            ExecuTorch); the others take any. A `Session` serves any number of rows with each.
        quantize: "int8" for weights in 8 bits, states in float32, by ONNX Runtime's or LiteRT's own
            quantizer; not for "executorch" and "tf_saved_model". The manifest says how many
            weights it took; a warning, if none.
        representative_data: with `quantize`, real input as `Session.read` takes it,
            `(rows, time, ...)`: how far outputs move on it is written into the manifest.
        metadata: anything that JSON holds, a vocabulary, say; `Session.metadata` gives it back.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end; "auto" for 1 in a
            terminal or notebook, and 2 where output goes to a file. A stage is the writing of the
            artifact, each of the two comparisons, or the quantization.

    Raises:
        ValueError: a directory that exists, or would lie in a file; an unknown format or
            `verbose`; as `to_step_model`.
        TypeError: not a path; metadata that JSON cannot hold; a batch size that is not a whole
            number.
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
    directory = a_path("directory", directory)
    batch_size = whole_number("batch_size", batch_size, 1)
    verbose = read_verbose(verbose)
    check_arguments(directory, format, quantize, representative_data, metadata)
    target = target_of(format, batch_size)
    step = model if isinstance(model, StepModel) else to_step_model(model, share_weights=True)
    graph = Graph(step)
    start = [s[0] for s in initial_states(step)]
    single = single_step(step, graph)
    stages = 3 if quantize is None else 4
    with _staging(directory) as staging, ProgressBar(verbose, stages, "stage") as shown:
        shown.advance(0)  # the first stage is the longest
        exact = staging / "exact"
        exact.mkdir()
        write_artifact(single, target, exact / target.entry)
        described = describe(step, graph, single, start, exact / target.entry, target)
        manifest = _finish(replace(described, metadata=metadata), exact)
        shown.advance()
        check.compare(single, exact, manifest, batch_size)
        shown.advance()
        if not any(is_mixed(part) for layer in step.layers for part in parts_of(layer)):
            # (The artifact computes in float32, what is mixed in half precision.)
            _check_against_user(model, exact, manifest, batch_size)
        shown.advance()
        written = exact
        if quantize is not None:
            written = staging / "int8"
            written.mkdir()
            _quantize(single, target, exact / target.entry, written / target.entry)
            weights = describe_weights(single, written / target.entry, target)
            _record_quantization(exact, manifest, written, representative_data, weights)
            shown.advance()
        _move(written, directory)


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A temporary folder beside the directory, on its file system: a rename can move it there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = tempfile.mkdtemp(
        dir=directory.parent, prefix=f".{directory.name}.", suffix=".partial"
    )
    try:
        yield Path(staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(written: Path, directory: Path) -> None:
    """Renames what was written: the directory appears whole or not at all."""
    # A temporary folder is closed to others; an export has the permissions of any new directory.
    os.chmod(written, 0o777 & ~_umask())
    check_absent(directory)  # again: the export may have taken minutes
    os.rename(written, directory)


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by being set
    os.umask(mask)
    return mask


def _finish(manifest: Manifest, directory: Path) -> Manifest:
    """Adds the files' checksums and writes the manifest."""
    files = tuple(f for f in list_files(directory) if f.path != FILE_NAME)
    manifest = replace(manifest, files=files)
    write_manifest(manifest, directory)
    return manifest


def _check_against_user(
    model: keras.Model, directory: Path, manifest: Manifest, batch_size: int
) -> None:
    """Compares an artifact with the model that the user gave.

    What it was written from, `check.compare` compares it with.
    """
    if isinstance(model, StepModel) or devices.replicas(model) > 1:
        step = model if isinstance(model, StepModel) else to_step_model(model, share_weights=True)
        check.compare(step, directory, manifest, batch_size)
        return
    graph = Graph(model)
    if any(map(graph.gets_mask, filter(_is_wrong_under_masks, graph.layers))):
        graph = Graph(to_inference(model, batch_size, share_weights=True))
    check.compare_with_model(graph, directory, manifest, batch_size)


def _is_wrong_under_masks(layer: keras.layers.Layer) -> bool:
    """True of a plain layer whose masked steps Keras gets wrong, or fails at."""
    plain = isinstance(layer, keras.layers.RNN) and not isinstance(layer, Carry)
    return plain and not keras_masks(layer.get_initial_state(1))


def _quantize(single: keras.Model, target: Target, exact: Path, path: Path) -> None:
    """Writes the artifact with weights in int8: ONNX's from the file, others from the model."""
    if target.format == "onnx":
        quantize_onnx(exact, path)
    else:
        write_artifact(single, target, path, quantize=True)


def _record_quantization(
    exact: Path, manifest: Manifest, quantized: Path, data: Structure, weights: dict[str, Any]
) -> None:
    """Finishes a quantized directory; its manifest says what was done, and how far outputs moved.

    Args:
        exact: the directory in float32.
        manifest: of both.
        quantized: the directory to finish.
        data: what outputs are compared on.
        weights: what was done to them.
    """
    # A session opens no directory without a manifest, and reads there how rows are to be run.
    manifest = _finish(replace(manifest, quantization=weights), quantized)
    record = weights | check.deviation(exact, manifest, quantized, data)
    _finish(replace(manifest, quantization=record), quantized)
