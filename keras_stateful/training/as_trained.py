"""Data are read and scored as in a model's training, or refused: see `data.trained_on`.

Columns of frames go by name, in `fit`, `evaluate`, `predict` of a sequence, `predict_documents`,
`evaluate_documents`, `ValidateDocuments` and the prompt of `generate`; arrays have no names and go
by place. Inputs are read as far ahead, and outputs taken for those of the same time steps.
"""

from collections.abc import Iterable, Mapping

import keras

from keras_stateful.data.columns import ColumnOrder
from keras_stateful.data.inputs import KnownAhead
from keras_stateful.data.offsets import Offsets, read_offsets
from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation.frames import column_places
from keras_stateful.foundation.protocols import Readable
from keras_stateful.foundation.types import Structure
from keras_stateful.training.model_memory import remembered_name


def read_as_trained(name: str, sequence: Readable, known: TrainedOn) -> None:
    """Has a sequence give its columns in the order of a model's training.

    Args:
        name: name of the argument that gives the sequence, used in error messages.
        sequence: what the model reads.
        known: what it was trained on.

    Raises:
        ValueError: columns that are missing or that the model does not know; an input that is read
            at other time steps.
    """
    _check_ahead(name, sequence, known)
    order = ColumnOrder()
    for group, arrays in sequence.columns._asdict().items():
        for key, columns in arrays.items():
            expected = getattr(known, group).get(remembered_name(key, arrays))
            array = name if key is None else f"{name}[{key!r}]"
            where = f"`{array}`" if group == "inputs" else f"The targets of `{array}`"
            places = column_places(where, columns, expected)
            if places is not None:
                getattr(order, group)[key] = places
    sequence.order_columns(order)


def as_remembered(known: TrainedOn, argument: KnownAhead) -> KnownAhead:
    """`known_ahead` of a call without targets, whose offsets a model has to remember.

    Raises:
        ValueError: a key of which the model remembers nothing.
    """
    if argument is None or isinstance(argument, (str, Mapping)):
        return argument
    unknown = [key for key in argument if key not in known.offsets]
    if unknown:
        raise ValueError(
            "`known_ahead` does not say how far ahead, and the model remembers nothing of it: it "
            "was not trained on a `StatefulSequence` with this input. Received: known_ahead="
            f"{list(argument)}. Pass the offset of its training, `known_ahead={{{unknown[0]!r}: "
            "1}`."
        )
    return {key: known.offsets[key] for key in argument}


def _check_ahead(name: str, sequence: Readable, known: TrainedOn) -> None:
    """Refuses an input that is read at other time steps than in the model's training."""
    for key, offsets in sequence.input_offsets.items():
        expected = known.offsets.get(key)
        if expected is None or list(offsets) == expected:
            continue
        remedy = (
            f"Pass `known_ahead={known.known_ahead}`"
            if max(expected)
            else f"Leave {key!r} out of `known_ahead`"
        )
        raise ValueError(
            f"The input {key!r} of `{name}` is read {_ahead(offsets)}, and the model was trained "
            f"on it {_ahead(expected)}. Received: offsets {list(offsets)}, trained on {expected}. "
            f"{remedy}; to train its weights on another alignment, give them to a model that was "
            "not trained yet: `new.set_weights(model.get_weights())`."
        )


def offset_as_trained(known: TrainedOn, targets: Structure, target_offset: Offsets) -> Offsets:
    """`target_offset` of documents that are scored, where a call leaves it out.

    What the model reads as well stands where it stood in the training. Others may be shifted.

    Args:
        known: what the model remembers.
        targets: as the call has them; None for the corpus.
        target_offset: as the call has it.

    Raises:
        ValueError: targets of which it has to be said.
    """
    if target_offset is not None or known.target_offset is None:
        return target_offset
    if known.has_targets != (targets is not None):
        return None
    keys = [] if targets is None else keras.tree.flatten(targets)
    if all(isinstance(key, str) and key in known.offsets for key in keys):
        return known.target_offset
    if max(known.steps_ahead) == 0:
        return None
    raise ValueError(
        "`targets` may be those of the training, or shifted to the step that is read. Received: no "
        f"`target_offset`, and a model trained with target_offset={known.target_offset}. "
        f"Pass `target_offset={known.target_offset}`, or `target_offset=0` where they are "
        "shifted already."
    )


def check_predicted(name: str, sequence: Readable, known: TrainedOn) -> None:
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
    expected, received = known.steps_ahead, read_offsets(sequence.target_offset, 0)[0]
    if received == expected or not expected:
        return
    same_columns = (
        known.has_targets == sequence.has_targets
        and bool(known.targets)
        and any(columns is not None for columns in sequence.columns.targets.values())
    )
    if (max(expected) == 0 or max(received) == 0) and not same_columns:
        return
    raise ValueError(
        f"The targets of `{name}` stand {_ahead(received)}, and the model was trained to give what "
        f"stands {_ahead(expected)}. Received: target_offset={sequence.target_offset}, trained "
        f"with {known.target_offset}. Pass `target_offset={known.target_offset}` "
        f"(`horizons={known.target_offset}` of `from_frame`); to have it give other time "
        "steps, train it on them with `fit`."
    )


def _ahead(offsets: Iterable[int]) -> str:
    steps = " and ".join(map(str, offsets))
    return "at the step itself" if steps == "0" else f"{steps} time steps ahead"
