"""Attention by blocks, for rows filled with several sequences on CPU.

Attention under a mask computes what the mask then hides, and in such a row that is most of it. So the sequences are
taken out of the row into buckets of similar length (`actors.layout.flat` says where each token goes), each attends
causally within itself, and what comes out is put back. Values agree to float32's rounding with each sequence alone.
On a GPU flash attention does the same by itself.
"""

from __future__ import annotations

from typing import Any


def install(model: Any) -> bool:
    """Let `model` take a `blocks` argument, (gather, scatter, buckets) of the layout, and compute its attention by
    blocks then. False where it cannot: another implementation than sdpa, or windows narrower than a sequence.

    Replaces Hugging Face's sdpa in this process; without `blocks` that is called as before.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    windowed = any(getattr(module, "sliding_window", None) for module in model.modules())
    if windowed or model.config._attn_implementation != "sdpa":
        return False

    def attention(module, query, key, value, attention_mask, blocks=None, **kwargs):
        if blocks is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return _attend(query, key, value, blocks, kwargs.get("scaling"), kwargs.get("dropout", 0.0)), None

    AttentionInterface.register("sdpa", attention)
    return True


def _attend(query: Any, key: Any, value: Any, blocks: Any, scaling: float | None, dropout: float) -> Any:
    """[1, heads, N, d] each to [1, N, heads, d]: causal attention of each sequence to itself."""
    import torch

    gather, scatter, buckets = blocks
    into, out_of = functions()
    moved = [into.apply(x[0].transpose(0, 1).flatten(1), gather, scatter) for x in (query, key, value)]
    heads, shared = [x.shape[1] for x in (query, key, value)], query.shape[1] != key.shape[1]
    results, at = [], 0
    for count, width in buckets.tolist():
        end = at + count * width
        parts = [x[at:end].view(count, width, h, -1).transpose(1, 2) for x, h in zip(moved, heads, strict=True)]
        result = torch.nn.functional.scaled_dot_product_attention(
            *parts, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        )
        results.append(result.transpose(1, 2).reshape(count * width, -1))
        at = end
    joined = out_of.apply(torch.cat(results) if len(results) > 1 else results[0], scatter)
    return joined.view(1, query.shape[2], query.shape[1], -1)


_FUNCTIONS: list[Any] = []


def functions() -> list[Any]:
    """[IntoBlocks, OutOfBlocks] as autograd functions; made at the first call, so that importing this does not import
    torch. Both move whole rows, which is several times quicker than the general backward pass of an index.

    IntoBlocks(x [N, H], gather [M], scatter [N]) = x[gather], where padding gets no gradient;
    OutOfBlocks(x [M, H], scatter [N]) = x[scatter].
    """
    if _FUNCTIONS:
        return _FUNCTIONS
    import torch

    class IntoBlocks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gather, scatter):
            ctx.save_for_backward(scatter)
            return x.index_select(0, gather)

        @staticmethod
        def backward(ctx, grad):
            return grad.index_select(0, *ctx.saved_tensors), None, None

    class OutOfBlocks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scatter):
            ctx.save_for_backward(scatter)
            ctx.rows = len(x)
            return x.index_select(0, scatter)

        @staticmethod
        def backward(ctx, grad):
            (scatter,) = ctx.saved_tensors
            return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, scatter, grad), None

    _FUNCTIONS.extend((IntoBlocks, OutOfBlocks))
    return _FUNCTIONS
