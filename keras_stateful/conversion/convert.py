"""Conversions between a model as its user wrote it and one that carries its state.

    to_stateful     any model ──▶ batch N, states carried, resets as an input if asked for: to train
    to_inference    any model ──▶ batch 1, any window length, no resets input: to run inside Keras
    to_stateless    any model ──▶ plain Keras layers, any batch size, nothing carried

Each reads the graph once, finds the layers that run along time, and has `Rewriter` build the model
anew, with a policy that says what becomes of a recurrent call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from keras_stateful.carry.any_length import AnyLength
from keras_stateful.carry.classes import carried_class
from keras_stateful.carry.graph import RESETS, Call, Graph, Unconvertible
from keras_stateful.carry.layers import Carry, plain_class
from keras_stateful.carry.past import Past
from keras_stateful.carry.rewrite import Level, Repeated, Rewriter
from keras_stateful.carry.steps import masked_output
from keras_stateful.carry.time_axis import TimeAxis, find_time_axis
from keras_stateful.conversion.checks import (
    OF_THE_LOSS,
    check_all_carry,
    check_all_go_on,
    check_methods,
    check_outputs,
    nothing_carries,
    paths_named,
    readable,
    vouched_for,
)
from keras_stateful.conversion.held import HeldCalls, without_past
from keras_stateful.conversion.model import StatefulModel
from keras_stateful.foundation import devices
from keras_stateful.foundation.arguments import one_of, whole_number
from keras_stateful.foundation.protocols import Readable, is_sequence, resets_given
from keras_stateful.foundation.types import Structure
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.model_memory import same_training

if TYPE_CHECKING:
    from keras_stateful.data.sequence import StatefulSequence
    from keras_stateful.data.stream import StatefulStream


def to_stateful(
    model: keras.Model,
    batch_size: int | StatefulSequence | StatefulStream,
    *,
    resets: str | None = None,
    layers: list | None = None,
    local: list | None = None,
) -> StatefulModel:
    """A copy of a model that carries its state from batch to batch, on every backend.

    What it carries is the state of recurrent layers, and the last inputs of layers that read a
    bounded past. Works under `fit`, `evaluate`, `predict` and `train_on_batch`, with `jit_compile`,
    `run_eagerly`, `steps_per_execution` and mixed precision. The given model is left as it was.

    Args:
        model: a built `Sequential` or Functional model; its recurrent layers may be `stateful` or
            not.
        batch_size: rows in every batch, on all devices together; or the `StatefulSequence` (or
            `StatefulStream`) that the model will read, which determines batch size, resets and, if
            its windows overlap, the `stride` behind which the state is carried on.
        resets: None; "window" for a last input `"resets"`, bool `(batch,)`; "step" for bool
            `(batch, time)`. `True` sets that row to its initial state before the window, or before
            that step.
        layers: names or paths (or the layers themselves) of the recurrent layers that carry. By
            default all that run along the model's time axis, not those inside `TimeDistributed`.
            One that is left out starts anew in each window, so that what it puts out depends on
            their length: the model trains, and cannot be converted to another window length.
        local: names or paths (or the layers themselves) of layers for which you vouch that they
            take each time step alone. What Keras's layers and layers written in `keras.ops` do is
            derived; of others (code of one backend) nothing is known, and they are refused without
            this. Whatever is made of the model knows of it.

    Returns:
        A `StatefulModel`, not compiled, with copies of the weights.

    Raises:
        ValueError: a layer that has no meaning or would be silently wrong when the stream is cut
            into windows (`Bidirectional`, `go_backwards`, unbounded attention, `Flatten`, a batch
            size written into the graph), by path, with what to do instead; a model of which
            nothing carries; a subclassed model; no rows.
        TypeError: not a Keras model; a batch size that is not a whole number.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(50, 8),
                              keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(50)])
    text = np.arange(2000) % 50
    sequence = ks.StatefulSequence(text, batch_size=4, sequence_length=10, resets=True)
    training = ks.to_stateful(model, sequence)
    training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training.fit(sequence, epochs=1, verbose=0)
    ```

    Source: truncated backpropagation through time, Williams and Peng 1990
    (doi:10.1162/neco.1990.2.4.490). What Keras's own `stateful=True` does instead, with its issues,
    is listed in `docs/keras-defects.md`.
    """
    graph = readable(model, "to_stateful")
    rows, resets = _batch_and_resets(batch_size, resets)
    check_methods(model, "to_stateful", (*OF_THE_LOSS, "train_step"))
    vouched = vouched_for(graph, local)
    if layers is None and graph.chosen is not None:
        layers = graph.chosen
        check_all_carry(graph, vouched)
    sequence = batch_size if is_sequence(batch_size) else None
    carrying = _carrying(
        graph,
        rows,
        resets,
        layers,
        vouched,
        share=False,
        any_length=False,
        carry_after=None if sequence is None else sequence.stride,
        most_resets=None if sequence is None else sequence.most_resets,
    )
    if is_sequence(batch_size) and batch_size.label_at == "window":  # one of them, or one a step
        batch_size.give_targets(at_ends=facts_of(carrying).at_ends)
    return carrying


def to_inference(
    model: keras.Model,
    batch_size: int = 1,
    *,
    share_weights: bool = False,
    local: list | None = None,
) -> StatefulModel:
    """A copy of a trained model that carries its state, for one row (or a few), any window length.

    Args:
        model: what was trained: from `to_stateful`, a plain `stateful=True` model, or any other
            Sequential or Functional model, also one just loaded from disk. Its state is not copied.
        batch_size: rows of the new model.
        share_weights: use the same variables, not copies: the twin follows the training at no cost.
        local: as for `to_stateful`; what that made knows it.

    Returns:
        A `StatefulModel` without a `"resets"` input, whose inputs take any number of time steps,
        also 1.

    Raises:
        ValueError: as `to_stateful`.
        TypeError: as `to_stateful`.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    lstm = keras.layers.LSTM(8, stateful=True, return_sequences=True)
    trained = keras.Sequential([keras.Input((64, 3), batch_size=32), lstm, keras.layers.Dense(1)])
    live = ks.to_inference(trained)
    for reading in np.zeros((5, 3), "float32"):
        y = live.predict_on_batch(reading[None, None])   # (1, 1, 1), the state carried on
    ```
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    graph = readable(model, "to_inference")
    layers, vouched = graph.chosen, vouched_for(graph, local)
    return _carrying(graph, batch_size, None, layers, vouched, share=share_weights, any_length=True)


