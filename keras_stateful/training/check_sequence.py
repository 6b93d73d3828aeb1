"""Checks that a sequence and a model fit: rows, resets, inputs and targets.

Keras broadcasts what does not fit, or fails in a compiled step, which on JAX loses the weights.
"""

from collections.abc import Iterator

import keras

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import find_states, without_state
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.protocols import (
    Readable,
    is_converted,
    is_sequence,
    resets_given,
    resets_taken,
    stride_taken,
)
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.as_trained import read_as_trained
from keras_stateful.training.check_inputs import check_ids, check_inputs
from keras_stateful.training.check_targets import check_targets
from keras_stateful.training.model_facts import Agreement, ModelFacts, facts_of
from keras_stateful.training.model_memory import trained_on
from keras_stateful.training.repairs import check_forward
from keras_stateful.training.static_inputs import hand_static


def check_sequence(
    model: keras.Model, name: str, sequence: Readable, *, targets: bool = True
) -> None:
    """Checks that a sequence fits a model; what its graph says is looked at once.

    In one `fit` this is called for a sequence by `StatefulModel.fit` or `ResetStatesCallback`, by
    `evaluate` at each validation, and by the sequence itself whenever Keras opens it.

    Args:
        model: a model, built.
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.
        targets: False for `predict`, which uses none.

    Raises:
        ValueError: anything that does not fit, with the remedy.
    """
    _check_rows(model, name, sequence)
    _check_resets(model, name, sequence)
    _check_stride(model, name, sequence)
    # Told each time, as the ids below.
    read_as_trained(name, sequence, trained_on(model))
    hand_static(model, sequence)
    check_forward(model)
    facts = facts_of(model)
    if targets:
        _check_outputs(model, name, sequence)
    sequence.give_targets(at_ends=facts.at_ends)
    if sequence not in facts.inputs_agreed:
        check_inputs(model, name, sequence)
        facts.inputs_agreed.add(sequence)
    # Told each time, since another model may have read the sequence in between. Data in memory are
    # searched once, others as they are read.
    check_ids(model, sequence)
    if targets:
        loss = keras_internals.compile_arguments(model).get("loss") if model.compiled else None
        agreement = facts.targets_agreed.get(sequence)
        if agreement is None or agreement.loss is not loss:
            agreement = Agreement(loss, check_targets(model, name, sequence))
            facts.targets_agreed[sequence] = agreement
        sequence.check_classes(agreement.classes)


def described(sequence: Readable) -> str:
    """A sequence in an error message: two of the same size are told apart by their address."""
    size = f"{sequence.batch_size} x {sequence.sequence_length}"
    return f"{type(sequence).__name__}({size}) at {id(sequence):#x}"


def _check_rows(model: keras.Model, name: str, sequence: Readable) -> None:
    """Refuses a model without a state, and batches of other rows than its state has."""
    states = find_states(model)
    if not states:
        raise ValueError(
            "A stateful sequence needs a model that carries its state. Received: "
            f"{without_state(model)} (For a baseline that reads single windows on purpose, pass "
            "`(batch for _ in itertools.count() for batch in sequence)` and "
            "`steps_per_epoch=len(sequence)`.)"
        )
    rows = devices.rows(states[0].variables[0])
    if devices.rows_given(sequence) != rows:
        raise ValueError(
            f"`{name}` has another batch size than the model. Received: "
            f"{name}.batch_size={devices.rows_given(sequence)}, model {rows}. Convert the model "
            f"with `to_stateful(model, sequence)`, or make the sequence with `batch_size={rows}`."
        )


def _check_resets(model: keras.Model, name: str, sequence: Readable) -> None:
    """Refuses reset masks that the model does not take, or takes and does not get."""
    taken, given = resets_taken(model), resets_given(sequence)
    if taken != given:
        raise ValueError(
            f"`{name}` and the model disagree about resets. Received: {name} with "
            f"resets={sequence.resets}, boundary={sequence.boundary!r}; the model takes "
            f"resets={taken!r}. {_RESETS_REMEDY[taken, given]}"
        )
    if sequence.boundary == "pack" and taken is None:
        raise ValueError(
            f'`{name}` resets inside windows, which no callback can do. Received: boundary="pack", '
            "resets=False. Make it with `resets=True` and convert the model with "
            '`to_stateful(model, sequence)`, or use boundary="align".'
        )


