"""Rebuilds a Functional graph with other recurrent layers, other batch sizes, more inputs and
outputs.

One engine serves `to_stateful`, `to_stateless`, `to_inference` and `to_step_model`: it replays the
nodes of the given model on new input tensors, copies the layers (weights included, without running
their initializers), enters sub-models, and hands each recurrent call to a policy. What the policy
wants from outside (a reset mask, a state) it asks of its `Level`; sub-models pass such wishes on to
the level above, and hand new states up the same way. (What an exporter takes has no sub-models
left: `single_step` makes it, with the parts below.)
"""

import inspect
import tempfile
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from keras_stateful.carry import time_distributed
from keras_stateful.carry.layers import Carry, plain_class
from keras_stateful.foundation import keras_internals


@keras.saving.register_keras_serializable(package="keras_stateful")
class Sequential(keras.Model):
    """A sub-model that was `Sequential` and now has more than one input; weight files know it by
    this name.
    """


class Level:
    """The graph of one model being rebuilt: what was asked for from outside, what is handed out."""

    def __init__(self) -> None:
        self.wanted: dict[str, Any] = {}
        self.handed_out: dict[str, Any] = {}

    def input(self, name: str, shape: tuple, dtype: str) -> Any:
        """The input tensor of that name, made on the first call; `shape` includes the batch axis."""
        if name not in self.wanted:
            self.wanted[name] = keras.Input(batch_shape=shape, dtype=dtype, name=name)
        return self.wanted[name]

    def output(self, name: str, tensor: Any) -> None:
        """Hands a tensor out of the model, after the model's own outputs."""
        self.handed_out[name] = tensor


# policy(level, layer, path, call_index, args, kwargs) -> outputs of the recurrent call
Policy = Callable[[Level, Any, str, int, tuple, dict], Any]


