"""Advantages, importance weights and losses against verl's, and invariant 3: a loss does not depend on the cut."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from actors.verl_engine import prepare_environment
from rl.objective import (
    ObjectiveSettings,
    group_advantages,
    importance_weights,
    overlong_punishment,
    policy_loss,
    reference_kl,
    sft_loss,
)

pytestmark = pytest.mark.engine

LOSSES = ("vanilla", "gspo", "cispo")
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
HORIZON = 24
DUAL_CLIP = 3.0  # verl's clip_ratio_c: where the advantage is negative, no ratio counts more than this


@pytest.fixture(scope="module")
def verl():
    """verl's own functions. What its import needs in the environment is taken back: Ray's workers inherit that."""
    before = dict(os.environ)
    prepare_environment("cpu")
    from verl.trainer.ppo import core_algos, rollout_corr_helper

    os.environ.clear()
    os.environ.update(before)
    return SimpleNamespace(core=core_algos, correction=rollout_corr_helper)


@pytest.fixture
def torch(verl):
    import torch

    return torch


# --- advantages ---------------------------------------------------------------------------------------------------


def random_groups(rng, sizes):
    """(rewards [N], group of each [N]) with the groups' members in random order."""
    index = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(index)
    return rng.random(len(index)), index


def ours_by_group(rewards, index, method):
    result = np.zeros(len(rewards))
    for group in np.unique(index):
        members = index == group
        result[members] = group_advantages(rewards[members], [True] * int(members.sum()), method)
    return result


def verls(verl, torch, rewards, index, method):
    scores, mask = torch.zeros(len(rewards), 3, dtype=torch.float64), torch.ones(len(rewards), 3, dtype=torch.float64)
    scores[:, -1] = torch.from_numpy(rewards)
    if method == "rloo":
        result, _ = verl.core.compute_rloo_outcome_advantage(scores, mask, index)
    else:
        result, _ = verl.core.compute_grpo_outcome_advantage(
            scores, mask, index, norm_adv_by_std_in_grpo=method == "grpo_std")
    assert (result == result[:, :1]).all()
    return result[:, 0].numpy()


@pytest.mark.parametrize("method", ["grpo_centered", "grpo_std", "dr_grpo", "rloo"])
@pytest.mark.parametrize("seed", range(3))
def test_advantages_equal_verls(verl, torch, method, seed):
    rng = np.random.default_rng(seed)
    rewards, index = random_groups(rng, rng.integers(2, 9, 12))
    np.testing.assert_allclose(
        ours_by_group(rewards, index, method), verls(verl, torch, rewards, index, method), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["grpo_centered", "grpo_std", "rloo"])
def test_a_group_of_one_is_where_we_differ_from_verl(verl, torch, method):
    rewards, index = np.array([0.7, 1.0, 0.0]), np.array([0, 1, 1])
    theirs = verls(verl, torch, rewards, index, method)
    np.testing.assert_allclose(theirs[0], 0.7, rtol=1e-5)  # the raw reward, though nothing was compared
    np.testing.assert_allclose(ours_by_group(rewards, index, method), [0.0, *theirs[1:]], rtol=1e-5)


# --- length ---------------------------------------------------------------------------------------------------------


def test_the_overlong_punishment_equals_verls_dapo_reward_manager(verl, torch):
    import numpy
    from verl import DataProto
    from verl.workers.reward_manager.dapo import DAPORewardManager

    limit, buffer, lengths = 40, 12, (1, 27, 28, 29, 34, 39, 40)
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "", eos_token="<e>")
    options = SimpleNamespace(enable=True, len=buffer, penalty_factor=1.0, log=False)
    manager = DAPORewardManager(tokenizer, 0, lambda **_: 0.5, max_resp_len=limit, overlong_buffer_cfg=options)
    attention = torch.ones(len(lengths), 3 + limit, dtype=torch.long)
    for row, length in enumerate(lengths):
        attention[row, 3 + length :] = 0
    rows = len(lengths)
    data = DataProto.from_dict(
        {"prompts": torch.ones(rows, 3, dtype=torch.long), "responses": torch.ones(rows, limit, dtype=torch.long),
         "attention_mask": attention},
        {"reward_model": numpy.array([{"ground_truth": ""}] * rows, dtype=object),
         "data_source": numpy.array(["x"] * rows, dtype=object),
         "extra_info": numpy.array([{} for _ in range(rows)], dtype=object)})
    theirs = manager(data).sum(-1) - 0.5
    ours = [overlong_punishment(length, limit, buffer) for length in lengths]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


