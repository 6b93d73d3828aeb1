"""`plot_activations`: a text coloured by what a unit does, as a figure or an HTML page."""

import operator
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import file_to_write
from keras_stateful.inspection.page import HIGH, LOW, activation_page
from keras_stateful.inspection.pyplot import import_pyplot
from keras_stateful.inspection.ranking import checked_activations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 80  # characters of a line of text
_SIGNS = {"\n": "\u21b5", "\t": "\u2192"}  # for characters that have no sign
_LINE, _HEADING = 0.21, 0.35  # inches of a panel's height


def plot_activations(
    text: str | Sequence[str],
    activations: ArrayLike,
    unit: int | Sequence[int] | None = None,
    *,
    path: str | PathLike[str] | None = None,
    title: str = "What a unit sees",
) -> "Figure | Path":
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
    path = file_to_write("path", path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            "`path` is where the HTML page goes and must end in .html. Received: "
            f"path={str(path)!r}. For an image leave it out: `plot_activations(text, activations, "
            "unit).savefig(path)`."
        )
    shown, opened = (range(values.shape[1]), liveliest) if units is None else (units, 0)
    path.write_text(activation_page(tokens, values, shown, opened, title), encoding="ascii")
    return path


# Arguments


def _tokens(text: Any, steps: int) -> list[str]:
    """Reads `text`: one string for each of the steps."""
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
    """Reads `unit`: one or several units out of `count`."""
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


# The figure


def _coloured_text(tokens: list[str], values: np.ndarray, units: list[int], title: str) -> "Figure":
    """A panel for each unit, in which a box behind each token has the colour of the state."""
    plt = import_pyplot("plot_activations")
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("unit", [LOW, "white", HIGH])
    places, lines = _places(tokens)
    height = len(units) * (_LINE * lines + _HEADING) + 0.4
    figure, panels = plt.subplots(
        len(units), squeeze=False, figsize=(9.2, height), layout="constrained"
    )
    for axes, unit in zip(panels[:, 0], units, strict=True):
        boxes = _draw_boxes(axes, places, values[:, unit], colours)
        _draw_labels(axes, places, tokens)
        axes.set(xlim=(0, _COLUMNS), ylim=(lines, 0), xticks=[], yticks=[])  # first line on top
        axes.set_title(f"unit {unit}", fontsize=9, loc="left")
        axes.spines[:].set_visible(False)
        figure.colorbar(boxes, ax=axes, fraction=0.015, pad=0.01).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_boxes(
    axes: "Axes", places: list[tuple[int, int, int]], column: np.ndarray, colours: Any
) -> Any:
    """Draws the boxes of all tokens at once, on a scale that is white at 0."""
    from matplotlib.collections import PolyCollection

    corners = [[(x, y), (x + w, y), (x + w, y + 1), (x, y + 1)] for y, x, w in places]
    limit = float(np.abs(column).max()) or 1.0  # a unit that is 0 at every step has no scale
    boxes = PolyCollection(
        corners, array=column, cmap=colours, edgecolors="none", clim=(-limit, limit)
    )
    axes.add_collection(boxes)
    return boxes


def _draw_labels(axes: "Axes", places: list[tuple[int, int, int]], tokens: list[str]) -> None:
    """Writes each token in the middle of its box."""
    style: dict[str, Any] = {
        "family": "monospace",
        "fontsize": 8,
        "ha": "center",
        "va": "center_baseline",
    }
    for token, (y, x, width) in zip(tokens, places, strict=True):
        if label := _label(token):
            # Without `parse_math`, two dollar signs would make a formula of what is between them.
            axes.text(x + width / 2, y + 0.5, label, parse_math=False, **style)


def _places(tokens: Sequence[str]) -> tuple[list[tuple[int, int, int]], int]:
    """Where the box of each token goes, in lines of `_COLUMNS` characters.

    Returns:
        Line, column and width of each box, and how many lines there are.
    """
    places, line, column = [], 0, 0
    gap = int(any(len(token) > 1 for token in tokens))  # between words, not between characters
    for token in tokens:
        width = min(max(1, len(_label(token))), _COLUMNS)
        if column + width > _COLUMNS:
            line, column = line + 1, 0
        places.append((line, column, width))
        column += width + gap
        if token.endswith("\n"):
            line, column = line + 1, 0
    return places, line + (column > 0)


def _label(token: str) -> str:
    """What is written in a token's box: a sign for each character, without spaces at the ends."""
    unknown = "\N{REPLACEMENT CHARACTER}"
    signs = (_SIGNS.get(c, c if c.isprintable() else unknown) for c in token)
    return "".join(signs).strip(" ")
