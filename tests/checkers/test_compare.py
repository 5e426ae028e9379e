"""Answers of one question compared without a ground truth: what is read, what is equal, what programs do."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from actors.checkers import wire
from actors.checkers.behaviour import Behaviour, agreement, observe
from actors.checkers.compare import Answer, answer_of, by_spelling, compare, domain_of, equivalent
from actors.checkers.examples import CallTest, ProgramTest, function_name, public_tests
from actors.checkers.tools import Tools
from actors.messages import Comparison
from actors.sandbox.process import run
from actors.sandbox.result import RunResult
from actors.verifier import Unanswered, Verifier, VerifierPool, WorkerDied
from rl.problems.starter import FAMILIES
from rl.problems.starter.slip import Slip

TOOLS = Tools(run, code_timeout_s=3, code_budget_s=6)


def fenced(*programs: str) -> list[str]:
    return [f"<think>t</think>\n```python\n{program}\n```" for program in programs]


def in_process(code: str, stdin: str = "", **options: Any) -> RunResult:
    """The sandbox's contract for the programs of these tests, without a process: they are ours."""
    namespace: dict[str, Any] = {
        "input": lambda: stdin.strip(),
        "print": lambda *a: printed.append(" ".join(map(str, a))),
    }
    printed: list[str] = []
    returned, errors = {}, {}
    try:
        exec(code, namespace)
    except Exception as failure:
        return RunResult("error", 1, b"", f"{type(failure).__name__}: {failure}".encode(), 0.0)
    for index, args in enumerate(options.get("args") or ()):
        try:
            value = namespace[options["function"]](*args)
            returned[index] = list(value) if isinstance(value, tuple) else value
        except Exception as failure:
            errors[index] = f"{type(failure).__name__}: {failure}"
    return RunResult("ok", 0, "\n".join(printed).encode(), b"", 0.0, returned, errors)


FAST = Tools(in_process)

# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>3</think><answer>42</answer>", "42"),
        ("It follows that \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("<answer>so \\boxed{7}</answer>", "7"),
        ("The answer is 42.", "42"),
        ("We add.\nThe final answer is: **3.5 m**. Done.", "3.5 m"),
        ('```json\n{"output": 3}\n```', '{"output": 3}'),
        ("Paris", "Paris"),
        ("<think>never ends", None),
        ("\\boxed{3} or \\boxed{5}", None),
        ("<answer></answer>", None),
        ("", None),
        ("a long text\n" * 20, None),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    assert answer_of(text) == (answer and Answer(None, answer))


def test_the_answer_to_a_programming_question_is_its_program() -> None:
    assert answer_of(fenced("def f(): pass")[0], "code") == Answer("code", "def f(): pass")
    assert answer_of("The answer is 42.", "code") is None


@pytest.mark.parametrize(
    ("question", "domain"),
    [
        ("Write a function f(x) that doubles x.", "code"),
        ("Implement the method below.\n\ndef f(x):\n    pass", "code"),
        ("def add(a, b):\n    '''Sum of both.'''\n", "code"),
        ("Write a JavaScript function f(x) that doubles x.", None),
        ("What does this print?\na = 3\nprint(a + 1)", None),
        ("def f(x):\n    return x + 1\n\nWhat is f(3)?", None),
        ("The speed is 3 m/s. What is the distance? (A) 3 (B) 6 (C) 9 (D) 12", "science"),
        ("Which is a metal?\nA. iron\nB. wood", "science"),
        ("The fox is older than the owl. Order from oldest to youngest.", "logic"),
        ("What is 12 + 30?", None),
    ],
)
def test_how_answers_to_a_question_compare(question: str, domain: str | None) -> None:
    assert domain_of(question) == domain


# --- what is equal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("5 cm", "5", True),
        ("5 cm", "5 m", False),
        ("x = 5", "5", True),
        ("Paris.", "paris", True),
        ("3, 5", "5, 3", True),
        ("(1, 2)", "[1, 2]", False),
        ("a|b", "b | a", True),
        ("a|b", "a|c", False),
        ('{"output": 7}', "7", True),
        ('{"output": "true"}', '{"output": true}', False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ("['a', 'b']", "a, b", True),
        ("[[1, 2]]", "[[1,2]]", True),
        ("yes", "no", False),
    ],
)
def test_equal_answers(left: str, right: str, equal: bool) -> None:
    a, b = Answer(None, left), Answer(None, right)
    assert equivalent(a, b, TOOLS) is equivalent(b, a, TOOLS) is equal


