"""Keras's recurrent layers, carrying their state from call to call on every backend.

Each class here is the Keras layer of the same name with `CarryRNN` in front. The layer itself
remains a stateless call with an explicit `initial_state`, so the fused kernels stay in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.carry.layers import Carry, plain_class, split_resets
from keras_stateful.carry.steps import (
    StepResets,
    first_of_last,
    puts_out_its_first_state,
    repeat_before,
)
from keras_stateful.foundation.types import Structure, Tensor

_register = keras.saving.register_keras_serializable(package="keras_stateful")


class CarryRNN(Carry):
    """Mixin in front of a Keras recurrent layer, which knows its states itself.

    Args:
        initial_state_given: whether the model's graph passes `initial_state`; a reset then sets
            that. (What it is, is known only inside the step, so a reset from outside marks the rows
            as fresh.)
    """

    def __init__(self, *args: Any, initial_state_given: bool = False, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "stateful": False})
        self.initial_state_given = initial_state_given
        self._step_resets: StepResets | None = None  # see `_inner_loop_told`

    def build(self, sequences_shape: tuple, initial_state_shape: Structure | None = None) -> None:
        super().build(sequences_shape)
        self.make_states(sequences_shape)

    def initial_states(self, batch_size: int) -> list[Tensor]:
        return keras.tree.flatten(self.get_initial_state(batch_size))

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
        sequences = self.with_its_rows(sequences)
        mask = sequences_mask if mask is None else mask
        by_window, by_step = split_resets(resets)

        # The states as a flat list, to be read and written; as the cell nests them, for Keras.
        if initial_state is None:
            initial_state = self.get_initial_state(self.batch_size)
        if not isinstance(initial_state, (list, tuple)):
            initial_state = [initial_state]
        initial = [
            ops.cast(value, state.dtype)
            for value, state in zip(
                keras.tree.flatten(initial_state), self.slot_states[slot], strict=True
            )
        ]
        start = self.starting_states(slot, initial, by_window)
        returns_state = self.return_state
        with self._inner_loop_told(None if by_step is None else StepResets(by_step, initial)):
            output, *new_states = super().call(
                sequences,
                initial_state=keras.tree.pack_sequence_as(initial_state, start),
                mask=mask,
                training=training,
            )
        self.store_states(slot, keras.tree.flatten(new_states))
        return (output, *new_states) if returns_state else output

    @contextmanager
    def _inner_loop_told(self, step_resets: StepResets | None) -> Iterator[None]:
        """Tells Keras's `RNN.call` what it has no argument for, by attributes of the layer.

        `CarryRNN.call` wants Keras's own `call` around the loop over time steps (it makes the
        initial state, the dropout masks and the output), and that passes on to `inner_loop` the
        sequences, the state, the mask and `training` alone. So for as long as this lasts

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

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_state_given": self.initial_state_given}


@_register
class RNN(CarryRNN, keras.layers.RNN):
    """`keras.layers.RNN` that carries its state."""


@_register
class SimpleRNN(CarryRNN, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` that carries its state."""


@_register
class GRU(CarryRNN, keras.layers.GRU):
    """`keras.layers.GRU` that carries its state."""


@_register
class LSTM(CarryRNN, keras.layers.LSTM):
    """`keras.layers.LSTM` that carries its state."""


@_register
class ConvLSTM1D(CarryRNN, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` that carries its state."""


@_register
class ConvLSTM2D(CarryRNN, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` that carries its state."""


@_register
class ConvLSTM3D(CarryRNN, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` that carries its state."""


# The class that carries, by Keras's own
KERAS_CLASSES: dict[type, type] = {
    cls.__bases__[1]: cls for cls in (RNN, SimpleRNN, GRU, LSTM, ConvLSTM1D, ConvLSTM2D, ConvLSTM3D)
}

# What is known of masked steps holds for these; a user's subclass may have a `call` of its own.
KERAS_CALLS = {cls.call for cls in KERAS_CLASSES}
