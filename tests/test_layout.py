"""Rows that share a prompt: written out by hand, and shown to compute what each sequence computes alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.layout import BUCKET, fields, flat, is_flat, padded, sequences
from actors.messages import TokenBatch
from rl.packing import token_batch

VOCABULARY = 50
PRIME = 1_000_003


def batch_of(*groups: tuple[list[int], list[list[int]]], **cut) -> TokenBatch:
    """A batch of (prompt, completions) groups; the `advantages` of the n-th sequence's k-th own token are n + k/100."""
    rows = []
    for group, (prompt, completions) in enumerate(groups):
        for own in completions:
            mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(own))])
            values = mask * (len(rows) + np.arange(-len(prompt), len(own)) / 100)
            rows.append({"group": group, "tokens": np.array(prompt + own), "mask": mask, "advantages": values})
    return token_batch(rows, **{"budget": 10_000, "row_tokens": 10_000} | cut)


def only_rows(batch: TokenBatch):
    ((rows,),) = batch.micro_batches
    return rows


# --- by hand ------------------------------------------------------------------------------------------------------


def shared_row():
    """Prompt 5 6 with answers 7 8 and 9, and prompt 1 with answer 2 3 (two tokens of padding)."""
    batch = batch_of(([5, 6], [[7, 8], [9]]), ([1], [[2, 3]]))
    assert only_rows(batch) == ((0, 1), (2,))
    return padded(batch, only_rows(batch))


def test_a_shared_row_by_hand():
    tensors = shared_row()
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0]]
    assert tensors["target"].tolist() == [[7, 8], [9, 0], [2, 3]]
    # the token at place p is predicted at p - 1; the first of each answer at the end of its prompt (6 at 1, 1 at 5)
    assert tensors["source"].tolist() == [[1, 2], [1, 0], [5, 6]]
    assert all(tensors[n].dtype == np.int64 for n in ("input_ids", "position_ids", "source", "target"))


def test_the_mask_of_a_shared_row_by_hand():
    mask = shared_row()["attention_mask"]
    assert mask.shape == (2, 1, 5, 5) and mask.dtype == bool
    assert mask[0, 0].astype(int).tolist() == [
        [1, 0, 0, 0, 0],  # 5
        [1, 1, 0, 0, 0],  # 6
        [1, 1, 1, 0, 0],  # 7, of the first answer
        [1, 1, 1, 1, 0],  # 8
        [1, 1, 0, 0, 1],  # 9, of the second answer: the prompt and itself
    ]
    assert mask[1, 0].astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],  # padding sees itself, and nobody sees it
        [0, 0, 0, 0, 1],
    ]


def test_rows_that_share_nothing_have_a_plain_mask():
    batch = batch_of(([5, 6], [[7, 8], [9]]), row_tokens=0)
    tensors = padded(batch, only_rows(batch))
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 8], [5, 6, 9, 0]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tensors["source"].tolist() == [[1, 2], [5, 0]]


