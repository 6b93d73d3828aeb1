"""The benchmarks' own arithmetic: tables, the page, the regression check. Nothing is timed here."""

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import harness
    import run

    yield harness, run
    for name in ("harness", "run"):
        sys.modules.pop(name, None)


def results(*rows):
    return {
        "rows": list(rows),
        "notes": [],
        "command": "python benchmarks/run.py it",
        "date": "2026-01-02",
        "cpu": "a processor",
        "cores": 2,
        "python": "3.11",
        "versions": {"keras": "3.15.1"},
    }


def test_what_falls_short_is_marked_and_stays(modules):
    harness, _ = modules
    rows = [
        harness.row("fast", 210, at_least=200, against="a loader"),
        harness.row("slow", 150, at_least=200, against="a loader"),
        harness.row("dear", 1.3, at_most=1.1, against="a step"),
        harness.row("free", 1.0, "s"),
    ]
    lines = harness.table(rows).splitlines()[2:]
    assert [("falls short" in line) for line in lines] == [False, True, True, False]
    assert len({line.count("|") for line in harness.table(rows).splitlines()}) == 1
    assert "backend" not in harness.table(rows)


def test_comparing_two_files_ratio_by_ratio(modules):
    harness, _ = modules
    row = harness.row
    before = results(
        row("read", 200, at_least=100),
        row("step", 1.0, at_most=1.1),
        row("gone", 2.0),
        row("build", 1.0, "s"),
    )
    same = results(*before["rows"], row("new", 9.0))
    assert harness.compare(before, same) == []
    after = results(
        row("read", 150, at_least=100), row("step", 1.3, at_most=1.1), row("build", 9.0, "s")
    )
    worse = harness.compare(before, after)
    assert [line.partition(":")[0] for line in worse] == ["read", "step", "gone"]
    better = results(
        row("read", 400, at_least=100), row("step", 0.5, at_most=1.1), row("gone", 1.0)
    )
    assert harness.compare(before, better) == []
    assert harness.compare(before, after, tolerance=0.4) == ["gone: no longer measured"]


def test_the_page_is_its_template_and_the_results(modules):
    harness, run = modules
    measured = {"it": results(harness.row("utilization", 0.9812, "of all steps"))}
    page = run.page("# Title\n\n{{it}}\n\n{{other}}\n", measured)
    assert page.startswith(run.WARNING)
    assert "0.9812 of all steps" in page
    assert "`python benchmarks/run.py it`, 2026-01-02; a processor, 2 cores" in page
    assert "Not measured yet: `python benchmarks/run.py other`" in page


def test_ways_are_timed_in_turn(modules):
    harness, _ = modules
    order = []
    took = harness.interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2
    )
    assert order == ["a", "b"] * 3
    assert set(took) == {"a", "b"}


def test_the_committed_page_is_what_the_committed_results_say(modules):
    harness, run = modules
    measured = {path.stem: harness.read(path) for path in run.RESULTS.glob("*.json")}
    assert run.PAGE.read_text() == run.page((FOLDER / "page.md").read_text(), measured)


def test_the_networks_of_held_out_score_each_byte(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    held_out = importlib.import_module("held_out")
    for network in (held_out.lstm, held_out.mingru, held_out.gpt):
        model = network()
        assert model.output_shape == (None, model.input_shape[1], 256)
    for name in ("held_out", "mingru", "backend"):
        sys.modules.pop(name, None)
