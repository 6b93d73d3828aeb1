"""What batches are made of: inputs, targets and weights, gathered where spans say. NumPy only.

A `StatefulSequence` has the same parts all its life; a `StatefulStream` has, for each window, those
of the documents that its rows are reading.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.batch import Spec, assemble, no_resets
from keras_stateful.data.corpus import Corpus
from keras_stateful.data.fields import Field
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.spans import Spans, place
from keras_stateful.data.targets import Offsets, Target, open_targets
from keras_stateful.data.weights import Weights, open_weights


class Gathered(NamedTuple):
    """The arrays of a batch by name.

    Attributes:
        inputs: by key of the corpus; the key is None where it is no dict.
        targets: by name of the output; the name is None for a single one.
        weights: likewise; None where nothing is weighted.
    """

    inputs: dict[str | None, np.ndarray]
    targets: dict[str | None, np.ndarray]
    weights: dict[str | None, np.ndarray] | None

    def assemble(self, mask: np.ndarray | None) -> tuple:
        """The batch as a model takes it; see `batch.assemble`."""
        return assemble(self.inputs, mask, self.targets, self.weights)


@dataclass(frozen=True)
class Parts:
    """What batches are made of.

    Attributes:
        inputs: what a model reads, by key of the corpus.
        targets: by name of the output.
        weights: the user's own, or None.
    """

    inputs: dict[str | None, Field]
    targets: dict[str | None, Target]
    weights: Weights | None

    @property
    def reach(self) -> int:
        """Time steps that targets look ahead."""
        return max(target.reach for target in self.targets.values())

    @property
    def offsets(self) -> frozenset[int]:
        """How many time steps ahead of the input the targets are, of all outputs."""
        return frozenset(offset for t in self.targets.values() for offset in t.offsets)

    def signature(
        self, rows: int, window: int, boundary: str, *, resets: bool, weighted: bool
    ) -> tuple:
        """A batch with a `Spec` in place of each array."""
        inputs = {k: Spec((rows, window, *f.shape), f.out_dtype) for k, f in self.inputs.items()}
        flags = no_resets(rows, window, boundary)
        mask = Spec(flags.shape, flags.dtype) if resets else None
        specs = {name: target.specs(rows, window) for name, target in self.targets.items()}
        targets = {name: of_targets for name, (of_targets, _) in specs.items()}
        weights = {name: of_weights for name, (_, of_weights) in specs.items()}
        return assemble(inputs, mask, targets, weights if weighted else None)

    def gather(
        self,
        spans: Spans,
        later: Callable[[int], Spans],
        rows: int,
        window: int,
        scale: Callable[[Target], float] | None,
    ) -> Gathered:
        """The arrays of a batch.

        Args:
            spans: what the batch reads.
            later: the spans that stand so many steps later, for targets.
            rows: of the batch.
            window: time steps of the batch.
            scale: weight of a step that counts; None where nothing is weighted.
        """
        inputs = {k: f.batch(spans, rows, window) for k, f in self.inputs.items()}
        targets: dict[str | None, np.ndarray] = {}
        weights: dict[str | None, np.ndarray] = {}
        for name, target in self.targets.items():
            if scale is not None:  # before the targets, which may be missing where these are 0
                weights[name] = target.weights(spans, rows, window, scale(target))
                if self.weights is not None:
                    weights[name] *= self.weights.batch(spans, rows, window)
            # Labels stand at the steps themselves, whatever the offset.
            moved = [spans if o == 0 or target.field is None else later(o) for o in target.offsets]
            targets[name] = target.batch(moved, rows, window, weights.get(name))
            if target.horizon and scale is not None:
                weights[name] = weights[name][..., None]  # see `Target.specs`
        return Gathered(inputs, targets, None if scale is None else weights)


@dataclass
class IdChecks:
    """Checks of ids as they are read.

    Attributes:
        vocabularies: the ids that the model knows, by key of the input.
        classes: the ids that its outputs can be trained on, by name of the output.
    """

    vocabularies: dict[str | None, Vocabulary] = field(default_factory=dict)
    classes: dict[str | None, Classes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.vocabularies or self.classes)

    def check(self, batch: Gathered, parts: Parts, spans: Spans) -> None:
        """Refuses a batch that holds an id that is not allowed.

        Raises:
            ValueError: such an id, with the document and time step that it is read for.
        """
        for key, vocabulary in self.vocabularies.items():
            ids = batch.inputs[key]
            if not vocabulary.holds_all(ids):
                at = place(spans, vocabulary.wrong_steps(ids))
                vocabulary.refuse(parts.inputs[key].name, ids, at)
        for name, classes in self.classes.items():
            targets = batch.targets[name]
            weights = None if batch.weights is None else batch.weights[name]
            wrong = classes.wrong_steps(targets, weights)
            if wrong.any():
                classes.refuse(parts.targets[name].name, targets[wrong], place(spans, wrong))


def open_parts(
    corpus: Corpus,
    raw: Any,
    targets: Any,
    target_offset: Offsets,
    label_at: str,
    sample_weight: Any,
) -> Parts:
    """Reads the arguments that say what a batch holds.

    Args:
        corpus: the corpus.
        raw: what the user gave as corpus.
        targets: what the user gave as targets, and so are `target_offset`, `label_at` and
            `sample_weight`.

    Raises:
        TypeError: something that cannot be a target or a weight.
        ValueError: what does not fit the corpus, or leaves nothing to read.
    """
    weights = None if sample_weight is None else open_weights(corpus, sample_weight)
    opened = open_targets(corpus, raw, targets, target_offset, label_at, weights)
    inputs = {k: corpus.fields[k] for k in _inputs(corpus, targets, opened, sample_weight)}
    for values in inputs.values():
        values.search()
    return Parts(inputs, opened, weights)


def _inputs(corpus: Corpus, raw: Any, targets: dict[str | None, Target], weights: Any) -> list:
    """Keys of the fields that a model reads.

    A field that is a target at the same step would give the answer away; one that is a target of
    later steps is read, too.

    Args:
        corpus: the corpus.
        raw: what the user gave as targets.
        targets: what was read from it.
        weights: what the user gave as weights.

    Raises:
        ValueError: no field is left, or one that is neither ids nor features.
    """
    named = raw.values() if isinstance(raw, dict) else [raw]
    at_same_step = all(0 in target.offsets for target in targets.values())
    left_out = {t for t in named if isinstance(t, str)} if at_same_step else set()
    left_out |= {weights} if isinstance(weights, str) else set()
    chosen = [k for k in corpus.fields if k not in left_out]
    if not chosen:
        raise ValueError(
            f"`targets` takes the only input. Received: targets={raw!r} with a corpus of "
            f"{sorted(map(str, corpus.fields))}. Pass `target_offset=1` to predict the next time "
            "step from the last."
        )
    for key in chosen:
        _check_input(key, corpus.fields[key])
    return chosen


def _check_input(key: str | None, values: Field) -> None:
    """Checks that a field is ids or features, and that its key is free."""
    if key == "resets":
        raise ValueError(
            'The keys of documents name the model\'s inputs, and "resets" is kept for the mask. '
            "Received: key 'resets'. Rename it."
        )
    if not values.shape and values.out_dtype.kind == "f":
        raise ValueError(
            f"`{values.name}` has one number at each time step, and no axis for features. "
            f"Received: an array `(timesteps,)` of {values.dtype}. Give it one, `x[:, None]`, "
            'of shape `(timesteps, 1)`; ids are integers, `x.astype("int32")`.'
        )
