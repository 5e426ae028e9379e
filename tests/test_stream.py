"""Groups that stream while the learner learns: the real Stream, Ledger and Pool on timed stand-ins, in virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from virtual_time import run

from actors.engine import Sampling
from actors.fleet import Fleet
from actors.fleet_pool import Pool
from actors.messages import Problem, RolloutGroup
from benchmarks.timed import Handle, Numbered, TimedCaller, TimedEngine, TimedVerifier
from rl.dispatcher import ServiceFailure
from rl.ledger import Ledger
from rl.stream import BusyTime, Slots, Stream


@dataclass
class Bench:
    """Engines whose groups take as long as `lengths(problem)` says, at a token a second; must be made in a loop."""

    steps: int = 5
    batch: int = 4
    staleness: int = 1
    engines: int = 2
    slots: int = 8
    drain: bool = False
    wait: bool = True
    refill: bool = True
    filtered: Any = staticmethod(lambda problem: False)
    lengths: Any = staticmethod(lambda problem: [10, 20])
    ages: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    version: int = 0
    timeout_s: float = 1000.0

    def __post_init__(self) -> None:
        loop, self.source, self.verifier = asyncio.get_running_loop(), Numbered(), TimedVerifier(0.1)
        names = [f"rollout-{i}" for i in range(self.engines)]
        self.actors = {n: TimedEngine(n, self.slots, 1.0, self.lengths, 0.5, 1000.0) for n in names}
        self.fleet = Fleet(self.actors, loop.time, max_deaths=10**6)
        handles = {name: Handle(actor) for name, actor in self.actors.items()}
        self.pool = Pool(self.fleet, handles, TimedCaller(self.actors), self.restart, timeout_s=100, drain=self.drain)
        self.pool.open()
        self.ledger = Ledger(self.batch, self.staleness)
        self.stream = self.new_stream()

    def new_stream(self) -> Stream:
        return Stream(
            self.source, self.ledger, self.pool, self.verifier.verify_group, group_size=2, sampling=Sampling(),
            seed=0, timeout_s=self.timeout_s, keep=lambda g: "no signal" if self.filtered(g.problem) else "",
            sequences=self.slots, total_steps=self.steps, refill=self.refill, wait=self.wait,
            clock=asyncio.get_running_loop().time)

    async def restart(self, name: str, kill: bool) -> None:
        await asyncio.sleep(5)
        await self.actors[name].start()

    async def step(self, step: int, learn_s: float = 5.0) -> list[RolloutGroup]:
        collected = await self.stream.collect(step, self.version, lambda done, total: None)
        self.ages += [self.version - group.start_version for group in collected.groups]
        self.trained += [group.group_id for group in collected.groups]
        await asyncio.sleep(learn_s)
        self.ledger.check()
        if collected.groups:
            self.version += 1
            self.pool.publish(self.version, "weights")
        return collected.groups

    async def train(self, first: int = 1) -> None:
        for step in range(first, self.steps + 1):
            await self.step(step)

    async def close(self) -> None:
        await self.stream.reset()
        await self.pool.close()
        await asyncio.sleep(0)


def play(scenario, **options: Any) -> Any:
    async def scene() -> Any:
        bench = Bench(**options)
        try:
            return await scenario(bench)
        finally:
            await bench.close()

    return run(scene())


async def whole(bench: Bench) -> Bench:
    await bench.train()
    return bench


# --- the schedule -------------------------------------------------------------------------------------------------


def test_slots_fill_the_engine_with_the_most_room_until_an_eighth_waits():
    slots = Slots(["a", "b"], 16, 4)
    given = [slots.free(["a", "b"]) for _ in range(12) if (name := slots.free(["a", "b"])) and not slots.give(name, _)]
    assert len(given) == 10 and len(slots.held["a"]) == len(slots.held["b"]) == 5  # 16 and 4 more on each
    assert slots.free(["a", "b"]) is None and slots.free([]) is None
    slots.observe("b", 6, 0)  # most completions of its groups are done
    assert slots.free(["a", "b"]) == "b" and slots.free(["a"]) is None
    slots.end("a", next(iter(slots.held["a"])))
    assert slots.free(["a"]) == "a"


def test_an_engine_whose_cache_is_full_is_given_less():
    slots = Slots(["a"], 16, 4)
    for number in range(5):
        slots.give("a", number)
    slots.observe("a", 6, 8)
    assert slots.free(["a"]) is None
    slots.observe("a", 6, 0)
    assert slots.free(["a"]) == "a"


def test_busy_time_counts_overlaps_once():
    now = [0.0]
    busy = BusyTime(lambda: now[0])
    with busy:
        now[0] = 3
        with busy:
            now[0] = 5
    now[0] = 9
    assert busy.take() == 5
    with busy:
        now[0] = 11
        assert busy.take() == 2
        now[0] = 12
    assert busy.take() == 1


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("staleness", [1, 2, 3])
def test_a_run_trains_all_it_began_and_nothing_too_old(staleness, drain):
    bench = play(whole, staleness=staleness, drain=drain, steps=8)
    assert bench.ledger.counts == {"trained": 32, "filtered": 0, "stale": 0, "failed": 0}
    assert sorted(bench.trained) == list(range(32)) and bench.source.position == 32
    assert max(bench.ages) <= staleness and max(bench.ages) > 0
    assert not bench.ledger.running and not bench.ledger.ready


def test_generation_goes_on_while_the_learner_learns():
    async def timed(bench):
        await bench.train()
        return asyncio.get_running_loop().time()

    lengths = lambda problem: [20, 20]  # noqa: E731 (as long as a step's learning)
    synchronous, overlapped = (play(timed, staleness=s, steps=10, lengths=lengths, slots=32) for s in (0, 1))
    assert overlapped < 0.6 * synchronous + 30


def test_a_step_waits_for_a_straggler_rather_than_throw_it_away():
    lengths = lambda problem: [10, 300 if problem.id == "2" else 10]  # noqa: E731
    waited = play(whole, lengths=lengths, steps=4)
    assert waited.ledger.counts["stale"] == 0 and 2 in waited.trained
    cancelled = play(whole, lengths=lengths, steps=4, wait=False)
    assert cancelled.ledger.counts["stale"] == 1 and 2 not in cancelled.trained
    assert cancelled.ledger.counts["trained"] == 16 and max(cancelled.ages) <= 1


def test_filtered_groups_give_their_capacity_back():
    bench = play(whole, filtered=lambda problem: int(problem.id) % 3 == 0)
    assert bench.ledger.counts["trained"] == 20 and bench.ledger.counts["filtered"] >= 10


def test_without_refill_filtered_groups_leave_their_places_empty():
    bench = play(whole, filtered=lambda problem: int(problem.id) % 4 == 0, refill=False)
    assert bench.source.position == 20 and bench.ledger.counts["trained"] == 15
    assert bench.ledger.counts["filtered"] == bench.ledger.forfeited == 5


# --- deaths -------------------------------------------------------------------------------------------------------


def test_the_groups_of_a_dead_engine_are_begun_again_under_their_ids():
    async def scenario(bench):
        training = asyncio.create_task(bench.train())
        await asyncio.sleep(12)
        held = set(bench.stream.slots.held["rollout-0"])
        bench.actors["rollout-0"].kill()
        await training
        assert held and held <= set(bench.trained)
        return bench

    bench = play(scenario)
    assert sorted(bench.trained) == list(range(20)) and bench.ledger.counts["trained"] == 20
    assert max(bench.ages) <= 1


def test_a_run_without_any_engine_ends_with_the_reason():
    async def scenario(bench):
        for name in bench.actors:
            bench.fleet.retire(name, "broken")
        bench.stream._moved.set()
        with pytest.raises(ServiceFailure, match="no group came back within|all rollout engines died"):
            await bench.step(1)

    play(scenario, timeout_s=50.0)


def test_a_request_that_is_wrong_ends_the_run_with_its_reason():
    async def scenario(bench):
        async def wrong(*arguments):
            raise RuntimeError("a shape does not fit")

        for actor in bench.actors.values():
            actor.group = wrong
        with pytest.raises(ServiceFailure, match="a shape does not fit"):
            await bench.step(1)

    play(scenario)


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_a_run_killed_in_flight_loses_and_doubles_nothing():
    async def scenario(bench):
        for step in (1, 2, 3):
            await bench.step(step)
        state, in_flight = bench.ledger.state_dict(), bench.stream.in_flight()
        position, version, trained = bench.source.position, bench.version, list(bench.trained)
        await bench.step(4)  # after the checkpoint: forgotten
        await bench.stream.reset()
        assert in_flight["running"], "the test needs groups in flight"
        bench.ledger.load_state_dict(state, in_flight["ready"], version)
        bench.source.position, bench.version, bench.trained = position, version, trained
        bench.stream.restore(in_flight["running"])
        bench.pool.publish(version, "weights", anew=True)
        await bench.train(4)
        return bench

    bench = play(scenario, staleness=2, steps=8)
    assert sorted(bench.trained) == list(range(32)) and bench.ledger.counts["trained"] == 32
    assert bench.source.position == 32


# --- ten thousand groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "drain"), [(230, False), (30, True)])
def test_ten_thousand_groups_with_delays_filters_and_deaths(steps, drain):
    """The bound holds at every consumption, the books balance at every step, whatever happens."""

    def lengths(problem: Problem) -> list[int]:
        rng = random.Random(problem.id)
        return [int(min(400, rng.lognormvariate(3, 1))) + 1 for _ in range(2)]

    async def scenario(bench):
        async def kills() -> None:
            rng = random.Random(5)
            while True:
                await asyncio.sleep(rng.expovariate(1 / 400))
                rng.choice(list(bench.actors.values())).kill()

        killer = asyncio.create_task(kills())
        await bench.train()
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)
        return bench

    bench = play(scenario, steps=steps, batch=32, staleness=2, engines=4, slots=32, drain=drain, lengths=lengths,
                 filtered=lambda problem: random.Random(f"f{problem.id}").random() < 0.3)
    counts = bench.ledger.counts
    assert bench.ledger.next_id > 43 * steps  # ten thousand in the long one
    assert sum(counts.values()) == bench.ledger.next_id
    assert counts["trained"] == len(bench.trained) == len(set(bench.trained)) == steps * 32
    assert max(bench.ages) == 2 and counts["stale"] == 0 and counts["failed"] == 0
    deaths = sum(bool(member.deaths) for member in bench.fleet.members.values())
    assert deaths == 4
