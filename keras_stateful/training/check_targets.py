"""Whether targets fit the outputs and the losses of a model: Keras broadcasts shapes, and JAX takes
ids that are no class.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_stateful.data.ids import Classes
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import fits

_SPARSE = (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)
_ELEMENTWISE = (
    keras.losses.MeanSquaredError,
    keras.losses.MeanAbsoluteError,
    keras.losses.MeanAbsolutePercentageError,
    keras.losses.MeanSquaredLogarithmicError,
    keras.losses.LogCosh,
    keras.losses.Huber,
    keras.losses.CosineSimilarity,
    keras.losses.Poisson,
    keras.losses.KLDivergence,
    keras.losses.Hinge,
    keras.losses.SquaredHinge,
    keras.losses.CategoricalHinge,
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.log_cosh,
    keras.losses.huber,
    keras.losses.cosine_similarity,
    keras.losses.poisson,
    keras.losses.kl_divergence,
    keras.losses.hinge,
    keras.losses.squared_hinge,
    keras.losses.categorical_hinge,
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
)


class _Output(NamedTuple):
    key: Any  # of its target; None where there is one
    name: str
    shape: tuple
    loss: Any


def check_targets(model: keras.Model, name: str, sequence: Any, *, weighted: bool = False) -> None:
    """Refuses targets that an output's loss would broadcast, and ids that the output has no class
    for.

    Of a loss that is not Keras's own, or of a subclassed model, nothing is known.

    Args:
        model: a compiled model.
        name: of the argument that gives the sequence.
        sequence: a `StatefulSequence` or `StatefulStream`.
        weighted: whether the loss is given weights even where the sequence gives none.

    Raises:
        ValueError: targets that do not fit, with the remedy.
    """
    signature = sequence.signature()
    specs, weighted = signature[1], weighted or len(signature) > 2
    _check_keys(model, name, specs)
    classes = {}
    for output in _outputs(model, specs):
        spec = specs[output.key] if output.key is not None else specs
        shape, dtype = spec.shape, spec.dtype
        if _one_of(output.loss, _ELEMENTWISE):
            _check_shape(name, shape, dtype, output, weighted)
        elif _one_of(output.loss, _SPARSE) and output.shape[-1] is not None:
            ignored = getattr(output.loss, "ignore_class", None)
            if ignored is not None and weighted:
                raise ValueError(
                    "Keras divides the loss of each batch by its share of steps that "
                    f"`ignore_class` leaves in, and the weights of `{name}` make up for them, too. "
                    f"Received: ignore_class={ignored} for the output {output.name!r}. Leave it "
                    "out, and give those steps weight 0 and any class as their target: "
                    f"`sample_weight=[t != {ignored} for t in targets]`, `targets=[np.where(t == "
                    f"{ignored}, 0, t) for t in targets]`."
                )
            classes[output.key] = Classes(output.shape[-1], ignored, output.name)
    sequence.check_classes(classes)


def _check_keys(model: keras.Model, name: str, specs: Any) -> None:
    """Targets are for the outputs that the model has: one for one, or a dict for a dict."""
    if not keras_internals.is_graph(model):
        return
    graph = keras_internals.functional(model)
    named, given = (
        graph.output,
        f"targets {sorted(specs)}" if isinstance(specs, dict) else "one target",
    )
    if isinstance(named, dict):
        fits = set(specs) <= set(named) if isinstance(specs, dict) else len(named) == 1
        outputs = f"outputs {sorted(named)}"
    else:
        fits = not isinstance(specs, dict) and len(graph.outputs) == 1
        outputs = (
            f"a list of the outputs {graph.output_names}"
            if len(graph.outputs) > 1
            else "one output"
        )
    if not fits:
        several = len(graph.outputs) > 1
        likewise = ", ".join(
            f'"{key}": ...'
            for key in (sorted(named) if isinstance(named, dict) else graph.output_names)
        )
        model_of = (
            ""
            if isinstance(named, dict)
            else f"make the model's outputs a dict, `keras.Model(inputs, {{{likewise}}})`, and "
        )
        raise ValueError(
            f"The targets of `{name}` are not those of the model's outputs. Received: {given}; "
            f"{model.name!r} has {outputs}. "
            + (
                f"For several outputs {model_of}give `targets={{{likewise}}}`."
                if several
                else "Give one, not a dict: `targets=...`."
            )
        )


def check_labels(sequence: Any, validation: Any, received: str) -> None:
    """A validation must be scored on what is trained on.

    Args:
        sequence: what `fit` reads, or None.
        validation: the sequence that the validation reads.
        received: how the error calls the validation.
    """
    if sequence is None:
        return
    if (
        sequence.target_offsets != validation.target_offsets
        and sequence.has_targets == validation.has_targets
    ):
        raise ValueError(
            "The validation would be scored on other time steps than training. Received: "
            f"{received} with targets {sorted(validation.target_offsets)} steps ahead, training "
            f"{sorted(sequence.target_offsets)}. Give both the same `target_offset=`."
        )
    if sequence.has_targets and not validation.has_targets:
        raise ValueError(
            "The validation would be scored on its own next time step, where training has "
            f"`targets`. Received: {received} without `targets`. Give it the same kind: "
            "`targets=...`, laid out as its documents."
        )


def _outputs(model: keras.Model, specs: Any) -> Iterator[_Output]:
    """The outputs that have a target and a loss."""
    if not keras_internals.is_graph(model) or not model.compiled:
        return
    graph = keras_internals.functional(model)
    loss = keras_internals.compile_arguments(model).get("loss")
    by_key = (
        graph.output
        if isinstance(graph.output, dict)
        else dict(zip(graph.output_names, graph.outputs, strict=True))
    )
    if not isinstance(specs, dict):
        if len(by_key) == 1:
            [(name, tensor)] = by_key.items()
            [loss] = (
                [loss] if not keras.tree.is_nested(loss) else keras.tree.flatten(loss)[:1] or [None]
            )
            yield _Output(None, name, tuple(tensor.shape), loss)
        return
    for i, (key, tensor) in enumerate(by_key.items()):
        if isinstance(loss, dict):
            own = loss.get(key)
        elif isinstance(loss, (list, tuple)):
            own = loss[i] if i < len(loss) else None
        else:
            own = loss if len(by_key) == 1 else None
        if key in specs and not keras.tree.is_nested(own):
            yield _Output(key, key, tuple(tensor.shape), own)


def _one_of(loss: Any, own: tuple) -> bool:
    """Whether a loss is one of these of Keras's own, given as text, function or object."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return False
    return any(loss is o or type(loss) is o for o in own)


