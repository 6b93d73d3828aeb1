"""Columns of a frame in the order of its series: inputs, targets, weights. NumPy only."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

from keras_stateful.data.arrays import missing_steps, out_dtype
from keras_stateful.data.frames.series import Series, check_columns, is_several
from keras_stateful.data.kinds import as_array
from keras_stateful.data.weights import trained_steps
from keras_stateful.foundation.frames import columns_of

Names: TypeAlias = Any  # a column, or several
NamesByKey: TypeAlias = Names | Mapping[str, Names]  # of a model's input or output; or by its name

# How to fill in inputs, in a copy: targets that were filled in would be learnt and scored as if
# they had been measured.
_FILL = (
    "A network passes it on to every later state. Fill in a copy, mark what was missing, and read "
    "these: `frame['missing'] = frame[{0}].isna().astype(float)`, `frame['filled'] = "
    "frame{1}[{0}].ffill().fillna(0)`, `inputs=['filled', 'missing']`. In `targets` keep {0} as it "
    'is, with `missing_targets="skip"`: what was filled in never came. Or fill the copy in with a '
    "value that never occurs, `.fillna(value)`, and have the model skip those steps, "
    "`keras.layers.Masking(value)`. (Infinite values: first `frame = frame.replace([np.inf, "
    "-np.inf], np.nan)`.)"
)


class Table:
    """Columns in one array `(timesteps, columns)`, or one `(timesteps,)`: the least of a frame."""

    def __init__(self, values: np.ndarray, columns: tuple):
        self.values, self.columns = values, columns

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)

    def __getitem__(self, column: Hashable) -> np.ndarray:
        return self.values[:, self.columns.index(column)]


@dataclass(frozen=True)
class Line:
    """Columns of all series, one after the other, or with a row for each series.

    Attributes:
        values: `(rows,)` of one column, `(rows, columns)` of several, in the order of the series.
        columns: their names.
        name: of the argument that names them, used in error messages.
    """

    values: np.ndarray
    columns: tuple
    name: str

    def cut(self, place: slice | np.ndarray, steps: int = 0) -> np.ndarray | Table:
        """Some rows; consecutive ones are a document, and a view.

        Args:
            place: of the rows.
            steps: how long the document is at least: 0 stands behind its last row.
        """
        values = self.values[place]
        if steps > len(values):
            behind = np.zeros((steps - len(values), *values.shape[1:]), values.dtype)
            values = np.concatenate([values, behind])
        return Table(values, self.columns) if self.columns else values


@dataclass(frozen=True)
class FrameColumns:
    """Reads columns of a frame.

    Attributes:
        frame: with named columns.
        series: of the frame.
    """

    frame: Any
    series: Series

    def read(self, name: str, chosen: Names) -> Line:
        """Columns as they are, with values that are missing.

        Args:
            name: name of the argument, used in error messages.
            chosen: a column, or several.
        """
        several = is_several(chosen, columns_of(self.frame) or ())
        columns: tuple = tuple(chosen) if several else (chosen,)
        if not columns:
            raise ValueError(
                f"`{name}` must name a column, or several. Received: {chosen!r}. Leave that key "
                "out, or name what it holds."
            )
        check_columns(name, columns, self.frame)
        for column in columns:
            _refuse_text(name, column, np.asarray(self.frame[column]))
        if several:
            values = as_array(name, self.frame, columns)
        else:
            values = as_array(name, self.frame[chosen])
        return Line(values[self.series.rows], columns, name)

    def inputs(self, name: str, argument: NamesByKey) -> dict[str, Line]:
        """Columns that a model reads, by the name of the input: that of the argument, or its keys.

        Raises:
            ValueError: a number without an axis for features.
        """
        read: dict[str, Line] = {}
        for key, where, chosen in by_key(name, argument):
            line = read[key] = self.read(where, chosen)
            if line.values.ndim == 1 and out_dtype(where, line.values.dtype).kind == "f":
                raise ValueError(
                    f"`{where}` is one column, of ids, and its numbers are none. Received: "
                    f"{line.columns[0]!r} of {line.values.dtype}. Features are a list: "
                    f"`{name}=[{line.columns[0]!r}]`."
                )
        return read

    def ends_of(self, lines: Iterable[Line]) -> np.ndarray:
        """How many rows of each series there are up to the last that holds a value, `(series,)`."""
        there = np.zeros(len(self.series.rows), bool)
        for line in lines:
            values = line.values.reshape(len(there), -1)
            there |= (values == values).any(1)  # NaN is equal to nothing
        return np.maximum.reduceat(np.where(there, self.series.within + 1, 0), self.series.begin)

    def static(self, name: str, argument: NamesByKey) -> dict[str, Line]:
        """Columns that are constant in each series, a row for each, by the name of the input.

        Raises:
            ValueError: columns that are not, and what `inputs` refuses.
        """
        read = self.inputs(name, argument)
        self.refuse_missing(read)
        return {key: self._of_series(name, line) for key, line in read.items()}

    def _of_series(self, name: str, line: Line) -> Line:
        values = line.values[self.series.begin]
        other = line.values != np.repeat(values, self.series.lengths, axis=0)
        if other.any():
            place, *column = np.argwhere(other)[0]
            first = self.series.rows[self.series.begin[self.series.of(place)]]
            raise ValueError(
                f"`{name}` columns must be constant in each series. Received: column "
                f"{line.columns[column[0] if column else 0]!r}, {self.series.where(place)}, with "
                f"another value than row {first}. Pass it in `inputs`, or in `known_ahead` where it"
                " is known before its time."
            )
        return Line(values, line.columns, line.name)

    def weights(
        self,
        targets: list[Line],
        sample_weight: Hashable | None,
        offsets: tuple[int, ...],
        *,
        skip: bool,
    ) -> np.ndarray | None:
        """The weight of each row as it is read, `(rows,)`; None where all count alike.

        Args:
            targets: what is predicted.
            sample_weight: the column of the user's own, or None.
            offsets: how many steps later targets stand.
            skip: True if steps with a missing target get weight 0.

        Raises:
            ValueError: a missing target that counts, weights that are missing.
        """
        missing = np.zeros(len(self.series.rows), bool)
        for line in targets:
            missing |= missing_steps(line.values)
        missing &= ~self.series.to_come
        if sample_weight is None and not missing.any():
            return None
        weights = np.ones(len(missing), "float32")
        if sample_weight is not None:
            if is_several(sample_weight, columns_of(self.frame) or ()):
                raise TypeError(
                    "`sample_weight` must be one column, of one weight for each row. Received: "
                    f"sample_weight={str(sample_weight)[:60]}. Name it alone, `sample_weight='w'`."
                )
            line = self.read("sample_weight", sample_weight)
            lacking = missing_steps(line.values) & ~self.series.to_come
            if lacking.any():
                self._refuse("sample_weight", line, lacking, "Give rows weight 0: `.fillna(0)`.")
            weights = line.values.astype("float32")
        for number in range(len(self.series)):
            inside = self.series.slice(number, 0, int(self.series.readings[number]))
            if skip:
                weights[inside] *= ~_ahead(missing[inside], offsets)
            else:
                missing[inside] &= trained_steps(weights[inside], offsets)
        if not skip and missing.any():
            line = next(t for t in targets if missing_steps(t.values)[missing].any())
            self._refuse(
                "targets",
                line,
                missing,
                'Pass `missing_targets="skip"`: the steps that '
                "should predict them then have weight 0.",
            )
        return weights

    def refuse_missing(self, lines: Mapping[str, Line]) -> None:
        """Refuses inputs that are missing, with the lines that fill them in."""
        for line in lines.values():
            name, missing = line.name, missing_steps(line.values)
            if name.startswith("inputs"):
                missing &= ~self.series.to_come
            if not missing.any():
                continue
            by = list(self.series.by)
            group = f".groupby({by})" if by else ""
            column = repr(self._missing_column(line, missing))
            remedies = {
                "static": "Give each series its constant: `frame[{0}] = frame{1}[{0}]"
                ".transform('first')`; leave out series without one."
                if by
                else "Give the series its constant: `frame[{0}] = ...`.",
                "known_ahead": "What is known ahead is known of each row, inserted ones too: write "
                "it there. What is not known beforehand belongs in `inputs`.",
            }
            remedy = remedies.get(name.partition("[")[0], _FILL)
            self._refuse(name, line, missing, remedy.format(column, group))

    @staticmethod
    def _missing_column(line: Line, missing: np.ndarray) -> Hashable:
        """The first column that has a missing value in the first of the rows marked."""
        values = np.atleast_1d(line.values[int(missing.argmax())])
        return line.columns[int(np.argmin(np.isfinite(values)))]

    def _refuse(self, name: str, line: Line, missing: np.ndarray, remedy: str) -> NoReturn:
        column, place = self._missing_column(line, missing), int(missing.argmax())
        raise ValueError(
            f"`{name}` has values that are NaN or infinite. Received: column {column!r}, "
            f"{self.series.where(place)} (rows in all: {int(missing.sum())}). {remedy}"
        )


def by_key(name: str, argument: NamesByKey) -> list[tuple[str, str, Names]]:
    """What an argument names, by key: its own name where it is no dict.

    Returns:
        For each the key, the name used in error messages, and the columns.
    """
    if isinstance(argument, Mapping):
        return [(key, f"{name}[{key!r}]", chosen) for key, chosen in argument.items()]
    nothing = argument is None or (np.ndim(argument) > 0 and not len(argument))
    return [] if nothing else [(name, name, argument)]


def _refuse_text(name: str, column: Hashable, values: np.ndarray) -> None:
    """Refuses a column of text, with the line that makes numbers of it."""
    if values.dtype.kind not in "OUST":
        return
    text = next((str(value) for value in values if isinstance(value, (str, bytes))), None)
    if text is None:
        return
    try:
        float(text)
        remedy = f"Read it as numbers: `frame[{column!r}] = pandas.to_numeric(frame[{column!r}])`."
    except ValueError:
        remedy = (
            f"Number its values: `frame[{column!r}] = frame[{column!r}].astype('category').cat"
            f".codes`; ids for an `Embedding` are one column, no list: `{{{str(column)!r}: "
            f"{column!r}}}`."
        )
    raise TypeError(
        f"`{name}` must name columns of numbers. Received: column {column!r} of text, such as "
        f"{text[:40]!r}. {remedy}"
    )


def _ahead(marks: np.ndarray, offsets: tuple[int, ...]) -> np.ndarray:
    """Marks the steps of a series that have a marked one at any of these offsets behind them."""
    out = np.zeros(len(marks), bool)
    for offset in offsets:
        out[: max(0, len(marks) - offset)] |= marks[offset:]
    return out
