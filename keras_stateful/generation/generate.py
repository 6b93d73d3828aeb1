"""`generate` and `stream`: a model reads a prompt and goes on from its own output.

Rows of different lengths run side by side. Up to its length a row reads its prompt (p), and from
there on what it emitted itself (o):

    position      0   1   2   3   4   5
    row 0 reads   p   p   p   o0  o1  o2
          emits   .   .   o0  o1  o2  o3
    row 1 reads   p   o0  o1  o2  ...
          emits   o0  o1  o2  o3

This module needs NumPy only, so that a deployed `Session` generates where Keras is not installed;
what knows Keras models is in `rollout.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.progress import ProgressBar, Verbose, read_verbose
from keras_stateful.foundation.version import bring_keras
from keras_stateful.generation import python_loop
from keras_stateful.generation.engine import ByLayer, Emissions, Engine, NextInput, Request
from keras_stateful.generation.options import Options
from keras_stateful.generation.request import read_request
from keras_stateful.generation.session_engine import SessionEngine, SessionLike

_BAR_STEPS = 256  # positions of one compiled call where a bar is drawn


def generate(
    model: Any,
    prompt: Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: ArrayLike | None = None,
    next_input: NextInput | None = None,
    compile_next_input: bool = False,
    from_logits: bool | None = None,
    future: Mapping[str, Any] | None = None,
    known_ahead: Mapping[str, Any] | None = None,
    states: ByLayer | None = None,
    verbose: Verbose = "auto",
) -> np.ndarray | list:
    """Generates ids (or outputs) from a prompt, feeding each output back as the next input.

    Starts from the initial state, or from `states`, and leaves the model's own state, weights and
    compilation alone. On JAX and TensorFlow the loop over steps is one compiled call, kept with the
    model: only the first call compiles, and weights that changed since are used.

    Args:
        model: from `to_stateful`, `to_inference` or `to_step_model`, any other model these accept,
            or a `Session`. One output, and one input that is written.
        prompt: ids `(timesteps,)`, or a list of such, of any lengths, one per row. For signals:
            features `(timesteps, ...)`, or a list of such. For a model of several inputs a dict of
            these by the inputs' names, or a list of dicts; what is constant has no time axis there.
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
            input `(rows, ...)`. None feeds outputs back as they are, where a training on a sequence
            and its loss tell that they are the next values of the input. It gets the backend's
            tensors (NumPy arrays from a `Session`) and is called at every step, so it may do
            anything. Nothing is drawn then.
        compile_next_input: True to have `next_input` compiled into the loop, on JAX and TensorFlow,
            which is faster. It is then called to be traced, not at every step: it must be written
            in `keras.ops`, and depend on the output alone.
        from_logits: True if outputs are logits, False if they are probabilities. None: inferred
            from the last activation.
        future: what is known of the steps behind the prompt, for all inputs but the one that is
            written: `{name: (length, ...)}` for all rows, or `(rows, length, ...)`. What is read
            more than one step ahead needs as many steps more. An input whose prompt goes on behind
            the end of the others needs none.
        known_ahead: how many time steps later the model reads each of these inputs, `{name:
            offset}`, 0 at the step itself. None for what it remembers of its training on a
            sequence.
        states: what the rows go on from, in place of the initial states, with a row for each
            prompt: as `predict_documents(..., return_states=True)` gave them, or `get_states`. What
            they have read need not be read again: the prompt is what has come since, of all inputs,
            at least one time step.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end; "auto" for 1 in a
            terminal or notebook, 2 where output goes to a file, and 0 for a `Session`: the bar is
            Keras's.

    Returns:
        The new ids, int32 `(length,)`, or `(rows, length)` for a list of prompts. With `stop`, a
        list of ints, or a list of such lists. Of signals, the outputs `(length, ...)` or
        `(rows, length, ...)`: the first one follows the prompt's last step.

    Raises:
        ValueError: an empty prompt, an id the model cannot read, an option out of its range, a last
            activation that is neither linear nor softmax, scores that are NaN; a `next_input` that
            is to be compiled and cannot be; a `future` of other inputs, or too short or too long;
            states of other weights, layers or rows.
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
    options = Options(
        temperature,
        top_k,
        top_p,
        seed,
        stop,
        next_input,
        compile_next_input,
        from_logits,
        future,
        known_ahead,
        states,
    )
    if isinstance(model, SessionLike) and verbose == "auto":
        verbose = 0
    return generate_with(model, prompt, length, options, verbose)


