"""Decontamination: which training questions share a run of n words with a question of an evaluation set.

Words are what letters and digits spell, without regard to case (a CJK character is a word of its own). One shared run
of n words is enough; a question of fewer than n words counts only as a whole, signs included. What stands in more than
COMMON different questions of one set is the wording of its task ("put your final answer within ...") and no leak; one
question that stands in many sets, each with instructions of its own, still counts.
A run of words is a polynomial hash of 64 bits over the words' CRCs, computed for a whole batch of questions at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from rl.prepare.seen import squeezed

COMMON = 4
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_PRIME = 0x100000001B3
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Hit:
    """Row `row` of the batch shares `words` with question `question` (from 1) of each of `sets`."""

    row: int
    sets: tuple[tuple[str, int], ...]
    words: str


class Overlap:
    """The runs of words of all evaluation questions; `add` them all, then `build` once, then ask `hits`."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.questions: Counter[str] = Counter()
        self.common = 0
        self._members: dict[str, list[tuple[str, int]]] = {}  # a question's text: (set, number) of where it stands
        self._short: set[str] = set()
        self._place: dict[str, int] = {}  # of each longer question in _runs_of
        self._runs_of: list[np.ndarray] = []  # the runs of each, until they are built into one array
        self._in_set: dict[str, set[int]] = {}  # the places of each set's questions
        self._long: list[str] = []
        self._grams = np.zeros(0, np.uint64)
        self._owners = np.zeros(0, np.int32)

    def add(self, name: str, question: str) -> None:
        """One question of the set `name`; the same text in another set or row is the same question."""
        text = squeezed(question)
        self.questions[name] += 1
        words = words_of(question)
        if len(words) >= self.n:
            if text not in self._place:
                self._runs_of.append(np.unique(_runs(word_ids(words), self.n)))
                self._place[text] = len(self._place)
            self._in_set.setdefault(name, set()).add(self._place[text])
        elif words:
            self._short.add(text)
        self._members.setdefault(text, []).append((name, self.questions[name]))

    def build(self) -> Overlap:
        runs = self._runs_of or [np.zeros(0, np.uint64)]
        owners = np.repeat(np.arange(len(runs), dtype=np.int32), [len(grams) for grams in runs])
        wordings = [_wording([runs[place] for place in places]) for places in self._in_set.values()]
        self._grams, first = np.unique(np.concatenate(runs), return_index=True)
        kept = ~np.isin(self._grams, np.concatenate([np.zeros(0, np.uint64), *wordings]))
        self.common = int((~kept).sum())
        self._grams, self._owners = self._grams[kept], owners[first[kept]]
        self._long, self._runs_of, self._place, self._in_set = list(self._place), [], {}, {}
        return self

    def __len__(self) -> int:
        return len(self._members)

    def hits(self, questions: Sequence[str]) -> list[Hit]:
        """Those of `questions` that overlap, with the first run of words they share."""
        if not self._members:
            return []
        words = [words_of(question) for question in questions]
        found = self._wholes(questions, words)
        if len(self._grams):
            found += self._shared_runs(words)
        return sorted(found, key=lambda hit: hit.row)

    def _wholes(self, questions: Sequence[str], words: list[list[str]]) -> list[Hit]:
        if not self._short:
            return []
        hits = []
        for row, question in enumerate(questions):
            if len(words[row]) < self.n and (text := squeezed(question)) in self._short:
                hits.append(Hit(row, self._sets(text), " ".join(words[row])))
        return hits

    def _shared_runs(self, words: list[list[str]]) -> list[Hit]:
        lengths = np.array([len(line) for line in words], np.int64)
        ids = word_ids([word for line in words for word in line])
        if len(ids) < self.n:
            return []
        rows, starts = np.repeat(np.arange(len(words)), lengths), np.cumsum(lengths) - lengths
        runs = _runs(ids, self.n)
        within = rows[: len(runs)] == rows[self.n - 1 :]  # a run that begins in one question ends in the same
        at = np.minimum(np.searchsorted(self._grams, runs), len(self._grams) - 1)
        places = np.flatnonzero(within & (self._grams[at] == runs))
        hits = []
        for row, first in zip(*np.unique(rows[places], return_index=True)):
            place = places[first]
            begin = int(place - starts[row])
            text = self._long[self._owners[at[place]]]
            hits.append(Hit(int(row), self._sets(text), " ".join(words[row][begin : begin + self.n])))
        return hits

    def _sets(self, text: str) -> tuple[tuple[str, int], ...]:
        first: dict[str, int] = {}
        for name, number in self._members[text]:
            first.setdefault(name, number)
        return tuple(first.items())


def _wording(runs: Sequence[np.ndarray]) -> np.ndarray:
    """uint64: the runs of words that more than COMMON questions of one set have."""
    grams, counts = np.unique(np.concatenate(runs), return_counts=True)
    return grams[counts > COMMON]


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    lower = text.lower()
    return (_ASCII_WORD if lower.isascii() else _WORD).findall(lower)


def word_ids(words: Sequence[str]) -> np.ndarray:
    """uint64 [W]: a number for each word."""
    return np.fromiter((crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))


def _runs(ids: np.ndarray, n: int) -> np.ndarray:
    """uint64 [W - n + 1]: the hash of each run of n words."""
    spread = ids * _SPREAD
    spread ^= spread >> np.uint64(29)
    total = np.zeros(len(ids) - n + 1, np.uint64)
    for offset in range(n):
        total = total * np.uint64(_PRIME) + spread[offset : offset + len(total)]
    return total
