"""Attention by blocks: each sequence of a flat row as if it were alone, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from actors import block_attention
from actors.layout import flat
from rl.packing import token_batch


@pytest.fixture
def model():
    """A two-layer Qwen2 with two query heads a key head; Hugging Face's own attention is put back afterwards."""
    import torch
    from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=96, attn_implementation="sdpa")
    yield Qwen2ForCausalLM(config)
    AttentionInterface.register("sdpa", sdpa_attention_forward)


def gradients(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def test_each_sequence_attends_as_if_it_were_alone(model):
    import torch

    rng = np.random.default_rng(0)
    samples = [{"tokens": rng.integers(0, 50, n), "mask": (np.arange(n) > n // 3).astype(np.float32)}
               for n in (9, 2, 30, 11, 29, 5)]
    alone = []
    for sample in samples:
        learnt = np.flatnonzero(sample["mask"])
        alone.append(model(torch.from_numpy(sample["tokens"])[None]).logits[0, learnt - 1])
        alone[-1].square().sum().backward()
    expected = gradients(model)

    assert block_attention.install(model)
    batch = token_batch(samples, 60, row_tokens=40, pack=True)
    for rows in batch.micro_batches[0]:
        tensors = {name: torch.from_numpy(value) for name, value in flat(batch, rows).items()}
        logits = model(
            tensors["input_ids"], position_ids=tensors["position_ids"], logits_to_keep=tensors["kept"],
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            blocks=tuple(tensors[name] for name in ("gather", "scatter", "buckets")),
        ).logits[0]
        logits.square().sum().backward()
        for n, i in enumerate(i for row in rows for i in row):
            learnt = np.flatnonzero(samples[i]["mask"])
            assert torch.allclose(logits[tensors["source"][n, learnt]], alone[i], rtol=1e-5, atol=1e-5)
    found = gradients(model)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5), name


def test_moving_into_blocks_and_back_has_the_gradients_of_finite_differences():
    import torch

    into, out_of = block_attention.functions()
    batch = token_batch([{"tokens": np.arange(n), "mask": np.arange(n) > 0} for n in (4, 3, 1)], 99, 1, 9, True)
    ((rows,),) = batch.micro_batches
    tensors = {name: torch.from_numpy(value) for name, value in flat(batch, rows).items()}
    gather, scatter = tensors["gather"], tensors["scatter"]
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(out_of.apply(into.apply(x, gather, scatter), scatter), x)
    y = torch.randn(len(gather), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: out_of.apply(y, scatter), (y,))
    # padding's gradient is left out: attention gives it none, since no token of the sequence sees it
    weights = torch.zeros(len(gather), 2, dtype=torch.float64)
    weights[scatter] = torch.randn(8, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: into.apply(x, gather, scatter) * weights, (x,))


def test_without_blocks_attention_is_hugging_faces(model):
    import torch

    ids = torch.arange(12).view(2, 6)
    before = model(ids).logits
    assert block_attention.install(model)
    assert torch.equal(model(ids).logits, before)


def test_attention_in_windows_is_left_to_the_model(model):
    model.model.layers[1].self_attn.sliding_window = 16
    assert not block_attention.install(model)
