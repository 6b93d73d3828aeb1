"""The samplers against references written another way: sorted lists, counted frequencies."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_stateful.generation.sampling import draw, filtered_weights, next_ids, row_uniforms

pytestmark = pytest.mark.backend_free


def softmax(logits):
    e = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(logits, temperature, top_k, top_p, assume=lambda _: None):
    """Probabilities after the filters, by walking down the sorted ids."""
    p = softmax(np.asarray(logits, "float64") / temperature)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order if top_k is None else order[:top_k]
    if top_p is not None:
        mass, walked = sum(p[i] for i in kept), []
        for i in kept:
            if walked and sum(p[j] for j in walked) >= top_p * mass:
                break
            walked.append(i)
            # Where the sum is that close to the bound, float32 may round it to either side.
            assume(abs(sum(p[j] for j in walked) - top_p * mass) > 1e-5)
        kept = walked
    filtered = np.zeros_like(p)
    filtered[kept] = p[kept]
    return filtered / filtered.sum()


@given(
    logits=st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    temperature=st.floats(0.1, 5),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.01, 1),
    from_logits=st.booleans(),
)
def test_filters_keep_what_a_walk_down_the_sorted_ids_keeps(
    logits, temperature, top_k, top_p, from_logits
):
    logits = np.array(logits) / 10
    top_k = None if top_k is None else min(top_k, len(logits))
    expected = reference(logits, temperature, top_k, top_p, assume)
    scores = logits if from_logits else softmax(logits)
    weights = filtered_weights(
        np.float32(scores)[None], temperature, top_k, top_p, from_logits=from_logits
    )[0]
    np.testing.assert_array_equal(weights > 0, expected > 0)
    np.testing.assert_allclose(weights / weights.sum(), expected, atol=2e-6)


def test_ids_as_likely_as_the_last_kept_stay():
    logits = np.float32([[2, 1, 1, 1, 0]])
    assert (filtered_weights(logits, 1.0, 2) > 0).tolist() == [[True, True, True, True, False]]
    assert (filtered_weights(logits, 1.0, None, 1e-6) > 0).tolist() == [
        [True, False, False, False, False]
    ]


@given(logits=st.lists(st.floats(-8, 8), min_size=2, max_size=9))
def test_a_grid_of_uniforms_draws_every_id_as_often_as_it_is_likely(logits):
    n = 4000
    p = softmax(logits)
    uniforms = ((np.arange(n) + 0.5) / n).astype("float32")
    ids = draw(np.repeat(np.float32(p)[None], n, 0), uniforms)
    np.testing.assert_allclose(np.bincount(ids, minlength=len(p)) / n, p, atol=1.5 / n)


@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-30, 0.3, 1.0, 7.0]), min_size=1, max_size=30),
    uniform=st.sampled_from([2.0**-24, 0.25, 0.5, 1 - 2.0**-24, 1.0]),
)
def test_an_id_of_weight_zero_is_never_drawn(weights, uniform):
    assume(any(weights))
    weights = np.float32([weights])
    assert weights[0, draw(weights, np.float32([uniform]))[0]] > 0


def test_uniforms_depend_on_seed_and_row_alone():
    many = row_uniforms(7, 5, 1000)
    np.testing.assert_array_equal(row_uniforms(7, 2, 300), many[:2, :300])
    assert many.dtype == np.float32
    assert many.min() > 0
    assert many.max() <= 1
    assert abs(np.corrcoef(many)[np.triu_indices(5, 1)]).max() < 0.15
    assert not (row_uniforms(8, 5, 1000) == many).any(axis=1).all()


def test_drawn_ids_follow_the_filtered_distribution():
    logits = np.random.default_rng(0).normal(size=20) * 2
    n = 20_000
    expected = reference(logits, 0.7, 12, 0.9)
    ids = next_ids(
        np.repeat(np.float32(logits)[None], n, 0), row_uniforms(3, 1, n)[0], 0.7, 12, 0.9
    )
    counts = np.bincount(ids, minlength=20)
    likely = expected > 0
    assert counts[~likely].sum() == 0
    chi_square = ((counts - n * expected)[likely] ** 2 / (n * expected[likely])).sum()
    assert chi_square < likely.sum() - 1 + 4 * np.sqrt(2 * likely.sum())


def test_no_temperature_takes_the_most_likely_even_where_rounding_hides_it():
    scores = np.float32([[0, 1e-9, 0], [5, 5, 1], [-np.inf, -3, -4]])
    assert next_ids(scores, None).tolist() == [1, 0, 1]


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize(
    ("scores", "from_logits"),
    [
        ([np.nan, 1, 2], True),
        ([np.inf, 1, 2], True),
        ([-np.inf, -np.inf, -np.inf], True),
        ([0, 0, 0], False),
        ([-1, 1, 1], False),
        ([3, 1, 2], False),
    ],
)
def test_unusable_scores_give_no_id(scores, from_logits, temperature):
    uniform = np.float32([0.5])
    ids = next_ids(np.float32([scores]), uniform, temperature, from_logits=from_logits)
    assert ids.tolist() == [-1]


def test_generate_can_be_imported_without_keras():
    code = (
        "import sys; from keras_stateful import generate, stream; assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
