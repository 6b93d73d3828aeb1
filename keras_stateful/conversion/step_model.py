"""Step models: states in, states out. What one exports, and what a compiled loop runs."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.adapters import CarryAdapted
from keras_stateful.carry.any_length import AnyLength
from keras_stateful.carry.classes import carried_class
from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.recurrent import CarryRNN
from keras_stateful.carry.register import registered_class
from keras_stateful.carry.rewrite import Level, Repeated, Rewriter
from keras_stateful.carry.time_axis import find_time_axis
from keras_stateful.conversion.checks import check_all_go_on, readable, vouched_for
from keras_stateful.conversion.convert import pack_outputs, states_config
from keras_stateful.conversion.files import KerasFiles
from keras_stateful.conversion.held import HeldCalls, called
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.model_memory import same_training


@keras.saving.register_keras_serializable(package="keras_stateful")
class StepModel(KerasFiles):
    """A Functional model `(inputs, *states) -> (outputs, *new_states)`, from `to_step_model`.

    Attributes:
        data_inputs: input tensors that are not states.
        state_inputs: input tensors of the states, named `"<layer path>_state_<index>"`.
        data_outputs: output tensors that are not states.
        data_output_names: their names, where the model's outputs were a dict its keys, else the
            layers that they come from.
        state_names: the names of `state_inputs`.
        state_paths: for each state the key it has in `get_states`.
        initial_state_given: paths of layers whose initial state the model's own graph computed.
    """

    def __init__(
        self,
        *args: Any,
        state_paths: Sequence[str] = (),
        initial_state_given: Sequence[str] = (),
        output_keys: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.state_paths = list(state_paths)
        self.output_keys = list(output_keys)
        self.initial_state_given = list(initial_state_given)

    def __call__(self, inputs: Structure, *args: Any, **kwargs: Any) -> Structure:
        keras_internals.add_as_numpy_does()
        # Keras refuses arrays beside tensors, which is what a loop over arrays with states has.
        inputs = keras.tree.map_structure(
            lambda a: ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a, inputs
        )
        return super().__call__(inputs, *args, **kwargs)

    @property
    def data_inputs(self) -> list[keras.KerasTensor]:
        return self.inputs[: len(self.inputs) - len(self.state_paths)]

    @property
    def state_inputs(self) -> list[keras.KerasTensor]:
        return self.inputs[len(self.inputs) - len(self.state_paths) :]

    @property
    def data_outputs(self) -> list[keras.KerasTensor]:
        return self.outputs[: len(self.outputs) - len(self.state_paths)]

    @property
    def data_output_names(self) -> list[str]:
        return self.output_keys or self.output_names[: len(self.data_outputs)]

    @property
    def state_names(self) -> list[str]:
        return [t.name for t in self.state_inputs]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "state_paths": list(self.state_paths),
            "initial_state_given": list(self.initial_state_given),
            "output_keys": list(self.output_keys),
        }


def to_step_model(
    model: keras.Model, *, share_weights: bool = False, local: list | None = None
) -> StepModel:
    """A model with its recurrent states as explicit inputs and outputs.

    It is a pure function of its inputs: nothing is carried, so it can be exported, differentiated
    through, called from several places, and run inside a loop of one's own. Any batch size, any
    window length.

    Args:
        model: any model that `to_stateful` accepts, converted or not.
        share_weights: use the same variables, not copies.
        local: as for `to_stateful`; what that made knows it.

    Returns:
        A `StepModel` with flat lists of inputs `[*inputs, *states]` and outputs
        `[*outputs, *new_states]`.

    Raises:
        ValueError: as `to_stateful`.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(8, return_sequences=True)])
    step = ks.to_step_model(model)
    states = ks.initial_states(step, batch_size=2)
    for x in np.zeros((5, 2, 1, 3), "float32"):
        y, *states = step([x, *states])                     # y (2, 1, 8)
    ```
    """
    graph = readable(model, "to_step_model")
    carried = graph.chosen
    time = find_time_axis(graph, carried, vouched_for(graph, local))
    check_all_go_on(time, carried)
    recurrent = {path for path in time.recurrent if carried is None or path in carried}
    held = HeldCalls(graph, time)
    stems = _stems(graph, {*recurrent, *time.held})
    keys: dict[str, str] = {}  # in `get_states`, by the name of the state
    shaped = AnyLength(graph, time)

    def step(level: Level, call: Call, index: int) -> Structure:
        if call.path in shaped.paths:
            return shaped.call(call, rewriter.layer)
        # The states are an argument of the layer, and come back behind the outputs.
        if call.path in time.held:
            layer: Any = held.layer(rewriter, call)
            initial = _initial_states(call._replace(operation=layer), 1)
        else:
            cls = carried_class(type(call.operation))
            config = states_config(graph, call.operation)
            config |= {"unroll": False} if call.is_rnn else {}
            layer = rewriter.layer(call.operation, cls, slots=0, carry_after=None, **config)
            initial = _initial_states(call, 1)
        # One row shows how many states there are, of which shapes.
        initial = keras.tree.flatten(initial) + (layer.output_before(1) if call.is_rnn else [])
        key = graph.keys[id(call.operation)] + (f"#{index}" if index else "")
        states = []
        for i, value in enumerate(initial):
            name = f"{stems[key]}_state_{i}"
            keys[name] = key
            # In mixed precision too: each new state must fit the input that it goes into next.
            states.append(level.input(name, (None, *value.shape[1:]), "float32"))
        if call.is_rnn:  # it starts from the states, whatever the graph gave it
            options = {k: v for k, v in call.kwargs.items() if k in ("training", "mask")}
            results = layer(call.sequences, states=states, **options)
        else:
            results = called(layer, call, states=states)
        results = keras.tree.flatten(results)
        count = len(results) - len(states)
        for state, new in zip(states, results[count:], strict=True):
            level.output(state.name, new)
        return results[:count]

    rewriter = Rewriter(
        graph,
        recurrent | held.paths | shaped.paths,
        step,
        share=share_weights,
        repeated=Repeated.COPIED,
        batch_size=None,
        temporal=time.inputs,
        any_length=True,
    )
    inputs, outputs, level = rewriter.run()
    inputs = list(inputs.values()) if isinstance(inputs, dict) else inputs
    packed = pack_outputs(graph, outputs)
    outputs = keras.tree.flatten(packed)
    step_model = StepModel(
        [*inputs, *level.inputs.values()],
        [*outputs, *(level.outputs[name] for name in level.inputs)],
        name=model.name,
        state_paths=[keys[name] for name in level.inputs],
        initial_state_given=sorted(time.initial_state_given),
        output_keys=_keys(packed),
    )
    return same_training(model, step_model)


def _keys(outputs: Structure) -> list[str]:
    """The keys of a dict of outputs, in the order in which Keras flattens it; else none."""
    if not isinstance(outputs, dict) or any(keras.tree.is_nested(o) for o in outputs.values()):
        return []
    return [str(key) for key in sorted(outputs)]


def _initial_states(call: Call, batch_size: int) -> Structure:
    """What the cell of a layer, or its adapter, starts a document from."""
    if call.is_rnn:
        return call.operation.get_initial_state(batch_size)
    layer = call.operation
    known = isinstance(layer, CarryAdapted)
    adapter = layer.adapter if known else registered_class(type(layer)).adapter
    return adapter.initial_states(layer, batch_size, *(tuple(t.shape) for t in call.data))


def _stems(graph: Graph, carrying: Collection[str]) -> dict[str, str]:
    """Names for the states of every recurrent call, by the key of `get_states`.

    A state is called `<stem>_state_<index>`, where the stem is the layer's path without slashes:
    `encoder/lstm` has `encoder_lstm_state_0` and `encoder_lstm_state_1`. The second call of a
    shared layer, `encoder/lstm#1`, has the stem `encoder_lstm_call1`. Where a stem is taken,
    because another layer has that very path (`encoder_lstm`) or an input such a name, a number is
    added.

    Args:
        graph: of the model.
        carrying: paths of the layers and operations.
    """
    layers = {id(c.operation): c for c in graph.calls if c.path in carrying}
    stems: dict[str, str] = {}
    for layer in layers:
        path, calls = graph.keys[layer], range(graph.slots[layer])
        plain = path.replace("/", "_")
        for stem in itertools.chain([plain], (f"{plain}_{i}" for i in itertools.count(1))):
            names = [stem + (f"_call{k}" if k else "") for k in calls]
            prefixes = tuple(f"{name}_state_" for name in names)
            taken = any(name.startswith(prefixes) for name in graph.input_names)
            if not taken and not set(names) & set(stems.values()):
                break
        stems.update(
            {path + (f"#{k}" if k else ""): name for k, name in zip(calls, names, strict=True)}
        )
    return stems


def has_time(tensor: keras.KerasTensor) -> bool:
    """True if an input or output of a step model has a time axis: axis 1, of unknown size."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None


