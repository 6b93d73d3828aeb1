"""Whether an artifact computes what Keras does: which of its outputs is which, chained steps side
by side, and int8's price.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_stateful.session.manifest import Manifest, Tensor
from keras_stateful.session.runtimes import Runtime
from keras_stateful.session.session import Session, load_session

STEPS = 16  # chained steps that an artifact must agree on with Keras
TOLERANCE = 1e-5  # of the largest number of that output, at least of 1


def _random(tensor: Tensor, rows: int, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, *(3 if d is None else d for d in tensor.shape[1:]))
    if tensor.dtype == "bool" or "int" in tensor.dtype or tensor.vocabulary is not None:
        return rng.integers(0, tensor.vocabulary or 2, shape).astype(tensor.dtype)
    return rng.standard_normal(shape).astype(tensor.dtype)


def _keras_call(model: keras.Model) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Calls a model without gradients on flat lists of arrays."""
    call = model.predict_on_batch
    # JAX compiles a loop anew in every call that is not compiled as a whole.
    if keras.backend.backend() == "jax":
        import jax

        variables = list(model.variables)

        def stateless(values: list, feeds: list) -> Any:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return model(feeds, training=False)

        compiled = jax.jit(stateless)

        def call(feeds: list[np.ndarray]) -> Any:
            return compiled([v.value for v in variables], feeds)

    return lambda feeds: [np.asarray(o) for o in keras.tree.flatten(call(feeds))]


def output_tensors(
    single: keras.Model,
    runtime: Runtime,
    inputs: list[Tensor],
    states: list[str],
    start: list,
    rows: int | None,
) -> list[str]:
    """The artifact's name for each Keras output.

    Exporters rename outputs, and some reorder them or let one stand for two: numbers tell. Outputs
    that differ for rare inputs only are told apart by their order, where the numbers agree with it
    throughout.

    Raises:
        RuntimeError: an output that the artifact does not have, or that could be one of several.
    """
    rng = np.random.default_rng(0)
    count = rows or 2
    feeds = [_random(t, count, rng) for t in inputs]
    feeds += [rng.uniform(-1, 1, (count, *s.shape)).astype(s.dtype) for s in start]
    wanted = _keras_call(single)(feeds)
    names = list(runtime.output_names())
    got = dict(
        zip(
            names,
            runtime.run(
                dict(zip([*(t.tensor for t in inputs), *states], feeds, strict=True)), names
            ),
            strict=True,
        )
    )
    hits = []
    for tensor, array in zip(single.outputs, wanted, strict=True):
        hits.append([n for n in names if _apart(got[n], array) <= 100 * TOLERANCE])
        if not hits[-1]:
            raise RuntimeError(
                f"The artifact has no output that computes what {tensor.name!r} does in Keras, "
                f"shape {tensor.shape}. The exporter is likely to have changed the model's "
                "meaning: try another `format`, and report it to Keras."
            )
    ordered = _in_order(names)
    if len(ordered) == len(hits) and all(n in h for n, h in zip(ordered, hits, strict=True)):
        return ordered
    for tensor, several in zip(single.outputs, hits, strict=True):
        if len(set(several)) > 1:
            raise RuntimeError(
                f"Which output of the artifact is {tensor.name!r} cannot be told. Received: "
                f"{several}, in an order that is not the model's, with the same numbers for random "
                "inputs. Leave one of them out of the model's outputs, or try another `format`."
            )
    return [several[0] for several in hits]


def _in_order(names: list[str]) -> list[str]:
    """The artifact's outputs in the model's order: by the number in `output_<number>`, else as the
    artifact lists them.
    """
    numbers = [re.fullmatch(r"output_(\d+)", name) for name in names]
    if all(numbers):
        return [name for _, name in sorted((int(m[1]), m[0]) for m in numbers if m)]
    return names


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, as a share of the largest number where that is above 1."""
    if a.shape != b.shape:
        return float("inf")
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if not a.size:
        return 0.0
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.max(np.abs(a - b)) / max(1.0, float(np.max(np.abs(b)))))


def compare(
    model: keras.Model,
    directory: Path,
    told: Manifest,
    batch_size: int,
    *,
    states_only: bool = False,
) -> None:
    """Chains steps through Keras and through a `Session`, at two batch sizes."""
    start = [s.initial for s in told.states]
    rng = np.random.default_rng(1)
    session, run_keras = load_session(directory, batch_size), _keras_call(model)
    for rows in (batch_size, batch_size + 1):
        session = session.fork(rows=np.zeros(rows, int))
        session.reset()
        states = [np.repeat(s[None], rows, axis=0) for s in start]
        for step in range(STEPS):
            feeds = [_random(t, rows, rng) for t in told.inputs]
            wanted = run_keras([*feeds, *states])
            states = wanted[len(told.outputs) :]
            got = _step(session, told, feeds)
            names = [*(t.name for t in told.outputs), *(s.name for s in told.states)]
            compared = list(zip(names, got, wanted, strict=True))
            for name, g, w in compared[len(told.outputs) if states_only else 0 :]:
                if (apart := _apart(g, w)) > TOLERANCE:
                    raise RuntimeError(
                        f"The artifact computes something else than Keras: {name!r} differs by "
                        f"{apart:.1e} after {step + 1} steps with {rows} rows (at most "
                        f"{TOLERANCE:.0e}). Nothing was written. Try another `format`; a layer "
                        "that is random at inference can never agree."
                    )


def _step(session: Session, told: Manifest, feeds: list[np.ndarray]) -> list[np.ndarray]:
    """One step with the arrays as Keras takes them; outputs and states as Keras gives them."""
    result = session.step(tuple(f[:, 0] if t.time else f for t, f in zip(told.inputs, feeds, strict=True))
                          if len(feeds) > 1 else feeds[0][:, 0] if told.inputs[0].time else feeds[0])  # fmt: skip
    results = result if isinstance(result, tuple) else (result,)
    outputs = [o[:, None] if t.time else o for t, o in zip(told.outputs, results, strict=True)]
    left = {layer: list(arrays) for layer, arrays in session.get_states().items()}
    return [*outputs, *(left[s.layer].pop(0) for s in told.states)]


def deviation(exact: Path, told: Manifest, quantized: Path, data: Any) -> dict[str, Any]:
    """Runs the exact and the quantized artifact side by side on the user's data."""
    first = (
        next(iter(data.values()))
        if isinstance(data, dict)
        else data[0]
        if isinstance(data, tuple)
        else data
    )
    rows = len(np.asarray(first))
    with load_session(exact, max(rows, 1)) as a, load_session(quantized, max(rows, 1)) as b:
        wanted, got = a.read(data), b.read(data)
    record: dict[str, Any] = {"weights": "int8", "states": "float32", "rows": rows, "outputs": {}}
    wanted, got = (r if isinstance(r, tuple) else (r,) for r in (wanted, got))
    for tensor, w, g in zip(told.outputs, wanted, got, strict=True):
        moved = np.abs(g.astype("float64") - w)
        if not np.isfinite(moved).all():
            raise RuntimeError(
                f"The quantized model gives NaN or infinite values for {tensor.name!r} on the data."
            )
        record["outputs"][tensor.name] = {
            "max_deviation": float(moved.max()),
            "mean_deviation": float(moved.mean()),
            "largest_output": float(np.abs(w).max()),
        }
        if tensor.from_logits is not None:
            same = np.argmax(w, axis=-1) == np.argmax(g, axis=-1)
            record["outputs"][tensor.name]["same_argmax"] = float(same.mean())
        if tensor.time:
            record["time_steps"] = int(w.shape[1])
    return record
