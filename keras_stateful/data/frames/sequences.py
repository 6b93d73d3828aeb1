"""`StatefulSequence.from_frame`: what a forecaster reads of a frame of readings. NumPy only."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from inspect import signature
from typing import Any, Self, cast

import numpy as np

from keras_stateful.data.frames.columns import FrameColumns, Line, Names, NamesByKey, by_key
from keras_stateful.data.frames.forecasts import FrameSequences
from keras_stateful.data.frames.series import Series, open_series
from keras_stateful.data.frames.splits import Part, future_of, parts_of
from keras_stateful.data.frames.time_steps import check_steps
from keras_stateful.data.offsets import read_offsets
from keras_stateful.foundation.arguments import one_of, true_or_false
from keras_stateful.foundation.frames import columns_of

# What concerns the training alone: the other parts read each series once, whole and in order.
_OF_TRAINING = ("burn_in", "max_document_length", "shuffle", "shift_windows", "seed")
# Arguments of `StatefulSequence` that are made here, and what says them.
_MADE_HERE = {
    "corpus": "inputs",
    "target_offset": "horizons",
    "encode": "inputs",
}


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
                "known_ahead". At each step the model reads those of the time that it predicts, of
                several horizons all columns of the first, then those of the next. Or a dict. The
                last rows of a series may hold these alone, with NaN as inputs and targets: they are
                to come, and `future` forecasts them.
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
                ends with `return_sequences=False`, with `horizons=0` for labels of the step
                itself); `burn_in`, `max_document_length`, `shuffle`, `shift_windows` and `seed`
                for the training alone. `target_offset` and `encode` are made here.

        Returns:
            An object with `training`, and, with `split`, `validation` and `test`, each a
            `StatefulSequence`; `future`, which reads up to the last reading; `groups`; and
            `forecasts(predictions, part)` and `table(predictions, part)`, which say for
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
        predictions = model.predict(series.validation, verbose=0)
        forecasts = series.forecasts(predictions, series.validation)
        assert forecasts["b"].times[0, 1] == np.datetime64("2026-01-07T06:00")
        assert frame.iloc[forecasts["b"].rows[0, 1]]["machine"] == "b"
        ```
        """
        _check_arguments(frame, options)
        _check_options(cls, options, split)
        one_of("missing_targets", missing_targets, ("refuse", "skip"))
        partial = true_or_false("partial", partial)
        series = open_series(frame, by, time)
        step = check_steps(series)
        offsets, horizon = read_offsets(horizons, 1, "horizons")
        columns = FrameColumns(frame, series)
        predicted = {
            key: columns.read(where, chosen) for key, where, chosen in by_key("targets", targets)
        }
        read = columns.inputs("inputs", inputs)
        ahead = columns.inputs("known_ahead", known_ahead)
        if ahead:  # rows may follow of which nothing else is known
            readings = columns.ends_of([*read.values(), *predicted.values()])
            series = replace(series, readings=readings)
            columns = FrameColumns(frame, series)
        columns.refuse_missing(read)
        columns.refuse_missing(ahead)
        lines = _Lines(
            series,
            inputs=read,
            known_ahead=ahead,
            static=columns.static("static", static),
            targets=predicted,
            weights=columns.weights(
                [*predicted.values()], sample_weight, offsets, skip=missing_targets == "skip"
            ),
        )
        lines.check_answers(offsets)
        options |= {"batch_size": batch_size, "sequence_length": sequence_length}
        options["target_offset"] = horizons
        # By name only where a name was given or is needed to tell several apart.
        alone = not (isinstance(inputs, Mapping) or ahead or lines.static)
        maker = _Maker(cls, lines, options, alone, not isinstance(targets, Mapping))
        result: FrameSequences[Self] = FrameSequences(
            series, step, offsets, horizon, cast(Any, maker.sequence)
        )
        for part in parts_of(series, split, max(offsets), lines.weights, partial):
            result.add(part)
        # Behind the training, whose sequence has checked the arguments.
        future = future_of(series, max(offsets), ahead=bool(ahead))
        # Of joined series the last alone has an end.
        if future is not None and options.get("boundary") != "ignore":
            if options.get("label_at") == "window":
                stride = options.get("stride") or sequence_length
                future = future.ending_windows(max(offsets), sequence_length, stride)
            result.add(future)
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

        steps, lengths = (part.stop - part.begin).tolist(), self.series.lengths[part.series]
        future = part.name == "future"

        def documents(line: Line, ends: np.ndarray) -> list:
            ends = np.minimum(ends, part.stop)
            places = zip(
                part.series.tolist(), part.begin.tolist(), ends.tolist(), steps, strict=True
            )
            return [line.cut(self.series.slice(k, b, end), n) for k, b, end, n in places]

        readings = self.series.readings[part.series]
        corpus = {key: documents(line, readings) for key, line in self.inputs.items()}
        corpus |= {key: documents(line, lengths) for key, line in self.known_ahead.items()}
        arguments: dict[str, Any] = {
            "corpus": corpus,
            "targets": {key: documents(line, readings) for key, line in self.targets.items()},
        }
        if future:  # there is nothing yet to train on or to score
            arguments["sample_weight"] = [np.zeros(n, "float32") for n in steps]
        elif self.weights is not None:
            weights = Line(self.weights, (), "sample_weight")
            arguments["sample_weight"] = documents(weights, readings)
        if self.known_ahead:
            arguments["known_ahead"] = [*self.known_ahead]
        if self.static:
            arguments["static"] = {key: line.cut(part.series) for key, line in self.static.items()}
        return arguments


