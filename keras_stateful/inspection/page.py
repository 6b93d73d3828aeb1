"""A text coloured by a unit's state, as one HTML page that needs no other file and no network.

The page itself is `page.html`, a `string.Template`; this module fills in what it shows.
"""

import base64
import html
import json
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np

LOW, HIGH = "#6ea8ff", "#ff9a4d"  # at the ends of the scale; black text stays readable on both
_FINE = 32767  # the largest int16: a value is stored as that many parts of the unit's scale


def activation_page(
    tokens: Sequence[str], activations: np.ndarray, units: Sequence[int], opened: int, title: str
) -> str:
    """The page's text.

    Args:
        tokens: what was read at each step, `(timesteps,)`.
        activations: `(timesteps, units)`, finite.
        units: those to choose from, in this order.
        opened: index in `units` of the one that is shown first.
        title: heading of the page.

    Returns:
        HTML in ASCII. Each unit is coloured on a scale of its own, up to its largest absolute
        value.
    """
    chosen = np.asarray(activations, "float64")[:, list(units)].T
    scales = np.abs(chosen).max(axis=1)
    # A unit that is 0 at every step has no scale; its values are 0 on any.
    parts = chosen / np.where(scales > 0, scales, 1)[:, None]
    whole = np.rint(parts * _FINE).astype("<i2")
    data = {
        "text": list(tokens),
        "words": any(len(token) > 1 for token in tokens),
        "units": [int(u) for u in units],
        "scales": [float(s) for s in scales],
        "opened": opened,
        "values": base64.b64encode(whole.tobytes()).decode("ascii"),
    }
    page = resources.files(__package__).joinpath("page.html").read_text("ascii")
    return Template(page).substitute(
        title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
        data=_in_script(data),
        low=LOW,
        high=HIGH,
        low_rgb=_rgb(LOW),
        high_rgb=_rgb(HIGH),
        fine=_FINE,
    )


def _in_script(data: dict[str, Any]) -> str:
    """JSON in which no text can end the script element that holds it, or open a comment."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rgb(colour: str) -> list[int]:
    """Red, green and blue, 0 to 255, of a colour `#rrggbb`."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
