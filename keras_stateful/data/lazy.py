"""Documents that a source reads when asked; a few are kept. NumPy only."""

from collections import OrderedDict
from typing import Any

import numpy as np

from keras_stateful.data.fields import Field
from keras_stateful.data.kinds import Items
from keras_stateful.foundation.locks import Lock


class Lazy(Field):
    """Documents that a source reads when asked.

    Attributes:
        key: of the array in a document; None where a document is a single array.
        source: reads the documents, for all fields of a corpus.
    """

    def __init__(
        self,
        name: str,
        key: str | None,
        source: "LazySource",
        lengths: np.ndarray,
        like: np.ndarray,
    ):
        super().__init__(name, lengths, like.shape[1:], like.dtype)
        self.key, self.source = key, source
        self.columns = source.items.columns[key]

    def read(self, document: int, start: int, stop: int) -> np.ndarray:
        values = self.source.get(document)[self.key]
        if len(values) != self.lengths[document]:
            raise ValueError(
                f"`{self.name}` gives another document than before. Received: document {document} "
                f"of {len(values)} time steps, at first {self.lengths[document]}. A source must "
                "give the same document for an index each time; where it cannot, read it with "
                "`StatefulStream`."
            )
        return values[start:stop]


class LazySource:
    """Reads documents by index and keeps the last ones; threads may share it.

    Attributes:
        source: what the user gave, with `len` and `[]`.
        items: makes documents of what the source gives.
        capacity: how many documents are kept.
    """

    def __init__(self, source: Any, items: Items):
        self.source, self.items = source, items
        self.capacity = 16
        self._kept: OrderedDict[int, dict] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.source)

    def get(self, index: int) -> dict[str | None, np.ndarray]:
        """The arrays of a document; the key is None where it is a single one."""
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        document = self.load(index)  # without the lock: threads read different ones meanwhile
        with self._lock:
            self._kept[index] = document
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        return document

    def load(self, index: int) -> dict[str | None, np.ndarray]:
        """The same, read anew and not kept."""
        return self.items.document(index, self.source[index])