def stream(
    model: Any,
    prompt: Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: ArrayLike | None = None,
    next_input: NextInput | None = None,
    compile_next_input: bool = False,
    from_logits: bool | None = None,
    future: Mapping[str, Any] | None = None,
    known_ahead: Mapping[str, Any] | None = None,
    states: ByLayer | None = None,
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
        compile_next_input: True if it may be compiled.
        from_logits: True if outputs are logits.
        future: what is known of the steps behind the prompt.
        known_ahead: how many time steps later the model reads these inputs.
        states: what the rows go on from.

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
    options = Options(
        temperature,
        top_k,
        top_p,
        seed,
        stop,
        next_input,
        compile_next_input,
        from_logits,
        future,
        known_ahead,
        states,
    )
    request = read_request(engine, prompt, length, options)
    return _stream(request, _emissions(engine, request, 1))


def check(model: Any, prompt: Any, length: int, options: Options) -> None:
    """Raises what `generate` would raise for these arguments, without running the model."""
    read_request(_engine(model), prompt, length, options)


def generate_with(
    model: Any, prompt: Any, length: int, options: Options, verbose: Verbose = 0
) -> np.ndarray | list:
    """Does what `generate` does; its options come as one object."""
    verbose = read_verbose(verbose)
    engine = _engine(model)
    request = read_request(engine, prompt, length, options)
    # Only a bar has to be told how far a compiled loop is: else it is one call.
    emissions = _emissions(engine, request, _BAR_STEPS if verbose == 1 else None)
    first = emissions.first
    emitted = np.concatenate(list(_shown(request, emissions, verbose)), axis=1)
    # The last step of a row's prompt, at position n - 1, emits the first value that the row
    # generates. Columns of `emitted` count from position `first`.
    starts = [n - 1 - first for n in request.lengths]
    # Shorter than `length` where the loop ended because every row had met a stop id.
    rows = [emitted[r, s : s + request.length] for r, s in enumerate(starts)]
    if request.stop is None:
        return rows[0] if request.single else np.stack(rows)
    ended = [_upto_stop(row, request.stop) for row in rows]
    return ended[0] if request.single else ended


def _shown(request: Request, emissions: Emissions, verbose: Verbose) -> Iterator[np.ndarray]:
    """Passes blocks on and shows how much of `length` the row with the longest prompt has."""
    position, written = emissions.first, 0
    with ProgressBar(verbose, request.length) as shown:
        for block in emissions.blocks:
            yield block
            position += block.shape[1]
            reached = max(0, position - max(request.lengths) + 1)
            shown.advance(reached - written)
            written = reached


def _upto_stop(row: np.ndarray, stop: np.ndarray) -> list[int]:
    hits = np.flatnonzero(np.isin(row, stop))
    return row[: hits[0] + 1 if len(hits) else len(row)].tolist()


def _stream(request: Request, emissions: Emissions) -> Iterator:
    """Hands out what `generate` would give, step after step.

    Rows with a short prompt run beside the longer ones and so are ahead of them: the k-th value of
    a row lies in column `start + k`, and waits until every row that has not stopped has its k-th.
    """
    starts = [n - 1 - emissions.first for n in request.lengths]
    emitted: list[np.ndarray] = []  # `(rows, ...)` of position `first`, `first + 1`, ...
    ended = np.zeros(len(request.lengths), bool)
    handed_out = 0
    for block in emissions.blocks:
        emitted += list(np.moveaxis(block, 1, 0))
        while handed_out < request.length and not ended.all():
            places = [start + handed_out for start in starts]
            if any(p >= len(emitted) for p, over in zip(places, ended, strict=True) if not over):
                break  # a row with a longer prompt is not that far: the next block first
            values = [
                -1 if over else emitted[place][row]
                for row, (place, over) in enumerate(zip(places, ended, strict=True))
            ]
            if request.stop is not None:
                ended |= np.isin(values, request.stop)
            handed_out += 1
            yield _handed_out(values, request)


def _handed_out(values: list, request: Request) -> Any:
    """One step of a stream: of one prompt its value, of a list of prompts an array."""
    if request.next_input is not None:
        return values[0] if request.single else np.stack(values)
    return int(values[0]) if request.single else np.asarray(values, "int32")


def _emissions(engine: Engine, request: Request, steps: int | None) -> Emissions:
    """Runs a request and checks the ids that come; the loop is compiled where the engine can.

    Nothing runs before the first block is asked for.
    """
    emissions = engine.emissions(request, steps) or python_loop.emissions(engine, request)
    if request.next_input is not None:
        return emissions
    return Emissions(emissions.first, _usable(engine, request, emissions.blocks))


def _usable(engine: Engine, request: Request, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Passes blocks of ids on; refuses the -1 that `next_ids` gives for unusable scores."""
    for block in blocks:
        if (block < 0).any():
            remedy = "" if request.from_logits else "pass from_logits=True if they are logits, or "
            what = "finite numbers" if request.from_logits else "probabilities that sum to 1"
            raise ValueError(
                f"The outputs of {engine.last_layer} are not {what}. Received: NaN or infinite "
                f"values, or other scores than `from_logits={request.from_logits}` says. The usual "
                f"cause is a training that diverged: {remedy}look at the loss, and load weights "
                "from before it became NaN."
            )
        yield block


def _engine(model: Any) -> Engine:
    """The engine of a `Session` or of a Keras model; only the latter imports Keras."""
    if isinstance(model, SessionLike):
        return SessionEngine(model)
    try:
        from keras_stateful.generation.rollout import rollout
    except ModuleNotFoundError as error:
        raise TypeError(
            f"`model` must be a Keras model or a `Session`. Received: {type(model).__name__}, and "
            f"Keras is not installed. {bring_keras()}"
        ) from error
    return rollout(model)
