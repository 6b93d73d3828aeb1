"""What a GPU makes of it: `fit` against the bare step and PyTorch's cuDNN loop, resets, data,
generation.

    KERAS_BACKEND=torch python benchmarks/gpu.py    # or jax; needs keras, numpy and that backend
    KERAS_BACKEND=jax python benchmarks/gpu.py --json out.json
    KERAS_BACKEND=jax python benchmarks/gpu.py --only resets
    KERAS_BACKEND=jax python benchmarks/gpu.py --tiny       # small, also on a CPU, without cuDNN

First it checks that the fused cuDNN kernel is really taken and that results equal those of the
plain loop on the same weights; it stops where they do not. Then tokens a second.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from fit_overhead import bare_epoch, compiled
from harness import described, interleaved, row, surroundings, table, write

import keras_stateful as ks

VOCABULARY = 100
FULL = {
    "units": (512, 1024, 2048),
    "layers": (1, 3),
    "rows": 64,
    "window": 128,
    "steps": 15,  # of an epoch
    "seconds": 0.4,  # of an epoch of `training`, but at least 5 steps
    "rounds": 3,
    "ids": 1000,
}
TINY = {
    "units": (16,),
    "layers": (1, 2),
    "rows": 4,
    "window": 8,
    "steps": 3,
    "seconds": 0.1,
    "rounds": 1,
    "ids": 10,
}


def network(
    units: int, layers: int, window: int | None, policy: str = "float32", use_cudnn="auto"
) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((window,), dtype="int32"), keras.layers.Embedding(VOCABULARY, units)]
    )
    for _ in range(layers):
        model.add(keras.layers.LSTM(units, return_sequences=True, use_cudnn=use_cudnn))
    model.add(keras.layers.Dense(VOCABULARY, dtype="float32"))
    keras.config.set_dtype_policy("float32")
    return model


def device() -> str | None:
    """The GPU's name, or None."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0]
        return found.device_kind if found.platform == "gpu" else None
    return None


