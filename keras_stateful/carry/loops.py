"""Which loop over time steps a recurrent layer runs; all give the same results.

    resets inside the window            ──▶ fused_resets      one call of a fused kernel: cuDNN on a
                                                              GPU, torch's own on the CPU
    the same, no such kernel            ──▶ run_by_step       one step after the other, any cell
    masked steps, a cell of one's own   ──▶ run_by_step       where Keras's loop fails
    in training on the CPU              ──▶ run               `scan_kernels` on JAX and TensorFlow
    windows on the CPU with torch       ──▶ run               `torch_kernels`
    else                                ──▶ keras_loop        Keras's own: cuDNN on a GPU, which is
                                                              avoided here where it would fail

Keras 3.10 to 3.15 call `inner_loop` of a recurrent layer for this;
`tests/carry/test_training_kernels.py` fails when they do not.
"""

import inspect
from collections.abc import Callable

import keras
from keras import ops

from keras_stateful.carry import fused_resets, scan_kernels, torch_kernels
from keras_stateful.carry.steps import StepResets, choose, first_of_last
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

# Keras's loop wants the number of time steps. Where TensorFlow knows it at run time only, any
# number will do that is not reached: the loop ends with the steps.
_ANY_LENGTH = 2**31 - 1

PLAIN_CELLS: dict[type, type] = {
    keras.layers.LSTM: keras.layers.LSTMCell,
    keras.layers.GRU: keras.layers.GRUCell,
    keras.layers.SimpleRNN: keras.layers.SimpleRNNCell,
}


def run(
    layer: keras.layers.RNN,
    sequences: Tensor,
    initial_state: list[Tensor],
    mask: Structure | None,
    training: bool,
    resets: StepResets | None = None,
) -> tuple | None:
    """What `inner_loop` of a layer returns, or None where no kernel computes it.

    Args:
        layer: an `LSTM`, `GRU` or `SimpleRNN`.
        sequences: `(batch, time, features)`.
        initial_state: tensors `(batch, units)`.
        mask: of Keras, or None.
        training: whether gradients are wanted; outside of it the loop on JAX and TensorFlow is
            Keras's, which goes forwards as fast, and which exporters can write. So is that of a
            single step.
        resets: rows that are set to the initial state inside the window, or None.
    """
    if mask is not None or len(sequences.shape) != 3 or not _eligible(layer):
        return None
    exact = layer.cell.compute_dtype in ("float32", "float64")
    kernels = next(
        (k for k in (scan_kernels, torch_kernels) if exact and k.serves(layer, sequences)), None
    )
    fused = None if resets is None else fused_resets.fused_kernel(layer, sequences)
    if not training and (kernels is scan_kernels or sequences.shape[1] == 1):
        kernels = None  # for one step, laying out the weights for torch's would take too long
    if fused is None and kernels is None:
        return None
    read = _dropped_out(layer, sequences) if training else sequences

    def by_step() -> tuple:
        if kernels is not None:
            return kernels.run(layer, read, initial_state, resets)
        return run_by_step(layer, sequences, initial_state, mask, training, resets)

    if resets is None or fused is None:
        return by_step()
    return fused_resets.run(layer, fused, read, initial_state, resets, by_step)


def _dropped_out(layer: keras.layers.RNN, sequences: Tensor) -> Tensor:
    """What a layer reads of sequences `(batch, time, features)` in training."""
    sequences = ops.cast(sequences, layer.cell.compute_dtype)
    if layer.dropout:
        kept = keras_internals.dropout_mask(layer.cell, sequences[:, 0, :])
        sequences = sequences * kept[:, None]
    return sequences


def _eligible(layer: keras.layers.RNN) -> bool:
    """True if a layer is one that the kernels compute: what cuDNN asks for, too."""
    cell = layer.cell
    return (
        type(cell) in PLAIN_CELLS.values()
        and not (layer.recurrent_dropout or layer.go_backwards or layer.unroll)
        and getattr(layer, "use_cudnn", "auto") in ("auto", True)
        and cell.activation is keras.activations.tanh
        and getattr(cell, "recurrent_activation", keras.activations.sigmoid)
        is keras.activations.sigmoid
        and getattr(cell, "reset_after", True)
        # With `implementation=1` each gate has a dropout mask of its own.
        and not (layer.dropout and getattr(cell, "implementation", 2) == 1)
    )


