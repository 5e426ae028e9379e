"""What the serving scaffold is worth: plain, + plan, + best of N, and both, on the same problems in one run.

    NAME/alone   every problem `runs * N` times, as it is
    NAME/plans   a plan for every problem and run (its own words: actors.planner)
    NAME/planned every problem with each run's plan, N times

plain and + plan are the means of those samples; best of N takes of each run's N samples the one that the vote selects
(actors.selection on the verifier's clusters: nobody looks at the truth), and both does so among the planned ones.
Tokens are counted twice: of the answer that is given, and of all that it took (plan and all candidates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.checkers.compare import by_spelling
from actors.messages import Problem
from actors.planner import clean, pays
from actors.prompts import parse_plan, plan_request, with_plan
from actors.selection import Candidate, decide
from rl.evaluation import protocol
from rl.evaluation.results import outcome
from rl.evaluation.sampling import Batch, Sampler
from rl.evaluation.store import Key, Row
from rl.evaluation.suites import Suite

N = 3  # candidates, as the paper's best of 3
ARMS = ("plain", "+ plan", f"+ best of {N}", "+ plan + best of N".replace("N", str(N)))


@dataclass(frozen=True)
class Arm:
    """Outcomes of each problem over its runs (None: no verdict), and tokens an answer: its own, and all spent."""

    outcomes: list[list[float | None]]
    answer_tokens: list[float]
    all_tokens: list[float]


def runs_of(suite: Suite) -> int:
    """So many that each arm has about as many samples as the suite asks for."""
    return max(1, suite.samples // N)


def first_batches(suite: Suite) -> tuple[Batch, Batch]:
    """What needs no plan: the problems alone, and the requests for plans (only where a plan pays)."""
    runs = runs_of(suite)
    asked = tuple(_asked(p, plan_request(p.question)) for p in suite.problems if pays(p.question, "medium"))
    alone = Batch(f"{suite.name}/alone", suite.problems, runs * N)
    return alone, Batch(f"{suite.name}/plans", asked, runs, judged=False)


def planned_batch(suite: Suite, plan_texts: Mapping[tuple[str, int], str]) -> Batch:
    """Each problem with the plan of each run that has one; `plan_texts` by (problem id, run)."""
    problems = []
    for problem in suite.problems:
        for run in range(runs_of(suite)):
            text = clean(parse_plan(plan_texts.get((problem.id, run), ""))).text
            asked = _asked(problem, with_plan(problem.question, text)) if text else problem
            problems.append(replace(asked, id=f"{problem.id}@{run}"))
    return Batch(f"{suite.name}/planned", tuple(problems), N)


def _asked(problem: Problem, text: str) -> Problem:
    """The problem with other words in its last user message."""
    last = max(i for i, m in enumerate(problem.messages) if m["role"] == "user")
    messages = [{**m, "content": text} if i == last else m for i, m in enumerate(problem.messages)]
    return replace(problem, messages=tuple(messages))


async def arms(suite: Suite, done: Mapping[Key, Row], texts: Mapping[Key, str], sampler: Sampler) -> dict[str, Arm]:
    """The four arms from the stored samples; `texts` are the completions by key."""
    runs, plan_name = runs_of(suite), f"{suite.name}/plans"
    found = {name: Arm([], [], []) for name in ARMS}
    for problem in suite.problems:
        alone = [[(f"{suite.name}/alone", problem.id, run * N + i) for i in range(N)] for run in range(runs)]
        planned = [[(f"{suite.name}/planned", f"{problem.id}@{run}", i) for i in range(N)] for run in range(runs)]
        plans = [done.get((plan_name, problem.id, run)) for run in range(runs)]
        spent = [row["tokens"] if row else 0 for row in plans]
        for (single, best), groups, extra in (((ARMS[0], ARMS[2]), alone, [0] * runs),
                                              ((ARMS[1], ARMS[3]), planned, spent)):
            rows = [[done[key] for key in group] for group in groups]
            _mean_arm(found[single], rows, extra)
            chosen = [await select(problem.question, [texts[key] for key in group], one, sampler)
                      for group, one in zip(groups, rows, strict=True)]
            _best_arm(found[best], rows, chosen, extra)
    return found


def _mean_arm(arm: Arm, rows: Sequence[Sequence[Row]], plan_tokens: Sequence[float]) -> None:
    arm.outcomes.append([outcome(row) for one in rows for row in one])
    arm.answer_tokens.append(float(np.mean([row["tokens"] for one in rows for row in one])))
    arm.all_tokens.append(arm.answer_tokens[-1] + float(np.mean(plan_tokens)))


def _best_arm(arm: Arm, rows: Sequence[Sequence[Row]], chosen: Sequence[int], plan_tokens: Sequence[float]) -> None:
    arm.outcomes.append([outcome(one[i]) for one, i in zip(rows, chosen, strict=True)])
    arm.answer_tokens.append(float(np.mean([one[i]["tokens"] for one, i in zip(rows, chosen, strict=True)])))
    whole = [sum(row["tokens"] for row in one) + plan for one, plan in zip(rows, plan_tokens, strict=True)]
    arm.all_tokens.append(float(np.mean(whole)))


async def select(question: str, texts: Sequence[str], rows: Sequence[Row], sampler: Sampler) -> int:
    """The index of the candidate that the vote selects. A comparison that fails leaves the spelling to compare."""
    try:
        comparison = await sampler.compare(question, texts)
    except Exception:  # of the verifier's processes or their transport: it says nothing about the answers
        comparison = by_spelling(texts)
    candidates = [Candidate(i, "finished", comparison.clusters[i], comparison.passed[i], row["confidence"],
                            row["finish_reason"] == "stop" and bool(texts[i].strip()))
                  for i, row in enumerate(rows)]
    leader = decide(candidates).leader
    assert leader is not None, "all candidates are finished"
    return leader


def table(found: Mapping[str, Arm], seed: int = 0) -> dict[str, dict[str, Any]]:
    """summary.json's rows: accuracy with interval, tokens, and both against plain (paired over problems)."""
    plain = found[ARMS[0]]
    rows: dict[str, dict[str, Any]] = {}
    for name, arm in found.items():
        means = protocol.problem_means(arm.outcomes)
        low, high = protocol.interval([means], seed=seed)
        pairs = [(protocol.problem_means([a]), protocol.problem_means([b]))
                 for a, b in zip(plain.outcomes, arm.outcomes, strict=True)]
        both = [(float(a[0]), float(b[0])) for a, b in pairs if len(a) and len(b)]
        tokens, whole = float(np.mean(arm.answer_tokens)), float(np.mean(arm.all_tokens))
        rows[name] = {
            "pass@1": float(means.mean()) if len(means) else None,
            "interval": [low, high],
            "tokens": tokens,
            "tokens_change": tokens / max(float(np.mean(plain.answer_tokens)), 1e-9) - 1,
            "all_tokens": whole,
            "against_plain": protocol.paired(np.array([a for a, _ in both]), np.array([b for _, b in both]), seed),
            "errors": sum(value is None for one in arm.outcomes for value in one),
        }
    return rows
