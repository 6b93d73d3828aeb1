"""A frame of readings as the sequences of a forecaster, split where it may look no further.

    frame ─▶ series: rows by group and time ─▶ time_steps: each one step after the other
                │
                ├─▶ columns: inputs, targets, weights ─┐
                └─▶ splits: training, validation, test ┴─▶ sequences: a `StatefulSequence` for each

It says nothing that the arguments of `StatefulSequence` could not: what it makes of a frame are
documents, targets some steps later, and how many steps of each document are burnt in. NumPy only.
"""

from keras_stateful.data.frames.forecasts import Forecasts, FrameSequences
from keras_stateful.data.frames.sequences import FromFrame

__all__ = ["Forecasts", "FrameSequences", "FromFrame"]
