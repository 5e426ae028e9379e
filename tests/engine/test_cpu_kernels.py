"""What we put into vLLM on a CPU draws from the right distribution."""

from __future__ import annotations

import math


def test_the_sampler_draws_from_the_softmax():
    import torch

    from actors.engine.cpu_kernels import sample

    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -math.inf, 3.0]])
    count = 200_000
    drawn = torch.bincount(sample(logits.expand(count, -1)), minlength=6).double()
    expected = logits[0].double().softmax(-1) * count
    assert drawn[4] == 0
    kept = expected > 0
    chi2 = float(((drawn - expected)[kept] ** 2 / expected[kept]).sum())
    assert chi2 < 18.5, "99.9 % quantile of chi2 with 4 degrees of freedom"


def test_the_last_token_and_a_certain_one_can_be_drawn():
    import torch

    from actors.engine.cpu_kernels import sample

    certain = torch.full((1000, 5), -math.inf)
    certain[:, 4] = 0.0
    assert (sample(certain) == 4).all()
    assert sample(torch.zeros(5000, 3)).unique().tolist() == [0, 1, 2]


def test_rows_are_drawn_independently_and_by_the_seed():
    import torch

    from actors.engine.cpu_kernels import sample

    logits = torch.zeros(64, 640)
    torch.manual_seed(3)
    first = sample(logits)
    torch.manual_seed(3)
    assert torch.equal(first, sample(logits))
    assert len(first.unique()) > 32
