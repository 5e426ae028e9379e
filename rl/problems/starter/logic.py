"""Ordering puzzles: three to five animals, each neighbouring pair stated once, in either direction, shuffled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rl.problems.starter.base import Instance, Solution
from rl.problems.starter.slip import Slip

DATA_SOURCE = "logic__starter"
ANIMALS = ("fox", "owl", "cat", "dog", "hen", "rat", "pig", "cow")
QUALITIES = (("older", "younger", "oldest", "youngest"), ("taller", "shorter", "tallest", "shortest"))

Pair = tuple[str, str]
"""(first, second): the first stands before the second in the order asked for."""


@dataclass(frozen=True)
class LogicInstance(Instance):
    pairs: tuple[Pair, ...]
    quality: str


def generate(rng: random.Random) -> LogicInstance:
    """A chain of animals, told in shuffled sentences."""
    count = rng.choices((3, 4, 5), (4, 4, 2))[0]
    order = rng.sample(ANIMALS, count)
    more, less, most, least = rng.choice(QUALITIES)
    pairs = list(zip(order, order[1:]))
    rng.shuffle(pairs)
    sentences = [
        f"The {first} is {more} than the {second}."
        if rng.random() < 0.5
        else f"The {second} is {less} than the {first}."
        for first, second in pairs
    ]
    question = f"{' '.join(sentences)} Order from {most} to {least}."
    return LogicInstance(question, order, DATA_SOURCE, f"order_{count}", tuple(pairs), most)


def solve(instance: LogicInstance, slip: Slip) -> Solution:
    """Every sentence as first>second, then the chain from the one that nobody stands before."""
    pairs = [slip.pick(pair, (pair, pair[::-1])) for pair in instance.pairs]
    remaining = list(dict.fromkeys(name for pair in pairs for name in pair))
    chain: list[str] = []
    while remaining:
        following = _next(pairs, chain, remaining)
        if len(remaining) > 1:
            following = slip.pick(following, remaining)
        chain.append(following)
        remaining.remove(following)
    lines = [f"{first}>{second}" for first, second in pairs] + [">".join(chain)]
    plan = f"Write each pair in order. Link the pairs from the {instance.quality}."
    return Solution(plan, "\n".join(lines), ", ".join(chain))


def _next(pairs: Sequence[Pair], chain: Sequence[str], remaining: Sequence[str]) -> str:
    """The name to put next; the pairs may contradict each other after a slip, so there is always a fallback."""
    if chain:
        follows = [second for first, second in pairs if first == chain[-1] and second in remaining]
        if follows:
            return follows[0]
    behind = {second for first, second in pairs if first in remaining}
    return next((name for name in remaining if name not in behind), remaining[0])