class Rewriter:
    """Rebuilds one model. `copies` maps each old layer to its new one.

    Args:
        recurrent: which layers go to the policy, by path below the model.
        policy: builds their calls.
        share: use the old layers themselves (same variables) where the policy does not make its
            own.
        share_submodels: whether one sub-model may be called several times (not where it owns
            states).
        batch_size: batch size of new input tensors; None for any.
        temporal: ids of the input tensors that run along time.
        any_length: whether new inputs that run along time get an unknown number of time steps.
        plain: whether copies are of Keras's own classes alone.
    """

    def __init__(
        self,
        recurrent: set[str],
        policy: Policy,
        *,
        share: bool,
        share_submodels: bool,
        batch_size: int | None,
        temporal: Collection[int] = (),
        any_length: bool = False,
        plain: bool = False,
    ):
        self.recurrent, self.policy, self.share, self.plain = recurrent, policy, share, plain
        self.share_submodels = share_submodels
        self.batch_size, self.temporal, self.any_length = batch_size, temporal, any_length
        self.copies: dict[int, Any] = {}
        self._below: dict[int, Level] = {}  # what the copy of a sub-model asks for and hands out
        self.calls: dict[str, int] = {}
        self._pending: list[tuple[Any, Any, Callable[[], None]]] = []
        self._sharing: list[tuple[Any, Any]] = []

    def run(
        self, model: keras.Model, drop: frozenset[str] = frozenset()
    ) -> tuple[list, list, Level]:
        """Rebuilds `model`; gives the new input tensors, the new output tensors, and the level's
        wishes.
        """
        inner = keras_internals.functional(model)
        inputs = [None if t.name in drop else self._input(t) for t in inner.inputs]
        level = Level()
        outputs = self._replay(inner, inputs, "", level)
        self._finish()
        return [i for i in inputs if i is not None], outputs, level

    def _input(self, tensor: Any) -> Any:
        shape = list(tensor.shape)
        shape[0] = self.batch_size
        if self.any_length and id(tensor) in self.temporal and len(shape) > 1:
            shape[1] = None
        return keras.Input(
            batch_shape=tuple(shape), dtype=tensor.dtype, name=tensor.name, sparse=tensor.sparse
        )

    def _replay(self, inner: keras.Model, inputs: list, prefix: str, level: Level) -> list:
        tensors = {id(t): new for t, new in zip(inner.inputs, inputs, strict=True)}
        for node in keras_internals.nodes(inner):
            args, kwargs = keras_internals.fill_in(node, tensors)
            path = f"{prefix}{node.operation.name}"
            try:
                outputs = self._call(node.operation, path, args, kwargs, level)
            except Unconvertible:
                raise
            except Exception as error:
                shape = [
                    tuple(t.shape)
                    for t in keras.tree.flatten((args, kwargs))
                    if hasattr(t, "shape")
                ]
                raise Unconvertible(
                    f"`{path}` ({type(node.operation).__name__}) cannot be rebuilt at batch size "
                    f"{self.batch_size}. Received: inputs of shape {shape}. A batch size or a "
                    "number of time steps written into the graph is the usual cause: write -1 "
                    "(`ops.reshape(h, (-1, units))`) or use `keras.layers.Reshape`, which leaves "
                    f"the batch alone. Keras said: {error}"
                ) from error
            for tensor, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(tensor)] = new
        return [tensors[id(t)] for t in inner.outputs]

    def _call(self, operation: Any, path: str, args: tuple, kwargs: dict, level: Level) -> Any:
        index = self.calls.get(path, 0)
        self.calls[path] = index + 1
        if keras_internals.is_graph(operation) and (
            self._is_recurrent(path) or (self.share and time_distributed.is_within(operation))
        ):
            return self._call_submodel(operation, path, index, args, kwargs, level)
        if path in self.recurrent:
            return self.policy(level, operation, path, index, args, kwargs)
        return self.layer(operation)(*args, **kwargs)

    def _is_recurrent(self, submodel: str) -> bool:
        return any(p.startswith(f"{submodel}/") for p in self.recurrent)

    def _call_submodel(
        self, model: keras.Model, path: str, index: int, args: tuple, kwargs: dict, level: Level
    ) -> Any:
        inner = keras_internals.functional(model)
        given = keras.tree.flatten(args[0] if args else kwargs.pop("inputs"))
        if index and not self.share_submodels and self._is_recurrent(path):
            raise Unconvertible(
                f"`{path}` is a sub-model with recurrent layers that is called {index + 1} times. "
                "Received: one state to carry for several streams. Call its layers one by one in "
                "the outer model (a shared layer gets a state for each call), or build one "
                "sub-model for each call."
            )
        if id(model) not in self.copies:
            below = Level()
            fresh = [
                None if g is None else keras.Input(batch_shape=g.shape, dtype=g.dtype, name=t.name)
                for g, t in zip(given, inner.inputs, strict=True)
            ]
            outputs = self._replay(inner, fresh, f"{path}/", below)
            fresh = [f for f in fresh if f is not None]
            is_sequential = isinstance(model, (keras.Sequential, Sequential))
            if is_sequential and self.plain:
                stack = [self.copies[id(part)] for part in inner.layers if id(part) in self.copies]
                copy = keras.Sequential([*fresh, *stack], name=model.name)
            else:
                make = Sequential if is_sequential else keras_internals.class_to_rebuild(model)
                outputs = [*outputs, *below.handed_out.values()]
                copy = make([*fresh, *below.wanted.values()], outputs, name=model.name)
            self.copies[id(model)], self._below[id(model)] = copy, below
        given = [g for g in given if g is not None]
        copy, below = self.copies[id(model)], self._below[id(model)]
        suffix = f"_call{index}" if index else ""
        extra = [level.input(n + suffix, tuple(t.shape), t.dtype) for n, t in below.wanted.items()]
        results = keras.tree.flatten(
            copy([*given, *extra], **{k: v for k, v in kwargs.items() if k == "training"})
        )
        count = len(inner.outputs)
        for name, tensor in zip(below.handed_out, results[count:], strict=True):
            level.output(name + suffix, tensor)
        return results[:count]

    def layer(self, layer: Any, cls: type | None = None, **config: Any) -> Any:
        """The new layer for an old one: the same one when shared, else a copy with its weights.

        Args:
            layer: the old layer, or an operation without weights.
            cls: class of the copy; by default the layer's own.
            config: entries that differ from the old layer's config.
        """
        if id(layer) in self.copies:
            return self.copies[id(layer)]
        if not isinstance(layer, keras.layers.Layer) or (self.share and cls is None):
            shared = layer
            if type(layer) is keras.layers.TimeDistributed:
                shared = time_distributed.TimeDistributed(
                    layer.layer, name=layer.name, dtype=layer.dtype_policy
                )
            self.copies[id(layer)] = shared
            return shared
        same_cell = self.share and getattr(layer, "cell", None) is not None
        copy = copy_layer(layer, cls, **config)
        copy = time_distributed.plain(copy) if self.plain else time_distributed.for_any_length(copy)
        if same_cell:
            keras_internals.replace_attribute(copy, "cell", layer.cell)
            self._sharing.append((layer, copy))
        else:
            self._pending.append((layer, copy, skip_initializers(copy)))
        self.copies[id(layer)] = copy
        return copy

    def _finish(self) -> None:
        """Copies the weights, now that every layer is built, and gives the initializers back."""
        for old, new, restore in self._pending:
            restore()
            copy_variables(old, new)
        for old, new in self._sharing:
            _share_variables(old, new)
        for copy in self.copies.values():
            if isinstance(copy, Carry):
                copy.reset_state()  # a cell's initial state may be a weight
        self._pending.clear()
        self._sharing.clear()


