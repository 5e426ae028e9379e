"""From stored samples to the tables of summary.json: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.checkers.compare import spelling
from actors.messages import DOMAINS
from rl.evaluation import protocol
from rl.evaluation.sampling import Batch
from rl.evaluation.store import Key, Row
from rl.evaluation.suites import MATH, Suite

KS = (1, 2, 4, 8, 16, 32)
MOST = 0.9


def outcome(row: Mapping[str, Any] | None) -> float | None:
    """1 right, 0 wrong, None where there is no verdict: a failed judge or engine is no wrong answer."""
    if row is None or row["status"] == "error":
        return None
    return float(row["status"] == "correct")


def by_problem(batch: Batch | Suite, done: Mapping[Key, Row]) -> dict[str, list[Row]]:
    """The stored samples of each problem, in the order of the samples."""
    found = {p.id: [done.get((batch.name, p.id, s)) for s in range(batch.samples)] for p in batch.problems}
    return {name: [row for row in rows if row is not None] for name, rows in found.items()}


def outcomes(rows: Mapping[str, Sequence[Row]]) -> list[list[float | None]]:
    return [[outcome(row) for row in one] for one in rows.values()]


def scores(rows: Mapping[str, Sequence[Row]], seed: int = 0) -> dict[str, Any]:
    """What is known of some problems' samples: means over problems, the runs, an interval, tokens, errors."""
    values = outcomes(rows)
    means = protocol.problem_means(values)
    runs = protocol.run_scores(values)
    every = [row for one in rows.values() for row in one]
    answered = [row for row in every if row["finish_reason"] != "error"]
    low, high = protocol.interval([means], seed=seed)
    return {
        "problems": len(rows),
        "samples": len(every),
        **({"pass@1": float(means.mean()), "interval": [low, high]} if len(means) else {}),
        "runs": runs,
        "spread": protocol.spread(runs),
        **_at_k(rows, seed),
        "tokens": float(np.mean([row["tokens"] for row in answered])) if answered else 0.0,
        "truncated": float(np.mean([row["finish_reason"] == "length" for row in answered])) if answered else 0.0,
        "errors": sum(row["status"] == "error" for row in every),
        "excluded": sum(all(value is None for value in one) for one in values),
    }


def _at_k(rows: Mapping[str, Sequence[Row]], seed: int) -> dict[str, float]:
    """pass@k and maj@k over the problems that have k verdicts, where those are nearly all (MOST) that have any.

    best@k, of the scores, only where they are not all 0 or 1: for then it is pass@k.
    """
    judged = [[row for row in one if row["status"] != "error"] for one in rows.values()]
    judged = [one for one in judged if one]
    partial = any(0 < row["score"] < 1 for one in judged for row in one)
    found: dict[str, float] = {}
    for k in KS[1:]:
        able = [one for one in judged if len(one) >= k]
        if not able or len(able) < MOST * len(judged):
            break
        found[f"pass@{k}"] = float(np.mean([protocol.pass_at_k(len(one), _right(one), k) for one in able]))
        found[f"maj@{k}"] = float(np.mean([_majority(one, k, seed) for one in able]))
        if partial:
            found[f"best@{k}"] = float(np.mean([protocol.best_at_k([r["score"] for r in one], k) for one in able]))
    return found


def _majority(rows: Sequence[Row], k: int, seed: int) -> float:
    return protocol.majority_at_k(_answers(rows), [float(row["status"] == "correct") for row in rows], k, seed)


def _right(rows: Sequence[Row]) -> int:
    return sum(row["status"] == "correct" for row in rows)


def _answers(rows: Sequence[Row]) -> list[str | None]:
    """The answers as they vote: right ones are one answer (all equal the truth), others go by their spelling."""
    return ["\0right" if row["status"] == "correct" else spelling(row["extracted"]) or None for row in rows]


def suite_scores(suite: Suite, done: Mapping[Key, Row], seed: int = 0) -> dict[str, Any]:
    """The scores of a suite and of its domains, and what was left out of it; SciCode's main problems besides."""
    rows = by_problem(suite, done)
    domain_of = {p.id: p.domain for p in suite.problems}
    result = {"title": suite.title, "group": suite.group, "samples_each": suite.samples, **scores(rows, seed)}
    names = sorted(set(domain_of.values()), key=lambda d: (DOMAINS.index(d) if d in DOMAINS else 99, d))
    if len(names) > 1:
        result["domains"] = {d: scores({i: r for i, r in rows.items() if domain_of[i] == d}, seed) for d in names}
    if suite.skipped:
        result["skipped"] = dict(suite.skipped)
    mains = {p.id: p.extra_info["main"] for p in suite.problems if "main" in p.extra_info}
    if mains:
        result["main"] = main_score(mains, rows)
    return result


def main_score(mains: Mapping[str, str], rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """A main problem is right in a run where each of its steps is; without a verdict on one, unless another is wrong,
    nothing is known of it."""
    whole: dict[str, list[list[float | None]]] = {}
    for name, one in rows.items():
        whole.setdefault(mains[name], []).append([outcome(row) for row in one])
    values = [[_all_right(run) for run in zip(*steps, strict=True)] for steps in whole.values()]
    means = protocol.problem_means(values)
    low, high = protocol.interval([means])
    return {"problems": len(whole), "pass@1": float(means.mean()) if len(means) else None, "interval": [low, high]}


def _all_right(steps: Iterable[float | None]) -> float | None:
    steps = list(steps)
    return 0.0 if 0.0 in steps else None if None in steps else 1.0


def summary_of(suites: Sequence[Suite], done: Mapping[Key, Row], seed: int = 0) -> dict[str, Any]:
    """`suites` by name, all of them together as `eval` (overall and by domain), and the math micro-average."""
    found = {suite.name: suite_scores(suite, done, seed) for suite in suites}
    all_rows = {f"{suite.name}/{i}": r for suite in suites for i, r in by_problem(suite, done).items()}
    domain_of = {f"{suite.name}/{p.id}": p.domain for suite in suites for p in suite.problems}
    domains = [d for d in DOMAINS if d in domain_of.values()] + sorted({*domain_of.values()} - {*DOMAINS})
    overall = scores(all_rows, seed)
    result = {
        "eval": {"overall": overall,
                 "domains": {d: scores({i: r for i, r in all_rows.items() if domain_of[i] == d}, seed)
                             for d in domains}},
        "interval": overall.get("interval", [math.nan, math.nan]),
        "suites": found,
    }
    of_math = {s.name: protocol.problem_means(outcomes(by_problem(s, done))) for s in suites if s.group == MATH}
    of_math = {name: means for name, means in of_math.items() if len(means)}
    if len(of_math) > 1:
        low, high = protocol.interval([*of_math.values()], seed=seed)
        result["math"] = {"suites": list(of_math), "problems": sum(map(len, of_math.values())),
                          "pass@1": protocol.micro_average(of_math), "interval": [low, high]}
    return result
