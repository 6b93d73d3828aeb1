"""What a model reads beside what it writes: inputs that are known ahead, and constant ones.

Of a model with the inputs `load`, `hour` (known one step ahead) and `machine` (static), a prompt of
three steps and two steps to write:

    position            0    1    2    3
    load    reads       l0   l1   l2   o2       its prompt, then what was emitted
    hour    reads       h1   h2   h3   h4       the prompt has h0 to h2, `future` h3 and h4
    machine reads       m    m    m    m
            emits       .    .    o2   o3       the steps 3 and 4

NumPy only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.offsets import at_all_offsets, read_offsets
from keras_stateful.generation.engine import Beside, Engine, InputFacts, Shape
from keras_stateful.generation.values import one_array, readable, side_by_side


class Parts(NamedTuple):
    """The inputs of a model, told apart.

    Attributes:
        fed: the input that reads the prompt and then what was emitted.
        prompt: of that input.
        others: what the prompt holds for the other inputs, by name.
        future: what is known of the steps behind the prompt, by name.
    """

    fed: InputFacts
    prompt: Any
    others: dict[str, Any]
    future: Mapping[str, Any]


def told_apart(engine: Engine, prompt: Any, future: Any, ahead: Any) -> Parts:
    """Tells the input that is written from what is read beside it.

    Args:
        engine: what runs the model.
        prompt: as in `generate`, and so is `future`.
        ahead: how many steps later inputs are read, from `offsets_of`.

    Raises:
        ValueError: inputs that are missing or unknown; none that is to be written, or several.
        TypeError: a prompt or future that goes by no names.
    """
    names = [entry.name for entry in engine.inputs]
    future = {} if future is None else future
    if not isinstance(future, Mapping):
        raise TypeError(
            "`future` must be a dict of arrays, one for each input that is known ahead. Received: "
            f"{type(future).__name__}. Pass `future={{{names[-1]!r}: ...}}`."
        )
    if len(names) == 1 and not isinstance(prompt, Mapping) and not future:
        return Parts(engine.inputs[0], prompt, {}, {})
    prompts = _by_name(prompt, names)
    _check_spare("future", future, names)
    if constant := [e.name for e in engine.inputs if not e.time and e.name in future]:
        raise ValueError(
            f"`future` is of inputs that are read at every step. Received: {constant}, which the "
            "model reads once, without a time axis. Leave them out: what the prompt has there is "
            "read at all steps."
        )
    several = any(
        _depth(prompts[entry.name]) == 2 + len(entry.shape) for entry in engine.inputs if entry.time
    )
    written = [
        entry
        for entry in engine.inputs
        if entry.time
        and entry.name not in future
        and not _is_ahead(ahead, entry.name)
        and _depth(prompts[entry.name]) == 1 + several + len(entry.shape)
    ]
    if len(written) != 1:
        raise _not_one(names, [entry.name for entry in written], sorted(future))
    fed = written[0]
    others = {name: value for name, value in prompts.items() if name != fed.name}
    return Parts(fed, prompts[fed.name], others, future)


def _check_spare(argument: str, by_name: Mapping[str, Any], names: list[str]) -> None:
    """Refuses what goes by no name of an input."""
    if spare := sorted(set(map(str, by_name)) - set(names)):
        raise ValueError(
            f"`{argument}` has inputs that the model lacks. Received: {spare}; the model has "
            f"{names}. Leave them out, or name them as the model's inputs."
        )


def _is_ahead(ahead: Mapping[str, tuple[int, ...]], name: str) -> bool:
    return max(ahead.get(name, (0,))) > 0


def _not_one(names: list[str], written: list[str], future: list[str]) -> ValueError:
    """The error where not exactly one input is left to be written."""
    received = f"Received: a model with the inputs {names}, future with {future}"
    if not written:
        return ValueError(
            "`generate` writes the one input that is not known ahead, and none is left. "
            f"{received}. Leave the series that is to be written out of `future`, and give its "
            "past in `prompt` with a time axis, `(timesteps, ...)`."
        )
    return ValueError(
        f"`generate` writes one input, and nothing says how {written} go on. {received}. Pass what "
        f"is known of the others, `future={{{written[-1]!r}: ...}}`; what is the same at all steps "
        "has no time axis in the prompt."
    )


def _by_name(prompt: Any, names: list[str]) -> dict[str, Any]:
    """A prompt as a dict of what each input reads: one row, or a list of rows."""
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        for row in prompt:
            _check_names(row, names)
        return {name: [row[name] for row in prompt] for name in names}
    if not isinstance(prompt, Mapping):
        raise TypeError(
            "`prompt` must be a dict for a model of several inputs, or a list of dicts, one for "
            f"each row. Received: {type(prompt).__name__}; the model has {names}. Pass "
            f"`{{{names[0]!r}: ..., ...}}`."
        )
    _check_names(prompt, names)
    return {name: prompt[name] for name in names}


def _check_names(prompt: Mapping, names: list[str]) -> None:
    if set(prompt) != set(names):
        raise ValueError(
            "`prompt` must have one entry for each input of the model. Received: "
            f"{sorted(map(str, prompt))}; the model has {names}. What is known ahead has its past "
            "there, too; what is constant in a document is one vector."
        )


def _depth(value: Any) -> int:
    """How many axes a value has; of a list of arrays one more than the first."""
    if isinstance(value, (list, tuple)) and len(value):
        return 1 + _depth(value[0])
    return np.ndim(value)


def offsets_of(engine: Engine, known_ahead: Any) -> dict[str, tuple[int, ...]]:
    """How many time steps later each input is read: as the model remembers, or by the user's word.

    Raises:
        ValueError: another word than the model remembers; an input that the model lacks.
        TypeError: no dict of offsets.
    """
    offsets = dict(engine.offsets)
    if known_ahead is None:
        return offsets
    if not isinstance(known_ahead, Mapping):
        raise TypeError(
            "`known_ahead` must say how many time steps later each input is read. Received: "
            f"{known_ahead!r}. Pass `known_ahead={{'hour': 1}}`, the `target_offset` of the "
            "training; a model that was trained on a sequence knows it itself."
        )
    _check_spare("known_ahead", known_ahead, [entry.name for entry in engine.inputs])
    for name, argument in known_ahead.items():
        several, _ = read_offsets(argument, 0, f"known_ahead[{name!r}]")
        if offsets.setdefault(name, several) != several:
            raise ValueError(
                f"The model was trained to read {name!r} at another step. Received: known_ahead="
                f"{dict(known_ahead)}; trained with {list(offsets[name])}. Leave it out."
            )
    return offsets


def read_beside(
    engine: Engine,
    parts: Parts,
    ahead: Mapping[str, tuple[int, ...]],
    lengths: tuple[int, ...],
    length: int,
    single: bool,
) -> Beside:
    """What the model reads beside what it writes, aligned with the positions of each row.

    Args:
        engine: what runs the model.
        parts: the inputs, told apart.
        ahead: how many steps later inputs are read.
        lengths: time steps of each row's prompt.
        length: how many steps are to be written.
        single: True if the prompt is one row.

    Raises:
        ValueError: steps that are missing or too many; another shape; an id that is unknown.
        TypeError: what is not numbers.
    """
    rows = _Rows(engine, lengths, length, single)
    values = tuple(
        None if entry.name == parts.fed.name else _values(rows, entry, parts, ahead)
        for entry in engine.inputs
    )
    return Beside(values, tuple(entry.time for entry in engine.inputs))


class _Rows(NamedTuple):
    """The rows of a call: their prompts' time steps, and how many are written."""

    engine: Engine
    lengths: tuple[int, ...]
    length: int
    single: bool

    @property
    def positions(self) -> int:
        """As in `Request`."""
        return max(self.lengths) - 1 + self.length

    def split(self, name: str, value: Any) -> list[np.ndarray]:
        """One array for each row."""
        several = [value] if self.single else value
        count = len(several) if _depth(several) else 0
        if count != len(self.lengths):
            raise ValueError(
                f"`{name}` must have one entry for each row of the prompt. Received: {count} for "
                f"{len(self.lengths)} rows. Give every input a list of as many."
            )
        return [one_array(self.engine, row, f"`{name}`") for row in several]

    def of_future(self, name: str, value: Any, axes: int) -> list[np.ndarray]:
        """One array for each row; an array without rows, of so many axes, is that of all."""
        if _depth(value) == axes:
            return [one_array(self.engine, value, f"`{name}`")] * len(self.lengths)
        return self._replace(single=False).split(name, value)