def test_choices_and_orders() -> None:
    assert equivalent(Answer("science", "B"), Answer("science", "(B) 42 m"))
    assert not equivalent(Answer("science", "B"), Answer("science", "(C)"))
    assert equivalent(Answer("logic", "fox, owl"), Answer("logic", "['Fox', 'Owl']"))
    assert not equivalent(Answer("logic", "fox, owl"), Answer("logic", "owl, fox"))


def test_programs_are_equal_if_they_do_the_same() -> None:
    programs = [Answer("code", f"def f(x): return {body}") for body in ("2 * x + 6", "(x + 3) * 2", "x * x")]
    assert equivalent(programs[0], programs[1], FAST)
    assert not equivalent(programs[0], programs[2], FAST)


# --- clusters -------------------------------------------------------------------------------------------------------


def test_clusters_are_numbered_as_they_appear() -> None:
    found = compare("?", ["<answer>7</answer>", "<think>", "\\boxed{8}", "The answer is 7.0."])
    assert found.answers == ("7", None, "8", "7.0") and found.clusters == (0, -1, 1, 0)
    assert found.passed == (None,) * 4 and found.reasons[1] == "no answer"
    assert compare("?", []) == Comparison((), (), (), ())


def test_equality_that_is_not_transitive_merges_no_different_answers() -> None:
    texts = ["5", "5 cm", "5 m", "5 m", "7"]
    whole = compare("?", texts).clusters
    assert whole[1] != whole[2] == whole[3] == whole[0]
    for seed in range(10):
        order = random.Random(seed).sample(range(5), 5)
        found = compare("?", [texts[i] for i in order]).clusters
        assert all((found[a] == found[b]) == (whole[order[a]] == whole[order[b]]) for a in range(5) for b in range(5))


def test_an_equality_that_fails_or_is_late_leaves_the_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    late = compare("?", ["7", "7.0", " 7 "], clock=iter([0.0, 99.0, 99.0, 99.0]).__next__)
    assert late.clusters == (0, 1, 0) and "the time was up" in late.reasons[0]
    monkeypatch.setattr("actors.checkers.math.compare", lambda *_: 1 // 0)
    broken = compare("?", ["7", "8", "7"])
    assert broken.clusters == (0, 1, 0) and "ZeroDivisionError" in broken.reasons[1]


def test_by_spelling() -> None:
    found = by_spelling(["The answer is 7.", "\\boxed{7}", "7.0", "<think>"])
    assert found.clusters == (0, 0, 1, -1) and found.reasons[0] == "compared by spelling"


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "code"])
def test_the_starters_answers_cluster_as_their_texts_do(family: str) -> None:
    rng = random.Random(family)
    for _ in range(15):
        instance = FAMILIES[family].generate(rng)
        solutions = [FAMILIES[family].solve(instance, Slip(rng, 0.2)) for _ in range(5)]
        found = compare(instance.question, [solution.response for solution in solutions])
        answers = [solution.answer for solution in solutions]
        for i in range(5):
            assert [c == found.clusters[i] for c in found.clusters] == [a == answers[i] for a in answers], answers


# --- programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "tests"),
    [
        ("f(2) == 5 and f(3)==6.", [CallTest("f", (2,), 5), CallTest("f", (3,), 6)]),
        (
            ">>> add(2, 3)\n5\n>>> add('a', 'b')\n'ab'\n",
            [CallTest("add", (2, 3), 5), CallTest("add", ("a", "b"), "ab")],
        ),
        ('def g(a):\n    """\n    >>> g([1])\n    [1, 2]\n    """\n', [CallTest("g", ([1],), [1, 2])]),
        ("assert f('a)') == (3, 4)", [CallTest("f", ("a)",), (3, 4))]),
        ("`f(2)` returns `5`, f(1) -> None", [CallTest("f", (2,), 5), CallTest("f", (1,), None)]),
        ("print(f(9)) # 10", [CallTest("f", (9,), 10)]),
        (
            "def two(nums, target):\n\nInput: nums = [2, 7], target = 9\nOutput: [0, 1]\nExplanation: none",
            [CallTest("two", ([2, 7], 9), [0, 1])],
        ),
        ("Input:\n3 4\n\nOutput:\n7\n", [ProgramTest("3 4\n", "7\n")]),
        ("Input: 3 4 Output: 7", [ProgramTest("3 4\n", "7\n")]),
        ("Sample Input 1\n```\n1 2\n3\n```\nSample Output 1\n```\n6\n```", [ProgramTest("1 2\n3\n", "6\n")]),
        ("Input\nThe first line contains n.\nOutput\nPrint the sum.", []),
        ("f(1) is 3 + x, f(y) == 2, f(k=1) == 2, len([1]) == 1, f(2) != 5, f(3) == 1,000, f(4) is 2x", []),
        ("f(1) == -2.5, f(2) is {'a': [1]}.", [CallTest("f", (1,), -2.5), CallTest("f", (2,), {"a": [1]})]),
        (">>> f(1)\n1\n>>> f(2)\nno literal\n>>> x = 3\n", [CallTest("f", (1,), 1)]),
        ("   >>> f(1)\n  1\n", []),  # not indented alike: no doctest
    ],
)
def test_examples_in_a_question(question: str, tests: Sequence[object]) -> None:
    assert public_tests(question) == list(tests)


