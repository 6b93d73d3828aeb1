"""What this package's callbacks have in common: their model, and their place among the others of a
`fit`.
"""

from typing import Any

import keras


class ModelCallback(keras.callbacks.Callback):
    """A callback that holds its model as `_network`.

    On JAX, each look at `Callback.model` brings all variables back from the compiled step, which is
    slow.
    """

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._network = model


def check_readers_come_after(
    writer: Any, arguments: dict[str, Any], prefix: str | None = None
) -> None:
    """Refuses a callback that reads the logs and stands before the one that writes into them.

    Args:
        writer: the callback that writes.
        arguments: of the running `fit`, by name.
        prefix: how the names begin that nobody else writes; None where others write names of that
            kind too.

    Raises:
        ValueError: a `CSVLogger`, a `TensorBoard` or, with `prefix`, a callback that monitors such
            a name, before `writer`.
    """
    callbacks = getattr(arguments.get("callbacks"), "callbacks", [])
    for callback in callbacks[: callbacks.index(writer)] if writer in callbacks else []:
        monitor = str(getattr(callback, "monitor", ""))
        monitors = prefix is not None and monitor.startswith(prefix)
        if monitors or isinstance(
            callback, (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard)
        ):
            name, own = type(callback).__name__, type(writer).__name__
            what = (
                ""
                if prefix is None
                else f" (monitor={monitor!r})"
                if monitors
                else " (reads the logs)"
            )
            raise ValueError(
                f"`{name}` would not see what `{own}` writes into the logs. Received: callbacks in "
                f"which {name}{what} stands first. Keras calls them in order: "
                f"`callbacks=[{own}(...), {name}(...)]`."
            )
