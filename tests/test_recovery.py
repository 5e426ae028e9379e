"""On-policy waves whose engine or verifier dies: the same groups, each once; learners that are put back together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_time import run

from actors.engine import Sampling
from actors.fleet import Fleet, State
from actors.fleet_pool import Pool
from benchmarks.timed import Handle, Numbered, TimedCaller, TimedEngine, TimedVerifier
from rl import crew as crews
from rl.dispatcher import ActorsLost, Collected, Dispatcher, Keepers, ServiceFailure
from rl.ledger import Ledger
from rl.publication import within


class MortalVerifier(TimedVerifier):
    """Dies `deaths` times, each time in the middle of a check."""

    deaths = 0

    async def verify_group(self, group: Any) -> Any:
        result = await super().verify_group(group)
        if self.deaths:
            from ray.exceptions import ActorDiedError

            self.deaths -= 1
            raise ActorDiedError()
        return result

    async def ping(self) -> dict[str, Any]:
        return {}


def wave(kill_at: float | None = None, verifier_deaths: int = 0, max_deaths: int = 5) -> tuple[Collected, Any]:
    """A step of 6 groups on two engines, one of which is killed; returns what it collected, and the scene."""

    async def scene() -> tuple[Collected, Any]:
        loop = asyncio.get_running_loop()
        lengths = lambda problem: [5 + 3 * int(problem.id), 7]  # noqa: E731
        actors = {f"rollout-{i}": TimedEngine(f"rollout-{i}", 16, 1.0, lengths) for i in range(2)}
        judges = {f"verifier-{i}": MortalVerifier(0.5) for i in range(2)}
        judges["verifier-0"].deaths = verifier_deaths
        starts: list[str] = []

        async def restart(name: str, kill: bool) -> None:
            starts.append(name)
            await asyncio.sleep(20)
            if name in actors:
                await actors[name].start()

        def pool(targets: dict[str, Any], weights: bool) -> Pool:
            handles = {name: Handle(target) for name, target in targets.items()}
            fleet = Fleet(targets, loop.time, weights=weights, max_deaths=max_deaths)
            return Pool(fleet, handles, TimedCaller(targets), restart, timeout_s=100)

        engines, verifiers, ledger = pool(actors, True), pool(judges, False), Ledger(6)
        engines.open()
        verifiers.open()
        engines.publish(3, "weights")
        await engines.settle(10)
        dispatcher = Dispatcher(
            Numbered(), ledger, list(engines.handles.values()), list(verifiers.handles.values()), group_size=2,
            sampling=Sampling(), refill_rounds=0, seed=0, timeout_s=500, keep=lambda group: "",
            keepers=Keepers(engines, verifiers))
        if kill_at is not None:
            loop.call_later(kill_at, actors["rollout-0"].kill)
        try:
            collected = await dispatcher.collect(1, 3, lambda done, total: None)
        finally:
            await engines.close()
            await verifiers.close()
            await asyncio.sleep(50)  # what the dead engine ran ends
        return collected, SimpleNamespace(ledger=ledger, starts=starts, engines=engines, verifiers=verifiers)

    return run(scene())


@pytest.mark.parametrize("moment", [1.0, 9.5, 12.0])
def test_a_wave_whose_engine_dies_brings_the_same_groups_once(moment):
    collected, scene = wave(kill_at=moment)
    unbroken, _ = wave()
    assert [(g.group_id, g.problem.id, g.start_version) for g in collected.groups] == [
        (g.group_id, g.problem.id, g.start_version) for g in unbroken.groups] == [(i, str(i), 3) for i in range(6)]
    assert [g.group_id for g in collected.seen] == list(range(6))
    assert scene.ledger.counts["trained"] == scene.ledger.next_id == 6 and scene.starts == ["rollout-0"]


def test_the_checks_of_a_dead_verifier_are_anothers():
    collected, scene = wave(verifier_deaths=1)
    assert len(collected.groups) == 6 and all(len(g.verdicts) == 1 for g in collected.groups)
    assert scene.starts == ["verifier-0"]


def test_an_engine_that_dies_too_often_ends_the_step_with_the_reason():
    with pytest.raises(ServiceFailure, match="an actor died"):
        wave(kill_at=9.5, max_deaths=0)


# --- learners -----------------------------------------------------------------------------------------------------


def crew(monkeypatch, restart) -> crews.Crew:
    monkeypatch.setattr(crews, "Broadcaster", lambda handles: None)
    monkeypatch.setattr(crews, "restart_learners", restart)
    cfg = SimpleNamespace(engine=SimpleNamespace(timeout_s=1, update="drain"), rl=SimpleNamespace(train_planner=False))
    cluster = SimpleNamespace(rollouts=["r"], verifiers=["v"], learners=["l0", "l1"])
    return crews.Crew(cfg, cluster)


def test_lost_learners_are_restarted_together_and_given_up_in_the_end(monkeypatch):
    calls = []

    async def restart(learners, timeout_s):
        calls.append(learners)

    made, events = crew(monkeypatch, restart), []
    made.listen = events.append
    lost = ActorsLost("learner-1 failed to take an optimizer step: it died", ["learner-1"])
    for _ in range(made.learners.max_deaths):
        asyncio.run(made.restart_learners(lost))
        made.learners_are_back()
    assert len(calls) == 5 and calls[0] == ["l0", "l1"]
    reasons = {event.name: event.reason for event in events if event.after == State.DEAD}
    assert reasons == {"learner-0": "is restarted with learner-1", "learner-1": "died or hangs"}
    with pytest.raises(ActorsLost, match="optimizer step"):
        asyncio.run(made.restart_learners(lost))


def test_learners_that_die_while_they_start_are_lost_again(monkeypatch):
    from ray.exceptions import ActorDiedError

    async def restart(learners, timeout_s):
        raise ActorDiedError()

    made = crew(monkeypatch, restart)
    with pytest.raises(ActorsLost, match="died again"):
        asyncio.run(made.restart_learners(ActorsLost("x", ["learner-0"])))


def fails_after(seconds: float, error: Exception | None):
    async def call():
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    return call()


@pytest.mark.parametrize("noticed", [1.0, 40.0])
def test_a_dead_learner_is_named_though_its_peers_fail_first(noticed):
    """They see the connection end at once; that the other's node is gone is known later."""
    from ray.exceptions import ActorDiedError

    async def scene():
        calls = [fails_after(0.1, RuntimeError("Connection closed by peer")), fails_after(noticed, ActorDiedError())]
        await within(calls, ["learner-0", "learner-1"], 300, "take an optimizer step")

    with pytest.raises(ActorsLost, match="learner-1 failed to take") as caught:
        run(scene())
    assert caught.value.names == ("learner-1",)