# --- importance weights and mismatch ------------------------------------------------------------------------------


def random_batch(torch, rows=9, width=12, dtype=None, spread=0.5, seed=0):
    """Logprobs [b, t] that need a gradient, and fields with ratios far on both sides of the clips and of the cap."""
    rng = np.random.default_rng(seed)
    mask = np.arange(width) < rng.integers(1, width + 1, rows)[:, None]
    old = -rng.random((rows, width)) * 3
    arrays = {
        "mask": mask,
        "advantages": mask * rng.normal(size=(rows, 1)),
        "old_logprobs": old * mask,
        "rollout_logprobs": (old + spread * rng.normal(size=old.shape)) * mask,
    }
    dtype = dtype or torch.float64
    fields = {name: torch.tensor(values, dtype=dtype) for name, values in arrays.items()}
    logprobs = torch.tensor(old + spread * rng.normal(size=old.shape), dtype=dtype, requires_grad=True)
    return logprobs, fields


def counts_of(fields):
    return {"tokens": float(fields["mask"].sum()), "sequences": float(len(fields["mask"]))}


@pytest.mark.parametrize("cap", [1.0, 2.0, 5.0])
def test_importance_weights_equal_verls_token_level_tis(verl, torch, cap):
    _, fields = random_batch(torch, spread=2.0)
    old, rollout, mask = (fields[n] for n in ("old_logprobs", "rollout_logprobs", "mask"))
    theirs, _ = verl.correction.compute_rollout_correction_weights(old - rollout, mask, "token", cap)
    ours = importance_weights(old.requires_grad_(), rollout, mask, cap)
    torch.testing.assert_close(ours, theirs)
    assert not ours.requires_grad
    assert (ours == cap).any() and ours.max() == cap and not ours[mask == 0].any()


def test_an_importance_weight_stays_finite_however_far_the_engines_are_apart(torch):
    one = torch.ones(1, 2)
    weights = importance_weights(torch.tensor([[0.0, -900.0]]), torch.tensor([[-900.0, 0.0]]), one, 1e30)
    torch.testing.assert_close(weights, torch.tensor([[20.0, -20.0]]).exp())


def test_mismatch_kl_is_zero_for_equal_logprobs_and_k3_by_hand(verl, torch):
    logprobs, fields = random_batch(torch)
    counts = counts_of(fields)
    _, metrics = policy_loss(ObjectiveSettings(), logprobs, fields, counts)
    k3 = 0.0
    for old, rollout in zip(fields["old_logprobs"][fields["mask"] > 0], fields["rollout_logprobs"][fields["mask"] > 0]):
        k3 += float(np.exp(old - rollout) - 1 - (old - rollout))
    assert metrics["mismatch_kl"] == pytest.approx(k3)
    theirs = verl.correction.compute_offpolicy_metrics(fields["old_logprobs"], fields["rollout_logprobs"],
                                                       fields["mask"])
    assert metrics["mismatch_kl"] / counts["tokens"] == pytest.approx(theirs["k3_kl"], rel=1e-6)
    same = {**fields, "rollout_logprobs": fields["old_logprobs"]}
    assert policy_loss(ObjectiveSettings(), logprobs, same, counts)[1]["mismatch_kl"] == 0.0


# --- the policy loss ----------------------------------------------------------------------------------------------


def by_hand(torch, settings, logprobs, fields):
    """PPO's clipped loss, a token at a time."""
    total = 0.0
    for b, t in torch.nonzero(fields["mask"]):
        new, old, rollout, advantage = (
            x[b, t] for x in (logprobs, fields["old_logprobs"], fields["rollout_logprobs"], fields["advantages"]))
        ratio = (new - old).exp()
        surrogate = torch.minimum(
            ratio * advantage, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantage)
        if advantage < 0:
            surrogate = torch.maximum(surrogate, DUAL_CLIP * advantage)
        weight = (old - rollout).exp().clamp(max=settings.tis_cap) if settings.tis_cap else 1.0
        total = total - weight * surrogate
    return total / fields["mask"].sum()


def value_and_gradient(torch, settings, logprobs, fields, counts):
    loss, metrics = policy_loss(settings, logprobs, fields, counts)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient, metrics


