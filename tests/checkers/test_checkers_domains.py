"""Science, logic, simulation, tables, reasoning_gym, and the way to them."""

from __future__ import annotations

import json

import pytest
from checker_problems import problem

from actors import checkers
from actors.checkers import code, gym, judge, logic, math, science, simulation, tabular
from actors.checkers.routes import UnknownSource, route

ORDER = ["ann", "bob", "cy"]
ZEBRA = {"header": ["Position", "Name"], "rows": [["1", "Ann"], ["2", "Bob"]]}

CASES = [
    ("stem__starter", "42 m", "42 m", 1), ("stem__starter", "42 m", "42", 1), ("stem__starter", "42 m", "42 s", 0),
    ("stem__starter", "42 m", "41 m", 0), ("stem__starter", "42 m", r"42\text{ m}", 1),
    ("stem__starter", "42 m", "0.042 km", 1), ("stem__starter", "42 m/s", "42 m", 0),
    ("stem__starter", "6 N", "6 kg m/s^2", 1),
    ("stem__starter", "42 m", "42 m or 43 m", 0), ("stem__starter", "C", "C", 1), ("stem__starter", "C", "(C)", 1),
    ("stem__starter", "C", "C. 42 m", 1), ("stem__starter", "C", r"\textbf{(C)}", 1), ("stem__starter", "C", "B", 0),
    ("stem__starter", "C", "B or C", 0), ("stem__starter", "C", "(A) (B) (C) (D)", 0),
    ("stem__starter", "C", "whatever", 0),
    ("stem__starter", "C", "ABCD", 0), ("stem__supergpqa", "J", "The answer is J", 1),
    ("stem_web", r"\frac12", "0.5", 1),
    ("logic__starter", ORDER, "Ann, Bob, Cy", 1), ("logic__starter", ORDER, "['ann', 'bob', 'cy']", 1),
    ("logic__starter", ORDER, '["ann","bob","cy"]', 1), ("logic__starter", ORDER, "ann, cy, bob", 0),
    ("logic__starter", ORDER, "ann, bob", 0), ("logic__starter", ORDER, "ann, bob, cy, cy", 0),
    ("ordering_puzzle_dataset", ORDER, "__import__('os').system('true')", 0),
    ("logic__graph_logical_dataset", "fdebme", " FDebme ", 1), ("graph_logical_dataset", "fdebme", "abc", 0),
    ("simulation__arcagi1", [[1, 2], [3, 4]], "[[1, 2], [3, 4]]", 1), ("simulation__barc", [[1, 2]], "[\n [1,2]\n]", 1),
    ("logic__arcagi2", [[1, 2], [3, 4]], "[[1, 2], [3, 5]]", 0), ("arcagi1", [[1, 0]], "[[True, False]]", 0),
    ("simulation__arcagi1", [[1]], "[[" + "[" * 5000, 0),
    ("simulation__starter", '"output": 7', '{"output": 7}', 1), ("simulation__starter", '"output": 7', "7", 1),
    ("simulation__starter", '"output": 7', '"output": 7', 1), ("simulation__starter", '"output": 7', '"7"', 0),
    ("simulation__starter", '"output": 7', '{"result": 7}', 0),
    ("simulation__codeio", '"output": true', '{"output": "true"}', 0),
    ("simulation__codeio", '"output": true', "1", 0), ("simulation__codeio", '"output": null', "not json", 0),
    ("simulation__codeio", '"output": [1, {"a": 2.5}]', "{'output': (1, {'a': 2.5})}", 1),
    ("simulation__codeio", '"input": {"x": 1}', '{"input": {"x": 1}}', 1),
    ("simulation__codeio", '"output": 2', "2.0", 0),
    ("table__starter", "7", "7", 1), ("table__hitab", "1234", "1,234", 1), ("table__hitab", "1234.5", r"\$1,234.5", 1),
    ("table__multihier", "a|b", "b|a", 1), ("table__multihier", "a|b", "b, a", 1),
    ("table__multihier", "a|b", "a|a", 0),
    ("table__multihier", "a|b", "a|b|c", 0), ("table__hitab", "united states", r"\text{United States}", 1),
    ("table__hitab", "1000", "1000.5", 0), ("table__hitab", "12.5", "12.5%", 1), ("table__hitab", "7", "8", 0),
    ("table__finqa", 0.125, "0.125", 1),
]  # fmt: skip


