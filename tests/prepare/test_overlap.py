"""Shared runs of words, against the plain definition."""

from __future__ import annotations

import random

import pytest

from rl.prepare.overlap import COMMON, Overlap, words_of


def overlap(n: int, sets: dict[str, list[str]]) -> Overlap:
    made = Overlap(n)
    for name, questions in sets.items():
        for question in questions:
            made.add(name, question)
    return made.build()


def plainly(n: int, evaluation: list[str], text: str) -> bool:
    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    return any(runs(words_of(text)) & runs(words_of(question)) for question in evaluation)


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_the_definition_says(seed):
    rng = random.Random(seed)
    n, words = rng.choice([3, 5, 8]), "a b c d e f g h".split()

    def text(longest: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(n, longest)))

    evaluation = [text(n + 6) for _ in range(3)]
    questions = [text(30) if rng.random() < 0.9 else "a" for _ in range(200)]
    hits = overlap(n, {"e": evaluation}).hits(questions)
    assert [hit.row for hit in hits] == [i for i, q in enumerate(questions) if plainly(n, evaluation, q)]
    for hit in hits:
        (name, number), = hit.sets
        assert name == "e" and hit.words in " ".join(words_of(evaluation[number - 1]))
        assert hit.words in " ".join(words_of(questions[hit.row])) and len(hit.words.split()) == n


def test_runs_do_not_reach_over_two_questions():
    assert overlap(4, {"e": ["one two three four"]}).hits(["x one two", "three four y"]) == []


def test_case_and_punctuation_do_not_hide_a_question():
    made = overlap(5, {"e": ["Find the Sum, of all primes below $100$."]})
    assert [hit.row for hit in made.hits(["so: find THE sum of all PRIMES!", "find the product of all primes"])] == [0]


def test_short_questions_count_as_a_whole_with_their_signs():
    made = overlap(13, {"e": ["What is 3 + 4?"]})
    assert [hit.row for hit in made.hits(["what is 3+4?", "What is 3 - 4?", "What is 3 + 4? Think.", ""])] == [0]


def test_the_wording_of_a_task_is_no_leak():
    task = "please answer with the letter of the one best option"
    few, many = ([f"{word} {task}" for word in words] for words in ("abcd"[:COMMON], "abcdefgh"))
    assert len(overlap(8, {"e": few}).hits([f"z {task}"])) == 1
    made = overlap(8, {"e": many})
    assert made.hits([f"z {task}"]) == [] and made.common > 0
    assert len(made.hits([f"z a {task}"])) == 1  # with its first word it is that question's own
    repeated = overlap(8, {"e": [f"a {task}"] * 9, "f": [f"a {task}"]})  # one question, however often it stands there
    assert repeated.hits([f"z {task}"])[0].sets == (("e", 1), ("f", 1))


def test_one_question_in_many_sets_with_other_instructions_still_counts():
    asked = "how many primes lie between one hundred and two hundred"
    made = overlap(8, {f"set {i}": [f"{asked}? instructions of kind {i}"] for i in range(3 * COMMON)})
    (hit,) = made.hits([f"Tell me: {asked}!"])
    assert made.common == 0 and hit.words == " ".join(asked.split()[:8])


def test_characters_of_chinese_are_words():
    made = overlap(5, {"e": ["小明有三个苹果和两个梨"]})
    assert [hit.row for hit in made.hits(["问：小明有三个苹果。", "小红有三个桃子"])] == [0]


def test_nothing_to_compare_with():
    assert overlap(13, {}).hits(["anything"]) == [] and len(overlap(13, {})) == 0
