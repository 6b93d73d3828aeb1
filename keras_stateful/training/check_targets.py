"""Checks that targets fit the outputs and losses of a model.

Keras broadcasts a target against an output of another shape, and JAX takes an id that is no class.
Both train without a word, on the wrong thing.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import keras
import numpy as np

from keras_stateful.data.batch import Spec
from keras_stateful.data.ids import Classes
from keras_stateful.data.offsets import read_offsets
from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import fits
from keras_stateful.foundation.protocols import Key, Readable
from keras_stateful.foundation.types import Structure
from keras_stateful.training.as_trained import check_predicted
from keras_stateful.training.check_losses import check_reach, check_weighing
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.model_memory import trained_on

# A loss as `compile` takes it.
_Loss: TypeAlias = str | keras.losses.Loss | Callable | None

_SPARSE = (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)
# Losses that compare targets and outputs value by value, broadcasting one to the other.
_ELEMENTWISE = tuple(getattr(keras.losses, name) for name in (
    "MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "LogCosh", "Huber",
    "MeanSquaredLogarithmicError", "CosineSimilarity", "Poisson", "KLDivergence",
    "Hinge", "SquaredHinge", "CategoricalHinge", "BinaryCrossentropy", "BinaryFocalCrossentropy",
    "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "log_cosh",
    "huber", "mean_squared_logarithmic_error", "cosine_similarity", "poisson", "kl_divergence",
    "hinge", "squared_hinge", "categorical_hinge", "binary_crossentropy",
    "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy",
))  # fmt: skip


_UNITS = {1: "windows", 2: "time steps"}  # by the axes that weights have


class _Output(NamedTuple):
    """An output that has a target and a loss."""

    key: Key  # of its target
    name: str
    shape: tuple[int | None, ...]  # (batch, time, ...), or (batch, ...) for each window
    loss: _Loss
    lead: int  # axes in front of those of a step, or of a window

    @property
    def step(self) -> tuple[int | None, ...]:
        """The shape at one time step, or of one window."""
        return self.shape[self.lead :]


def check_targets(
    model: keras.Model, name: str, sequence: Readable, *, weighted: bool = False
) -> dict[Key, Classes]:
    """Checks that no loss would broadcast the targets of a sequence.

    Of a subclassed model nothing is known.

    Args:
        model: a compiled model.
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.
        weighted: True if the loss is given weights even where the sequence gives none.

    Returns:
        The classes of each output whose loss takes ids, by key of the target; for
        `Readable.check_classes`.

    Raises:
        ValueError: targets that do not fit, with the remedy.
    """
    signature = sequence.signature()
    specs, weighted = signature[1], weighted or len(signature) > 2
    _check_keys(model, name, specs)
    classes = {}
    for output in _outputs(model, specs):
        if weighted:
            _check_weighted(model, name, output, specs)
        if _is_among(output.loss, _ELEMENTWISE):
            spec = specs if output.key is None else specs[output.key]
            _check_shape(name, spec, output, weighted)
        elif _is_among(output.loss, _SPARSE) and output.shape[-1] is not None:
            # Keras checks the shapes itself, but on JAX it takes any id.
            ignored = getattr(output.loss, "ignore_class", None)
            if weighted:
                _check_ignore_class(name, output, ignored)
            classes[output.key] = Classes(output.shape[-1], ignored, output.name)
    return classes


def check_labels(training: Readable | None, validation: Readable, received: str) -> None:
    """Checks that a validation is scored on what is trained on.

    Args:
        training: what `fit` reads; None for other data.
        validation: what the validation reads.
        received: the validation's argument, used in error messages.

    Raises:
        ValueError: targets of another kind, or other time steps ahead.
    """
    if training is None:
        return
    # Where one of them alone has targets, their offsets differ by default: the next check says it
    # better.
    if _steps(training) != _steps(validation) and training.has_targets == validation.has_targets:
        raise ValueError(
            "The validation would be scored on other time steps than training. Received: "
            f"{received} with targets {_steps(validation)} steps ahead, training "
            f"{_steps(training)}. Give both the same `target_offset=`."
        )
    _check_has_targets(training, validation, received)


def check_scored(model: keras.Model, scored: Readable, received: str) -> None:
    """Checks that data which are scored after a training are scored on what it was trained on.

    Args:
        model: which may remember its training.
        scored: the data.
        received: their argument, used in error messages.

    Raises:
        ValueError: data that would be scored on their own next time step, or on other time steps.
    """
    known = trained_on(model)
    _check_has_targets(known, scored, received)
    check_predicted(received, scored, known)


def _steps(scored: Readable) -> list[int]:
    """How many time steps ahead of the input targets are."""
    return list(read_offsets(scored.target_offset, 0)[0])


def _check_has_targets(training: TrainedOn | Readable, scored: Readable, received: str) -> None:
    if training.has_targets and not scored.has_targets:
        raise ValueError(
            "It would be scored on its own next time step, where training has `targets`. Received: "
            f"{received} without `targets`. Give it the same kind: `targets=...`, laid out as the "
            "documents."
        )


def fits_at_a_step(shape: tuple, expected: tuple) -> bool:
    """True if shapes beyond `(batch, time)`, or `(batch,)`, agree, but for a last axis of length 1.

    Keras adds such an axis where it is missing, and takes it away where it is too much.
    """
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(expected) == len(shape) + 1 and expected[-1] == 1:
        expected = expected[:-1]
    return fits(shape, expected)


# Targets and outputs, by name


def _check_keys(model: keras.Model, name: str, specs: Structure) -> None:
    """Refuses targets for outputs that are not there: one is for one, a dict for a dict."""
    if not keras_internals.is_graph(model):
        return
    graph = keras_internals.functional(model)
    outputs = graph.output
    if isinstance(outputs, dict):
        agree = set(specs) <= set(outputs) if isinstance(specs, dict) else len(outputs) == 1
    else:
        agree = not isinstance(specs, dict) and len(graph.outputs) == 1
    if agree:
        return
    if isinstance(outputs, dict):
        has = f"outputs {sorted(outputs)}"
    elif len(graph.outputs) > 1:
        has = f"a list of the outputs {graph.output_names}"
    else:
        has = "one output"
    received = f"targets {sorted(specs)}" if isinstance(specs, dict) else "one target"
    raise ValueError(
        f"The targets of `{name}` are not those of the model's outputs. Received: {received}; "
        f"{model.name!r} has {has}. {_keys_remedy(graph)}"
    )


def _keys_remedy(graph: keras.Model) -> str:
    """How to give targets that a model has outputs for."""
    if len(graph.outputs) == 1:
        return "Give one, not a dict: `targets=...`."
    in_dict = isinstance(graph.output, dict)
    names = sorted(graph.output) if in_dict else graph.output_names
    example = ", ".join(f'"{name}": ...' for name in names)
    # A list of outputs has no names that targets could have as their keys.
    first = (
        ""
        if in_dict
        else f"make the model's outputs a dict, `keras.Model(inputs, {{{example}}})`, and "
    )
    return f"For several outputs {first}give `targets={{{example}}}`."


def _outputs(model: keras.Model, specs: Structure) -> Iterator[_Output]:
    """The outputs that have a target and a loss."""
    if not keras_internals.is_graph(model) or not model.compiled:
        return
    graph = keras_internals.functional(model)
    tensors = (
        graph.output
        if isinstance(graph.output, dict)
        else dict(zip(graph.output_names, graph.outputs, strict=True))
    )
    loss = keras_internals.compile_arguments(model).get("loss")
    lead = 1 if facts_of(model).at_ends else 2
    if isinstance(specs, dict):
        # Keras has the parts of a dict in the order of their keys, and so a list of losses.
        for index, (key, tensor) in enumerate(sorted(tensors.items())):
            output_loss = _loss_of(loss, key, index)
            if key in specs and not keras.tree.is_nested(output_loss):
                yield _Output(key, key, tuple(tensor.shape), output_loss, lead)
    elif len(tensors) == 1:
        [(name, tensor)] = tensors.items()
        if keras.tree.is_nested(loss):  # a list or a dict of one
            loss = next(iter(keras.tree.flatten(loss)), None)
        # The one target has no key, whatever the name of the output.
        yield _Output(None, name, tuple(tensor.shape), loss, lead)


def _loss_of(loss: Structure, key: Key, index: int) -> _Loss:
    """The loss of one of several outputs, as Keras assigns them: by key, by place, one for all."""
    if isinstance(loss, dict):
        return loss.get(key)
    if isinstance(loss, (list, tuple)):
        return loss[index] if index < len(loss) else None
    return loss


def _resolved(loss: _Loss) -> _Loss:
    """The loss that a text stands for; the text where Keras decides when it sees the data."""
    if isinstance(loss, str):
        try:
            return keras.losses.get(loss)
        except ValueError:
            return loss
    return loss


def _is_among(loss: _Loss, losses: tuple) -> bool:
    """True if a loss, given as text, function or object, is one of these of Keras's own."""
    loss = _resolved(loss)
    # Not `isinstance`: a subclass may compute something else.
    return any(loss is one or type(loss) is one for one in losses)


