"""A call of `generate`, checked: prompts, options and what the model can do with them. NumPy only."""

import math
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import fits, whole_number
from keras_stateful.generation.sampling import row_uniforms


@dataclass(frozen=True)
class Request:
    """What a loop needs to know of a call of `generate`."""

    inputs: np.ndarray  # (rows, longest prompt, ...), zeros behind the shorter ones
    lengths: tuple[int, ...]
    length: int
    single: bool
    uniforms: np.ndarray | None  # (rows, total); None: nothing is drawn
    temperature: float | None  # None: greedy
    top_k: int | None
    top_p: float | None
    stop: np.ndarray | None
    from_logits: bool
    next_input: Callable | None

    @property
    def total(self) -> int:
        """Positions that the row with the longest prompt reads."""
        return max(self.lengths) - 1 + self.length


def read_request(
    engine: Any,
    prompt: Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Any = None,
    next_input: Callable | None = None,
    from_logits: bool | None = None,
) -> Request:
    """Checks the arguments of `generate` against an engine (`rollout.Rollout`,
    `generation.SessionEngine`).

    Args:
        engine: what runs the model; read are `feature_shape`, `dtype`, `output_shape`,
            `input_vocabulary`, `from_logits`, `last_layer` and `to_numpy`.
        prompt: as in `generate`, and so are all others.
        length: as in `generate`.
        temperature: as in `generate`.
        top_k: as in `generate`.
        top_p: as in `generate`.
        seed: as in `generate`.
        stop: as in `generate`.
        next_input: as in `generate`.
        from_logits: as in `generate`.

    Returns:
        The `Request`.

    Raises:
        ValueError: as `generate`.
        TypeError: as `generate`.
    """
    length = whole_number("length", length, 1)
    _check_options(temperature, top_k, top_p)
    if next_input is None:
        _check_ids_model(engine)
    else:
        _check_signal_options(next_input, temperature, top_k, top_p, seed, stop, from_logits)
    rows, single = _rows(engine, prompt)
    rows = [
        _check_row(engine, row, "" if single else f" of row {r}", next_input)
        for r, row in enumerate(rows)
    ]
    lengths = tuple(len(row) for row in rows)
    inputs = np.zeros((len(rows), max(lengths), *rows[0].shape[1:]), rows[0].dtype)
    for into, row in zip(inputs, rows, strict=True):
        into[: len(row)] = row
    draws = next_input is None and temperature > 0
    return Request(
        inputs=inputs,
        lengths=lengths,
        length=length,
        single=single,
        uniforms=_uniforms(seed, lengths, length) if draws else None,
        temperature=float(temperature) if draws else None,
        top_k=min(whole_number("top_k", top_k, 1), engine.output_shape[0])
        if draws and top_k is not None
        else None,
        top_p=float(top_p) if draws and top_p is not None and top_p < 1 else None,
        stop=None if stop is None else _stop_ids(engine, stop),
        from_logits=_from_logits(engine, from_logits, draws),
        next_input=next_input,
    )


def _check_options(temperature: Any, top_k: Any, top_p: Any) -> None:
    if not _is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(
            "`temperature` must be a finite number of at least 0, where 0 takes the most likely id "
            f"at every step. Received: temperature={temperature!r}."
        )
    if top_k is not None:
        whole_number("top_k", top_k, 1)
    if top_p is not None and not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(
            "`top_p` must be a number in (0, 1]: how much probability the ids that are kept reach "
            f"together. Received: top_p={top_p!r}. For the most likely id alone, pass "
            "temperature=0."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _check_ids_model(engine: Any) -> None:
    if engine.feature_shape != ():
        raise ValueError(
            "`generate` feeds ids unless `next_input` says how an output becomes an input. "
            f"Received: a `model` that reads {engine.feature_shape} features a step. Pass "
            "`next_input`, for example `lambda output: output` where it predicts the next step of "
            "its input; a model of one-hot vectors generates text when they are made inside it, "
            "with `keras.layers.CategoryEncoding` or `keras.layers.Embedding`."
        )
    if len(engine.output_shape) != 1:
        raise ValueError(
            "`generate` needs one score for each id of the vocabulary at every step. Received: a "
            f"`model` with outputs of shape {engine.output_shape} a step. Pass `next_input` if it "
            "predicts a signal."
        )
    read, given = engine.input_vocabulary, engine.output_shape[0]
    if read is not None and given is not None and given > read:
        raise ValueError(
            f"The model can emit ids that it cannot read. Received: outputs of {given} ids, "
            f"Embedding input_dim={read}. Give the Embedding input_dim={given}."
        )


def _check_signal_options(
    next_input: Any, temperature: Any, top_k: Any, top_p: Any, *others: Any
) -> None:
    if not callable(next_input):
        raise TypeError(
            "`next_input` must be a function from an output to the next input. Received: "
            f"next_input={next_input!r}."
        )
    names = ("temperature", "top_k", "top_p", "seed", "stop", "from_logits")
    values = (None if temperature == 1 else temperature, top_k, top_p, *others)
    given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    if given:
        raise ValueError(
            f"With `next_input` no id is drawn, so these do nothing. Received: {given}. Leave them "
            "out, and draw inside `next_input` if the outputs are distributions."
        )


def _rows(engine: Any, prompt: Any) -> tuple[list[np.ndarray], bool]:
    """The rows of a prompt, and whether it was one row rather than a list of such."""
    axes = 1 + len(engine.feature_shape)
    if isinstance(prompt, str) or (
        isinstance(prompt, (list, tuple)) and any(isinstance(p, str) for p in prompt)
    ):
        raise TypeError(
            f"`prompt` must be ids or features, not text. Received: prompt={prompt!r}. Encode it "
            "first, with what encoded the training text."
        )
    if isinstance(prompt, (list, tuple)) and len(prompt) and all(_axes(p) == axes for p in prompt):
        return [engine.to_numpy(p) for p in prompt], False
    try:
        array = engine.to_numpy(prompt)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`prompt` is neither one row nor a list of rows. Received: prompt={prompt!r}."
        ) from error
    if array.size == 0:
        raise ValueError(
            f"`prompt` is empty. Received: shape {array.shape}. A model continues what it has "
            "read: give it at least one step, for example the id that documents start with."
        )
    if array.ndim == axes:
        return [array], True
    if array.ndim == axes + 1:
        return list(array), False
    shape = str(("timesteps", *engine.feature_shape)).replace("'", "")
    raise ValueError(
        f"`prompt` must have shape {shape}, or be a list of such, one per row. Received: shape "
        f"{array.shape}."
    )


