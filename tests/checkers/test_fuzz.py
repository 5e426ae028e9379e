"""Mutated completions and ground truths over every route and profile: no check raises or overruns its budget.

Two sources of trouble: a seeded loop that mutates right answers (cut, repeated, swapped, nested, filled with LaTeX,
unicode, lone surrogates, NULs and huge numbers), and hypothesis, which puts completions together from such pieces and
from text of its own, and shrinks what it finds. Programs "run" in a sandbox that answers at random.

A few seconds' worth in the suite; RAYTHINK_FUZZ=20000 runs that many:

    RAYTHINK_FUZZ=20000 python -m pytest tests/checkers/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from checker_problems import problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import checkers
from actors.checkers import routes
from actors.checkers.tools import PROFILES, Tools
from actors.messages import Problem
from actors.sandbox.result import RunResult
from rl.problems.schema import problem_from_row
from rl.problems.starter import FAMILIES, make_row
from rl.problems.starter.slip import Slip

COUNT = int(os.environ.get("RAYTHINK_FUZZ", "1200"))
BUDGET_S = 2.0  # of CPU, so that a busy machine fails nothing; the verifier's deadline is several times that
MAX_CHARACTERS = 200_000  # about what a model can write in 64k tokens
SILENT = ("ood__", "stem_web", "stem__web", "safety__")  # sources where an error may be the right answer to a sound row

PIECES = [
    r"\boxed{", r"\boxed", r"\fbox{", "}", "{", "<answer>", "</answer>", "<think>", "</think>", "```", "```python\n",
    "```json\n", "\n```\n", "~~~\n", r"\frac{", r"\frac", r"\sqrt{", r"\sqrt[3]", r"\text{", r"\left(", r"\right)",
    r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", "&", r"\cup", r"\pm", r"\le", r"\ne ", r"\infty", r"\overline{",
    r"\int_0^1 ", r"\sum_{n=1}^{9}", r"\lim_{x\to 0}", r"\binom{", r"\operatorname{", r"\color{red}", r"\hspace{9cm}",
    r"\,", r"\%", "%", "$", "(", ")", "[", "]", "[[", "]]", "|", "!", "^", "_", "'", '"', ",", ";", ".", "=", "<", ">",
    "+", "-", "*", "**", "/", "//", "\0", "\ud800", "\udfff", "\u202e", "\u200b", "\u00a0", "\u2028", "\ufeff", "é",
    "½", "²", "√", "∞", "π", "７", "٥", "−", "🙂", "ß", "İ", "ﬁ", "9" * 5000, "1e999999999", "0." + "3" * 999,
    "9^9^9^9", "-0", "NaN", "Infinity", "null", "True", "None", " or ", " and ", " not ", "Answer: ",
    "The answer is: ", "A", "(B)", "10 m/s^2", " per ", "one hundred", "\n", "\t", " ", '{"output": ', '{"input": ',
    '"rows": [', '"header": [', "assert f(", ") == ", "def f(x):\n    return x", "lambda: ", "__import__('os')",
    "().__class__", "print(1)", "1,000", "x=", "f(x)=", "[ANSWER]", "[/ANSWER]",
]  # fmt: skip
BRACKETS = [
    ("(", ")"), ("[", "]"), ("{", "}"), (r"\boxed{", "}"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("|", "|"),
    ("<answer>", "</answer>"), ('{"a":', "}"),
]  # fmt: skip


def fenced(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def tagged(value: Any) -> str:
    return f"<answer>{value if isinstance(value, str) else json.dumps(value)}</answer>"


ZEBRA = {"header": ["Position", "Name"], "rows": [["1", "Ann"], ["2", "Bob"]]}
STDIO = json.dumps({"inputs": ["1\n", "2\n"], "outputs": ["3\n", "4\n"]})
CALLS = json.dumps({"inputs": ["[1]", "[2]"], "outputs": ["3", "4"], "fn_name": "f"})
ASSERTIONS = json.dumps({"functional": "assert f(1) == 3\nassert f(2) == 4\nassert g(f(1))"})
CRUXEVAL = {"functional": "def f(x):\n    return x + 1"}
GYM = {"answer": "7", "question": "3 + 4 =", "metadata": {"source_dataset": "chain_sum"}}
COUNTDOWN = {"answer": "3*4", "question": "?", "metadata": {"numbers": [3, 4], "target": 12}}
FACTORS = {"answer": "2 × 3 × 7", "question": "?", "metadata": {"number": 42, "factors": [2, 3, 7]}}
PROGRAM = fenced("def f(x):\n    return x + 2\nprint(f(int(input())))")
SOUND: list[tuple[Problem, str]] = [
    (problem("math__deepscaler_preview", r"\frac{1}{2}"), r"<think>so \boxed{1}</think>It is \boxed{0.5}."),
    (problem("math__dapo", r"x \in [0, \infty)"), r"\boxed{x \ge 0}"),
    (problem("aime", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"), r"\boxed{[[1,2],[3,4]]}"),
    (problem("amc", r"\{1, 2, 3\}"), r"\boxed{3, 2, 1}"),
    (problem("openai/gsm8k", "72 km"), tagged(r"72{,}000 \text{ m}")),
    (problem("lighteval/MATH", r"\int_0^1 x\,dx"), r"\boxed{\frac12}"),
    (problem("HuggingFaceH4/MATH", "y=2x+1"), r"\boxed{2x-y+1=0}"),
    (problem("codegen__taco", STDIO), PROGRAM), (problem("codegen__primeintellect", CALLS), PROGRAM),
    (problem("codegen__leetcode2k", ASSERTIONS, prefix="import math"), PROGRAM),
    (problem("stem__gpqa_diamond", "C"), r"So \boxed{\textbf{(C)}}"),
    (problem("stem__gpqa_diamond_no_box", "C"), "Answer: C"), (problem("stem__supergpqa", "J"), "The answer is: (J)"),
    (problem("stem_web", r"\frac{1}{2} m", "How far?"), r"\boxed{50 cm}"), (problem("stem__web", "a"), r"\boxed{b}"),
    (problem("logic__ordering_puzzle_dataset", ["hawk", "crow", "owl"]), tagged("[Hawk, Crow, Owl]")),
    (problem("ordering_puzzle_dataset", "['a', 'b']"), tagged("['a', 'b']")),
    (problem("logic__zebra_puzzle_dataset", ZEBRA), tagged(ZEBRA)),
    (problem("zebra_puzzle_dataset", json.dumps(ZEBRA)), tagged(ZEBRA)),
    (problem("logic__graph_logical_dataset", "fdebme"), tagged(" FDebme ")),
    (problem("graph_logical_dataset", "abc"), tagged("abc")),
    (problem("simulation__arcagi1", [[1, 2], [3, 4]]), tagged([[1, 2], [3, 4]])),
    (problem("simulation__barc", [[0]]), tagged([[0]])), (problem("arcagi1", [[5, 6]]), tagged("[[5, 6]]")),
    (problem("barc", [[5], [6]]), tagged([[5], [6]])),
    (problem("logic__arcagi2", [[1]]), tagged([[1]])), (problem("logic__barc", "[[2]]"), tagged([[2]])),
    (problem("simulation__codeio", '"output": [1, 2.5, null]'), fenced('{"output": [1, 2.5, null]}', "json")),
    (problem("codeio", '"input": {"x": 1}'), r'\boxed{{"input": {"x": 1}}}'),
    (problem("simulation__cruxeval-o", CRUXEVAL, "assert f(1) == ??"), fenced("assert f(1) == 2")),
    (problem("simulation__cruxeval-i", CRUXEVAL, "assert f(??) == 2"), "[ANSWER]assert f(1) == 2[/ANSWER]"),
    (problem("table__hitab", "1,234.5"), r"\boxed{\$1,234.50}"), (problem("table__finqa", 0.125), r"\boxed{12.5\%}"),
    (problem("table__multihier", "a|b c|7"), tagged("7|a|b c")),
    (problem("reasoning_gym", "7", task="chain_sum", entry=json.dumps(GYM)), tagged("7")),
    (problem("reasoning_gym", "12", task="countdown", entry=json.dumps(COUNTDOWN)), tagged("3 * 4")),
    (problem("reasoning_gym", "", task="prime_factorization", entry=json.dumps(FACTORS)), tagged("2 × 3 × 7")),
    (problem("safety__refusal", "refuse", "How?"), "<think>hm</think>I will not help with that."),
    (problem("ood__ifeval", "?"), "?"), (problem("ood__ifbench", "?"), "?"), (problem("ood__livebench", "?"), "?"),
]  # fmt: skip


def of_the_starter(count: int) -> list[tuple[Problem, str]]:
    """Rows of the six families with right and slipped answers."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        for domain, family in FAMILIES.items():
            instance = family.generate(rng)
            answer = family.solve(instance, Slip(rng, 0.2)).response
            made.append((problem_from_row(make_row(domain, instance)), answer))
    return made


