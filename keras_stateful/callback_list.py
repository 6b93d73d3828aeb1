"""A `CallbackList` that does nothing at the end of a batch, for a `fit` in which nobody hears of it.

Keras hands the logs of each step to a thread, which waits for them, turns them into numbers and tells every callback. Where
none has a hook for the end of a batch, it does so for nobody, and takes a tenth of a millisecond of each step for it.
"""

from typing import Any

import keras

from keras_stateful import fit_checks

_HEARD = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")


class Unheard(keras.callbacks.CallbackList):
    """Callbacks of which none hears of the end of a batch.

    Args:
        callbacks: of the user.
        model: they are given it when the training begins, as by Keras: within `fit`.
        epochs, steps: of the training.
    """

    def __init__(self, callbacks: list, model: keras.Model, epochs: int, steps: int | None):
        super().__init__(callbacks, add_history=True, verbose=0, epochs=epochs, steps=steps)
        self._network = model

    def on_train_begin(self, logs: Any = None) -> None:
        self.set_model(self._network)
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


def lightest(callbacks: list, model: keras.Model, arguments: dict[str, Any]) -> list | Unheard:
    """The callbacks of a `fit`, in an `Unheard` where that makes no difference but to the time.

    Args:
        callbacks: of the user, and this package's.
        model: that is trained.
        arguments: of `fit`, by name.
    """
    data = fit_checks.sequence_or_none(arguments.get("x"))
    quiet = arguments.get("verbose", "auto") == 0
    capped = keras.config.max_epochs() or keras.config.max_steps_per_epoch()
    if data is None or not quiet or capped or any(map(_hears, keras.tree.flatten(callbacks))):
        return callbacks
    steps = arguments.get("steps_per_epoch") or data.num_batches
    return Unheard(callbacks, model, arguments.get("epochs", 1), steps)


def _hears(callback: Any) -> bool:
    """Whether a callback has a hook for the end of a batch, in its class or, as `LambdaCallback`, itself."""
    return any(
        getattr(getattr(callback, name, None), "__func__", None)
        is not getattr(keras.callbacks.Callback, name)
        for name in _HEARD
    )
