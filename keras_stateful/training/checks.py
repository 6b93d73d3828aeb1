"""What must hold before the first training step of a stateful `fit`, checked on fit's arguments.

Keras accepts all of it and trains on the wrong thing: shuffled windows, rows of another stream, a
state carried over a document's end, a validation that begins where the last one stopped.
"""

import warnings
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.states import find_states
from keras_stateful.carry.time_axis import find_time_axis
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.kinds import (
    is_arrays,
    is_converted,
    is_reset_callback,
    is_sequence,
    resets_of,
    resets_wanted,
    sequence_or_none,
)
from keras_stateful.training.check_inputs import check_ids, check_inputs
from keras_stateful.training.check_targets import check_labels, check_targets
from keras_stateful.training.repairs import check_forward


def model_batch_size(model: keras.Model) -> int:
    return devices.rows(find_states(model)[0].variables[0])


def check_fit(model: keras.Model, arguments: dict, callback: Any) -> None:
    """Checks all of fit's arguments.

    Args:
        model: the model that will be trained.
        arguments: fit's arguments by name.
        callback: the `ResetStatesCallback` in use, or None.

    Raises:
        ValueError: anything that would train on the wrong thing, with the remedy.
    """
    x, validation = arguments.get("x"), arguments.get("validation_data")
    check_data(model, "x", x, arguments, arguments.get("batch_size"))
    if validation is not None:
        check_validation(model, validation, arguments)
    if is_sequence(x):
        _check_steps(x, arguments)
        for name in ("y", "sample_weight", "class_weight"):
            if arguments.get(name) is not None:
                instead = {
                    "y": "targets=",
                    "sample_weight": "sample_weight=",
                    "class_weight": "sample_weight=",
                }[name]
                raise ValueError(
                    f"`fit` would ignore `{name}` beside a sequence. Received: {name} of type "
                    f"{type(arguments[name]).__name__}. Give it to the sequence: "
                    f"`StatefulSequence(..., {instead}...)`"
                    + (
                        " with one weight per time step or document."
                        if name == "class_weight"
                        else "."
                    )
                )
        if callback is not None and callback.sequence is not None and callback.sequence is not x:
            raise ValueError(
                "`ResetStatesCallback` was given another sequence than `fit` reads. Received: "
                f"callback: {_say(callback.sequence)}; fit: {_say(x)}. Make one sequence and give "
                "it to both."
            )
    if arguments.get("validation_split"):
        raise ValueError(
            "`validation_split` cuts rows off and so whole streams. Received: validation_split="
            f"{arguments['validation_split']}. Hold documents out and pass "
            "`validation_data=StatefulSequence(...)`."
        )


def _check_steps(sequence: Any, arguments: dict) -> None:
    """The steps that a stream can give."""
    if sequence.num_batches is not None:
        return
    steps = arguments.get("steps_per_epoch")
    if steps is not None:
        raise ValueError(
            "`fit` would lose steps where a pass over the stream ends within an epoch. Received: "
            f"fit(steps_per_epoch={steps}) beside a StatefulStream. Give it to the stream, which "
            "goes on with its source from epoch to epoch: `StatefulStream(..., "
            f"steps_per_epoch={steps})`."
        )
    if sequence.once and _epochs(arguments) > 1:
        raise ValueError(
            "The source of the stream is read once, and `fit` would read it in each epoch. "
            f"Received: an iterator, epochs={arguments['epochs']}. Pass a function that makes one "
            "for each: `StatefulStream(lambda: read_documents(path), ...)`."
        )


def _epochs(arguments: dict) -> int:
    """How many epochs a `fit` has."""
    return (arguments.get("epochs") or 1) - (arguments.get("initial_epoch") or 0)


def _check_batch_size(name: str, sequence: Any, batch_size: Any) -> None:
    rows = devices.rows_given(sequence)
    if batch_size is not None and batch_size != rows:
        raise ValueError(
            f"A sequence has its own batch size. Received: {name}={batch_size} beside a sequence "
            f"of {rows} rows. Leave it out, or make the sequence with that batch size, and the "
            "model from it."
        )