def twin_with_resets(model: keras.Model, batch_size: int) -> StatefulModel:
    """The same variables at another batch size and any window length, with resets by window."""
    graph = readable(model, "to_inference")
    layers, vouched = graph.chosen, vouched_for(graph)
    return _carrying(graph, batch_size, "window", layers, vouched, share=True, any_length=True)


def to_stateless(model: keras.Model) -> keras.Model:
    """A copy of a model with plain, stateless Keras layers, any batch size, no `"resets"` input.

    Args:
        model: from `to_stateful`, or with `stateful=True` layers.

    Returns:
        A Functional model of Keras's own classes, with copies of the weights, not compiled.

    Raises:
        ValueError: a model of which nothing carries, or that cannot be rebuilt.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    plain = ks.to_stateless(ks.to_stateful(model, batch_size=8))
    assert plain.input_shape == (None, None, 3)
    ```
    """
    graph = readable(model, "to_stateless")
    recurrent = {c.path for c in graph.calls if c.is_recurrent or isinstance(c.operation, Carry)}
    if not recurrent:
        raise nothing_carries(graph)

    def plain(level: Level, call: Call, index: int) -> Structure:
        if isinstance(call.operation, Past):
            return without_past(rewriter, call)
        cls = plain_class(type(call.operation))
        layer = rewriter.layer(call.operation, cls, **({"stateful": False} if call.is_rnn else {}))
        return layer(*call.args, **call.users_arguments)

    rewriter = Rewriter(
        graph, recurrent, plain, repeated=Repeated.SHARED, batch_size=None, plain=True
    )
    inputs, outputs, _ = rewriter.run()
    plain_model = keras.Model(
        pack_inputs(inputs, {}), pack_outputs(graph, outputs), name=model.name
    )
    return same_training(model, plain_model)


def _carrying(
    graph: Graph,
    batch_size: int,
    resets: str | None,
    layers: list | None,
    local: list[str],
    *,
    share: bool,
    any_length: bool,
    carry_after: int | None = None,
    most_resets: int | None = None,
) -> StatefulModel:
    """A copy of a model whose layers carry their state.

    Args:
        graph: of the model.
        batch_size: rows of the copy, on all devices.
        resets: as for `to_stateful`.
        layers: as for `to_stateful`.
        local: paths of layers that take each time step alone, as the user says.
        share: use the same variables, not copies.
        any_length: take windows of any length.
        carry_after: steps of a window behind which the states are carried on; None: all.
        most_resets: of a row behind the first step of a window; None: unknown.
    """
    function = "to_inference" if any_length else "to_stateful"
    rows = devices.graph_rows(batch_size, function)
    chosen = None if layers is None else paths_named("layers", layers, graph.recurrent)
    time = find_time_axis(graph, chosen, local)
    if any_length:
        check_all_go_on(time, chosen)
    recurrent = _along_time(graph, time, chosen, function)
    held = HeldCalls(
        graph,
        time,
        rows,
        by_step=resets == "step",
        trains=not any_length,
        carry_after=carry_after,
    )
    shaped = AnyLength(graph, time) if any_length else None

    def flags(level: Level, sequences: keras.KerasTensor) -> keras.KerasTensor | None:
        """The resets, for a layer that reads windows like these."""
        if resets is None:
            return None
        shape = (rows,) if resets == "window" else (rows, sequences.shape[1])
        return level.input(RESETS, shape, "bool")

    def carry(level: Level, call: Call, index: int) -> Structure:
        if shaped is not None and call.path in shaped.paths:
            return shaped.call(call, rewriter.layer)
        if call.path in held.paths - set(time.held):
            return held.for_each_step(rewriter, call)
        _check_rows(call, rows)
        if call.path in time.held:
            reads = call.data[0]
            return held.carry(
                rewriter, call, graph.slots[id(call.operation)], index, flags(level, reads)
            )
        # An unrolled loop is as long as the window of the given model.
        config: dict[str, Any] = {"unroll": False} if call.is_rnn and any_length else {}
        if call.is_rnn:
            config["most_resets"] = most_resets
        # One layer for all calls of a shared layer, with a slot for the state of each.
        layer = rewriter.layer(
            call.operation,
            carried_class(type(call.operation)),
            slots=graph.slots[id(call.operation)],
            carry_after=carry_after,
            **states_config(graph, call.operation),
            **config,
        )
        arguments = call.users_arguments
        if resets is not None:
            arguments[RESETS] = flags(level, call.sequences)
        if index:
            arguments["slot"] = index
        outputs = layer(*call.args, **arguments)
        check_outputs(call, outputs)
        return outputs

    rewriter = Rewriter(
        graph,
        {*recurrent, *held.paths, *(() if shaped is None else shaped.paths)},
        carry,
        share=share,
        repeated=Repeated.SHARED,
        batch_size=rows,
        temporal=time.inputs,
        any_length=any_length,
    )
    inputs, outputs, level = rewriter.run()
    carrying = StatefulModel(
        pack_inputs(inputs, level.inputs),
        pack_outputs(graph, outputs),
        name=graph.model.name,
        local=local,
    )
    return same_training(graph.model, carrying)


