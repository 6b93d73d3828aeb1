"""Frames of machines whose readings tell where they are from, and sequences made of them."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from keras_stateful import StatefulSequence

pandas = pytest.importorskip("pandas")
START = np.datetime64("2026-01-01T00", "us")
HOUR = np.timedelta64(1, "h")
GROUP = 10_000  # readings of group k are GROUP * (k + 1) + hour: 0 is padding alone


def frame_of(lengths, begins=None, package="pandas", seed=None):
    """A frame of machines "a", "b", ... with rows in any order.

    Args:
        lengths: rows of each.
        begins: the hour at which each begins; 0 by default.
        seed: of the order of rows; None for that of groups and times.
    """
    begins = [0] * len(lengths) if begins is None else begins
    hours = np.concatenate([b + np.arange(n) for n, b in zip(lengths, begins, strict=True)])
    group = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(hours))
    if seed is not None:
        np.random.default_rng(seed).shuffle(rows)
    columns = {
        "machine": np.array(list("abcdefgh"))[group][rows],
        "time": (START + hours * HOUR)[rows],
        "temp": (GROUP * (group + 1.0) + hours)[rows],
        "load": (-GROUP * (group + 1.0) - hours)[rows],
        "age": (group * 10)[rows],
    }
    if package == "pandas":
        return pandas.DataFrame(columns)
    if package == "polars":
        return pytest.importorskip("polars").DataFrame(columns)
    return pytest.importorskip("pyarrow").table(columns)


def make(frame, **options):
    arguments = {
        "by": "machine",
        "time": "time",
        "inputs": ["temp", "load"],
        "targets": "temp",
        "batch_size": 2,
        "sequence_length": 5,
        **options,
    }
    return StatefulSequence.from_frame(frame, **arguments)


def counted(sequence):
    """The steps that count: for each what is read and the targets, as `{input: targets}`."""
    steps = {}
    for i in range(len(sequence)):
        x, y, *weight = sequence[i]
        weight = weight[0].reshape(y.shape[:2]) if weight else np.ones(y.shape[:2])
        for row, column in np.argwhere(weight > 0):
            target = y[row, column].ravel().tolist()
            assert steps.setdefault(tuple(x[row, column].tolist()), target) is target  # once
    return steps


class Case(NamedTuple):
    lengths: list
    begins: list
    horizons: object
    split: object
    window: int
    rows: int
    package: str
    seed: int


@st.composite
def cases(draw):
    groups = draw(st.integers(1, 4))
    lengths = [draw(st.integers(26, 45)) for _ in range(groups)]
    begins = [draw(st.integers(0, 5)) for _ in range(groups)]
    horizons = draw(
        st.one_of(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=3))
    )
    # Each part has a step, with a target up to 5 later, of the shortest series that starts last.
    hours = draw(st.sampled_from([[], [12], [13, 19], [14]]))
    kind = draw(st.sampled_from(["time", "text", "fraction"]))
    if kind == "fraction":
        hours = [hour / 30 for hour in hours]
    elif kind == "time":
        hours = [(START + hour * HOUR).item() for hour in hours]
    else:
        hours = [str(START + hour * HOUR) for hour in hours]
    split = None if not hours else hours[0] if len(hours) == 1 else tuple(hours)
    return Case(
        lengths,
        begins,
        horizons,
        split,
        draw(st.integers(1, 9)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["pandas", "polars", "pyarrow"])),
        draw(st.integers(0, 99)),
    )
