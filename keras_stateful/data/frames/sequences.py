"""`StatefulSequence.from_frame`: what a forecaster reads of a frame of readings. NumPy only."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import numpy as np

from keras_stateful.data.frames.columns import FrameColumns, Line, Names, NamesByKey, by_key
from keras_stateful.data.frames.series import Series, open_series
from keras_stateful.data.frames.splits import Part, parts_of
from keras_stateful.data.frames.time_steps import check_steps
from keras_stateful.data.offsets import read_offsets
from keras_stateful.foundation.arguments import one_of, true_or_false
from keras_stateful.foundation.frames import columns_of
from keras_stateful.foundation.types import Structure

S = TypeVar("S")  # `StatefulSequence`, which has `from_frame` from here

# What concerns the training alone: the other parts read each series once, whole and in order.
_OF_TRAINING = ("burn_in", "max_document_length", "shuffle", "shift_windows", "seed")
# Arguments of `StatefulSequence` that are made here, and what says them.
_MADE_HERE = {
    "corpus": "inputs",
    "target_offset": "horizons",
    "encode": "inputs",
}


class Forecasts(NamedTuple):
    """What a model predicted for one series.

    Attributes:
        times: that were predicted, `(steps,)` or `(steps, horizons)`; in UTC where the frame's have
            a time zone.
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

    training: S
    validation: S | None = None
    test: S | None = None

    def __init__(self, series: Series, offsets: tuple[int, ...], horizon: bool):
        self._series, self._horizon, self._offsets = series, horizon, np.array(offsets)
        self.groups: list[Any] = series.names
        # By part: the series that it has, and the steps of each that count.
        self._counted: dict[str, list[tuple[int, range]]] = {}

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{part}: {sum(len(steps) for _, steps in counted)} steps of {len(counted)} series"
            for part, counted in self._counted.items()
        )
        return f"<FrameSequences of {len(self.groups)} series; {parts}>"

    def forecasts(self, predictions: Structure, part: str = "validation") -> Any:
        """Which group and time each prediction belongs to.

        Args:
            predictions: what `model.predict` gave of one of the sequences: `(batches * batch_size,
                sequence_length, ...)`, or a list or dict of these for several outputs.
            part: which: "training", "validation" or "test".

        Returns:
            `{group: Forecasts}` of the steps that count, in chronological order (with one output
            for each window, of those that windows end with); of several outputs a list or dict of
            these. `rows` says where each stands in the frame that was given:
            `frame.iloc[rows]` in pandas, `frame[rows]` in polars.

        Raises:
            ValueError: predictions of something else, a part that is not there.
        """
        one_of("part", part, list(self._counted))
        sequence: Any = getattr(self, part)
        if isinstance(predictions, dict):
            return {key: self.forecasts(output, part) for key, output in predictions.items()}
        if isinstance(predictions, (list, tuple)):
            return [self.forecasts(output, part) for output in predictions]
        documents = sequence.restore(predictions)
        ends = sequence.at_ends
        return {
            self.groups[number]: self._of_series(number, steps, values, ends)
            for (number, steps), values in zip(self._counted[part], documents, strict=True)
        }

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
        self._counted[part.name] = list(zip(part.series.tolist(), steps, strict=True))