@pytest.mark.parametrize("tis_cap", [0.0, 2.0])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_the_default_loss_is_clipped_ppo_by_token(torch, tis_cap, spread):
    settings = ObjectiveSettings(tis_cap=tis_cap)
    logprobs, fields = random_batch(torch, spread=spread)
    loss, gradient, _ = value_and_gradient(torch, settings, logprobs, fields, counts_of(fields))
    expected = by_hand(torch, settings, logprobs, fields)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logprobs)[0])


def test_on_policy_the_gradient_is_the_policy_gradient(torch):
    logprobs, fields = random_batch(torch)
    del fields["old_logprobs"]  # one update a batch: the ratio is 1 by construction
    counts = counts_of(fields)
    _, gradient, metrics = value_and_gradient(torch, ObjectiveSettings(tis_cap=0), logprobs, fields, counts)
    torch.testing.assert_close(gradient, -fields["advantages"] / counts["tokens"])
    assert metrics["clip_fraction"] == 0.0 and "tis_truncated" not in metrics


def test_metrics_are_sums_over_learnt_tokens(torch):
    logprobs, fields = random_batch(torch, spread=2.0)
    settings, mask = ObjectiveSettings(), fields["mask"] > 0
    entropy = torch.full_like(logprobs, 1.5)
    _, metrics = policy_loss(settings, logprobs, fields, counts_of(fields), entropy)
    ratio = (logprobs.detach() - fields["old_logprobs"]).exp()
    up = (ratio > 1.28) & (fields["advantages"] > 0) & mask
    down = (ratio < 0.8) & (fields["advantages"] < 0) & mask
    weights = (fields["old_logprobs"] - fields["rollout_logprobs"]).exp()
    assert up.any() and down.any()
    assert metrics["clip_fraction"] == int((up | down).sum())
    assert metrics["entropy"] == pytest.approx(1.5 * int(mask.sum()))
    assert metrics["tis_truncated"] == int((mask & (weights >= 2)).sum()) > 0


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_do_not_depend_on_the_cut(torch, loss, aggregation, dtype, tolerance):
    settings = ObjectiveSettings(loss=loss, aggregation=aggregation, horizon=HORIZON)
    logprobs, fields = random_batch(torch, dtype=getattr(torch, dtype))
    counts = counts_of(fields)
    whole, gradient, metrics = value_and_gradient(torch, settings, logprobs, fields, counts)
    assert gradient.abs().max() > 1e-4
    for cut in ([range(9)], [[i] for i in range(9)], [[8, 0, 3], [1], [2, 4, 5, 6, 7]]):
        value, summed, sums = 0.0, torch.zeros_like(gradient), dict.fromkeys(metrics, 0.0)
        for rows in map(list, cut):
            width = int(fields["mask"][rows].sum(-1).max())  # each micro-batch is padded to its own longest
            part = logprobs.detach()[rows, :width].requires_grad_()
            one, its_gradient, its_metrics = value_and_gradient(
                torch, settings, part, {n: v[rows, :width] for n, v in fields.items()}, counts)
            value = value + one
            summed[torch.tensor(rows), :width] += its_gradient
            sums = {name: sums[name] + its_metrics[name] for name in sums}
        torch.testing.assert_close(value, whole, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(summed, gradient, atol=tolerance, rtol=tolerance)
        assert sums == pytest.approx(metrics)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_micro_batch_without_a_learnt_token_adds_nothing(torch, loss):
    zeros = {name: torch.zeros(1, 1) for name in ("mask", "advantages", "rollout_logprobs")}
    logprobs = torch.full((1, 1), -1.0, requires_grad=True)
    counts = {"tokens": 5.0, "sequences": 2.0}
    value, gradient, metrics = value_and_gradient(torch, ObjectiveSettings(loss), logprobs, zeros, counts)
    assert value == 0 and gradient == 0 and not any(metrics.values())


def test_dr_grpo_divides_by_the_horizon_and_the_number_of_sequences(torch):
    settings = ObjectiveSettings(aggregation="seq-mean-token-sum-norm", tis_cap=0, horizon=HORIZON)
    logprobs, fields = random_batch(torch)
    del fields["old_logprobs"]
    _, gradient, _ = value_and_gradient(torch, settings, logprobs, fields, counts_of(fields))
    torch.testing.assert_close(gradient, -fields["advantages"] / len(logprobs) / HORIZON)


def test_what_is_masked_cannot_matter(torch):
    logprobs, fields = random_batch(torch)
    counts, hidden = counts_of(fields), fields["mask"] == 0
    value, gradient, metrics = value_and_gradient(torch, ObjectiveSettings(), logprobs, fields, counts)
    spoilt = {n: v if n == "mask" else v.masked_fill(hidden, 7.0) for n, v in fields.items()}
    other = logprobs.detach().masked_fill(hidden, -3.0).requires_grad_()
    again, its_gradient, its_metrics = value_and_gradient(torch, ObjectiveSettings(), other, spoilt, counts)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(its_gradient, gradient)
    assert its_metrics == pytest.approx(metrics) and not gradient[hidden].any()


# --- the KL to the first policy -----------------------------------------------------------------------------------


def test_the_kl_equals_verls_low_variance_estimator(verl, torch):
    generator = torch.Generator().manual_seed(0)
    new, reference = (torch.randn(5, 9, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    new[0, :3], reference[0, :3] = torch.tensor([0.0, -60.0, -3.0]), torch.tensor([-60.0, 0.0, -3.0])  # its bounds
    ours, theirs = (f.requires_grad_() for f in (new.clone(), new.clone()))
    one, other = reference_kl(ours, reference), verl.core.kl_penalty(theirs, reference, "low_var_kl")
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), f)[0] for x, f in ((one, ours), (other, theirs))))
    assert (one >= 0).all() and one[0, 2] == 0 and one.max() == 10


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_kl_term_is_verls_aggregated_as_the_loss_and_independent_of_the_cut(verl, torch, aggregation):
    plain = ObjectiveSettings(aggregation=aggregation, horizon=HORIZON)
    settings = ObjectiveSettings(aggregation=aggregation, horizon=HORIZON, kl_coef=0.3)
    logprobs, fields = random_batch(torch)
    fields["reference_logprobs"] = fields["rollout_logprobs"] - 0.4 * fields["mask"]
    counts = counts_of(fields)
    with_kl, gradient, metrics = value_and_gradient(torch, settings, logprobs, fields, counts)
    without, _, _ = value_and_gradient(torch, plain, logprobs, fields, counts)
    kl = verl.core.kl_penalty(logprobs.detach(), fields["reference_logprobs"], "low_var_kl")
    expected = verl.core.agg_loss(kl, fields["mask"], aggregation, loss_scale_factor=HORIZON)
    torch.testing.assert_close(with_kl - without, 0.3 * expected)
    assert metrics["reference_kl"] == pytest.approx(float((kl * fields["mask"]).sum()))
    halves = [value_and_gradient(torch, settings, logprobs.detach()[rows].requires_grad_(),
                                 {n: v[rows] for n, v in fields.items()}, counts)
              for rows in (slice(0, 4), slice(4, 9))]
    torch.testing.assert_close(sum(h[0] for h in halves), with_kl)
    torch.testing.assert_close(torch.cat([h[1] for h in halves]), gradient)


