"""Plans and solutions trained together: what is compared with what, and the wave that makes them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from actors.engine import Sampling
from actors.messages import Completion, Problem, RolloutGroup, Verdict
from actors.planned import Planning, plan_problem, solve_problem, with_credit
from actors.prompts import PLAN_REQUEST
from actors.rollout import Rollout
from conf.schema import RLConfig
from rl.batch import filter_reason, rollout_metrics, sequences
from rl.curriculum import Record, record_of
from rl.packing import token_batch

PROBLEM = Problem("p", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3 * 4 = ?"}),
                  "math", "math", "14")


def completion(text: str = "", token: int = 5) -> Completion:
    ids = np.array([token], np.int32)
    return Completion(text, ids, np.zeros(1, np.float32), "stop", 0, 0)


def planned(*scores: tuple[float | None, ...], prompt: int = 1) -> RolloutGroup:
    """A verified group with one plan a tuple, whose solutions scored so (None: a verifier's error)."""
    parts = []
    for number, values in enumerate(scores):
        verdicts = tuple(Verdict("error", 0.0) if v is None else Verdict("correct", v) for v in values)
        ids = np.array([prompt, 10 + number], np.int32)
        parts.append(RolloutGroup(7, PROBLEM, ids, tuple(completion() for _ in values), verdicts))
    plans = RolloutGroup(7, PROBLEM, np.array([prompt], np.int32), tuple(completion() for _ in scores))
    return with_credit(plans, parts)


def advantages(group: RolloutGroup) -> list[float]:
    return [float(row["advantages"][-1]) for row in sequences([group], RLConfig(), 10)]


# --- prompts ------------------------------------------------------------------------------------------------------


def test_only_the_last_question_changes():
    asked = plan_problem(PROBLEM)
    assert asked.messages[0] == PROBLEM.messages[0] and asked.question.endswith(PLAN_REQUEST)
    assert (asked.id, asked.ground_truth) == (PROBLEM.id, PROBLEM.ground_truth)
    solve = solve_problem(PROBLEM, "<plan>Multiply before you add.</plan>")
    assert solve.question == "2 + 3 * 4 = ?\nPlan: Multiply before you add."


def test_a_plan_that_states_the_answer_loses_it_and_an_empty_one_is_none():
    assert "14" not in solve_problem(PROBLEM, "<plan>Multiply first. The answer is 14.</plan>").question
    assert solve_problem(PROBLEM, "<plan></plan>") == PROBLEM


# --- credit -------------------------------------------------------------------------------------------------------


def test_solutions_are_compared_within_one_plan_and_plans_by_their_solutions():
    found = advantages(planned((1.0, 0.0), (0.0, 0.0)))
    assert found == pytest.approx([0.25, -0.25] + [0.5, -0.5] + [0.0, 0.0])


def test_a_good_solver_is_not_punished_for_a_bad_plan():
    """Under either plan one of two is right: the plans are worth the same, whatever the other solutions are."""
    assert advantages(planned((1.0, 0.0), (1.0, 0.0))) == pytest.approx([0, 0, 0.5, -0.5, 0.5, -0.5])


def test_a_plan_that_could_not_be_judged_takes_no_part():
    group = planned((1.0, 1.0), (None, None), (0.0, 0.0))
    assert [v.status for v in group.verdicts] == ["correct", "error", "incorrect"]
    assert advantages(group) == pytest.approx([0.5, -0.5, 0, 0, 0, 0])


def test_one_plan_has_nothing_to_be_compared_with():
    assert advantages(planned((1.0, 0.0))) == pytest.approx([0.0, 0.5, -0.5])


@pytest.mark.parametrize(("scores", "reason"), [
    (((1.0, 0.0), (1.0, 0.0)), ""),  # under each plan
    (((1.0, 1.0), (0.0, 0.0)), ""),  # across plans
    (((1.0, 1.0), (1.0, 1.0)), "all correct"),
    (((0.0, 0.0), (0.0, 0.0)), "all incorrect"),
    (((None, None), (None, 1.0)), "verifier errors"),
])
def test_a_planned_group_is_kept_for_either_comparison(scores, reason):
    assert filter_reason(planned(*scores), RLConfig(), 10) == reason


def test_no_two_prompts_share_a_row():
    rows = sequences([planned((1.0, 0.0), (1.0, 0.0))], RLConfig(), 10)
    batch = token_batch(rows, 100, row_tokens=100)
    prompts = [{tuple(rows[i]["tokens"][: batch.prefixes[i]]) for i in row} for rank in batch.micro_batches
               for micro in rank for row in micro]
    assert sorted(map(len, prompts)) == [1, 1, 1]


def test_rewards_are_of_solutions_and_tokens_of_both():
    metrics = rollout_metrics([planned((1.0, 0.0), (1.0, 1.0))], [], 0)
    assert metrics["reward/mean"] == 0.75 and metrics["reward/math"] == 0.75
    assert metrics["tokens/generated"] == 6 and metrics["length/plan"] == 1


# --- the wave -----------------------------------------------------------------------------------------------------


class Engine:
    """Answers every prompt with its own text, and notes what it was asked."""

    def __init__(self):
        self.version, self.failure, self.calls, self.state = 0, None, [], lambda: ""
        self.tokenizer = self

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return messages[-1]["content"]

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(c) for c in text]}

    async def generate(self, requests, sampling, seed=None):
        self.calls.append(([r.n for r in requests], seed, self.state()))
        for request in reversed(requests):
            text = "".join(map(chr, request.prompt_ids))
            plans = text.endswith(PLAN_REQUEST)
            yield request.id, tuple(
                completion(f"<plan>Way {i} for {text[0]}.</plan>" if plans else text) for i in range(request.n))


