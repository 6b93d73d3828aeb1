"""Train with JAX in several processes, on one host or many; each reads only the rows that its
devices own.

    # One process with all its devices:
    python examples/jax_processes.py

    # Two hosts, the first and the second:
    python examples/jax_processes.py --coordinator 10.0.0.1:1234 --processes 2 --process 0
    python examples/jax_processes.py --coordinator 10.0.0.1:1234 --processes 2 --process 1

The losses are the same, whatever the number of processes and devices: the batch is the same, and
only gradients travel. On a TPU pod or under Slurm leave the three options out and pass `--cluster`:
JAX asks the surroundings.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"

import backend
import jax
import keras
import numpy as np

from keras_stateful import StatefulSequence, to_stateful

BATCH_SIZE, WINDOW, VOCABULARY = 16, 32, 30  # the rows of all processes together


def main() -> None:
    options = parse_options()
    keras.utils.set_random_seed(0)  # every process starts from the same weights
    if options.coordinator or options.cluster:  # before anything is computed
        jax.config.update(
            "jax_cpu_collectives_implementation", "gloo"
        )  # where there are no accelerators
        keras.distribution.initialize(options.coordinator, options.processes, options.process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))

    # Every process knows all documents (here they are made up; a data source reads them when
    # needed) and shares the layout; `shard` says which of its rows are read here.
    rng = np.random.default_rng(0)
    documents = [np.cumsum(rng.integers(0, 3, n)) % VOCABULARY for n in rng.integers(100, 400, 60)]
    sequence = StatefulSequence(
        documents,
        BATCH_SIZE,
        WINDOW,
        shuffle=True,
        seed=0,
        resets=True,
        shard=(jax.process_index(), jax.process_count()),
    )

    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 16),
            keras.layers.LSTM(32, return_sequences=True),
            keras.layers.Dense(VOCABULARY),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first = jax.process_index() == 0
    if first:
        backend.say()
    history = model.fit(sequence, epochs=options.epochs, verbose=0).history
    if first:
        for epoch, loss in enumerate(history["loss"], 1):
            print(f"epoch {epoch}: loss {loss:.6f}", flush=True)
        if options.output:
            keras.distribution.set_distribution(
                None
            )  # or the new file's variables would wait for the other processes
            model.save(options.output)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="a free port on the host of process 0"
    )
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="which of them this is, from 0")
    parser.add_argument("--cluster", action="store_true", help="let JAX find the three above")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", help="where to write the trained model, such as model.keras")
    return parser.parse_args()


if __name__ == "__main__":
    main()
