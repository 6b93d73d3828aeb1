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

import inspect
from typing import Any

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.foundation import devices, keras_internals

_ANY_LENGTH = (
    2**31 - 1
)  # where TensorFlow knows the time steps at run time only: Keras's loop ends with them

_register = keras.saving.register_keras_serializable(package="keras_stateful")


def _rows(flags: Any, like: Any) -> Any:
    """`(batch,)` flags shaped to be broadcast against a state `(batch, ...)`."""
    return ops.reshape(flags, (-1,) + (1,) * (len(like.shape) - 1))


class Carry:
    """Mixin in front of a Keras recurrent layer: owns the state and hands it from call to call.

    Args:
        slots: how many calls of this layer a model makes (2 for a layer shared between two inputs);
            each has a state of its own.
        initial_state_given: whether the model's graph passes `initial_state`; a reset then sets
            that. (What it is, is known only inside the step, so a reset from outside marks the rows
            as fresh.)
    """

    def __init__(self, *args, slots: int = 1, initial_state_given: bool = False, **kwargs):
        super().__init__(*args, **{**kwargs, "stateful": False})
        self.slots = slots
        self.initial_state_given = initial_state_given
        self._slot_states: list[list[keras.Variable]] = []
        self._fresh: list[keras.Variable] = []
        self._step_resets: tuple[Any, list] | None = None

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)
        batch_size = sequences_shape[0]
        if batch_size is None:
            raise ValueError(
                f"`{self.name}` carries its state and needs a fixed batch size. Received: input "
                f"shape {tuple(sequences_shape)}. Give the model's `keras.Input` a `batch_size`."
            )
        self.batch_size = batch_size
        initial = keras.tree.flatten(self.get_initial_state(batch_size))
        slots, fresh = [], []
        for _ in range(self.slots):
            states = [
                self.add_weight(
                    shape=tuple(value.shape),
                    initializer="zeros",
                    dtype=self.variable_dtype,
                    trainable=False,
                    autocast=False,
                    name="rnn_state",
                )
                for value in initial
            ]
            for state, value in zip(states, initial, strict=True):
                state.assign(
                    ops.copy(ops.cast(value, state.dtype))
                )  # slots must not share a JAX buffer
                devices.lay_out_by_rows(state)
            slots.append(states)
            if self.initial_state_given:
                fresh.append(
                    self.add_weight(
                        shape=(batch_size,),
                        initializer="ones",
                        dtype="float32",
                        trainable=False,
                        autocast=False,
                        name="rnn_fresh",
                    )
                )
        for variable in fresh:
            devices.lay_out_by_rows(variable)
        self._slot_states, self._fresh = slots, fresh

    def call(
        self,
        sequences,
        initial_state=None,
        mask=None,
        training=False,
        resets=None,
        slot=0,
        sequences_mask=None,
    ):
        if sequences.shape[0] not in (None, self.batch_size):
            raise ValueError(
                f"`{self.name}` carries the state of {self.batch_size} rows. Received: a batch of "
                f"{sequences.shape[0]} rows, shape {tuple(sequences.shape)}. Leave out a smaller "
                "last batch (`drop_remainder`), or convert the model to that batch size with "
                "`to_inference(model, batch_size)`."
            )
        sequences = keras_internals.ensure_batch(sequences, self.batch_size)
        # Where there are several tensors, Keras fills the name `sequences_mask`.
        mask = sequences_mask if mask is None else mask
        states = self._slot_states[slot]
        initial = (
            self.get_initial_state(self.batch_size) if initial_state is None else initial_state
        )
        initial = initial if isinstance(initial, (list, tuple)) else [initial]
        flat_initial = [
            ops.cast(i, s.dtype) for i, s in zip(keras.tree.flatten(initial), states, strict=True)
        ]

        starts = None
        if resets is not None and len(resets.shape) == 1:
            starts = ops.cast(resets, "bool")
        if self.initial_state_given:
            fresh = ops.cast(self._fresh[slot], "bool")
            starts = fresh if starts is None else ops.logical_or(starts, fresh)
        if starts is None:
            start = [
                ops.copy(s) for s in states
            ]  # torch's autograd must not hold what is written below
        else:
            start = [
                ops.where(_rows(starts, s), i, ops.convert_to_tensor(s))
                for i, s in zip(flat_initial, states, strict=True)
            ]

        per_step = resets is not None and len(resets.shape) == 2
        self._step_resets = (ops.cast(resets, "bool"), flat_initial) if per_step else None
        wanted, self.return_state = self.return_state, True
        try:
            output, *new_states = super().call(
                sequences,
                initial_state=keras.tree.pack_sequence_as(initial, start),
                mask=mask,
                training=training,
            )
        finally:
            self.return_state, self._step_resets = wanted, None

        for state, value in zip(states, keras.tree.flatten(new_states), strict=True):
            state.assign(ops.cast(value, state.dtype))
        if self.initial_state_given:
            self._fresh[slot].assign(ops.zeros((self.batch_size,), "float32"))
        return (output, *new_states) if wanted else output

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if plain_class(type(self)) in loops.PLAIN_CELLS:
            found = loops.run(self, sequences, initial_state, mask, training, self._step_resets)
            if found is not None:
                return found
        if self._step_resets is not None:
            return self._loop_with_resets(sequences, initial_state, mask, training)
        own = super().inner_loop
        last, outputs, states = loops.keras_loop(
            self, own, sequences, initial_state, mask, training
        )
        if mask is not None and puts_out_its_first_state(self):
            mask = mask[0] if isinstance(mask, (list, tuple)) else mask
            before = first_of_last(initial_state)
            last = _opened(last, before, mask, along_time=False)
            outputs = (
                _opened(outputs, before, mask, along_time=True)
                if self.return_sequences
                else outputs
            )
        return last, outputs, states

    def _loop_with_resets(self, sequences, initial_state, mask, training):
        """The ordinary scan, with rows set to the initial state before the steps that `resets`
        marks.

        No fused kernel can do this. Masked steps are handled here and not by Keras's loop, which
        would throw away the reset of a masked step.
        """
        resets, flat_initial = self._step_resets
        flat_initial = [ops.cast(i, self.cell.compute_dtype) for i in flat_initial]
        cell_kwargs = {}
        if "training" in inspect.signature(self.cell.call).parameters:
            cell_kwargs["training"] = training
        if isinstance(mask, (list, tuple)):
            mask = mask[0]

        def choose(rows, yes, no):
            return [ops.where(_rows(rows, b), a, b) for a, b in zip(yes, no, strict=True)]

        def step(inputs, states):
            x, reset, *real = inputs
            flat = choose(reset, flat_initial, keras.tree.flatten(states))
            states = keras.tree.pack_sequence_as(initial_state, flat)
            output, new_states = self.cell(x, states, **cell_kwargs)
            new_flat = keras.tree.flatten(new_states)
            if real:
                new_flat = choose(real[0], new_flat, flat)
                before = (
                    ops.zeros_like(output) if self.zero_output_for_mask else first_of_last(states)
                )
                (output,) = choose(real[0], [output], [ops.cast(before, output.dtype)])
            return output, keras.tree.pack_sequence_as(initial_state, new_flat)

        flags = [resets] if mask is None else [resets, ops.cast(mask, "bool")]
        inputs = (sequences, *(ops.expand_dims(f, -1) for f in flags))  # the loop wants rank 3
        return keras_internals.rnn_loop(
            step,
            inputs,
            initial_state,
            unroll=self.unroll,
            input_length=sequences.shape[1] or _ANY_LENGTH,
            return_all_outputs=self.return_sequences,
        )

    @property
    def weights(self) -> list:
        """The plain layer's weights: states are variables, not weights, so `set_weights`,
        `count_params`, `EarlyStopping` and every weight file are those of the plain layer at any
        batch size."""
        own = {id(v) for v in self.state_variables()}
        return [w for w in super().weights if id(w) not in own]

    def state_variables(self) -> list:
        """All state variables, slot by slot, with the fresh flags last."""
        return [v for states in self._slot_states for v in states] + list(self._fresh)

    def reset_state(self, rows=None) -> None:
        """Sets the state (of the given rows, a bool mask `(batch,)`) to the initial one, on all
        replicas.
        """
        if not self._slot_states:
            return
        batch_size = devices.rows(self._slot_states[0][0])
        initial = keras.tree.flatten(self.get_initial_state(batch_size))
        for states in self._slot_states:
            for state, value in zip(states, initial, strict=True):
                value = ops.copy(ops.cast(value, state.dtype))
                new = (
                    value
                    if rows is None
                    else ops.where(_rows(rows, value), value, devices.read(state))
                )
                devices.write(state, new)
        for fresh in self._fresh:
            ones = ops.ones((batch_size,), "float32")
            devices.write(
                fresh, ones if rows is None else ops.where(rows, ones, devices.read(fresh))
            )

    def save_own_variables(self, store) -> None:
        """Writes nothing: files hold no state."""

    def load_own_variables(self, store) -> None:
        """Reads nothing: files hold no state."""

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "slots": self.slots,
            "initial_state_given": self.initial_state_given,
        }