def _along_time(graph: Graph, time: TimeAxis, chosen: list[str] | None, function: str) -> list[str]:
    """The paths of the layers that carry: all along time, or of those the ones that were chosen."""
    recurrent = [path for path in time.recurrent if chosen is None or path in chosen]
    if not recurrent and not time.held:
        raise nothing_carries(graph)
    calls = {path: [c for c in graph.recurrent if c.path == path] for path in recurrent}
    for path, several in calls.items():
        layer = several[0].operation
        paths = {c.path for c in graph.recurrent if c.operation is layer}
        if sum(time.calls.get(p, 0) for p in paths) != graph.slots[id(layer)]:
            raise Unconvertible(
                f"`{path}` is called along the model's time axis, and on something without it as "
                "well, which must start anew in each window. Received: one layer for both. Build "
                "two layers."
            )
    if missing := [path for path in chosen or () if path not in recurrent]:
        raise Unconvertible(
            "`layers` names layers that do not run along the model's time axis. Received: "
            f"{missing}; along time run {time.recurrent}."
        )
    return recurrent


def states_config(graph: Graph, layer: keras.layers.Layer) -> dict[str, Any]:
    """What a recurrent layer that carries has to know of its calls in a graph."""
    if not isinstance(layer, keras.layers.RNN):
        return {}
    given = any(c.operation is layer and c.initial_state is not None for c in graph.recurrent)
    masked = graph.gets_mask(layer)
    return {
        "initial_state_given": given,
        "masked_output": masked_output(layer, initial_state_given=given) if masked else None,
    }


def _check_rows(call: Call, rows: int) -> None:
    """Checks that a layer that carries still gets the rows that the model has."""
    received = call.tensors[0].shape[0]
    if received != rows:
        raise Unconvertible(
            f"`{call.path}` gets {received} rows where the model has {rows}: a batch size is "
            "written into the graph in front of it. Write -1 for the batch "
            "(`ops.reshape(h, (-1, time, units))`), or use `keras.layers.Reshape`, which leaves "
            "the batch alone."
        )


def pack_inputs(inputs: dict | list, more: dict[str, keras.KerasTensor]) -> Structure:
    """New inputs with what came in addition last: a dict, a list, or a single tensor."""
    if isinstance(inputs, dict):
        return {**inputs, **more}
    together = [*inputs, *more.values()]
    return together[0] if len(together) == 1 else together


def pack_outputs(graph: Graph, outputs: list) -> Structure:
    """The new outputs in the structure of the old ones."""
    return keras.tree.pack_sequence_as(graph.functional.output, outputs)


def _batch_and_resets(batch_size: int | Readable, resets: str | None) -> tuple[int, str | None]:
    """The rows and the kind of resets that were asked for, or that a sequence needs."""
    if resets is not None:
        one_of("resets", resets, ("window", "step"), "Leave it out for no input of resets.")
    if is_sequence(batch_size):
        sequence, expected = batch_size, resets_given(batch_size)
        if resets not in (None, expected):
            raise ValueError(
                f"`resets` contradicts the sequence. Received: resets={resets!r}, a sequence with "
                f"boundary={sequence.boundary!r} and resets={sequence.resets}, which needs "
                f"resets={expected!r}. Leave `resets` out."
            )
        return devices.rows_given(sequence), expected
    return whole_number("batch_size", batch_size, 1), resets
