"""pass@k and the summary of an evaluation."""

from __future__ import annotations

import asyncio
import random
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest

from actors.engine import Sampling
from actors.messages import Completion, Problem, RolloutGroup, Verdict
from rl.evaluation import evaluate, pass_at_k, sample_rows, summarise


def problem(name: str, domain: str = "math") -> Problem:
    return Problem(name, ({"role": "user", "content": f"{name}?"},), domain, domain, "1")


def group(statuses: str, group_id: int = 0, domain: str = "math", tokens: int = 3, cut: int = 0) -> RolloutGroup:
    """`statuses` has a letter a completion: c(orrect), i(ncorrect), e(rror); the first `cut` are truncated."""
    names = {"c": "correct", "i": "incorrect", "e": "error"}
    finish = ["length"] * cut + ["stop"] * (len(statuses) - cut)
    ids = np.zeros(tokens, np.int32)
    completions = tuple(Completion(f"text {k}", ids, ids, finish[k], 5, 5) for k in range(len(statuses)))
    verdicts = tuple(Verdict(names[s], float(s == "c"), reason="why") for s in statuses)
    return RolloutGroup(group_id, problem(f"p{group_id}", domain), np.zeros(2, np.int32), completions, verdicts)


# --- pass@k -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n,correct,k,expected", [
    (16, 4, 1, 0.25),
    (2, 1, 2, 1.0),
    (4, 1, 2, 0.5),
    (5, 2, 3, 0.9),  # 1 - C(3,3) / C(5,3)
    (8, 0, 8, 0.0),
    (8, 8, 1, 1.0),
    (8, 1, 8, 1.0),
])
def test_pass_at_k_by_hand(n, correct, k, expected):
    assert pass_at_k(n, correct, k) == pytest.approx(expected)


@pytest.mark.parametrize("n,correct,k", [(10, 3, 4), (16, 2, 8), (6, 5, 2)])
def test_pass_at_k_is_the_chance_that_one_of_k_drawn_is_right(n, correct, k):
    rng, trials = random.Random(n), 4000
    drawn = sum(min(rng.sample(range(n), k)) < correct for _ in range(trials)) / trials
    error = (drawn * (1 - drawn) / trials) ** 0.5
    assert abs(pass_at_k(n, correct, k) - drawn) < 5 * error + 1e-9


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_pass_at_k_is_unbiased(k, p):
    """Its mean over binomial counts of right answers is the chance that one of k independent answers is right."""
    n = 12
    mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("n,correct,k", [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_of_too_few_samples_is_refused(n, correct, k):
    with pytest.raises(ValueError, match=f"pass@{k} needs at least {k} samples"):
        pass_at_k(n, correct, k)


# --- summaries ----------------------------------------------------------------------------------------------------


def test_a_summary_by_hand():
    groups = [group("ciii", 0), group("ccii", 1, tokens=5, cut=1), group("cccc", 2, "logic")]
    summary = summarise(groups)
    assert summary["overall"] == {
        "pass@1": pytest.approx((0.25 + 0.5 + 1.0) / 3),
        "tokens": pytest.approx((3 + 5 + 3) / 3),
        "problems": 3,
        "truncated": pytest.approx(1 / 12),
        "errors": 0,
    }
    assert summary["domains"]["logic"]["pass@1"] == 1.0 and summary["domains"]["math"]["problems"] == 2
    assert list(summary["domains"]) == ["math", "logic"]


def test_pass_at_8_needs_8_verdicts():
    assert "pass@8" not in summarise([group("ciiiiii")])["overall"]
    assert summarise([group("ciiiiiii")])["overall"]["pass@8"] == 1.0
    nine = summarise([group("ciiiiiiii"), group("iiiiiiiii", 1)])["overall"]
    assert nine["pass@8"] == pytest.approx((8 / 9 + 0) / 2)


def test_errors_are_left_out_and_counted():
    scores = summarise([group("ceei", 0), group("eeee", 1)])["overall"]
    assert scores["pass@1"] == 0.5  # of the two that were judged; nothing is known of the second problem
    assert scores["errors"] == 6 and scores["problems"] == 2


def test_where_nothing_was_judged_there_is_no_pass_rate():
    assert "pass@1" not in summarise([group("ee")])["overall"]


def test_domains_stand_in_the_order_of_the_design_and_others_behind():
    groups = [group("c", i, d) for i, d in enumerate(["zoology", "tabular", "code", "arts", "math"])]
    assert list(summarise(groups)["domains"]) == ["math", "code", "tabular", "arts", "zoology"]


def test_sample_rows_hold_one_completion_each():
    rows = sample_rows([group("ci", 0, cut=1), group("e", 1, "code")])
    assert rows[0] == {
        "problem_id": "p0", "domain": "math", "prompt": "p0?", "completion": "text 0", "status": "correct",
        "score": 1.0, "reason": "why", "tokens": 3, "finish_reason": "length", "policy_version": 5,
    }
    assert [(r["problem_id"], r["status"]) for r in rows] == [("p0", "correct"), ("p0", "incorrect"), ("p1", "error")]


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_an_evaluation_is_the_same_in_whatever_order_groups_arrive():
    """Engines and verifiers are stand-ins, without Ray: see test_dispatcher.py."""
    made = {0: group("ci", 0), 1: group("cc", 1), 2: group("ie", 2)}

    def generate(order):
        async def stream(share, n, sampling, seed):
            for index in order:
                yield made[share[index][0]]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=stream))

    async def judge(reference):
        return reference

    def run(order):
        seen = []
        rollout = SimpleNamespace(generate=generate(order))
        verifier = SimpleNamespace(verify_group=SimpleNamespace(remote=judge))
        problems = [g.problem for g in made.values()]
        result = asyncio.run(evaluate([rollout], [verifier], problems, 2, Sampling(), 7, 5.0,
                                      lambda done, total: seen.append((done, total))))
        assert seen == [(1, 3), (2, 3), (3, 3)]
        return result

    first = run([0, 1, 2])
    assert first == run([2, 0, 1]) and first.summary["overall"]["pass@1"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert [r["problem_id"] for r in first.rows] == ["p0", "p0", "p1", "p1", "p2", "p2"]
