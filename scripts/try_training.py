"""What users do with the installed package: train, evaluate, convert, generate, save, load, resume.

`scripts/package.py` runs this where the package and one backend are installed, and nothing else. It
writes to the working directory.
"""

from importlib.metadata import version
from importlib.util import find_spec

import keras
import numpy as np

import keras_stateful as ks

others = {"jax", "tensorflow", "torch"} - {keras.backend.backend()}
assert not [name for name in others if find_spec(name)], "another backend is installed"
assert "site-packages" in ks.__file__, f"not the installed package: {ks.__file__}"
assert ks.__version__ == version("keras-stateful")

IDS = 11
documents = [np.arange(length) % IDS for length in (40, 25, 31)]
sequence = ks.StatefulSequence(documents, batch_size=2, sequence_length=8, resets=True)
network = keras.Sequential(
    [
        keras.Input((None,), dtype="int32"),
        keras.layers.Embedding(IDS, 4),
        keras.layers.LSTM(8, return_sequences=True),
        keras.layers.Dense(IDS),
    ]
)
model = ks.to_stateful(network, sequence)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.1), loss)
resume = ks.ResumeTraining("backup", sequence)
losses = model.fit(sequence, epochs=6, callbacks=[resume], verbose=0).history["loss"]
assert losses[-1] < losses[0] / 2, losses

scores = ks.evaluate_documents(model, documents, verbose=0)["loss"]
assert scores.shape == (3,)
assert np.isfinite(scores).all()

model.save("model.keras")
inference = ks.to_inference(keras.models.load_model("model.keras"))
text = documents[0][None]
whole = ks.to_stateless(model).predict(text, verbose=0)
in_two = [inference.predict(part, verbose=0) for part in (text[:, :15], text[:, 15:])]
np.testing.assert_allclose(np.concatenate(in_two, axis=1), whole, atol=1e-5)
ks.save_states("states.npz", ks.get_states(inference))
ks.set_states(inference, ks.load_states("states.npz"))

written = ks.generate(inference, [0, 1, 2], 5, temperature=0)
assert written.shape == (5,)
print(f"{keras.backend.backend()}: trained, evaluated, saved, loaded, wrote {written.tolist()}")
