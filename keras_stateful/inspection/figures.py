"""Pictures of what a stateful training reads, and of what its units do. matplotlib is imported when
one is drawn.
"""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.sequence import StatefulSequence
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.inspection.activations import checked_activations
from keras_stateful.inspection.page import HIGH, LOW, activation_page

_COLUMNS = 80  # characters of a line of text
_SHOWN = {"\n": "\u21b5", "\t": "\u2192"}  # signs for what has none
_GREY, _RESET = "#dcdcdc", "#c00000"
_NARROW = 0.025  # share of the figure's width under which a document's number has no room


def plot_activations(
    text: Any,
    activations: Any,
    unit: Any = None,
    *,
    path: Any = None,
    title: str = "What a unit sees",
) -> Any:
    """A text coloured by a unit's state after each step, as a matplotlib figure or an HTML page.

    The page is one file that asks nothing of any server: units are chosen from a list, and the
    value at a step shows where the pointer is. Colours run from blue, the unit's most negative
    value, over white, 0, to orange.

    Args:
        text: what was read: a string, one character for each step, or a list of strings (words,
            tokens).
        activations: `(timesteps, units)`, from `record_states`.
        unit: an int or several, for example the first that `rank_units` gives. None: the figure
            shows the one whose state varies most, the page has all and opens at that one.
        path: where to write the HTML page; None for the figure.
        title: heading of the page or figure.

    Returns:
        Without a path the figure, one of pyplot's, a panel for each unit: `plt.show()` shows it,
        `figure.savefig` writes it. With one the `pathlib.Path` of the page, about 2.7 bytes large
        for each step and unit.

    Raises:
        TypeError: text that is not strings, a unit that is no int.
        ValueError: text and activations of different lengths, a unit out of range, a path that does
            not end in .html.
        ModuleNotFoundError: a figure without matplotlib, with the command that installs it.

    Example:

    ```python
    import numpy as np
    import keras_stateful as ks

    text = "the quick brown fox"
    activations = np.sin(np.arange(len(text)))[:, None] * np.ones(3)
    ks.plot_activations(text, activations, path="units.html")
    figure = ks.plot_activations(text, activations, unit=2)
    ```

    References:
        Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks",
        https://karpathy.github.io/2015/05/21/rnn-effectiveness/
        Karpathy, Johnson and Fei-Fei 2015, "Visualizing and Understanding Recurrent Networks",
        https://arxiv.org/abs/1506.02078
    """
    values = checked_activations(activations)
    tokens = _tokens(text, len(values))
    liveliest = int(values.std(axis=0).argmax())
    units = None if unit is None else _units(unit, values.shape[1])
    if path is None:
        return _coloured_text(tokens, values, [liveliest] if units is None else units, title)
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            "`path` is where the HTML page goes and must end in .html. Received: "
            f"path={str(path)!r}. For an image leave it out: `plot_activations(text, activations, "
            "unit).savefig(path)`."
        )
    shown, opened = (range(values.shape[1]), liveliest) if units is None else (units, 0)
    path.write_text(activation_page(tokens, values, shown, opened, title), encoding="ascii")
    return path


