"""What callbacks of this package have in common, and the list that Keras calls them through.

Keras calls callbacks in the order in which `fit` was given them, so who reads the logs must stand
behind who writes into them.

At the end of each batch its list waits for the logs, turns them into numbers and calls the hook of
every callback. It does so, in a thread on JAX and torch, also where no callback has such a hook,
and that takes a tenth of a millisecond of each step. The list of this module leaves it out.
"""

from typing import Any

import keras

from keras_stateful.foundation.protocols import sequence_or_none
from keras_stateful.foundation.types import Arguments, Logs


class ModelCallback(keras.callbacks.Callback):
    """A callback that holds its model as `_network`.

    On JAX, each look at `Callback.model` brings all variables back from the compiled step, which
    is slow.
    """

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._network = model

    def release(self) -> None:
        """Gives back what it holds; the `fit` of a converted model has ended, however it did."""


def release(callbacks: list[keras.callbacks.Callback] | keras.callbacks.CallbackList) -> None:
    """Has each callback of this package give back what it holds."""
    for callback in getattr(callbacks, "callbacks", callbacks):
        if isinstance(callback, ModelCallback):
            callback.release()


# Their order


def check_readers_come_after(
    writer: keras.callbacks.Callback, arguments: Arguments, prefix: str | None = None
) -> None:
    """Refuses a callback that reads the logs and stands before the one that writes into them.

    Args:
        writer: the callback that writes.
        arguments: of the running `fit`, by name.
        prefix: of names that nobody else writes into the logs, so that who monitors one must come
            later; None where others write names of that kind too.

    Raises:
        ValueError: a `CSVLogger`, a `TensorBoard` or, with `prefix`, a callback that monitors such
            a name, before `writer`.
    """
    # In a running `fit` the argument is a `CallbackList`; a loop of the user's own has none.
    callbacks = getattr(arguments.get("callbacks"), "callbacks", [])
    if writer not in callbacks:
        return
    for callback in callbacks[: callbacks.index(writer)]:
        monitor = str(getattr(callback, "monitor", ""))
        monitors = prefix is not None and monitor.startswith(prefix)
        reads_all = isinstance(callback, (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard))
        if not monitors and not reads_all:
            continue
        reader, writes = type(callback).__name__, type(writer).__name__
        reads = f" (monitor={monitor!r})" if monitors else " (reads the logs)"
        raise ValueError(
            f"`{reader}` would not see what `{writes}` writes into the logs. Received: callbacks "
            f"in which {reader}{reads} stands first. Keras calls them in order: "
            f"`callbacks=[{writes}(...), {reader}(...)]`."
        )


# Their list


class LazyCallbackList(keras.callbacks.CallbackList):
    """A list that tells of the end of a batch only if a callback has a hook for it.

    `fit` takes a list that is ready as it is, and adds no progress bar to it. So this one is for a
    `fit` without.

    Args:
        callbacks: the user's and this package's.
        model: the model that is trained. Callbacks are given it when training begins, as Keras does
            with a list of its own, not before.
        params: as Keras gives them to callbacks: `verbose`, `epochs`, `steps`.
    """

    def __init__(
        self, callbacks: list[keras.callbacks.Callback], model: keras.Model, **params: Any
    ):
        super().__init__(callbacks, add_history=True)
        self._network, self._fit_params = model, params
        self._batch_ends_heard = True

    def on_train_begin(self, logs: Logs = None) -> None:
        self.set_model(self._network)
        self.set_params(self._fit_params)
        # Keras has just made it, but with a list of its own it does so after `set_model`, which
        # may have asked for a new one, as that of `ResetStatesCallback` does.
        self._network.make_train_function()
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # Asked after the hooks of the epoch's start, since one of them may set another.
        self._batch_ends_heard = any(map(_hears_batch_ends, self.callbacks))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._batch_ends_heard:
            super().on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._batch_ends_heard:
            super().on_test_batch_end(batch, logs)


def lightest(
    callbacks: list[keras.callbacks.Callback], model: keras.Model, arguments: Arguments
) -> list[keras.callbacks.Callback] | LazyCallbackList:
    """The callbacks of a `fit`, in a list of the kind that costs a step the least.

    Args:
        callbacks: the user's and this package's.
        model: the model that is trained.
        arguments: of `fit`, by name.
    """
    sequence = sequence_or_none(arguments.get("x"))
    # Keras alone shows a progress bar. Under its cap on epochs or steps, callbacks are told other
    # numbers than those of the arguments.
    capped = keras.config.max_epochs() or keras.config.max_steps_per_epoch()
    if sequence is None or arguments.get("verbose", "auto") != 0 or capped:
        return callbacks
    steps = arguments.get("steps_per_epoch") or sequence.num_batches
    return LazyCallbackList(
        callbacks, model, verbose=0, epochs=arguments.get("epochs", 1), steps=steps
    )


# `Callback.on_train_batch_end` and `on_test_batch_end` call `on_batch_end`.
_BATCH_ENDS = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")


def _hears_batch_ends(callback: keras.callbacks.Callback) -> bool:
    """True if a callback has a hook for the end of a batch: a method, or a function set on it."""
    # A plain function has no `__func__`. Keras's own method may be set on a callback, too, which
    # then has no hook, as `ResumeTraining` does.
    return any(
        getattr(getattr(callback, hook, None), "__func__", None)
        is not getattr(keras.callbacks.Callback, hook)
        for hook in _BATCH_ENDS
    )
