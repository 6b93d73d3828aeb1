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
from keras_stateful.foundation.protocols import Key, Readable
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.check_targets import fits_at_a_step
from keras_stateful.training.model_facts import facts_of


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
    for entry in _inputs(model, x):
        _check_window(name, entry)
        if not fits_at_a_step(entry.step, tuple(entry.tensor.shape[2:])):
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


def _check_window(name: str, entry: _Input) -> None:
    """Refuses another window length than a model was made for, if it was made for one."""
    window = entry.tensor.shape[1]
    if window not in (None, entry.spec.shape[1]):
        raise ValueError(
            f"The model takes windows of {window} time steps. Received: {name} with "
            f"sequence_length={entry.spec.shape[1]}, the input {entry.tensor.name!r} of shape "
            f"{tuple(entry.tensor.shape)}. Make the sequence with `sequence_length={window}`, or "
            "the model with a time axis of None, `keras.Input((None, ...))`."
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
    remedy = (
        f"Make the model with `keras.Input({(None, *entry.step)})`, or change the features."
        if entry.step
        else 'Ids need an `Embedding` and an input `keras.Input((None,), dtype="int32")`, or '
        "one-hot features."
    )
    raise ValueError(
        f"The corpus has another shape at each time step than the model. Received: {name} of "
        f"{entry.step}, the input {entry.tensor.name!r} of {tuple(entry.tensor.shape[2:])}. "
        f"{remedy}"
    )


def _check_names(model: keras.Model, name: str, x: dict) -> None:
    """Refuses keys without an input and inputs without a key.

    A model whose inputs are a list takes the keys that it has names for and leaves others out; one
    whose inputs are a dict would take what is spare for another input.
    """
    inputs = keras_internals.functional(model).input
    if isinstance(inputs, dict):
        taken = set(inputs)
        spare = sorted(set(x) - taken)
    else:
        taken = {tensor.name for tensor in keras.tree.flatten(inputs)}
        spare = []
    missing = sorted(taken - set(x))
    if not missing and not spare:
        return
    remedy = (
        f"Give the model an input for {spare}, or leave it out of the corpus (what is only a "
        "target goes to `targets=` as arrays; with `target_offset` above 0 a key of the corpus "
        "is an input too)."
        if spare
        else f"Add {missing} to the corpus, or name the inputs as its keys: "
        "`keras.Input(..., name=...)`."
    )
    raise ValueError(
        f"`{name}` and the model have different inputs. Received: {name} with {sorted(x)}, the "
        f"model with {sorted(taken)}. {remedy}"
    )
