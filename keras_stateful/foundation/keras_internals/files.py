"""Keras's files, made in memory."""

import io

import keras
from keras.src.saving.saving_lib import H5IOStore, _save_state


def weights_file(model: keras.Model) -> memoryview:
    """What `model.save_weights` writes to a `.weights.h5` file: weights and optimizer.

    HDF5 does not survive a disk that is full: it brings the process down, or leaves a file open. So
    it writes to memory, and Python to the disk.

    Private: `saving_lib.H5IOStore`, which takes an `io.BytesIO`, and `_save_state`. The public
    `save_weights` takes paths only.
    """
    buffer = io.BytesIO()
    store = H5IOStore(buffer, mode="w")
    _save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    return buffer.getbuffer()