@pytest.mark.parametrize(
    "part", ["A. ", "order ", "input: ", "f(", "f(1)==", "f(1)==[", "def f(\n", '"', ">>> f(1)\n", "Input:\n", "write "]
)
def test_a_question_made_to_be_slow_is_not(part: str) -> None:
    question = part * (40_000 // len(part))
    started = time.process_time()
    assert len(public_tests(question)) <= 16 and domain_of(question) in ("code", None)
    assert time.process_time() - started < 2  # seconds; a quadratic scan takes minutes


def test_the_function_that_is_asked_for() -> None:
    assert function_name("Write a function called `area`.") == "area"
    assert function_name("Write a function f(x) that doubles x.") == "f"
    assert function_name("def g(a):\n    pass") == "g"
    assert function_name("Write a function that doubles.") is None


ADD = "Write a function f(a, b).\n>>> f(2, 3)\n5\n>>> f(1, 1)\n2\n"


def test_a_program_that_fails_an_example_is_out() -> None:
    found = compare(
        ADD, fenced("def f(a, b): return a + b", "def f(a, b): return a * b", "def f(a, b): return b + a"), FAST
    )
    assert found.passed == (True, False, True) and found.clusters[0] == found.clusters[2] != found.clusters[1]
    assert found.reasons[0] == "2 examples passed" and found.reasons[1] == "f(2, 3) is not 5"


def test_survivors_differ_by_what_they_do_on_other_inputs() -> None:
    programs = fenced(
        "def f(a, b): return a + b", "def f(a, b): return max(a + b, 0) if a < 4 else 0", "def f(a,b):\n    return b+a"
    )
    found = compare(ADD, programs, FAST)
    assert found.passed == (True, True, True) and found.clusters == (0, 1, 0)


def test_without_examples_behaviour_on_a_palette_decides() -> None:
    question = "Write a function f(x) that triples x and adds 3."
    bodies = (
        "3 * x + 3",
        "3 * (x + 1)",
        "x + x + x + 3",
        "3 * x",
    )  # x * 3 takes texts, too: they are not what is meant
    found = compare(question, fenced(*(f"def f(x): return {body}" for body in bodies)), FAST)
    assert found.clusters == (0, 0, 0, 1) and found.passed == (None,) * 4
    lists = ("sum(v for v in a if v > 3)", "sum([v for v in a if not v <= 3])", "sum(a)")
    question = "Write a function f(a) that keeps the items of a that are larger than 3 and returns the sum."
    found = compare(question, fenced(*(f"def f(a): return {body}" for body in lists)), FAST)
    assert found.clusters == (0, 0, 1)


def test_what_cannot_run_is_wrong_and_what_was_not_run_is_unknown() -> None:
    found = compare(ADD, fenced("def f(a, b: return", "import nothing_at_all\ndef f(a, b): return a + b"), FAST)
    assert (
        found.passed == (False, False) and "SyntaxError" in found.reasons[0] and "the program fails" in found.reasons[1]
    )

    def refuse(*_: Any, **__: Any) -> RunResult:
        raise OSError("no sandbox")

    found = compare(
        ADD,
        fenced("def f(a, b): return a + b", "def f(a,b):  return a+b # same", "def f(a, b): return 5"),
        Tools(refuse),
    )
    assert found.passed == (None,) * 3 and found.clusters == (0, 0, 1) and "no sandbox" in found.reasons[0]


def test_a_time_out_is_no_failed_example() -> None:
    def slow(*_: Any, **__: Any) -> RunResult:
        return RunResult("timeout", -9, b"", b"", 1.0, {0: 5}, {})

    seen = observe("def f(a, b): return a + b", public_tests(ADD), "f", Tools(slow), 1.0)
    assert seen.passed is None and "not decided in time" in seen.reason and len(seen.outcomes) == 1


def test_programs_that_read_and_print() -> None:
    question = "Write a program that adds.\nInput:\n3 4\n\nOutput:\n7\n"
    programs = (
        "print(sum(map(int, input().split())))",
        "a, b = input().split()\nprint(int(a) + int(b))",
        "print(7)",
        "print(8)",
    )
    found = compare(question, fenced(*programs), FAST)
    assert found.passed == (True, True, True, False) and found.clusters == (0, 0, 1, 2)


def test_a_question_about_programs_has_answers_in_words() -> None:
    found = compare(
        "Write the time complexity of the function.", ["<answer>O(n)</answer>", "The answer is O(n)."], FAST
    )
    assert found.clusters == (0, 0) and found.answers == ("O(n)", "O(n)")


def test_formulas_are_no_programs() -> None:
    formulas = ["<answer>y = (x - 2)^2</answer>", "\\boxed{y = (x-2)^2}", "<answer>y = 4</answer>"]
    assert compare("Write the function in vertex form.", formulas, FAST).clusters == (0, 0, 1)
    silent = fenced("import os\ny = 3", "import os\ny = 4")
    assert compare("Write a program that says nothing.", silent, FAST).clusters == (0, 1)


def test_two_programs_that_say_nothing_are_not_alike() -> None:
    silent = [Behaviour("one"), Behaviour("two")]
    assert not agreement(silent)(*silent) and agreement(silent)(silent[0], silent[0])


def test_the_starters_programs_in_the_sandbox() -> None:
    question = "Write a function f(x) that adds 3 to x and then doubles the result."
    hanging = "def f(x):\n    while x != 7: pass\n    return 20"
    found = compare(
        question, fenced("def f(x): return (x+3)*2", "def f(x): return 2*x+6", hanging), Tools(run, 1.0, 1.5)
    )
    assert found.clusters == (0, 0, 1) and found.passed == (None,) * 3


# --- through the verifier -------------------------------------------------------------------------------------------


def test_the_messages_survive_the_wire() -> None:
    made = compare("?", ["7", "<think>\ud800"])
    assert wire.comparison_of(json.loads(wire.pack(wire.message_of(made))[4:])) == made
    request = wire.compare_request("?", ("a", "b"), 2.0)
    assert request == {"op": "compare", "timeout_s": 2.0, "question": "?", "texts": ["a", "b"]}
    with pytest.raises(ValueError, match="for each text"):
        Comparison(("7",), (0, 1), (None,), ("",))


def test_a_verifier_compares_in_its_worker_process() -> None:
    async def scenario() -> tuple[Comparison, Comparison]:
        verifier = Verifier("v", workers=1, timeout_s=10, retries=1, allow_weaker_sandbox=True)
        numbers = await verifier.compare("What is 1/2?", ["\\boxed{0.5}", "\\boxed{1/2}", "\\boxed{2}"])
        programs = await verifier.compare(ADD, fenced("def f(a, b): return a + b", "def f(a, b): return a - b"))
        await verifier.close()
        with pytest.raises(Unanswered, match="closed"):
            await verifier.compare("?", ["7"])
        return numbers, programs

    numbers, programs = asyncio.run(scenario())
    assert numbers.clusters == (0, 0, 1) and programs.passed == (True, False), programs


@pytest.mark.parametrize(("failures", "answered"), [(1, True), (2, False)])
def test_a_worker_that_dies_is_replaced_and_then_nothing_is_said(failures: int, answered: bool) -> None:
    made = compare("?", ["7"])

    class Dying:
        killed = 0

        async def compare(self, question: str, texts: Sequence[str], timeout_s: float) -> Comparison:
            if Dying.killed < failures:
                raise WorkerDied("gone")
            return made

        def oversized(self) -> bool:
            return False

        async def kill(self) -> None:
            Dying.killed += 1

    async def spawn() -> Dying:
        return Dying()

    async def scenario() -> Comparison:
        return await VerifierPool(1, 5, 1, spawn=spawn).compare("?", ["7"])

    if answered:
        assert asyncio.run(scenario()) == made
    else:
        with pytest.raises(Unanswered, match="gone"):
            asyncio.run(scenario())
    assert Dying.killed == failures
