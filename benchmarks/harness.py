"""What every benchmark here shares: timing in turn, rows of results, and where they were measured.
Standard library only.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BACKENDS = ("tensorflow", "jax", "torch")
PACKAGES = ("keras", "numpy", *BACKENDS, "onnxruntime")

# A benchmark that names `ENVIRONMENTS` is run once in each, and its rows are marked with the name.
# On Linux glibc returns the memory of each step to the system, and gets it back filled with zeros;
# with these settings, see mallopt(3), it keeps it.
_KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "": {},
    **({", memory kept": _KEPT} if sys.platform == "linux" else {}),
}


def interleaved(
    ways: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Times each way once a round, one after the other, so that all see the same machine.

    Args:
        ways: functions by name.
        rounds: timed calls of each.
        warm_up: rounds before, which are not counted.
        clock: what is read before and after each call.

    Returns:
        Medians in seconds.
    """
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(warm_up + rounds):
        for way, run in ways.items():
            start = clock()
            run()
            if i >= warm_up:
                times[way].append(clock() - start)
    return {way: statistics.median(values) for way, values in times.items()}


def row(
    what: str,
    value: float,
    unit: str = "x",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    against: str = "",
    ours: str = "",
    theirs: str = "",
    backend: str = "",
    higher_is_better: bool | None = None,
) -> dict[str, Any]:
    """One line of a table.

    Args:
        what: what was measured.
        value: a ratio where `unit` is "x", else in the unit named.
        unit: "x" for ratios, which another machine should give too; else "s", "MB", "share", ...
        at_least: the target, where more is better.
        at_most: the target, where less is better.
        against: what it is compared with.
        ours: the figure behind the ratio, with its unit.
        theirs: that of the other side.
        backend: Keras's backend, where it matters.
        higher_is_better: where no target is set.
    """
    if higher_is_better is None:
        higher_is_better = at_least is not None
    return {
        "what": what,
        "against": against,
        "backend": backend,
        "value": value,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "at_least": at_least,
        "at_most": at_most,
        "higher_is_better": higher_is_better,
    }


def short(found: dict[str, Any]) -> bool:
    """Whether a row falls short of its target."""
    value, low, high = found["value"], found["at_least"], found["at_most"]
    return (low is not None and value < low) or (high is not None and value > high)


def number(value: float) -> str:
    """Three digits or so."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 0.97 <= value < 1 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; columns that hold nothing are left out."""
    columns: dict[str, Callable[[dict], str]] = {
        "what": lambda r: r["what"],
        "compared with": lambda r: r["against"],
        "backend": lambda r: r["backend"],
        "ours": lambda r: r["ours"],
        "theirs": lambda r: r["theirs"],
        "result": lambda r: number(r["value"]) + (f" {r['unit']}" if r["unit"] != "x" else " x"),
        "target": _target,
    }
    kept = {name: [cell(r) for r in rows] for name, cell in columns.items()}
    kept = {name: cells for name, cells in kept.items() if any(cells)}
    lines = [f"| {' | '.join(kept)} |", "|---" * len(kept) + "|"]
    return "\n".join(
        lines + [f"| {' | '.join(cells)} |" for cells in zip(*kept.values(), strict=True)]
    )


def _target(found: dict[str, Any]) -> str:
    low, high = found["at_least"], found["at_most"]
    if low is None and high is None:
        return ""
    wanted = f"at least {low:g}" if low is not None else f"at most {high:g}"
    return f"{wanted}: **falls short**" if short(found) else wanted


def surroundings() -> dict[str, Any]:
    """Date, hardware and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def described(where: dict[str, Any]) -> str:
    """Date, hardware (a GPU as `device`) and versions in one line."""
    names = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    gpu = f"{where['device']}; " if "device" in where else ""
    machine = f"{gpu}{where['cpu']}, {where['cores']} cores"
    return f"{where['date']}; {machine}; Python {where['python']}, {names}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def compare(before: dict[str, Any], after: dict[str, Any], tolerance: float = 0.15) -> list[str]:
    """What got worse from one JSON file to another, ratio by ratio.

    Seconds and megabytes differ from machine to machine and are left out; ratios of two sides of
    one run should not.

    Args:
        before: a file's content.
        after: another's.
        tolerance: the share of itself by which a ratio may worsen.

    Returns:
        A line for each ratio that worsened by more, or is missing afterwards.
    """
    key = ("what", "against", "backend")
    new = {tuple(r[k] for k in key): r for r in after["rows"]}
    worse = []
    for old in before["rows"]:
        if old["unit"] != "x":
            continue
        name = ", ".join(old[k] for k in key if old[k])
        found = new.get(tuple(old[k] for k in key))
        if found is None:
            worse.append(f"{name}: no longer measured")
            continue
        change = found["value"] / old["value"]
        if (1 / change if old["higher_is_better"] else change) > 1 + tolerance:
            worse.append(f"{name}: {number(old['value'])} x, now {number(found['value'])} x")
    return worse


def read(path: Path | str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def write(path: Path, where: dict[str, Any]) -> None:
    """Writes rows, and where they were measured, as `read` reads them."""
    path.write_text(json.dumps(where, indent=1, ensure_ascii=False) + "\n")
