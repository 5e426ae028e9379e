"""Right answers and tokens: one sample, plan and best of three, all three to their ends, and the K2-Think flow.

Tokens are the engine's own count of what it generated. It counts for everyone, so the methods run one after the other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.messages import Problem
from actors.prompts import as_data, with_plan
from benchmarks.client import Reply, gather_bounded
from benchmarks.peers.k2think import K2Think
from benchmarks.questions import Judge, N, Service, accuracy, answer_of, plan_of

AT_ONCE = 8
GENERATED = "raythink_solver_generated_tokens"

Ask = Callable[[Problem, int], Awaitable[Any]]


@dataclass
class Tally:
    """Of one method: a score for each question and seed (None: the check failed), and the tokens of all of them."""

    scores: list[list[float | None]] = field(default_factory=list)
    tokens: float = 0.0

    @property
    def accuracy(self) -> float:
        return accuracy([score for scores in self.scores for score in scores])


@dataclass
class Quality:
    """Tallies; `whole` is best of three where nobody is stopped for being unsure. `solver_tokens` are those of best of
    three without its plans, `full_tokens` those of all its candidates to their ends."""

    single: Tally = field(default_factory=Tally)
    best_of: Tally = field(default_factory=Tally)
    whole: Tally = field(default_factory=Tally)
    k2think: Tally = field(default_factory=Tally)
    solver_tokens: float = 0.0
    full_tokens: float = 0.0


async def measure(problems: Sequence[Problem], seeds: int, service: Service, flow: K2Think, judge: Judge) -> Quality:
    """All methods on all problems with `seeds` different seeds each."""
    quality = Quality()

    async def batch(ask: Ask, seed: int) -> tuple[list[Any], float]:
        before = await service.client.counter(GENERATED)
        calls = [lambda problem=p, number=i: ask(problem, seed + N * number) for i, p in enumerate(problems)]
        replies = await gather_bounded(calls, AT_ONCE)
        return replies, await service.client.counter(GENERATED) - before

    async def tally(found: Tally, texts: list[str], tokens: float) -> None:
        found.scores.append(await judge.scores(problems, texts))
        found.tokens += tokens

    for number in range(seeds):
        seed = (number + 1) * 1_000_000
        singles, tokens = await batch(lambda p, s: service.single(p.question, s), seed)
        await tally(quality.single, [answer_of(reply) for reply in singles], tokens)
        bests, tokens = await batch(lambda p, s: service.best_of(p.question, s, explain=True), seed)
        await tally(quality.best_of, [answer_of(reply) for reply in bests], tokens)
        quality.solver_tokens += tokens - sum(map(planner_tokens, bests))
        wholes, tokens = await batch(lambda p, s: service.best_of(p.question, s, prune=False), seed)
        await tally(quality.whole, [answer_of(reply) for reply in wholes], tokens)
        contents = {p.id: _content(p, reply) for p, reply in zip(problems, bests, strict=True)}
        _, tokens = await batch(lambda p, s, c=contents: service.all_candidates(c[p.id], s), seed)
        quality.full_tokens += tokens
        flows, tokens = await batch(lambda p, s: flow.answer(p.question, s), seed)
        await tally(quality.k2think, [made.text for made in flows], tokens)
    return quality


def _content(problem: Problem, reply: Reply) -> str:
    """What the candidates of a reply were asked."""
    plan = plan_of(reply.body["raythink"])
    return with_plan(problem.question, plan) if plan else as_data(problem.question)


def planner_tokens(reply: Reply) -> int:
    """Tokens of the plan: what the usage counts beside the candidates."""
    return reply.completion_tokens - sum(candidate["tokens"] for candidate in reply.body["raythink"]["candidates"])


def gain(better: Tally, other: Tally) -> tuple[float, float]:
    """Percentage points that `better` has more, and the standard error of that (over questions, not samples).

    Samples of one question are not independent, so its seeds are averaged first.
    """
    differences = []
    for mine, theirs in zip(zip(*better.scores, strict=True), zip(*other.scores, strict=True), strict=True):
        pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
        if pairs:
            differences.append(100 * statistics.fmean(a - b for a, b in pairs))
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), spread / math.sqrt(len(differences))
