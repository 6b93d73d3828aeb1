"""Keras's recurrent layers, carrying their state from call to call on every backend.

Each class here is the Keras layer of the same name with `CarryRNN` in front. The layer itself
remains a stateless call with an explicit `initial_state`, so the fused kernels stay in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.carry.layers import Carry, plain_class, split_resets
from keras_stateful.carry.steps import (
    StepResets,
    first_of_last,
    output_size,
    puts_out_its_first_state,
    repeat_before,
)
from keras_stateful.foundation.locks import Lock
from keras_stateful.foundation.types import Structure, Tensor

_register = keras.saving.register_keras_serializable(package="keras_stateful")


class CarryRNN(Carry):
    """Mixin in front of a Keras recurrent layer, which knows its states itself.

    With `slots=0` it has no variables: the states are an argument, and come back behind what the
    plain layer returns, which is what a step model is made of.

    Args:
        initial_state_given: whether the model's graph passes `initial_state`; a reset then sets
            that. (What it is, is known only inside the step, so a reset from outside marks the rows
            as fresh.)
        masked_output: what masked steps put out: "state", the cell's first one, or "held": the
            output of the last step is one more state, the last one. None where no mask was seen.
        most_resets: of a row behind the first step of a window, where documents start inside;
            None: unknown. More are right as well, and slower: see `fused_resets`.
    """

    def __init__(
        self,
        *args: Any,
        initial_state_given: bool = False,
        masked_output: str | None = None,
        most_resets: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **{**kwargs, "stateful": False})
        self.initial_state_given = initial_state_given
        self.masked_output = masked_output
        self.most_resets = most_resets
        self._step_resets: StepResets | None = None  # see `_inner_loop_told`
        self._told = Lock()

    @property
    def holds_output(self) -> bool:
        """True if the output of the last step is one more state."""
        return self.masked_output == "held"

    def build(self, sequences_shape: tuple, initial_state_shape: Structure | None = None) -> None:
        super().build(sequences_shape)
        # Kept, since exporters cannot write what some cells compute their initial state with.
        nested = keras.tree.map_structure(lambda state: 0, self.get_initial_state(1))
        self._nested = partial(keras.tree.pack_sequence_as, nested)
        if self.slots:
            self.make_states(sequences_shape)

    def initial_states(self, batch_size: int) -> list[Tensor]:
        return [
            *keras.tree.flatten(self.get_initial_state(batch_size)),
            *self.output_before(batch_size),
        ]

    def output_before(self, batch_size: int) -> list[Tensor]:
        """What masked steps put out at the start of a stream, where that is held as a state."""
        if not self.holds_output:
            return []
        return [ops.zeros((batch_size, output_size(self)), self.compute_dtype)]

    def call(
        self,
        sequences: Tensor,
        initial_state: Structure | None = None,
        mask: Structure | None = None,
        training: bool = False,
        resets: Tensor | None = None,
        slot: int = 0,
        states: list[Tensor] | None = None,
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
            states: with `slots=0`: what the window starts from, `(batch, ...)` each.
            sequences_mask: the mask that is attached to `sequences`; where a call has several
                tensors, Keras fills in this name.
        """
        mask = sequences_mask if mask is None else mask
        returns_state = self.return_state
        if states is not None:
            output, *new_states = self._call_from(states, sequences, mask, training)
            flat = zip(keras.tree.flatten(new_states), states, strict=True)
            after = [ops.cast(new, old.dtype) for new, old in flat]
            return (output, *(self._of_the_cell(new_states) if returns_state else []), *after)

        sequences = self.with_its_rows(sequences)
        by_window, by_step = split_resets(resets)
        if initial_state is None:
            initial_state = self.get_initial_state(self.batch_size)
        values = [*keras.tree.flatten(initial_state), *self.output_before(self.batch_size)]
        initial = [
            ops.cast(value, state.dtype)
            for value, state in zip(values, self.slot_states[slot], strict=True)
        ]
        start = self.starting_states(slot, initial, by_window)
        step_resets = None if by_step is None else StepResets(by_step, initial)
        output, *new_states = self._call_from(start, sequences, mask, training, step_resets)
        if self.carry_after is not None:  # those carried on stand behind those of the window's end
            half = len(new_states) // 2
            new_states, carried = new_states[:half], new_states[half:]
        else:
            carried = new_states
        self.store_states(slot, keras.tree.flatten(carried))
        return (output, *self._of_the_cell(new_states)) if returns_state else output

    def _of_the_cell(self, states: list[Structure]) -> list[Structure]:
        """States as the plain layer returns them."""
        return states[:-1] if self.holds_output else states

    def _call_from(
        self,
        start: list[Tensor],
        sequences: Tensor,
        mask: Structure | None,
        training: bool,
        step_resets: StepResets | None = None,
    ) -> Structure:
        """Keras's own call, from states that are a flat list.

        Args:
            start: the states; behind those of the cell the output before, where it is held.
            sequences: as for `call`.
            mask: as for `call`.
            training: as for `call`.
            step_resets: rows that are reset inside the window, or None.

        Returns:
            The output and the new states, nested.
        """
        count = len(start) - self.holds_output
        nested = [*self._nested(start[:count]), *start[count:]]
        with self._inner_loop_told(step_resets):
            return super().call(sequences, initial_state=nested, mask=mask, training=training)

    @contextmanager
    def _inner_loop_told(self, step_resets: StepResets | None) -> Iterator[None]:
        """Tells Keras's `RNN.call` what it has no argument for, by attributes of the layer.

        `CarryRNN.call` wants Keras's own `call` around the loop over time steps (it makes the
        initial state, the dropout masks and the output), and that passes on to `inner_loop` the
        sequences, the state, the mask and `training` alone. So for as long as this lasts

        - `return_state` is True: the new states come back, whatever the user's graph asks for;
        - `_step_resets` says which rows `inner_loop` is to reset before which steps, or None.

        Threads that call one layer take turns.
        """
        with self._told:
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
            The output of the last step, all outputs (or the last alone), and the new states; behind
            these, with `carry_after`, those that are carried on.
        """
        resets = self._step_resets
        if self.carry_after is None:
            return self._loop(sequences, initial_state, mask, training, resets)
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        states, all_outputs, after_each = initial_state, [], []
        for steps in self.parts_of_window(sequences.shape[1]):
            last, outputs, new_states = self._loop(
                sequences[:, steps],
                states,
                None if mask is None else mask[:, steps],
                training,
                None if resets is None else resets._replace(flags=resets.flags[:, steps]),
            )
            states = keras.tree.pack_sequence_as(initial_state, keras.tree.flatten(new_states))
            all_outputs.append(outputs)
            after_each.append(states)
        if self.return_sequences and len(all_outputs) > 1:
            outputs = ops.concatenate(all_outputs, axis=1)
        return last, outputs, [*after_each[-1], *after_each[0]]

    def _loop(
        self,
        sequences: Tensor,
        initial_state: Structure,
        mask: Structure,
        training: bool,
        resets: StepResets | None,
    ) -> tuple:
        """The loop over the time steps of a window, or of a part of it."""
        if plain_class(type(self)) in loops.PLAIN_CELLS:
            result = loops.run(self, sequences, initial_state, mask, training, resets)
            if result is not None:
                return result
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        by_hand = self.holds_output or not loops.keras_masks(initial_state)
        if resets is not None or (mask is not None and by_hand):
            return loops.run_by_step(self, sequences, initial_state, mask, training, resets)
        states, held = list(initial_state), []
        if self.holds_output:
            held.append(states.pop())
        last, outputs, new_states = loops.keras_loop(
            self, super().inner_loop, sequences, states, mask, training
        )
        if held:
            return last, outputs, [*new_states, last]
        if mask is not None and (self.masked_output == "state" or puts_out_its_first_state(self)):
            before = first_of_last(initial_state)
            last = repeat_before(last, before, mask, along_time=False)
            if self.return_sequences:
                outputs = repeat_before(outputs, before, mask, along_time=True)
        return last, outputs, new_states

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Structure:
        states = kwargs.get("states")
        if states is None:
            return super().compute_output_spec(*args, **kwargs)
        outputs = super().compute_output_spec(*args, **{**kwargs, "states": None})
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return (*outputs, *(keras.KerasTensor(s.shape, s.dtype) for s in states))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "initial_state_given": self.initial_state_given,
            "masked_output": self.masked_output,
            "most_resets": self.most_resets,
        }


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
