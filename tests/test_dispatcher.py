"""Collecting a step's groups from stand-ins of the actors, without Ray: refills, failures, and books that balance."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.engine import Sampling
from actors.messages import Completion, Problem, RolloutGroup, Verdict
from conf.errors import UserError
from rl.dispatcher import Collected, Dispatcher, ServiceFailure, wave_seed
from rl.ledger import Ledger
from rl.publication import publish, within


def problem(number: int) -> Problem:
    return Problem(f"p{number}", ({"role": "user", "content": "?"},), "math", "math", "1")


class FakeSource:
    def __init__(self) -> None:
        self.numbers = count()

    def take(self, wanted: int) -> list[Problem]:
        return [problem(next(self.numbers)) for _ in range(wanted)]


@dataclass
class FakeRollout:
    """Yields a reference to each group of its share, the last first; raises or stops after `fails_after` of them."""

    fails_after: int | None = None
    error: Exception | None = None
    waves: list[tuple] = field(default_factory=list)

    @property
    def generate(self) -> Any:
        return SimpleNamespace(options=self.options)

    def options(self, num_returns: str) -> Any:
        assert num_returns == "streaming"
        return SimpleNamespace(remote=self.stream)

    async def stream(self, share, n, sampling, seed):
        self.waves.append((tuple(group_id for group_id, _ in share), n, sampling, seed))
        for index, (group_id, asked) in enumerate(reversed(share)):
            if index == self.fails_after:
                if self.error:
                    raise self.error
                return
            reference = asyncio.get_running_loop().create_future()
            ids = np.zeros(1, np.int32)
            completions = tuple(Completion("", ids, ids, "stop", 3, 3) for _ in range(n))
            reference.set_result(RolloutGroup(group_id, asked, ids, completions))
            yield reference


@dataclass
class FakeVerifier:
    """Judges all as correct; fails or hangs on the group ids named."""

    fails_on: tuple[int, ...] = ()
    hangs_on: tuple[int, ...] = ()
    judged: list[int] = field(default_factory=list)

    @property
    def verify_group(self) -> Any:
        return SimpleNamespace(remote=self.judge)

    async def judge(self, reference) -> RolloutGroup:
        group = await reference
        if group.group_id in self.fails_on:
            raise RuntimeError("the checker crashed")
        if group.group_id in self.hangs_on:
            await asyncio.sleep(60)
        self.judged.append(group.group_id)
        verdicts = (Verdict("correct", 1.0),) * len(group.completions)
        return RolloutGroup(group.group_id, group.problem, group.prompt_ids, group.completions, verdicts)


@dataclass
class Bench:
    """A dispatcher of 4 groups a step on stand-ins; `filtered` group ids carry no signal."""

    rollouts: list[FakeRollout] = field(default_factory=lambda: [FakeRollout(), FakeRollout()])
    verifiers: list[FakeVerifier] = field(default_factory=lambda: [FakeVerifier(), FakeVerifier()])
    filtered: tuple[int, ...] = ()
    refill_rounds: int = 1
    timeout_s: float = 5.0
    ledger: Ledger = field(default_factory=lambda: Ledger(4))
    shown: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(
            FakeSource(), self.ledger, self.rollouts, self.verifiers, group_size=2, sampling=Sampling(),
            refill_rounds=self.refill_rounds, seed=11, timeout_s=self.timeout_s,
            keep=lambda group: "all correct" if group.group_id in self.filtered else "")

    async def acollect(self, step: int = 1) -> Collected:
        return await self.dispatcher.collect(step, 3, lambda done, total: self.shown.append((done, total)))

    def collect(self, step: int = 1) -> Collected:
        return asyncio.run(self.acollect(step))

    def seeds(self) -> list[int]:
        return [wave[-1] for rollout in self.rollouts for wave in rollout.waves]


def ids(groups) -> list[int]:
    return [g.group_id for g in groups]


# --- a step -------------------------------------------------------------------------------------------------------


def test_a_step_collects_its_groups_in_the_order_of_their_ids():
    bench = Bench()
    result = bench.collect()
    assert ids(result.groups) == ids(result.seen) == [0, 1, 2, 3] and result.rounds == 1
    assert [g.problem.id for g in result.groups] == ["p0", "p1", "p2", "p3"]
    assert all(len(g.verdicts) == len(g.completions) == 2 for g in result.groups)
    assert bench.ledger.counts["trained"] == 4 and bench.shown == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_work_is_shared_among_engines_and_verifiers():
    bench = Bench()
    bench.collect()
    assert [rollout.waves[0][:2] for rollout in bench.rollouts] == [((0, 2), 2), ((1, 3), 2)]
    assert all(len(verifier.judged) == 2 for verifier in bench.verifiers)


def test_an_engine_without_a_share_is_not_called():
    bench = Bench(rollouts=[FakeRollout() for _ in range(6)])
    assert ids(bench.collect().groups) == [0, 1, 2, 3]
    assert [len(rollout.waves) for rollout in bench.rollouts] == [1, 1, 1, 1, 0, 0]


def test_groups_without_a_signal_are_refilled():
    bench = Bench(filtered=(1, 3))
    result = bench.collect()
    assert ids(result.groups) == [0, 2, 4, 5] and ids(result.seen) == [0, 1, 2, 3, 4, 5] and result.rounds == 2
    assert bench.ledger.counts == {"trained": 4, "filtered": 2, "stale": 0, "failed": 0}
    assert bench.ledger.reasons == {"filtered: all correct": 2} and bench.ledger.forfeited == 0


def test_the_rounds_are_bounded_and_the_rest_is_forfeited():
    bench = Bench(filtered=tuple(range(4)) + (5, 6), refill_rounds=1)
    result = bench.collect()
    assert ids(result.groups) == [4, 7] and result.rounds == 2
    assert bench.ledger.forfeited == 2
    assert ids(bench.collect(step=2).groups) == [8, 9, 10, 11]  # no larger than any other step


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_step_may_bring_nothing(rounds):
    bench = Bench(filtered=tuple(range(100)), refill_rounds=rounds)
    result = bench.collect()
    assert result.groups == [] and len(result.seen) == 4 * (1 + rounds) and result.rounds == 1 + rounds
    assert bench.ledger.forfeited == 4 and bench.ledger.capacity(2) == 4


def test_seconds_are_told():
    result = Bench(filtered=(0,)).collect()
    assert result.generate_s > 0 and result.verify_s >= 0


# --- seeds --------------------------------------------------------------------------------------------------------


def test_every_wave_has_a_seed_of_its_own_and_always_the_same():
    benches = [Bench(filtered=(1, 2)) for _ in range(2)]
    for bench in benches:
        bench.collect(1)
        bench.collect(2)
    first, second = (bench.seeds() for bench in benches)
    assert first == second and len(first) == len(set(first)) == 6  # 2 engines: 2 rounds, then one


def test_wave_seeds_are_distinct_63_bit_numbers():
    seeds = {wave_seed(*parts) for parts in np.ndindex(3, 30, 3, 4)} | {wave_seed(1, 23), wave_seed(12, 3)}
    assert len(seeds) == 3 * 30 * 3 * 4 + 2
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62
    assert wave_seed(0, 1, 0, 0) == wave_seed(0, 1, 0, 0)


# --- failures -----------------------------------------------------------------------------------------------------


def refused(bench: Bench, match: str, kind: type[Exception] = ServiceFailure) -> None:
    """The step fails so, and no group is left running or uncounted."""
    with pytest.raises(kind, match=match):
        bench.collect()
    ledger = bench.ledger
    assert not ledger.running and ledger.counts["trained"] == 0
    assert ledger.counts["failed"] == 4 - len(ledger.ready) > 0
    ledger.check()


def test_a_verifier_that_fails_ends_the_step():
    refused(Bench(verifiers=[FakeVerifier(fails_on=(2,))]), "generation or verification failed: .*checker crashed")


def test_an_engine_that_fails_ends_the_step():
    rollouts = [FakeRollout(), FakeRollout(fails_after=1, error=RuntimeError("out of memory"))]
    refused(Bench(rollouts=rollouts), "generation or verification failed: .*out of memory")


@pytest.mark.parametrize("bench", [
    lambda: Bench(verifiers=[FakeVerifier(hangs_on=(1,))], timeout_s=0.1),
    lambda: Bench(rollouts=[FakeRollout(fails_after=3)], timeout_s=0.1),
], ids=["a verifier hangs", "a group never comes"])
def test_a_group_that_does_not_come_ends_the_step_at_the_deadline(bench):
    refused(bench(), "no group came back within engine.timeout_s=0.1 s")


def test_a_dead_actor_is_told_as_such():
    from ray.exceptions import ActorDiedError

    rollouts = [FakeRollout(fails_after=0, error=ActorDiedError())]
    refused(Bench(rollouts=rollouts), "an actor died: ")


def test_a_prompt_that_is_too_long_is_the_users_mistake():
    from ray.exceptions import RayTaskError

    PromptTooLong = type("PromptTooLong", (ValueError,), {})
    cause = PromptTooLong("problem p1 has a prompt of 300 tokens: raise engine.max_model_len")
    error = RayTaskError("generate", "traceback", cause).as_instanceof_cause()
    refused(Bench(rollouts=[FakeRollout(fails_after=0, error=error)]), "problem p1 has a prompt of 300", UserError)


def test_a_cancelled_step_leaves_nothing_running():
    bench = Bench(verifiers=[FakeVerifier(hangs_on=(3,))])

    async def cancelled():
        task = asyncio.create_task(bench.acollect())
        async with asyncio.timeout(5):
            while len(bench.shown) < 3:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not bench.ledger.running and sorted(bench.ledger.ready) == [0, 1, 2]
    assert bench.ledger.reasons == {"failed: did not come back": 1}
    bench.ledger.check()


# --- weight publication -------------------------------------------------------------------------------------------


@dataclass
class FakeActor:
    """Answers `name` after `seconds`, or raises."""

    seconds: float = 0.0
    error: Exception | None = None
    loaded: list[tuple] = field(default_factory=list)

    async def answer(self, *arguments):
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        self.loaded.append(arguments)
        return "weights"

    @property
    def weights(self) -> Any:
        return SimpleNamespace(remote=lambda *a: asyncio.get_running_loop().create_task(self.answer(*a)))

    load = weights


def publish_to(learners, rollouts, timeout_s=5.0) -> float:
    return asyncio.run(_publish(learners, rollouts, timeout_s))


async def _publish(learners, rollouts, timeout_s) -> float:
    return await publish(learners, rollouts, 4, timeout_s)


def test_every_engine_gets_the_first_learners_weights_and_the_version():
    learners, rollouts = [FakeActor(), FakeActor()], [FakeActor(), FakeActor()]
    assert publish_to(learners, rollouts) >= 0
    assert [len(learner.loaded) for learner in learners] == [1, 1]  # exporting is a collective
    assert [[version for _, version in rollout.loaded] for rollout in rollouts] == [[4], [4]]


def test_who_does_not_answer_is_named():
    with pytest.raises(ServiceFailure, match=r"^rollout-1, rollout-2 did not load weights within 0\.05 s$"):
        publish_to([FakeActor()], [FakeActor(), FakeActor(60), FakeActor(60)], 0.05)


def test_who_fails_is_named_with_the_reason():
    with pytest.raises(ServiceFailure, match="learner-1 failed to export weights: CUDA error"):
        publish_to([FakeActor(), FakeActor(error=RuntimeError("CUDA error"))], [FakeActor()])


def test_a_failure_is_told_rather_than_those_that_wait_for_it():
    with pytest.raises(ServiceFailure, match="learner-1 failed to export weights: no space left"):
        publish_to([FakeActor(60), FakeActor(error=OSError("no space left"))], [FakeActor()], 0.05)


def test_answers_keep_their_order():
    async def value(number):
        await asyncio.sleep(0.01 * (3 - number))
        return number

    async def gather():
        return await within([value(n) for n in range(3)], ["a", "b", "c"], 5.0, "answer")

    assert asyncio.run(gather()) == [0, 1, 2]
    assert asyncio.run(within([], [], 1.0, "answer")) == []
