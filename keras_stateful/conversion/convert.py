"""Conversions between a model as its user wrote it and one that carries its state.

to_stateful: any model -> batch N, states carried, resets as an input if wanted (to train)
to_inference: any model -> batch 1, any window length, no resets input (to deploy inside Keras)
to_stateless: back to plain Keras layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from keras_stateful.carry.layers import Carry, carried_class, plain_class
from keras_stateful.carry.rewrite import Level, Rewriter, Unconvertible
from keras_stateful.carry.states import sync
from keras_stateful.carry.time_axis import find_time_axis, is_recurrent
from keras_stateful.conversion.model import StatefulModel
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.protocols import is_converted, is_sequence, resets_given

if TYPE_CHECKING:
    from keras_stateful.data.sequence import StatefulSequence
    from keras_stateful.data.stream import StatefulStream

RESETS = "resets"
OF_THE_OUTPUT = (
    "call",
    "predict_step",
)  # methods of Keras's models, which a subclass may have of its own
OF_THE_LOSS = ("test_step", "compute_loss", "compute_metrics")


def to_stateful(
    model: keras.Model,
    batch_size: int | StatefulSequence | StatefulStream,
    *,
    resets: str | None = None,
    layers: list | None = None,
) -> StatefulModel:
    """A copy of a model that carries its recurrent state from batch to batch, on every backend.

    Works under `fit`, `evaluate`, `predict` and `train_on_batch`, with `jit_compile`,
    `run_eagerly`, `steps_per_execution` and mixed precision. The given model is left as it was.

    Args:
        model: a built `Sequential` or Functional model; its recurrent layers may be `stateful` or
            not.
        batch_size: rows in every batch, on all devices together; or the `StatefulSequence` (or
            `StatefulStream`) that the model will read, which determines batch size and resets.
        resets: None; "window" for a last input `"resets"`, bool `(batch,)`; "step" for bool
            `(batch, time)`. `True` sets that row to its initial state before the window, or before
            that step.
        layers: names or paths (or the layers themselves) of the recurrent layers that carry. By
            default all that run along the model's time axis, not those inside `TimeDistributed`.

    Returns:
        A `StatefulModel`, not compiled, with copies of the weights.

    Raises:
        ValueError: a layer that has no meaning or would be silently wrong when the stream is cut
            into windows (`Bidirectional`, `go_backwards`, `Conv1D` over time, attention, `Flatten`,
            a batch size written into the graph), by path; a model without recurrent layers; a
            subclassed model; no rows.
        TypeError: not a Keras model; a batch size that is not a whole number.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(50, 8),
                              keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(50)])
    sequence = ks.StatefulSequence(np.arange(2000) % 50, batch_size=4, sequence_length=10, resets=True)
    training = ks.to_stateful(model, sequence)
    training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training.fit(sequence, epochs=1, verbose=0)
    ```

    Source: truncated backpropagation through time, Williams and Peng 1990
    (doi:10.1162/neco.1990.2.4.490). What Keras's own `stateful=True` does instead, with its issues,
    is listed in `docs/keras-defects.md`.
    """
    model = readable(model, "to_stateful")
    batch_size, resets = _batch_and_resets(batch_size, resets)
    check_methods(model, "to_stateful", (*OF_THE_LOSS, "train_step"))
    if layers is None and recurrent_paths(model):
        layers = recurrent_paths(model)
        _check_all_carry(model, layers)
    return _carrying(model, batch_size, resets, layers, share=False, any_length=False)


def to_inference(
    model: keras.Model, batch_size: int = 1, *, share_weights: bool = False
) -> StatefulModel:
    """A copy of a trained model for use one batch row (or a few) at a time, state carried, any
    window length.

    Args:
        model: what was trained: from `to_stateful`, a plain `stateful=True` model, or any other
            Sequential or Functional model, also one just loaded from disk. Its state is not copied.
        batch_size: rows of the new model.
        share_weights: use the same variables, not copies: the twin follows the training at no cost.

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

    trained = keras.Sequential([keras.Input((64, 3), batch_size=32), keras.layers.LSTM(8, stateful=True,
                                return_sequences=True), keras.layers.Dense(1)])
    live = ks.to_inference(trained)
    for reading in np.zeros((5, 3), "float32"):
        y = live.predict_on_batch(reading[None, None])   # (1, 1, 1), the state carried from call to call
    ```
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    model = readable(model, "to_inference")
    return _carrying(
        model,
        batch_size,
        None,
        recurrent_paths(model) or None,
        share=share_weights,
        any_length=True,
    )


def twin_with_resets(model: keras.Model, batch_size: int) -> StatefulModel:
    """A model over the same variables, at another batch size and any window length, with resets by
    window.
    """
    model = readable(model, "to_inference")
    return _carrying(
        model, batch_size, "window", recurrent_paths(model) or None, share=True, any_length=True
    )


