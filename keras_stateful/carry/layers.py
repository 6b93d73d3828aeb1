"""Keras's recurrent layers, carrying their state from call to call on every backend.

Each class here is the Keras layer of the same name with `Carry` in front. The state lives in
variables that Keras's compiled step reads and writes like a batch-norm mean, so it survives `fit`,
`jit_compile`, `steps_per_execution` and mixed precision, and the fused kernels stay in use: the
layer itself remains a stateless call with an explicit `initial_state`. The names are Keras's own
because weight files are laid out by class name: a file written here loads into the plain layer, and
the other way round.

    x (batch, time, ...) ──┐
    resets ──▶ start = where(reset, initial, state) ──▶ Keras layer ──▶ outputs
                            ▲                               │
                          state ◀───────── new state ───────┘
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.carry.steps import (
    StepResets,
    choose,
    first_of_last,
    puts_out_its_first_state,
    repeat_before,
    rows_like,
)
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.types import Structure, Tensor

_register = keras.saving.register_keras_serializable(package="keras_stateful")


class Carry:
    """Mixin in front of a Keras recurrent layer: owns the state and hands it from call to call.

    Args:
        slots: how many calls of this layer a model makes (2 for a layer shared between two inputs);
            each has a state of its own.
        initial_state_given: whether the model's graph passes `initial_state`; a reset then sets
            that. (What it is, is known only inside the step, so a reset from outside marks the rows
            as fresh.)

    Attributes:
        slot_states: the state variables of each slot, `(batch, ...)` each.
        fresh_rows: with `initial_state_given`, for each slot `(batch,)`: 1 where the row starts
            from the given initial state at the next call.
    """

    def __init__(
        self, *args: Any, slots: int = 1, initial_state_given: bool = False, **kwargs: Any
    ):
        super().__init__(*args, **{**kwargs, "stateful": False})
        self.slots = slots
        self.initial_state_given = initial_state_given
        self.slot_states: list[list[keras.Variable]] = []
        self.fresh_rows: list[keras.Variable] = []
        self._step_resets: StepResets | None = None  # see `_inner_loop_told`

    # The variables

    def build(self, sequences_shape: tuple, initial_state_shape: Structure | None = None) -> None:
        super().build(sequences_shape)
        batch_size = sequences_shape[0]
        if batch_size is None:
            raise ValueError(
                f"`{self.name}` carries its state and needs a fixed batch size. Received: input "
                f"shape {tuple(sequences_shape)}. Give the model's `keras.Input` a `batch_size`."
            )
        self.batch_size = batch_size
        initial = keras.tree.flatten(self.get_initial_state(batch_size))
        # Lists that are complete: Keras tracks what is in a list when the attribute is set.
        self.slot_states = [
            [_add_state(self, value) for value in initial] for _ in range(self.slots)
        ]
        if self.initial_state_given:
            self.fresh_rows = [_add_fresh_rows(self) for _ in range(self.slots)]

    def state_variables(self) -> list[keras.Variable]:
        """All state variables, slot by slot, with the fresh rows last."""
        return [v for states in self.slot_states for v in states] + list(self.fresh_rows)

    @property
    def weights(self) -> list[keras.Variable]:
        """The plain layer's weights.

        States are variables, not weights, so that `set_weights`, `count_params`, `EarlyStopping`
        and every weight file are those of the plain layer at any batch size.
        """
        states = {id(v) for v in self.state_variables()}
        return [w for w in super().weights if id(w) not in states]

    def reset_state(self, rows: Tensor | None = None) -> None:
        """Sets the state to the initial one, on all replicas.

        Args:
            rows: bool `(batch,)`, the rows to reset; None for all.
        """
        if not self.slot_states:
            return
        batch_size = devices.rows(self.slot_states[0][0])
        initial = keras.tree.flatten(self.get_initial_state(batch_size))
        for states in self.slot_states:
            for state, value in zip(states, initial, strict=True):
                _write_rows(state, ops.copy(ops.cast(value, state.dtype)), rows)
        for fresh in self.fresh_rows:
            _write_rows(fresh, ops.ones((batch_size,), "float32"), rows)

    # The call

    def call(
        self,
        sequences: Tensor,
        initial_state: Structure | None = None,
        mask: Structure | None = None,
        training: bool = False,
        resets: Tensor | None = None,
        slot: int = 0,
        sequences_mask: Structure | None = None,
    ) -> Structure:
        """The plain layer's call, from the state of a slot, which it then updates.

        Args:
            sequences: `(batch, time, ...)`.
            initial_state: what a reset sets; by default the cell's own initial state.
            mask: bool `(batch, time)`.
            training: as for the plain layer.
            resets: bool `(batch,)`: rows set to the initial state before the window; or
                `(batch, time)`: before that step.
            slot: which of the layer's states.
            sequences_mask: the same as `mask`; where a call has several tensors, Keras fills this
                name.
        """
        _check_rows(self, sequences)
        sequences = keras_internals.ensure_batch(sequences, self.batch_size)
        mask = sequences_mask if mask is None else mask
        if resets is not None:
            resets = ops.cast(resets, "bool")
        by_window = resets if resets is not None and len(resets.shape) == 1 else None
        by_step = resets if by_window is None else None

        # The states as a flat list, to be read and written; as the cell nests them, for Keras.
        states = self.slot_states[slot]
        if initial_state is None:
            initial_state = self.get_initial_state(self.batch_size)
        if not isinstance(initial_state, (list, tuple)):
            initial_state = [initial_state]
        initial = [
            ops.cast(value, state.dtype)
            for value, state in zip(keras.tree.flatten(initial_state), states, strict=True)
        ]
        start = self._starting_states(slot, initial, by_window)
        returns_state = self.return_state
        with self._inner_loop_told(None if by_step is None else StepResets(by_step, initial)):
            output, *new_states = super().call(
                sequences,
                initial_state=keras.tree.pack_sequence_as(initial_state, start),
                mask=mask,
                training=training,
            )
        for state, value in zip(states, keras.tree.flatten(new_states), strict=True):
            state.assign(ops.cast(value, state.dtype))
        if self.initial_state_given:
            self.fresh_rows[slot].assign(ops.zeros((self.batch_size,), "float32"))
        return (output, *new_states) if returns_state else output

    def _starting_states(
        self, slot: int, initial: list[Tensor], resets: Tensor | None
    ) -> list[Tensor]:
        """The states that a window starts from: the carried ones, or initial ones where reset."""
        states = self.slot_states[slot]
        if self.initial_state_given:
            fresh = ops.cast(self.fresh_rows[slot], "bool")
            resets = fresh if resets is None else ops.logical_or(resets, fresh)
        if resets is None:
            return [ops.copy(s) for s in states]  # torch's autograd must not hold what is written
        return choose(resets, initial, [ops.convert_to_tensor(s) for s in states])

    @contextmanager
    def _inner_loop_told(self, step_resets: StepResets | None) -> Iterator[None]:
        """Tells Keras's `RNN.call` what it has no argument for, by attributes of the layer.

        `Carry.call` wants Keras's own `call` around the loop over time steps (it makes the initial
        state, the dropout masks and the output), and that passes on to `inner_loop` the sequences,
        the state, the mask and `training` alone. So for as long as this lasts

        - `return_state` is True: the new states come back, whatever the user's graph asks for;
        - `_step_resets` says which rows `inner_loop` is to reset before which steps, or None.
        """
        returns_state = self.return_state
        self.return_state, self._step_resets = True, step_resets
        try:
            yield
        finally:
            self.return_state, self._step_resets = returns_state, None

    def inner_loop(
        self, sequences: Tensor, initial_state: Structure, mask: Structure, training: bool = False
    ) -> tuple:
        """The loop over time steps, which Keras's `call` asks for.

        Returns:
            The output of the last step, all outputs (or the last alone), and the new states.
        """
        resets = self._step_resets
        if plain_class(type(self)) in loops.PLAIN_CELLS:
            result = loops.run(self, sequences, initial_state, mask, training, resets)
            if result is not None:
                return result
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        if resets is not None:
            return loops.run_with_resets(self, sequences, initial_state, mask, training, resets)
        last, outputs, states = loops.keras_loop(
            self, super().inner_loop, sequences, initial_state, mask, training
        )
        if mask is not None and puts_out_its_first_state(self):
            before = first_of_last(initial_state)
            last = repeat_before(last, before, mask, along_time=False)
            if self.return_sequences:
                outputs = repeat_before(outputs, before, mask, along_time=True)
        return last, outputs, states

    # Files

    def save_own_variables(self, store: dict[str, Tensor]) -> None:
        """Writes nothing: files hold no state."""

    def load_own_variables(self, store: dict[str, Tensor]) -> None:
        """Reads nothing: files hold no state."""

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "slots": self.slots,
            "initial_state_given": self.initial_state_given,
        }


def _add_state(layer: Carry, initial: Tensor) -> keras.Variable:
    """Adds a state variable that holds an initial state."""
    state = layer.add_weight(
        shape=tuple(initial.shape),
        initializer="zeros",
        dtype=layer.variable_dtype,
        trainable=False,
        autocast=False,
        name="rnn_state",
    )
    state.assign(ops.copy(ops.cast(initial, state.dtype)))  # slots must not share a JAX buffer
    devices.lay_out_by_rows(state)
    return state


def _add_fresh_rows(layer: Carry) -> keras.Variable:
    """Adds a variable of the rows that start from the graph's initial state: all, at first."""
    fresh = layer.add_weight(
        shape=(layer.batch_size,),
        initializer="ones",
        dtype="float32",
        trainable=False,
        autocast=False,
        name="rnn_fresh",
    )
    devices.lay_out_by_rows(fresh)
    return fresh


