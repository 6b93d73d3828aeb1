"""A recurrent layer that Keras does not have, carried as Keras's own: a minGRU.

    python examples/mingru.py            # needs pip install ".[export]"
    python examples/mingru.py --time     # how long a training step of each loop takes here

A minGRU (Feng et al. 2024, arXiv:2410.01201) has gates that do not read the state,

    h[t] = (1 - z[t]) h[t-1] + z[t] c[t]        z = sigmoid(dense(x)), c = dense(x)

so that all of z and c are computed at once, and the chain of h is either a loop of products or a
scan, which is parallel over time. A document's start sets the factor of h[t-1] to 0 at its step:
nothing else is needed for resets inside a window. `register_carry` is told of both, and everything
else is as for an LSTM: it is trained on Python's help topics, exported, and writes.
"""

import argparse
import tempfile
import time
from pydoc_data.topics import topics

import backend
import keras
import numpy as np
from keras import layers, ops

from keras_stateful import (
    StatefulSequence,
    evaluate_documents,
    export_step_model,
    generate,
    load_session,
    register_carry,
    to_stateful,
)


def on_accelerator() -> bool:
    """True if there is something faster than the CPU, on which the parallel scan pays."""
    name = keras.backend.backend()
    if name == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if name == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import torch

    return torch.cuda.is_available()


class Chain(layers.Layer):
    """The cell of h[t] = factor[t] h[t-1] + addend[t]: one step of the loop."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def call(self, inputs, states):
        factor, addend = ops.split(inputs, 2, axis=-1)
        h = factor * states[0] + addend
        return h, [h]


@keras.saving.register_keras_serializable(package="examples")
class MinGRU(layers.Layer):
    """`(batch, time, features)` to `(batch, time, units)`.

    Args:
        units: size of the state.
        parallel: whether h is computed by a scan that is parallel over time, where Keras's scan can
            do it; None: where there is an accelerator. On a CPU the loop is faster (`--time`).
    """

    def __init__(self, units: int, parallel: bool | None = None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.parallel = units, parallel
        self.dense = layers.Dense(2 * units, name="gates")
        self.loop = layers.RNN(Chain(units), return_sequences=True)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.advance(ops.zeros_like(x[:, 0, :1]) * ops.zeros((1, self.units)), x, None)

    def advance(self, h, x, resets):
        """The outputs at each step, from a state `(batch, units)`."""
        z, c = ops.split(self.dense(x), 2, axis=-1)
        z = ops.sigmoid(z)
        factor, addend = 1 - z, z * c
        if resets is not None:
            factor = ops.where(ops.expand_dims(resets, -1), 0.0, factor)
        if x.shape[1] == 1:  # one step of a stream: there is nothing to chain
            return factor * ops.expand_dims(h, 1) + addend
        parallel = on_accelerator() if self.parallel is None else self.parallel
        if parallel and can_scan(x):
            return scan(factor, addend, h)
        return self.in_a_loop(factor, addend, h)

    def in_a_loop(self, factor, addend, h):
        return self.loop(ops.concatenate([factor, addend], axis=-1), initial_state=[h])

    def get_config(self):
        return {**super().get_config(), "units": self.units, "parallel": self.parallel}


def can_scan(x) -> bool:
    """True if Keras's scan takes this: on TensorFlow it fails for an unknown number of rows, and
    anywhere for an unknown number of steps.
    """
    return keras.backend.backend() != "tensorflow" and isinstance(x.shape[1], int)


def scan(factor, addend, h):
    """h[t] = factor[t] h[t-1] + addend[t] for all t at once, by Blelloch's scan."""

    def joined(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    # On torch Keras's scan gives float32 whatever it is given: so give it that.
    pairs = tuple(ops.cast(t, "float32") for t in (factor, addend))
    factors, addends = ops.associative_scan(joined, pairs, axis=1)
    outputs = factors * ops.expand_dims(ops.cast(h, "float32"), 1) + addends
    return ops.cast(outputs, addend.dtype)


class CarryMinGRU:
    """What `register_carry` is told: the state is h, zeros at first."""

    def initial_states(self, layer, batch_size, shape):
        return [ops.zeros((batch_size, layer.units))]

    def advance(self, layer, states, x, resets=None):
        outputs = layer.advance(ops.cast(states[0], x.dtype), x, resets)
        return outputs, [outputs[:, -1]]


register_carry(MinGRU, CarryMinGRU())


def main() -> None:
    options = parse_options()
    backend.say()
    if options.time:
        return compare_times()
    keras.utils.set_random_seed(0)
    texts = [topics[name] for name in sorted(topics)]
    if options.smoke:
        texts = [text[:400] for text in texts[:9]]
    units, epochs, rows, window = (32, 2, 4, 16) if options.smoke else (256, 10, 16, 64)
    characters = sorted(set("".join(texts)))
    ids = {c: i for i, c in enumerate(characters)}
    documents = [np.array([ids[c] for c in text]) for text in texts]
    held_out, documents = documents[::8], [d for i, d in enumerate(documents) if i % 8]

    x = keras.Input((None,), dtype="int32")
    h = layers.Embedding(len(characters), units // 2)(x)
    for name in ("lower", "upper"):
        h = MinGRU(units, name=name)(h)
        h = layers.LayerNormalization()(h)
    model = keras.Model(x, layers.Dense(len(characters))(h))

    # Documents back to back: a reset stands inside the window, before the step that it is for.
    sequence = StatefulSequence(
        documents, rows, window, boundary="pack", resets=True, shuffle=True, seed=0
    )
    training = to_stateful(model, sequence)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    training.compile(keras.optimizers.Adam(2e-3), loss)
    training.fit(sequence, epochs=epochs, verbose=2)
    bits = evaluate_documents(training, held_out, verbose=0)["loss"] / np.log(2)
    lengths = [len(d) - 1 for d in held_out]
    print(f"held-out topics: {np.average(bits, weights=lengths):.3f} bits for each character")

    start = "The statement "
    prompt = np.array([ids[c] for c in start])
    written = generate(
        training, prompt, 60 if options.smoke else 300, temperature=0.6, seed=1, verbose=0
    )
    print(start + "".join(characters[i] for i in written))

    with tempfile.TemporaryDirectory() as folder:
        export_step_model(training, f"{folder}/artifact", verbose=0)
        with load_session(f"{folder}/artifact") as session:
            scores = session.read(prompt[None])
            print("states of the artifact:", ", ".join(session.get_states()))
    print("most likely next:", repr(characters[int(np.argmax(scores[0, -1]))]))


def compare_times() -> None:
    """Prints how long a step of training takes, of each loop and of an LSTM of Keras."""
    x = np.random.default_rng(0).standard_normal((64, 64, 512)).astype("float32")
    for name, layer in {
        "loop": MinGRU(512, parallel=False),
        "parallel scan": MinGRU(512, parallel=True),
        "LSTM": layers.LSTM(512, return_sequences=True),
    }.items():
        model = keras.Sequential([keras.Input((64, 512), batch_size=64), layer])
        model.compile("sgd", "mse")
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            model.train_on_batch(x, x)
            seconds.append(time.perf_counter() - start)
        print(f"{name:<14}{1000 * min(seconds[2:]):8.0f} ms")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--time", action="store_true", help="compare the loops, train nothing")
    parser.add_argument("--smoke", action="store_true", help="a size for tests")
    return parser.parse_args()


if __name__ == "__main__":
    main()
