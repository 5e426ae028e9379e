"""The generated pairs are what they say, and the figures of `benchmarks.verify` are those of the rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors import checkers
from benchmarks import verify
from benchmarks.math_pairs import ADVERSARIAL, REGULAR, Pair, pairs, read


@pytest.mark.parametrize("adversarial", [False, True])
def test_our_checker_agrees_with_every_label(adversarial: bool) -> None:
    drawn = list(pairs(5, 170, adversarial))
    judged = [checkers.check(verify.problem_of(pair), pair.text).status == "correct" for pair in drawn]
    assert [pair for pair, right in zip(drawn, judged, strict=True) if right != pair.equal] == []


def test_a_seed_gives_the_same_pairs_of_all_kinds_and_both_labels() -> None:
    drawn = list(pairs(0, 40 * len(REGULAR)))
    assert drawn == list(pairs(0, len(drawn))) and drawn != list(pairs(1, len(drawn)))
    assert {(pair.kind, pair.equal) for pair in drawn} == {(kind, equal) for kind in REGULAR for equal in (True, False)}
    assert not any(pair.adversarial for pair in drawn)
    hostile = list(pairs(0, 40 * len(ADVERSARIAL), adversarial=True))
    assert {pair.kind for pair in hostile} == set(ADVERSARIAL) and all(pair.adversarial for pair in hostile)


def test_a_file_of_pairs_is_read(tmp_path: Path) -> None:
    rows = [{"gold": "7", "answer": "x=7", "equal": True, "kind": "integer", "more": 1},
            {"gold": "7", "answer": "so \\boxed{8}", "equal": False, "kind": "adv_response"}]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read(path)
    assert first == Pair("7", "x=7", True, "integer") and first.text == r"\boxed{x=7}"
    assert second.text == "so \\boxed{8}" and second.adversarial


def test_a_ratio_is_the_median_over_rounds() -> None:
    seconds = {"checker": [1.0, 2.0, 1.0], "math-verify": [10.0, 60.0, 12.0], "verl math_dapo": [1.0, 1.0, 1.0]}
    figures = verify.summary(seconds, 0.12345, 81.6)
    assert figures == {"math_verify_ratio": 12.0, "verl_ratio": None, "worst_s": 0.123, "rss_mb": 82}


def test_agreement_counts_right_ones_and_false_positives() -> None:
    known = [Pair("1", "1", True, "k"), Pair("1", "2", False, "k"), Pair("1", "3", False, "k")]
    assert verify.agreement(known, [True, True, False]) == "   2 of 3 right,  1 false positives"


def test_the_rows_of_the_long_run_are_mostly_new_ones() -> None:
    known = list(pairs(0, 10))
    rows = verify.rows_of(known, 400)
    assert len(rows) == 400 and set(known) <= set(rows) and len(set(rows)) > 150
