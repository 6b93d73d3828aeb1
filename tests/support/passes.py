"""One stream through a model in every way that must give the same numbers."""

import itertools

import keras
import numpy as np
import zoo

import keras_stateful as ks

# Windows of five steps and of one: JAX compiles a model for each length.
EDGES = (0, 5, 6, 7, 12)


def arrays(result) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(r) for r in keras.tree.flatten(result)]


def cut(x, steps: slice):
    """Some of the time steps of an array `(rows, time, ...)`, or of all in a list or dict."""
    return keras.tree.map_structure(lambda a: a[:, steps], x)


def joined(parts: list) -> list[np.ndarray]:
    return [np.concatenate(p, axis=1) for p in zip(*map(arrays, parts), strict=True)]


def windows(model: keras.Model, x, edges=EDGES) -> list[np.ndarray]:
    """Through a model that carries, window by window from the initial state."""
    ks.reset_states(model)
    cuts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return joined([model.predict_on_batch(cut(x, c)) for c in cuts])


def read(model: keras.Model, x: list, edges: list[int], resets=None) -> np.ndarray:
    """The first output of a model that reads windows, joined along time.

    Args:
        x: arrays of `zoo.data`, which need not all have time.
        resets: a function from a window's edges to its mask; None for none.
    """
    parts = []
    for a, b in itertools.pairwise(edges):
        mask = None if resets is None else resets(a, b)
        result = model.predict_on_batch(zoo.window(model, x, slice(a, b), mask))
        parts.append(zoo.outputs(result)[0])
    return np.concatenate(parts, axis=1)


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def steps(model: keras.Model, x, edges=EDGES) -> list[np.ndarray]:
    """Through the step model, by steps and windows."""
    step = ks.to_step_model(model)
    x = keras.tree.flatten(x)
    states = ks.initial_states(step, len(x[0]))
    parts = []
    for a, b in itertools.pairwise(edges):
        result = step.predict_on_batch([*cut(x, slice(a, b)), *states])
        count = len(step.data_outputs)
        parts.append(result[:count])
        states = result[count:]
    return joined(parts)


def every_way(model: keras.Model, x, rows: int) -> dict[str, list[np.ndarray]]:
    """The outputs of each conversion of a model, by its name."""
    training = ks.to_stateful(model, rows)
    return {
        "to_stateful": windows(training, x),
        "to_inference": windows(ks.to_inference(training, rows), x),
        "to_stateless": arrays(ks.to_stateless(training).predict_on_batch(x)),
        "to_step_model": steps(model, x),
    }


def assert_one_pass(model: keras.Model, x, rows: int = 2) -> None:
    """Every conversion computes what one long call of the model does."""
    whole = arrays(model.predict_on_batch(x))
    for way, outputs in every_way(model, x, rows).items():
        for got, expected in zip(outputs, whole, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=way)
