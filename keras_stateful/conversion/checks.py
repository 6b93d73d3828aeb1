"""Which models can be converted, and what the others are told."""

import keras

from keras_stateful.carry.copying import parts_of
from keras_stateful.carry.graph import RESETS, Call, Graph, Unconvertible
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.states import sync
from keras_stateful.carry.time_axis import TimeAxis, find_time_axis
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import is_converted, is_sequence
from keras_stateful.foundation.types import Structure

# Methods of Keras's models that a subclass may have of its own, and that a copy would not have.
OF_THE_OUTPUT = ("call", "predict_step")
OF_THE_LOSS = ("test_step", "compute_loss", "compute_metrics")


def readable(model: object, function: str) -> Graph:
    """Checks that a model can be copied and returns its graph.

    Args:
        model: what the user gave.
        function: name of the function that converts it, used in error messages.

    Raises:
        TypeError: not a Keras model.
        ValueError: a model without a graph, or one of which a copy would lose something.
        RuntimeError: weights that a failed step has taken away.
    """
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
            "called in Python. Make a graph of them, over the same weights: `x = "
            "keras.Input(batch_shape=(rows, None, features)); keras.Model(x, model.call(x))`. "
            "Where its `call` cannot run on a symbol, no way is left to convert or export it, nor "
            "to predict documents or generate with it; to train it, give its recurrent layers "
            "`stateful=True`, call it once on a batch, and use `ResetStatesCallback`."
        )
    graph = Graph(model)
    if any(t.name == RESETS for t in graph.inputs) and not graph.converted:
        raise Unconvertible(
            "The model has an input named 'resets', which the conversion needs. Rename that input."
        )
    check_methods(model, function, OF_THE_OUTPUT)
    _check_hidden_states(graph, function)
    _check_weights(model)
    return graph


def check_methods(model: keras.Model, function: str, names: tuple[str, ...]) -> None:
    """Checks that a model's class has no methods of its own, which a copy would not have.

    Args:
        model: what is to be copied.
        function: name of the function that copies it, used in error messages.
        names: of the methods.

    Raises:
        ValueError: a class that overrides one of them.
    """
    overridden = [
        name
        for cls in type(model).__mro__
        for name in names
        if name in vars(cls) and not cls.__module__.startswith(("keras.", "keras_stateful."))
    ]
    if overridden:
        raise Unconvertible(
            f"`{function}` copies the model's graph, and `{type(model).__name__}.{overridden[0]}` "
            f"would be lost. Received: {model.name!r}, whose class has its own "
            f"{', '.join(f'`{name}`' for name in overridden)}. Give the recurrent layers "
            "`stateful=True` and train the model itself with `ResetStatesCallback`; or build a "
            "Functional model of its layers, and say what is lost as a loss or a metric of "
            "`compile`."
        )


def paths_named(argument: str, layers: list, calls: list[Call]) -> list[str]:
    """The paths of layers that the user named, by name, path or the layer itself.

    Args:
        argument: name of the argument, used in error messages.
        layers: what the user gave.
        calls: of the layers that may be named.

    Raises:
        TypeError: a single name, not a list.
        ValueError: a name that fits none of the calls, or several layers.
    """
    if isinstance(layers, str):
        raise TypeError(
            f"`{argument}` must be a list of names or layers. Received: {argument}={layers!r}. "
            f"Pass `[{layers!r}]`."
        )
    paths: list[str] = []
    for layer in layers:
        # A path comes first: a layer in a sub-model may have the name of one that is not in it.
        fitting = [c for c in calls if layer is c.operation or layer == c.path]
        fitting = fitting or [c for c in calls if layer == c.operation.name]
        if len({id(c.operation) for c in fitting}) != 1:
            which = "recurrent layers" if argument == "layers" else "layers"
            raise ValueError(
                f"`{argument}` must name {which} of the model. Received: {layer!r}, which fits "
                f"{sorted({c.path for c in fitting}) or 'none'}; there are "
                f"{sorted({c.path for c in calls})}."
            )
        paths += [c.path for c in calls if c.operation is fitting[0].operation]
    return paths


def vouched_for(graph: Graph, local: list | None = None) -> list[str]:
    """The paths of the layers that take each time step alone, as the user says.

    Args:
        graph: of the model.
        local: what the user named; None for what was named when the model was converted.
    """
    if local is None:
        return list(graph.model.local) if is_converted(graph.model) else []
    return paths_named("local", local, graph.calls)


