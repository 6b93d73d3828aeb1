"""`Carry`: what every layer has that goes on where the window before ended.

A layer that carries is the plain layer's class with `Carry` in front. The state lives in variables
that Keras's compiled step reads and writes like a batch-norm mean, so it survives `fit`,
`jit_compile`, `steps_per_execution` and mixed precision. The names of the classes are the plain
ones because weight files are laid out by class name: a file written here loads into the plain
layer, and the other way round.

    x (batch, time, ...) ──┐
    resets ──▶ start = where(reset, initial, state) ──▶ plain layer ──▶ outputs
                            ▲                               │
                          state ◀───────── new state ───────┘

Where windows overlap, the next one begins `carry_after` steps after this one, and the new state is
that behind these steps: the window is computed in two parts, which the gradient flows through as
through one.

`recurrent` has the layers that know their state themselves, `adapters` those that are told.
"""

from typing import Any

import keras
from keras import ops

from keras_stateful.carry.steps import choose, rows_like
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.types import Tensor


class Carry:
    """Mixin in front of a layer: owns the state and hands it from call to call.

    A subclass says what the state is at first (`initial_states`), makes the variables once it is
    built (`make_states`), and starts each call from `starting_states`.

    Args:
        slots: how many calls of this layer a model makes (2 for a layer shared between two inputs);
            each has a state of its own.
        carry_after: how many steps of a window the state that is carried on has seen, where windows
            overlap; None: all.

    Attributes:
        slot_states: the state variables of each slot, `(batch, ...)` each.
        fresh_rows: for each slot `(batch,)`: 1 where the row starts from the state that the model's
            graph gives at the next call; empty where the graph gives none.
        initial_state_given: whether the model's graph gives one.
    """

    initial_state_given = False

    def __init__(self, *args: Any, slots: int = 1, carry_after: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.slots, self.carry_after = slots, carry_after
        self.slot_states: list[list[keras.Variable]] = []
        self.fresh_rows: list[keras.Variable] = []

    # The variables

    def initial_states(self, batch_size: int) -> list[Tensor]:
        """What a reset sets the states to, `(batch_size, ...)` each."""
        raise NotImplementedError

    def make_states(self, input_shape: tuple) -> None:
        """Makes the state variables of all slots; to be called at the end of `build`."""
        batch_size = input_shape[0]
        if batch_size is None:
            raise ValueError(
                f"`{self.name}` carries its state and needs a fixed batch size. Received: input "
                f"shape {tuple(input_shape)}. Give the model's `keras.Input` a `batch_size`."
            )
        self.batch_size = batch_size
        initial = self.initial_states(batch_size)
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
        initial = self.initial_states(batch_size)
        for states in self.slot_states:
            for state, value in zip(states, initial, strict=True):
                _write_rows(state, ops.copy(ops.cast(value, state.dtype)), rows)
        for fresh in self.fresh_rows:
            _write_rows(fresh, ops.ones((batch_size,), "float32"), rows)

    # A call

    def with_its_rows(self, inputs: Tensor) -> Tensor:
        """An input of the layer, whose rows are checked and known."""
        if inputs.shape[0] not in (None, self.batch_size):
            raise ValueError(
                f"`{self.name}` carries the state of {self.batch_size} rows. Received: a batch of "
                f"{inputs.shape[0]} rows, shape {tuple(inputs.shape)}. Leave out a smaller "
                "last batch (`drop_remainder`), or convert the model to that batch size with "
                "`to_inference(model, batch_size)`."
            )
        return keras_internals.ensure_batch(inputs, self.batch_size)

    def starting_states(
        self, slot: int, initial: list[Tensor], resets: Tensor | None
    ) -> list[Tensor]:
        """The states that a window starts from: the carried ones, or initial ones where reset.

        Args:
            slot: which of the layer's states.
            initial: what a reset sets, `(batch, ...)` each.
            resets: bool `(batch,)`, the rows to reset; None for none.
        """
        states = self.slot_states[slot]
        if self.fresh_rows:
            fresh = ops.cast(self.fresh_rows[slot], "bool")
            resets = fresh if resets is None else ops.logical_or(resets, fresh)
        if resets is None:
            return [ops.copy(s) for s in states]  # torch's autograd must not hold what is written
        return choose(resets, initial, [ops.convert_to_tensor(s) for s in states])

    def parts_of_window(self, steps: int | None) -> list[slice]:
        """The steps that the state has seen that is carried on, and those behind them, if any.

        Args:
            steps: of the window; None where only the run knows.
        """
        after = self.carry_after
        if after is None or steps == after:
            return [slice(None)]
        if steps is not None and steps < after:
            raise ValueError(
                f"`{self.name}` carries the state behind the first {after} steps of a window on to "
                f"the next. Received: a window of {steps} time steps. The model is for windows "
                f"that begin {after} steps after each other, `StatefulSequence(..., "
                f"stride={after})`; for others take `to_inference(model, batch_size)`."
            )
        return [slice(None, after), slice(after, None)]

    def store_states(self, slot: int, new_states: list[Tensor]) -> None:
        """Keeps the states that the next window starts from."""
        for state, value in zip(self.slot_states[slot], new_states, strict=True):
            state.assign(ops.cast(value, state.dtype))
        if self.fresh_rows:
            self.fresh_rows[slot].assign(ops.zeros((self.batch_size,), "float32"))

    # Files

    def save_own_variables(self, store: dict[str, Tensor]) -> None:
        """Writes the plain layer's own weights: files hold no state."""
        entries: dict[str, Tensor] = {}
        super().save_own_variables(entries)
        states = {id(v) for v in self.state_variables()}
        for name, value in entries.items():
            if id(value) not in states:
                store[name] = value

    def load_own_variables(self, store: dict[str, Tensor]) -> None:
        """Reads what the plain layer wrote: files hold no state."""
        entries = {name: store[name] for name in store.keys()}  # noqa: SIM118, a group of a file
        if not entries:
            return
        # Keras counts a layer's variables, of which the states come last: they stay as they are.
        for number, state in enumerate(self.state_variables(), len(entries)):
            entries[str(number)] = devices.to_numpy(state)
        super().load_own_variables(entries)

    def get_config(self) -> dict[str, Any]:
        more = {"slots": self.slots, "carry_after": self.carry_after}
        return {**super().get_config(), **more}


def plain_class(cls: type) -> type:
    """The Keras (or user's) class behind a class that carries; any other class itself."""
    return cls.__bases__[-1] if issubclass(cls, Carry) else cls


def split_resets(resets: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Resets by window, bool `(batch,)`, and by step, `(batch, time)`: one of them, or neither."""
    if resets is None:
        return None, None
    resets = ops.cast(resets, "bool")
    return (resets, None) if len(resets.shape) == 1 else (None, resets)


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


def _write_rows(variable: keras.Variable, value: Tensor, rows: Tensor | None) -> None:
    """Writes a value `(batch, ...)` into some rows of a state variable, or into all."""
    if rows is not None:
        value = ops.where(rows_like(rows, value), value, devices.read(variable))
    devices.write(variable, value)
