"""Checks of what a `StatefulSequence` is made from: its arguments, and whether they leave a batch.

NumPy only.
"""

import operator
import warnings
from collections.abc import Collection

import numpy as np

from keras_stateful.data.corpus import Corpus
from keras_stateful.data.inputs import Read
from keras_stateful.data.layout import AT_ENDS
from keras_stateful.data.parts import Parts
from keras_stateful.data.plan import Plan, Settings
from keras_stateful.foundation.arguments import whole_number


def checked_shard(shard: tuple[int, int], rows: int) -> tuple[int, int]:
    """Reads `shard`: an index below a count that divides the rows."""
    try:
        index, count = (operator.index(n) for n in shard)
    except (TypeError, ValueError):
        raise TypeError(
            f"`shard` must be a pair of ints, (index, count). Received: shard={shard!r}."
        ) from None
    if not 0 <= index < count:
        raise ValueError(
            "`shard` must be (index, count) with 0 <= index < count. Received: "
            f"shard={shard!r}. The first of four shards is (0, 4), the last (3, 4)."
        )
    if rows % count:
        raise ValueError(
            f"`batch_size` counts the rows of all shards and must divide among them. Received: "
            f"batch_size={rows}, shard={shard!r}. Take a multiple of {count}."
        )
    return index, count


def checked_stride(stride: int | None, window: int) -> int | None:
    """Reads `stride`; None where windows do not overlap."""
    if stride is None:
        return None
    stride = whole_number("stride", stride, 1, alternative="or None", unit="time steps")
    if stride > window:
        raise ValueError(
            "`stride` is at most `sequence_length`: no step may be left out between windows, since "
            f"the state must have read it. Received: stride={stride}, sequence_length={window}. "
            "To leave steps out of the loss, give them weight 0 (`sample_weight=`)."
        )
    return stride if stride < window else None


def readable_lengths(parts: Parts, corpus: Corpus) -> np.ndarray:
    """Time steps of each document that have all their inputs and targets."""
    lengths = parts.readable(corpus.lengths)
    short = np.flatnonzero(lengths < 1)
    if not len(short):
        return lengths
    i, whole, reach = int(short[0]), corpus.lengths, parts.target_reach
    if whole[i] > reach:
        ahead = {v.name: max(v.offsets) for v in parts.inputs.values() if isinstance(v, Read)}
        name = max(ahead, key=lambda key: ahead[key])
        raise ValueError(
            f"A document needs at least one time step whose known-ahead input stands "
            f"{ahead[name]} later. Received: document {i} of {whole[i]} time steps ({len(short)} "
            f"such in all), `{name}` read up to {ahead[name]} later. Give it more values of "
            f"`{name}`: what is known ahead may go on behind the last step of the document."
        )
    raise ValueError(
        f"A document needs at least one time step with a target {reach} later. "
        f"Received: document {i} of {whole[i]} time steps ({len(short)} "
        f"such in all), target_offset up to {reach}. Leave such documents out, `[d "
        f"for d in documents if len(d) > {reach}]`, or take a smaller "
        "`target_offset`."
    )


def check_cutting(limit: int | str | None, corpus: Corpus) -> None:
    """Refuses `max_document_length` beside boundary="ignore"."""
    if limit is None:
        return
    if corpus.continuous:
        raise ValueError(
            '`max_document_length` cuts documents, and boundary="ignore" knows none. Received: '
            f'max_document_length={limit!r}. Leave it out, or use boundary="align".'
        )
    raise ValueError(
        'boundary="ignore" joins all documents and cuts nothing. Received: '
        f'max_document_length={limit!r}. Leave it out, or use boundary="align" or "pack".'
    )


def check_drawing(
    shuffle: bool,
    shift_windows: bool,
    *,
    boundary: str,
    text: int | None,
    seed: int | None,
    shard: tuple[int, int],
) -> None:
    """Refuses layouts that could not be drawn anew in each epoch, or by each shard otherwise.

    Args:
        shuffle: as in `StatefulSequence`, and so are `shift_windows`, `seed` and `shard`.
        boundary: likewise, but "ignore" for one text too.
        text: time steps of one text; None of documents.
    """
    if shuffle and text is not None:
        raise ValueError(
            "`shuffle=True` deals documents anew, and one array is one document. Received: "
            f"shuffle=True with an array of {text} time steps. Leave it "
            "out, pass `max_document_length=` to cut it into pieces, or "
            "`shift_windows=True` to move the edges of windows between epochs."
        )
    if shift_windows and boundary == "align":
        raise ValueError(
            '`shift_windows=True` cannot be with boundary="align", where each document begins '
            'a window. Received: shift_windows=True, boundary="align". Use boundary="pack".'
        )
    if seed is None and shard[1] > 1 and (shuffle or shift_windows):
        raise ValueError(
            f"Shards must draw the same layout. Received: shard={shard}, "
            f"shuffle={shuffle}, shift_windows={shift_windows}, seed=None. Pass the "
            "same `seed=` to every shard."
        )


