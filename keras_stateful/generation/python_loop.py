"""The loop over positions in Python, for what cannot be compiled as a whole. NumPy only."""

from collections.abc import Iterator

import numpy as np

from keras_stateful.foundation.arguments import fits
from keras_stateful.foundation.types import Tensor
from keras_stateful.generation.engine import Emissions, Engine, Request, Shape
from keras_stateful.generation.request import check_fed_back
from keras_stateful.generation.sampling import next_ids


def emissions(engine: Engine, request: Request) -> Emissions:
    """Runs a request one position after the other; blocks are `(rows, 1, ...)`."""
    return Emissions(min(request.lengths) - 1, _blocks(engine, request))


def _blocks(engine: Engine, request: Request) -> Iterator[np.ndarray]:
    lengths = np.asarray(request.lengths)
    first = int(lengths.min()) - 1
    finished = np.zeros(len(lengths), bool)
    last: Tensor = None  # what the position before emitted
    with engine.conversation(len(lengths), request.states) as conversation:
        # Before the shortest prompt ends, nothing that is emitted is used.
        if first:
            read = request.prompts[:, :first]
            conversation.read(request.beside.between(read, 0, first))
        for t in range(first, request.positions):
            fed = _fed_at(engine, request, t < lengths, t, last)
            output = conversation.step(request.beside.at(fed, t))
            if request.next_input is None:
                last = _chosen(engine, request, t, output)
                yield last[:, None]
            else:
                last = output
                # A copy: `next_input` may change the tensor that it is given.
                yield np.array(engine.to_numpy(output))[:, None]
            if request.stop is not None:
                # What a row emits before its prompt ends is thrown away, stop ids among it.
                finished |= (t >= lengths - 1) & np.isin(last, request.stop)
                # A row emits its last id at position `prompt - 1 + length - 1`.
                if np.all(finished | (t >= lengths - 2 + request.length)):
                    return


def _chosen(engine: Engine, request: Request, t: int, output: Tensor) -> np.ndarray:
    """The ids `(rows,)` that position `t` emits."""
    return next_ids(
        engine.to_numpy(output).astype("float32", copy=False),
        None if request.uniforms is None else request.uniforms[:, t],
        request.temperature,
        request.top_k,
        request.top_p,
        from_logits=request.from_logits,
    )


def _fed_at(
    engine: Engine, request: Request, in_prompt: np.ndarray, t: int, last: Tensor
) -> Tensor:
    """What the rows read at position `t`, `(rows, ...)`: their prompts, then what they emitted."""
    if in_prompt.all():
        return request.prompts[:, t]
    emitted = last
    if request.next_input is not None:
        before = np.array(engine.to_numpy(last)) if engine.steps_ahead else None
        emitted = request.next_input(last)
        if before is not None:
            check_fed_back(engine, (before, engine.to_numpy(emitted)))
        step = engine.inputs[request.beside.fed].shape
        _check_shape(emitted, last, (len(request.lengths), *step))
    if not in_prompt.any():
        return emitted
    in_prompt = in_prompt.reshape(-1, *[1] * (request.prompts.ndim - 2))
    mixed = np.where(in_prompt, request.prompts[:, t], engine.to_numpy(emitted))
    return mixed.astype(request.prompts.dtype, copy=False)


def _check_shape(following: Tensor, last: Tensor, expected: Shape) -> None:
    shape = tuple(np.shape(following))
    if not fits(shape, expected):
        raise ValueError(
            f"`next_input` must turn an output of shape {tuple(np.shape(last))} into the next "
            f"input of shape {expected}: all rows of one time step, no time axis. Received: shape "
            f"{shape}."
        )
