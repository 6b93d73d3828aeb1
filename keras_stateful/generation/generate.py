"""`generate` and `stream`: a model reads a prompt and goes on from its own output.

This module needs NumPy only, so that a deployed `Session` generates where Keras is not installed;
what knows Keras models is in `rollout.py`.

    position      0   1   2   3   4   5          rows of different lengths run side by side: a row reads its
    row 0 reads   p   p   p   o0  o1  o2         prompt (p) up to its length, and what it emitted itself (o)
          emits   .   .   o0  o1  o2  o3         from there on
    row 1 reads   p   o0  o1  o2  (o3 ...)
          emits   o0  o1  o2  o3
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import fits
from keras_stateful.generation.request import Request, read_request
from keras_stateful.generation.sampling import next_ids


def generate(
    model: Any,
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
) -> np.ndarray | list:
    """Generates ids (or outputs) from a prompt, feeding each output back as the next input.

    Starts from the initial state and leaves the model's own state, weights and compilation alone.
    On JAX and TensorFlow the loop over steps is one compiled call, kept with the model: only the
    first call compiles, and weights that changed since are used.

    Args:
        model: from `to_stateful`, `to_inference` or `to_step_model`, any other model these accept,
            or a `Session`. One input, one output.
        prompt: ids `(timesteps,)`, or a list of such, of any lengths, one per row. With
            `next_input`: features `(timesteps, ...)`, or a list of such.
        length: how many ids (or outputs) to generate for each row, at least 1.
        temperature: logits are divided by it; 0 takes the most likely id at every step.
        top_k: draw from the `top_k` most likely ids only. Ids exactly as likely as the last of them
            stay too.
        top_p: draw from the most likely ids that reach probability `top_p` together, in (0, 1];
            after `top_k`.
        seed: non-negative int. Row `r` depends on `(seed, r)` alone. None follows
            `keras.utils.set_random_seed`.
        stop: an id or several; a row ends with the first of them that it generates, which is kept.
        next_input: for signals: a function from the output of one step `(rows, ...)` to the next
            input `(rows, ...)`. It gets the backend's tensors (NumPy arrays from a `Session`).
            Nothing is drawn then.
        from_logits: whether outputs are logits or probabilities. None: inferred from the last
            activation.

    Returns:
        The new ids, int32 `(length,)`, or `(rows, length)` for a list of prompts. With `stop`, a
        list of ints, or a list of such lists. With `next_input`, the outputs `(length, ...)` or
        `(rows, length, ...)`: the first one follows the prompt's last step.

    Raises:
        ValueError: an empty prompt, an id the model cannot read, an option out of its range, a last
            activation that is neither linear nor softmax, scores that are NaN.
        TypeError: a prompt that is not numbers; a length, `top_k` or seed that is not a whole
            number.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(50, 8),
                              keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(50)])
    ids = ks.generate(model, [1, 2, 3], 20, temperature=0.8, top_p=0.95, seed=0)
    assert ids.shape == (20,)
    both = ks.generate(model, [[1, 2, 3], [4]], 20, temperature=0)
    assert both.shape == (2, 20)
    ```

    References:
        Top-k: Fan et al. 2018, https://arxiv.org/abs/1805.04833
        Top-p: Holtzman et al. 2020, https://arxiv.org/abs/1904.09751
    """
    engine = _engine(model)
    request = read_request(
        engine, prompt, length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop,
        next_input=next_input, from_logits=from_logits,
    )  # fmt: skip
    first, blocks = _run(engine, request, None)
    emitted = np.concatenate(list(blocks), axis=1)
    starts = [n - 1 - first for n in request.lengths]
    rows = [emitted[r, s : s + request.length] for r, s in enumerate(starts)]
    if request.stop is None:
        return rows[0] if request.single else np.stack(rows)
    ended = [_upto_stop(row, request.stop) for row in rows]
    return ended[0] if request.single else ended


def stream(
    model: Any,
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
) -> Iterator:
    """The same as `generate`, yielding as it goes.

    Arguments are checked when it is called, not when the first id is asked for. To end early, stop
    iterating.

    Args:
        model: as in `generate`, and so are all others.
        prompt: ids `(timesteps,)` or a list of such.
        length: how many steps at most.
        temperature: 0 for the most likely id.
        top_k: draw from the `top_k` most likely ids only.
        top_p: draw from the ids that reach this probability.
        seed: the same seed gives what `generate` gives.
        stop: an id or several at which a row ends.
        next_input: a function from output to next input.
        from_logits: whether outputs are logits.

    Returns:
        An iterator. One prompt: of ints, or with `next_input` of arrays `(...)`. A list of prompts:
        of arrays int32 `(rows,)`, -1 where a row has stopped, or with `next_input` `(rows, ...)`.

    Raises:
        ValueError: as `generate`.
        TypeError: as `generate`.

    Example:

    ```python
    import keras
    import keras_stateful as ks

    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(50, 8),
                              keras.layers.GRU(16, return_sequences=True), keras.layers.Dense(50)])
    for i in ks.stream(model, [1, 2, 3], 20, seed=0):
        print(i, end=" ", flush=True)
    ```
    """
    engine = _engine(model)
    request = read_request(
        engine, prompt, length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop,
        next_input=next_input, from_logits=from_logits,
    )  # fmt: skip
    return _stream(engine, request)


def check(model: Any, prompt: Any, length: int, **options: Any) -> None:
    """Raises what `generate` would raise for these arguments, without running the model."""
    read_request(_engine(model), prompt, length, **{"seed": 0, **options})


def _stream(engine: Any, request: Request) -> Iterator:
    first, blocks = _run(engine, request, 1)
    emitted: list[np.ndarray] = []  # of position first, first + 1, ...
    ended = np.zeros(len(request.lengths), bool)
    given = 0
    starts = [n - 1 - first for n in request.lengths]
    for block in blocks:
        emitted += list(np.moveaxis(block, 1, 0))
        # Rows with a short prompt are ahead: an id is handed out when every row has it.
        while given < request.length and not ended.all():
            if any(s + given >= len(emitted) for s, e in zip(starts, ended, strict=True) if not e):
                break
            values = [
                emitted[min(s + given, len(emitted) - 1)][r] if not ended[r] else -1
                for r, s in enumerate(starts)
            ]
            if request.stop is not None:
                ended |= np.isin(values, request.stop)
            given += 1
            if not request.single:
                yield np.stack(values) if request.next_input else np.asarray(values, "int32")
            else:
                yield values[0] if request.next_input else int(values[0])


def _run(engine: Any, request: Request, steps: int | None) -> tuple[int, Iterator[np.ndarray]]:
    """The first position that blocks of emissions `(rows, time, ...)` start from, and these blocks."""
    if engine.compiles(request):
        first, blocks = engine.skipped(request), engine.run(request, steps)
    else:
        first, blocks = min(request.lengths) - 1, _python_loop(engine, request)
    return first, (blocks if request.next_input else _usable(engine, request, blocks))


def _python_loop(engine: Any, request: Request) -> Iterator[np.ndarray]:
    """Emissions `(rows, 1, ...)` of one position after the other, from `min(lengths) - 1` on."""
    lengths = np.asarray(request.lengths)
    first = int(lengths.min()) - 1
    finished = np.zeros(len(lengths), bool)
    last = None
    with engine.conversation(len(lengths)) as conversation:
        if first:
            conversation.read(request.inputs[:, :first])
        for t in range(first, request.total):
            x = _inputs_at(engine, request, t, lengths, last)
            output = conversation.step(x)
            if request.next_input is None:
                last = next_ids(
                    engine.to_numpy(output).astype("float32", copy=False),
                    None if request.uniforms is None else request.uniforms[:, t],
                    request.temperature,
                    request.top_k,
                    request.top_p,
                    from_logits=request.from_logits,
                )
                yield last[:, None]
            else:
                last = output
                yield engine.to_numpy(output)[:, None]
            if request.stop is not None:
                finished |= (t >= lengths - 1) & np.isin(last, request.stop)
                if np.all(finished | (t >= lengths - 2 + request.length)):
                    return


def _engine(model: Any) -> Any:
    if all(hasattr(model, name) for name in ("step", "read", "reset", "fork", "batch_size")):
        return SessionEngine(model)
    try:
        from keras_stateful.generation.rollout import rollout
    except ModuleNotFoundError as error:
        raise TypeError(
            f"`model` must be a Keras model or a `Session`. Received: {type(model).__name__}, and "
            "Keras is not installed. `pip install "
            '"keras-stateful[tensorflow]"` (or [jax], [torch]) brings it.'
        ) from error
    return rollout(model)


