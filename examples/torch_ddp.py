"""Train with torch in several processes: DistributedDataParallel around a Keras model, in a loop of
one's own.

    python examples/torch_ddp.py                                   # one process
    torchrun --nproc_per_node 2 examples/torch_ddp.py              # two on this host

    # The first of two hosts; the second one with --node_rank 1:
    torchrun --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 examples/torch_ddp.py

Each process holds a model of its own rows and their states; after each backward pass the processes
average their gradients. The losses are the same, whatever their number. Keras's own `fit` knows
nothing of several processes on torch.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import backend
import keras
import numpy as np
import torch
import torch.distributed as dist

from keras_stateful import StatefulSequence, reset_states, to_stateful

BATCH_SIZE, WINDOW, VOCABULARY = 16, 32, 30  # the rows of all processes together


def main() -> None:
    options = parse_options()
    rank, world = (
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
    )  # torchrun sets them
    if world > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if rank == 0:
        backend.say()
    keras.utils.set_random_seed(0)  # every process starts from the same weights

    rng = np.random.default_rng(0)
    documents = [np.cumsum(rng.integers(0, 3, n)) % VOCABULARY for n in rng.integers(100, 400, 60)]
    sequence = StatefulSequence(
        documents, BATCH_SIZE, WINDOW, shuffle=True, seed=0, resets=True, shard=(rank, world)
    )

    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 16),
            keras.layers.LSTM(32, return_sequences=True),
            keras.layers.Dense(VOCABULARY),
        ]
    )
    model = to_stateful(network, sequence)  # the rows of this process
    forward = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.Adam([variable.value for variable in model.trainable_weights], 1e-3)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    for epoch in range(options.epochs):
        sequence.epoch = epoch
        reset_states(model)
        total = 0.0
        for i in range(len(sequence)):
            x, y, sample_weight = keras.tree.map_structure(keras.ops.convert_to_tensor, sequence[i])
            optimizer.zero_grad()
            # The mean over this process's rows. The weights are scaled by the real steps of all
            # rows, and DDP averages the gradients, so this is the gradient of the mean over the
            # real steps of the whole batch.
            loss = loss_of(y, forward(x, training=True), sample_weight=sample_weight)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {float(total) / world / len(sequence):.6f}", flush=True)

    if rank == 0 and options.output:
        model.save(options.output)
    if world > 1:
        dist.barrier()  # nobody leaves while another still needs the connection
        dist.destroy_process_group()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", help="where to write the trained model, such as model.keras")
    return parser.parse_args()


if __name__ == "__main__":
    main()
