"""The carry on cuDNN's fused kernel. Skipped, with the reason, where the backend sees no GPU.

By default matrices are multiplied in TF32 there, with ten bits of the factors. In an environment
with `NVIDIA_TF32_OVERRIDE=0`, which NVIDIA's libraries read, they are multiplied in float32, and
these tests ask for as many digits as on a CPU. (JAX has kernels of its own besides: see below.)
"""

import importlib.util
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_stateful as ks


def gpu() -> bool:
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    if backend == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu(), reason=f"{keras.backend.backend()} sees no GPU on this machine"),
]
EXACT = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
if EXACT and keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
CLOSE, GRADIENTS_CLOSE = (1e-5, 1e-4) if EXACT else (2e-3, 1e-2)
ROWS, WINDOW, UNITS = 4, 16, 32


def network(
    masked: bool = False, use_cudnn: str | bool = "auto", layer: type = keras.layers.LSTM
) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            keras.layers.Embedding(9, UNITS, mask_zero=masked),
            layer(UNITS, return_sequences=True, use_cudnn=use_cudnn),
        ]
    )


def windows(model: keras.Model, ids: np.ndarray, resets: np.ndarray) -> np.ndarray:
    """Outputs of windows read one after the other, on the GPU."""
    parts = np.split(ids, len(resets), 1)
    return np.concatenate(
        [
            model.predict([x, r], batch_size=ROWS, verbose=0)
            for x, r in zip(parts, resets, strict=True)
        ],
        1,
    )


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 9, (ROWS, 3 * WINDOW), dtype="int32"), rng.random((3, ROWS)) < 0.4


@pytest.mark.parametrize("masked", [False, True], ids=["fused", "masked"])
def test_the_carry_is_that_of_the_plain_loop(data, masked):
    ids, resets = data
    if masked:
        ids = ids * (np.arange(ids.shape[1]) % WINDOW < WINDOW - 3)
    outputs = []
    for use_cudnn in ("auto", False):
        model = ks.to_stateful(network(masked, use_cudnn), ROWS, resets="window")
        outputs.append(windows(model, ids, resets))
    np.testing.assert_allclose(*outputs, atol=CLOSE)


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_resets_inside_a_window_are_those_of_the_loop(data, layer):
    ids, _ = data
    resets = np.random.default_rng(1).random((3, ROWS, WINDOW)) < 0.1
    models = [
        ks.to_stateful(network(use_cudnn=use_cudnn, layer=layer), ROWS, resets="step")
        for use_cudnn in ("auto", False)
    ]
    for model in models:
        model.layers[-1].most_resets = WINDOW
    np.testing.assert_allclose(*(windows(m, ids, resets) for m in models), atol=CLOSE)
    steps = []
    for model in models:
        before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        model.compile(keras.optimizers.SGD(1.0), "mse")
        model.train_on_batch([ids[:, :WINDOW], resets[0]], np.ones((ROWS, WINDOW, UNITS)))
        after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        steps.append([a - b for a, b in zip(after, before, strict=True)])  # the gradients
    for fused, loop in zip(*steps, strict=True):
        assert np.linalg.norm(fused - loop) < GRADIENTS_CLOSE * np.linalg.norm(loop)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="benchmarks/gpu.py is for jax and torch"
)
def test_the_fused_kernel_is_taken(data):
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("gpu_benchmark", folder / "gpu.py")
        benchmark = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(benchmark)
    finally:
        sys.path.remove(str(folder))
    model = ks.to_stateful(network(), ROWS, resets="window")
    assert benchmark.takes_fused_kernel(model, [data[0][:, :WINDOW], np.ones(ROWS, bool)])


def test_mixed_precision_carries(data):
    ids, resets = data
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = ks.to_stateful(network(), ROWS, resets="window")
    finally:
        keras.config.set_dtype_policy("float32")
    exact = ks.to_stateful(network(), ROWS, resets="window")
    wanted = windows(exact, ids, resets)
    got = windows(mixed, ids, resets).astype("float32")
    forgotten = windows(exact, ids, np.ones_like(resets))
    assert np.abs(got - wanted).max() < 0.3 * np.abs(forgotten - wanted).max()
