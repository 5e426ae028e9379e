"""From verified groups to what the learner is given, and the numbers that describe a step. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from actors.messages import RolloutGroup
from conf.schema import RLConfig
from rl.objective import group_advantages, has_signal, overlong_punishment


def rewards(group: RolloutGroup, rl: RLConfig, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(rewards float64 [G], valid bool [G]): the verdicts' scores with the length punishment; errors are not valid."""
    values = [
        v.score + overlong_punishment(len(c.token_ids), max_tokens, rl.overlong_buffer)
        for c, v in zip(group.completions, group.verdicts, strict=True)
    ]
    return np.asarray(values), np.asarray([v.status != "error" for v in group.verdicts])


def filter_reason(group: RolloutGroup, rl: RLConfig, max_tokens: int) -> str:
    """Why a group is not worth training on; "" if it is. A planned one is if its plans differ, or solutions under one.
    """
    if any(not filter_reason(part, rl, max_tokens) for part in group.parts):
        return ""
    values, valid = rewards(group, rl, max_tokens)
    if valid.sum() < 2:
        return "verifier errors"
    if has_signal(values, valid) or not rl.filter_groups:
        return ""
    return "all correct" if values[valid].max() > 0 else "all incorrect"


def sequences(groups: Sequence[RolloutGroup], rl: RLConfig, max_tokens: int) -> list[dict[str, np.ndarray]]:
    """One entry a completion: group id, tokens [P+T] and, aligned with them, mask, advantages, rollout_logprobs.

    Plans are compared across those of a problem, solutions within one plan (see actors.planned).

    Completions without a verdict, and truncated ones if rl.mask_truncated, are left out: they would only add zeros.
    """
    result = []
    for prompt, group in (pair for whole in groups for pair in _by_prompt(whole)):
        values, valid = rewards(group, rl, max_tokens)
        advantages = group_advantages(values, valid, rl.advantage)
        for completion, ok, advantage in zip(group.completions, valid, advantages, strict=True):
            if not ok or (rl.mask_truncated and completion.truncated) or not len(completion.token_ids):
                continue
            before, after = len(group.prompt_ids), len(completion.token_ids)
            mask = np.concatenate([np.zeros(before, np.float32), np.ones(after, np.float32)])
            result.append(
                {
                    "group": prompt,
                    "tokens": np.concatenate([group.prompt_ids, completion.token_ids]),
                    "mask": mask,
                    "advantages": mask * advantage,
                    "rollout_logprobs": np.concatenate([np.zeros(before, np.float32), completion.logprobs]),
                }
            )
    return result


def _by_prompt(group: RolloutGroup) -> Iterator[tuple[Any, RolloutGroup]]:
    """What has a prompt of its own in a group, each with a name: the plans or answers, then the parts."""
    yield group.group_id, group
    for number, part in enumerate(group.parts):
        yield (group.group_id, number), part


def rollout_metrics(seen: Sequence[RolloutGroup], trained: Sequence[RolloutGroup], version: int) -> dict[str, Any]:
    """Rewards, lengths, errors and staleness of a step. Rewards are of all groups generated, not of the kept ones."""
    answered = [part for group in seen for part in group.answers]
    verdicts = [v for g in answered for v in g.verdicts]
    completions = [c for g in answered for c in g.completions]
    judged = [v.score for v in verdicts if v.status != "error"]
    metrics: dict[str, Any] = {
        "reward/mean": float(np.mean(judged)) if judged else 0.0,
        "verdict/error_rate": sum(v.status == "error" for v in verdicts) / max(len(verdicts), 1),
        "tokens/generated": sum(len(c.token_ids) for c in completions),
        "length/mean": float(np.mean([len(c.token_ids) for c in completions])) if completions else 0.0,
        "length/truncated": sum(c.truncated for c in completions) / max(len(completions), 1),
    }
    for domain in sorted({g.problem.domain for g in answered}):
        scores = [v.score for g in answered if g.problem.domain == domain for v in g.verdicts if v.status != "error"]
        if scores:
            metrics[f"reward/{domain}"] = float(np.mean(scores))
    plans = [c for group in seen if group.parts for c in group.completions]
    if plans:
        metrics["tokens/generated"] += sum(len(c.token_ids) for c in plans)
        metrics["length/plan"] = float(np.mean([len(c.token_ids) for c in plans]))
    ages = [version - g.start_version for g in trained]
    metrics["staleness/mean"] = float(np.mean(ages)) if ages else 0.0
    metrics["staleness/max"] = max(ages, default=0)
    spans = [span for g in trained for part in (g, *g.parts) for c in part.completions for span in c.spans]
    tokens = sum(count for _, count in spans)
    metrics["staleness/tokens"] = sum((version - of) * count for of, count in spans) / tokens if tokens else 0.0
    return metrics
