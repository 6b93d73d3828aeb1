"""Law 1 for graphs that nobody thought of: what is accepted is right, what is refused had to be."""

import itertools

import numpy as np
import pytest
import random_graphs
from hypothesis import HealthCheck, example, given, settings

import keras_stateful as ks
from keras_stateful.carry.graph import Unconvertible

# Windows of 1, 5 and 11 steps, and no others: JAX compiles each operation for each size.
ROWS, STEPS = 2, 11
FEW = settings(max_examples=14, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=150, suppress_health_check=list(HealthCheck))


def data():
    rng = np.random.default_rng(0)
    streams = [rng.standard_normal((ROWS, STEPS, n)).astype("float32") for n in (3, 2)]
    return [*streams, rng.standard_normal((ROWS, 2)).astype("float32")]


def read(model, arrays, edges, resets=None):
    """Outputs of a model that is called window by window, joined along time."""
    x, second, static = arrays
    parts = []
    for a, b in itertools.pairwise(edges):
        inputs = [x[:, a:b], second[:, a:b], static]
        if resets is not None:
            inputs.append(resets[:, a:b])
        parts.append(np.asarray(model.predict_on_batch(inputs)))
    return np.concatenate(parts, axis=1)


def eager(model):
    """Compiling each of these models would take longer than all that they compute."""
    model.compile(run_eagerly=True)
    return model


def holds_law_one(chain):
    model = eager(random_graphs.build(chain))
    arrays = data()
    whole = read(model, arrays, [0, STEPS])
    stateful = eager(ks.to_stateful(model, ROWS))
    np.testing.assert_allclose(read(stateful, arrays, [0, 5, 6, 11]), whole, atol=1e-5)
    live = eager(ks.to_inference(stateful, ROWS))
    np.testing.assert_allclose(read(live, arrays, [0, 1, 6, 11]), whole, atol=1e-5)


def starts_documents_anew(chain):
    """Resets by step: each document as if it were read alone."""
    model = eager(random_graphs.build(chain))
    arrays = data()
    whole = read(model, arrays, [0, 5, 10, 11])
    stateful = eager(ks.to_stateful(model, ROWS, resets="step"))
    resets = np.zeros((ROWS, STEPS), bool)
    resets[:, [5, 10]] = True
    np.testing.assert_allclose(read(stateful, arrays, [0, 1, 6, 11], resets), whole, atol=1e-5)


def had_to_be_refused(chain):
    with pytest.raises(Unconvertible):
        ks.to_stateful(random_graphs.build(chain), ROWS)
    # With what could be carried left out, cutting still changes the numbers.
    model = eager(random_graphs.build(chain, carried=False))
    arrays = data()
    whole = read(model, arrays, [0, STEPS])
    assert np.abs(read(model, arrays, [0, 5, 10, 11]) - whole).max() > 1e-4


@given(random_graphs.chains())
@FEW
def test_what_is_accepted_is_right(chain):
    holds_law_one(chain)


@given(random_graphs.chains())
@FEW
def test_documents_start_anew_inside_windows(chain):
    starts_documents_anew(chain)


@given(random_graphs.chains(refused=True))
@example(["activation_over_time", ("twice", ["dropout"]), "gru"])
@FEW
def test_what_is_refused_had_to_be(chain):
    had_to_be_refused(chain)


@pytest.mark.parametrize(
    "block", [*random_graphs.LOCAL, *random_graphs.CARRIED, "condition", "second_stream"]
)
def test_every_block_alone(block):
    chain = [block] if block in random_graphs.CARRIED else [block, "gru"]
    holds_law_one(chain)
    if block not in random_graphs.LOCAL:  # which have nothing to reset; the chains above hold them
        starts_documents_anew(chain)


@pytest.mark.parametrize("block", random_graphs.REFUSED)
def test_every_refused_block_alone(block):
    had_to_be_refused([block, "gru"])


@pytest.mark.slow
@given(random_graphs.chains())
@MANY
def test_many_that_are_accepted(chain):
    holds_law_one(chain)
    starts_documents_anew(chain)


@pytest.mark.slow
@given(random_graphs.chains(refused=True))
@MANY
def test_many_that_are_refused(chain):
    had_to_be_refused(chain)
