"""What a model remembers of the data that it was trained on.

A model knows features by their place alone, and nothing of time. So what it reads later is put in
the order of its training's columns, read as far ahead, and scored on the time steps that its
outputs were trained to give; and `generate` feeds back what is the next value of an input and
nothing else. How inputs are read stays as the first training had it, since it is a part of their
meaning. What the outputs are, the last training decides: one on arrays of one's own leaves it
unknown.
"""

from dataclasses import dataclass, field

from keras_stateful.data.offsets import read_offsets


@dataclass(frozen=True)
class TrainedOn:
    """Plain lists and text, as a file of the model has them.

    Attributes:
        inputs: the columns of frames, by name of the input, "" for a single one. Names that are no
            text are remembered as what they print.
        targets: likewise, by name of the output.
        offsets: how many time steps later each input of a dict was read, by its name: 0 at the step
            itself, 1 and more what is known ahead.
        target_offset: how many time steps ahead of the input the targets were; None where nobody
            knows.
        has_targets: True if there were targets other than the corpus.
        series: the input whose next value the output is, "" for the only one; None where nobody
            knows, or it is none.
    """

    inputs: dict[str, list[str]] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    offsets: dict[str, list[int]] = field(default_factory=dict)
    target_offset: int | list[int] | None = None
    has_targets: bool = False
    series: str | None = None

    @property
    def steps_ahead(self) -> tuple[int, ...]:
        """How many time steps ahead of the input the outputs are; empty where nobody knows."""
        return () if self.target_offset is None else read_offsets(self.target_offset, 0)[0]

    @property
    def known_ahead(self) -> dict[str, list[int]]:
        """How many time steps later each known-ahead input was read, by its name."""
        return {key: offsets for key, offsets in self.offsets.items() if max(offsets)}
