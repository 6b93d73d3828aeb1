"""What batches are made of: inputs, targets and weights, gathered where spans say. NumPy only.

A `StatefulSequence` has the same parts all its life; a `StatefulStream` has, for each window, those
of the documents that its rows are reading.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from keras_stateful.data.batch import Spec, assemble, no_resets
from keras_stateful.data.corpus import Corpus
from keras_stateful.data.fields import Field, same_values
from keras_stateful.data.ids import Classes, Vocabulary
from keras_stateful.data.inputs import (
    Input,
    KnownAhead,
    Read,
    Static,
    StaticInputs,
    offsets_ahead,
    open_static,
)
from keras_stateful.data.offsets import Offsets
from keras_stateful.data.spans import Spans, place
from keras_stateful.data.targets import Target, open_targets
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

    def assemble(self, mask: np.ndarray | None, *, at_ends: bool = False) -> tuple:
        """The batch as a model takes it; see `batch.assemble`.

        Args:
            mask: the reset mask, where it rides along.
            at_ends: True for targets and weights at the last step of windows alone.
        """
        targets, weights = self.targets, self.weights
        if at_ends:
            targets = {name: array[:, -1] for name, array in targets.items()}
            if weights is not None:
                weights = {name: array[:, -1] for name, array in weights.items()}
        return assemble(self.inputs, mask, targets, weights)

    def handed_once(self, keys: Collection[str | None]) -> "Gathered":
        """The batch with what these inputs have at the first step of each row, `(rows, ...)`."""
        if not keys:
            return self
        inputs = {k: array[:, 0] if k in keys else array for k, array in self.inputs.items()}
        return self._replace(inputs=inputs)


@dataclass(frozen=True)
class Parts:
    """What batches are made of.

    Attributes:
        inputs: what a model reads, by key of the corpus.
        targets: by name of the output.
        weights: the user's own, or None.
    """

    inputs: dict[str | None, Input]
    targets: dict[str | None, Target]
    weights: Weights | None

    def read_as(self, target: Field | None) -> str | None:
        """The name of the input whose values a target has, some steps later; None of other ones."""
        inputs = [values for values in self.inputs.values() if isinstance(values, Read)]
        return next((values.name for values in inputs if values.field is target), None)

    @property
    def read(self) -> list[Input | Field]:
        """All that is read for a batch, but for labels and weights of whole documents."""
        fields = [target.field for target in self.targets.values()]
        fields.append(None if self.weights is None else self.weights.field)
        return [*self.inputs.values(), *(field for field in fields if field is not None)]

    @property
    def reach(self) -> int:
        """Time steps that targets and known-ahead inputs look ahead."""
        return max(self.target_reach, *(max(values.offsets) for values in self.inputs.values()))

    @property
    def target_reach(self) -> int:
        """Time steps that targets look ahead."""
        return max(target.reach for target in self.targets.values())

    @property
    def static_shapes(self) -> dict[str, tuple]:
        """Shapes of what static inputs have for one document, by key."""
        static = {k: v.shape for k, v in self.inputs.items() if isinstance(v, Static)}
        return {key: shape for key, shape in static.items() if key is not None}

    @property
    def input_offsets(self) -> dict[str, tuple[int, ...]]:
        """How many time steps later each input of a dict is read: 0 what is not known ahead."""
        read = {k: v.offsets for k, v in self.inputs.items() if isinstance(v, Read)}
        return {key: offsets for key, offsets in read.items() if key is not None}

    @property
    def series(self) -> str | None:
        """The input whose next value is predicted, "" for the only one; None where none is."""
        (target, *others) = self.targets.values()
        if others or target.offsets != (1,) or target.field is None:
            return None
        for key, values in self.inputs.items():
            if not isinstance(values, Read) or values.offsets != (0,):
                continue
            if same_values(values.field, target.field):
                return key or ""
        return None

    def readable(self, lengths: np.ndarray) -> np.ndarray:
        """How many of so many time steps of each document have all inputs and targets; 0 or less.

        A document may have known-ahead inputs behind its last step.
        """
        steps = lengths - self.target_reach
        for values in self.inputs.values():
            steps = np.minimum(steps, values.readable(lengths))
        return steps

    @property
    def target_offset(self) -> int | list[int]:
        """How many time steps later targets stand, as the argument says it."""
        target = next(iter(self.targets.values()))  # alike in all targets
        return list(target.offsets) if target.horizon else target.offsets[0]

    def signature(
        self,
        rows: int,
        window: int,
        boundary: str,
        *,
        resets: bool,
        weighted: bool,
        once: Collection[str | None],
        at_ends: bool,
    ) -> tuple:
        """A batch with a `Spec` in place of each array.

        Args:
            once: keys of inputs that are handed once for each row and not for each time step.
        """
        inputs = {
            key: values.spec(rows, window).of_step() if key in once else values.spec(rows, window)
            for key, values in self.inputs.items()
        }
        flags = no_resets(rows, window, boundary)
        mask = Spec(flags.shape, flags.dtype) if resets else None
        specs = {
            name: tuple(spec.of_step() if at_ends else spec for spec in target.specs(rows, window))
            for name, target in self.targets.items()
        }
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
        moved = {0: spans}  # what stands so many steps later; inputs and targets may share it

        def at(steps: int) -> Spans:
            if steps not in moved:
                moved[steps] = later(steps)
            return moved[steps]

        inputs = {key: values.batch(at, rows, window) for key, values in self.inputs.items()}
        targets: dict[str | None, np.ndarray] = {}
        weights: dict[str | None, np.ndarray] = {}
        for name, target in self.targets.items():
            if scale is not None:  # before the targets, which may be missing where these are 0
                weights[name] = target.weights(spans, rows, window, scale(target))
                if self.weights is not None:
                    weights[name] *= self.weights.batch(spans, rows, window)
            # Labels stand at the steps themselves, whatever the offset.
            offsets = (0,) if target.field is None else target.offsets
            at_offsets = [at(offset) for offset in offsets]
            targets[name] = target.batch(at_offsets, rows, window, weights.get(name))
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
                target = parts.targets[name]
                text = parts.read_as(target.field)
                named = replace(classes, of_text=text is not None)
                named.refuse(text or target.name, targets[wrong], place(spans, wrong))


def open_parts(
    corpus: Corpus,
    raw: Any,
    targets: Any,
    target_offset: Offsets,
    label_at: str,
    sample_weight: Any,
    known_ahead: KnownAhead = None,
    static: StaticInputs = None,
) -> Parts:
    """Reads the arguments that say what a batch holds.

    Args:
        corpus: the corpus.
        raw: what the user gave as corpus.
        targets: what the user gave as targets, and so are `target_offset`, `label_at`,
            `sample_weight`, `known_ahead` and `static`.

    Raises:
        TypeError: something that cannot be a target or a weight.
        ValueError: what does not fit the corpus, or leaves nothing to read.
    """
    weights = None if sample_weight is None else open_weights(corpus, sample_weight)
    opened = open_targets(corpus, raw, targets, target_offset, label_at, weights)
    keys = _inputs(corpus, targets, opened, sample_weight)
    several = next(iter(opened.values())).offsets  # alike in all targets
    ahead = offsets_ahead(known_ahead, corpus, several)
    _check_ahead(corpus, ahead, keys, opened)
    inputs: dict[str | None, Input] = {
        key: Read(corpus.fields[key], ahead.get(key or "", (0,))) for key in keys
    }
    for values in inputs.values():
        values.search()
    return Parts({**inputs, **open_static(static, corpus)}, opened, weights)


def _check_ahead(
    corpus: Corpus,
    ahead: Collection[str],
    keys: Collection[str | None],
    targets: dict[str | None, Target],
) -> None:
    """Refuses what is known ahead and no input, or is what shall be predicted.

    Args:
        corpus: the corpus.
        ahead: keys that are known ahead.
        keys: of the inputs.
        targets: by name of the output.
    """
    fields = [target.field for target in targets.values()]
    for key in ahead:
        if any(same_values(corpus.fields[key], field) for field in fields if field is not None):
            raise ValueError(
                "A `known_ahead` input is read at the step that is predicted, and there is no "
                f"task where it is the target itself. Received: known_ahead of {key!r}, which is "
                f"also what is predicted. Leave {key!r} out of `known_ahead`: as a plain input it "
                "is read up to the present step."
            )
        if key not in keys:
            raise ValueError(
                f"`known_ahead` names inputs. Received: {key!r}, which is no input: it is the "
                "target or the weight. Leave it out of `known_ahead`."
            )


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
