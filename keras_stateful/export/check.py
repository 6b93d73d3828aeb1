"""Checks that an artifact computes what Keras does; measures how far int8 moves its outputs."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.graph import Graph
from keras_stateful.export.reference import Arrays, read_by_model
from keras_stateful.foundation.types import Structure
from keras_stateful.session.inputs import by_input
from keras_stateful.session.manifest import Manifest, Tensor
from keras_stateful.session.session import Session, load_session

STEPS = 16  # chained steps that an artifact must agree on with Keras
TOLERANCE = 1e-5  # of the largest number of that output, at least of 1
_ANY_SIZE = 3  # the size of an axis that the model leaves open
_MASKED = 0.25  # the share of time steps that a mask is given


def compare(model: keras.Model, directory: Path, manifest: Manifest, batch_size: int) -> None:
    """Chains steps through Keras and through a `Session`, at two batch sizes.

    Args:
        model: a step model or a `single_step` model.
        directory: the exported one.
        manifest: of that directory.
        batch_size: one of the batch sizes; the other one is larger by 1, so that an artifact with
            fixed rows pads.

    Raises:
        RuntimeError: numbers that differ; says which, and after how many steps.
    """
    rng = np.random.default_rng(1)
    # One session to fork from: the artifact's files are read and checked once for both sizes.
    session, keras_step = load_session(directory, batch_size), keras_function(model)
    names = [t.name for t in manifest.outputs] + [s.name for s in manifest.states]
    _check_repeats(keras_step, manifest, names, batch_size)
    for rows in (batch_size, batch_size + 1):
        session = session.fork(rows=np.zeros(rows, int))
        session.reset()
        steps = _side_by_side(keras_step, session, rows, rng)
        for count, (computed, expected) in enumerate(steps, start=1):
            _check_close(names, computed, expected, f"after {count} steps with {rows} rows")


def compare_with_model(graph: Graph, directory: Path, manifest: Manifest, batch_size: int) -> None:
    """Chains steps through a `Session`, against the user's model that reads the stream in windows.

    Args:
        graph: of the user's model.
        directory: the exported one.
        manifest: of that directory.
        batch_size: rows, where the model leaves them open.

    Raises:
        RuntimeError: numbers that differ; says which, and at which step.
    """
    rng = np.random.default_rng(2)
    masking = [c.operation for c in graph.calls if isinstance(c.operation, keras.layers.Masking)]
    values = [layer.mask_value for layer in masking] or [0.0]
    stream = read_by_model(
        graph,
        manifest.inputs,
        manifest.outputs,
        batch_size,
        lambda tensor, shape: _random(tensor, shape, rng, values),
    )
    session = load_session(directory, stream.rows)
    for step in range(stream.steps):
        inputs = zip(manifest.inputs, stream.inputs, strict=True)
        x = {t.name: array[:, step] if t.time else array for t, array in inputs}
        results = _all_outputs(session.step(x))
        names, computed, expected = [], [], []
        for tensor, result, whole in zip(manifest.outputs, results, stream.outputs, strict=True):
            if tensor.time or step == stream.steps - 1:  # else it is that of the stream's end
                names.append(tensor.name)
                computed.append(result)
                expected.append(whole[:, step] if tensor.time else whole)
        _check_close(names, computed, expected, f"from the model at step {step + 1}")


def _check_close(names: list[str], computed: Arrays, expected: Arrays, where: str) -> None:
    """Raises for the first of several arrays that is not what Keras computes."""
    for name, array, expected_array in zip(names, computed, expected, strict=True):
        if (distance := apart(array, expected_array)) > TOLERANCE:
            raise RuntimeError(
                f"The artifact computes something else than Keras: {name!r} differs by "
                f"{distance:.1e} {where} (at most {TOLERANCE:.0e}). Nothing was written. Try "
                "another `format`; a layer that is random at inference can never agree."
            )


def _check_repeats(
    keras_step: Callable[[Arrays], Arrays], manifest: Manifest, names: list[str], rows: int
) -> None:
    """Refuses a model that gives something else for the same inputs: it draws, or counts.

    Its artifact may do the very same, from the same seed, and still no conversation could be told
    again.
    """
    rng = np.random.default_rng(2)
    feeds = [random_input(t, rows, rng) for t in manifest.inputs]
    feeds += [np.repeat(s.initial[None], rows, axis=0) for s in manifest.states]
    once, again = keras_step(feeds), keras_step(feeds)
    for name, a, b in zip(names, once, again, strict=True):
        if apart(a, b) > TOLERANCE:
            raise RuntimeError(
                f"The model gives other numbers for the same inputs and states. Received: {name!r} "
                f"differs by {apart(a, b):.1e} from one call to the next. Nothing was written. A "
                "layer that is random at inference cannot be exported: have it depend on "
                "`training`."
            )


def _side_by_side(
    keras_step: Callable[[Arrays], Arrays], session: Session, rows: int, rng: np.random.Generator
) -> Iterator[tuple[Arrays, Arrays]]:
    """Outputs and states of the session and of Keras, step after step on the same random inputs.

    Each goes on from its own states, so that a small error would grow.
    """
    manifest = session.manifest
    states = [np.repeat(s.initial[None], rows, axis=0) for s in manifest.states]
    for _ in range(STEPS):
        feeds = [random_input(t, rows, rng) for t in manifest.inputs]
        expected = keras_step([*feeds, *states])
        states = expected[len(manifest.outputs) :]
        yield _session_step(session, feeds), expected


def _session_step(session: Session, feeds: Arrays) -> Arrays:
    """One step with the arrays as Keras takes them; outputs and states as Keras gives them."""
    manifest = session.manifest
    inputs = zip(manifest.inputs, feeds, strict=True)
    x = {tensor.name: feed[:, 0] if tensor.time else feed for tensor, feed in inputs}
    results = _all_outputs(session.step(x))
    outputs = zip(manifest.outputs, results, strict=True)
    states = {layer: iter(arrays) for layer, arrays in session.get_states().items()}
    return [
        *(o[:, None] if tensor.time else o for tensor, o in outputs),
        *(next(states[s.layer]) for s in manifest.states),
    ]


def _all_outputs(result: Structure) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def random_input(tensor: Tensor, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Something that an input takes, `(rows, ...)`: ids of its vocabulary, flags or numbers."""
    return _random(tensor, (rows, *tensor.shape[1:]), rng)


