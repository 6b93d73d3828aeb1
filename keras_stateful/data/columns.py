"""Columns of frames by name: batches in the order of columns that a model was trained on.

NumPy only.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from keras_stateful.data.parts import Gathered, Parts
from keras_stateful.foundation.frames import Columns


class ColumnNames(NamedTuple):
    """The columns of frames, in order; None of what was no frame.

    Attributes:
        inputs: by key of the corpus; the key is None where it is no dict.
        targets: by name of the output; the name is None for a single one.
    """

    inputs: dict[str | None, Columns]
    targets: dict[str | None, Columns]


def column_names(parts: Parts) -> ColumnNames:
    """The columns of what batches are made of."""
    return ColumnNames(
        {key: values.columns for key, values in parts.inputs.items()},
        {name: target.columns for name, target in parts.targets.items()},
    )


@dataclass
class ColumnOrder:
    """Where the columns that a model expects stand in the arrays of a batch.

    Attributes:
        inputs: indices into the last axis, by key; keys of arrays that are in order are left out.
        targets: likewise, by name of the output.
    """

    inputs: dict[str | None, np.ndarray] = field(default_factory=dict)
    targets: dict[str | None, np.ndarray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inputs or self.targets)

    def arrange(self, batch: Gathered) -> Gathered:
        """The batch with its columns in that order."""
        return batch._replace(
            inputs=_arranged(batch.inputs, self.inputs),
            targets=_arranged(batch.targets, self.targets),
        )


def _arranged(
    arrays: dict[str | None, np.ndarray], order: dict[str | None, np.ndarray]
) -> dict[str | None, np.ndarray]:
    if not order:
        return arrays
    return {k: array[..., order[k]] if k in order else array for k, array in arrays.items()}
