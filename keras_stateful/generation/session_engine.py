"""Generates with a `Session`: loop and draws in NumPy, where Keras is not installed."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.generation.engine import Conversation, Emissions, Request


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
        if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
            raise ValueError(
                "`generate` feeds one output back into one input. Received: a session of a model "
                f"with {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs. Export a "
                "`keras.Model` with the one input and the one output that are to be generated."
            )
        (entry,), (output,) = manifest.inputs, manifest.outputs
        self._session = session
        self.feature_shape = tuple(entry.step_shape)
        self.dtype: str = entry.dtype
        self.output_shape = tuple(output.step_shape)
        self.input_vocabulary: int | None = entry.vocabulary
        self.from_logits: bool | None = output.from_logits
        self.steps_ahead: tuple[int, ...] = ()
        self.last_layer = f"the exported output {output.name!r}"

    def to_numpy(self, array: Tensor) -> np.ndarray:
        return np.asarray(array)

    def conversation(self, rows: int) -> Conversation:
        """A fork with this many rows at the initial state; it is a context manager."""
        fork = self._session.fork([0] * rows)  # copies of any row will do: `reset` starts them anew
        fork.reset()
        return fork

    def emissions(self, request: Request, steps: int | None) -> Emissions | None:
        """None: a runtime runs one step at a time."""
        return None
