"""Evaluation: n completions of each problem, verified; pass@1 by domain, unbiased pass@k, tokens.

Here is what training asks for (one wave, a summary). mode=eval has the whole protocol: suites.py, rows.py (which
problems) · sampling.py, store.py (who answers; safe against a kill) · protocol.py, results.py (the arithmetic) ·
ablation.py, safety.py, compare.py · tables.py, page.py, charts.py (what is shown) · command.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.engine import Sampling
from actors.messages import DOMAINS, Problem, RolloutGroup
from rl.evaluation.protocol import pass_at_k

__all__ = ["Evaluation", "evaluate", "pass_at_k", "run", "sample_rows", "summarise"]


@dataclass(frozen=True)
class Evaluation:
    """`summary`: {"overall": {"pass@1", "pass@8", "tokens", ...}, "domains": {...}}; `rows`: one a completion."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]


def summarise(groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    """Means over problems, by domain and overall. Completions without a verdict are left out, and counted."""
    by_domain: dict[str, list[RolloutGroup]] = {}
    for group in groups:
        by_domain.setdefault(group.problem.domain, []).append(group)
    order = [d for d in DOMAINS if d in by_domain] + sorted(set(by_domain) - set(DOMAINS))
    return {"overall": _scores(groups), "domains": {d: _scores(by_domain[d]) for d in order}}


def _scores(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    passes: dict[int, list[float]] = {1: [], 8: []}
    for group in groups:
        judged = [v.status == "correct" for v in group.verdicts if v.status != "error"]
        for k, values in passes.items():
            if len(judged) >= k:
                values.append(pass_at_k(len(judged), sum(judged), k))
    completions = [c for g in groups for c in g.completions]
    verdicts = [v for g in groups for v in g.verdicts]
    return {
        **{f"pass@{k}": sum(values) / len(values) for k, values in passes.items() if values},
        "tokens": sum(len(c.token_ids) for c in completions) / max(len(completions), 1),
        "problems": len(groups),
        "truncated": sum(c.truncated for c in completions) / max(len(completions), 1),
        "errors": sum(v.status == "error" for v in verdicts),
    }


def sample_rows(groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
    """One row a completion, with the columns of a run's samples/*.parquet."""
    return [
        {
            "problem_id": group.problem.id,
            "domain": group.problem.domain,
            "prompt": group.problem.question,
            "completion": completion.text,
            "status": verdict.status,
            "score": verdict.score,
            "reason": verdict.reason,
            "tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "policy_version": completion.start_version,
        }
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]


async def evaluate(
    rollouts: Sequence[Any],
    verifiers: Sequence[Any],
    problems: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    seed: int,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Sample, verify and summarise; the same arguments and weights give the same completions."""
    from rl.dispatcher import Wave, run_wave

    groups: list[RolloutGroup] = []
    numbered = list(enumerate(problems))
    async for group in run_wave(rollouts, verifiers, numbered, samples, sampling, (seed,), timeout_s, Wave()):
        groups.append(group)
        progress(len(groups), len(problems))
    groups.sort(key=lambda g: g.group_id)
    return Evaluation(summarise(groups), sample_rows(groups))


def run(cfg) -> int:
    """mode=eval: the suites' scores of model.path as tables, summary.json, samples and report.html in a folder."""
    from rl.evaluation.command import run_command

    return run_command(cfg)