def _inputs_at(engine: Any, request: Request, t: int, lengths: np.ndarray, last: Any) -> Any:
    known = t < lengths
    if known.all():
        return request.inputs[:, t]
    own = last
    if request.next_input is not None:
        own = request.next_input(last)
        wanted, shape = (len(lengths), *engine.feature_shape), tuple(np.shape(own))
        if not fits(shape, wanted):
            raise ValueError(
                f"`next_input` must turn an output of shape {tuple(np.shape(last))} into the next "
                f"input of shape {wanted}: all rows of one time step, no time axis. Received: "
                f"shape {shape}."
            )
    if not known.any():
        return own
    known = known.reshape(-1, *[1] * (request.inputs.ndim - 2))
    return np.where(known, request.inputs[:, t], engine.to_numpy(own)).astype(
        request.inputs.dtype, copy=False
    )


def _usable(engine: Any, request: Request, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if (block < 0).any():
            remedy = (
                "pass from_logits=True if they are logits, or " if not request.from_logits else ""
            )
            what = "finite numbers" if request.from_logits else "probabilities that sum to 1"
            raise ValueError(
                f"The outputs of {engine.last_layer} are not {what}. Received: NaN or infinite "
                f"values, or other scores than `from_logits={request.from_logits}` says. The usual "
                f"cause is a training that diverged: {remedy}look at the loss, and load weights "
                "from before it became NaN."
            )
        yield block


def _upto_stop(row: np.ndarray, stop: np.ndarray) -> list[int]:
    hits = np.flatnonzero(np.isin(row, stop))
    return row[: hits[0] + 1 if len(hits) else len(row)].tolist()


class SessionEngine:
    """Generates with a fork of a `Session`, loop and draws in NumPy; attributes as in
    `rollout.Rollout`.
    """

    to_numpy = staticmethod(np.asarray)

    def __init__(self, session: Any):
        manifest = session.manifest
        if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
            raise ValueError(
                "`generate` feeds one output back into one input. Received: a session of a model "
                f"with {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs. Export a "
                "`keras.Model` with the one input and the one output that are to be generated."
            )
        (entry,), (output,) = manifest.inputs, manifest.outputs
        self._session = session
        self.feature_shape, self.dtype = tuple(entry.step_shape), entry.dtype
        self.output_shape = tuple(output.step_shape)
        self.input_vocabulary, self.from_logits = entry.vocabulary, output.from_logits
        self.last_layer = f"the exported output {output.name!r}"

    def conversation(self, rows: int) -> Any:
        """A fork at the initial state; to be closed."""
        fork = self._session.fork([0] * rows)
        fork.reset()
        return fork

    def compiles(self, request: Request) -> bool:
        return False
