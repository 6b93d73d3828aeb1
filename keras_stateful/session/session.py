"""Runs an exported step model with NumPy in and out; no framework is imported.

directory ─▶ manifest checked ─▶ files' SHA-256 checked ─▶ runtime opened ─▶ Session
                                                                               └─ holds the states
"""

import threading
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import a_path, whole_number
from keras_stateful.foundation.rows import row_indices
from keras_stateful.foundation.states import States, check_owner
from keras_stateful.foundation.types import Structure
from keras_stateful.session.artifact import read_artifact
from keras_stateful.session.inputs import read_states, read_step, read_steps
from keras_stateful.session.manifest import Manifest, read_manifest
from keras_stateful.session.pool import Pool
from keras_stateful.session.runtimes import Runtime, check_names, open_runtime
from keras_stateful.session.saved_states import read_saved
from keras_stateful.session.stepper import Stepper, one_or_all


def load_session(directory: str | PathLike, batch_size: int = 1) -> "Session":
    """Opens what `export_step_model` wrote.

    Needs NumPy and the runtime of the artifact's format alone: `onnxruntime`, `openvino`,
    `ai-edge-litert`, `executorch` (with `torch`) or `tensorflow`.

    Args:
        directory: the directory given to `export_step_model`.
        batch_size: how many independent streams the session serves, one a row.

    Returns:
        A `Session` at its initial state.

    Raises:
        ValueError: the directory is not an export, is of a newer version, or a file of it was
            truncated, altered or replaced. Nothing of the artifact has run by then.
        TypeError: not a path; a batch size that is not a whole number.
        ImportError: the format's runtime is not installed; names the command that installs it.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    ks.export_step_model(model, "exported")
    with ks.load_session("exported", batch_size=2) as session:
        y = session.step(np.zeros((2, 3), "float32"))           # (2, 4)
        y = session.read(np.zeros((2, 10, 3), "float32"))       # (2, 10, 4)
    ```
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    directory = a_path("directory", directory)
    manifest = read_manifest(directory)
    # The bytes that were checked are those that are opened: nobody can change them in between.
    artifact = read_artifact(directory, manifest.files, manifest.entry)
    runtime = open_runtime(manifest.artifact_format, artifact)
    check_names(manifest, runtime)
    return Session(manifest, runtime, batch_size)


class Session:
    """A step model at work: weights, and the states of `batch_size` independent streams.

    Sessions made by `fork` share the weights. One session may be used from several threads, its
    calls then run one after the other; for streams in parallel give each thread its own session.
    `load_session` makes them.

    Args:
        manifest: what was exported, with `inputs`, `outputs` and `states`.
        runtime: the opened artifact.
        batch_size: rows.

    Attributes:
        manifest: as given.
        batch_size: as given.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    ks.export_step_model(model, "exported")
    session = ks.load_session("exported", batch_size=2)
    y = session.step(np.ones((1, 3), "float32"), rows=[1])      # row 0 stays where it is
    parked = session.get_states(rows=[1])
    session.reset(rows=[1])
    session.set_states(parked, rows=[1])                        # the conversation goes on
    other = session.fork()                                      # a second one from the same point
    ```
    """

    def __init__(self, manifest: Manifest, runtime: Runtime, batch_size: int):
        self.manifest = manifest
        self.batch_size = batch_size
        self._stepper: Stepper | None = Stepper(manifest, runtime)  # None once it is closed
        self._lock = threading.RLock()  # held over each call, as a step reads and writes the states
        # `(batch, ...)` each, in the manifest's order. The arrays are replaced, never written into:
        # a step that fails leaves the old ones, and none that was handed out changes.
        self._states: list[np.ndarray] = self._stepper.initial(batch_size)

    @property
    def metadata(self) -> Any:
        """What `export_step_model(metadata=...)` was given."""
        return self.manifest.metadata

    def step(self, x: Structure, rows: ArrayLike | None = None) -> Structure:
        """Advances by one time step.

        Args:
            x: `(rows, ...)`, no time axis; for a model of several inputs a tuple or list in the
                model's order, or a dict by input name.
            rows: which rows advance: None for all, a bool mask `(batch,)`, or distinct indices. The
                other rows keep their states. A row's numbers are the same, bit for bit, whichever
                other rows advance.

        Returns:
            The output at that step, `(rows, ...)`; a tuple of them for a model of several outputs.

        Raises:
            ValueError: a wrong shape, an id outside the vocabulary, a row that does not exist, a
                closed session.
            TypeError: a dtype that would lose what it says (floats for ids, text).
        """
        with self._lock:
            index = self._rows(rows)
            feeds = read_step(x, self.manifest.inputs, self._count(index), self.batch_size)
            outputs = zip(self.manifest.outputs, self._advance(feeds, index), strict=True)
            return one_or_all([o[:, 0] if tensor.time else o for tensor, o in outputs])

    def read(self, x: Structure, rows: ArrayLike | None = None) -> Structure:
        """Advances by many time steps: a prompt, or a packet of a signal.

        Args:
            x: `(rows, time, ...)`, as for `step`; an input without a time axis, `(rows, ...)`, is
                the same at all steps.
            rows: as for `step`.

        Returns:
            The outputs `(rows, time, ...)`, those of chained `step` calls bit for bit; an output
            that has no time axis is the last step's, `(rows, ...)`.

        Raises:
            ValueError: as `step`; no time steps; inputs of different lengths.
            TypeError: as `step`.
        """
        with self._lock:
            index = self._rows(rows)
            feeds, length = read_steps(x, self.manifest.inputs, self._count(index), self.batch_size)
            before = self._states
            try:
                collected = self._chain(feeds, length, index)
            except BaseException:  # a call that fails, or is interrupted, leaves no half of it
                self._states = before
                raise
            outputs = zip(self.manifest.outputs, collected, strict=True)
            return one_or_all(
                [np.concatenate(o, axis=1) if tensor.time else o[-1] for tensor, o in outputs]
            )

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Sets rows to the initial state. No other row's states change.

        Args:
            rows: as for `step`; a mask may be False for all rows.

        Raises:
            ValueError: a row that does not exist, an empty list, a closed session.
        """
        with self._lock:
            index = self._rows(rows, least=0)
            fresh = self._open().initial(self._count(index))
            self._states = fresh if index is None else self._merged(fresh, index)

    def get_states(self, rows: ArrayLike | None = None) -> States:
        """The states as `keras_stateful.get_states` gives them, to park a conversation.

        Args:
            rows: as for `step`.

        Returns:
            `{layer path: [array (rows, ...), ...]}`, copies; a dict that remembers which weights
            made them, also where it is pickled or saved by `save_states`.
        """
        with self._lock:
            index = self._rows(rows)
            states = States(fingerprint=self.manifest.owner)
            for state, array in zip(self.manifest.states, self._states, strict=True):
                selected = array.copy() if index is None else array[index]  # an index copies, too
                states.setdefault(state.layer, []).append(selected)
            return states

    def set_states(
        self, states: dict[str, list[np.ndarray]], rows: ArrayLike | None = None
    ) -> None:
        """Brings back what `get_states` gave, also from another session of the same weights.

        Args:
            states: `{layer path: [array (rows, ...), ...]}`, every layer's.
            rows: the rows to write, as for `step`.

        Raises:
            ValueError: other layers, shapes or numbers of rows; states that other weights made, as
                before a retraining; NaN or infinite values.
            TypeError: not a dict of lists of numbers.
        """
        with self._lock:
            index = self._rows(rows)
            check_owner(states, self.manifest.owner, "the session's artifact")
            new = read_states(states, self.manifest.states, self._count(index))
            self._states = new if index is None else self._merged(new, index)

    def fork(self, rows: ArrayLike | None = None) -> "Session":
        """A second session from the same point, weights shared.

        Args:
            rows: which rows the new session has: None for all, a bool mask, or indices, which may
                repeat: `rows=[0, 0, 0]` continues one conversation in three ways.

        Returns:
            A `Session` of `len(rows)` rows, independent from now on.
        """
        with self._lock:
            index = self._rows(rows, repeats=True)  # one row may go on in several ways
            runtime = self._open().runtime.for_session()
            fork = Session(self.manifest, runtime, self._count(index))
            fork._states = [s.copy() if index is None else s[index] for s in self._states]
            return fork

    def pool(self, path: str | PathLike | None = None) -> Pool:
        """Streams by name over the same weights, which may come and go.

        Args:
            path: a file that `Pool.save` wrote, whose streams go on; None for a pool without any.

        Returns:
            A `Pool`, independent of the session's rows from now on.

        Raises:
            ValueError: a file that `Pool.save` did not write, or is damaged; states that other
                weights made; a closed session.
            TypeError: not a path.
            OSError: a file that cannot be read.
        """
        with self._lock:
            pool = Pool(self._open().for_session())
        if path is None:
            return pool
        states, names = read_saved(path)
        if names is None:
            raise ValueError(
                f"{path} has states without names. Received: a file of `save_states`, not of "
                "`Pool.save`. `pool.set_states(load_states(path), names)` says whose they are."
            )
        pool.set_states(states, names)
        return pool

    def close(self) -> None:
        """Gives up the weights and states; forks live on. A session may be closed twice."""
        with self._lock:
            self._stepper, self._states = None, []

    def __enter__(self) -> "Session":
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._stepper is None else f"batch_size={self.batch_size}"
        inputs = ", ".join(f"{t.name} {t.step_shape}" for t in self.manifest.inputs)
        return f"<Session {self.manifest.artifact_format}, {state}, inputs: {inputs}>"

    def _open(self) -> Stepper:
        if self._stepper is None:
            raise ValueError("The session is closed. Open another with `load_session(directory)`.")
        return self._stepper

    def _merged(self, new: list[np.ndarray], index: np.ndarray) -> list[np.ndarray]:
        """The states with some rows replaced; arrays that were handed out stay as they are."""
        merged = [s.copy() for s in self._states]
        for whole, part in zip(merged, new, strict=True):
            whole[index] = part
        return merged

    def _chain(
        self, feeds: list[np.ndarray], length: int, index: np.ndarray | None
    ) -> list[list[np.ndarray]]:
        """Advances step by step; of outputs without a time axis, keeps the last step's."""
        collected: list[list[np.ndarray]] = [[] for _ in self.manifest.outputs]
        for t in range(length):
            inputs = zip(self.manifest.inputs, feeds, strict=True)
            step = [feed[:, t : t + 1] if tensor.time else feed for tensor, feed in inputs]
            results = zip(self.manifest.outputs, self._advance(step, index), strict=True)
            for kept, (tensor, array) in zip(collected, results, strict=True):
                if not tensor.time:
                    kept.clear()
                kept.append(array)
        return collected

    def _advance(self, feeds: list[np.ndarray], index: np.ndarray | None) -> list[np.ndarray]:
        """Runs one step and keeps the new states; gives the outputs of the rows asked for.

        Always runs all rows, since a matrix product of another number of rows rounds differently:
        a row's numbers must not depend on who else advances.
        """
        if index is not None:  # the other rows read zeros
            feeds = [_spread(f, index, self.batch_size) for f in feeds]
        outputs, states = self._open().step(feeds, self._states)
        if index is None:
            self._states = states
            return outputs
        # The other rows keep their states; the new ones, of zeros that nobody sent, are dropped.
        self._states = self._merged([s[index] for s in states], index)
        return [o[index] for o in outputs]

    def _rows(
        self, rows: ArrayLike | None, *, repeats: bool = False, least: int = 1
    ) -> np.ndarray | None:
        """Reads `rows` of an open session as row indices, or as None for all."""
        self._open()
        if rows is None:
            return None
        remedy = "`load_session(directory, batch_size=...)` sets how many a session has."
        return row_indices(rows, self.batch_size, repeats=repeats, least=least, remedy=remedy)

    def _count(self, index: np.ndarray | None) -> int:
        return self.batch_size if index is None else len(index)


def _spread(array: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    """Some rows at their places among all, zeros elsewhere."""
    whole = np.zeros((rows, *array.shape[1:]), array.dtype)
    whole[index] = array
    return whole
