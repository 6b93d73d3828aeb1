"""The seam of generation: what it asks of whatever runs a model, and what passes there.

    options, prompt ─▶ Request ─▶ Engine.emissions ─▶ Emissions         a compiled loop; or None,
                                  Engine.conversation ─▶ Conversation   then a loop in Python

`rollout.Rollout` is the engine of Keras models, `session_engine.SessionEngine` that of a `Session`.
NumPy only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation.types import Tensor

ANY_ID = 2**31  # ids that an int32 holds: the bound where no layer of the model sets one
Shape: TypeAlias = tuple[int | None, ...]
# States `{layer: [array (rows, ...), ...]}`, as `get_states` gives them.
ByLayer: TypeAlias = dict[str, list]
# From the output of one step `(rows, ...)` to the next input `(rows, ...)`.
NextInput: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InputFacts:
    """One input of a model.

    Attributes:
        name: of the input, the key in a dict of prompts.
        shape: of one time step, `()` for ids; without `time` of all that it reads.
        dtype: of the model's input.
        vocabulary: how many ids the model can read, or None.
        time: True if it reads something at each time step.
    """

    name: str
    shape: Shape
    dtype: str
    vocabulary: int | None
    time: bool

    @property
    def of_ids(self) -> bool:
        """True if it reads whole numbers."""
        return "int" in self.dtype


class Beside(NamedTuple):
    """What a model reads beside what it writes.

    Attributes:
        values: for each input of the model, in its order: `(rows, positions, ...)`, or without a
            time axis `(rows, ...)`; None for the input that reads the prompt and what was written.
        timed: for each input, whether it has a time axis.
    """

    values: tuple[Tensor | None, ...]
    timed: tuple[bool, ...]

    @property
    def fed(self) -> int:
        """Which input reads the prompt and what was written."""
        return next(i for i, values in enumerate(self.values) if values is None)

    def inputs(self, fed: Tensor, part: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """All inputs of the model at some positions.

        Args:
            fed: what the fed input reads there.
            part: takes these positions from `(rows, positions, ...)`.
        """
        pairs = zip(self.values, self.timed, strict=True)
        return [fed if v is None else part(v) if timed else v for v, timed in pairs]

    def at(self, fed: Tensor, position: int) -> list[Tensor]:
        """All inputs at one position, `(rows, ...)`."""
        return self.inputs(fed, lambda values: values[:, position])

    def between(self, fed: Tensor, start: int, stop: int) -> list[Tensor]:
        """All inputs from one position up to another, `(rows, time, ...)`."""
        return self.inputs(fed, lambda values: values[:, start:stop])


@dataclass(frozen=True, eq=False)
class Request:
    """A call of `generate`, checked: what a loop over positions needs to know.

    Attributes:
        prompts: `(rows, longest prompt, ...)`, zeros behind the shorter ones.
        beside: what else the model reads.
        states: what the rows go on from; None for the initial states.
        lengths: time steps of each row's prompt.
        length: how many ids or outputs to generate.
        single: True if the prompt was one row, rather than a list of such.
        uniforms: float32 `(rows, positions)` in (0, 1], what ids are drawn with; None: nothing is
            drawn.
        temperature: None takes the most likely id.
        top_k: None keeps all ids.
        top_p: None keeps all ids.
        stop: int32 `(ids,)`, or None.
        from_logits: True if outputs are logits, False if they are probabilities.
        next_input: for signals; None for ids.
        compile_next_input: True if `next_input` may be compiled into the loop.
    """

    prompts: np.ndarray
    beside: Beside
    states: ByLayer | None
    lengths: tuple[int, ...]
    length: int
    single: bool
    uniforms: np.ndarray | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    stop: np.ndarray | None
    from_logits: bool
    next_input: NextInput | None
    compile_next_input: bool

    @property
    def positions(self) -> int:
        """Positions that the row with the longest prompt reads; its last output is not read."""
        return max(self.lengths) - 1 + self.length


class Emissions(NamedTuple):
    """What a loop emits: ids or outputs of all rows, position after position.

    Attributes:
        first: the position that the first block starts from, `min(lengths) - 1` or earlier.
        blocks: `(rows, positions, ...)`, one after the other.
    """

    first: int
    blocks: Iterator[np.ndarray]


class Conversation(Protocol):
    """Rows that Python advances; a context manager, closed at its end."""

    def __enter__(self) -> "Conversation": ...

    def __exit__(self, *error: object) -> None: ...

    def read(self, x: Sequence[np.ndarray]) -> object:
        """Reads for each input `(rows, time, ...)`, or `(rows, ...)` without a time axis."""
        ...

    def step(self, x: Sequence[Tensor]) -> Tensor:
        """Reads for each input one time step `(rows, ...)`; gives the output `(rows, ...)`."""
        ...


class Engine(Protocol):
    """Whatever runs a model of one output.

    Attributes:
        inputs: of the model, in its order.
        output_shape: shape of one time step of the output, unknown axes None.
        from_logits: True if the last activation gives logits, False if probabilities, None if it
            cannot be told.
        last_layer: what the outputs come from, in words.
        steps_ahead: how many time steps ahead of its input the model was trained to give; empty
            where nobody knows.
        offsets: how many time steps later each input was read in training, by its name: 0 at the
            step itself, 1 and more what is known ahead. Without those of which nobody knows.
        series: name of the input whose next value the output is; None where nobody knows.
        known: what the model remembers of the columns that its inputs were trained on.
    """

    inputs: tuple[InputFacts, ...]
    output_shape: Shape
    from_logits: bool | None
    last_layer: str
    steps_ahead: tuple[int, ...]
    offsets: dict[str, tuple[int, ...]]
    series: str | None
    known: TrainedOn

    def to_numpy(self, array: Tensor) -> np.ndarray:
        """An array of the user's, or a tensor that the engine gave, in NumPy."""
        ...

    def check_states(self, states: ByLayer, rows: int) -> None:
        """Refuses states of other layers, weights or rows."""
        ...

    def conversation(self, rows: int, states: ByLayer | None) -> Conversation:
        """Starts this many rows, from states that were checked or all at the initial state."""
        ...

    def emissions(self, request: Request, steps: int | None) -> Emissions | None:
        """Runs a request in compiled calls.

        Args:
            request: a checked call.
            steps: how many positions one compiled call advances; None for all of them.

        Returns:
            What the loop emits, or None where the loop is not compiled as a whole.

        Raises:
            ValueError: a `next_input` that is to be compiled and cannot be.
        """
        ...


def several_outputs(names: Sequence[str]) -> ValueError:
    """The error for a model of several outputs, or of none."""
    return ValueError(
        "`generate` feeds one output back into one input. Received: a `model` with the outputs "
        f"{list(names)}. Build a `keras.Model` with the one that is to be generated; where the "
        "next input is made of several, with "
        "`keras.layers.Concatenate()(model.outputs)`, which `next_input` takes apart."
    )
