"""`SampleText`: what the model writes, at the end of each epoch."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_stateful.foundation.arguments import whole_number
from keras_stateful.generation.generate import check, generate_with
from keras_stateful.generation.options import Options


class SampleText(keras.callbacks.Callback):
    """Writes a sample of the model's text at the end of an epoch, with the weights of then.

    It runs a twin over the model's own variables, from the initial state: nothing is copied, the
    training's states, losses and random numbers are what they would be without it. The arguments
    are checked when training begins.

    Args:
        prompt: what `encode` takes, usually a string.
        length: how many ids to generate.
        encode: from `prompt` to ids `(timesteps,)`.
        decode: from ids, int32 `(timesteps,)`, to text.
        every: epochs from one sample to the next.
        temperature: as in `generate`.
        top_k: as in `generate`.
        top_p: as in `generate`.
        seed: as in `generate`; every epoch draws other numbers. None follows
            `keras.utils.set_random_seed` as it was when training began.
        stop: as in `generate`.
        from_logits: as in `generate`.
        write: called with each line; None writes nothing.

    Attributes:
        samples: `{epoch: text}`, epochs counted from 1; the text is prompt and continuation,
            decoded together.

    Raises:
        ValueError: when training begins, what `generate` raises.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    text = "to be or not to be " * 50
    letters = sorted(set(text))
    encode = lambda s: np.array([letters.index(c) for c in s], "int32")
    decode = lambda ids: "".join(letters[i] for i in ids)

    sequence = ks.StatefulSequence(encode(text), batch_size=4, sequence_length=20, resets=True)
    model = ks.to_stateful(keras.Sequential([
        keras.Input((None,), dtype="int32"), keras.layers.Embedding(len(letters), 8),
        keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(len(letters))]), sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sample = ks.SampleText("to be", 30, encode=encode, decode=decode, temperature=0.7)
    model.fit(sequence, epochs=2, verbose=0, callbacks=[sample])
    assert sample.samples[2].startswith("to be")
    ```
    """

    def __init__(
        self,
        prompt: Any,
        length: int,
        *,
        encode: Callable[[Any], Any],
        decode: Callable[[np.ndarray], str],
        every: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: ArrayLike | None = None,
        from_logits: bool | None = None,
        write: Callable[[str], Any] | None = print,
    ):
        super().__init__()
        self.every = whole_number("every", every, 1, unit="epochs")
        for name, value in (("encode", encode), ("decode", decode)):
            if not callable(value):
                raise TypeError(f"`{name}` must be a function. Received: {name}={value!r}.")
        self.prompt, self.length = prompt, length
        self.encode, self.decode, self.write = encode, decode, write
        self.seed = seed
        self._options = Options(temperature, top_k, top_p, stop=stop, from_logits=from_logits)
        self.samples: dict[int, str] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        with _untouched_randomness():
            # The draw is taken back with all others: a training without samples goes the same way.
            self._seed = random.getrandbits(63) if self.seed is None else self.seed
            self._ids = np.asarray(self.encode(self.prompt))
            if self._ids.ndim != 1:
                raise ValueError(
                    "`encode` must give ids of shape (timesteps,) for the one prompt. "
                    f"Received: shape {self._ids.shape}."
                )
            check(self.model, self._ids, self.length, replace(self._options, seed=self._seed))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        with _untouched_randomness():
            # Other numbers in every epoch, and the same ones in a training that was resumed.
            seed = int(np.random.SeedSequence([self._seed, epoch]).generate_state(1, "uint64")[0])
            options = replace(self._options, seed=seed)
            new = generate_with(self.model, self._ids, self.length, options)
            text = self.decode(np.concatenate([self._ids, new]).astype("int32"))
        self.samples[epoch + 1] = text
        if self.write is not None:
            self.write(f"\nSample after epoch {epoch + 1}: {text}")

    def get_state(self) -> dict[str, Any]:
        """What `ResumeTraining` saves: the samples, and the seed that the later ones follow."""
        return {"samples": self.samples, "_seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave, when training has begun."""
        self.samples, self._seed = state["samples"], state["_seed"]


@contextmanager
def _untouched_randomness() -> Iterator[None]:
    """Puts Python's and NumPy's global generators back to where they were.

    The first conversion of a model draws seeds, and `encode` and `decode` may draw anything: a
    training must have the same losses with samples and without.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
