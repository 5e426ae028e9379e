"""Which texts were there before: 64-bit hashes in sorted arrays, 8 bytes a text, asked a batch at a time.

Two different texts among n share a hash with probability n²/2^65: 1e-7 for two million.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def hashes(texts: Iterable[str]) -> np.ndarray:
    """uint64 [B], one a text; the same on every machine."""
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def squeezed(text: str) -> str:
    """The text without white space and case; signs stay, since x+1 is not x-1."""
    return "".join(text.casefold().split())


def mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [B]: an order of its own for each seed (splitmix64), for sampling by the smallest."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Seen:
    """A growing set of hashes: a few sorted runs, merged whenever the newer is no longer much smaller."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def new(self, keys: np.ndarray) -> np.ndarray:
        """bool [B]: which of `keys` come for the first time, in the batch and before; all are remembered."""
        fresh = np.zeros(len(keys), bool)
        fresh[np.unique(keys, return_index=True)[1]] = True
        fresh &= ~self.contains(keys)
        if fresh.any():
            self._runs.append(np.sort(keys[fresh]))
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")
            self._runs.append(merged)
        return fresh

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """bool [B]: which of `keys` are in the set."""
        found = np.zeros(len(keys), bool)
        for run in self._runs:
            at = np.searchsorted(run, keys)
            found |= run[np.minimum(at, len(run) - 1)] == keys
        return found
