"""Dynamic evaluation: equal to a loop by hand, and without a trace."""

import keras
import numpy as np
import pytest
from small_trainings import HELD_OUT, IDS, model_for, network, of_this_batch, sequence

import keras_stateful as ks
from keras_stateful.evaluation import dynamic

WINDOW = 8


def weights_of(model):
    return [np.array(w) for w in model.get_weights()]


def by_hand(model, optimizer, documents):
    """The losses of windows, each before it is learned from, and their steps, of each document."""
    plain = ks.to_stateless(model)
    losses = []
    for d in documents:
        live = ks.to_stateful(plain, 1)
        live.compile(optimizer(), "sparse_categorical_crossentropy")
        of_windows = []
        for k in range(0, len(d) - 1, WINDOW):
            x, y = d[k : k + WINDOW][: len(d) - 1 - k], d[k + 1 : k + WINDOW + 1]
            of_windows.append((float(of_this_batch(live, x[None], y[None])), len(x)))
        losses.append(of_windows)
    return losses


def mean(windows):
    return np.average([loss for loss, _ in windows], weights=[steps for _, steps in windows])


@pytest.mark.parametrize(
    ("learning", "optimizer"),
    [
        (0.5, lambda: keras.optimizers.SGD(0.5)),
        (keras.optimizers.Adam(0.05), lambda: keras.optimizers.Adam(0.05)),
    ],
)
def test_it_is_a_loop_by_hand(learning, optimizer):
    model = model_for("mask")
    before = weights_of(model)
    scores = ks.evaluate_documents(model, HELD_OUT, dynamic=learning, sequence_length=WINDOW)
    expected = by_hand(model, optimizer, HELD_OUT)
    np.testing.assert_allclose(scores["loss"], list(map(mean, expected)), rtol=1e-5)
    static = ks.evaluate_documents(model, HELD_OUT)["loss"]
    assert np.abs(static - scores["loss"]).max() > 1e-3
    for a, b in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_document_is_not_learned_for_another():
    model = model_for("mask")
    arguments = {"dynamic": 0.5, "sequence_length": WINDOW}
    together = ks.evaluate_documents(model, HELD_OUT, **arguments)["loss"]
    alone = [ks.evaluate_documents(model, [d], **arguments)["loss"][0] for d in HELD_OUT[::-1]]
    np.testing.assert_allclose(together, alone[::-1], rtol=1e-6)