def to_stateless(model: keras.Model) -> keras.Model:
    """A copy of a model with plain, stateless Keras layers, any batch size, and no `"resets"`
    input.

    Args:
        model: from `to_stateful`, or with `stateful=True` layers.

    Returns:
        A Functional model of Keras's own classes, with copies of the weights, not compiled.

    Raises:
        ValueError: a model without recurrent layers, or one that cannot be rebuilt.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    plain = ks.to_stateless(ks.to_stateful(model, batch_size=8))
    assert plain.input_shape == (None, None, 3)
    ```
    """
    model = readable(model, "to_stateless")
    recurrent = {c.path for c in keras_internals.graph_calls(model) if is_recurrent(c.operation)}
    if not recurrent:
        raise _no_recurrent_layer(model, "to_stateless")

    def plain(level: Level, layer: Any, path: str, index: int, args: tuple, kwargs: dict) -> Any:
        return rewriter.layer(layer, plain_class(type(layer)), stateful=False)(
            *args, **users_arguments(kwargs)
        )

    rewriter = Rewriter(
        recurrent, plain, share=False, share_submodels=True, batch_size=None, plain=True
    )
    inputs, outputs, _ = rewriter.run(model, drop=resets_input(model))
    return keras.Model(
        _pack_inputs(model, inputs, {}), pack_outputs(model, outputs), name=model.name
    )


def _carrying(
    model: keras.Model,
    batch_size: int,
    resets: str | None,
    layers: list | None,
    *,
    share: bool,
    any_length: bool,
) -> StatefulModel:
    function = "to_inference" if any_length else "to_stateful"
    rows = devices.graph_rows(batch_size, function)
    chosen = None if layers is None else _paths(model, layers)
    time = find_time_axis(model, chosen)
    recurrent = [p for p in time.recurrent if chosen is None or p in chosen]
    if not recurrent:
        raise _no_recurrent_layer(model, function)
    if chosen and (missing := [p for p in chosen if p not in recurrent]):
        raise Unconvertible(
            "`layers` names layers that do not run along the model's time axis. Received: "
            f"{missing}; along time run {time.recurrent}."
        )
    config = {"unroll": False} if any_length else {}

    def carry(level: Level, layer: Any, path: str, index: int, args: tuple, kwargs: dict) -> Any:
        new = rewriter.layer(
            layer,
            carried_class(type(layer)),
            slots=time.calls[path],
            initial_state_given=path in time.initial_state_given,
            **config,
        )
        kwargs = users_arguments(kwargs)
        sequences = args[0] if args else kwargs["sequences"]
        if sequences.shape[0] != rows:
            raise Unconvertible(
                f"`{path}` gets {sequences.shape[0]} rows where the model has {rows}: a batch size "
                "is written into the graph in front of it. Write -1 for the batch (`ops.reshape(h, "
                "(-1, time, units))`), or use `keras.layers.Reshape`, which leaves the batch alone."
            )
        if resets is not None:
            shape = (rows,) if resets == "window" else (rows, sequences.shape[1])
            kwargs[RESETS] = level.input(RESETS, shape, "bool")
        return new(*args, **kwargs, **({"slot": index} if index else {}))

    rewriter = Rewriter(
        set(recurrent), carry, share=share, share_submodels=False,
        batch_size=rows, temporal=time.inputs, any_length=any_length,
    )  # fmt: skip
    inputs, outputs, level = rewriter.run(model, drop=resets_input(model))
    return StatefulModel(
        _pack_inputs(model, inputs, level.wanted), pack_outputs(model, outputs), name=model.name
    )


def users_arguments(kwargs: dict) -> dict:
    """The arguments of a recurrent call that its user gave."""
    return {k: v for k, v in kwargs.items() if k not in (RESETS, "slot")}


def _pack_inputs(model: keras.Model, inputs: list, more: dict) -> Any:
    """The new inputs in the structure of the old ones, with what came in addition last."""
    old = keras_internals.functional(model).input
    names = [
        t.name
        for t in keras_internals.functional(model).inputs
        if t.name not in resets_input(model)
    ]
    if isinstance(old, dict):
        return {**dict(zip(names, inputs, strict=True)), **more}
    together = [*inputs, *more.values()]
    return together[0] if len(together) == 1 else together


def pack_outputs(model: keras.Model, outputs: list) -> Any:
    return keras.tree.pack_sequence_as(keras_internals.functional(model).output, outputs)


def resets_input(model: keras.Model) -> frozenset[str]:
    """The name of the resets input where an earlier conversion added one."""
    has_one = any(t.name == RESETS for t in model.inputs)
    return frozenset({RESETS}) if has_one and recurrent_paths(model) else frozenset()


def recurrent_paths(model: keras.Model) -> list[str]:
    """Paths of the recurrent layers that carry already, by conversion or by Keras's own
    `stateful=True`.
    """
    calls = list(keras_internals.graph_calls(model))
    paths = [c.path for c in calls if isinstance(c.operation, Carry)]
    paths = paths or [c.path for c in calls if is_recurrent(c.operation) and c.operation.stateful]
    return list(dict.fromkeys(paths))


