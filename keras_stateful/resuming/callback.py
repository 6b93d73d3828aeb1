"""`ResumeTraining`: a `fit` that is killed and started again goes on as if it had never stopped.

What happens when, in the `fit` that goes on (Keras 3.14 to 3.15 call hooks alike on the three
backends):

    on_train_begin    the newest whole checkpoint is found and compared with what is there now; all
                      other callbacks start afresh: EarlyStopping forgets
    on_epoch_begin    everything is restored. At an epoch's start *before* the others' hooks, as it
                      was saved after those of the epoch before; in its middle *after* them, since
                      they had run when it was saved
    first batch       in the middle of an epoch: random generators once more, which hooks and
                      iterators may have used since

So the callback changes its place in the list of callbacks, whose order is the order of the hooks.
"""

import warnings
import weakref
from os import PathLike
from typing import Any

import keras
import numpy as np

from keras_stateful.carry.states import sync
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.arguments import a_path, whole_number
from keras_stateful.foundation.protocols import Readable, is_sequence, sequence_or_none
from keras_stateful.foundation.types import Arguments, Logs
from keras_stateful.resuming import callback_states, checkpoint, training_state
from keras_stateful.resuming.checkpoint import Checkpoint
from keras_stateful.resuming.fingerprint import difference, fingerprint
from keras_stateful.training.callbacks import ModelCallback
from keras_stateful.training.resets import ResetStatesCallback


