"""Two ranks that share every sequence (verl's Ulysses) learn what one learns, and metrics count once.

Flash attention needs a GPU and gloo has no all-to-all, so these two are stood in for: attention by torch's own with a
mask of the packed sequences, all-to-all by an all-gather. The rest is verl's and ours as on a cluster.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from actors.learner import Learner
from actors.verl_engine import EngineSettings
from rl.objective import ObjectiveSettings, policy_loss
from rl.packing import token_batch

STARTER = str(Path(__file__).resolve().parents[2] / "assets" / "starter")
LOSS = partial(policy_loss, ObjectiveSettings(horizon=64))


class UlyssesLearner(Learner):
    """A learner on CPUs whose attention goes the way of flash attention under Ulysses."""

    def start(self, address: str, port: int) -> dict:
        from actors.verl_engine import prepare_environment

        prepare_environment("cpu")
        import torch.distributed as dist
        import verl  # noqa: F401
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        from verl.models.transformers import monkey_patch

        dist.all_to_all = _all_to_all
        monkey_patch._flash_attention_forward = _packed_attention
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attention
        return super().start(address, port)


def _attention(module, query, key, value, attention_mask, position_ids=None, **kwargs):
    """Transformers' interface ([b, heads, s, d] in, [b, s, heads, d] out) onto verl's Ulysses."""
    from verl.models.transformers.monkey_patch import _ulysses_flash_attention_forward

    states = (x.transpose(1, 2) for x in (query, key, value))
    return _ulysses_flash_attention_forward(*states, None, query.shape[2], position_ids=position_ids), None


def _packed_attention(query, key, value, mask, length, *args, position_ids=None, **kwargs):
    """[1, s, heads, d]: causal within each of the packed sequences, which begin where a position is 0."""
    import torch

    segment = (position_ids[0] == 0).cumsum(0)
    allowed = (segment[:, None] == segment[None, :]).tril()
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, enable_gqa=True)
    return out.transpose(1, 2)


def _all_to_all(outputs, inputs, group=None, async_op=False):
    import torch
    import torch.distributed as dist

    sent = torch.stack([x.contiguous() for x in inputs])
    gathered = [torch.empty_like(sent) for _ in outputs]
    dist.all_gather(gathered, sent, group=group)
    for rank, output in enumerate(outputs):
        output.copy_(gathered[rank][dist.get_rank(group)])


def rows() -> list[dict]:
    rng, result = np.random.default_rng(5), []
    for length in rng.integers(9, 60, 10):
        mask = (np.arange(length) >= 4).astype(np.float32)
        result.append({"tokens": rng.integers(5, 600, length).astype(np.int32), "mask": mask,
                       "advantages": mask * np.float32(rng.normal()), "rollout_logprobs": mask * np.float32(-6.0)})
    return result


def test_two_ranks_that_share_each_sequence_equal_one(live):
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    settings = EngineSettings(STARTER, lr=3e-4, total_steps=20, remove_padding=True, ulysses=2, shard=True)
    pair = [ray.remote(UlyssesLearner).options(**options).remote(f"ulysses-{r}", r, 2, settings, 1) for r in range(2)]
    one = [live.fresh_learner()]
    try:
        meeting = ray.get(pair[0].rendezvous.remote())
        ray.get([actor.start.remote(*meeting) for actor in pair], timeout=180)
        batch = token_batch(rows(), 120)  # of one data-parallel rank: both ranks of the pair take all of it
        counts = {"tokens": batch.mask_tokens, "sequences": 10.0}

        def both(method, *arguments):
            return [ray.get([getattr(x, method).remote(*arguments) for x in actors]) for actors in (pair, one)]

        shared, alone = both("logprobs", batch)
        assert all(np.abs(share[i] - alone[0][i]).max() < 2e-5 for share in shared for i in alone[0])
        shared, alone = both("gradient", batch, LOSS, counts)
        for name in ("loss", "grad_norm", "entropy", "mismatch_kl"):
            assert [s[name] for s in shared] == pytest.approx([alone[0][name]] * 2, rel=1e-5), name
    finally:
        for actor in pair:
            ray.kill(actor)
