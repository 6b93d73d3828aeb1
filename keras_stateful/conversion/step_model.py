"""Step models: states in, states out. What one exports, and what a compiled loop runs."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.graph import Call, Graph
from keras_stateful.carry.layers import (
    KERAS_CALLS,
    OpenedWindow,
    first_of_last,
    plain_class,
    puts_out_its_first_state,
)
from keras_stateful.carry.rewrite import Level, Rewriter
from keras_stateful.carry.time_axis import find_time_axis
from keras_stateful.conversion.checks import readable
from keras_stateful.conversion.convert import pack_outputs, users_arguments
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.types import Structure


@keras.saving.register_keras_serializable(package="keras_stateful")
class StepModel(keras.Model):
    """A Functional model `(inputs, *states) -> (outputs, *new_states)`, from `to_step_model`.

    Attributes:
        data_inputs: input tensors that are not states.
        state_inputs: input tensors of the states, named `"<layer path>_state_<index>"`.
        data_outputs: output tensors that are not states.
        state_names: the names of `state_inputs`.
        state_paths: for each state the key it has in `get_states`.
    """

    def __init__(
        self,
        *args,
        state_paths: Sequence[str] = (),
        initial_state_given: Sequence[str] = (),
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.state_paths = list(state_paths)
        self.initial_state_given = list(initial_state_given)

    def __call__(self, inputs, *args, **kwargs):
        # Keras refuses arrays beside tensors, which is what a loop over arrays with states has.
        inputs = keras.tree.map_structure(
            lambda a: ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a, inputs
        )
        return super().__call__(inputs, *args, **kwargs)

    @property
    def data_inputs(self) -> list:
        return self.inputs[: len(self.inputs) - len(self.state_paths)]

    @property
    def state_inputs(self) -> list:
        return self.inputs[len(self.inputs) - len(self.state_paths) :]

    @property
    def data_outputs(self) -> list:
        return self.outputs[: len(self.outputs) - len(self.state_paths)]

    @property
    def state_names(self) -> list[str]:
        return [t.name for t in self.state_inputs]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "state_paths": list(self.state_paths),
            "initial_state_given": list(self.initial_state_given),
        }


def to_step_model(model: keras.Model, *, share_weights: bool = False) -> StepModel:
    """A model with its recurrent states as explicit inputs and outputs.

    It is a pure function of its inputs: nothing is carried, so it can be exported, differentiated
    through, called from several places, and run inside a loop of one's own. Any batch size, any
    window length.

    Args:
        model: any model that `to_stateful` accepts, converted or not.
        share_weights: use the same variables, not copies.

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
    carried = graph.carrying or None
    time = find_time_axis(graph, carried)
    recurrent = {p for p in time.recurrent if carried is None or p in carried}
    keys: dict[str, str] = {}
    stems = _stems(time.recurrent, time.calls, [t.name for t in graph.inputs])

    def step(level: Level, call: Call, index: int) -> Structure:
        layer, path, args = call.operation, call.path, call.args
        plain = rewriter.layer(
            layer, plain_class(type(layer)), stateful=False, return_state=True, unroll=False
        )
        sequences = call.sequences
        initial = layer.get_initial_state(1)
        flat_initial = keras.tree.flatten(initial)
        stem = stems[path] + (f"_call{index}" if index else "")
        names = [f"{stem}_state_{i}" for i in range(len(flat_initial))]
        states = [
            level.input(n, (None, *i.shape[1:]), "float32")
            for n, i in zip(names, flat_initial, strict=True)
        ]
        keys.update({n: path + (f"#{index}" if index else "") for n in names})
        kwargs = {k: v for k, v in users_arguments(call).items() if k in ("mask", "training")}
        mask = args[2] if len(args) > 2 else kwargs.pop("mask", None)
        mask = keras_internals.mask_of(sequences) if mask is None else mask
        if mask is not None:
            kwargs["mask"] = mask
        start = keras.tree.pack_sequence_as(initial, states)
        result = list(plain(sequences, initial_state=start, **kwargs))
        if mask is not None and puts_out_its_first_state(plain) and type(plain).call in KERAS_CALLS:
            result[0] = OpenedWindow()([result[0], first_of_last(start), mask])
        for name, state in zip(names, keras.tree.flatten(result[1:]), strict=True):
            level.output(name, state if state.dtype == "float32" else ops.cast(state, "float32"))
        return result if layer.return_state else result[0]

    rewriter = Rewriter(
        recurrent,
        step,
        share=share_weights,
        share_submodels=True,
        batch_size=None,
        temporal=time.inputs,
        any_length=True,
    )
    inputs, outputs, level = rewriter.run(graph)
    outputs = keras.tree.flatten(pack_outputs(graph, outputs))
    return StepModel(
        [*inputs, *level.inputs.values()],
        [*outputs, *(level.outputs[name] for name in level.inputs)],
        name=model.name,
        state_paths=[_key(name, keys) for name in level.inputs],
        initial_state_given=sorted(time.initial_state_given),
    )


def _stems(paths: list[str], calls: dict[str, int], inputs: list[str]) -> dict[str, str]:
    """What the names of each layer's states begin with: its path without slashes, which may be
    another's path.
    """
    taken: set[str] = set()
    stems = {}
    for path in paths:
        plain, i = path.replace("/", "_"), 0
        while True:
            stem = plain + (f"_{i}" if i else "")
            own = {stem, *(f"{stem}_call{k}" for k in range(1, calls[path]))}
            if not own & taken and not any(
                n.startswith(f"{s}_state_") for s in own for n in inputs
            ):
                break
            i += 1
        taken |= own
        stems[path] = stem
    return stems


def _key(name: str, keys: dict[str, str]) -> str:
    """The `get_states` key of a state; those of a sub-model called again carry the call in their
    name.
    """
    if name in keys:
        return keys[name]
    stem, call = name.rsplit("_call", 1)
    return f"{keys[stem]}#{call}"


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
    layers = {c.path: c.operation for c in Graph(step_model).calls}
    values: dict[str, list] = {}
    for key in dict.fromkeys(step_model.state_paths):
        layer = layers[key.split("#")[0]]
        values[key] = [
            np.array(ops.convert_to_numpy(v), "float32")
            for v in keras.tree.flatten(layer.get_initial_state(batch_size))
        ]
    return [values[key].pop(0) for key in step_model.state_paths]