class Unconvertible(ValueError):
    """A model that cannot be converted, with the layer's path and the remedy."""


def parts_of(obj: Any) -> list:
    """A layer, and every layer or cell below it."""
    found: list = []
    todo = [obj]
    while todo:
        part = todo.pop()
        if any(part is f for f in found):
            continue
        found.append(part)
        for value in vars(part).values():
            values = value if isinstance(value, (list, tuple)) else [value]
            todo += [v for v in values if isinstance(v, keras.layers.Layer)]
    return found


def copy_layer(layer: Any, cls: Any = None, **config: Any) -> Any:
    """A new, unbuilt layer from a layer's config; classes nobody registered are found through the
    layer itself.
    """
    known: dict[str, Any] = {
        type(p).__name__: type(p) for p in parts_of(layer) if not keras_internals.is_of_keras(p)
    }
    known = {n: c for n, c in known.items() if not issubclass(c, (Carry, Sequential))}
    if type(layer) is keras.layers.Lambda:
        return keras_internals.copy_lambda(layer)
    known |= functions_of(layer)
    cls = type(layer) if cls is None else cls
    new_config = {**layer.get_config(), **config}
    if not issubclass(cls, Carry):
        for key in ("slots", "initial_state_given"):
            new_config.pop(key, None)
    with keras.saving.custom_object_scope(known):
        try:
            copy = cls.from_config(new_config)
        except Exception as error:
            remedy = "Give the class a `get_config` that returns every argument of its constructor."
            if any(f.__name__ == "<lambda>" for f in _held(layer)):
                remedy = "Give it a function with a name (`def`) in place of the lambda."
            elif "Could not locate function" in str(error):
                remedy = "Give each of its functions a name of its own."
            raise Unconvertible(
                f"`{layer.name}` ({plain_class(type(layer)).__name__}) cannot be copied from its "
                f"config: {error}. {remedy}"
            ) from error
    keras_internals.copy_cudnn_choice(layer, copy)
    _copy_vocabularies(layer, copy)
    return copy


def _copy_vocabularies(old: Any, new: Any) -> None:
    """Gives an unbuilt layer what `adapt` told another beside weights: a lookup's shapes depend on
    it.
    """
    parts = [[p for p in parts_of(layer) if hasattr(p, "load_assets")] for layer in (old, new)]
    for source, target in zip(*parts, strict=True):
        try:
            _through_store(source, target)
            with tempfile.TemporaryDirectory(prefix="keras_stateful.") as folder:
                source.save_assets(folder)
                target.load_assets(folder)
        except Exception as error:
            raise Unconvertible(
                f"What `{source.name}` ({type(source).__name__}) knows beside its weights cannot "
                f"be copied. Keras said: {error}. Call its `adapt` before the conversion, or give "
                "it its `vocabulary` as an argument."
            ) from error


def copy_statistics(old: Any, new: Any) -> None:
    """What a layer reads of a weight file in a way of its own; `Normalization` computes with
    numbers taken from weights.
    """

    def own_way(part: Any) -> bool:
        known = isinstance(part, keras.layers.RNN) or keras_internals.is_of_keras(part)
        return (
            not known and type(part).load_own_variables is not keras.layers.Layer.load_own_variables
        )

    def parts(layer: Any) -> list:
        return [
            p for p in parts_of(layer) if isinstance(p, keras.layers.Normalization) or own_way(p)
        ]

    for source, target in zip(parts(old), parts(new), strict=True):
        _through_store(source, target)


def _through_store(source: Any, target: Any) -> None:
    store: dict[str, Any] = {}
    source.save_own_variables(store)
    target.load_own_variables(
        {key: np.array(keras.ops.convert_to_numpy(value)) for key, value in store.items()}
    )


