"""Packed rows on the real engine: the same loss, gradient and logprobs as alone, and no sample sees another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from conf.load import load
from rl.objective import sft_loss
from rl.packing import token_batch
from rl.sft_data import StarterSource

LAYOUTS = {
    "rows of 256": {"budget": 1024, "row_tokens": 256, "pack": True},
    "rows of 512": {"budget": 512, "row_tokens": 512, "pack": True},
}


@pytest.fixture(scope="module")
def samples(live):
    """Twenty samples of the starter's corpus."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("assets/starter")
    batches = StarterSource(load(["mode=sft"]), tokenizer).batches(0)
    return list(itertools.islice(itertools.chain.from_iterable(batches), 20))


@pytest.fixture(scope="module")
def unpadded(live):
    """A learner that leaves packing to verl, as on a GPU (there by flash attention, here by a mask)."""
    import ray

    from actors.learner import Learner
    from actors.verl_engine import EngineSettings

    settings = EngineSettings("assets/starter", total_steps=100, remove_padding=True)
    learner = ray.remote(Learner).options(num_cpus=0).remote("unpadded", 0, 1, settings, 1)
    ray.get(learner.start.remote(*ray.get(learner.rendezvous.remote())), timeout=180)
    yield learner
    ray.kill(learner)


def loss_and_gradient(learner, batch):
    """(loss, {parameter: gradient}) of a learner, which is not changed."""
    import ray

    def compute(self):
        engine = self._ready()
        with engine.engine.train_mode():
            sums = engine._accumulate(batch, sft_loss, {"tokens": batch.mask_tokens})
            found = {}
            for name, parameter in engine.engine.module.named_parameters():
                grad = parameter.grad
                found[name] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).numpy().copy()
            engine.engine.optimizer_zero_grad()
        return sums["loss"], found

    return ray.get(learner.__ray_call__.remote(compute), timeout=120)


def logprobs(learner, samples, **cut):
    """Of the learnt tokens of each sample."""
    import ray

    found = ray.get(learner.logprobs.remote(token_batch(samples, **cut)), timeout=120)
    return [found[i] * sample["mask"] for i, sample in enumerate(samples)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["masked", "unpadded"])
def test_packed_rows_give_the_loss_and_the_gradient_of_samples_alone(live, samples, unpadded, layout, kind):
    learner = unpadded if kind == "unpadded" else live.fresh_learner()
    packed = token_batch(samples, **LAYOUTS[layout])
    assert max(len(row) for row in packed.micro_batches[0][0]) > 1
    loss, gradient = loss_and_gradient(learner, packed)
    alone_loss, alone = loss_and_gradient(live.fresh_learner(), token_batch(samples, budget=1))  # a row each
    assert loss == pytest.approx(alone_loss, abs=1e-5)
    assert max(np.abs(g).max() for g in alone.values()) > 1e-3
    for name, expected in alone.items():
        np.testing.assert_allclose(gradient[name], expected, atol=1e-5, err_msg=name)
    for ours, theirs in zip(logprobs(learner, samples, **LAYOUTS[layout]), logprobs(learner, samples, budget=1)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["masked", "unpadded"])
def test_another_sample_in_the_row_changes_nothing_at_all(live, samples, unpadded, kind):
    learner, cut = unpadded if kind == "unpadded" else live.fresh_learner(), LAYOUTS["rows of 512"]
    before = logprobs(learner, samples, **cut)
    changed = [dict(sample) for sample in samples]
    for i in (1, 7, 12):
        changed[i]["tokens"] = (samples[i]["tokens"] + 5) % 600
    after = logprobs(learner, changed, **cut)
    for i, (one, other) in enumerate(zip(before, after)):
        if i in (1, 7, 12):
            assert np.abs(one - other).max() > 1e-2
        else:
            np.testing.assert_array_equal(one, other)