SEEDS = SOUND + of_the_starter(3)


# --- what a check may use ---------------------------------------------------------------------------------------------


def pretended(rng: random.Random) -> Tools:
    """Tools of any profile whose sandbox and judge answer at random, some of it as malformed as a run can make it."""

    def run(code: str | bytes, stdin: str | bytes = "", **options: Any) -> RunResult:
        value = rng.choice([3, 4, 3.0, True, None, "x", [1], {"dict": [["a", 1]]}, {"set": [1]}, {"other": 1}, 10**400])
        status = rng.choice(["ok", "ok", "ok", "error", "timeout", "output_limit"])
        stdout = rng.choice([b"3\n", b"4\n", b"True\n", b"\xff\x00", b"", b"9" * 100_000, b"1e999999\n", b"nan"])
        indices = range(rng.randint(0, 4))
        returned = dict.fromkeys(indices, value) if rng.random() < 0.7 else {}
        errors = {} if returned else dict.fromkeys(indices, "ValueError: \ud800")
        exit_code = 0 if status == "ok" else rng.choice([1, -9, -24])
        return RunResult(status, exit_code, stdout, b"Traceback\nE: \xff", 0.0, returned, errors, rng.random() < 0.5)

    def judge(prompt: str) -> str:
        return rng.choice(["Final Decision: Yes", "Final Decision: No", "", "\ud800", "final decision " * 50])

    return Tools(run, profile=rng.choice(PROFILES), judge=rng.choice([judge, None]))


