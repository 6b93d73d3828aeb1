"""The compiled training step on cuDNN, on a machine without a GPU: which kernels it calls, and what
the state becomes.

JAX lowers the step for CUDA as it stands, TensorFlow makes its graph; nothing runs. On torch the
very call that runs on cuDNN there runs here, on the kernels of the CPU. `tests/carry/test_gpu.py`
runs them all on a GPU.
"""

import functools
import importlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from fused_on_the_cpu import fused_on_the_cpu
from releases import since_keras

import keras_stateful as ks

BACKEND = keras.backend.backend()
pytestmark = since_keras("3.14") if BACKEND != "tensorflow" else []  # before, cuDNN not for all
ROWS, WINDOW, UNITS = 4, 6, 5
RNN = importlib.import_module(f"keras.src.backend.{BACKEND}.rnn")


@pytest.fixture
def cuda(monkeypatch):
    """A backend that believes to have CUDA."""
    if BACKEND == "jax":
        import jax
        from jax._src.lib import gpu_rnn
        from jax.experimental import rnn
        from jax.interpreters import mlir

        library = SimpleNamespace(build_rnn_descriptor=lambda *sizes: b"")  # of JAX's CUDA plugin
        monkeypatch.setattr(
            gpu_rnn,
            "compute_rnn_workspace_reserve_space_sizes",
            lambda *sizes: (1, 1),
            raising=False,
        )
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for primitive, lowering in (
            (rnn.rnn_fwd_p, gpu_rnn._rnn_fwd_lowering),
            (rnn.rnn_bwd_p, gpu_rnn._rnn_bwd_lowering),
        ):
            mlir.register_lowering(
                primitive, functools.partial(lowering, library, "cu"), platform="cuda"
            )
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_logical_devices
        monkeypatch.setattr(
            tf.config,
            "list_logical_devices",
            lambda kind=None: devices(None if kind == "GPU" else kind),
        )
        monkeypatch.setattr(RNN, "_is_gpu_available", lambda: True)


def network(layer=keras.layers.LSTM, policy="float32", masked=False, **settings) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((WINDOW,), batch_size=ROWS, dtype="int32"),
            keras.layers.Embedding(9, UNITS, mask_zero=masked, dtype=policy),
            layer(UNITS, return_sequences=True, dtype=policy, **settings),
            keras.layers.Dense(9, dtype="float32"),
        ]
    )


def compiled(model: keras.Model) -> keras.Model:
    model.compile(
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def kernels(model: keras.Model) -> tuple[int, int]:
    """How many cuDNN calls the training step of a model makes forwards and backwards."""
    ids = np.ones((ROWS, WINDOW), "int32")
    mask = [np.ones(t.shape, bool) for t in model.inputs[1:]]
    batch = ([ids, *mask] if mask else ids, ids)
    compiled(model)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        model.optimizer.build(model.trainable_variables)
        model._symbolic_build(data_batch=batch)
        graph = tf.function(model.train_step).get_concrete_function(batch).graph.as_graph_def()
        operations = _operations(graph.node, {f.signature.name: f for f in graph.library.function})
        back = sum(op.startswith("CudnnRNNBackprop") for op in operations)
        return sum(op.startswith("CudnnRNN") for op in operations) - back, back
    import jax

    model._symbolic_build(data_batch=batch)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    step = (
        jax.jit(model.train_step).trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    )
    return step.count("cudnn_rnn_ffi"), step.count("cudnn_rnn_bwd_ffi")


def _operations(nodes, functions: dict) -> list[str]:
    """The operations of a graph and of the functions that it calls, the branches of a `cond` say.

    (Those that a gradient has replaced stay in its library.)
    """
    operations = []
    for node in nodes:
        operations.append(node.op)
        for value in node.attr.values():
            if value.func.name:
                operations += _operations(functions[value.func.name].node_def, functions)
    return operations


compiles = pytest.mark.skipif(
    BACKEND == "torch", reason="torch compiles no step; its kernel runs in the next test"
)


@compiles
@pytest.mark.parametrize("resets", [None, "window", "step"])
def test_a_step_is_one_kernel_each_way(cuda, resets):
    assert kernels(ks.to_stateful(network(), ROWS, resets=resets)) == (1, 1)


@compiles
@pytest.mark.skipif(BACKEND == "jax", reason="Keras has no fused GRU on JAX")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_so_is_that_of_a_gru_with_resets_inside_the_window(cuda, policy):
    model = network(keras.layers.GRU, policy)
    assert kernels(ks.to_stateful(model, ROWS, resets="step")) == (1, 1)


@pytest.mark.skipif(BACKEND != "torch", reason="the others compile their steps")
@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_resets_inside_a_window_are_one_call_each_way_on_torch(monkeypatch, layer):
    """The call that runs on cuDNN there, which has one way back."""
    calls = fused_on_the_cpu(monkeypatch)
    model = compiled(ks.to_stateful(network(layer), ROWS, resets="step"))
    ids, mask = np.ones((ROWS, WINDOW), "int32"), np.zeros((ROWS, WINDOW), bool)
    mask[0, 2] = mask[1, 4] = mask[3, 5] = True
    calls.clear()
    model.train_on_batch([ids, mask], ids)
    assert calls == ["resets"]


@compiles
def test_so_is_the_step_of_a_plain_layer_that_was_repaired(cuda):
    from keras_stateful.training.repairs import repair

    model = network(stateful=True)
    repair(model)
    assert kernels(model) == (1, 1)


@compiles
@pytest.mark.parametrize("plain", [False, True], ids=["to_stateful", "plain"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_reduced_precision_compiles_and_leaves_cudnn_on_jax(cuda, policy, plain):
    """JAX's kernel knows float32 only, and Keras calls it all the same."""
    from keras_stateful.training.repairs import repair

    model = (
        network(policy=policy, stateful=True)
        if plain
        else ks.to_stateful(network(policy=policy), ROWS)
    )
    if plain:
        repair(model)
    assert kernels(model) == ((0, 0) if BACKEND == "jax" else (1, 1))


@pytest.mark.skipif(BACKEND != "jax", reason="a defect of Keras on JAX")
def test_keras_fails_to_compile_reduced_precision_for_cuda(cuda):
    """When this fails, Keras looks at the dtype: then `loops.keras_loop` need not."""
    with pytest.raises(ValueError, match="Unknown output type bfloat16"):
        kernels(network(policy="mixed_bfloat16"))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has the kernel for the GPU only")
@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_the_fused_call_trains_as_the_loop_does(monkeypatch, layer):
    """Three windows, with rows reset: the same losses, weights and states."""
    if (BACKEND, layer) == ("jax", keras.layers.GRU):
        pytest.skip("Keras has no fused GRU on JAX")
    calls = fused_on_the_cpu(monkeypatch)
    rng = np.random.default_rng(0)
    losses, models = [], []
    data = [
        (rng.integers(0, 9, (2, ROWS, WINDOW), dtype="int32"), rng.random(ROWS) < 0.5)
        for _ in range(3)
    ]
    for use_cudnn in ("auto", False):
        model = compiled(ks.to_stateful(network(layer, use_cudnn=use_cudnn), ROWS, resets="window"))
        calls.clear()
        losses.append([float(model.train_on_batch([x, first], y)) for (x, y), first in data])
        assert bool(calls) == (use_cudnn == "auto")
        models.append(model)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(*(ks.get_states(m).values() for m in models), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert losses[0][2] != losses[0][0]
