"""Twins of a model that read its documents, kept with it: a second call compiles nothing.

    call ──▶ take ──▶ reads documents ──▶ put_back ──▶ the next call with as many rows
              └── made where there is none: the first call, a changed model, another thread

A twin has states of its own, so it is one reader's at a time. What was left in its rows is not
read: each document starts with a reset, or with states that are written.
"""

from dataclasses import dataclass
from typing import TypeAlias

import keras

from keras_stateful.conversion.composition import composition
from keras_stateful.conversion.convert import twin_with_resets
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.types import Structure, Tensor

_KEPT = 4  # twins of one model
_SLOT = "_keras_stateful_twins"  # the attribute of the user's model that holds its shelf
_Shelf: TypeAlias = dict[tuple, "Twin"]


class _ShowsMasks(keras.Model):
    """A model that gives its outputs, and the mask `(batch, time)` of each, which Keras hides."""

    def __init__(self, model: keras.Model):
        super().__init__(name="shows_masks")  # TensorFlow takes no underscore first
        self.model = model

    def call(self, inputs: Structure) -> tuple[Structure, Structure]:
        outputs = self.model(inputs)
        return outputs, keras.tree.map_structure(self._mask, outputs)

    def _mask(self, output: Tensor) -> Tensor:
        mask = keras_internals.mask_of(output)
        if mask is None:
            return keras.ops.ones(keras.ops.shape(output)[:2])
        return keras.ops.cast(mask, "float32")


@dataclass(frozen=True, eq=False)
class Twin:
    """A model of the same variables, at a batch size of its own, with resets by window.

    Attributes:
        model: the twin.
        shows_masks: the same with the masks of its outputs; None where it masks nothing.
    """

    model: keras.Model
    shows_masks: keras.Model | None

    def read(self, x: Structure) -> tuple[Structure, Structure]:
        """Reads a batch: its outputs, and their masks or None."""
        if self.shows_masks is None:
            return self.model.predict_on_batch(x), None
        return self.shows_masks.predict_on_batch(x)


def make(model: keras.Model, batch_size: int) -> Twin:
    """A new twin of a model."""
    twin = twin_with_resets(model, batch_size)
    # Asked of the twin, since a mask belongs to the tensors of one graph.
    masked = any(keras_internals.mask_of(o) is not None for o in twin.outputs)
    return Twin(twin, _ShowsMasks(twin) if masked else None)


def take(model: keras.Model, batch_size: int) -> Twin:
    """A twin that nobody reads with: one that was put back, or a new one."""
    shelf: _Shelf = vars(model).get(_SLOT, {}) if isinstance(model, keras.Model) else {}
    kept = shelf.pop(_key(model, batch_size), None) if shelf else None
    return make(model, batch_size) if kept is None else kept


def put_back(model: keras.Model, batch_size: int, twin: Twin) -> None:
    """Keeps a twin for the next call; those of the model as it was before are left out."""
    key = _key(model, batch_size)
    shelf: _Shelf = vars(model).get(_SLOT, {})
    same = {k: t for k, t in list(shelf.items()) if k[1:] == key[1:] and k != key}
    newest = [*same.items(), (key, twin)][-_KEPT:]
    vars(model)[_SLOT] = dict(newest)  # not setattr: Keras would track it as a part of the model


def _key(model: keras.Model, batch_size: int) -> tuple:
    return batch_size, *composition(model)
