"""Runs an exported step model with NumPy in and out: no Keras, TensorFlow, JAX or torch is imported
here.

directory ─▶ manifest checked ─▶ files' SHA-256 checked ─▶ runtime opened ─▶ Session (holds the states)
"""

import threading
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.rows import row_indices
from keras_stateful.session.artifact import read_artifact
from keras_stateful.session.inputs import as_state, by_input, checked
from keras_stateful.session.manifest import Manifest, Tensor, read_manifest
from keras_stateful.session.runtimes import Runtime, check_names, open_runtime

States = dict[str, list[np.ndarray]]


def load_session(directory: str | PathLike, batch_size: int = 1) -> "Session":
    """Opens what `export_step_model` wrote.

    Needs NumPy and the runtime of the artifact's format alone: `onnxruntime`, `ai-edge-litert`, or
    `tensorflow`.

    Args:
        directory: the directory given to `export_step_model`.
        batch_size: how many independent streams the session serves, one a row.

    Returns:
        A `Session` at its initial state.

    Raises:
        ValueError: the directory is not an export, is of a newer version, or a file of it was
            truncated, altered or replaced. Nothing of the artifact has run by then.
        TypeError: a batch size that is not a whole number.
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
    directory = Path(directory)
    manifest = read_manifest(directory)
    content = read_artifact(directory, manifest.files, manifest.entry)
    runtime = open_runtime(manifest.artifact_format, content, directory / manifest.entry)
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
        self._runtime: Runtime | None = runtime
        self._lock = threading.RLock()
        self._wanted = [t.tensor for t in manifest.outputs] + [s.output for s in manifest.states]
        self._state_names = [s.input for s in manifest.states]
        self._block = manifest.batch_size  # rows of every run, where the artifact fixes them
        self._states: list[np.ndarray] = self._initial(batch_size)

    @property
    def metadata(self) -> Any:
        """What `export_step_model(metadata=...)` was given."""
        return self.manifest.metadata

    def step(self, x: Any, rows: Any = None) -> Any:
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
            count = self.batch_size if index is None else len(index)
            feeds = [
                checked(t, a, (count,), self.batch_size)
                for t, a in by_input(x, self.manifest.inputs)
            ]
            return self._unpack(
                [o[:, 0] if t.time else o for t, o in self._outputs(self._advance(feeds, index))]
            )

    def read(self, x: Any, rows: Any = None) -> Any:
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
            count = self.batch_size if index is None else len(index)
            feeds, length = [], None
            for tensor, array in by_input(x, self.manifest.inputs):
                feed = checked(
                    tensor, array, (count, None) if tensor.time else (count,), self.batch_size
                )
                if tensor.time and length not in (None, feed.shape[1]):
                    raise ValueError(
                        "All inputs of one `read` must have the same number of time steps. "
                        f"Received: {feed.shape[1]} for {tensor.name!r}, {length} for another."
                    )
                length = feed.shape[1] if tensor.time else length
                feeds.append(feed)
            if not length:
                raise ValueError(
                    "`x` must have at least one time step, axis 1 of `(rows, time, ...)`. "
                    "Received: no time steps."
                )
            collected: list[list[np.ndarray]] = [[] for _ in self.manifest.outputs]
            before = self._states
            try:
                for t in range(length):
                    now = [
                        f[:, t : t + 1] if i.time else f
                        for i, f in zip(self.manifest.inputs, feeds, strict=True)
                    ]
                    for kept, (tensor, array) in zip(
                        collected, self._outputs(self._advance(now, index)), strict=True
                    ):
                        if not tensor.time:
                            kept.clear()
                        kept.append(array)
            except BaseException:
                self._states = before
                raise
            return self._unpack([np.concatenate(kept, axis=1) if kept[0].ndim > 1 and t.time else kept[-1]
                                 for t, kept in zip(self.manifest.outputs, collected, strict=True)])  # fmt: skip

    def reset(self, rows: Any = None) -> None:
        """Sets rows to the initial state. No other row's states change.

        Args:
            rows: as for `step`.

        Raises:
            ValueError: a row that does not exist, a closed session.
        """
        with self._lock:
            index = self._rows(rows)
            fresh = self._initial(self.batch_size if index is None else len(index))
            self._states = fresh if index is None else self._merged(fresh, index)

    def get_states(self, rows: Any = None) -> States:
        """The states as `keras_stateful.get_states` gives them, to park a conversation.

        Args:
            rows: as for `step`.

        Returns:
            `{layer path: [array (rows, ...), ...]}`, copies.
        """
        with self._lock:
            index = self._rows(rows)
            found: States = {}
            for state, array in zip(self.manifest.states, self._states, strict=True):
                found.setdefault(state.layer, []).append(
                    array.copy() if index is None else array[index]
                )
            return found

    def set_states(self, states: States, rows: Any = None) -> None:
        """Brings back what `get_states` gave, also from another session of the same model.

        Args:
            states: `{layer path: [array (rows, ...), ...]}`, every layer's.
            rows: the rows to write, as for `step`.

        Raises:
            ValueError: other layers, shapes or numbers of rows.
            TypeError: not a dict of lists of numbers.
        """
        with self._lock:
            index = self._rows(rows)
            count = self.batch_size if index is None else len(index)
            if not isinstance(states, dict):
                raise TypeError(
                    "`states` must be a dict as `get_states` gives. Received: "
                    f"{type(states).__name__}."
                )
            layers = list(dict.fromkeys(s.layer for s in self.manifest.states))
            if set(states) != set(layers):
                raise ValueError(
                    "`states` must have an entry for each recurrent layer. Received: "
                    f"{sorted(map(str, states))}; the session has {layers}. States of another "
                    "model cannot be used here."
                )
            new: list[np.ndarray] = []
            for layer in layers:
                wanted = [s for s in self.manifest.states if s.layer == layer]
                if not isinstance(states[layer], (list, tuple)) or len(states[layer]) != len(
                    wanted
                ):
                    raise ValueError(f"`states[{layer!r}]` must be a list of {len(wanted)} arrays.")
                new += [as_state(s, a, count) for s, a in zip(wanted, states[layer], strict=True)]
            by_layer = [s for layer in layers for s in self.manifest.states if s.layer == layer]
            in_order = {s.name: a for s, a in zip(by_layer, new, strict=True)}
            given = [in_order[s.name] for s in self.manifest.states]
            self._states = given if index is None else self._merged(given, index)

    def fork(self, rows: Any = None) -> "Session":
        """A second session from the same point, weights shared.

        Args:
            rows: which rows the new session has: None for all, a bool mask, or indices, which may
                repeat: `rows=[0, 0, 0]` continues one conversation in three ways.

        Returns:
            A `Session` of `len(rows)` rows, independent from now on.
        """
        with self._lock:
            index = self._rows(rows, repeats=True)
            fork = Session(
                self.manifest,
                self._open().for_session(),
                self.batch_size if index is None else len(index),
            )
            fork._states = [s.copy() if index is None else s[index] for s in self._states]
            return fork

    def close(self) -> None:
        """Gives up the weights and states; forks live on. A session may be closed twice."""
        with self._lock:
            self._runtime, self._states = None, []

    def __enter__(self) -> "Session":
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._runtime is None else f"batch_size={self.batch_size}"
        inputs = ", ".join(f"{t.name} {t.step_shape}" for t in self.manifest.inputs)
        return f"<Session {self.manifest.artifact_format}, {state}, inputs: {inputs}>"

    def _open(self) -> Runtime:
        if self._runtime is None:
            raise ValueError("The session is closed. Open another with `load_session(directory)`.")
        return self._runtime

    def _initial(self, rows: int) -> list[np.ndarray]:
        return [np.repeat(s.initial[None], rows, axis=0) for s in self.manifest.states]

    def _merged(self, new: list[np.ndarray], index: np.ndarray) -> list[np.ndarray]:
        merged = [s.copy() for s in self._states]
        for whole, part in zip(merged, new, strict=True):
            whole[index] = part
        return merged

    def _advance(self, feeds: list[np.ndarray], index: np.ndarray | None) -> list[np.ndarray]:
        """Runs one step and keeps the new states; gives the outputs of the rows asked for.

        Always runs all rows: a matrix product of another number of rows rounds differently.
        """
        if index is not None:
            feeds = [_spread(f, index, self.batch_size) for f in feeds]
        results = self._run(feeds)
        count = len(self.manifest.outputs)
        outputs, states = results[:count], results[count:]
        if index is None:
            self._states = states
            return outputs
        self._states = self._merged([s[index] for s in states], index)
        return [o[index] for o in outputs]

    def _run(self, feeds: list[np.ndarray]) -> list[np.ndarray]:
        named = {t.tensor: f for t, f in zip(self.manifest.inputs, feeds, strict=True)}
        named.update(zip(self._state_names, self._states, strict=True))
        runtime, block = self._open(), self._block
        if block is None or block == self.batch_size:
            return runtime.run(named, self._wanted)
        parts = []
        for start in range(0, self.batch_size, block):
            part = {k: _padded(v[start : start + block], block) for k, v in named.items()}
            parts.append(runtime.run(part, self._wanted))
        return [np.concatenate(arrays)[: self.batch_size] for arrays in zip(*parts, strict=True)]

    def _outputs(self, arrays: list[np.ndarray]) -> list[tuple[Tensor, np.ndarray]]:
        return list(zip(self.manifest.outputs, arrays, strict=True))

    def _unpack(self, outputs: list[np.ndarray]) -> Any:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _rows(self, rows: Any, *, repeats: bool = False) -> np.ndarray | None:
        """Row indices, or None for all."""
        self._open()
        if rows is None:
            return None
        remedy = "`load_session(directory, batch_size=...)` sets how many a session has."
        return row_indices(rows, self.batch_size, repeats=repeats, least=1, remedy=remedy)


def _spread(array: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    whole = np.zeros((rows, *array.shape[1:]), array.dtype)
    whole[index] = array
    return whole


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
