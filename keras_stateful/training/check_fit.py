"""What must hold before the first training step of a stateful `fit`, checked on fit's arguments.

Keras accepts all of it and trains on the wrong thing: shuffled windows, rows of another stream, a
state carried over a document's end, a validation that begins where the last one stopped.

    check_fit ──▶ check_data("x") ─────────────┬─▶ check_sequence: rows, resets, inputs, targets
        └──▶ check_validation ─▶ check_data ───┴─▶ check_arrays: rows, order, the resets input
    check_evaluate ──▶ check_data
"""

from typing import NamedTuple

import keras

from keras_stateful.carry.states import find_states
from keras_stateful.foundation import device_checks, devices, keras_internals
from keras_stateful.foundation.protocols import (
    Readable,
    is_converted,
    is_legacy_file,
    is_sequence,
    legacy_file_refused,
    sequence_or_none,
)
from keras_stateful.foundation.types import Arguments, Structure
from keras_stateful.training.as_trained import read_as_trained
from keras_stateful.training.check_arrays import (
    check_resets_given,
    check_rows,
    check_validation_rows,
    count_rows,
    is_arrays,
    model_batch_size,
)
from keras_stateful.training.check_sequence import check_sequence, check_stride_given, described
from keras_stateful.training.check_targets import check_labels
from keras_stateful.training.check_values import check_values
from keras_stateful.training.model_memory import after_training, remember


def check_fit(model: keras.Model, arguments: Arguments, resets_for: Readable | None) -> None:
    """Checks all of fit's arguments.

    Args:
        model: the model that will be trained.
        arguments: of `fit`.
        resets_for: the sequence that a `ResetStatesCallback` was made with, or None.

    Raises:
        ValueError: anything that would train on the wrong thing, with the remedy.
    """
    x, validation = arguments.get("x"), arguments.get("validation_data")
    if is_converted(model):
        _check_files(arguments.get("callbacks"))
    check_data(model, "x", x, arguments, arguments.get("batch_size"))
    if validation is not None:
        check_validation(model, validation, arguments)
    if is_sequence(x):
        _check_passes("x", x, arguments)
        _check_ignored("fit", arguments)
        if resets_for is not None and resets_for is not x:
            raise ValueError(
                "`ResetStatesCallback` was given another sequence than `fit` reads. Received: "
                f"callback: {described(resets_for)}; fit: {described(x)}. Make one sequence and "
                "give it to both."
            )
    known = after_training(model, sequence_or_none(x))
    if is_sequence(validation):
        read_as_trained("validation_data", validation, known)
    # Keras splits off the last rows of arrays; of a sequence it would refuse it in its own words.
    if arguments.get("validation_split"):
        raise ValueError(
            "`validation_split` cuts rows off and so whole streams. Received: validation_split="
            f"{arguments['validation_split']}. Hold documents out and pass "
            "`validation_data=StatefulSequence(...)`."
        )
    remember(model, known)


def _check_files(callbacks: Structure | keras.callbacks.CallbackList) -> None:
    """Refuses a `ModelCheckpoint` whose files could not be loaded, before an epoch is trained."""
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            path = callback.filepath
            if is_legacy_file(path) and not callback.save_weights_only:
                raise legacy_file_refused("ModelCheckpoint.filepath", path)


def check_evaluate(model: keras.Model, arguments: Arguments) -> None:
    """Checks all of evaluate's arguments; see `check_data`."""
    name = "validation_data" if keras_internals.is_validation(arguments) else "x (evaluate)"
    x = arguments.get("x")
    check_data(model, name, x, arguments, arguments.get("batch_size"))
    if is_sequence(x):
        _check_ignored("evaluate", arguments)