def check_all_carry(graph: Graph, local: list[str]) -> None:
    """Checks that no layer starts anew in each window beside others that are `stateful=True`.

    Args:
        graph: of the model.
        local: paths of layers that take each time step alone, as the user says.

    Raises:
        ValueError: some recurrent layers along time are stateful, and some are not.
    """
    carrying = graph.carrying
    recurrent = find_time_axis(graph, carrying, local).recurrent
    others = [path for path in recurrent if path not in carrying]
    if others and not is_converted(graph.model):  # there the user has said `layers=`
        raise Unconvertible(
            "Some recurrent layers are `stateful=True` and others are not, which would start anew "
            f"in each window. Received: stateful {carrying}, not stateful {others}. Say which are "
            f"to carry: `layers={carrying + others}` for all, or `layers={carrying}`."
        )


def check_outputs(call: Call, outputs: Structure) -> None:
    """Checks that a layer which carries returns what it returned in the user's graph.

    Args:
        call: in the user's graph.
        outputs: of the layer that carries.

    Raises:
        ValueError: an adapter that returns something else.
    """
    # Rows and time steps may be others now.
    before, now = (
        [(len(t.shape), *t.shape[2:]) for t in tensors]
        for tensors in (call.outputs, keras.tree.flatten(outputs))
    )
    if before != now:
        raise Unconvertible(
            f"The adapter of `{call.path}` must return what the layer's `call` returns. Received: "
            f"outputs of shapes {[t.shape for t in keras.tree.flatten(outputs)]}; `call` returns "
            f"{[t.shape for t in call.outputs]}."
        )


def _check_hidden_states(graph: Graph, function: str) -> None:
    """Checks that no layer holds another one with a state of its own, which no window would reset.

    Raises:
        ValueError: a wrapper, or a layer of the user's own, around a `stateful=True` layer.
    """
    for call in graph.calls:
        if not isinstance(call.operation, keras.layers.Layer) or call.is_recurrent:
            continue
        _, *parts = parts_of(call.operation)
        hidden = [part.name for part in parts if _has_states(part)]
        if hidden:
            raise Unconvertible(
                f"`{function}` cannot carry `{call.path}` ({type(call.operation).__name__}): the "
                "stateful layer inside it would carry state from slice to slice of one call, and "
                f"from window to window. Received: {hidden} with `stateful=True`. Give it "
                "`stateful=False`: what is wrapped starts anew with each slice. A layer that is to "
                "carry has to be called in the model's graph itself."
            )


def _has_states(part: keras.layers.Layer) -> bool:
    carries = isinstance(part, Carry) and part.slots > 0
    return carries or (isinstance(part, keras.layers.RNN) and part.stateful)


def _check_weights(model: keras.Model) -> None:
    """Checks that the variables have values.

    On JAX a first step that fails leaves them without any, and whoever reads one is told
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


def check_all_go_on(time: TimeAxis, chosen: list[str] | None) -> None:
    """Checks that no layer starts anew in each window, where windows may have any length.

    Raises:
        ValueError: recurrent layers along time that `layers=` left out.
    """
    if chosen is None:
        return
    if anew := [path for path in time.recurrent if path not in chosen]:
        raise Unconvertible(
            f"{anew} start anew in each window, since `layers` left them out when the model was "
            "made stateful: what they put out depends on the length of a window, which is another "
            f"one here. Received: layers that carry {chosen}. Let them carry as well "
            f"(`to_stateful(model, ..., layers={chosen + anew})`), or take the part of the model "
            "without them (`keras.Model(model.input, h)`, where h is what they read)."
        )


def nothing_carries(graph: Graph) -> Unconvertible:
    """The error for a model of which nothing carries a state."""
    return Unconvertible(
        "The model has nothing that carries a state along its time axis (axis 1 of an input). "
        f"Received: {graph.model.name!r} with {[c.path for c in graph.calls]}. One that takes each "
        "time step alone is read by `model.evaluate` and `model.predict` as it is. What "
        "carries are SimpleRNN, GRU, LSTM, RNN and ConvLSTM1D to 3D, layers of `register_carry`, "
        'paddings in front of time (`padding="causal"` of a Conv1D, `ZeroPadding1D((n, 0))`, '
        "`ops.pad`) and attention with a `sliding_window` and `use_causal_mask=True`; inside "
        "`TimeDistributed` they run along another axis."
    )
