"""Which `fit`, `evaluate` or `predict` is running, on which model, with which arguments."""

import inspect
import sys
from typing import Any, NamedTuple

import keras
from keras.src.backend.common.global_state import get_global_attribute

from keras_stateful.foundation.types import Arguments, Structure


class TrainerCall(NamedTuple):
    """A call of Keras's own `fit`, `evaluate` or `predict` that is running.

    Attributes:
        method: its name.
        model: whose method it is.
        arguments: what it was called with, by name.
        epoch_iterator: what counts its steps; None if there is none yet. See `epochs`.
        looks: True while it reads a batch only to build the model or its metrics.
    """

    method: str
    model: keras.Model
    arguments: Arguments
    epoch_iterator: Any
    looks: bool


def trainer_call() -> TrainerCall | None:
    """The innermost call of `fit`, `evaluate` or `predict` that this is run in, or None.

    Keras tells callbacks nothing of the data, the shuffle or the weights that `fit` was given, and
    data nothing of the model that reads them; all can make a stateful training silently wrong. So
    the frames above are looked through.

    Private: these methods stand in modules `keras.src...` and have locals `self`, `epoch_iterator`
    and `use_cached_eval_dataset`; `Trainer._symbolic_build` looks at a batch.
    """
    frame: Any = sys._getframe()
    looks = False
    while frame is not None:
        method, model = frame.f_code.co_name, frame.f_locals.get("self")
        of_keras = frame.f_globals.get("__name__", "").startswith("keras.src.")
        looks = looks or (of_keras and method == "_symbolic_build")
        if of_keras and method in ("fit", "evaluate", "predict") and isinstance(model, keras.Model):
            names = inspect.signature(getattr(keras.Model, method)).parameters
            variables = frame.f_locals
            arguments = {k: variables[k] for k in names if k in variables and k != "self"}
            # `evaluate` takes this one out of its keywords before callbacks are run.
            if variables.get("use_cached_eval_dataset"):
                arguments["_use_cached_eval_dataset"] = True
            return TrainerCall(method, model, arguments, variables.get("epoch_iterator"), looks)
        frame = frame.f_back
    return None


def trainer_arguments(model: keras.Model) -> Arguments:
    """The arguments of the `fit`, `evaluate` or `predict` of this model that is running, by name.

    Empty if none is running, or that of another model.
    """
    call = trainer_call()
    return call.arguments if call is not None and call.model is model else {}


def fit_call(model: keras.Model) -> TrainerCall | None:
    """The `fit` of this model that is running, or None."""
    call = trainer_call()
    return call if call is not None and call.method == "fit" and call.model is model else None


def fit_arguments(model: keras.Model) -> Arguments:
    """The arguments of the `fit` of this model that is running, by name; else empty."""
    call = fit_call(model)
    return {} if call is None else call.arguments


def is_validation(arguments: Arguments) -> bool:
    """True if arguments of `evaluate`, by name, are those that `fit` validates with.

    Private: `evaluate(_use_cached_eval_dataset=)`. Nothing else tells the two apart.
    """
    return bool(arguments.get("_use_cached_eval_dataset"))


# What a model was compiled with


def compile_arguments(model: keras.Model) -> Arguments:
    """What a model was compiled with (loss, metrics, ...), as the objects themselves.

    Private: `Trainer._compile_config`. The public `get_compile_config` serializes, which fails for
    a loss that is a local function.
    """
    return dict(model._compile_config.config)


def compilation(model: keras.Model) -> Any:
    """An object that each `compile` makes anew; None before the first.

    Private: `Trainer._compile_config`.
    """
    return getattr(model, "_compile_config", None)


def jit_by_default(model: keras.Model) -> bool:
    """What `compile(jit_compile="auto")` comes to for this model on this backend.

    Private: `Trainer._resolve_auto_jit_compile`. A compiled model does not say what it was given.
    """
    return not model.run_eagerly and model._resolve_auto_jit_compile()


def is_writing_legacy_file() -> bool:
    """True while Keras writes a model into an HDF5 file of its format before `.keras`.

    Private: the global attribute "use_legacy_config". `save_model` asks the model for nothing else.
    """
    return bool(get_global_attribute("use_legacy_config"))


def build_for_training(model: keras.Model, batch: Structure) -> None:
    """Makes the variables of metrics and optimizer, as the first step would.

    Private: `Trainer._symbolic_build`. On TensorFlow metrics have no variables before that step.
    """
    model._symbolic_build(data_batch=batch)


def strategy(model: keras.Model) -> Any:
    """The `tf.distribute.Strategy` that a model was made under; on TensorFlow only.

    Private: `TensorFlowTrainer.distribute_strategy`. TensorFlow tells the strategy in whose scope
    one is at present, not that of a model.
    """
    return model.distribute_strategy
