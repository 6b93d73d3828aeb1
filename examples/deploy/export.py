"""Trains a small character model on Python's help topics and exports it for the clients in this
folder.

    cd examples/deploy && npm install
    python export.py exported            # trains for a minute or so; --smoke: for seconds
    node write.mjs exported "The " 200   # greedy: the text that this script prints
    python -m http.server                # then open http://localhost:8000

The clients read the exported directory alone: artifact, states, initial values and characters are
in its manifest.
"""

import argparse
from pydoc_data.topics import topics

import keras
import numpy as np

from keras_stateful import StatefulSequence, export_step_model, generate, load_session, to_stateful


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", help="where to write; must not exist")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, in seconds")
    parser.add_argument("--prompt", default="The ")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)

    texts = [text for text in topics.values() if len(text) > 1000][: 12 if options.smoke else None]
    characters = "".join(sorted(set("".join(texts))))
    ids = {character: i for i, character in enumerate(characters)}
    documents = [np.array([ids[character] for character in text], "int32") for text in texts]

    sequence = StatefulSequence(
        documents, 16, 64, max_document_length="auto", shuffle=True, seed=0, resets=True
    )
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(len(characters), 32),
            keras.layers.LSTM(48 if options.smoke else 192, return_sequences=True),
            keras.layers.Dense(len(characters)),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile(
        keras.optimizers.Adam(0.02 if options.smoke else 0.005),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(sequence, epochs=8 if options.smoke else 4)

    export_step_model(model, options.directory, metadata={"characters": characters}, verbose=0)
    prompt = [ids[character] for character in options.prompt]
    with load_session(options.directory) as session:
        text = generate(session, prompt, 200, temperature=0)
    print("".join(characters[i] for i in text))


if __name__ == "__main__":
    main()
