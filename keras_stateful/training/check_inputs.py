"""Whether the inputs of a sequence are those that a model takes: Keras says it late, in its own
words, or not at all.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.vocabulary import entries, ids_known
from keras_stateful.data.ids import Vocabulary
from keras_stateful.foundation import keras_internals
from keras_stateful.training.check_targets import fits_at_a_step


def check_inputs(model: keras.Model, name: str, sequence: Any) -> None:
    """Refuses inputs of other names, of another window length or shape at a time step, and features
    for an `Embedding`.

    Of a subclassed model nothing is known.

    Args:
        model: the model that reads.
        name: of the argument that gives the sequence.
        sequence: a `StatefulSequence` or `StatefulStream`.

    Raises:
        ValueError: inputs that do not fit, with the remedy.
    """
    if not keras_internals.is_graph(model):
        return
    x = sequence.signature()[0]
    if isinstance(x, dict):
        _check_names(model, name, x)
    for key, tensor, shape, dtype in _paired(model, x):
        window, wanted = tensor.shape[1], tuple(tensor.shape[2:])
        if window not in (None, shape[1]):
            raise ValueError(
                f"The model takes windows of {window} time steps. Received: {name} with "
                f"sequence_length={shape[1]}, the input {tensor.name!r} of shape "
                f"{tuple(tensor.shape)}. Make the sequence with `sequence_length={window}`, or the "
                "model with a time axis of None, `keras.Input((None, ...))`."
            )
        step = shape[2:]
        if fits_at_a_step(step, wanted):
            continue
        known = ids_known(model, [key]).get(key)
        if known is not None and dtype.kind == "f":
            raise ValueError(
                "The model looks ids up in an `Embedding`, and the corpus has features. Received: "
                f"{name} of {dtype}, {step} at each time step. "
                + (
                    "Pass ids, `x.argmax(-1)`, or"
                    if step == (known,)
                    else "Pass ids, an integer array, or"
                )
                + " put a `Dense` in the place of the `Embedding`."
            )
        raise ValueError(
            f"The corpus has another shape at each time step than the model. Received: {name} of "
            f"{step}, the input {tensor.name!r} of {wanted}. "
            + (
                'Ids need an `Embedding` and an input `keras.Input((None,), dtype="int32")`, or '
                "one-hot features."
                if not step
                else f"Make the model with `keras.Input({(None, *step)})`, or change the features."
            )
        )


def _paired(model: keras.Model, x: Any) -> Iterator[tuple]:
    """Key, input tensor, shape and dtype of what each input but the resets is given."""
    if isinstance(x, dict):
        given = {k: spec for k, spec in x.items() if k != "resets"}
    else:
        given = {None: x[0] if isinstance(x, tuple) else x}  # a pair has the mask behind it
    for key, tensor in entries(model, list(given)).items():
        if len(tensor.shape) > 1:
            yield key, tensor, given[key].shape, given[key].dtype


def _check_names(model: keras.Model, name: str, x: dict) -> None:
    """Of a dict, Keras takes what has no input for another input, where the model's inputs are a
    dict too.
    """
    inputs = keras_internals.functional(model).input
    taken = (
        set(inputs) if isinstance(inputs, dict) else {t.name for t in keras.tree.flatten(inputs)}
    )
    missing, spare = (
        sorted(taken - set(x)),
        sorted(set(x) - taken) if isinstance(inputs, dict) else [],
    )
    if missing or spare:
        remedy = (
            f"Give the model an input for {spare}, or leave it out of the corpus (what is only a "
            "target goes to `targets=` as arrays; with `target_offset` above 0 a key of the corpus "
            "is an input too)."
            if spare
            else f"Add {missing} to the corpus, or name the inputs as its keys: `keras.Input(..., name=...)`."
        )
        raise ValueError(
            f"`{name}` and the model have different inputs. Received: {name} with {sorted(x)}, the "
            f"model with {sorted(taken)}. {remedy}"
        )


def check_ids(model: keras.Model, sequence: Any) -> None:
    """Ids that no `Embedding` of the model knows are refused: on JAX they would turn into NaN,
    without an error.
    """
    x = sequence.signature()[0]
    keys = [k for k in x if k != "resets"] if isinstance(x, dict) else [None]
    sequence.check_ids(ids_known(model, keys))


def check_ids_of_arrays(model: keras.Model, x: Any) -> None:
    """The same of one input in NumPy; of several, or other tensors, nothing is looked at."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and x.size:
        known = getattr(model, "_ids_known", None)
        if known is None:
            known = model._ids_known = ids_known(model, [None]).get(None, 0)
        if known and not Vocabulary(known).holds_all(x):
            Vocabulary(known).refuse("x", x)
