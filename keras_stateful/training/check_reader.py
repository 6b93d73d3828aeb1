"""Checks made when Keras opens a sequence, whatever was called: the last door before the data.

`StatefulModel` and `ResetStatesCallback` check more, and earlier. But a plain model without the
callback passes neither, and Keras would train it on documents whose state nobody resets.
"""

import warnings

import keras

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable, is_converted, resets_taken
from keras_stateful.training.as_trained import check_predicted
from keras_stateful.training.check_sequence import check_sequence, described
from keras_stateful.training.check_targets import check_scored
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.model_memory import trained_on
from keras_stateful.training.resets import ResetStatesCallback
from keras_stateful.training.step_scores import score_by_step


def check_reader(sequence: Readable, call: keras_internals.TrainerCall) -> None:
    """Checks that who reads a sequence carries its state and is told where documents start.

    Args:
        sequence: what is read.
        call: the `fit`, `evaluate` or `predict` that reads it.

    Raises:
        ValueError: a model that carries no state, or plain `stateful=True` layers without
            `ResetStatesCallback`; a sequence that does not fit the model.
        ImportError: plain layers that an older Keras cannot train on a stream.
    """
    model, name = call.model, _argument_name(sequence, call)
    if call.method == "evaluate":
        _check_whole(sequence)
    # Of a subclassed model that was not called yet nothing is known, least of all its states.
    check_sequence(model, name, sequence, targets=call.method != "predict")
    if call.method == "evaluate":
        check_scored(model, sequence, name)
    if call.method == "predict":
        _check_predict(model, sequence)
    else:
        # Before Keras looks at the loss, which on JAX it does with the first batch.
        score_by_step(model)
        _warn_of_metrics(model, sequence)
    if call.method == "fit" and name == "x":
        _warn_of_batch_normalization(model, sequence)
    if not is_converted(model):
        _check_rows(sequence)
        _check_resets(sequence, call)


def _argument_name(sequence: Readable, call: keras_internals.TrainerCall) -> str:
    """The argument of `fit` that a sequence came in."""
    if keras_internals.is_validation(call.arguments):
        return "validation_data"
    # `fit` opens the data of its validation itself, to use them again in each epoch.
    validates = call.method == "fit" and call.arguments.get("x") is not sequence
    return "validation_data" if validates else "x"


def _check_whole(sequence: Readable) -> None:
    """Refuses `evaluate` of a stream that goes on where it stopped, while the states begin anew."""
    if sequence.steps_per_epoch is not None:
        raise ValueError(
            "`evaluate` starts from the initial state, and a stream with `steps_per_epoch` goes on "
            "where it stopped, within documents. Received: StatefulStream(..., steps_per_epoch="
            f"{sequence.steps_per_epoch}). Make the stream without it, which begins anew each "
            f"time; to score a part of its batches, `evaluate(stream, steps="
            f"{sequence.steps_per_epoch})`."
        )


def _check_rows(sequence: Readable) -> None:
    """Refuses a stream under plain layers where Keras fails on it.

    On TensorFlow a stream says nothing of the rows of its batches (see `feed`), and before Keras
    3.14 a stateful layer compares what it cannot know.
    """
    older = not keras_internals.has_keras("3.14")
    if older and keras.backend.backend() == "tensorflow" and sequence.num_batches is None:
        raise ImportError(
            "On TensorFlow a `StatefulStream` under layers with `stateful=True` needs "
            f"{keras_internals.keras_or_later('3.14')} Or convert the model: "
            "`to_stateful(model, stream)` carries with any release."
        )


def _check_predict(model: keras.Model, sequence: Readable) -> None:
    """Refuses `predict` where documents start and neither an input nor a callback resets rows."""
    one_text = is_converted(model) and sequence.boundary == "ignore"
    if resets_taken(model) is None and not one_text:
        raise ValueError(
            f"`predict` resets no rows where documents start. Received: {described(sequence)}, "
            f"model {model.name!r}. Use `predict_documents(model, documents)`, or convert the "
            "model with `to_stateful(model, sequence)` and a sequence made with `resets=True`."
        )
    if sequence.has_targets:  # so that `forecasts` of a frame knows the time of each prediction
        check_predicted("x (predict)", sequence, trained_on(model))


def _check_resets(sequence: Readable, call: keras_internals.TrainerCall) -> None:
    """Refuses plain `stateful=True` layers without the callback that resets and repairs them."""
    callbacks = call.arguments.get("callbacks") or []
    callbacks = getattr(callbacks, "callbacks", callbacks)
    if any(isinstance(c, ResetStatesCallback) for c in keras.tree.flatten(callbacks)):
        return
    argument = "sequence" if call.method == "fit" else "validation_sequence"
    raise ValueError(
        "Nobody would reset the state where documents start, and Keras's own `stateful=True` "
        f"layers do not carry it in `fit` on every backend. Received: `{call.method}` of model "
        f"{call.model.name!r} on {described(sequence)} without a `ResetStatesCallback`. Pass "
        f"`callbacks=[ResetStatesCallback({argument}={argument})]`, or convert the model with "
        "`to_stateful(model, sequence)`."
    )


def _warn_of_metrics(model: keras.Model, sequence: Readable) -> None:
    """Keras gives `metrics` no weights, so they count padding and whatever else has weight 0."""
    metrics = keras_internals.compile_arguments(model).get("metrics") if model.compiled else None
    if metrics and gives_weights(sequence):
        warnings.warn(
            "`metrics` count padded steps, which have weight 0. Received: "
            f"compile(metrics={metrics!r}) and {described(sequence)}, which gives weights. Pass "
            "them as `weighted_metrics=` to `compile`.",
            stacklevel=2,
        )


def _warn_of_batch_normalization(model: keras.Model, sequence: Readable) -> None:
    """Keras gives layers no weights, so padding counts in the mean and variance of a batch."""
    if not gives_weights(sequence):
        return
    for path, layer in facts_of(model).batch_normalizations.items():
        if layer.trainable:
            warnings.warn(
                f"`{path}` counts padded steps in its mean and variance. Received: a "
                f"BatchNormalization, and {described(sequence)}, which pads. Take "
                "`LayerNormalization`, mask the padding (`Masking`, `mask_zero=True`), or lay the "
                'documents out without padding (`boundary="pack"`, `max_document_length="auto"` '
                "pad less).",
                stacklevel=2,
            )


def gives_weights(sequence: Readable) -> bool:
    """True if batches have sample weights: where anything is padded, or not trained on."""
    return len(sequence.signature()) > 2
