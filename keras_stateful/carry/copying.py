"""Copies of single layers: the class and config, what `adapt` learned, and the weights.

A copy goes through four steps, since a layer has no weights before its first call:

    copy_layer ──▶ skip_initializers ──▶ (the copy is called, and built) ──▶ copy_variables

Weights are handed over as new arrays, never as the same ones: on JAX a compiled step is donated its
buffers, so that two models which share one lose it at the first step of either.
"""

import inspect
import tempfile
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_stateful.carry.graph import Unconvertible
from keras_stateful.carry.layers import Carry, plain_class
from keras_stateful.foundation import devices, keras_internals
from keras_stateful.foundation.types import Structure, Tensor

Layer: TypeAlias = keras.layers.Layer

# What the config of a layer that carries has beside the plain one's
_OF_CARRY = (
    *("slots", "carry_after", "held_past"),
    *("initial_state_given", "masked_output", "most_resets"),
)


def parts_of(layer: Layer | keras.metrics.Metric) -> list[Layer]:
    """A layer, and every layer or cell below it."""
    parts: list[Layer] = []
    seen: set[int] = set()
    remaining = [layer]
    while remaining:
        part = remaining.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        parts.append(part)
        for value in vars(part).values():
            values = value if isinstance(value, (list, tuple)) else [value]
            remaining += [v for v in values if isinstance(v, keras.layers.Layer)]
    return parts


# The layer, without its weights


@keras_internals.without_tensorflow()
def copy_layer(layer: Layer, cls: type[Layer] | None = None, /, **config: Any) -> Layer:
    """A new, unbuilt layer from a layer's config.

    Classes and functions that nobody registered with Keras are taken from the layer itself.

    Args:
        layer: what is copied.
        cls: class of the copy; by default the layer's own.
        config: entries that differ from the layer's config.

    Raises:
        Unconvertible: a layer that cannot be made from its config, with the remedy.
    """
    if plain_class(type(layer)) is keras.layers.Lambda:
        return keras_internals.copy_lambda(layer, cls or type(layer), **config)
    cls = type(layer) if cls is None else cls
    entries = {**layer.get_config(), **config}
    carries = issubclass(cls, Carry)
    if not carries:
        for name in _OF_CARRY:
            entries.pop(name, None)
    with keras.saving.custom_object_scope({**_classes_of(layer), **functions_of(layer)}):
        try:
            copy = cls.from_config(entries)
        except Exception as error:
            raise _not_from_config(layer, error) from error
    keras_internals.copy_cudnn_choice(layer, copy)
    _copy_vocabularies(layer, copy)
    return copy


def _classes_of(layer: Layer) -> dict[str, type]:
    """The user's own classes in a layer, by name."""
    classes = {type(part).__name__: type(part) for part in parts_of(layer)}
    # Keras finds its own by module, and ours by the name that they are registered under. Ours have
    # Keras's names, and would stand in for its classes here.
    ours = ("keras.", "keras_stateful.")
    return {name: cls for name, cls in classes.items() if not cls.__module__.startswith(ours)}


def functions_of(layer: Layer | keras.metrics.Metric) -> dict[str, Callable]:
    """The user's own functions that a layer's config names, by name; an activation for instance."""
    functions: dict[str, Callable] = {}
    for name in _function_names(layer.get_config()):
        candidates = {
            id(f): f
            for f in _functions_held(layer)
            if name in (f.__name__, keras.saving.get_registered_name(f))
        }
        if len(candidates) == 1:  # else two functions have one name
            (functions[name],) = candidates.values()
    return functions


def _function_names(config: Structure) -> list[str]:
    """The names of all functions in a config, however deep they lie."""
    if isinstance(config, dict):
        names = [name for value in config.values() for name in _function_names(value)]
        if config.get("class_name") == "function" and isinstance(config.get("config"), str):
            names.append(config["config"])
        return names
    if isinstance(config, (list, tuple)):
        return [name for value in config for name in _function_names(value)]
    return []


