"""Which files hold a model of this package, and what they say of its training."""

from dataclasses import asdict
from os import PathLike
from typing import Any

import keras

from keras_stateful.data.trained_on import TrainedOn
from keras_stateful.foundation import keras_internals
from keras_stateful.foundation.protocols import is_legacy_file, legacy_file_refused
from keras_stateful.training.model_memory import remember, trained_on


class KerasFiles(keras.Model):
    """A model of this package's: it is saved in `.keras` files, which load on every backend.

    Args:
        trained_on: what it remembers of its training, as `get_config` gives it.
        *args, **kwargs: as for a Functional model.
    """

    def __init__(self, *args: Any, trained_on: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        remember(self, TrainedOn(**(trained_on or {})))

    def save(self, filepath: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """`keras.Model.save`, to a `.keras` file; an HDF5 file could not be loaded."""
        if is_legacy_file(filepath):
            raise legacy_file_refused("filepath", filepath)
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The configuration; not for a `.h5` file that is written past `save`."""
        if keras_internals.is_writing_legacy_file():
            raise legacy_file_refused("filepath", "*.h5")
        return {**super().get_config(), "trained_on": asdict(trained_on(self))}

    def get_compile_config(self) -> dict[str, Any] | None:
        """What a file says of `compile`; how a step is compiled, each backend decides for itself.

        Keras writes down what "auto" came to: True on JAX, which is slow elsewhere.
        """
        config = super().get_compile_config()
        if config and config.get("jit_compile") == keras_internals.jit_by_default(self):
            config["jit_compile"] = "auto"
        return config