def test_fields_follow_the_answers_and_are_zero_where_padded():
    batch = batch_of(([5, 6], [[7, 8], [9]]), ([1], [[2, 3]]))
    got = fields(batch, [0, 1, 2])
    assert got["mask"].tolist() == [[1, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(got["advantages"], [[0, 0.01], [1, 0], [2, 2.01]])
    assert got["mask"].dtype == np.float32
    assert fields(batch, [2, 0])["mask"].shape == (2, 2)


def test_sequences_are_cut_where_they_end():
    batch = batch_of(([5, 6], [[7, 8], [9]]), ([1], [[2, 3]]))
    assert [s.tolist() for s in sequences(batch, [2, 0])] == [[1, 2, 3], [5, 6, 7, 8]]


def test_a_rank_with_nothing_still_takes_part():
    batch = batch_of(([5, 6], [[7, 8]]))
    tensors = padded(batch, ())
    assert tensors["input_ids"].shape == (1, 2) and tensors["source"].shape == tensors["target"].shape == (1, 1)
    assert tensors["attention_mask"].any(-1).all()  # a softmax over nothing would be NaN
    assert fields(batch, ())["mask"].tolist() == [[0.0]]
    assert [s.tolist() for s in sequences(batch, ())] == [[0, 0]]


# --- any packing --------------------------------------------------------------------------------------------------


def toy_states(ids: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """int64 [W]: a two-layer "transformer" in whole numbers, where each layer sums over what the mask shows.

    It is a function of the multiset of visible (token, position) pairs, and of theirs in turn, so that a place that
    sees anything else than it should, even through another one, ends in another number.
    """
    table = np.random.default_rng(0).integers(1, PRIME, (2, max(VOCABULARY, 200)))
    states = (table[0, ids] * table[1, positions]) % PRIME
    for _ in range(2):
        states = (mask.astype(np.int64) @ (states * states % PRIME) + states) % PRIME
    return states


def allowed(attention_mask: np.ndarray) -> np.ndarray:
    """bool [R, W, W] of either kind of mask; a plain one is causal, as in the models' own code."""
    if attention_mask.ndim == 4:
        return attention_mask[:, 0]
    width = attention_mask.shape[1]
    return np.tril(np.ones((width, width), bool)) & attention_mask[:, None, :].astype(bool)


@st.composite
def cut_batches(draw):
    tokens = st.integers(0, VOCABULARY - 1)
    answers = st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=4)
    groups = draw(st.lists(st.tuples(st.lists(tokens, min_size=1, max_size=6), answers), min_size=1, max_size=5))
    cut = {name: draw(st.integers(low, high)) for name, low, high in
           (("budget", 1, 80), ("row_tokens", 0, 40), ("world_size", 1, 3))}
    return batch_of(*groups, **cut)


@settings(max_examples=60, deadline=None)
@given(cut_batches())
def test_every_token_is_predicted_from_the_same_context_as_alone(batch):
    starts, seen = np.concatenate([[0], np.cumsum(batch.lengths)]), []
    for rows in (rows for rank in batch.micro_batches for rows in rank if rows):
        tensors = padded(batch, rows)
        masks = allowed(tensors["attention_mask"])
        states = np.stack([toy_states(*x) for x in zip(tensors["input_ids"], tensors["position_ids"], masks)]).ravel()
        order = [i for row in rows for i in row]
        values = fields(batch, order)
        for n, i in enumerate(order):
            tokens, prefix = batch.tokens[starts[i] : starts[i + 1]], int(batch.prefixes[i])
            length, own = len(tokens), len(tokens) - prefix
            alone = toy_states(tokens, np.arange(length), np.tril(np.ones((length, length), bool)))
            np.testing.assert_array_equal(states[tensors["source"][n, :own]], alone[prefix - 1 : -1])
            np.testing.assert_array_equal(tensors["target"][n, :own], tokens[prefix:])
            assert values["mask"][n].tolist() == [1.0] * own + [0.0] * (values["mask"].shape[1] - own)
            expected = batch.fields["advantages"][starts[i] + prefix : starts[i + 1]]
            np.testing.assert_array_equal(values["advantages"][n, :own], expected)
        seen += order
    assert sorted(seen) == list(range(len(batch.lengths)))


@settings(max_examples=30, deadline=None)
@given(cut_batches())
def test_nobody_sees_padding_and_padding_sees_only_itself(batch):
    for rows in (rows for rank in batch.micro_batches for rows in rank if any(len(row) > 1 for row in rows)):
        mask = padded(batch, rows)["attention_mask"][:, 0]
        for r, row in enumerate(rows):
            used = int(batch.lengths[row[0]] + sum(batch.lengths[i] - batch.prefixes[i] for i in row[1:]))
            assert not mask[r, :used, used:].any()
            np.testing.assert_array_equal(mask[r, used:], np.eye(mask.shape[-1], dtype=bool)[used:])


# --- packed rows --------------------------------------------------------------------------------------------------


def packed(*samples: list[tuple[int, int]], **cut) -> TokenBatch:
    """A packed batch of samples, each of (token, mask) pairs."""
    rows = [{"tokens": np.array([t for t, _ in s]), "mask": np.array([m for _, m in s], np.float32)} for s in samples]
    return token_batch(rows, **{"budget": 10_000, "row_tokens": 10_000, "pack": True} | cut)


def two_turns() -> TokenBatch:
    """5 6 [7] 8 [9], and 1 [2]: two learnt tokens in the first, one in the second."""
    return packed([(5, 0), (6, 0), (7, 1), (8, 0), (9, 1)], [(1, 0), (2, 1)])


def test_a_packed_row_by_hand():
    batch = two_turns()
    tensors = padded(batch, only_rows(batch))
    assert only_rows(batch) == ((0, 1),)
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 2]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    block = np.tril(np.ones((5, 5), int)).tolist()
    assert tensors["attention_mask"][0, 0, :5, :5].astype(int).tolist() == block
    assert tensors["attention_mask"][0, 0, 5:].astype(int).tolist() == [[0] * 5 + [1, 0], [0] * 5 + [1, 1]]
    assert not tensors["attention_mask"][0, 0, :5, 5:].any()
    assert fields(batch, [0, 1])["mask"].tolist() == [[0, 0, 1, 0, 1], [0, 1, 0, 0, 0]]


def test_a_flat_row_by_hand():
    batch = two_turns()
    tensors = flat(batch, only_rows(batch))
    assert is_flat(batch) and not is_flat(batch_of(([5, 6], [[7, 8], [9]])))
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 2]]
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert tensors["kept"].tolist() == [1, 3, 5]  # 7 is predicted at 6, 9 at 8, 2 at 1
    assert tensors["source"].tolist() == [[0, 0, 0, 0, 1], [0, 2, 0, 0, 0]]
    assert tensors["target"].tolist() == [[0, 0, 7, 0, 9], [0, 2, 0, 0, 0]]
    assert tensors["buckets"].tolist() == [[1, 5], [1, 2]]
    assert tensors["gather"].tolist() == tensors["scatter"].tolist() == list(range(7))


