"""A training step of `fit` against the loop that PyTorch users write: LSTM 512, batch 64, window
64, on the CPU.

Both sides run in one process, in turn. The loop: `nn.Embedding`, `nn.LSTM`, `nn.Linear`, Adam, the
state detached after each window. `fit` reads a `StatefulSequence` of the same ids into the same
model: of `to_stateful`, or plain with `stateful=True` and `ResetStatesCallback`. "Keras's own loop"
is the first with `use_cudnn=False`, which switches this package's kernels off.
"""

import keras
import numpy as np
from harness import BACKENDS, ENVIRONMENTS, interleaved, row

__all__ = ["BACKENDS", "ENVIRONMENTS", "measure"]

UNITS, ROWS, WINDOW, VOCABULARY, STEPS, ROUNDS = 512, 64, 64, 100, 6, 9


def pytorch_loop(batches: list):
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 64)
            self.lstm = nn.LSTM(64, UNITS, batch_first=True)
            self.head = nn.Linear(UNITS, VOCABULARY)

        def forward(self, x, state):
            x, state = self.lstm(self.embedding(x), state)
            return self.head(x), state

    network = Network()
    optimizer = torch.optim.Adam(network.parameters())
    placed = [(torch.as_tensor(x).long(), torch.as_tensor(y).long()) for x, y in batches]

    def epoch() -> None:
        state = None
        for x, y in placed:
            optimizer.zero_grad()
            logits, state = network(x, state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
            state = tuple(s.detach() for s in state)
        float(loss.detach())

    return epoch


def measure() -> tuple:
    from keras_stateful import ResetStatesCallback, StatefulSequence, to_stateful

    backend = keras.backend.backend()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, ROWS * WINDOW * STEPS + 1, dtype="int32")
    sequence = StatefulSequence(ids, ROWS, WINDOW, boundary="ignore")

    def fit(plain=False, use_cudnn="auto", **settings):
        inputs = keras.Input((WINDOW,), batch_size=ROWS, dtype="int32")
        x = keras.layers.Embedding(VOCABULARY, 64)(inputs)
        x = keras.layers.LSTM(UNITS, return_sequences=True, stateful=plain, use_cudnn=use_cudnn)(x)
        model = keras.Model(inputs, keras.layers.Dense(VOCABULARY)(x))
        model = model if plain else to_stateful(model, ROWS)
        model.compile(
            "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **settings
        )
        callbacks = [ResetStatesCallback(sequence)] if plain else None
        return lambda: model.fit(sequence, verbose=0, callbacks=callbacks)

    ways = {"fit, default settings": fit(), "fit, a plain model and the callback": fit(plain=True)}
    if backend == "tensorflow":
        ways["fit, jit_compile=True"] = fit(jit_compile=True)
    ways["fit, Keras's own loop"] = fit(use_cudnn=False)
    loop = pytorch_loop([sequence[i] for i in range(STEPS)])
    took = interleaved({"loop": loop, **ways}, ROUNDS)
    best = min(ways, key=took.__getitem__)
    return (
        [
            row(
                way,
                took[way] / took["loop"],
                at_most=1.0 if backend == "jax" and way == best else None,
                against="a plain PyTorch loop",
                ours=f"{took[way] / STEPS * 1e3:.0f} ms",
                theirs=f"{took['loop'] / STEPS * 1e3:.0f} ms",
                backend=backend,
            )
            for way in ways
        ],
    )
