"""Long work shows itself: a bar in a terminal, a line in a log file, nothing at `verbose=0`."""

import contextlib
import io
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_stateful as ks
from keras_stateful.data import corpus
from keras_stateful.foundation import progress
from keras_stateful.foundation.progress import ProgressBar, read_verbose
from keras_stateful.generation import generate as generating

pytestmark = pytest.mark.backend_free

BAR = r"{0}/{0} ━{{20}} \d+s \d+[a-z]*/{1}"
LINE = r"{0}/{0} - \d+s - \d+[a-z]*/{1}"


class Screen(io.StringIO):
    """Standard output, as somebody sees it."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def lines(self):
        """What is to be read in the end: characters go where the cursor is."""
        rows, column = [[]], 0
        for character in re.sub(r"\x1b\[\d+m", "", self.getvalue()):  # colours
            if character == "\n":
                rows.append([])
                column = 0
            elif character == "\r":
                column = 0
            elif character == "\b":
                column = max(0, column - 1)
            else:
                rows[-1][column : column + 1] = [character]
                column += 1
        return [text for text in ("".join(row).rstrip() for row in rows) if text]


either = pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])


def seen(work, terminal, *args, **options):
    """The screen after some work."""
    with contextlib.redirect_stdout(Screen(terminal)) as screen:
        work(*args, **options)
    return screen


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential(
        [keras.Input((None, 2)), layers.GRU(3, return_sequences=True), layers.Dense(2)]
    )
    model.compile(loss="mse", metrics=["mae"])
    return model


DOCUMENTS = [np.ones((steps, 2), "float32") for steps in (9, 5, 12)]


def evaluate(model, folder, **options):
    return ks.evaluate_documents(model, DOCUMENTS, sequence_length=3, batch_size=2, **options)


def predict(model, folder, **options):
    return ks.predict_documents(model, DOCUMENTS, sequence_length=3, batch_size=2, **options)


def record(model, folder, **options):
    return ks.record_states(model, np.ones((6, 2), "float32"), **options)


def generate(model, folder, **options):
    return ks.generate(
        model, np.ones((4, 2), "float32"), 6, next_input=lambda output: output, **options
    )


def export(model, folder, **options):
    ks.export_step_model(model, folder / "exported", **options)


def quantize(model, folder, **options):
    data = np.ones((1, 4, 2), "float32")
    ks.export_step_model(
        model, folder / "small", quantize="int8", representative_data=data, **options
    )


# Each with its steps and what they are called.
LONG_WORK = {
    "evaluate_documents": (evaluate, 5, "step"),
    "predict_documents": (predict, 5, "step"),
    "record_states": (record, 6, "step"),
    "generate": (generate, 6, "step"),
    "export_step_model": (export, 3, "stage"),
    "export_step_model(quantize=)": (quantize, 4, "stage"),
}


@either
@pytest.mark.parametrize("name", LONG_WORK)
def test_what_a_person_sees(name, terminal, model, tmp_path):
    work, steps, unit = LONG_WORK[name]
    screen = seen(work, terminal, model, tmp_path / "auto")
    (shown,) = screen.lines()
    assert re.fullmatch((BAR if terminal else LINE).format(steps, unit), shown)
    if not terminal:
        assert screen.getvalue() == shown + "\n"  # nothing that a log file should not hold
    assert not seen(work, terminal, model, tmp_path / "silent", verbose=0).getvalue()
    with pytest.raises(ValueError, match=r'`verbose` must be "auto".*verbose=3'):
        work(model, tmp_path / "wrong", verbose=3)


def test_the_same_numbers_with_and_without(model, tmp_path):
    for work in (evaluate, predict, record, generate):
        shown, silent = work(model, tmp_path, verbose=1), work(model, tmp_path, verbose=0)
        for a, b in zip(*map(keras.tree.flatten, (shown, silent)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_compiled_loop_shows_itself_in_parts(monkeypatch):
    """Only where a bar is drawn; the text is the same. A row that stops ends the bar early."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, 4),
            layers.GRU(5, return_sequences=True),
            layers.Dense(9),
        ]
    )
    prompts, seen_by_bar = [[1, 2, 3], [4]], []
    monkeypatch.setattr(generating, "_BAR_STEPS", 7)
    silent = ks.generate(model, prompts, 30, seed=1, verbose=0)
    with contextlib.redirect_stdout(Screen(True)) as screen, monkeypatch.context() as patch:
        patch.setattr(progress, "_SECONDS", 0)
        update = keras.utils.Progbar.update
        patch.setattr(
            keras.utils.Progbar,
            "update",
            lambda bar, step, **k: (seen_by_bar.append(step), update(bar, step, **k)),
        )
        shown = ks.generate(model, prompts, 30, seed=1)
    np.testing.assert_array_equal(shown, silent)
    assert len(seen_by_bar) > 3
    assert seen_by_bar == sorted(seen_by_bar)
    assert screen.lines()[0].startswith("30/30")
    last = int(silent[0][3])
    first = silent[0].tolist().index(last) + 1
    (line,) = seen(
        ks.generate, False, model, prompts[0], 30, seed=1, stop=last, verbose="auto"
    ).lines()
    assert line.split("/")[0].strip() == str(first)


