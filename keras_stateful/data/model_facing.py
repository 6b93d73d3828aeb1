"""What a model asks of its data, and how it has them given: alike of a sequence and of a stream."""

from keras_stateful.data.columns import ColumnNames, ColumnOrder, column_names
from keras_stateful.data.feed import Batches
from keras_stateful.data.ids import Classes, of_id_targets
from keras_stateful.data.parts import Parts
from keras_stateful.data.sequence_checks import check_one_document
from keras_stateful.data.stream_windows import StreamWindows
from keras_stateful.data.windows import Windows


class ModelFacing(Batches):
    """Batches that a model can ask what they hold, and that it has given as it takes them."""

    boundary: str
    _parts: Parts
    _windows: Windows | StreamWindows
    _continuous = False  # True of one text

    # What they hold

    @property
    def target_offset(self) -> int | list[int]:
        """How many time steps ahead of the input the targets are, of all outputs."""
        return self._parts.target_offset

    @property
    def columns(self) -> ColumnNames:
        """The columns of frames, as the first frame of each has them."""
        return column_names(self._parts)

    @property
    def static_shapes(self) -> dict[str, tuple]:
        """Shapes of what static inputs have for one document, by key."""
        return self._parts.static_shapes

    @property
    def input_offsets(self) -> dict[str, tuple[int, ...]]:
        """How many time steps later each input of a dict is read: 0 what is not known ahead."""
        return self._parts.input_offsets

    @property
    def series(self) -> str | None:
        """The input whose next value is predicted, "" for the only one; None where none is."""
        return self._parts.series

    def signature(self) -> tuple:
        return self._windows.signature()

    # How they are given

    def check_classes(self, known: dict[str | None, Classes]) -> None:
        """Refuses target ids that a model's output has no class for, at once or as they are read.

        Args:
            known: the classes of each output, by its name; the name is None for a single one.
        """
        self._windows.check_classes(of_id_targets(known, self.signature()[1]))

    def order_columns(self, order: ColumnOrder) -> None:
        """Has batches give the columns of frames in the order that a model was trained on."""
        self._windows.order = order

    def hand_once(self, keys: frozenset[str]) -> None:
        """Has batches give static inputs once for each row, `(batch_size, ...)`.

        Raises:
            ValueError: windows that hold more than one document.
        """
        check_one_document(keys, self.boundary, self._continuous)
        self._windows.once = keys