def _values(
    rows: _Rows, entry: InputFacts, parts: Parts, ahead: Mapping[str, tuple[int, ...]]
) -> np.ndarray:
    """What one input reads: `(rows, positions, ...)`, or `(rows, ...)` without a time axis."""
    name = entry.name
    of_prompt, of_future = f"prompt[{name!r}]", f"future[{name!r}]"
    prompts = rows.split(of_prompt, parts.others[name])
    if not entry.time:
        return np.stack(_readable(prompts, entry, entry.shape, of_prompt))
    offsets = ahead.get(name)
    step = _step_shape(entry, offsets or (0,), prompts[0])
    if name not in parts.future and prompts[0].ndim == len(step) and not _is_ahead(ahead, name):
        constant = np.stack(_readable(prompts, entry, step, of_prompt))
        return np.repeat(constant[:, None], rows.positions, axis=1)
    if offsets is None:
        raise ValueError(
            f"Nobody knows at which time step the model reads {name!r}. Received: `future` of a "
            "model that was not trained on a `StatefulSequence`, or was loaded from a file that "
            f"does not say. Pass `known_ahead={{{name!r}: 1}}`, the `target_offset` that it was "
            "trained with, or 0 if it is read at the step itself."
        )
    prompts = _readable(prompts, entry, (None, *step), of_prompt)
    if name in parts.future:
        behind = rows.of_future(of_future, parts.future[name], 1 + len(step))
        behind = _readable(behind, entry, (None, *step), of_future)
    else:
        behind = [p[n:] for p, n in zip(prompts, rows.lengths, strict=True)]
        prompts = [p[:n] for p, n in zip(prompts, rows.lengths, strict=True)]
    _check_steps(rows, name, prompts, behind, offsets)
    whole = [np.concatenate(pair) for pair in zip(prompts, behind, strict=True)]
    read = [_of_offsets(values, offsets, rows.length) for values in whole]
    return side_by_side(read, rows.positions)