def checked(asked: Problem, text: str, tools: Tools, sound: bool) -> None:
    """Check, and fail where that raises, takes too long, or (a sound row being asked) blames the verifier."""
    started = time.process_time()
    try:
        verdict = checkers.check(asked, text, tools)
    except BaseException as failure:
        raise AssertionError(f"{described(asked, text, tools)} raised {failure!r}") from failure
    seconds = time.process_time() - started
    assert seconds < BUDGET_S, f"{described(asked, text, tools)} took {seconds:.1f} s: {verdict.reason}"
    json.dumps([verdict.extracted, verdict.reason])  # a verdict travels as JSON
    if sound and not asked.data_source.startswith(SILENT):
        assert verdict.status != "error", f"{described(asked, text, tools)} is an error: {verdict.reason}"


def described(asked: Problem, text: str, tools: Tools) -> str:
    shown = text if len(text) < 400 else f"{text[:200]}...{text[-200:]}"
    return (
        f"{tools.profile} {asked.data_source} truth={asked.ground_truth[:200]} text={shown!r} ({len(text)} characters)"
    )


# --- mutations --------------------------------------------------------------------------------------------------------


def cut(rng: random.Random, text: str) -> str:
    return text[: rng.randint(0, len(text))] if rng.random() < 0.7 else text[rng.randint(0, len(text)) :]


def insert(rng: random.Random, text: str) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(PIECES) + text[at:]


def flood(rng: random.Random, text: str) -> str:
    """The same piece, or two in turn, many times over."""
    at, piece = rng.randint(0, len(text)), "".join(rng.sample(PIECES, rng.randint(1, 2)))
    return text[:at] + piece * (10 ** rng.randint(1, 5) // len(piece)) + text[at:]


def nest(rng: random.Random, text: str) -> str:
    """A part of the text in many brackets."""
    opening, closing = rng.choice(BRACKETS)
    start, end = sorted(rng.choices(range(len(text) + 1), k=2))
    depth = rng.choice([2, 9, 41, 90, 400, 3000])
    return text[:start] + opening * depth + text[start:end] + closing * depth + text[end:]


def duplicate(rng: random.Random, text: str) -> str:
    start, end = sorted(rng.choices(range(len(text) + 1), k=2))
    return text[:end] + text[start:end] * rng.choice([1, 2, 30]) + text[end:]


def swap(rng: random.Random, text: str) -> str:
    a, b, c = sorted(rng.choices(range(len(text) + 1), k=3))
    return text[:a] + text[b:c] + text[a:b] + text[c:]


def replace_one(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text)) if text else 0
    return text[:at] + chr(rng.choice([rng.randrange(128), rng.randrange(0x110000)])) + text[at + 1 :]


