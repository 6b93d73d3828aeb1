"""What `fit`, `evaluate` and `predict` really receive from a sequence, on the backend at hand."""

import keras
import numpy as np
import pytest
from keras.src.trainers import data_adapters
from recording_models import ROWS, WINDOW, Recorder, numbered_documents, recording_model
from zoo import Source

from keras_stateful.data.sequence import StatefulSequence

pytestmark = pytest.mark.usefixtures("readers_without_state")


def expected(sequence, epoch, batches=None):
    sequence.epoch = epoch
    return [sequence[i][0][:, 0].tolist() for i in range(len(sequence))][:batches]


def make(kind=list, **arguments):
    texts = numbered_documents(21, 30, 9, 14)
    return StatefulSequence(
        kind(texts), ROWS, WINDOW, targets=[d + 1.0 for d in texts], **arguments
    )


def epochs_of(sequence, count):
    return [rows for e in range(count) for rows in expected(sequence, e)]


def test_keras_takes_a_sequence_as_its_own_adapter():
    sequence = make()
    assert data_adapters.get_data_adapter(sequence, shuffle=True) is sequence


@pytest.mark.parametrize("kind", [list, Source])
@pytest.mark.parametrize("workers", [1, 4])
def test_fit_reads_every_batch_in_order_under_its_default_shuffle(kind, workers):
    sequence = make(kind, shuffle=True, seed=3, workers=workers)
    assert sequence.immediate == (kind is list)
    model, recorder = recording_model()
    model.fit(sequence, epochs=3, verbose=0)
    seen = recorder.take()
    assert sequence.epoch == 3
    assert seen == epochs_of(sequence, 3)
    assert expected(sequence, 0) != expected(sequence, 1)


def test_an_unbuilt_model_costs_no_batch():
    recorder = Recorder()
    model = keras.Sequential([recorder])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    sequence = make(shuffle=True, seed=3)
    model.fit(sequence, epochs=2, verbose=0)
    seen = [row for row in recorder.take() if any(row)]
    assert seen[-2 * len(sequence) :] == expected(sequence, 0) + expected(sequence, 1)


def test_epochs_of_some_steps_go_on_where_the_last_ended():
    sequence = make(shuffle=True, seed=3)
    total = len(sequence)
    steps = total // 2 + 1
    model, recorder = recording_model()
    with pytest.warns(
        UserWarning, match="ran out of data"
    ):  # Keras's word for a pass that ends within an epoch
        model.fit(sequence, epochs=3, steps_per_epoch=steps, verbose=0)
    seen = recorder.take()
    assert seen == expected(sequence, 0) + expected(sequence, 1, steps)


def test_validation_and_training_do_not_disturb_each_other():
    sequence, held_out = make(shuffle=True, seed=3), make(boundary="ignore")
    model, recorder = recording_model()
    model.fit(sequence, validation_data=held_out, epochs=2, verbose=0)
    seen = recorder.take()
    assert seen == [
        rows for e in range(2) for rows in expected(sequence, e) + expected(held_out, 0)
    ]


def test_evaluate_and_predict_read_in_order():
    sequence = make()
    model, recorder = recording_model()
    model.evaluate(sequence, verbose=0)
    assert recorder.take() == expected(sequence, 0)
    outputs = model.predict(sequence, verbose=0)
    assert recorder.take() == expected(sequence, 0)
    assert outputs.shape == (len(sequence) * ROWS, WINDOW, 1)


def test_resets_arrive_with_their_batch():
    sequence = make(resets=True)
    inputs = [
        keras.Input((WINDOW,), batch_size=ROWS, dtype="int32"),
        keras.Input((), batch_size=ROWS, dtype="bool"),
    ]
    recorder = Recorder()
    marked = inputs[0] * 0 + keras.ops.cast(inputs[1], "int32")[:, None]
    model = keras.Model(inputs, recorder(marked))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    recorder.take()
    model.fit(sequence, verbose=0)
    assert recorder.take() == [
        sequence.reset_mask(i).astype(int).tolist() for i in range(len(sequence))
    ]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses steps_per_execution above 1 on torch"
)
def test_several_steps_per_execution_keep_the_order():
    sequence = make(shuffle=True, seed=3)
    model, recorder = recording_model(steps_per_execution=3)
    model.fit(sequence, epochs=2, verbose=0)
    assert recorder.take() == expected(sequence, 0) + expected(sequence, 1)


def test_the_loss_of_an_epoch_is_the_mean_over_real_steps():
    sequence = make(shuffle=True, seed=3, burn_in=2)
    model, _ = recording_model()
    history = model.fit(sequence, epochs=2, verbose=0)
    # Each target is one more than its input, and the model gives the input: every error is 1.
    np.testing.assert_allclose(history.history["loss"], [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(model.evaluate(sequence, verbose=0), 1.0, rtol=1e-6)


def test_tf_dataset_gives_the_same_batches():
    pytest.importorskip("tensorflow")
    sequence = make(shuffle=True, seed=3, resets=True)
    dataset = sequence.as_tf_dataset()
    assert int(dataset.cardinality()) == len(sequence)
    for epoch in range(2):
        batches = list(dataset.as_numpy_iterator())
        sequence.epoch = epoch
        for i, batch in enumerate(batches):
            keras.tree.map_structure(np.testing.assert_array_equal, batch, sequence[i])
        sequence.epoch = epoch + 1