def check_one_document(keys: Collection[str], boundary: str, continuous: bool) -> None:
    """Refuses static inputs without a time axis where a window holds several documents.

    Args:
        keys: of these inputs.
        boundary: as in `StatefulSequence`.
        continuous: True if the corpus is one text.
    """
    if not keys or boundary == "align" or continuous:
        return
    key = min(keys)
    raise ValueError(
        f"The static input {key!r} has no time axis, and a window may hold several documents. "
        f'Received: boundary="{boundary}", static={sorted(keys)}. Make the data with '
        'boundary="align", or give the input a time axis, along which it is repeated: '
        f"`keras.Input((None, ...), name={key!r})`."
    )


def check_plan(
    plan: Plan,
    parts: Parts,
    corpus: Corpus,
    settings: Settings,
    lengths: np.ndarray,
    left_out: str,
) -> None:
    """Refuses a layout without a batch, or without a step to train on.

    Args:
        plan: the layouts.
        parts: what batches are made of.
        corpus: the corpus.
        settings: of the plan.
        lengths: time steps to read of each document.
        left_out: `burn_in`, or `start` of an evaluation, as the user passed it.
    """
    if settings.boundary == "ignore" and plan.num_batches < 1:
        raise _too_short(parts.reach, corpus, settings)
    layout = plan.layout(0)
    for target in parts.targets.values():
        if layout.counted(target.label_at) == 0:
            name = left_out.partition("=")[0]
            raise ValueError(
                f"`{name}` leaves no step that counts. Received: {left_out}, the longest document "
                f"of {lengths.max()} time steps with a target. Take a smaller `{name}`."
            )


def check_ends(plan: Plan, left_out: str) -> None:
    """Refuses a layout in which no window's last step counts, and tells of documents without one.

    For a model that has an output there alone; `left_out` as for `check_plan`.
    """
    settings, deal = plan.settings, plan.deal
    short = f"sequence_length={settings.window}"
    if plan.layout(0).counted(AT_ENDS) == 0:
        raise ValueError(
            "With one output for each window only windows that are filled count, and "
            f"none is. Received: {short}, {left_out}, the longest document of "
            f"{plan.lengths.max()} time steps with a target. Take a smaller `sequence_length`."
        )
    if settings.boundary != "align" or deal is None:
        return
    missing = np.unique(deal.pieces.document[deal.pieces.steps < settings.window])
    if len(missing):
        warnings.warn(
            "With one output for each window only windows that are filled count. "
            f"Received: {short}, {len(missing)} of {len(plan.lengths)} documents (or their last "
            f"pieces) without such a window, the first of them document {missing[0]}. Take a "
            "smaller `sequence_length`, or give the last recurrent layer `return_sequences=True`: "
            'the last real step of each "window" is then trained on.',
            UserWarning,
            stacklevel=2,
        )


def _too_short(reach: int, corpus: Corpus, settings: Settings) -> ValueError:
    """The error for one text that has no window for each row."""
    rows, window = settings.rows, settings.window
    total = int(corpus.lengths.sum())
    spare = reach + (window - 1 if settings.shift_windows else 0)
    fitting = (total - spare) // window
    fewer = f"batch_size={fitting} or less, " if fitting > 0 else ""
    shape = next(iter(corpus.fields.values())).shape
    listed = (
        f" If the first axis counts documents, pass `list(x)`: {total} documents of "
        f"{shape[0]} time steps."
        if corpus.continuous and shape and shape[0] > 1
        else ""
    )
    return ValueError(
        f"The corpus is shorter than one window for each row. Received: {total} time steps, "
        f"batch_size={rows}, sequence_length={window}, which need {rows * window + spare}. "
        f"Take {fewer}a shorter window, or more data.{listed}"
    )
