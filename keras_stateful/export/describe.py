"""The manifest of an artifact: which of its tensors is which of the model's.

Exporters keep the names of inputs, but for characters that they do not allow; outputs they rename
and reorder, so that only their numbers tell which is which.
"""

import re
from pathlib import Path

import keras
import numpy as np

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import sample
from keras_stateful.carry.vocabulary import input_vocabulary, reads_as_logits
from keras_stateful.conversion.step_model import StepModel, has_time
from keras_stateful.export import check
from keras_stateful.export.formats import FORMATS, Target
from keras_stateful.export.single_step import unique
from keras_stateful.foundation.states import fingerprint
from keras_stateful.foundation.version import __version__
from keras_stateful.session.artifact import written_artifact
from keras_stateful.session.manifest import Manifest, State, Tensor
from keras_stateful.session.runtimes import Runtime, open_runtime
from keras_stateful.training.model_memory import trained_on

# How far apart (`check.apart`) an output of the artifact and one of Keras may be and still be taken
# for the same. Looser than the check: on random inputs, different outputs are apart by far more,
# and whether the numbers are right is for `check.compare` to say.
_ALIKE = 100 * check.TOLERANCE


def describe(
    step: StepModel,
    graph: Graph,
    single: keras.Model,
    start: list[np.ndarray],
    entry: Path,
    target: Target,
) -> Manifest:
    """The manifest of an artifact, but for its files; its outputs get readable names, if they can.

    Args:
        step: the step model.
        graph: of `step`.
        single: from `single_step`.
        start: the initial value of each state, one row's.
        entry: the artifact.
        target: what was written.

    Raises:
        RuntimeError: an artifact that the runtime refuses; an input or output of the model that the
            artifact does not have, or that could be one of several.
    """
    try:
        runtime = open_runtime(target.format, written_artifact(entry))
    except ValueError as error:
        raise RuntimeError(
            f"What the exporter of Keras on {target.backend} wrote, its own runtime refuses. "
            f"Received: {error.__cause__ or error}. Nothing was written. Write the operation that "
            "this names in another way (a comparison with 0.0 for one with 0, a public layer for "
            "an operation), or try another `format` or backend."
        ) from error
    known = trained_on(step)
    offsets = {key: tuple(each) for key, each in known.offsets.items()}
    named = known.inputs  # columns, under "" those of a single input
    inputs = [
        Tensor(
            name=tensor.name,
            tensor=_input_name(runtime, tensor.name),
            shape=_shape(tensor),
            dtype=tensor.dtype,
            time=has_time(original),
            vocabulary=input_vocabulary(graph, original),
            offsets=offsets.get(tensor.name),
            series=True if known.series in ("", tensor.name) else None,
            columns=tuple(named.get(tensor.name, named.get("", ()))) or None,
        )
        # The states stand behind the data in `single`.
        for original, tensor in zip(step.data_inputs, single.inputs, strict=False)
    ]
    states = [_input_name(runtime, name) for name in step.state_names]
    written = output_tensors(single, runtime, inputs, states, start, target.rows)
    names = _output_names(step)
    if rename := FORMATS[target.format].rename_outputs:
        rename(entry, written, names)
        written = names
    data = len(step.data_outputs)
    return Manifest(
        versions={
            "keras_stateful": __version__,
            "keras": keras.__version__,
            "trained_with": keras.backend.backend(),
            "exported_with": target.backend,
        },
        artifact_format=target.format,
        entry=entry.name,
        batch_size=target.rows,
        files=(),
        inputs=tuple(inputs),
        outputs=tuple(
            Tensor(
                name=names[i],
                tensor=written[i],
                shape=_shape(single.outputs[i]),
                dtype=single.outputs[i].dtype,
                time=has_time(original),
                from_logits=reads_as_logits(graph, graph.outputs[i])[0],
                offsets=known.steps_ahead or None,
            )
            for i, original in enumerate(step.data_outputs)
        ),
        fingerprint=fingerprint(map(sample, single.weights)),
        states=tuple(
            State(
                name=step.state_names[i],
                layer=step.state_paths[i],
                input=states[i],
                output=written[data + i],
                shape=(None, *initial.shape),
                dtype=str(initial.dtype),
                initial=initial,
            )
            for i, initial in enumerate(start)
        ),
    )


