"""`plot_layout`: how a corpus is laid out in the rows of its batches."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_stateful.data.sequence import StatefulSequence
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.inspection.pyplot import import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY, _RESET = "#dcdcdc", "#c00000"
_HALF = 0.4  # of the height of a row's bar; rows are 1 apart
_NARROW = 0.025  # share of the figure's width under which a document's number has no room
_CROWDED = 60  # windows in the figure beyond which their edges would hide what they bound


def plot_layout(
    sequence: StatefulSequence, *, first: int = 0, batches: int | None = None
) -> "Figure":
    """Which document lies where in the rows of the batches that `fit` reads, in the present epoch.

    A line for each row, time from left to right; documents in colours with their numbers, resets in
    red where a row starts from the initial state, padding grey. Thin lines are the edges of
    windows, as long as there is room for them.

    Args:
        sequence: a `StatefulSequence`.
        first: the first batch shown.
        batches: how many are shown; None for all that follow.

    Returns:
        The figure, one of pyplot's: `plt.show()` shows it, `figure.savefig("layout.png")` writes
        it.

    Raises:
        TypeError: something that is not a `StatefulSequence`; `first` or `batches` that are no
            ints.
        ValueError: batches out of range.
        ModuleNotFoundError: without matplotlib, with the command that installs it.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    documents = [np.arange(n) for n in (60, 30, 45, 80, 25)]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=16, boundary="pack")
    figure = ks.plot_layout(sequence)
    ```
    """
    if not isinstance(sequence, StatefulSequence):
        raise TypeError(
            f"`sequence` must be a StatefulSequence. Received: {type(sequence).__name__}. A stream "
            "does not know its layout before it is read."
        )
    first, total = whole_number("first", first, 0), len(sequence)
    if first >= total:
        raise ValueError(
            f"`first` must be a batch of the sequence, 0 to {total - 1}. Received: first={first}."
        )
    last = total if batches is None else min(total, first + whole_number("batches", batches, 1))
    plt = import_pyplot("plot_layout")
    rows, window = sequence.batch_size, sequence.sequence_length
    left, right = first * window, last * window  # the rows' time steps
    figure, axes = plt.subplots(figsize=(10, min(12.0, 1.3 + 0.28 * rows)), layout="constrained")
    axes.set_facecolor(_GREY)  # padding is where nothing is drawn
    # Light colours, without the grey of padding: tab20 has pairs of a dark and a light one.
    light = plt.get_cmap("tab20").colors[1::2]
    colours = light[:7] + light[8:] + plt.get_cmap("Set3").colors[:8]

    for row, runs in enumerate(_runs(sequence, first, last)):
        _draw_row(axes, row, runs, colours, narrow=_NARROW * (right - left))
    _draw_resets(axes, sequence, first, last)
    if last - first <= _CROWDED:
        edges = np.arange(left, right + 1, window)
        axes.vlines(edges, -0.5, rows - 0.5, colors="black", linewidth=0.3, zorder=0.5)
    axes.set(xlim=(left, right), ylim=(rows - 0.5, -0.5))  # the first row on top
    axes.set(xlabel="time steps of a row", ylabel="row")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_title(
        f'boundary="{sequence.boundary}", batches {first} to {last - 1} of {total}, utilization '
        f"{sequence.utilization:.2f}",
        fontsize=10,
    )
    return figure


class _Run(NamedTuple):
    """Consecutive time steps of one document in one row, over as many windows as they take.

    Attributes:
        document: index of the document.
        begin: the row's time step at which they begin.
        steps: how many they are.
    """

    document: int
    begin: int
    steps: int


def _runs(sequence: StatefulSequence, first: int, last: int) -> list[list[_Run]]:
    """The runs of each row, in the batches from `first` to before `last`."""
    rows: list[list[_Run]] = [[] for _ in range(sequence.batch_size)]
    # Of each row: the document that its last run read, its next step, and the row's.
    ends: list[tuple[int, ...]] = [()] * len(rows)
    for i in range(first, last):
        for row, spans in enumerate(sequence.locate(i)):
            for span in spans:
                begin = i * sequence.sequence_length + span.column
                runs = rows[row]
                if ends[row] == (span.document, span.start, begin):
                    runs[-1] = runs[-1]._replace(steps=runs[-1].steps + span.steps)
                else:
                    runs.append(_Run(span.document, begin, span.steps))
                ends[row] = (span.document, span.start + span.steps, begin + span.steps)
    return rows


def _resets(sequence: StatefulSequence, first: int, last: int) -> list[tuple[int, int]]:
    """Row and time step of each reset."""
    marks: list[tuple[int, int]] = []
    for i in range(first, last):
        mask = sequence.reset_mask(i)
        # "pack" says it for each step `(rows, window)`, the others for the first of a window.
        places = np.argwhere(mask if mask.ndim == 2 else mask[:, None])
        begin = i * sequence.sequence_length
        marks += [(int(row), begin + int(column)) for row, column in places]
    return marks


def _draw_row(axes: "Axes", row: int, runs: list[_Run], colours: Any, narrow: float) -> None:
    """Draws the documents of one row, with their numbers where they are not too narrow."""
    axes.broken_barh(
        [(run.begin, run.steps) for run in runs],
        (row - _HALF, 2 * _HALF),
        facecolors=[colours[run.document % len(colours)] for run in runs],
        label=f"row {row}",
    )
    for run in runs:
        if run.steps >= narrow:
            middle, number = run.begin + run.steps / 2, str(run.document)
            axes.text(middle, row, number, ha="center", va="center", fontsize=8)


def _draw_resets(axes: "Axes", sequence: StatefulSequence, first: int, last: int) -> None:
    """Draws a red line at the first step after each reset."""
    marks = np.array(_resets(sequence, first, last)).reshape(-1, 2)
    rows, steps = marks[:, 0], marks[:, 1]
    axes.vlines(steps, rows - _HALF, rows + _HALF, colors=_RESET, linewidth=2, label="resets")
