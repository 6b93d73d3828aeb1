"""Stateful recurrent networks in Keras 3, right on TensorFlow, JAX and torch.

Public is what `__all__` names, and nothing else: the folders and modules behind it may move at any
time. Names are imported when first used, so that `from keras_stateful import load_session` needs
NumPy and the artifact's own runtime, and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keras_stateful.foundation.on_import import after_import as _after_import
from keras_stateful.foundation.version import __version__
from keras_stateful.foundation.version import bring_keras as _bring_keras

_HOME = {
    "CarryAdapter": "carry.adapters",
    "Pool": "session.pool",
    "ResetStatesCallback": "training.resets",
    "ResumeTraining": "resuming.callback",
    "SampleText": "generation.sample_text",
    "Session": "session.session",
    "StateMonitor": "inspection.monitor",
    "StatefulSequence": "data.sequence",
    "StatefulStream": "data.stream",
    "ValidateDocuments": "evaluation.validation",
    "evaluate_documents": "evaluation.documents",
    "export_step_model": "export.export",
    "generate": "generation.generate",
    "get_states": "carry.states",
    "initial_states": "conversion.step_model",
    "load_session": "session.session",
    "load_states": "session.saved_states",
    "plot_activations": "inspection.text_figure",
    "plot_layout": "inspection.layout_figure",
    "plot_positions": "inspection.positions_figure",
    "predict_documents": "evaluation.documents",
    "preserve_states": "carry.states",
    "rank_units": "inspection.ranking",
    "record_states": "inspection.recording",
    "register_carry": "carry.register",
    "reset_states": "carry.states",
    "save_states": "session.saved_states",
    "set_states": "carry.states",
    "stream": "generation.generate",
    "to_inference": "conversion.convert",
    "to_stateful": "conversion.convert",
    "to_stateless": "conversion.convert",
    "to_step_model": "conversion.step_model",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'keras_stateful' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"keras_stateful.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
        raise ModuleNotFoundError(
            f"`keras_stateful.{name}` needs Keras, which is not installed. {_bring_keras()}",
            name="keras",
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]


def _register() -> None:
    """Registers the classes that `keras.models.load_model` looks for."""
    import_module("keras_stateful.conversion.step_model")  # and all that it imports


_after_import("keras", _register)

if TYPE_CHECKING:
    from keras_stateful.carry.adapters import CarryAdapter
    from keras_stateful.carry.register import register_carry
    from keras_stateful.carry.states import get_states, preserve_states, reset_states, set_states
    from keras_stateful.conversion.convert import to_inference, to_stateful, to_stateless
    from keras_stateful.conversion.step_model import initial_states, to_step_model
    from keras_stateful.data.sequence import StatefulSequence
    from keras_stateful.data.stream import StatefulStream
    from keras_stateful.evaluation.documents import evaluate_documents, predict_documents
    from keras_stateful.evaluation.validation import ValidateDocuments
    from keras_stateful.export.export import export_step_model
    from keras_stateful.generation.generate import generate, stream
    from keras_stateful.generation.sample_text import SampleText
    from keras_stateful.inspection.layout_figure import plot_layout
    from keras_stateful.inspection.monitor import StateMonitor
    from keras_stateful.inspection.positions_figure import plot_positions
    from keras_stateful.inspection.ranking import rank_units
    from keras_stateful.inspection.recording import record_states
    from keras_stateful.inspection.text_figure import plot_activations
    from keras_stateful.resuming.callback import ResumeTraining
    from keras_stateful.session.pool import Pool
    from keras_stateful.session.saved_states import load_states, save_states
    from keras_stateful.session.session import Session, load_session
    from keras_stateful.training.resets import ResetStatesCallback