@dataclass(frozen=True)
class _Maker:
    """Makes the sequences of parts.

    Attributes:
        kind: `StatefulSequence`.
        lines: the columns of all series.
        options: arguments of `kind` for all parts.
        one_input: True if the model's only input goes without a name.
        one_target: True if its only output does.
    """

    kind: Callable[..., Any]
    lines: _Lines
    options: dict[str, Any]
    one_input: bool
    one_target: bool

    def sequence(self, part: Part) -> Any:
        """The sequence of a part."""
        arguments = {**self.options, **self.lines.arguments(part)}
        if self.one_input:
            arguments["corpus"] = arguments["corpus"]["inputs"]
        if self.one_target:
            arguments["targets"] = arguments["targets"]["targets"]
        if part.name != "training":
            arguments = {k: v for k, v in arguments.items() if k not in _OF_TRAINING}
            arguments["burn_in"] = (part.start - part.begin).tolist()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sequence = self.kind(**arguments)
        for warning in caught:
            # Few series fill few rows, and only those of the training can be cut.
            if part.name == "training" or "of all time steps are" not in str(warning.message):
                warnings.warn(warning.message, stacklevel=4)
        return sequence


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


def _check_options(cls: type, options: dict[str, Any], split: Any) -> None:
    """Refuses arguments that `StatefulSequence` does not have, and a split of joined series."""
    ours = signature(FromFrame.from_frame).parameters.keys() - {"options", "frame"}
    theirs = signature(cls).parameters.keys() - _MADE_HERE.keys()
    for name, value in options.items():
        if name not in theirs:
            near = get_close_matches(name, sorted(ours | theirs), cutoff=0.5)
            nearest = f"The nearest: {', '.join(f'`{n}=`' for n in near)}. " if near else ""
            raise TypeError(
                f"`from_frame` has no argument `{name}`. Received: {name}={str(value)[:60]}. "
                f"{nearest}Its own are {', '.join(sorted(ours))}; others are those of "
                "`StatefulSequence`."
            )
    if options.get("boundary") == "ignore" and split is not None:
        raise ValueError(
            '`boundary="ignore"` joins all series to one text, in which none begins, and `split` '
            f'cuts each of them. Received: boundary="ignore", split={split!r}. Take '
            'boundary="align", or "pack".'
        )