def keras_masks(states: Structure) -> bool:
    """True if Keras's loop is right about masked steps.

    On JAX it lays a mask `(batch, 1)` upon states as it is: of a matrix it takes other rows.
    """
    matrices = any(len(state.shape) > 2 for state in keras.tree.flatten(states))
    return not (keras.backend.backend() == "jax" and matrices)


def run_by_step(
    layer: keras.layers.RNN,
    sequences: Tensor,
    initial_state: Structure,
    mask: Tensor | None,
    training: bool,
    resets: StepResets | None,
) -> tuple:
    """Calls the cell step by step, with rows set to the initial state before the steps marked.

    Masked steps are handled here and not by Keras's loop, which would throw away the reset of a
    masked step.

    Args:
        layer: a recurrent layer that carries, whose cell may hold several.
        sequences: `(batch, time, ...)`.
        initial_state: the state at the start of the window, nested as the cell's; behind it the
            output before, where the layer holds it.
        mask: bool `(batch, time)`, or None.
        training: as for the layer's call.
        resets: which rows are set to what, or None.

    Returns:
        The last output, all outputs (or the last alone), and the new states.
    """
    cell, holds_output = layer.cell, layer.holds_output
    initial = [] if resets is None else [ops.cast(i, cell.compute_dtype) for i in resets.initial]
    options = {}
    if "training" in inspect.signature(cell.call).parameters:
        options["training"] = training

    def step(inputs: tuple, states: Structure) -> tuple[Tensor, Structure]:
        x, *flags = inputs
        flat = keras.tree.flatten(states)
        if resets is not None:
            flat = choose(flags.pop(0), initial, flat)
        nested = list(keras.tree.pack_sequence_as(initial_state, flat))
        output, new_states = cell(x, nested[:-1] if holds_output else nested, **options)
        new_flat = keras.tree.flatten(new_states)
        if mask is not None:
            before = flat[-1] if holds_output else first_of_last(nested)
            before = ops.zeros_like(output) if layer.zero_output_for_mask else before
            (real,) = flags
            (output,) = choose(real, [output], [ops.cast(before, output.dtype)])
            cell_states = flat[:-1] if holds_output else flat
            new_flat = choose(real, new_flat, cell_states)
        if holds_output:
            new_flat.append(ops.cast(output, flat[-1].dtype))
        return output, keras.tree.pack_sequence_as(initial_state, new_flat)

    flags = [] if resets is None else [resets.flags]
    if mask is not None:
        flags.append(ops.cast(mask, "bool"))
    return keras_internals.rnn_loop(
        step,
        (sequences, *(ops.expand_dims(f, -1) for f in flags)),  # the loop takes rank 3 and more
        initial_state,
        unroll=layer.unroll,
        input_length=sequences.shape[1] or _ANY_LENGTH,
        return_all_outputs=layer.return_sequences,
    )


def keras_loop(
    layer: keras.layers.RNN,
    inner_loop: Callable[..., tuple],
    sequences: Tensor,
    initial_state: Structure,
    mask: Structure | None,
    training: bool,
) -> tuple:
    """Keras's own `inner_loop` of a layer, without cuDNN where it would be taken and fail.

    On TensorFlow it stops where a row is all padding: one whose document ended in an earlier
    window. On JAX it computes in float32 alone (`jax.experimental.rnn`): a compiled step in reduced
    precision fails, and float64 is read as float32.
    """
    fails = {"tensorflow": mask is not None, "jax": layer.compute_dtype != "float32"}
    if getattr(layer, "use_cudnn", False) != "auto" or not fails.get(keras.backend.backend()):
        return inner_loop(sequences, initial_state, mask=mask, training=training)
    layer.use_cudnn = False
    try:
        return inner_loop(sequences, initial_state, mask=mask, training=training)
    finally:
        layer.use_cudnn = "auto"


def install(layer: keras.layers.Layer) -> None:
    """Lets a plain Keras layer choose its loop so, in every step that is compiled from now on."""
    if type(layer) not in PLAIN_CELLS or hasattr(layer, "_keras_stateful_loop"):
        return
    plain_loop = layer.inner_loop

    def inner_loop(
        sequences: Tensor, initial_state: Structure, mask: Structure | None, training: bool = False
    ) -> tuple:
        result = run(layer, sequences, initial_state, mask, training)
        if result is not None:
            return result
        return keras_loop(layer, plain_loop, sequences, initial_state, mask, training)

    layer.inner_loop = inner_loop
    layer._keras_stateful_loop = True
