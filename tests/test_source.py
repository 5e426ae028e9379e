"""What is asked next: the same stream for the same configuration, from any position on."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from conf.errors import UserError
from conf.load import load
from rl import source as source_module
from rl.problems.schema import write_jsonl
from rl.problems.starter import is_heldout
from rl.source import Source, heldout

FILE_DOMAINS = ("math", "logic", "table")


def row(number: int, kind: str = "math") -> dict:
    return {
        "data_source": f"{kind}__made",
        "prompt": [{"role": "user", "content": f"{kind} question {number}"}],
        "ability": kind,
        "reward_model": {"style": "rule", "ground_truth": str(number)},
        "extra_info": {"index": number},
    }


def rows(count: int) -> list[dict]:
    return [row(i, FILE_DOMAINS[i % 3]) for i in range(count)]


@pytest.fixture
def files(tmp_path):
    """cfg from words, over a training file of 10 and a held-out file of 7 problems."""
    write_jsonl(rows(10), tmp_path / "train.jsonl")
    write_jsonl([row(100 + i, FILE_DOMAINS[i % 3]) for i in range(7)], tmp_path / "heldout.jsonl")

    def cfg(*words: str):
        return load(["data.source=files", f"data.train=[{tmp_path}/train.jsonl]",
                     f"data.heldout=[{tmp_path}/heldout.jsonl]", *words])

    return cfg


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """reasoning_gym's rows are generated a few at a time, so that streams cross from block to block."""
    monkeypatch.setattr(source_module, "GYM_BLOCK", 8)


def ids(problems) -> list[str]:
    return [p.id for p in problems]


GYM = ("data=reasoning_gym", "data.tasks=[chain_sum]")


# --- any source ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("data.domains=[math,logic]",), GYM], ids=["starter", "domains", "gym"])
def test_a_stream_goes_on_where_it_was_saved(words):
    cfg = load(list(words))
    source = Source(cfg)
    source.take(9)
    state = json.loads(json.dumps(source.state_dict()))
    after = source.take(6)
    again = Source(cfg)
    again.take(3)  # a position of its own is left
    again.load_state_dict(state)
    assert state == {"position": 9} and again.state_dict() == state
    assert again.take(6) == after and again.state_dict() == source.state_dict()


@pytest.mark.parametrize("words", [(), GYM], ids=["starter", "gym"])
def test_the_seed_decides_the_stream(words):
    first, same, other = (Source(load([*words, f"data.seed={seed}"])).take(12) for seed in (1, 1, 2))
    assert first == same and first != other
    assert len({p.question for p in first}) > 6


def test_reasoning_gym_does_not_begin_again_after_a_block():
    questions = [p.question for p in Source(load(list(GYM))).take(24)]
    assert len(set(questions)) == 24


def test_taking_in_other_portions_gives_the_same_stream():
    one, many = Source(load([])), Source(load([]))
    assert one.take(9) == many.take(4) + many.take(0) + many.take(5)


# --- the starter --------------------------------------------------------------------------------------------------


def test_the_starter_never_trains_on_a_heldout_problem():
    cfg = load([])
    training, evaluation = Source(cfg).take(60), heldout(cfg, 60, cfg.eval.seed)
    assert not {p.question for p in training} & {p.question for p in evaluation}
    assert all(is_heldout(p.question) for p in evaluation) and not any(is_heldout(p.question) for p in training)


@pytest.mark.parametrize("words", [(), GYM], ids=["starter", "gym"])
def test_heldout_problems_are_the_same_for_the_same_seed(words):
    cfg = load(list(words))
    assert heldout(cfg, 10, 7) == heldout(cfg, 10, 7) != heldout(cfg, 10, 8)
    assert len(heldout(cfg, 10, 7)) == 10


def test_only_the_chosen_domains_are_asked():
    cfg = load(["data.domains=[code,tabular]"])
    assert {p.domain for p in Source(cfg).take(20)} == {p.domain for p in heldout(cfg, 20, 7)} == {"code", "tabular"}


# --- files --------------------------------------------------------------------------------------------------------