def _readable(
    arrays: list[np.ndarray], entry: InputFacts, shape: Shape, name: str
) -> list[np.ndarray]:
    return [readable(array, entry, shape, f"`{name}`") for array in arrays]


def _step_shape(entry: InputFacts, offsets: tuple[int, ...], prompt: np.ndarray) -> Shape:
    """Shape of what the user gives for a time step; the model reads that of all offsets."""
    count, shape = len(offsets), entry.shape
    if count == 1:
        return shape
    width = shape[-1] if shape else None
    if shape == (count,) and prompt.ndim == 1:  # ids
        return ()
    return (*shape[:-1], None if width is None else width // count)


def _check_steps(
    rows: _Rows,
    name: str,
    prompts: list[np.ndarray],
    behind: list[np.ndarray],
    offsets: tuple[int, ...],
) -> None:
    """Checks that an input has the steps of the prompt, and as many behind it as are read."""
    needed = rows.length - 1 + max(1, *offsets)
    for r, (prompt, more, steps) in enumerate(zip(prompts, behind, rows.lengths, strict=True)):
        row = "" if rows.single else f" of row {r}"
        if len(prompt) != steps:
            raise ValueError(
                f"`prompt[{name!r}]`{row} must be as long as the series that is written. Received: "
                f"{len(prompt)} time steps, the series has {steps}. What lies behind goes to "
                "`future`."
            )
        if len(more) != needed:
            farther = needed - rows.length
            looked = f", and {farther} that the last of them look ahead" if farther else ""
            remedy = f"Cut it, `future[{name!r}][:{needed}]`."
            if len(more) < needed:
                fitting = len(more) - farther
                fewer = f", or write fewer, `length={fitting}`" if fitting > 0 else ""
                remedy = f"Give {needed - len(more)} more{fewer}."
            raise ValueError(
                f"`future[{name!r}]`{row} must have {needed} time steps: the {rows.length} that "
                f"are written{looked}. Received: {len(more)}. {remedy}"
            )


def _of_offsets(values: np.ndarray, offsets: tuple[int, ...], length: int) -> np.ndarray:
    """What the positions of a row read of an input that is known ahead."""
    steps = len(values) - max(1, *offsets)
    parts = [values[offset : offset + steps] for offset in offsets]
    return at_all_offsets(parts, of_features=values.ndim > 1)
