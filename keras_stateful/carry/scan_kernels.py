"""LSTM, GRU and SimpleRNN with a backward pass of their own: training on the CPU, JAX, TensorFlow.

Keras leaves the backward pass to the backend, which adds up the gradient of each weight matrix step
by step: a product of matrices as flat as a batch, and a sum as large as the weights, for every time
step. Here the loop backwards only finds the gradients of the gates; those of the weights are one
product over all steps behind it, as cuDNN does it (Appleyard et al. 2016, arXiv:1604.01946, section
3.2). The same numbers, sooner: `benchmarks/torch_loop.py` tells how much.

    forwards    x[t], states[t] ──▶ gates[t] ──▶ states[t + 1]        kept: gates, states
    backwards   d states[t + 1], gates[t] ──▶ d gates[t] ──▶ d states[t]
    behind it   d kernel = x' · d gates     d recurrent_kernel = h' · d gates
                d x = d gates · kernel'

Rows may be set to an initial state before any step, so "pack" is served too. Such a row passes no
gradient back to the state that it replaces.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from keras_stateful.carry.steps import StepResets
from keras_stateful.foundation.types import Tensor

Tensors: TypeAlias = list[Tensor]


# One step of each cell


class CellMath(NamedTuple):
    """One step of a cell, in terms of what its matrices give.

    `from_x` and `from_h` are the products with the kernel and the recurrent kernel, biases added.
    A gradient of either is one of what stands behind its matrix, before any activation.

    Attributes:
        matrices: how many blocks of `units` columns the kernels have.
        separate: whether the gradients of `from_x` and `from_h` differ.
        forward: `(from_x, from_h, states)` to `(new_states, gates)`.
        backward: `(gates, states, d_new_states)` to `(d_from_x, d_from_h, d_states)`; what reaches
            `h` through the recurrent kernel is not in `d_states`.
        gates: how many gates `forward` keeps, each `(batch, units)`.
    """

    matrices: int
    separate: bool
    forward: Callable[[Tensor, Tensor, Tensors], tuple[Tensors, Tensors]]
    backward: Callable[[Tensors, Tensors, Tensors], tuple[Tensor, Tensor, Tensors]]
    gates: int


# The backward passes below use that sigmoid' = s (1 - s) and tanh' = 1 - t², where s and t are the
# values themselves: nothing but the gates need be kept.


def _lstm_forward(from_x: Tensor, from_h: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    """`c' = f c + i g` and `h' = o tanh(c')`."""
    i, f, g, o = ops.split(from_x + from_h, 4, axis=-1)
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    c = f * states[1] + i * g
    return [o * ops.tanh(c), c], [i, f, g, o]


def _lstm_backward(gates: Tensors, states: Tensors, d_new: Tensors) -> tuple:
    (i, f, g, o), (_, c), (dh, dc) = gates, states, d_new
    squashed = ops.tanh(f * c + i * g)  # tanh(c'): cheaper to compute again than to keep
    dc = dc + dh * o * (1 - squashed * squashed)  # all that reaches c', from h' too
    d_gates = [
        dc * g * i * (1 - i),
        dc * c * f * (1 - f),
        dc * i * (1 - g * g),
        dh * squashed * o * (1 - o),
    ]
    gradient = ops.concatenate(d_gates, axis=-1)
    return gradient, gradient, [ops.zeros_like(dh), dc * f]  # h acts through its matrix alone


def _gru_forward(from_x: Tensor, from_h: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    """`g = tanh(x_g + r h_g)` and `h' = z h + (1 - z) g`: the variant with `reset_after`."""
    (x_z, x_r, x_g), (h_z, h_r, h_g) = ops.split(from_x, 3, axis=-1), ops.split(from_h, 3, axis=-1)
    z, r = ops.sigmoid(x_z + h_z), ops.sigmoid(x_r + h_r)
    g = ops.tanh(x_g + r * h_g)
    return [z * states[0] + (1 - z) * g], [z, r, g, h_g]


def _gru_backward(gates: Tensors, states: Tensors, d_new: Tensors) -> tuple:
    (z, r, g, h_g), (h,), (dh,) = gates, states, d_new
    d_z = dh * (h - g) * z * (1 - z)
    d_g = dh * (1 - z) * (1 - g * g)
    d_r = d_g * h_g * r * (1 - r)
    return (
        ops.concatenate([d_z, d_r, d_g], axis=-1),
        ops.concatenate([d_z, d_r, d_g * r], axis=-1),  # r stands between h_g and g
        [dh * z],  # h also goes straight into h'
    )


def _simple_forward(from_x: Tensor, from_h: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    h = ops.tanh(from_x + from_h)
    return [h], [h]


def _simple_backward(gates: Tensors, states: Tensors, d_new: Tensors) -> tuple:
    d_gate = d_new[0] * (1 - gates[0] * gates[0])
    return d_gate, d_gate, [ops.zeros_like(d_gate)]


CELL_MATH = {
    keras.layers.LSTMCell: CellMath(4, False, _lstm_forward, _lstm_backward, 4),
    keras.layers.GRUCell: CellMath(3, True, _gru_forward, _gru_backward, 4),
    keras.layers.SimpleRNNCell: CellMath(1, False, _simple_forward, _simple_backward, 1),
}


# The layer


def serves(layer: keras.layers.RNN, sequences: Tensor) -> bool:
    """True if the kernels are there for a layer that they compute: on the CPU, and on values."""
    return (
        _on_cpu()
        and getattr(layer, "use_cudnn", "auto") == "auto"  # True: Keras says that there is none
        and not isinstance(sequences, keras.KerasTensor)
    )


def _on_cpu() -> bool:
    """True if steps run on the CPU of JAX or TensorFlow; on a GPU these have cuDNN."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    return False