def plot_layout(sequence: Any, *, first: int = 0, batches: int | None = None) -> Any:
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
    plt = _pyplot("plot_layout")
    rows, window = sequence.batch_size, sequence.sequence_length
    left, right = first * window, last * window
    figure, axes = plt.subplots(figsize=(10, min(12.0, 1.3 + 0.28 * rows)), layout="constrained")
    axes.set_facecolor(_GREY)
    light = plt.get_cmap("tab20").colors[1::2]
    colours = light[:7] + light[8:] + plt.get_cmap("Set3").colors[:8]  # without the grey of padding
    for row, runs in enumerate(_runs(sequence, first, last)):
        axes.broken_barh(
            [(run.begin, run.steps) for run in runs],
            (row - 0.4, 0.8),
            facecolors=[colours[run.document % len(colours)] for run in runs],
            label=f"row {row}",
        )
        for run in runs:
            if run.steps >= _NARROW * (right - left):
                axes.text(
                    run.begin + run.steps / 2,
                    row,
                    str(run.document),
                    ha="center",
                    va="center",
                    fontsize=8,
                )
    marks = _resets(sequence, first, last)
    axes.vlines([m[1] for m in marks], [m[0] - 0.4 for m in marks], [m[0] + 0.4 for m in marks],
                colors=_RESET, linewidth=2, label="resets")  # fmt: skip
    if last - first <= 60:
        axes.vlines(
            np.arange(left, right + 1, window),
            -0.5,
            rows - 0.5,
            colors="black",
            linewidth=0.3,
            zorder=0.5,
        )
    axes.set(
        xlim=(left, right), ylim=(rows - 0.5, -0.5), xlabel="time steps of a row", ylabel="row"
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_title(
        f'boundary="{sequence.boundary}", batches {first} to {last - 1} of {total}, utilization '
        f"{sequence.utilization:.2f}",
        fontsize=10,
    )
    return figure


# The layout


class _Run(NamedTuple):
    """Consecutive time steps of one document in one row, from whatever number of windows."""

    document: int
    begin: int  # the row's time step
    steps: int


def _runs(sequence: StatefulSequence, first: int, last: int) -> list[list[_Run]]:
    rows: list[list[_Run]] = [[] for _ in range(sequence.batch_size)]
    ends: list[tuple] = [()] * len(rows)  # document, its next step, the row's next step
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
        found = np.argwhere(mask if mask.ndim == 2 else mask[:, None])
        marks += [(int(row), i * sequence.sequence_length + int(column)) for row, column in found]
    return marks


# Text


def _tokens(text: Any, steps: int) -> list[str]:
    tokens = list(text) if isinstance(text, (str, list, tuple, np.ndarray)) else None
    if tokens is None or not all(isinstance(token, str) for token in tokens):
        raise TypeError(
            "`text` must be a string, or a list of strings with one for each step. Received: "
            f"{type(text).__name__}{'' if tokens is None else ' of ' + type(tokens[0]).__name__}. "
            "Decode ids first."
        )
    if len(tokens) != steps:
        raise ValueError(
            f"`text` and `activations` must be equally long. Received: {len(tokens)} "
            f"{'characters' if isinstance(text, str) else 'strings'}, activations of {steps} time "
            "steps. Record the states of the very text that is shown."
        )
    return [str(token) for token in tokens]


def _units(unit: Any, count: int) -> list[int]:
    several = isinstance(unit, (list, tuple, range)) or getattr(unit, "ndim", 0) == 1
    try:
        if isinstance(unit, (bool, np.bool_)):
            raise TypeError
        units = [operator.index(u) for u in (unit if several else [unit])]
    except TypeError:
        raise TypeError(
            f"`unit` must be an int or a list of ints. Received: unit={unit!r}."
        ) from None
    missing = [u for u in units if not 0 <= u < count]
    if missing or not units:
        raise ValueError(
            f"`unit` must name units of the activations, 0 to {count - 1}. Received: "
            f"{missing[0] if missing else 'none'}."
        )
    return units


def _coloured_text(tokens: list[str], values: np.ndarray, units: list[int], title: str) -> Any:
    plt = _pyplot("plot_activations")
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("unit", [LOW, "white", HIGH])
    places, lines = _places(tokens)
    height = 0.21 * lines + 0.35
    figure, panels = plt.subplots(
        len(units), squeeze=False, figsize=(9.2, height * len(units) + 0.4), layout="constrained"
    )
    corners = [[(x, y), (x + w, y), (x + w, y + 1), (x, y + 1)] for y, x, w in places]
    for axes, number in zip(panels[:, 0], units, strict=True):
        column = values[:, number]
        limit = float(np.abs(column).max()) or 1.0
        boxes = PolyCollection(
            corners, array=column, cmap=colours, edgecolors="none", clim=(-limit, limit)
        )
        axes.add_collection(boxes)
        for token, (y, x, width) in zip(tokens, places, strict=True):
            if label := _label(token):
                axes.text(x + width / 2, y + 0.5, label, family="monospace", fontsize=8, ha="center",
                          va="center_baseline", parse_math=False)  # fmt: skip
        axes.set(xlim=(0, _COLUMNS), ylim=(lines, 0), xticks=[], yticks=[])
        axes.set_title(f"unit {number}", fontsize=9, loc="left")
        axes.spines[:].set_visible(False)
        figure.colorbar(boxes, ax=axes, fraction=0.015, pad=0.01).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def _places(tokens: Sequence[str]) -> tuple[list[tuple[int, int, int]], int]:
    """Line, column and width of each token's box in lines of `_COLUMNS` characters, and how many
    lines there are.
    """
    places, line, column = [], 0, 0
    words = any(len(token) > 1 for token in tokens)
    for token in tokens:
        width = min(max(1, len(_label(token))), _COLUMNS)
        if column + width > _COLUMNS:
            line, column = line + 1, 0
        places.append((line, column, width))
        column += width + words
        if token.endswith("\n"):
            line, column = line + 1, 0
    return places, line + (column > 0)


def _label(token: str) -> str:
    signs = "".join(
        _SHOWN.get(c, c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in token
    )
    return signs.strip(" ")


def _pyplot(function: str) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`{function}` draws with matplotlib, which is not installed: `pip install "
            '"keras-stateful[plots]"`.'
        ) from error
    return plt
