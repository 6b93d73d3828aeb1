"""The loop over positions as one compiled call, written once with `keras.ops`.

    position t      step of the model      choose        stop
    prompt or last ─▶ output, states ─▶ id or output ─▶ finished rows ─▶ position t + 1

Nothing in it depends on Python: prompts, lengths, temperature and stop ids are arguments, the
prompts in buffers whose widths are powers of two. Neither training, nor another prompt, nor another
length or temperature compiles it again.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from keras import ops

from keras_stateful.foundation.types import Tensor
from keras_stateful.generation.engine import Beside, NextInput, Request
from keras_stateful.generation.sampling import next_ids

# One call of the model: `(weights' values or None, inputs (rows, time, ...), states)` to the output
# at the last time step `(rows, ...)` and the new states.
ModelCall: TypeAlias = Callable[[list | None, list, list], tuple[Tensor, list]]

# Narrower buffers would be compiled for, one after the other, as a text grows: ids are cheap to
# pad, frames of a signal are not.
_NARROWEST_IDS, _NARROWEST_SIGNAL = 256, 16


class Constants(NamedTuple):
    """What is the same at all positions; None where a request makes no use of it.

    Attributes:
        prompts: `(rows, width, ...)`, zeros behind each prompt.
        beside: what else the model reads, `(rows, width, ...)` or, without a time axis,
            `(rows, ...)`, for each input; None for the one that reads the prompt.
        lengths: int32 `(rows,)`, of the prompts.
        length: int32, how many ids or outputs each row is to emit.
        uniforms: `(rows, width)`.
        temperature: float32.
        top_k: int32.
        top_p: float32.
        stop: int32 `(ids,)`.
    """

    prompts: Tensor
    beside: tuple[Tensor | None, ...]
    lengths: Tensor
    length: Tensor
    uniforms: Tensor | None
    temperature: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    stop: Tensor | None


class Progress(NamedTuple):
    """What one position leaves to the next.

    Attributes:
        position: int32, the next one.
        states: of the model, `(rows, ...)` each.
        last: what was emitted, ids `(rows,)` or outputs `(rows, ...)`.
        finished: bool `(rows,)`.
    """

    position: Tensor
    states: list
    last: Tensor
    finished: Tensor


def constants(request: Request) -> Constants:
    """The constants of a request, in buffers and dtypes that do not depend on its values."""
    narrowest = _NARROWEST_IDS if request.next_input is None else _NARROWEST_SIGNAL
    # Powers of two: texts of 256 to 512 positions run the same compiled loop.
    width = max(narrowest, 1 << (request.positions - 1).bit_length())
    return Constants(
        prompts=_widened(request.prompts, width),
        beside=tuple(
            _widened(values, width) if timed and values is not None else values
            for values, timed in zip(*request.beside, strict=True)
        ),
        lengths=np.asarray(request.lengths, "int32"),
        length=np.asarray(request.length, "int32"),
        uniforms=None if request.uniforms is None else _widened(request.uniforms, width),
        temperature=_array(request.temperature, "float32"),
        top_k=_array(request.top_k, "int32"),
        top_p=_array(request.top_p, "float32"),
        stop=_array(request.stop, "int32"),
    )


def _array(value: float | np.ndarray | None, dtype: str) -> np.ndarray | None:
    return None if value is None else np.asarray(value, dtype)


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    widened = np.zeros((array.shape[0], width, *array.shape[2:]), array.dtype)
    widened[:, : array.shape[1]] = array
    return widened


def advance(
    call: ModelCall,
    timed: tuple[bool, ...],
    next_input: NextInput | None,
    from_logits: bool,
    values: list | None,
    constants: Constants,
    progress: Progress,
    end: Tensor,
) -> tuple[Progress, Tensor]:
    """Advances all rows to position `end`, or until every row is finished.

    A row reads its prompt up to its length and its own output from there on, so that prompts of
    different lengths run side by side, each as it would alone.

    Args:
        call: one call of the model.
        timed: for each of its inputs, whether it has a time axis.
        next_input: for signals; None for ids.
        from_logits: True if outputs are logits.
        values: the weights' values for `call`.
        constants: of the request.
        progress: where to go on.
        end: int32, the position behind the last one.

    Returns:
        The progress, and what was emitted since: `(rows, width, ...)`, zeros behind.
    """
    start = progress.position  # what this position emits goes into column 0 of `emitted`
    rows, width = constants.prompts.shape[:2]

    # The loop's variables are the fields of `Progress` and, last, the buffer of what was emitted.
    def more(*loop: Tensor) -> Tensor:
        now = Progress(*loop[:-1])
        return ops.logical_and(now.position < end, ops.logical_not(ops.all(now.finished)))

    def body(*loop: Tensor) -> tuple:
        now, emitted = Progress(*loop[:-1]), loop[-1]
        x = ops.expand_dims(_fed(constants, next_input, now), 1)
        beside = Beside(constants.beside, timed)
        inputs = beside.inputs(x, lambda v: ops.expand_dims(_column(v, now.position), 1))
        output, states = call(values, inputs, now.states)
        if next_input is None:
            output = _choice(constants, from_logits, now.position, output)
        finished = _finished(constants, now, output)
        at = [0, now.position - start] + [0] * (len(emitted.shape) - 2)
        emitted = ops.slice_update(emitted, at, ops.expand_dims(output, 1))
        return *Progress(now.position + 1, states, output, finished), emitted

    nothing = ops.zeros((rows, width, *progress.last.shape[1:]), progress.last.dtype)
    *progressed, emitted = ops.while_loop(more, body, (*progress, nothing))
    return Progress(*progressed), emitted


def _fed(constants: Constants, next_input: NextInput | None, now: Progress) -> Tensor:
    """What the rows read, `(rows, ...)`: their prompts, then what they emitted."""
    prompt = _column(constants.prompts, now.position)
    # The -1 that stands for unusable scores is not an id: the row goes on with 0 until the text is
    # refused, outside of the loop.
    emitted = ops.maximum(now.last, 0) if next_input is None else next_input(now.last)
    axes = (1,) * (len(prompt.shape) - 1)
    in_prompt = ops.reshape(now.position < constants.lengths, (prompt.shape[0], *axes))
    return ops.where(in_prompt, prompt, ops.cast(emitted, prompt.dtype))


def _choice(constants: Constants, from_logits: bool, position: Tensor, output: Tensor) -> Tensor:
    """The ids `(rows,)` that are emitted."""
    uniforms = None if constants.uniforms is None else _column(constants.uniforms, position)
    return next_ids(
        ops.cast(output, "float32"),
        uniforms,
        constants.temperature,
        constants.top_k,
        constants.top_p,
        from_logits=from_logits,
        xp=ops,
    )


def _finished(constants: Constants, now: Progress, ids: Tensor) -> Tensor:
    """Rows that emitted a stop id behind their prompt, or all that they are to emit."""
    if constants.stop is None:
        return now.finished
    stopped = ops.any(ops.expand_dims(ids, -1) == constants.stop, axis=-1)
    # What a row emits before its prompt ends is thrown away, stop ids among it.
    stopped = ops.logical_and(now.position >= constants.lengths - 1, stopped)
    # A row emits its first id where its prompt ends, at `lengths - 1`, and `length` ids in all.
    full = now.position >= constants.lengths - 2 + constants.length
    return ops.logical_or(now.finished, ops.logical_or(stopped, full))


def _column(buffer: Tensor, t: Tensor) -> Tensor:
    """Time step `t` of `(rows, width, ...)`."""
    shape = (buffer.shape[0], 1, *buffer.shape[2:])
    column = ops.slice(buffer, [0, t] + [0] * (len(shape) - 2), shape)
    return ops.reshape(column, (shape[0], *shape[2:]))
