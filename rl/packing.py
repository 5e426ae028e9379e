"""Cutting a batch into rows and micro-batches: shared prompts once, similar lengths together, within a token budget.

The completions of a group begin with the same prompt. Laid into one row behind a single copy of it, each attending to
the prompt and to itself only, they give the same logprobs for about half the tokens where prompts are as long as
answers. Sequences that share nothing can fill a row one behind the other, each attending to itself only and counting
its positions from 0 (packing). Rows of a micro-batch are padded to the longest, so rows of similar length belong
together. The loss divides by the whole batch's counts, so none of this changes a result (invariant 3 of the design),
only its speed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from actors.messages import TokenBatch

Row = tuple[int, ...]
Plan = tuple[tuple[tuple[Row, ...], ...], ...]


def rows_of(lengths: Sequence[int], prefixes: Sequence[int], groups: Sequence[int], limit: int) -> list[Row]:
    """Sequences of the same group id, in their order, joined into rows of at most `limit` tokens (prefix once).

    A longer row saves copies of the prefix but costs attention, which is quadratic; `limit` is that compromise.
    """
    rows: list[list[int]] = []
    used, last = 0, None
    for i, group in enumerate(groups):
        own = lengths[i] - prefixes[i]
        if rows and group == last and prefixes[i] and used + own <= limit:
            rows[-1].append(i)
            used += own
        else:
            rows.append([i])
            used, last = lengths[i], group
    return [tuple(row) for row in rows]


def packed_rows(lengths: Sequence[int], limit: int) -> list[Row]:
    """Sequences that share nothing in rows of at most `limit` tokens, by best fit, longest first.

    Best fit decreasing needs at most 11/9 of the fewest rows possible, and 6/9 of one more (Dósa and Sgall 2013); a
    longer sequence stands alone. Rows are in the order of their first sequence, sequences in their own order.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, row), sorted: the first that is large enough fits best
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(room, (lengths[i], -1))
        free, row = room.pop(at) if at < len(room) else (limit, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        if free > lengths[i]:
            insort(room, (free - lengths[i], row))
    return sorted(tuple(sorted(row)) for row in rows)


def micro_batches(row_lengths: Sequence[int], budget: int, world_size: int = 1) -> list[list[list[int]]]:
    """For each rank its micro-batches as lists of row numbers; equally many on each rank.

    `budget` bounds rows x longest (padded tokens) of a micro-batch; a row longer than it stands alone. Ranks take
    neighbours in the order of length, so that they are busy equally long.
    """
    if budget < 1 or world_size < 1:
        raise ValueError(f"budget {budget} and world size {world_size} must be positive")
    order = sorted(range(len(row_lengths)), key=lambda i: (-row_lengths[i], i))
    cuts: list[list[int]] = []
    for index in order:  # longest first: the first of a cut sets its width
        if cuts and row_lengths[cuts[-1][0]] * (-(-(len(cuts[-1]) + 1) // world_size)) <= budget:
            cuts[-1].append(index)
        else:
            cuts.append([index])
    return [[cut[rank::world_size] for cut in cuts] for rank in range(world_size)]


def row_length(row: Row, lengths: Sequence[int], prefixes: Sequence[int]) -> int:
    """Tokens in a row: one prefix and every sequence's own tokens."""
    return int(lengths[row[0]] + sum(lengths[i] - prefixes[i] for i in row[1:]))


def padded_tokens(batch: TokenBatch) -> int:
    """How many tokens the batch makes the engines compute, padding included."""
    return sum(
        len(rows) * max(row_length(row, batch.lengths, batch.prefixes) for row in rows)
        for rank in batch.micro_batches
        for rows in rank
        if rows
    )


def token_batch(
    sequences: Sequence[dict[str, np.ndarray]],
    budget: int,
    world_size: int = 1,
    row_tokens: int = 0,
    pack: bool = False,
) -> TokenBatch:
    """Join sequences into one TokenBatch.

    Each sequence has `tokens` int [n], float fields [n] (`mask` among them) and, optionally, `group` (an int: the
    sequences that share a prompt; those of one group stand together). `row_tokens` 0: nothing is shared. `pack`: rows
    of up to `row_tokens` tokens are filled with whatever fits, and nothing is shared.
    Raises ValueError for an empty batch, and where nothing but its place in a packed row precedes a learnt token.
    """
    if not sequences:
        raise ValueError("an empty batch cannot be learnt from")
    lengths = [len(s["tokens"]) for s in sequences]
    if pack:
        if any(s["mask"][0] for s in sequences):
            raise ValueError("the first token of a sequence has nothing that could predict it: its mask must be 0")
        prefixes, rows = [0] * len(sequences), packed_rows(lengths, row_tokens)
    else:
        prefixes = [int(np.argmax(s["mask"] > 0)) if s["mask"].any() else 0 for s in sequences]
        groups = [s.get("group", -1 - i) for i, s in enumerate(sequences)]
        rows = rows_of(lengths, prefixes, groups, row_tokens)
    plan = micro_batches([row_length(row, lengths, prefixes) for row in rows], budget, world_size)
    names = [n for n in sequences[0] if n not in ("tokens", "group")]
    return TokenBatch(
        tokens=np.concatenate([s["tokens"] for s in sequences]).astype(np.int32),
        lengths=np.asarray(lengths, np.int32),
        prefixes=np.asarray(prefixes, np.int32),
        fields={n: np.concatenate([s[n] for s in sequences]).astype(np.float32) for n in names},
        micro_batches=tuple(tuple(tuple(rows[i] for i in cut) for cut in rank) for rank in plan),
    )