def test_nothing_to_learn_and_nothing_at_all_still_take_part():
    batch = packed([(5, 0), (6, 0)])
    for tensors in (flat(batch, only_rows(batch)), flat(batch, ())):
        assert tensors["kept"].tolist() == [0] and tensors["input_ids"].shape == (1, 2)
        assert not tensors["source"].any() and not tensors["target"].any()


@st.composite
def packed_batches(draw):
    pairs = st.tuples(st.integers(0, VOCABULARY - 1), st.integers(0, 1))
    samples = draw(st.lists(st.lists(pairs, min_size=1, max_size=12), min_size=1, max_size=9))
    samples = [[(tokens[0][0], 0), *tokens[1:]] for tokens in samples]
    return packed(*samples, row_tokens=draw(st.integers(1, 40)), budget=draw(st.integers(1, 80)),
                  world_size=draw(st.integers(1, 3)))


@settings(max_examples=60, deadline=None)
@given(packed_batches())
def test_either_layout_of_a_packed_row_shows_each_token_its_own_sample_only(batch):
    starts, seen = np.concatenate([[0], np.cumsum(batch.lengths)]), []
    for rows in (rows for rank in batch.micro_batches for rows in rank if rows):
        tensors, one = padded(batch, rows), flat(batch, rows)
        masks = allowed(tensors["attention_mask"])
        states = np.stack([toy_states(*x) for x in zip(tensors["input_ids"], tensors["position_ids"], masks)]).ravel()
        order = [i for row in rows for i in row]
        buckets = [b for count, width in one["buckets"].tolist() for b in [width] * count]
        ends = np.cumsum([0, *buckets])
        begin = 0
        for n, i in enumerate(order):
            tokens = batch.tokens[starts[i] : starts[i + 1]]
            mask = batch.fields["mask"][starts[i] : starts[i + 1]] > 0
            alone = toy_states(tokens, np.arange(len(tokens)), np.tril(np.ones((len(tokens), len(tokens)), bool)))
            np.testing.assert_array_equal(states[tensors["source"][n, 1 : len(tokens)]], alone[:-1])
            places = begin + np.arange(len(tokens))
            np.testing.assert_array_equal(one["input_ids"][0, places], tokens)
            np.testing.assert_array_equal(one["position_ids"][0, places], np.arange(len(tokens)))
            # in its bucket: alone in a row, in order, the padding behind it
            where = one["scatter"][places]
            assert (np.diff(where) == 1).all() and where[0] in ends
            np.testing.assert_array_equal(one["gather"][where], places)
            width = buckets[int(np.searchsorted(ends, where[0]))]
            assert BUCKET * width <= len(tokens) <= width
            for t in np.flatnonzero(mask):
                assert one["kept"][one["source"][n, t]] == places[t] - 1 and one["target"][n, t] == tokens[t]
            begin += len(tokens)
        assert one["input_ids"].shape[1] == begin and len(one["gather"]) == ends[-1]
        seen += order
    assert sorted(seen) == list(range(len(batch.lengths)))
