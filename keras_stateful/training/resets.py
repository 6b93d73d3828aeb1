"""`ResetStatesCallback`: resets in a stateful `fit` whose model does not take them as an input.

    on_train_begin          checks fit's arguments
    on_epoch_begin          a new pass over the data begins, unless `steps_per_epoch` ended the
                            epoch in the middle of one
    on_train_batch_begin    rows are reset where a document starts; the step is counted
    on_test_begin, _end     states are put away before validation and put back after it

A converted model resets inside its step, if its sequence has `resets=True`. The callback then only
counts where `fit` stands, for the sequence and for `ResumeTraining`. How a step resets rows is in
`carry`: before its window in `layers`, inside the window in `loops`.
"""

import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_stateful.carry.states import (
    find_states,
    restore,
    snapshot,
    sync,
    without_state,
    write_initial,
)
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import (
    Readable,
    is_converted,
    is_sequence,
    resets_taken,
    sequence_or_none,
)
from keras_stateful.foundation.types import Arguments, CallbackState, Logs, Structure
from keras_stateful.training.callbacks import ModelCallback
from keras_stateful.training.check_fit import check_fit
from keras_stateful.training.recovery import protect
from keras_stateful.training.repairs import repair
from keras_stateful.training.step_scores import score_by_step


class PassPosition(NamedTuple):
    """Where a `fit` stands in the present pass over its sequence.

    Attributes:
        batches: of the pass, those that were read; 0 also where it ended within an epoch.
        epoch: the pass, as the sequence counts them.
        over: at the end of an epoch, True if the next begins a new pass.
    """

    batches: int
    epoch: int
    over: bool


