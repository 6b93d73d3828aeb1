"""One time step of an artifact: inputs and states in, outputs and new states out.

It takes any number of rows, and holds the weights and no state: `session` keeps the states of rows,
`pool` those of names.
"""

import numpy as np

from keras_stateful.session.manifest import Manifest
from keras_stateful.session.runtimes import Runtime


class Stepper:
    """Runs an artifact for one time step.

    Args:
        manifest: what was exported.
        runtime: the opened artifact.

    Attributes:
        manifest: as given.
        runtime: as given.
    """

    def __init__(self, manifest: Manifest, runtime: Runtime):
        self.manifest, self.runtime = manifest, runtime
        self._inputs = [t.tensor for t in manifest.inputs] + [s.input for s in manifest.states]
        self._outputs = [t.tensor for t in manifest.outputs] + [s.output for s in manifest.states]

    def for_session(self) -> "Stepper":
        """A stepper of the same weights that one more session or pool may use at the same time."""
        return Stepper(self.manifest, self.runtime.for_session())

    def initial(self, rows: int) -> list[np.ndarray]:
        """The initial states `(rows, ...)`, in the manifest's order."""
        return [np.repeat(s.initial[None], rows, axis=0) for s in self.manifest.states]

    def step(
        self, feeds: list[np.ndarray], states: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Advances all rows.

        Args:
            feeds: `(rows, ...)` for each input, from `inputs.read_step`.
            states: `(rows, ...)` each, in the manifest's order.

        Returns:
            The outputs and the new states, `(rows, ...)` each, in the manifest's order.
        """
        arrays = dict(zip(self._inputs, [*feeds, *states], strict=True))
        rows, block = len(feeds[0]), self.manifest.rows_of_a_run
        if block is None or block == rows:
            results = self.runtime.run(arrays, self._outputs)
        else:
            # The artifact takes exactly `block` rows: one block after the other, the last padded.
            blocks = []
            for start in range(0, rows, block):
                part = {k: padded(v[start : start + block], block) for k, v in arrays.items()}
                blocks.append(self.runtime.run(part, self._outputs))
            results = [np.concatenate(parts)[:rows] for parts in zip(*blocks, strict=True)]
        count = len(self.manifest.outputs)
        return results[:count], results[count:]


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with rows of zeros behind it, `rows` rows in all."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def one_or_all(outputs: list[np.ndarray]) -> np.ndarray | tuple[np.ndarray, ...]:
    """Outputs as users get them: of several a tuple."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
