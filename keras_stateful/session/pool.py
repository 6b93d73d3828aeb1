"""`Pool`: streams by name, which come and go, over one exported network.

    step({"m1": x1, "m7": x7})
           │                       slot   0    1    2    3    4    ...   in arrays of states
           └─ names to slots ─▶    name   m1   m3   -    m7   -
                                          ▲ read            ▲ and written back

A name that is not there starts in a free slot. Where none is left the arrays double; where most are
free they shrink.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import repeat
from os import PathLike
from typing import NamedTuple

import numpy as np

from keras_stateful.foundation.arguments import true_or_false
from keras_stateful.foundation.interrupts import held_back
from keras_stateful.foundation.states import States, check_owner
from keras_stateful.foundation.types import Structure
from keras_stateful.session.inputs import read_states, read_streams
from keras_stateful.session.manifest import Manifest
from keras_stateful.session.saved_states import write_states
from keras_stateful.session.stepper import Stepper, padded

_FEWEST_SLOTS = 16
_MOST_ROWS = 2048  # of one run: more take no less time for each, and ever more memory
_IDLE_ROWS = 4  # of one run, rather than a run more


class Pool:
    """Streams by name: machines, patients, conversations. `Session.pool` makes one.

    A pool serves any number of streams with the weights of one session, of which it is independent.
    A name that is new starts from the initial state. A stream's outputs are those that a session of
    its own would give, whichever others come, go and advance beside it; what a runtime rounds
    otherwise for another number of rows is the one difference (about 1e-7 of the output). A pool
    may be used from several threads; its calls then run one after the other.

    Args:
        stepper: the artifact.

    Attributes:
        manifest: what was exported, with `inputs`, `outputs` and `states`.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    ks.export_step_model(model, "exported")
    pool = ks.load_session("exported").pool()
    y = pool.step({"m1": np.ones(3, "float32"), "m7": np.zeros(3, "float32")})
    assert y["m7"].shape == (4,)
    y = pool.step({"m7": np.ones(3, "float32")})                # m1 stays where it is
    pool.drop("m1")
    pool.save("pool.npz")
    pool = ks.load_session("exported").pool("pool.npz")         # in another process: m7 goes on
    assert pool.names == ["m7"]
    ```
    """

    def __init__(self, stepper: Stepper):
        self.manifest: Manifest = stepper.manifest
        self._stepper = stepper
        self._lock = threading.RLock()  # held over each call, as a step reads and writes the states
        self._slots: dict[str, int] = {}
        self._free: list[int] = []  # slots that no name has
        self._states: list[np.ndarray] = []  # `(slots, ...)` each, in the manifest's order
        self._capacity = 0
        self._resize(_FEWEST_SLOTS)

    @property
    def names(self) -> list[str]:
        """The names of all streams, in the order in which they came."""
        with self._lock:
            return list(self._slots)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def step(self, x: Mapping[str, Structure], *, new: bool = True) -> dict[str, Structure]:
        """Advances the streams that are named by one time step; the others stay where they are.

        Args:
            x: `{name: what it reads}`: `(...)`, without a row axis and a time axis; for a model of
                several inputs a tuple or list in the model's order, or a dict by input name:
                `{"m1": {"temperature": 20.5, "hour": 7}}`. Where the artifact knows the columns of
                the training, what has names is read by these: a row of a frame, a frame of one
                row, a dict `{column: number}`.
            new: True has a name that is new start from the initial state. False refuses it: a name
                that is misspelt would begin a stream of its own.

        Returns:
            `{name: output}` in the order of `x`: `(...)`, for a model of several outputs a tuple.

        Raises:
            ValueError: a wrong shape, other columns, an id outside the vocabulary, NaN; with
                `new=False` a name that the pool does not have. Then no stream has advanced and none
                has begun.
            TypeError: not a dict; a name that is not text; a dtype that would lose what it says.
        """
        if not isinstance(x, Mapping):
            raise TypeError(
                "`x` must be a dict of what each stream reads, by name. Received: "
                f"{type(x).__name__}. For rows in order there is `Session.step`."
            )
        new = true_or_false("new", new)
        if not x:
            return {}
        with self._lock:
            slots = self._slots_now(x) if new else self._slots_of(x, "x")
            feeds = read_streams(x, self.manifest.inputs)
            # In the order of their slots: what lies side by side is neither gathered nor scattered.
            order = np.argsort(slots, kind="stable")
            runs = self._run([feed[order] for feed in feeds], slots[order])
            with held_back():  # nothing has changed so far, and this is done whole
                slots = self._begin(x, slots)[order]
                for run in runs:
                    self._write(slots[run.rows], run.states)
        outputs = [np.concatenate(parts) for parts in zip(*(r.outputs for r in runs), strict=True)]
        tensors = zip(self.manifest.outputs, outputs, strict=True)
        columns = [_put_back(o[:, 0] if tensor.time else o, order) for tensor, o in tensors]
        rows = columns[0] if len(columns) == 1 else zip(*columns, strict=True)
        return dict(zip(x, rows, strict=True))

    def drop(self, names: str | Iterable[str]) -> None:
        """Ends streams: their states are forgotten, and their names may begin anew.

        Args:
            names: one name, or several.

        Raises:
            ValueError: a name that the pool does not have; then none is dropped.
        """
        with self._lock:
            names = dict.fromkeys(_several(names))
            slots = self._slots_of(names).tolist()
            with held_back():
                for name in names:
                    del self._slots[name]
                self._free.extend(slots)
                if 4 * len(self._slots) <= self._capacity > _FEWEST_SLOTS:
                    self._resize(_power_of_two(2 * len(self._slots)))

    def reset(self, names: str | Iterable[str] | None = None) -> None:
        """Sets streams to the initial state; they stay in the pool.

        Args:
            names: one name, or several; None for all.

        Raises:
            ValueError: a name that the pool does not have; then none is reset.
        """
        with self._lock:
            slots = self._slots_of(self._slots if names is None else _several(names))
            with held_back():
                self._write(slots, self._stepper.initial(len(slots)))

    def get_states(self, names: str | Iterable[str] | None = None) -> States:
        """The states of streams, as `Session.get_states` gives them.

        Args:
            names: one name, or several; None for all.

        Returns:
            `{layer path: [array (names, ...), ...]}`, copies, a row for each name.

        Raises:
            ValueError: a name that the pool does not have.
        """
        with self._lock:
            slots = self._slots_of(self._slots if names is None else _several(names))
            states = States(fingerprint=self.manifest.owner)
            for state, array in zip(self.manifest.states, self._states, strict=True):
                states.setdefault(state.layer, []).append(array[slots])
            return states

    def set_states(self, states: dict[str, list[np.ndarray]], names: str | Iterable[str]) -> None:
        """Has streams go on from what a model, a session or a pool of the same weights has read.

        Args:
            states: `{layer path: [array (names, ...), ...]}`, a row for each name, as any
                `get_states` gives them.
            names: one name, or several; those that are new begin so.

        Raises:
            ValueError: other layers, shapes or numbers of rows; states that other weights made; NaN
                or infinite values; a name that is there twice.
            TypeError: not a dict of lists of numbers; a name that is not text.
        """
        names = _several(names)
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must name each stream once. Received: names={names!r}.")
        with self._lock:
            check_owner(states, self.manifest.owner, "the pool's artifact")
            new = read_states(states, self.manifest.states, len(names), "names")
            slots = self._slots_now(names)
            with held_back():
                self._write(self._begin(names, slots), new)

    def save(self, path: str | PathLike) -> None:
        """Writes all streams to a file, from which `Session.pool(path)` has them go on.

        The file is one of `save_states`, with the names beside the states. It appears whole or not
        at all; one of the same name is replaced.

        Args:
            path: where to write, usually `*.npz`.

        Raises:
            TypeError: not a path.
            ValueError: a directory, or a file in one that does not exist.
            OSError: a file that cannot be written.
        """
        with self._lock:
            names, states = self.names, self.get_states()
        write_states(path, states, names)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{t.name} {t.step_shape}" for t in self.manifest.inputs)
        return f"<Pool {self.manifest.artifact_format}, {len(self)} streams, inputs: {inputs}>"

    def _slots_now(self, names: Collection[str]) -> np.ndarray:
        """The slots of names, -1 for those that are new."""
        slots = np.fromiter(map(self._slots.get, names, repeat(-1)), np.intp, len(names))
        if (slots < 0).any():
            _check_texts(names)
        return slots

    def _begin(self, names: Collection[str], slots: np.ndarray) -> np.ndarray:
        """Gives a free slot to each name that has -1 for one; returns the slots of all."""
        if (slots >= 0).all():
            return slots
        new = [str(name) for name, slot in zip(names, slots, strict=True) if slot < 0]
        if len(new) > len(self._free):
            self._resize(_power_of_two(len(self._slots) + len(new)))
        self._slots.update({name: self._free.pop() for name in new})
        return self._slots_of(names)

    def _slots_of(self, names: Collection[str], argument: str = "names") -> np.ndarray:
        """The slots of names that the pool has."""
        if unknown := [name for name in names if name not in self._slots]:
            raise ValueError(
                f"`{argument}` must name streams of the pool. Received: {unknown[0]!r}, which has "
                f"not begun or was dropped; there are {len(self._slots)} streams. `name in pool` "
                "tells" + (", and `new=True` has it begin." if argument == "x" else ".")
            )
        return np.array([self._slots[name] for name in names], np.intp)

    def _write(self, slots: np.ndarray, states: list[np.ndarray]) -> None:
        place = _place(slots)
        for whole, part in zip(self._states, states, strict=True):
            whole[place] = part

    def _resize(self, capacity: int) -> None:
        """Moves all streams to the first slots of new arrays."""
        capacity, slots = max(capacity, _FEWEST_SLOTS), self._slots_of(self._slots)
        states = []
        for i, state in enumerate(self.manifest.states):
            array = np.zeros((capacity, *state.initial.shape), state.initial.dtype)
            if len(slots):
                array[: len(slots)] = self._states[i][slots]
            states.append(array)
        self._states, self._capacity = states, capacity
        self._slots = dict(zip(self._slots, range(len(slots)), strict=True))
        self._free = list(range(capacity - 1, len(slots) - 1, -1))

    def _run(self, feeds: list[np.ndarray], slots: np.ndarray) -> list["_Run"]:
        """Advances streams by one step, some at a time; writes nothing.

        Args:
            feeds: `(streams, ...)` for each input.
            slots: where their states are; -1 for the initial state.
        """
        initial, runs, start = self._stepper.initial(1), [], 0
        for size in _run_sizes(len(slots), self.manifest.rows_of_a_run):
            rows = slice(start, min(start + size, len(slots)))
            here = slots[rows]
            states = [whole[_place(here)] for whole in self._states]
            if (here < 0).any():
                for array, row in zip(states, initial, strict=True):
                    array[here < 0] = row
            x = [padded(feed[rows], size) for feed in feeds]
            results = self._stepper.step(x, [padded(array, size) for array in states])
            outputs, states = ([array[: len(here)] for array in arrays] for arrays in results)
            runs.append(_Run(rows, outputs, states))
            start += size
        return runs


class _Run(NamedTuple):
    """One run of the artifact: which of the streams of a step, their outputs and new states."""

    rows: slice
    outputs: list[np.ndarray]
    states: list[np.ndarray]


def _run_sizes(streams: int, block: int | None) -> list[int]:
    """How many rows each run of a step has; together as many as there are streams, or a few more.

    Powers of two, so that a runtime that compiles for each number of rows does so a few times.

    Args:
        streams: how many are to advance.
        block: rows of every run, where the artifact fixes them.
    """
    if block is not None:
        return [block] * -(-streams // block)
    sizes = []
    while streams > 0:
        size = min(_power_of_two(streams), _MOST_ROWS)
        if size - streams > max(_IDLE_ROWS, size // 8):
            size //= 2
        sizes.append(size)
        streams -= size
    return sizes


def _place(slots: np.ndarray) -> slice | np.ndarray:
    """An index of slots: of those that follow each other a slice, which copies nothing."""
    if len(slots) and slots[0] >= 0 and (np.diff(slots) == 1).all():
        return slice(slots[0], slots[-1] + 1)
    return slots


def _put_back(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Undoes `array[order]`."""
    result = np.empty_like(array)
    result[order] = array
    return result


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def _several(names: str | Iterable[str]) -> list[str]:
    """One name or several as a list."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        raise TypeError(f"`names` must be a name, or a list of names. Received: names={names!r}.")
    names = list(names)
    _check_texts(names)
    return names


def _check_texts(names: Iterable[str]) -> None:
    """Refuses names that are no text: a file has no others."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                "The name of a stream must be text. Received: "
                f"{name!r} of type {type(name).__name__}. Pass `str(name)`."
            )
