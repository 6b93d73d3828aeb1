"""States in a file: `save_states`, `load_states`, and those of a `Pool`. NumPy only.

An `.npz` archive with an array for each state, numbered, and beside them a text in JSON:

    states     {"kind": "keras_stateful states", "format_version": 1, "fingerprint": "9f86...",
                "layers": {"lower": 2, "upper": 1}}             how many arrays each layer has
    0, 1       of "lower"
    2          of "upper"

The text of a pool's file has its names, too, one for each row: `"names": ["m1", "m7"]`; that of
documents how many time steps were read of each: `"steps": [552, 430]`.
"""

import io
import json
import os
import uuid
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.foundation.arguments import a_path, file_to_write
from keras_stateful.foundation.states import ByLayer, States

KIND = "keras_stateful states"
FORMAT_VERSION = 1


def save_states(path: str | PathLike, states: ByLayer) -> None:
    """Writes states to a file, with the fingerprint of the weights that made them.

    The file appears whole or not at all; one of the same name is replaced.

    Args:
        path: where to write, usually `*.npz`.
        states: from `get_states` of a model or a `Session`.

    Raises:
        TypeError: not a dict of lists of arrays; `path` is none.
        ValueError: a directory, or a file in one that does not exist.
        OSError: a file that cannot be written.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)])
    live = ks.to_inference(model)
    live.predict_on_batch(np.ones((1, 5, 3), "float32"))
    ks.save_states("states.npz", ks.get_states(live))
    ks.set_states(live, ks.load_states("states.npz"))           # also after a restart
    ```
    """
    write_states(path, states)


def load_states(path: str | PathLike) -> States:
    """Reads what `save_states` wrote.

    Args:
        path: of the file. One of `Pool.save` has a row for each name, in the order of its names.

    Returns:
        `{layer path: [array (rows, ...), ...]}`, which `set_states` of a model or a `Session` takes
        where the weights are those that the states come from; with the fingerprint of these, and of
        documents with the `steps` that were read of each.

    Raises:
        ValueError: not a file of `save_states`, one that is damaged, or of a newer version.
        OSError: a file that cannot be read.

    Example: see `save_states`.
    """
    return read_saved(path).states


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        states: of its rows.
        names: of the rows, where a `Pool` wrote it; else None.
    """

    states: States
    names: list[str] | None


def write_states(path: str | PathLike, states: ByLayer, names: list[str] | None = None) -> None:
    """Does what `save_states` does; `names` are those of the rows."""
    arrays = _arrays(states)
    path = file_to_write("path", path)
    head = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "fingerprint": getattr(states, "fingerprint", None),
        "layers": {layer: len(of_layer) for layer, of_layer in states.items()},
        **({} if names is None else {"names": names}),
        **_counted(getattr(states, "steps", None), arrays),
    }
    entries = {str(i): array for i, array in enumerate(arrays)}
    # Beside it, since a rename within one file system is all or nothing.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, states=np.array(json.dumps(head)), **entries)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_saved(path: str | PathLike) -> Saved:
    """Does what `load_states` does; gives the names, too.

    Raises:
        ValueError, OSError: as `load_states`.
    """
    path = a_path("path", path)
    content = path.read_bytes()
    try:
        return _parse(content)
    except Exception as error:  # whatever NumPy, its archive or JSON find wrong
        raise ValueError(
            f"{path} is not a file of `save_states`, or is damaged ({error}). Received: "
            f"{len(content)} bytes. Without it, have the network read the document anew."
        ) from error


def _parse(content: bytes) -> Saved:
    if not content.startswith(b"PK"):  # of one array, or pickled, NumPy makes something else
        raise ValueError("it is no `.npz` archive")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        # Nothing in it is compressed: a file from a stranger takes no more memory than its size.
        size = sum(entry.file_size for entry in archive.zip.infolist())
        if size > len(content):
            raise ValueError(f"it would take {size} bytes of memory")
        entries = {name: archive[name] for name in archive.files}
    head = json.loads(entries.pop("states").item())
    if head["kind"] != KIND:
        raise ValueError(f"its kind is {head['kind']!r}")
    if head["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"its format_version is {head['format_version']!r}, and this release reads "
            f"{FORMAT_VERSION}: upgrade keras_stateful"
        )
    counts, fingerprint = head["layers"], head["fingerprint"]
    if sum(counts.values()) != len(entries):
        raise ValueError(f"it lists {counts} and holds {len(entries)} arrays")
    arrays = iter([entries[str(i)] for i in range(len(entries))])
    layers = {layer: [next(arrays) for _ in range(n)] for layer, n in counts.items()}
    names = head.get("names")
    if names is not None:
        _check_names(names, [len(array) for array in entries.values()])
    states = States(layers, None if fingerprint is None else str(fingerprint))
    if "steps" in head:
        states.steps = _steps(head["steps"], [len(array) for array in entries.values()])
    return Saved(states, names)


def _counted(steps: np.ndarray | None, arrays: list[np.ndarray]) -> dict[str, list[int]]:
    """The time steps that were read, as a file has them; nothing where the rows are others."""
    if steps is None or any(array.shape[:1] != (len(steps),) for array in arrays):
        return {}
    return {"steps": steps.tolist()}


def _steps(steps: Any, rows: list[int]) -> np.ndarray:
    """The time steps that a file says were read, one number for each row."""
    whole = isinstance(steps, list) and all(type(n) is int and n >= 0 for n in steps)
    if not whole or any(r != len(steps) for r in rows):
        raise ValueError(f"its steps are not those of {rows} rows")
    return np.array(steps, "int64")


def _check_names(names: Any, rows: list[int]) -> None:
    """Checks the names of a pool's file: text, each once, one for each row."""
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(set(names)) != len(names) or any(r != len(names) for r in rows):
        raise ValueError(f"its names are not those of {rows} rows")


def _arrays(states: Any) -> list[np.ndarray]:
    """All arrays of all layers, in their order."""
    if not isinstance(states, dict) or not all(
        isinstance(v, (list, tuple)) for v in states.values()
    ):
        raise TypeError(
            "`states` must be a dict of lists of arrays, as `get_states` gives. Received: "
            f"{type(states).__name__}. The order is `save_states(path, states)`."
        )
    arrays = [np.asarray(array) for of_layer in states.values() for array in of_layer]
    if unfit := [a.dtype for a in arrays if a.dtype.kind not in "biuf"]:
        raise TypeError(f"`states` must hold numbers. Received: dtype {unfit[0]}.")
    return arrays
