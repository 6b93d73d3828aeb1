"""LSTM, GRU and SimpleRNN in training on the CPU, with a backward pass of their own, on JAX and
TensorFlow.

Keras leaves the backward pass to the backend, which adds up the gradient of each weight matrix step
by step: a product of matrices as flat as a batch, and a sum as large as the weights, for every time
step. Here the loop backwards only finds the gradients of the gates; those of the weights are one
product over all steps behind it, as cuDNN does it (Appleyard et al. 2016, arXiv:1604.01946, section
3.2). The same numbers, sooner: `benchmarks/torch_loop.py` tells how much.

    forwards    x[t], states[t] ──▶ gates[t] ──▶ states[t + 1]          kept: gates, states
    backwards   d states[t + 1], gates[t] ──▶ d gates[t] ──▶ d states[t]
    behind it   d kernel = x' · d gates     d recurrent_kernel = h' · d gates     d x = d gates · kernel'

Rows may be set to an initial state before any step, so "pack" is served too, which no fused kernel
of the backends is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops


class CellMath(NamedTuple):
    """One step of a cell, in terms of what its matrices give.

    Attributes:
        matrices: how many blocks of `units` columns the kernels have.
        separate: whether the gradients behind the kernel and the recurrent kernel differ.
        forward: `(from_x, from_h, states)` to `(new_states, gates)`.
        backward: `(gates, states, d_new_states)` to `(d_from_x, d_from_h, d_states)`; what reaches
            `h` through the recurrent kernel is not in `d_states`.
        gates: how many gates `forward` keeps, each `(batch, units)`.
    """

    matrices: int
    separate: bool
    forward: Callable[[Any, Any, list], tuple[list, list]]
    backward: Callable[[list, list, list], tuple[Any, Any, list]]
    gates: int


def _lstm_forward(from_x: Any, from_h: Any, states: list) -> tuple[list, list]:
    i, f, g, o = ops.split(from_x + from_h, 4, axis=-1)
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    c = f * states[1] + i * g
    return [o * ops.tanh(c), c], [i, f, g, o]


def _lstm_backward(gates: list, states: list, d_new: list) -> tuple[Any, Any, list]:
    (i, f, g, o), (_, c), (dh, dc) = gates, states, d_new
    squashed = ops.tanh(f * c + i * g)
    dc = dc + dh * o * (1 - squashed * squashed)
    d_gates = [
        dc * g * i * (1 - i),
        dc * c * f * (1 - f),
        dc * i * (1 - g * g),
        dh * squashed * o * (1 - o),
    ]
    found = ops.concatenate(d_gates, axis=-1)
    return found, found, [ops.zeros_like(dh), dc * f]


def _gru_forward(from_x: Any, from_h: Any, states: list) -> tuple[list, list]:
    (x_z, x_r, x_g), (h_z, h_r, h_g) = ops.split(from_x, 3, axis=-1), ops.split(from_h, 3, axis=-1)
    z, r = ops.sigmoid(x_z + h_z), ops.sigmoid(x_r + h_r)
    g = ops.tanh(x_g + r * h_g)
    return [z * states[0] + (1 - z) * g], [z, r, g, h_g]


def _gru_backward(gates: list, states: list, d_new: list) -> tuple[Any, Any, list]:
    (z, r, g, h_g), (h,), (dh,) = gates, states, d_new
    d_z = dh * (h - g) * z * (1 - z)
    d_g = dh * (1 - z) * (1 - g * g)
    d_r = d_g * h_g * r * (1 - r)
    return (
        ops.concatenate([d_z, d_r, d_g], axis=-1),
        ops.concatenate([d_z, d_r, d_g * r], axis=-1),
        [dh * z],
    )


def _simple_forward(from_x: Any, from_h: Any, states: list) -> tuple[list, list]:
    h = ops.tanh(from_x + from_h)
    return [h], [h]


def _simple_backward(gates: list, states: list, d_new: list) -> tuple[Any, Any, list]:
    d_gate = d_new[0] * (1 - gates[0] * gates[0])
    return d_gate, d_gate, [ops.zeros_like(d_gate)]


CELL_MATH = {
    keras.layers.LSTMCell: CellMath(4, False, _lstm_forward, _lstm_backward, 4),
    keras.layers.GRUCell: CellMath(3, True, _gru_forward, _gru_backward, 4),
    keras.layers.SimpleRNNCell: CellMath(1, False, _simple_forward, _simple_backward, 1),
}


def serves(layer: Any, sequences: Any) -> bool:
    """Whether the kernels are there for a layer that they compute: on the CPU, and on values."""
    return (
        _on_cpu()
        and getattr(layer, "use_cudnn", "auto") == "auto"  # True: Keras says that there is none
        and not isinstance(sequences, keras.KerasTensor)
    )


def _on_cpu() -> bool:
    """Whether steps run on the CPU; on a GPU the backends have cuDNN."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_logical_devices("GPU") and not tf.config.list_logical_devices(
            "TPU"
        )
    return False


