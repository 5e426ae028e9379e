"""Conservation, admission and bounded staleness, over long random runs and by hand."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from actors.messages import Completion, Problem, RolloutGroup
from rl.ledger import ConservationError, Ledger

PROBLEM = Problem("p", ({"role": "user", "content": "?"},), "math", "math", "1")
NOTHING = np.zeros(0, np.int32)


def group(group_id: int, version: int = 0) -> RolloutGroup:
    completion = Completion("", NOTHING, NOTHING, "stop", version, version)
    return RolloutGroup(group_id, PROBLEM, NOTHING, (completion,))


@dataclass
class Simulation:
    """Groups that end in any order and any way, with books of the test's own beside the ledger's."""

    ledger: Ledger
    rng: random.Random
    step: int = 1
    version: int = 0
    ended: dict[int, str] = field(default_factory=dict)
    ages: list[int] = field(default_factory=list)

    def run(self, groups: int) -> None:
        while self.ledger.next_id < groups:
            self.rng.choices([self.dispatch, self.end_one, self.close], [10, 9, 1])[0]()
            self.check()

    def dispatch(self) -> None:
        for _ in range(self.rng.randint(0, self.ledger.capacity(self.step))):
            self.ledger.dispatch(self.version)
            self.check()

    def end_one(self) -> None:
        if not self.ledger.running:
            return
        group_id = self.rng.choice(list(self.ledger.running))
        outcome = self.rng.choices(["accepted", "filtered", "stale", "failed"], [6, 3, 1, 1])[0]
        if outcome == "accepted":
            self.ledger.accept(group(group_id, self.ledger.running[group_id]))
        else:
            capacity = self.ledger.capacity(self.step)
            self.ledger.drop(group_id, outcome, "by chance")
            self.ended[group_id] = outcome
            assert self.ledger.capacity(self.step) == capacity + 1

    def close(self) -> None:
        ready = set(self.ledger.ready)
        taken = self.ledger.consume(self.version)
        assert len(taken) <= self.ledger.batch
        assert [g.group_id for g in taken] == sorted(g.group_id for g in taken)
        self.ages += [self.version - g.start_version for g in taken]
        self.ended |= {g.group_id: "trained" for g in taken}
        self.ended |= {i: "stale" for i in ready - set(self.ledger.ready) - {g.group_id for g in taken}}
        self.ledger.close_step(self.step)
        self.step, self.version = self.step + 1, self.version + bool(taken)

    def check(self) -> None:
        ledger = self.ledger
        ledger.check()
        held = len(ledger.running) + len(ledger.ready) + len(self.ended)
        assert held == ledger.next_id and not self.ended.keys() & (ledger.running.keys() | ledger.ready.keys())
        assert not ledger.running.keys() & ledger.ready.keys()
        assert ledger.accepted + len(ledger.running) <= (ledger.staleness + self.step) * ledger.batch


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_ten_thousand_groups_are_conserved_admitted_and_fresh(staleness):
    simulation = Simulation(Ledger(7, staleness), random.Random(staleness))
    simulation.run(10_000)
    ledger, outcomes = simulation.ledger, list(simulation.ended.values())
    assert ledger.counts == {name: outcomes.count(name) for name in ("trained", "filtered", "stale", "failed")}
    assert min(ledger.counts.values()) > 0 and simulation.step > 500
    assert max(simulation.ages) == staleness  # the bound is never exceeded, and is reached
    assert sum(ledger.reasons.values()) == len(outcomes) - ledger.counts["trained"]


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_admission_alone_bounds_staleness_where_groups_end_in_order(staleness):
    ledger, ages = Ledger(5, staleness), []
    for version, step in enumerate(range(1, 200)):
        for _ in range(ledger.capacity(step)):
            ledger.dispatch(version)
        for group_id in sorted(ledger.running)[: 5 - len(ledger.ready)]:
            ledger.accept(group(group_id, ledger.running[group_id]))
        ages += [version - g.start_version for g in ledger.consume(version)]
        ledger.close_step(step)
        ledger.check()
    assert ledger.counts == {"trained": 5 * 199, "filtered": 0, "stale": 0, "failed": 0}
    assert max(ages) == staleness and ledger.forfeited == 0


# --- by hand ------------------------------------------------------------------------------------------------------


def test_capacity_is_taken_by_dispatch_and_given_back_by_what_cannot_be_trained_on():
    ledger = Ledger(batch=3)
    assert ledger.capacity(1) == 3
    first, second, third = (ledger.dispatch(0) for _ in range(3))
    assert ledger.capacity(1) == 0
    ledger.accept(group(first))
    assert ledger.capacity(1) == 0
    ledger.drop(second, "filtered", "all correct")
    assert ledger.capacity(1) == 1
    ledger.drop(third, "failed", "did not come back")
    assert ledger.capacity(1) == 2
    assert ledger.reasons == {"filtered: all correct": 1, "failed: did not come back": 1}


def test_a_closed_step_forfeits_what_it_left_unfilled():
    ledger = Ledger(batch=4)
    ledger.accept(group(ledger.dispatch(0)))
    assert len(ledger.consume(0)) == 1
    assert ledger.capacity(2) == 7  # a larger batch, were the step not closed
    ledger.close_step(1)
    assert (ledger.forfeited, ledger.capacity(1), ledger.capacity(2)) == (3, 0, 4)
    ledger.close_step(1)
    assert ledger.forfeited == 3


def test_what_became_too_old_is_swept_and_gives_its_capacity_back():
    ledger = Ledger(batch=2, staleness=1)
    for version in (0, 1, 2, 2):
        group_id = ledger.dispatch(version)
        ledger.accept(group(group_id, version))
    before = ledger.capacity(3)
    assert [g.group_id for g in ledger.consume(2)] == [1, 2]
    assert ledger.counts["stale"] == 1 and ledger.reasons == {"stale: too old when its turn came": 1}
    assert list(ledger.ready) == [3] and ledger.capacity(3) == before + 1
    ledger.check()


def test_a_group_is_as_old_as_its_oldest_completion():
    ledger = Ledger(batch=1, staleness=1)
    mixed = RolloutGroup(ledger.dispatch(2), PROBLEM, NOTHING, group(0, 3).completions + group(0, 1).completions)
    ledger.accept(mixed)
    assert ledger.consume(3) == [] and ledger.counts["stale"] == 1


def test_a_group_that_ends_twice_or_was_never_dispatched_is_a_bug():
    ledger = Ledger(batch=2)
    group_id = ledger.dispatch(0)
    ledger.accept(group(group_id))
    for end in (lambda: ledger.accept(group(group_id)), lambda: ledger.drop(group_id, "failed", "again"),
                lambda: ledger.accept(group(99))):
        with pytest.raises(ConservationError, match="ended twice, or was never dispatched"):
            end()
    assert len(ledger.ready) == 1 and ledger.counts["failed"] == 0
    ledger.check()


def test_a_lost_group_is_noticed():
    ledger = Ledger(batch=2)
    ledger.dispatch(0)
    ledger.running.clear()
    with pytest.raises(ConservationError, match="1 groups were dispatched, 0 are accounted for"):
        ledger.check()


@pytest.mark.parametrize("outcome", ["trained", "lost"])
def test_a_group_is_not_dropped_as_anything_else(outcome):
    ledger = Ledger(batch=1)
    group_id = ledger.dispatch(0)
    with pytest.raises(ValueError, match=f"cannot be dropped as '{outcome}'"):
        ledger.drop(group_id, outcome, "why")
    assert group_id in ledger.running


# --- checkpoints --------------------------------------------------------------------------------------------------


def closed_ledger() -> Ledger:
    ledger = Ledger(batch=2)
    ledger.accept(group(ledger.dispatch(0)))
    ledger.drop(ledger.dispatch(0), "filtered", "all incorrect")
    ledger.consume(0)
    ledger.close_step(1)
    return ledger


def test_a_ledger_survives_a_checkpoint():
    ledger, again = closed_ledger(), Ledger(batch=2)
    again.dispatch(0)  # whatever it held is forgotten
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert again == ledger
    assert again.dispatch(1) == 2 and again.capacity(2) == 1
    again.check()


def test_a_saved_state_does_not_change_with_the_ledger():
    ledger = closed_ledger()
    state = ledger.state_dict()
    saved = json.dumps(state)
    ledger.drop(ledger.dispatch(1), "failed", "later")
    assert json.dumps(state) == saved


@pytest.mark.parametrize("accepted", [False, True])
def test_no_on_policy_checkpoint_is_taken_while_groups_are_in_flight(accepted):
    ledger = Ledger(batch=1)
    group_id = ledger.dispatch(0)
    if accepted:
        ledger.accept(group(group_id))
    with pytest.raises(ConservationError, match="between steps"):
        ledger.state_dict()
