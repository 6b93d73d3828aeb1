"""From a model's scores to the next id: temperature, top-k, top-p and the draw.

    scores ─▶ weights, the largest 1 ─▶ filtered by top-k ─▶ by top-p ─▶ cumulative sum ─▶ id
                                                                                └─ uniform number

Pure functions of their arguments. Each takes the array namespace `xp` that it computes with: NumPy,
or `keras.ops` inside a compiled loop. The only randomness is one uniform number per row and step,
drawn beforehand from (seed, row) by `row_uniforms`; so the same seed means the same text, a longer
text begins with the shorter one, and row 0 of a batch draws what it would draw alone.

References:
    Top-k: Fan et al. 2018, Hierarchical Neural Story Generation, https://arxiv.org/abs/1805.04833
    Top-p: Holtzman et al. 2020, The Curious Case of Neural Text Degeneration,
    https://arxiv.org/abs/1904.09751
"""

from types import ModuleType

import numpy as np

from keras_stateful.foundation.types import Tensor


def row_uniforms(seed: int, rows: int, length: int) -> np.ndarray:
    """The random numbers of a generation.

    Args:
        seed: non-negative integer.
        rows: how many rows.
        length: how many numbers for each.

    Returns:
        float32 `(rows, length)` in (0, 1]. Row `r` depends on `seed` and `r` alone, and a longer
        row begins with the shorter one.
    """
    # A generator for each row: neither the number of rows nor their order moves a row's numbers.
    draws = [
        np.random.Generator(np.random.PCG64([seed, row])).random(length, dtype="float32")
        for row in range(rows)
    ]
    # From [0, 1) to (0, 1]: `draw` looks for the first id whose cumulative weight reaches a share
    # of the sum, and a share of 0 would be reached by an id of weight 0.
    return np.float32(1.0) - np.stack(draws)


def filtered_weights(
    scores: Tensor,
    temperature: Tensor | float,
    top_k: Tensor | int | None = None,
    top_p: Tensor | float | None = None,
    *,
    from_logits: bool = True,
    xp: ModuleType = np,
) -> Tensor:
    """Weights to draw the next id with: temperature, then top-k, then top-p on what is left.

    Args:
        scores: `(rows, vocabulary)`, float32: logits or probabilities.
        temperature: positive. Logits are divided by it.
        top_k: keeps the `top_k` most likely ids, and those exactly as likely as the last of them.
        top_p: keeps the most likely ids until their probability reaches `top_p`, at least one.
        from_logits: True if `scores` are logits, False if they are probabilities.
        xp: `numpy` or `keras.ops`.

    Returns:
        `(rows, vocabulary)`: proportional to the probabilities, the most likely id at 1, zero where
        filtered out. NaN in a row whose scores are NaN, infinite or all zero.
    """
    if not from_logits:
        # The inner `where` keeps the logarithm away from 0, whose -inf some backends warn of.
        positive = scores > 0
        scores = xp.where(positive, xp.log(xp.where(positive, scores, 1.0)), -float("inf"))
    # Less the largest score: no exponential overflows, and the most likely id has weight 1.
    weights = xp.exp((scores - xp.max(scores, axis=-1, keepdims=True)) / temperature)
    if top_k is None and top_p is None:
        return weights
    falling = -xp.sort(-weights, axis=-1)  # from the largest weight down
    if top_k is not None:
        # Fan et al. 2018: what is below the k-th largest weight goes. A threshold, not a rank, so
        # that ids exactly as likely as the k-th are treated alike.
        least = xp.expand_dims(xp.take(falling, top_k - 1, axis=-1), -1)
        weights = xp.where(weights < least, 0.0, weights)
        falling = xp.where(falling < least, 0.0, falling)
    if top_p is not None:
        # Holtzman et al. 2020, the nucleus: the smallest set of most likely ids whose probability
        # reaches top_p. `upto - falling` is the weight of all ids before; an id stays while these
        # have not reached top_p, so the first one always does.
        upto = xp.cumsum(falling, axis=-1)
        stays = upto - falling < top_p * xp.sum(falling, axis=-1, keepdims=True)
        # The smallest weight that stays is the threshold for the unsorted ones; none is above 1.
        least = xp.min(xp.where(stays, falling, 1.0), axis=-1, keepdims=True)
        weights = xp.where(weights < least, 0.0, weights)
    return weights


