"""Scoring held-out documents against the loop that PyTorch users write for it: LSTM 256, 32
documents of as many steps side by side, windows of 64, on the CPU.

The loop: `nn.Embedding`, `nn.LSTM`, `nn.Linear` without gradients, the state handed from window to
window, the loss of each document. Both sides run in one process, in turn, and score every step.
"""

import keras
import numpy as np
from harness import BACKENDS, interleaved, row

__all__ = ["BACKENDS", "measure"]

UNITS, DOCUMENTS, WINDOW, VOCABULARY, WINDOWS, ROUNDS = 256, 32, 64, 100, 20, 9
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def pytorch_loop(ids: np.ndarray):
    import torch
    from torch import nn

    embedding, head = nn.Embedding(VOCABULARY, 64), nn.Linear(UNITS, VOCABULARY)
    lstm = nn.LSTM(64, UNITS, batch_first=True)
    documents = torch.as_tensor(ids).long()

    @torch.no_grad()
    def score() -> list[float]:
        state, losses = None, torch.zeros(DOCUMENTS)
        for begin in range(0, WINDOWS * WINDOW, WINDOW):
            x, state = lstm(embedding(documents[:, begin : begin + WINDOW]), state)
            y = documents[:, begin + 1 : begin + WINDOW + 1]
            logits = head(x).transpose(1, 2)
            losses += nn.functional.cross_entropy(logits, y, reduction="none").sum(1)
        return (losses / (WINDOWS * WINDOW)).tolist()

    return score


def measure() -> tuple:
    from keras_stateful import (
        StatefulSequence,
        ValidateDocuments,
        evaluate_documents,
        to_stateful,
    )

    shape = (DOCUMENTS, WINDOWS * WINDOW + 1)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, shape, dtype="int32")
    documents = list(ids)
    sequence = StatefulSequence(documents, DOCUMENTS, WINDOW, resets=True)
    inputs = keras.Input((WINDOW,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, 64)(inputs)
    x = keras.layers.LSTM(UNITS, return_sequences=True)(x)
    model = to_stateful(keras.Model(inputs, keras.layers.Dense(VOCABULARY)(x)), sequence)
    model.compile("sgd", LOSS)
    validate = ValidateDocuments(documents, sequence_length=WINDOW)
    model.fit(sequence, verbose=0, callbacks=[validate])
    ways = {
        "evaluate": lambda: model.evaluate(sequence, verbose=0),
        "evaluate_documents": lambda: evaluate_documents(
            model, documents, sequence_length=WINDOW, verbose=0
        ),
        "ValidateDocuments, at the end of an epoch": lambda: validate.on_epoch_end(0, {}),
    }
    took = interleaved({"loop": pytorch_loop(ids), **ways}, ROUNDS)
    return (
        [
            row(
                way,
                took[way] / took["loop"],
                at_most=1.2,
                against="a plain PyTorch loop",
                ours=f"{took[way] / WINDOWS * 1e3:.1f} ms",
                theirs=f"{took['loop'] / WINDOWS * 1e3:.1f} ms",
                backend=keras.backend.backend(),
            )
            for way in ways
        ],
        "Milliseconds for each window of 64 steps of 32 documents.",
    )
