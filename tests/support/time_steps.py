"""What is derived of a model along time, and what its numbers say: which step reads which."""

import keras
import numpy as np

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.time_axis.along import Along
from keras_stateful.carry.time_axis.derivation import Derivation, RefusedCall
from keras_stateful.carry.time_axis.find import rules


def derive(model):
    """What the output of a model holds whose only input has time; the refusal as a string."""
    graph = Graph(model)
    time = Derivation({id(graph.inputs[0]): Along(1)}, rules(()))
    try:
        time.run(graph.calls)
    except RefusedCall as error:
        return error.refused.why
    return time.of(graph.outputs[0])


def reads(model, steps, axis=1, seed=0, ids=None):
    """Bool `(steps of the output, steps)`: whether an output step depends on an input step.

    Args:
        model: with one input `(batch, time, ...)`.
        steps: how many time steps to feed.
        axis: which axis of the output is time; None for an output without.
        seed: of the numbers.
        ids: how many ids there are, where the input holds ids.
    """
    rng = np.random.default_rng(seed)
    shape = [3 if size is None else size for size in model.inputs[0].shape[2:]]

    def draw(*sizes):
        if ids is not None:
            return rng.integers(0, ids, (*sizes, *shape))
        return rng.uniform(-3, 3, (*sizes, *shape)).astype("float32")

    bases = 3
    x = np.stack([draw(bases, steps)] * (steps + 1))  # (1 + changed step, base, time, ...)
    for step in range(steps):
        x[step + 1, :, step] = draw(bases)
    y = model(x.reshape(-1, steps, *shape))
    y = np.asarray(keras.ops.convert_to_numpy(y), "float64")
    y = y.reshape(steps + 1, bases, *y.shape[1:])
    changed = np.abs(y[1:] - y[:1]) > 1e-6  # (changed step, base, ...)
    if axis is None:
        return changed.reshape(steps, -1).any(1)[None]
    changed = np.moveaxis(changed, axis + 1, 1)
    return changed.reshape(*changed.shape[:2], -1).any(2).T


def assert_as_derived(model, steps, ids=None):
    """What is derived is true: nothing else is read, and all of it is."""
    hold = derive(model)
    assert isinstance(hold, Along), hold
    matrix = reads(model, steps, hold.axis, ids=ids)
    assert len(matrix) == steps + hold.lead
    at = np.arange(len(matrix))[:, None] - hold.lead  # the step that an output stands for
    behind = at - np.arange(steps)  # how far back the input step lies
    within = behind >= -hold.ahead
    if hold.past is not None:
        within &= behind <= hold.past
        assert matrix[behind == hold.past].any(), "it does not read so far back"
    assert not (matrix & ~within).any(), f"it reads more than {hold}"
    assert matrix[behind == -hold.ahead].any(), "it does not read so far ahead"


def mixes(model, steps, ids=None):
    """True if the output has no value for each step, or one that depends on other steps."""
    y = model(np.zeros((1, steps, *[s or 3 for s in model.inputs[0].shape[2:]])))
    if len(y.shape) < 2 or y.shape[1] != steps:
        return True
    matrix = reads(model, steps, ids=ids)
    return bool((matrix & ~np.eye(steps, dtype=bool)).any())
