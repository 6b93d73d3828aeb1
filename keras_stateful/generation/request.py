"""A call of `generate`, checked against what the model can do. NumPy only."""

import operator
import random
from dataclasses import replace
from typing import Any

import numpy as np

from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.types import Tensor
from keras_stateful.generation.beside import offsets_of, read_beside, told_apart
from keras_stateful.generation.engine import ANY_ID, Engine, InputFacts, Request
from keras_stateful.generation.options import Options
from keras_stateful.generation.prompt import read_prompt
from keras_stateful.generation.prompt_columns import in_order
from keras_stateful.generation.sampling import row_uniforms
from keras_stateful.generation.values import side_by_side

_COLDEST, _HOTTEST = 1e-30, 1e30  # a backend may take a float32 below 1.2e-38 for 0


def read_request(engine: Engine, prompt: Any, length: int, options: Options) -> Request:
    """Checks the arguments of `generate` against a model.

    Args:
        engine: what runs the model.
        prompt: as in `generate`.
        length: as in `generate`.
        options: as in `generate`.

    Returns:
        The `Request`.

    Raises:
        ValueError: as `generate`.
        TypeError: as `generate`.
    """
    length = whole_number("length", length, 1)
    options.check()
    ahead = offsets_of(engine, options.known_ahead)
    prompt = in_order(engine.known, "prompt", prompt)
    parts = told_apart(engine, prompt, in_order(engine.known, "future", options.future), ahead)
    if options.next_input is None and _gives_next(engine, parts.fed):
        options = replace(options, next_input=_as_it_is, compile_next_input=True)
        options.check()
    if options.next_input is None:
        _check_model_of_ids(engine, parts.fed)
    rows, single = read_prompt(engine, parts.fed, parts.prompt, ids=options.next_input is None)
    lengths = tuple(len(row) for row in rows)
    if options.states is not None:
        _check_rows(options.states, len(rows))
        engine.check_states(options.states, len(rows))
    # Nothing is drawn of signals, nor where the most likely id is taken: a request then has None
    # for all that a draw needs.
    draws = options.next_input is None and options.temperature > 0
    return Request(
        prompts=side_by_side(rows, max(lengths)),
        beside=read_beside(engine, parts, ahead, lengths, length, single),
        states=options.states,
        lengths=lengths,
        length=length,
        single=single,
        uniforms=_uniforms(options.seed, lengths, length) if draws else None,
        temperature=_temperature(options.temperature) if draws else None,
        top_k=_top_k(engine, options.top_k) if draws else None,
        top_p=_top_p(options.top_p) if draws else None,
        stop=None if options.stop is None else _stop_ids(engine, options.stop),
        from_logits=_from_logits(engine, options.from_logits, draws),
        next_input=options.next_input,
        compile_next_input=bool(options.compile_next_input),
    )


def _check_rows(states: Any, prompts: int) -> None:
    """Refuses states of other rows than prompts; what else is wrong with them, the engine says."""
    arrays = states.values() if isinstance(states, dict) else ()
    rows = {np.shape(a)[0] for several in arrays for a in several if np.ndim(a)}
    if rows - {prompts}:
        raise ValueError(
            "`states` must have a row for each prompt. Received: states of "
            f"{', '.join(map(str, sorted(rows)))} rows for {prompts} prompts. Choose those of the "
            "documents that go on: `{layer: [a[rows] for a in arrays] for layer, arrays in "
            "states.items()}`."
        )


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _gives_next(engine: Engine, fed: InputFacts) -> bool:
    """True if it is known that each output is the next value of the input that is fed."""
    known = engine.series is not None and engine.series in ("", fed.name)
    return known and fed.shape != () and fed.shape == engine.output_shape


def _check_model_of_ids(engine: Engine, fed: InputFacts) -> None:
    """Checks that the model reads ids, gives one score for each, and can read what it emits."""
    if fed.shape != ():
        raise ValueError(
            "`generate` feeds ids unless `next_input` says how an output becomes an input. "
            f"Received: a `model` that reads {fed.shape} features a step. Pass "
            "`next_input`, for example `lambda output: output` where it predicts the next step of "
            "its input; a model of one-hot vectors generates text when they are made inside it, "
            "with `keras.layers.CategoryEncoding` or `keras.layers.Embedding`."
        )
    if max(engine.steps_ahead, default=0) > 1:
        raise ValueError(
            "`generate` feeds each id back as the next one. Received: a `model` trained with "
            f"target_offset={list(engine.steps_ahead)}, which gives the id that far ahead. Train "
            "it with `target_offset=1`."
        )
    if len(engine.output_shape) != 1:
        raise ValueError(
            "`generate` needs one score for each id of the vocabulary at every step. Received: a "
            f"`model` with outputs of shape {engine.output_shape} a step. Pass `next_input` if it "
            "predicts a signal."
        )
    readable, emitted = fed.vocabulary, engine.output_shape[0]
    if readable is not None and emitted is not None and emitted > readable:
        raise ValueError(
            f"The model can emit ids that it cannot read. Received: outputs of {emitted} ids, "
            f"Embedding input_dim={readable}. Give the Embedding input_dim={emitted}."
        )


