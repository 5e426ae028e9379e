"""Batches of mode=sft: every dialogue as often as asked, the same after a restart, over-long ones counted, not cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import UserError
from conf.load import load
from rl.packing import packed_rows
from rl.sft_data import StarterSource, batch_ends, open_source, shuffled, validation_problems

# No engine, but a tokenizer: transformers takes longer to import than all pure tests take to run.
pytestmark = pytest.mark.engine
QUICK = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained("assets/starter")


def write(path, count, words=lambda i: 1 + i % 5, start=0):
    def row(i):
        turns = {"user": f"{i}", "assistant": f"{i}" + " and" * words(i)}
        return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}

    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(start, start + count)))
    return str(path)


def config(tmp_path, *words, files=None, count=40):
    files = files or [write(tmp_path / "train.jsonl", count)]
    return load(["mode=sft", "data=files", f"data.train=[{','.join(files)}]", f"run.dir={tmp_path / 'runs'}",
                 "learner.warmup_steps=0", "sft.context=64", "sft.batch_tokens=256", *words])


def numbers(tokenizer, batches):
    """The question's number of each sample, batch by batch."""
    def question(sample):
        return int(tokenizer.decode(sample["tokens"]).partition("user\n")[2].partition("<|im_end|>")[0])

    return [[question(sample) for sample in rows] for rows in batches]


# --- order and cut ------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 40))
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(sizes, window):
    orders = [shuffled(sizes, 1, epoch, window).tolist() for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(sum(sizes))) == sorted(orders[1])
    assert orders[0] == orders[2]