def run(layer: Any, sequences: Any, initial_state: list, resets: tuple[Any, list] | None) -> tuple:
    """What `inner_loop` of a layer returns: the last output, all outputs (or the last alone), and
    the new states.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN` that is being trained.
        sequences: `(batch, time, features)`, after dropout.
        initial_state: arrays `(batch, units)`.
        resets: None, or which rows are set to which states before which steps: bool `(batch, time)`
            and arrays `(batch, units)`.
    """
    cell, dtype = layer.cell, layer.cell.compute_dtype
    math = CELL_MATH[type(cell)]
    kernel, recurrent = (
        ops.cast(ops.convert_to_tensor(v), dtype) for v in (cell.kernel, cell.recurrent_kernel)
    )
    width = math.matrices * cell.units
    bias = (
        ops.cast(ops.convert_to_tensor(cell.bias), dtype)
        if cell.use_bias
        else ops.zeros((width,), dtype)
    )
    biases = ops.unstack(bias) if len(bias.shape) == 2 else (bias, ops.zeros_like(bias))
    start = [ops.cast(s, dtype) for s in initial_state]
    initial = [] if resets is None else [ops.cast(i, dtype) for i in resets[1]]
    marks = [] if resets is None else [ops.transpose(ops.cast(resets[0], "bool"))]

    loop = _loop(math, cell.units, len(start), marks)
    outputs, *states = loop(
        ops.transpose(sequences, (1, 0, 2)), kernel, recurrent, *biases, *start, *initial
    )
    outputs = ops.transpose(outputs, (1, 0, 2)) if layer.return_sequences else outputs[-1][:, None]
    return states[0], outputs, states


def _loop(math: CellMath, units: int, count: int, marks: list) -> Callable:
    """A differentiable function over all time steps.

    Args:
        math: of the cell.
        units: of the cell.
        count: of its states.
        marks: empty, or bool `(time, batch)`: which rows are set to the initial state before a
            step.

    Returns:
        A function of `x` `(time, batch, features)`, the kernels, the biases, the states at the
        start, and, with `marks`, the initial ones. It returns all outputs `(time, batch, units)`
        and the last states.
    """

    def replaced(mark: list, new: list, old: list) -> list:
        """`new` in the marked rows, else `old`; `mark` is empty or has one bool `(..., batch)`."""
        return (
            [ops.where(mark[0][..., None], n, o) for n, o in zip(new, old, strict=True)]
            if mark
            else old
        )

    @ops.custom_gradient
    def loop(x, kernel, recurrent, bias_x, bias_h, *states):
        start, initial = list(states[:count]), list(states[count:])

        def step(states: list, here: list) -> tuple[list, list]:
            x, *mark = here
            states = replaced(mark, initial, states)
            from_x = ops.matmul(x, kernel) + bias_x
            from_h = ops.matmul(states[0], recurrent) + bias_h
            new, gates = math.forward(from_x, from_h, states)
            return new, [new[0], *states[1:], *gates]

        widths = [units] * (count + math.gates)
        last, (h, *kept) = _scan(step, start, [x, *marks], widths)

        def gradient(*upstream):
            d_h, *d_last = upstream if len(upstream) > 1 else upstream[0]
            before = replaced(
                marks, [i[None] for i in initial[:1]], [ops.concatenate([start[0][None], h[:-1]])]
            )
            others, gates = kept[: count - 1], kept[count - 1 :]
            transposed = ops.transpose(recurrent)

            def back(carried: list, here: list) -> tuple[list, list]:
                d_new, d_initial = carried[:count], carried[count:]
                d_out, *here = here
                mark, (states, gates) = (
                    here[: len(marks)],
                    (here[len(marks) :][:count], here[-math.gates :]),
                )
                d_new = [d_new[0] + d_out, *d_new[1:]]
                d_x, d_h, d_states = math.backward(gates, states, d_new)
                d_states = [d_states[0] + ops.matmul(d_h, transposed), *d_states[1:]]
                nothing = [ops.zeros_like(d) for d in d_states]
                if mark:
                    d_initial = [
                        d + part
                        for d, part in zip(
                            d_initial, replaced(mark, d_states, nothing), strict=True
                        )
                    ]
                d_states = replaced(mark, nothing, d_states)
                return d_states + d_initial, [d_x, d_h] if math.separate else [d_x]

            carried = [*d_last, *(ops.zeros_like(i) for i in initial)]
            widths = [math.matrices * units] * (1 + math.separate)
            d_states, found = _scan(
                back, carried, [d_h, *marks, *before, *others, *gates], widths, reverse=True
            )
            d_x, d_h = found[0], found[-1]

            return (
                ops.matmul(d_x, ops.transpose(kernel)),
                _over_all_steps(x, d_x),
                _over_all_steps(before[0], d_h),
                ops.sum(d_x, axis=(0, 1)),
                ops.sum(d_h, axis=(0, 1)),
                *d_states,
            )

        return (h, *last), gradient

    return loop


def _over_all_steps(given: Any, gradient: Any) -> Any:
    """Gradient of a kernel `(features, columns)` from `(time, batch, features)` and
    `(time, batch, columns)`.
    """
    if (
        keras.distribution.distribution() is not None
    ):  # rows kept apart, so that each device sums up its own
        return ops.tensordot(given, gradient, axes=((0, 1), (0, 1)))
    given, gradient = (ops.reshape(a, (-1, a.shape[-1])) for a in (given, gradient))
    return ops.matmul(ops.transpose(given), gradient)


def _scan(
    step: Callable, states: list, xs: list, widths: list[int], reverse: bool = False
) -> tuple[list, list]:
    """`jax.lax.scan` over the first axis, on TensorFlow too (`keras.ops.scan` wants outputs shaped
    as states there).

    Args:
        step: `(states, [x[t] for x in xs])` to `(states, outputs)`.
        states: arrays.
        xs: arrays `(time, ...)`.
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

    def body(t: Any, states: list, outputs: list) -> tuple:
        at = steps - 1 - t if reverse else t
        states, found = step(states, [a.read(at) for a in arrays])
        return t + 1, states, [a.write(at, f) for a, f in zip(outputs, found, strict=True)]

    _, states, outputs = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), states, outputs), maximum_iterations=steps
    )
    return states, [a.stack() for a in outputs]
