"""What a model remembers of time: how far ahead it reads each input, and what it predicts.

Three groups of what `model_columns` remembers:

    "offsets"     how many time steps later each input of a dict was read, by its name; 0 at the
                  step itself, 1 and more what is known ahead
    "predicted"   the `target_offset` of the training; under "corpus" that of a corpus which
                  predicts itself, under "targets" that of targets of their own
    "series"      under "" the input whose next value the output is, "" for the only one

So that `predict_documents` and `generate` read what is known ahead where the training did, outputs
are scored on the time steps that they were trained to give, and `generate` feeds back what is the
next value of an input and nothing else. How inputs are read stays as the first training had it,
since it is a part of their meaning. What the outputs are, the last training decides: one on arrays
of one's own leaves it unknown.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import keras

from keras_stateful.data.inputs import KnownAhead
from keras_stateful.data.offsets import Offsets, read_offsets
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable
from keras_stateful.foundation.types import Structure

# Losses whose smallest value is at a value of the series itself: what such a model gives out can be
# read again. The output of others may be a logarithm, a probability or a quantile.
_OF_VALUES = (
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "Huber",
    "LogCosh",
)


class Predicted(NamedTuple):
    """What a training was scored on.

    Attributes:
        has_targets: True if there were targets other than the corpus.
        target_offset: how many time steps ahead of the input they were.
    """

    has_targets: bool
    target_offset: int | list[int]


def learn_ahead(
    learned: dict[str, dict[str, list]], model: keras.Model, sequence: Readable | None
) -> None:
    """Writes down what a training tells.

    Args:
        learned: what the model remembers; written to.
        model: the model, compiled.
        sequence: what it is trained on; None for other data, of which nothing is known.
    """
    for group in ("predicted", "series"):
        learned.pop(group, None)
    if sequence is None:
        return
    for key, offsets in sequence.input_offsets.items():
        learned.setdefault("offsets", {}).setdefault(key, list(offsets))
    kind = "targets" if sequence.has_targets else "corpus"
    learned["predicted"] = {kind: [sequence.target_offset]}
    if sequence.series is not None and _gives_values(model):
        learned["series"] = {"": [sequence.series]}


def _gives_values(model: keras.Model) -> bool:
    """True if the model's one loss makes its output a value of what it predicts."""
    arguments = keras_internals.compile_arguments(model) if model.compiled else {}
    losses = keras.tree.flatten(arguments.get("loss"))
    if len(losses) != 1 or losses[0] is None:
        return False
    loss = keras.losses.get(losses[0])
    classes = [getattr(keras.losses, name) for name in _OF_VALUES]
    return type(loss) in classes or any(loss is keras.losses.get(name) for name in _FUNCTIONS)


_FUNCTIONS = ("mse", "mae", "mape", "msle", "huber", "log_cosh")


def predicted_series(known: Mapping[str, Mapping[str, list]]) -> str | None:
    """The input whose next value the output is, "" for the only one; None where nobody knows."""
    return known.get("series", {}).get("", [None])[0]


def predicted(known: Mapping[str, Mapping[str, list]]) -> Predicted | None:
    """What the outputs were trained to give; None where nobody knows."""
    for kind, (target_offset,) in known.get("predicted", {}).items():
        return Predicted(kind == "targets", target_offset)
    return None


def steps_ahead(known: Mapping[str, Mapping[str, list]]) -> tuple[int, ...]:
    """How many time steps ahead of the input the outputs are; empty where nobody knows."""
    of_training = predicted(known)
    return () if of_training is None else read_offsets(of_training.target_offset, 0)[0]


def offsets_known(known: Mapping[str, Mapping[str, list]]) -> dict[str, tuple[int, ...]]:
    """How many time steps later a model reads each input of which that is known, by its name."""
    return {key: tuple(offsets) for key, offsets in known.get("offsets", {}).items()}


def known_ahead(known: Mapping[str, Mapping[str, list]]) -> dict[str, list[int]]:
    """How many time steps later a model reads each known-ahead input, by its name."""
    return {key: offsets for key, offsets in known.get("offsets", {}).items() if max(offsets)}