def _functions_held(layer: Layer | keras.metrics.Metric) -> list[Callable]:
    """The functions in the attributes of a layer and its parts."""
    return [f for part in parts_of(layer) for f in vars(part).values() if inspect.isfunction(f)]


def _not_from_config(layer: Layer, error: Exception) -> Unconvertible:
    if any(f.__name__ == "<lambda>" for f in _functions_held(layer)):
        remedy = "Give it a function with a name (`def`) in place of the lambda."
    elif "Could not locate function" in str(error):
        remedy = "Give each of its functions a name of its own."
    else:
        remedy = "Give the class a `get_config` that returns every argument of its constructor."
    return Unconvertible(
        f"`{layer.name}` ({plain_class(type(layer)).__name__}) cannot be copied from its "
        f"config: {error}. {remedy}"
    )


def _copy_vocabularies(old: Layer, new: Layer) -> None:
    """Copies what `adapt` learned beside weights; a lookup's shapes depend on its vocabulary."""
    learned = [[p for p in parts_of(layer) if hasattr(p, "load_assets")] for layer in (old, new)]
    for source, target in zip(*learned, strict=True):
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


def skip_initializers(old: Layer, new: Layer) -> Callable[[], None]:
    """Has an unbuilt copy of a layer built without a value of its own, since weights are copied in.

    Three LSTM(1840) spend most of a conversion in the orthogonal initializer otherwise.

    Returns:
        A function that gives the copy its initializers back.
    """
    placeholder = _Placeholder(old)
    initializers = [
        (part, name, value)
        for part in parts_of(new)
        for name, value in vars(part).items()
        if isinstance(value, keras.initializers.Initializer) and not _is_placeholder(value)
    ]
    # Through `vars`, since Keras would look at each attribute that is set.
    for part, name, _ in initializers:
        vars(part)[name] = placeholder

    def restore() -> None:
        for part, name, value in initializers:
            vars(part)[name] = value

    return restore


def _is_placeholder(initializer: keras.initializers.Initializer) -> bool:
    """True of a part that another copy has as well, and has gone through this already."""
    return isinstance(initializer, _Placeholder)


class _Placeholder(keras.initializers.Initializer):
    """Gives a new variable some value, until `copy_variables` gives it its own.

    Zeros would be written for nothing: 325 MB for three LSTM(1840). Where tensors never change, a
    variable of the old layer that has the same shape lends its own.
    """

    def __init__(self, layer: Layer | None = None):
        # Without a layer where Keras clones an initializer, as attention does: then it gives zeros.
        self._lenders: dict[tuple, keras.Variable] = {}
        if layer is not None and devices.can_lend_values():
            self._lenders = {(tuple(v.shape), v.dtype): v for v in layer.variables}

    def __call__(self, shape: tuple, dtype: str | None = None) -> Tensor:
        lender = self._lenders.get((tuple(shape), dtype))
        if lender is None:
            return keras.ops.zeros(shape, dtype)
        return keras.ops.convert_to_tensor(lender)


# Its weights


def copy_variables(old: Layer, new: Layer, twins: dict[int, keras.Variable]) -> None:
    """Copies a built layer's weights and seeds, but not its states, to a built copy of it.

    Args:
        old: the layer.
        new: its copy.
        twins: by the id of a variable the one that stands for it in all copies; added to. A copy
            that has another one takes this.

    Raises:
        Unconvertible: the copy has other weights.
    """
    sources, targets = _variables_without_states(old), _variables_without_states(new)
    shapes = [[tuple(v.shape) for v in variables] for variables in (sources, targets)]
    if shapes[0] != shapes[1]:
        raise Unconvertible(
            f"The copy of `{old.name}` has other weights than the layer. Received: shapes "
            f"{shapes[0]}, copy {shapes[1]}. Its `get_config` is likely to leave out an argument."
        )
    _freeze_as(old, new)
    for source, target in zip(sources, targets, strict=True):
        twin = twins.setdefault(id(source), target)
        if twin is not target:
            _replace_variable(new, target, twin)
            continue
        devices.copy_value(source, target)
        target.trainable = source.trainable
    copy_statistics(old, new)


