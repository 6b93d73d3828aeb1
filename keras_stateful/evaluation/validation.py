"""`ValidateDocuments`: whole held-out documents, validated after each epoch of a training."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_stateful.data.inputs import KnownAhead, StaticInputs
from keras_stateful.evaluation.compiled import fresh_compile_arguments
from keras_stateful.evaluation.reading import DocumentReader, Layout
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import whole_number
from keras_stateful.foundation.protocols import sequence_or_none
from keras_stateful.foundation.types import Arguments, CallbackState, Logs, Structure
from keras_stateful.training.callbacks import check_readers_come_after
from keras_stateful.training.check_targets import check_labels, check_targets
from keras_stateful.training.model_memory import after_training, remember


class ValidateDocuments(keras.callbacks.Callback):
    """Writes `val_loss` and `val_*` of whole held-out documents into the logs of each epoch.

    Validation then needs neither the training batch size nor cut documents, and `EarlyStopping`,
    `ModelCheckpoint` and `CSVLogger` follow it: put it before them in `callbacks`, and leave out
    `validation_data`. Values are means over all time steps of all documents that count, each by its
    weight: those of `evaluate_documents(..., pooled=True)`.

    Args:
        documents: a sequence of arrays `(timesteps, ...)`, as for `StatefulSequence`.
        batch_size: documents read side by side; by default up to 32.
        sequence_length: time steps per call.
        every: epochs from one validation to the next.
        targets, target_offset, label_at, sample_weight, burn_in, encode: as for `StatefulSequence`.
        start: the first time step of each document that counts, as for `evaluate_documents`: where
            the validation part of a series begins, whose training part must be read before it.
        known_ahead, static: as for `evaluate_documents`.

    Raises:
        ValueError: as `evaluate_documents`, when training begins; likewise documents without
            `targets` where training has them, `validation_data` beside it, and a callback that
            reads `val_*` or the logs and stands before it.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    documents = [np.arange(60) % 9, np.arange(100) % 9]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=10, resets=True)
    network = keras.Sequential([
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.GRU(8, return_sequences=True),
        keras.layers.Dense(9, activation="softmax"),
    ])
    model = ks.to_stateful(network, sequence)
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(sequence, verbose=0, callbacks=[ks.ValidateDocuments([np.arange(30) % 9])])
    assert "val_loss" in history.history
    ```
    """

    def __init__(
        self,
        documents: Structure,
        *,
        batch_size: int | None = None,
        sequence_length: int = 128,
        every: int = 1,
        targets: Structure = None,
        target_offset: int | Sequence[int] | None = None,
        label_at: str = "every",
        sample_weight: Structure = None,
        burn_in: int | Sequence[int] = 0,
        start: Any = None,
        encode: Callable | None = None,
        known_ahead: KnownAhead = None,
        static: StaticInputs = None,
    ):
        super().__init__()
        self.every = whole_number("every", every, 1, unit="epochs")
        self.documents, self.batch_size = documents, batch_size
        self.sequence_length = sequence_length
        self.layout = Layout(
            targets=targets,
            target_offset=target_offset,
            label_at=label_at,
            sample_weight=sample_weight,
            burn_in=burn_in,
            start=start,
            encode=encode,
            known_ahead=known_ahead,
            static=static,
        )
        self._reader: DocumentReader | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        arguments = keras_internals.fit_arguments(self.model)
        self._check_alone(arguments)
        training = sequence_or_none(arguments.get("x"))
        # Where this comes before `ResetStatesCallback`, nobody has told the model of them yet.
        known = after_training(self.model, training)
        reader = self._reader = DocumentReader(
            self.model, self.documents, self.batch_size, self.sequence_length, self.layout, known
        )
        remember(reader.twin, known)
        check_labels(training, reader.sequence, "ValidateDocuments(...)")
        reader.sequence.check_classes(check_targets(self.model, "documents", reader.sequence))
        # The twin shares the weights: what it scores later are those of that epoch.
        reader.twin.compile(**fresh_compile_arguments(self.model))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if (epoch + 1) % self.every or logs is None or self._reader is None:
            return
        # The twin's weights are the model's; on JAX `fit` has brought them back from its step.
        results = self._reader.twin.evaluate(self._reader.sequence, verbose=0, return_dict=True)
        # Keras hands the same dict on to the callbacks that come later. Before Keras 3.15 there are
        # tensors among the results, on which `CSVLogger` fails.
        logs.update({f"val_{name}": _number(value) for name, value in results.items()})

    def get_state(self) -> CallbackState:
        """What `ResumeTraining` saves: nothing, since each validation starts afresh."""
        return {}

    def set_state(self, state: CallbackState) -> None:
        """Takes back what `get_state` gave."""

    def _check_alone(self, arguments: Arguments) -> None:
        """Checks that nobody else writes `val_loss`, and that who reads it comes later."""
        if arguments.get("validation_data") is not None:
            raise ValueError(
                "`ValidateDocuments` and `validation_data` both write `val_loss`. Received: both. "
                "Leave one of them out."
            )
        check_readers_come_after(self, arguments, prefix="val_")


def _number(value: Any) -> Any:
    """A float, of what is one number; metrics may have several."""
    return float(value) if np.ndim(value) == 0 else value
