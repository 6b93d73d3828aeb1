"""A character n-gram with Witten-Bell smoothing: what a network has to beat.

Probability of the id c after the context h, with h' the context less its oldest id:

    p(c | h) = (count(h c) + kinds(h) * p(c | h')) / (count(h) + kinds(h))

where kinds(h) is the number of different ids that followed h in training; before the empty context
every id is equally likely. Contexts never reach across the start of a document.

Reference: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37
    (1991).
"""

from collections.abc import Iterable

import numpy as np


class WittenBell:
    """An interpolated Witten-Bell n-gram over ids `0 .. vocabulary_size - 1`.

    Args:
        documents: Arrays of ids, each `(timesteps,)`, to count in.
        vocabulary_size: Number of different ids.
        order: Length of the n-gram: `order - 1` ids are context.
    """

    def __init__(
        self, documents: Iterable[np.ndarray], vocabulary_size: int, order: int = 5
    ) -> None:
        if (vocabulary_size + 1) ** order > np.iinfo(np.int64).max:
            raise ValueError(
                f"A {order}-gram of {vocabulary_size} ids does not fit in 64 bits: take a lower "
                "order."
            )
        self.vocabulary_size = vocabulary_size
        self.order = order
        documents = list(documents)
        # for each context length: (n-grams, counts, contexts, counts, kinds), each sorted
        self.tables = []
        for length in range(order):
            codes = np.concatenate([self._codes(document, length)[1] for document in documents])
            grams, counts = np.unique(codes, return_counts=True)
            contexts, first = np.unique(grams // (vocabulary_size + 1), return_index=True)
            totals = np.add.reduceat(counts, first)
            kinds = np.diff(np.append(first, len(grams)))
            self.tables.append((grams, counts, contexts, totals, kinds))

    def _codes(self, document: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Each step's context of `length` ids, and the context with the step's own id: one integer
        each.
        """
        ids = np.asarray(document, np.int64) + 1  # 0 stands for "before the document"
        padded = np.concatenate([np.zeros(length, np.int64), ids])
        context = np.zeros(len(ids), np.int64)
        for back in range(length):
            context = context * (self.vocabulary_size + 1) + padded[back : back + len(ids)]
        return context, context * (self.vocabulary_size + 1) + ids

    def probabilities(self, document: np.ndarray) -> np.ndarray:
        """Probability of each id given those before it, `(timesteps,)` for a document
        `(timesteps,)`.
        """
        p = np.full(len(document), 1 / self.vocabulary_size)
        for length, (grams, counts, contexts, totals, kinds) in enumerate(self.tables):
            context, gram = self._codes(document, length)
            count, total, kind = (
                _look_up(grams, gram, counts),
                *_look_up(contexts, context, totals, kinds),
            )
            seen = total > 0
            p[seen] = (count + kind * p)[seen] / (total + kind)[seen]
        return p


def _look_up(table: np.ndarray, keys: np.ndarray, *values: np.ndarray):
    """`values` where `table` (sorted) holds the key, else 0."""
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    found = table[at] == keys
    result = [np.where(found, value[at], 0) for value in values]
    return result if len(result) > 1 else result[0]