def check_reader(sequence: Any, call: Any) -> None:
    """Whoever reads a sequence must carry its state, and be told where documents start.

    Args:
        sequence: what is read.
        call: the `keras_internals.TrainerCall` that reads it.

    Raises:
        ValueError: a model that carries no state, or plain `stateful=True` layers without
            `ResetStatesCallback`.
    """
    validates = keras_internals.is_validation(call.arguments) or (
        call.method == "fit"
        and call.arguments.get("x") is not sequence  # which opens the data of its validation itself
    )
    model, name = call.model, "validation_data" if validates else "x"
    if (
        model.built
    ):  # if not, it is a subclassed model, and `ResetStatesCallback` sees its layers later
        check_sequence(model, name, sequence, targets=call.method != "predict")
    if call.method != "predict":
        _warn_of_metrics(model, sequence)
    if call.method == "fit" and name == "x":
        _warn_of_batch_normalization(model, sequence)
    if (
        call.method == "predict"
        and resets_of(model) is None
        and not (is_converted(model) and sequence.boundary == "ignore")
    ):
        raise ValueError(
            f"`predict` resets no rows where documents start. Received: {_say(sequence)}, model "
            f"{model.name!r}. Use `predict_documents(model, documents)`, or convert the model with "
            "`to_stateful(model, sequence)` and a sequence made with `resets=True`."
        )
    if is_converted(model):
        return
    callbacks = call.arguments.get("callbacks") or []
    callbacks = getattr(callbacks, "callbacks", callbacks)
    if not any(map(is_reset_callback, keras.tree.flatten(callbacks))):
        given = "sequence" if call.method == "fit" else "validation_sequence"
        raise ValueError(
            "Nobody would reset the state where documents start, and Keras's own `stateful=True` "
            f"layers do not carry it in `fit` on every backend. Received: `{call.method}` of model "
            f"{model.name!r} on {_say(sequence)} without a `ResetStatesCallback`. Pass "
            f"`callbacks=[ResetStatesCallback({given}={given})]`, or convert the model with "
            "`to_stateful(model, sequence)`."
        )


def _warn_of_metrics(model: keras.Model, sequence: Any) -> None:
    """Keras gives `metrics` no weights, so they count padding and whatever else has weight 0."""
    metrics = keras_internals.compile_arguments(model).get("metrics") if model.compiled else None
    if metrics and len(sequence.signature()) > 2:
        warnings.warn(
            "`metrics` count padded steps, which have weight 0. Received: "
            f"compile(metrics={metrics!r}) and {_say(sequence)}, which gives weights. Pass them as "
            "`weighted_metrics=` to `compile`.",
            stacklevel=2,
        )


def _warn_of_batch_normalization(model: keras.Model, sequence: Any) -> None:
    """Keras gives layers no weights, so padding counts in the mean and variance of a batch."""
    if len(sequence.signature()) < 3 or not keras_internals.is_graph(model):
        return
    for call in keras_internals.graph_calls(model):
        layer = call.operation
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            if any(keras_internals.mask_of(t) is not None for t in keras.tree.flatten(call.args)):
                continue  # which it leaves out
            warnings.warn(
                f"`{call.path}` counts padded steps in its mean and variance. Received: a "
                f"BatchNormalization, and {_say(sequence)}, which pads. Take `LayerNormalization`, "
                "mask the padding (`Masking`, `mask_zero=True`), or lay the documents out without "
                'padding (`boundary="pack"`, `max_document_length="auto"` pad less).',
                stacklevel=2,
            )


def check_data(
    model: keras.Model, name: str, data: Any, arguments: dict, batch_size: int | None
) -> None:
    """Checks one source of batches: its devices, rows, order, resets and targets.

    Args:
        model: that reads them.
        name: how errors call them.
        data: the source.
        arguments: of `fit` or `evaluate`, by name.
        batch_size: the one of the arguments that is for these data.
    """
    states = [v for layer_state in find_states(model) for v in layer_state.variables]
    devices.check_data(model, states, name, sequence_or_none(data))
    if is_sequence(data):
        size = (
            "validation_batch_size"
            if name == "validation_data" and "validation_batch_size" in arguments
            else "batch_size"
        )
        _check_batch_size(size, data, batch_size)
        check_sequence(model, name, data)
        return
    check_rows(model, name, data, batch_size)
    check_resets_given(model, name, data)
    if name == "x" and arguments.get("shuffle", True):
        kind = (
            "windows"
            if is_arrays(data)
            else "batches"
            if isinstance(data, keras.utils.PyDataset)
            else None
        )
        if kind:
            raise ValueError(
                f"`fit` would shuffle the {kind}, and every row's state would come from somewhere "
                f"else. Received: x of type {type(data).__name__}, "
                f"shuffle={arguments.get('shuffle', True)}. Pass `shuffle=False`, or read a "
                "`StatefulSequence`, which keeps its order."
            )
    if isinstance(data, keras.utils.PyDataset) and (data.workers > 1 or data.use_multiprocessing):
        raise ValueError(
            "Keras hands the batches of a PyDataset with several workers over out of order. "
            f"Received: {name} with workers={data.workers}, "
            f"use_multiprocessing={data.use_multiprocessing}. Set `workers=1`."
        )