def readable(model: Any, function: str) -> keras.Model:
    if not isinstance(model, keras.Model):
        order = " The order is `to_stateful(model, sequence)`." if is_sequence(model) else ""
        raise TypeError(
            f"`model` must be a Keras model. Received: {model!r} of type "
            f"{type(model).__name__}.{order}"
        )
    if isinstance(model, keras.Sequential) and not model.built:
        raise Unconvertible(
            f"`{function}` needs to know the shape of the model's input. Received: a Sequential "
            "that is not built. Make `keras.Input((None, features))`, or `keras.Input((None,), "
            "dtype='int32')` for ids, its first layer."
        )
    if not keras_internals.is_graph(model):
        raise Unconvertible(
            f"`{function}` reads the graph of Sequential and Functional models. Received: "
            f"{model.name!r}, a subclass of keras.Model ({type(model).__name__}) whose layers are "
            "called in Python. Build the same layers with the Functional API, or give its "
            "recurrent layers `stateful=True` and use `ResetStatesCallback`."
        )
    if any(t.name == RESETS for t in model.inputs) and not any(
        isinstance(c.operation, Carry) for c in keras_internals.graph_calls(model)
    ):
        raise Unconvertible(
            "The model has an input named 'resets', which the conversion needs. Rename that input."
        )
    check_methods(model, function, OF_THE_OUTPUT)
    _check_weights(model)
    return model


def check_methods(model: keras.Model, function: str, names: tuple[str, ...]) -> None:
    """Raises a ValueError where a model's class has methods of its own, which a copy of its graph
    would not have.
    """
    own = [
        name
        for c in type(model).__mro__
        for name in names
        if name in vars(c) and not c.__module__.startswith(("keras.", "keras_stateful."))
    ]
    if own:
        raise Unconvertible(
            f"`{function}` copies the model's graph, and `{type(model).__name__}.{own[0]}` would "
            f"be lost. Received: {model.name!r}, whose class has its own "
            f"{', '.join(f'`{n}`' for n in own)}. Give the recurrent layers `stateful=True` and "
            "train the model itself with `ResetStatesCallback`; or build a Functional model of its "
            "layers, and say what is lost as a loss or a metric of `compile`."
        )


def _check_all_carry(model: keras.Model, carrying: list[str]) -> None:
    """Raises a ValueError where some layers are `stateful=True` and others, along the same time
    axis, are not.
    """
    others = [path for path in find_time_axis(model, carrying).recurrent if path not in carrying]
    if others and not is_converted(model):
        raise Unconvertible(
            "Some recurrent layers are `stateful=True` and others are not, which would start anew "
            f"in each window. Received: stateful {carrying}, not stateful {others}. Say which are "
            f"to carry: `layers={carrying + others}` for all, or `layers={carrying}`."
        )


def _check_weights(model: keras.Model) -> None:
    """On JAX a first step that fails leaves the variables without values, and Keras says
    `'NoneType' object ...`.
    """
    sync(model)
    try:
        for variable in model.weights:
            _ = variable.value
    except TypeError:
        raise RuntimeError(
            f"The weights of {model.name!r} are gone. Received: a model of which a `fit`, "
            "`evaluate` or `predict` failed; on JAX Keras takes the values out of the variables "
            "meanwhile, and does not put them back then. Build the model again and load its "
            "weights from a file."
        ) from None


def _no_recurrent_layer(model: keras.Model, function: str) -> Unconvertible:
    layers = [c.path for c in keras_internals.graph_calls(model)]
    return Unconvertible(
        f"`{function}` found no recurrent layer along the model's time axis (axis 1 of an input). "
        f"Received: {model.name!r} with {layers}. Recurrent are SimpleRNN, GRU, LSTM, RNN and "
        "ConvLSTM1D to 3D; inside `TimeDistributed` they run along another axis."
    )


def _paths(model: keras.Model, layers: list) -> list[str]:
    if isinstance(layers, str):
        raise TypeError(
            f"`layers` must be a list of names or layers. Received: layers={layers!r}. Pass "
            f"`[{layers!r}]`."
        )
    calls = [c for c in keras_internals.graph_calls(model) if is_recurrent(c.operation)]
    paths: list[str] = []
    for wanted in layers:
        hits = {
            c.path for c in calls if wanted is c.operation or wanted in (c.path, c.operation.name)
        }
        if len(hits) != 1:
            raise ValueError(
                f"`layers` must name recurrent layers of the model. Received: {wanted!r}, which "
                f"fits {sorted(hits) or 'none'}; there are {sorted({c.path for c in calls})}."
            )
        paths += hits
    return paths


def _batch_and_resets(batch_size: Any, resets: str | None) -> tuple[int, str | None]:
    if resets not in (None, "window", "step"):
        raise ValueError(f'`resets` must be None, "window" or "step". Received: resets={resets!r}.')
    if is_sequence(batch_size):
        sequence, told = batch_size, resets_given(batch_size)
        if resets not in (None, told):
            raise ValueError(
                f"`resets` contradicts the sequence. Received: resets={resets!r}, a sequence with "
                f"boundary={sequence.boundary!r} and resets={sequence.resets}, which needs "
                f"resets={told!r}. Leave `resets` out."
            )
        return devices.rows_given(sequence), told
    return whole_number("batch_size", batch_size, 1), resets