def check_validation(model: keras.Model, validation: Structure, arguments: Arguments) -> None:
    """Checks that validation data fit the model and are read whole.

    Only then does `val_loss` depend on the weights alone.

    Args:
        model: the model that will be trained.
        validation: the argument `validation_data`, not None.
        arguments: of `fit`.

    Raises:
        ValueError: data that do not fit, or would be read in part.
    """
    if isinstance(validation, list):
        raise ValueError(
            "`validation_data` is a list, and nobody says what its parts are. Received: a list of "
            f"{len(validation)}. For documents pass `StatefulSequence(documents, ...)`, or "
            "`callbacks=[ValidateDocuments(documents)]`; for arrays a tuple, `(x, y)`."
        )
    # A tuple is `(x, y)` or `(x, y, sample_weight)`; a sequence gives its own targets.
    data = validation[0] if isinstance(validation, tuple) else validation
    check_data(model, "validation_data", data, arguments, arguments.get("validation_batch_size"))
    check_validation_rows(model, data, arguments)
    if is_sequence(data):
        check_labels(sequence_or_none(arguments.get("x")), data, "validation_data")
        _check_passes("validation_data", data, arguments)
    steps, batches = arguments.get("validation_steps"), _count_batches(model, data)
    if steps is not None and batches is not None and steps < batches:
        raise ValueError(
            "`validation_steps` would end each validation in the middle, and the next would go on "
            f"from there. Received: validation_steps={steps}, validation_data of {batches} "
            "batches. Leave it out, and pass fewer documents."
        )


def check_data(
    model: keras.Model, name: str, data: Structure, arguments: Arguments, batch_size: int | None
) -> None:
    """Checks one source of batches: its devices, rows, order, resets and targets.

    Args:
        model: the model that reads them.
        name: name of the argument that gives them, used in error messages.
        data: a sequence, arrays, or anything else that Keras takes.
        arguments: of `fit` or `evaluate`.
        batch_size: the one of the arguments that is for these data.

    Raises:
        ValueError: data that do not fit, with the remedy.
    """
    states = [v for layer_state in find_states(model) for v in layer_state.variables]
    device_checks.check_data(model, states, name, sequence_or_none(data))
    if is_sequence(data):
        _check_batch_size(name, data, arguments, batch_size)
        check_sequence(model, name, data)
        return
    check_stride_given(model, name, data)
    check_rows(model, name, data, batch_size)
    check_resets_given(model, name, data)
    check_values(model, name, data)
    # Only `fit` calls its data "x" here, and only these are shuffled.
    if name == "x" and arguments.get("shuffle", True):
        _check_order(data, arguments)
    if isinstance(data, keras.utils.PyDataset) and (data.workers > 1 or data.use_multiprocessing):
        raise ValueError(
            "Keras hands the batches of a PyDataset with several workers over out of order. "
            f"Received: {name} with workers={data.workers}, "
            f"use_multiprocessing={data.use_multiprocessing}. Set `workers=1`."
        )


def _check_order(data: Structure, arguments: Arguments) -> None:
    """Refuses data that `fit` shuffles unless it is told not to; iterators it cannot shuffle."""
    if is_arrays(data):
        shuffled = "windows"
    elif isinstance(data, keras.utils.PyDataset):
        shuffled = "batches"
    else:
        return
    raise ValueError(
        f"`fit` would shuffle the {shuffled}, and every row's state would come from somewhere "
        f"else. Received: x of type {type(data).__name__}, "
        f"shuffle={arguments.get('shuffle', True)}. Pass `shuffle=False`, or read a "
        "`StatefulSequence`, which keeps its order."
    )


def _count_batches(model: keras.Model, data: Structure) -> int | None:
    """Batches of a whole pass over the data; None where nobody knows."""
    if is_arrays(data):
        return count_rows(data) // model_batch_size(model)
    return getattr(data, "num_batches", None)


# A sequence among the arguments