def check_fed_back(engine: Engine, fed: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuses outputs that are fed back as they are, where they are no next input.

    Args:
        engine: what runs the model.
        fed: an output `(rows, ...)`, and what `next_input` made of it.

    Raises:
        ValueError: a model that was trained to give several steps, or not the next one.
    """
    output, following = fed
    if not engine.steps_ahead or max(engine.steps_ahead) <= 1:
        return
    if following.shape == output.shape and np.array_equal(following, output, equal_nan=True):
        raise ValueError(
            "`next_input` feeds each output back as it is, and these are not the next time step. "
            f"Received: a model trained with target_offset={list(engine.steps_ahead)}, whose "
            f"outputs {output.shape[1:]} a step are the steps that far ahead. Take the next one "
            "out of them and make an input of it: `next_input=lambda output: ...`, for a horizon "
            "that begins with the next step `output[:, :1]`."
        )


def _temperature(temperature: float) -> float:
    """The temperature, where float32 can divide by it: beyond, 0 or infinity would make NaN.

    At both bounds a text is what it is beyond them: the most likely ids, or all ids alike.
    """
    return float(min(max(temperature, _COLDEST), _HOTTEST))


def _top_k(engine: Engine, top_k: int | None) -> int | None:
    """`top_k`, at most the number of ids: of 10 scores there is no 40th largest."""
    emitted = engine.output_shape[0]
    return top_k if top_k is None or emitted is None else min(int(top_k), emitted)


def _top_p(top_p: float | None) -> float | None:
    """`top_p`, or None for 1, which keeps every id: rounding must not filter the last ones out."""
    return float(top_p) if top_p is not None and top_p < 1 else None


def _uniforms(seed: int | None, lengths: tuple[int, ...], length: int) -> np.ndarray:
    """`(rows, positions)`: a row's k-th number at the position that emits the row's k-th id.

    row 0, prompt of 3    1  1  u0 u1 u2        its first id comes from position 2
    row 1, prompt of 1    u0 u1 u2 1  1         and this row's from position 0
    """
    # Python's generator, which `keras.utils.set_random_seed` seeds.
    seed = random.getrandbits(63) if seed is None else whole_number("seed", seed, 0)
    numbers = row_uniforms(seed, len(lengths), length)
    aligned = np.ones((len(lengths), max(lengths) - 1 + length), "float32")
    for into, row, prompt in zip(aligned, numbers, lengths, strict=True):
        into[prompt - 1 : prompt - 1 + length] = row
    return aligned


def _stop_ids(engine: Engine, stop: Any) -> np.ndarray:
    try:
        stops = np.atleast_1d(engine.to_numpy(stop)).tolist()
        ids = np.array([operator.index(i) for i in stops], "int64")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`stop` must be an id or a list of ids. Received: stop={stop!r}."
        ) from error
    highest = (engine.output_shape[0] or ANY_ID) - 1
    if not ids.size or (ids < 0).any() or (ids > highest).any():
        raise ValueError(
            f"`stop` must be ids from 0 to {highest}, at least one. Received: stop={stop!r}."
        )
    return ids.astype("int32")


def _from_logits(engine: Engine, from_logits: bool | None, draws: bool) -> bool:
    """True if the scores are logits: by the user's word, else by the last activation.

    Where neither says, a request that draws nothing may take them for logits: the largest score is
    the most likely id either way.
    """
    known = engine.from_logits if from_logits is None else bool(from_logits)
    if known is None and draws:
        raise ValueError(
            f"`generate` cannot tell whether the outputs of {engine.last_layer} are logits or "
            "probabilities. Received: from_logits=None. Pass from_logits=False if they sum to 1 at "
            "every step, else True."
        )
    return True if known is None else known
