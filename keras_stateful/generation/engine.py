"""The seam of generation: what it asks of whatever runs a model, and what passes there.

    options, prompt ─▶ Request ─▶ Engine.emissions ─▶ Emissions         a compiled loop; or None,
                                  Engine.conversation ─▶ Conversation   then a loop in Python

`rollout.Rollout` is the engine of Keras models, `session_engine.SessionEngine` that of a `Session`.
NumPy only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from keras_stateful.foundation.types import Tensor

ANY_ID = 2**31  # ids that an int32 holds: the bound where no layer of the model sets one
Shape: TypeAlias = tuple[int | None, ...]
# From the output of one step `(rows, ...)` to the next input `(rows, ...)`.
NextInput: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Request:
    """A call of `generate`, checked: what a loop over positions needs to know.

    Attributes:
        prompts: `(rows, longest prompt, ...)`, zeros behind the shorter ones.
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
    """Rows that Python advances from their initial states; a context manager, closed at its end."""

    def __enter__(self) -> "Conversation": ...

    def __exit__(self, *error: object) -> None: ...

    def read(self, x: np.ndarray) -> object:
        """Reads `(rows, time, ...)`."""
        ...

    def step(self, x: Tensor) -> Tensor:
        """Reads one time step `(rows, ...)`; gives the output `(rows, ...)`."""
        ...


class Engine(Protocol):
    """Whatever runs a model of one input and one output.

    Attributes:
        feature_shape: shape of one time step of the input, `()` for ids.
        dtype: dtype of the input.
        output_shape: shape of one time step of the output, unknown axes None.
        input_vocabulary: how many ids the model can read, or None.
        from_logits: True if the last activation gives logits, False if probabilities, None if it
            cannot be told.
        last_layer: what the outputs come from, in words.
        steps_ahead: how many time steps ahead of its input the model was trained to give, where a
            `fit` in this process tells; empty where nobody knows.
    """

    feature_shape: Shape
    dtype: str
    output_shape: Shape
    input_vocabulary: int | None
    from_logits: bool | None
    last_layer: str
    steps_ahead: tuple[int, ...]

    def to_numpy(self, array: Tensor) -> np.ndarray:
        """An array of the user's, or a tensor that the engine gave, in NumPy."""
        ...

    def conversation(self, rows: int) -> Conversation:
        """Starts this many rows, all at the initial state."""
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
