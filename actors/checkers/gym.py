"""Rows of reasoning_gym: scored by the library's own function for the task, rebuilt from the row's `extra_info`.

Some of the library's scorers call `eval` or sympy's `parse_expr` (which evaluates) on the answer. Answers to those
tasks are let through only as a plain literal or as plain arithmetic; everything else there is incorrect. So is an
answer that makes a scorer raise, if the scorer can score the right one: an error would let nonsense go unpunished.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from actors.checkers.extract import NoAnswer, answer_tag, boxes, final_part
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

LITERAL_TASKS = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "number_sorting"})
ARITHMETIC_TASKS = frozenset(
    {
        "countdown",
        "puzzle24",
        "polynomial_multiplication",
        "simple_integration",
        "intermediate_integration",
        "polynomial_equations",
        "complex_arithmetic",
        "simple_equations",
    }
)
_ARITHMETIC = re.compile(r"[0-9a-zA-Z+\-*/^().,= \n]{0,500}")
_NAMES = frozenset({"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "pi", "or"})
_HUGE = re.compile(
    r"\*\*\s*\(?\s*\d{4}|\^\s*\(?\s*\d{4}|\d{60}|(?:\*\*|\^)[^+\-]{0,40}(?:\*\*|\^)[^+\-]{0,40}(?:\*\*|\^)"
)


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """The library's score of the answer; correct from 0.999 on."""
    task = str(problem.extra_info["task"])
    entry = problem.extra_info["entry"]
    entry = dict(json.loads(entry) if isinstance(entry, str) else entry)
    entry.setdefault("question", problem.question)
    answer = _answer(text)
    if not _harmless(task, answer):
        return Verdict("incorrect", 0.0, extracted=answer[:500], reason=f"not a plain answer to {task}")
    try:
        score = _score(task, answer, entry)
    except MemoryError:
        raise
    except Exception as failure:
        _score(task, entry["answer"], entry)  # raises where it is not the answer that the scorer trips over
        reason = f"{task} cannot read it: {type(failure).__name__}"
        return Verdict("incorrect", 0.0, extracted=answer[:500], reason=reason)
    return Verdict(
        "correct" if score >= 0.999 else "incorrect", score, extracted=answer[:500], reason=f"scored by {task}"
    )


def _answer(text: str) -> str:
    part = final_part(text)
    tagged = answer_tag(part)
    if tagged is not None:
        return tagged
    found = boxes(part)
    if not found:
        raise NoAnswer("no answer: neither <answer> nor \\boxed{}")
    return found[-1].content


def _harmless(task: str, answer: str) -> bool:
    """Whether the task's scorer may see the answer, given that some evaluate what they see."""
    if task in ARITHMETIC_TASKS:
        names = set(re.findall(r"[a-zA-Z]{2,}", answer))
        attribute = re.search(r"[a-zA-Z)]\s*\.|\.\s*[a-zA-Z]", answer)
        return bool(_ARITHMETIC.fullmatch(answer)) and names <= _NAMES and not attribute and not _HUGE.search(answer)
    if task in LITERAL_TASKS and not re.fullmatch(r"[\w\s.,;:|+-]*", answer):
        try:
            ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            # a picture of a board is text that no scorer can evaluate as long as it calls nothing
            return "(" not in answer and "__" not in answer and "[" not in answer
    return True


def _score(task: str, answer: str, entry: dict[str, Any]) -> float:
    import reasoning_gym

    score = float(reasoning_gym.get_score_answer_fn(task)(answer=answer, entry=entry))
    return min(1.0, max(0.0, score))
