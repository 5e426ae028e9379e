"""Which problems come again, how long their answers may be, and the same stream after a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Completion, Problem, RolloutGroup, Verdict
from conf.errors import UserError
from conf.load import load
from conf.schema import CurriculumConfig
from rl.curriculum import STRONG, WEAK, Curriculum, Record, by_published_rates, length_budget, record_of, select
from rl.problems.schema import write_jsonl
from rl.source import Source

MOST = 1000


def problem(number: int, source: str = "math__made", **rates: float) -> Problem:
    return Problem(f"{source}:{number}", ({"role": "user", "content": f"{number}?"},), source, "math", "1", rates)


def group(asked: Problem, *results: tuple[str, int]) -> RolloutGroup:
    """Completions of (status, tokens)."""
    completions = tuple(
        Completion("", np.zeros(n, np.int32), np.zeros(n, np.float32), "stop", 0, 0) for _, n in results)
    verdicts = tuple(Verdict(status, float(status == "correct")) for status, _ in results)
    return RolloutGroup(0, asked, np.zeros(1, np.int32), completions, verdicts)


def curriculum(count: int = 10, **keys) -> Curriculum:
    return Curriculum([problem(i) for i in range(count)], CurriculumConfig(**keys), MOST, seed=1)


def epoch_of(c: Curriculum) -> list[Problem]:
    return [c.next() for _ in range(len(c._order))]


# --- pass rates ---------------------------------------------------------------------------------------------------


def test_a_record_counts_verdicts_and_not_failures():
    record = record_of(group(problem(0), ("correct", 30), ("correct", 50), ("incorrect", 99), ("error", 70)))
    assert record == Record(3, 2, 50, 80) and record.rate == pytest.approx(2 / 3)
    assert record_of(group(problem(0), ("error", 1), ("error", 2))) is None


def test_the_last_time_counts_and_metrics_tell_the_shares():
    c = curriculum(4)
    c.record([group(problem(0), ("incorrect", 5)), group(problem(1), ("correct", 5))])
    metrics = c.record([group(problem(0), ("correct", 5)), group(problem(2), ("correct", 5), ("incorrect", 5)),
                        group(problem(3), ("error", 5)), group(problem(99), ("correct", 5))])
    assert metrics == {"curriculum/epoch": 0, "curriculum/problems": 4, "curriculum/solved": 2 / 3,
                       "curriculum/unsolved": 0.0}


# --- published rates ----------------------------------------------------------------------------------------------


def test_gurus_filter_leaves_out_what_it_was_meant_to():
    rates = [(0.0, 0.0), (0.5, 0.1), (1.0, 0.9), (1.0, 0.89), (1e-5, 0.0), (0.1, 0.0)]
    problems = [problem(i, **{STRONG: s, WEAK: w}) for i, (s, w) in enumerate(rates)] + [problem(6)]
    kept = by_published_rates(problems, CurriculumConfig(strong_above=1e-5, weak_below=0.9))
    assert [p.id.split(":")[1] for p in kept] == ["1", "3", "5", "6"]
    assert by_published_rates(problems, CurriculumConfig()) == problems


def test_a_set_that_was_never_measured_is_kept():
    zebra = [problem(i, "logic__zebra", **{STRONG: 0.0}) for i in range(3)]
    measured = [problem(i, **{STRONG: i / 4}) for i in range(3)]
    assert by_published_rates(zebra + measured, CurriculumConfig(strong_above=0.3)) == [*zebra, measured[2]]


@pytest.mark.parametrize("keys,column", [({"strong_above": 0.0}, STRONG), ({"weak_below": 0.9}, WEAK)])
def test_a_filter_without_rates_is_refused_instead_of_leaving_all_in(keys, column):
    with pytest.raises(UserError, match=f"needs the column {column}"):
        by_published_rates([problem(0), problem(1)], CurriculumConfig(**keys))


def test_a_filter_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="leave no problem"):
        by_published_rates([problem(0, **{STRONG: 0.5})], CurriculumConfig(strong_above=0.6))


# --- what an epoch asks -------------------------------------------------------------------------------------------


def test_always_and_never_solved_problems_stay_up_to_a_share():
    rates = [1.0] * 30 + [0.0] * 30 + [0.5] * 15 + [None] * 5
    kept = select(rates, 0.05, 0.2, "s")
    counts = [sum(rates[i] == rate for i in kept) for rate in (1.0, 0.0, 0.5, None)]
    assert counts == [1, 4, 15, 5] and len(set(kept)) == len(kept)
    assert sorted(select(rates, -1, -1, "s")) == list(range(80))
    assert sum(rates[i] == 1.0 for i in select(rates, 0, -1, "s")) == 0
    assert select(rates, 0.05, 0.2, "s") == kept != select(rates, 0.05, 0.2, "t")


def test_where_nothing_would_be_left_everything_is():
    assert sorted(select([1.0, 1.0, 0.0], 0, 0, "s")) == [0, 1, 2]


def test_solved_problems_are_dropped_from_the_next_epoch_on():
    c = curriculum(6, easy=0)
    first = epoch_of(c)
    c.record([group(p, ("correct", 9), ("correct" if i < 2 else "incorrect", 9)) for i, p in enumerate(first)])
    assert {c.next().id for _ in range(4)} == {p.id for p in first[2:]} and c.epoch == 1
    assert c.next() and c.epoch == 2


def test_before_the_first_epoch_the_strong_models_rate_decides():
    problems = [problem(i, **{STRONG: rate}) for i, rate in enumerate((0.0, 0.5, 1.0))]
    c = Curriculum(problems, CurriculumConfig(easy=0, hard=0), MOST, seed=1)
    assert [c.next().id, c.next().id] == ["math__made:1"] * 2


# --- length budgets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record,budget", [
    (None, 750),  # never seen: three quarters
    (Record(8, 0, 0, 0), 1000),  # never solved: everything
    (Record(8, 4, 200, 600), 600),  # half of the way from its longest solved answer to the limit
    (Record(8, 8, 400, 2400), 480),  # mastered: its longest and a fifth
    (Record(8, 8, 20, 160), 100),  # never below the least
    (Record(8, 8, 990, 7000), 1000),
])
def test_budgets_by_hand(record, budget):
    assert length_budget(record, 100, MOST) == budget


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.data())
def test_a_budget_lets_every_solved_length_through_and_stays_within_its_bounds(tries, data):
    solved, longest = data.draw(st.integers(1, tries)), data.draw(st.integers(1, MOST))
    assert longest <= length_budget(Record(tries, solved, longest, longest * solved), 50, MOST) <= MOST


def test_short_problems_come_first_with_their_budgets():
    c = curriculum(3, min_budget=100, order="short_first")
    assert {p.max_tokens for p in epoch_of(c)} == {750}
    lengths = {0: 300, 1: 10, 2: 500}
    c.record([group(problem(i), ("correct", n), ("correct", n)) for i, n in lengths.items()])
    assert [(p.id[-1], p.max_tokens) for p in (c.next(), c.next(), c.next())] == [("1", 100), ("0", 360), ("2", 600)]
    assert curriculum(2).next().max_tokens == 0


# --- restarts -----------------------------------------------------------------------------------------------------

ADAPTIVE = dict(easy=0.1, hard=0.2, min_budget=100, order="short_first")


@pytest.mark.parametrize("keys", [{}, ADAPTIVE], ids=["plain", "adaptive"])
@pytest.mark.parametrize("asked", [0, 3, 20, 33])
def test_a_restored_stream_goes_on_as_the_unbroken_one(keys, asked):
    def step(c: Curriculum) -> tuple[str, int]:
        p = c.next()
        solved = hash_free(p.id) % 4
        c.record([group(p, *[("correct" if k < solved else "incorrect", 10 + solved * k) for k in range(3)])])
        return p.id, p.max_tokens

    whole = curriculum(20, **keys)
    unbroken = [step(whole) for _ in range(80)]
    broken = curriculum(20, **keys)
    begun = [step(broken) for _ in range(asked)]
    again = curriculum(20, **keys)
    again.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    assert begun + [step(again) for _ in range(80 - asked)] == unbroken
    assert again.state_dict() == whole.state_dict()


def hash_free(text: str) -> int:
    """A number of a text that is the same in every process."""
    return sum(text.encode())


def test_the_source_asks_by_the_curriculum_and_saves_it(tmp_path):
    rows = [{"data_source": "math__made", "prompt": [{"role": "user", "content": f"{i}?"}], "ability": "math",
             "reward_model": {"style": "rule", "ground_truth": "1"}, "extra_info": {"index": i},
             STRONG: 0.2 * i, WEAK: 0.1 * i} for i in range(6)]
    write_jsonl(rows, tmp_path / "train.jsonl")
    cfg = load(["data.source=files", f"data.train=[{tmp_path}/train.jsonl]", "curriculum.strong_above=0.1",
                "curriculum.weak_below=0.5", "curriculum.easy=0", "curriculum.min_budget=8"])
    source = Source(cfg)
    first = source.take(4)
    assert {p.id[-1] for p in first} == {"1", "2", "3", "4"} and {p.max_tokens for p in first} == {72}
    solved = {p.id for p in first[:3]}
    metrics = source.record([group(p, ("correct", 9), ("correct" if p.id in solved else "incorrect", 9))
                             for p in first])
    assert metrics["curriculum/solved"] == 0.75
    state = json.loads(json.dumps(source.state_dict()))
    again = Source(cfg)
    again.load_state_dict(state)
    after = source.take(3)
    assert {p.id for p in after} == {first[3].id} and again.take(3) == after
    assert again.state_dict() == source.state_dict() and source.position == 7