def as_remembered(known: Mapping[str, Mapping[str, list]], argument: KnownAhead) -> KnownAhead:
    """`known_ahead` of a call without targets, whose offsets a model has to remember.

    Raises:
        ValueError: a key of which the model remembers nothing.
    """
    if argument is None or isinstance(argument, (str, Mapping)):
        return argument
    remembered = known.get("offsets", {})
    unknown = [key for key in argument if key not in remembered]
    if unknown:
        raise ValueError(
            "`known_ahead` does not say how far ahead, and the model remembers nothing of it: it "
            "was not trained on a `StatefulSequence` with this input. Received: known_ahead="
            f"{list(argument)}. Pass the offset of its training, `known_ahead={{{unknown[0]!r}: "
            "1}`."
        )
    return {key: remembered[key] for key in argument}


def check_ahead(name: str, sequence: Readable, known: Mapping[str, Mapping[str, list]]) -> None:
    """Checks that inputs are read as far ahead as in the model's training.

    Args:
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.
        known: what it was trained on.

    Raises:
        ValueError: an input that is read at other time steps.
    """
    for key, offsets in sequence.input_offsets.items():
        expected = known.get("offsets", {}).get(key)
        if expected is None or list(offsets) == expected:
            continue
        remedy = (
            f"Pass `known_ahead={known_ahead(known)}`"
            if max(expected)
            else f"Leave {key!r} out of `known_ahead`"
        )
        raise ValueError(
            f"The input {key!r} of `{name}` is read {_ahead(offsets)}, and the model was trained "
            f"on it {_ahead(expected)}. Received: offsets {list(offsets)}, trained on {expected}. "
            f"{remedy}; to train its weights on another alignment, give them to a model that was "
            "not trained yet: `new.set_weights(model.get_weights())`."
        )


def offset_as_trained(
    known: Mapping[str, Mapping[str, list]], targets: Structure, target_offset: Offsets
) -> Offsets:
    """`target_offset` of documents that are scored, where a call leaves it out.

    What the model reads as well stands where it stood in the training. Others may be shifted.

    Args:
        known: what the model remembers.
        targets: as the call has them; None for the corpus.
        target_offset: as the call has it.

    Raises:
        ValueError: targets of which it has to be said.
    """
    of_training = predicted(known)
    if target_offset is not None or of_training is None:
        return target_offset
    if of_training.has_targets != (targets is not None):
        return None
    keys = [] if targets is None else keras.tree.flatten(targets)
    if all(isinstance(key, str) and key in known.get("offsets", {}) for key in keys):
        return of_training.target_offset
    if max(steps_ahead(known)) == 0:
        return None
    raise ValueError(
        "`targets` may be those of the training, or shifted to the step that is read. Received: no "
        f"`target_offset`, and a model trained with target_offset={of_training.target_offset}. "
        f"Pass `target_offset={of_training.target_offset}`, or `target_offset=0` where they are "
        "shifted already."
    )


def check_predicted(name: str, sequence: Readable, known: Mapping[str, Mapping[str, list]]) -> None:
    """Checks that outputs are taken for those of the time steps that they were trained to give.

    Targets at the step itself may have been shifted beforehand, so that other offsets are no proof
    of other targets, unless they are a column of the same name.

    Args:
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads, with its targets.
        known: what it was trained on.

    Raises:
        ValueError: targets at other time steps.
    """
    of_training = predicted(known)
    if of_training is None:
        return
    expected, received = (read_offsets(o.target_offset, 0)[0] for o in (of_training, sequence))
    same_columns = (
        of_training.has_targets == sequence.has_targets
        and "targets" in known
        and any(columns is not None for columns in sequence.columns.targets.values())
    )
    may_be_shifted = (max(expected) == 0 or max(received) == 0) and not same_columns
    if received == expected or may_be_shifted:
        return
    raise ValueError(
        f"The targets of `{name}` stand {_ahead(received)}, and the model was trained to give what "
        f"stands {_ahead(expected)}. Received: target_offset={sequence.target_offset}, trained "
        f"with {of_training.target_offset}. Pass `target_offset={of_training.target_offset}` "
        f"(`horizons={of_training.target_offset}` of `from_frame`); to have it give other time "
        "steps, train it on them with `fit`."
    )


def _ahead(offsets: Iterable[int]) -> str:
    steps = " and ".join(map(str, offsets))
    return "at the step itself" if steps == "0" else f"{steps} time steps ahead"