def run(
    layer: keras.layers.RNN,
    sequences: Tensor,
    initial_state: Tensors,
    resets: StepResets | None,
) -> tuple[Tensor, Tensor, Tensors]:
    """What `inner_loop` of a layer returns.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN` that is being trained.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: tensors `(batch, units)`.
        resets: rows that are set to the initial state inside the window, or None.

    Returns:
        The last output, all outputs (or the last alone), and the new states.
    """
    cell, dtype = layer.cell, layer.cell.compute_dtype
    math = CELL_MATH[type(cell)]
    kernel, recurrent = (
        ops.cast(ops.convert_to_tensor(v), dtype) for v in (cell.kernel, cell.recurrent_kernel)
    )
    start = [ops.cast(s, dtype) for s in initial_state]
    flags, initial = [], []
    if resets is not None:
        flags = [ops.transpose(ops.cast(resets.flags, "bool"))]  # (time, batch), as the loop reads
        initial = [ops.cast(i, dtype) for i in resets.initial]

    loop = _loop(math, cell.units, len(start), flags)
    outputs, *states = loop(
        ops.transpose(sequences, (1, 0, 2)),
        kernel,
        recurrent,
        *_biases(cell, math.matrices * cell.units, dtype),
        *start,
        *initial,
    )
    outputs = ops.transpose(outputs, (1, 0, 2)) if layer.return_sequences else outputs[-1][:, None]
    return states[0], outputs, states


def _biases(cell: keras.layers.Layer, width: int, dtype: str) -> Tensors:
    """What is added behind the kernel, and behind the recurrent kernel."""
    if not cell.use_bias:
        return [ops.zeros((width,), dtype), ops.zeros((width,), dtype)]
    bias = ops.cast(ops.convert_to_tensor(cell.bias), dtype)
    if len(bias.shape) == 2:  # a GRU has both, `(2, width)`
        return list(ops.unstack(bias))
    return [bias, ops.zeros_like(bias)]


# The loop over time steps


def _loop(math: CellMath, units: int, count: int, flags: Tensors) -> Callable:
    """A differentiable function over all time steps.

    Args:
        math: of the cell.
        units: of the cell.
        count: of its states.
        flags: empty, or bool `(time, batch)`: which rows are set to the initial state before a
            step.

    Returns:
        A function of `x` `(time, batch, features)`, the kernels, the biases, the states at the
        start, and, with `flags`, the initial ones. It returns all outputs `(time, batch, units)`
        and the last states.
    """

    @ops.custom_gradient
    def loop(
        x: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias_x: Tensor,
        bias_h: Tensor,
        *states: Tensor,
    ) -> tuple:
        start, initial = list(states[:count]), list(states[count:])

        def step(states: Tensors, here: Tensors) -> tuple[Tensors, Tensors]:
            x, *flag = here
            states = _replaced(flag, initial, states)
            from_x = ops.matmul(x, kernel) + bias_x
            from_h = ops.matmul(states[0], recurrent) + bias_h
            new, gates = math.forward(from_x, from_h, states)
            # Kept for the way back: the new h, which is also the output, and the other states as
            # they were before the step. (The h before it is the output of the step before.)
            return new, [new[0], *states[1:], *gates]

        widths = [units] * (count + math.gates)
        last, (outputs, *kept) = _scan(step, start, [x, *flags], widths)
        others, gates = kept[: count - 1], kept[count - 1 :]

        def gradient(*upstream: Tensor) -> tuple:
            # Backends hand over either one argument for each result, or one tuple of all.
            d_outputs, *d_last = upstream if len(upstream) > 1 else upstream[0]
            before = ops.concatenate([start[0][None], outputs[:-1]])
            (before,) = _replaced(flags, [i[None] for i in initial[:1]], [before])
            d_initial = [ops.zeros_like(i) for i in initial]
            d_states, d_gates = _scan(
                _backwards(math, recurrent, count, bool(flags)),
                [*d_last, *d_initial],
                [d_outputs, *flags, before, *others, *gates],
                [math.matrices * units] * (1 + math.separate),
                reverse=True,
            )
            d_x, d_h = d_gates[0], d_gates[-1]  # the same one, unless they are separate
            return (
                ops.matmul(d_x, ops.transpose(kernel)),
                _over_all_steps(x, d_x),
                _over_all_steps(before, d_h),
                ops.sum(d_x, axis=(0, 1)),
                ops.sum(d_h, axis=(0, 1)),
                *d_states,  # of the start, then of the initial states
            )

        return (outputs, *last), gradient

    return loop


