"""How the sequences of a micro-batch lie in the padded tensors that a model is given. Pure numpy.

A row is one copy of a prompt followed by completions of it. Every token has a segment (0 the prompt, k the k-th
completion) and attends to earlier tokens of its own segment and of the prompt; positions count on from the prompt in
each completion. So each completion is computed exactly as if it stood alone. With a prompt of no tokens the same
gives a packed row: the mask is block-diagonal and positions begin at 0 in each sequence, whose first token (predicted
by nothing, `source` points at a neighbour's end there) must not be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from actors.messages import TokenBatch

Rows = Sequence[Sequence[int]]


def _starts(batch: TokenBatch) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(batch.lengths)])


def sequences(batch: TokenBatch, indices: Sequence[int]) -> list[np.ndarray]:
    """The tokens of each sequence; two zeros where there is none, since a rank must still take part."""
    starts = _starts(batch)
    return [batch.tokens[starts[i] : starts[i + 1]] for i in indices] or [np.zeros(2, np.int32)]


def fields(batch: TokenBatch, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
    """Each field as float32 [b, t] over the tokens after the prompt, zero where padded."""
    starts = _starts(batch)
    own = [int(batch.lengths[i] - batch.prefixes[i]) for i in indices] or [1]
    result = {}
    for name, values in batch.fields.items():
        padded = np.zeros((len(own), max(own)), np.float32)
        for r, i in enumerate(indices):
            padded[r, : own[r]] = values[starts[i] + batch.prefixes[i] : starts[i + 1]]
        result[name] = padded
    return result


def padded(batch: TokenBatch, rows: Rows) -> Mapping[str, np.ndarray]:
    """Tensors for R rows of width W, holding b sequences of at most t tokens after their prompts.

    `input_ids`, `position_ids` int64 [R, W]; `attention_mask` int64 [R, W] where no row shares a prefix (the model
    then masks causally itself), else bool [R, 1, W, W], true where attention is allowed; `source`, `target` int64
    [b, t]: the place in the flattened [R * W] whose logits predict a token, and that token.
    """
    starts, lengths, prefixes = _starts(batch), batch.lengths, batch.prefixes
    widths = [int(lengths[row[0]] + sum(lengths[i] - prefixes[i] for i in row[1:])) for row in rows] or [2]
    height, width = len(widths), max(widths)
    ids, positions, segments = (np.zeros((height, width), np.int64) for _ in range(3))
    valid = np.zeros((height, width), np.int64)
    valid[:, 0] = 1  # a softmax over nothing would be NaN, and NaN times a mask of zero is NaN
    order = [i for row in rows for i in row]
    longest = max((int(lengths[i] - prefixes[i]) for i in order), default=1)
    source, target = (np.zeros((max(len(order), 1), longest), np.int64) for _ in range(2))
    n = 0
    for r, row in enumerate(rows):
        prefix = int(prefixes[row[0]])
        at = prefix
        ids[r, :prefix] = batch.tokens[starts[row[0]] : starts[row[0]] + prefix]
        positions[r, :prefix] = np.arange(prefix)
        for segment, i in enumerate(row, start=1):
            own = int(lengths[i] - prefix)
            tokens = batch.tokens[starts[i] + prefix : starts[i + 1]]
            ids[r, at : at + own], segments[r, at : at + own] = tokens, segment
            positions[r, at : at + own] = np.arange(prefix, prefix + own)
            target[n, :own] = tokens
            source[n, 1:own] = r * width + np.arange(at, at + own - 1)
            source[n, 0] = r * width + max(prefix - 1, 0)
            at, n = at + own, n + 1
        valid[r, :at] = 1
    result = {"input_ids": ids, "position_ids": positions, "source": source, "target": target}
    shared = any(len(row) > 1 for row in rows)
    return result | {"attention_mask": _tree_mask(segments, valid) if shared else valid}


def _tree_mask(segments: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool [R, 1, W, W]: query i may look at key j."""
    width = segments.shape[1]
    causal = np.tril(np.ones((width, width), bool))
    same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    allowed = causal & same & (valid[:, :, None] & valid[:, None, :]).astype(bool)
    allowed |= np.eye(width, dtype=bool)  # padding looks at itself, never at nothing
    return allowed[:, None]


BUCKET = 0.75  # sequences shorter than this share of the longest in their bucket begin another


def is_flat(batch: TokenBatch) -> bool:
    """Whether `flat` can lay the batch out: its rows share no prefix, as in a packed batch."""
    return not batch.prefixes.any()


def flat(batch: TokenBatch, rows: Rows) -> Mapping[str, np.ndarray]:
    """Tensors for all N tokens of some rows in a single one, without any padding, for attention by blocks on CPU.

    `input_ids`, `position_ids` int64 [1, N]; `kept` int64 [K]: the places whose logits predict a learnt token, the only
    ones computed; `source`, `target` int64 [b, t]: the place among the kept ones, and the token (0 and 0 where nothing
    is learnt). Attention gathers the sequences into buckets of similar length, [n, L] each, one after the other:
    `gather` int64 [M] is the place of each token in them (padding repeats a sequence's last), `scatter` int64 [N] the
    way back, `buckets` int64 [B, 2] the (n, L).
    """
    starts, order = _starts(batch), [i for row in rows for i in row]
    lengths = np.asarray([batch.lengths[i] for i in order] or [2])
    total = int(lengths.sum())
    begins = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(total) - np.repeat(begins[:-1], lengths)
    ids, mask = np.zeros(total, np.int64), np.zeros(total, bool)
    for n, i in enumerate(order):
        ids[begins[n] : begins[n + 1]] = batch.tokens[starts[i] : starts[i + 1]]
        mask[begins[n] : begins[n + 1]] = batch.fields["mask"][starts[i] : starts[i + 1]] > 0
    learnt = np.flatnonzero(mask & (positions > 0))
    kept = learnt - 1 if len(learnt) else np.zeros(1, np.int64)  # a head over nothing has no gradient
    source, target = (np.zeros((len(lengths), int(lengths.max())), np.int64) for _ in range(2))
    row = np.repeat(np.arange(len(lengths)), lengths)[learnt]
    source[row, positions[learnt]] = np.arange(len(learnt))
    target[row, positions[learnt]] = ids[learnt]
    tensors = {"input_ids": ids[None], "position_ids": positions[None], "kept": kept}
    return tensors | {"source": source, "target": target} | _buckets(lengths, begins)


def _buckets(lengths: np.ndarray, begins: np.ndarray) -> Mapping[str, np.ndarray]:
    """`gather`, `scatter` and `buckets` of `flat`, for sequences of these lengths that begin at these places."""
    order = np.argsort(-lengths, kind="stable")
    scatter = np.zeros(int(lengths.sum()), np.int64)
    gather, buckets, at, n = [], [], 0, 0
    while n < len(order):
        width = int(lengths[order[n]])
        count = int(np.searchsorted(-lengths[order], -BUCKET * width, side="right")) - n
        for i in order[n : n + count]:
            own = begins[i] + np.minimum(np.arange(width), lengths[i] - 1)
            gather.append(own)
            scatter[begins[i] : begins[i] + lengths[i]] = at + np.arange(lengths[i])
            at += width
        buckets.append((count, width))
        n += count
    return {"gather": np.concatenate(gather), "scatter": scatter, "buckets": np.asarray(buckets, np.int64)}