def test_a_session_needs_no_keras_to_generate(model, tmp_path):
    export(model, tmp_path, verbose=0)
    session = ks.load_session(tmp_path / "exported")
    assert not seen(generate, True, session, tmp_path).getvalue()
    assert seen(generate, True, session, tmp_path, verbose=1).lines()[0].startswith("6/6")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "keras", None)
        generate(session, tmp_path)
        with pytest.raises(ImportError, match=r"Keras is not installed.*verbose=1"):
            generate(session, tmp_path, verbose=1)


@pytest.mark.parametrize("verbose", ["AUTO", None, -1, 3, 0.5, "1", [1], np.array([1, 2])])
def test_other_values_are_refused(verbose):
    with pytest.raises(ValueError, match='must be "auto", 0'):
        read_verbose(verbose)


@either
def test_auto_is_a_bar_where_one_can_be_drawn(terminal, monkeypatch):
    monkeypatch.delenv("PYCHARM_HOSTED", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with contextlib.redirect_stdout(Screen(terminal)):
        assert read_verbose("auto") == (1 if terminal else 2)
        assert [read_verbose(v) for v in (True, False, 2, np.int64(1))] == [1, 0, 2, 1]
    with contextlib.redirect_stdout(None):  # as under pythonw
        assert read_verbose("auto") == 2
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with contextlib.redirect_stdout(Screen(terminal)):
        assert read_verbose("auto") == 1


def test_most_steps_draw_nothing(monkeypatch):
    """However many there are, the bar is looked at 20 times a second at most."""
    now, drawn = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with ProgressBar(1, 10_000) as shown:
        monkeypatch.setattr(shown._bar, "update", lambda *a, **k: drawn.append(a))
        for _ in range(10_000):
            now[0] += 0.001
            shown.advance()
    assert 190 < len(drawn) <= 202
    assert drawn[-1] == (10_000,)


def three_of_eight(verbose, error=None):
    with contextlib.suppress(KeyError), ProgressBar(verbose, 8) as shown:
        shown.advance(3)
        if error is not None:
            raise error


@either
def test_work_that_ends_early_or_fails(terminal):
    (line,) = seen(three_of_eight, terminal, "auto").lines()
    assert line.startswith("3/8")
    assert not seen(three_of_eight, terminal, 2, KeyError()).lines()
    assert not seen(lambda: ProgressBar("auto", 0).__exit__(None, None, None), terminal).lines()


class Files:
    """Documents that are read one by one."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return np.arange(8)


@either
def test_reading_all_documents_shows_itself_where_it_takes_long(terminal, monkeypatch):
    for long, count in ((-1, 1), (60, 0)):
        monkeypatch.setattr(corpus, "_LONG", long)
        lines = seen(ks.StatefulSequence, terminal, Files(), 7, 4).lines()
        assert [line.partition(" ")[0] for line in lines] == ["7/7"] * count
        assert all("/document" in line for line in lines)


def test_a_log_that_is_not_interactive(model, tmp_path):
    """`keras.config.disable_interactive_logging()` takes these lines, too."""
    keras.config.disable_interactive_logging()
    try:
        assert not seen(predict, False, model, tmp_path).lines()
    finally:
        keras.config.enable_interactive_logging()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_true_terminal_and_a_true_file(tmp_path):
    """A process whose output goes to one of them, and then to the other."""
    import pty

    code = f"""
import os
import numpy as np, keras, keras_stateful as ks
model = keras.Sequential([keras.Input((None, 2)), keras.layers.GRU(3, return_sequences=True)])
ks.predict_documents(model, [np.ones((9, 2))], sequence_length=3)
os.dup2(os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT), 1)
ks.predict_documents(model, [np.ones((9, 2))], sequence_length=3)
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    screen = Screen(True)
    with contextlib.suppress(OSError):  # how a terminal says on Linux that nobody writes any more
        while data := os.read(ours, 4096):
            screen.write(data.decode())
    os.close(ours)
    (shown,), (logged,) = screen.lines(), (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(BAR.format(3, "step"), shown)
    assert re.fullmatch(LINE.format(3, "step"), logged)