# Losses and metrics, under weights


def _check_weighted(model: keras.Model, name: str, output: _Output, specs: Structure) -> None:
    """Refuses losses and metrics that weights of time steps do not reach."""
    check_weighing(name, output.name, output.loss)
    target = specs if output.key is None else specs[output.key]
    if not _is_among(output.loss, _ELEMENTWISE + _SPARSE):  # which give a value for each step
        loss = _resolved(output.loss)
        function = loss.call if isinstance(loss, keras.losses.Loss) else loss
        if callable(function):
            check_reach("loss", output.name, function, target, output.shape, output.lead)
    metrics = keras_internals.compile_arguments(model).get("weighted_metrics")
    if isinstance(metrics, dict):
        metrics = metrics.get(output.name)
    elif output.key is not None:  # lists are for all outputs together
        metrics = None
    for metric in keras.tree.flatten(metrics):
        if inspect.isfunction(metric):
            kind = f"weighted metric {metric.__name__!r}"
            check_reach(kind, output.name, metric, target, output.shape, output.lead)


# Targets and outputs, by shape


def _check_ignore_class(name: str, output: _Output, ignored: int | None) -> None:
    """Refuses `ignore_class` under weights, which make up for the steps left out a second time."""
    if ignored is None:
        return
    raise ValueError(
        "Keras divides the loss of each batch by its share of steps that `ignore_class` leaves "
        f"in, and the weights of `{name}` make up for them, too. Received: "
        f"ignore_class={ignored} for the output {output.name!r}. Leave it out, and give those "
        "steps weight 0 and any class as their target: "
        f"`sample_weight=[t != {ignored} for t in targets]`, "
        f"`targets=[np.where(t == {ignored}, 0, t) for t in targets]`."
    )