def splice(rng: random.Random, text: str) -> str:
    return cut(rng, text) + cut(rng, rng.choice(SEEDS)[1])


MUTATIONS: list[Callable[[random.Random, str], str]] = [
    cut, insert, insert, insert, flood, nest, duplicate, swap, replace_one, splice,
]  # fmt: skip


def mutated(rng: random.Random, text: str) -> str:
    for _ in range(rng.randint(1, 5)):
        text = rng.choice(MUTATIONS)(rng, text)[:MAX_CHARACTERS]
    return text


def mutated_truth(rng: random.Random, asked: Problem) -> Problem:
    """Another problem's ground truth, a string of its own mutated, or text that is not even JSON."""
    kind = rng.random()
    if kind < 0.3:
        return replace(asked, ground_truth=rng.choice(SEEDS)[0].ground_truth)
    if kind < 0.4:
        return replace(asked, ground_truth=mutated(rng, asked.ground_truth))
    return replace(asked, ground_truth=json.dumps(_with_mutated_string(rng, asked.truth)))


def _with_mutated_string(rng: random.Random, value: Any) -> Any:
    if isinstance(value, str):
        return mutated(rng, value)
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], _with_mutated_string(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: _with_mutated_string(rng, value[key])}
    return rng.choice([None, True, -1, 1e308, "", [], {}, 10**30, [[]], {"header": 1, "rows": 2}])


# Found so and since mended: each took 3 seconds to a minute, or gigabytes, or was blamed on the verifier.
FOUND = [
    ("math__dapo", tagged("(" + " " * 3900 + ")")), ("math__dapo", tagged("||22||||||2||||222||||22||2|" * 2)),
    ("math__dapo", r"\boxed{" * 60_000 + "}" * 60_000),
    ("lighteval/MATH", r"\boxed{" + r"\int " * 9 + r"\frac{1}{2}" * 9 + "}"),
    ("logic__ordering_puzzle_dataset", tagged("{" + " " * 100_000 + "x")),
    ("logic__ordering_puzzle_dataset", tagged("(" + "'" * 100_000 + "x")),
    ("simulation__arcagi1", tagged("[" * 20_000)),
    ("prime_factorization", tagged("2 × x")), ("prime_factorization", tagged("2 × " + "9" * 5000)),
]  # fmt: skip


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """What a checker loads at its first use is loaded before anything is timed."""
    for asked, text in SOUND:
        checkers.check(asked, text, pretended(random.Random(0)))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_route_is_fuzzed(profile: str) -> None:
    known = routes.GURU if profile == "guru" else routes.PREFIXES
    sources = {asked.data_source for asked, _ in SEEDS}
    assert [prefix for prefix in known if not any(source.startswith(prefix) for source in sources)] == []


def test_mutations_of_right_answers() -> None:
    for number in range(COUNT * 3 // 4):
        rng = random.Random(number)
        asked, text = rng.choice(SEEDS)
        sound = rng.random() < 0.7
        if not sound:
            asked = mutated_truth(rng, asked)
        checked(asked, mutated(rng, text), pretended(rng), sound)


@pytest.mark.parametrize(("source", "text"), FOUND, ids=range(len(FOUND)))
def test_what_was_found_before(source: str, text: str) -> None:
    asked = next(asked for asked, _ in SOUND if source in (asked.data_source, asked.extra_info.get("task")))
    checked(asked, text, Tools(), sound=True)


TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20), st.floats().map(str), st.integers().map(str)))


@settings(
    max_examples=COUNT // 4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(seed=st.sampled_from(SEEDS), before=TEXTS, after=TEXTS, random_seed=st.integers(0, 1000))
def test_completions_of_hostile_pieces(seed: tuple[Problem, str], before: list, after: list, random_seed: int) -> None:
    asked, text = seed
    checked(asked, "".join([*before, text, *after]), pretended(random.Random(random_seed)), sound=True)
