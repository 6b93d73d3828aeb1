"""What a model was compiled with, to compile another one with that scores the same.

A metric is a layer with variables, so two models cannot share one: each is made anew from its
config.
"""

import keras

from keras_stateful.carry.copying import functions_of
from keras_stateful.conversion.checks import OF_THE_LOSS, check_methods
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure


def fresh_compile_arguments(model: keras.Model) -> dict[str, Structure]:
    """Loss and metrics of a compiled model, by argument of `compile`; no optimizer.

    Metric objects are copies. Arguments that were not given are left out.

    Raises:
        ValueError: a model that is not compiled, or without a loss, a loss that is not a mean over
            time steps, a metric that cannot be copied.
    """
    arguments = keras_internals.compile_arguments(model) if model.compiled else {}
    if arguments.get("loss") is None:  # on JAX, Keras would take it for 0
        received = "compiled without a loss" if model.compiled else "not compiled"
        raise ValueError(
            f"The model must be compiled, for its loss and metrics. Received: {model.name!r}, "
            f"{received}. Call `model.compile(loss=..., weighted_metrics=[...])` first."
        )
    check_methods(model, "evaluate_documents", OF_THE_LOSS)
    # Text and functions have no `reduction`, and Keras takes the mean for them.
    for loss in keras.tree.flatten(arguments["loss"]):
        if getattr(loss, "reduction", None) in ("sum", "mean_with_sample_weight"):
            raise ValueError(
                "The loss of a document is the mean over its time steps. Received: "
                f"{type(loss).__name__} with reduction={loss.reduction!r}, whose value depends on "
                "how a document is cut. Compile the model with "
                'reduction="sum_over_batch_size", the default.'
            )
    # Left out with the optimizer: how a step is run, which another model decides for itself.
    kept = ("loss", "loss_weights", "metrics", "weighted_metrics")
    return {name: _copied(arguments[name]) for name in kept if arguments.get(name) is not None}


def _copied(value: Structure) -> Structure:
    """A structure with each metric object in it copied; names and functions stay as they are."""
    if isinstance(value, keras.metrics.Metric):
        return _copied_metric(value)
    if isinstance(value, (list, tuple)):
        return [_copied(part) for part in value]
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value


def _copied_metric(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    """A metric made anew from a config, which must hold all that the metric was made with."""
    label = f"The metric {metric.name!r} ({type(metric).__name__})"
    try:
        # Functions that a metric wraps need not be registered to be found by their names.
        with keras.saving.custom_object_scope(functions_of(metric)):
            copy = type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ValueError(
            f"{label} cannot be made anew from its config: {error}. Give the class a `get_config` "
            "that returns every argument of its constructor, and a function a name (`def`) in "
            "place of a lambda; a function can be a metric itself: `weighted_metrics=[function]`."
        ) from error
    lost = _lost_attribute(metric, copy)
    if lost is not None:
        raise ValueError(
            f"{label} is another when it is made anew from its config. Received: "
            f"{lost}={getattr(metric, lost)!r}, made anew with {getattr(copy, lost)!r}. Give the "
            "class a `get_config` that returns every argument of its constructor."
        )
    return copy


def _lost_attribute(metric: keras.metrics.Metric, copy: keras.metrics.Metric) -> str | None:
    """The first plain value that a metric has and its copy has otherwise.

    A `get_config` that leaves an argument out makes a metric with that argument's default, which
    scores something else, without an error.
    """
    for name, value in vars(metric).items():
        plain = isinstance(value, (bool, int, float, str, type(None)))
        if plain and not name.startswith("_") and vars(copy).get(name, value) != value:
            return name
    return None
