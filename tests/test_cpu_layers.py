"""The written-out backward passes agree with Hugging Face's modules, values and gradients."""

from __future__ import annotations

import pytest

from actors import cpu_layers


@pytest.fixture(scope="module")
def models():
    """The same two-layer Qwen2 twice, the second with our layers."""
    import copy

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    plain = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                    intermediate_size=96, rms_norm_eps=1e-5)
    )
    for name, parameter in plain.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    ours = copy.deepcopy(plain)
    return plain, ours, cpu_layers.install(ours)


def test_every_norm_and_mlp_is_replaced(models):
    assert models[2] == 2 * 3 + 1  # two norms and an MLP a layer, and the last norm


def test_values_and_gradients_agree(models):
    import torch

    plain, ours, _ = models
    ids = torch.randint(0, 50, (3, 11))
    outputs = [model(ids).logits for model in (plain, ours)]
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name
    assert float(plain.model.layers[0].mlp.gate_proj.weight.grad.abs().max()) > 0


def test_gradients_agree_with_finite_differences():
    import torch

    norm, swiglu = cpu_layers.functions()
    shapes = ((2, 5), (5,), (3, 4), (3, 4))
    x, w, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(lambda x, w: norm.apply(x, w, 1e-6), (x, w))
    assert torch.autograd.gradcheck(swiglu.apply, (a, b))


def test_half_precision_is_left_to_the_original(models):
    import torch

    plain, ours, _ = models
    x = torch.randn(4, 64).bfloat16()
    assert torch.equal(plain.model.norm(x), ours.model.norm(x))


def test_other_activations_are_left_alone():
    import torch
    from torch import nn

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(2, 2) for _ in range(3))
            self.act_fn = nn.GELU()

    assert cpu_layers.install(Gated()) == 0
    assert torch.is_tensor(Gated().gate_proj.weight)