def _shape(tensor: keras.KerasTensor) -> tuple[int | None, ...]:
    return (None, *tensor.shape[1:])


def _input_name(runtime: Runtime, name: str) -> str:
    """The artifact's name for a Keras input: the same, but for characters it does not allow."""
    names = runtime.input_names()
    hits = [n for n in names if n == name] or [n for n in names if _plain(n) == _plain(name)]
    if len(hits) != 1:
        raise RuntimeError(
            f"The artifact has no input for {name!r}: {names}. The outputs of the model may not "
            "depend on it; leave it out of the model. Otherwise give the input a plain name."
        )
    return hits[0]


def _plain(name: str) -> str:
    """A name in the characters that every exporter allows: `Ids/x:0` becomes `ids_x`."""
    return "".join(c if c.isalnum() else "_" for c in name.split(":")[0]).lower()


def _output_names(step: StepModel) -> list[str]:
    """Names for the outputs: those of the step model, and of the states theirs with `_new`."""
    taken = {t.name for t in step.inputs}
    data = step.data_output_names
    return [unique(name, taken) for name in [*data, *(f"{n}_new" for n in step.state_names)]]


def output_tensors(
    single: keras.Model,
    runtime: Runtime,
    inputs: list[Tensor],
    states: list[str],
    start: list[np.ndarray],
    rows: int | None,
) -> list[str]:
    """The artifact's name for each Keras output: they compute the same numbers of random inputs.

    One output of the artifact may stand for two of the model. Outputs that differ for rare inputs
    only have the same numbers here; they are told apart by their order, provided that the numbers
    of all outputs agree with that order.

    Args:
        single: from `single_step`.
        runtime: the opened artifact.
        inputs: those that are not states.
        states: the artifact's names of the states' inputs.
        start: the initial value of each state, one row's.
        rows: how many the artifact takes; None for any.

    Raises:
        RuntimeError: an output that the artifact does not have, or that could be one of several.
    """
    candidates = _candidates(single, runtime, inputs, states, start, rows or 2)
    in_order = _in_order(runtime.output_names())
    if len(in_order) == len(candidates) and all(
        name in names for name, names in zip(in_order, candidates, strict=True)
    ):
        return in_order
    for tensor, names in zip(single.outputs, candidates, strict=True):
        if len(set(names)) > 1:
            raise RuntimeError(
                f"Which output of the artifact is {tensor.name!r} cannot be told. Received: "
                f"{names}, in an order that is not the model's, with the same numbers for random "
                "inputs. Leave one of them out of the model's outputs, or try another `format`."
            )
    return [names[0] for names in candidates]


def _candidates(
    single: keras.Model,
    runtime: Runtime,
    inputs: list[Tensor],
    states: list[str],
    start: list[np.ndarray],
    rows: int,
) -> list[list[str]]:
    """For each Keras output, the names of the artifact's outputs with the same numbers."""
    rng = np.random.default_rng(0)
    feeds = [check.random_input(t, rows, rng) for t in inputs]
    # Random states too: from the initial ones, often zeros, several outputs would be the same.
    feeds += [rng.uniform(-1, 1, (rows, *s.shape)).astype(s.dtype) for s in start]
    by_name = dict(zip([*(t.tensor for t in inputs), *states], feeds, strict=True))
    names = list(runtime.output_names())
    computed = dict(zip(names, runtime.run(by_name, names), strict=True))
    candidates = []
    for tensor, expected in zip(single.outputs, check.keras_function(single)(feeds), strict=True):
        alike = [n for n in names if check.apart(computed[n], expected) <= _ALIKE]
        if not alike:
            raise RuntimeError(
                f"The artifact has no output that computes what {tensor.name!r} does in Keras, "
                f"shape {tensor.shape}. The exporter is likely to have changed the model's "
                "meaning: try another `format`, and report it to Keras."
            )
        candidates.append(alike)
    return candidates


def _in_order(names: list[str]) -> list[str]:
    """The artifact's outputs in what is likely to be the model's order.

    Outputs called `output_<number>` are sorted by their numbers, since some runtimes list them by
    name, `output_10` before `output_2`. Others stay as the artifact lists them.
    """
    numbers = [re.fullmatch(r"output_(\d+)", name) for name in names]
    if all(numbers):
        return [name for _, name in sorted((int(m[1]), m[0]) for m in numbers if m)]
    return names