class FromFrame:
    """`StatefulSequence.from_frame`."""

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        batch_size: int,
        sequence_length: int,
        targets: NamesByKey,
        inputs: NamesByKey = (),
        known_ahead: NamesByKey = (),
        static: NamesByKey = (),
        by: Names | None = None,
        time: Hashable | None = None,
        horizons: int | Sequence[int] = 1,
        split: Any = None,
        sample_weight: Hashable | None = None,
        missing_targets: str = "refuse",
        partial: bool = False,
        **options: Any,
    ) -> FrameSequences[Self]:
        """Sequences for the training, validation and test of a forecaster, from a frame.

        The rows of each group make a series, in the order of time. A frame is one of pandas,
        polars, Arrow or anything else that has names for its columns, of which `frame[name]` is an
        array; none of these packages is needed. A column alone is one number at each time step, ids
        for example; a list of columns is features, `(timesteps, columns)`, whose names a model
        remembers.

        Args:
            frame: rows of readings, in any order.
            batch_size: as in `StatefulSequence`, and so is `sequence_length`.
            targets: the column to predict, or several; or a dict of these, one for each output.
            inputs: columns that are read at each step, and known up to then. They are the model's
                input; beside others, the one named "inputs". Or a dict of columns, for several
                inputs of these names.
            known_ahead: columns that are known beforehand, such as the hour or a tariff: the input
                "known_ahead". At each step the model reads those of the time that it predicts. Or a
                dict.
            static: columns that are constant in each group: the input "static". Or a dict.
            by: the column, or several, whose values tell series apart; None: the frame is one.
                Series are in sorted order.
            time: the column of times, or of whole numbers that count the steps. None: the rows
                of each series are in order and complete.
            horizons: how many steps ahead the targets are; an int, or several, which gives targets
                an axis, `(batch_size, sequence_length, horizons, ...)`.
            split: where training ends and validation begins, or a pair: where validation ends, too,
                and the test begins. A time, or a float: that fraction of each series. No target of
                a part lies at or after its end; the validation counts from the first split on, and
                reads each series from its beginning.
            sample_weight: a column of weights, of the row that is read.
            missing_targets: "refuse", or "skip": steps with a target that is missing get weight 0.
            partial: True if parts may lack series that have nothing in them, such as those that
                begin after the split.
            **options: of `StatefulSequence`, for all parts (`label_at="window"` for a model that
                ends with `return_sequences=False`); `burn_in`, `max_document_length`,
                `shuffle`, `shift_windows` and `seed` for the training alone.

        Returns:
            An object with `training`, and, with `split`, `validation` and `test`, each a
            `StatefulSequence`; `groups`; and `forecasts(predictions, part)`, which says for
            predictions which group and time they belong to.

        Raises:
            TypeError: no frame, times that are none, an argument of the wrong type.
            ValueError: columns that the frame lacks, values that are missing, times that are
                doubled or uneven, static columns that are not, a series without a step to count, a
                target among what is known ahead.

        Example:

        ```python
        import keras, numpy as np, pandas as pd
        import keras_stateful as ks

        hours = pd.date_range("2026-01-01", periods=200, freq="h")
        frame = pd.concat(
            pd.DataFrame({"machine": m, "time": hours, "temp": np.sin(np.arange(200) + k)})
            for k, m in enumerate("ab")
        )
        series = ks.StatefulSequence.from_frame(
            frame, by="machine", time="time", inputs=["temp"], targets="temp", horizons=[1, 6],
            split="2026-01-07", batch_size=2, sequence_length=24, resets=True,
        )
        model = ks.to_stateful(keras.Sequential([
            keras.Input((None, 1)), keras.layers.GRU(4, return_sequences=True),
            keras.layers.Dense(2),  # one for each horizon
        ]), series.training)
        model.compile("adam", "mse")
        model.fit(series.training, validation_data=series.validation, verbose=0)
        forecasts = series.forecasts(model.predict(series.validation, verbose=0))
        assert forecasts["b"].times[0, 1] == np.datetime64("2026-01-07T06:00")
        assert frame.iloc[forecasts["b"].rows[0, 1]]["machine"] == "b"
        ```
        """
        _check_arguments(frame, options)
        one_of("missing_targets", missing_targets, ("refuse", "skip"))
        series = open_series(frame, by, time)
        check_steps(series)
        offsets, horizon = read_offsets(horizons, 1, "horizons")
        columns = FrameColumns(frame, series)
        predicted = {
            key: columns.read(where, chosen) for key, where, chosen in by_key("targets", targets)
        }
        lines = _Lines(
            series,
            inputs=columns.inputs("inputs", inputs),
            known_ahead=columns.inputs("known_ahead", known_ahead),
            static=columns.static("static", static),
            targets=predicted,
            weights=columns.weights(
                [*predicted.values()], sample_weight, offsets, skip=missing_targets == "skip"
            ),
        )
        lines.check_answers(offsets)
        result: FrameSequences[Self] = FrameSequences(series, offsets, horizon)
        partial = true_or_false("partial", partial)
        for part in parts_of(series, split, max(offsets), lines.weights, partial):
            arguments = {**options, **lines.arguments(part), "target_offset": horizons}
            # By name only where a name was given or is needed to tell several apart.
            if not (isinstance(inputs, Mapping) or lines.known_ahead or lines.static):
                arguments["corpus"] = arguments["corpus"]["inputs"]
            if not isinstance(targets, Mapping):
                arguments["targets"] = arguments["targets"]["targets"]
            if part.name != "training":
                arguments = {k: v for k, v in arguments.items() if k not in _OF_TRAINING}
                arguments["burn_in"] = part.start.tolist()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sequence = cast(Any, cls)(
                    batch_size=batch_size, sequence_length=sequence_length, **arguments
                )
            for warning in caught:
                # Few series fill few rows, and only those of the training can be cut.
                if part.name == "training" or "of all time steps are" not in str(warning.message):
                    warnings.warn(warning.message, stacklevel=2)
            result.add(part, sequence)
        return result


