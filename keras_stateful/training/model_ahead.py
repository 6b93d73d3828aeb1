"""What a model remembers of time: how far ahead it reads each input, and which one it predicts.

Two groups of what `model_columns` remembers:

    "offsets"   how many time steps later each input of a dict was read, by its name; 0 at the step
                itself, 1 and more what is known ahead
    "series"    under "" the input whose next value the output is, "" for the only one

So that `predict_documents` and `generate` read what is known ahead where the training did, and
`generate` feeds back what is the next value of an input and nothing else.
"""

from collections.abc import Iterable, Mapping

import keras

from keras_stateful.data.inputs import KnownAhead
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable

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


def learn_ahead(
    learned: dict[str, dict[str, list]], model: keras.Model, sequence: Readable
) -> None:
    """Writes down what a training on a sequence tells.

    Args:
        learned: what the model remembers; written to.
        model: the model, compiled.
        sequence: what it is trained on.
    """
    for key, offsets in sequence.input_offsets.items():
        learned.setdefault("offsets", {}).setdefault(key, list(offsets))
    learned.pop("series", None)  # the last training decides what the output is
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


def _ahead(offsets: Iterable[int]) -> str:
    steps = " and ".join(map(str, offsets))
    return "at the step itself" if steps == "0" else f"{steps} time steps ahead"
