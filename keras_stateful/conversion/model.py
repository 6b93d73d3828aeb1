"""`StatefulModel`: a Functional model whose `fit` cannot silently train on the wrong thing."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

import keras_stateful
from keras_stateful.carry.graph import RESETS
from keras_stateful.carry.states import (
    find_states,
    preserve_states,
    read_states,
    reset_states,
    set_states,
    sync,
)
from keras_stateful.conversion.files import KerasFiles
from keras_stateful.data.batch import Spec
from keras_stateful.foundation import device_checks, devices, keras_internals
from keras_stateful.foundation.protocols import Readable, is_sequence, sequence_or_none
from keras_stateful.foundation.types import Arguments, Structure
from keras_stateful.training import check_arrays
from keras_stateful.training.callbacks import lightest, release
from keras_stateful.training.check_arrays import in_numpy, is_arrays
from keras_stateful.training.check_fit import check_evaluate, check_fit
from keras_stateful.training.check_sequence import check_stride_given
from keras_stateful.training.check_values import (
    check_call,
    check_values,
    checked_batches,
    checked_once,
)
from keras_stateful.training.recovery import unharmed
from keras_stateful.training.resets import ResetStatesCallback
from keras_stateful.training.step_scores import ScoresByStep, metrics_kept, score_by_step


@keras.saving.register_keras_serializable(package="keras_stateful")
class StatefulModel(ScoresByStep, KerasFiles):
    """What `to_stateful` and `to_inference` return: a Functional model that carries its state.

    It differs from any Functional model in these methods:

    - `fit` checks its arguments before the first step, and resets the state where an epoch or a
      document starts (`ResetStatesCallback`, added unless given).
    - `evaluate` starts from the initial state and puts the training state back.
    - The `loss` of an epoch is the mean over the time steps that count, each by its weight; masked
      steps count neither in losses nor in weighted metrics (`training/step_scores.py`).
    - `predict` checks its rows; it, `train_on_batch` and calls go on from the state that the last
      call left.
    - `export` is refused, and `save` to an HDF5 file.
    - `pickle` and `copy.deepcopy` take the state along, which files that `save` writes do not hold.

    Attributes:
        local: paths of the layers for which the user vouched, with `local=`, that they take each
            time step alone; conversions of the model read it.
    """

    _keras_stateful_model = True  # see `foundation.protocols`

    def __init__(self, *args: Any, local: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.local = list(local)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "local": list(self.local)}

    @property
    def batch_size(self) -> int:
        """Rows of every batch, on all devices."""
        return self.inputs[0].shape[0] * devices.replicas(self)

    @property
    def resets(self) -> str | None:
        """The kind of the `"resets"` input: None, "window" `(batch,)` or "step" `(batch, time)`."""
        tensor = next((t for t in self.inputs if t.name == RESETS), None)
        if tensor is None:
            return None
        return "window" if len(tensor.shape) == 1 else "step"

    @property
    def stride(self) -> int | None:
        """Time steps from the start of a window to that of the next; None: a window's length."""
        carries: Any = find_states(self)[0].layer
        return carries.carry_after

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit`, checked; see the class."""
        arguments = _named(super().fit, args, kwargs)
        x, validation = arguments.get("x"), arguments.get("validation_data")
        _fill_in(arguments, "batch_size", x, self)
        if isinstance(validation, tuple):
            _fill_in(arguments, "validation_batch_size", validation[0], self)
        resets = _reset_callback(arguments)
        check_fit(self, arguments, None if resets is None else resets.sequence)
        for name in ("x", "validation_data"):
            arguments[name] = checked_batches(self, name, arguments.get(name))
        score_by_step(self)
        if resets is None:
            made_for = (sequence_or_none(x), sequence_or_none(validation))
            _add_callback(arguments, ResetStatesCallback(*made_for), self)
        if not isinstance(arguments["callbacks"], keras.callbacks.CallbackList):
            arguments["callbacks"] = lightest(arguments["callbacks"], self, arguments)
        with unharmed(self, x), _end_foreseen(x):
            try:
                return super().fit(**arguments)
            finally:
                release(arguments["callbacks"])

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate` from the initial state; afterwards the state is as before."""
        arguments = _named(super().evaluate, args, kwargs)
        _fill_in(arguments, "batch_size", arguments.get("x"), self)
        check_evaluate(self, arguments)
        arguments["x"] = checked_batches(self, "x (evaluate)", arguments.get("x"))
        score_by_step(self)
        by_callback = is_sequence(arguments.get("x")) and self.resets is None
        if by_callback and _reset_callback(arguments) is None:
            _add_callback(arguments, ResetStatesCallback(), self)
        # A validation comes when the epoch has been logged.
        validates = keras_internals.is_validation(arguments)
        kept = contextlib.nullcontext() if validates else metrics_kept(self)
        with unharmed(self), preserve_states(self), kept, _end_foreseen(arguments.get("x")):
            reset_states(self)
            return super().evaluate(**arguments)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict` of a window for each row, or a sequence, from the present state on.

        With `batch_size=` the model's rows, of several windows `(windows * rows, time, ...)` one
        after the other.

        Predictions of a sequence come in the order of its batches: `sequence.restore(predictions)`
        puts them back into documents.
        """
        arguments = _named(super().predict, args, kwargs)
        device_checks.check_predict(self, find_states(self)[0].variables[0])
        check_stride_given(self, "x", arguments.get("x"))
        check_arrays.check_rows_of_predict(self, arguments.get("x"), arguments.get("batch_size"))
        _fill_in(arguments, "batch_size", arguments.get("x"), self)
        check_values(self, "x", arguments.get("x"))
        x = arguments["x"] = checked_batches(self, "x", arguments.get("x"))
        with unharmed(self, x), _end_foreseen(x):
            return super().predict(**arguments)

    def __call__(self, inputs: Structure, *args: Any, **kwargs: Any) -> Structure:
        """A call on arrays goes on from the present state; see the class."""
        # Keras calls the model in each step of training on torch; those values were checked before.
        keras_internals.add_as_numpy_does()
        if not kwargs.get("training"):
            check_call(self, inputs)
        return super().__call__(inputs, *args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: what Keras writes is frozen at the present state, or shares it among callers."""
        raise ValueError(
            f"`export` would freeze {self.name!r} at its present state in most formats. Received: "
            "a model that carries its state. Use `export_step_model(model, directory, format)`, "
            "whose artifact takes states in and gives them out."
        )

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.train_on_batch`, not on several replicas."""
        score_by_step(self)
        return self._on_batch(super().train_on_batch, args, kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.test_on_batch`, not on several replicas."""
        score_by_step(self)
        return self._on_batch(super().test_on_batch, args, kwargs)

    def predict_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict_on_batch`, not on several replicas."""
        return self._on_batch(super().predict_on_batch, args, kwargs)

    def _on_batch(self, keras_method: Callable, args: tuple, kwargs: Arguments) -> Any:
        """Has Keras read one batch, checked and in NumPy."""
        args, kwargs = _in_numpy(args, kwargs)
        x = args[0] if args else kwargs.get("x")
        device_checks.check_one_step(self, keras_method.__name__)
        check_arrays.check_one_batch(keras_method.__name__, x)
        check_arrays.check_resets_given(self, "x", x)
        check_arrays.check_rows_of_batch(self.batch_size, x)
        check_values(self, "x", x)
        keras_internals.keep_values(self)
        with checked_once(self):
            return keras_method(*args, **kwargs)

    def __reduce__(self) -> tuple:
        """What `pickle`, `joblib` and `copy.deepcopy` keep: what `save` does, and the state."""
        if devices.replicas(self) > 1:
            raise ValueError(
                f"{self.name!r} runs on {devices.replicas(self)} replicas, whose states a copy on "
                "one device cannot hold. Received: a model to pickle or to copy. Save it "
                "(`model.save`), load it outside of the strategy's scope, and park the states with "
                "`get_states`."
            )
        sync(self)
        return _with_states, (*super().__reduce__(), read_states(find_states(self)))

    def __getattr__(self, name: str) -> Any:
        # As Keras 2 had it, or other packages: a function of this package looked for as a method.
        if name in keras_stateful.__all__:
            raise AttributeError(
                f"A {type(self).__name__} has no method `{name}`. Received: model.{name}. It is a "
                f"function: `keras_stateful.{name}(model, ...)`."
            )
        return _missing(super(), self, name)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras's TensorFlow trainer asks for this; see `keras_internals.data_adapter`.
        data = None if iterator is None else keras_internals.data_adapter(iterator)
        if is_sequence(data):
            iterator, data_batch = None, symbolic_batch(data, devices.replicas(self))
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        if data_batch is not None:
            # Without a strategy Keras leaves it to the first step, and TensorFlow traces a step
            # again that makes variables.
            keras_internals.build_for_training(self, data_batch)


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


def _missing(keras_model: Any, model: keras.Model, name: str) -> Any:
    """What Keras says of an attribute that is not there; on torch it may be a parameter."""
    look_up = getattr(keras_model, "__getattr__", None)
    if look_up is not None:
        return look_up(name)
    raise AttributeError(f"{type(model).__name__!r} object has no attribute {name!r}")


def _with_states(make: Callable, arguments: tuple, states: dict[str, list]) -> StatefulModel:
    """The model that Keras makes of `arguments`, in these states."""
    model = make(*arguments)
    set_states(model, states)
    return model


_DATA = ("x", "y", "sample_weight", "validation_data")  # arguments that may be arrays


@contextlib.contextmanager
def _end_foreseen(data: Structure) -> Iterator[None]:
    """Keeps Keras from warning where a stream ends, which is how its passes end."""
    with warnings.catch_warnings():
        if is_sequence(data) and data.num_batches is None:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def _named(method: Callable, args: tuple, kwargs: dict[str, Any]) -> Arguments:
    """All arguments of a call by name; those that `method` collects in its `**kwargs`, too.

    Arrays of other packages among them are turned into NumPy's.
    """
    bound = inspect.signature(method).bind(*args, **kwargs).arguments
    collected = bound.pop("kwargs", {})
    arguments = {**bound, **collected}
    return {**arguments, **{k: in_numpy(k, arguments[k]) for k in _DATA if k in arguments}}


def _in_numpy(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Arguments of a step, with arrays of other packages turned into NumPy's."""
    return in_numpy("x", args), {name: in_numpy(name, value) for name, value in kwargs.items()}


def _fill_in(arguments: Arguments, name: str, data: Structure, model: StatefulModel) -> None:
    """Has Keras cut arrays into batches of the model's rows; other data come in batches."""
    if not arguments.get(name):
        arguments[name] = model.batch_size if is_arrays(data) else None


def _reset_callback(arguments: Arguments) -> ResetStatesCallback | None:
    """The callback for resets among the callbacks, which are made a list unless they are ready."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    else:
        callbacks = arguments["callbacks"] = keras.tree.flatten(callbacks or [])
    return next((c for c in callbacks if isinstance(c, ResetStatesCallback)), None)


def _add_callback(
    arguments: Arguments, callback: keras.callbacks.Callback, model: StatefulModel
) -> None:
    """Puts a callback in front of those that `_reset_callback` has looked through."""
    callbacks = arguments["callbacks"]
    if isinstance(callbacks, keras.callbacks.CallbackList):  # ready: the others are set up already
        callback.set_params(callbacks.params)
        callback.set_model(model)
        callbacks.callbacks.insert(0, callback)
    else:
        callbacks.insert(0, callback)