def _check_shape(name: str, target: Spec, output: _Output, weighted: bool) -> None:
    """Refuses targets of another shape than the output, beyond a last axis of length 1."""
    step = target.shape[output.lead :]
    if not fits_at_a_step(step, output.step):
        raise ValueError(
            f"The loss would broadcast the targets of `{name}` against the output {output.name!r}. "
            f"Received: targets of shape {target.shape}, an output of shape {output.shape}. "
            f"{_shape_remedy(step, target.dtype, output)}"
        )
    # An elementwise loss takes the mean over the last axis. With `(batch, time)` on one side, that
    # would be time, and the weights of the steps would weigh their mean; likewise with `(batch,)`.
    if weighted and not (step and output.step):
        remedy = (
            "Give them as floating point, `targets=[t.astype('float32') for t in targets]`: they "
            "then have an axis for the output's."
            if not step
            else "Give that output a last axis of length 1, as a `Dense(1)` does."
        )
        raise ValueError(
            f"The loss would take the mean over the {_UNITS[output.lead]} of `{name}` before it "
            "weighs them. "
            f"Received: targets of shape {target.shape} and dtype {target.dtype}, the output "
            f"{output.name!r} of shape {output.shape}. {remedy}"
        )


def _shape_remedy(step: tuple[int, ...], dtype: np.dtype, output: _Output) -> str:
    """What to do where targets have the shape `step` at each time step and the output another."""
    # Integers without the axis of the classes: one id where the output has a value for each class.
    if len(step) < len(output.step) and dtype.kind == "i":
        return (
            "Ids of classes need a sparse loss: "
            "`keras.losses.SparseCategoricalCrossentropy(from_logits=...)`."
        )
    give = f"Give that output the targets' shape at one time step, {step}"
    if not step:
        return f"{give}, with a last axis of length 1."
    if len(step) > 1 and step[-1] == 1:  # an axis that the output may leave out
        give += f" or {step[:-1]}"
        step = step[:-1]
    layer = (
        f": a `Dense({step[0]})`." if len(step) == 1 else " (a `Reshape` inside `TimeDistributed`)."
    )
    values = output.step[0] if len(output.step) == 1 else None
    if step == (1,) and values is not None and values > 1:
        layer += (
            f" Where its {values} values are those of {values} time steps, say how far ahead each "
            f"is: `target_offset=` a list of {values} (`horizons=` of `from_frame`)."
        )
    return give + layer
