"""The health of a fleet, by hand and by chance, on a clock of the test's own; and the pool that obeys it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from virtual_time import run

from actors.fleet import ALLOWED, Event, Fleet, ForbiddenMove, State
from actors.fleet_pool import AllLost, Lost, Pool, is_death, is_gone
from benchmarks.timed import Handle, TimedCaller


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fleet(*names: str, **options: Any) -> tuple[Fleet, Clock, list[Event]]:
    clock, events = Clock(), []
    return Fleet(names or ("a", "b"), clock, listen=events.append, **options), clock, events


# --- the state machine --------------------------------------------------------------------------------------------


def test_all_may_be_asked_to_begin_with():
    members, _, events = fleet()
    assert members.usable() == ["a", "b"] and members.settled() and not events


def test_a_restarted_engine_is_stale_until_it_holds_the_current_weights():
    members, clock, events = fleet()
    members.publish(1)
    for name in ("a", "b"):
        members.holds(name, 1)
    members.died("a", "killed")
    members.restarting("a")
    members.started("a")
    assert members.state("a") == State.STALE and members.usable() == ["b"]
    members.holds("a", 0)
    assert members.state("a") == State.STALE
    clock.now = 7.5
    members.holds("a", 1)
    assert members.usable() == ["a", "b"]
    assert events[-1] == Event(7.5, "a", State.STALE, State.HEALTHY, "", 7.5)


def test_nobody_is_asked_between_a_publication_and_the_load():
    members, _, _ = fleet()
    members.publish(1)
    assert members.usable() == [] and not members.settled()
    members.holds("b", 1)
    members.publish(2)
    members.holds("a", 1)  # it was loading while the next came
    assert members.usable() == []
    members.holds("a", 2)
    assert members.usable() == ["a"]


def test_an_actor_without_weights_is_never_stale():
    members, _, _ = fleet(weights=False)
    members.publish(3)
    members.died("a", "killed")
    members.restarting("a")
    members.started("a")
    assert members.usable() == ["a", "b"] or members.state("b") == State.STALE


def test_one_that_is_late_is_asked_nothing_new_and_trusted_again_once_heard():
    members, clock, _ = fleet()
    members.late("a", "no answer")
    assert members.state("a") == State.SUSPECT and members.usable() == ["b"]
    clock.now = 59
    members.late("a", "no answer")
    members.heard("a")
    assert members.state("a") == State.HEALTHY


def test_a_suspect_that_missed_an_update_is_stale_when_it_is_heard():
    members, _, _ = fleet()
    members.late("a", "no answer")
    members.publish(1)
    members.heard("a")
    assert members.state("a") == State.STALE


def test_a_silent_suspect_is_dead():
    members, clock, events = fleet(silent_s=60)
    members.late("a", "no answer")
    clock.now = 60
    members.late("a", "no answer")
    assert members.state("a") == State.DEAD and "silent for 60 s" in events[-1].reason


def test_a_death_told_by_every_request_counts_once():
    members, _, events = fleet()
    for _ in range(5):
        members.died("a", "killed")
    assert len(events) == 1 and len(members.members["a"].deaths) == 1


def test_one_that_dies_too_often_is_retired_and_the_others_are_settled_without_it():
    members, clock, _ = fleet(max_deaths=2, window_s=100)
    for now in (0, 10, 200, 210):  # the first two are forgotten by then
        clock.now = now
        members.died("a", "crash")
        members.restarting("a")
        members.started("a")
        members.holds("a", 0)
    clock.now = 220
    members.died("a", "crash")
    assert members.state("a") == State.RETIRED and members.settled() and not members.lost()
    members.retire("b", "no longer wanted")
    assert members.lost()


def test_the_recovery_time_counts_from_the_first_death_of_an_outage():
    members, clock, events = fleet()
    members.died("a", "killed")
    clock.now = 5
    members.restarting("a")
    members.died("a", "out of memory at the start")
    clock.now = 12
    members.restarting("a")
    members.started("a")
    members.holds("a", 0)
    assert [e.recovery_s for e in events if e.recovery_s is not None] == [12]


def test_what_is_held_under_an_old_number_is_forgotten_when_a_run_goes_back():
    members, _, _ = fleet("a")
    members.publish(5)
    members.holds("a", 5)
    members.forget()
    members.publish(5)
    assert members.usable() == []


def test_forbidden_moves_are_bugs():
    members, _, _ = fleet()
    with pytest.raises(ForbiddenMove, match="a cannot go from healthy to restarting"):
        members.restarting("a")
    members.died("a", "killed")
    with pytest.raises(ForbiddenMove):
        members.started("a")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_the_usable_hold_the_current_weights(seed):
    rng, (members, clock, events) = random.Random(seed), fleet("a", "b", "c", max_deaths=4, window_s=50)
    for _ in range(3000):
        clock.now += rng.expovariate(1)
        name = rng.choice("abc")
        held = members.members[name].version
        moves = [lambda n: members.died(n, ""), lambda n: members.late(n, ""), members.heard,
                 lambda n: members.publish(members.current + 1), lambda n: members.holds(n, members.current),
                 lambda n, v=held: v is not None and members.holds(n, v)]
        if members.state(name) == State.DEAD:
            moves.append(members.restarting)
        if members.state(name) == State.RESTARTING:
            moves.append(members.started)
        rng.choice(moves)(name)
        assert all(members.members[n].version == members.current for n in members.usable())
    assert all(event.after in ALLOWED[event.before] for event in events)


# --- the pool -----------------------------------------------------------------------------------------------------


class Actor:
    """Answers after a second; `kill` makes it answer as a dead Ray actor, until it is started again."""

    def __init__(self, name: str = ""):
        self.name, self.dead, self.version, self.loads, self.starts, self.hangs = name, False, 0, [], 0, False
        self.bad_starts = 0

    async def work(self, value: int) -> tuple[str, int, int]:
        version = self.version
        await asyncio.sleep(1)
        self.alive()
        return self.name, version, value

    async def wrong(self) -> None:
        raise ValueError("this request is wrong")

    async def load(self, weights: Any, version: int) -> None:
        await asyncio.sleep(0.5)
        self.alive()
        self.version = version
        self.loads.append((weights, version))

    async def ping(self) -> dict[str, Any]:
        if self.hangs:
            await asyncio.sleep(1e9)
        self.alive()
        return {}

    async def start(self) -> None:
        self.starts += 1
        await asyncio.sleep(10)
        if self.bad_starts:
            self.bad_starts -= 1
            raise RuntimeError("no memory")
        self.dead, self.version, self.hangs = False, 0, False

    def alive(self) -> None:
        if self.dead:
            from ray.exceptions import ActorDiedError

            raise ActorDiedError()


def scene(scenario, count: int = 2, **options: Any):
    """Run `scenario(pool, actors)` on a pool of stand-ins, in virtual time."""

    async def play() -> Any:
        loop = asyncio.get_running_loop()
        actors = {f"rollout-{i}": Actor(f"rollout-{i}") for i in range(count)}
        handles = {name: Handle(actor) for name, actor in actors.items()}
        killed: list[tuple[str, bool]] = []

        async def restart(name: str, kill: bool) -> None:
            killed.append((name, kill))
            await actors[name].start()

        members = Fleet(actors, loop.time, max_deaths=options.pop("max_deaths", 5))
        pool = Pool(members, handles, TimedCaller(actors), restart, timeout_s=100, **options)
        pool.killed = killed
        pool.open()
        try:
            return await scenario(pool, list(actors.values()))
        finally:
            await pool.close()

    return run(play())


def test_a_dead_engine_comes_back_with_the_weights_of_the_day():
    async def scenario(pool, actors):
        pool.publish(4, "w4")
        await pool.settle(10)
        actors[0].dead = True
        with pytest.raises(Lost):
            await pool.ask("rollout-0", "work", 1)
        assert pool.fleet.usable() == ["rollout-1"]
        assert (await pool.ask_any("work", 2))[0] == "rollout-1"
        assert await pool.back("rollout-0") and actors[0].version == 4
        assert pool.killed == [("rollout-0", False)]

    scene(scenario)


def test_an_idle_death_is_found_by_probing():
    async def scenario(pool, actors):
        actors[1].dead = True
        await asyncio.sleep(5)
        assert pool.fleet.state("rollout-1") == State.RESTARTING
        await pool.settle(20)
        assert actors[1].starts == 1

    scene(scenario)


def test_one_that_hangs_is_killed_and_restarted():
    async def scenario(pool, actors):
        actors[0].hangs = True
        await asyncio.sleep(200)
        assert pool.killed[0] == ("rollout-0", True) and pool.fleet.usable() == ["rollout-0", "rollout-1"]

    scene(scenario)


def test_an_engine_at_work_that_makes_no_step_is_late():
    async def scenario(pool, actors):
        async def stuck():
            return {"running": 3, "steps": 17}

        actors[0].ping = stuck
        await asyncio.sleep(10)
        assert pool.fleet.state("rollout-0") == State.SUSPECT

    scene(scenario)


def test_a_start_that_fails_is_tried_again_and_given_up_in_the_end():
    async def scenario(pool, actors):
        actors[0].dead, actors[0].bad_starts = True, 2
        await asyncio.sleep(5)
        await pool.settle(100)
        assert actors[0].starts == 3
        actors[0].dead, actors[0].bad_starts = True, 100
        await asyncio.sleep(300)
        assert pool.fleet.state("rollout-0") == State.RETIRED and not await pool.back("rollout-0")

    scene(scenario)


def test_with_draining_weights_wait_for_what_runs():
    async def scenario(pool, actors):
        running = asyncio.create_task(pool.ask("rollout-0", "work", 1))
        await asyncio.sleep(0.3)
        pool.publish(1, "w1")
        await asyncio.sleep(0.6)
        assert actors[1].loads and not actors[0].loads and pool.fleet.usable() == ["rollout-1"]
        assert (await running)[1] == 0
        await pool.settle(10)
        assert actors[0].loads == [("w1", 1)]

    scene(scenario, drain=True)


def test_only_the_newest_of_two_publications_is_waited_for():
    async def scenario(pool, actors):
        pool.publish(1, "w1")
        await asyncio.sleep(0.1)
        pool.publish(2, "w2")
        await pool.settle(10)
        assert all(actor.version == 2 and actor.loads[-1] == ("w2", 2) for actor in actors)

    scene(scenario)


def test_a_request_that_is_wrong_is_no_death():
    async def scenario(pool, actors):
        with pytest.raises(ValueError, match="this request is wrong"):
            await pool.ask_any("wrong")
        assert len(pool.fleet.usable()) == 2

    scene(scenario)


def test_requests_go_on_while_anybody_lives_and_end_when_nobody_does():
    async def scenario(pool, actors):
        answers = [asyncio.create_task(pool.ask_any("work", i)) for i in range(20)]
        await asyncio.sleep(0.5)
        actors[0].dead = True
        assert sorted(value for _, _, value in await asyncio.gather(*answers)) == list(range(20))
        for actor in actors:
            actor.dead, actor.bad_starts = True, 1000
        await asyncio.sleep(400)
        with pytest.raises(AllLost):
            await pool.ask_any("work", 1)

    scene(scenario)


def test_a_death_told_late_does_not_count_against_the_next_life():
    async def scenario(pool, actors):
        from ray.exceptions import ActorDiedError

        pool.died("rollout-0", ActorDiedError(), 0)
        await asyncio.sleep(1)
        pool.died("rollout-0", ActorDiedError(), 0)  # of another request of its
        assert pool.fleet.state("rollout-0") == State.RESTARTING
        await pool.settle(20)
        pool.died("rollout-0", ActorDiedError(), 0)
        assert pool.fleet.settled() and actors[0].starts == 1

    scene(scenario)


def test_a_keeper_that_fails_is_no_silent_death():
    async def scenario(pool, actors):
        def broken():
            raise RuntimeError("a bug")

        pool.changed.append(broken)
        with pytest.raises(RuntimeError, match="a bug"):
            pool.publish(1, "w1")
        await asyncio.sleep(5)
        with pytest.raises(RuntimeError, match="a bug"):
            pool.check()

    scene(scenario)


def test_what_counts_as_a_death():
    from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError

    EngineClosed, NotStarted = (type(name, (RuntimeError,), {}) for name in ("EngineClosed", "NotStarted"))
    assert is_gone(ActorDiedError()) and is_gone(ActorUnavailableError("", b"0" * 16)) and is_gone(NotStarted())
    closed = RayTaskError("group", "traceback", EngineClosed()).as_instanceof_cause()
    assert is_death(closed) and not is_gone(closed)
    assert not is_death(RayTaskError("group", "traceback", ValueError("x")).as_instanceof_cause())
    others = RayTaskError("verify_group", "traceback", ActorUnavailableError("", b"0" * 16)).as_instanceof_cause()
    assert not is_death(others)  # the engine's whose group the verifier was given
    lost = ObjectLostError("00", b"", "")
    assert is_death(lost) and not is_gone(lost)
    assert not is_death(RayTaskError("load", "traceback", lost).as_instanceof_cause())  # what it was given was lost
