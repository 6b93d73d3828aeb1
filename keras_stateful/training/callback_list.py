"""A `CallbackList` that leaves the end of a batch alone where no callback hears of it.

Keras hands the logs of each step to a thread, which waits for them, turns them into numbers and
tells every callback. Where none has a hook for the end of a batch, it does so for nobody, and takes
a tenth of a millisecond of each step for it.
"""

from typing import Any

import keras

from keras_stateful.foundation import kinds

_HOOKS = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")


class LazyCallbackList(keras.callbacks.CallbackList):
    """The callbacks of a `fit` without a progress bar.

    Args:
        callbacks: of the user, and this package's.
        model: that is trained. Callbacks are given it in `fit`, as Keras does it, not before.
        params: as Keras gives them to callbacks: `verbose`, `epochs`, `steps`.
    """

    def __init__(self, callbacks: list, model: keras.Model, **params: Any):
        super().__init__(callbacks, add_history=True)
        self._network, self._given, self._heard = model, params, True

    def on_train_begin(self, logs: Any = None) -> None:
        self.set_model(self._network)
        self.set_params(self._given)
        # Keras has done so, but a callback may have asked for a new one since
        self._network.make_train_function()
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._heard = any(map(_hears, self.callbacks))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._heard:
            super().on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._heard:
            super().on_test_batch_end(batch, logs)


def lightest(
    callbacks: list, model: keras.Model, arguments: dict[str, Any]
) -> list | LazyCallbackList:
    """The callbacks of a `fit`, in a list of the kind that costs a step the least.

    Args:
        callbacks: of the user, and this package's.
        model: that is trained.
        arguments: of `fit`, by name.
    """
    data = kinds.sequence_or_none(arguments.get("x"))
    capped = keras.config.max_epochs() or keras.config.max_steps_per_epoch()
    if data is None or arguments.get("verbose", "auto") != 0 or capped:
        return callbacks
    steps = arguments.get("steps_per_epoch") or data.num_batches
    return LazyCallbackList(
        callbacks, model, verbose=0, epochs=arguments.get("epochs", 1), steps=steps
    )


def _hears(callback: Any) -> bool:
    """Whether a callback has a hook for the end of a batch, in its class or, as `LambdaCallback`,
    itself.
    """
    return any(
        getattr(getattr(callback, name, None), "__func__", None)
        is not getattr(keras.callbacks.Callback, name)
        for name in _HOOKS
    )