def _check_stride(model: keras.Model, name: str, sequence: Readable) -> None:
    """Refuses windows that begin elsewhere than behind the steps whose state the model carries."""
    taken, given = stride_taken(model), sequence.stride
    if taken == given:
        return
    window = sequence.sequence_length
    remedies = []
    if given is not None:
        remedies.append("Convert the model with `to_stateful(model, sequence)`")
    if is_converted(model):
        stride = "without `stride=`" if taken is None else f"with `stride={taken}`"
        remedies.append(f"{'or m' if remedies else 'M'}ake the sequence {stride}")
    whole = ""
    if given is None:
        whole = (
            " To score or predict documents, whatever the stride: `ValidateDocuments`, "
            "`evaluate_documents`, `predict_documents`, `to_inference`."
        )
    raise ValueError(
        f"`{name}` and the model disagree about where the next window begins. Received: {name} "
        f"with stride={window if given is None else given} and sequence_length={window}; the model "
        f"carries the state behind {'a whole window' if taken is None else f'{taken} steps'}. "
        f"{', '.join(remedies)}.{whole}"
    )


def check_stride_given(model: keras.Model, name: str, data: Structure) -> None:
    """Refuses other data than a sequence for a model whose windows overlap.

    Args:
        model: the model that reads.
        name: name of the argument that gives the data, used in error messages.
        data: a sequence, arrays, or anything else that Keras takes.
    """
    taken = stride_taken(model)
    if taken is None or is_sequence(data):
        return
    raise ValueError(
        f"The model carries the state behind the first {taken} steps of a window, where the next "
        f"one begins, and nobody knows whether that is so in other data. Received: {name} of type "
        f"{type(data).__name__}. Pass a `StatefulSequence(..., stride={taken})`; batches of a loop "
        "of your own go to `train_on_batch`; to predict, `to_inference(model, batch_size)`."
    )


_CONVERT = (
    "Convert the model with `to_stateful(model, sequence)`, or make the sequence without "
    "`resets=True`."
)
# By the kind of resets that the model takes, and the kind that the sequence gives.
_RESETS_REMEDY = {
    (None, "window"): _CONVERT,
    (None, "step"): _CONVERT,
    ("window", None): "Make the sequence with `resets=True`.",
    ("window", "step"): 'Make the sequence with `resets=True` and `boundary="align"`.',
    ("step", None): 'Make the sequence with `resets=True` and `boundary="pack"`.',
    ("step", "window"): 'Make the sequence with `resets=True` and `boundary="pack"`.',
}


def _check_outputs(model: keras.Model, name: str, sequence: Readable) -> None:
    """Refuses an output for each window where there is a target for every time step."""
    facts = facts_of(model)
    if all(facts.along_time) or (facts.at_ends and sequence.label_at == "window"):
        return
    names, shapes = keras_internals.functional(model).output_names, list(model.outputs)
    outputs = list(zip(names, shapes, facts.along_time, strict=True))
    short = [f"{name!r} of shape {tuple(t.shape)}" for name, t, along in outputs if not along]
    raise ValueError(
        f"`{name}` has a target for every time step, the model an output for each window only. "
        f"Received: the output {' and '.join(short)}, targets ({sequence.batch_size}, "
        f"{sequence.sequence_length}, ...). {_outputs_remedy(facts)}"
    )


def _outputs_remedy(facts: ModelFacts) -> str:
    """What to do about outputs without a time axis."""
    if not facts.at_ends:
        return _every_step(facts)
    return (
        f"{_every_step(facts)} To train on what it gives at the end of each window, make the "
        'sequence with `label_at="window"`.'
    )


def _every_step(facts: ModelFacts) -> str:
    """What gives a model an output for every time step."""
    tensors = zip(facts.graph.outputs, facts.along_time, strict=True)
    ends = {p for t, along in tensors if not along for p in _last_steps(facts.graph, t)}
    if ends:
        layers = " and ".join(f"`{path}`" for path in sorted(ends))
        return f"Give {layers} `return_sequences=True`."
    along = [f"model.outputs[{i}]" for i, along in enumerate(facts.along_time) if along]
    if not along:
        return "Give the model an output for each time step."
    outputs = along[0] if len(along) == 1 else f"[{', '.join(along)}]"
    return (
        "It is a layer's state, or sums up a window: train the model without it, "
        f"`keras.Model(model.inputs, {outputs})`, which has the same weights."
    )


def _last_steps(graph: Graph, tensor: Tensor) -> Iterator[str]:
    """Paths of the recurrent layers whose last step alone an output is made of."""
    call = graph.producers.get(id(tensor))
    if call is None:
        return
    if call.is_recurrent:
        if not call.operation.return_sequences and call.outputs[0] is tensor:
            yield call.path
        return
    for argument in call.tensors:
        yield from _last_steps(graph, argument)