def check_rows(model: keras.Model, name: str, data: Any, batch_size: int | None) -> None:
    """Arrays must fill batches of exactly the model's rows: Keras broadcasts or crashes on any
    other.
    """
    if not is_arrays(data):
        return
    rows = model_batch_size(model)
    count = int(np.shape(keras.tree.flatten(data)[0])[0])
    if (batch_size or rows) != rows:
        raise ValueError(
            f"The model carries the state of {rows} rows. Received: batch_size={batch_size}. Leave "
            "`batch_size` out, or convert the model to that size: `to_stateful(model, "
            "batch_size)`, `to_inference(model, batch_size)`."
        )
    if count % rows:
        raise ValueError(
            f"`{name}` does not fill whole batches: the last would have {count % rows} rows where "
            f"the model carries {rows}. Received: {count} rows. Leave out the last {count % rows}, "
            "or use `StatefulSequence`, which pads."
        )


def check_resets_given(model: keras.Model, name: str, data: Any) -> None:
    """Arrays must have the resets among them, where the model takes them: on JAX a step that fails
    loses the weights.
    """
    if resets_of(model) is None or not is_arrays(data):
        return
    count = len(keras.tree.flatten(data))
    if count < len(model.inputs):
        raise ValueError(
            f"The model has {len(model.inputs)} inputs, the last of them the resets. Received: "
            f"`{name}` with {count}. Pass `StatefulSequence(documents, ..., resets=True)`; `(x, "
            "resets)` with a bool for each row, True where it starts afresh; or use a copy without "
            "that input: `to_inference(model, batch_size)`."
        )


def check_rows_of_predict(model: keras.Model, data: Any, batch_size: int | None) -> None:
    """`predict` takes the model's rows; more are read one batch after the other, with the state of
    those before.

    Only who gives `batch_size` can mean that.
    """
    if not is_arrays(data):
        return
    check_resets_given(model, "x", data)
    rows = model_batch_size(model)
    first = keras.tree.flatten(data)[0]
    count = int(np.shape(first)[0])
    wanted = (
        tuple(model.inputs[0].shape)
        if len(model.inputs) == 1 and not isinstance(data, dict)
        else ()
    )
    if np.ndim(first) == len(wanted) - 1 and wanted[-1] != 1:  # which Keras adds
        raise ValueError(
            f"`predict` takes one window for each of the model's {rows} rows. Received: an array "
            f"of shape {np.shape(first)}; the model's input has shape {wanted}. If it is one "
            "window, its row axis is missing: `x[None]`."
        )
    if count != rows and batch_size is None:
        raise ValueError(
            f"`predict` takes one window for each of the model's {rows} rows. Received: {count} "
            "rows. For rows that are separate: "
            f"`to_inference(model{'' if count == 1 else f', {count}'}).predict(x)`; for whole "
            "documents `predict_documents(model, documents)`; for windows that follow each other, "
            f"`predict(x, batch_size={rows})`."
        )
    check_rows(model, "x", data, batch_size)


def check_sequence(model: keras.Model, name: str, sequence: Any, *, targets: bool = True) -> None:
    """A sequence and a model must agree on rows, resets, inputs and, where they are used, targets."""
    states = find_states(model)
    if not states:
        raise ValueError(
            f"A stateful sequence needs a model that carries its state. Received: {model.name!r}, "
            "which carries none. Convert it with `to_stateful(model, sequence)`. (For a baseline "
            "that reads single windows on purpose, pass `(batch for _ in itertools.count() for "
            "batch in sequence)` and `steps_per_epoch=len(sequence)`.)"
        )
    rows = devices.rows(states[0].variables[0])
    if devices.rows_given(sequence) != rows:
        raise ValueError(
            f"`{name}` has another batch size than the model. Received: "
            f"{name}.batch_size={devices.rows_given(sequence)}, model {rows}. Convert the model "
            f"with `to_stateful(model, sequence)`, or make the sequence with `batch_size={rows}`."
        )
    resets, wanted = resets_of(model), resets_wanted(sequence)
    if resets != wanted:
        remedy = (
            "Make the sequence with `resets=True`"
            + (
                ' and `boundary="pack"`.'
                if resets == "step"
                else "."
                if wanted is None
                else ' and `boundary="align"`.'
            )
            if resets
            else "Convert the model with `to_stateful(model, sequence)`, or make the sequence without `resets=True`."
        )
        raise ValueError(
            f"`{name}` and the model disagree about resets. Received: {name} with "
            f"resets={sequence.resets}, boundary={sequence.boundary!r}; the model takes "
            f"resets={resets!r}. {remedy}"
        )
    if sequence.boundary == "pack" and resets is None:
        raise ValueError(
            f'`{name}` resets inside windows, which no callback can do. Received: boundary="pack", '
            "resets=False. Make it with `resets=True` and convert the model with "
            '`to_stateful(model, sequence)`, or use boundary="align".'
        )
    check_forward(model)
    _check_outputs(model, name, sequence)
    check_inputs(model, name, sequence)
    check_ids(model, sequence)
    if targets:
        check_targets(model, name, sequence)


