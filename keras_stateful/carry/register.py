"""`register_carry`: classes of layers that carry because an adapter says how."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_stateful.carry.adapters import CarryAdapted, CarryAdapter, adapted, name_in_files
from keras_stateful.carry.layers import Carry, plain_class

_ADAPTERS: dict[type, CarryAdapter] = {}
_MADE: dict[type, type[CarryAdapted]] = {}


def register_carry(layer_class: type[keras.layers.Layer], adapter: CarryAdapter) -> None:
    """Has layers of a class carry their state, as Keras's recurrent layers do.

    From then on conversions take such a layer for a recurrent one: it is found along the time axis,
    has a state for each call, takes resets by window and by step, stands in `get_states`, step
    models and artifacts under its path, and files of converted models that hold it load.

    Args:
        layer_class: layers `(batch, time, ...)` to `(batch, time, ...)`, one output for each time
            step, which read no later step. Subclasses count as well, unless they have a `call` of
            their own. The class must be one that Keras can copy (`get_config`).
        adapter: says what the state is and how a call goes on from it, a `CarryAdapter`. It is
            believed: that windows equal one long pass is for a test of yours, as in the example.

    Raises:
        TypeError: not a class of layers; not an adapter.
        ValueError: a class that carries without an adapter, or a model, whose layers are entered.

    Example:

    ```python
    import keras, numpy as np
    from keras import ops
    import keras_stateful as ks

    class Leaky(keras.layers.Layer):                        # h[t] = 0.9 h[t-1] + x[t]
        def advance(self, h, x, resets):
            document = ops.cumsum(ops.cast(resets, "int32"), axis=1)
            step = ops.cumsum(ops.ones_like(x[..., 0]), axis=1)
            lag = step[:, :, None] - step[:, None, :]
            reads = (lag >= 0) & (document[:, :, None] == document[:, None, :])
            outputs = ops.matmul(ops.where(reads, 0.9**lag, 0.0), x)
            fading = ops.where(document == 0, 0.9**step, 0.0)
            outputs = outputs + fading[..., None] * h[:, None]
            return outputs, outputs[:, -1]

        def call(self, x):
            return self.advance(ops.zeros_like(x[:, 0]), x, ops.zeros_like(x[..., 0], "bool"))[0]

    class CarryLeaky:
        def initial_states(self, layer, batch_size, shape):
            return [ops.zeros((batch_size, shape[-1]))]

        def advance(self, layer, states, x, resets=None):
            resets = ops.zeros_like(x[..., 0], "bool") if resets is None else resets
            outputs, h = layer.advance(states[0], x, resets)
            return outputs, [h]

    ks.register_carry(Leaky, CarryLeaky())
    model = keras.Sequential([keras.Input((None, 3)), Leaky(), keras.layers.Dense(1)])
    x = np.random.default_rng(0).standard_normal((2, 10, 3)).astype("float32")
    live = ks.to_inference(model, batch_size=2)
    windows = [live.predict_on_batch(x[:, :6]), live.predict_on_batch(x[:, 6:])]
    np.testing.assert_allclose(np.concatenate(windows, 1), model.predict_on_batch(x), atol=1e-5)
    ```
    """
    _check_class(layer_class)
    _check_adapter(adapter)
    _ADAPTERS[layer_class] = adapter
    for cls in [cls for cls in _MADE if issubclass(cls, layer_class)]:
        del _MADE[cls]
    registered_class(layer_class)  # Keras looks for it when it loads a file


def _check_class(layer_class: Any) -> None:
    """Checks that layers of a class can be told how to carry."""
    if not isinstance(layer_class, type) or not issubclass(layer_class, keras.layers.Layer):
        instance = isinstance(layer_class, keras.layers.Layer)
        remedy = f" Pass its class, {type(layer_class).__name__}." if instance else ""
        raise TypeError(
            "`layer_class` must be a class of Keras layers. Received: "
            f"layer_class={layer_class!r}.{remedy}"
        )
    refusals = {
        keras.Model: "Its layers are entered: register the class of the one that has the state.",
        keras.layers.RNN: "It carries by itself: its cell says what its states are.",
        Carry: "It carries already: register the plain class, once.",
    }
    for refused, why in refusals.items():
        if issubclass(layer_class, refused):
            raise ValueError(
                "`layer_class` needs no adapter. Received: layer_class="
                f"{layer_class.__name__}. {why}"
            )
    if getattr(layer_class, "call", None) is keras.layers.Layer.call:
        raise ValueError(
            "`layer_class` must have a `call`. Received: layer_class="
            f"{layer_class.__name__}, which has none. Register the class that computes."
        )


def _check_adapter(adapter: CarryAdapter) -> None:
    """Checks that an adapter has the two methods, with the arguments that they are called with."""
    if isinstance(adapter, type):
        raise TypeError(
            f"`adapter` must be an adapter, not its class. Received: adapter={adapter!r}. Pass "
            f"`{adapter.__name__}()`."
        )
    missing = [n for n in ("initial_states", "advance") if not callable(getattr(adapter, n, None))]
    if missing:
        raise TypeError(
            "`adapter` must have the methods of `CarryAdapter`. Received: an object of type "
            f"{type(adapter).__name__} without {' and '.join(f'`{n}`' for n in missing)}."
        )
    parameters = inspect.signature(adapter.advance).parameters
    if "resets" not in parameters and not _catches_all(parameters):
        raise TypeError(
            "`adapter.advance` must take `resets`, the rows that start anew before a step inside "
            f"the window. Received: {type(adapter).__name__}.advance"
            f"{inspect.signature(adapter.advance)}. Add `resets=None`."
        )


def _catches_all(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def is_registered(cls: type) -> bool:
    """True for a class of layers that `register_carry` was told of, or one that carries so."""
    return _adapter_of(cls) is not None


def registered_class(cls: type[keras.layers.Layer]) -> type[CarryAdapted]:
    """The class that carries, for a class of which `is_registered` is true."""
    if cls not in _MADE:
        adapter = _adapter_of(cls)
        if adapter is None:
            raise TypeError(f"No adapter says how {cls.__name__} carries. Call `register_carry`.")
        _MADE[cls] = adapted(cls, adapter, name=name_in_files(cls))
    return _MADE[cls]


def _adapter_of(cls: type) -> CarryAdapter | None:
    """The adapter for a class of layers; None where there is none."""
    plain: Any = plain_class(cls)
    for known in plain.__mro__:
        if known in _ADAPTERS:
            return _ADAPTERS[known] if plain.call is known.call else None
    return None
