"""Generates with a `Session`: loop and draws in NumPy, where Keras is not installed."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.generation.engine import (
    ByLayer,
    Conversation,
    Emissions,
    InputFacts,
    Request,
    several_outputs,
)
from keras_stateful.generation.prompt_columns import known_of_artifact


@runtime_checkable
class SessionLike(Protocol):
    """What generation uses of a `Session`, whose room it does not import."""

    manifest: Any
    batch_size: int

    def step(self, x: Structure) -> Structure: ...

    def read(self, x: Structure) -> Structure: ...

    def reset(self) -> None: ...

    def fork(self, rows: Any = None) -> Any: ...


class SessionEngine:
    """The `Engine` of a session; it works on forks, so that the session stays where it is."""

    def __init__(self, session: SessionLike):
        manifest = session.manifest
        if len(manifest.outputs) != 1:
            raise several_outputs([output.name for output in manifest.outputs])
        (output,) = manifest.outputs
        self._session = session
        self.inputs = tuple(
            InputFacts(i.name, tuple(i.step_shape), i.dtype, i.vocabulary, i.time)
            for i in manifest.inputs
        )
        self.output_shape = tuple(output.step_shape)
        self.from_logits: bool | None = output.from_logits
        self.steps_ahead: tuple[int, ...] = output.offsets or ()
        self.offsets = {i.name: i.offsets for i in manifest.inputs if i.offsets is not None}
        self.series = next((i.name for i in manifest.inputs if i.series), None)
        self.known = known_of_artifact(manifest)
        self.last_layer = f"the exported output {output.name!r}"

    def to_numpy(self, array: Tensor) -> np.ndarray:
        return np.asarray(array)

    def check_states(self, states: ByLayer, rows: int) -> None:
        with self._session.fork([0] * rows) as fork:
            fork.set_states(states)

    def conversation(self, rows: int, states: ByLayer | None) -> Conversation:
        """A fork with this many rows; it is a context manager."""
        fork = self._session.fork([0] * rows)  # copies of any row will do: all are overwritten
        if states is None:
            fork.reset()
        else:
            fork.set_states(states)
        return _Fork(fork)

    def emissions(self, request: Request, steps: int | None) -> Emissions | None:
        """None: a runtime runs one step at a time."""
        return None


class _Fork:
    """Rows of a session, fed with a list of inputs."""

    def __init__(self, session: Any):
        self._session = session

    def __enter__(self) -> "_Fork":
        self._session.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._session.__exit__(*error)

    def read(self, x: Sequence[np.ndarray]) -> object:
        return self._session.read(x[0] if len(x) == 1 else tuple(x))

    def step(self, x: Sequence[Tensor]) -> Tensor:
        return self._session.step(x[0] if len(x) == 1 else tuple(x))
