"""Functions compiled with the running backend: XLA on JAX and TensorFlow, ATen calls on torch."""

import threading
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import keras

from keras_stateful.foundation.types import Tensor
from keras_stateful.generation.compiled_loop import ModelCall

_recording = threading.Lock()  # torch.fx patches `torch.nn.Module` for as long as it records


def compiled(function: Callable) -> Callable:
    """A function of tensors as one compiled call, on JAX and TensorFlow."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    # Autograph would rewrite the layers' Python, in which `keras.ops` has all loops already.
    with_xla = tf.function(function, jit_compile=True, autograph=False)
    plain = tf.function(function, autograph=False)
    refused: list[Exception] = []

    def call(*args: Any) -> Any:
        if not refused:
            try:
                return with_xla(*args)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                refused.append(error)  # an operation of the model that XLA has no kernel for
        return plain(*args)

    return call


class Trace(NamedTuple):
    """What a function of one tensor computes, written down while it ran on a symbol.

    Attributes:
        shape: of the result.
        program: the operations and the values of all constants; equal where the same is computed.
    """

    shape: tuple[int | None, ...]
    program: Hashable


def trace(function: Callable, shape: tuple[int | None, ...], dtype: str) -> Trace:
    """Traces a function anew, whatever was traced before; on JAX and TensorFlow.

    Raises:
        Exception: whatever the function or the backend raises, where it cannot be traced.
    """

    def anew(x: Tensor) -> Tensor:  # backends remember traces by the function
        return function(x)

    if keras.backend.backend() == "jax":
        import jax

        lowered = jax.jit(anew).lower(jax.ShapeDtypeStruct(shape, dtype))
        return Trace(tuple(lowered.out_info.shape), lowered.as_text())
    import tensorflow as tf

    concrete = tf.function(anew, autograph=False).get_concrete_function(tf.TensorSpec(shape, dtype))
    graph = concrete.graph
    # A variable is read at every run; any other tensor of outside is a constant of the program.
    outside = tuple(
        id(tensor) if tensor.dtype == tf.resource else tensor.numpy().tobytes()
        for tensor, _ in graph.captures
    )
    program = (graph.as_graph_def().SerializeToString(deterministic=True), outside)
    return Trace(tuple(concrete.structured_outputs.shape), program)


def recorded(call: ModelCall, values: list, x: list, states: list) -> ModelCall:
    """The ATen calls of one step on torch, without the layers' Python around them.

    Args:
        call: one call of the model.
        values: the weights' values.
        x: inputs of the shapes to record for.
        states: states of the shapes to record for.

    Returns:
        A function of the same arguments; `call` itself where it cannot be recorded.

    Raises:
        ValueError: a model that draws random numbers.
    """
    from torch.fx import CodeGen
    from torch.fx.experimental.proxy_tensor import make_fx

    first, behind = len(values), len(values) + len(x)

    def flat(*tensors: Tensor) -> list[Tensor]:
        parts = tensors[:first], tensors[first:behind], tensors[behind:]
        output, new = call(*map(list, parts))
        return [output, *new]

    try:
        with _recording, no_grad():
            step = make_fx(flat)(*values, *x, *states)
    except Exception:
        # It looks at values, or calls what cannot be recorded: its Python is run every time.
        return call
    # The recording has every ATen call, those of the dropout masks that cells draw in vain too.
    step.graph.eliminate_dead_code()
    step.graph.set_codegen(CodeGen())  # takes and gives flat tensors
    step.recompile()
    step = _interpreted(step, [*values, *x, *states])
    if not _computes_the_same(flat, step, values, x, states):
        return call

    def replayed(values: Any, x: list, states: list) -> tuple[Tensor, list]:
        output, *new = step(*values, *x, *states)
        return output, new

    return replayed


def _interpreted(step: Callable, arguments: list) -> Callable:
    """A recording that torch's own interpreter runs, in less time than Python on a CPU.

    Tracing takes milliseconds, `torch.compile` many seconds, which a short text does not win back.
    TorchScript is deprecated: where it is no longer there, Python runs the recording. So it does on
    a GPU, where the interpreter would compile kernels of its own in the first steps.
    """
    import torch

    if any(tensor.device.type != "cpu" for tensor in arguments):
        return step
    try:
        with _recording, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the deprecation
            return torch.jit.trace(step, tuple(arguments), check_trace=False)
    except Exception:
        return step


def _computes_the_same(flat: Callable, step: Callable, values: list, x: list, states: list) -> bool:
    """Compares a recording with the function that was recorded, on inputs that it has not seen.

    A value that left torch on its way, through NumPy for example, is a constant in the recording:
    right for the input that was recorded and wrong for any other.
    """
    with no_grad():
        other_states = [_ramp(s) for s in states]
        # Every model reads id 0.
        other_x = [_ramp(part) if part.is_floating_point() else part * 0 for part in x]
        expected = flat(*values, *other_x, *other_states)
        # Twice the same call: a draw from torch's own generator changes no variable of Keras, so
        # that `call` cannot see it, but its second result is another one.
        if not _agree(flat(*values, *other_x, *other_states), expected):
            raise noisy("torch's generator")
        return _agree(step(*values, *other_x, *other_states), expected)


def _agree(results: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == b.shape and a.isclose(b, atol=1e-5, equal_nan=True).all()
        for a, b in zip(results, expected, strict=True)
    )


def _ramp(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and dtype whose values differ."""
    import torch

    ramp = torch.linspace(-1, 1, tensor.numel(), device=tensor.device)
    return ramp.reshape(tensor.shape).to(tensor.dtype)


def no_grad() -> Any:
    """On torch, a context without gradients."""
    import torch

    return torch.no_grad()


def noisy(where: str) -> ValueError:
    """The error for a model that is random at inference; `where` says what it draws from."""
    return ValueError(
        "`generate` runs models whose outputs depend on inputs, weights and recurrent states "
        f"alone. Received: a `model` that draws random numbers or counts at inference, in {where}: "
        "the same number could come at every step, and `seed` would not decide the text. Make that "
        "part depend on `training`, or draw in `next_input`."
    )