def test_a_failure_without_a_death_ends_the_run_though_others_hang():
    async def scene():
        loop, calls = asyncio.get_running_loop(), [fails_after(1, ValueError("a bug")), fails_after(1000, None)]
        with pytest.raises(ServiceFailure, match="learner-0 failed to take .* a bug") as caught:
            await within(calls, ["learner-0", "learner-1"], 300, "take an optimizer step")
        assert not isinstance(caught.value, ActorsLost) and loop.time() < 120
        await asyncio.sleep(0)  # the one that hung is cancelled

    run(scene())


def test_a_learner_that_cannot_start_beside_a_dying_one_is_lost_again(monkeypatch):
    from ray.exceptions import RayTaskError

    async def restart(learners, timeout_s):
        raise RayTaskError("start", "traceback", RuntimeError("Connection closed by peer")).as_instanceof_cause()

    made = crew(monkeypatch, restart)
    with pytest.raises(ActorsLost, match="died again"):
        asyncio.run(made.restart_learners(ActorsLost("x", ["learner-0"])))


def test_a_death_that_is_told_late_is_not_one_of_the_next_life():
    from ray.exceptions import ActorDiedError

    _, scene = wave(kill_at=9.5)
    keepers, member = Keepers(scene.engines, scene.verifiers), scene.engines.fleet.members["rollout-0"]
    assert keepers.life(0) == 1 and len(member.deaths) == 1
    assert asyncio.run(keepers.revived(0, ActorDiedError(), 0))  # ask it again
    assert member.state == State.HEALTHY and len(member.deaths) == 1