def puts_out_its_first_state(layer: Any) -> bool:
    """Whether the first state of a layer's (last) cell is the output of the step before, which
    masked steps repeat.
    """
    if layer.zero_output_for_mask:
        return False
    if isinstance(layer, _CONV_LSTM):
        return True
    cell = getattr(layer.cell, "cells", [layer.cell])[-1]
    return any(
        isinstance(cell, known) and type(cell).call is known.call
        for known in loops.PLAIN_CELLS.values()
    )


def _opened(output: Any, before: Any, mask: Any, *, along_time: bool) -> Any:
    """Has the masked steps that open a window repeat the output of the step before it.

    Keras's loop has them put out zeros, except for its scan on JAX: what reads those outputs
    without the mask (a residual connection drops it) would depend on where the stream was cut.

    Args:
        output: `(batch, time, ...)` or, without `along_time`, that of the last step.
        before: `(batch, ...)`.
        mask: bool `(batch, time)`.
    """
    seen = ops.cast(mask, "int32")
    seen = ops.cumsum(seen, axis=1) if along_time else ops.sum(seen, axis=1)
    before = ops.cast(ops.expand_dims(before, 1) if along_time else before, output.dtype)
    opens = ops.equal(seen, 0)
    while len(opens.shape) < len(output.shape):
        opens = ops.expand_dims(opens, -1)
    return ops.where(opens, before, output)


