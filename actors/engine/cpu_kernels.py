"""What vLLM 0.31 does slower on a CPU than it could. Imported where vLLM is about to start on one.

- Its C kernels for RMS norm are built for CPU but registered for GPUs only; the fallback of eight torch calls takes 20
  times as long on small batches, an eighth of a decoding step.
- It samples with exponential noise for every token of the vocabulary, another eighth. One uniform number and the
  cumulative distribution (inverse transform sampling) draw from the same distribution.
- It asks the block allocator for every sequence at every step, though a block has room for 32 tokens.

No `from __future__ import annotations` here: vLLM infers the operators'
schemas from the annotations themselves.
"""

import torch
from torch import Tensor
from vllm import ir
from vllm.platforms import current_platform

NAME = "raythink_cpu"
BLOCK = 32  # tokens in a block of the KV cache

current_platform.import_kernels()
AVAILABLE = hasattr(torch.ops._C, "rms_norm") and hasattr(torch.ops._C, "fused_add_rms_norm")


def _plain(x, weight, variance_size):
    """Whether the C kernels take these arguments: one dtype, contiguous, the whole width normalised."""
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()


def _plain_norm(x, weight, epsilon, variance_size=None):
    return _plain(x, weight, variance_size)


@ir.ops.rms_norm.register_impl(NAME, supported=AVAILABLE, supports_args=_plain_norm)
def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    output = torch.empty_like(x)
    torch.ops._C.rms_norm(output, x, weight, epsilon)
    return output


def _plain_sum(x, x_residual, weight, epsilon, variance_size=None):
    return _plain(x, weight, variance_size) and x_residual.is_contiguous()


@ir.ops.fused_add_rms_norm.register_impl(NAME, supported=AVAILABLE, supports_args=_plain_sum, inplace=True)
def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


PRIORITIES = {"rms_norm": [NAME], "fused_add_rms_norm": [NAME]} if AVAILABLE else {}


def sample(logits: Tensor) -> Tensor:
    """int64 [n]: a token of each row of `logits` [n, vocabulary], drawn from its softmax."""
    cumulative = logits.softmax(dim=-1, dtype=torch.float32).cumsum(dim=-1, dtype=torch.float64)
    drawn = torch.rand(len(cumulative), 1, dtype=torch.float64).mul_(cumulative[:, -1:])
    # strictly above: a token of probability 0 has its predecessor's cumulative value and is never drawn
    return torch.searchsorted(cumulative, drawn, right=True).squeeze(-1).clamp_(max=cumulative.shape[1] - 1)


def install() -> None:
    """Put the sampler and the allocator's short way into vLLM, once a process."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.sample.ops import topk_topp_sampler

    topk_topp_sampler.compiled_random_sample = sample
    allocate = KVCacheManager.allocate_slots
    if getattr(allocate, "short", False):
        return

    def allocate_slots(self, request, num_new_tokens, *arguments, **options):
        place = request.num_computed_tokens % BLOCK
        decoding = num_new_tokens == 1 and not arguments and options == {"num_lookahead_tokens": 0}
        if decoding and 0 < place < BLOCK - 1:  # the last place also enters a full block in the cache
            return self.empty_kv_cache_blocks
        return allocate(self, request, num_new_tokens, *arguments, **options)

    allocate_slots.short = True
    KVCacheManager.allocate_slots = allocate_slots
