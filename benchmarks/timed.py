"""Stand-ins of engines and learners that take time and do nothing, for the real dispatchers to drive.

An engine has slots, one a sequence, and decodes every sequence at the same rate, whatever else runs (decoding is bound
by reading the weights; an engine that slows down with its load would be kinder to synchronous training's long tail
and to nobody's bound). An update in flight stops all sequences while the weights load and their KV is computed again.
Anything may die (`kill`), and then answers as a dead Ray actor does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from actors.messages import Completion, Problem, RolloutGroup, Verdict

NOTHING = np.zeros(0, np.int32)


class Handle:
    """What `actor.method.remote(...)` is on Ray's handles."""

    def __init__(self, target: Any):
        self.target = target

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> asyncio.Task:
            return asyncio.get_running_loop().create_task(getattr(self.target, method)(*arguments))

        def options(num_returns: str) -> Any:
            return SimpleNamespace(remote=getattr(self.target, method))

        return SimpleNamespace(remote=remote, options=options)


@dataclass
class TimedEngine:
    """Generates groups whose lengths in tokens `lengths(problem)` tells."""

    name: str
    slots: int
    tokens_per_s: float
    lengths: Callable[[Problem], Sequence[int]]
    load_s: float = 0.0
    prefill_per_s: float = float("inf")
    version: int = 0
    paused_s: float = 0.0
    done_tokens: int = 0
    queued: int = 0
    begun: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)
        self._death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Task] = {}

    async def group(self, group_id: int, problem: Problem, n: int, sampling: Any, seed: int) -> RolloutGroup | None:
        version = self.version
        work = asyncio.gather(*(self._sequence(length) for length in self.lengths(problem)))
        self._calls[group_id] = work
        try:
            await self._or_death(work)
        except asyncio.CancelledError:
            if work.cancelled() and not asyncio.current_task().cancelling():
                return None
            raise
        finally:
            work.cancel()
            work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more
            self._calls.pop(group_id, None)
        completions = (Completion("", NOTHING, NOTHING, "stop", version, self.version),)
        return RolloutGroup(group_id, problem, NOTHING, completions)

    async def generate(self, share: Any, n: int, sampling: Any, seed: int) -> Any:
        """A wave, as synchronous training asks for it: yields references.

        As with Ray, the stream of an engine that dies does not raise: its last reference holds the death, and it ends.
        """
        calls = [asyncio.ensure_future(self.group(group_id, problem, n, sampling, seed)) for group_id, problem in share]
        for done in asyncio.as_completed(calls):
            reference = asyncio.get_running_loop().create_future()
            try:
                reference.set_result(await done)
            except Exception as death:
                reference.set_exception(death)
                for call in calls:
                    call.cancel()
            yield reference
            if reference.exception():
                await asyncio.gather(*calls, return_exceptions=True)
                return

    async def cancel(self, group_id: int) -> None:
        if group_id in self._calls:
            self._calls[group_id].cancel()

    async def load(self, weights: Any, version: int) -> None:
        """Stops every sequence for a while."""
        now = asyncio.get_running_loop().time()
        seconds = sum(now - begun - (self.paused_s - paused) for begun, paused in self.begun.values())
        pause = self.load_s + seconds * self.tokens_per_s / self.prefill_per_s
        self.paused_s += pause
        await self._or_death(_sleep(pause))
        self.version = version

    async def ping(self) -> dict[str, Any]:
        await self._or_death(_sleep(0))
        return {"sequences": (len(self.begun), self.queued)}

    async def start(self) -> None:
        """After a death: a new process, with the first weights."""
        self._death = asyncio.get_running_loop().create_future()
        self._free, self.version, self.begun = asyncio.Semaphore(self.slots), 0, {}

    def kill(self) -> None:
        if not self._death.done():
            self._death.set_result(None)

    async def _sequence(self, length: int) -> None:
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        self.queued += 1
        try:
            await self._free.acquire()
        finally:
            self.queued -= 1
        try:
            begun, paused, need = loop.time(), self.paused_s, length / self.tokens_per_s
            self.begun[number] = (begun, paused)
            while (left := need + self.paused_s - paused - (loop.time() - begun)) > 1e-6:
                await asyncio.sleep(left)
            self.done_tokens += length
        finally:
            self.begun.pop(number, None)
            self._free.release()

    async def _or_death(self, work: asyncio.Future) -> None:
        """The end of `work`, or a dead actor's error."""
        try:
            await asyncio.wait([work, self._death], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if self._death.done():
            from ray.exceptions import ActorDiedError

            work.cancel()
            raise ActorDiedError()
        work.result()


def _sleep(seconds: float) -> asyncio.Future:
    return asyncio.ensure_future(asyncio.sleep(seconds))


class TimedCaller:
    """What actors.fleet_pool asks of its Broadcaster, on stand-ins."""

    def __init__(self, targets: dict[str, Any]):
        self.targets = targets

    async def call(self, name: str, method: str, timeout_s: float, **named: Any) -> Any:
        async with asyncio.timeout(timeout_s):
            return await getattr(self.targets[name], method)(**named)

    def renew(self, name: str) -> None:
        pass


@dataclass
class TimedVerifier:
    """Judges a group after `seconds`; right or wrong does not matter here."""

    seconds: float = 0.0

    async def verify_group(self, group: Any) -> RolloutGroup:
        group = await group if asyncio.isfuture(group) else group
        await asyncio.sleep(self.seconds)
        verdicts = (Verdict("correct", 1.0),) * len(group.completions)
        return RolloutGroup(group.group_id, group.problem, NOTHING, group.completions, verdicts)


class Numbered:
    """A source of problems that are nothing but a number; `state` and `take` as rl.source.Source."""

    def __init__(self) -> None:
        self.position = 0

    def take(self, count: int) -> list[Problem]:
        first, self.position = self.position, self.position + count
        return [Problem(str(i), (), "timed", "math", "0") for i in range(first, first + count)]


@dataclass(frozen=True)
class Lengths:
    """Tokens of a problem's completions: lognormal, capped; part of the deviation is the problem's own."""

    median: float
    sigma: float
    cap: int
    group_size: int
    seed: int
    of_problem: float = 0.5  # share of the variance that all completions of a problem have in common

    def __call__(self, problem: Problem) -> list[int]:
        rng = random.Random(f"{self.seed}/{problem.id}")
        common = rng.gauss(0.0, self.sigma * self.of_problem**0.5)
        own = self.sigma * (1 - self.of_problem) ** 0.5
        values = (self.median * np.exp(common + rng.gauss(0.0, own)) for _ in range(self.group_size))
        return [int(min(self.cap, max(1.0, value))) for value in values]