@dataclass(frozen=True)
class _Lines:
    """Columns of all series, by key of the model's inputs and outputs."""

    series: Series
    inputs: dict[str, Line]
    known_ahead: dict[str, Line]
    static: dict[str, Line]
    targets: dict[str, Line]
    weights: np.ndarray | None

    def check_answers(self, offsets: tuple[int, ...]) -> None:
        """Refuses a target that a model would read at the step that it predicts."""
        predicted = {column for line in self.targets.values() for column in line.columns}
        read = {"known_ahead": self.known_ahead, "inputs": self.inputs if 0 in offsets else {}}
        for name, lines in read.items():
            for line in lines.values():
                answers = [column for column in line.columns if column in predicted]
                if answers:
                    raise ValueError(
                        f"`{name}` holds a target, which the model would read at the very step "
                        f"that it predicts. Received: {answers[0]!r} in `{name}` and in `targets`, "
                        f"horizons {list(offsets)}. "
                        + (
                            "Pass it in `inputs`: it is known up to the step that is read."
                            if name == "known_ahead"
                            else "Leave it out of `inputs`, or take horizons of 1 or more."
                        )
                    )
        twice = self.inputs.keys() & self.known_ahead.keys()
        if twice:
            raise ValueError(
                "`inputs` and `known_ahead` must name different inputs of the model. Received: key "
                f"{min(twice)!r} in both. Rename one: what is known ahead is read at another time."
            )
        if not (self.inputs or self.known_ahead):
            raise ValueError(
                "`inputs` must name what the model reads. Received: no columns in `inputs` and "
                "`known_ahead`. To predict a series from itself pass its column in both, "
                "`inputs=['temp'], targets='temp'`."
            )
        if not self.targets:
            raise ValueError(
                "`targets` must name the column that is predicted, or several. Received: none."
            )

    def arguments(self, part: Part) -> dict[str, Any]:
        """Arguments of `StatefulSequence` for the documents of a part, by key."""

        def documents(line: Line) -> list:
            ends = zip(part.series.tolist(), part.stop.tolist(), strict=True)
            return [line.cut(self.series.slice(number, 0, stop)) for number, stop in ends]

        read = {**self.inputs, **self.known_ahead}
        arguments: dict[str, Any] = {
            "corpus": {key: documents(line) for key, line in read.items()},
            "targets": {key: documents(line) for key, line in self.targets.items()},
        }
        if self.weights is not None:
            arguments["sample_weight"] = documents(Line(self.weights, ()))
        if self.known_ahead:
            arguments["known_ahead"] = [*self.known_ahead]
        if self.static:
            arguments["static"] = {key: line.cut(part.series) for key, line in self.static.items()}
        return arguments


def _check_arguments(frame: Any, options: dict[str, Any]) -> None:
    """Refuses what is no frame, and arguments of `StatefulSequence` that are made from others."""
    if columns_of(frame) is None:
        kind = type(frame)
        remedy = (
            "Read it first: `frame.collect()`."
            if hasattr(frame, "collect")
            else "Name the groups by `by=`."
            if "GroupBy" in kind.__name__
            else "Make one of it, `pandas.DataFrame(...)`; arrays go to `StatefulSequence(...)`."
        )
        raise TypeError(
            "`frame` must be a frame: columns with names, as those of pandas, polars and Arrow. "
            f"Received: {kind.__module__}.{kind.__name__}. {remedy}"
        )
    if not len(frame):
        raise ValueError(
            "`frame` has no rows. Received: a frame of length 0. Is the file that it was read from "
            "the right one, or a filter too narrow?"
        )
    for name in _MADE_HERE.keys() & options.keys():
        raise TypeError(
            f"`from_frame` makes `{name}` itself. Received: {name}={str(options[name])[:60]}. Pass "
            f"`{_MADE_HERE[name]}=`."
        )
