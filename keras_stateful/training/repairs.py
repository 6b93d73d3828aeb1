"""What plain Keras layers with `stateful=True` need before they carry their state in training, and
train as fast.

| backend | what Keras does | until | repair |
|---|---|---|---|
| JAX | the states are in none of the model's variable lists: the compiled step drops every update, and the value at the first trace becomes a constant | 3.15, and the coming 3.16 | each state is listed among the layer's seed states, which the step carries |
| torch | the state is written in place while autograd still holds it: LSTM and GRU crash in backward | 3.15, fixed in 3.16 | the layer is called with copies of its states |
| torch | under mixed precision autocast writes into a temporary copy and the state never changes | 3.15 | autocast is switched off for the states |

`docs/keras-defects.md` has a reproduction of each. On the CPU their loop is then that of `loops`.
Models from `to_stateful` need none of this.
"""

from typing import Any

import keras
from keras import ops

from keras_stateful.carry import loops
from keras_stateful.carry.layers import Carry
from keras_stateful.carry.states import find_states
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.training.masked_loss import masks_into_weights

_WEIGHS_ONCE = "keras_stateful_weighs_once"


def weigh_once(model: keras.Model) -> None:
    """Lets the loss of a plain model count each unmasked step of a sequence once; see
    `masked_loss`.
    """
    keras_loss = model.compute_loss

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y_pred, sample_weight = masks_into_weights(y_pred, sample_weight)
        return keras_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)

    if not hasattr(keras_loss, _WEIGHS_ONCE):
        setattr(compute_loss, _WEIGHS_ONCE, True)
        model.compute_loss = compute_loss
        model.train_function = model.test_function = None


def check_forward(model: keras.Model) -> None:
    """Raises a ValueError for a stateful `Bidirectional`, which has no meaning under truncated
    backpropagation.
    """
    for layer_state in find_states(model):
        if not isinstance(layer_state.layer, Carry) and layer_state.layer.go_backwards:
            raise ValueError(
                f"`{layer_state.key}` is stateful and reads each window from its end "
                "(`go_backwards`, the backward half of a `Bidirectional`). Received: a layer that "
                "would carry the state of the future into the past. Use a forward layer, or a "
                "`Bidirectional` without `stateful=True` on whole documents."
            )


def repair(model: keras.Model) -> None:
    """Makes a model's plain stateful layers carry their state in `fit`, where they do not, and
    train in the fastest loop.

    Raises:
        ValueError: a stateful `Bidirectional`; see `check_forward`.
    """
    check_forward(model)
    plain = {id(c.layer): c.layer for c in find_states(model) if not isinstance(c.layer, Carry)}
    repaired = [_REPAIRS[keras.backend.backend()](layer) for layer in plain.values()]
    for layer in plain.values():
        loops.install(layer)
    if any(repaired):  # whatever was traced before holds the states as constants
        model.train_function = model.test_function = model.predict_function = None


def _repair_jax(layer: Any) -> bool:
    states = keras.tree.flatten(layer.states)
    listed = {id(v) for v in layer.variables}
    missing = [v for v in states if id(v) not in listed]
    keras_internals.carry_through_jax_steps(layer, missing)
    for variable in missing:
        devices.lay_out_by_rows(variable)
    return bool(missing)


def _repair_torch(layer: Any) -> bool:
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


_REPAIRS = {"jax": _repair_jax, "torch": _repair_torch, "tensorflow": lambda layer: False}