def _replace_variable(layer: Layer, old: keras.Variable, new: keras.Variable) -> None:
    """Has a layer and its parts hold another variable where they hold this one."""
    for part in parts_of(layer):
        for name, value in list(keras_internals.attributes(part).items()):
            if value is old:
                keras_internals.replace_attribute(part, name, new)


def _variables_without_states(layer: Layer) -> list[keras.Variable]:
    states = {id(v) for v in state_variables_below(layer)}
    return [v for v in layer.variables if id(v) not in states]


def state_variables_below(layer: Layer) -> list[keras.Variable]:
    """State variables of every recurrent layer in `layer`."""
    variables: list[keras.Variable] = []
    for part in parts_of(layer):
        if isinstance(part, Carry):
            variables += part.state_variables()
        elif getattr(part, "states", None) is not None:  # Keras's own, with `stateful=True`
            variables += keras.tree.flatten(part.states)
    return variables


def copy_statistics(old: Layer, new: Layer) -> None:
    """Copies what a layer makes of its weights when it loads them.

    `Normalization` computes with numbers taken from its weights; a user's layer may have a
    `load_own_variables` that does the like.
    """
    derived = [[part for part in parts_of(layer) if _derives(part)] for layer in (old, new)]
    for source, target in zip(*derived, strict=True):
        _through_store(source, target)


def _derives(part: Layer) -> bool:
    """True if loading a layer's weights does more than set its variables."""
    if isinstance(part, keras.layers.Normalization):
        return True
    cls: Any = plain_class(type(part))
    return not keras_internals.is_written_in_keras(cls.load_own_variables)


def _through_store(source: Layer, target: Layer) -> None:
    """Saves one layer's variables as in a weight file, and loads them into another layer."""
    store: dict[str, Tensor] = {}
    source.save_own_variables(store)
    # As a file would give them: arrays, with a memory of their own.
    arrays = {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in store.items()}
    target.load_own_variables(arrays)


def _freeze_as(old: Layer, new: Layer) -> None:
    """Freezes what is frozen below a layer: its config tells of the layer as a whole only."""
    parts = zip(keras_internals.sublayers(old), keras_internals.sublayers(new), strict=False)
    for source, target in parts:
        if type(source) is type(target):
            if source.trainable != target.trainable:
                target.trainable = source.trainable
            _freeze_as(source, target)


def share_variables(old: Layer, new: Layer) -> None:
    """Gives a built recurrent layer the very weights of another one that has the same cell.

    The cell brings its own; this replaces what the layer has beside it.

    Raises:
        Unconvertible: weights that are not found in an attribute.
    """
    _replace_variables(old, new)
    shared = {id(w) for w in old.weights}
    if own := [w.path for w in new.weights if id(w) not in shared]:
        raise Unconvertible(
            f"`{old.name}` ({plain_class(type(old)).__name__}) has weights that no other model can "
            f"share. Received: {own}. Keep each weight, and each layer, in an attribute of its "
            "own (`self.gain = self.add_weight(...)`), not in a list or dict."
        )


def _replace_variables(old: Layer, new: Layer) -> None:
    """Sets each variable that two layers hold under one name to the first layer's."""
    attributes = keras_internals.attributes(new)
    for name, value in keras_internals.attributes(old).items():
        own = attributes.get(name)
        if own is value:
            continue
        if isinstance(value, keras.Variable) and isinstance(own, keras.Variable):
            if own.shape == value.shape:
                keras_internals.replace_attribute(new, name, value)
        elif isinstance(value, keras.layers.Layer) and isinstance(own, keras.layers.Layer):
            _replace_variables(value, own)