def test_a_kl_alone_pulls_back_to_the_first_policy(torch):
    logprobs, fields = random_batch(torch)
    fields["advantages"] = fields["advantages"] * 0
    fields["reference_logprobs"] = logprobs.detach() + fields["mask"]
    _, gradient, _ = value_and_gradient(torch, ObjectiveSettings(kl_coef=1.0), logprobs, fields, counts_of(fields))
    assert (gradient[fields["mask"] > 0] < 0).all(), "every likelihood must rise towards the reference's"


# --- the supervised loss ------------------------------------------------------------------------------------------


def test_the_supervised_loss_is_torchs_cross_entropy(torch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, 30, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 30, (4, 7), generator=generator)
    mask = (torch.rand(4, 7, generator=generator) < 0.6).double()
    expected = torch.nn.functional.cross_entropy(logits[mask > 0], targets[mask > 0])
    counts, halves = {"tokens": float(mask.sum())}, []
    for rows in (slice(0, 1), slice(1, 4)):
        logprobs = logits[rows].log_softmax(-1).gather(-1, targets[rows, :, None]).squeeze(-1)
        halves.append(sft_loss(logprobs, {"mask": mask[rows]}, counts))
    loss = sum(value for value, _ in halves)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))
    assert sum(metrics["tokens"] for _, metrics in halves) == counts["tokens"]
