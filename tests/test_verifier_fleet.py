"""The fleet of verifiers: where calls go, what a death does to them, and how the dead come back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actors.messages import Comparison, Problem, RolloutGroup, Verdict
from actors.verifier import Unanswered
from actors.verifier_fleet import FIRST_PAUSE_S, LONGEST_PAUSE_S, VerifierFleet


class Died(Exception):
    """What the handle of a dead actor raises."""


class Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class FakeVerifier:
    """Answers in steps of the event loop; `kill` fails what it was doing and all that comes."""

    def __init__(self, name: str, served: Counter[str], steps: int = 3) -> None:
        self.name, self.served, self.steps = name, served, steps
        self.dead = self.closed = False
        self.busy = self.most = 0
        for method in ("verify", "verify_group", "compare", "status", "close"):
            setattr(self, method, Method(getattr(self, f"_{method}")))

    async def _work(self) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            for _ in range(self.steps):
                if self.dead:
                    raise Died(self.name)
                await asyncio.sleep(0)
        finally:
            self.busy -= 1

    async def _verify(self, problem: Problem, completion: str) -> Verdict:
        await self._work()
        self.served[problem.id] += 1
        right = problem.ground_truth == completion
        return Verdict("correct" if right else "incorrect", float(right), extracted=completion)

    async def _verify_group(self, group: RolloutGroup) -> str:
        await self._work()
        return f"{self.name} judged {group}"

    async def _compare(self, question: str, texts: list[str]) -> Comparison:
        await self._work()
        return Comparison(tuple(texts), tuple(range(len(texts))), (None,) * len(texts), ("",) * len(texts))

    async def _status(self) -> dict[str, Any]:
        await self._work()
        return {"name": self.name}

    async def _close(self) -> None:
        self.closed = True


class World:
    """A clock that only sleeping moves, and all the verifiers that were ever made."""

    def __init__(self, steps: int = 3) -> None:
        self.now, self.steps = 0.0, steps
        self.made: list[FakeVerifier] = []
        self.served: Counter[str] = Counter()
        self.stillborn = 0
        self.born_dead = 0

    def create(self, index: int) -> FakeVerifier:
        if self.stillborn:
            self.stillborn -= 1
            raise Died("no room on any node")
        verifier = FakeVerifier(f"verifier-{index}", self.served, self.steps)
        if self.born_dead:
            self.born_dead -= 1
            verifier.dead = True
        self.made.append(verifier)
        return verifier

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def fleet(self, count: int, **options: Any) -> VerifierFleet:
        return VerifierFleet(count, self.create, lost=(Died,), clock=lambda: self.now, sleep=self.sleep, **options)


def problem(number: int, domain: str = "math") -> Problem:
    return Problem(f"row-{number}", ({"role": "user", "content": ""},), "math", domain, str(number))


def test_calls_go_to_the_least_loaded() -> None:
    async def scenario() -> None:
        world = World()
        fleet = world.fleet(3)
        verdicts = await asyncio.gather(*(fleet.verify(problem(n), str(n)) for n in range(9)))
        assert [verdict.status for verdict in verdicts] == ["correct"] * 9
        assert [verifier.most for verifier in world.made] == [3, 3, 3]

    asyncio.run(scenario())


def test_what_a_dead_one_had_goes_to_another() -> None:
    async def scenario() -> None:
        world = World()
        fleet = world.fleet(2)
        asked = asyncio.ensure_future(asyncio.gather(*(fleet.verify(problem(n), str(n)) for n in range(4))))
        await asyncio.sleep(0)
        world.made[0].dead = True
        verdicts = await asked
        assert [verdict.status for verdict in verdicts] == ["correct"] * 4
        assert world.served == Counter({f"row-{n}": 1 for n in range(4)})
        assert fleet.retried == 2 and fleet.members[0].restarts == 1 and len(world.made) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_random_deaths_lose_double_and_turn_nothing(seed: int) -> None:
    async def scenario() -> None:
        rng, world = random.Random(seed), World(steps=5)
        fleet = world.fleet(4, attempts=50)
        truths = [rng.random() < 0.5 for _ in range(100)]

        async def kill() -> None:
            for _ in range(30):
                await asyncio.sleep(0)
                rng.choice(world.made).dead = True

        calls = (fleet.verify(problem(n), str(n if right else -1)) for n, right in enumerate(truths))
        verdicts, _ = await asyncio.gather(asyncio.gather(*calls), kill())
        assert [verdict.status == "correct" for verdict in verdicts] == truths
        assert all(verdict.status != "error" for verdict in verdicts)
        assert world.served == Counter({f"row-{n}": 1 for n in range(100)})
        assert {member.in_flight for member in fleet.members} == {0}

    asyncio.run(scenario())


def test_a_call_that_meets_only_deaths_is_an_error_and_no_wrong_answer() -> None:
    async def scenario() -> None:
        world = World()
        world.born_dead = 100
        fleet = world.fleet(1, attempts=3)
        verdict = await fleet.verify(problem(1), "1")
        assert verdict.status == "error" and "3 verifiers died" in verdict.reason
        with pytest.raises(Unanswered):
            await fleet.compare("?", ["1"])
        with pytest.raises(Unanswered):
            await fleet.verify_group("reference")

    asyncio.run(scenario())


def test_who_dies_again_and_again_comes_back_later_each_time() -> None:
    async def scenario() -> None:
        world = World()
        world.born_dead = 12
        fleet = world.fleet(1, attempts=13)
        assert (await fleet.verify(problem(1), "1")).status == "correct"
        pauses = [0.0, *(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**n) for n in range(11))]
        assert world.now == pytest.approx(sum(pauses))
        assert fleet.members[0].deaths == 0

    asyncio.run(scenario())


def test_a_factory_that_fails_is_asked_again() -> None:
    async def scenario() -> None:
        world = World()
        fleet = world.fleet(1)
        world.made[0].dead, world.stillborn = True, 3
        assert (await fleet.verify(problem(1), "1")).status == "correct"
        assert world.now > 0 and fleet.members[0].restarts == 1

    asyncio.run(scenario())


def test_what_a_check_raises_itself_is_no_death() -> None:
    async def scenario() -> None:
        world = World()
        fleet = world.fleet(1)

        async def refuse(*_: Any) -> None:
            raise Unanswered("no verdict in time")

        world.made[0].compare = Method(refuse)
        with pytest.raises(Unanswered, match="in time"):
            await fleet.compare("?", ["1"])
        assert len(world.made) == 1 and fleet.retried == 0

    asyncio.run(scenario())


def test_status_and_close() -> None:
    async def scenario() -> None:
        world = World()
        fleet = world.fleet(2)
        group = RolloutGroup(0, problem(0), np.zeros(0, np.int32), ())
        assert (await fleet.verify_group(group)).startswith("verifier-0 judged")
        world.made[1].dead = True
        status = await fleet.status()
        assert status["verifiers"] == [{"alive": True, "name": "verifier-0"}, {"alive": False}]
        assert (await fleet.status())["alive"] == 1
        await fleet.close()
        assert world.made[0].closed and not world.made[1].closed

    asyncio.run(scenario())


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 1, "attempts": 0}])
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        World().fleet(**bad)