class ResetStatesCallback(ModelCallback):
    """Makes a stateful `fit` right: resets states, and keeps validation apart from training.

    Add it to the `fit` of a model whose layers are `stateful=True`; it also repairs what Keras gets
    wrong with them on JAX and torch. (The `fit` of a model from `to_stateful` adds one by itself.)
    All rows start from the initial state at the start of each pass over the data, single rows at
    the start of their documents. Validation starts from the initial state, and afterwards training
    goes on from its own.

    Args:
        sequence: the `StatefulSequence` that `fit` reads. None takes fit's own; other data have no
            document boundaries.
        validation_sequence: the one that `evaluate`, or fit's validation, reads; None likewise.
        at_epoch_begin: True to reset all rows where a pass over the data starts, which is where an
            epoch does unless `steps_per_epoch` ends it in mid-pass. False: the state goes on from
            epoch to epoch. None: as True, with a warning where nobody knows whether the data begin
            anew: `steps_per_epoch` with a generator or another source of unknown length.

    Raises:
        TypeError: something that is not a sequence.
        ValueError: before the first step: `fit` or `evaluate` reads another sequence; two of these
            callbacks; the model carries no state; a reset would be lost in `steps_per_execution`;
            and everything that would train on the wrong thing (a shuffle, `class_weight` beside a
            sequence, `validation_steps` that end in the middle, ...), with the remedy.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    documents = [np.arange(30) % 9, np.arange(50) % 9]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=8)
    model = keras.Sequential([
        keras.Input((None,), batch_size=2, dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.LSTM(8, stateful=True, return_sequences=True),
        keras.layers.Dense(9, activation="softmax"),
    ])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(sequence, epochs=2, verbose=0, callbacks=[ks.ResetStatesCallback(sequence)])
    ```
    """

    def __init__(
        self,
        sequence: Readable | None = None,
        validation_sequence: Readable | None = None,
        *,
        at_epoch_begin: bool | None = None,
    ):
        super().__init__()
        for name, value in (("sequence", sequence), ("validation_sequence", validation_sequence)):
            if value is not None and not is_sequence(value):
                raise TypeError(
                    f"`{name}` must be a StatefulSequence or a StatefulStream. Received: "
                    f"{type(value).__name__}. For other data leave it out: states are then reset "
                    "where epochs start."
                )
        self.sequence = sequence
        self.validation_sequence = validation_sequence
        self.at_epoch_begin = at_epoch_begin
        # The running `fit`: what it reads, and where it stands in it.
        self._reading: Readable | None = sequence
        self._position = 0  # batches read of the present pass
        self._pass: int | None = None  # as the sequence counts them; None before the first
        self._total: int | None = None  # batches of a pass; None where nobody knows
        self._whole_passes = True  # each epoch is one pass: no `steps_per_epoch` cuts it off
        self._epochs_begun = 0  # of the sequence, when Keras began the present epoch
        self._first_step = False  # the next step is the first of its epoch
        # The running `evaluate`, within a `fit` or alone.
        self._testing: Readable | None = validation_sequence
        self._test_pass = 0
        self._training_states: list | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if not find_states(model):
            raise ValueError(
                "`ResetStatesCallback` needs a model that carries its state. Received: "
                f"{without_state(model)}"
            )
        # All of these drop the compiled steps. `fit` makes them right after this, and then holds
        # them.
        repair(model)
        if not is_converted(model):  # whose methods do so
            score_by_step(model)
            protect(model)

    # What `ResumeTraining` asks

    def position(self) -> PassPosition:
        """Where the running `fit` stands in its sequence."""
        over = self._whole_passes or self._position == 0
        return PassPosition(self._position, 0 if self._pass is None else self._pass, over)

    def get_state(self) -> CallbackState:
        """What is saved: the batches read of the present pass, and its number."""
        return {"_position": self._position, "_pass": self._pass}

    def set_state(self, state: CallbackState) -> None:
        """Takes back what `get_state` gave, when training has begun."""
        self._position, self._pass = state["_position"], state["_pass"]

    # Training

    def on_train_begin(self, logs: Logs = None) -> None:
        self._reading = self.sequence
        arguments = keras_internals.fit_arguments(self._network)
        if arguments:  # none where a loop of the user's own calls the hooks
            if not is_converted(self._network):  # whose `fit` did so, before Keras's
                check_fit(self._network, arguments, self.sequence)
            _check_alone(arguments.get("callbacks"))
            self._check_validation(sequence_or_none(arguments.get("validation_data")))
            if self.sequence is None:
                self._reading = sequence_or_none(arguments.get("x"))
        self._position, self._pass = 0, None
        steps = self.params.get("steps")
        if self._reading is not None:
            # Keras counts no steps of a stream, whose epochs are passes as well.
            self._total = self._reading.num_batches
            self._whole_passes = steps in (None, self._total)
        else:
            self._total = keras_internals.batches_of_data(self._network)
            unknown = self._total is None and arguments.get("steps_per_epoch") is not None
            if unknown and not self._resets_inside:
                self._warn_of_unknown_passes(arguments)
            # Where masks ride along, they say what begins anew after the first epoch.
            self._whole_passes = (
                not (unknown and self._resets_inside)
                if self._total is None
                else steps in (None, self._total)
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # Under `steps_per_epoch` an epoch may end in mid-pass; the next goes on from there.
        begins_pass = self._whole_passes or self._position == 0
        if self._reading is None:
            self._position = 0 if begins_pass else self._position
            if begins_pass and self.at_epoch_begin is not False:
                self._reset(None)
            return
        if begins_pass:
            self._begin_pass(self._reading, epoch)
        self._epochs_begun, self._first_step = self._reading.epochs_begun, True

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._reading is None:
            self._count_step()
            return
        if self._first_step:
            self._first_step = False
            self._check_read(self._reading)
        # At position 0 the mask has all rows, which start anew unless the state is to go on from
        # pass to pass.
        if not self._resets_inside and (self._position or self.at_epoch_begin is not False):
            self._reset_rows(self._reading, self._position, self._pass)
        # Not counted at the step's end: a callback with `on_train_batch_end` makes Keras wait for
        # the loss of each step.
        self._count_step()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._reading is not None:
            self._reading.trained(self._position)

    def _begin_pass(self, sequence: Readable, epoch: int) -> None:
        # Under `steps_per_epoch` passes and epochs are counted apart, but for the first.
        if self._whole_passes or self._pass is None:
            sequence.epoch = epoch
        self._position, self._pass = 0, sequence.epoch
        if not self._resets_inside:
            self._check_execution_steps(sequence, self._pass)

    def _count_step(self) -> None:
        self._position += self._network.steps_per_execution
        if self._reading is not None:
            self._reading.trained(self._position)
        if self._total is not None and self._position >= self._total and not self._whole_passes:
            self._position = 0  # with `steps_per_epoch`, Keras begins a new pass in its next epoch

    def _warn_of_unknown_passes(self, arguments: Arguments) -> None:
        """Tells of a reset that may fall in the middle of a pass over the data."""
        if self.at_epoch_begin is not None or (arguments.get("epochs") or 1) < 2:
            return
        warnings.warn(
            "The state is reset where each epoch starts, and nobody knows whether the data begin "
            f"anew there. Received: steps_per_epoch={arguments['steps_per_epoch']} with x of type "
            f"{type(arguments.get('x')).__name__}, whose length is unknown. If the data go on, "
            "pass `callbacks=[ResetStatesCallback(at_epoch_begin=False)]`, or read them with "
            "`StatefulStream(..., steps_per_epoch=...)`; if each epoch is one pass, "
            "`ResetStatesCallback(at_epoch_begin=True)`.",
            stacklevel=2,
        )

    def _check_read(self, sequence: Readable) -> None:
        """Checks, when Keras has begun an epoch, that it was one of this sequence."""
        if sequence.epochs_begun == self._epochs_begun:
            raise ValueError(
                "`fit` reads other data than the sequence of `ResetStatesCallback`, so resets "
                "would fall in the wrong places. Make one sequence and give it to both: "
                "`model.fit(sequence, callbacks=[ResetStatesCallback(sequence)])`."
            )

    # Evaluation, inside fit and outside

    def on_test_begin(self, logs: Logs = None) -> None:
        read = sequence_or_none(keras_internals.trainer_arguments(self._network).get("x"))
        self._check_validation(read)
        self._testing = self.validation_sequence if read is None else read
        if not is_converted(self._network):  # whose `evaluate` does this itself
            self._training_states = snapshot(self._network)
            self._reset(None)
        if self._testing is not None and not self._resets_inside:
            self._test_pass = self._testing.epoch
            self._check_execution_steps(self._testing, self._test_pass)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # All rows were reset before the first batch.
        if self._testing is not None and not self._resets_inside and batch > 0:
            self._reset_rows(self._testing, batch, self._test_pass)

    def on_test_end(self, logs: Logs = None) -> None:
        if self._training_states is not None:
            restore(self._network, self._training_states)
            self._training_states = None

    def _check_validation(self, read: Readable | None) -> None:
        """Checks that what validates is the sequence that this callback was given, if any."""
        expected = self.validation_sequence
        if read is not None and expected is not None and read is not expected:
            raise ValueError(
                "`ResetStatesCallback` was given another `validation_sequence` than is read, so "
                f"resets would fall in the wrong places. Received: {expected!r}; read is "
                f"{read!r}. Leave it out."
            )

    # Resets

    @property
    def _resets_inside(self) -> bool:
        """True if the masks ride along with the batch: rows are then reset inside the step."""
        return resets_taken(self._network) is not None

    def _reset_rows(self, sequence: Readable, index: int, epoch: int | None) -> None:
        mask = sequence.reset_mask(index, epoch=epoch)
        if mask.any():
            # All rows at once need no selection between the old state and the initial one.
            self._reset(None if mask.all() else mask)

    def _reset(self, mask: np.ndarray | None) -> None:
        sync(self._network)  # only where something is written: on JAX it is slow
        write_initial(find_states(self._network), mask)

    def _check_execution_steps(self, sequence: Readable, epoch: int) -> None:
        """Refuses a reset inside one execution of several steps, where no callback runs."""
        steps, total = self._network.steps_per_execution, sequence.num_batches
        if steps == 1:
            return
        remedy = (
            "with `resets=True` and convert the model with `to_stateful(model, sequence)`, which "
            "resets inside the step; or compile with steps_per_execution=1."
        )
        if total is None:
            raise ValueError(
                f"`steps_per_execution={steps}` hides the batches of a stream from callbacks. "
                f"Received: a sequence with resets=False. Make it {remedy}"
            )
        for i in range(total):
            # Batches at multiples of `steps` begin an execution: a callback runs before them.
            if i % steps and sequence.reset_mask(i, epoch=epoch).any():
                raise ValueError(
                    f"`steps_per_execution={steps}` would lose the reset that is due at batch {i} "
                    f"of {total}. Received: boundary={sequence.boundary!r}, resets=False. Make the "
                    f"sequence {remedy}"
                )


def _check_alone(callbacks: Structure | keras.callbacks.CallbackList) -> None:
    """Refuses two of these callbacks: both would reset, and restore each other's snapshot."""
    flat = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    count = sum(isinstance(callback, ResetStatesCallback) for callback in flat)
    if count > 1:
        raise ValueError(
            f"One `ResetStatesCallback` does all resets. Received: callbacks with {count} of "
            "them. Leave one."
        )
