"""A text coloured by a unit's state, as one HTML page that needs no other file and no network."""

import base64
import html
import json
from collections.abc import Sequence

import numpy as np

LOW, HIGH = "#6ea8ff", "#ff9a4d"  # at the ends of the scale; black text stays readable on both
_FINE = 32767  # values are stored as whole numbers up to this, times the unit's scale

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: only light; }}
body {{ margin: 0 auto; max-width: 62rem; padding: 0 1rem 3rem; background: #fff; color: #111;
  font: 15px/1.5 system-ui, sans-serif; }}
header {{ position: sticky; top: 0; padding: .8rem 0 .6rem; background: #fff; border-bottom: 1px solid #ddd; }}
h1 {{ margin: 0 0 .5rem; font-size: 1.1rem; }}
.row {{ display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .6rem; }}
button, select {{ font: inherit; padding: .15rem .5rem; }}
#scale {{ width: 9rem; height: .9rem; border: 1px solid #999; background: linear-gradient(to right, {low}, #fff, {high}); }}
#low, #high, #readout {{ font-variant-numeric: tabular-nums; }}
#readout {{ min-height: 1.5em; margin-top: .4rem; white-space: pre; color: #444; }}
#text {{ margin-top: 1rem; font: 14px/1.7 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
#text span {{ padding: .12em 0; }}
#text.words span {{ padding: .12em .25em; margin-right: .15em; border-radius: .2em; }}
#text span:hover {{ outline: 2px solid #111; }}
#text .mark {{ color: #888; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<div class="row">
<label for="unit">Unit</label> <select id="unit"></select>
<button id="back" type="button" aria-label="Unit before">&#8592;</button>
<button id="on" type="button" aria-label="Next unit">&#8594;</button>
<span id="low"></span><span id="scale"></span><span id="high"></span>
</div>
<div id="readout">Point at the text to see the value at a step.</div>
</header>
<main id="text"></main>
<noscript>This page colours its text with JavaScript.</noscript>
<script type="application/json" id="data">{data}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = Uint8Array.from(atob(data.values), c => c.charCodeAt(0));
const values = new DataView(bytes.buffer);
const steps = data.text.length;
const [text, unit, readout] = ["text", "unit", "readout"].map(id => document.getElementById(id));
const ends = [{low_rgb}, {high_rgb}];
const value = step => values.getInt16(2 * (unit.selectedIndex * steps + step), true) / {fine};

for (const number of data.units) unit.add(new Option(number));
text.className = data.words ? "words" : "";
data.text.forEach((part, step) => {{
  const span = document.createElement("span");
  span.dataset.step = step;
  const line = part.endsWith("\\n");
  span.textContent = line ? part.slice(0, -1) : part;
  if (line) {{
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.dataset.step = step;
    mark.textContent = "\\u21b5";
    span.append(mark);
  }}
  text.append(span);
  if (line) text.append("\\n");
}});
const spans = text.querySelectorAll(":scope > span");

function show() {{
  const limit = data.scales[unit.selectedIndex];
  document.getElementById("low").textContent = (-limit).toFixed(2);
  document.getElementById("high").textContent = "+" + limit.toFixed(2);
  spans.forEach((span, step) => {{
    const v = value(step), end = ends[v < 0 ? 0 : 1];
    span.style.backgroundColor = "rgb(" + end.map(c => Math.round(255 + (c - 255) * Math.abs(v))).join(",") + ")";
  }});
}}
function move(by) {{
  unit.selectedIndex = (unit.selectedIndex + by + data.units.length) % data.units.length;
  show();
}}
unit.addEventListener("change", show);
document.getElementById("back").addEventListener("click", () => move(-1));
document.getElementById("on").addEventListener("click", () => move(1));
for (const kind of ["pointerover", "click"]) text.addEventListener(kind, event => {{
  const step = event.target.dataset.step;
  if (step === undefined) return;
  const found = value(+step) * data.scales[unit.selectedIndex];
  readout.textContent = "step " + step + "   " + JSON.stringify(data.text[step]) + "   " + found.toFixed(3);
}});
unit.selectedIndex = data.opened;
show();
</script>
</body>
</html>
"""


def activation_page(
    tokens: Sequence[str], activations: np.ndarray, units: Sequence[int], opened: int, title: str
) -> str:
    """The page.

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
    whole = np.rint(chosen / np.where(scales > 0, scales, 1)[:, None] * _FINE).astype("<i2")
    data = {
        "text": list(tokens),
        "words": any(len(token) > 1 for token in tokens),
        "units": [int(u) for u in units],
        "scales": [float(s) for s in scales],
        "opened": opened,
        "values": base64.b64encode(whole.tobytes()).decode("ascii"),
    }
    return _PAGE.format(
        title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
        data=_in_script(data),
        low=LOW,
        high=HIGH,
        low_rgb=_rgb(LOW),
        high_rgb=_rgb(HIGH),
        fine=_FINE,
    )


def _in_script(data: dict) -> str:
    """JSON in which no text can end the script element that holds it, or open a comment."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
