"""The sequences of a frame, and the way back: which group and time each forecast belongs to.

    predictions of `series.test` ─▶ restored: by series ─▶ `forecasts`: with times and rows
                                                            `table`: a row for each, as columns

NumPy only.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from keras_stateful.data.frames.series import Series
from keras_stateful.data.frames.splits import Part
from keras_stateful.data.frames.time_steps import times_behind
from keras_stateful.foundation.types import Structure

S = TypeVar("S")  # `StatefulSequence`


class Forecasts(NamedTuple):
    """What a model predicted for one series.

    Attributes:
        times: that were predicted, `(steps,)` or `(steps, horizons)`; in UTC, without a zone, where
            the frame's have a time zone.
        rows: of the frame, that hold what came at these times; of the same shape. Where the frame
            has no row yet, its length, which no row has.
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
        future: the forecasts of which nothing has come yet: reads each series up to its last
            reading (with `label_at="window"`, in windows of which one ends there), and counts the
            steps whose latest target lies behind it. For `predict`: there is nothing to score. What
            is known ahead must be there: rows behind the last reading, without inputs and targets,
            hold it. None where they are lacking, and with `boundary="ignore"`.
        groups: the name of each series, sorted: a value of `by`, a tuple for several columns, None
            without `by`.
    """

    _keras_stateful_parts = True  # see `foundation.protocols.is_sequence`
    training: S
    validation: S | None = None
    test: S | None = None

    def __init__(
        self,
        series: Series,
        step: Any,
        offsets: tuple[int, ...],
        horizon: bool,
        make: Callable[[Part], S],
    ):
        """Sequences are added part by part.

        Args:
            series: of the frame.
            step: between times; see `check_steps`.
            offsets: the horizons.
            horizon: True if predictions have an axis for them.
            make: the sequence of a part.
        """
        self._series, self._step = series, step
        self._horizon, self._offsets = horizon, np.array(offsets)
        self._make = make
        self._future: Part | None = None
        self.groups: list[Any] = series.names
        # By part: the series that it has, where each begins, and its steps that are predicted.
        self._predicted: dict[str, list[tuple[int, int, range]]] = {}

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{part}: {sum(len(steps) for *_, steps in predicted)} steps of {len(predicted)} series"
            for part, predicted in self._predicted.items()
        )
        return f"<FrameSequences of {len(self.groups)} series; {parts}>"

    @cached_property
    def future(self) -> S | None:
        """The forecasts of which nothing has come yet; see the class."""
        return None if self._future is None else self._make(self._future)

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
            self.groups[number]: self._of_series(number, begin, steps, values, ends)
            for (number, begin, steps), values in zip(self._predicted[name], documents, strict=True)
        }

    def table(self, predictions: Structure, part: S | str) -> Any:
        """Forecasts as columns, a row for each series, step and horizon.

        Args:
            predictions: as `forecasts` takes them, and so is `part`.

        Returns:
            `{column: (rows,)}` for `pandas.DataFrame(...)` or `polars.DataFrame(...)`: those of
            `by`; the time that is predicted, by the name of the frame's ("step" without `time`; in
            UTC, without a zone, where the frame's have a time zone); "horizon", in steps; "row" of
            the frame that holds what came, its length where it has none yet; and "forecast", or
            "forecast_0" and so on where there are several numbers. Of several outputs a list or
            dict of these.

        Raises:
            ValueError: what `forecasts` refuses, an output without an axis for horizons, a column
                of the frame with the name of one of these.
        """
        if isinstance(predictions, dict):
            return {key: self.table(output, part) for key, output in predictions.items()}
        if isinstance(predictions, (list, tuple)):
            return [self.table(output, part) for output in predictions]
        forecasts = self.forecasts(predictions, part)
        count = len(self._offsets)
        each = [self._values_by_horizon(of_one.values, count) for of_one in forecasts.values()]
        number = [len(values) for values in each]
        groups = [group if isinstance(group, tuple) else (group,) for group in forecasts]
        columns = {
            name: np.repeat(np.array([group[k] for group in groups]), number)
            for k, name in enumerate(self._series.by)
        }
        values = np.concatenate(each)
        width = values.shape[1]
        time = "step" if self._series.time is None else self._series.time
        steps = sum(number) // count
        measured: dict[Any, np.ndarray] = {
            time: np.concatenate([of_one.times.ravel() for of_one in forecasts.values()]),
            "horizon": np.tile(self._offsets, steps),
            "row": np.concatenate([of_one.rows.ravel() for of_one in forecasts.values()]),
            **{f"forecast_{k}" if width > 1 else "forecast": values[:, k] for k in range(width)},
        }
        twice = [name for name in columns if name in measured]
        if twice or len(measured) != 3 + width:
            raise ValueError(
                "A table has a column of its own name for each of `by`, `time`, horizon, row and "
                f"forecast. Received: by={list(columns)}, time={self._series.time!r} beside "
                f"{[name for name in measured if name != time]}. Rename that column of the frame."
            )
        return {**columns, **measured}

    def _values_by_horizon(self, values: np.ndarray, count: int) -> np.ndarray:
        """Predictions of a series with a row for each step and horizon, `(steps * count, ...)`."""
        if self._horizon and values.shape[1:2] != (count,):
            raise ValueError(
                "A table needs predictions with an axis for horizons behind that of steps, "
                f"`({count}, ...)`. Received: {values.shape[1:]} for each step, horizons "
                f"{self._offsets.tolist()}. Give the model such an output, `Dense({count})`, or "
                "take `forecasts(...)`."
            )
        return values.reshape(len(values) * (count if self._horizon else 1), -1)

    def _part(self, part: Any) -> tuple[str, Any]:
        """The name of a part and its sequence, by either of them."""
        for name in self._predicted:
            # `future` is made when it is asked for.
            if (isinstance(part, str) and part == name) or (
                part is not None and part is vars(self).get(name)
            ):
                return name, getattr(self, name)
        names = ", ".join(f"`series.{name}`" for name in self._predicted)
        raise ValueError(
            "`part` must be the sequence that was predicted, of those that were made together. "
            f"Received: {part!r}. Pass one of {names}: `series.forecasts(model.predict("
            "series.training), series.training)`, for example. A part that is None has no step: "
            "`split` makes the validation and the test, and `future` needs rows behind the last "
            "reading that hold what is known ahead."
        )

    def _refuse_another(self, name: str, shape: tuple) -> None:
        """Refuses predictions that do not fit the part, and do fit another one."""
        made: dict[str, Any] = {part: vars(self).get(part) for part in self._predicted}
        rows = {part: s.num_batches * s.batch_size for part, s in made.items() if s is not None}
        fitting = [other for other, number in rows.items() if shape[:1] == (number,)]
        if fitting and name not in fitting:
            raise ValueError(
                "`predictions` must be those of `part`, which says what times they are of. "
                f"Received: shape {shape} with `series.{name}`, whose have {rows[name]} rows; those"
                f" of `series.{fitting[0]}` have {rows[fitting[0]]}. Pass the sequence that was "
                f"predicted: `series.forecasts(predictions, series.{fitting[0]})`."
            )

    def _of_series(
        self, number: int, begin: int, steps: range, values: np.ndarray, ends: bool
    ) -> Forecasts:
        inside = self._series.slice(number)
        read = np.arange(steps.start, steps.stop)
        if ends:  # one prediction for each window, and NaN at its other steps
            read = read[~np.isnan(values[read - begin].reshape(len(read), -1)).all(1)]
        predicted = read[:, None] + self._offsets if self._horizon else read + self._offsets[0]
        times, rows = self._series.times[inside], self._series.rows[inside]
        behind = int(predicted.max(initial=0)) + 1 - len(times)
        if behind > 0:
            times = np.concatenate([times, times_behind(times, self._step, behind)])
            rows = np.concatenate([rows, np.full(behind, len(self._series.rows))])
        return Forecasts(times[predicted], rows[predicted], rows[read], values[read - begin])

    def add(self, part: Part) -> None:
        """Makes the sequence of a part; that of the future when it is asked for."""
        if part.name == "future":
            self._future = part
        else:
            setattr(self, part.name, self._make(part))
        stops = part.stop - self._offsets.max()
        steps = map(range, part.start.tolist(), stops.tolist())
        places = zip(part.series.tolist(), part.begin.tolist(), steps, strict=True)
        self._predicted[part.name] = list(places)
