"""Files of states as damage leaves them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def with_a_byte_inverted(content: bytes, copies: int) -> Iterator[bytes]:
    """So many copies, each with another byte at a random place."""
    for place in np.random.default_rng(0).integers(0, len(content), copies).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        yield bytes(damaged)


def rewrite_head(path: Path, **entries: Any) -> None:
    """Puts other entries into the head of a file of `save_states`."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    head = json.loads(arrays.pop("states").item())
    np.savez(path, states=np.array(json.dumps({**head, **entries})), **arrays)