class ResumeTraining(ModelCallback):
    """Saves a stateful training every so often; started again, `fit` goes on from there.

    On the CPU it goes on bit for bit: every later loss, metric and weight is that of the run that
    was never interrupted, in the middle of an epoch too. Saved are weights and optimizer, recurrent
    states, seed generators (dropout) and the global generators of Python, NumPy and torch, metrics,
    where the sequence stands, what the other callbacks remember (EarlyStopping, ReduceLROnPlateau,
    ModelCheckpoint, CSVLogger, ...) and the history.

    Start the same script again: nothing else is needed. `epochs` counts from the first start; a
    training that has ended is not begun again, unless `epochs` is raised or the directory deleted.
    A learning rate that is a number is state, and restored.

    Storage is Keras's own: `save_weights` for weights and optimizer, beside them a NumPy file
    without pickle and JSON. (Orbax, in `keras.callbacks.OrbaxCheckpoint`, knows variables by their
    paths, which the states of one layer share, and would be one dependency more.) A checkpoint is
    written beside the others, synced to disk and renamed; the last two whole ones are kept, and one
    that is damaged is left out with a warning. A second process or thread on the same directory is
    refused.

    Args:
        backup_dir: a directory of this training's own.
        sequence: the `StatefulSequence` or `StatefulStream` that `fit` reads. A stream is read
            again from its start up to the saved place, so its source must give the same documents
            again.
        save_freq: "epoch", at the end of each; or after that many steps. The end of the last epoch
            is always saved.

    Raises:
        TypeError: something that is not a sequence, a `save_freq` that is no int.
        ValueError: before the first step: `fit` reads other data; a callback whose memory cannot be
            saved, a source that is read once; a corpus, batch size, window, seed, model or
            optimizer other than when the training was saved, with what differs; several processes
            or replicas; a directory that another process or thread trains in, that cannot be
            written to, or whose every checkpoint is damaged.
        OSError: no room on the disk for a checkpoint, or one that could not be written.

    Example:

    ```python
    import keras, numpy as np
    import keras_stateful as ks

    documents = [np.arange(30) % 9, np.arange(50) % 9]
    sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=8, resets=True)
    model = keras.Sequential([
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(9, 4),
        keras.layers.LSTM(8, return_sequences=True),
        keras.layers.Dense(9, activation="softmax"),
    ])
    model = ks.to_stateful(model, sequence)
    model.compile("adam", "sparse_categorical_crossentropy")
    resume = ks.ResumeTraining("backup", sequence, save_freq=3)
    model.fit(sequence, epochs=2, verbose=0, callbacks=[resume])
    ```
    """

    def __init__(
        self,
        backup_dir: str | PathLike[str],
        sequence: Readable,
        save_freq: str | int = "epoch",
    ):
        super().__init__()
        if not is_sequence(sequence):
            raise TypeError(
                "`sequence` must be a StatefulSequence or a StatefulStream: the position in other "
                f"data cannot be restored. Received: {type(sequence).__name__}."
            )
        self.directory = a_path("backup_dir", backup_dir)
        checkpoint.check_directory(self.directory)
        self.sequence = sequence
        self.save_freq = save_freq
        self._lock: checkpoint.Lock | None = None  # of the running `fit`
        self._steps_between = 0  # 0: at the end of each epoch
        if save_freq != "epoch":
            self._steps_between = whole_number("save_freq", save_freq, 1, alternative='or "epoch"')
        else:  # as if it had no such hook, which would make Keras wait for the loss of each step
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]

    # What Keras calls

    def on_train_begin(self, logs: Logs = None) -> None:
        arguments = keras_internals.fit_arguments(self._network)
        self._list = arguments["callbacks"]
        self._check(arguments["x"])
        self._validation = sequence_or_none(arguments["validation_data"])
        self._lock = checkpoint.Lock(self.directory)
        # A `fit` that fails tells its callbacks nothing. That of a converted model calls `release`;
        # that of another lets go of what counts its steps, once nobody looks at its error any more.
        counter = keras_internals.epoch_iterator(self._network)
        weakref.finalize(counter, _let_go, self._network, self._lock)
        try:
            self._begin(arguments)
        except BaseException:
            self.release()
            raise

    def _begin(self, arguments: Arguments) -> None:
        """Finds the place at which to begin, in a directory that is locked."""
        checkpoint.check_room(self.directory, training_state.size(self._network))
        self._fingerprint = fingerprint(self._network, self.sequence, arguments["steps_per_epoch"])
        self._steps_since_saving, self._save_is_due = 0, False
        # Generators are restored twice in the middle of an epoch; the second time is to come.
        self._generators: dict[str, Any] | None = None
        # Found, and not restored yet.
        self._checkpoint: Checkpoint | None = checkpoint.newest(self.directory)
        if self._checkpoint is None:
            self._take_place(first=False)
        else:
            self._begin_from(self._checkpoint)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # The first epoch was set in `on_train_begin`. Unset, a later `fit` begins where it says.
        keras_internals.begin_at(self._network, None)
        self._epoch, self._step = epoch, 0
        callback_states.check(self._others)
        saved, self._checkpoint = self._checkpoint, None
        if saved is not None:
            self._restore(saved)
        self._take_place(first=self._generators is not None)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._generators is not None:
            training_state.set_generators(self._generators)
            self._generators = None
            self._take_place(first=False)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Under `steps_per_execution` Keras calls this once for several steps.
        self._steps_since_saving += batch + 1 - self._step
        self._step = batch + 1
        if self._steps_since_saving < self._steps_between:
            return
        if self._epoch_ends():
            # After validation and the other callbacks, as part of the epoch's end.
            self._save_is_due = True
        else:
            self._save(self._epoch, self._step, over=False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        ended = self._network.stop_training or epoch + 1 >= self.params["epochs"]
        if ended or self._save_is_due or not self._steps_between:
            self._save(epoch + 1, 0, over=self._resets.position().over)

    def on_train_end(self, logs: Logs = None) -> None:
        if self._checkpoint is not None:  # of a training that had ended: no epoch was begun
            self._restore_callbacks(self._checkpoint)
        self.release()

    def release(self) -> None:
        """Lets another training have the directory; `fit` has ended, or was refused."""
        if self._lock is not None:
            _let_go(self._network, self._lock)
            self._lock = None

    # Saving

    def _epoch_ends(self) -> bool:
        """True if the step that was done is the last of its epoch."""
        position, steps = self._resets.position().batches, self.params.get("steps")
        if not position or self.sequence.ends_at(position):  # 0 if a pass ends within an epoch
            return True
        if self._network.stop_training:
            return True
        return steps is not None and self._step >= steps

    def _save(self, epoch: int, step: int, over: bool) -> None:
        """Writes a checkpoint.

        Args:
            epoch: the epoch that the training goes on in, counted from 0.
            step: steps of that epoch that are done.
            over: True if the epoch begins a new pass over the data.
        """
        network, position = self._network, self._resets.position()
        callback_states.check(self._others)  # again: attributes that the first steps made
        sync(network)
        run = {
            "epoch": epoch,
            "step": step,
            "position": 0 if over else position.batches,
            "epochs": self.params["epochs"],
            "ended": bool(network.stop_training),
            "num_batches": keras_internals.known_batches(self._counter),
            "fingerprint": self._fingerprint,
            "sequence": self.sequence.position(position.batches, position.epoch, over=over),
            "validation": getattr(self._validation, "epoch", 0),
            "variables": training_state.get_variables(network),
            "generators": training_state.get_generators(),
            "callbacks": callback_states.get_states(self._others),
        }
        checkpoint.write(self.directory, run, keras_internals.weights_file(network))
        self._steps_since_saving, self._save_is_due = 0, False

    # Restoring

    def _begin_from(self, saved: Checkpoint) -> None:
        """Has `fit` begin at the epoch of a checkpoint, or not at all if the training had ended."""
        run, epochs = saved.run, self.params["epochs"]
        differs = difference(run["fingerprint"], self._fingerprint)
        if differs:
            raise ValueError(
                f"The training in `backup_dir` was another one. Received: {self.directory}; "
                f"{differs}. Bring back what differs (`seed=` fixes a seed), or pass another "
                "`backup_dir` to train anew."
            )
        # A training that a callback stopped is over; one that came to its last epoch goes on if
        # `epochs` was raised.
        ended = run["ended"] or run["epoch"] >= epochs
        if not ended and run["epoch"] >= run["epochs"]:
            callback_states.check_goes_on(self._others, run["epochs"], epochs)
        # `fit` begins no epoch from `epochs` on.
        keras_internals.begin_at(self._network, epochs if ended else run["epoch"])
        if ended:  # no epoch begins, so nothing else restores it
            self._restore_model(saved)
        self._take_place(first=ended or run["step"] == 0)
        self._print_place(saved, ended)

    def _restore(self, saved: Checkpoint) -> None:
        """Restores everything, when the epoch of a checkpoint has begun."""
        run, self._step = saved.run, saved.run["step"]
        self._restore_model(saved)
        if not self._step:
            self._network.reset_metrics()  # those saved are of the epoch before
        self._restore_callbacks(saved)
        training_state.set_generators(run["generators"])
        self._generators = run["generators"] if self._step else None
        self.sequence.seek(run["sequence"])
        if self._validation is not None:  # which is shuffled by epoch, and so are its sums
            self._validation.epoch = run["validation"]
        keras_internals.skip_steps(self._counter, self._step, run["position"], run["num_batches"])

    def _restore_model(self, saved: Checkpoint) -> None:
        # Variables must be there before values are read into them: a batch of zeros makes them.
        batch = keras.tree.map_structure(
            lambda spec: np.zeros(spec.shape, spec.dtype), self.sequence.signature()
        )
        keras_internals.build_for_training(self._network, batch)
        self._network.load_weights(saved.weights)
        training_state.set_variables(self._network, saved.run["variables"])

    def _restore_callbacks(self, saved: Checkpoint) -> None:
        changed = callback_states.set_states(self._others, saved.run["callbacks"])
        if changed:
            warnings.warn(
                f"`fit` has other callbacks than when the training was saved: {', '.join(changed)} "
                "added or left out. One that was added begins afresh.",
                stacklevel=2,
            )

    def _print_place(self, saved: Checkpoint, ended: bool) -> None:
        if self.params.get("verbose"):
            epoch, step = saved.run["epoch"], saved.run["step"]
            place = f"epoch {epoch + 1}, step {step + 1}"
            if ended:
                place = f"the end, after epoch {epoch}"
            print(f"Training goes on at {place} ({saved.path}).")

    # The other callbacks

    @property
    def _others(self) -> list[keras.callbacks.Callback]:
        return [c for c in self._list.callbacks if c is not self]

    @property
    def _counter(self) -> Any:
        """What counts the steps of the running `fit`; not kept, since `fit` lets go of it."""
        return keras_internals.epoch_iterator(self._network)

    def _take_place(self, first: bool) -> None:
        """Moves this callback to the first or last place in the order of the hooks.

        A hook that is running goes through the list as it was.
        """
        self._list.callbacks = [self, *self._others] if first else [*self._others, self]

    # Checks

    def _check(self, x: Any) -> None:
        """Checks that the running `fit` is one whose state is known, and can be saved."""
        if x is not self.sequence:
            raise ValueError(
                "`fit` reads other data than the sequence of `ResumeTraining`. Received: "
                f"{type(x).__name__}. Make one sequence and give it to both: `model.fit(sequence, "
                "callbacks=[ResumeTraining(backup_dir, sequence)])`."
            )
        self._resets = self._find_resets()
        if any(isinstance(c, ResumeTraining) for c in self._others):
            raise ValueError(
                "`fit` can resume from one directory. Received: several `ResumeTraining`. Leave "
                "one."
            )
        training_state.check_alone(self._network)
        self.sequence.check_seekable()
        callback_states.check(self._others)

    def _find_resets(self) -> ResetStatesCallback:
        """The callback that knows where the running `fit` stands in its sequence."""
        for callback in self._others:
            if isinstance(callback, ResetStatesCallback) and (
                callback.sequence is None or callback.sequence is self.sequence
            ):
                return callback
        raise ValueError(
            "`ResumeTraining` needs to know where the resets stand. Received: callbacks without "
            "`ResetStatesCallback(sequence)`. Add it, or convert the model with "
            "`to_stateful(model, sequence)`."
        )


def _let_go(model: keras.Model, lock: checkpoint.Lock) -> None:
    """Gives back a directory, and the epoch at which `fit` was to begin, if it did not."""
    if lock.release():
        keras_internals.begin_at(model, None)
