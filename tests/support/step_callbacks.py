"""Callbacks that watch the steps of a training."""

import keras
import pytest


class StepLosses(keras.callbacks.Callback):
    """Keeps the loss of each step, worked out from the running mean that Keras shows."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_begin(self, epoch, logs=None):
        self.total = 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        self.losses.append(total - self.total)
        self.total = total


class NoStep(keras.callbacks.Callback):
    """Fails the test once a step was trained: the error must come before it."""

    def on_train_batch_end(self, batch, logs=None):
        pytest.fail("a step was trained before the error")
