"""VerifierFleet: several Verifier actors behind the interface of one, whichever of them live.

A call goes to the least loaded verifier. If that one dies, the call is asked again of another: a check is a pure
function of what was asked, so a verdict is neither lost nor doubled, and a death is never a wrong answer. The dead one
is made anew by the factory that made it, later each time that it dies without having answered in between. Only a call
that met a dying verifier at each of its attempts ends as an `error`. (Training keeps its verifiers with its engines, by
actors.fleet_pool.)

Pure logic: a handle is anything whose methods have a `.remote(...)` that gives an awaitable, `lost` are the exceptions
that tell of a handle's death, and clock and sleep can be a test's. `over_actors` is the fleet of Ray actors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

from actors.messages import Comparison, Completion, Problem, RolloutGroup, Verdict
from actors.verifier import Unanswered

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4  # of a call, each on whichever verifier is then the least loaded
FIRST_PAUSE_S = 0.5  # before a verifier that died unused is made anew; doubled each time
LONGEST_PAUSE_S = 30.0
CLOSE_S = 10.0


@dataclass
class Member:
    """One verifier: its handle (None: dead), how many calls it has, and its deaths since it last answered."""

    index: int
    handle: Any = None
    in_flight: int = 0
    restarts: int = 0
    deaths: int = 0
    back_at: float = 0.0


class VerifierFleet:
    """`count` verifiers made by `create(index)`. Belongs to one event loop."""

    def __init__(
        self,
        count: int,
        create: Callable[[int], Any],
        *,
        lost: tuple[type[BaseException], ...],
        attempts: int = ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if count < 1 or attempts < 1:
            raise ValueError(f"a fleet needs count and attempts of at least 1: {count}, {attempts}")
        self._create, self._lost, self._attempts = create, lost, attempts
        self._clock, self._sleep = clock, sleep
        self.members = [Member(index, create(index)) for index in range(count)]
        self.retried = 0

    async def verify(self, problem: Problem, completion: Completion | str) -> Verdict:
        """The verdict on one completion; an `error` if no verifier lived long enough to give one."""
        try:
            return await self._ask(lambda handle: handle.verify.remote(problem, completion))
        except Unanswered as failure:
            return Verdict("error", 0.0, reason=str(failure), seconds=failure.seconds)

    async def verify_group(self, group: RolloutGroup | Any) -> RolloutGroup:
        """The group, or the one behind a reference, with its verdicts, all from one verifier. Raises Unanswered."""
        return await self._ask(lambda handle: handle.verify_group.remote(group))

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        """Which texts answer a question alike. Raises Unanswered."""
        return await self._ask(lambda handle: handle.compare.remote(question, texts))

    @property
    def handle(self) -> Any:
        """The fleet as one verifier's handle, for callers of `.remote(...)`."""
        methods = {name: SimpleNamespace(remote=getattr(self, name)) for name in ("verify", "verify_group", "compare")}
        return SimpleNamespace(**methods)

    async def _ask(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """One answer, from as many verifiers as it takes within the attempts. Raises Unanswered."""
        started, reason = self._clock(), ""
        for attempt in range(self._attempts):
            self.retried += attempt > 0
            member = await self._least_loaded()
            handle = member.handle
            member.in_flight += 1
            try:
                answer = await call(handle)
                member.deaths = 0
                return answer
            except self._lost as death:
                reason = " ".join(str(death).split())[:200] or type(death).__name__
                self._bury(member, handle, reason)
            finally:
                member.in_flight -= 1
        raise Unanswered(f"{self._attempts} verifiers died over it: {reason}", self._clock() - started)

    async def _least_loaded(self) -> Member:
        """A living verifier; waits for the first to come back where there is none."""
        while True:
            for member in self.members:
                if member.handle is None and member.back_at <= self._clock():
                    self._revive(member)
            alive = [member for member in self.members if member.handle is not None]
            if alive:
                return min(alive, key=lambda member: (member.in_flight, member.index))
            await self._sleep(max(0.0, min(member.back_at for member in self.members) - self._clock()))

    def _bury(self, member: Member, handle: Any, reason: str) -> None:
        """Note a death once, though each of its calls tells of it."""
        if member.handle is not handle:
            return
        log.warning("verifier %d died (%s): its calls go to others, and it is made anew", member.index, reason)
        self._rest(member)

    def _rest(self, member: Member) -> None:
        pause = 0.0 if member.deaths == 0 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (member.deaths - 1))
        member.handle, member.deaths, member.back_at = None, member.deaths + 1, self._clock() + pause

    def _revive(self, member: Member) -> None:
        try:
            member.handle = self._create(member.index)
            member.restarts += 1
        except self._lost as failure:
            log.warning("verifier %d cannot be made anew yet: %s", member.index, failure)
            self._rest(member)

    async def status(self) -> dict[str, Any]:
        """The fleet's counters and those of each verifier that answers (`{"alive": False}` for the others)."""
        return {
            "alive": sum(member.handle is not None for member in self.members),
            "in_flight": sum(member.in_flight for member in self.members),
            "restarts": sum(member.restarts for member in self.members),
            "retried": self.retried,
            "verifiers": list(await asyncio.gather(*map(self._status_of, self.members))),
        }

    async def _status_of(self, member: Member) -> dict[str, Any]:
        handle = member.handle
        if handle is None:
            return {"alive": False}
        try:
            return {"alive": True, **await handle.status.remote()}
        except self._lost as death:
            self._bury(member, handle, str(death))
            return {"alive": False}

    async def close(self) -> None:
        """End the checker processes of all that live."""
        handles = [member.handle for member in self.members if member.handle is not None]
        closed = asyncio.gather(*(_closed(handle) for handle in handles), return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await closed
        except TimeoutError:
            log.warning("verifiers did not close within %g s", CLOSE_S)


async def _closed(handle: Any) -> None:
    await handle.close.remote()


def over_actors(handles: Sequence[Any]) -> VerifierFleet:
    """A fleet of Verifier actors that Ray restarts where they are (max_restarts), so that a handle outlives a death."""
    from ray.exceptions import ActorUnschedulableError, RayActorError, WorkerCrashedError

    return VerifierFleet(
        len(handles), handles.__getitem__, lost=(RayActorError, ActorUnschedulableError, WorkerCrashedError)
    )
