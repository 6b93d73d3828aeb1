"""How `fit` takes its data, and what it counts the steps of an epoch with.

    fit(x) ──▶ a data adapter, of any `x` ──▶ an epoch iterator ──▶ batches, step by step

A `DataAdapter` that is given as `x` is taken as it is. The epoch iterator lives as long as the
call; Keras 3.10 to 3.15 build it alike on the three backends.
"""

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter

from keras_stateful.foundation.keras_internals.trainer import TrainerCall, fit_call, strategy

# Data


def data_adapter(epoch_iterator: Any) -> DataAdapter:
    """What an epoch iterator reads its batches from.

    Private: `EpochIterator.data_adapter`. Under a TensorFlow strategy, `fit` reads a batch and
    prefetches more only to see the shapes, which an adapter of one's own knows without reading.
    """
    return epoch_iterator.data_adapter


def batches_of_data(model: keras.Model) -> int | None:
    """Batches of a pass over what the running `fit` of this model reads; None if nobody knows.

    Private: as `data_adapter`. What `steps_per_epoch` says is not asked.
    """
    iterator = epoch_iterator(model)
    return None if iterator is None else data_adapter(iterator).num_batches


def takes_plain_batches(call: TrainerCall) -> bool:
    """True if Keras's TensorFlow trainer may be given an iterable in place of a `tf.data.Dataset`.

    A `tf.data.Dataset` of Python's batches costs a step up to a millisecond.

    Private: what `TensorFlowTrainer._make_function` makes runs its step on what any iterator gives.
    """
    import tensorflow as tf

    makers = ("make_train_function", "make_test_function")
    return (
        call.method in ("fit", "evaluate")
        # Several steps in one execution would be run in Python, one by one.
        and call.model.steps_per_execution == 1
        # Functions of the user's own may ask for `get_next()`.
        and all(getattr(call.model, m).__func__ is getattr(keras.Model, m) for m in makers)
        # A strategy distributes datasets only.
        and strategy(call.model) is tf.distribute.get_strategy()
        and not tf.distribute.has_strategy()
    )


def super_batches(batches: Iterator[tuple], steps: int | None) -> Iterator[tuple]:
    """Batches as JAX reads them since Keras 3.16: for several steps in one execution, stacked.

    Private: `data_adapter_utils.super_batch_iterator`.

    Args:
        batches: of a pass.
        steps: in one execution; None for one.
    """
    if steps is None:
        return batches
    import jax
    from keras.src.trainers.data_adapters.data_adapter_utils import super_batch_iterator

    return super_batch_iterator(batches, steps, stack_fn=jax.numpy.stack)


# Steps and epochs


def begin_at(model: keras.Model, epoch: int | None) -> None:
    """Sets the epoch at which the running `fit` begins; to be called before its first.

    Private: `Trainer._initial_epoch`. The public `initial_epoch` is an argument of `fit`, and how
    far a training came is known later.

    Args:
        model: that is trained.
        epoch: counted from 0; None for what `initial_epoch` says.
    """
    model._initial_epoch = epoch


def epoch_iterator(model: keras.Model) -> Any:
    """What counts the steps of the `fit` of this model that is running, or None."""
    call = fit_call(model)
    return None if call is None else call.epoch_iterator


def known_batches(iterator: Any) -> int | None:
    """What an epoch iterator has found out about the length of its data, in batches.

    Private: `EpochIterator._num_batches`, which nobody is told.
    """
    return iterator._num_batches


def skip_steps(iterator: Any, steps: int, position: int, num_batches: int | None) -> None:
    """The epoch that begins next is counted from `steps` on; no earlier batch is read.

    Private: `EpochIterator._enumerate_iterator`, `_current_iterator`, `_steps_seen`,
    `_num_batches`. `fit` begins an epoch at its first step.

    Args:
        iterator: from `epoch_iterator`.
        steps: steps of the epoch that were done before.
        position: batches of the pass that were read before; more than `steps` if a pass over the
            data lasts for several epochs.
        num_batches: what `known_batches` gave then.
    """
    enumerate_all = iterator._enumerate_iterator
    if num_batches is not None:
        iterator._num_batches = num_batches

    def enumerate_rest() -> Iterator[tuple]:
        del iterator._enumerate_iterator  # later epochs are Keras's own
        if iterator.steps_per_epoch is not None:
            # With `steps_per_epoch`, one iterator over the data serves epoch after epoch.
            iterator._current_iterator = iter(iterator._get_iterator())
            iterator._steps_seen = position - steps
        # Steps that were done are counted and not read: the data go on behind them, as `seek` says.
        for entry in enumerate_all():  # first step, last step (not in Keras 3.10), data
            if entry[0] >= steps:
                yield entry

    iterator._enumerate_iterator = enumerate_rest