def test_the_order_depends_on_seed_and_epoch():
    orders = {tuple(shuffled([256] * 4, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_rows_are_shuffled_within_windows_of_whole_blocks():
    order = shuffled([10] * 100, 0, 0, window=30)
    for start in range(0, 1000, 30):
        assert len({row // 10 for row in order[start : start + 30]}) <= 3  # so few blocks are open at a time
    assert (np.diff(order) == 1).mean() < 0.1


@QUICK
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 5), st.booleans())
def test_batches_hold_what_packs_into_their_rows(lengths, rows, whole):
    ends = batch_ends(lengths, rows, 20, whole)
    begins = [0, *ends]
    for begin, end in zip(begins, ends):
        assert begin < end and len(packed_rows(lengths[begin:end], 20)) <= rows
        if end < len(lengths):
            assert sum(lengths[begin : end + 1]) > rows * 20 or len(packed_rows(lengths[begin : end + 1], 20)) > rows
    assert not whole or ends[-1] == len(lengths)


# --- sources ------------------------------------------------------------------------------------------------------


def test_epochs_go_through_every_dialogue_and_take_the_rest_too(tmp_path, tokenizer):
    source = open_source(config(tmp_path, "sft.epochs=3"), tokenizer)
    found = numbers(tokenizer, source.batches(0))
    assert len(found) == source.steps
    flat = [n for batch in found for n in batch]
    for epoch in range(3):
        assert sorted(flat[40 * epoch : 40 * (epoch + 1)]) == list(range(40))
    assert flat[:40] != flat[40:80] and flat[:40] != list(range(40))
    assert all(len(packed_rows([len(s["tokens"]) for s in rows], 64)) <= 4 for rows in source.batches(0))


def test_steps_go_on_over_as_many_epochs_as_they_need(tmp_path, tokenizer):
    source = open_source(config(tmp_path, "sft.steps=23"), tokenizer)
    found = numbers(tokenizer, source.batches(0))
    assert source.steps == len(found) == 23
    assert sorted([n for batch in found for n in batch][:40]) == list(range(40))


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_restart_goes_on_with_the_batches_that_were_to_come(tmp_path, tokenizer, start):
    cfg = config(tmp_path, "sft.epochs=2")
    whole = list(open_source(cfg, tokenizer).batches(0))
    rest = list(open_source(cfg, tokenizer).batches(start))
    assert len(rest) == len(whole) - start > 0
    for ours, theirs in zip(whole[start:], rest):
        assert [s["tokens"].tolist() for s in ours] == [s["tokens"].tolist() for s in theirs]


def test_the_starters_stream_goes_on_too(tokenizer):
    cfg = load(["mode=sft", "sft.steps=5", "learner.warmup_steps=0", "sft.batch_tokens=300"])
    source = StarterSource(cfg, tokenizer)
    whole, rest = list(source.batches(0)), list(source.batches(3))
    assert len(whole) == 5 and [len(rows) for rows in rest] == [len(rows) for rows in whole[3:]]
    assert all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(whole[3] + whole[4], rest[0] + rest[1]))


def test_packing_does_not_change_what_a_step_learns_from(tmp_path, tokenizer):
    batches = [numbers(tokenizer, open_source(config(tmp_path, "sft.epochs=1", f"sft.packing={packing}"), tokenizer)
                       .batches(0)) for packing in ("true", "false")]
    assert batches[0] == batches[1]


def test_over_long_dialogues_are_left_out_and_counted_never_cut(tmp_path, tokenizer):
    files = [write(tmp_path / "a.jsonl", 20, lambda i: 100 if i % 4 == 0 else 2)]
    source = open_source(config(tmp_path, "sft.epochs=1", files=files), tokenizer)
    kept = [n for batch in numbers(tokenizer, source.batches(0)) for n in batch]
    assert sorted(kept) == [n for n in range(20) if n % 4]
    assert source.facts["left_out"] == {"longer than 64 tokens": 5, "broken rows": 0}
    assert source.facts["dialogues"] == 15 and source.facts["longest"] > 64
    for rows in source.batches(0):
        assert all(s["tokens"][-1] == tokenizer.eos_token_id and s["mask"][-1] == 1 for s in rows)


def test_broken_rows_are_refused_or_counted(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", 20)
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + '{"messages": []}\n')
    with pytest.raises(UserError, match="row 21: column messages"):
        open_source(config(tmp_path, files=[path]), tokenizer)
    source = open_source(config(tmp_path, "data.on_bad_row=skip", files=[path]), tokenizer)
    assert source.facts["left_out"]["broken rows"] == 1 and "row 21" in source.facts["broken"][0]


def test_files_of_over_long_dialogues_only_are_refused_with_the_key_to_raise(tmp_path, tokenizer):
    files = [write(tmp_path / "a.jsonl", 3, lambda i: 200)]
    with pytest.raises(UserError, match="no dialogue of at most 64 tokens.*sft.context"):
        open_source(config(tmp_path, files=files), tokenizer)


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path, tokenizer):
    source = open_source(config(tmp_path, "sft.epochs=1"), tokenizer)
    write(tmp_path / "train.jsonl", 40, lambda i: 7)
    with pytest.raises(UserError, match="has changed since the run began"):
        list(source.batches(0))


def test_held_out_files_give_a_loss_or_problems_each_by_what_it_holds(tmp_path, tokenizer):
    held = write(tmp_path / "held.jsonl", 6, start=500)
    problem = {"data_source": "math__x", "prompt": [{"role": "user", "content": "1+1?"}],
               "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 0}}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    cfg = config(tmp_path, f"data.heldout=[{held},{tmp_path / 'problems.jsonl'}]", "sft.epochs=1")
    source = open_source(cfg, tokenizer)
    assert numbers(tokenizer, [source.validation()]) == [[500, 501, 502, 503, 504, 505]]
    assert source.facts["heldout"]["dialogues"] == 6
    assert [p.question for p in validation_problems(cfg)] == ["1+1?"]
    alone = config(tmp_path, "sft.epochs=1")
    assert open_source(alone, tokenizer).validation() == [] and validation_problems(alone) == []


def test_sources_without_worked_answers_are_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="data.source=starter and files, not reasoning_gym"):
        open_source(load(["mode=sft", "data=reasoning_gym"]), tokenizer)
