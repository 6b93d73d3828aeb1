"""Prepare a corpus too large for one machine with Apache Beam, then read it without loading it.

    # In an environment of its own, see below; here with Beam's local runner:
    pip install apache-beam tensorflow-datasets importlib_resources array-record
    python examples/beam_corpus.py prepare --texts 'books/*.txt' --output corpus
    # On Google's machines:
    python examples/beam_corpus.py prepare --texts 'gs://b/*.txt' --output gs://b/corpus \\
        --beam runner=DataflowRunner project=P

    # On JAX; needs no Beam:
    python examples/beam_corpus.py train --output corpus

`prepare` turns every text file into one record of ids, in shards of ArrayRecord that can be read by
index. Beam reads, encodes and writes the files in parallel, on as many machines as its runner has.
`train` hands the records to a `StatefulSequence` as they are: a document is read when a row of the
batch comes to it.

Beam 2.77 wants protobuf 6 and would replace the 7 that keras_stateful's extras bring: prepare in an
environment of its own.
"""

import argparse
import os
import time
from pathlib import Path

import tensorflow_datasets as tfds

os.environ.setdefault("KERAS_BACKEND", "jax")

BATCH_SIZE, WINDOW = 16, 64


def main() -> None:
    options = parse_options()
    if options.command == "prepare":
        prepare(options)
    else:
        train(options)


class Texts(tfds.core.BeamBasedBuilder):
    """Text files, one document each."""

    name = "texts"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, texts: str, **kwargs):
        self.texts = texts
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {"file": tfds.features.Text(), "text": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(builder=self, description="Text files.", features=features)

    def _split_generators(self, dl_manager) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        import apache_beam as beam
        from apache_beam.io import fileio

        return (
            fileio.MatchFiles(self.texts)
            | fileio.ReadMatches()
            | beam.Map(lambda file: (file.metadata.path, file.read_utf8()))
            | beam.Filter(
                lambda named: len(named[1]) > 1
            )  # a document needs a time step that has a next one
            | beam.Map(lambda named: (named[0], {"file": named[0], "text": named[1]}))
        )


def prepare(options: argparse.Namespace) -> None:
    """Runs the pipeline; the corpus lies in `output`/texts/1.0.0 then."""
    from apache_beam.options.pipeline_options import PipelineOptions

    builder = Texts(options.texts, data_dir=options.output)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            beam_options=PipelineOptions([f"--{option}" for option in options.beam]),
            try_download_gcs=False,
        )
    )
    split = builder.info.splits["train"]
    print(
        f"{split.num_examples} documents in {split.num_shards} shards, {split.num_bytes:,} bytes: "
        f"{builder.data_path}"
    )


def train(options: argparse.Namespace) -> None:
    import backend
    import keras
    import numpy as np

    from keras_stateful import StatefulSequence, to_stateful

    backend.say()
    folder = sorted(Path(options.output).glob("texts/*"))[-1]
    source = tfds.builder_from_directory(folder).as_data_source("train")
    start = time.perf_counter()
    sequence = StatefulSequence(
        source,
        BATCH_SIZE,
        WINDOW,
        encode=lambda document: np.frombuffer(document["text"], "uint8"),
        max_document_length="auto",
        shuffle=True,
        resets=True,
    )
    seconds = time.perf_counter() - start
    print(
        f"{len(source)} documents in {len(sequence)} batches; their lengths were read in "
        f"{seconds:.1f} s"
    )

    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(256, 32),
            keras.layers.LSTM(128, return_sequences=True),
            keras.layers.Dense(256),
        ]
    )
    model = to_stateful(network, sequence)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(sequence, epochs=options.epochs, steps_per_epoch=options.steps)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="write the corpus; needs apache-beam")
    preparing.add_argument(
        "--texts", required=True, help="pattern of UTF-8 text files, one document each"
    )
    preparing.add_argument(
        "--beam", nargs="*", default=[], metavar="OPTION", help="as runner=DataflowRunner"
    )
    training = commands.add_parser("train", help="read it; needs keras_stateful and a backend")
    training.add_argument("--epochs", type=int, default=1)
    training.add_argument("--steps", type=int, help="of an epoch; all by default")
    for command in (preparing, training):
        command.add_argument("--output", required=True, help="folder of the corpus")
    return parser.parse_args()


if __name__ == "__main__":
    main()