def _random(
    tensor: Tensor,
    shape: tuple[int | None, ...],
    rng: np.random.Generator,
    masked: Sequence[float] = (),
) -> np.ndarray:
    """Something that an input takes, where `masked` is given with steps that hold those alone.

    Ids are masked by 0.
    """
    sizes = [_ANY_SIZE if size is None else size for size in shape]
    ids = tensor.dtype == "bool" or "int" in tensor.dtype or tensor.vocabulary is not None
    array: np.ndarray = (
        rng.integers(0, tensor.vocabulary or 2, sizes) if ids else rng.standard_normal(sizes)
    )
    if masked and tensor.time:
        steps = rng.random(sizes[:2]) < _MASKED
        array[steps] = 0 if ids else rng.choice(masked)
    return array.astype(tensor.dtype)


def keras_function(model: keras.Model) -> Callable[[Arrays], Arrays]:
    """A model at inference as a function from a flat list of arrays to a flat list of arrays."""
    call = model.predict_on_batch
    if keras.backend.backend() == "jax":
        # A loop inside a call that is not compiled as a whole is compiled anew every time.
        call = _jitted(model)

    def function(feeds: Arrays) -> Arrays:
        return [np.asarray(output) for output in keras.tree.flatten(call(feeds))]

    return function


def _jitted(model: keras.Model) -> Callable[[Arrays], Structure]:
    import jax

    variables = list(model.variables)

    def stateless(values: list, feeds: Arrays) -> Structure:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return model(feeds, training=False)

    compiled = jax.jit(stateless)
    return lambda feeds: compiled([v.value for v in variables], feeds)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, as a share of the largest number in `b` where that is above 1.

    Numbers that are not finite, as the -inf of a masked score, must be the same in both.
    """
    if a.shape != b.shape:
        return float("inf")
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    if not b.size:
        return 0.0
    if not np.isfinite(a).all():
        return float("inf")
    # A -inf must not count as the largest number: beside it every difference would be small.
    return float(np.max(np.abs(a - b)) / max(1.0, float(np.max(np.abs(b)))))


def deviation(exact: Path, manifest: Manifest, quantized: Path, data: Structure) -> dict[str, Any]:
    """How far quantized outputs move on the user's data.

    Args:
        exact: an exported directory.
        manifest: of both directories, whose tensors are the same.
        quantized: the directory with weights in int8.
        data: as `Session.read` takes it.

    Returns:
        What the manifest records: `{"states", "rows", "time_steps", "outputs"}`, the last one
        `{output name: {"max_deviation", "mean_deviation", "largest_output"}}`, for scores with
        "same_argmax", the share of steps whose most likely id is the same.

    Raises:
        RuntimeError: NaN or infinite values on the data.
    """
    rows = max(1, len(np.asarray(by_input(data, manifest.inputs)[0][1])))
    with load_session(exact, rows) as session, load_session(quantized, rows) as small:
        expected, moved = _all_outputs(session.read(data)), _all_outputs(small.read(data))
    outputs = {
        tensor.name: _moved(tensor, e, m)
        for tensor, e, m in zip(manifest.outputs, expected, moved, strict=True)
    }
    record: dict[str, Any] = {"states": "float32", "rows": rows, "outputs": outputs}
    steps = [e.shape[1] for t, e in zip(manifest.outputs, expected, strict=True) if t.time]
    return record | ({"time_steps": int(steps[0])} if steps else {})


def _moved(tensor: Tensor, expected: np.ndarray, moved: np.ndarray) -> dict[str, float]:
    """What `deviation` records of one output."""
    distance = np.abs(moved.astype("float64") - expected)
    if not np.isfinite(distance).all():
        raise RuntimeError(
            f"The quantized model gives NaN or infinite values for {tensor.name!r} on the data."
        )
    record = {
        "max_deviation": float(distance.max()),
        "mean_deviation": float(distance.mean()),
        "largest_output": float(np.abs(expected).max()),
    }
    if tensor.from_logits is not None:  # scores, of which the most likely id is asked for
        same = np.argmax(expected, axis=-1) == np.argmax(moved, axis=-1)
        record["same_argmax"] = float(same.mean())
    return record