def test_files_come_in_epochs_each_in_another_order(files):
    stream = Source(files()).take(40)
    epochs = [ids(stream[i : i + 10]) for i in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted(f"{FILE_DOMAINS[i % 3]}__made:{i}" for i in range(10)) for epoch in epochs)
    assert all(a != b for a, b in pairwise(epochs)) and epochs[0] != sorted(epochs[0])
    assert ids(Source(files()).take(40)) == ids(stream)
    assert ids(Source(files("data.seed=2")).take(10)) != epochs[0]


def test_a_position_beyond_the_first_epoch_is_found_again(files):
    source = Source(files())
    source.take(27)
    again = Source(files())
    again.load_state_dict(source.state_dict())
    assert ids(again.take(11)) == ids(source.take(11))


def test_files_are_filtered_by_domain(files):
    assert {p.domain for p in Source(files("data.domains=[logic]")).take(9)} == {"logic"}
    assert {p.domain for p in heldout(files("data.domains=[tabular]"), 9, 7)} == {"tabular"}


def test_heldout_files_give_what_they_have_in_an_order_of_the_seed(files):
    everything = ids(heldout(files(), 99, 7))
    assert len(everything) == len(set(everything)) == 7
    assert ids(heldout(files(), 3, 7)) == everything[:3]
    assert ids(heldout(files(), 99, 8)) != everything


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """A file whose second row has no ground truth."""
    bad = {**row(1), "reward_model": {"style": "rule"}}
    path = tmp_path / "broken.jsonl"
    write_jsonl([row(0), bad, row(2)], path)
    return path


def test_a_broken_row_is_refused_before_anything_starts(broken):
    with pytest.raises(UserError, match=r"broken\.jsonl.*reward_model"):
        Source(load(["data.source=files", f"data.train=[{broken}]"]))


def test_broken_rows_may_be_left_out_and_are_told(broken):
    source = Source(load(["data.source=files", f"data.train=[{broken}]", "data.on_bad_row=skip"]))
    assert sorted(ids(source.take(2))) == ["math__made:0", "math__made:2"]
    assert len(source.rejects) == 1 and "broken.jsonl" in source.rejects[0]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        Source(load(["data.source=files", f"data.train=[{tmp_path}/nothing.jsonl]"]))


def test_files_without_a_problem_of_the_domains_are_refused(files):
    with pytest.raises(UserError, match="data.train holds no problem of data.domains: give other files,? or leave"):
        Source(files("data.domains=[code]"))


def test_heldout_files_without_a_problem_of_the_domains_are_refused(files):
    with pytest.raises(UserError, match="data.heldout holds no problem"):
        heldout(files("data.domains=[code]"), 9, 7)


def test_files_must_be_named(files):
    cfg = files()
    cfg.data.heldout = []
    with pytest.raises(UserError, match=r"data.source=files needs data.heldout=\[FILE,\.\.\.\]"):
        heldout(cfg, 9, 7)


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_prepared_folder_stands_for_the_files_of_each_split(tmp_path):
    for name, numbers in (("train-00000-of-00002", (0, 1)), ("train-00001-of-00002", (2,)), ("heldout", (3,))):
        write_jsonl([row(number) for number in numbers], tmp_path / f"{name}.jsonl")
    (tmp_path / "card.json").write_text("{}")
    cfg = load(["data.source=files", f"data.train=[{tmp_path}]", f"data.heldout=[{tmp_path}]"])
    assert sorted(ids(Source(cfg).take(3))) == ["math__made:0", "math__made:1", "math__made:2"]
    assert ids(heldout(cfg, 9, 7)) == ["math__made:3"]


def test_a_folder_without_the_split_is_refused(tmp_path):
    write_jsonl([row(0)], tmp_path / "train.jsonl")
    cfg = load(["data.source=files", f"data.train=[{tmp_path}]", f"data.heldout=[{tmp_path}]"])
    with pytest.raises(UserError, match=r"data.heldout=.* holds no heldout\*.parquet .*it holds train.jsonl"):
        heldout(cfg, 9, 7)
