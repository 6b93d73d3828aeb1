"""An LSTM whose state is carried through a text, trained for as long as nanoGPT's baby GPT: the
loss of the text's last tenth, in nats per character, as nanoGPT measures it.

    python benchmarks/baby_gpt.py input.txt --seconds 120            # where the GPU is
    python benchmarks/baby_gpt.py input.txt --seconds 5 --tiny       # small, on a CPU

`input.txt` is any text; nanoGPT's own figures are of tiny Shakespeare, `data/tinyshakespeare` of
https://github.com/karpathy/char-rnn. The seconds are those of nanoGPT's training steps: of
`python train.py config/train_shakespeare_char.py`, the 5,000 steps times the milliseconds that it
prints for one. On both sides neither compilation nor measuring the loss counts.

Two layers of LSTM, behind each dropout of a half (Zaremba et al. 2014, "Recurrent Neural Network
Regularization"); 128 rows, windows of 64; AdamW, its learning rate on the clock of `held_out.py`.
The last tenth is read as 16 documents, each from the initial state.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from gpu import device
from harness import described, row, surroundings, table, write
from held_out import Clock, compile_all
from keras import layers

import keras_stateful as ks

FULL = {"units": 768, "layers": 2, "rows": 128, "window": 64}
TINY = {"units": 16, "layers": 2, "rows": 4, "window": 16}
RATE, DROPOUT, HELD_OUT = 2e-3, 0.5, 16  # the highest learning rate; documents of the last tenth
LOOKS = tuple(np.arange(1, 11) / 10)  # shares of the time after which the loss is measured


def network(size: dict, characters: int) -> keras.Model:
    hidden = [
        layer
        for _ in range(size["layers"])
        for layer in (
            layers.LSTM(size["units"], return_sequences=True),
            layers.Dropout(DROPOUT),
        )
    ]
    ids = keras.Input((size["window"],), dtype="int32")
    embedded = layers.Embedding(characters, size["units"])
    return keras.Sequential([ids, embedded, *hidden, layers.Dense(characters)])


def measure(text: str, seconds: float, size: dict) -> list:
    characters = sorted(set(text))
    ids = np.searchsorted(characters, list(text)).astype("int32")
    training, rest = np.split(ids, [len(ids) * 9 // 10])
    held_out = np.array_split(rest, HELD_OUT)
    keras.utils.set_random_seed(0)
    data = ks.StatefulSequence(training, size["rows"], size["window"], boundary="ignore")
    model = ks.to_stateful(network(size, len(characters)), data)

    def look() -> float:
        nats = float(np.mean(ks.evaluate_documents(model, held_out, verbose=0)["loss"]))
        print(f"{nats:.4f} nats per character", flush=True)
        return nats

    compile_all(model, data, keras.optimizers.AdamW(RATE, weight_decay=0.1, clipnorm=1.0))
    look()  # compiles
    clock = Clock(RATE, look, seconds, LOOKS)
    model.fit(data, epochs=10**6, verbose=0, callbacks=[ks.ResetStatesCallback(data), clock])
    name = f"{size['layers']} LSTM {size['units']}, carried, {clock.epochs} passes"
    best, last = min(nats for _, nats in clock.curve), clock.curve[-1][1]
    return [
        row(f"{name}, after {seconds:.0f} s", last, "nats per character"),
        row(f"{name}, the best of {len(LOOKS)} looks", best, "nats per character"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    where = {
        **surroundings(),
        "device": device() or "no GPU",
        "command": " ".join([f"KERAS_BACKEND={keras.backend.backend()} python", *sys.argv]),
        "notes": [],
        "rows": measure(
            options.text.read_text(encoding="utf-8"),
            options.seconds,
            TINY if options.tiny else FULL,
        ),
    }
    print(f"\n{keras.backend.backend()}; {described(where)}\n\n{table(where['rows'])}")
    if options.json:
        write(options.json, where)


if __name__ == "__main__":
    main()
