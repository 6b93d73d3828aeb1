"""Which exercise is this? A watch names it at each step of a recording, and at the end.

    python examples/activity.py                        # needs pip install ".[examples]"
    python examples/activity.py --figure activity.png  # and ".[plots]"

140 recordings of a watch at the wrist, 19 to 52 seconds of acceleration and rotation at 50 Hz: ten
people, seven exercises of the shoulder, both arms. One label belongs to a recording. A recurrent
network is trained on it at every step, at the last step of every window, or at the last step of the
recording alone; the same network on windows that each start from the initial state, and a logistic
regression on statistics of windows, stand beside it. Everybody is held out once: whoever is
recognised was never seen in training.
"""

import argparse
import importlib.util
import pickle
import sys
import time
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np

from keras_stateful import StatefulSequence, predict_documents, to_stateful

RATE = 25  # readings a second, of 50 that were recorded: the mean of each two
WINDOW = 50  # readings: two seconds
BATCH_SIZE = 16
SECONDS = (2, 6, 12, 18)  # the shortest recording has 18.9


class Recordings(NamedTuple):
    signals: list[np.ndarray]  # each `(time, 6)`: acceleration and rotation along x, y and z
    exercises: np.ndarray  # `(recordings,)`, 0 to 6
    people: np.ndarray  # `(recordings,)`, 1 to 10
    names: list[str]  # of the exercises


def main() -> None:
    options = parse_options()
    backend.say()
    data = read_watch()
    everybody = np.unique(data.people)
    held_out = np.array_split(everybody, 5)[: 1 if options.smoke else None]
    lengths = [len(signal) / RATE for signal in data.signals]
    print(
        f"{len(data.signals)} recordings of {min(lengths):.0f} to "
        f"{max(lengths):.0f} seconds, {len(everybody)} people, {len(data.names)} exercises"
    )

    # What each method says of each recording after each of its steps: `(time, exercises)`.
    answers: dict[str, list[np.ndarray]] = {}
    tested: list[np.ndarray] = []
    for people in held_out:
        test = np.isin(data.people, people)
        print(f"held out: {' and '.join(map(str, people))}", flush=True)
        training, unseen = standardised(data, test)
        for name, answer in methods(training, data.exercises[~test], unseen, options).items():
            answers.setdefault(name, []).extend(answer)
        tested.append(np.flatnonzero(test))
    truth = data.exercises[np.concatenate(tested)]

    print(f"\nof {len(truth)} recordings of people never seen, recognised rightly (percent)")
    print(f"  {'after':<42}" + "".join(f"{n:>6} s" for n in SECONDS) + "  the end")
    shares = {}
    for name, answer in answers.items():
        right = [share(answer, truth, n) for n in SECONDS] + [share(answer, truth, None)]
        shares[name] = right
        print(f"  {name:<42}" + "".join(f"{100 * r:8.1f}" for r in right))
    best = np.stack([answer[-1] for answer in answers["label at every step"]]).argmax(-1)
    wrong = [(data.names[t], data.names[b]) for t, b in zip(truth, best, strict=True) if t != b]
    print(f"\nlabel at every step, confused at the end: {confusions(wrong)}")

    if options.figure:
        draw(options.figure, answers, truth)
        print(f"wrote {options.figure}")

    # The claims.
    chance = 1 / len(data.names)
    assert shares["the same, mean of the steps so far"][-1] > 2 * chance
    if not options.smoke:
        assert shares["label at every step"][-1] > shares["label at the last step alone"][-1]
        assert shares["label at every step"][-1] > 0.8


def methods(
    training: list[np.ndarray], labels: np.ndarray, unseen: list[np.ndarray], options
) -> dict[str, list[np.ndarray]]:
    """The answers of every method on `unseen`: for each recording `(time, exercises)`."""
    windows, owners = cut(training)
    pieces, of = cut(unseen)

    def train(name: str, documents, labels, label_at: str, whole: bool = True) -> keras.Model:
        keras.utils.set_random_seed(options.seed)
        sequence = StatefulSequence(
            documents,
            batch_size=BATCH_SIZE,
            sequence_length=WINDOW,
            targets=labels,  # one for each document
            label_at=label_at,
            shuffle=True,
            resets=True,
        )
        model = to_stateful(network(options.units), sequence)
        rate = keras.optimizers.schedules.CosineDecay(4e-3, options.epochs * len(sequence))
        model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "sparse_categorical_crossentropy")
        start = time.perf_counter()
        losses = model.fit(sequence, epochs=options.epochs, verbose=0).history["loss"]
        print(
            f"  {name:<42} {options.epochs} x {len(sequence)} steps, "
            f"loss {losses[0]:.3f} ... {losses[-1]:.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        return model

    answers = {}
    for name, label_at in {
        "label at every step": "every",
        "label at the last step of every window": "window",
        "label at the last step alone": "last",
    }.items():
        model = train(name, training, labels, label_at)
        answers[name] = predict_documents(model, unseen, sequence_length=WINDOW, verbose=0)
        if label_at == "every":
            answers["the same, mean of the steps so far"] = [
                answer.cumsum(0) / np.arange(1, len(answer) + 1)[:, None]
                for answer in answers[name]
            ]

    name = "windows from the initial state, their mean"
    single = train(name, windows, labels[owners], "every")
    ends = predict_documents(
        single, pieces, sequence_length=WINDOW, reduce="last", batch_size=64, verbose=0
    )
    answers[name] = [so_far(ends[of == n], len(signal)) for n, signal in enumerate(unseen)]

    name = "logistic regression on windows, their mean"
    probabilities = logistic_regression(windows, labels[owners], pieces)
    answers[name] = [so_far(probabilities[of == n], len(s)) for n, s in enumerate(unseen)]
    return answers


def network(units: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None, 6)),
            keras.layers.GaussianNoise(0.3),  # eight people are few: no one's exact movement counts
            keras.layers.GRU(units, return_sequences=True),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )


def logistic_regression(windows: list, labels: np.ndarray, pieces: list) -> np.ndarray:
    """`(pieces, exercises)`, from what is usually computed of a window: the mean, the spread and
    the extremes of each channel, how fast it changes, and how the channels go together."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def statistics(window: np.ndarray) -> np.ndarray:
        change = np.diff(window, axis=0) if len(window) > 1 else np.zeros_like(window)
        together = np.cov(window.T, bias=True)[np.triu_indices(window.shape[1], 1)]
        extremes = np.quantile(window, [0, 0.25, 0.5, 0.75, 1], axis=0).ravel()
        return np.concatenate(
            [window.mean(0), window.std(0), extremes, np.abs(change).mean(0), together]
        )

    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    regression.fit([statistics(window) for window in windows], labels)
    return regression.predict_proba([statistics(piece) for piece in pieces])


def read_watch() -> Recordings:
    """The recordings in the package seglearn, which is not imported.

    Its file is a pickle, and a pickle may run any program when it is read. This one holds arrays,
    lists and strings only: `ArraysOnly` refuses the name of anything else before it is called.
    """
    package = importlib.util.find_spec("seglearn")  # finds the file without running the package
    if package is None or importlib.util.find_spec("sklearn") is None:
        sys.exit(
            "activity.py: this reads the package seglearn, and asks scikit-learn: "
            'pip install ".[examples]".'
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        data = ArraysOnly(file).load().item()
    signals = [
        signal[: len(signal) // 2 * 2].reshape(-1, 2, 6).mean(1).astype("float32")
        for signal in data["X"]
    ]
    return Recordings(signals, np.array(data["y"]), np.array(data["subject"]), data["y_labels"])


class ArraysOnly(pickle.Unpickler):
    """Reads a pickle of NumPy arrays and plain Python values, and nothing that runs."""

    def find_class(self, module: str, name: str):
        allowed = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": lambda text, encoding: text.encode(encoding),  # bytes, in old pickles
        }
        path = f"{module}.{name}".replace("numpy._core", "numpy.core")  # its name since NumPy 2
        if path not in allowed:
            raise pickle.UnpicklingError(f"this file asks for {path}, which may run code.")
        return allowed[path]


def standardised(data: Recordings, test: np.ndarray) -> tuple[list, list]:
    """The recordings for training and those held out, on the scale of the former."""
    readings = np.concatenate([s for s, t in zip(data.signals, test, strict=True) if not t])
    mean, spread = readings.mean(0), readings.std(0)
    scaled = [(signal - mean) / spread for signal in data.signals]
    return [s for s, t in zip(scaled, test, strict=True) if not t], [
        s for s, t in zip(scaled, test, strict=True) if t
    ]


def cut(documents: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows, and the number of the recording of each."""
    windows, owners = [], []
    for number, document in enumerate(documents):
        for start in range(0, len(document), WINDOW):
            windows.append(document[start : start + WINDOW])
            owners.append(number)
    return windows, np.array(owners)


def so_far(of_windows: np.ndarray, steps: int) -> np.ndarray:
    """`(time, exercises)` from `(windows, exercises)`: the mean of all windows that have ended; in
    the first one, its answer."""
    means = of_windows.cumsum(0) / np.arange(1, len(of_windows) + 1)[:, None]
    ended = np.maximum(np.arange(1, steps + 1) // WINDOW, 1) - 1
    ended[-1] = len(means) - 1
    return means[ended]


def share(answers: list[np.ndarray], truth: np.ndarray, seconds: float | None) -> float:
    """Of the recordings, how many are named rightly after so many seconds, or at their end."""
    step = -1 if seconds is None else int(seconds * RATE) - 1
    return float(np.mean([a[step].argmax() == t for a, t in zip(answers, truth, strict=True)]))


def confusions(wrong: list[tuple[str, str]]) -> str:
    counts = {pair: wrong.count(pair) for pair in dict.fromkeys(wrong)}
    most = sorted(counts.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{a} as {b} {count} x" for (a, b), count in most) or "none"


def draw(path: Path, answers: dict[str, list[np.ndarray]], truth: np.ndarray) -> None:
    """Recordings named rightly after so many seconds, as long as all recordings go on."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    shortest = min(len(answer) for answer in next(iter(answers.values())))
    seconds = np.arange(5, shortest, 5) / RATE
    styles = ("C0", "C0--", "C1", "C2", "C3--", "k:")
    for (name, answer), style in zip(answers.items(), styles, strict=True):
        axes.plot(seconds, [share(answer, truth, n) for n in seconds], style, label=name)
    axes.set(xlabel="seconds read", ylabel=f"named rightly, of {len(truth)} recordings")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=90)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="two people held out, few epochs")
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw what is recognised over time read"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--units", type=int, default=48, help="width of the GRU")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    if options.smoke:
        options.epochs, options.units = 3, 24
    return options


if __name__ == "__main__":
    main()