def _check_rows(layer: Carry, sequences: Tensor) -> None:
    if sequences.shape[0] not in (None, layer.batch_size):
        raise ValueError(
            f"`{layer.name}` carries the state of {layer.batch_size} rows. Received: a batch of "
            f"{sequences.shape[0]} rows, shape {tuple(sequences.shape)}. Leave out a smaller "
            "last batch (`drop_remainder`), or convert the model to that batch size with "
            "`to_inference(model, batch_size)`."
        )


def _write_rows(variable: keras.Variable, value: Tensor, rows: Tensor | None) -> None:
    """Writes a value `(batch, ...)` into some rows of a state variable, or into all."""
    if rows is not None:
        value = ops.where(rows_like(rows, value), value, devices.read(variable))
    devices.write(variable, value)


@_register
class RNN(Carry, keras.layers.RNN):
    """`keras.layers.RNN` that carries its state."""


@_register
class SimpleRNN(Carry, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` that carries its state."""


@_register
class GRU(Carry, keras.layers.GRU):
    """`keras.layers.GRU` that carries its state."""


@_register
class LSTM(Carry, keras.layers.LSTM):
    """`keras.layers.LSTM` that carries its state."""


@_register
class ConvLSTM1D(Carry, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` that carries its state."""


@_register
class ConvLSTM2D(Carry, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` that carries its state."""


@_register
class ConvLSTM3D(Carry, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` that carries its state."""


# The class that carries, by Keras's (or a user's) own, which stands behind `Carry` in its bases
_CARRIED: dict[type, type] = {
    cls.__bases__[1]: cls for cls in (RNN, SimpleRNN, GRU, LSTM, ConvLSTM1D, ConvLSTM2D, ConvLSTM3D)
}

# What is known of masked steps holds for these; a user's subclass may have a `call` of its own.
KERAS_CALLS = {cls.call for cls in _CARRIED}


def carried_class(cls: type) -> type:
    """The class that carries, for a Keras recurrent layer class or a user's subclass of one.

    A subclass of the user's own is paired with `Carry` on the spot; to load a `.keras` file that
    holds one, call this first with the class.
    """
    if issubclass(cls, Carry):
        return cls
    if cls not in _CARRIED:
        documentation = {"__doc__": f"`{cls.__name__}` that carries its state."}
        _CARRIED[cls] = _register(type(cls.__name__, (Carry, cls), documentation))
    return _CARRIED[cls]


def plain_class(cls: type) -> type:
    """The Keras (or user's) class behind a class that carries; any other class itself."""
    return next(c for c in cls.__mro__[1:] if c is not Carry) if issubclass(cls, Carry) else cls
