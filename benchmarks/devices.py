"""What it costs to split the same batch over several devices, and what travels between them.

    python benchmarks/devices.py                            # 1, 2 and 4 virtual devices of this CPU
    python benchmarks/devices.py --backends jax --json out.json

Virtual devices share the cores of one machine, so more of them cannot be faster: the difference to
one device is the overhead of splitting. On JAX the collectives of the compiled training step are
counted too, which is what would go over the wire between real devices. Printed are medians over
epochs of `fit`, in milliseconds a step.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fit_overhead import surroundings

BATCH_SIZE, WINDOW, UNITS, IDS = 32, 64, 256, 100
BACKENDS = ("jax", "tensorflow")
COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def measure(backend: str, devices: int, rounds: int) -> dict:
    """Milliseconds a step on that many devices, which the environment of this process has made."""
    import keras

    from keras_stateful import StatefulSequence, to_stateful

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    steps = 20
    documents = [rng.integers(0, IDS, steps * WINDOW // 2 + 1) for _ in range(2 * BATCH_SIZE)]
    sequence = StatefulSequence(documents, BATCH_SIZE, WINDOW, resets=True)
    with scope(backend, devices):
        network = keras.Sequential(
            [
                keras.Input((WINDOW,), dtype="int32"),
                keras.layers.Embedding(IDS, 64),
                keras.layers.LSTM(UNITS, return_sequences=True),
                keras.layers.Dense(IDS),
            ]
        )
        model = to_stateful(network, sequence)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        times = []
        for round in range(rounds + 1):
            start = time.perf_counter()
            model.fit(sequence, verbose=0)
            if round:  # the first compiles
                times.append((time.perf_counter() - start) / len(sequence) * 1000)
        return {
            "backend": backend,
            "devices": devices,
            "milliseconds": statistics.median(times),
            "all_milliseconds": times,
            "parameter_bytes": sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables),
            "state_bytes": 2 * 4 * BATCH_SIZE * UNITS,
            "bytes_sent": collectives(model, sequence) if backend == "jax" and devices > 1 else {},
        }


def scope(backend: str, devices: int):
    if backend == "jax":
        import keras

        return keras.distribution.DataParallel().scope()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * devices
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope()


def collectives(model, sequence) -> dict[str, int]:
    """Bytes that each kind of collective handles in one compiled training step, by kind."""
    import jax
    import keras

    layout = keras.distribution.distribution().get_data_layout
    batch = keras.tree.map_structure(
        lambda a: jax.device_put(a, layout(a.shape).backend_layout), sequence[0]
    )
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in groups)
    shardings = (None, tuple([v.sharding for v in group] for group in state))
    program = (
        jax.jit(model.train_step, out_shardings=shardings).lower(state, batch).compile().as_text()
    )

    repeats, traffic, computation = loops(program), {}, ""
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line.removeprefix("ENTRY ").split(" ")[0]
        elif match := COLLECTIVE.search(line):
            sizes = re.findall(r"(?:f|s|u)(\d+)\[([\d,]*)\]", match[1])
            size = sum(
                int(bits) // 8 * int(np.prod([int(n) for n in dims.split(",") if n]))
                for bits, dims in sizes
            )
            traffic[match[2]] = traffic.get(match[2], 0) + size * repeats.get(computation, 1)
    return traffic


def loops(program: str) -> dict[str, int]:
    """How often the body of each loop runs, by name."""
    bodies = re.findall(r"body=(%[\w.-]+).*?known_trip_count\W+n\W+(\d+)", program)
    return {body: int(count) for body, count in bodies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of 20 steps")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.in_this_process:
        result = measure(options.backends[0], options.devices[0], options.rounds)
        options.json.write_text(json.dumps(result))
        return

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends:
            for devices in options.devices:
                answer = Path(folder) / "answer.json"
                command = [
                    sys.executable,
                    __file__,
                    "--in-this-process",
                    "--backends",
                    backend,
                    "--devices",
                    str(devices),
                    "--rounds",
                    str(options.rounds),
                    "--json",
                    answer,
                ]
                flags = (
                    f"{os.environ.get('XLA_FLAGS', '')} "
                    f"--xla_force_host_platform_device_count={devices}"
                )
                environment = {
                    **os.environ,
                    "KERAS_BACKEND": backend,
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "XLA_FLAGS": flags,
                }
                subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
                results.append(json.loads(answer.read_text()))

    where = surroundings()
    names = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    print(
        f"{where['date']}; {where['cpu']}, {where['cores']} cores; Python {where['python']}, "
        f"{names}"
    )
    print(
        f"LSTM {UNITS}, batch {BATCH_SIZE} in all, window {WINDOW}; "
        f"{results[0]['parameter_bytes']:,} bytes of parameters, {results[0]['state_bytes']:,} "
        "bytes of states\n"
    )
    print("| backend | devices | ms a step | to one device | bytes in collectives |")
    print("|---|---|---|---|---|")
    for result in results:
        one = next(r for r in results if r["backend"] == result["backend"])
        sent = ", ".join(f"{kind} {size:,}" for kind, size in result["bytes_sent"].items()) or "-"
        ratio = result["milliseconds"] / one["milliseconds"]
        print(
            f"| {result['backend']} | {result['devices']} | {result['milliseconds']:.1f} | "
            f"{ratio:.2f} | {sent} |"
        )
    if options.json:
        options.json.write_text(json.dumps({**where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
