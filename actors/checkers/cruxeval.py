"""CRUXEval: the answer is an assertion `f(input) == output` about the function that the ground truth holds.

The assertion is read, not run: the call and the value must be literals, and what runs in the sandbox is the ground
truth's own function on them. So a block that asserts nothing, asserts something else, redefines `f` or leaves early
proves nothing. Where the question shows `assert f(...) == ??` or `assert f(??) == ...`, the side that it gives must be
the one that is asserted, or any easy fact about `f` would do.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from actors.checkers import logic
from actors.checkers.code import BadTruth, describe
from actors.checkers.extract import NoAnswer, code_block, final_part
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

FUNCTION = "f"
MAX_LENGTH = 20_000  # characters of a block
_TAGGED = re.compile(r"\[ANSWER\](.*?)\[/ANSWER\]", re.DOTALL)


@dataclass(frozen=True)
class Claim:
    """`f(*arguments, **named) == value`, all of them literals; `source` is the comparison as Python text."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    value: Any
    source: str


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Whether the last assertion of the last code block (else of `[ANSWER]`) answers the question and holds."""
    try:
        block = code_block(text)
    except NoAnswer:
        tagged = _TAGGED.findall(final_part(text)[-MAX_LENGTH:])
        if not tagged:
            raise
        block = tagged[-1]
    return judge(problem, block, tools)


def judge(problem: Problem, block: str, tools: Tools, *, of_question: bool = True) -> Verdict:
    """Whether the last assertion in `block` holds. `of_question`: and is about what the question gives."""
    truth = logic.container(problem.truth)
    code = truth.get("functional") if isinstance(truth, dict) else None
    if not _defines_function(code):
        raise BadTruth(f"a CRUXEval ground truth must hold the code of {FUNCTION} under 'functional'")
    claim = asserted(block)
    if of_question and not _about_the_question(claim, problem.question):
        return Verdict("incorrect", 0.0, extracted=claim.source[:500], reason="not the assertion that was asked for")
    result = tools.run(
        f"{code}\nprint({claim.source})",
        timeout_s=tools.code_timeout_s,
        memory_mb=tools.memory_mb,
        output_limit=tools.output_limit,
    )
    last_line = result.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    right = result.status == "ok" and last_line == "True"
    reason = "" if right else "the assertion does not hold" if result.status == "ok" else describe(result)
    return Verdict("correct" if right else "incorrect", float(right), extracted=claim.source[:500], reason=reason)


def _defines_function(code: Any) -> bool:
    if not isinstance(code, str):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == FUNCTION for node in ast.parse(code).body)


def asserted(block: str) -> Claim:
    """The last assertion about `f` at the top level of `block`. Raises NoAnswer."""
    if len(block) > MAX_LENGTH:
        raise NoAnswer(f"answer longer than {MAX_LENGTH} characters")
    try:
        body = ast.parse(block.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoAnswer("no answer: the block is no Python") from None
    for node in reversed(body):
        claim = _claim(node.test) if isinstance(node, ast.Assert) else None
        if claim is not None:
            return claim
    raise NoAnswer(f"no answer: no assertion that {FUNCTION}(literals) == literal")


def _claim(test: ast.expr) -> Claim | None:
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Eq, ast.Is))):
        return None
    for call, value in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == FUNCTION):
            continue
        try:
            arguments = tuple(map(ast.literal_eval, call.args))
            named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            return Claim(arguments, named, ast.literal_eval(value), f"{ast.unparse(call)} == ({ast.unparse(value)})")
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None  # something else than literals: it would have to be run
    return None


def _about_the_question(claim: Claim, question: str) -> bool:
    """Whether the claim has the input, or the output, that the question's last line with `??` gives."""
    asked = [line for line in question.splitlines() if line.strip().startswith("assert ") and "??" in line]
    if not asked:
        return True
    try:
        given = asserted(asked[-1].replace("??", "None"))
    except NoAnswer:  # not of the form that is known: nothing to compare with
        return True
    if f"{FUNCTION}(??)" in asked[-1]:
        return claim.value == given.value
    return (claim.arguments, claim.named) == (given.arguments, given.named)
