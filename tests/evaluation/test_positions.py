"""Scores by position, and with a state that starts anew: each is a mean over one long pass."""

import keras
import numpy as np
import pytest
from small_trainings import HELD_OUT, IDS, in_one_call, loss_by_hand, model_for

import keras_stateful as ks

BINS = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32)]  # of documents of 11, 32 and 20 targets


def binned(each):
    """The values of all documents at the positions of each bin."""
    return [np.concatenate([values[a:b] for values in each]) for a, b in BINS]


@pytest.mark.parametrize(("rows", "window"), [(None, 128), (2, 5), (1, 7), (3, 16)])
def test_each_bin_is_the_mean_over_its_positions(rows, window):
    model = model_for("mask")
    curve = ks.evaluate_documents(
        model, HELD_OUT, by="position", batch_size=rows, sequence_length=window
    )
    expected = binned(loss_by_hand(model, HELD_OUT))
    assert curve["position"].tolist() == [a for a, _ in BINS]
    assert curve["steps"].tolist() == [len(values) for values in expected]
    np.testing.assert_allclose(curve["loss"], [v.mean() for v in expected], atol=1e-6)
    plain = ks.to_stateless(model)
    hits = [(np.argmax(in_one_call(plain, d)[:-1], -1) == d[1:]) * 1.0 for d in HELD_OUT]
    np.testing.assert_allclose(curve["accuracy"], [v.mean() for v in binned(hits)], atol=1e-6)
    # Weighted by their steps, bins are the whole.
    pooled = ks.evaluate_documents(model, HELD_OUT, pooled=True)["loss"]
    np.testing.assert_allclose(np.average(curve["loss"], weights=curve["steps"]), pooled, rtol=1e-5)


def test_steps_that_do_not_count_are_in_no_bin():
    model, starts = model_for("mask"), [5, 9, 8]
    weights = [np.arange(len(d)) % 3 for d in HELD_OUT]
    curve = ks.evaluate_documents(
        model, HELD_OUT, by="position", sequence_length=5, start=starts, sample_weight=weights
    )
    counted = [w[:-1] * (np.arange(len(w) - 1) >= s) for w, s in zip(weights, starts, strict=True)]
    assert curve["steps"].tolist() == [np.count_nonzero(v) for v in binned(counted)]
    assert np.isnan(curve["loss"][:3]).all()
    sums = binned([a * b for a, b in zip(loss_by_hand(model, HELD_OUT), counted, strict=True)])
    means = [a.sum() / b.sum() for a, b in zip(sums[3:], binned(counted)[3:], strict=True)]
    np.testing.assert_allclose(curve["loss"][3:], means, atol=1e-6)


@pytest.mark.parametrize("every", [1, 6, 8, 50])
def test_a_state_that_starts_anew_is_that_of_pieces(every):
    model = model_for("mask")
    losses = [
        np.concatenate(
            [loss_by_hand(model, [d[k : k + every + 1]])[0] for k in range(0, len(d) - 1, every)]
        )
        for d in HELD_OUT
    ]
    scores = ks.evaluate_documents(model, HELD_OUT, reset_every=every, sequence_length=4)
    np.testing.assert_allclose(scores["loss"], [x.mean() for x in losses], atol=1e-6)
    curve = ks.evaluate_documents(model, HELD_OUT, reset_every=every, by="position")
    np.testing.assert_allclose(curve["loss"], [v.mean() for v in binned(losses)], atol=1e-6)


def test_several_outputs_by_position():
    keras.utils.set_random_seed(1)
    x = keras.Input((None,), dtype="int32")
    h = keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(IDS, 4)(x))
    model = keras.Model(x, {name: keras.layers.Dense(1, name=name)(h) for name in ("load", "heat")})
    model.compile(loss={"load": "mse", "heat": "mae"})
    rng = np.random.default_rng(0)
    targets = {name: [rng.random((len(d), 1)) for d in HELD_OUT] for name in ("load", "heat")}
    curve = ks.evaluate_documents(model, HELD_OUT, targets=targets, by="position")
    got = ks.predict_documents(model, HELD_OUT)
    errors = {
        name: [(g - t)[:, 0] for g, t in zip(got[name], targets[name], strict=True)]
        for name in targets
    }
    bins = [*BINS[:-1], (16, 32), (32, 64)]
    for k, (a, b) in enumerate(bins):
        load, heat = (np.concatenate([e[a:b] for e in errors[name]]) for name in ("load", "heat"))
        np.testing.assert_allclose(curve["load_loss"][k], np.mean(load**2), rtol=1e-5)
        np.testing.assert_allclose(curve["heat_loss"][k], np.mean(np.abs(heat)), rtol=1e-5)
        assert curve["steps"][k] == len(load)


def test_a_metric_may_not_take_the_name_of_the_positions():
    model = model_for("mask")
    metric = keras.metrics.SparseCategoricalAccuracy(name="position")
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=[metric])
    with pytest.raises(ValueError, match="another `name=`"):
        ks.evaluate_documents(model, HELD_OUT, by="position")
