"""Slips: what they may change, how often, and what they do to an answer."""

from __future__ import annotations

import random

import pytest

from rl.problems.starter import FAMILIES
from rl.problems.starter.corpus import SLIP_RATES, p_right
from rl.problems.starter.slip import Slip


def test_no_slip_changes_nothing_and_counts_calls() -> None:
    slip = Slip.none()
    assert [slip.number(n) for n in range(50)] == list(range(50))
    assert slip.pick("a", "abc") == "a"
    assert (slip.calls, slip.made) == (51, 0)


@pytest.mark.parametrize("value", [0, 1, 7, 10, 34, 99, 120, -5, -34])
def test_a_certain_slip_is_near_and_never_equal(value: int) -> None:
    slip = Slip(random.Random(1), 1.0)
    wrong = {slip.number(value) for _ in range(200)}
    assert value not in wrong
    assert len(wrong) >= 3
    assert all(abs(w - value) <= 10 or sorted(str(abs(w)).zfill(3)) == sorted(str(abs(value)).zfill(3)) for w in wrong)
    assert slip.made == 200
    if value >= 0:
        assert min(wrong) >= 0


def test_a_slip_keeps_to_its_range() -> None:
    slip = Slip(random.Random(1), 1.0)
    assert {slip.number(8, high=9) for _ in range(100)} == {6, 7, 9}
    assert slip.number(3, low=3, high=3) == 3
    assert {slip.pick("b", ["a", "b", "c"]) for _ in range(50)} == {"a", "c"}
    made = slip.made
    assert slip.pick("b", ["b"]) == "b"
    assert slip.made == made


def test_the_rate_is_the_share_of_slips() -> None:
    slip = Slip(random.Random(2), 0.2)
    for _ in range(5000):
        slip.number(34)
    assert 0.18 < slip.made / 5000 < 0.22


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Slip(random.Random(0), rate)


@pytest.mark.parametrize("domain", FAMILIES)
def test_slips_change_the_answer_most_of_the_time(domain: str) -> None:
    family, rng = FAMILIES[domain], random.Random(f"slips/{domain}")
    slipped = changed = 0
    for _ in range(400):
        instance = family.generate(rng)
        clean = family.solve(instance, Slip.none())
        slip = Slip(rng, 0.2)
        solution = family.solve(instance, slip)
        assert solution.plan == clean.plan
        assert solution.answer.strip()
        if slip.made:
            slipped += 1
            changed += solution.answer != clean.answer
        else:
            assert solution == clean
    assert slipped > 100
    assert changed / slipped > 0.75


@pytest.mark.parametrize("domain", FAMILIES)
def test_default_rates_leave_a_good_third_of_the_traces_wrong(domain: str) -> None:
    assert 0.5 <= p_right(domain, SLIP_RATES[domain], count=2500, seed=11) <= 0.75
