"""Stateful recurrent networks in Keras 3, right on TensorFlow, JAX and torch.

Names are imported when first used, so that `from keras_stateful import load_session` needs NumPy and the
artifact's own runtime, and nothing else.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ResetStatesCallback": "reset_states_callback",
    "ResumeTraining": "resume",
    "SampleText": "sample_text",
    "Session": "session",
    "StateMonitor": "state_monitor",
    "StatefulSequence": "stateful_sequence",
    "StatefulStream": "stateful_stream",
    "ValidateDocuments": "documents",
    "evaluate_documents": "documents",
    "export_step_model": "export",
    "generate": "generation",
    "get_states": "states",
    "initial_states": "step_model",
    "load_session": "session",
    "plot_activations": "figures",
    "plot_layout": "figures",
    "predict_documents": "documents",
    "preserve_states": "states",
    "rank_units": "activations",
    "record_states": "activations",
    "reset_states": "states",
    "set_states": "states",
    "stream": "generation",
    "to_inference": "convert",
    "to_stateful": "convert",
    "to_stateless": "convert",
    "to_step_model": "step_model",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'keras_stateful' has no attribute {name!r}")
    value = getattr(import_module(f"keras_stateful.{_HOME[name]}"), name)
    globals()[name] = value
    _register()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _register() -> None:
    """Registers the classes that `keras.models.load_model` looks for, if Keras is imported."""
    if "keras" in sys.modules:
        import_module("keras_stateful.convert")


_register()

if TYPE_CHECKING:
    from keras_stateful.activations import rank_units, record_states
    from keras_stateful.convert import to_inference, to_stateful, to_stateless
    from keras_stateful.documents import ValidateDocuments, evaluate_documents, predict_documents
    from keras_stateful.export import export_step_model
    from keras_stateful.figures import plot_activations, plot_layout
    from keras_stateful.generation import generate, stream
    from keras_stateful.reset_states_callback import ResetStatesCallback
    from keras_stateful.resume import ResumeTraining
    from keras_stateful.sample_text import SampleText
    from keras_stateful.session import Session, load_session
    from keras_stateful.state_monitor import StateMonitor
    from keras_stateful.stateful_sequence import StatefulSequence
    from keras_stateful.stateful_stream import StatefulStream
    from keras_stateful.states import get_states, preserve_states, reset_states, set_states
    from keras_stateful.step_model import initial_states, to_step_model
