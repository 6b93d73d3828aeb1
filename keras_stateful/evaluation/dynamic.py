"""Dynamic evaluation: a model learns from each window behind that it was scored on it.

    window ──▶ outputs, scored ──▶ gradient of the window's loss ──▶ weights for the next window
                                                    └── at each document's start the trained weights

The outputs are those of inference, and so are those that the gradient is taken of: dropout is off.
Afterwards weights are as they were, also where something fails.

Source: Krause, Kahembwe, Murray, Renals 2017, "Dynamic Evaluation of Neural Sequence Models"
(arXiv:1709.07432).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_stateful.carry.states import find_states, restore, snapshot
from keras_stateful.data.sequence import Span
from keras_stateful.evaluation.compiled import fresh_compile_arguments
from keras_stateful.evaluation.reading import Reading, Visitor, Window
from keras_stateful.foundation import devices, interrupts, keras_internals
from keras_stateful.foundation.types import Structure, Tensor
from keras_stateful.training.step_scores import ScoresByStep, score_by_step


class DynamicEvaluation(Visitor):
    """Learns from each window that was read.

    Args:
        model: the compiled model that is evaluated.
        twin: what reads it: its weights are the model's. One document at a time.
        optimizer: what learns: a learning rate, for `keras.optimizers.SGD`, or an optimizer, of
            which a fresh copy does.

    Raises:
        TypeError: neither.
        ValueError: several rows, a learning rate that is not positive, a frozen model.
    """

    def __init__(self, model: keras.Model, twin: keras.Model, optimizer: Any):
        if twin.batch_size != 1:
            raise ValueError(
                "`dynamic` learns from one document at a time, each from the trained weights. "
                f"Received: batch_size={twin.batch_size}. Leave it out."
            )
        if not twin.trainable_variables:
            raise ValueError(
                f"`dynamic` has nothing to learn. Received: {model.name!r}, of which no weight is "
                "trainable. Set `trainable = True` on the layers that shall learn, or leave it out."
            )
        self._twin = twin
        self._learner = _Learner(twin, keras_internals.functional(model).output_names)
        arguments = fresh_compile_arguments(model)
        self._learner.compile(
            optimizer=_fresh(optimizer),
            loss=arguments["loss"],
            loss_weights=arguments.get("loss_weights"),
        )
        score_by_step(self._learner)
        self._learner.optimizer.build(twin.trainable_variables)
        keras_internals.keep_values(self._learner)
        states = {id(v) for state in find_states(twin) for v in state.variables}
        # By way of NumPy: on JAX a step gives its buffers away, those of random seeds among them.
        shared = [v for v in twin.variables if id(v) not in states]
        self._before = [(v, devices.to_numpy(v)) for v in shared]
        self._unlearned = [(v, _to_numpy(v)) for v in self._learner.optimizer.variables]
        self._held: list[Tensor] = []  # the states in front of the window

    @contextmanager
    def undone(self) -> Iterator["DynamicEvaluation"]:
        """Puts the weights back afterwards, whatever happens inside."""
        with interrupts.watched():
            try:
                yield self
            finally:
                self._put_back()

    def begin(self, x: Structure, spans: list[list[Span]]) -> Structure:
        if any(span.start == 0 for span in spans[0]):
            self._put_back()
            for variable, value in self._unlearned:
                variable.assign(value)
        self._held = snapshot(self._twin)
        return x

    def end(self, reading: Reading) -> None:
        for span in reading.spans[0]:
            weights = Window(span, 0, reading.batch, reading.masks).weights
            if any(np.any(part) for part in keras.tree.flatten(weights)):
                # The window is read once more, from the states in front of it to those behind it.
                restore(self._twin, self._held)
                self._learner.train_on_batch(
                    reading.x, reading.batch[1], keras.tree.map_structure(_of_mean, weights)
                )

    def _put_back(self) -> None:
        for variable, value in self._before:
            devices.write(variable, ops.convert_to_tensor(value, variable.dtype))


class _Learner(ScoresByStep, keras.Model):
    """A model whose training steps run it as inference does."""

    def __init__(self, model: keras.Model, output_names: list[str]):
        super().__init__(name="learner")
        self.model = model
        self.output_names = output_names  # by which losses may go

    def call(self, inputs: Structure) -> Structure:
        return self.model(inputs, training=False)


def _fresh(optimizer: Any) -> keras.optimizers.Optimizer:
    """An optimizer that has learned nothing yet."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return type(optimizer).from_config(optimizer.get_config())
    if isinstance(optimizer, bool) or not isinstance(optimizer, (int, float, np.number)):
        raise TypeError(
            "`dynamic` must be a learning rate or a Keras optimizer. Received: "
            f"{type(optimizer).__name__}. For example `dynamic=0.1`, or "
            "`dynamic=keras.optimizers.RMSprop(1e-4)`."
        )
    if not 0 < optimizer < float("inf"):
        raise ValueError(f"`dynamic` must be a positive learning rate. Received: {optimizer!r}.")
    return keras.optimizers.SGD(float(optimizer))


def _of_mean(weights: np.ndarray) -> np.ndarray:
    """Weights of one row, under which Keras's mean over steps is that over steps that count."""
    return (weights * (weights.size / max(float(weights.sum()), 1e-30)))[None].astype("float32")


def _to_numpy(variable: keras.Variable) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable))
