"""Keras's fused calls on a machine without a GPU, taken by the ordinary path of the code.

On JAX stands `lstm_ref` in for cuDNN, which JAX tests its kernel with; on TensorFlow the formulas;
on torch the very call that runs on cuDNN runs on the kernels of the CPU.
"""

import importlib
from collections.abc import Callable

import keras
import pytest

BACKEND = keras.backend.backend()
RNN = importlib.import_module(f"keras.src.backend.{BACKEND}.rnn")


def fused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets Keras take its fused call here; the names of the calls made."""
    calls: list[str] = []

    def noting(name: str, run: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            calls.append(name)
            return run(*args, **kwargs)

        return wrapped

    {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}[BACKEND](monkeypatch, noting)
    return calls


def _on_jax(monkeypatch: pytest.MonkeyPatch, noting: Callable) -> None:
    import jax
    from jax.experimental import rnn

    def lstm(
        x, h, c, weights, lengths, *, input_size, hidden_size, num_layers, dropout, bidirectional
    ):
        sizes = (input_size, hidden_size, num_layers, bidirectional)
        parts = rnn.unpack_lstm_weights(weights, *sizes)
        return rnn.lstm_ref(
            x, h, c, *parts, lengths, input_size, hidden_size, num_layers, dropout, bidirectional
        )

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(rnn, "lstm", noting("lstm", lstm))


def _on_tensorflow(monkeypatch: pytest.MonkeyPatch, noting: Callable) -> None:
    import tensorflow as tf

    def lstm(x, h, c, kernel, recurrent, bias, mask, time_major, backwards, return_sequences):
        def step(x, states):
            h, c = states
            i, f, g, o = tf.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            return h, [h, c]

        return RNN.rnn(step, x, [h, c], return_all_outputs=return_sequences)

    def gru(x, h, kernel, recurrent, bias, mask, time_major, backwards, return_sequences):
        def step(x, states):
            (h,) = states
            x_z, x_r, x_g = tf.split(x @ kernel + bias[0], 3, axis=-1)
            h_z, h_r, h_g = tf.split(h @ recurrent + bias[1], 3, axis=-1)
            z, g = tf.sigmoid(x_z + h_z), tf.tanh(x_g + tf.sigmoid(x_r + h_r) * h_g)
            h = z * h + (1 - z) * g
            return h, [h]

        return RNN.rnn(step, x, [h], return_all_outputs=return_sequences)

    monkeypatch.setattr(RNN, "_is_gpu_available", lambda: True)
    monkeypatch.setattr(RNN, "_cudnn_lstm", noting("lstm", lstm))
    monkeypatch.setattr(RNN, "_cudnn_gru", noting("gru", gru))


def _on_torch(monkeypatch: pytest.MonkeyPatch, noting: Callable) -> None:
    import torch

    from keras_stateful.carry import torch_kernels

    class OnGpu(torch.Tensor):
        """A tensor that says so, on the CPU."""

        device = property(lambda self: torch.device("cuda"))

    monkeypatch.setattr(torch_kernels, "serves", lambda layer, sequences: False)
    # What is taken for windows with resets, in any precision
    monkeypatch.setattr(torch_kernels, "serves_resets", lambda layer, sequences: True)
    monkeypatch.setattr(torch_kernels, "many_calls", lambda flags: True)
    monkeypatch.setattr(torch_kernels, "fused", noting("resets", torch_kernels.fused))
    monkeypatch.setattr(RNN, "_is_cuda_cudnn_available", lambda: True)
    keras_backend = importlib.import_module("keras.src.backend")
    for name in ("lstm", "gru"):
        run, prepare = getattr(RNN, f"_cudnn_{name}"), getattr(RNN, f"prepare_{name}_params")
        whole = getattr(keras_backend, name)

        def on_the_cpu(*args, _prepare=prepare, **kwargs):
            return _prepare(*args[:3], torch.device("cpu"))

        def unwrapped(inputs, *args, _run=run, **kwargs):
            return _run(inputs.as_subclass(torch.Tensor), *args, **kwargs)

        def moved(inputs, *args, _whole=whole, **kwargs):
            return _whole(inputs.as_subclass(OnGpu), *args, **kwargs)

        monkeypatch.setattr(RNN, f"prepare_{name}_params", on_the_cpu)
        monkeypatch.setattr(RNN, f"_cudnn_{name}", noting(name, unwrapped))
        monkeypatch.setattr(keras_backend, name, moved)