def test_training_goes_on_as_if_nothing_had_been_learned():
    losses = []
    for evaluated in (False, True):
        model = model_for("mask")
        model.compile("adam", "sparse_categorical_crossentropy")
        batch = [np.stack([d[:8] for d in HELD_OUT]), np.zeros(3, bool)]
        y = np.stack([d[1:9] for d in HELD_OUT])
        losses.append([model.train_on_batch(batch, y)])
        if evaluated:
            optimizer = model.optimizer
            ks.evaluate_documents(model, HELD_OUT, dynamic=optimizer, sequence_length=WINDOW)
            assert model.optimizer is optimizer
        losses[-1] += [model.train_on_batch(batch, y) for _ in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_weights_are_put_back_where_something_fails(monkeypatch, inside, error):
    """Between two windows, or in the step that learns, to which JAX has given the values away."""
    model, steps = model_for("mask"), []
    before, states = weights_of(model), ks.get_states(model)
    learn = dynamic._Learner.train_on_batch

    def fails(learner, *batch):
        steps.append(any((a != b).any() for a, b in zip(weights_of(model), before, strict=True)))
        if len(steps) == 4 and inside:
            step = learner.train_function

            def failing_step(*arguments):
                step(*arguments)
                raise error("gone")

            learner.train_function = failing_step
        if len(steps) == 4 and not inside:
            raise error("gone")
        return learn(learner, *batch)

    monkeypatch.setattr(dynamic._Learner, "train_on_batch", fails)
    with pytest.raises(error, match="gone"):
        ks.evaluate_documents(model, HELD_OUT, dynamic=0.5, sequence_length=WINDOW)
    assert steps[-1]  # something had been learned
    for a, b in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(ks.get_states(model).values(), states.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(ks.evaluate_documents(model, HELD_OUT)["loss"]).all()


def test_a_callback_may_evaluate_so():
    losses = []
    for evaluated in (False, True):
        model, data = model_for("mask"), sequence(shuffle=True, seed=1)
        evaluate = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, model=model: ks.evaluate_documents(
                model, HELD_OUT[:1], dynamic=0.5, sequence_length=WINDOW, verbose=0
            )
        )
        callbacks = [evaluate] if evaluated else []
        losses.append(model.fit(data, epochs=2, verbose=0, callbacks=callbacks).history["loss"])
    assert losses[0] == losses[1]


def test_dropout_is_off_and_moving_means_stay():
    keras.utils.set_random_seed(4)
    x = keras.Input((None,), dtype="int32")
    h = keras.layers.Embedding(IDS, 4)(x)
    h = keras.layers.LSTM(5, return_sequences=True, dropout=0.5, recurrent_dropout=0.2)(h)
    out = keras.layers.Dense(IDS, activation="softmax")
    noisy = keras.Model(x, out(keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(h))))
    keras.utils.set_random_seed(4)
    h = keras.layers.LSTM(5, return_sequences=True)(keras.layers.Embedding(IDS, 4)(x))
    out = keras.layers.Dense(IDS, activation="softmax")
    still = keras.Model(x, out(keras.layers.BatchNormalization()(h)))
    still.set_weights([w for w in noisy.get_weights() if w.dtype != np.uint32])
    scores = []
    for model in (noisy, still):
        model.compile(loss="sparse_categorical_crossentropy")
        before = weights_of(model)
        scores.append(
            ks.evaluate_documents(model, HELD_OUT, dynamic=0.5, sequence_length=WINDOW)["loss"]
        )
        for a, b in zip(weights_of(model), before, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_steps_that_do_not_count_are_not_learned_from():
    """Masked, padded, of weight 0, or in front of `start`."""
    model, d = model_for("mask"), HELD_OUT[1]
    scores = ks.evaluate_documents(model, [d], start=WINDOW, dynamic=0.5, sequence_length=WINDOW)
    live = ks.to_stateful(ks.to_stateless(model), 1)
    live.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    live.predict_on_batch(d[None, :WINDOW])
    windows = [
        float(of_this_batch(live, d[None, k : k + WINDOW], d[None, k + 1 : k + WINDOW + 1]))
        for k in range(WINDOW, len(d) - 1, WINDOW)
    ]
    np.testing.assert_allclose(scores["loss"], [np.mean(windows)], rtol=1e-5)

    keras.utils.set_random_seed(3)
    masked = network(mask_zero=True)
    masked.compile(loss="sparse_categorical_crossentropy")
    gaps = np.where(np.arange(len(d)) % 5 == 2, 0, d)
    arguments = {"dynamic": 0.5, "sequence_length": WINDOW, "targets": [d]}
    by_mask = ks.evaluate_documents(masked, [gaps], **arguments)["loss"]
    by_both = ks.evaluate_documents(
        masked, [gaps], sample_weight=[(gaps != 0).astype("float32")], **arguments
    )["loss"]
    np.testing.assert_allclose(by_mask, by_both, rtol=1e-6)


def test_losses_of_several_outputs_go_by_their_names():
    keras.utils.set_random_seed(1)
    x = keras.Input((None,), dtype="int32")
    h = keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(IDS, 4)(x))
    model = keras.Model(x, {name: keras.layers.Dense(1, name=name)(h) for name in ("load", "heat")})
    compiled = {"loss": {"load": "mse", "heat": "mae"}, "loss_weights": {"load": 1.0, "heat": 0.5}}
    model.compile(**compiled)
    rng, (d,) = np.random.default_rng(0), HELD_OUT[2:]
    targets = {name: rng.random((len(d), 1)).astype("float32") for name in ("load", "heat")}
    scores = ks.evaluate_documents(
        model,
        [d[:16]],
        targets={name: [values[:16]] for name, values in targets.items()},
        dynamic=0.1,
        sequence_length=WINDOW,
    )
    live = ks.to_stateful(model, 1)
    live.compile(keras.optimizers.SGD(0.1), **compiled)
    by_window = [
        of_this_batch(
            live,
            d[None, k : k + WINDOW],
            {name: values[None, k : k + WINDOW] for name, values in targets.items()},
            return_dict=True,
        )
        for k in (0, WINDOW)
    ]
    for name in ("loss", "load_loss", "heat_loss"):
        expected = np.mean([float(logs[name]) for logs in by_window])
        np.testing.assert_allclose(scores[name], [expected], rtol=1e-5)


