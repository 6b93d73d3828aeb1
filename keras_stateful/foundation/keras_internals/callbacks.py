"""What Keras's own callbacks remember from step to step, which none of them gives away.

Private: the attributes named here. Callbacks have no `get_state` and `set_state`.
"""

import os
from pathlib import Path

import keras

from keras_stateful.foundation.types import CallbackState

# By class, the attributes that hold what a callback remembers. Those with none remember nothing, or
# make it anew when training begins. `CSVLogger` has a file beside them.
CALLBACK_MEMORY: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.CSVLogger: ("keys",),
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.History: ("history", "epoch"),
    keras.callbacks.LambdaCallback: (),
    keras.callbacks.LearningRateScheduler: (),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.ProgbarLogger: ("target",),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.RemoteMonitor: (),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: (
        "_global_train_batch",
        "_global_test_batch",
        "_previous_epoch_iterations",
    ),
    keras.callbacks.TerminateOnNaN: (),
}


def get_memory(callback: keras.callbacks.Callback) -> CallbackState:
    """What a callback of one of these classes remembers, by name."""
    names = CALLBACK_MEMORY[type(callback)]
    memory = {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    if isinstance(callback, keras.callbacks.TensorBoard):  # which counts in tensors
        memory = {name: int(keras.ops.convert_to_numpy(value)) for name, value in memory.items()}
    if isinstance(callback, keras.callbacks.CSVLogger):
        callback.csv_file.flush()
        memory["file"] = Path(callback.filename).read_bytes().decode()
    return memory


def set_memory(callback: keras.callbacks.Callback, memory: CallbackState) -> None:
    """Gives a callback back what `get_memory` gave, when training has begun."""
    for name in CALLBACK_MEMORY[type(callback)]:
        if name in memory:
            setattr(callback, name, memory[name])
    if isinstance(callback, keras.callbacks.CSVLogger):
        _rewrite_log(callback, memory["file"])


def _rewrite_log(logger: keras.callbacks.CSVLogger, text: str) -> None:
    """Replaces the file of a `CSVLogger`; training writes lines that came later once more.

    Private: `csv_file`, `writer`, `append_header`.
    """
    logger.csv_file.close()
    beside = Path(f"{logger.filename}.resumed")  # renamed, so that no half-written file is left
    beside.write_bytes(text.encode())
    os.replace(beside, logger.filename)
    logger.csv_file = Path(logger.filename).open("a", encoding="utf-8")  # noqa: SIM115
    # Without a writer, the logger makes one for the new file, and writes the header if it is empty.
    logger.writer, logger.append_header = None, not text
