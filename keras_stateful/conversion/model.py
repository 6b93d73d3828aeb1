"""`StatefulModel`: a Functional model whose `fit` cannot silently train on the wrong thing."""

import inspect
import warnings
from typing import Any

import keras

from keras_stateful.carry.states import find_states, preserve_states, reset_states
from keras_stateful.data.batch import Spec
from keras_stateful.foundation import device_checks, devices, keras_internals
from keras_stateful.foundation.protocols import Readable, is_sequence, sequence_or_none
from keras_stateful.foundation.types import Structure
from keras_stateful.training import check_arrays, checks
from keras_stateful.training.callbacks import lightest
from keras_stateful.training.check_arrays import check_ids_of_arrays, is_arrays
from keras_stateful.training.masked_loss import masks_into_weights
from keras_stateful.training.resets import ResetStatesCallback


@keras.saving.register_keras_serializable(package="keras_stateful")
class StatefulModel(keras.Model):
    """What `to_stateful` and `to_inference` return: a Functional model that carries its recurrent
    state.

    It differs from any Functional model in these methods. `fit` checks its arguments before the
    first step and resets the state where an epoch or a document starts (`ResetStatesCallback`,
    added unless given). `evaluate` starts from the initial state and puts the training state back.
    `compute_loss` takes a mask of the outputs as weights of 0 and 1 where sample weights are given,
    which Keras would scale a second time. `predict` checks its rows; it, `train_on_batch` and calls
    go on from the state that the last call left. `export` is refused.
    """

    _keras_stateful_model = True  # see `foundation.protocols`

    @property
    def batch_size(self) -> int:
        """Rows of every batch, on all devices."""
        return self.inputs[0].shape[0] * devices.replicas(self)

    @property
    def resets(self) -> str | None:
        """The kind of the `"resets"` input: None, "window" `(batch,)` or "step" `(batch, time)`."""
        found = [t for t in self.inputs if t.name == "resets"]
        return None if not found else "window" if len(found[0].shape) == 1 else "step"

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.fit`, checked; see the class."""
        arguments = _named(super().fit, args, kwargs)
        arguments["batch_size"] = arguments.get("batch_size") or _rows(arguments.get("x"), self)
        validation = arguments.get("validation_data")
        if isinstance(validation, tuple) and is_arrays(validation[0]):
            arguments["validation_batch_size"] = (
                arguments.get("validation_batch_size") or self.batch_size
            )
        given, ready = _callbacks(arguments)
        own = next((c for c in given if isinstance(c, ResetStatesCallback)), None)
        checks.check_fit(self, arguments, None if own is None else own.sequence)
        if ready is None:
            if own is None:
                read = (arguments.get("x"), validation)
                given = [ResetStatesCallback(*map(sequence_or_none, read)), *given]
            arguments["callbacks"] = lightest(given, self, arguments)
        elif own is None:
            _insert_resets(ready, self)
        with warnings.catch_warnings():
            if is_sequence(arguments.get("x")) and arguments["x"].num_batches is None:
                warnings.filterwarnings(
                    "ignore", "Your input ran out of data"
                )  # a stream: so its epochs end
            return super().fit(**arguments)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate` from the initial state; afterwards the state is as before."""
        arguments = _named(super().evaluate, args, kwargs)
        arguments["batch_size"] = arguments.get("batch_size") or _rows(arguments.get("x"), self)
        checks.check_evaluate(self, arguments)
        if is_sequence(arguments.get("x")) and self.resets is None:
            given, ready = _callbacks(arguments)
            if not any(isinstance(c, ResetStatesCallback) for c in given):
                if ready is None:
                    arguments["callbacks"] = [ResetStatesCallback(), *given]
                else:
                    _insert_resets(ready, self)
        with preserve_states(self):
            reset_states(self)
            return super().evaluate(**arguments)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Any:
        """`keras.Model.compute_loss`; see the class."""
        y_pred, sample_weight = masks_into_weights(y_pred, sample_weight)
        return super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict` of one window for each row, or of a sequence, going on from the
        present state.

        With `batch_size=` the model's rows, of several windows `(windows * rows, time, ...)` one
        after the other.
        """
        arguments = _named(super().predict, args, kwargs)
        device_checks.check_predict(self, find_states(self)[0].variables[0])
        check_arrays.check_rows_of_predict(self, arguments.get("x"), arguments.get("batch_size"))
        arguments["batch_size"] = arguments.get("batch_size") or _rows(arguments.get("x"), self)
        check_ids_of_arrays(self, arguments.get("x"))
        return super().predict(**arguments)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: what Keras writes of a model that carries its state is frozen at it, or shares
        it among callers.
        """
        raise ValueError(
            f"`export` would freeze {self.name!r} at its present state in most formats. Received: "
            "a model that carries its state. Use `export_step_model(model, directory, format)`, "
            "whose artifact takes states in and gives them out."
        )

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.train_on_batch`, not on several replicas."""
        device_checks.check_one_step(self, "train_on_batch")
        check_arrays.check_resets_given(self, "x", args[0] if args else kwargs.get("x"))
        return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.test_on_batch`, not on several replicas."""
        device_checks.check_one_step(self, "test_on_batch")
        check_arrays.check_resets_given(self, "x", args[0] if args else kwargs.get("x"))
        return super().test_on_batch(*args, **kwargs)

    def predict_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict_on_batch`, not on several replicas."""
        device_checks.check_one_step(self, "predict_on_batch")
        check_arrays.check_resets_given(self, "x", args[0] if args else kwargs.get("x"))
        check_ids_of_arrays(self, args[0] if args else kwargs.get("x"))
        return super().predict_on_batch(*args, **kwargs)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras's TensorFlow trainer asks for this; see `keras_internals.data_adapter`.
        data = None if iterator is None else keras_internals.data_adapter(iterator)
        if is_sequence(data):
            iterator, data_batch = None, symbolic_batch(data, devices.replicas(self))
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


def symbolic_batch(sequence: Readable, replicas: int) -> Structure:
    """What one replica gets of a batch, as symbolic tensors; no batch is read for it.

    Args:
        sequence: a `StatefulSequence` or `StatefulStream`.
        replicas: how many the rows of a batch are split over.
    """

    def symbolic(spec: Spec) -> keras.KerasTensor:
        rows, *rest = spec.shape
        return keras.KerasTensor((rows // replicas, *rest), dtype=spec.dtype.name)

    return keras.tree.map_structure(symbolic, sequence.signature())


def _named(method: Any, args: tuple, kwargs: dict) -> dict:
    """All arguments by name."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    arguments = dict(bound.arguments)
    return {**{k: v for k, v in arguments.items() if k != "kwargs"}, **arguments.get("kwargs", {})}


def _callbacks(arguments: dict) -> tuple[list, keras.callbacks.CallbackList | None]:
    """The callbacks of a call, and the user's own `CallbackList` of them where that was given."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks, callbacks
    return keras.tree.flatten(callbacks or []), None


def _insert_resets(ready: keras.callbacks.CallbackList, model: StatefulModel) -> None:
    """Adds resets, of whatever each call with this list reads."""
    own = ResetStatesCallback()
    own.set_params(ready.params)
    own.set_model(model)
    ready.callbacks.insert(0, own)


def _rows(x: Any, model: StatefulModel) -> int | None:
    """The batch size to give Keras with arrays; None where the data come in batches."""
    return model.batch_size if is_arrays(x) else None