@_register
class OpenedWindow(keras.layers.Layer):
    """What `Carry` does to the outputs of masked steps that open a window, where the state is an
    input of the graph.
    """

    def call(self, inputs):
        output, before, mask = inputs
        return _opened(output, before, mask, along_time=len(output.shape) > len(before.shape))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def compute_mask(self, inputs, previous_mask):
        return previous_mask[0]


_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)


def first_of_last(states):
    """What Keras repeats where a masked step has no output of its own: the (last cell's) first
    state.
    """
    last = states[-1] if isinstance(states[0], (list, tuple)) else states[0]
    return last[0] if isinstance(last, (list, tuple)) else last


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


_CARRIED: dict[type, type] = {
    cls.__mro__[2]: cls for cls in (RNN, SimpleRNN, GRU, LSTM, ConvLSTM1D, ConvLSTM2D, ConvLSTM3D)
}

KERAS_CALLS = {cls.call for cls in _CARRIED}


def carried_class(cls: type) -> type:
    """The class that carries, for a Keras recurrent layer class or a user's subclass of one.

    A subclass of the user's own is paired with `Carry` on the spot; to load a `.keras` file that
    holds one, call this first with the class.
    """
    if issubclass(cls, Carry):
        return cls
    if cls not in _CARRIED:
        _CARRIED[cls] = keras.saving.register_keras_serializable(package="keras_stateful")(
            type(
                cls.__name__, (Carry, cls), {"__doc__": f"`{cls.__name__}` that carries its state."}
            )
        )
    return _CARRIED[cls]


def plain_class(cls: type) -> type:
    """The Keras (or user's) class behind a class that carries."""
    return next(c for c in cls.__mro__[1:] if c is not Carry) if issubclass(cls, Carry) else cls
