"""A training as a user's script, to be killed and started again: `python killed.py BACKUP OUT`.

It prints "step" when a step begins, and writes the losses and the history that it ends with.
"""

import json
import sys
import time

import resumed_trainings as resume

import keras_stateful as ks


class Slow(resume.Losses):
    """Leaves time to be killed in: 10 ms a step."""

    def on_train_batch_begin(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.01)


if __name__ == "__main__":
    backup, out = sys.argv[1:]
    data, model, _ = resume.make("align")
    losses = Slow()
    history = model.fit(
        data,
        epochs=resume.EPOCHS,
        verbose=0,
        callbacks=[losses, ks.ResumeTraining(backup, data, 1)],
    )
    result = {"losses": losses.seen, "history": history.history}
    with open(out, "w") as file:
        json.dump(result, file)
