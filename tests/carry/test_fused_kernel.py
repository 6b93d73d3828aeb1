"""When Keras takes cuDNN's fused kernel, decided by its own code: only the GPU and the kernel are
pretended.

The kernel's stand-in notes that it was called, and then says that it does not serve, so Keras goes
on with its loop. `tests/carry/test_gpu.py` runs the real one.
"""

import importlib

import keras
import numpy as np
import pytest
from keras import layers
from releases import since_keras

import keras_stateful as ks
from keras_stateful.carry import torch_kernels

BACKEND = keras.backend.backend()
# Before, there was none on JAX, and on torch one for LSTM alone.
pytestmark = since_keras("3.14") if BACKEND != "tensorflow" else []
ROWS, WINDOW = 4, 6
LAYERS = [layers.LSTM, layers.GRU]
ROWS_RESET = np.array([True, False, True, False])
STEPS_RESET = np.arange(ROWS * WINDOW).reshape(ROWS, WINDOW) % 5 == 0


@pytest.fixture
def kernel(monkeypatch) -> list[str]:
    """The calls of the kernel, on a machine that Keras believes to have a GPU."""
    rnn = importlib.import_module(f"keras.src.backend.{BACKEND}.rnn")
    keras_backend = importlib.import_module("keras.src.backend")
    calls: list[str] = []

    def refuse(name):
        def stand_in(*args, **kwargs):
            calls.append(name)
            raise NotImplementedError

        return stand_in

    if BACKEND == "jax":
        monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
        monkeypatch.setattr("jax.experimental.rnn.lstm", refuse("LSTM"))
        return calls
    for name in ("LSTM", "GRU"):
        monkeypatch.setattr(rnn, f"_cudnn_{name.lower()}", refuse(name))
    if BACKEND == "torch":  # what windows with resets take there
        monkeypatch.setattr(torch_kernels, "serves", lambda *a: False)
        monkeypatch.setattr(torch_kernels, "serves_resets", lambda *a: True)
        monkeypatch.setattr(
            torch_kernels, "fused", lambda cell, *a: refuse(cell.__name__.removesuffix("Cell"))()
        )
    if BACKEND == "tensorflow":
        monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
        return calls

    import torch

    class OnGpu(torch.Tensor):
        """A tensor that says so, on the CPU."""

        device = property(lambda self: torch.device("cuda"))

    def moved(run):
        return lambda inputs, *args, **kwargs: run(inputs.as_subclass(OnGpu), *args, **kwargs)

    monkeypatch.setattr(rnn, "_is_cuda_cudnn_available", lambda: True)
    for name in ("lstm", "gru"):
        monkeypatch.setattr(keras_backend, name, moved(getattr(keras_backend, name)))
    return calls


def takes(
    kernel, layer, inputs=None, *, resets=None, masked=False, training=False, **settings
) -> bool:
    """Whether a call of a model that carries, with this layer in it, calls the kernel."""
    model = keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            layers.Embedding(9, 5, mask_zero=masked),
            layer(5, return_sequences=True, **settings),
        ]
    )
    model = ks.to_stateful(model, ROWS, resets=resets)
    kernel.clear()
    ids = np.random.default_rng(0).integers(1, 9, (ROWS, WINDOW), dtype="int32")
    model(ids if inputs is None else [ids, inputs], training=training)
    assert set(kernel) <= {layer.__name__}
    return bool(kernel)


def served(layer) -> bool:
    """Keras has no cuDNN GRU on JAX."""
    return (BACKEND, layer) != ("jax", layers.GRU)


@pytest.mark.parametrize("layer", LAYERS)
def test_cudnn_serves_layers_that_carry(kernel, layer):
    assert takes(kernel, layer) == served(layer)
    assert takes(kernel, layer, dropout=0.5) == served(layer)
    assert takes(kernel, layer, dtype="mixed_bfloat16") == (served(layer) and BACKEND != "jax")


@pytest.mark.parametrize("layer", LAYERS)
def test_resets_between_windows_keep_cudnn(kernel, layer):
    assert takes(kernel, layer, ROWS_RESET, resets="window") == served(layer)


@pytest.mark.parametrize("layer", LAYERS)
def test_resets_inside_a_window_keep_cudnn(kernel, layer):
    assert takes(kernel, layer, STEPS_RESET, resets="step") == served(layer)
    assert not takes(kernel, layer, STEPS_RESET, resets="step", use_cudnn=False)
    assert not takes(kernel, layer, STEPS_RESET, resets="step", masked=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_mask_costs_cudnn(kernel, layer):
    assert not takes(kernel, layer, masked=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_plain_layer_with_a_mask_takes_cudnn_on_tensorflow(kernel, layer):
    """And stops there at a row of padding: one whose document ended before. So the layer that
    carries takes the loop.
    """
    mask = keras.ops.convert_to_tensor([[True] * 3, [False] * 3])
    layer(5)(np.zeros((2, 3, 4), "float32"), mask=mask)
    assert bool(kernel) == (BACKEND == "tensorflow")
    if kernel:
        import tensorflow as tf

        rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")
        with pytest.raises(tf.errors.InvalidArgumentError, match="use_cudnn=False"):
            rnn._assert_valid_mask(mask)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"unroll": True},
        {"recurrent_dropout": 0.5},
        {"use_cudnn": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_cost_cudnn(kernel, layer, settings):
    assert not takes(kernel, layer, **settings)


def test_a_gru_that_resets_before_costs_cudnn(kernel):
    assert not takes(kernel, layers.GRU, reset_after=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_that_carries_is_served_as_keras_serves_its_own(kernel, layer):
    own = layer(5, return_sequences=True)
    own(np.zeros((ROWS, WINDOW, 3), "float32"))
    assert bool(kernel) == served(layer)
