"""Cutting a batch: nothing is lost or doubled, ranks stay in step, and the budgets hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.packing import micro_batches, packed_rows, padded_tokens, row_length, rows_of, token_batch

QUICK = settings(max_examples=60, deadline=None)


@st.composite
def groups_of_sequences(draw):
    """(lengths, prefixes, groups): some groups of 1 to 5 sequences, each group with one prompt length."""
    lengths, prefixes, groups = [], [], []
    for group in range(draw(st.integers(1, 6))):
        prefix = draw(st.integers(0, 12))
        for own in draw(st.lists(st.integers(1, 20), min_size=1, max_size=5)):
            lengths.append(prefix + own)
            prefixes.append(prefix)
            groups.append(group)
    return lengths, prefixes, groups


def sequence(prompt: int, own: int, group: int | None = None, **fields) -> dict:
    mask = np.concatenate([np.zeros(prompt), np.ones(own)])
    named = {} if group is None else {"group": group}
    return {"tokens": np.arange(prompt + own), "mask": mask, **fields, **named}


# --- rows ---------------------------------------------------------------------------------------------------------


@QUICK
@given(groups_of_sequences(), st.integers(0, 60))
def test_rows_hold_every_sequence_once_join_one_group_only_and_respect_the_limit(sequences, limit):
    lengths, prefixes, groups = sequences
    rows = rows_of(lengths, prefixes, groups, limit)
    assert [i for row in rows for i in row] == list(range(len(lengths)))
    for row in rows:
        assert len({groups[i] for i in row}) == 1
        assert len(row) == 1 or (row_length(row, lengths, prefixes) <= limit and prefixes[row[0]] > 0)


@QUICK
@given(groups_of_sequences(), st.integers(0, 60))
def test_rows_are_as_few_as_their_order_allows(sequences, limit):
    lengths, prefixes, groups = sequences
    rows = rows_of(lengths, prefixes, groups, limit)
    for row, after in pairwise(rows):
        first = after[0]
        joined = row_length((*row, first), lengths, prefixes)
        assert groups[row[0]] != groups[first] or not prefixes[first] or joined > limit


def test_rows_by_hand():
    #          prompt 3, answers 2 2 4          prompt 5, answers 1 1
    lengths, prefixes, groups = [5, 5, 7, 6, 6], [3, 3, 3, 5, 5], [0, 0, 0, 1, 1]
    assert rows_of(lengths, prefixes, groups, 0) == [(0,), (1,), (2,), (3,), (4,)]
    assert rows_of(lengths, prefixes, groups, 7) == [(0, 1), (2,), (3, 4)]  # 3+2+2, 3+4, 5+1+1
    assert rows_of(lengths, prefixes, groups, 11) == [(0, 1, 2), (3, 4)]
    assert [row_length(row, lengths, prefixes) for row in [(0, 1), (0, 1, 2), (3, 4)]] == [7, 11, 7]


# --- packed rows --------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 40))
def test_packed_rows_hold_every_sequence_once_within_the_limit(lengths, limit):
    rows = packed_rows(lengths, limit)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert rows == sorted(rows) and all(list(row) == sorted(row) for row in rows)
    for row in rows:
        assert len(row) == 1 or sum(lengths[i] for i in row) <= limit
    sums = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > limit  # no two rows could be one


def test_packed_rows_by_hand():
    assert packed_rows([6, 3, 4, 7, 10, 11], 10) == [(0, 2), (1, 3), (4,), (5,)]
    assert packed_rows([], 10) == []


def test_long_dialogues_pack_almost_without_waste():
    lengths = np.random.default_rng(0).lognormal(8.5, 0.9, 4000).clip(50, 32768).astype(int).tolist()
    rows = packed_rows(lengths, 32768)
    assert sum(lengths) / (len(rows) * 32768) > 0.99


def test_a_packed_batch_shares_no_prefix_and_learns_nothing_from_nothing():
    batch = token_batch([sequence(3, 4), sequence(1, 2), sequence(2, 5)], 100, row_tokens=10, pack=True)
    assert batch.prefixes.tolist() == [0, 0, 0] and batch.micro_batches == ((((0, 1), (2,)),),)
    assert padded_tokens(batch) == 20
    with pytest.raises(ValueError, match="the first token"):
        token_batch([sequence(0, 4)], 100, row_tokens=10, pack=True)


# --- micro-batches ------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120), st.integers(1, 4))
def test_micro_batches_hold_every_row_once_in_step_and_within_the_budget(row_lengths, budget, world_size):
    plan = micro_batches(row_lengths, budget, world_size)
    assert sorted(i for rank in plan for cut in rank for i in cut) == list(range(len(row_lengths)))
    assert len(plan) == world_size
    assert len({len(rank) for rank in plan}) == 1
    for rank in plan:
        for cut in filter(None, rank):
            padded = len(cut) * max(row_lengths[i] for i in cut)
            assert padded <= budget or len(cut) == 1 and row_lengths[cut[0]] > budget


@QUICK
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 4))
def test_ranks_share_each_micro_batch_evenly(row_lengths, world_size):
    for cuts in zip(*micro_batches(row_lengths, 100, world_size), strict=True):
        counts = [len(cut) for cut in cuts]
        assert max(counts) - min(counts) <= 1


def test_micro_batches_by_hand():
    assert micro_batches([4, 9, 5, 10, 2], 20) == [[[3, 1], [2, 0, 4]]]  # 2 x 10, 3 x 5
    assert micro_batches([4, 9, 5, 10, 2], 10, world_size=2) == [[[3], [2, 4]], [[1], [0]]]
    assert micro_batches([30, 3], 20) == [[[0], [1]]]  # the long row stands alone


@pytest.mark.parametrize("budget,world_size", [(0, 1), (10, 0), (-1, 1)])
def test_a_budget_or_a_world_of_nothing_is_refused(budget, world_size):
    with pytest.raises(ValueError, match=f"budget {budget} and world size {world_size} must be positive"):
        micro_batches([1], budget, world_size)


# --- token batches ------------------------------------------------------------------------------------------------


def test_padded_tokens_by_hand():
    rows = [sequence(3, 2, 0), sequence(3, 2, 0), sequence(3, 4, 0), sequence(5, 1, 1), sequence(5, 1, 1)]
    # alone: lengths 7 6 6 5 5 -> one micro-batch of 5 x 7; two of (7 6) (6 5) (5): 2 x 7 + 2 x 6 + 5
    assert padded_tokens(token_batch(rows, budget=35)) == 35
    assert padded_tokens(token_batch(rows, budget=14)) == 14 + 12 + 5
    # joined: rows of 3+2+2+4=11 and 5+1+1=7 tokens, padded to 2 x 11 or standing apart
    assert padded_tokens(token_batch(rows, budget=22, row_tokens=11)) == 22
    assert padded_tokens(token_batch(rows, budget=18, row_tokens=11)) == 18
    # the second rank has nothing in the second micro-batch, and an empty one costs nothing
    assert padded_tokens(token_batch(rows[:3], budget=7, world_size=2)) == 7 + 5 + 5


def test_a_token_batch_keeps_tokens_fields_and_prompts_of_each_sequence():
    rows = [sequence(2, 3, 7, advantages=np.array([0, 0, 1, 2, 3])), sequence(0, 2, 8, advantages=np.array([4, 5]))]
    batch = token_batch(rows, budget=100)
    assert batch.tokens.tolist() == [0, 1, 2, 3, 4, 0, 1] and batch.tokens.dtype == np.int32
    assert batch.lengths.tolist() == [5, 2] and batch.prefixes.tolist() == [2, 0]
    assert set(batch.fields) == {"mask", "advantages"}
    assert batch.fields["advantages"].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert all(values.dtype == np.float32 for values in batch.fields.values())
    assert batch.mask_tokens == 5.0
    assert batch.micro_batches == ((((0,), (1,)),),)


def test_sequences_without_a_group_share_nothing():
    batch = token_batch([sequence(3, 2), sequence(3, 2)], budget=100, row_tokens=100)
    assert batch.micro_batches == ((((0,), (1,)),),)


def test_a_sequence_with_nothing_to_learn_has_no_prompt():
    silent = {"tokens": np.arange(3), "mask": np.zeros(3)}
    assert token_batch([silent, sequence(1, 2)], budget=10).prefixes.tolist() == [0, 1]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="empty batch"):
        token_batch([], budget=10)
