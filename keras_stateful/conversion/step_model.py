"""Step models: states in, states out. What one exports, and what a compiled loop runs."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.adapters import CarryAdapted
from keras_stateful.carry.any_length import AnyLength
from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.layers import plain_class
from keras_stateful.carry.recurrent import KERAS_CALLS
from keras_stateful.carry.register import registered_class
from keras_stateful.carry.rewrite import Level, Rewriter
from keras_stateful.carry.steps import OpenedWindow, first_of_last, puts_out_its_first_state
from keras_stateful.carry.time_axis import TimeAxis, find_time_axis
from keras_stateful.conversion.checks import check_all_go_on, readable, vouched_for
from keras_stateful.conversion.convert import pack_outputs
from keras_stateful.conversion.files import KerasFiles
from keras_stateful.conversion.held import HeldCalls, called
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.types import Structure
from keras_stateful.training.model_facts import same_training


@keras.saving.register_keras_serializable(package="keras_stateful")
class StepModel(KerasFiles):
    """A Functional model `(inputs, *states) -> (outputs, *new_states)`, from `to_step_model`.

    Attributes:
        data_inputs: input tensors that are not states.
        state_inputs: input tensors of the states, named `"<layer path>_state_<index>"`.
        data_outputs: output tensors that are not states.
        state_names: the names of `state_inputs`.
        state_paths: for each state the key it has in `get_states`.
        initial_state_given: paths of layers whose initial state the model's own graph computed.
    """

    def __init__(
        self,
        *args: Any,
        state_paths: Sequence[str] = (),
        initial_state_given: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.state_paths = list(state_paths)
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
    def state_names(self) -> list[str]:
        return [t.name for t in self.state_inputs]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "state_paths": list(self.state_paths),
            "initial_state_given": list(self.initial_state_given),
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
    names = _StateNames(time, {t.name for t in graph.inputs})
    held = HeldCalls(graph, time)
    shaped = AnyLength(graph, time)

    def step(level: Level, call: Call, index: int) -> Structure:
        if call.path in shaped.paths:
            return shaped.call(call, rewriter.layer)
        layer = held.layer(rewriter, call) if call.path in time.held else None
        # One row shows how many states there are, of which shapes, and how they are nested.
        initial = _initial_states(call if layer is None else call._replace(operation=layer), 1)
        shapes = [(None, *value.shape[1:]) for value in keras.tree.flatten(initial)]
        state_names = names.of_call(call.path, index, len(shapes))
        states = [
            level.input(name, shape, "float32")
            for name, shape in zip(state_names, shapes, strict=True)
        ]
        start = keras.tree.pack_sequence_as(initial, states)
        if call.is_rnn:
            outputs, new_states = _call_recurrent(rewriter, call, start)
        else:
            outputs, new_states = _call_adapted(layer or _registered(rewriter, call), call, start)
        for name, state in zip(state_names, keras.tree.flatten(new_states), strict=True):
            # In mixed precision too: the inputs are float32, as are the state variables of a model
            # that carries, and each new state must fit the input that it goes into next.
            level.output(name, state if state.dtype == "float32" else ops.cast(state, "float32"))
        return outputs

    rewriter = Rewriter(
        recurrent | held.paths | shaped.paths,
        step,
        share=share_weights,
        share_submodels=True,
        batch_size=None,
        temporal=time.inputs,
        any_length=True,
    )
    inputs, outputs, level = rewriter.run(graph)
    outputs = keras.tree.flatten(pack_outputs(graph, outputs))
    step_model = StepModel(
        [*inputs, *level.inputs.values()],
        [*outputs, *(level.outputs[name] for name in level.inputs)],
        name=model.name,
        state_paths=[names.key(name) for name in level.inputs],
        initial_state_given=sorted(time.initial_state_given),
    )
    return same_training(model, step_model)


def _initial_states(call: Call, batch_size: int) -> Structure:
    """What a layer starts a document from, nested as it has it."""
    if call.is_rnn:
        return call.operation.get_initial_state(batch_size)
    layer = call.operation
    known = isinstance(layer, CarryAdapted)
    adapter = layer.adapter if known else registered_class(type(layer)).adapter
    return adapter.initial_states(layer, batch_size, *(tuple(t.shape) for t in call.data))


def _registered(rewriter: Rewriter, call: Call) -> CarryAdapted:
    """The layer without states of its own, for one that `register_carry` was told of."""
    return rewriter.layer(
        call.operation, registered_class(plain_class(type(call.operation))), slots=0
    )


def _call_adapted(layer: CarryAdapted, call: Call, start: list) -> tuple[Structure, list]:
    """Calls a layer that carries by an adapter from given states.

    Returns:
        What the layer returned in the user's graph, and the new states.
    """
    results = called(layer, call, states=start)
    outputs, new_states = results[: -len(start)], results[-len(start) :]
    return outputs, list(new_states)


def _call_recurrent(rewriter: Rewriter, call: Call, start: Structure) -> tuple[list, Structure]:
    """Calls a plain recurrent layer from given states.

    Returns:
        What the layer returned in the user's graph, and the new states.
    """
    cls = plain_class(type(call.operation))
    layer = rewriter.layer(call.operation, cls, stateful=False, return_state=True, unroll=False)
    options = {name: value for name, value in call.kwargs.items() if name == "training"}
    mask = call.argument(2, "mask")
    if mask is None:  # Keras passes the sequences' own mask on only where they are the sole tensor
        mask = keras_internals.mask_of(call.sequences)
    if mask is not None:
        options["mask"] = mask
    output, *new_states = layer(call.sequences, initial_state=start, **options)
    if mask is not None and puts_out_its_first_state(layer) and type(layer).call in KERAS_CALLS:
        output = OpenedWindow()([output, first_of_last(start), mask])
    return [output, *(new_states if call.operation.return_state else [])], new_states


class _StateNames:
    """Names for the states of every recurrent call, which are names of inputs.

    A name is `<stem>_state_<index>`, where the stem is the layer's path without slashes:
    `encoder/lstm` has `encoder_lstm_state_0` and `encoder_lstm_state_1`. The second call of a
    shared layer has the stem `encoder_lstm_call1`. Where a stem is taken, because another layer has
    that very path (`encoder_lstm`) or an input such a name, a number is added.

    Args:
        time: what runs along time.
        inputs: names of the model's own inputs.
    """

    def __init__(self, time: TimeAxis, inputs: set[str]):
        self._keys: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        taken: set[str] = set()
        for path in time.calls:
            plain = path.replace("/", "_")
            numbered = (f"{plain}_{i}" for i in itertools.count(1))
            for stem in itertools.chain([plain], numbered):
                stems = {stem, *(f"{stem}_call{k}" for k in range(1, time.calls[path]))}
                prefixes = tuple(f"{s}_state_" for s in stems)
                if not stems & taken and not any(name.startswith(prefixes) for name in inputs):
                    break
            taken |= stems
            self._stems[path] = stem

    def of_call(self, path: str, index: int, count: int) -> list[str]:
        """The names of `count` states of a layer's call, whose key is noted."""
        stem = self._stems[path] + (f"_call{index}" if index else "")
        names = [f"{stem}_state_{i}" for i in range(count)]
        self._keys.update(dict.fromkeys(names, path + (f"#{index}" if index else "")))
        return names

    def key(self, name: str) -> str:
        """The key in `get_states` of the state with this name."""
        if name in self._keys:
            return self._keys[name]
        # A sub-model that is called again: its level asked for the state under the first call's
        # name, and `Rewriter` put the number of the call behind it.
        first, call = name.rsplit("_call", 1)
        return f"{self._keys[first]}#{call}"


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
            for v in keras.tree.flatten(_initial_states(call, batch_size))
        ]
    # The states of a layer come in their order, though states of others may stand between them.
    return [values[key].pop(0) for key in step_model.state_paths]