def initial_states(step_model: StepModel, batch_size: int = 1) -> list[np.ndarray]:
    """The states to start from, in the order of `step_model.state_inputs`.

    Args:
        step_model: from `to_step_model`.
        batch_size: rows.

    Returns:
        A list of float32 arrays `(batch_size, ...)`: what each layer's `get_initial_state` gives.

    Raises:
        TypeError: not a step model; a batch size that is not a whole number.
        ValueError: no rows; the model's graph passes an `initial_state` of its own, which depends
            on the inputs.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    step = ks.to_step_model(keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4)]))
    assert [s.shape for s in ks.initial_states(step, batch_size=2)] == [(2, 4)]
    ```
    """
    if not isinstance(step_model, StepModel):
        raise TypeError(
            "`step_model` must come from `to_step_model(model)`. Received: "
            f"{type(step_model).__name__}."
        )
    batch_size = whole_number("batch_size", batch_size, 1)
    if step_model.initial_state_given:
        raise ValueError(
            f"The initial state of {step_model.initial_state_given} is computed by the model's own "
            "graph from its inputs (`initial_state=`), so it is not a constant. Compute it with "
            "that part of the model, and pass it."
        )
    calls = {c.path: c for c in Graph(step_model).calls}
    values: dict[str, list[np.ndarray]] = {}
    for key in dict.fromkeys(step_model.state_paths):
        call = calls[key.split("#")[0]]
        values[key] = [
            np.array(ops.convert_to_numpy(v), "float32")
            for v in _all_initial_states(call, batch_size)
        ]
    # The states of a layer come in their order, though states of others may stand between them.
    return [values[key].pop(0) for key in step_model.state_paths]


def _all_initial_states(call: Call, batch_size: int) -> list[Tensor]:
    """What a layer of a step model starts from; one of Keras's own where an older version saved."""
    if isinstance(call.operation, CarryRNN):
        return call.operation.initial_states(batch_size)
    return keras.tree.flatten(_initial_states(call, batch_size))