def ends_with_one_output():
    keras.utils.set_random_seed(1)
    stack = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(IDS, 4)]
    model = keras.Sequential([*stack, keras.layers.GRU(4), keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model


def test_one_output_for_each_window_is_learned_from():
    model, d = ends_with_one_output(), HELD_OUT[1][:16]  # windows that are whole
    labels = {"targets": np.array([1.5]), "label_at": "window", "sequence_length": WINDOW}
    scores = ks.evaluate_documents(model, [d], dynamic=0.1, **labels)
    live = ks.to_stateful(model, 1)
    live.compile(keras.optimizers.SGD(0.1), "mse")
    losses = [
        float(of_this_batch(live, d[None, k : k + WINDOW], np.array([[1.5]])))
        for k in range(0, len(d), WINDOW)
    ]
    np.testing.assert_allclose(scores["loss"], [np.mean(losses)], rtol=1e-5)
    with pytest.raises(ValueError, match="output at every time step"):
        ks.evaluate_documents(model, [d], by="position", **labels)


def test_what_is_learned_shows_by_position():
    """A document that repeats itself is learned while it is read."""
    keras.utils.set_random_seed(3)
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    repeats = [np.tile([1, 2, 3, 4], 64)]
    curve = ks.evaluate_documents(
        model, repeats, by="position", dynamic=keras.optimizers.Adam(0.05), sequence_length=WINDOW
    )
    still = ks.evaluate_documents(model, repeats, by="position")
    np.testing.assert_allclose(curve["loss"][:4], still["loss"][:4], rtol=1e-5)  # one window
    assert curve["loss"][-1] < 0.8 < 1.5 < still["loss"][-1]


def test_layers_that_are_frozen_do_not_learn():
    model = model_for("mask")
    still = ks.evaluate_documents(model, HELD_OUT)["loss"]
    arguments = {"dynamic": 0.5, "sequence_length": WINDOW}
    learned = ks.evaluate_documents(model, HELD_OUT, **arguments)["loss"]
    for layer in model.layers[:-1]:
        layer.trainable = False
    head = ks.evaluate_documents(model, HELD_OUT, **arguments)["loss"]
    assert len({loss.tobytes() for loss in (still, learned, head)}) == 3
    model.trainable = False
    with pytest.raises(ValueError, match=r"no weight is trainable.*leave it out"):
        ks.evaluate_documents(model, HELD_OUT, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"dynamic": "adam"}, TypeError, r"learning rate or a Keras optimizer.*str"),
        ({"dynamic": True}, TypeError, r"learning rate or a Keras optimizer.*bool"),
        ({"dynamic": 0.0}, ValueError, r"positive learning rate.*0\.0"),
        ({"dynamic": float("nan")}, ValueError, r"positive learning rate.*nan"),
        ({"dynamic": 0.1, "batch_size": 4}, ValueError, r"batch_size=4.*Leave it out"),
        ({"by": "time"}, ValueError, r"`by` must be \"position\""),
        ({"by": "position", "pooled": True}, ValueError, r"Leave one of them out"),
        ({"reset_every": 0}, ValueError, r"`reset_every` must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        ks.evaluate_documents(model_for("mask"), HELD_OUT, **arguments)
