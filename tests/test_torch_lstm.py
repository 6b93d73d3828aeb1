"""torch's kernel in training on the CPU is Keras's loop, with its gradients."""

import keras
import numpy as np
import pytest

import keras_stateful as ks
from keras_stateful import torch_lstm

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch's own kernel")


@pytest.mark.parametrize("return_sequences", [True, False])
def test_the_kernel_is_the_loop(return_sequences, monkeypatch):
    import torch

    layer = keras.layers.LSTM(5, return_sequences=return_sequences)
    model = ks.to_stateful(keras.Sequential([keras.Input((7, 3)), layer]), 2)
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")
    calls, run, found = [], torch_lstm.run, []
    monkeypatch.setattr(torch_lstm, "run", lambda *a: calls.append(1) or run(*a))

    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(torch_lstm, "serves", lambda *a: False)
        ks.reset_states(model)
        model.zero_grad()
        first = model(x, training=True)  # the second call goes on from its state
        out = model(x, training=True)
        torch.sum(out**2).backward()
        gradients = [v.value.grad.clone().numpy() for v in model.trainable_variables]
        (states,) = ks.get_states(model).values()
        found.append([first.detach().numpy(), out.detach().numpy(), *gradients, *states])
    assert len(calls) == 2
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_the_kernel_cannot_do_stays_with_keras():
    inputs = np.zeros((2, 4, 3), "float32")
    for settings in (
        {"activation": "relu"},
        {"use_bias": False},
        {"recurrent_dropout": 0.1},
        {"use_cudnn": False},
    ):
        layer = keras.layers.LSTM(4, **settings)
        assert not torch_lstm.serves(layer, keras.ops.convert_to_tensor(inputs), None, True)
    plain = keras.layers.LSTM(4)
    assert torch_lstm.serves(plain, keras.ops.convert_to_tensor(inputs), None, True)
    assert not torch_lstm.serves(plain, keras.ops.convert_to_tensor(inputs), None, False)
