"""Seconds a question, one at a time: our service, the bare engine below it, and the K2-Think flow through it.

The methods take turns question by question, in random order, so that a machine that is busy for a while is so for all.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from actors.checkers.compare import by_spelling
from actors.messages import Problem
from actors.selection import Candidate, decide
from actors.verifier import Verifier
from benchmarks.bare import BareEngine, Timed
from benchmarks.peers.k2think import K2Think
from benchmarks.questions import N, Service
from deployments.effort import EFFORTS

WARM_UP = 3  # questions that are not counted


@dataclass
class Latencies:
    """Seconds, an entry a question; `overhead` of those questions only whose two replies have the same tokens."""

    ours: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    k2think: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    bare_single: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in vars(self).items() if values}


async def decided_s(question: str, candidates: Sequence[Timed], verifier: Verifier) -> float:
    """When the slowest candidate that the vote needs had ended: as the service counts, but for no time at all."""
    order = sorted(range(len(candidates)), key=lambda index: candidates[index].seconds)
    for count in range(1, len(order) + 1):
        done = order[:count]
        texts = [candidates[index].text for index in done]
        try:
            compared = await verifier.compare(question, texts)
        except Exception as failure:  # as in the service: a verifier that failed says nothing about the answers
            print(f"compared by spelling: {failure}")
            compared = by_spelling(texts)
        known = [
            Candidate(index, "finished", compared.clusters[place], compared.passed[place], candidates[index].confidence)
            for place, index in enumerate(done)
        ]
        if decide(known + [Candidate(index) for index in order[count:]], stop_at=EFFORTS["medium"].stop_at).decided:
            break
    return candidates[done[-1]].seconds


async def measure(
    problems: Sequence[Problem], service: Service, bare: BareEngine, flow: K2Think, verifier: Verifier
) -> Latencies:
    """All methods on all problems; the first WARM_UP of them once before, uncounted."""
    warm_up, latencies = Latencies(), Latencies()
    for counted, found in ((problems[:WARM_UP], warm_up), (problems, latencies)):
        for number, problem in enumerate(counted):
            await _question(problem.question, N * number, service, bare, flow, verifier, found)
    return latencies


async def _question(
    question: str,
    seed: int,
    service: Service,
    bare: BareEngine,
    flow: K2Think,
    verifier: Verifier,
    found: Latencies,
) -> None:
    async def ours() -> None:
        found.ours.append((await service.best_of(question, seed)).seconds)

    async def bound() -> None:
        made = await bare.plan_and_solve(question, N, seed, service.max_tokens)
        found.bound.append(made.plan_s + await decided_s(question, made.candidates, verifier))

    async def k2think() -> None:
        started = time.perf_counter()
        await flow.answer(question, seed)
        found.k2think.append(time.perf_counter() - started)

    async def single() -> None:
        """Both sides of the overhead at once: what a moment's noise does to one of them, it does to the other."""
        through, alone = await service.single(question, seed), await bare.reply(service.bare_request(question, seed))
        found.single.append(through.seconds)
        found.bare_single.append(alone.seconds)
        if through.completion_tokens == alone.usage.completion_tokens:
            found.overhead.append(through.seconds - alone.seconds)

    methods: list[Callable[[], Awaitable[None]]] = [ours, bound, k2think, single]
    for method in random.sample(methods, len(methods)):
        await method()
