"""What a training is: its data, model and optimizer in a form that can be kept and compared.

Names that Keras numbers by itself (`lstm_3`) are left out, and so is the learning rate where it is
a number: it is state, which callbacks change. What no configuration says is told by `probe`.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import keras

from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Readable
from keras_stateful.resuming.probe import DEVICE, TOLERANCE, is_close, probe

_UNCOUNTED = {"name", "build_config", "shared_object_id"}  # in the configuration of a layer
_STEP = "step."  # what keys of `probe` begin with
_SHOWN = 8  # differences that an error names one by one


def fingerprint(
    model: keras.Model, sequence: Readable, steps_per_epoch: int | None
) -> dict[str, Any]:
    """All that must be the same for a training to go on, as JSON.

    Args:
        model: compiled and built.
        sequence: what `fit` reads.
        steps_per_epoch: of `fit`.

    Returns:
        `{what: value}`, with dots in the names: "sequence.batch_size", "model.1 LSTM",
        "optimizer.beta_1".
    """
    layers = {f"{i} {type(layer).__name__}": layer for i, layer in enumerate(_layers(model), 1)}
    compiled = keras_internals.compile_arguments(model)
    parts: dict[str, Mapping[str, Any]] = {
        "sequence": sequence.fingerprint(),
        "model": {name: _summary(_config(layer)) for name, layer in layers.items()},
        "weights": {f"{i}": f"{tuple(v.shape)} {v.dtype}" for i, v in enumerate(model.weights)},
        "optimizer": _optimizer(model.optimizer),
        "compile": {
            name: _plain(compiled.get(name))
            for name in ("loss", "loss_weights", "metrics", "weighted_metrics")
        },
        "fit": {
            "backend": keras.backend.backend(),
            "steps_per_epoch": steps_per_epoch,
            "steps_per_execution": model.steps_per_execution,
        },
        "step": probe(model, sequence),
    }
    flat = {
        f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()
    }
    return json.loads(json.dumps(flat))  # as it will be read: with lists for tuples


def difference(saved: dict[str, Any], present: dict[str, Any]) -> str:
    """What differs between two fingerprints, in words; empty if nothing does."""
    # Elsewhere a step's numbers may be others; of earlier versions there are none.
    on_same_device = saved.get(DEVICE) == present.get(DEVICE)
    tolerance = present.get(TOLERANCE, 0.0)
    keys = [
        k
        for k in {**saved, **present}
        if (on_same_device or not k.startswith(_STEP))
        and not is_close(saved.get(k), present.get(k), tolerance)
    ]
    named = [k for k in keys if not k.startswith(_STEP)]
    hint = ""
    if named:  # a configuration says better what has changed than the numbers that follow from it
        keys = named
    elif keys:
        hint = (
            " (`step` is one step on made-up values: how layers are wired, a constant or what a "
            "function does has changed)"
        )
    shown = [f"{k}: {saved.get(k)!r} when saved, {present.get(k)!r} now" for k in keys[:_SHOWN]]
    rest = f"; and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return "; ".join(shown) + rest + hint


def _layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """All layers below a layer, those in sub-models and wrappers included."""
    below = layer.layers if isinstance(layer, keras.Model) else keras_internals.sublayers(layer)
    return [each for part in below for each in (part, *_layers(part))]


def _optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Class and configuration, without a learning rate that is a number: callbacks change that."""
    config = _config(optimizer)
    if isinstance(config.get("learning_rate"), float):
        del config["learning_rate"]
    return {"class": type(optimizer).__name__, **config}


def _config(thing: Any) -> dict[str, Any]:
    """The configuration of a layer or optimizer; empty for a model, and if there is none."""
    if isinstance(thing, keras.Model):  # whose layers are listed one by one
        return {}
    try:
        config = thing.get_config()
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return {}
    return {k: _plain(v) for k, v in config.items() if k not in _UNCOUNTED}


def _plain(value: Any) -> Any:
    """A value as JSON: objects by their class and configuration, functions by their name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in _UNCOUNTED}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "get_config"):
        return {type(value).__name__: _config(value)}
    return getattr(value, "__name__", type(value).__name__)


def _summary(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration to be compared, not read: its simple values, and a checksum of the others."""
    simple = {
        k: v for k, v in config.items() if v is not None and isinstance(v, (bool, int, float, str))
    }
    others = {k: v for k, v in config.items() if k not in simple and v is not None}
    if others:
        simple["rest"] = zlib.crc32(json.dumps(others, sort_keys=True).encode())
    return simple