def takes_fused_kernel(model, x: np.ndarray) -> bool:
    """True if the backend's profile of a call of the model shows cuDNN's recurrent kernel."""
    if keras.backend.backend() == "torch":
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(x, training=True)
        return any("cudnn_rnn" in event.name for event in profile.events())
    import jax

    def call(variables, states, x):
        return model.stateless_call(variables, states, x, training=True)[0]

    values = [
        [v.value for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    return "cudnn" in jax.jit(call).lower(*values, x).compile().as_text().lower()


def check(size: dict, tiny: bool) -> None:
    """Stops unless the fused kernel is taken and agrees with the plain loop, in the step and from
    window to window.
    """
    units, rows, window = size["units"][0], size["rows"], size["window"]
    fused = ks.to_stateful(network(units, 2, window), rows, resets="window")
    plain = ks.to_stateful(network(units, 2, window, use_cudnn=False), rows, resets="window")
    plain.set_weights(fused.get_weights())
    rng = np.random.default_rng(0)
    taken = takes_fused_kernel(
        fused, [rng.integers(0, VOCABULARY, (rows, window)), np.ones(rows, bool)]
    )
    if not taken and not tiny:
        sys.exit("gpu.py: the fused cuDNN kernel is not taken, so no figure would mean anything.")
    ks.reset_states(fused)
    worst = 0.0
    for _ in range(4):
        x = [rng.integers(0, VOCABULARY, (rows, window), dtype="int32"), rng.random(rows) < 0.3]
        outputs = [m.predict(x, batch_size=rows, verbose=0) for m in (fused, plain)]
        worst = max(worst, float(np.abs(outputs[0] - outputs[1]).max()))
    if not worst < 5e-3:  # the kernels multiply in TF32 by default
        sys.exit(f"gpu.py: the fused kernel differs from the plain loop by {worst}.")
    print(
        f"fused kernel {'taken' if taken else 'not taken'}; largest difference to the plain loop "
        f"{worst:.1e}"
    )


def torch_loop(units: int, layers: int, batches: list, bfloat16: bool):
    """An epoch of the loop that PyTorch users write, on the GPU; None where torch is missing."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    where = "cuda" if torch.cuda.is_available() else "cpu"
    parts = nn.ModuleList(
        [
            nn.Embedding(VOCABULARY, units),
            nn.LSTM(units, units, layers, batch_first=True),
            nn.Linear(units, VOCABULARY),
        ]
    ).to(where)
    optimizer = torch.optim.Adam(parts.parameters())
    placed = [
        tuple(torch.as_tensor(part).long().to(where) for part in batch[:2]) for batch in batches
    ]

    def epoch() -> None:
        state = None
        for x, y in placed:
            optimizer.zero_grad()
            with torch.autocast(where, torch.bfloat16, enabled=bfloat16):
                outputs, state = parts[1](parts[0](x), state)
                logits = parts[2](outputs).float()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
            state = tuple(s.detach() for s in state)
        float(loss.detach())

    return epoch


def ids_of(size: dict, steps: int) -> ks.StatefulSequence:
    """Random ids: one document, so many windows long."""
    rows, window = size["rows"], size["window"]
    ids = np.random.default_rng(0).integers(0, VOCABULARY, rows * window * steps + 1, dtype="int32")
    return ks.StatefulSequence(ids, rows, window, boundary="ignore")


def training(size: dict) -> Iterator[dict]:
    rows, window = size["rows"], size["window"]
    settings = itertools.product(size["units"], size["layers"], ("float32", "mixed_bfloat16"))
    for units, layers, policy in settings:
        model = compiled(ks.to_stateful(network(units, layers, window, policy), rows))
        few = ids_of(size, 5)
        model.fit(few, verbose=0)
        start = time.perf_counter()
        model.fit(few, verbose=0)
        more = size["seconds"] / (time.perf_counter() - start)
        sequence = ids_of(size, int(len(few) * max(more, 1)))
        batches = [sequence[i] for i in range(len(sequence))]
        ways = {
            "the bare step, batches on the device": bare_epoch(model, batches),
            "fit": lambda m=model, s=sequence: m.fit(s, verbose=0),
            "PyTorch's cuDNN loop": torch_loop(units, layers, batches, policy != "float32"),
        }
        took = interleaved({k: v for k, v in ways.items() if v}, size["rounds"])
        tokens = rows * window * len(sequence)
        for against in [w for w in took if w != "fit"]:
            yield row(
                f"fit, LSTM {units}, {layers} layer{'s' * (layers > 1)}, {policy}",
                took["fit"] / took[against],
                against=against,
                at_most=1.05 if "bare" in against else 1.0,
                ours=f"{tokens / took['fit']:,.0f} tokens/s",
                theirs=f"{tokens / took[against]:,.0f} tokens/s",
            )


def resets(size: dict) -> Iterator[dict]:
    """A step with resets against one without, and "pack" by one call against the loop."""
    units, rows, window, steps = size["units"][0], size["rows"], size["window"], size["steps"]
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (rows, window), dtype="int32")

    def epoch(model, batches: list):
        compiled(model).train_on_batch(*batches[0])
        return bare_epoch(model, batches)

    def packed(lengths: tuple[int, int], use_cudnn="auto"):
        count = 4 * rows * window * steps // sum(lengths) + 2 * rows
        documents = [rng.integers(0, VOCABULARY, n) for n in rng.integers(*lengths, count)]
        pack = ks.StatefulSequence(documents, rows, window, boundary="pack", resets=True)
        model = ks.to_stateful(network(units, 1, window, use_cudnn=use_cudnn), pack)
        return epoch(model, [(list(x), *rest) for x, *rest in map(pack.__getitem__, range(steps))])

    align = [([x, rng.random(rows) < 0.1], x)] * steps
    ways = {
        "no resets": epoch(ks.to_stateful(network(units, 1, window), rows), [(x, x)] * steps),
        '"align"': epoch(ks.to_stateful(network(units, 1, window), rows, resets="window"), align),
    }
    pairs = [('"align"', "no resets", 1.02)]
    for lengths in ((2_000, 9_000), (10, 60)):
        pack = f'"pack", documents of {lengths[0]:,} to {lengths[1]:,} steps'
        ways[pack], ways[f"the loop, {pack}"] = packed(lengths), packed(lengths, use_cudnn=False)
        pairs += [(pack, '"align"', 1.2), (pack, f"the loop, {pack}", 0.25)]
    took = interleaved(ways, size["rounds"])
    for ours, theirs, reach in pairs:
        yield row(
            f"a step with resets in {ours}, LSTM {units}",
            took[ours] / took[theirs],
            against=theirs.partition(", ")[0],
            at_most=reach,
            ours=f"{took[ours] / steps * 1e3:.2f} ms",
            theirs=f"{took[theirs] / steps * 1e3:.2f} ms",
        )


def host_and_device(size: dict) -> Iterator[dict]:
    """Batches that lie on the device, against those that each step takes from host memory."""
    units, steps, sequence = size["units"][0], size["steps"], ids_of(size, size["steps"])
    model = compiled(ks.to_stateful(network(units, 1, size["window"]), size["rows"]))
    model.fit(sequence, verbose=0)

    class Placed(keras.utils.PyDataset):
        batches = [tuple(keras.ops.convert_to_tensor(p) for p in sequence[i]) for i in range(steps)]  # noqa: RUF012

        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> tuple:
            return self.batches[index]

    placed = Placed()
    took = interleaved(
        {
            "host": lambda: model.fit(sequence, verbose=0),
            "device": lambda: model.fit(placed, shuffle=False, verbose=0),
        },
        size["rounds"],
    )
    yield row(
        f"fit from host memory, LSTM {units}",
        took["host"] / took["device"],
        against="from device memory",
        ours=f"{took['host'] / steps * 1e3:.2f} ms",
        theirs=f"{took['device'] / steps * 1e3:.2f} ms",
    )


def generation(size: dict) -> Iterator[dict]:
    model = network(size["units"][0], 2, None)
    ks.generate(model, [1], size["ids"], temperature=0, verbose=0)
    start = time.perf_counter()
    ks.generate(model, [1], size["ids"], temperature=0, verbose=0)
    took = (time.perf_counter() - start) / size["ids"]
    yield row(f"generate, two LSTM {size['units'][0]}, batch 1", took * 1e3, "ms per id")


PARTS = {
    "training": training,
    "resets": resets,
    "data": host_and_device,
    "generation": generation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes, also without cuDNN")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    size, found = (TINY if options.tiny else FULL), device()
    if found is None and not options.tiny:
        sys.exit(f"gpu.py: {keras.backend.backend()} sees no GPU. `--tiny` runs on a CPU.")
    where = {
        **surroundings(),
        "device": found or "no GPU",
        "command": " ".join([f"KERAS_BACKEND={keras.backend.backend()} python", *sys.argv]),
        "notes": [],
    }
    check(size, options.tiny)
    where["rows"] = []
    for result in itertools.chain.from_iterable(PARTS[name](size) for name in options.only):
        where["rows"].append(result)  # of what is cut short, something is left
        print(table([result]).splitlines()[-1], flush=True)
        if options.json:
            write(options.json, where)
    print(f"\n{keras.backend.backend()}; {described(where)}\n\n{table(where['rows'])}")


if __name__ == "__main__":
    main()