def _backwards(math: CellMath, recurrent: Tensor, count: int, has_flags: bool) -> Callable:
    """One step of the loop backwards.

    It carries the gradients of the states behind the step, and those of the initial states, which
    add up over all steps that set a row to them.
    """
    transposed = ops.transpose(recurrent)

    def step(carried: Tensors, here: Tensors) -> tuple[Tensors, Tensors]:
        d_new, d_initial = carried[:count], carried[count:]
        d_output, *here = here
        flag, here = (here[:1], here[1:]) if has_flags else ([], here)
        states, gates = here[:count], here[count:]

        d_new = [d_new[0] + d_output, *d_new[1:]]  # h' is the output, and goes to the next step
        d_x, d_h, d_states = math.backward(gates, states, d_new)
        d_states = [d_states[0] + ops.matmul(d_h, transposed), *d_states[1:]]

        # Where a row was set, its gradient is that of the initial state, and ends here.
        nothing = [ops.zeros_like(d) for d in d_states]
        if flag:
            of_initial = _replaced(flag, d_states, nothing)
            d_initial = [d + part for d, part in zip(d_initial, of_initial, strict=True)]
        d_states = _replaced(flag, nothing, d_states)
        return d_states + d_initial, [d_x, d_h] if math.separate else [d_x]

    return step


def _replaced(flag: Tensors, new: Tensors, old: Tensors) -> Tensors:
    """`new` in the rows flagged, else `old`; `flag` is empty or has one bool `(..., batch)`."""
    if not flag:
        return old
    return [ops.where(flag[0][..., None], n, o) for n, o in zip(new, old, strict=True)]


def _over_all_steps(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of a kernel `(features, columns)`: the sum over time and batch, as one product.

    Args:
        inputs: what the kernel was multiplied with, `(time, batch, features)`.
        gradient: of the product, `(time, batch, columns)`.
    """
    if keras.distribution.distribution() is not None:
        # Rows kept apart, so that each device sums up its own: a reshape would gather them first.
        return ops.tensordot(inputs, gradient, axes=((0, 1), (0, 1)))
    inputs, gradient = (ops.reshape(a, (-1, a.shape[-1])) for a in (inputs, gradient))
    return ops.matmul(ops.transpose(inputs), gradient)


def _scan(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    states: Tensors,
    xs: Tensors,
    widths: list[int],
    reverse: bool = False,
) -> tuple[Tensors, Tensors]:
    """`jax.lax.scan` over the first axis, on TensorFlow too.

    (`keras.ops.scan` wants outputs shaped as the states there.)

    Args:
        step: `(states, [x[t] for x in xs])` to `(states, outputs)`.
        states: tensors.
        xs: tensors `(time, ...)`.
        widths: of the outputs, which are `(batch, width)`.
        reverse: whether from the last step to the first.

    Returns:
        The last states, and the outputs, each `(time, batch, width)`.
    """
    if keras.backend.backend() == "jax":
        return ops.scan(step, states, xs, reverse=reverse)
    import tensorflow as tf

    steps = tf.shape(xs[0])[0]
    arrays = [tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]).unstack(x) for x in xs]
    batch, dtype = states[0].shape[0], states[0].dtype
    outputs = [tf.TensorArray(dtype, steps, element_shape=(batch, w)) for w in widths]

    def body(t: Any, states: Tensors, outputs: list) -> tuple:
        at = steps - 1 - t if reverse else t
        states, values = step(states, [a.read(at) for a in arrays])
        return t + 1, states, [o.write(at, v) for o, v in zip(outputs, values, strict=True)]

    _, states, outputs = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), states, outputs), maximum_iterations=steps
    )
    return states, [o.stack() for o in outputs]
