"""Rewards to advantages to losses. Pure functions; verl's `core_algos` where it is right, ours where it is not.

Defaults (the design's "Objective"): mean-centred advantages, token-level loss by the global count, clip-higher,
truncated importance sampling for the engine/learner mismatch, no KL (rl.kl_coef adds one to the first policy). What
differs from verl, and why: a group of one has no baseline and gets zero (verl gives it the raw reward); completions
without a verdict take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the policy loss depends on. `tis_cap` 0 switches truncated importance sampling off."""

    loss: str = "vanilla"
    aggregation: str = "token-mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    tis_cap: float = 2.0
    kl_coef: float = 0.0  # weight of the KL to the first policy, whose logprobs are then a field
    horizon: int = 0  # the constant that Dr. GRPO divides a sequence's sum by: the completion limit in tokens


def _centered(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean()


def _standardised(rewards: np.ndarray) -> np.ndarray:
    return _centered(rewards) / (rewards.std(ddof=1) + 1e-6)


def _leave_one_out(rewards: np.ndarray) -> np.ndarray:
    return _centered(rewards) * len(rewards) / (len(rewards) - 1)


ADVANTAGES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "grpo_centered": _centered,  # Dr. GRPO, arXiv 2503.20783, eq. 2: no division by the group's deviation
    "grpo_std": _standardised,  # GRPO, arXiv 2402.03300, section 4.1.2; the unbiased deviation, as verl
    "dr_grpo": _centered,  # the same advantage; its loss is aggregation=seq-mean-token-sum-norm
    "rloo": _leave_one_out,  # arXiv 2402.14740, eq. 8
}


def group_advantages(rewards: Sequence[float], valid: Sequence[bool], method: str = "grpo_centered") -> np.ndarray:
    """Advantages float32 [G] of one group; `valid` [G] is False where the verifier failed.

    Only valid rewards enter the baseline; an invalid completion gets 0, and so does a group with fewer than two.
    """
    rewards, valid = np.asarray(rewards, np.float64), np.asarray(valid, bool)
    result = np.zeros(len(rewards), np.float32)
    if valid.sum() >= 2:
        result[valid] = ADVANTAGES[method](rewards[valid])
    return result


def has_signal(rewards: Sequence[float], valid: Sequence[bool]) -> bool:
    """Whether a group's rewards differ at all; if not, its gradient is zero and it is better replaced (DAPO)."""
    kept = np.asarray(rewards, np.float64)[np.asarray(valid, bool)]
    return len(kept) >= 2 and float(kept.max() - kept.min()) > 1e-8


def overlong_punishment(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13), in [-1, 0]: 0 up to limit - buffer, -1 beyond the limit."""
    if buffer <= 0 or length <= limit - buffer:
        return 0.0
    return max(-1.0, (limit - buffer - length) / buffer)


@lru_cache(maxsize=8)
def _actor_config(settings: ObjectiveSettings) -> Any:
    """verl's configuration object for its losses; its counts are filled in per batch."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    return ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        loss_agg_mode=settings.aggregation,
        clip_ratio=settings.clip_high,
        clip_ratio_low=settings.clip_low,
        clip_ratio_high=settings.clip_high,
        policy_loss=PolicyLossConfig(loss_mode=settings.loss),
    )


def importance_weights(old: Any, rollout: Any, mask: Any, cap: float) -> Any:
    """Truncated importance weights [b, t] of learner over engine, per token, capped above at `cap`, detached.

    As verl's `rollout_corr_helper` with rollout_is="token" (the cap is TIS of arXiv 2505.24034).
    """
    import torch

    return (torch.clamp(old - rollout, -20.0, 20.0).exp().clamp(max=cap) * mask).detach()


def reference_kl(new: Any, reference: Any) -> Any:
    """The k3 estimator of KL(policy || first policy) per token [b, t]: r - 1 - log r of r = reference / new.

    As verl's `low_var_kl`, with its bounds: the log ratio within 20, the result within 10.
    """
    import torch

    log_ratio = torch.clamp(reference - new, -20.0, 20.0)
    return torch.clamp(log_ratio.exp() - log_ratio - 1, -10.0, 10.0)


def policy_loss(
    settings: ObjectiveSettings,
    logprobs: Any,
    fields: Mapping[str, Any],
    counts: Mapping[str, float],
    entropy: Any = None,
) -> tuple[Any, dict[str, float]]:
    """The policy loss of one micro-batch, to be summed over micro-batches and ranks; see ObjectiveSettings.

    `logprobs`, `entropy` and all `fields` (mask, advantages, rollout_logprobs and, with several updates a batch,
    old_logprobs; with a KL term reference_logprobs) are [b, t]. `counts`: `tokens` and `sequences` learnt from in the
    whole batch, which the aggregation divides by. Metrics are sums; divide by `counts["tokens"]`.
    """
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    mask, advantages = fields["mask"], fields["advantages"]
    old = fields["old_logprobs"] if "old_logprobs" in fields else logprobs.detach()
    weights = importance_weights(old, fields["rollout_logprobs"], mask, settings.tis_cap) if settings.tis_cap else None
    config = _actor_config(settings)
    config.global_batch_info.update(
        dp_size=1,  # the engine multiplies by the world size itself
        batch_num_tokens=counts["tokens"],
        global_batch_size=counts["sequences"],
        loss_scale_factor=settings.horizon or None,
    )
    loss, _ = get_policy_loss_fn(settings.loss)(
        old, logprobs, advantages, mask, settings.aggregation, config, weights
    )
    metrics = _metrics(settings, logprobs.detach(), old, fields, weights, entropy)
    if settings.kl_coef:
        from verl.trainer.ppo.core_algos import agg_loss

        kl = reference_kl(logprobs, fields["reference_logprobs"])
        loss = loss + settings.kl_coef * agg_loss(kl, mask, settings.aggregation, **config.global_batch_info)
        metrics["reference_kl"] = float((kl.detach() * mask).double().sum())
    return loss, metrics


def _metrics(settings: ObjectiveSettings, new: Any, old: Any, fields: Mapping[str, Any], weights: Any, entropy: Any):
    """Sums over learnt tokens. Mismatch KL is the k3 estimator of KL(engine || learner) on the engine's samples."""
    mask, advantages = fields["mask"], fields["advantages"]
    difference = (old - fields["rollout_logprobs"]) * mask
    ratio = (new - old).exp()
    above, below = ratio > 1 + settings.clip_high, ratio < 1 - settings.clip_low
    clipped = (above & (advantages > 0)) | (below & (advantages < 0))
    sums = {
        "mismatch_kl": float(((difference.exp() - 1 - difference) * mask).double().sum()),
        "clip_fraction": float((clipped * mask).sum()),
        "entropy": float((entropy.detach() * mask).double().sum()) if entropy is not None else 0.0,
    }
    if weights is not None:
        sums["tis_truncated"] = float(((weights >= settings.tis_cap) * mask).sum())
    return sums


def sft_loss(
    logprobs: Any, fields: Mapping[str, Any], counts: Mapping[str, float], entropy: Any = None
) -> tuple[Any, dict[str, float]]:
    """Cross entropy per learnt token of the whole batch (sum over this micro-batch / `counts["tokens"]`)."""
    return -(logprobs * fields["mask"]).sum() / counts["tokens"], {"tokens": float(fields["mask"].sum())}