def functions_of(layer: Any) -> dict[str, Callable]:
    """The functions of a user's own that a layer's config names, an activation for instance, by
    name.
    """
    named: list[str] = []

    def walk(config: Any) -> None:
        if isinstance(config, dict):
            if config.get("class_name") == "function" and isinstance(config.get("config"), str):
                named.append(config["config"])
            for value in config.values():
                walk(value)
        elif isinstance(config, (list, tuple)):
            for value in config:
                walk(value)

    walk(layer.get_config())
    found: dict[str, Callable] = {}
    for name in named:
        fits = {
            id(f): f
            for f in _held(layer)
            if name in (f.__name__, keras.saving.get_registered_name(f))
        }
        if len(fits) == 1:  # else two functions have one name
            (found[name],) = fits.values()
    return found


def _held(layer: Any) -> list:
    """The functions in a layer's attributes."""
    return [f for p in parts_of(layer) for f in vars(p).values() if inspect.isfunction(f)]


def skip_initializers(layer: Any) -> Callable[[], None]:
    """Lets an unbuilt layer be built with zeros, since its weights are copied in; gives the way
    back.

    Three LSTM(1840) spend most of a conversion in the orthogonal initializer otherwise.
    """
    undo = []
    for part in parts_of(layer):
        for name, value in list(vars(part).items()):
            if isinstance(value, keras.initializers.Initializer):
                undo.append((part, name, value))
                vars(part)[name] = keras.initializers.Zeros()

    def restore() -> None:
        for part, name, value in undo:
            vars(part)[name] = value

    return restore


def _share_variables(old: Any, new: Any) -> None:
    """Gives a built recurrent layer what weights another of the same cell has beside that cell."""
    _replace_variables(old, new)
    shared = {id(w) for w in old.weights}
    if fresh := [w.path for w in new.weights if id(w) not in shared]:
        raise Unconvertible(
            f"`{old.name}` ({plain_class(type(old)).__name__}) has weights that no other model can "
            f"share. Received: {fresh}. Keep each weight, and each layer, in an attribute of its "
            "own (`self.gain = self.add_weight(...)`), not in a list or dict."
        )


def _replace_variables(old: Any, new: Any) -> None:
    theirs, own = keras_internals.attributes(old), keras_internals.attributes(new)
    for name, value in theirs.items():
        fresh = own.get(name)
        if fresh is value:
            continue
        if (
            isinstance(value, keras.Variable)
            and isinstance(fresh, keras.Variable)
            and fresh.shape == value.shape
        ):
            keras_internals.replace_attribute(new, name, value)
        elif isinstance(value, keras.layers.Layer) and isinstance(fresh, keras.layers.Layer):
            _replace_variables(value, fresh)


def copy_variables(old: Any, new: Any) -> None:
    """Copies weights and seed states through NumPy: on JAX, models that share a buffer lose it to
    donation.
    """
    kept = {id(v) for v in state_variables_below(old)}
    into = {id(v) for v in state_variables_below(new)}
    sources = [v for v in old.variables if id(v) not in kept]
    targets = [v for v in new.variables if id(v) not in into]
    if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
        raise Unconvertible(
            f"The copy of `{old.name}` has other weights than the layer. Received: shapes "
            f"{[tuple(v.shape) for v in sources]}, copy {[tuple(v.shape) for v in targets]}. Its "
            "`get_config` is likely to leave out an argument."
        )
    _freeze_as(old, new)
    for source, target in zip(sources, targets, strict=True):
        target.assign(np.array(keras.ops.convert_to_numpy(source)))
        target.trainable = source.trainable
    copy_statistics(old, new)


def _freeze_as(old: Any, new: Any) -> None:
    """Freezes what is frozen below a layer: its config says so of the layer as a whole only."""
    for source, target in zip(
        keras_internals.sublayers(old), keras_internals.sublayers(new), strict=False
    ):
        if type(source) is type(target):
            if source.trainable != target.trainable:
                target.trainable = source.trainable
            _freeze_as(source, target)


def state_variables_below(layer: Any) -> list:
    """State variables of every recurrent layer in `layer`."""
    found: list = []
    for part in parts_of(layer):
        if isinstance(part, Carry):
            found += part.state_variables()
        elif getattr(part, "states", None) is not None:  # a plain stateful layer
            found += keras.tree.flatten(part.states)
    return found
