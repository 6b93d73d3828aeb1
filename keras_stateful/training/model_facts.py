"""What the checks ask of a model's graph, read once for all epochs, validations and sequences.

Keras opens a sequence anew in every epoch, and the checks run each time, since any of these calls
may be the first. The graph of a model is read at the first of them and remembered at the model.
"""

from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import keras

from keras_stateful.carry.graph import Graph
from keras_stateful.carry.states import find_states
from keras_stateful.carry.time_axis import TimeAxis, find_time_axis
from keras_stateful.carry.vocabulary import ids_known
from keras_stateful.data.ids import Classes
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import Key, Readable, is_converted
from keras_stateful.foundation.types import Structure, Tensor


class Agreement(NamedTuple):
    """The targets of a sequence that were found to fit a model's outputs.

    Attributes:
        loss: the one of `compile`, under which they fit.
        classes: of outputs whose targets are ids, by key of the target.
    """

    loss: Structure
    classes: dict[Key, Classes]


class ModelFacts:
    """What a graph says, each fact read when it is asked for; see `facts_of`.

    A model and its facts hold each other, and are freed together. Sequences are held weakly: what
    they hold in memory goes when the user lets go of it.

    Attributes:
        model: the model.
        functional: the Functional model behind it.
        inputs_agreed: sequences whose inputs were found to fit.
        targets_agreed: sequences whose targets were, and under which loss.
    """

    def __init__(self, model: keras.Model):
        self.model, self.functional = model, keras_internals.functional(model)
        self.inputs_agreed: WeakSet[Readable] = WeakSet()
        self.targets_agreed: WeakKeyDictionary[Readable, Agreement] = WeakKeyDictionary()

    @cached_property
    def graph(self) -> Graph:
        """The graph; an AttributeError of a subclassed model, which has none."""
        return Graph(self.model)

    @cached_property
    def time_axis(self) -> TimeAxis | None:
        """What runs along time; None where the graph does not tell."""
        # The key of a shared layer's second call is "path#1".
        carrying = [state.key.split("#")[0] for state in find_states(self.model)]
        try:
            vouched = self.model.local if is_converted(self.model) else ()
            return find_time_axis(self.graph, carrying, vouched)
        except (ValueError, TypeError, AttributeError):
            return None  # a subclassed model, of which nothing is known before it runs

    @property
    def along_time(self) -> tuple[bool, ...]:
        """True for each output that has a value for every time step."""
        return (True,) if self.time_axis is None else tuple(self.time_axis.outputs)

    @property
    def at_ends(self) -> bool:
        """True if each output has one value for each window: that behind its last step."""
        return not any(self.along_time)

    @cached_property
    def ids_known(self) -> dict[Key, int]:
        """How many ids each input may hold that goes straight into an `Embedding`.

        The key None is that of the first input.
        """
        if not keras_internals.is_graph(self.model):
            return {}
        inputs = self.functional.input
        # Batches name inputs by the keys of a dict, or in a list by the tensors' names.
        names = [tensor.name for tensor in self.functional.inputs]
        keys = list(inputs) if isinstance(inputs, dict) else names
        return ids_known(self.graph, [None, *keys])

    @cached_property
    def batch_normalizations(self) -> dict[str, keras.layers.BatchNormalization]:
        """The layers, by path, that count padded steps: those whose inputs have no mask."""
        if not keras_internals.is_graph(self.model):
            return {}
        return {
            call.path: call.operation
            for call in self.graph.calls
            if isinstance(call.operation, keras.layers.BatchNormalization)
            and not any(map(_is_masked, keras.tree.flatten(call.args)))
        }


def facts_of(model: keras.Model) -> ModelFacts:
    """The facts of a model, read anew where a `Sequential` was given other layers since."""
    facts = getattr(model, "_keras_stateful_facts", None)
    if facts is None or facts.functional is not keras_internals.functional(model):
        facts = model._keras_stateful_facts = ModelFacts(model)
    return facts


def _is_masked(tensor: Tensor) -> bool:
    return keras_internals.mask_of(tensor) is not None
