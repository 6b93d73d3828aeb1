"""Checks that a sequence's inputs are those that a model takes.

Keras says it late, in its own words, or not at all: of a dict it takes what has no input of its
name for another input.
"""

from collections.abc import Iterator
from typing import NamedTuple

import keras

from keras_stateful.carry.graph import RESETS
from keras_stateful.carry.vocabulary import entries
from keras_stateful.data.batch import Spec
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import fits
from keras_stateful.foundation.protocols import Key, Readable
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.check_targets import fits_at_a_step
from keras_stateful.training.model_facts import facts_of
from keras_stateful.training.static_inputs import taken_once


class _Input(NamedTuple):
    """An input of the model, and what the sequence gives it."""

    key: Key
    tensor: Tensor  # of the model's graph
    spec: Spec  # of an array (batch, time, ...)

    @property
    def step(self) -> tuple[int, ...]:
        """What the sequence gives at one time step."""
        return self.spec.shape[2:]


def check_inputs(model: keras.Model, name: str, sequence: Readable) -> None:
    """Checks the names, window length and shapes of inputs, and that an `Embedding` gets ids.

    Of a subclassed model nothing is known.

    Args:
        model: the model that reads.
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.

    Raises:
        ValueError: inputs that do not fit, with the remedy.
    """
    if not keras_internals.is_graph(model):
        return
    x = sequence.signature()[0]
    if isinstance(x, dict):
        _check_names(model, name, x)
    else:
        _check_one(model, name, x)
    once = taken_once(model, sequence.static_shapes)
    for entry in _inputs(model, x):
        if entry.key in once:
            _check_static(model, name, entry)
            continue
        _check_time_axis(model, name, entry)
        _check_window(name, entry)
        if not fits_at_a_step(entry.step, tuple(entry.tensor.shape[2:])):
            _refuse_offsets(name, entry, sequence.input_offsets.get(entry.key or "", (0,)))
            _refuse_step(model, name, entry)


def check_ids(model: keras.Model, sequence: Readable) -> None:
    """Tells a sequence which ids the model knows, which it then refuses to exceed.

    On JAX an id that an `Embedding` does not know would turn into NaN, without an error.
    """
    x = sequence.signature()[0]
    keys = x.keys() - {RESETS} if isinstance(x, dict) else {None}
    known = facts_of(model).ids_known
    sequence.check_ids({key: known[key] for key in known if key in keys})


def _inputs(model: keras.Model, x: Structure) -> Iterator[_Input]:
    """Each input of the model but the resets, with what it is given."""
    # The resets are a key of a dict, and the second of a pair.
    if isinstance(x, dict):
        specs = {key: spec for key, spec in x.items() if key != RESETS}
    else:
        specs = {None: x[0] if isinstance(x, tuple) else x}
    for key, tensor in entries(model, list(specs)).items():
        if len(tensor.shape) > 1:  # else the input has no time axis to compare
            yield _Input(key, tensor, specs[key])


def _check_time_axis(model: keras.Model, name: str, entry: _Input) -> None:
    """Refuses values for every time step for an input of features alone, such as `(batch, 4)`."""
    of_ids = entry.key in facts_of(model).ids_known  # whose second axis is time
    if len(entry.tensor.shape) == 2 and not of_ids and not fits_at_a_step(entry.step, ()):
        raise ValueError(
            f"The input {entry.tensor.name!r} has no time axis, and the corpus has values for "
            f"every time step. Received: {name} of {entry.step} at each, the input of shape "
            f"{tuple(entry.tensor.shape)}. Give it one, `keras.Input({(None, *entry.step)})`; "
            "what is the same at all steps of a document is given once, as `static=`."
        )


def _check_static(model: keras.Model, name: str, entry: _Input) -> None:
    """Refuses a static input of another shape than the model's, or that it reads along time."""
    time = facts_of(model).time_axis
    if time is not None and id(entry.tensor) in time.inputs:
        raise ValueError(
            "The model reads a static input along time. Received: "
            f"{name} with static[{entry.key!r}] of {entry.spec.shape[1:]} for each document, the "
            f"input {entry.tensor.name!r} of {tuple(entry.tensor.shape)}, whose second axis is "
            f"time. Give it in the corpus, one value for each time step, or make the model with "
            f"`keras.Input({(None, *entry.spec.shape[1:])})`, along which it is repeated."
        )
    received, expected = entry.spec.shape[1:], tuple(entry.tensor.shape[1:])
    if not fits(received, expected):
        raise ValueError(
            "A static input has another shape than the model's. Received: "
            f"{name} with static[{entry.key!r}] of {received} for each document, the input "
            f"{entry.tensor.name!r} of {expected}. Make the model with "
            f"`keras.Input({received}, name={entry.key!r})`; to have it repeated along time, with "
            f"`keras.Input({(None, *received)}, name={entry.key!r})`."
        )


def _check_window(name: str, entry: _Input) -> None:
    """Refuses another window length than a model was made for, if it was made for one."""
    shape, steps = tuple(entry.tensor.shape), entry.spec.shape[1]
    if shape[1] in (None, steps):
        return
    raise ValueError(
        f"The second axis of the input {entry.tensor.name!r} is read as time. Received: {name} "
        f"with sequence_length={steps}, the input of shape {shape}. Make the sequence with "
        f"`sequence_length={shape[1]}`, or the model with a time axis of None, "
        f"`keras.Input({(None, *shape[2:])})`; if that axis counts features, "
        f"`keras.Input({(None, *shape[1:])})`."
    )


