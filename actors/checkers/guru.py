"""The `guru` profile: answers found and scored as the public Guru verifiers did, to compare rewards with Guru's models.

For each `data_source` of LLM360/guru-RL-92k the extraction, the comparison and the scale of scores are those of
LLM360/Reasoning360, quirks included (a number may be off by a factor of 100, an answer without a box is compared as
a whole, ...). Not so the unsafe parts:

- no text of a model is evaluated (`eval` on answers to tables and orderings, on matrices and on multiples of pi);
- programs run in the sandbox, and what passes is decided by the values that they compute, not by their exit code: an
  early `sys.exit(0)`, or a CRUXEval block that asserts nothing, earns nothing;
- a choice that cannot be read is incorrect, where the original drew a random letter.

Rows of other sources (this project's starter, reasoning_gym) are scored as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

from actors.checkers import code, cruxeval, evaluate, expression, guru_math
from actors.checkers.extract import THINK_CLOSE, NoAnswer
from actors.checkers.guru_puzzles import codeio, graph, grid, ordering, verdict, zebra
from actors.checkers.tools import NotSupported, Tools
from actors.messages import Problem, Verdict

Check = Callable[[Problem, str, Tools], Verdict]

TABLE_TOLERANCE = 1e-3  # relative
OUTPUT_TOLERANCE = 1e-6  # absolute, of each number that a program prints
OTHER_METRICS = ("prime_math", "math_llm_judge")
_BRACE = re.compile("[{}]")
_OPENING = re.compile(r"```\w*\n")
_ARITHMETIC = re.compile(r"[0-9.+\-*/() ]+(?:e[+-]?\d+)?")
_STATED = re.compile(r"(?:Final Answer|The answer is):(.*)")
_LETTERED = re.compile(r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?")


def math(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the last box after the thinking (without a box: all of it) equals the ground truth."""
    metric = (problem.extra_info or {}).get("reward_metric")
    if metric in OTHER_METRICS:
        raise NotSupported(f"the row asks for reward_metric={metric}, which this version does not have")
    part = text.rpartition(THINK_CLOSE)[2]
    answer = last_box(part) or part
    return verdict(guru_math.equal(answer, str(problem.truth)), answer, "another answer")