def _check_outputs(model: keras.Model, name: str, sequence: Any) -> None:
    flags = getattr(model, "_outputs_along_time", None)
    if flags is None:
        try:
            flags = find_time_axis(model, [c.key.split("#")[0] for c in find_states(model)]).outputs
        except (
            ValueError,
            TypeError,
            AttributeError,
        ):  # a subclassed model: only its shapes can be known
            flags = [True]
        model._outputs_along_time = flags = tuple(flags)
    if not all(flags):
        shapes = [tuple(o.shape) for o in model.outputs]
        raise ValueError(
            f"`{name}` has a target for every time step, the model an output for each window only. "
            f"Received: model outputs of shape {shapes}, targets ({sequence.batch_size}, "
            f"{sequence.sequence_length}, ...). Give the last recurrent layer "
            "`return_sequences=True`."
        )


def _check_validation_arrays(model: keras.Model, data: Any, arguments: dict) -> None:
    """Keras would train an epoch before it finds that these do not fit."""
    rows = model_batch_size(model)
    size = arguments.get("validation_batch_size") or arguments.get("batch_size") or 32
    if size != rows:
        raise ValueError(
            f"Keras would cut `validation_data` into batches of {size} rows, and the model carries "
            f"the state of {rows}. Received: "
            f"validation_batch_size={arguments.get('validation_batch_size')}. Pass "
            f"`validation_batch_size={rows}`, or a `StatefulSequence`."
        )


def check_validation(model: keras.Model, validation: Any, arguments: dict) -> None:
    """Validation data must fit the model and be read whole, so that `val_loss` depends on the
    weights alone.
    """
    if isinstance(validation, list):
        raise ValueError(
            "`validation_data` is a list, and nobody says what its parts are. Received: a list of "
            f"{len(validation)}. For documents pass `StatefulSequence(documents, ...)`, or "
            "`callbacks=[ValidateDocuments(documents)]`; for arrays a tuple, `(x, y)`."
        )
    data = validation[0] if isinstance(validation, tuple) else validation
    check_data(model, "validation_data", data, arguments, arguments.get("validation_batch_size"))
    if is_arrays(data):
        _check_validation_arrays(model, data, arguments)
    if is_sequence(data):
        check_labels(sequence_or_none(arguments.get("x")), data, "validation_data")
        _check_validation_stream(data, arguments)
    steps = arguments.get("validation_steps")
    length = _batches(data, model)
    if steps is not None and length is not None and steps < length:
        raise ValueError(
            "`validation_steps` would end each validation in the middle, and the next would go on "
            f"from there. Received: validation_steps={steps}, validation_data of {length} batches. "
            "Leave it out, and pass fewer documents."
        )


def _check_validation_stream(data: Any, arguments: dict) -> None:
    steps = arguments.get("validation_steps")
    if data.num_batches is None and steps is not None:
        raise ValueError(
            "`validation_steps` would end each validation in the middle of the stream, and the "
            f"next would go on from there. Received: validation_steps={steps}. Leave it out, and "
            "give the stream fewer documents."
        )
    if getattr(data, "once", False) and _epochs(arguments) > 1:
        raise ValueError(
            "The source of the validation's stream is read once, and each validation would read "
            f"it. Received: an iterator, epochs={arguments['epochs']}. Pass a function that makes "
            "one: `StatefulStream(lambda: read_documents(path), ...)`."
        )
    part = getattr(data, "steps_per_epoch", None)
    if part is not None:
        raise ValueError(
            "A stream with `steps_per_epoch` goes on where the validation before stopped, so "
            "`val_loss` would be that of other documents each time. Received: "
            f"validation_data=StatefulStream(..., steps_per_epoch={part}). Leave it out, and give "
            "the stream fewer documents."
        )


def _batches(data: Any, model: keras.Model) -> int | None:
    if is_arrays(data):
        return int(np.shape(keras.tree.flatten(data)[0])[0]) // model_batch_size(model)
    return getattr(data, "num_batches", None)


def check_evaluate(model: keras.Model, arguments: dict) -> None:
    """Checks evaluate's arguments."""
    name = "validation_data" if keras_internals.is_validation(arguments) else "x (evaluate)"
    check_data(model, name, arguments.get("x"), arguments, arguments.get("batch_size"))


def _say(sequence: Any) -> str:
    return f"{type(sequence).__name__}({sequence.batch_size} x {sequence.sequence_length}) at {id(sequence):#x}"
