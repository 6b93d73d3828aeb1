"""The examples run, at toy size, and answer bad input with one line."""

import importlib
import importlib.util
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import programs
import pytest

pytestmark = pytest.mark.backend_free

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def book(example):
    return example("book")


def exit_message(book, monkeypatch, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["book.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        book.main()
    return str(exit.value.code)


def smoke(folder: Path, *arguments: str, script: str = "book.py") -> str:
    done = programs.run(
        EXAMPLES / script, folder, "--smoke", *arguments, PYTHONPATH=str(EXAMPLES.parent)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"Keras {keras.version()} on {keras.backend.backend()} ")
    return done.stdout


def test_every_example_says_its_backend():
    for path in EXAMPLES.glob("*.py"):
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        if path.name != "backend.py" and "import keras" in lines:
            # Behind it TensorFlow would have told all.
            assert lines.index("import backend") < lines.index("import keras"), path
            assert lines.count("backend.say()") == 1, path


def first_line(name, code):
    """What a start says in the terminal of somebody who has set nothing."""
    kept = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nimport backend, keras\nbackend.say()"],
        env={**kept, "PYTHONPATH": str(EXAMPLES), "KERAS_BACKEND": name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_tensorflow_starts_with_fewer_notes_and_all_warnings():
    warning = "import tensorflow as tf\nimport keras\ntf.get_logger().warning('heed this')"
    done = first_line("tensorflow", f"import backend\n{warning}")
    assert done.stdout.startswith(f"Keras {keras.version()} on tensorflow ")
    assert "heed this" in done.stderr
    assert "cpu_feature_guard" not in done.stderr


def test_a_backend_that_is_not_there_is_one_line():
    done = first_line("tensorflow", "import sys\nsys.modules['tensorflow'] = None")
    assert done.returncode == 1
    assert "KERAS_BACKEND" in done.stderr
    assert done.stderr.count("\n") == 1


def test_book_smoke(tmp_path):
    output = smoke(tmp_path, "--prompt", "The statement ")
    figures = [
        float(x) for x in re.findall(r"^  (?:state|Witten).* (\d+\.\d+)$", output, re.MULTILINE)
    ]
    assert len(figures) == 3
    assert all(0 < bits < 10 for bits in figures)
    assert (tmp_path / "book.keras").stat().st_size > 0
    assert (
        len(output.partition("\nThe statement ")[2].rstrip("\n")) >= 60
    )  # 80, less what print strips


def test_the_end_of_a_single_file_is_held_out(book, monkeypatch, tmp_path):
    words = np.random.default_rng(0).choice(["carry ", "state ", "window ", "row\n"], 8000)
    (tmp_path / "mine.txt").write_text("".join(words), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["book.py", "--corpus", str(tmp_path / "mine.txt")])
    (training,), (held_out,) = book.split(book.read_corpus(book.parse_options()))
    assert training + held_out == "".join(words)
    assert len(held_out) == pytest.approx(len(training) / 9, abs=1)


def test_book_says_how_much_text_is_needed(book, monkeypatch, tmp_path):
    (tmp_path / "short.txt").write_text("Call me Ishmael.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for name, cause in {
        "short.txt": "only 16 characters",
        "empty.txt": "is empty",
        "latin.txt": "not UTF-8",
        "absent.txt": "No such file",
        ".": "Is a directory",
    }.items():
        message = exit_message(book, monkeypatch, "--corpus", tmp_path / name)
        assert cause in message
        assert f"{book.NEEDED:,} characters" in message
        assert "\n" not in message


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_book_on_a_data_set_of_tfds(file_format, book, monkeypatch, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    texts = [f"{'carry state ' * 2000}{i}" for i in range(2)]
    for version, stored in {"1.9.0": texts[:1], "1.10.0": texts}.items():
        tfds.dataset_builders.store_as_tfds_dataset(
            "plays",
            version,
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "year": tfds.features.Scalar(np.int64)}
            ),
            split_datasets={"train": ((i, {"text": t, "year": i}) for i, t in enumerate(stored))},
            data_dir=tmp_path,
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    arguments = ["--tfds", "plays", "--data_dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["book.py", *map(str, arguments)])
    assert sorted(book.read_corpus(book.parse_options())) == texts  # of the newest version

    assert "has train." in exit_message(book, monkeypatch, *arguments, "--split", "test")
    assert "has text, year." in exit_message(book, monkeypatch, *arguments, "--feature", "line")
    assert "is no text" in exit_message(book, monkeypatch, *arguments, "--feature", "year")


def test_a_data_set_that_tfds_has_not_prepared_is_one_line_with_its_command(
    book, monkeypatch, tmp_path
):
    message = exit_message(book, monkeypatch, "--tfds", "tiny_shakespeare", "--data_dir", tmp_path)
    assert f"tfds build tiny_shakespeare --data_dir {tmp_path}" in message
    assert "\n" not in message


def test_book_says_when_nothing_is_left_to_evaluate(book, monkeypatch, tmp_path):
    (tmp_path / "copy.txt").write_text("abcdefghij" * 4000, encoding="utf-8")
    assert "nothing is left to evaluate" in exit_message(
        book, monkeypatch, "--corpus", tmp_path / "copy.txt"
    )


def test_book_finds_passages_that_stand_in_training_too(book):
    passage = "".join(map(chr, range(256, 256 + book.PASSAGE)))
    novel = book.novel_steps("ab" + passage + "cd", ["x" + passage + "y", "z"])
    assert novel.tolist() == [True] * 2 + [False] * book.PASSAGE + [True] * 2
    assert book.novel_steps("ab" + passage[:-1], ["x" + passage[:-1]]).all()


@pytest.mark.parametrize("name", ["words", "authors"])
def test_claims_of_the_corpora_hold_at_toy_size(name, tmp_path):
    pytest.importorskip("matplotlib")
    output = smoke(tmp_path, "--figure", f"{name}.png", script=f"{name}.py")
    assert "[UNK]" in output
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_mingru_at_toy_size(tmp_path):
    output = smoke(tmp_path, script="mingru.py")
    assert "states of the artifact: lower, upper" in output
    assert float(re.search(r"(\d+\.\d+) bits", output)[1]) < 6


def test_words_without_stop_words_and_punctuation(example, monkeypatch):
    """What is not in the vocabulary, a network can neither read nor write."""
    words = example("words")
    dropped = {"the", "and", "of", ".", ",", ";"}
    for more, kept in (([], dropped), (["--drop-stop-words", "--drop-punctuation"], set())):
        monkeypatch.setattr(sys, "argv", ["words.py", "--smoke", *more])
        options = words.parse_options()
        vocabulary = words.make_tokenizer(words.read_corpus(options), options).get_vocab().keys()
        assert vocabulary & dropped == kept
        assert {"[UNK]", "king", "love"} <= vocabulary


@pytest.mark.parametrize("name", ["alphabet", "carry_matters", "sensors", "activity", "forecast"])
def test_claims_hold_at_toy_size(name, tmp_path):
    pytest.importorskip("matplotlib")
    smoke(tmp_path, "--figure", f"{name}.png", script=f"{name}.py")
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_forecast_of_a_series_with_gaps(tmp_path):
    output = smoke(tmp_path, "--series", "sea", script="forecast.py")
    assert "training" in output
    assert float(re.search(r"in another process: (\S+) apart", output)[1]) < 1e-5


@pytest.mark.parametrize(
    "command",
    ["words.py", "authors.py", "book.py --shakespeare", "activity.py", "forecast.py"],
)
def test_a_missing_corpus_is_one_line_with_its_remedy(command, example, monkeypatch):
    script = example(command.partition(".")[0])
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SystemExit) as exit:
        script.main()
    message = str(exit.value.code)
    assert 'pip install ".[examples]"' in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("words", "tokenizers"),
        ("words", "stop_words"),
        ("authors", "tokenizers"),
        ("forecast", "pandas"),
    ],
)
def test_a_missing_tool_is_one_line_with_its_remedy(name, missing, example, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as exit:
        example(name)
    assert missing in str(exit.value.code)
    assert 'pip install ".[examples]"' in str(exit.value.code)


@pytest.mark.parametrize(
    "name",
    ["alphabet", "carry_matters", "sensors", "words", "authors", "activity", "forecast"],
)
def test_a_picture_without_matplotlib_is_refused_before_the_training(
    name, example, monkeypatch, capsys
):
    script = example(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--figure", "picture.png"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SystemExit):
        script.main()
    assert 'pip install ".[plots]"' in capsys.readouterr().err


def test_words_needs_two_documents(example, monkeypatch, tmp_path):
    words = example("words")
    for files, cause in ((["a.txt"], "two files"), (["a.txt", "b.txt"], "No such file")):
        monkeypatch.setattr(
            sys, "argv", ["words.py", "--corpus", *(str(tmp_path / f) for f in files)]
        )
        with pytest.raises(SystemExit) as exit:
            words.main()
        assert cause in str(exit.value.code)


def test_authors_of_a_single_year_are_said_and_left_out(example, capsys):
    authors = example("authors")
    years = {"A": range(1800, 1808), "B": [1808], "C": [1809, 1809, 1810]}
    addresses = [
        authors.Address(name, str(year), "") for name, dates in years.items() for year in dates
    ]
    training, held_out = authors.split(addresses, seed=0)
    assert capsys.readouterr().out.rstrip().endswith(": B")
    assert {a.president for a in training} == {a.president for a in held_out} == {"A", "C"}
    assert not {(a.president, a.year) for a in training} & {(a.president, a.year) for a in held_out}
    assert len(training) + len(held_out) == 11


def test_a_pickle_that_asks_for_more_than_arrays_is_refused(example):
    activity = example("activity")
    arrays = {"X": [np.ones((3, 6)), np.zeros((2, 6))], "y": np.arange(2), "names": ["a", "b"]}
    read = activity.ArraysOnly(io.BytesIO(pickle.dumps(arrays, protocol=2))).load()
    assert read["names"] == ["a", "b"]
    np.testing.assert_array_equal(read["X"][0], arrays["X"][0])
    for harmful in (os.system, eval, Path, np.load):
        with pytest.raises(pickle.UnpicklingError, match="which may run code"):
            activity.ArraysOnly(io.BytesIO(pickle.dumps(harmful, protocol=2))).load()


def test_what_stands_beside_the_forecast_reads_no_future(example):
    forecast = example("forecast")
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=120, freq="h")
    frame = pd.concat(
        pd.DataFrame({"station": s, "time": times, "plan": rng.random(120), "size": float(k)})
        for k, s in enumerate("ab")
    ).reset_index(drop=True)
    frame["reading"] = frame["measured"] = rng.normal(size=240)
    split = times[80], times[100]
    series = forecast.Series(frame, ["plan"], ["size"], 6, [1, 4, 8], split)
    now = 90  # of station "a"; what is learned lies before
    later = frame.assign(reading=frame["reading"] + (np.arange(240) > now) * (np.arange(240) < 120))
    planted = series._replace(frame=later.assign(measured=later["reading"]))
    for forecasts in (forecast.day_before, forecast.ridge):
        before, after = forecasts(series), forecasts(planted)
        np.testing.assert_array_equal(before[: now + 1], after[: now + 1])
        np.testing.assert_array_equal(before[120:], after[120:])
        assert (before[now + 1 : 120] != after[now + 1 : 120]).any()
    # By hand: four hours ahead of hour 90 is hour 94, and the last hour 94 - 6 n known is hour 88.
    assert forecast.day_before(series)[now, 1] == np.float32(frame["reading"][88])
    assert forecast.day_before(series)[now, 2] == np.float32(frame["reading"][86])


def test_ngram_equals_the_formula_by_hand(example):
    WittenBell = example("ngram").WittenBell
    rng = np.random.default_rng(0)
    training = [rng.integers(0, 5, 40), rng.integers(0, 5, 3), rng.integers(0, 5, 25)]
    document = np.append(rng.integers(0, 6, 30), 6)  # 5 and 6 never occur in training
    start = -1

    def by_hand(context: tuple, c: int) -> float:
        follows = []
        for text in training:
            padded = [start] * len(context) + text.tolist()
            for t in range(len(text)):
                if tuple(padded[t : t + len(context)]) == context:
                    follows.append(padded[t + len(context)])
        shorter = by_hand(context[1:], c) if context else 1 / 7
        if not follows:
            return shorter
        kinds = len(set(follows))
        return (follows.count(c) + kinds * shorter) / (len(follows) + kinds)

    padded = [start, start, *document.tolist()]
    expected = [by_hand(tuple(padded[t : t + 2]), c) for t, c in enumerate(document)]
    np.testing.assert_allclose(
        WittenBell(training, 7, order=3).probabilities(document), expected, rtol=1e-12
    )


def test_ngram_probabilities_sum_to_one(example):
    WittenBell = example("ngram").WittenBell
    training = [np.random.default_rng(seed).integers(0, 4, 50) for seed in range(3)]
    ngram = WittenBell(training, 6)
    for context in ([], [0, 1], [5, 5, 5, 5], [0, 1, 2, 3, 0]):
        p = [ngram.probabilities(np.array([*context, c]))[-1] for c in range(6)]
        assert sum(p) == pytest.approx(1)
