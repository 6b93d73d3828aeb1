"""What rooms ask of classes that are written further along the way, which they cannot import.

The checks of `fit`, the resets, `ResumeTraining` and the devices all read a sequence or a stream;
`Readable` says what they ask of it. Classes are recognised by a mark, an attribute of the class.
"""

from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any, Protocol, TypeAlias, TypeGuard

import keras
import numpy as np

# The name of one of several inputs or targets; None where there is one alone.
Key: TypeAlias = str | None
# Where a training stands in its data, as JSON.
Position: TypeAlias = dict[str, Any]


class Readable(Protocol):
    """Batches that carry on from each other: a `StatefulSequence` or a `StatefulStream`.

    Attributes:
        epoch: the pass that is read; settable.
        epochs_begun: how often Keras began an epoch on these batches.
        steps_per_epoch: of a stream whose epochs go on where the one before stopped; else None.
        resets: True if the reset mask rides along as the model's last input.
        boundary: "align", "pack" or "ignore".
        sequence_length: time steps of a window.
        global_batch_size: rows of all shards.
        shard: index and count; a stream is always `(0, 1)`.
        has_targets: True if targets other than the corpus were given.
        label_at: "every", "window" or "last".
        stride: time steps from the start of a window to that of the next, where windows overlap;
            else None.
    """

    epoch: int
    epochs_begun: int
    steps_per_epoch: int | None
    resets: bool
    boundary: str
    sequence_length: int
    global_batch_size: int
    shard: tuple[int, int]
    has_targets: bool
    label_at: str
    stride: int | None

    # What the batches are

    @property
    def batch_size(self) -> int:
        """Rows of the batches given: those of this shard."""

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch; None for a stream whose end nobody knows."""

    @property
    def target_offset(self) -> int | list[int]:
        """How many time steps ahead of the input the targets are, of all outputs."""

    @property
    def once(self) -> bool:
        """True if the data can be read one time only: a stream of an iterator."""

    @property
    def columns(self) -> Any:
        """The `ColumnNames` of frames, of inputs and targets."""

    @property
    def input_offsets(self) -> dict[str, tuple[int, ...]]:
        """How many time steps later each input of a dict is read: 0 what is not known ahead."""

    @property
    def series(self) -> str | None:
        """The input whose next value is predicted, "" for the only one; None where none is."""

    @property
    def static_shapes(self) -> dict[str, tuple]:
        """Shapes of what static inputs have for one document, by key."""

    @property
    def most_resets(self) -> int | None:
        """The most resets of a row behind a window's first step; None: unknown, or none there."""

    def signature(self) -> tuple:
        """A batch in which the shape and dtype of each array stand in its place."""

    def reset_mask(self, i: int, epoch: int | None = None) -> np.ndarray:
        """Which rows start from the initial state in batch `i`."""

    # What a model knows

    def check_ids(self, known: dict[Key, int]) -> None:
        """Refuses ids that a model's `Embedding` does not know, by key of the input."""

    def check_classes(self, known: dict[Key, Any]) -> None:
        """Refuses target ids that a model's output has no class for, by key of the target."""

    def order_columns(self, order: Any) -> None:
        """Has batches give columns in a `ColumnOrder`, the one that a model was trained on."""

    def hand_once(self, keys: frozenset[str]) -> None:
        """Has batches give static inputs once for each row, not for each time step."""

    def give_targets(self, *, at_ends: bool) -> None:
        """Has batches give targets at each window's last step alone, or at every step."""

    # How they are read

    def read_pass(self, *, looks: bool = False) -> Iterator[tuple]:
        """The batches of one epoch; with `looks`, somebody only looks at them."""

    def trained(self, batches: int) -> None:
        """Takes note that so many batches of the present pass were trained on."""

    def ends_at(self, batches: int) -> bool:
        """True if the present pass has no more than these batches."""

    # Where a training stands in them, for `ResumeTraining`

    def position(self, batches: int, epoch: int, *, over: bool = False) -> Position:
        """Where a pass stands after some batches."""

    def seek(self, position: Position) -> None:
        """The pass that is read next goes on from a `position`."""

    def bookmark(self) -> Position | None:
        """Where the next pass begins; None where that does not depend on what was read."""

    def go_back(self, bookmark: Position | None) -> None:
        """The next pass begins at a bookmark: the call that has read from there on failed."""

    def check_seekable(self) -> None:
        """Refuses data that cannot be repositioned."""

    def fingerprint(self) -> Mapping[str, Any]:
        """What makes the batches what they are, as JSON."""


def is_sequence(data: object) -> TypeGuard[Readable]:
    """True for a `StatefulSequence` or a `StatefulStream`.

    Raises:
        TypeError: the parts of a frame, of which one is such a sequence.
    """
    if getattr(type(data), "_keras_stateful_parts", False):
        raise TypeError(
            "What reads batches takes one sequence, and `from_frame` gives several. Received: "
            f"{data!r}. Pass one of its parts, `series.training`, `validation_data="
            "series.validation` or `series.test`."
        )
    return getattr(type(data), "_keras_stateful_sequence", False)


def sequence_or_none(data: object) -> Readable | None:
    """The data if they are a sequence or a stream, else None."""
    return data if is_sequence(data) else None


def resets_given(sequence: Readable) -> str | None:
    """The kind of reset masks among a sequence's inputs: None, "window" or "step"."""
    if not sequence.resets:
        return None
    return "step" if sequence.boundary == "pack" else "window"


def resets_taken(model: keras.Model) -> str | None:
    """The kind of a model's input `"resets"`: None, "window" `(batch,)`, "step" `(batch, time)`."""
    return model.resets if is_converted(model) else None


def stride_taken(model: keras.Model) -> int | None:
    """Steps of a window behind which a model carries its state on; None: the whole window."""
    return model.stride if is_converted(model) else None


def is_converted(model: keras.Model) -> bool:
    """True for a `StatefulModel`, as `to_stateful` and `to_inference` return it."""
    return getattr(type(model), "_keras_stateful_model", False)


# Files


def is_legacy_file(path: object) -> bool:
    """True for the path of a whole model in HDF5, Keras's format before `.keras`."""
    text = fspath(path) if isinstance(path, (str, PathLike)) else ""
    return str(text).endswith((".h5", ".hdf5")) and not str(text).endswith(".weights.h5")


def legacy_file_refused(argument: str, path: object) -> ValueError:
    """The error for a model of this package that is to be saved in HDF5.

    Such a file names a class without its package, and Keras could not load it.
    """
    return ValueError(
        f"A model that carries its state cannot be loaded from an HDF5 file. Received: {argument}="
        f"{str(path)!r}. Save it as `.keras`, for example `model.save('model.keras')`; weights "
        "alone go into a `.weights.h5` file with `save_weights` (`save_weights_only=True`)."
    )
