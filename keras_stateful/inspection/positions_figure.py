"""`plot_positions`: scores by the time steps since a document's start."""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import whole_number
from keras_stateful.inspection.pyplot import import_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve: TypeAlias = dict[str, ArrayLike]

_GREY = "#c8c8c8"


def plot_positions(
    positions: Curve | dict[str, Curve],
    *,
    score: str = "loss",
    training_window: int | None = None,
) -> "Figure":
    """Draws a loss or metric by the time steps since a document's start.

    A line that rises behind the training windows shows a network that does not hold on a long
    stream; two, one of them with `reset_every=`, show what carrying the state is worth, and for how
    long. Below, how many time steps each point is the mean of: behind the end of most documents
    they are few.

    Args:
        positions: what `evaluate_documents(..., by="position")` gave; or a dict of several such,
            with a label for each.
        score: which of its values is drawn.
        training_window: time steps of the windows that were trained on, to be marked.

    Returns:
        The figure, one of pyplot's: `plt.show()` shows it, `figure.savefig("positions.png")` writes
        it.

    Raises:
        TypeError: something else than such a dict.
        ValueError: a score that is not among the values, no curve.
        ModuleNotFoundError: without matplotlib, with the command that installs it.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    model = keras.Sequential([
        keras.Input((None, 3)),
        keras.layers.GRU(8, return_sequences=True),
        keras.layers.Dense(3),
    ])
    model.compile(loss="mse")
    series = [np.random.rand(500, 3), np.random.rand(300, 3)]
    carried = ks.evaluate_documents(model, series, by="position")
    anew = ks.evaluate_documents(model, series, by="position", reset_every=32)
    figure = ks.plot_positions({"carried": carried, "reset": anew}, training_window=32)
    ```
    """
    curves = _curves(positions, score)
    if training_window is not None:
        whole_number("training_window", training_window, 1, unit="time steps")
    plt = import_pyplot("plot_positions")
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 4.5), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    for label, curve in curves.items():
        above.plot(_read(curve), np.asarray(curve[score]), marker="o", markersize=4, label=label)
    above.set_ylabel(score)
    first = next(iter(curves.values()))
    positions_in_bin = np.maximum(first["position"], 1)  # each is twice as long as the last
    below.bar(
        _read(first), np.asarray(first["steps"]), width=positions_in_bin, align="edge", color=_GREY
    )
    below.set_yscale("log")
    below.set(ylabel="steps", xlabel="time steps since the document's start")
    below.set_xscale("log", base=2)
    if training_window is not None:
        above.axvline(training_window, color="black", linewidth=0.8, linestyle=":")
        above.annotate(
            "training window",
            (training_window, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -12),
            textcoords="offset points",
            fontsize=8,
        )
    if len(curves) > 1:
        above.legend()
    return figure


def _read(curve: Curve) -> np.ndarray:
    """How many time steps were read where a bin begins, that one included: no 0 on a log axis."""
    return np.asarray(curve["position"]) + 1


def _curves(positions: Curve | dict[str, Curve], score: str) -> dict[str, Curve]:
    """The curves by label; a single one has none."""
    how = 'Pass what `evaluate_documents(..., by="position")` gave, or `{label: that, ...}`.'
    if not isinstance(positions, dict) or not positions:
        raise TypeError(
            f"`positions` must be a dict. Received: {type(positions).__name__}, "
            f"{positions!r:.40}. {how}"
        )
    curves = {"": positions} if "position" in positions else positions
    for label, curve in curves.items():
        if not isinstance(curve, dict) or not {"position", "steps"} <= set(curve):
            has = sorted(map(str, curve)) if isinstance(curve, dict) else type(curve).__name__
            raise TypeError(
                f"`positions` has a curve without positions. Received: {label!r}: {has}. {how}"
            )
        if score not in curve:
            values = sorted(set(curve) - {"position", "steps"})
            raise ValueError(
                f"`score` must be one of the values. Received: score={score!r}; there are {values}."
            )
    return curves  # type: ignore[return-value]
