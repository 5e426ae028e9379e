"""Engine and learner, on the real starter: the same logprobs under the same weights, whatever the split or ranks."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest

from actors.engine import Sampling
from rl.objective import ObjectiveSettings, policy_loss, sft_loss
from rl.packing import token_batch
from rl.publication import publish
from rl.source import Source

SAMPLING = Sampling(max_tokens=64)


def generate(live, count=6, n=4, seed=1):
    problems = list(enumerate(Source(live.cfg).take(count)))

    async def collect():
        stream = live.cluster.rollouts[0].generate.options(num_returns="streaming").remote(problems, n, SAMPLING, seed)
        groups = [await reference async for reference in stream]
        return sorted(groups, key=lambda g: g.group_id)

    return asyncio.run(collect())


def rows(groups):
    result = []
    for group in groups:
        for k, completion in enumerate(group.completions):
            before = len(group.prompt_ids)
            mask = np.concatenate([np.zeros(before), np.ones(len(completion.token_ids))]).astype(np.float32)
            result.append(
                {
                    "group": group.group_id,
                    "tokens": np.concatenate([group.prompt_ids, completion.token_ids]),
                    "mask": mask,
                    "advantages": mask * (0.5 if k % 2 else -0.5),
                    "rollout_logprobs": np.concatenate([np.zeros(before, np.float32), completion.logprobs]),
                }
            )
    return result


def learner_logprobs(live, sequences, row_tokens=256):
    import ray

    batch = token_batch(sequences, 2048, 1, row_tokens)
    return ray.get(live.cluster.learners[0].logprobs.remote(batch))


def test_engine_and_learner_agree_before_and_after_every_publication(live):
    import ray

    settings = ObjectiveSettings(horizon=64)
    for version in (1, 2, 3):
        sequences = rows(generate(live, seed=version))
        logprobs = learner_logprobs(live, sequences)
        worst = max(np.abs(logprobs[i] - s["rollout_logprobs"]).max() for i, s in enumerate(sequences))
        assert worst < 1e-4, f"version {version - 1}: engine and learner differ by {worst} in a logprob"
        batch = token_batch(sequences, 2048, 1, 256)
        counts = {"tokens": batch.mask_tokens, "sequences": float(len(sequences))}
        update = live.cluster.learners[0].update.remote(batch, partial(policy_loss, settings), counts)
        assert ray.get(update)["mismatch_kl"] / counts["tokens"] < 1e-4
        asyncio.run(publish(live.cluster.learners, live.cluster.rollouts, version, 60))
        assert ray.get(live.cluster.rollouts[0].version.remote()) == version


def test_completions_are_stamped_with_the_version_that_sampled_them(live):
    version = generate(live, 1, 2)[0].completions[0].start_version
    asyncio.run(publish(live.cluster.learners, live.cluster.rollouts, version + 1, 60))
    stamps = {(c.start_version, c.end_version) for c in generate(live, 1, 2)[0].completions}
    assert stamps == {(version + 1, version + 1)}


def test_weights_replaced_in_the_middle_are_stamped_span_by_span(live):
    """What is being written goes on under the new weights, and says where they came."""
    rollout = live.cluster.rollouts[0]
    version = generate(live, 1, 2)[0].completions[0].start_version
    long = Sampling(max_tokens=96, ignore_eos=True)

    async def scene():
        calls = [rollout.group.remote(i, problem, 4, long) for i, problem in enumerate(Source(live.cfg).take(6))]
        while not (await rollout.status.remote())["sequences"][0]:
            await asyncio.sleep(0.001)
        await publish(live.cluster.learners, live.cluster.rollouts, version + 1, 60)
        return [await call for call in calls]

    completions = [c for group in asyncio.run(scene()) for c in group.completions]
    assert all(sum(count for _, count in c.spans) == len(c.token_ids) == 96 for c in completions)
    assert all({of for of, _ in c.spans} <= {version, version + 1} for c in completions)
    assert any([of for of, _ in c.spans] == [version, version + 1] for c in completions)
    assert all(c.end_version == c.spans[-1][0] for c in completions)


def test_a_problem_may_bound_its_answers_below_the_samplings_limit(live):
    from dataclasses import replace

    asked = [replace(p, max_tokens=limit) for p, limit in zip(Source(live.cfg).take(2), (3, 0))]

    async def collect():
        stream = live.cluster.rollouts[0].generate.options(num_returns="streaming").remote(
            list(enumerate(asked)), 4, SAMPLING, 1)
        return {g.group_id: g async for g in _groups(stream)}

    found = asyncio.run(collect())
    assert all(len(c.token_ids) <= 3 for c in found[0].completions)
    assert any(c.truncated for c in found[0].completions) and max(len(c.token_ids) for c in found[1].completions) > 3


async def _groups(stream):
    async for reference in stream:
        yield await reference


def test_a_repeated_wave_gives_the_same_tokens_bit_by_bit(live):
    version = generate(live, 1, 2)[0].completions[0].start_version
    waves = []
    for _ in range(2):
        asyncio.run(publish(live.cluster.learners, live.cluster.rollouts, version, 60))  # empties the prefix cache
        waves.append(generate(live, 8, 4, seed=5))
    for first, second in zip(*waves, strict=True):
        for a, b in zip(first.completions, second.completions, strict=True):
            assert np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.logprobs, b.logprobs)


def test_logprobs_do_not_depend_on_shared_prefixes(live):
    sequences = rows(generate(live))
    alone, shared = learner_logprobs(live, sequences, 0), learner_logprobs(live, sequences, 400)
    assert max(np.abs(alone[i] - shared[i]).max() for i in alone) < 2e-5


@pytest.mark.parametrize("loss", [partial(policy_loss, ObjectiveSettings(horizon=64)), sft_loss], ids=["policy", "sft"])
def test_loss_and_gradient_do_not_depend_on_the_cut_nor_on_the_ranks(live, loss):
    import ray

    sequences = rows(generate(live))
    counts = {"tokens": float(sum(s["mask"].sum() for s in sequences)), "sequences": float(len(sequences))}
    ranks = {1: [live.fresh_learner()], 2: live.learner_pair()}  # all at the starter's weights
    losses, norms = [], []
    for world, budget, row_tokens in ((1, 100_000, 0), (1, 700, 0), (1, 2048, 256), (2, 2048, 256), (2, 500, 0)):
        batch = token_batch(sequences, budget, world, row_tokens)
        results = ray.get([x.gradient.remote(batch, loss, counts) for x in ranks[world]], timeout=120)
        losses.append(results[0]["loss"])
        norms.append(results[0]["grad_norm"])
    assert np.ptp(losses) <= 1e-6 * max(1, abs(losses[0])), losses
    assert np.ptp(norms) <= 2e-6 * max(1, norms[0]), norms


@pytest.mark.parametrize("name", ["vanilla", "gspo", "cispo"])
def test_what_has_no_advantage_has_no_gradient(live, name):
    """So the trainer need not compute it, as long as it counts in the denominator."""
    import ray

    sequences = rows(generate(live))
    for sequence in sequences[::3]:
        sequence["advantages"] = sequence["advantages"] * 0
    counts = {"tokens": float(sum(s["mask"].sum() for s in sequences)), "sequences": float(len(sequences))}
    with_advantage = [s for s in sequences if s["advantages"].any()]
    assert 0 < len(with_advantage) < len(sequences)
    loss, learner = partial(policy_loss, ObjectiveSettings(loss=name, horizon=64)), live.fresh_learner()
    everything, enough = (
        ray.get(learner.gradient.remote(token_batch(part, 2048, 1, 256), loss, counts), timeout=120)
        for part in (sequences, with_advantage)
    )
    assert everything["loss"] == pytest.approx(enough["loss"], rel=1e-6)
    assert everything["grad_norm"] == pytest.approx(enough["grad_norm"], rel=2e-6)


def test_a_saved_policy_loads_in_transformers_as_it_is(live, tmp_path):
    import ray
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ray.get(live.cluster.learners[0].save.remote(str(tmp_path), False))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    sequences = rows(generate(live, 2, 2))
    logprobs = learner_logprobs(live, sequences)
    for i, sequence in enumerate(sequences):
        ids = torch.tensor(sequence["tokens"].astype(np.int64))[None]
        with torch.no_grad():
            full = torch.log_softmax(model(ids).logits[0, :-1].float(), -1)
        expected = full.gather(-1, ids[0, 1:, None])[:, 0].numpy()[sequence["mask"][1:] > 0]
        assert np.abs(logprobs[i][sequence["mask"] > 0] - expected).max() < 1e-4
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"


def test_actors_tell_who_they_are(live):
    statuses = asyncio.run(live.cluster.statuses())
    assert [s["name"] for s in statuses] == ["rollout-0", "verifier-0", "learner-0"]
    assert statuses[0]["generated_tokens"] > 0 and statuses[2]["kind"] == "learner"


def test_a_prompt_without_room_is_refused_with_the_keys_to_change(live):
    from dataclasses import replace

    import ray

    problem = Source(live.cfg).take(1)[0]
    long = replace(problem, messages=({"role": "user", "content": "3 " * 400},))

    async def ask():
        stream = live.cluster.rollouts[0].generate.options(num_returns="streaming").remote([(0, long)], 1, SAMPLING)
        return [await reference async for reference in stream]

    with pytest.raises(ray.exceptions.RayTaskError, match="engine.max_model_len"):
        asyncio.run(ask())