def _check_batch_size(
    name: str, sequence: Readable, arguments: Arguments, batch_size: int | None
) -> None:
    """Refuses a batch size beside a sequence, which has its own, unless it is the same."""
    rows = devices.rows_given(sequence)
    if batch_size in (None, rows):
        return
    validates = name == "validation_data" and "validation_batch_size" in arguments
    argument = "validation_batch_size" if validates else "batch_size"
    raise ValueError(
        f"A sequence has its own batch size. Received: {argument}={batch_size} beside a sequence "
        f"of {rows} rows. Leave it out, or make the sequence with that batch size, and the "
        "model from it."
    )


# Arguments that `fit` and `evaluate` ignore beside a sequence: what the sequence takes instead,
# and how.
_IGNORED = {
    "y": ("targets", ""),
    "sample_weight": ("sample_weight", ""),
    "class_weight": ("sample_weight", " with one weight per time step or document"),
}


def _check_ignored(method: str, arguments: Arguments) -> None:
    """Refuses targets and weights beside a sequence: Keras takes those of the batches."""
    for name, (instead, how) in _IGNORED.items():
        if arguments.get(name) is not None:
            raise ValueError(
                f"`{method}` would ignore `{name}` beside a sequence. Received: {name} of type "
                f"{type(arguments[name]).__name__}. Give it to the sequence: "
                f"`StatefulSequence(..., {instead}=...)`{how}."
            )


class _PassRules(NamedTuple):
    """What ends a pass over a stream before its end, in training or in validation.

    Attributes:
        argument: of `fit`, the steps after which Keras stops reading.
        cut: the error for that argument, where the stream alone knows its end.
        again: the error for a source that can be read once and would be read in every epoch.
        part: the error for a stream with `steps_per_epoch`; None where that is right.
    """

    argument: str
    cut: str
    again: str
    part: str | None


_PASS_RULES = {
    "x": _PassRules(
        argument="steps_per_epoch",
        cut="`fit` would lose steps where a pass over the stream ends within an epoch. Received: "
        "fit(steps_per_epoch={steps}) beside a StatefulStream. Give it to the stream, which goes "
        "on with its source from epoch to epoch: `StatefulStream(..., steps_per_epoch={steps})`.",
        again="The source of the stream is read once, and `fit` would read it in each epoch. "
        "Received: an iterator, epochs={epochs}. Pass a function that makes one for each: "
        "`StatefulStream(lambda: read_documents(path), ...)`.",
        part=None,
    ),
    "validation_data": _PassRules(
        argument="validation_steps",
        cut="`validation_steps` would end each validation in the middle of the stream, and the "
        "next would go on from there. Received: validation_steps={steps}. Leave it out, and give "
        "the stream fewer documents.",
        again="The source of the validation's stream is read once, and each validation would read "
        "it. Received: an iterator, epochs={epochs}. Pass a function that makes one: "
        "`StatefulStream(lambda: read_documents(path), ...)`.",
        part="A stream with `steps_per_epoch` goes on where the validation before stopped, so "
        "`val_loss` would be that of other documents each time. Received: "
        "validation_data=StatefulStream(..., steps_per_epoch={part}). Leave it out, and give the "
        "stream fewer documents.",
    ),
}


def _check_passes(name: str, sequence: Readable, arguments: Arguments) -> None:
    """Checks that every epoch reads a stream from where it should.

    Args:
        name: "x" or "validation_data".
        sequence: of that argument; a `StatefulSequence` begins anew in every epoch and passes.
        arguments: of `fit`.

    Raises:
        ValueError: a pass that would be cut off, could not be read again, or is no whole pass.
    """
    rules = _PASS_RULES[name]
    unending = sequence.num_batches is None  # until the source ends
    steps = arguments.get(rules.argument)
    if unending and steps is not None:
        raise ValueError(rules.cut.format(steps=steps))
    epochs = (arguments.get("epochs") or 1) - (arguments.get("initial_epoch") or 0)
    if unending and sequence.once and epochs > 1:
        raise ValueError(rules.again.format(epochs=arguments["epochs"]))
    if rules.part is not None and sequence.steps_per_epoch is not None:
        raise ValueError(rules.part.format(part=sequence.steps_per_epoch))
