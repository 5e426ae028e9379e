"""The starter's splits and its corpus: deterministic, and never a held-out question in training."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from actors.messages import DOMAINS
from actors.prompts import PLAN_REQUEST, parse_plan
from conf.errors import UserError
from rl.problems.schema import problem_from_row
from rl.problems.starter import FAMILIES, is_heldout, make_problem, problems
from rl.problems.starter.corpus import SLIP_RATES, TURNS, sft_examples


def questions(*arguments) -> list[str]:
    return [row["prompt"][0]["content"] for row in problems(*arguments)]


def test_families_are_the_six_domains() -> None:
    assert tuple(FAMILIES) == DOMAINS == tuple(SLIP_RATES)


def test_rows_are_valid_and_in_turn() -> None:
    parsed = [problem_from_row(row) for row in problems("train", 1, 60)]
    assert [p.domain for p in parsed[:12]] == [*DOMAINS, *DOMAINS]
    assert len({p.id for p in parsed}) == 60
    for problem in parsed:
        assert problem.extra_info["family"] == problem.domain
        assert problem.extra_info["plan"] and problem.extra_info["kind"]


def test_same_seed_same_rows_and_other_seed_other_rows() -> None:
    assert list(problems("train", 1, 60)) == list(problems("train", 1, 60))
    assert questions("train", 1, 60) != questions("train", 2, 60)
    assert make_problem("math", random.Random(5)) == make_problem("math", random.Random(5))


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    assert list(problems("train", 1, 60))[:30] == list(problems("train", 1, 30))


def test_leaving_a_domain_out_does_not_change_the_others() -> None:
    every = [row for row in problems("heldout", 3, 24) if row["ability"] == "logic"]
    assert every == list(problems("heldout", 3, 4, ["logic"]))


def test_splits_share_no_question_and_no_prompt_repeats() -> None:
    train = [q for seed in (1, 2) for q in questions("train", seed, 900)]
    heldout = questions("heldout", 1, 600)
    assert not set(train) & set(heldout)
    assert not any(map(is_heldout, train)) and all(map(is_heldout, heldout))
    assert len(set(heldout)) == 600


def test_the_split_ignores_case_and_spaces() -> None:
    for question in questions("heldout", 1, 12):
        assert is_heldout("  " + question.upper().replace(" ", "  ") + "\n")


def test_unknown_split_and_domain_are_the_users_mistakes() -> None:
    with pytest.raises(UserError, match="train or heldout"):
        list(problems("test", 1, 1))
    with pytest.raises(UserError, match="'maths'.*math, code"):
        list(problems("train", 1, 1, ["maths"]))


def asked(example) -> str:
    """The question inside an example's user text."""
    text = example.messages[0]["content"].removesuffix("\n" + PLAN_REQUEST)
    return text.split("\nPlan: ")[0]


def test_corpus_holds_no_heldout_question() -> None:
    examples = list(itertools.islice(sft_examples(3), 1200))
    assert not any(is_heldout(asked(e)) for e in examples)
    assert [e.domain for e in examples[:8]] == list(TURNS)
    assert set(TURNS) == set(DOMAINS)


def test_corpus_is_deterministic() -> None:
    first, again = (list(itertools.islice(sft_examples(3), 120)) for _ in range(2))
    assert first == again
    assert first != list(itertools.islice(sft_examples(4), 120))


def test_corpus_has_three_shapes_in_their_shares() -> None:
    examples = list(itertools.islice(sft_examples(3), 3000))
    tasks = [e for e in examples if e.messages[0]["content"].endswith(PLAN_REQUEST)]
    given = [e for e in examples if "\nPlan: " in e.messages[0]["content"]]
    assert 0.045 < len(tasks) / 3000 < 0.075
    assert 0.08 < len(given) / 3000 < 0.12
    for example in tasks:
        reply = example.messages[-1]["content"]
        assert example.slips == 0 and reply == f"<plan>{parse_plan(reply).text}</plan>"
    for example in examples:
        assert [m["role"] for m in example.messages] == ["user", "assistant"]
        if example not in tasks:
            assert re.fullmatch(r"<think>.+</think><answer>.+</answer>", example.messages[-1]["content"], re.DOTALL)


def test_a_corpus_without_slips_is_clean() -> None:
    rates = dict.fromkeys(DOMAINS, 0.0)
    assert not any(e.slips for e in itertools.islice(sft_examples(3, rates), 300))
    assert any(e.slips for e in itertools.islice(sft_examples(3), 300))
