"""What a layer holds and tracks, and what Keras's recurrent layers and cells do inside."""

from typing import Any

import keras
from keras.src import backend as _keras_backend

from keras_stateful.foundation.keras_internals.graph import is_submodel
from keras_stateful.foundation.types import Tensor

# `keras.src.backend.rnn`, the loop over time steps of Keras's own recurrent layers. The public
# `keras.ops.scan` wants outputs shaped like the states on TensorFlow. Since Keras 3.16 that name is
# the module's.
rnn_loop = getattr(_keras_backend.rnn, "rnn", _keras_backend.rnn)


# What a layer holds


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, whatever the attribute.

    Private: `Layer._layers`. `Model.layers` does not enter wrappers and custom layers.
    """
    return list(layer._layers)


def attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's attributes by name, those that are layers included.

    Private: `_modules`, where torch keeps layers apart from the other attributes.
    """
    return {**vars(layer), **vars(layer).get("_modules", {})}


def is_store(name: str) -> bool:
    """True if an attribute of this name is where Keras lists all that a layer holds.

    Private: `Layer._layers` and the like.
    """
    return name in ("_layers", "_metrics", "_seed_generators")


def replace_attribute(
    layer: keras.layers.Layer, name: str, value: keras.Variable | keras.layers.Layer
) -> None:
    """Replaces a variable or layer that a layer holds, built or not; the new one is tracked.

    Private: `_post_track_variable`, `_post_untrack_variable`, and those of `replace_tracked`.
    """
    old = attributes(layer)[name]
    replace_tracked(layer, old, value)
    if isinstance(value, keras.Variable):  # of which torch keeps a list of its own
        layer._post_untrack_variable(old)
        layer._post_track_variable(value)
    setattr(layer, name, value)


def replace_tracked(
    layer: keras.layers.Layer,
    old: keras.Variable | keras.layers.Layer,
    new: keras.Variable | keras.layers.Layer,
) -> None:
    """Has a layer, built or not, track one thing in the place of another.

    Private: `Layer._tracker`. A built layer takes no other variables, and goes on tracking a layer
    that was put aside.
    """
    tracker = layer._tracker
    for store, (_, tracked) in tracker.config.items():
        if tracker.is_in_store(store, old):
            # In its place, since the order of tracked variables is that of the weights.
            tracked[[id(t) for t in tracked].index(id(old))] = new
            once = {id(t): t for t in tracked}
            tracked[:] = once.values()
            tracker.stored_ids[store] = set(once)


def unlock(layer: keras.layers.Layer) -> None:
    """Has a layer take variables until the end of its `build`, though `enable_lora` was called.

    Private: `Layer._tracker`, which `enable_lora` locks, within `build` where `lora_rank` is given.
    """
    layer._tracker.unlock()


# Copies of layers


def class_to_rebuild(model: keras.Model) -> type[keras.Model]:
    """The class to call with new inputs and outputs for a model like this one.

    Private: the name of `keras.src.models.functional.Functional`, which `keras.Model(inputs,
    outputs)` makes and which nobody can import.
    """
    return keras.Model if type(model).__name__ == "Functional" else type(model)


def is_rebuildable(layer: Any) -> bool:
    """True if a sub-model is rebuilt of its layers: one of Keras's classes, or of ours.

    Of a class of the user's own nobody knows what else it holds.

    Private: the module's name, see `names`.
    """
    ours = type(layer).__module__.startswith(("keras.", "keras_stateful."))
    return ours and is_submodel(layer)


def copy_lambda(
    layer: keras.layers.Lambda, cls: type[keras.layers.Lambda], **config: Any
) -> keras.layers.Lambda:
    """A `Lambda` layer of the same function, of a class and with what that takes in addition.

    Private: `Lambda._output_shape`. The config holds a lambda's code without the names that the
    code refers to, so the layer is not copied from it.
    """
    return cls(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=layer.name,
        dtype=layer.dtype_policy,
        **config,
    )


def copy_cudnn_choice(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Keeps the copy of a recurrent layer from cuDNN where the layer was kept from it.

    Private: `use_cudnn` and `supports_jit` as attributes. The config of a layer leaves out
    `use_cudnn`, an argument of its constructor.
    """
    if getattr(old, "use_cudnn", None) is False:
        new.use_cudnn, new.supports_jit = False, old.supports_jit


def has_fused_call(layer: keras.layers.RNN) -> bool:
    """True if Keras hands an `LSTM` or `GRU` with these settings to cuDNN, on TensorFlow or JAX.

    Private: `backend.cudnn_ok`, which is not there where Keras has no cuDNN for a backend, and
    knows the `GRU` on TensorFlow alone.
    """
    cell, cudnn_ok = layer.cell, getattr(_keras_backend, "cudnn_ok", None)
    if cudnn_ok is None:
        return False
    settings = (cell.activation, cell.recurrent_activation, layer.unroll, cell.use_bias)
    if not isinstance(cell, keras.layers.GRUCell):
        return cudnn_ok(*settings)
    if keras.backend.backend() != "tensorflow":
        return False
    return cudnn_ok(*settings, reset_after=cell.reset_after)


def fused_call(
    layer: keras.layers.RNN, sequences: Tensor, states: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One call of cuDNN, with other weights than the layer's.

    Private: `backend.lstm` and `backend.gru`, which `inner_loop` of a layer calls with its own.

    Args:
        layer: one with `has_fused_call`.
        sequences: `(batch, time, features)`.
        states: at the start, `(batch, units)` each.
        weights: kernel, recurrent kernel and bias.

    Returns:
        All outputs, and the last states.
    """
    cell, (kernel, recurrent_kernel, bias) = layer.cell, weights
    is_gru = isinstance(cell, keras.layers.GRUCell)
    _, outputs, last = (_keras_backend.gru if is_gru else _keras_backend.lstm)(
        sequences,
        *states,
        None,  # a mask
        kernel=kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        activation=cell.activation,
        recurrent_activation=cell.recurrent_activation,
        return_sequences=True,
        **({"reset_after": cell.reset_after} if is_gru else {}),
    )
    return outputs, list(last)


# Dropout inside recurrent cells


def dropout_mask(cell: keras.layers.Layer, inputs: Tensor) -> Tensor:
    """The dropout mask `(batch, features)` that a cell takes for all time steps of one call.

    Private: `DropoutRNNCell.get_dropout_mask`. A mask drawn in another way would take other random
    numbers than Keras's loop takes.

    Args:
        cell: of Keras's `LSTM`, `GRU` or `SimpleRNN`.
        inputs: one time step, `(batch, features)`.
    """
    return cell.get_dropout_mask(inputs)


def without_dropout(part: keras.layers.Layer) -> None:
    """Sets the dropout rates of a cell of Keras's own to 0; leaves any other layer alone.

    Private: `DropoutRNNCell` is told by its `get_dropout_mask`. JAX draws the mask at inference
    too, and cannot export that.
    """
    if hasattr(part, "get_dropout_mask"):
        part.dropout = part.recurrent_dropout = 0.0


def dropout_seed(cell: keras.layers.Layer) -> keras.Variable | None:
    """The seed state that a cell or layer draws its dropout masks from; None if it has none.

    Private: `seed_generator`, an attribute of Keras's recurrent layers and cells.
    """
    generator = getattr(cell, "seed_generator", None)
    return None if generator is None else generator.state
