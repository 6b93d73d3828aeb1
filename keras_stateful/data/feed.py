"""How `fit` reads a sequence: in order, on every backend, whatever `shuffle` and `workers` say.

Keras shuffles the batches of a `PyDataset` by default and hands those of several workers over out
of order. But it takes any data adapter of its own class as it is ("Allow passing a custom data
adapter" in `get_data_adapter`, Keras 3.10 to 3.15), so a sequence is both;
`tests/training/test_sequence_fit.py` fails when Keras no longer lets it through.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_stateful.data.batch import spec_bytes
from keras_stateful.foundation import keras_internals

_PREFETCH = 2  # batches that TensorFlow reads ahead
_SMALL = 1 << 20  # bytes of a batch that is made at once, so that reading it ahead wins nothing

RESETS_REMEDY = (
    'It says whether batches have the mask; of which kind follows from `boundary`: "pack" resets '
    "inside windows, the others before them."
)


class Batches(keras.utils.PyDataset, keras_internals.DataAdapter):
    """Batches that `fit`, `evaluate` and `predict` read in order.

    A subclass gives `read_pass()`, an iterator over the batches of one pass, which does nothing
    until its first batch is asked for (Keras makes iterators that it never uses), `signature()` and
    `num_batches`. A pass with `looks` is not trained on: Keras looks at a batch to build the model.
    """

    _keras_stateful_sequence = True  # see `foundation.protocols`
    steps_per_epoch: int | None = None  # of a stream; see there
    stride: int | None = None  # of a sequence whose windows overlap; see there
    epochs_begun = 0  # how often Keras began an epoch, or a pass within one, on these batches

    def read_pass(self, *, looks: bool = False) -> Iterator[tuple]:
        raise NotImplementedError

    @property
    def immediate(self) -> bool:
        """True if batches come straight from memory, so that reading them ahead wins nothing."""
        return False

    @property
    def once(self) -> bool:
        """True if the data can be read one time only: a stream of an iterator."""
        return False

    def signature(self) -> tuple:
        """A batch with a `Spec` in place of each array."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple]:
        return self.read_pass()

    def give_targets(self, *, at_ends: bool) -> None:
        """Has batches give targets and weights as the model that reads has outputs.

        Args:
            at_ends: True for those at the last step of each window alone, `(batch, ...)` and
                `(batch,)`; False for every time step.
        """
        raise NotImplementedError

    def trained(self, batches: int) -> None:
        """Says how many batches of the epoch's pass were trained on; more may have been read.

        It may be said before the first is read: Keras calls hooks, and on JAX reads only then.
        """

    # Where a training stands in the data, for `ResumeTraining`

    def fingerprint(self) -> dict[str, Any]:
        """What makes the batches what they are, as JSON: arguments, and checksums of data."""
        raise NotImplementedError

    def position(self, batches: int, epoch: int, *, over: bool = False) -> dict[str, Any]:
        """Where a pass stands after some batches, as JSON.

        Args:
            batches: of the pass, those that were trained on, not only read ahead.
            epoch: the pass.
            over: True if the next epoch begins a new pass.
        """
        raise NotImplementedError

    def seek(self, position: dict[str, Any]) -> None:
        """The pass that is read next goes on from a `position`, in this process or another.

        Raises:
            ValueError: data that cannot be repositioned, or that are no longer what they were.
        """
        raise NotImplementedError

    def check_seekable(self) -> None:
        """Raises a ValueError for data that cannot be repositioned."""

    def bookmark(self) -> dict[str, Any] | None:
        """Where the next pass begins; None where that does not depend on what was read."""
        return None

    def go_back(self, bookmark: dict[str, Any] | None) -> None:
        """The next pass begins at a bookmark: the call that has read from there on failed."""

    def ends_at(self, batches: int) -> bool:
        """True if the present pass has no more than these batches."""
        return self.num_batches is not None and batches >= self.num_batches

    # What Keras asks of a data adapter

    def _check_reader(self) -> keras_internals.TrainerCall | None:
        """Checks the `fit`, `evaluate` or `predict` that is about to read, and returns it.

        None if none of them asks for the data.
        """
        call = keras_internals.trainer_call()
        if call is not None:
            # The one exception to the order of imports: data are read before anything is trained
            # on, and only here does a training meet what it reads.
            from keras_stateful.training.check_reader import check_reader

            check_reader(self, call)
        return call

    def get_numpy_iterator(self) -> Iterator[tuple]:
        call = self._check_reader()
        return self.read_pass(looks=call is not None and call.looks)

    def get_jax_iterator(self, super_batch: int | None = None) -> Iterator[tuple]:
        return keras_internals.super_batches(self.get_numpy_iterator(), super_batch)

    def get_torch_dataloader(self) -> Iterator[tuple]:
        return _as_torch(self.get_numpy_iterator())

    def get_tf_dataset(self) -> Any:
        call = self._check_reader()
        small = self.immediate and spec_bytes(self.signature()) <= _SMALL
        if small and call is not None and keras_internals.takes_plain_batches(call):
            return _Passes(self)
        # Not counted: a pass that is resumed has fewer batches than `num_batches`.
        return self._tf_dataset(counted=False)

    def as_tf_dataset(self) -> Any:
        """The batches as a `tf.data.Dataset`, for a loop of one's own; `fit` needs only the data.

        Returns:
            A `tf.data.Dataset` of batches with static shapes. Each iterator of it reads one pass.
        """
        return self._tf_dataset(counted=self.num_batches is not None)

    def _tf_dataset(self, counted: bool) -> Any:
        import tensorflow as tf

        # Where the end comes unforeseen, Keras's step runs once more, without a batch: had the rows
        # a static number, it would count them in the mean of the loss (Keras 3.14 to 3.15).
        endless = self.num_batches is None
        signature = keras.tree.map_structure(
            lambda spec: tf.TensorSpec(
                (None, *spec.shape[1:]) if endless else spec.shape, spec.dtype
            ),
            self.signature(),
        )
        dataset = tf.data.Dataset.from_generator(self.read_pass, output_signature=signature)
        if counted:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(self.num_batches))
        return dataset.prefetch(_PREFETCH)

    @property
    def has_partial_batch(self) -> bool:
        return False

    @property
    def partial_batch_size(self) -> None:
        return None

    def on_epoch_begin(self) -> None:
        self.epochs_begun += 1

    def on_epoch_end(self) -> None:
        pass


def _as_torch(batches: Iterator[tuple]) -> Iterator[tuple]:
    """Batches as tensors on Keras's device, in a tenth of the time that `keras.ops` takes."""
    import torch

    device = keras.ops.convert_to_tensor(0).device  # where Keras puts tensors now
    for batch in batches:  # of arrays that nobody else holds, so that memory may be shared
        yield keras.tree.map_structure(lambda array: torch.asarray(array, device=device), batch)


class _Passes:
    """What Keras's TensorFlow step reads in place of a `tf.data.Dataset`, a millisecond faster."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __iter__(self) -> Iterator[tuple]:
        import tensorflow as tf

        for batch in self.batches.read_pass():
            yield keras.tree.map_structure(tf.convert_to_tensor, batch)
        # A pass that is resumed ends unforeseen; this is how a `tf.data.Dataset` tells it.
        raise tf.errors.OutOfRangeError(None, None, "the pass is over")