@pytest.mark.parametrize(("source", "truth", "answer", "right"), CASES, ids=range(len(CASES)))
def test_answers(source: str, truth: object, answer: str, right: int) -> None:
    verdict = checkers.check(problem(source, truth), f"<think>so</think><answer>{answer}</answer>")
    assert (verdict.status, verdict.score) == ("correct" if right else "incorrect", float(right))


@pytest.mark.parametrize(
    ("rows", "score"),
    [
        ([["1", "Ann"], ["2", "Bob"]], 1.0),
        ([[1, "ann"], [2, "bob"]], 1.0),
        ([["1", "Ann"], ["2", "Ann"]], 0.75),
        ([["1", "Ann"]], 0.5),
        ([["1", "Ann"], ["2", "Bob"], ["3", "Cy"]], 0.75),
        ([], 0.0),
        (["1", 7], 0.0),
    ],
)
def test_zebra_scores_cells(rows: list, score: float) -> None:
    said = json.dumps({"header": ["Position", "Name"], "rows": rows})
    verdict = checkers.check(problem("logic__zebra_puzzle_dataset", ZEBRA), f"<answer>{said}</answer>")
    assert verdict.score == pytest.approx(score)
    assert verdict.status == ("correct" if score == 1.0 else "incorrect")


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("math__merged_deduped_dapo_or1_dataset", math.check), ("math__aime_repeated_8x", math.check),
        ("codegen__leetcode2k", code.check), ("codegen__starter", code.check), ("stem_web", judge.check),
        ("stem__web", judge.check), ("stem__gpqa_diamond", science.check),
        ("logic__zebra_puzzle_dataset", logic.check),
        ("zebra_puzzle_dataset", logic.check), ("simulation__arcagi2", logic.check), ("logic__barc", logic.check),
        ("simulation__codeio", simulation.check), ("simulation__starter", simulation.check),
        ("table__hitab", tabular.check),
        ("reasoning_gym", gym.check), ("math__starter", math.check), ("logic__starter", logic.check),
    ],
)  # fmt: skip
def test_routes(source: str, check: object) -> None:
    assert route(source) is check


def test_an_unknown_source_names_the_closest() -> None:
    with pytest.raises(UnknownSource, match="did you mean 'codegen__taco'"):
        route("codgen__taco")
    verdict = checkers.check(problem("codgen__taco", "1"), "<answer>1</answer>")
    assert verdict.status == "error" and verdict.score == 0.0


def test_a_failing_checker_is_an_error() -> None:
    verdict = checkers.check(problem("codegen__taco", {"neither": 1}), "<answer>print(1)</answer>")
    assert verdict.status == "error" and "BadTruth" in verdict.reason


@pytest.mark.parametrize(
    ("task", "answer", "harmless"),
    [
        ("countdown", "(3 + 4) * 2", True), ("countdown", "__import__('os')", False), ("countdown", "x.y()", False),
        ("puzzle24", "9**99999999", False), ("polynomial_multiplication", "x**2 + 3*x*y", True),
        ("spiral_matrix", "1 2 3", True), ("spiral_matrix", "[1, 2, 3]", True), ("spiral_matrix", "[exit()]", False),
        ("n_queens", "print(1)", False), ("chain_sum", "anything(at all)", True),
    ],
)  # fmt: skip
def test_gym_shows_evaluating_scorers_only_plain_answers(task: str, answer: str, harmless: bool) -> None:
    assert gym._harmless(task, answer) is harmless


def test_gym_scores_by_the_library() -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]
    stored = json.dumps({"answer": entry["answer"], "metadata": entry["metadata"]}, default=str)
    asked = problem("reasoning_gym", entry["answer"], entry["question"], task="chain_sum", entry=stored)
    assert checkers.check(asked, f"<answer>{entry['answer']}</answer>").status == "correct"
    assert checkers.check(asked, "<answer>-1</answer>").status == "incorrect"