def _axes(value: Any) -> int | None:
    try:
        return np.ndim(value)
    except ValueError:  # a ragged list
        return None


def _check_row(engine: Any, row: np.ndarray, which: str, next_input: Callable | None) -> np.ndarray:
    if not len(row):
        raise ValueError(
            f"The prompt{which} is empty. A model continues what it has read: give it at least one "
            "step, for example the id that documents start with."
        )
    if next_input is not None:
        wanted = engine.feature_shape
        if not fits(row.shape[1:], wanted):
            raise ValueError(
                f"The prompt{which} has shape {row.shape}; the model reads {wanted} features a "
                "step."
            )
        if not (np.issubdtype(row.dtype, np.number) or row.dtype == bool):
            raise TypeError(f"The prompt{which} must be numbers. Received: dtype {row.dtype}.")
        return row.astype("int32" if "int" in engine.dtype else "float32", copy=False)
    if not np.issubdtype(row.dtype, np.integer):
        raise TypeError(
            f"The prompt{which} must be integer ids. Received: dtype {row.dtype}. Convert it with "
            "`.astype('int32')`; for signals pass `next_input`."
        )
    highest = (engine.input_vocabulary or 2**31) - 1
    wrong = row[(row < 0) | (row > highest)]
    if wrong.size:
        raise ValueError(
            f"The prompt{which} holds an id that the model cannot read. Received: id "
            f"{int(wrong[0])}; it reads 0 to {highest}. The prompt was likely encoded with another "
            "vocabulary than the training text."
        )
    return row.astype("int32", copy=False)


def _stop_ids(engine: Any, stop: Any) -> np.ndarray:
    try:
        ids = np.array(
            [operator.index(i) for i in np.atleast_1d(engine.to_numpy(stop)).tolist()], "int64"
        )
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`stop` must be an id or a list of ids. Received: stop={stop!r}."
        ) from error
    highest = (engine.output_shape[0] or 2**31) - 1
    if not ids.size or (ids < 0).any() or (ids > highest).any():
        raise ValueError(
            f"`stop` must be ids from 0 to {highest}, at least one. Received: stop={stop!r}."
        )
    return ids.astype("int32")


def _uniforms(seed: int | None, lengths: tuple[int, ...], length: int) -> np.ndarray:
    """`(rows, total)`: at the position that emits a row's k-th id lies the row's k-th number."""
    seed = random.getrandbits(63) if seed is None else whole_number("seed", seed, 0)
    numbers = row_uniforms(seed, len(lengths), length)
    aligned = np.ones((len(lengths), max(lengths) - 1 + length), "float32")
    for into, own, n in zip(aligned, numbers, lengths, strict=True):
        into[n - 1 : n - 1 + length] = own
    return aligned


def _from_logits(engine: Any, from_logits: Any, draws: bool) -> bool:
    if from_logits not in (None, True, False):
        raise ValueError(
            f"`from_logits` must be True, False or None. Received: from_logits={from_logits!r}."
        )
    told = engine.from_logits if from_logits is None else bool(from_logits)
    if told is None and draws:
        raise ValueError(
            f"`generate` cannot tell whether the outputs of {engine.last_layer} are logits or "
            "probabilities. Received: from_logits=None. Pass from_logits=False if they sum to 1 at "
            "every step, else True."
        )
    return True if told is None else told