def table(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the answer, or each of those between `|`, is the ground truth's, sorted alike."""
    part, truth = text.lower().rpartition(THINK_CLOSE)[2], str(problem.truth).lower()
    answer = last_box(part)
    answer = part if answer is None else answer
    if "|" not in truth:
        return verdict(_same_cell(answer, truth), answer, "another answer")
    said, wanted = (sorted(item.strip() for item in joined.split("|")) for joined in (answer, truth))
    right = len(said) == len(wanted) and all(map(_same_cell, said, wanted))
    return verdict(right, answer, "another answer")


def _same_cell(answer: str, truth: str) -> bool:
    """Arithmetic by value (`%` is a hundredth, `:` a quotient), anything else by its spelling."""
    plain = answer.replace(",", "").replace("%", " / 100").replace("$", "").replace(":", "/").replace("\\", "").strip()
    try:
        if len(plain) <= guru_math.MAX_LENGTH and _ARITHMETIC.fullmatch(plain):
            value = float(evaluate.exact(expression.parse(plain.replace("**", "^"))))
            return guru_math.same_value(repr(value), truth, TABLE_TOLERANCE)
    except (expression.ParseError, expression.TooCostly, evaluate.Undefined, TypeError, OverflowError):
        pass  # it only looks like arithmetic: text, then
    return guru_math.strip_string(answer) == guru_math.strip_string(truth)


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{}` (without any, `\\fbox{}`); None if there is none or it does not close."""
    start = text.rfind(r"\boxed")
    start = start if start >= 0 else text.rfind(r"\fbox")
    if start < 0:
        return None
    depth, content = 0, None
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 1 and content is None:
            content = brace.end()
        if depth == 0 and content is not None:
            return text[content : brace.start()].strip()
    return None


def program(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if all code blocks after the thinking, joined, pass all tests."""
    part = text.partition(THINK_CLOSE)[2] if THINK_CLOSE in text else text
    joined = "\n".join(_blocks(part)).strip()
    if not joined:
        raise NoAnswer("no answer: no complete code block")
    prefix = (problem.extra_info or {}).get("prefix")
    # the prefix came twice, and for functions only
    whole = f"{prefix}\n{prefix}\n{joined}" if prefix and code.is_functional(problem) else joined
    return code.judge(problem, joined, whole, tools, same_output)


def _blocks(text: str) -> list[str]:
    """The fenced blocks whose closing fence begins a line, whatever their language."""
    blocks, position = [], 0
    while opening := _OPENING.search(text, position):
        close = text.find("\n```", opening.end())
        if close < 0:
            break
        blocks.append(text[opening.end() : close])
        position = close + len("\n```")
    return blocks


def same_output(expected: str, printed: str) -> bool:
    """Equal line by line and token by token, numbers to an absolute 1e-6, yes and no in any case."""
    wanted, said = ([line.split() for line in text.strip().splitlines()] for text in (expected, printed))
    return [len(line) for line in wanted] == [len(line) for line in said] and all(
        a == b or _same_token(a, b)
        for left, right in zip(wanted, said, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def _same_token(expected: str, printed: str) -> bool:
    if {expected.lower(), printed.lower()} <= {"yes", "no"}:
        return expected.lower() == printed.lower()
    try:
        difference = abs(float(expected) - float(printed))
    except ValueError:
        difference = inf
    return difference <= OUTPUT_TOLERANCE


def assertion(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the assertion in the first Python block after the thinking holds (CRUXEval)."""
    part = text.split(THINK_CLOSE)[1] if THINK_CLOSE in text else text
    block = part.partition("```python")[2].partition("```")[0]
    return cruxeval.judge(problem, block or text, tools, of_question=False)


def choice(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the first of A to J that the last box (else what follows "The answer is:") holds is the right one."""
    if "no_box" in problem.data_source:
        return _lettered(problem, text)
    answer = last_box(text)
    if answer is None:
        stated = _STATED.findall(text)
        answer = stated[-1] if stated else ""
    letter = next((letter for letter in "ABCDEFGHIJ" if letter in answer), None)
    if letter is None:
        raise NoAnswer("no choice to be read")
    return verdict(letter == str(problem.truth).strip(), letter, f"chose {letter}")


def _lettered(problem: Problem, text: str) -> Verdict:
    """The first "Answer: X"."""
    found = _LETTERED.search(text)
    if found is None:
        raise NoAnswer('no answer: no "Answer: X"')
    return verdict(found.group(1) == str(problem.truth).strip(), found.group(1), f"chose {found.group(1)}")


def boxed(check: Check) -> Check:
    """`check` on nothing but the last box, wherever it stands: without one the answer is incorrect (web STEM)."""

    def check_box(problem: Problem, text: str, tools: Tools) -> Verdict:
        answer = last_box(text)
        if not answer:
            raise NoAnswer("no answer: no \\boxed{}")
        return check(problem, rf"\boxed{{{answer}}}", tools)

    return check_box


PREFIXES: dict[str, Check] = {
    "math": math,
    "codegen": program,
    "stem__gpqa": choice,
    "stem__supergpqa": choice,
    "logic__graph": graph,
    "logic__ordering_puzzle": ordering,
    "logic__zebra_puzzle": zebra,
    "graph_logical": graph,
    "ordering_puzzle": ordering,
    "zebra_puzzle": zebra,
    **dict.fromkeys(("simulation__arcagi", "simulation__barc", "logic__arcagi", "logic__barc", "arcagi", "barc"), grid),
    "simulation__codeio": codeio,
    "codeio": codeio,
    "simulation__cruxeval": assertion,
    "table": table,
}
