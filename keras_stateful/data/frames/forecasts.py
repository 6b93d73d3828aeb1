"""The sequences of a frame, and the way back: which group and time each forecast belongs to.

    predictions of `series.test` ─▶ restored: by series ─▶ `forecasts`: with times and rows
                                                            `table`: a row for each, as columns

NumPy only.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from keras_stateful.data.frames.series import Series
from keras_stateful.data.frames.splits import Part
from keras_stateful.foundation.types import Structure

S = TypeVar("S")  # `StatefulSequence`


class Forecasts(NamedTuple):
    """What a model predicted for one series.

    Attributes:
        times: that were predicted, `(steps,)` or `(steps, horizons)`; in UTC, without a zone, where
            the frame's have a time zone.
        rows: of the frame, that hold what came at these times; of the same shape.
        rows_read: the row of the frame that was read last for each, `(steps,)`.
        values: predictions, `(steps, ...)`.
    """

    times: np.ndarray
    rows: np.ndarray
    rows_read: np.ndarray
    values: np.ndarray


class FrameSequences(Generic[S]):
    """The sequences of a frame, as `StatefulSequence.from_frame` makes them.

    Attributes:
        training: what to train on.
        validation: what counts from the first split on; None without `split`.
        test: what counts from the second split on; None where there is none, or nothing behind it.
        groups: the name of each series, sorted: a value of `by`, a tuple for several columns, None
            without `by`.
    """

    _keras_stateful_parts = True  # see `foundation.protocols.is_sequence`
    training: S
    validation: S | None = None
    test: S | None = None

    def __init__(self, series: Series, offsets: tuple[int, ...], horizon: bool):
        self._series, self._horizon, self._offsets = series, horizon, np.array(offsets)
        self.groups: list[Any] = series.names
        # By part: the series that it has, and the steps of each that are predicted.
        self._predicted: dict[str, list[tuple[int, range]]] = {}

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{part}: {sum(len(steps) for _, steps in predicted)} steps of {len(predicted)} series"
            for part, predicted in self._predicted.items()
        )
        return f"<FrameSequences of {len(self.groups)} series; {parts}>"

    def forecasts(self, predictions: Structure, part: S | str) -> Any:
        """Which group and time each prediction belongs to.

        Args:
            predictions: what `model.predict` gave of one of the sequences: `(batches * batch_size,
                sequence_length, ...)`, or a list or dict of these for several outputs.
            part: the sequence that was predicted, such as `series.test`; or its name, "test".

        Returns:
            `{group: Forecasts}`, in chronological order, of the steps of the part: those whose
            targets lie in it, also where one is missing or a weight is 0 (with one output for each
            window, of those that windows end with); of several outputs a list or dict of these.
            `rows` says where what came stands in the frame that was given, for each horizon:
            `frame["temp"].to_numpy()[rows]`, or of one horizon `frame.iloc[rows[:, 0]]` in pandas,
            `frame[rows[:, 0]]` in polars (`rows` alone where `horizons` is an int).

        Raises:
            ValueError: predictions of something else, a part that is not there.
        """
        name, sequence = self._part(part)
        if isinstance(predictions, dict):
            return {key: self.forecasts(output, name) for key, output in predictions.items()}
        if isinstance(predictions, (list, tuple)):
            return [self.forecasts(output, name) for output in predictions]
        self._refuse_another(name, np.shape(predictions))
        documents = sequence.restore(predictions)
        ends = sequence.at_ends
        return {
            self.groups[number]: self._of_series(number, steps, values, ends)
            for (number, steps), values in zip(self._predicted[name], documents, strict=True)
        }

    def _part(self, part: Any) -> tuple[str, Any]:
        """The name of a part and its sequence, by either of them."""
        for name in self._predicted:
            sequence = getattr(self, name)
            if part is sequence or (isinstance(part, str) and part == name):
                return name, sequence
        names = ", ".join(f"`series.{name}`" for name in self._predicted)
        raise ValueError(
            "`part` must be the sequence that was predicted, of those that were made together. "
            f"Received: {part!r}. Pass one of {names}: `series.forecasts(model.predict("
            "series.training), series.training)`, for example."
        )

    def _refuse_another(self, name: str, shape: tuple) -> None:
        """Refuses predictions that do not fit the part, and do fit another one."""
        rows = {}
        for other in self._predicted:
            sequence: Any = getattr(self, other)
            rows[other] = sequence.num_batches * sequence.batch_size
        fitting = [other for other, number in rows.items() if shape[:1] == (number,)]
        if fitting and name not in fitting:
            raise ValueError(
                "`predictions` must be those of `part`, which says what times they are of. "
                f"Received: shape {shape} with `series.{name}`, whose have {rows[name]} rows; those"
                f" of `series.{fitting[0]}` have {rows[fitting[0]]}. Pass the sequence that was "
                f"predicted: `series.forecasts(predictions, series.{fitting[0]})`."
            )

    def _of_series(self, number: int, steps: range, values: np.ndarray, ends: bool) -> Forecasts:
        inside = self._series.slice(number)
        read = np.arange(steps.start, steps.stop)
        if ends:  # one prediction for each window, and NaN at its other steps
            read = read[~np.isnan(values[read].reshape(len(read), -1)).all(1)]
        predicted = read[:, None] + self._offsets if self._horizon else read + self._offsets[0]
        times, rows = self._series.times[inside], self._series.rows[inside]
        return Forecasts(times[predicted], rows[predicted], rows[read], values[read])

    def add(self, part: Part, sequence: S) -> None:
        """Takes the sequence of a part."""
        setattr(self, part.name, sequence)
        stops = part.stop - self._offsets.max()
        steps = map(range, part.start.tolist(), stops.tolist())
        self._predicted[part.name] = list(zip(part.series.tolist(), steps, strict=True))