def draw(weights: Tensor, uniforms: Tensor, *, xp: ModuleType = np) -> Tensor:
    """Draws one id per row by inverting the cumulative distribution.

    Args:
        weights: `(rows, vocabulary)`, not negative; need not sum to 1.
        uniforms: `(rows,)` in (0, 1].
        xp: `numpy` or `keras.ops`.

    Returns:
        int32 `(rows,)`: never an id of weight zero.
    """
    # The id is the first whose cumulative weight reaches `uniform` of the whole. Backends that sum
    # in parallel may leave the cumulative sum not quite monotone by rounding; so the whole is its
    # largest value, not its last, and ids of weight 0 are left out of both conditions.
    possible = weights > 0
    upto = xp.where(possible, xp.cumsum(weights, axis=-1), 0.0)
    mark = xp.expand_dims(uniforms, -1) * xp.max(upto, axis=-1, keepdims=True)
    reached = xp.logical_and(possible, upto >= mark)
    return _first(reached, xp)


def next_ids(
    scores: Tensor,
    uniforms: Tensor,
    temperature: Tensor | None = None,
    top_k: Tensor | int | None = None,
    top_p: Tensor | float | None = None,
    *,
    from_logits: bool = True,
    xp: ModuleType = np,
) -> Tensor:
    """The next id of each row.

    Args:
        scores: float32 `(rows, vocabulary)`: logits or probabilities.
        uniforms: float32 `(rows,)` in (0, 1]; not used where `temperature` is None.
        temperature: positive, or None for the most likely id (the first of several).
        top_k: as in `filtered_weights`.
        top_p: as in `filtered_weights`.
        from_logits: as in `filtered_weights`.
        xp: `numpy` or `keras.ops`.

    Returns:
        int32 `(rows,)`; -1 where the scores are NaN or infinite, or probabilities that do not sum
        to 1.
    """
    if temperature is None and from_logits and xp is np:
        return _largest(scores)
    with np.errstate(invalid="ignore"):  # unusable scores give NaN, which is looked for below
        weights = filtered_weights(
            scores,
            1.0 if temperature is None else temperature,
            top_k,
            top_p,
            from_logits=from_logits,
            xp=xp,
        )
    if temperature is None:
        ids = _first(scores >= xp.max(scores, axis=-1, keepdims=True), xp)
    else:
        ids = draw(weights, uniforms, xp=xp)
    usable = xp.sum(weights, axis=-1) > 0  # of NaN, this is False
    if not from_logits:
        # Half precision may miss a sum of 1 by some per cent; logits miss it by far more.
        sums_to_1 = xp.absolute(xp.sum(scores, axis=-1) - 1.0) < 0.1
        usable = xp.logical_and(usable, xp.logical_and(sums_to_1, xp.min(scores, axis=-1) >= 0))
    return xp.where(usable, ids, xp.full_like(ids, -1))


def _largest(scores: np.ndarray) -> np.ndarray:
    """int32 `(rows,)`: the most likely id, without a weight being computed; -1 for NaN."""
    ids = np.argmax(scores, axis=-1)  # NumPy's finds NaN first
    usable = np.isfinite(scores[np.arange(len(ids)), ids])
    return np.where(usable, ids, -1).astype("int32")


def _first(mask: Tensor, xp: ModuleType) -> Tensor:
    """int32 `(rows,)`: the first True of each row."""
    if xp is np:
        return np.argmax(mask, axis=-1).astype("int32")
    return xp.cast(xp.argmax(xp.cast(mask, "int32"), axis=-1), "int32")
