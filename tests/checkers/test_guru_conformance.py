"""Guru conformance: what each profile makes of the answers on which the public Guru verifiers were measured.

Each row: data_source, ground truth, response, the score in `strict`, the score in `guru`. The first table are the
vectors measured on the public code, the second its quirks. Where the two profiles differ, `strict` is right and `guru`
is what the public code says. The symbolic stage of its mathematics worked when Guru's models were trained and fails in
its last version; the rows marked "stage" score 1 in the `guru` profile and would score 0 in that last version.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from checker_problems import problem

from actors import checkers
from actors.checkers import guru, guru_math, routes
from actors.checkers.routes import UnknownSource, route
from actors.checkers.tools import PROFILES, Tools, check_profile
from actors.verifier import Verifier, spawner
from conf.errors import UserError
from conf.schema import keys

ZEBRA = {"header": ["Position", "Name"], "rows": [["1", "Ann"], ["2", "Bob"]]}
STDIO = json.dumps({"inputs": [""], "outputs": ["3\n"]})
FUNCTIONAL = json.dumps({"functional": "assert f(1) == 2\nassert f(2) == 4"})
CRUX = json.dumps({"functional": "def f(x):\n    return x + 1"})
BIRDS, GRID = ["hawk", "crow"], [[1, 2], [3, 4]]


def tools(profile: str) -> Tools:
    """With a judge of free-form science that finds no two answers equivalent: equality by rule is what counts here."""
    return Tools(profile=profile, judge=lambda prompt: "Final Decision: No")


def answer(text: str) -> str:
    return f"<answer>{text}</answer>"


def box(text: str) -> str:
    return rf"\boxed{{{text}}}"


def table(*rows: list[str], header: tuple[str, ...] = ("Position", "Name")) -> str:
    return answer(json.dumps({"header": list(header), "rows": list(rows)}))


def fenced(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


VECTORS = [
    ("math__deepscaler_preview", r"\frac{1}{2}", box("0.5"), 1, 1),
    ("math__deepscaler_preview", "x^2+2x+1", box("(x+1)^2"), 1, 1),
    ("math__deepscaler_preview", "0.5", box("50"), 0, 1),
    ("math__deepscaler_preview", "42", "</think>42", 1, 1),
    ("math__deepscaler_preview", "42", "</think>The answer is 42.", 0, 0),
    ("math__deepscaler_preview", r"\frac{1}{3}", box("0.3333"), 0, 0),
    ("math__deepscaler_preview", "5", box(r"5\text{ cm}"), 1, 1),
    ("math__deepscaler_preview", "5", box("x=5"), 1, 1),
    ("logic__zebra_puzzle_dataset", ZEBRA, table(["1", "Ann"], ["2", "Ann"]), 0.75, 0.75),
    ("logic__ordering_puzzle_dataset", BIRDS, answer("[Hawk, Crow]"), 1, 1),
    ("logic__graph_logical_dataset", "fdebme", answer(" FDebme "), 1, 1),
    ("simulation__codeio", '"output": true', fenced('{"output": "true"}', "json"), 0, 1),
    ("table__hitab", "1234", box("1,234"), 1, 1),
    ("table__hitab", "1234.5", box(r"\$1,234.5"), 1, 1),
    ("table__hitab", "0.125", box("12.5"), 0, 1),
    ("table__hitab", "1000", box("1000.5"), 0, 1),
    ("table__multihier", "a|b", box("b|a"), 1, 1),
    ("stem__gpqa_diamond", "D", box(r"\textbf{(D)}"), 1, 1),
    ("codegen__taco", STDIO, fenced("print(3.0000001)"), 1, 1),
]

MATH_QUIRKS = [
    ("math", "y^{2}+x^{2}", box("x^{2}+y^{2}"), 1, 1),  # stage
    ("math", "1024", box("2^{10}"), 1, 1),  # stage
    ("math", r"\frac{1}{3}", box("0.33333333"), 0, 1),  # stage
    ("math", r"2\pi", box("6.28"), 0, 0),
    ("math", r"2\pi", box(r"\pi \cdot 2"), 1, 1),
    ("math", r"\pi r^2", box(r"r^2\pi"), 1, 0),  # three letters and a pi: no stage of the public code compares it
    ("math", "50", box("5000"), 0, 1),
    ("math", "42", rf"so far {box('42')} but wait", 1, 1),  # cut off, and no tag says that this was thinking
    ("math", "42", rf"<think>so far {box('42')} but wait", 0, 1),
    ("math", "42", rf"<think>{box('42')}</think>done", 0, 0),
    ("math", "3,2,1", box("1,2,3"), 1, 0),
    ("math", r"\{1,2\}", box(r"\{2,1\}"), 1, 0),
    ("math", "(1,2)", box("(2,1)"), 0, 0),
    ("math", "(0.5,1)", box(r"(\frac12, 1)"), 1, 1),
    ("math", "(1,2)", box("1,2"), 0, 1),
    ("math", "(1,2]", box("(1,2)"), 0, 1),
    ("math", "(1,2)", box("[1,2]"), 0, 0),
    ("math", "x", box("X"), 0, 1),
    ("math", "10000", box("10001"), 0, 1),
    ("math", "101_2", box("101_3"), 0, 1),
    ("math", "3", box(r"\text{three million}"), 0, 0),
    ("math", "3000000", box("3 million"), 1, 0),
    ("math", r"\text{cat}", box("act"), 0, 0),
    ("math", "7", box("__import__('os')"), 0, 0),
    ("math", "12", rf"{box('12')} or {box('13')}", 0, 0),
    ("math", "7", rf"not {box('7')}", 0, 1),
    ("math_dapo", "42", "A long argument.\nAnswer: $42$", 1, 0),  # what DAPO's prompts ask for
    ("math", "7", answer("7"), 1, 0),  # no box: all of the text is the answer
    ("math", "7", box("7")[:-1], 0, 0),
    ("math__patch_1", "7", r"\fbox{7}", 1, 1),
]

CODE_QUIRKS = [
    ("codegen__leetcode2k", FUNCTIONAL, fenced("def f(x):\n    return 2 * x"), 1, 1),
    ("codegen__leetcode2k", FUNCTIONAL, fenced("import sys\nsys.exit(0)"), 0, 0),  # the public code: 1
    ("codegen__taco", STDIO, fenced("print(3)") + "\nprints\n" + fenced("3x", ""), 1, 0),
    ("codegen__taco", STDIO, "```python\nprint(3)```", 1, 0),
    ("codegen__taco", STDIO, "print(3)", 0, 0),
    ("codegen__taco", STDIO, fenced("a = 3") + "\nthen\n" + fenced("print(a)"), 0, 1),  # the blocks are joined
    ("codegen__taco", STDIO, "</think>" + fenced("print(4)") + "</think>" + fenced("print(3)"), 1, 0),
    ("codegen__taco", STDIO, answer(fenced("print(3)")), 1, 1),
]

SIMULATION_QUIRKS = [
    ("simulation__codeio", '"output": null', "nothing to be read", 0, 1),
    ("simulation__codeio", '"output": 5', fenced('"output": 5', "json"), 1, 0),
    ("simulation__codeio", '"output": 5', box('"output": 5'), 1, 1),
    ("simulation__codeio", '"output": 5', box(r'\{"output": 5\}'), 1, 0),
    ("simulation__codeio", '"output": 0.5', fenced('{"output": 0.50000000001}', "json"), 1, 0),
    ("simulation__codeio", '"output": 5', fenced("x = 4") + "\nso " + box('{"output": 5}'), 1, 0),
    ("simulation__codeio", '"input": {"n": 3}', fenced('{"input": {"n": 3}}', "json"), 1, 1),
    ("simulation__codeio", '"input": {"n": 3}', fenced('{"input": {"n": 4}}', "json"), 0, 0),
    ("simulation__codeio", '"output": 5', fenced("4", "json") + "</think>" + fenced('{"output": 5}', "json"), 1, 0),
    ("simulation__codeio", '"output": [1]', fenced('{"output": "[1]"}', "json"), 0, 1),
    ("simulation__codeio", '"output": 5', fenced("[5]", "json"), 0, 0),
    ("simulation__cruxeval-i", CRUX, "</think>" + fenced("assert f(16) == 17"), 1, 1),
    ("simulation__cruxeval-o", CRUX, "</think>" + fenced("assert f(16) == 18"), 0, 0),
    ("simulation__cruxeval-o", CRUX, "</think>" + fenced("pass"), 0, 0),  # the public code: 1
    ("simulation__cruxeval-o", CRUX, "</think>" + fenced("def f(x):\n    return 7\nassert f(1) == 7"), 0, 0),
    ("simulation__cruxeval-i", CRUX, "[ANSWER]\nassert f(16) == 17\n[/ANSWER]", 1, 0),
]  # fmt: skip

LOGIC_QUIRKS = [
    ("simulation__arcagi1", GRID, answer("[[1, 2],\n [3, 4]]"), 1, 1),
    ("simulation__arcagi2", GRID, answer("[\n [1,2],\n [3,4]\n]"), 1, 0),
    ("simulation__barc", GRID, answer("[[1, 2], [3]]"), 0, 0),
    ("simulation__barc", GRID, answer("[[[1, 2], [3, 4]]]"), 0, 0),
    ("logic__arcagi1", GRID, answer("[[]]"), 0, 0),
    ("logic__arcagi1", GRID, answer("[[1.0, 2.0], [3.0, 4.0]]"), 0, 1),
    ("arcagi1", GRID, answer(answer("[[1, 2], [3, 4]]")), 1, 1),
    ("zebra_puzzle_dataset", ZEBRA, table(["1", "Ann"], ["2", "Bob"]), 1, 1),
    ("zebra_puzzle_dataset", ZEBRA, table(["1", "Ann"], ["2", "Bob"]).replace("{", "\n{"), 1, 0),
    ("zebra_puzzle_dataset", ZEBRA, table([1, "Ann"], [2, "Bob"]), 1, 0.5),
    ("zebra_puzzle_dataset", ZEBRA, table(["1", "Ann"]), 0.5, 0),
    ("zebra_puzzle_dataset", ZEBRA, table(["1", "Ann"], ["2", "Bob"], ["3", "Cy"]), 0.75, 1),
    ("zebra_puzzle_dataset", ZEBRA, answer("[1]"), 0, 0),
    ("ordering_puzzle_dataset", BIRDS, answer("\n['hawk', 'crow']\n"), 1, 0),
    ("ordering_puzzle_dataset", BIRDS, answer("hawk, crow"), 1, 0),
    ("ordering_puzzle_dataset", BIRDS, answer("list(('hawk', 'crow'))"), 0, 0),  # the public code evaluates it: 1
    ("graph_logical_dataset", "abc", answer("\nabc\n"), 1, 0),
    ("graph_logical_dataset", "abc", f"<think>{answer('abc')}</think> I do not know", 0, 1),
    ("graph_logical_dataset", "abc", f"<answer> {answer('abc')} </answer>", 1, 0),
    ("graph_logical_dataset", "abc", answer("abc."), 1, 0),
    ("graph_logical_dataset", "abc", "<think>" + answer("abc"), 0, 1),
]

TABLE_QUIRKS = [
    ("table__hitab", "united states", box(r"\text{united states}"), 1, 0),
    ("table__hitab", "United States", box("united states"), 1, 1),
    ("table__hitab", "0.125", box(r"12.5\%"), 1, 1),
    ("table__hitab", "12.5", box(r"12.5\%"), 1, 1),
    ("table__hitab", r"50\%", box(r"0.5\%"), 0, 0),
    ("table__hitab", r"50\%", box("0.5"), 1, 1),
    ("table__hitab", "0.5", box("1:2"), 0, 1),
    ("table__hitab", "7", box("3+4"), 0, 1),
    ("table__hitab", "7", box("len('1234567')"), 0, 0),  # the public code evaluates it: 1
    ("table__multihier", "1|2", box("2.0|1.0"), 1, 1),
    ("table__multihier", "a|b", box("a"), 0, 0),
    ("table__hitab", "7", "</think>7", 1, 1),
    ("table__finqa", 0.125, box("0.125"), 1, 1),
]

CHOICE_QUIRKS = [
    ("stem__supergpqa", "B", box("ANSWER B"), 1, 0),
    ("stem__supergpqa", "A", box("ANSWER B"), 0, 1),
    ("stem__supergpqa", "C", box("no idea"), 0, 0),  # the public code: a random letter
    ("stem__supergpqa", "C", "no idea", 0, 0),
    ("stem__supergpqa", "C", "The answer is: C", 1, 1),
    ("stem__supergpqa", "C", "A long argument.\n" * 20 + "Final Answer: C", 1, 1),
    ("stem__supergpqa", "C", "A long argument.\n" * 20 + "**Answer: C or D**", 0, 0),
    ("stem__gpqa_diamond_no_box", "C", "A long argument.\n" * 20 + "Answer: C", 1, 1),
    ("stem__gpqa_diamond_no_box", "C", "Answer: B\nNo.\nAnswer: C", 1, 0),
    ("stem__gpqa_diamond_no_box", "C", box("C"), 1, 0),  # the published prompt asks for a box after all
    ("stem__gpqa", "C", "A long argument.\n" * 20 + "Answer: $C$", 1, 0),
    ("stem_web", "12 m", box("12 m"), 1, 1),
    ("stem__web", "12 m", box("12 m"), 1, 1),
    ("stem_web", "12 m", f"<think>{box('12 m')}</think> as above", 0, 1),
    ("stem_web", "12 m", "12 m", 1, 0),
]


def marks(source: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.process] if source.startswith(("codegen", "simulation__cruxeval")) else []


ROWS = VECTORS + MATH_QUIRKS + CODE_QUIRKS + SIMULATION_QUIRKS + LOGIC_QUIRKS + TABLE_QUIRKS + CHOICE_QUIRKS


@pytest.mark.parametrize("profile", ["strict", "guru"])
@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=marks(row[0]), id=f"{row[0]}-{i}") for i, row in enumerate(ROWS)]
)
def test_vectors(row: tuple[str, Any, str, float, float], profile: str) -> None:
    source, truth, text, strict, as_guru = row
    expected = strict if profile == "strict" else as_guru
    verdict = checkers.check(problem(source, truth), text, tools(profile))
    assert verdict.score == pytest.approx(expected), verdict
    assert verdict.status == ("correct" if expected == 1 else "incorrect"), verdict


# --- what the profiles share ------------------------------------------------------------------------------------------

TRAIN = [
    "math__merged_deduped_dapo_or1_dataset", "math__patch_merged_deduped_dapo_or1_dataset", "math__deepscaler_preview",
    "codegen__leetcode2k", "codegen__livecodebench", "codegen__primeintellect", "codegen__taco",
    "codegen__deduped_leetcode2k", "simulation__codeio", "simulation__codeio_fixed_12.1k_3.7k", "simulation__arcagi1",
    "simulation__arcagi2", "simulation__barc", "logic__zebra_puzzle_dataset", "logic__ordering_puzzle_dataset",
    "logic__graph_logical_dataset", "table__hitab", "table__multihier", "stem_web",
]  # fmt: skip
EVALUATION = [
    "math__aime_repeated_8x", "math__amc_repeated_4x", "math__math", "math__minerva", "math__olympiad_bench",
    "math__aime2025_repeated_8x", "codegen__humaneval", "codegen__humanevalplus", "codegen__mbpp", "codegen__mbppplus",
    "simulation__cruxeval-i", "simulation__cruxeval-o", "stem__gpqa", "stem__gpqa_diamond", "stem__gpqa_diamond_no_box",
    "stem__supergpqa", "table__finqa", "reasoning_gym", "aime24", "math_dapo",
]  # fmt: skip
IN_THE_WILD = [
    "logic__arcagi1", "logic__arcagi2", "logic__barc", "arcagi1", "barc", "stem__web", "graph_logical_dataset",
    "ordering_puzzle_dataset", "zebra_puzzle_dataset",
]  # fmt: skip
WITHOUT_CHECKER = ["ood__ifeval", "ood__ifbench", "ood__livebench"]


@pytest.mark.parametrize("profile", ["strict", "guru"])
@pytest.mark.parametrize("source", TRAIN + EVALUATION + IN_THE_WILD)
def test_every_source_of_guru_has_a_checker(source: str, profile: str) -> None:
    assert route(source, profile) is not routes.without_checker


@pytest.mark.parametrize("source", TRAIN + [name for name in EVALUATION + IN_THE_WILD if name != "reasoning_gym"])
def test_the_guru_profile_scores_its_sources_its_own_way(source: str) -> None:
    if source != "aime24":  # routed by name outside of Guru's own data
        assert route(source, "guru") is not route(source)


@pytest.mark.parametrize("source", ["math__starter", "logic__starter", "codegen__starter", "table__starter"])
def test_rows_of_our_own_are_scored_as_ever(source: str) -> None:
    assert route(source, "guru") is route(source)


@pytest.mark.parametrize("profile", ["strict", "guru"])
@pytest.mark.parametrize("source", WITHOUT_CHECKER)
def test_a_set_without_a_checker_is_an_error_that_says_so(source: str, profile: str) -> None:
    verdict = checkers.check(problem(source, ["x"]), answer("x"), tools(profile))
    assert verdict.status == "error" and f"no checker for '{source}'" in verdict.reason


@pytest.mark.parametrize("profile", ["strict", "guru"])
@pytest.mark.parametrize(
    ("source", "closest"),
    [("ood__ifevl", "ood__ifeval"), ("tabel__hitab", "table__hitab"), ("zebra_dataset", "zebra_puzzle")],
)
def test_an_unknown_source_is_an_error_that_names_the_closest(source: str, closest: str, profile: str) -> None:
    with pytest.raises(UnknownSource, match=closest):
        route(source, profile)
    assert checkers.check(problem(source, "1"), answer("1"), tools(profile)).status == "error"


@pytest.mark.parametrize("metric", ["prime_math", "math_llm_judge"])
def test_another_metric_than_gurus_default_is_an_error_there(metric: str) -> None:
    asked = problem("math__patch_1", "7", reward_metric=metric)
    assert checkers.check(asked, box("7"), tools("guru")).status == "error"
    assert checkers.check(asked, box("7")).status == "correct"


ASKED_INPUT = "Complete it.\n\ndef f(x):\n    return x + 1\nassert f(??) == 17"
ASKED_OUTPUT = "Complete it.\n\ndef f(x):\n    return x + 1\nassert f(16) == ??"


@pytest.mark.parametrize(
    ("question", "block", "right"),
    [
        (ASKED_INPUT, "assert f(16) == 17", True),
        (ASKED_INPUT, "assert 17 == f(x=16)", True),
        (ASKED_INPUT, "assert f(0) == 1", False),
        (ASKED_OUTPUT, "assert f(16) == 17", True),
        (ASKED_OUTPUT, "assert f(0) == 1", False),
        (ASKED_OUTPUT, "assert f(16) != 0", False),
        (ASKED_OUTPUT, "assert True", False),
        (ASKED_OUTPUT, "assert f(15 + 1) == 17", False),
        (ASKED_OUTPUT, "assert f(*[16]) == 17", False),
        (ASKED_OUTPUT, "assert f(16) == f(16)", False),
        (ASKED_OUTPUT, "if 0:\n    assert f(16) == 17", False),
        (ASKED_OUTPUT, "f = lambda x: 3\nassert f(16) == 3", False),
        (ASKED_OUTPUT, "import os\nos._exit(0)\nassert f(16) == 3", False),
        (ASKED_OUTPUT, "assert f(16) == 17 and broken(", False),
        (ASKED_INPUT, "assert f('a') == 17", False),
    ],
)
@pytest.mark.process
def test_a_cruxeval_answer_is_a_true_assertion_about_what_was_asked(question: str, block: str, right: bool) -> None:
    verdict = checkers.check(problem("simulation__cruxeval-i", CRUX, question), fenced(block))
    assert verdict.status == ("correct" if right else "incorrect"), verdict


def test_a_cruxeval_row_without_its_function_is_an_error() -> None:
    for truth in ("{}", "7", json.dumps({"functional": "g = 1"})):
        assert checkers.check(problem("simulation__cruxeval-i", truth), fenced("assert f(1) == 2")).status == "error"


@pytest.mark.parametrize(
    ("expected", "printed", "equal"),
    [
        ("3", "3.0000001", True), ("1000000000", "1000000000.5", False), ("YES no", "yes NO", True),
        ("yes", "no", False), ("1\n2", "1 2", False), ("1 2", "1", False), ("a", "b", False), ("a  b ", "a b", True),
        ("nan", "nan", True), ("inf", "0", False), ("", "", True), ("10000000000000001", "10000000000000000", True),
    ],
)  # fmt: skip
def test_the_guru_profiles_comparison_of_output(expected: str, printed: str, equal: bool) -> None:
    assert guru.same_output(expected, printed) is equal


HOSTILE = [
    "<answer>" * 20_000, "<answer>" * 20_000 + "\n</answer>", answer("[[" * 50_000 + "]]"), "```\n" * 20_000,
    "x```\n" * 20_000, "```python" * 20_000, fenced("[" * 50_000, "json"), fenced('{"output": "' + "[" * 5_000 + '"}'),
    r"\boxed{" * 20_000, box("9" * 100_000), box("x" * 100_000), box("1," * 5_000), box("(" * 5_000 + ")" * 5_000),
    box("((10!)!)!"), box("10^{10^{10}}"), box(r"\text{ a}\text{ b}"), box("|"), box(""), "{" * 100_000, "[" * 100_000,
    '{"output": ' * 20_000, "Answer:" * 20_000, "\udfff\0", "", "%", answer("{'rows': 3}"), answer("[[None]]"),
]  # fmt: skip
SOURCES = {
    "math__patch_1": r"2\pi",
    "table__hitab": "1|2",
    "simulation__codeio": '"output": 1',
    "simulation__barc": GRID,
    "logic__zebra_puzzle_dataset": ZEBRA,
    "logic__ordering_puzzle_dataset": BIRDS,
    "logic__graph_logical_dataset": "abc",
    "stem__supergpqa": "B",
    "stem__gpqa_diamond_no_box": "B",
    "stem_web": "12 m",
    "simulation__cruxeval-o": CRUX,
}


@pytest.mark.parametrize("source", SOURCES)
def test_hostile_answers_are_wrong_and_quick_in_the_guru_profile(source: str) -> None:
    pytest.importorskip("math_verify")  # the last stage for stem_web, slow to import the first time
    started = time.perf_counter()
    for text in HOSTILE:
        verdict = checkers.check(problem(source, SOURCES[source]), text, tools("guru"))
        assert verdict.status == "incorrect", (text[:40], verdict)
    assert time.perf_counter() - started < 5


def test_no_answer_is_executed_in_the_guru_profile(tmp_path) -> None:
    touched = tmp_path / "pwned"
    code = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    for source, truth in SOURCES.items():
        for text in (box(code), answer(code), answer(f"[{code}]"), fenced(code, "json"), code):
            assert checkers.check(problem(source, truth), text, tools("guru")).status == "incorrect"
    assert not guru_math.equal(f"({code}, 2)", "(1, 2)")
    assert not touched.exists()


def test_an_unknown_profile_is_a_mistake_with_a_name() -> None:
    assert keys()["verifier.profile"].choices == PROFILES
    with pytest.raises(UserError, match="did you mean guru"):
        check_profile("gurru")
    with pytest.raises(UserError, match="unknown verifier profile"):
        spawner(True, profile="lenient")


@pytest.mark.process
def test_the_profile_reaches_the_checker_processes() -> None:
    import asyncio

    async def status(profile: str) -> str:
        verifier = Verifier("verifier-0", workers=1, timeout_s=10, retries=0, profile=profile)
        verdict = await verifier.verify(problem("math__patch_1", "50"), box("5000"))
        await verifier.close()
        return verdict.status

    assert [asyncio.run(status(profile)) for profile in ("strict", "guru")] == ["incorrect", "correct"]