def _refuse_offsets(name: str, entry: _Input, offsets: tuple[int, ...]) -> None:
    """Raises for an input that is read at several time steps, which stand side by side."""
    count = len(offsets)
    if count == 1:
        return
    *lead, width = entry.step
    columns, expected = width // count, tuple(entry.tensor.shape[2:])
    of_one = ", ".join(["timesteps", *map(str, [*lead, columns // count])])
    raise ValueError(
        f"The input {entry.tensor.name!r} is read at {count} time steps, whose columns stand side "
        f"by side. Received: {name} of columns x offsets = {columns} x {count} = {width} at each "
        f"step, offsets {list(offsets)}, the input of {expected}. Make the model with "
        f"`keras.Input({(None, *entry.step)}, name={entry.tensor.name!r})`"
        + (
            "; if the corpus has them side by side already, pass what is known of each step "
            f"alone, `({of_one})`."
            if columns % count == 0 and expected == (*lead, columns)
            else "."
        )
    )


def _refuse_step(model: keras.Model, name: str, entry: _Input) -> None:
    """Raises for an input of another shape at a time step than the model takes."""
    vocabulary = facts_of(model).ids_known.get(entry.key)
    if vocabulary is not None and entry.spec.dtype.kind == "f":
        one_hot = entry.step == (vocabulary,)
        raise ValueError(
            "The model looks ids up in an `Embedding`, and the corpus has features. Received: "
            f"{name} of {entry.spec.dtype}, {entry.step} at each time step. "
            + ("Pass ids, `x.argmax(-1)`, or" if one_hot else "Pass ids, an integer array, or")
            + " put a `Dense` in the place of the `Embedding`."
        )
    raise ValueError(
        f"The corpus has another shape at each time step than the model. Received: {name} of "
        f"{entry.step}, the input {entry.tensor.name!r} of {tuple(entry.tensor.shape[2:])}. "
        f"{_step_remedy(entry.step, tuple(entry.tensor.shape[2:]))}"
    )


def _step_remedy(step: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    """What to do where the corpus has the shape `step` at each time step and the model another."""
    if not step:
        return (
            'Ids need an `Embedding` and an input `keras.Input((None,), dtype="int32")`, or '
            "one-hot features; one feature at each step is an array `x[:, None]`."
        )
    if fits_at_a_step(step[1:], expected):  # the first axis is not time, or time was cut
        document = "d[:, None] for d in x" if expected and len(step) == 1 else "d for d in x"
        return (
            f"If the first axis counts documents of {step[0]} time steps, pass `[{document}]`; if "
            f"the corpus was cut into windows of {step[0]}, pass the series as it was before."
        )
    return f"Make the model with `keras.Input({(None, *step)})`, or change the features."


def _check_one(model: keras.Model, name: str, x: Structure) -> None:
    """Refuses one array for several inputs, and a pair for a dict that would take it otherwise."""
    inputs = keras_internals.functional(model).input
    # A dict is sorted by its keys.
    keys = sorted(inputs) if isinstance(inputs, dict) else _names(inputs)
    names = [key for key in keys if key != RESETS]
    misplaced = isinstance(inputs, dict) and isinstance(x, tuple) and keys[0] == RESETS
    if len(names) > 1 or misplaced:
        corpus = ", ".join(f"{key!r}: ..." for key in names)
        raise ValueError(
            f"The model has inputs by name, and the corpus is one array. Received: {name} without "
            f"names, the model with {names}. Give `{{{corpus}}}` as the corpus, or documents that "
            "are such dicts."
        )


def _names(inputs: Structure) -> list[str]:
    return [tensor.name for tensor in keras.tree.flatten(inputs)]


def _check_names(model: keras.Model, name: str, x: dict) -> None:
    """Refuses keys without an input and inputs without a key.

    Keras would leave out what is spare, or take it for another input.
    """
    inputs = keras_internals.functional(model).input
    taken = set(inputs) if isinstance(inputs, dict) else set(_names(inputs))
    spare, missing = sorted(set(x) - taken), sorted(taken - set(x))
    if not missing and not spare:
        return
    if spare and missing:
        remedy = (
            f"Name the inputs as the corpus's keys, `keras.Input(..., name={spare[0]!r})`, or the "
            "keys as the inputs. If each key is a document, pass `list(corpus.values())`."
        )
    elif spare:
        remedy = (
            f"Give the model an input for {spare}, or leave it out of the corpus (what is only a "
            "target goes to `targets=` as arrays; with `target_offset` above 0 a key of the corpus "
            "is an input too)."
        )
    else:
        remedy = (
            f"Add {missing} to the corpus, values for every time step; what is the same at all "
            "steps of a document is given as `static=`."
        )
    raise ValueError(
        f"`{name}` and the model have different inputs. Received: {name} with {sorted(x)}, the "
        f"model with {sorted(taken)}. {remedy}"
    )
