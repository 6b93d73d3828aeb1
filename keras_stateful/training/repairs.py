"""What plain Keras layers with `stateful=True` need before they carry their state in training.

- JAX (Keras 3.15 and the coming 3.16): the states are in none of the model's variable lists. The
  compiled step drops every update, and the value at the first trace becomes a constant. Repair:
  each state is listed among the layer's seed states, which the step carries.
- torch (3.15, fixed in 3.16): the state is written in place while autograd still holds it, so LSTM
  and GRU crash in backward. Repair: the layer is called with copies of its states.
- torch under mixed precision (3.15): autocast writes into a temporary copy and the state never
  changes. Repair: autocast is switched off for the states.

`docs/keras-defects.md` has a reproduction of each. Plain layers are also given the loop over time
steps of `carry/loops.py`, which is faster on the CPU. Models from `to_stateful` need none of this.
"""

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.states import LayerState, find_states
from keras_stateful.foundation import devices, keras_internals


def check_forward(model: keras.Model) -> None:
    """Refuses a stateful `Bidirectional`, which has no meaning under truncated backpropagation.

    Raises:
        ValueError: a stateful layer that reads backwards.
    """
    for layer_state in _plain_states(model):
        if layer_state.layer.go_backwards:
            raise ValueError(
                f"`{layer_state.key}` is stateful and reads each window from its end "
                "(`go_backwards`, the backward half of a `Bidirectional`). Received: a layer that "
                "would carry the state of the future into the past. Use a forward layer, or a "
                "`Bidirectional` without `stateful=True` on whole documents."
            )


def repair(model: keras.Model) -> None:
    """Makes plain stateful layers carry their state in `fit`, and train in the fastest loop.

    Raises:
        ValueError: a stateful `Bidirectional`; see `check_forward`.
    """
    check_forward(model)
    layers = {id(s.layer): s.layer for s in _plain_states(model)}.values()
    repaired = [_REPAIRS[keras.backend.backend()](layer) for layer in layers]
    for layer in layers:
        loops.install(layer)
    if any(repaired):  # whatever was traced before holds the states as constants
        model.train_function = model.test_function = model.predict_function = None


def _plain_states(model: keras.Model) -> list[LayerState]:
    """The states of Keras's own `stateful=True` layers, those of a conversion left out."""
    return [s for s in find_states(model) if not isinstance(s.layer, Carry)]


def _repair_jax(layer: keras.layers.RNN) -> bool:
    """Lists the states among what the compiled step carries; True if any was not."""
    listed = {id(v) for v in layer.variables}
    missing = [v for v in keras.tree.flatten(layer.states) if id(v) not in listed]
    keras_internals.carry_through_jax_steps(layer, missing)
    for variable in missing:
        devices.lay_out_by_rows(variable)
    return bool(missing)


def _repair_torch(layer: keras.layers.RNN) -> bool:
    """Calls the layer with copies of its states; True if it was called with themselves before.

    The states are written in place while autograd still holds what the layer was called with.
    """
    if getattr(layer, "_keras_stateful_repaired", False):
        return False
    for variable in keras.tree.flatten(layer.states):
        keras_internals.keep_out_of_autocast(variable)
    call = layer.call

    def call_with_copies(sequences, initial_state=None, mask=None, training=False):
        if initial_state is None:
            initial_state = keras.tree.map_structure(ops.copy, list(layer.states))
        return call(sequences, initial_state=initial_state, mask=mask, training=training)

    layer.call = call_with_copies
    layer._keras_stateful_repaired = True
    return True


def _repair_tensorflow(layer: keras.layers.RNN) -> bool:
    """Nothing: TensorFlow's variables keep what is assigned within a compiled step."""
    return False


_REPAIRS = {"jax": _repair_jax, "torch": _repair_torch, "tensorflow": _repair_tensorflow}