def test_plans_come_first_and_solutions_of_each_after_them():
    rollout = Rollout("rollout-0", SimpleNamespace(max_model_len=10_000))
    rollout._engine, rollout._state = (engine := Engine()), "ready"
    engine.state = rollout.state
    asked = [(i, Problem(str(i), ({"role": "user", "content": f"{i}?"},), "math", "math", "1")) for i in (4, 9)]

    async def collect():
        return [group async for group in rollout.generate(asked, 3, Sampling(max_tokens=8), 12, Planning(2))]

    groups = asyncio.run(collect())
    assert engine.calls == [([2, 2], 12, "planning"), ([3, 3, 3, 3], 13, "generating")]
    assert rollout.state() == "ready"
    assert [group.group_id for group in groups] == [4, 9] and [g.problem for g in groups] == [p for _, p in asked]
    for group in groups:
        assert len(group.completions) == len(group.parts) == 2
        for number, part in enumerate(group.parts):
            assert part.group_id == group.group_id and len(part.completions) == 3
            assert part.completions[0].text == f"{group.group_id}?\nPlan: Way {number} for {group.group_id}."


def wave(ids: list[int], planning: Planning) -> tuple[list[RolloutGroup], Engine]:
    rollout = Rollout("rollout-0", SimpleNamespace(max_model_len=10_000))
    rollout._engine = engine = Engine()
    asked = [(i, Problem(str(i), ({"role": "user", "content": f"{i}?"},), "math", "math", "1")) for i in ids]

    async def collect():
        return [group async for group in rollout.generate(asked, 3, Sampling(max_tokens=8), 12, planning)]

    return asyncio.run(collect()), engine


def test_a_share_of_the_groups_is_planned_and_the_others_are_asked_plainly_in_the_same_wave():
    groups, engine = wave([0, 1, 2, 3], Planning(2, share=0.5))
    assert [call[:2] for call in engine.calls] == [([2, 2], 12), ([3] * 6, 13)]
    assert [len(g.parts) for g in groups] == [0, 2, 0, 2]
    assert [c.text for c in groups[2].completions] == ["2?"] * 3
    assert groups[3].parts[1].completions[0].text == "3?\nPlan: Way 1 for 3."


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.75, 1.0])
def test_a_share_is_spread_evenly(share):
    kinds = [bool(Planning(3, share).of(i)) for i in range(1000)]
    assert sum(kinds) == pytest.approx(1000 * share, abs=1)
    assert all(abs(sum(kinds[i : i + 20]) - 20 * share) <= 1 for i in range(0, 1000, 20))


def test_a_plan_that_leaves_no_room_for_an_answer_is_not_followed():
    long = Rollout("rollout-0", SimpleNamespace(max_model_len=30))
    long._engine = Engine()
    problem = Problem("p", ({"role": "user", "content": "7?"},), "math", "math", "1")
    assert long._solving(problem, "<plan>Short.</plan>", Sampling(max_tokens=8)) != problem
    assert long._solving(problem, f"<plan>{'Long way. ' * 9}</plan>", Sampling(max_tokens=8)) == problem


def test_a_problem_s_record_is_of_its_solutions_not_of_its_plans():
    assert record_of(planned((1.0, 0.0), (1.0, None))) == Record(tries=3, solved=3, longest=1, tokens=3)