def _check_shape(name: str, target: tuple, dtype: Any, output: _Output, weighted: bool) -> None:
    if fits_at_a_step(target[2:], output.shape[2:]):
        if not weighted or (len(target) > 2 and len(output.shape) > 2):
            return
        remedy = (
            "Give them as floating point, `targets=[t.astype('float32') for t in targets]`: they "
            "then have an axis for the output's."
            if len(target) == 2
            else "Give that output a last axis of length 1, as a `Dense(1)` does."
        )
        raise ValueError(
            f"The loss would take the mean over the time steps of `{name}` before it weighs them. "
            f"Received: targets of shape {target} and dtype {dtype}, the output {output.name!r} of "
            f"shape {output.shape}. {remedy}"
        )
    step = tuple(target[2:])
    remedy = (
        f"Give that output the targets' shape at one time step, {step}"
        + (f" or {step[:-1]}" if len(step) > 1 and step[-1] == 1 else "")
        + (
            f": a `Dense({step[0]})`."
            if len(step) == 1 or (len(step) == 2 and step[-1] == 1)
            else " (a `Reshape` inside `TimeDistributed`)."
            if step
            else ", with a last axis of length 1."
        )
    )
    if len(step) < len(output.shape[2:]) and dtype.kind == "i":
        remedy = (
            "Ids of classes need a sparse loss: "
            "`keras.losses.SparseCategoricalCrossentropy(from_logits=...)`."
        )
    raise ValueError(
        f"The loss would broadcast the targets of `{name}` against the output {output.name!r}. "
        f"Received: targets of shape {target}, an output of shape {output.shape}. {remedy}"
    )


def fits_at_a_step(given: tuple, wanted: tuple) -> bool:
    """Whether shapes beyond `(batch, time)` agree, but for a last axis of length 1, which Keras
    adds and takes away.
    """
    if len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    elif len(wanted) == len(given) + 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    return fits(given, wanted)
